//! A written batch in a line of the log: which records, and how old each was. Nothing is formatted where nobody logs it.

use std::{
    fmt::{Display, Formatter, Result},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::Trade;

/// Milliseconds since 1970.
pub(crate) fn milliseconds(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Records in the order in which they were written, as `PARTITION:FIRST-LAST` for offsets without a gap.
pub(crate) struct Offsets<'a>(pub(crate) &'a [Trade]);

impl Display for Offsets<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        let follows = |pair: &[Trade]| match pair {
            [one, next] => {
                next.origin.partition == one.origin.partition && next.origin.offset == one.origin.offset + 1
            }
            _ => false,
        };
        let mut rest = self.0;
        let mut separator = "";
        while let Some(first) = rest.first() {
            let length = 1 + rest.windows(2).take_while(|pair| follows(pair)).count();
            let last = first.origin.offset + i64::try_from(length).unwrap_or(i64::MAX) - 1;
            write!(formatter, "{separator}{}:{}-{last}", first.origin.partition, first.origin.offset)?;
            rest = rest.get(length..).unwrap_or_default();
            separator = " ";
        }
        Ok(())
    }
}

/// The age of each record at a moment, in milliseconds; `-` where it has no timestamp.
pub(crate) struct Ages<'a>(pub(crate) &'a [Trade], pub(crate) SystemTime);

impl Display for Ages<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        let now = milliseconds(self.1);
        for (place, trade) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { " " };
            match trade.origin.timestamp_ms {
                Some(at) => write!(formatter, "{separator}{}", (now - at).max(0))?,
                None => write!(formatter, "{separator}-")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use worker_kit::batch::Origin;

    use super::*;

    #[test]
    fn a_batch_is_told_by_runs_of_offsets_and_by_ages() {
        let trade = |partition, offset, timestamp_ms| Trade {
            value_cents: 1,
            origin: Origin { partition, offset, timestamp_ms },
        };
        let batch = [
            trade(3, 100, Some(1000)),
            trade(3, 101, Some(1500)),
            trade(7, 101, None),
            trade(3, 102, Some(9000)),
            trade(3, 104, Some(1999)),
        ];
        assert_eq!(Offsets(&batch).to_string(), "3:100-101 7:101-101 3:102-102 3:104-104");
        assert_eq!(Ages(&batch, UNIX_EPOCH + Duration::from_secs(2)).to_string(), "1000 500 - 0 1");
        assert_eq!(Offsets(&[]).to_string(), "");
    }
}
