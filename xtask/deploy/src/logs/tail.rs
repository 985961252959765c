//! What of a log was shown already. Pure: who reads the log asks from where to read, and hands over what it read.

use std::collections::BTreeMap;

/// How much later than others an event may come and still be shown, in milliseconds: CloudWatch Logs takes them in
/// batches, of many writers, each with the time at which it was written.
const LATE_MS: i64 = 10_000;

/// An event of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it was written, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The writer's stream.
    pub stream: String,
    /// What tells it from all others; empty where nobody says.
    pub id: String,
    /// What was written.
    pub message: String,
}

/// What tells an event from others: its id, or the how manieth of its like it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Id(String),
    Like { stream: String, timestamp_ms: i64, message: String, number: usize },
}

/// How far a log was shown. What is remembered is what was written in the last ten seconds before the newest event.
#[derive(Clone, Debug)]
pub struct Tail {
    from_ms: i64,
    newest_ms: i64,
    seen: BTreeMap<Key, i64>,
    alike: BTreeMap<(String, i64, String), usize>,
}

impl Tail {
    /// Of a log from a time on, in milliseconds since 1970.
    #[must_use]
    pub fn new(from_ms: i64) -> Self {
        Self { from_ms, newest_ms: from_ms, seen: BTreeMap::new(), alike: BTreeMap::new() }
    }

    /// Begins to read the log once more, from the time that this gives, in milliseconds since 1970, through all pages.
    pub fn begin(&mut self) -> i64 {
        self.alike.clear();
        self.from_ms = self.from_ms.max(self.newest_ms.saturating_sub(LATE_MS));
        let from_ms = self.from_ms;
        self.seen.retain(|_, timestamp_ms| *timestamp_ms >= from_ms);
        from_ms
    }

    /// The events of a page that were not shown yet, the oldest first.
    pub fn take(&mut self, page: Vec<Event>) -> Vec<Event> {
        let mut fresh = Vec::new();
        for event in page {
            let key = if event.id.is_empty() {
                let like = (event.stream.clone(), event.timestamp_ms, event.message.clone());
                let number = self.alike.entry(like).or_default();
                *number += 1;
                Key::Like {
                    stream: event.stream.clone(),
                    timestamp_ms: event.timestamp_ms,
                    message: event.message.clone(),
                    number: *number,
                }
            } else {
                Key::Id(event.id.clone())
            };
            self.newest_ms = self.newest_ms.max(event.timestamp_ms);
            if self.seen.insert(key, event.timestamp_ms).is_none() {
                fresh.push(event);
            }
        }
        fresh.sort_by_key(|event| event.timestamp_ms);
        fresh
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(timestamp_ms: i64, id: &str, message: &str) -> Event {
        Event { timestamp_ms, stream: "s".to_owned(), id: id.to_owned(), message: message.to_owned() }
    }

    #[test]
    fn what_is_read_again_is_shown_once_and_what_comes_late_is_shown() {
        let mut tail = Tail::new(1000);
        assert_eq!(tail.begin(), 1000);
        assert_eq!(tail.take(vec![event(20_000, "b", "x"), event(19_000, "a", "x")]).len(), 2);
        assert_eq!(tail.begin(), 10_000);
        let again =
            tail.take(vec![event(15_000, "late", "x"), event(19_000, "a", "x"), event(20_000, "b", "x")]);
        assert_eq!(again.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["late"]);
    }

    #[test]
    fn alike_events_without_ids_are_counted() {
        let mut tail = Tail::new(0);
        tail.begin();
        assert_eq!(tail.take(vec![event(5, "", "x"), event(5, "", "x")]).len(), 2);
        tail.begin();
        assert_eq!(tail.take(vec![event(5, "", "x"), event(5, "", "x"), event(5, "", "x")]).len(), 1);
    }

    proptest! {
        /// A log that grows, and is read at any times in pages of any size, is shown whole and once.
        #[test]
        fn nothing_is_shown_twice_and_nothing_is_left_out(
            log in proptest::collection::vec((0i64..3, 0i64..LATE_MS, any::<bool>(), 0u8..3), 0..60),
            reads in proptest::collection::vec(0usize..60, 1..8),
            page in 1usize..7,
        ) {
            // Each is written a while after the one before, and some of them late, within what is waited for.
            let mut now = 100_000;
            let log: Vec<Event> = log.iter().enumerate().map(|(at, (step, late, has_id, text))| {
                now += step;
                let id = if *has_id { at.to_string() } else { String::new() };
                event(now - late, &id, &text.to_string())
            }).collect();
            let mut ends: Vec<usize> = reads.into_iter().map(|end| end.min(log.len())).collect();
            ends.sort_unstable();
            ends.push(log.len());
            let mut tail = Tail::new(0);
            let mut shown = Vec::new();
            for end in ends {
                let from = tail.begin();
                let mut there: Vec<Event> =
                    log[..end].iter().filter(|event| event.timestamp_ms >= from).cloned().collect();
                there.sort_by_key(|event| event.timestamp_ms);
                for page in there.chunks(page) {
                    shown.extend(tail.take(page.to_vec()));
                }
            }
            let order = |event: &Event| (event.timestamp_ms, event.id.clone(), event.message.clone());
            let mut log = log;
            log.sort_by_key(order);
            shown.sort_by_key(order);
            prop_assert_eq!(shown, log);
        }
    }
}
