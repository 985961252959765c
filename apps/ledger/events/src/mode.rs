//! The mode: how hard the writers may press on the database. Made of the present states of all alarms, so that
//! one alarm's recovery cannot hide another's trouble.

use serde::{Deserialize, Serialize};

/// How hard the writers may press. A greater one is more severe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    /// As hard as they were sized for.
    Green,
    /// Carefully: the database's state is not known.
    Yellow,
    /// As little as possible.
    Red,
}

impl Mode {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Green => "GREEN",
            Mode::Yellow => "YELLOW",
            Mode::Red => "RED",
        }
    }
}

/// An alarm's state, as CloudWatch has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmState {
    /// Within its threshold.
    Ok,
    /// Not known.
    InsufficientData,
    /// Beyond its threshold.
    Alarm,
}

impl AlarmState {
    /// Reads CloudWatch's name. A name that it does not have today is not known either.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name {
            "OK" => AlarmState::Ok,
            "ALARM" => AlarmState::Alarm,
            _ => AlarmState::InsufficientData,
        }
    }

    /// The mode that this state alone asks for.
    #[must_use]
    pub fn severity(self) -> Mode {
        match self {
            AlarmState::Ok => Mode::Green,
            AlarmState::InsufficientData => Mode::Yellow,
            AlarmState::Alarm => Mode::Red,
        }
    }
}

/// What an alarm tells now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlarmReading {
    /// The alarm's name.
    pub alarm: String,
    /// Its state.
    pub state: AlarmState,
}

/// What the mode becomes by itself, unless a newer record says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relief {
    /// The milder mode.
    pub mode: Mode,
    /// From when on, in milliseconds since the epoch.
    pub at_ms: i64,
}

/// The mode as it is stored and sent.
///
/// A step down waits until the alarms have been calm for a while. No alarm changes at the end of that time, so
/// nobody would be called then: the record itself says what it becomes and when ([`Relief`]), and whoever reads
/// it finds the mode that holds at the moment ([`ModeRecord::at`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeRecord {
    /// The mode.
    pub mode: Mode,
    /// Orders records: a record with a lower one never replaces one with a higher one.
    pub version: i64,
    /// Since when this mode holds, in milliseconds since the epoch.
    pub since_ms: i64,
    /// The alarm to blame, if the mode is not GREEN.
    pub alarm: Option<String>,
    /// What the mode becomes by itself.
    pub then: Option<Relief>,
}

impl ModeRecord {
    /// Reads a record.
    ///
    /// # Errors
    ///
    /// Why the text is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("`{text:.200}` is no mode record: {error}"))
    }

    /// The record as text; the mode comes first.
    #[must_use]
    pub fn to_text(&self) -> String {
        // Plain fields always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The mode that holds at a time.
    #[must_use]
    pub fn at(&self, now_ms: i64) -> Mode {
        match self.then {
            Some(relief) if now_ms >= relief.at_ms => relief.mode,
            _ => self.mode,
        }
    }

    /// Whether another record says the same, whatever its version.
    #[must_use]
    pub fn says_the_same_as(&self, other: &ModeRecord) -> bool {
        Self { version: other.version, ..self.clone() } == *other
    }

    /// Since when the mode that holds at a time does so, in milliseconds since the epoch.
    #[must_use]
    pub fn since_at(&self, now_ms: i64) -> i64 {
        match self.then {
            Some(relief) if now_ms >= relief.at_ms => relief.at_ms,
            _ => self.since_ms,
        }
    }
}

/// What the alarms say together, and which of them is to blame: the most severe one, the first by name. No alarm
/// at all is not known.
#[must_use]
pub fn severity(readings: &[AlarmReading]) -> (Mode, Option<&str>) {
    readings
        .iter()
        .map(|reading| (reading.state.severity(), reading.alarm.as_str()))
        .reduce(
            |worst, next| {
                if next.0 > worst.0 || (next.0 == worst.0 && next.1 < worst.1) { next } else { worst }
            },
        )
        .map_or((Mode::Yellow, None), |(mode, alarm)| (mode, (mode != Mode::Green).then_some(alarm)))
}

/// The record that follows from what the alarms say now, or `None` when the one there is says so already.
///
/// A step up takes effect at once, a step down after the alarms have asked for no more than it for `hold_ms`:
/// an alarm that flaps holds the severe mode. The version grows, and is no less than the time: where the record
/// was lost, or put back by a deployment, the next one still replaces what the writers hold.
#[must_use]
pub fn decide(
    previous: Option<&ModeRecord>,
    readings: &[AlarmReading],
    now_ms: i64,
    hold_ms: i64,
) -> Option<ModeRecord> {
    let (wanted, alarm) = severity(readings);
    let alarm = alarm.map(str::to_owned);
    let version = previous.map_or(1, |record| record.version.saturating_add(1)).max(now_ms);
    let Some(previous) = previous else {
        return Some(ModeRecord { mode: wanted, version, since_ms: now_ms, alarm, then: None });
    };
    let present = previous.at(now_ms);
    let since_ms = previous.since_at(now_ms);
    let pending = previous.then.filter(|relief| now_ms < relief.at_ms);
    let next = if wanted > present {
        ModeRecord { mode: wanted, version, since_ms: now_ms, alarm, then: None }
    } else if wanted == present {
        ModeRecord { mode: present, version, since_ms, alarm, then: None }
    } else {
        let at_ms = match pending {
            // Calm goes on, or is a little less calm than before: it began when it did.
            Some(relief) if wanted >= relief.mode => relief.at_ms,
            _ => now_ms.saturating_add(hold_ms),
        };
        // The alarm that brought the mode is to blame until the mode is left.
        let alarm = previous.alarm.clone();
        ModeRecord { mode: present, version, since_ms, alarm, then: Some(Relief { mode: wanted, at_ms }) }
    };
    // Version 0 is what a deployment puts there before anybody has looked.
    (!next.says_the_same_as(previous) || previous.version == 0).then_some(next)
}

/// The same record, told anew: newer than whatever anybody holds. A parameter that was put back to an older record, or a
/// topic that missed one, is made good by it, also where the alarms say what that older one says.
#[must_use]
pub fn renewed(record: &ModeRecord, now_ms: i64) -> ModeRecord {
    ModeRecord { version: record.version.saturating_add(1).max(now_ms), ..record.clone() }
}

/// What became of a record that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is newer and is held now.
    Taken,
    /// It is the one that is held.
    Known,
    /// It is older than the one that is held, which stays.
    Late,
}

/// Holds the newest record that was seen, in whatever order they come.
#[derive(Clone, Debug, Default)]
pub struct ModeHolder {
    held: Option<ModeRecord>,
}

impl ModeHolder {
    /// Offers a record.
    pub fn offer(&mut self, record: ModeRecord) -> Offer {
        match &self.held {
            Some(held) if record.version < held.version => Offer::Late,
            Some(held) if record.version == held.version => Offer::Known,
            _ => {
                self.held = Some(record);
                Offer::Taken
            }
        }
    }

    /// The newest record.
    #[must_use]
    pub fn held(&self) -> Option<&ModeRecord> {
        self.held.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOLD_MS: i64 = 60_000;

    fn reading(alarm: &str, state: AlarmState) -> AlarmReading {
        AlarmReading { alarm: alarm.to_owned(), state }
    }

    fn states() -> impl Strategy<Value = AlarmState> {
        prop_oneof![Just(AlarmState::Ok), Just(AlarmState::InsufficientData), Just(AlarmState::Alarm)]
    }

    fn story() -> impl Strategy<Value = Vec<(i64, Vec<AlarmReading>)>> {
        let readings = (states(), states(), states())
            .prop_map(|(a, b, c)| vec![reading("cpu", a), reading("clients", b), reading("pinned", c)]);
        proptest::collection::vec((1i64..90_000, readings), 1..40).prop_map(|steps| {
            let mut now = 1_700_000_000_000;
            steps
                .into_iter()
                .map(|(wait, readings)| {
                    now += wait;
                    (now, readings)
                })
                .collect()
        })
    }

    proptest! {
        /// The mode is never milder than what the alarms say, and gets milder only after they have asked for no
        /// more for the whole of the hold.
        #[test]
        fn up_at_once_and_down_after_the_hold(story in story()) {
            let mut record: Option<ModeRecord> = None;
            let mut seen: Vec<(i64, Mode)> = Vec::new();
            for (now, readings) in story {
                let before = record.as_ref().map(|record| record.at(now));
                // What holds just before anybody looks again.
                if let (Some(mode), Some((first, _))) = (before, seen.first()) {
                    let since = now - HOLD_MS;
                    // The severity at a moment is what was seen last before it.
                    let at_least = seen
                        .iter()
                        .zip(seen.iter().skip(1).map(|(at, _)| *at).chain([i64::MAX]))
                        .filter(|((_, _), until)| *until > since)
                        .map(|((_, mode), _)| *mode)
                        .max();
                    if since >= *first {
                        prop_assert!(Some(mode) >= at_least, "{mode:?} {at_least:?}");
                    }
                }
                if let Some(next) = decide(record.as_ref(), &readings, now, HOLD_MS) {
                    prop_assert!(record.as_ref().is_none_or(|held| next.version > held.version));
                    prop_assert!(next.version >= now);
                    record = Some(next);
                }
                let (wanted, _) = severity(&readings);
                let mode = record.as_ref().unwrap().at(now);
                prop_assert!(mode >= wanted);
                prop_assert!(before.is_none_or(|before| mode == before.max(wanted)));
                seen.push((now, wanted));
                // Looking again changes nothing.
                prop_assert_eq!(decide(record.as_ref(), &readings, now, HOLD_MS), None);
            }
        }

        /// When the alarms stay as they are, the mode becomes what they say.
        #[test]
        fn the_mode_settles(story in story()) {
            let mut record: Option<ModeRecord> = None;
            let (mut last, mut wanted) = (0, Mode::Green);
            for (now, readings) in story {
                record = decide(record.as_ref(), &readings, now, HOLD_MS).or(record);
                (last, wanted) = (now, severity(&readings).0);
            }
            prop_assert_eq!(record.unwrap().at(last + HOLD_MS), wanted);
        }

        /// Defect 4, of the version that nobody compared: in whatever order records come, and however often, the newest is
        /// held.
        #[test]
        fn a_late_record_undoes_nothing(story in story(), order in any::<u64>()) {
            let mut records = Vec::new();
            for (now, readings) in story {
                records.extend(decide(records.last(), &readings, now, HOLD_MS));
            }
            let newest = records.last().cloned();
            let mut shuffled = records.clone();
            shuffled.extend(records.iter().take(3).cloned());
            let mut chance = crate::traffic::Chance::new(order);
            for position in (1..shuffled.len()).rev() {
                shuffled.swap(position, chance.below(position + 1));
            }
            let mut holder = ModeHolder::default();
            for record in shuffled {
                let held = holder.held().map_or(i64::MIN, |held| held.version);
                let expected = match record.version.cmp(&held) {
                    std::cmp::Ordering::Less => Offer::Late,
                    std::cmp::Ordering::Equal => Offer::Known,
                    std::cmp::Ordering::Greater => Offer::Taken,
                };
                prop_assert_eq!(holder.offer(record), expected);
            }
            prop_assert_eq!(holder.held(), newest.as_ref());
        }

        #[test]
        fn a_record_survives_its_text(story in story()) {
            let (now, readings) = story.first().unwrap();
            let record = decide(None, readings, *now, HOLD_MS).unwrap();
            prop_assert_eq!(ModeRecord::parse(&record.to_text()), Ok(record.clone()));
            let start = format!("{{\"mode\":\"{}\"", record.mode.as_str());
            prop_assert!(record.to_text().starts_with(&start));
        }
    }

    /// Defect 4: the last event won, so that OK of one alarm cleared the RED of another.
    #[test]
    fn an_alarm_that_recovers_does_not_clear_the_red_of_another() {
        let both = [reading("cpu", AlarmState::Alarm), reading("pinned", AlarmState::Alarm)];
        let red = decide(None, &both, 1_000, HOLD_MS).unwrap();
        let one = [reading("cpu", AlarmState::Alarm), reading("pinned", AlarmState::Ok)];
        let next = decide(Some(&red), &one, 2_000, HOLD_MS);
        assert_eq!(next, None, "still RED, still the CPU's");
        assert_eq!((red.at(i64::MAX), red.alarm.as_deref()), (Mode::Red, Some("cpu")));
    }

    #[test]
    fn an_alarm_that_flaps_every_five_seconds_holds_red_until_it_rests() {
        let mut record = None;
        for tick in 0..20 {
            let state = if tick % 2 == 0 { AlarmState::Alarm } else { AlarmState::Ok };
            let now = 1_000_000 + tick * 5_000;
            record = decide(record.as_ref(), &[reading("cpu", state)], now, HOLD_MS).or(record);
            assert_eq!(record.as_ref().unwrap().at(now + 4_999), Mode::Red);
        }
        let record = record.unwrap();
        let calm_since = 1_000_000 + 19 * 5_000;
        assert_eq!(record.since_ms, 1_000_000, "RED is one time, not ten");
        assert_eq!(record.at(calm_since + HOLD_MS - 1), Mode::Red);
        assert_eq!(record.at(calm_since + HOLD_MS), Mode::Green, "without anybody looking again");
        assert_eq!(record.since_at(calm_since + HOLD_MS), calm_since + HOLD_MS);
    }

    #[test]
    fn no_alarm_at_all_is_unknown_and_not_well() {
        assert_eq!(severity(&[]), (Mode::Yellow, None));
        assert_eq!(AlarmState::named("SOMETHING_NEW").severity(), Mode::Yellow);
    }

    #[test]
    fn a_record_that_a_deployment_put_back_is_replaced_by_a_newer_one_than_was_ever_held() {
        let held = decide(None, &[reading("cpu", AlarmState::Alarm)], 5_000, HOLD_MS).unwrap();
        let initial = ModeRecord { mode: Mode::Yellow, version: 0, since_ms: 0, alarm: None, then: None };
        let next = decide(Some(&initial), &[reading("cpu", AlarmState::InsufficientData)], 9_000, HOLD_MS);
        assert!(next.is_some_and(|next| next.version > held.version && next.mode == Mode::Yellow));
    }

    /// A writer holds RED; the parameter was put back to a GREEN of before, and now the alarms are well.
    #[test]
    fn a_record_that_is_told_anew_replaces_a_newer_one_than_the_parameter_had() {
        let well = [reading("cpu", AlarmState::Ok)];
        let old = ModeRecord { mode: Mode::Green, version: 5_000, since_ms: 5_000, alarm: None, then: None };
        assert_eq!(decide(Some(&old), &well, 20_000, HOLD_MS), None, "the parameter says so already");
        let mut holder = ModeHolder::default();
        let red = decide(None, &[reading("cpu", AlarmState::Alarm)], 10_000, HOLD_MS).unwrap();
        assert_eq!(holder.offer(red), Offer::Taken);
        assert_eq!(holder.offer(old.clone()), Offer::Late);
        let anew = renewed(&old, 20_000);
        assert!(anew.says_the_same_as(&old) && anew.version == 20_000);
        assert_eq!(holder.offer(anew), Offer::Taken);
        assert_eq!(holder.held().unwrap().at(20_000), Mode::Green);
    }

    #[test]
    fn what_is_no_record_says_so() {
        for text in ["", "GREEN", "{}", r#"{"mode":"BLUE","version":1,"since_ms":1}"#] {
            assert!(ModeRecord::parse(text).unwrap_err().contains("no mode record"), "{text}");
        }
    }
}
