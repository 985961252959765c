//! Which mode holds, as far as this writer can know.
//!
//! Each writer reads the parameter again when what it knows is older than a short time to live. The other way would be
//! a consumer of the control topic in each environment, assigned and not in a group. The parameter is chosen for
//! three reasons. Lambda freezes an environment between invocations: a consumer would come back with a dead
//! connection and an old mode, and would have to catch up before its first chunk, whereas a read is as new as it gets. A
//! consumer costs each environment a connection to the brokers, of which MSK with IAM takes few new ones a second.
//! And a cold start has one way to its mode, which is the same as a warm one's. The price is a read every two seconds
//! and writer; Parameter Store takes 40 a second.

use std::time::{Duration, Instant};

use ledger_events::{
    Mode, ModeRecord,
    mode::{ModeHolder, Offer},
};

/// How long a mode is gone by although nobody can read whether it still holds.
const TRUSTED_FOR: Duration = Duration::from_secs(60);

/// How much sooner than the time to live it may be read again, as a share: writers that started together do not
/// read together.
const JITTER: f64 = 0.25;

/// What is known of the mode.
#[derive(Debug)]
pub struct ModeWatch {
    ttl: Duration,
    holder: ModeHolder,
    due: Option<Instant>,
    read: Option<Instant>,
    doubt: Option<String>,
}

impl ModeWatch {
    /// Knows nothing yet: the mode is YELLOW until it is read.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, holder: ModeHolder::default(), due: None, read: None, doubt: None }
    }

    /// Whether the parameter is to be read before anything is written.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| now >= due)
    }

    /// Takes what was read: the parameter's text, none where there is no parameter, or why it could not be read.
    /// `random` is uniform in 0..1. Each outcome other than the mode that is known already has its log line.
    pub fn take(&mut self, outcome: Result<Option<String>, String>, now: Instant, random: f64) {
        self.due = Some(now + self.ttl.mul_f64(1.0 - JITTER * random.clamp(0.0, 1.0)));
        let doubt = match outcome {
            Err(error) => {
                tracing::warn!(error, "the mode cannot be read");
                // What was read lately is gone by for a while.
                return;
            }
            Ok(None) => Some("there is no mode parameter".to_owned()),
            Ok(Some(text)) => match ModeRecord::parse(&text) {
                Err(error) => Some(error),
                Ok(record) => {
                    self.offer(record);
                    None
                }
            },
        };
        self.read = Some(now);
        if let Some(doubt) = &doubt {
            tracing::warn!(doubt, "the mode is not known: no milder than YELLOW");
        }
        self.doubt = doubt;
    }

    fn offer(&mut self, record: ModeRecord) {
        let (mode, version, alarm) = (record.mode, record.version, record.alarm.clone());
        let held = self.holder.held().map(|held| held.version);
        let told_anew = self.holder.held().is_some_and(|held| held.says_the_same_as(&record));
        match self.holder.offer(record) {
            Offer::Taken if told_anew => {}
            Offer::Taken => {
                tracing::info!(mode = mode.as_str(), version, alarm = alarm.as_deref(), "the mode");
            }
            Offer::Late => {
                tracing::warn!(version, held, "an older mode than the one that is held: it changes nothing");
            }
            Offer::Known => {}
        }
    }

    /// The mode that holds: what was read, or no milder than YELLOW where it is in doubt or too long ago.
    #[must_use]
    pub fn mode(&self, now: Instant, unix_ms: i64) -> Mode {
        let Some(held) = self.holder.held() else { return Mode::Yellow };
        let mode = held.at(unix_ms);
        let fresh = self.read.is_some_and(|read| now.saturating_duration_since(read) < TRUSTED_FOR);
        if self.doubt.is_some() || !fresh { mode.max(Mode::Yellow) } else { mode }
    }

    /// The newest record that was read.
    #[must_use]
    pub fn held(&self) -> Option<&ModeRecord> {
        self.holder.held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn text(mode: Mode, version: i64) -> Result<Option<String>, String> {
        let record = ModeRecord { mode, version, since_ms: 0, alarm: None, then: None };
        Ok(Some(record.to_text()))
    }

    fn watch(outcomes: Vec<Result<Option<String>, String>>) -> (ModeWatch, Instant) {
        let now = Instant::now();
        let mut watch = ModeWatch::new(Duration::from_secs(2));
        for outcome in outcomes {
            watch.take(outcome, now, 0.5);
        }
        (watch, now)
    }

    #[test]
    fn each_outcome_is_defined() {
        let away = || Err("time-out".to_owned());
        for (outcomes, expected) in [
            (vec![], Mode::Yellow),
            (vec![text(Mode::Red, 1)], Mode::Red),
            (vec![text(Mode::Green, 1)], Mode::Green),
            (vec![Ok(None)], Mode::Yellow),
            (vec![text(Mode::Green, 1), Ok(None)], Mode::Yellow),
            (vec![text(Mode::Red, 1), Ok(None)], Mode::Red),
            (vec![Ok(Some("GREEN".to_owned()))], Mode::Yellow),
            (vec![text(Mode::Green, 1), Ok(Some("{\"mode\":\"BLUE\"}".to_owned()))], Mode::Yellow),
            (vec![Ok(None), text(Mode::Green, 1)], Mode::Green),
            (vec![away()], Mode::Yellow),
            (vec![text(Mode::Green, 1), away()], Mode::Green),
            // The older one changes nothing, whichever way.
            (vec![text(Mode::Red, 2), text(Mode::Green, 1)], Mode::Red),
            (vec![text(Mode::Green, 2), text(Mode::Red, 1)], Mode::Green),
        ] {
            let (watch, now) = watch(outcomes.clone());
            assert_eq!(watch.mode(now, NOW_MS), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn a_mode_that_nobody_can_confirm_is_trusted_for_a_minute() {
        let (mut watch, now) = watch(vec![text(Mode::Green, 1)]);
        let later = now + Duration::from_secs(59);
        watch.take(Err("time-out".to_owned()), later, 0.0);
        assert_eq!(watch.mode(later, NOW_MS), Mode::Green);
        assert_eq!(watch.mode(now + TRUSTED_FOR, NOW_MS), Mode::Yellow);
    }

    /// A cold start must read before its first chunk, and a warm one within five seconds.
    #[test]
    fn it_is_read_before_the_first_chunk_and_every_two_seconds() {
        let (mut watch, now) = watch(vec![]);
        assert!(watch.is_due(now));
        watch.take(text(Mode::Green, 1), now, 1.0);
        assert!(!watch.is_due(now + Duration::from_millis(1499)));
        assert!(watch.is_due(now + Duration::from_secs(2)));
    }
}
