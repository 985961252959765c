//! One batch on its way through a function: retries, splits, giving up. Decides only; [`super::dispatch`] acts.
//!
//! What AWS documents, and is kept to here: a split does not consume a retry; throttles and errors of the service do not
//! either; records that are too old are given up before they are sent; a batch keeps its order, so its parts are
//! delivered one after the other.

use std::{collections::VecDeque, time::Duration};

use super::{
    record::{Position, Record},
    response::Report,
};

/// The largest payload of an invocation, in bytes (Lambda quotas: 6 MB, synchronous).
pub const PAYLOAD_BYTES: usize = 6 * 1024 * 1024;

/// What of the payload is the event around its records, at most.
pub const ENVELOPE_BYTES: usize = 4 * 1024;

/// The first wait before a retry, doubled with each failure, up to the longest. AWS does not document its own.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The same for throttles, errors of the service, and one that does not answer.
const BACK_OFF_UNHEARD: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// When a mapping tries again, and when it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Retries after the first invocation; `None` for ever.
    pub retries: Option<u32>,
    /// The age above which a record is given up; `None` for never.
    pub record_age: Option<Duration>,
    /// Whether a batch that fails is split.
    pub bisect: bool,
    /// What is read in answers.
    pub report: Report,
}

/// Why records were given up, in AWS's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `RetryAttemptsExhausted`.
    RetryAttemptsExhausted,
    /// `RecordAgeExceeded`.
    RecordAgeExceeded,
    /// `MaximumPayloadSizeExceeded`: a single record that fits no event.
    MaximumPayloadSizeExceeded,
}

impl Condition {
    /// As it stands in a failure record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::RetryAttemptsExhausted => "RetryAttemptsExhausted",
            Condition::RecordAgeExceeded => "RecordAgeExceeded",
            Condition::MaximumPayloadSizeExceeded => "MaximumPayloadSizeExceeded",
        }
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Invoke the function with [`Delivery::records`], then tell by [`Delivery::answered`] or [`Delivery::unheard`].
    Invoke,
    /// Nothing before this time, in milliseconds since 1970.
    Wait(i64),
    /// Tell the destination of [`Delivery::records`], then call [`Delivery::given_up`].
    GiveUp(Condition),
    /// Nothing: every record is done.
    Done,
}

/// A run of records that is delivered as one.
#[derive(Clone, Debug)]
struct Part {
    records: Vec<Record>,
    /// Failures that counted as attempts.
    failures: u32,
    /// Invocations that had these records.
    invocations: u32,
}

/// A batch under delivery.
#[derive(Clone, Debug)]
pub struct Delivery {
    policy: Policy,
    parts: VecDeque<Part>,
    /// Throttles and silences in a row.
    unheard: u32,
    not_before_ms: i64,
}

impl Delivery {
    /// Of a batch. The records of a partition or shard are in their order.
    #[must_use]
    pub fn new(records: Vec<Record>, policy: Policy) -> Self {
        let whole = Part { records, failures: 0, invocations: 0 };
        Self { policy, parts: VecDeque::from([whole]), unheard: 0, not_before_ms: i64::MIN }
    }

    /// The records that the next step is about.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        self.parts.front().map_or(&[], |part| &part.records)
    }

    /// How often these records were in an invocation.
    #[must_use]
    pub fn invocations(&self) -> u32 {
        self.parts.front().map_or(0, |part| part.invocations)
    }

    /// What to do at a time, in milliseconds since 1970.
    pub fn step(&mut self, now_ms: i64) -> Step {
        loop {
            let Some(part) = self.parts.front_mut() else { return Step::Done };
            if part.records.is_empty() {
                self.parts.pop_front();
                continue;
            }
            let is_old = |record: &Record| {
                self.policy.record_age.is_some_and(|age| {
                    now_ms.saturating_sub(record.timestamp_ms)
                        > i64::try_from(age.as_millis()).unwrap_or(i64::MAX)
                })
            };
            let old = part.records.iter().filter(|record| is_old(record)).count();
            if old == part.records.len() {
                return Step::GiveUp(Condition::RecordAgeExceeded);
            }
            if old > 0 {
                let live = part.records.iter().filter(|record| !is_old(record)).cloned().collect();
                part.records.retain(is_old);
                let live = Part { records: live, ..*part };
                self.parts.insert(1, live);
                continue;
            }
            if part.records.iter().map(Record::bytes).sum::<usize>() > PAYLOAD_BYTES - ENVELOPE_BYTES {
                if part.records.len() == 1 {
                    return Step::GiveUp(Condition::MaximumPayloadSizeExceeded);
                }
                self.halve();
                continue;
            }
            if self.policy.retries.is_some_and(|retries| part.failures > retries) {
                return Step::GiveUp(Condition::RetryAttemptsExhausted);
            }
            if now_ms < self.not_before_ms {
                return Step::Wait(self.not_before_ms);
            }
            return Step::Invoke;
        }
    }

    /// The function was invoked, and the records of these indices failed. The positions of the others are the answer:
    /// they are done.
    pub fn answered(
        &mut self,
        failed: &std::collections::BTreeSet<usize>,
        now_ms: i64,
    ) -> Vec<(std::sync::Arc<str>, Position)> {
        self.unheard = 0;
        let Some(part) = self.parts.front_mut() else { return Vec::new() };
        part.invocations += 1;
        let (mut done, mut left) = (Vec::new(), Vec::new());
        for (index, record) in std::mem::take(&mut part.records).into_iter().enumerate() {
            if failed.contains(&index) {
                left.push(record);
            } else {
                done.push((record.part, record.position));
            }
        }
        part.records = left;
        if part.records.is_empty() {
            self.parts.pop_front();
        } else if self.policy.bisect && done.is_empty() && part.records.len() > 1 {
            self.halve();
        } else if !self.policy.bisect || done.is_empty() {
            part.failures = part.failures.saturating_add(1);
            self.not_before_ms = now_ms.saturating_add(doubled(BACK_OFF, part.failures));
        }
        done
    }

    /// The function was not invoked: throttled, or the service did not answer well.
    pub fn unheard(&mut self, now_ms: i64) {
        self.unheard = self.unheard.saturating_add(1);
        self.not_before_ms = now_ms.saturating_add(doubled(BACK_OFF_UNHEARD, self.unheard));
    }

    /// The records of [`Delivery::records`] are given up, and their destination knows. Their positions are the
    /// answer.
    pub fn given_up(&mut self) -> Vec<(std::sync::Arc<str>, Position)> {
        let part = self.parts.pop_front();
        part.into_iter().flat_map(|part| part.records).map(|record| (record.part, record.position)).collect()
    }

    /// Splits the first part in two.
    fn halve(&mut self) {
        if let Some(part) = self.parts.front_mut() {
            let second = Part { records: part.records.split_off(part.records.len().div_ceil(2)), ..*part };
            self.parts.insert(1, second);
        }
    }
}

/// The wait after the n-th failure in a row, in milliseconds.
fn doubled((first, longest): (Duration, Duration), failures: u32) -> i64 {
    let factor = 2u32.saturating_pow(failures.saturating_sub(1).min(16));
    i64::try_from(first.saturating_mul(factor).min(longest).as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn batch(parts: &[usize]) -> Vec<Record> {
        let mut records = Vec::new();
        for (partition, count) in parts.iter().enumerate() {
            for offset in 0..*count {
                records.push(Record {
                    part: format!("trades-{partition}").into(),
                    position: Position::from(i64::try_from(offset).unwrap()),
                    timestamp_ms: 1_000,
                    key: None,
                    json: "{}".to_owned(),
                });
            }
        }
        records
    }

    fn policy(retries: u32, bisect: bool, report: Report) -> Policy {
        Policy { retries: Some(retries), record_age: None, bisect, report }
    }

    type Name = (std::sync::Arc<str>, i64);

    fn names(records: &[Record]) -> Vec<Name> {
        records.iter().map(|record| (record.part.clone(), record.position.offset().unwrap())).collect()
    }

    #[derive(Default, Debug)]
    struct Told {
        invocations: Vec<Vec<Name>>,
        done: Vec<Name>,
        given_up: Vec<(Condition, Vec<Name>)>,
    }

    /// Sees a batch through to its end; `function` gives the failed indices, or `None` for a throttle.
    fn run(mut delivery: Delivery, mut function: impl FnMut(&[Record]) -> Option<BTreeSet<usize>>) -> Told {
        let (mut told, mut now) = (Told::default(), 1_000);
        for _ in 0..100_000 {
            let records = names(delivery.records());
            let finished = match delivery.step(now) {
                Step::Done => return told,
                Step::Wait(until) => {
                    assert!(until > now);
                    now = until;
                    continue;
                }
                Step::GiveUp(condition) => {
                    told.given_up.push((condition, names(delivery.records())));
                    delivery.given_up();
                    continue;
                }
                Step::Invoke => match function(delivery.records()) {
                    None => {
                        delivery.unheard(now);
                        continue;
                    }
                    Some(failed) => {
                        told.invocations.push(records);
                        delivery.answered(&failed, now)
                    }
                },
            };
            told.done.extend(finished.into_iter().map(|(part, position)| (part, position.offset().unwrap())));
        }
        panic!("it does not end");
    }

    #[test]
    fn a_batch_that_fails_whole_is_tried_as_often_as_configured_and_given_up_as_one() {
        let told = run(Delivery::new(batch(&[3]), policy(2, false, Report::Whole)), |records| {
            Some((0..records.len()).collect())
        });
        assert_eq!(told.invocations.len(), 3);
        assert_eq!(told.given_up, [(Condition::RetryAttemptsExhausted, names(&batch(&[3])))]);
    }

    #[test]
    fn bisecting_finds_the_poison_alone_and_splits_cost_no_retry() {
        let poison = |record: &Record| record.position == Position::from(37);
        let told = run(Delivery::new(batch(&[100]), policy(1, true, Report::Whole)), |records| {
            Some(if records.iter().any(poison) { (0..records.len()).collect() } else { BTreeSet::new() })
        });
        assert_eq!(told.done.len(), 99);
        assert_eq!(told.given_up, [(Condition::RetryAttemptsExhausted, vec![("trades-0".into(), 37)])]);
        let alone = told.invocations.iter().filter(|records| records.len() == 1 && records[0].1 == 37);
        assert_eq!(alone.count(), 2, "one retry");
        assert!(told.invocations.len() <= 2 * 8 + 2, "{}", told.invocations.len());
    }

    #[test]
    fn throttles_are_no_attempts() {
        let mut throttles = 0;
        let told = run(Delivery::new(batch(&[2]), policy(0, false, Report::Whole)), |_| {
            throttles += 1;
            (throttles > 50).then(BTreeSet::new)
        });
        assert_eq!((told.done.len(), told.given_up.len()), (2, 0));
    }

    #[test]
    fn old_records_are_given_up_unsent_and_the_others_delivered() {
        let mut records = batch(&[4]);
        records[0].timestamp_ms = -100_000;
        records[2].timestamp_ms = -100_000;
        let age = Policy { record_age: Some(Duration::from_secs(60)), ..policy(0, false, Report::Whole) };
        let told = run(Delivery::new(records, age), |_| Some(BTreeSet::new()));
        let part = || std::sync::Arc::from("trades-0");
        assert_eq!(told.given_up, [(Condition::RecordAgeExceeded, vec![(part(), 0), (part(), 2)])]);
        assert_eq!(told.invocations, [vec![(part(), 1), (part(), 3)]]);
    }

    #[test]
    fn a_record_that_fits_no_event_is_given_up_and_does_not_hold_the_others() {
        let mut records = batch(&[3]);
        records[1].json = "x".repeat(PAYLOAD_BYTES);
        let told = run(Delivery::new(records, policy(0, false, Report::Whole)), |_| Some(BTreeSet::new()));
        assert_eq!(told.done.len(), 2);
        assert_eq!(told.given_up[0].0, Condition::MaximumPayloadSizeExceeded);
    }

    proptest! {
        /// Whatever a function answers, each record is done or given up, once; each partition's records come in
        /// their order; nobody is tried without bound.
        #[test]
        fn nothing_is_lost_or_reordered_and_retries_are_bounded(
            parts in proptest::collection::vec(0usize..12, 1..4),
            retries in 0u32..4,
            bisect: bool,
            report in prop_oneof![Just(Report::Whole), Just(Report::KafkaItems), Just(Report::StreamCheckpoint)],
            answers in proptest::collection::vec(proptest::option::weighted(0.8, any::<u16>()), 0..200),
        ) {
            let records = batch(&parts);
            let mut answers = answers.into_iter();
            let told = run(Delivery::new(records.clone(), policy(retries, bisect, report)), |records| {
                let mask = match answers.next() {
                    Some(answer) => answer?,
                    None => u16::MAX,
                };
                let named: BTreeSet<usize> =
                    (0..records.len()).filter(|index| mask & (1 << (index % 16)) != 0).collect();
                Some(match report {
                    Report::Whole if named.is_empty() => named,
                    Report::Whole => (0..records.len()).collect(),
                    Report::KafkaItems => named,
                    Report::StreamCheckpoint => {
                        named.first().map_or_else(BTreeSet::new, |lowest| (*lowest..records.len()).collect())
                    }
                })
            });
            let mut ended: Vec<Name> = told.done.clone();
            ended.extend(told.given_up.iter().flat_map(|(_, records)| records.clone()));
            ended.sort();
            prop_assert_eq!(ended, names(&records), "each record ends once");

            let mut tries: BTreeMap<Name, usize> = BTreeMap::new();
            let mut newest: BTreeMap<std::sync::Arc<str>, i64> = BTreeMap::new();
            for invocation in &told.invocations {
                let mut in_event: BTreeMap<std::sync::Arc<str>, i64> = BTreeMap::new();
                for (part, offset) in invocation {
                    prop_assert!(in_event.insert(part.clone(), *offset).is_none_or(|before| before < *offset));
                    let times = tries.entry((part.clone(), *offset)).or_default();
                    *times += 1;
                    if *times == 1 {
                        prop_assert!(newest.insert(part.clone(), *offset).is_none_or(|before| before < *offset));
                    }
                }
            }
            // Each try of a record counts, or makes the part with it smaller.
            let bound = records.len() + retries as usize + 1;
            prop_assert!(tries.values().all(|times| *times <= bound), "{:?}", tries);
        }
    }
}
