//! CloudWatch alarms that somebody hears of.

use std::collections::BTreeMap;

use cfn::{Handle, Scope, Value};
use cfn_resources::{
    cloudwatch::{Alarm, AlarmComparisonOperator, AlarmDimension, AlarmStatistic, AlarmTreatMissingData},
    ids,
    sns::Topic,
};
use serde_json::json;

use crate::{DataPolicy, encryption, iam, network::as_text};

/// What CloudWatch counts about something.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Such as `AWS/Lambda`.
    pub namespace: &'static str,
    /// Such as `Errors`.
    pub name: &'static str,
    /// What it is counted of.
    pub dimensions: BTreeMap<&'static str, Value<String>>,
    /// How the points of a period become one.
    pub statistic: AlarmStatistic,
}

/// When an alarm goes off.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Goes off above this, in the metric's unit.
    pub above: f64,
    /// The length of a period, in seconds: 10, 30 or a multiple of 60.
    pub period_seconds: i64,
    /// Periods that are looked at.
    pub periods: i64,
    /// How many of them must be above.
    pub periods_above: i64,
    /// What a period without data says. There is no default: CloudWatch's own (`missing`) turns a quiet metric
    /// into `INSUFFICIENT_DATA`.
    pub without_data: WithoutData,
}

/// What a period without data says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutData {
    /// All is well: the metric is only there when something happens (errors, throttles).
    IsWell,
    /// Something is wrong: the metric should always be there.
    IsAlarming,
    /// Nothing: the state stays unknown.
    IsUnknown,
}

/// Where alarms are told.
#[derive(Clone, Debug)]
pub struct AlarmTopic {
    /// The topic.
    pub topic: Handle<Topic>,
}

impl AlarmTopic {
    /// An encrypted topic that CloudWatch and EventBridge of this account may publish to.
    #[track_caller]
    pub fn new(scope: &mut Scope<'_>, name: &str, topic_name: &str, data: DataPolicy) -> Self {
        let mut scope = scope.child(name);
        let account = Value::<String>::sub("${AWS::AccountId}", []);
        let account = cfn::Property::to_json(&account);
        let publishers = ["cloudwatch.amazonaws.com", "events.amazonaws.com"];
        let key = encryption::key(
            &mut scope,
            "Key",
            &format!("{topic_name}-alarms"),
            "Alarm notifications at rest",
            &[json!({
                "Sid": "PublishersEncrypt", "Effect": "Allow", "Principal": { "Service": publishers },
                "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": "*",
                "Condition": { "StringEquals": { "aws:SourceAccount": account } }
            })],
            data,
        );
        let topic = scope.add(
            "Resource",
            Topic::new()
                .topic_name(format!("{topic_name}-alarms"))
                .kms_master_key_id(as_text(&key.key_id()))
                .display_name("Alarms"),
        );
        let topic_arn = as_text(&topic.topic_arn());
        let mut publish =
            iam::allow("AlarmsArePublished", &["sns:Publish"], std::slice::from_ref(&topic_arn));
        publish["Principal"] = json!({ "Service": publishers });
        publish["Condition"] = json!({ "StringEquals": { "aws:SourceAccount": account } });
        let over_tls = iam::over_tls_alone(&["sns:Publish"], std::slice::from_ref(&topic_arn));
        scope.add(
            "Policy",
            cfn_resources::sns::TopicPolicy::new(iam::document(vec![publish, over_tls]), [topic_arn]),
        );
        Self { topic }
    }

    /// The topic's ARN.
    #[must_use]
    pub fn arn(&self) -> Value<ids::TopicArn> {
        self.topic.topic_arn()
    }

    /// An alarm that tells this topic when it goes off and when it is over.
    #[track_caller]
    pub fn alarm(
        &self,
        scope: &mut Scope<'_>,
        name: &str,
        description: &str,
        metric: &Metric,
        limit: &Limit,
    ) -> Handle<Alarm> {
        let dimensions: Vec<AlarmDimension> =
            metric.dimensions.iter().map(|(name, value)| AlarmDimension::new(*name, value.clone())).collect();
        let without_data = match limit.without_data {
            WithoutData::IsWell => AlarmTreatMissingData::NotBreaching,
            WithoutData::IsAlarming => AlarmTreatMissingData::Breaching,
            WithoutData::IsUnknown => AlarmTreatMissingData::Missing,
        };
        scope.add(
            name,
            Alarm::new()
                .alarm_description(description)
                .namespace(metric.namespace)
                .metric_name(metric.name)
                .dimensions(dimensions)
                .statistic(metric.statistic.clone())
                .comparison_operator(AlarmComparisonOperator::GreaterThanThreshold)
                .threshold(limit.above)
                .period(limit.period_seconds)
                .evaluation_periods(limit.periods)
                .datapoints_to_alarm(limit.periods_above)
                .treat_missing_data(without_data)
                .alarm_actions([as_text(&self.arn())])
                .ok_actions([self.arn()]),
        )
    }
}
