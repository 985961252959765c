//! SQS queues.

use std::collections::BTreeMap;

use cfn::{Handle, Json, Scope, Value};
use cfn_resources::{
    cloudwatch::AlarmStatistic,
    sqs::{Queue, QueuePolicy},
};

use crate::{DataPolicy, alarm::Metric, iam, network::as_text};

/// SQS keeps messages for at most two weeks.
const RETENTION_SECONDS_MAX: i64 = 14 * 24 * 3600;

/// A queue of what could not be processed: encrypted, over TLS alone, kept for as long as SQS keeps anything.
#[derive(Clone, Debug)]
pub struct DeadLetterQueue {
    /// The queue.
    pub queue: Handle<Queue>,
}

impl DeadLetterQueue {
    /// Makes one.
    #[track_caller]
    pub fn new(scope: &mut Scope<'_>, name: &str, data: DataPolicy) -> Self {
        let mut scope = scope.child(name);
        let queue = scope.add(
            "Resource",
            Queue::new().sqs_managed_sse_enabled(true).message_retention_period(RETENTION_SECONDS_MAX),
        );
        scope.removal(queue.raw(), data.removal());
        scope.waive(
            queue.raw(),
            "CKV_AWS_27",
            "it is encrypted with keys that SQS manages: services that send failures need no grant of a key",
        );
        let over_tls =
            iam::over_tls_alone(&["sqs:SendMessage", "sqs:ReceiveMessage"], &[as_text(&queue.arn())]);
        scope.add("Policy", QueuePolicy::new(iam::document(vec![over_tls]), [queue.queue_url()]));
        Self { queue }
    }

    /// The queue's ARN.
    #[must_use]
    pub fn arn(&self) -> Value<String> {
        as_text(&self.queue.arn())
    }

    /// Puts messages in.
    #[must_use]
    pub fn grant_send(&self, sid: &str) -> Vec<Json> {
        vec![iam::allow(sid, &["sqs:SendMessage"], &[self.arn()])]
    }

    /// How many messages lie in it.
    #[must_use]
    pub fn messages(&self) -> Metric {
        Metric {
            namespace: "AWS/SQS",
            name: "ApproximateNumberOfMessagesVisible",
            dimensions: BTreeMap::from([("QueueName", self.queue.queue_name())]),
            statistic: AlarmStatistic::Maximum,
        }
    }
}
