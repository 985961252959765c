//! Changes the shards of a stream.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aws_sdk_kinesis::{
    Client,
    error::DisplayErrorContext,
    types::{ScalingType, StreamStatus},
};
use worker_contract::lessons::ScalerConfiguration;
use worker_kit::processing::Surroundings;

use crate::{
    decision::{Bound, Step, bound, next_step},
    notification::Notification,
};

/// How often a stream that is changing is looked at. `DescribeStreamSummary` takes 20 calls a second of an account.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Changes the shards of one stream.
pub struct Scaler<E> {
    /// Kinesis.
    pub client: Client,
    /// Which stream, and its bounds.
    pub configuration: ScalerConfiguration,
    /// Time and chance.
    pub surroundings: E,
}

impl<E: Surroundings> Scaler<E> {
    /// Does what the alarms of a notification ask for, and waits until the stream has taken it.
    ///
    /// # Errors
    ///
    /// When it is not done by the deadline, or Kinesis refuses (ten changes in 24 hours are all that a stream takes).
    /// Lambda calls again, twice; after that the call is a dead letter, which is an alarm of its own.
    pub async fn handle(&self, notification: &Notification, deadline: Instant) -> Result<()> {
        for change in notification.changes().context("the message is not one of CloudWatch's")? {
            let Some(bound) = bound(&self.configuration, &change) else {
                tracing::info!(alarm = change.alarm, state = ?change.state, "asks for nothing");
                continue;
            };
            self.reach(bound, &change.alarm, &change.reason, deadline).await?;
        }
        Ok(())
    }

    async fn reach(&self, bound: Bound, alarm: &str, reason: &str, deadline: Instant) -> Result<()> {
        let stream = &self.configuration.stream;
        loop {
            let (open, active) = self.look().await?;
            match next_step(open, active, bound) {
                Step::Done => {
                    tracing::info!(alarm, stream, open, ?bound, "the stream has the shards it needs");
                    return Ok(());
                }
                Step::Change(wanted) => {
                    tracing::info!(
                        alarm,
                        reason,
                        stream,
                        open,
                        wanted,
                        ?bound,
                        "changing the number of shards"
                    );
                    self.change(wanted).await?;
                }
                Step::Wait => {}
            }
            if self.surroundings.now() + LOOK_AGAIN >= deadline {
                bail!(
                    "{stream} is still changing: {bound:?} was asked for by {alarm}, {open} shards are open"
                );
            }
            self.surroundings.sleep(LOOK_AGAIN).await;
        }
    }

    /// Open shards, and whether the stream takes a change.
    async fn look(&self) -> Result<(u32, bool)> {
        let stream = &self.configuration.stream;
        let answer =
            self.client.describe_stream_summary().stream_name(stream).send().await.map_err(|error| {
                anyhow::anyhow!("{stream} cannot be described: {}", DisplayErrorContext(error))
            })?;
        let summary = answer.stream_description_summary().context("Kinesis tells nothing of the stream")?;
        let open = u32::try_from(summary.open_shard_count()).unwrap_or(0);
        Ok((open, *summary.stream_status() == StreamStatus::Active))
    }

    async fn change(&self, wanted: u32) -> Result<()> {
        let stream = &self.configuration.stream;
        let sent = self
            .client
            .update_shard_count()
            .stream_name(stream)
            .target_shard_count(i32::try_from(wanted)?)
            .scaling_type(ScalingType::UniformScaling)
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            // Somebody changes it already: the next look tells.
            Err(error)
                if error.as_service_error().is_some_and(|error| error.is_resource_in_use_exception()) =>
            {
                Ok(())
            }
            Err(error) => bail!("{stream} does not take {wanted} shards: {}", DisplayErrorContext(error)),
        }
    }
}
