//! What the ledger's stacks promise its functions, on AWS and locally.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::PathBuf};

use cfn::{
    Assembly,
    assembly::Invocation,
    assertions::{capture, resources_of_type},
};
use platform::{Environment, environment::System, render};
use worker_contract::{
    DatabaseAuthentication, KafkaAuthentication,
    ledger::{MigrateConfiguration, ModeConfiguration, TransformConfiguration, WriterConfiguration},
};

fn assembly(name: &str) -> Assembly {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut environment = Environment::load(&root, name).unwrap();
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
