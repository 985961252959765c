//! The trade message, and a generator of them.

use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;

const SYMBOLS: [&str; 7] = ["AAPL", "GOOGL", "MSFT", "AMZN", "TSLA", "META", "NVDA"];

/// A simulated trade, as it stands in a record's value; the account is the record's key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Trade {
    /// `ACC` and a number from 1000 to 9999.
    pub(crate) account_id: String,
    /// `TRD` and a number from 100000 to 999999.
    pub(crate) trade_id: String,
    pub(crate) symbol: &'static str,
    /// `BUY` or `SELL`.
    pub(crate) trade_type: &'static str,
    /// 1 to 1000.
    pub(crate) quantity: u32,
    /// 50 to 500, two decimals.
    pub(crate) price: f64,
    /// ISO 8601, UTC.
    pub(crate) timestamp: String,
}

/// Makes trades; the same seed makes the same sequence.
pub(crate) struct Generator {
    random: StdRng,
}

impl Generator {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self { random: seed.map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64) }
    }

    /// The next trade, made at `now`.
    pub(crate) fn next(&mut self, now: SystemTime) -> Trade {
        let random = &mut self.random;
        Trade {
            account_id: format!("ACC{}", random.random_range(1000..=9999)),
            trade_id: format!("TRD{}", random.random_range(100_000..=999_999)),
            symbol: SYMBOLS[random.random_range(0..SYMBOLS.len())],
            trade_type: if random.random() { "BUY" } else { "SELL" },
            quantity: random.random_range(1..=1000),
            price: f64::from(random.random_range(5000..=50_000)) / 100.0,
            timestamp: DateTime::<Utc>::from(now).to_rfc3339_opts(SecondsFormat::Micros, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn trades_stay_within_their_ranges(seed in any::<u64>()) {
            let trade = Generator::new(Some(seed)).next(SystemTime::UNIX_EPOCH);
            let number = |text: &str, prefix: &str| text.strip_prefix(prefix).and_then(|digits| digits.parse::<u32>().ok());
            prop_assert!((1000..=9999).contains(&number(&trade.account_id, "ACC").unwrap()));
            prop_assert!((100_000..=999_999).contains(&number(&trade.trade_id, "TRD").unwrap()));
            prop_assert!((1..=1000).contains(&trade.quantity));
            prop_assert!((50.0..=500.0).contains(&trade.price));
            prop_assert_eq!((trade.price * 100.0).round() / 100.0, trade.price);
            prop_assert_eq!(trade.timestamp, "1970-01-01T00:00:00.000000Z");
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_trades() {
        let make = |seed| {
            let mut generator = Generator::new(Some(seed));
            (0..5).map(|_| generator.next(SystemTime::UNIX_EPOCH)).collect::<Vec<_>>()
        };
        assert_eq!(make(7), make(7));
        assert_ne!(make(7), make(8));
    }
}
