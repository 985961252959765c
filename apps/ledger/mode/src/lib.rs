//! Makes the ledger's mode: reads the present states of all alarms, decides, and tells the parameter and the control
//! topic. One at a time, by the function's reserved concurrency.

use std::future::Future;

use ledger_events::{
    AlarmReading, AlarmState, ModeRecord,
    mode::{decide, renewed},
};
use serde_json::Value as Json;

/// Where the alarms are.
pub trait Alarms: Send + Sync {
    /// The states of the alarms of these names, as many as there are.
    ///
    /// # Errors
    ///
    /// Why they cannot be read.
    fn states(
        &self,
        names: &[String],
    ) -> impl Future<Output = anyhow::Result<Vec<(String, AlarmState)>>> + Send;
}

/// Where the mode is kept and told.
pub trait ModeStore: Send + Sync {
    /// The parameter's text, none where there is no parameter.
    ///
    /// # Errors
    ///
    /// Why it cannot be read.
    fn read(&self) -> impl Future<Output = anyhow::Result<Option<String>>> + Send;

    /// Replaces the parameter.
    ///
    /// # Errors
    ///
    /// When it was not replaced.
    fn write(&self, record: &ModeRecord) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Sends the record to the control topic, and waits until it is there.
    ///
    /// # Errors
    ///
    /// When it is not.
    fn send(&self, record: &ModeRecord) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// What an invocation is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// One of our alarms changed.
    Alarm(String),
    /// An alarm of somebody else changed.
    Foreign(String),
    /// It is time to look.
    Schedule,
}

impl Call {
    /// Reads an event of EventBridge. What is no alarm's event is an occasion to look as good as any.
    #[must_use]
    pub fn of(event: &Json, ours: &[String]) -> Self {
        let text = |pointer: &str| event.pointer(pointer).and_then(Json::as_str);
        if text("/detail-type") != Some("CloudWatch Alarm State Change") {
            return Call::Schedule;
        }
        let name = text("/detail/alarmName").unwrap_or_default().to_owned();
        if ours.contains(&name) { Call::Alarm(name) } else { Call::Foreign(name) }
    }
}

/// Handles an event: decides the mode of what all alarms say now, whichever of them the event is of, and tells it where
/// it changes. At each look on schedule it is told anew: what a failure kept from the topic comes then, and a parameter
/// that was put back to an older record replaces what the writers hold instead of being one that they take for late.
///
/// # Errors
///
/// When the alarms or the parameter cannot be reached. Lambda calls again then, and so does the schedule.
pub async fn handle<A: Alarms, S: ModeStore>(
    event: &Json,
    names: &[String],
    hold_ms: i64,
    now_ms: i64,
    alarms: &A,
    store: &S,
) -> anyhow::Result<Option<ModeRecord>> {
    let call = Call::of(event, names);
    match &call {
        Call::Foreign(alarm) => {
            tracing::warn!(alarm, "an alarm of somebody else: it does not count");
            return Ok(None);
        }
        Call::Alarm(alarm) => tracing::info!(alarm, "an alarm changed"),
        Call::Schedule => {}
    }
    let states = alarms.states(names).await?;
    let readings: Vec<AlarmReading> = names
        .iter()
        .map(|name| AlarmReading {
            alarm: name.clone(),
            // An alarm that is not there is not known.
            state: states
                .iter()
                .find(|(found, _)| found == name)
                .map_or(AlarmState::InsufficientData, |(_, state)| *state),
        })
        .collect();
    let text = store.read().await?;
    let previous = match text.as_deref().map(ModeRecord::parse) {
        None => {
            tracing::warn!("there is no mode parameter yet: it is made");
            None
        }
        Some(Ok(record)) => Some(record),
        Some(Err(error)) => {
            tracing::warn!(error, "the mode parameter is replaced");
            None
        }
    };
    let changed = decide(previous.as_ref(), &readings, now_ms, hold_ms);
    if let Some(next) = &changed {
        tracing::info!(
            mode = next.mode.as_str(),
            then = next.then.map(|relief| relief.mode.as_str()),
            version = next.version,
            alarm = next.alarm.as_deref(),
            "the mode"
        );
    }
    let anew = || previous.as_ref().filter(|_| call == Call::Schedule).map(|record| renewed(record, now_ms));
    let next = changed.or_else(anew);
    if let Some(next) = &next {
        store.write(next).await?;
        store.send(next).await?;
    }
    Ok(next.or(previous))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ledger_events::Mode;
    use serde_json::json;
    use worker_contract::ledger::MODE_INITIAL;

    use super::*;

    struct States(Vec<(&'static str, AlarmState)>);

    impl Alarms for States {
        async fn states(&self, _names: &[String]) -> anyhow::Result<Vec<(String, AlarmState)>> {
            Ok(self.0.iter().map(|(name, state)| ((*name).to_owned(), *state)).collect())
        }
    }

    #[derive(Default)]
    struct Store {
        parameter: Mutex<Option<String>>,
        sent: Mutex<Vec<ModeRecord>>,
        topic_is_away: bool,
    }

    impl ModeStore for Store {
        async fn read(&self) -> anyhow::Result<Option<String>> {
            Ok(self.parameter.lock().unwrap().clone())
        }
        async fn write(&self, record: &ModeRecord) -> anyhow::Result<()> {
            *self.parameter.lock().unwrap() = Some(record.to_text());
            Ok(())
        }
        async fn send(&self, record: &ModeRecord) -> anyhow::Result<()> {
            anyhow::ensure!(!self.topic_is_away, "the brokers are away");
            self.sent.lock().unwrap().push(record.clone());
            Ok(())
        }
    }

    fn names() -> Vec<String> {
        vec!["cpu".to_owned(), "pinned".to_owned()]
    }

    fn changed(alarm: &str) -> Json {
        json!({ "detail-type": "CloudWatch Alarm State Change", "detail": { "alarmName": alarm, "state": { "value": "OK" } } })
    }

    async fn look(event: &Json, states: &States, store: &Store, now: i64) -> anyhow::Result<Option<Mode>> {
        Ok(handle(event, &names(), 1000, now, states, store).await?.map(|record| record.at(now)))
    }

    const WELL: States = States(Vec::new());

    /// Defects 1 and 4: nobody wrote the parameter, and the last event won.
    #[tokio::test]
    async fn all_alarms_count_whichever_changed() {
        let store = Store::default();
        let states = States(vec![("cpu", AlarmState::Alarm), ("pinned", AlarmState::Ok)]);
        // It is the other alarm that became OK.
        let mode = look(&changed("pinned"), &states, &store, 5).await.unwrap();
        assert_eq!(mode, Some(Mode::Red));
        let stored = ModeRecord::parse(store.parameter.lock().unwrap().as_ref().unwrap()).unwrap();
        assert_eq!(stored.alarm.as_deref(), Some("cpu"));
        assert_eq!(*store.sent.lock().unwrap(), [stored], "the parameter and the topic say the same");
    }

    /// Defect 4: a rule matched every alarm of the account.
    #[tokio::test]
    async fn an_alarm_of_somebody_else_changes_nothing() {
        let store = Store::default();
        let states = States(vec![("cpu", AlarmState::Alarm)]);
        assert_eq!(look(&changed("theirs"), &states, &store, 5).await.unwrap(), None);
        assert!(store.parameter.lock().unwrap().is_none() && store.sent.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_a_deployment_left_is_replaced_and_an_unchanged_mode_is_told_anew_on_schedule_alone() {
        let store = Store::default();
        *store.parameter.lock().unwrap() = Some(MODE_INITIAL.to_owned());
        let well = States(vec![("cpu", AlarmState::Ok), ("pinned", AlarmState::Ok)]);
        assert_eq!(look(&json!({}), &well, &store, 5_000).await.unwrap(), Some(Mode::Yellow), "for the hold");
        let written = || ModeRecord::parse(store.parameter.lock().unwrap().as_ref().unwrap()).unwrap();
        let first = written();
        assert_eq!(look(&changed("cpu"), &well, &store, 5_500).await.unwrap(), Some(Mode::Yellow));
        assert_eq!(written(), first);
        assert_eq!(look(&json!({}), &well, &store, 5_600).await.unwrap(), Some(Mode::Yellow));
        assert!(written().says_the_same_as(&first) && written().version == 5_600);
        assert_eq!(look(&json!({}), &well, &store, 6_000).await.unwrap(), Some(Mode::Green));
        assert_eq!(store.sent.lock().unwrap().len(), 3, "each look on schedule tells the topic");
        *store.parameter.lock().unwrap() = Some("GREEN".to_owned());
        assert_eq!(look(&json!({}), &WELL, &store, 7_000).await.unwrap(), Some(Mode::Yellow), "unknown");
    }

    #[tokio::test]
    async fn a_topic_that_was_away_hears_of_the_mode_at_the_next_look() {
        let states = States(vec![("cpu", AlarmState::Alarm)]);
        let mut store = Store { topic_is_away: true, ..Store::default() };
        assert!(look(&changed("cpu"), &states, &store, 5).await.is_err());
        store.topic_is_away = false;
        look(&json!({}), &states, &store, 6).await.unwrap();
        assert_eq!(
            store.sent.lock().unwrap().iter().map(|record| record.mode).collect::<Vec<_>>(),
            [Mode::Red]
        );
    }

    #[test]
    fn what_a_deployment_puts_there_is_a_record_older_than_any() {
        let record = ModeRecord::parse(MODE_INITIAL).unwrap();
        assert_eq!((record.mode, record.version), (Mode::Yellow, 0));
        assert_eq!(record.to_text(), MODE_INITIAL);
    }
}
