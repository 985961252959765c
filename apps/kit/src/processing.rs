//! What happens to a batch: decoding, the effect, retries, bisection, dead letters.

use std::{
    future::Future,
    ops::Range,
    time::{Duration, Instant},
};

use crate::{
    batch::{Batch, Record},
    dead_letters::{DeadLetterSink, Rejection},
    retry::RetryPolicy,
};

/// A single try may take as long as the retry budget, and at least this long.
const TRY_MIN: Duration = Duration::from_secs(1);

/// What a worker does with its records.
pub trait BatchHandler: Send + Sync + 'static {
    /// A record that was understood.
    type Item: Send + Sync;

    /// Understands a record, or says why it never can. What is refused becomes a dead letter.
    ///
    /// # Errors
    ///
    /// The rejection.
    fn decode(&self, record: Record<'_>) -> Result<Self::Item, Rejection>;

    /// Brings about the effect of the items, all or none. It may be called again for items whose effect is
    /// already there (a crash, a rebalance), so the effect must be idempotent.
    ///
    /// # Errors
    ///
    /// See [`HandleError`].
    fn handle(&self, items: &[Self::Item]) -> impl Future<Output = Result<(), HandleError>> + Send;
}

/// Why the effect of some items did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandleError {
    /// It may do so later: the downstream is busy or away.
    Retriable(String),
    /// Some item is to blame: halves are tried until the culprits are found.
    Rejected(String),
    /// It never will, whatever the items.
    Fatal(String),
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Records whose effect is there.
    pub processed: usize,
    /// Records that are dead letters.
    pub dead_letters: usize,
    /// Times that something was tried again.
    pub retries: u32,
}

/// A batch that is neither processed nor dead-lettered: its offsets must not be committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProcessingError {
    /// The retry budget is used up.
    #[error("gave up after {tries} tries within the retry budget: {error}")]
    Exhausted {
        /// How often it was tried.
        tries: u32,
        /// The last error.
        error: String,
    },
    /// Trying again is of no use.
    #[error("{0}")]
    Fatal(String),
}

/// Chance and time, so that a test can hold them still.
pub trait Surroundings: Send + Sync + 'static {
    /// The time.
    fn now(&self) -> Instant;
    /// Uniform in 0..1.
    fn random(&self) -> f64;
    /// Waits.
    fn sleep(&self, wait: Duration) -> impl Future<Output = ()> + Send;
    /// Waits for something, but no longer than that.
    fn within<F: Future + Send>(
        &self,
        limit: Duration,
        future: F,
    ) -> impl Future<Output = Option<F::Output>> + Send;
}

/// The machine's clock and chance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl Surroundings for Machine {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn random(&self) -> f64 {
        rand::random()
    }

    async fn sleep(&self, wait: Duration) {
        tokio::time::sleep(wait).await;
    }

    async fn within<F: Future + Send>(&self, limit: Duration, future: F) -> Option<F::Output> {
        tokio::time::timeout(limit, future).await.ok()
    }
}

/// Processes a batch to its end: every record has its effect or is a dead letter, or an error says that the
/// batch must be read again.
///
/// # Errors
///
/// When the handler or the dead letters fail for longer than the retry budget, or for good.
pub async fn process<H: BatchHandler, S: DeadLetterSink, E: Surroundings>(
    batch: &Batch,
    handler: &H,
    sink: &S,
    policy: &RetryPolicy,
    surroundings: &E,
    mut on_dead_letter: impl FnMut(&Rejection) + Send,
) -> Result<Outcome, ProcessingError> {
    let mut outcome = Outcome::default();
    let mut items = Vec::with_capacity(batch.len());
    let mut positions = Vec::with_capacity(batch.len());
    let mut refused = Vec::new();
    for (position, record) in batch.iter().enumerate() {
        match handler.decode(record) {
            Ok(item) => {
                items.push(item);
                positions.push(position);
            }
            Err(rejection) => refused.push((position, rejection)),
        }
    }

    // Ranges of items still to do, the next one last: order is kept.
    let mut ranges: Vec<Range<usize>> = Vec::new();
    if !items.is_empty() {
        ranges.push(0..items.len());
    }
    while let Some(range) = ranges.pop() {
        let part = items.get(range.clone()).unwrap_or_default();
        match with_retries(policy, surroundings, &mut outcome.retries, || handler.handle(part)).await? {
            Ok(()) => outcome.processed += range.len(),
            Err(error) if range.len() == 1 => {
                if let Some(position) = positions.get(range.start) {
                    refused.push((*position, Rejection { cause: "rejected", error }));
                }
            }
            Err(_) => {
                let middle = range.start + range.len() / 2;
                ranges.push(middle..range.end);
                ranges.push(range.start..middle);
            }
        }
    }

    for (position, rejection) in &refused {
        let Some(record) = batch.get(*position) else { continue };
        with_retries(policy, surroundings, &mut outcome.retries, || async {
            sink.put(record, rejection)
                .await
                .map_err(|error| HandleError::Retriable(format!("the dead letter was not kept: {error}")))
        })
        .await?
        .map_err(ProcessingError::Fatal)?;
        on_dead_letter(rejection);
        outcome.dead_letters += 1;
    }
    Ok(outcome)
}

/// `Ok(Ok)` when done, `Ok(Err)` when the content is rejected.
async fn with_retries<E, F, R>(
    policy: &RetryPolicy,
    surroundings: &E,
    retries: &mut u32,
    mut attempt: F,
) -> Result<Result<(), String>, ProcessingError>
where
    E: Surroundings,
    F: FnMut() -> R,
    R: Future<Output = Result<(), HandleError>> + Send,
{
    let begun = surroundings.now();
    let mut tries = 0;
    loop {
        tries += 1;
        // A try that hangs would hold its partitions for good.
        let mut limit = policy.budget.max(TRY_MIN);
        if let Some(deadline) = policy.deadline {
            limit = limit.min(deadline.saturating_duration_since(surroundings.now()));
            if limit.is_zero() {
                let error = "the time is up".to_owned();
                return Err(ProcessingError::Exhausted { tries: tries - 1, error });
            }
        }
        let Some(result) = surroundings.within(limit, attempt()).await else {
            let error = format!("the last one did not end within {} s", limit.as_secs_f64());
            return Err(ProcessingError::Exhausted { tries, error });
        };
        match result {
            Ok(()) => return Ok(Ok(())),
            Err(HandleError::Rejected(error)) => return Ok(Err(error)),
            Err(HandleError::Fatal(error)) => return Err(ProcessingError::Fatal(error)),
            Err(HandleError::Retriable(error)) => {
                let elapsed = surroundings.now().duration_since(begun);
                let wait = policy.wait(tries, elapsed, surroundings.random()).filter(|wait| {
                    policy.deadline.is_none_or(|deadline| surroundings.now() + *wait < deadline)
                });
                match wait {
                    Some(wait) => {
                        *retries += 1;
                        surroundings.sleep(wait).await;
                    }
                    None => return Err(ProcessingError::Exhausted { tries, error }),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::{
            Mutex,
            atomic::{AtomicU64, Ordering},
        },
        task::Poll,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::batch::Origin;

    /// Virtual time: a sleep moves it.
    struct Still {
        start: Instant,
        slept_ms: AtomicU64,
    }

    impl Still {
        fn new() -> Self {
            Self { start: Instant::now(), slept_ms: AtomicU64::new(0) }
        }
    }

    impl Surroundings for Still {
        fn now(&self) -> Instant {
            self.start + Duration::from_millis(self.slept_ms.load(Ordering::Relaxed))
        }
        fn random(&self) -> f64 {
            1.0
        }
        async fn sleep(&self, wait: Duration) {
            let wait = u64::try_from(wait.as_millis()).unwrap();
            self.slept_ms.fetch_add(wait, Ordering::Relaxed);
        }
        /// Nothing here waits but what never ends.
        async fn within<F: Future + Send>(&self, limit: Duration, future: F) -> Option<F::Output> {
            let mut future = Box::pin(future);
            std::future::poll_fn(|context| match future.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending => {
                    let waited = u64::try_from(limit.as_millis()).unwrap();
                    self.slept_ms.fetch_add(waited, Ordering::Relaxed);
                    Poll::Ready(None)
                }
            })
            .await
        }
    }

    #[derive(Default)]
    struct Letters(Mutex<Vec<(i64, String)>>);

    impl DeadLetterSink for Letters {
        async fn put(&self, record: Record<'_>, rejection: &Rejection) -> Result<(), String> {
            self.0.lock().unwrap().push((record.origin.offset, rejection.cause.to_owned()));
            Ok(())
        }
    }

    /// Takes bytes as numbers: 255 is malformed; the poisonous ones are refused in any company.
    struct Bytes {
        poison: BTreeSet<u8>,
        effects: Mutex<Vec<u8>>,
        failures_before_success: AtomicU64,
        calls: AtomicU64,
    }

    impl Bytes {
        fn new(poison: impl IntoIterator<Item = u8>, failures: u64) -> Self {
            Self {
                poison: poison.into_iter().collect(),
                effects: Mutex::default(),
                failures_before_success: AtomicU64::new(failures),
                calls: AtomicU64::new(0),
            }
        }
    }

    impl BatchHandler for Bytes {
        type Item = u8;

        fn decode(&self, record: Record<'_>) -> Result<u8, Rejection> {
            match record.payload {
                Some([255]) | None => Err(Rejection { cause: "malformed", error: "255".to_owned() }),
                Some(payload) => Ok(payload[0]),
            }
        }

        async fn handle(&self, items: &[u8]) -> Result<(), HandleError> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            if self.failures_before_success.load(Ordering::Relaxed) > 0 {
                self.failures_before_success.fetch_sub(1, Ordering::Relaxed);
                return Err(HandleError::Retriable("busy".to_owned()));
            }
            if items.iter().any(|item| self.poison.contains(item)) {
                return Err(HandleError::Rejected("poison".to_owned()));
            }
            self.effects.lock().unwrap().extend_from_slice(items);
            Ok(())
        }
    }

    fn batch(values: &[u8]) -> Batch {
        let mut batch = Batch::default();
        for (offset, value) in values.iter().enumerate() {
            let origin = Origin { partition: 0, offset: i64::try_from(offset).unwrap(), timestamp_ms: None };
            batch.push(Record { origin, key: None, payload: Some(&[*value]) });
        }
        batch
    }

    fn run(
        values: &[u8],
        handler: &Bytes,
        letters: &Letters,
        budget: Duration,
    ) -> Result<Outcome, ProcessingError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let policy = RetryPolicy::within(budget);
        runtime.block_on(process(&batch(values), handler, letters, &policy, &Still::new(), |_| {}))
    }

    proptest! {
        /// Every record has its effect or is a dead letter, none both; effects come in order; the culprits
        /// are found in few calls.
        #[test]
        fn bisection_finds_the_culprits_and_nobody_else(
            values in proptest::collection::vec(any::<u8>(), 1..80), poison in proptest::collection::btree_set(0u8..=254, 0..4)
        ) {
            let handler = Bytes::new(poison.clone(), 0);
            let letters = Letters::default();
            let outcome = run(&values, &handler, &letters, Duration::from_secs(1)).unwrap();
            let good: Vec<u8> = values.iter().copied().filter(|v| *v != 255 && !poison.contains(v)).collect();
            prop_assert_eq!(&*handler.effects.lock().unwrap(), &good);
            prop_assert_eq!(outcome.processed, good.len());
            prop_assert_eq!(outcome.dead_letters, values.len() - good.len());
            let mut dead: Vec<i64> = letters.0.lock().unwrap().iter().map(|(offset, _)| *offset).collect();
            dead.sort_unstable();
            let expected: Vec<i64> = (0i64..)
                .zip(&values)
                .filter(|(_, v)| **v == 255 || poison.contains(v))
                .map(|(offset, _)| offset)
                .collect();
            prop_assert_eq!(dead, expected);
            let culprits = values.iter().filter(|v| poison.contains(v)).count();
            let depth = usize::try_from(values.len().next_power_of_two().ilog2()).unwrap() + 1;
            prop_assert!(handler.calls.load(Ordering::Relaxed) as usize <= 1 + 2 * culprits * depth);
        }
    }

    #[test]
    fn what_is_retriable_is_tried_until_it_succeeds() {
        let handler = Bytes::new([], 5);
        let outcome = run(&[1, 2, 3], &handler, &Letters::default(), Duration::from_secs(30)).unwrap();
        assert_eq!((outcome.processed, outcome.retries), (3, 5));
    }

    #[test]
    fn an_exhausted_budget_is_an_error_and_no_dead_letter() {
        let handler = Bytes::new([], u64::MAX);
        let letters = Letters::default();
        let error = run(&[1], &handler, &letters, Duration::from_secs(3)).unwrap_err();
        assert!(matches!(error, ProcessingError::Exhausted { .. }), "{error}");
        assert!(letters.0.lock().unwrap().is_empty());
    }

    struct Hangs;

    impl BatchHandler for Hangs {
        type Item = ();

        fn decode(&self, _record: Record<'_>) -> Result<(), Rejection> {
            Ok(())
        }

        async fn handle(&self, _items: &[()]) -> Result<(), HandleError> {
            std::future::pending().await
        }
    }

    #[test]
    fn a_deadline_bounds_all_tries_together() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let still = Still::new();
        // Each half of a bisected batch has the whole budget, but the deadline is everybody's.
        let deadline = still.start + Duration::from_secs(5);
        let policy = RetryPolicy::until(deadline, still.start);
        let handler = Bytes::new([], u64::MAX);
        let letters = Letters::default();
        let three = batch(&[1, 2, 3]);
        let run = process(&three, &handler, &letters, &policy, &still, |_| {});
        let error = runtime.block_on(run).unwrap_err();
        assert!(matches!(error, ProcessingError::Exhausted { .. }), "{error}");
        assert!(still.now() < deadline);
        let calls = handler.calls.load(Ordering::Relaxed);
        still.slept_ms.store(6_000, Ordering::Relaxed);
        let run = process(&three, &handler, &letters, &policy, &still, |_| {});
        let error = runtime.block_on(run).unwrap_err();
        assert!(error.to_string().contains("the time is up"), "{error}");
        assert_eq!(handler.calls.load(Ordering::Relaxed), calls, "nothing was begun after it");
        assert!(letters.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_handler_that_hangs_is_given_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let policy = RetryPolicy::within(Duration::from_secs(3));
        let (batch, letters, still) = (batch(&[1]), Letters::default(), Still::new());
        let run = process(&batch, &Hangs, &letters, &policy, &still, |_| {});
        let error = runtime.block_on(run).unwrap_err();
        assert!(error.to_string().contains("did not end within 3 s"), "{error}");
    }
}
