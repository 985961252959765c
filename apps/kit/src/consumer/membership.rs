//! How a consumer is a member of its group.

use std::time::Duration;

use rdkafka::ClientConfig;

/// The longest time between two signs of life.
const HEARTBEAT_MAX: Duration = Duration::from_secs(1);

/// How a consumer is a member of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The name by which the group knows the member again (`group.instance.id`). A member with a name that comes back
    /// within the session timeout gets its partitions back without a rebalance; but when it goes for good,
    /// its partitions wait for the timeout. Without a name it leaves at once.
    pub instance_id: Option<String>,
    /// How long the group waits for a sign of life. The broker bounds it (`group.min.session.timeout.ms`, 6 s unless set
    /// otherwise).
    pub session_timeout: Duration,
}

impl Default for Membership {
    /// Without a name, 10 s.
    fn default() -> Self {
        Self { instance_id: None, session_timeout: Duration::from_secs(10) }
    }
}

impl Membership {
    pub(super) fn apply(&self, config: &mut ClientConfig) {
        // Three signs of life a session: one that is late or two that are lost cost no membership.
        let heartbeat = HEARTBEAT_MAX.min(self.session_timeout / 3);
        config
            .set("session.timeout.ms", self.session_timeout.as_millis().to_string())
            .set("heartbeat.interval.ms", heartbeat.as_millis().max(1).to_string());
        if let Some(id) = &self.instance_id {
            config.set("group.instance.id", id);
        }
    }

    /// How long a revocation waits for batches in flight: at most half the session timeout, because a member that
    /// drains for longer is thrown out of its group.
    pub(super) fn revoke_timeout(&self, drain_timeout: Duration) -> Duration {
        drain_timeout.min(self.session_timeout / 2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_member_gives_signs_of_life_and_drains_within_its_session(
            session_ms in 1000u64..1_800_000, drain_ms in 0u64..300_000
        ) {
            let session_timeout = Duration::from_millis(session_ms);
            let member = Membership { session_timeout, ..Membership::default() };
            let mut config = ClientConfig::new();
            member.apply(&mut config);
            let heartbeat: u64 = config.get("heartbeat.interval.ms").unwrap().parse().unwrap();
            prop_assert!(heartbeat > 0 && heartbeat * 3 <= session_ms);
            prop_assert!(member.revoke_timeout(Duration::from_millis(drain_ms)) < session_timeout);
            prop_assert_eq!(config.get("group.instance.id"), None);
        }
    }

    #[test]
    fn a_name_makes_a_member_known_again() {
        let member = Membership { instance_id: Some("trade-consumer-0".to_owned()), ..Membership::default() };
        let mut config = ClientConfig::new();
        member.apply(&mut config);
        assert_eq!(config.get("group.instance.id"), Some("trade-consumer-0"));
    }
}
