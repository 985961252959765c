//! The rules and the dashboard, as Prometheus itself understands them: every expression parses, and every alert
//! fires when it should and only then.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/promtool.rs"]
mod promtool;
mod support;

use std::{collections::BTreeSet, fs, path::Path};

use cfn::{Assembly, Json};
use promtool::{accepted, promtool};
use serde::Deserialize;
use serde_json::json;
use support::assembly;

const ON_AWS: [&str; 3] = ["dev", "prod", "staging"];

/// The groups of all rules, in the form of a file of Prometheus's own.
fn groups(assembly: &Assembly) -> Json {
    let groups: Vec<Json> = assembly
        .files
        .iter()
        .filter(|(path, _)| path.ends_with(".yaml"))
        .flat_map(|(_, text)| serde_yaml_ng::Deserializer::from_str(text))
        .map(|document| Json::deserialize(document).unwrap())
        .filter(|document| document["kind"] == "PrometheusRule")
        .flat_map(|rule| rule["spec"]["groups"].as_array().unwrap().clone())
        .collect();
    assert!(!groups.is_empty());
    json!({ "groups": groups })
}

/// The expressions of all dashboards. What Grafana fills in is filled in as it would be for an hour's view.
fn dashboard_expressions(assembly: &Assembly) -> Vec<String> {
    let expressions: Vec<String> = assembly
        .files
        .iter()
        .filter(|(path, _)| path.starts_with("dashboards/"))
        .map(|(_, text)| serde_json::from_str::<Json>(text).unwrap())
        .flat_map(|dashboard| dashboard["panels"].as_array().unwrap().clone())
        .flat_map(|panel| panel["targets"].as_array().unwrap().clone())
        .map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "2m"))
        .collect();
    assert!(expressions.len() > 10, "{expressions:?}");
    expressions
}

fn write(directory: &Path, name: &str, rules: &Json) {
    // JSON text is YAML text.
    fs::write(directory.join(name), rules.to_string()).unwrap();
}

#[test]
fn prometheus_parses_every_rule_and_every_expression_of_the_dashboards() {
    for environment in ON_AWS {
        let assembly = assembly(environment);
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "rules.yaml", &groups(&assembly));
        let wrapped: Vec<Json> = dashboard_expressions(&assembly)
            .iter()
            .enumerate()
            .map(|(number, expression)| json!({ "record": format!("panel:{number}"), "expr": expression }))
            .collect();
        write(
            directory.path(),
            "dashboards.yaml",
            &json!({ "groups": [{ "name": "dashboards", "rules": wrapped }] }),
        );
        accepted(
            environment,
            &promtool(directory.path(), &["check", "rules", "rules.yaml", "dashboards.yaml"]),
        );
    }
}

/// What is refused, so that the test above is known to be able to fail.
#[test]
fn prometheus_refuses_a_rule_that_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let rules =
        json!({ "groups": [{ "name": "g", "rules": [{ "record": "a:b", "expr": "sum(rate(c_total))" }] }] });
    write(directory.path(), "rules.yaml", &rules);
    assert!(!promtool(directory.path(), &["check", "rules", "rules.yaml"]).status.success());
}

#[test]
fn every_alert_fires_when_it_should_and_only_then() {
    let rules = groups(&assembly("prod"));
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "rules.yaml", &rules);
    let courses = include_str!("alerts.yaml");
    fs::write(directory.path().join("alerts.yaml"), courses).unwrap();
    accepted("the courses of alerts.yaml", &promtool(directory.path(), &["test", "rules", "alerts.yaml"]));

    // Every alert has a course in which it fires and one that comes close.
    let courses: Json = serde_yaml_ng::from_str(courses).unwrap();
    let mut told = BTreeSet::new();
    for course in courses["tests"].as_array().unwrap() {
        let (name, text) = (course["name"].as_str().unwrap(), course["promql_expr_test"].to_string());
        let (alert, outcome) = name.split_once(' ').unwrap();
        let fires = outcome.starts_with("fires");
        assert!(fires || outcome.starts_with("stays quiet"), "{name}");
        assert_eq!(text.contains(&format!("alertname=\\\"{alert}\\\"")), fires, "{name}");
        assert!(text.contains("ALERTS{alertstate=\\\"firing\\\"}"), "{name}: all that fires is asked for");
        told.insert((alert.to_owned(), fires));
    }
    let expected: BTreeSet<(String, bool)> = rules["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .filter_map(|rule| rule["alert"].as_str().map(str::to_owned))
        .flat_map(|alert| [(alert.clone(), true), (alert, false)])
        .collect();
    assert_eq!(told, expected);
}
