//! Rules, schedules and subscriptions: when they call, whether they are let in, and what they cannot deliver.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Findings,
    permissions::{covers, statements},
    rules::{SCHEDULE, TARGET_CLOSED, TARGET_DEAD_LETTER},
    template::{Resource, Template, texts},
};
use crate::value::Json;

pub(super) fn check(template: &Template<'_>, findings: &mut Findings<'_>) {
    let rules = template.of_kind("AWS::Events::Rule");
    let subscriptions = template.of_kind("AWS::SNS::Subscription");
    for rule in rules {
        for target in rule.list("/Targets") {
            if target.get("DeadLetterConfig").is_none() {
                let id = target.get("Id").and_then(Json::as_str).unwrap_or("one");
                findings.resource(
                    TARGET_DEAD_LETTER,
                    rule.logical_id,
                    format!("events that the target {id} cannot be given are dropped after a day"),
                );
            }
        }
        if let Some(wrong) = rule.text("/ScheduleExpression").and_then(|text| wrong_schedule(text, false)) {
            findings.resource(SCHEDULE, rule.logical_id, wrong);
        }
    }
    for schedule in template.of_kind("AWS::Scheduler::Schedule") {
        if let Some(wrong) = schedule.text("/ScheduleExpression").and_then(|text| wrong_schedule(text, true))
        {
            findings.resource(SCHEDULE, schedule.logical_id, wrong);
        }
    }
    for subscription in subscriptions {
        let mail = subscription.text("/Protocol").is_some_and(|protocol| protocol.starts_with("email"));
        if !mail && !subscription.has("/RedrivePolicy") {
            findings.resource(
                TARGET_DEAD_LETTER,
                subscription.logical_id,
                "messages that cannot be delivered are dropped".to_owned(),
            );
        }
    }
    if rules.is_empty() && subscriptions.is_empty() {
        return;
    }
    let doors = Doors::new(template);
    for rule in rules {
        for target in rule.list("/Targets").iter().filter(|target| target.get("RoleArn").is_none()) {
            let aim = target.get("Arn").and_then(|arn| template.own(arn));
            doors.closed(rule, aim, "events.amazonaws.com", findings);
        }
    }
    for subscription in subscriptions {
        let aim = subscription.at("/Endpoint").and_then(|endpoint| template.own(endpoint));
        doors.closed(subscription, aim, "sns.amazonaws.com", findings);
    }
}

/// Which services the resources of a template let in: by a queue's or topic's policy, or a function's permission.
struct Doors<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

impl<'a> Doors<'a> {
    fn new(template: &Template<'a>) -> Self {
        let mut open: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (kind, list, action) in [
            ("AWS::SQS::QueuePolicy", "/Queues", "sqs:SendMessage"),
            ("AWS::SNS::TopicPolicy", "/Topics", "sns:Publish"),
        ] {
            for policy in template.of_kind(kind) {
                let services: BTreeSet<&str> = policy
                    .at("/PolicyDocument")
                    .map_or(&[][..], statements)
                    .iter()
                    .filter(|statement| statement.get("Effect").and_then(Json::as_str) == Some("Allow"))
                    .filter(|statement| {
                        texts(statement.get("Action")).iter().any(|pattern| covers(pattern, action))
                    })
                    .filter_map(|statement| statement.get("Principal"))
                    .flat_map(|principal| match principal {
                        Json::String(_) => vec!["*"],
                        principal => texts(principal.get("Service")),
                    })
                    .collect();
                for holder in policy.list(list).iter().filter_map(|holder| template.own(holder)) {
                    open.entry(holder.logical_id).or_default().extend(&services);
                }
            }
        }
        let named: BTreeMap<&str, Resource<'a>> = template
            .of_kind("AWS::Lambda::Function")
            .iter()
            .filter_map(|function| Some((function.text("/FunctionName")?, *function)))
            .collect();
        for permission in template.of_kind("AWS::Lambda::Permission") {
            let function = permission
                .at("/FunctionName")
                .and_then(|name| template.own(name).or_else(|| named.get(name.as_str()?).copied()));
            if let Some((function, service)) = function.zip(permission.text("/Principal")) {
                open.entry(function.logical_id).or_default().insert(service);
            }
        }
        Self(open)
    }

    fn closed(
        &self,
        caller: &Resource<'_>,
        aim: Option<Resource<'_>>,
        service: &str,
        findings: &mut Findings<'_>,
    ) {
        let guarded = ["AWS::SQS::Queue", "AWS::SNS::Topic", "AWS::Lambda::Function"];
        let Some(aim) = aim.filter(|aim| guarded.contains(&aim.kind)) else { return };
        let open = self.0.get(aim.logical_id);
        if !open.is_some_and(|services| services.contains(service) || services.contains("*")) {
            findings.resource(
                TARGET_CLOSED,
                caller.logical_id,
                format!("{} does not let {service} in", aim.logical_id),
            );
        }
    }
}

/// What is wrong with a schedule. Source: the EventBridge user guide, schedule expressions.
fn wrong_schedule(text: &str, once: bool) -> Option<String> {
    let inner = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
    if let Some(rate) = inner("rate") {
        let (count, unit) = rate.split_once(' ')?;
        let unit_is = |units: [&str; 3]| units.contains(&unit);
        return match count.parse::<u32>() {
            Ok(1) if unit_is(["minute", "hour", "day"]) => None,
            Ok(2..) if unit_is(["minutes", "hours", "days"]) => None,
            Ok(1) => Some(format!("`{text}`: one is `minute`, `hour` or `day`")),
            Ok(2..) => Some(format!("`{text}`: several are `minutes`, `hours` or `days`")),
            _ => Some(format!("`{text}` has no number of times from 1 on")),
        };
    }
    if let Some(cron) = inner("cron") {
        let fields: Vec<&str> = cron.split_whitespace().collect();
        if fields.len() != 6 {
            return Some(format!(
                "`{text}` has {} fields; EventBridge wants 6, the last the year",
                fields.len()
            ));
        }
        // Day of month and day of week: one of them says nothing.
        let silent = [fields[2], fields[4]].iter().filter(|field| **field == "?").count();
        return (silent != 1)
            .then(|| format!("`{text}`: one of day of month and day of week is `?`, and only one"));
    }
    let at = once && inner("at").is_some();
    (!at).then(|| format!("`{text}` is neither rate(…) nor cron(…)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_eventbridge_reads_them() {
        for right in ["rate(1 minute)", "rate(5 minutes)", "cron(0 12 * * ? *)", "cron(0 8 1 * ? *)"] {
            assert_eq!(wrong_schedule(right, false), None, "{right}");
        }
        for wrong in [
            "rate(1 minutes)",
            "rate(5 minute)",
            "rate(0 days)",
            "cron(0 12 * * *)",
            "cron(0 12 * * * *)",
            "at(x)",
            "5m",
        ] {
            assert!(wrong_schedule(wrong, false).is_some(), "{wrong}");
        }
        assert_eq!(wrong_schedule("at(2026-11-21T09:00:00)", true), None);
    }
}
