//! The ledger system: topics, the functions between them, and the mode that slows the writer down before the
//! database suffers. The database is a stack of its own.

use std::collections::BTreeMap;

use cfn::{
    App, DeployValue, Flow, Handle, Load, Lookup, Property, Scope, Value,
    assembly::{AssetKind, StageEntry},
};
use cfn_resources::{
    cloudwatch::{Alarm, AlarmStatistic},
    events::{Rule, RuleDeadLetterConfig, RuleTarget},
    ssm::{Parameter, ParameterType},
};
use constructs::{
    alarm::{Limit, WithoutData},
    database::Database,
    function::{Function, FunctionProperties, KafkaSource},
    iam,
    kafka::{KafkaTopic, compacted, retained_for_hours},
    needs::Needs,
    network::as_text,
    queue::DeadLetterQueue,
};
use serde_json::json;
use worker_contract::{
    database as database_variables, kafka as kafka_variables, ledger as variables, ledger::MODE_INITIAL,
};

use crate::{
    Base,
    environment::{Environment, Provider},
    kafka::{DEAD_LETTER_RETENTION_HOURS, Kafka},
    ledger_database::{LedgerDatabase, NEIGHBOUR_USER, WRITER_USER},
    network::stack_properties,
    sizes::{CONTROL_PARTITIONS, DEAD_LETTER_PARTITIONS, Sizes},
};

mod operations;

use operations::Functions;

/// What the stack holds.
pub const DESCRIPTION: &str = "Ledger: topics, functions, the mode";

/// Events as they come.
pub const SOURCE_TOPIC: &str = "ledger-source";

/// Events that are checked and keyed.
pub const BUFFER_TOPIC: &str = "ledger-buffer";

/// The mode.
pub const CONTROL_TOPIC: &str = "ledger-control";

/// Events that cannot be processed.
pub const DEAD_LETTER_TOPIC: &str = "ledger-dlq";

/// The functions' packages, which are the names of their assets as well.
pub const FUNCTIONS: [&str; 3] = ["ledger-transform", "ledger-writer", "ledger-mode"];

/// The system's name.
const SYSTEM: &str = "ledger";

/// What makes its traffic.
const LOAD: &str = "ledger-load";

/// What that is asked for to try whether events come into the database: a second of them. Whether they did is told by
/// the writers, because the neighbour's role may not look into the tables.
const TRIAL: [&str; 4] = ["--rate", "20", "--for", "1s"];

/// Groups that commit what the functions have done.
const TRANSFORM_GROUP: &str = "ledger-transform";
const WRITER_GROUP: &str = "ledger-writer";

/// Above this the database is under pressure, in percent.
const CPU_PERCENT_MAX: f64 = 40.0;

/// Sessions that the proxy cannot share, at most: the writer's statements pin none.
const PINNED_SESSIONS_MAX: f64 = 5.0;

/// How long a function has for a batch, in seconds.
const BATCH_SECONDS: i64 = 30;

/// How often a batch is tried again. A database that is away makes each try fail after as long as the function has,
/// so that this is beyond what the topics keep: nothing is given up because others are in trouble.
const RETRIES: i64 = 10_000;

/// Records in a batch: full chunks alone, two for each that is written at once, so that no connection is left with a
/// remainder. Lambda takes 10,000 at most.
fn batch_size(ledger: &crate::environment::Ledger) -> i64 {
    i64::from(2 * ledger.batch_records * ledger.chunk_concurrency).min(10_000)
}

struct Topics {
    source: KafkaTopic,
    buffer: KafkaTopic,
    control: KafkaTopic,
    dead_letters: KafkaTopic,
}

/// Adds the stack.
pub(crate) fn add(app: &mut App, id: &str, base: &Base<'_>, database: &LedgerDatabase) {
    let Base { environment, sizes, network, kafka, observability, .. } = *base;
    let stack = app.stack(id, stack_properties(environment, DESCRIPTION));
    let name = stack.name().to_owned();
    let mut scope = stack.scope();
    let topics = topics(&mut scope, environment, sizes, kafka);
    let queue = DeadLetterQueue::new(&mut scope, "FailedBatches", environment.data_policy());
    let alarms = pressure_alarms(&mut scope, base, &database.database);
    let mode = scope.add(
        "Mode",
        Parameter::new(ParameterType::String, MODE_INITIAL)
            .name(format!("/{name}/mode"))
            .description("How hard the writer may press: GREEN, YELLOW or RED, since when and why")
            .allowed_pattern("^\\{\"mode\":\"(GREEN|YELLOW|RED)\",.*\\}$"),
    );
    // `ledger-mode` writes the parameter as a whole, without a pattern.
    scope.changes_at_run_time(mode.raw(), &["AllowedPattern", "Value"]);

    let brokers = scope.lookup::<String>(
        "KafkaBootstrapServers",
        Lookup::MskBootstrapBrokers {
            cluster_arn: as_text(&kafka.cluster.arn()),
            authentication: match environment.provider {
                Provider::Aws => "iam",
                Provider::Local => "plaintext",
            }
            .to_owned(),
        },
    );
    let authentication = match environment.provider {
        Provider::Aws => "msk-iam",
        Provider::Local => "none",
    };
    let connected = || {
        Needs::new()
            .variable(kafka_variables::BOOTSTRAP_SERVERS, brokers.value())
            .variable(kafka_variables::AUTHENTICATION, authentication)
    };
    let figure = |name: &str| i64::try_from(sizes.ledger(name)).unwrap_or(i64::MAX);
    let concurrency = figure("function_concurrency");
    let properties =
        |asset: &'static str, description: &'static str, timeout_seconds, concurrency| FunctionProperties {
            asset,
            description,
            memory_mib: figure("function_memory_mib"),
            timeout_seconds,
            reserved_concurrency: Some(concurrency),
            log_retention_days: environment.log_retention_days,
            data: environment.data_policy(),
        };

    let needs = Function::needs_of_kafka_source(
        connected()
            .produces(&kafka.cluster, &topics.buffer)
            .produces(&kafka.cluster, &topics.dead_letters)
            .variable(variables::SOURCE_TOPIC, SOURCE_TOPIC)
            .variable(variables::BUFFER_TOPIC, BUFFER_TOPIC)
            .variable(variables::DEAD_LETTER_TOPIC, DEAD_LETTER_TOPIC),
        &kafka.cluster,
        &topics.source,
        TRANSFORM_GROUP,
        &queue,
    );
    let transform = Function::new(
        &mut scope,
        "Transform",
        &properties(FUNCTIONS[0], "Checks, normalises and keys ledger events", BATCH_SECONDS, concurrency),
        Some(network),
        &needs,
    );
    let needs = connected()
        .produces(&kafka.cluster, &topics.dead_letters)
        .connects_to(database.database.peer())
        .statements(database.grant_writer.clone())
        .statements(vec![iam::allow("ReadMode", &["ssm:GetParameter"], &[mode.arn()])])
        .variable(variables::SOURCE_TOPIC, BUFFER_TOPIC)
        .variable(variables::DEAD_LETTER_TOPIC, DEAD_LETTER_TOPIC)
        .variable(variables::MODE_PARAMETER, mode.reference())
        .variable(database_variables::HOST, database.database.proxy.endpoint())
        .variable(database_variables::NAME, database.database.database())
        .variable(database_variables::USER, WRITER_USER)
        .variable(database_variables::CONNECTIONS, environment.ledger.pool_limit.to_string())
        .variable(variables::CHUNK_RECORDS, environment.ledger.batch_records.to_string())
        .variable(variables::CHUNK_CONCURRENCY, environment.ledger.chunk_concurrency.to_string());
    let needs = match &database.writer_secret {
        None => needs.variable(database_variables::AUTHENTICATION, "iam"),
        Some(secret) => needs
            .variable(database_variables::AUTHENTICATION, "secret")
            .variable(database_variables::SECRET_ARN, secret.clone()),
    };
    let needs = Function::needs_of_kafka_source(needs, &kafka.cluster, &topics.buffer, WRITER_GROUP, &queue);
    let writer = Function::new(
        &mut scope,
        "Writer",
        &properties(FUNCTIONS[1], "Writes ledger events to the database", BATCH_SECONDS, concurrency),
        Some(network),
        &needs,
    );
    let needs = connected()
        .produces(&kafka.cluster, &topics.control)
        .statements(queue.grant_send("SendDeadLetters"))
        .statements(vec![
            iam::allow("WriteMode", &["ssm:GetParameter", "ssm:PutParameter"], &[mode.arn()]),
            iam::allow(
                "ReadAlarms",
                &["cloudwatch:DescribeAlarms"],
                &alarms.iter().map(|alarm| as_text(&alarm.arn())).collect::<Vec<_>>(),
            ),
        ])
        .variable(variables::CONTROL_TOPIC, CONTROL_TOPIC)
        .variable(variables::MODE_PARAMETER, mode.reference())
        .variable(variables::MODE_HOLD_SECONDS, environment.ledger.mode_hold_seconds.to_string())
        .variable(
            variables::MODE_ALARMS,
            Value::join(",", alarms.iter().map(|alarm| alarm.reference()).collect::<Vec<Value<String>>>()),
        );
    let mode_function = Function::new(
        &mut scope,
        "ModeFunction",
        &properties(FUNCTIONS[2], "Makes the mode of the alarms' states", 10, 1),
        Some(network),
        &needs,
    );

    let pollers = (1, figure("event_pollers"));
    for (name, function, topic, group) in [
        ("TransformSource", &transform, &topics.source, TRANSFORM_GROUP),
        ("WriterSource", &writer, &topics.buffer, WRITER_GROUP),
    ] {
        function.kafka_source(
            &mut scope,
            name,
            &KafkaSource {
                cluster: &kafka.cluster,
                topic,
                group,
                batch_size: batch_size(&environment.ledger),
                window_seconds: 1,
                retries: RETRIES,
                pollers,
                on_failure: &queue,
            },
        );
    }
    mode_rule(&mut scope, &alarms, &mode_function, &queue);
    observability.watch_functions(
        &mut scope,
        &queue,
        &[("Transform", &transform), ("Writer", &writer), ("ModeFunction", &mode_function)],
    );
    let functions = Functions { transform: &transform, writer: &writer, mode: &mode_function };
    operations::alarms(&mut scope, observability, &functions, environment.ledger.transactions_per_second);
    operations::dashboard(&mut scope, &name, &database.database, &functions);
    let partitions = u32::try_from(sizes.ledger("partitions")).unwrap_or(u32::MAX);
    let stage = |function: &Function, topic: &str, group: &str| StageEntry {
        function: function.function.raw().logical_id().to_owned(),
        topic: topic.to_owned(),
        consumer_group: group.to_owned(),
        partitions,
    };
    let flow = Flow {
        stack: id.to_owned(),
        stages: vec![
            stage(&transform, SOURCE_TOPIC, TRANSFORM_GROUP),
            stage(&writer, BUFFER_TOPIC, WRITER_GROUP),
        ],
        mode_parameter: format!("/{name}/mode"),
        alarms: alarms.iter().map(|alarm| alarm.raw().logical_id().to_owned()).collect(),
    };
    for package in FUNCTIONS {
        app.asset(package, AssetKind::Zip, package, None);
    }
    app.flow(SYSTEM, flow);
    if let Some(secret) = &database.neighbour_secret {
        app.load(SYSTEM, load(kafka, database, secret, authentication));
    }
}

/// What `ledger-load` gets: the brokers for its events, and the database for the noisy neighbour.
fn load(kafka: &Kafka, database: &LedgerDatabase, secret: &Value<String>, authentication: &str) -> Load {
    let literal = |text: &str| DeployValue::Value(Value::Literal(text.to_owned()));
    let brokers = DeployValue::Lookup(Lookup::MskBootstrapBrokers {
        cluster_arn: as_text(&kafka.cluster.arn()),
        authentication: "plaintext".to_owned(),
    });
    let variables = [
        (kafka_variables::BOOTSTRAP_SERVERS, brokers),
        (kafka_variables::AUTHENTICATION, literal(authentication)),
        (database_variables::HOST, DeployValue::Value(database.database.proxy.endpoint())),
        (database_variables::NAME, literal(database.database.database())),
        (database_variables::USER, literal(NEIGHBOUR_USER)),
        (database_variables::AUTHENTICATION, literal("secret")),
        (database_variables::SECRET_ARN, DeployValue::Value(secret.clone())),
    ];
    Load {
        package: LOAD.to_owned(),
        variables: variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        trial: TRIAL.map(str::to_owned).to_vec(),
    }
}

fn topics(scope: &mut Scope<'_>, environment: &Environment, sizes: &Sizes, kafka: &Kafka) -> Topics {
    let mut scope = scope.child("Topics");
    let partitions = i64::try_from(sizes.ledger("partitions")).unwrap_or(i64::MAX);
    let retained = retained_for_hours(u64::from(environment.ledger.retention_hours));
    let mut topic = |construct: &str, name: &str, partitions, settings: &BTreeMap<&str, String>| {
        kafka.cluster.topic(&mut scope, construct, name, partitions, settings)
    };
    Topics {
        source: topic("Source", SOURCE_TOPIC, partitions, &retained),
        buffer: topic("Buffer", BUFFER_TOPIC, partitions, &retained),
        // One partition: the mode has one order.
        control: topic(
            "Control",
            CONTROL_TOPIC,
            i64::try_from(CONTROL_PARTITIONS).unwrap_or(1),
            &compacted(),
        ),
        dead_letters: topic(
            "DeadLetters",
            DEAD_LETTER_TOPIC,
            i64::try_from(DEAD_LETTER_PARTITIONS).unwrap_or(1),
            &retained_for_hours(DEAD_LETTER_RETENTION_HOURS),
        ),
    }
}

/// The alarms that the mode is made of. Each looks at one period: what a longer look would gain in calm, the mode's hold
/// gives without being late to step up.
fn pressure_alarms(scope: &mut Scope<'_>, base: &Base<'_>, database: &Database) -> Vec<Handle<Alarm>> {
    let Base { environment, sizes, observability, .. } = *base;
    let mut scope = scope.child("Pressure");
    let limit = |above, without_data| Limit {
        above,
        period_seconds: i64::from(environment.ledger.pressure_period_seconds),
        periods: 1,
        periods_above: 1,
        without_data,
    };
    let alarms = &observability.alarms;
    let found = vec![
        alarms.alarm(
            &mut scope,
            "Cpu",
            "The database's processors are busy, whoever keeps them so",
            &database.metric("CPUUtilization", AlarmStatistic::Average),
            // The database tells this always: silence is unknown, and unknown slows the writer down.
            &limit(CPU_PERCENT_MAX, WithoutData::IsUnknown),
        ),
        alarms.alarm(
            &mut scope,
            "ClientConnections",
            "More clients at the proxy than the writer was sized for",
            &database.proxy_metric("ClientConnections", AlarmStatistic::Maximum),
            // An idle proxy tells nothing: that is well.
            &limit(sizes.ledger("client_connections") as f64, WithoutData::IsWell),
        ),
        alarms.alarm(
            &mut scope,
            "DatabaseConnections",
            "More connections of the proxy to the database than the writer was sized for",
            &database.proxy_metric("DatabaseConnections", AlarmStatistic::Maximum),
            &limit(sizes.ledger("database_connections") as f64, WithoutData::IsWell),
        ),
        alarms.alarm(
            &mut scope,
            "PinnedSessions",
            "Sessions that the proxy cannot share: some client keeps state in them",
            &database.proxy_metric("DatabaseConnectionsCurrentlySessionPinned", AlarmStatistic::Maximum),
            &limit(PINNED_SESSIONS_MAX, WithoutData::IsWell),
        ),
    ];
    if environment.provider == Provider::Local {
        for alarm in &found {
            scope.waive(
                alarm.raw(),
                "FG456",
                "on one machine these metrics come every second, and a mode that waits for minutes cannot be watched",
            );
        }
    }
    found
}

/// Tells the mode function of changes of those alarms and of no others, and has it look every minute as well: an
/// event that was lost, or a parameter that a deployment put back, is made good.
fn mode_rule(scope: &mut Scope<'_>, alarms: &[Handle<Alarm>], function: &Function, queue: &DeadLetterQueue) {
    let arns: Vec<_> = alarms.iter().map(|alarm| as_text(&alarm.arn()).to_json()).collect();
    let rule = scope.add(
        "ModeRule",
        Rule::new()
            .description("Alarms of the database's pressure change")
            .event_pattern(json!({
                "source": ["aws.cloudwatch"],
                "detail-type": ["CloudWatch Alarm State Change"],
                "resources": arns
            }))
            .targets([RuleTarget::new(as_text(&function.function.arn()), "mode")
                .dead_letter_config(RuleDeadLetterConfig::new().arn(queue.queue.arn()))]),
    );
    function.invoked_by(scope, "ModeInvocation", "events.amazonaws.com", as_text(&rule.arn()), queue);
    let schedule = scope.add(
        "ModeSchedule",
        Rule::new()
            .description("The mode is made anew every minute")
            .schedule_expression("rate(1 minute)")
            .targets([RuleTarget::new(as_text(&function.function.arn()), "mode")
                .dead_letter_config(RuleDeadLetterConfig::new().arn(queue.queue.arn()))]),
    );
    function.permit(scope, "ModeSchedulePermission", "events.amazonaws.com", as_text(&schedule.arn()));
}
