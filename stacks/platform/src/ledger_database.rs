//! The ledger's database: Aurora PostgreSQL behind RDS Proxy, and the function that brings it to its present
//! schema. A stack of its own, because the migration runs when it is there and before the code that needs it.

use cfn::{App, Scope, Value, assembly::AssetKind};
use cfn_resources::{
    events::{Rule, RuleDeadLetterConfig, RuleTarget},
    secretsmanager::{Secret, SecretGenerateSecretString},
};
use constructs::{
    database::{Database, DatabaseProperties},
    function::{Function, FunctionProperties},
    iam,
    needs::Needs,
    network::as_text,
    queue::DeadLetterQueue,
};
use serde_json::Value as Json;
use worker_contract::{database as database_variables, ledger as variables};

use crate::{
    Base,
    environment::{Environment, Provider},
    network::stack_properties,
};

/// What the stack holds.
pub const DESCRIPTION: &str = "Ledger: Aurora PostgreSQL behind RDS Proxy, its migration";

/// The migration's package, which is the name of its asset as well.
pub const MIGRATION: &str = "ledger-migrate";

/// The database's user of the writer.
pub(crate) const WRITER_USER: &str = "ledger_writer";

/// The user of the noisy neighbour: another service on the same database.
pub(crate) const NEIGHBOUR_USER: &str = "ledger_neighbour";

/// How long a migration may take, in seconds.
const MIGRATION_SECONDS: i64 = 900;

/// What the ledger's stack needs of this one.
pub(crate) struct LedgerDatabase {
    pub(crate) database: Database,
    /// The secret with the writer's password, where it does not sign in by IAM.
    pub(crate) writer_secret: Option<Value<String>>,
    /// The secret with the noisy neighbour's password. On one machine alone: a sign-in that is there to burn the
    /// processors of a database that others pay for would be a risk and no help, and who wants to see an alarm go off in
    /// AWS has a service there that can make load.
    pub(crate) neighbour_secret: Option<Value<String>>,
    /// Lets a function sign in as the writer.
    pub(crate) grant_writer: Vec<Json>,
}

/// Adds the stack.
pub(crate) fn add(app: &mut App, id: &str, base: &Base<'_>) -> LedgerDatabase {
    let Base { environment, sizes, network, observability, .. } = *base;
    let stack = app.stack(id, stack_properties(environment, DESCRIPTION));
    let name = stack.name().to_owned();
    let mut scope = stack.scope();
    let figure = |name: &str| i64::try_from(sizes.ledger(name)).unwrap_or(i64::MAX);
    let level = &environment.database;
    let database = Database::new(
        &mut scope,
        "Database",
        network,
        &[WRITER_USER],
        &DatabaseProperties {
            name,
            database: "ledger".to_owned(),
            engine_version: level.version.clone(),
            instance_class: level.instance_class.clone(),
            serverless_capacity: level.min_capacity.zip(level.max_capacity),
            readers: level.instances.saturating_sub(1),
            backup_retention_days: i64::from(level.backup_retention_days),
            proxy_max_connections_percent: figure("proxy_max_connections_percent"),
            proxy_max_idle_percent: figure("proxy_max_idle_percent"),
            data: environment.data_policy(),
        },
    );
    let (writer_secret, neighbour_secret, grant_writer) = match environment.provider {
        Provider::Aws => (None, None, database.grant_connect(WRITER_USER)),
        // A PostgreSQL of our own knows no IAM.
        Provider::Local => {
            let writer = role_secret(&mut scope, environment, "WriterSecret", WRITER_USER);
            let neighbour = role_secret(&mut scope, environment, "NeighbourSecret", NEIGHBOUR_USER);
            let grant = grant_read(&writer);
            (Some(writer), Some(neighbour), vec![grant])
        }
    };
    let queue = DeadLetterQueue::new(&mut scope, "FailedMigrations", environment.data_policy());
    let needs = Needs::new()
        .connects_to(database.peer())
        .statements(database.grant_read_administrator_secret())
        .statements(queue.grant_send("SendDeadLetters"))
        .variable(database_variables::HOST, database.proxy.endpoint())
        .variable(database_variables::NAME, database.database())
        .variable(database_variables::AUTHENTICATION, "secret")
        .variable(database_variables::SECRET_ARN, database.administrator_secret())
        .variable(variables::WRITER_USER, WRITER_USER)
        .variable(variables::WRITER_CONNECTIONS, sizes.ledger("database_connections").to_string());
    let needs = match &writer_secret {
        None => needs,
        Some(secret) => {
            needs.statements(grant_writer.clone()).variable(variables::WRITER_SECRET_ARN, secret.clone())
        }
    };
    let needs = match &neighbour_secret {
        None => needs,
        Some(secret) => needs
            .statements(vec![grant_read(secret)])
            .variable(variables::NEIGHBOUR_USER, NEIGHBOUR_USER)
            .variable(variables::NEIGHBOUR_SECRET_ARN, secret.clone()),
    };
    let migrate = Function::new(
        &mut scope,
        "Migrate",
        &FunctionProperties {
            asset: MIGRATION,
            description: "Brings the ledger's database to its present schema",
            memory_mib: figure("function_memory_mib"),
            timeout_seconds: MIGRATION_SECONDS,
            // Two migrations would wait for each other.
            reserved_concurrency: Some(1),
            log_retention_days: environment.log_retention_days,
            data: environment.data_policy(),
        },
        Some(network),
        &needs,
    );
    scope.invoke_after_deploy(&migrate.function);
    let rule = scope.add(
        "DailyRule",
        Rule::new()
            .description("Forgets the ids of events that can no longer come again")
            .schedule_expression("rate(1 day)")
            .targets([RuleTarget::new(as_text(&migrate.function.arn()), "migrate")
                .dead_letter_config(RuleDeadLetterConfig::new().arn(queue.queue.arn()))]),
    );
    migrate.invoked_by(&mut scope, "DailyInvocation", "events.amazonaws.com", as_text(&rule.arn()), &queue);
    observability.watch_functions(&mut scope, &queue, &[("Migrate", &migrate)]);
    app.asset(MIGRATION, AssetKind::Zip, MIGRATION, None);
    LedgerDatabase { database, writer_secret, neighbour_secret, grant_writer }
}

fn grant_read(secret: &Value<String>) -> Json {
    iam::allow("ReadSecret", &["secretsmanager:GetSecretValue"], std::slice::from_ref(secret))
}

/// A secret with a user's password, made up.
fn role_secret(scope: &mut Scope<'_>, environment: &Environment, name: &str, user: &str) -> Value<String> {
    let secret = scope.add(
        name,
        Secret::new().description(format!("The user {user} of the database")).generate_secret_string(
            SecretGenerateSecretString::new()
                .secret_string_template(format!("{{\"username\":\"{user}\"}}"))
                .generate_string_key("password")
                .password_length(32)
                .exclude_punctuation(true),
        ),
    );
    scope.waive(
        secret.raw(),
        "CKV_AWS_149",
        "it is made on one machine alone, where no key encrypts: in AWS users sign in by IAM",
    );
    // It opens the database and goes with it.
    scope.removal(secret.raw(), environment.data_policy().removal());
    as_text(&secret.reference())
}
