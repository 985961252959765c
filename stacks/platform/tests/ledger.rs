//! What the ledger's stacks promise its functions, on AWS and locally.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use cfn::{
    Assembly, Json,
    assembly::Invocation,
    assertions::{capture, has_resource, resource_count, resources_of_type},
};
use platform::{environment::System, render};
use serde_json::json;
use support::environment;
use worker_contract::{
    DatabaseAuthentication, KafkaAuthentication,
    ledger::{MigrateConfiguration, ModeConfiguration, TransformConfiguration, WriterConfiguration},
};

fn assembly(name: &str) -> Assembly {
    let mut environment = environment(name);
    if !environment.has(System::Ledger) {
        environment.systems.push(System::Ledger);
    }
    render(&environment).unwrap()
}

/// A function's variables; what is known only when it is deployed stands as text.
fn variables(assembly: &Assembly, stack: &str, description: &str) -> BTreeMap<String, String> {
    let template = assembly.template(stack).unwrap();
    let (id, _) = resources_of_type(template, "AWS::Lambda::Function")
        .into_iter()
        .find(|(_, function)| function["Properties"]["Description"] == description)
        .unwrap();
    let variables = capture(template, id, "/Environment/Variables").as_object().unwrap();
    let region = ("AWS_REGION".to_owned(), "eu-west-1".to_owned());
    variables
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or("deployed").to_owned()))
        .chain([region])
        .collect()
}

/// What the stack writes is what the function reads.
#[test]
fn every_function_can_read_its_variables() {
    for name in ["prod", "local"] {
        let assembly = assembly(name);
        let local = name == "local";
        let read = |stack: &str, description: &str| {
            let variables = variables(&assembly, stack, description);
            move |name: &str| variables.get(name).cloned()
        };
        let writer =
            WriterConfiguration::from_environment(read("ledger", "Writes ledger events to the database"))
                .unwrap();
        let transform = TransformConfiguration::from_environment(read(
            "ledger",
            "Checks, normalises and keys ledger events",
        ))
        .unwrap();
        let mode =
            ModeConfiguration::from_environment(read("ledger", "Makes the mode of the alarms' states"))
                .unwrap();
        let migrate = MigrateConfiguration::from_environment(read(
            "ledger-database",
            "Brings the ledger's database to its present schema",
        ))
        .unwrap();
        assert_eq!(transform.buffer_topic, writer.source_topic);
        assert_eq!(migrate.writer_user, "ledger_writer");
        assert_eq!(writer.database.user.as_deref(), Some("ledger_writer"));
        assert_eq!(matches!(writer.kafka.authentication, KafkaAuthentication::None), local);
        assert_eq!(matches!(writer.database.authentication, DatabaseAuthentication::Secret { .. }), local);
        assert_eq!(migrate.writer_secret_arn.is_some(), local);
        assert!(mode.hold_seconds > 0.0);
    }
}

#[test]
fn migrations_run_before_the_code_that_needs_them() {
    let assembly = assembly("prod");
    let database = assembly.manifest.stack("ledger-database").unwrap();
    assert_eq!(database.invocations, [Invocation { output: "MigrateInvocation".to_owned() }]);
    let ledger = assembly.manifest.stack("ledger").unwrap();
    assert!(ledger.depends_on.contains(&database.id));
    assert!(ledger.invocations.is_empty());
}

/// Lambda gives a batch up after ten retries where there is a destination for failures and nothing else is said.
#[test]
fn a_database_that_is_away_makes_nobody_give_a_batch_up() {
    let assembly = assembly("prod");
    let template = assembly.template("ledger").unwrap();
    let sources = resources_of_type(template, "AWS::Lambda::EventSourceMapping");
    assert_eq!(sources.len(), 2);
    for (id, _) in sources {
        let retries = capture(template, id, "/MaximumRetryAttempts").as_i64().unwrap();
        let (seconds, hours) = (30, 24);
        assert!(retries * seconds > hours * 3600, "{id}: {retries}");
    }
}

#[test]
fn the_mode_starts_unknown_and_fits_its_parameter() {
    let assembly = assembly("prod");
    let template = assembly.template("ledger").unwrap();
    let value = capture(template, "Mode", "/Value").as_str().unwrap();
    let pattern = regex::Regex::new(capture(template, "Mode", "/AllowedPattern").as_str().unwrap()).unwrap();
    assert!(pattern.is_match(value) && value.contains("YELLOW"), "{value}");
    assert!(!pattern.is_match("GREEN"));
}

/// Defect 7: an idle proxy tells nothing, and nothing was not known, so that the mode was YELLOW at night.
#[test]
fn silence_is_well_where_it_means_idleness_and_unknown_where_it_does_not() {
    for name in ["prod", "local"] {
        let assembly = assembly(name);
        let template = assembly.template("ledger").unwrap();
        for (alarm, treatment) in [
            ("PressureCpu", "missing"),
            ("PressureClientConnections", "notBreaching"),
            ("PressureDatabaseConnections", "notBreaching"),
            ("PressurePinnedSessions", "notBreaching"),
        ] {
            assert_eq!(capture(template, alarm, "/TreatMissingData"), treatment, "{name}: {alarm}");
            assert_eq!(capture(template, alarm, "/EvaluationPeriods"), 1, "{name}: {alarm}");
        }
    }
}

/// RDS tells its metrics each minute, so that an alarm on AWS cannot look at less.
#[test]
fn alarms_look_as_far_back_as_the_environment_says() {
    for (name, seconds) in [("prod", 60), ("staging", 60), ("dev", 60), ("local", 10)] {
        let assembly = assembly(name);
        let template = assembly.template("ledger").unwrap();
        assert_eq!(capture(template, "PressureCpu", "/Period"), seconds, "{name}");
        let hold =
            variables(&assembly, "ledger", "Makes the mode of the alarms' states")["MODE_HOLD_SECONDS"]
                .clone();
        assert_eq!(hold, seconds.to_string(), "{name}");
    }
}

#[test]
fn functions_are_zips_for_arm64_in_the_private_subnets() {
    let assembly = assembly("prod");
    for (stack, count) in [("ledger", 3), ("ledger-database", 1)] {
        let template = assembly.template(stack).unwrap();
        let functions = resources_of_type(template, "AWS::Lambda::Function");
        assert_eq!(functions.len(), count);
        for (id, _) in functions {
            assert_eq!(capture(template, id, "/Runtime"), "provided.al2023", "{id}");
            assert_eq!(*capture(template, id, "/Architectures"), json!(["arm64"]), "{id}");
            assert!(capture(template, id, "/Code/S3Key")["Ref"].is_string(), "{id}: code is a published zip");
            let subnets = capture(template, id, "/VpcConfig/SubnetIds").as_array().unwrap();
            assert!(
                subnets.iter().all(|subnet| subnet["Ref"].as_str().unwrap().contains("PrivateSubnet")),
                "{id}"
            );
            // AWS's APIs are reached by NAT or by endpoints, and both speak HTTPS.
            has_resource(
                template,
                "AWS::EC2::SecurityGroupEgress",
                &json!({ "GroupId": { "Fn::GetAtt": [format!("{id}SecurityGroup"), "GroupId"] }, "ToPort": 443 }),
            );
        }
    }
    let network = assembly.template("network").unwrap();
    assert!(!resources_of_type(network, "AWS::EC2::NatGateway").is_empty());
}

#[test]
fn topics_come_by_pollers_of_their_own_and_what_is_given_up_is_kept() {
    let assembly = assembly("prod");
    let template = assembly.template("ledger").unwrap();
    let sizes = platform::sizes(&environment("prod")).unwrap();
    for (id, _) in resources_of_type(template, "AWS::Lambda::EventSourceMapping") {
        let pollers = capture(template, id, "/ProvisionedPollerConfig");
        assert_eq!(
            *pollers,
            json!({ "MinimumPollers": 1, "MaximumPollers": sizes.ledger("event_pollers") }),
            "{id}"
        );
        let destination = capture(template, id, "/DestinationConfig/OnFailure/Destination");
        assert_eq!(*destination, json!({ "Fn::GetAtt": ["FailedBatches", "Arn"] }), "{id}");
        assert_eq!(
            *capture(template, id, "/FunctionResponseTypes"),
            json!(["ReportBatchItemFailures"]),
            "{id}"
        );
        assert_eq!(capture(template, id, "/BisectBatchOnFunctionError"), true, "{id}");
    }
    // Lambda's pollers have the cluster's own group.
    let kafka = assembly.template("kafka").unwrap();
    has_resource(kafka, "AWS::EC2::SecurityGroupIngress", &json!({ "ToPort": 9098 }));
    has_resource(kafka, "AWS::EC2::SecurityGroupEgress", &json!({ "ToPort": 443 }));
}

/// The statements of a function's role.
fn statements<'a>(template: &'a Json, role: &str) -> &'a Vec<Json> {
    capture(template, role, "/Policies/0/PolicyDocument/Statement").as_array().unwrap()
}

fn actions(template: &Json, role: &str) -> BTreeSet<String> {
    let statements = statements(template, role).iter();
    let actions = statements.flat_map(|statement| statement["Action"].as_array().unwrap());
    actions.map(|action| action.as_str().unwrap().to_owned()).collect()
}

/// Brokers and database are reached by IAM, the database as one user through the proxy.
#[test]
fn the_writer_signs_in_by_iam_and_may_do_nothing_else() {
    let assembly = assembly("prod");
    let template = assembly.template("ledger").unwrap();
    let connect = statements(template, "WriterRole")
        .iter()
        .find(|statement| statement["Action"] == json!(["rds-db:connect"]))
        .unwrap();
    let resource = connect["Resource"][0].to_string();
    assert!(
        resource.contains("DatabaseProxyDBProxyArn") && resource.contains("/ledger_writer"),
        "{resource}"
    );
    let may = actions(template, "WriterRole");
    for needed in
        ["kafka-cluster:Connect", "kafka-cluster:ReadData", "kafka-cluster:WriteData", "ssm:GetParameter"]
    {
        assert!(may.contains(needed), "{needed}");
    }
    for not in ["ssm:PutParameter", "secretsmanager:GetSecretValue", "cloudwatch:DescribeAlarms"] {
        assert!(!may.contains(not), "{not}");
    }
    assert!(may.iter().all(|action| !action.contains('*')), "{may:?}");
}

/// Defects 1 and 4: nobody wrote the parameter, and whoever came last wrote the mode.
#[test]
fn the_mode_has_one_writer_which_writes_the_parameter() {
    let assembly = assembly("prod");
    let template = assembly.template("ledger").unwrap();
    assert_eq!(capture(template, "ModeFunction", "/ReservedConcurrentExecutions"), 1);
    for (role, _) in resources_of_type(template, "AWS::IAM::Role") {
        let writes = actions(template, role).contains("ssm:PutParameter");
        assert_eq!(writes, role == "ModeFunctionRole", "{role}");
    }
    let parameter = json!({ "Ref": "Mode" });
    for function in ["ModeFunction", "Writer"] {
        assert_eq!(
            *capture(template, function, "/Environment/Variables/MODE_PARAMETER"),
            parameter,
            "{function}"
        );
    }
    let alarms = capture(template, "ModeFunction", "/Environment/Variables/MODE_ALARMS").to_string();
    for alarm in
        ["PressureCpu", "PressureClientConnections", "PressureDatabaseConnections", "PressurePinnedSessions"]
    {
        assert!(alarms.contains(alarm), "{alarm}");
    }
}

/// The administrator's is the only password on AWS, which Secrets Manager makes, keeps and rotates every seven days.
#[test]
fn the_one_password_is_rotated() {
    let assembly = assembly("prod");
    let database = assembly.template("ledger-database").unwrap();
    resource_count(database, "AWS::SecretsManager::Secret", 0);
    has_resource(
        database,
        "AWS::RDS::DBCluster",
        &json!({ "ManageMasterUserPassword": true, "EnableIAMDatabaseAuthentication": true }),
    );
    has_resource(
        database,
        "AWS::RDS::DBProxy",
        &json!({ "DefaultAuthScheme": "IAM_AUTH", "RequireTLS": true }),
    );
    let secret = json!({ "Fn::GetAtt": ["Database", "MasterUserSecret.SecretArn"] });
    assert_eq!(*capture(database, "Migrate", "/Environment/Variables/DATABASE_SECRET_ARN"), secret);
}

#[test]
fn somebody_hears_of_lag_age_errors_and_dead_letters_and_a_dashboard_shows_them() {
    let assembly = assembly("prod");
    let template = assembly.template("ledger").unwrap();
    let alarms = resources_of_type(template, "AWS::CloudWatch::Alarm");
    let watched: BTreeSet<(String, String)> = alarms
        .iter()
        .map(|(id, _)| {
            let actions = capture(template, id, "/AlarmActions").as_array().unwrap();
            assert_eq!(actions.len(), 1, "{id} is heard of by nobody");
            let of = capture(template, id, "/Dimensions/0/Value");
            let of = of["Ref"].as_str().or_else(|| of["Fn::GetAtt"][0].as_str()).unwrap_or("database");
            (of.to_owned(), capture(template, id, "/MetricName").as_str().unwrap().to_owned())
        })
        .collect();
    let body = capture(template, "Dashboard", "/DashboardBody").to_string();
    for (of, metric) in [
        ("Writer", "OffsetLag"),
        ("Transform", "OffsetLag"),
        ("Writer", "AgeMilliseconds"),
        ("Writer", "Errors"),
        ("Transform", "Errors"),
        ("ModeFunction", "Errors"),
        ("Writer", "DeadLetters"),
        ("Transform", "DeadLetters"),
        ("database", "CPUUtilization"),
    ] {
        assert!(watched.contains(&(of.to_owned(), metric.to_owned())), "no alarm of {metric} of {of}");
        assert!(body.contains(metric), "{metric} is not on the dashboard");
    }
    let given_up = ("FailedBatches".to_owned(), "ApproximateNumberOfMessagesVisible".to_owned());
    assert!(watched.contains(&given_up), "{watched:?}");
    for shown in ["Severity", "Limit", "Rows", "Returned", "Duration"] {
        assert!(body.contains(shown), "{shown} is not on the dashboard");
    }
}
