//! DynamoDB tables.

use std::collections::BTreeMap;

use cfn::{Handle, Json, Scope, Value};
use cfn_resources::{
    applicationautoscaling::{
        ScalableTarget, ScalableTargetRequired, ScalableTargetScalableDimension,
        ScalableTargetServiceNamespace, ScalingPolicy, ScalingPolicyPolicyType,
        ScalingPolicyPredefinedMetricSpecification,
        ScalingPolicyPredefinedMetricSpecificationPredefinedMetricType,
        ScalingPolicyTargetTrackingScalingPolicyConfiguration,
    },
    cloudwatch::AlarmStatistic,
    dynamodb::{
        Table, TableAttributeDefinition, TableAttributeDefinitionAttributeType, TableBillingMode,
        TablePointInTimeRecoverySpecification, TableProvisionedThroughput, TableSseSpecification,
        TableSseSpecificationSseType,
    },
    kms::Key,
};
use serde_json::json;

use crate::{DataPolicy, alarm::Metric, iam, network::as_text};

/// What autoscaling aims at, in percent of the capacity.
const TARGET_UTILISATION_PERCENT: f64 = 70.0;

/// How a table is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Billing {
    /// By request.
    OnDemand,
    /// By capacity, which follows the load between bounds.
    Provisioned {
        /// Read units, at least.
        read_min: i64,
        /// Read units, at most.
        read_max: i64,
        /// Write units, at least.
        write_min: i64,
        /// Write units, at most.
        write_max: i64,
    },
}

/// A table with a partition key and perhaps a sort key, both texts; encrypted with a key of the account's own,
/// recoverable to any second of the last 35 days.
#[derive(Clone, Debug)]
pub struct KeyedTable {
    /// The table.
    pub table: Handle<Table>,
    key_arn: Value<String>,
}

impl KeyedTable {
    /// Makes one.
    #[track_caller]
    pub fn new(
        scope: &mut Scope<'_>,
        name: &str,
        key: &Handle<Key>,
        (partition_key, sort_key): (&str, Option<&str>),
        billing: Billing,
        data: DataPolicy,
    ) -> Self {
        let mut scope = scope.child(name);
        let keys: Vec<(&str, &str)> =
            std::iter::once((partition_key, "HASH")).chain(sort_key.map(|name| (name, "RANGE"))).collect();
        let schema: Vec<Json> =
            keys.iter().map(|(name, kind)| json!({ "AttributeName": name, "KeyType": kind })).collect();
        let attributes: Vec<TableAttributeDefinition> = keys
            .iter()
            .map(|(name, _)| TableAttributeDefinition::new(*name, TableAttributeDefinitionAttributeType::S))
            .collect();
        let mut table = Table::new(Json::Array(schema))
            .attribute_definitions(attributes)
            .deletion_protection_enabled(data == DataPolicy::Kept)
            .point_in_time_recovery_specification(
                TablePointInTimeRecoverySpecification::new().point_in_time_recovery_enabled(true),
            )
            .sse_specification(
                TableSseSpecification::new(true)
                    .sse_type(TableSseSpecificationSseType::Kms)
                    .kms_master_key_id(as_text(&key.arn())),
            );
        table = match billing {
            Billing::OnDemand => table.billing_mode(TableBillingMode::PayPerRequest),
            Billing::Provisioned { read_min, write_min, .. } => table
                .billing_mode(TableBillingMode::Provisioned)
                .provisioned_throughput(TableProvisionedThroughput::new(read_min, write_min)),
        };
        let table = scope.add("Resource", table);
        scope.removal(table.raw(), data.removal());
        if let Billing::Provisioned { read_min, read_max, write_min, write_max } = billing {
            scope.changes_at_run_time(table.raw(), &["ProvisionedThroughput"]);
            let bounds = [
                (
                    "Read",
                    (read_min, read_max),
                    ScalableTargetScalableDimension::DynamodbTableReadCapacityUnits,
                    ScalingPolicyPredefinedMetricSpecificationPredefinedMetricType::DynamodbReadCapacityUtilization,
                ),
                (
                    "Write",
                    (write_min, write_max),
                    ScalableTargetScalableDimension::DynamodbTableWriteCapacityUnits,
                    ScalingPolicyPredefinedMetricSpecificationPredefinedMetricType::DynamodbWriteCapacityUtilization,
                ),
            ];
            for (what, (least, most), dimension, metric) in bounds {
                autoscale(&mut scope, what, &table, (least, most), dimension, metric);
            }
        }
        Self { table, key_arn: as_text(&key.arn()) }
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> Value<String> {
        self.table.reference()
    }

    /// Reads items by their keys.
    #[must_use]
    pub fn grant_read(&self, sid: &str) -> Vec<Json> {
        let actions = ["dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:Query"];
        vec![
            iam::allow(sid, &actions, &[self.table.arn()]),
            iam::allow(&format!("{sid}Decrypt"), &["kms:Decrypt"], std::slice::from_ref(&self.key_arn)),
        ]
    }

    /// Writes items.
    #[must_use]
    pub fn grant_write(&self, sid: &str) -> Vec<Json> {
        let actions = [
            "dynamodb:BatchWriteItem",
            "dynamodb:ConditionCheckItem",
            "dynamodb:DeleteItem",
            "dynamodb:PutItem",
            "dynamodb:UpdateItem",
        ];
        vec![
            iam::allow(sid, &actions, &[self.table.arn()]),
            iam::allow(
                &format!("{sid}Encrypt"),
                &["kms:Decrypt", "kms:GenerateDataKey"],
                std::slice::from_ref(&self.key_arn),
            ),
        ]
    }

    /// Reads and writes that were turned away for want of capacity, each with its name.
    #[must_use]
    pub fn throttled(&self) -> [(&'static str, Metric); 2] {
        [("Reads", "ReadThrottleEvents"), ("Writes", "WriteThrottleEvents")].map(|(what, name)| {
            let dimensions = BTreeMap::from([("TableName", self.name())]);
            (what, Metric { namespace: "AWS/DynamoDB", name, dimensions, statistic: AlarmStatistic::Sum })
        })
    }
}

fn autoscale(
    scope: &mut Scope<'_>,
    name: &str,
    table: &Handle<Table>,
    (least, most): (i64, i64),
    dimension: ScalableTargetScalableDimension,
    metric: ScalingPolicyPredefinedMetricSpecificationPredefinedMetricType,
) {
    let mut scope = scope.child(name);
    let target = scope.add(
        "Target",
        ScalableTarget::new(ScalableTargetRequired {
            max_capacity: Value::Literal(most),
            min_capacity: Value::Literal(least),
            resource_id: Value::join("/", [Value::Literal("table".to_owned()), table.reference()]),
            scalable_dimension: Value::Literal(dimension),
            service_namespace: Value::Literal(ScalableTargetServiceNamespace::Dynamodb),
        }),
    );
    scope.add(
        "Policy",
        ScalingPolicy::new(format!("{name}Utilisation"), ScalingPolicyPolicyType::TargetTrackingScaling)
            .scaling_target_id(target.reference().assume())
            .target_tracking_scaling_policy_configuration(
                ScalingPolicyTargetTrackingScalingPolicyConfiguration::new(TARGET_UTILISATION_PERCENT)
                    .predefined_metric_specification(ScalingPolicyPredefinedMetricSpecification::new(metric)),
            ),
    );
}
