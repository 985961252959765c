//! What SNS brings when an alarm changes its state.

use serde::Deserialize;

/// What SNS calls a function with.
#[derive(Debug, Deserialize)]
pub struct Notification {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Debug, Deserialize)]
struct Record {
    #[serde(rename = "Sns")]
    sns: Sns,
}

#[derive(Debug, Deserialize)]
struct Sns {
    #[serde(rename = "Message")]
    message: String,
}

/// An alarm's change of state.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StateChange {
    /// The alarm's name.
    #[serde(rename = "AlarmName")]
    pub alarm: String,
    /// The state that it has now.
    #[serde(rename = "NewStateValue")]
    pub state: State,
    /// CloudWatch's reason.
    #[serde(rename = "NewStateReason", default)]
    pub reason: String,
}

/// An alarm's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum State {
    /// What it watches for is not there.
    #[serde(rename = "OK")]
    Ok,
    /// It is there.
    #[serde(rename = "ALARM")]
    Alarm,
    /// Nobody knows.
    #[serde(rename = "INSUFFICIENT_DATA")]
    InsufficientData,
}

impl Notification {
    /// The changes of state that it tells of.
    ///
    /// # Errors
    ///
    /// When a message is not one of CloudWatch's.
    pub fn changes(&self) -> Result<Vec<StateChange>, serde_json::Error> {
        self.records.iter().map(|record| serde_json::from_str(&record.sns.message)).collect()
    }
}
