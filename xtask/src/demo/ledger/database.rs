//! What the ledger's database holds, by which it is told whether anything was lost.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::programs;

/// Event ids that took effect, effects that were counted in their chunks' transactions, and the versions of all rows
/// together. Versions of a row are 1, 2, 3… and each is an event: rows that hold their newest version sum up to the number
/// of events.
const TALLY: &str = "SELECT (SELECT count(*) FROM applied_events), \
(SELECT coalesce(sum(upserts + deletes), 0) FROM chunk_totals), \
(SELECT coalesce(sum(version), 0) FROM (SELECT version FROM orders_ops UNION ALL SELECT version FROM shipments_ops \
UNION ALL SELECT version FROM shipment_events_ops UNION ALL SELECT version FROM invoices_ops \
UNION ALL SELECT version FROM invoice_items_ops) AS rows)";

/// The database of the running environment.
pub(super) struct Database {
    program: PathBuf,
    root: PathBuf,
}

/// Its sums at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    events: u64,
    effects: u64,
    versions: u64,
}

impl Database {
    /// Of a local environment.
    pub(super) fn new(root: &Path, environment: &str) -> Self {
        let program = programs::target_directory(root).join("debug/local-environment");
        Self { program, root: programs::local_root(root, environment) }
    }

    /// Asks it.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub(super) fn tally(&self) -> Result<Tally> {
        let output = Command::new(&self.program)
            .arg("--root")
            .arg(&self.root)
            .args([
                "psql",
                "--",
                "--dbname",
                "ledger",
                "--quiet",
                "--tuples-only",
                "--no-align",
                "--command",
                TALLY,
            ])
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the database cannot be asked: {}", error.trim());
        let text = String::from_utf8_lossy(&output.stdout);
        Tally::parse(&text).with_context(|| format!("the database answers `{}`", text.trim()))
    }
}

impl Tally {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().split('|').map(|number| number.trim().parse::<u64>().ok());
        Some(Self { events: numbers.next()??, effects: numbers.next()??, versions: numbers.next()?? })
    }
}

/// Whether anything was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Events that were sent.
    pub(super) produced: u64,
    /// Of those, the ones that the brokers acknowledged.
    pub(super) acknowledged: u64,
    /// Events that took effect, by their ids.
    pub(super) written: u64,
    /// Events that were sent and took no effect.
    pub(super) lost: u64,
    /// Effects beyond one an event.
    pub(super) duplicated: u64,
    /// Versions that rows lack: a row that fell back to an older version lacks some.
    pub(super) regressed: u64,
}

impl Counts {
    /// Of what was sent between two tallies.
    pub(super) fn of(produced: u64, acknowledged: u64, before: &Tally, after: &Tally) -> Self {
        let written = after.events.saturating_sub(before.events);
        let effects = after.effects.saturating_sub(before.effects);
        let versions = after.versions.saturating_sub(before.versions);
        Self {
            produced,
            acknowledged,
            written,
            lost: produced.saturating_sub(written),
            duplicated: effects.saturating_sub(written),
            regressed: written.saturating_sub(versions),
        }
    }

    /// Whether all that was sent took effect, once, and no row fell back.
    pub(super) fn are_right(&self) -> bool {
        self.written == self.produced && self.duplicated == 0 && self.regressed == 0
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} produced, {} written, {} lost, {} regressed, {} duplicated effects",
            self.produced, self.written, self.lost, self.regressed, self.duplicated
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_too_much_is_told() {
        let tally = |text: &str| Tally::parse(text).unwrap();
        let before = tally("100|100|100\n");
        let right = Counts::of(50, 50, &before, &tally("150|150|150"));
        assert!(right.are_right(), "{right}");
        let lost = Counts::of(50, 50, &before, &tally("149|149|149"));
        assert_eq!((lost.lost, lost.are_right()), (1, false));
        let twice = Counts::of(50, 50, &before, &tally("150|152|150"));
        assert_eq!((twice.duplicated, twice.are_right()), (2, false));
        let back = Counts::of(50, 50, &before, &tally("150|150|147"));
        assert_eq!((back.regressed, back.are_right()), (3, false));
        assert_eq!(Tally::parse("1|2"), None);
        assert_eq!(right.to_string(), "50 produced, 50 written, 0 lost, 0 regressed, 0 duplicated effects");
    }
}
