//! Which event of a chunk wins, where several are of one row.

use std::collections::BTreeMap;

use ledger_events::{Entity, Envelope, EventId};

/// A chunk, made ready to be written.
#[derive(Debug, PartialEq, Eq)]
pub struct Merged<'a> {
    /// Every event once, ordered by its id: two chunks that share events wait for each other in the same order.
    pub events: Vec<&'a Envelope>,
    /// The newest event of each row, ordered by entity and id, for the same reason.
    pub rows: Vec<&'a Envelope>,
    /// Events that came more than once in this chunk.
    pub repeated: usize,
}

/// Merges a chunk's events: a statement can write a row once, and only the newest counts. Of two events of one
/// version the first wins, as it does in the table.
#[must_use]
pub fn merge(items: &[Envelope]) -> Merged<'_> {
    let mut events: BTreeMap<EventId, &Envelope> = BTreeMap::new();
    let mut rows: BTreeMap<(Entity, uuid::Uuid), &Envelope> = BTreeMap::new();
    let mut repeated = 0;
    for item in items {
        if events.insert(item.event_id, item).is_some() {
            repeated += 1;
        }
        rows.entry((item.change.entity(), item.change.id()))
            .and_modify(|newest| {
                if item.version > newest.version {
                    *newest = item;
                }
            })
            .or_insert(item);
    }
    Merged { events: events.into_values().collect(), rows: rows.into_values().collect(), repeated }
}

#[cfg(test)]
mod tests {
    use ledger_events::traffic::{Chance, Mix, Traffic};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In whatever order and however often events come: each once, of each row the newest.
        #[test]
        fn the_newest_wins_whatever_the_order(seed in any::<u64>(), count in 1usize..60) {
            let mut traffic = Traffic::new(seed, Mix { deletes: 0.1 });
            let mut events: Vec<Envelope> =
                (0..).map(|step| traffic.next(1_700_000_000_000 + step)).take(count).flatten().collect();
            let distinct = events.len();
            let mut newest: BTreeMap<(Entity, uuid::Uuid), i64> = BTreeMap::new();
            for event in &events {
                let version = newest.entry((event.change.entity(), event.change.id())).or_default();
                *version = event.version.max(*version);
            }
            let mut chance = Chance::new(seed);
            let again: Vec<Envelope> = events.iter().filter(|_| chance.share() < 0.2).cloned().collect();
            events.extend(again.iter().cloned());
            for position in (1..events.len()).rev() {
                events.swap(position, chance.below(position + 1));
            }
            let merged = merge(&events);
            prop_assert_eq!((merged.events.len(), merged.repeated), (distinct, again.len()));
            let rows: BTreeMap<_, _> = merged
                .rows
                .iter()
                .map(|row| ((row.change.entity(), row.change.id()), row.version))
                .collect();
            prop_assert_eq!(rows, newest);
            prop_assert!(merged.events.is_sorted_by_key(|event| event.event_id));
            prop_assert!(merged.rows.is_sorted_by_key(|row| (row.change.entity(), row.change.id())));
        }
    }
}
