//! What the consumers say that they wrote, and whether it adds up: nothing lost, what was written twice, and the order.

use std::collections::BTreeMap;

use serde_json::Value as Json;

/// A written batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Who wrote it.
    pub(super) consumer: String,
    /// When, in milliseconds since 1970.
    pub(super) at_ms: u64,
    /// Partition, first and last offset of each run of offsets.
    pub(super) runs: Vec<(u32, u64, u64)>,
    /// How old each record was, in milliseconds.
    pub(super) ages_ms: Vec<u64>,
}

impl Batch {
    /// Reads a line of a consumer's log; nothing where it tells no batch.
    pub(super) fn parse(consumer: &str, line: &str) -> Option<Self> {
        let json: Json = serde_json::from_str(line).ok()?;
        let text = |key: &str| json.get(key).and_then(Json::as_str);
        if text("message") != Some("batch written") {
            return None;
        }
        let run = |run: &str| {
            let (partition, offsets) = run.split_once(':')?;
            let (first, last) = offsets.split_once('-')?;
            Some((partition.parse().ok()?, first.parse().ok()?, last.parse().ok()?))
        };
        Some(Self {
            consumer: consumer.to_owned(),
            at_ms: json.get("at_ms")?.as_u64()?,
            runs: text("offsets")?.split_whitespace().map(run).collect::<Option<_>>()?,
            ages_ms: text("ages_ms")?.split_whitespace().filter_map(|age| age.parse().ok()).collect(),
        })
    }
}

/// What the batches add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Records written, as often as they were.
    pub(super) processed: u64,
    /// Records written at least once.
    pub(super) distinct: u64,
    /// Records written again.
    pub(super) duplicates: u64,
    /// Records that were first written after a later one of their partition.
    pub(super) out_of_order: u64,
    /// Partitions that went from one consumer to another.
    pub(super) moves: u64,
}

/// Counts. Batches of one consumer are in the order of its log.
pub(super) fn count(batches: &[Batch]) -> Count {
    let mut sorted: Vec<&Batch> = batches.iter().collect();
    // Stable: what a consumer wrote within one millisecond stays in its order.
    sorted.sort_by_key(|batch| batch.at_ms);
    let mut count = Count::default();
    let mut written: BTreeMap<u32, Written> = BTreeMap::new();
    for batch in sorted {
        for (partition, first, last) in &batch.runs {
            let partition = written.entry(*partition).or_default();
            if partition.by.as_ref().is_some_and(|by| *by != batch.consumer) {
                count.moves += 1;
            }
            partition.by = Some(batch.consumer.clone());
            for offset in *first..=*last {
                count.processed += 1;
                if !partition.add(offset) {
                    count.duplicates += 1;
                    continue;
                }
                count.distinct += 1;
                count.out_of_order += u64::from(partition.highest.is_some_and(|highest| offset < highest));
                partition.highest = partition.highest.max(Some(offset));
            }
        }
    }
    count
}

/// What was written of a partition.
#[derive(Debug, Default)]
struct Written {
    by: Option<String>,
    highest: Option<u64>,
    /// First to last, runs that do not touch.
    runs: BTreeMap<u64, u64>,
}

impl Written {
    /// Adds an offset; whether it is new.
    fn add(&mut self, offset: u64) -> bool {
        let before = self.runs.range(..=offset).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| offset <= last) {
            return false;
        }
        let first = before.filter(|(_, last)| last + 1 == offset).map_or(offset, |(first, _)| first);
        let last = self.runs.remove(&(offset + 1)).unwrap_or(offset);
        self.runs.insert(first, last);
        true
    }
}

/// The age that so many per cent of the records did not exceed, in seconds; nothing without records.
pub(super) fn percentile<'a>(batches: impl Iterator<Item = &'a Batch>, percent: f64) -> Option<f64> {
    let mut ages: Vec<u64> = batches.flat_map(|batch| &batch.ages_ms).copied().collect();
    ages.sort_unstable();
    let place = (ages.len() as f64 * percent / 100.0).ceil().max(1.0) as usize - 1;
    ages.get(place).map(|age| *age as f64 / 1000.0)
}

/// A consumer gives partitions up, or takes them over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handover {
    /// When, in milliseconds since 1970.
    pub(super) at_ms: u64,
    /// Whether it takes them over.
    pub(super) takes: bool,
    pub(super) partitions: Vec<u32>,
}

impl Handover {
    /// Reads a line of a consumer's log; nothing where it tells no such thing.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let json: Json = serde_json::from_str(line).ok()?;
        let text = |key: &str| json.get(key).and_then(Json::as_str);
        let takes = match text("message")? {
            "partitions taken over" => true,
            "partitions given up" => false,
            _ => return None,
        };
        let partitions = text("partitions")?.trim_matches(['[', ']']);
        let numbers = partitions.split(',').map(str::trim).filter(|text| !text.is_empty());
        Some(Self {
            at_ms: milliseconds(text("timestamp")?)?,
            takes,
            partitions: numbers.map(|text| text.parse().ok()).collect::<Option<_>>()?,
        })
    }
}

/// A time such as `2026-01-31T12:00:00.123456Z`, in milliseconds since 1970.
fn milliseconds(timestamp: &str) -> Option<u64> {
    let (date, time) = timestamp.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':').map(|part| part.parse::<f64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if year < 1970 || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    // Days of the civil calendar, with years that begin in March.
    let (shifted, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + (153 * from_march + 2) / 5 + day;
    let days = days.checked_sub(719_469)?;
    Some(days * 86_400_000 + ((hour * 3600.0 + minute * 60.0 + second) * 1000.0).round() as u64)
}

/// How long partitions had no consumer, in seconds: from one that gave them up to the next that took them over.
pub(super) fn standstills(handovers: &[Handover]) -> Vec<f64> {
    let mut sorted: Vec<&Handover> = handovers.iter().collect();
    sorted.sort_by_key(|handover| (handover.at_ms, handover.takes));
    let mut given_up: BTreeMap<u32, u64> = BTreeMap::new();
    let mut found = Vec::new();
    for handover in sorted {
        for partition in &handover.partitions {
            if !handover.takes {
                given_up.insert(*partition, handover.at_ms);
            } else if let Some(since) = given_up.remove(partition) {
                found.push((handover.at_ms - since) as f64 / 1000.0);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(consumer: &str, at_ms: u64, offsets: &str, ages: &str) -> Batch {
        let line = format!(
            r#"{{"timestamp":"x","level":"DEBUG","message":"batch written","trades":2,"at_ms":{at_ms},"offsets":"{offsets}","ages_ms":"{ages}"}}"#
        );
        Batch::parse(consumer, &line).unwrap()
    }

    #[test]
    fn a_line_of_the_log_is_read_and_others_are_passed_over() {
        let read = batch("c-1", 1700, "3:10-12 4:7-7", "5 6 7 -");
        assert_eq!(read.runs, [(3, 10, 12), (4, 7, 7)]);
        assert_eq!(read.ages_ms, [5, 6, 7]);
        for other in ["", "{", r#"{"message":"consuming"}"#, r#"{"message":"batch written","at_ms":1}"#] {
            assert_eq!(Batch::parse("c", other), None, "{other}");
        }
    }

    #[test]
    fn what_is_written_twice_or_too_late_is_counted() {
        let one =
            [batch("a", 1, "0:0-9 1:0-4", "1"), batch("b", 3, "0:10-19", "1"), batch("a", 2, "1:5-9", "1")];
        let told = count(&one);
        assert_eq!(told, Count { processed: 30, distinct: 30, duplicates: 0, out_of_order: 0, moves: 1 });
        let again = [one.as_slice(), &[batch("b", 4, "0:15-21", "1")]].concat();
        assert_eq!((count(&again).processed, count(&again).duplicates), (37, 5));
        let late = [batch("a", 1, "0:5-9", "1"), batch("b", 2, "0:0-4", "1"), batch("b", 3, "0:10-10", "1")];
        assert_eq!(count(&late).out_of_order, 5);
        assert_eq!(count(&late).distinct, 11);
    }

    #[test]
    fn ages_are_measured() {
        let batches = [batch("a", 1000, "0:0-0 1:0-0", "10 20"), batch("b", 3000, "0:1-1", "2500")];
        assert_eq!(percentile(batches.iter(), 50.0), Some(0.02));
        assert_eq!(percentile(batches.iter(), 100.0), Some(2.5));
        assert_eq!(percentile(std::iter::empty(), 50.0), None);
    }

    #[test]
    fn partitions_without_a_consumer_are_measured() {
        let line = |message: &str, seconds: &str, partitions: &str| {
            format!(
                r#"{{"timestamp":"2026-11-21T12:04:{seconds}Z","message":"{message}","partitions":"{partitions}","lost":false}}"#
            )
        };
        let lines = [
            line("partitions taken over", "09.000000", "[0, 1, 2]"),
            line("partitions given up", "59.889829", "[0, 1]"),
            line("partitions taken over", "59.900000", "[]"),
            line("consuming", "59.950000", "[1]"),
            line("partitions taken over", "60.625461", "[1]"),
        ];
        let handovers: Vec<Handover> = lines.iter().filter_map(|line| Handover::parse(line)).collect();
        assert_eq!(handovers.len(), 4);
        assert_eq!(standstills(&handovers), [0.735]);
        assert_eq!(milliseconds("1970-01-01T00:00:00.5Z"), Some(500));
        assert_eq!(milliseconds("2024-02-29T23:59:59.999999Z"), Some(1_709_251_200_000));
        assert_eq!(milliseconds("2026-11-21T12:00:00Z"), Some(1_795_262_400_000));
        for wrong in ["", "2026-11-21", "2026-13-01T00:00:00Z", "x-y-zT0:0:0Z"] {
            assert_eq!(milliseconds(wrong), None, "{wrong}");
        }
    }
}
