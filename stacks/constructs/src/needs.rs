//! What a worker needs, declared once: the policy, the network path and the variables all follow from it.

use std::collections::BTreeMap;

use cfn::{Handle, Json, Value};
use cfn_resources::ec2::SecurityGroup;

use crate::kafka::{IAM_PORT, KafkaCluster, KafkaTopic};

/// Where a worker connects to.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What it is, for the rules' names and descriptions.
    pub name: &'static str,
    /// Its security group.
    pub group: Handle<SecurityGroup>,
    /// Its TCP port.
    pub port: i64,
}

/// The needs of a worker. Each is named by the construct that it is a need of: a topic or table that no stack
/// declares cannot be named.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    statements: Vec<Json>,
    variables: BTreeMap<String, Value<String>>,
    peers: Vec<Peer>,
}

impl Needs {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a topic as a member of a group.
    #[must_use]
    pub fn consumes(self, cluster: &KafkaCluster, topic: &KafkaTopic, group: &str) -> Self {
        self.statements(topic.grant_consume(group)).connects_to_brokers(cluster)
    }

    /// Writes to a topic.
    #[must_use]
    pub fn produces(self, cluster: &KafkaCluster, topic: &KafkaTopic) -> Self {
        self.statements(topic.grant_produce_idempotently()).connects_to_brokers(cluster)
    }

    fn connects_to_brokers(self, cluster: &KafkaCluster) -> Self {
        self.connects_to(Peer { name: "Kafka", group: cluster.security_group.clone(), port: IAM_PORT })
    }

    /// Connects to something in the network. Naming it twice changes nothing.
    #[must_use]
    pub fn connects_to(mut self, peer: Peer) -> Self {
        if !self.peers.iter().any(|known| known.group.raw() == peer.group.raw() && known.port == peer.port) {
            self.peers.push(peer);
        }
        self
    }

    /// May do what these statements allow. A statement that is there already is not repeated; another one of
    /// the same `Sid` gets a number, because a policy takes each `Sid` once.
    #[must_use]
    pub fn statements(mut self, statements: Vec<Json>) -> Self {
        for mut statement in statements {
            if self.statements.iter().any(|known| without_sid(known) == without_sid(&statement)) {
                continue;
            }
            if let Some(sid) = statement.get("Sid").and_then(Json::as_str).map(str::to_owned) {
                let taken = |sid: &str| {
                    self.statements.iter().any(|known| known.get("Sid").and_then(Json::as_str) == Some(sid))
                };
                let free = std::iter::once(sid.clone())
                    .chain((2..).map(|number| format!("{sid}{number}")))
                    .find(|candidate| !taken(candidate))
                    .unwrap_or(sid);
                statement["Sid"] = Json::String(free);
            }
            self.statements.push(statement);
        }
        self
    }

    /// Gets an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl cfn::IntoValue<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into_value());
        self
    }

    /// What the worker may do, as policy statements.
    #[must_use]
    pub fn policy(&self) -> Vec<Json> {
        self.statements.clone()
    }

    /// Its environment variables.
    #[must_use]
    pub fn environment(&self) -> &BTreeMap<String, Value<String>> {
        &self.variables
    }

    /// Where it connects to.
    #[must_use]
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }
}

/// What a statement allows, whatever it is called.
fn without_sid(statement: &Json) -> Json {
    let mut statement = statement.clone();
    if let Some(object) = statement.as_object_mut() {
        object.remove("Sid");
    }
    statement
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sid_stands_once_in_a_policy() {
        let connect = json!({ "Sid": "Connect", "Action": ["a"] });
        let other = json!({ "Sid": "Connect", "Action": ["b"] });
        let needs = Needs::new().statements(vec![connect.clone(), connect, other.clone(), other]);
        let sids: Vec<_> = needs.policy().iter().map(|statement| statement["Sid"].clone()).collect();
        assert_eq!(sids, ["Connect", "Connect2"]);
    }
}
