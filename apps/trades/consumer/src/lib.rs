//! Consumes trades in microbatches: what a trade must be, and the simulated write.

mod journal;

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use worker_contract::trades::{BATCHES_WAITING, ConsumerConfiguration};
use worker_kit::{
    batch::{Origin, Record},
    consumer::{ConsumerSettings, Membership},
    dead_letters::Rejection,
    lanes::Limits,
    processing::{BatchHandler, HandleError},
    retry::RetryPolicy,
};

/// The part of a trade that the write needs, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trade {
    /// What the trade is worth: quantity x price, in cents.
    pub value_cents: u64,
    /// Where it comes from.
    pub origin: Origin,
}

/// The message as it comes, borrowed from the record.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    account_id: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    trade_id: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    symbol: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    trade_type: std::borrow::Cow<'a, str>,
    quantity: u64,
    price: f64,
    #[serde(borrow)]
    timestamp: std::borrow::Cow<'a, str>,
}

/// Writes trades somewhere that takes its time: one write a batch.
#[derive(Clone, Debug)]
pub struct TradeWriter {
    /// How long a write takes.
    pub processing_time: Duration,
    /// A longer payload is refused, in bytes.
    pub message_bytes_max: usize,
}

impl TradeWriter {
    /// As the configuration says.
    #[must_use]
    pub fn new(configuration: &ConsumerConfiguration) -> Self {
        Self {
            processing_time: Duration::from_secs_f64(configuration.batch_processing_seconds),
            message_bytes_max: usize::try_from(configuration.message_bytes_max).unwrap_or(usize::MAX),
        }
    }
}

impl BatchHandler for TradeWriter {
    type Item = Trade;

    fn decode(&self, record: Record<'_>) -> Result<Trade, Rejection> {
        let Some(payload) = record.payload else {
            return Err(Rejection { cause: "null", error: "the record has no payload".to_owned() });
        };
        if payload.len() > self.message_bytes_max {
            return Err(Rejection {
                cause: "oversized",
                error: format!("{} bytes, at most {} are taken", payload.len(), self.message_bytes_max),
            });
        }
        let malformed = |error: String| Rejection { cause: "malformed", error };
        let text = std::str::from_utf8(payload).map_err(|error| malformed(error.to_string()))?;
        let message: Message<'_> =
            serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        check(&message).map_err(malformed)?;
        let value_cents = (message.quantity as f64 * message.price * 100.0 + 0.5) as u64;
        Ok(Trade { value_cents, origin: record.origin })
    }

    async fn handle(&self, trades: &[Trade]) -> Result<(), HandleError> {
        // A sum over the batch is what one multi-row write would carry.
        let cents: u64 = trades.iter().map(|trade| trade.value_cents).sum();
        if !self.processing_time.is_zero() {
            tokio::time::sleep(self.processing_time).await;
        }
        // What was written, when and how late, for whoever counts.
        tracing::debug!(
            trades = trades.len(),
            cents,
            at_ms = journal::milliseconds(SystemTime::now()),
            offsets = %journal::Offsets(trades),
            ages_ms = %journal::Ages(trades, SystemTime::now()),
            "batch written"
        );
        Ok(())
    }
}

fn check(message: &Message<'_>) -> Result<(), String> {
    if message.account_id.is_empty() || message.trade_id.is_empty() || message.symbol.is_empty() {
        return Err("account_id, trade_id and symbol must not be empty".to_owned());
    }
    if !matches!(&*message.trade_type, "BUY" | "SELL") {
        return Err(format!("trade_type is `{}`, not BUY or SELL", message.trade_type));
    }
    if message.quantity == 0 || message.quantity > 1_000_000_000 {
        return Err(format!("quantity is {}, not 1 to 1,000,000,000", message.quantity));
    }
    if !(message.price > 0.0 && message.price <= 1e9) {
        return Err(format!("price is {}, not above 0 and at most 1,000,000,000", message.price));
    }
    if message.timestamp.len() < 10 {
        return Err(format!("timestamp is `{}`, not ISO 8601", message.timestamp));
    }
    Ok(())
}

/// The consumer's settings, as the configuration says.
#[must_use]
pub fn settings(configuration: &ConsumerConfiguration, client_id: &str) -> ConsumerSettings {
    ConsumerSettings {
        kafka: configuration.kafka.clone(),
        topic: configuration.topic.clone(),
        group: configuration.consumer_group.clone(),
        client_id: client_id.to_owned(),
        limits: Limits {
            records: configuration.batch_size as usize,
            bytes: usize::try_from(configuration.batch_bytes).unwrap_or(usize::MAX),
            timeout: Duration::from_secs_f64(configuration.batch_timeout_seconds),
            in_flight: configuration.batches_in_flight as usize,
            waiting: BATCHES_WAITING as usize,
        },
        retry: RetryPolicy::within(Duration::from_secs_f64(configuration.retry_budget_seconds)),
        drain_timeout: Duration::from_secs_f64(configuration.drain_timeout_seconds),
    }
}

/// The consumer's membership in its group, as the configuration says.
#[must_use]
pub fn membership(configuration: &ConsumerConfiguration) -> Membership {
    Membership {
        instance_id: configuration.group_instance_id.clone(),
        session_timeout: Duration::from_secs_f64(configuration.session_timeout_seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(payload: Option<&[u8]>) -> Result<Trade, Rejection> {
        let writer = TradeWriter { processing_time: Duration::ZERO, message_bytes_max: 1024 };
        let origin = Origin { partition: 0, offset: 0, timestamp_ms: None };
        writer.decode(Record { origin, key: None, payload })
    }

    const GOOD: &str = r#"{"account_id":"ACC1000","trade_id":"TRD100000","symbol":"AAPL","trade_type":"BUY","quantity":10,"price":12.34,"timestamp":"2026-01-01T00:00:00Z"}"#;

    #[test]
    fn a_trade_is_understood() {
        let trade = decode(Some(GOOD.as_bytes())).unwrap();
        assert_eq!((trade.value_cents, trade.origin.offset), (12_340, 0));
    }

    #[test]
    fn what_is_no_trade_is_refused_with_its_cause() {
        let cause = |payload: Option<&[u8]>| decode(payload).unwrap_err().cause;
        assert_eq!(cause(None), "null");
        assert_eq!(cause(Some(b"{")), "malformed");
        assert_eq!(cause(Some(&[0xff; 10])), "malformed");
        assert_eq!(cause(Some(&[b' '; 2000])), "oversized");
        assert_eq!(cause(Some(GOOD.replace("BUY", "HOLD").as_bytes())), "malformed");
        assert_eq!(cause(Some(GOOD.replace(":10,", ":-10,").as_bytes())), "malformed");
        assert_eq!(cause(Some(GOOD.replace("12.34", "0").as_bytes())), "malformed");
    }
}
