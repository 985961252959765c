//! Deploy-time values: from where they come to what they are. Pure.

use std::collections::{BTreeMap, BTreeSet};

use cfn::assembly::{LookupSource, ParameterWiring, Source};

/// What is known so far.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Stack id -> output -> value.
    pub outputs: BTreeMap<String, BTreeMap<String, String>>,
    /// (cluster ARN, authentication) -> bootstrap servers.
    pub bootstrap_servers: BTreeMap<(String, String), String>,
    /// Cluster ARN -> broker's id -> host name.
    pub broker_hosts: BTreeMap<String, BTreeMap<u32, String>>,
    /// Asset -> field -> value.
    pub assets: BTreeMap<String, BTreeMap<String, String>>,
}

impl Known {
    /// Takes over what was learnt beside: the outputs of these stacks, and all that was looked up or published.
    pub fn learn<'a>(&mut self, other: Self, stacks: impl Iterator<Item = &'a str>) {
        let Self { mut outputs, bootstrap_servers, broker_hosts, assets } = other;
        for stack in stacks {
            match outputs.remove(stack) {
                Some(given) => drop(self.outputs.insert(stack.to_owned(), given)),
                None => drop(self.outputs.remove(stack)),
            }
        }
        self.bootstrap_servers.extend(bootstrap_servers);
        self.broker_hosts.extend(broker_hosts);
        self.assets.extend(assets);
    }
}

/// Why a value is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WiringError {
    /// A stack does not give an output.
    #[error("the stack `{stack}` has no output `{output}`; deploy it first (without `--stack`, all are)")]
    NoOutput {
        /// The stack's id.
        stack: String,
        /// The output.
        output: String,
    },
    /// An asset was not published.
    #[error("the asset `{name}` has no {field}: it was not built and published")]
    NoAsset {
        /// The asset.
        name: String,
        /// The field.
        field: String,
    },
    /// Something must be looked up first.
    #[error("the bootstrap brokers ({authentication}) of {cluster_arn} are not known yet")]
    NotLookedUp {
        /// The cluster.
        cluster_arn: String,
        /// The listener.
        authentication: String,
    },
    /// A broker's host name is not known.
    #[error(
        "the host name of broker {broker} of {cluster_arn} is not known: it was not looked up, or there is no such broker (yet)"
    )]
    NoBrokerHost {
        /// The broker's id.
        broker: u32,
        /// The cluster.
        cluster_arn: String,
    },
    /// A manifest names a value that nothing gives.
    #[error("the manifest of `{workload}` wants `{name}`, which nothing gives")]
    NoValue {
        /// The workload.
        workload: String,
        /// The name.
        name: String,
    },
}

/// The value of a source.
///
/// # Errors
///
/// When what it comes from is not there.
pub fn resolve(source: &Source, known: &Known) -> Result<String, WiringError> {
    match source {
        Source::Literal(text) => Ok(text.clone()),
        Source::Output { stack, output } => known
            .outputs
            .get(stack)
            .and_then(|outputs| outputs.get(output))
            .cloned()
            .ok_or_else(|| WiringError::NoOutput { stack: stack.clone(), output: output.clone() }),
        Source::Asset { name, field } => known
            .assets
            .get(name)
            .and_then(|fields| fields.get(field))
            .cloned()
            .ok_or_else(|| WiringError::NoAsset { name: name.clone(), field: field.clone() }),
        Source::Lookup(LookupSource::MskBootstrapBrokers { authentication, cluster_arn }) => {
            let cluster_arn = resolve(cluster_arn, known)?;
            let key = (cluster_arn, authentication.clone());
            known.bootstrap_servers.get(&key).cloned().ok_or_else(|| WiringError::NotLookedUp {
                cluster_arn: key.0.clone(),
                authentication: key.1.clone(),
            })
        }
        Source::Lookup(LookupSource::MskBrokerHost { broker, cluster_arn }) => {
            let cluster_arn = resolve(cluster_arn, known)?;
            known
                .broker_hosts
                .get(&cluster_arn)
                .and_then(|hosts| hosts.get(broker))
                .cloned()
                .ok_or(WiringError::NoBrokerHost { broker: *broker, cluster_arn })
        }
    }
}

/// The values of parameters, by name.
///
/// # Errors
///
/// The first that is not to be had.
pub fn resolve_all(
    wired: &[ParameterWiring],
    known: &Known,
) -> Result<BTreeMap<String, String>, WiringError> {
    wired.iter().map(|parameter| Ok((parameter.name.clone(), resolve(&parameter.source, known)?))).collect()
}

/// What is to be looked up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lookup {
    /// The bootstrap brokers of a cluster for clients that sign in like this.
    BootstrapBrokers {
        /// The cluster.
        cluster_arn: String,
        /// The listener.
        authentication: String,
    },
    /// The host names of all brokers of a cluster.
    BrokerHosts {
        /// The cluster.
        cluster_arn: String,
    },
}

/// The lookups that sources need and that are not known, as far as the clusters' ARNs are.
#[must_use]
pub fn lookups(wired: &[ParameterWiring], known: &Known) -> BTreeSet<Lookup> {
    wired
        .iter()
        .filter_map(|parameter| match &parameter.source {
            Source::Lookup(LookupSource::MskBootstrapBrokers { authentication, cluster_arn }) => {
                let key = (resolve(cluster_arn, known).ok()?, authentication.clone());
                let wanted = !known.bootstrap_servers.contains_key(&key);
                wanted.then_some(Lookup::BootstrapBrokers { cluster_arn: key.0, authentication: key.1 })
            }
            Source::Lookup(LookupSource::MskBrokerHost { cluster_arn, .. }) => {
                let cluster_arn = resolve(cluster_arn, known).ok()?;
                let wanted = !known.broker_hosts.contains_key(&cluster_arn);
                wanted.then_some(Lookup::BrokerHosts { cluster_arn })
            }
            _ => None,
        })
        .collect()
}

/// A manifest with every `${{ name }}` replaced. A value that would end its YAML string is refused.
///
/// # Errors
///
/// When a name has no value.
pub fn fill(
    workload: &str,
    manifest: &str,
    values: &BTreeMap<String, String>,
) -> Result<String, WiringError> {
    let mut filled = String::with_capacity(manifest.len());
    let mut rest = manifest;
    while let Some((before, after)) = rest.split_once("${{") {
        let missing =
            |name: &str| WiringError::NoValue { workload: workload.to_owned(), name: name.to_owned() };
        let (name, after) = after.split_once("}}").ok_or_else(|| missing("an unclosed name"))?;
        let value = values.get(name.trim()).ok_or_else(|| missing(name.trim()))?;
        if value.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) {
            return Err(missing(&format!("{} (its value has quotes or control characters)", name.trim())));
        }
        filled.push_str(before);
        filled.push_str(value);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known {
            outputs: BTreeMap::from([(
                "kafka".to_owned(),
                BTreeMap::from([("Arn".to_owned(), "arn:c".to_owned())]),
            )]),
            bootstrap_servers: BTreeMap::from([(
                ("arn:c".to_owned(), "iam".to_owned()),
                "b-1:9098".to_owned(),
            )]),
            ..Known::default()
        }
    }

    fn brokers(authentication: &str) -> Source {
        Source::Lookup(LookupSource::MskBootstrapBrokers {
            authentication: authentication.to_owned(),
            cluster_arn: Box::new(Source::Output { stack: "kafka".to_owned(), output: "Arn".to_owned() }),
        })
    }

    #[test]
    fn values_come_from_where_the_manifest_says() {
        assert_eq!(resolve(&brokers("iam"), &known()), Ok("b-1:9098".to_owned()));
        assert!(matches!(resolve(&brokers("tls"), &known()), Err(WiringError::NotLookedUp { .. })));
        let wired = [ParameterWiring { name: "P".to_owned(), source: brokers("tls") }];
        let wanted =
            Lookup::BootstrapBrokers { cluster_arn: "arn:c".to_owned(), authentication: "tls".to_owned() };
        assert_eq!(lookups(&wired, &known()), BTreeSet::from([wanted]));
        let absent = Source::Output { stack: "network".to_owned(), output: "Vpc".to_owned() };
        assert!(resolve(&absent, &known()).unwrap_err().to_string().contains("`network`"));
    }

    #[test]
    fn brokers_are_looked_up_once_a_cluster_and_each_has_its_host() {
        let host = |broker| {
            let cluster_arn =
                Box::new(Source::Output { stack: "kafka".to_owned(), output: "Arn".to_owned() });
            Source::Lookup(LookupSource::MskBrokerHost { broker, cluster_arn })
        };
        let wired = [1, 2].map(|n| ParameterWiring { name: format!("broker_{n}"), source: host(n) });
        let mut known = known();
        let wanted = Lookup::BrokerHosts { cluster_arn: "arn:c".to_owned() };
        assert_eq!(lookups(&wired, &known), BTreeSet::from([wanted]));
        known
            .broker_hosts
            .insert("arn:c".to_owned(), BTreeMap::from([(2, "b-2.example.amazonaws.com".to_owned())]));
        assert!(lookups(&wired, &known).is_empty());
        assert_eq!(resolve(&host(2), &known), Ok("b-2.example.amazonaws.com".to_owned()));
        assert!(resolve(&host(1), &known).unwrap_err().to_string().contains("broker 1 of arn:c"));
    }

    #[test]
    fn a_manifest_is_filled_and_nothing_is_left_open() {
        let values = BTreeMap::from([("image".to_owned(), "local/x@sha256:1".to_owned())]);
        assert_eq!(fill("w", "image: \"${{ image }}\"\n", &values).unwrap(), "image: \"local/x@sha256:1\"\n");
        assert!(fill("w", "${{ other }}", &values).unwrap_err().to_string().contains("`other`"));
        assert!(fill("w", "${{ image", &values).is_err());
        let evil = BTreeMap::from([("image".to_owned(), "x\"\nevil: true".to_owned())]);
        assert!(
            fill("w", "image: \"${{ image }}\"", &evil).is_err(),
            "a value cannot break out of its string"
        );
    }
}
