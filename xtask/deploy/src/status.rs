//! What is deployed and how it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Result;
use cfn::assembly::{Manifest, SystemEntry};
use serde::Serialize;
use serde_json::Value as Json;

use crate::{
    cache_system::{CacheStatus, CacheSystem},
    cloudformation::CloudFormation,
    flow::{Flow, FlowStatus},
    local::LocalEnvironment,
    signals,
    stacks::Stacks,
    stream_system::{StreamStatus, StreamSystem},
};

/// Everything, as `status --json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The environment.
    pub environment: String,
    /// `aws` or `local`.
    pub provider: String,
    /// The stand-ins for AWS, locally.
    pub parts: Vec<Json>,
    /// The stacks.
    pub stacks: Vec<StackStatus>,
    /// The ids of the stacks whose functions got code by a hotswap since they were deployed.
    pub hotswapped: BTreeSet<String>,
    /// The systems.
    pub systems: BTreeMap<String, Observed>,
}

/// A system, by who does its work.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Observed {
    /// Processes do.
    Workers(SystemStatus),
    /// Functions do.
    Functions(FlowStatus),
    /// A function does, on a stream.
    Stream(StreamStatus),
    /// Workers do, which keep a cache.
    Cache(CacheStatus),
}

/// A stack.
#[derive(Clone, Debug, Serialize)]
pub struct StackStatus {
    /// Its name.
    pub name: String,
    /// As CloudFormation says, or `ABSENT`.
    pub status: String,
    /// Resources behind which something real happens.
    pub exercised: usize,
    /// Resources that the local environment only records.
    pub recorded: usize,
}

/// How many there should be, and how many are ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replicas {
    /// Wanted.
    pub desired: u64,
    /// Ready.
    pub ready: u64,
}

/// A system.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SystemStatus {
    /// Its topic.
    pub topic: String,
    /// How many partitions that has.
    pub partitions: u64,
    /// Records that the group has not committed.
    pub lag_records: u64,
    /// The longest that records wait, in seconds; nobody knows without a consumer.
    pub lag_seconds: Option<f64>,
    /// Consumers.
    pub replicas: Replicas,
    /// Records done by the consumers that run.
    pub processed_total: u64,
    /// Records done per second, over the observation.
    pub processed_per_second: f64,
    /// Dead letters of the consumers that run.
    pub dead_letters_total: u64,
    /// The producer's target, in messages per second.
    pub target_per_second: Option<f64>,
    /// Records that the producer had acknowledged per second, over the observation.
    pub produced_per_second: f64,
    /// How the consumers are scaled: target, bounds, pause, lag and rate when it last looked, and the last decisions
    /// with their reasons; as the local environment tells it.
    pub scaling: Option<Json>,
    /// Why nothing else is known of it.
    pub error: Option<String>,
}

/// Gathers everything.
///
/// # Errors
///
/// When the parts that should answer do not.
pub async fn gather(
    manifest: &Manifest,
    stacks: &Stacks,
    local: Option<&LocalEnvironment>,
    clients: &signals::Clients,
) -> Result<Status> {
    let mut status = Status {
        environment: manifest.environment.clone(),
        provider: manifest.provider.clone(),
        parts: Vec::new(),
        stacks: Vec::new(),
        hotswapped: BTreeSet::new(),
        systems: BTreeMap::new(),
    };
    let mut recorded_types = BTreeMap::new();
    if let Some(local) = local {
        let answer = local.ask(&["status"]).await?;
        status.parts = answer.get("parts").and_then(Json::as_array).cloned().unwrap_or_default();
        recorded_types =
            serde_json::from_value::<BTreeMap<String, String>>(local.ask(&["resource-types"]).await?)?;
    }
    for entry in &manifest.stacks {
        let deployed = stacks.describe(&entry.name).await?;
        let resources = if deployed.is_some() { stacks.resources(&entry.name).await? } else { Vec::new() };
        let recorded = resources
            .iter()
            .filter(|resource| {
                recorded_types.get(&resource.resource_type).is_some_and(|how| how == "recorded")
            })
            .count();
        status.stacks.push(StackStatus {
            name: entry.name.clone(),
            status: deployed.map_or_else(|| "ABSENT".to_owned(), |deployed| deployed.status),
            exercised: resources.len() - recorded,
            recorded,
        });
    }
    if let Some(local) = local {
        for (name, entry) in &manifest.systems {
            // A system that cannot be observed (its topic is not there yet) is no reason to hide the others.
            let seen =
                system(local, entry, Duration::from_secs(1)).await.unwrap_or_else(|error| SystemStatus {
                    topic: entry.topic.clone(),
                    error: Some(format!("{error:#}")),
                    ..SystemStatus::default()
                });
            status.systems.insert(name.clone(), Observed::Workers(seen));
        }
    }
    for (name, entry) in &manifest.flows {
        let seen = match Flow::find(manifest, stacks, clients.clone(), entry).await {
            Ok(flow) => flow.status(local).await,
            Err(error) => Err(error),
        };
        // As above: one that is not deployed hides no other.
        let seen = seen.unwrap_or_else(|error| FlowStatus::unseen(entry, format!("{error:#}")));
        status.systems.insert(name.clone(), Observed::Functions(seen));
    }
    for (name, entry) in &manifest.streams {
        let seen = match StreamSystem::find(manifest, stacks, clients.clone(), entry).await {
            Ok(system) => system.status(local).await,
            Err(error) => Err(error),
        };
        let seen = seen.unwrap_or_else(|error| StreamStatus::unseen(format!("{error:#}")));
        status.systems.insert(name.clone(), Observed::Stream(seen));
    }
    for (name, entry) in &manifest.caches {
        let seen = match CacheSystem::find(manifest, stacks, clients.clone(), entry).await {
            Ok(system) => system.status(local).await,
            Err(error) => Err(error),
        };
        let seen = seen.unwrap_or_else(|error| CacheStatus::unseen(entry, format!("{error:#}")));
        status.systems.insert(name.clone(), Observed::Cache(seen));
    }
    Ok(status)
}

/// Observes a system for a while.
///
/// # Errors
///
/// When the local environment or the broker does not answer.
pub async fn system(
    local: &LocalEnvironment,
    entry: &SystemEntry,
    observe: Duration,
) -> Result<SystemStatus> {
    let answer = local.ask(&["status"]).await?;
    let workload = |name: &str| {
        answer
            .get("workloads")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
            .find(|workload| workload.get("name").and_then(Json::as_str) == Some(name))
            .cloned()
            .unwrap_or_default()
    };
    let (producer, consumer) = (workload(&entry.producer), workload(&entry.consumer));
    let begun = tokio::time::Instant::now();
    let before = (scrape(&producer).await, scrape(&consumer).await);
    tokio::time::sleep(observe).await;
    let after = (scrape(&producer).await, scrape(&consumer).await);
    let seconds = begun.elapsed().as_secs_f64();
    let lag = local.ask(&["lag", "--topic", &entry.topic, "--group", &entry.consumer_group]).await?;
    let number = |json: &Json, pointer: &str| json.pointer(pointer).and_then(Json::as_u64).unwrap_or(0);
    let rate = |before: &Samples, after: &Samples, name: &str| {
        ((after.sum(name, "") - before.sum(name, "")) / seconds).max(0.0)
    };
    let processed = "kafka_messages_processed_total";
    Ok(SystemStatus {
        topic: entry.topic.clone(),
        partitions: number(&lag, "/partitions"),
        lag_records: number(&lag, "/lag_records"),
        lag_seconds: after.1.max("kafka_consumer_lag_seconds"),
        replicas: Replicas {
            desired: number(&consumer, "/replicas/desired"),
            ready: number(&consumer, "/replicas/ready"),
        },
        processed_total: after.1.sum(processed, "") as u64,
        processed_per_second: rate(&before.1, &after.1, processed),
        dead_letters_total: after.1.sum(processed, "status=\"dead_letter\"") as u64,
        target_per_second: after.0.max("trades_target_per_second"),
        produced_per_second: rate(&before.0, &after.0, "trades_sent_total"),
        scaling: consumer.get("scaling").cloned(),
        error: None,
    })
}

/// Samples of the Prometheus text format: (name, labels, value).
#[derive(Clone, Debug, Default, PartialEq)]
struct Samples(Vec<(String, String, f64)>);

impl Samples {
    fn parse(text: &str) -> Self {
        Self(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(|line| {
                    let (series, value) = line.rsplit_once(' ')?;
                    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
                    Some((name.to_owned(), labels.trim_end_matches('}').to_owned(), value.parse().ok()?))
                })
                .collect(),
        )
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0
            .iter()
            .filter(move |(known, _, _)| known == name)
            .map(|(_, labels, value)| (labels.as_str(), *value))
    }

    fn sum(&self, name: &str, label: &str) -> f64 {
        self.of(name).filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value).sum()
    }

    fn max(&self, name: &str) -> Option<f64> {
        self.of(name).map(|(_, value)| value).reduce(f64::max)
    }
}

/// The samples of all processes of a workload. One that does not answer (it is starting or gone) is left
/// out.
async fn scrape(workload: &Json) -> Samples {
    let endpoints: Vec<String> = workload
        .get("metrics_endpoints")
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
        .filter_map(|endpoint| Some(format!("http://{}/metrics", endpoint.as_str()?)))
        .collect();
    let fetched = tokio::task::spawn_blocking(move || {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(2))).build().into();
        endpoints
            .iter()
            .filter_map(|url| agent.get(url).call().ok()?.body_mut().read_to_string().ok())
            .flat_map(|text| Samples::parse(&text).0)
            .collect()
    });
    Samples(fetched.await.unwrap_or_default())
}

/// The status as a table for people.
#[must_use]
pub fn table(status: &Status) -> String {
    let mut lines = vec![format!("environment {} ({})", status.environment, status.provider)];
    if !status.parts.is_empty() {
        lines.push("parts".to_owned());
        for part in &status.parts {
            let text = |key: &str| part.get(key).and_then(Json::as_str).unwrap_or_default();
            lines.push(format!(
                "  {:<10} {:<12} {:<24} {}",
                text("name"),
                text("state"),
                text("endpoint"),
                text("implementation")
            ));
        }
    }
    lines.push("stacks".to_owned());
    for stack in &status.stacks {
        let counts = if status.provider == "local" {
            format!("{:>3} exercised {:>3} recorded", stack.exercised, stack.recorded)
        } else {
            format!("{:>3} resources", stack.exercised)
        };
        lines.push(format!("  {:<32} {:<24} {counts}", stack.name, stack.status));
    }
    if !status.hotswapped.is_empty() {
        let stacks: Vec<&str> = status.hotswapped.iter().map(String::as_str).collect();
        lines.push(format!(
            "  swapped code runs in {}; a deploy makes them what the stacks say",
            stacks.join(", ")
        ));
    }
    for (name, system) in &status.systems {
        lines.push(format!("system {name}"));
        let system = match system {
            Observed::Workers(system) => system,
            Observed::Functions(flow) => {
                lines.extend(flow.lines(chrono::Utc::now().timestamp_millis()));
                continue;
            }
            Observed::Stream(stream) => {
                lines.extend(stream.lines());
                continue;
            }
            Observed::Cache(cache) => {
                lines.extend(cache.lines());
                continue;
            }
        };
        if let Some(error) = &system.error {
            lines.push(format!("  cannot be observed: {error}"));
            continue;
        }
        let seconds = system.lag_seconds.map_or_else(|| "unknown".to_owned(), |lag| format!("{lag:.1} s"));
        lines.push(format!("  topic      {} ({} partitions)", system.topic, system.partitions));
        if let Some(target) = system.target_per_second {
            lines.push(format!("  produced   {:.1}/s (target {target}/s)", system.produced_per_second));
        }
        lines.push(format!(
            "  processed  {:.1}/s, {} in total",
            system.processed_per_second, system.processed_total
        ));
        lines.push(format!("  lag        {} records, {seconds}", system.lag_records));
        lines.push(format!("  replicas   {} of {} ready", system.replicas.ready, system.replicas.desired));
        lines.push(format!("  dead       {} letters", system.dead_letters_total));
        lines.extend(system.scaling.iter().flat_map(scaling_lines));
    }
    lines.join("\n")
}

/// How consumers are scaled, and the last decisions, newest first.
fn scaling_lines(scaling: &Json) -> Vec<String> {
    let text = |json: &Json, key: &str| json.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
    let number = |json: &Json, key: &str| json.get(key).and_then(Json::as_u64);
    let count = |json: &Json, key: &str| number(json, key).unwrap_or(0);
    let mut lines = vec![format!(
        "  scaling    {}; {} to {} replicas",
        text(scaling, "target"),
        count(scaling, "replicas_min"),
        count(scaling, "replicas_max")
    )];
    if let Some(paused) = number(scaling, "paused") {
        lines.push(format!(
            "             paused at {paused} by hand; `target/debug/local-environment resume WORKLOAD` lets it go on"
        ));
    }
    if let Some(error) = scaling.get("error").and_then(Json::as_str) {
        lines.push(format!("             the lag cannot be read: {error}"));
    }
    let decisions = scaling.get("decisions").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    if !decisions.is_empty() {
        lines.push("  decisions  (UTC)          lag      in/s  replicas".to_owned());
    }
    for decision in decisions.iter().rev() {
        let second = count(decision, "at_ms") / 1000 % 86_400;
        let lag = number(decision, "lag_records").map_or_else(|| "unknown".to_owned(), |lag| lag.to_string());
        let times = match count(decision, "times") {
            0 | 1 => String::new(),
            times => format!(" ({times} times)"),
        };
        lines.push(format!(
            "    {:02}:{:02}:{:02}  {lag:>14} {:>9.1}  {:>3} -> {:<3} {}{times}",
            second / 3600,
            second / 60 % 60,
            second % 60,
            decision.get("arrival_per_second").and_then(Json::as_f64).unwrap_or(0.0),
            count(decision, "current"),
            count(decision, "desired"),
            text(decision, "reason"),
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_labels() {
        let samples = Samples::parse(
            "# HELP x y\nkafka_messages_processed_total{status=\"success\"} 40\nkafka_messages_processed_total{status=\"dead_letter\"} 2\nlag{partition=\"0\"} 0.5\nlag{partition=\"1\"} 1.5\nup 1\n",
        );
        assert_eq!(samples.sum("kafka_messages_processed_total", ""), 42.0);
        assert_eq!(samples.sum("kafka_messages_processed_total", "status=\"dead_letter\""), 2.0);
        assert_eq!(samples.max("lag"), Some(1.5));
        assert_eq!(samples.max("absent"), None);
    }

    #[test]
    fn decisions_read_well() {
        let scaling = serde_json::json!({
            "target": "lag / 505", "replicas_min": 0, "replicas_max": 12, "paused": 3, "error": "gone",
            "decisions": [
                {"at_ms": 86_400_000 + 3_723_000, "lag_records": 9000, "arrival_per_second": 1000.04, "current": 1,
                 "desired": 12, "reason": "lag 9000 / 505: at most 12, 1 -> 12", "times": 1},
                {"at_ms": 3_738_000, "lag_records": null, "arrival_per_second": 0.0, "current": 12, "desired": 12,
                 "reason": "stays", "times": 4},
            ],
        });
        let lines = scaling_lines(&scaling).join("\n");
        assert_eq!(
            lines,
            "  scaling    lag / 505; 0 to 12 replicas\n             \
             paused at 3 by hand; `target/debug/local-environment resume WORKLOAD` lets it go on\n             \
             the lag cannot be read: gone\n  \
             decisions  (UTC)          lag      in/s  replicas\n    \
             01:02:18         unknown       0.0   12 -> 12  stays (4 times)\n    \
             01:02:03            9000    1000.0    1 -> 12  lag 9000 / 505: at most 12, 1 -> 12"
        );
    }

    #[test]
    fn the_status_has_the_fields_that_scripts_rely_on() {
        let status = Status {
            environment: "local".to_owned(),
            provider: "local".to_owned(),
            parts: Vec::new(),
            stacks: vec![StackStatus {
                name: "n".to_owned(),
                status: "CREATE_COMPLETE".to_owned(),
                exercised: 1,
                recorded: 2,
            }],
            hotswapped: BTreeSet::new(),
            systems: BTreeMap::from([("trades".to_owned(), Observed::Workers(SystemStatus::default()))]),
        };
        let json = serde_json::to_value(&status).unwrap();
        for pointer in [
            "/environment",
            "/provider",
            "/parts",
            "/stacks/0/name",
            "/stacks/0/status",
            "/stacks/0/exercised",
            "/stacks/0/recorded",
            "/hotswapped",
            "/systems/trades/topic",
            "/systems/trades/partitions",
            "/systems/trades/lag_records",
            "/systems/trades/lag_seconds",
            "/systems/trades/replicas/desired",
            "/systems/trades/replicas/ready",
            "/systems/trades/processed_total",
            "/systems/trades/processed_per_second",
            "/systems/trades/dead_letters_total",
        ] {
            assert!(json.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
