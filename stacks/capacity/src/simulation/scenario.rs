//! What happens to the system, as a scenario file tells it.

use serde::Deserialize;

use crate::figure::CapacityError;

/// The scenarios that come with the project: name and file.
pub const BUILT_IN: [(&str, &str); 6] = [
    ("spike", include_str!("../../scenarios/spike.toml")),
    ("sawtooth", include_str!("../../scenarios/sawtooth.toml")),
    ("slow-start", include_str!("../../scenarios/slow-start.toml")),
    ("poison-storm", include_str!("../../scenarios/poison-storm.toml")),
    ("lost-zone", include_str!("../../scenarios/lost-zone.toml")),
    ("demo", include_str!("../../scenarios/demo.toml")),
];

/// The longest run, in seconds.
const SECONDS_MAX: u64 = 24 * 3600;

/// The unit of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum LoadUnit {
    /// Messages per second.
    #[default]
    #[serde(rename = "messages/s")]
    MessagesPerSecond,
    /// Parts of the environment's peak.
    #[serde(rename = "peak")]
    Peak,
}

/// A part of the load over time.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// How long it lasts.
    pub seconds: u32,
    /// The rate, at its beginning.
    pub rate: f64,
    /// The rate at its end, where it changes steadily.
    pub to: Option<f64>,
}

/// A time in which some messages cannot be written, so that their batches are bisected.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Poison {
    /// When it begins.
    pub at_seconds: u32,
    /// How long it lasts.
    pub seconds: u32,
    /// The part of the messages, 0 to 1.
    pub share: f64,
}

/// The consumers of one zone end without a word.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LostZone {
    /// When.
    pub at_seconds: u32,
    /// How many zones there are before, at least 2.
    pub zones: u32,
    /// Until their replacements have a node to start on.
    pub node_seconds: u32,
}

/// How partitions go from consumer to consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rebalance {
    /// Only those that move stand still.
    #[default]
    Cooperative,
    /// All stand still.
    Eager,
}

/// A scenario.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is about, in a sentence.
    pub description: String,
    /// The unit of the load.
    #[serde(default)]
    pub unit: LoadUnit,
    /// The load, phase by phase.
    pub load: Vec<Phase>,
    /// How often the phases are gone through.
    #[serde(default = "once")]
    pub repeat: u32,
    /// The part of the messages that have one key, and so one partition.
    #[serde(default)]
    pub hot_key_share: f64,
    /// From a new replica to its place in the group.
    #[serde(default = "startup_seconds")]
    pub startup_seconds: f64,
    /// How long partitions stand still when they move.
    #[serde(default = "rebalance_seconds")]
    pub rebalance_seconds: f64,
    /// Which partitions stand still.
    #[serde(default)]
    pub rebalance: Rebalance,
    /// Until the group misses a consumer that ended without a word.
    #[serde(default = "session_timeout_seconds")]
    pub session_timeout_seconds: f64,
    /// The window over which the arrival rate is measured.
    #[serde(default = "rate_window_seconds")]
    pub rate_window_seconds: u32,
    /// How old that measure is when the scaler reads it.
    #[serde(default = "rate_delay_seconds")]
    pub rate_delay_seconds: u32,
    /// Times of bad messages.
    #[serde(default)]
    pub poison: Vec<Poison>,
    /// A zone that is lost.
    pub lost_zone: Option<LostZone>,
}

fn once() -> u32 {
    1
}

fn startup_seconds() -> f64 {
    20.0
}

fn rebalance_seconds() -> f64 {
    3.0
}

/// The worker kit's session timeout.
fn session_timeout_seconds() -> f64 {
    10.0
}

fn rate_window_seconds() -> u32 {
    60
}

fn rate_delay_seconds() -> u32 {
    15
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    ///
    /// When it is not one, with line and key, or what it says cannot be run.
    pub fn parse(text: &str) -> Result<Self, CapacityError> {
        let scenario: Self =
            toml::from_str(text).map_err(|error| CapacityError::new(error.to_string().trim()))?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The scenario of that name that comes with the project.
    ///
    /// # Errors
    ///
    /// When there is none, with those that there are.
    pub fn built_in(name: &str) -> Result<Self, CapacityError> {
        match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Self::parse(text),
            None => {
                let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                Err(CapacityError::new(format!(
                    "there is no scenario `{name}`; take {} or a file",
                    names.join(", ")
                )))
            }
        }
    }

    /// Checks what cannot be run.
    ///
    /// # Errors
    ///
    /// With the key and its bounds.
    pub fn check(&self) -> Result<(), CapacityError> {
        let refused = |what: String| Err(CapacityError::new(what));
        if self.load.is_empty() || self.repeat == 0 {
            return refused("load: a scenario has at least one phase, gone through at least once".to_owned());
        }
        let rates = self.load.iter().flat_map(|phase| [Some(phase.rate), phase.to].into_iter().flatten());
        if let Some(rate) = rates.into_iter().find(|rate| !(0.0..=100_000.0).contains(rate)) {
            return refused(format!("load: a rate of {rate} is not 0 to 100000"));
        }
        if self.load.iter().any(|phase| phase.seconds == 0) || self.seconds() > SECONDS_MAX {
            return refused(
                "load: a phase lasts at least a second, and all of them at most 24 hours".to_owned(),
            );
        }
        let spans = [self.startup_seconds, self.rebalance_seconds, self.session_timeout_seconds];
        if let Some(seconds) = spans.into_iter().find(|seconds| !(0.0..=3600.0).contains(seconds)) {
            return refused(format!(
                "start-up, rebalance and session timeout: {seconds} s are not 0 to 3600"
            ));
        }
        let mut shares = self.poison.iter().map(|poison| poison.share).chain([self.hot_key_share]);
        if let Some(share) = shares.find(|share| !(0.0..=1.0).contains(share)) {
            return refused(format!("a share of {share} is not 0 to 1"));
        }
        if self.lost_zone.is_some_and(|lost| lost.zones < 2) {
            return refused("lost_zone.zones: of less than 2 zones none can be lost".to_owned());
        }
        Ok(())
    }

    /// How long it lasts, in seconds.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.round() * u64::from(self.repeat)
    }

    fn round(&self) -> u64 {
        self.load.iter().map(|phase| u64::from(phase.seconds)).sum()
    }

    /// Messages per second at a moment.
    #[must_use]
    pub fn rate_at(&self, seconds: f64, peak: f64) -> f64 {
        let mut within = seconds % self.round().max(1) as f64;
        let unit = match self.unit {
            LoadUnit::MessagesPerSecond => 1.0,
            LoadUnit::Peak => peak,
        };
        for phase in &self.load {
            let length = f64::from(phase.seconds);
            if within < length {
                let to = phase.to.unwrap_or(phase.rate);
                return unit * (phase.rate + (to - phase.rate) * within / length);
            }
            within -= length;
        }
        0.0
    }

    /// The part of the messages that are bad at a moment.
    #[must_use]
    pub fn poison_share_at(&self, seconds: f64) -> f64 {
        let of = |poison: &Poison| {
            let begin = f64::from(poison.at_seconds);
            let during = (begin..begin + f64::from(poison.seconds)).contains(&seconds);
            if during { poison.share } else { 0.0 }
        };
        self.poison.iter().map(of).fold(0.0, f64::max)
    }
}
