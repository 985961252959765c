//! Functions: runtimes, logs, who may call them, and what becomes of events that nobody waits for.

use std::collections::BTreeSet;

use super::{
    Findings, REVIEWED,
    rules::{FUNCTION_LOGS, FUNCTION_RUNTIME, INVOKE_SOURCE, LOST_EVENT},
    template::{Resource, Template},
};
use crate::value::Json;

/// Deprecation dates of the Lambda developer guide's page of runtimes; a runtime not listed has time left.
const ENDED: [(&str, &str); 17] = [
    ("dotnet6", "2024-12-20"),
    ("dotnetcore3.1", "2023-04-03"),
    ("go1.x", "2024-01-08"),
    ("java8", "2024-01-08"),
    ("nodejs12.x", "2023-03-31"),
    ("nodejs14.x", "2023-12-04"),
    ("nodejs16.x", "2024-06-12"),
    ("nodejs18.x", "2025-09-01"),
    ("nodejs20.x", "2026-04-30"),
    ("provided", "2024-01-08"),
    ("python3.6", "2022-07-18"),
    ("python3.7", "2023-12-04"),
    ("python3.8", "2024-10-14"),
    ("python3.9", "2025-12-15"),
    ("ruby2.7", "2023-12-07"),
    ("ruby3.2", "2026-03-31"),
    ("ruby3.3", "2027-03-31"),
];

/// Services that call a function without waiting for it.
const ASYNCHRONOUS: [&str; 5] = [
    "events.amazonaws.com",
    "iot.amazonaws.com",
    "s3.amazonaws.com",
    "ses.amazonaws.com",
    "sns.amazonaws.com",
];

pub(super) fn check(template: &Template<'_>, findings: &mut Findings<'_>) {
    let functions = template.of_kind("AWS::Lambda::Function");
    if !functions.is_empty() {
        let groups = log_groups(template);
        let caught = caught(template);
        let called = called_asynchronously(template);
        for function in functions {
            runtime(function, findings);
            let name = function.text("/FunctionName").map(|name| format!("/aws/lambda/{name}"));
            let logged = function.has("/LoggingConfig/LogGroup")
                || groups.contains(function.logical_id)
                || name.is_some_and(|name| groups.contains(&name));
            if !logged {
                findings.resource(
                    FUNCTION_LOGS,
                    function.logical_id,
                    "no log group of the template is the function's".to_owned(),
                );
            }
            let lost = !function.has("/DeadLetterConfig/TargetArn") && !caught.contains(function.logical_id);
            if lost && called.contains(function.logical_id) {
                findings.resource(
                    LOST_EVENT,
                    function.logical_id,
                    "it is called without anybody waiting, and an event that it fails on is dropped"
                        .to_owned(),
                );
            }
        }
    }
    for permission in template.of_kind("AWS::Lambda::Permission") {
        let service = permission.text("/Principal").is_some_and(|who| who.ends_with(".amazonaws.com"));
        if service && !permission.has("/SourceArn") && !permission.has("/SourceAccount") {
            findings.resource(
                INVOKE_SOURCE,
                permission.logical_id,
                "every account's resources may call through the service".to_owned(),
            );
        }
    }
}

fn runtime(function: &Resource<'_>, findings: &mut Findings<'_>) {
    let ended = function.text("/Runtime").and_then(|found| ENDED.iter().find(|(name, _)| *name == found));
    if let Some((name, end)) = ended.filter(|(_, end)| *end <= REVIEWED) {
        findings.resource(FUNCTION_RUNTIME, function.logical_id, format!("{name} ended {end}"));
    }
}

/// Literal names of log groups, and the logical ids of functions whose name a group's name is built from.
fn log_groups(template: &Template<'_>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for group in template.of_kind("AWS::Logs::LogGroup") {
        match group.at("/LogGroupName") {
            Some(Json::String(name)) => {
                found.insert(name.clone());
            }
            Some(expression) => mentioned(template, expression, &mut found),
            None => {}
        }
    }
    found
}

/// The functions that a name's expression mentions, whether by `Ref` or in an `Fn::Sub`.
fn mentioned(template: &Template<'_>, json: &Json, found: &mut BTreeSet<String>) {
    if let Some(target) = template.own(json) {
        found.insert(target.logical_id.to_owned());
    }
    match json {
        Json::String(text) => {
            for part in text.split("${").skip(1).filter_map(|part| part.split('}').next()) {
                found.insert(part.split('.').next().unwrap_or(part).to_owned());
            }
        }
        Json::Array(items) => items.iter().for_each(|item| mentioned(template, item, found)),
        Json::Object(object) => object.values().for_each(|value| mentioned(template, value, found)),
        _ => {}
    }
}

/// Functions whose failed events go somewhere.
fn caught<'a>(template: &Template<'a>) -> BTreeSet<&'a str> {
    template
        .of_kind("AWS::Lambda::EventInvokeConfig")
        .iter()
        .filter(|config| config.has("/DestinationConfig/OnFailure/Destination"))
        .filter_map(|config| template.own(config.at("/FunctionName")?))
        .map(|function| function.logical_id)
        .collect()
}

/// Functions that a service calls without waiting: they have subscriptions, are targets, or allow it.
fn called_asynchronously<'a>(template: &Template<'a>) -> BTreeSet<&'a str> {
    let subscribed = template
        .of_kind("AWS::SNS::Subscription")
        .iter()
        .filter(|subscription| subscription.text("/Protocol") == Some("lambda"))
        .filter_map(|subscription| subscription.at("/Endpoint"));
    let aimed_at = template
        .of_kind("AWS::Events::Rule")
        .iter()
        .flat_map(|rule| rule.list("/Targets"))
        .filter_map(|target| target.get("Arn"));
    let scheduled =
        template.of_kind("AWS::Scheduler::Schedule").iter().filter_map(|schedule| schedule.at("/Target/Arn"));
    let allowed = template
        .of_kind("AWS::Lambda::Permission")
        .iter()
        .filter(|permission| permission.text("/Principal").is_some_and(|who| ASYNCHRONOUS.contains(&who)))
        .filter_map(|permission| permission.at("/FunctionName"));
    subscribed
        .chain(aimed_at)
        .chain(scheduled)
        .chain(allowed)
        .filter_map(|json| template.own(json))
        .filter(|target| target.kind == "AWS::Lambda::Function")
        .map(|target| target.logical_id)
        .collect()
}
