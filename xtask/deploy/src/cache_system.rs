//! A system whose workers bring a topic's records to a cache: what waits for them, how many of them are ready, and how
//! full the cache is. Locally the broker, the workers and the cache are asked themselves; on AWS their metrics are.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use cfn::assembly::{CacheEntry, Manifest, SystemEntry};
use serde::Serialize;
use serde_json::Value as Json;

use crate::{
    cloudformation::CloudFormation,
    local::LocalEnvironment,
    signals::{AlarmNames, Alarms, Clients, Signals},
    status::{self, Replicas},
};

/// How long rates are observed.
const OBSERVED: Duration = Duration::from_secs(1);

/// The ids of queries.
const LAG: &str = "lag";
const LAG_TIME: &str = "time";
const KEYS: &str = "keys";
const MEMORY: &str = "memory";

/// What was seen at a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CacheObservation {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Records that the broker has ever numbered; it is asked locally alone.
    pub written_total: Option<u64>,
    /// Records that the group has not committed.
    pub lag_records: Option<u64>,
    /// How long the group needs for what waits, in seconds; MSK tells it, and a local broker does not.
    pub lag_seconds: Option<f64>,
    /// How many workers are wanted and ready; locally alone, because the cluster's API is not asked.
    pub replicas: Option<Replicas>,
    /// Keys in the cache; on AWS those of the fullest node.
    pub keys: Option<u64>,
    /// How full its memory is, in percent.
    pub memory_percent: Option<f64>,
    /// The alarms that call somebody.
    pub alarms: Alarms,
}

/// A system, as `status` tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CacheStatus {
    /// Its topic.
    pub topic: String,
    /// How many partitions that has.
    pub partitions: u64,
    /// Records that the group has not committed.
    pub lag_records: Option<u64>,
    /// The longest that records wait, in seconds; on AWS how long the group needs for what waits.
    pub lag_seconds: Option<f64>,
    /// Workers; unknown on AWS.
    pub replicas: Option<Replicas>,
    /// Records done by the workers that run.
    pub processed_total: Option<u64>,
    /// Records done per second, over the observation.
    pub processed_per_second: Option<f64>,
    /// Dead letters of the workers that run.
    pub dead_letters_total: Option<u64>,
    /// Keys in the cache; on AWS those of the fullest node.
    pub keys: Option<u64>,
    /// How full its memory is, in percent.
    pub memory_percent: Option<f64>,
    /// The alarms that call somebody.
    pub alarms: Alarms,
    /// Where workers are counted, where that was not done.
    pub replicas_by: Option<String>,
    /// Why nothing else is known of it.
    pub error: Option<String>,
}

/// The system's parts.
#[derive(Debug)]
pub struct CacheSystem<'a> {
    entry: &'a CacheEntry,
    signals: Signals,
    alarms: AlarmNames,
}

impl<'a> CacheSystem<'a> {
    /// Finds them.
    ///
    /// # Errors
    ///
    /// When the system is not deployed, or AWS does not tell.
    pub async fn find(
        manifest: &Manifest,
        stacks: &impl CloudFormation,
        clients: Clients,
        entry: &'a CacheEntry,
    ) -> Result<Self> {
        let stack = manifest.stack(&entry.stack).context("the system has no stack")?;
        let resources = stacks.resources(&stack.name).await?;
        anyhow::ensure!(!resources.is_empty(), "{} has no resources: it is not deployed", stack.name);
        let signals = Signals::new(clients, &manifest.provider);
        Ok(Self { entry, signals, alarms: AlarmNames::of(&resources) })
    }

    /// Looks.
    ///
    /// # Errors
    ///
    /// What AWS says, or the local environment.
    pub async fn observe(&self, local: Option<&LocalEnvironment>, now_ms: i64) -> Result<CacheObservation> {
        let (metrics, alarms) =
            tokio::try_join!(self.metrics(now_ms), self.signals.alarms_that_call(&self.alarms, now_ms))?;
        let count = |id: &str| metrics.get(id).map(|value| *value as u64);
        let mut seen = CacheObservation {
            at_ms: now_ms,
            written_total: None,
            lag_records: count(LAG),
            lag_seconds: metrics.get(LAG_TIME).copied(),
            replicas: None,
            keys: count(KEYS),
            memory_percent: metrics.get(MEMORY).copied(),
            alarms,
        };
        if let Some(local) = local {
            let CacheEntry { topic, consumer_group, worker, .. } = self.entry;
            let asked = ["lag", "--topic", topic, "--group", consumer_group];
            let (lag, cache, running) =
                tokio::try_join!(local.ask(&asked), local.ask(&["cache"]), local.ask(&["status"]))?;
            let number = |json: &Json, key: &str| json.get(key).and_then(Json::as_u64);
            seen.written_total = number(&lag, "end_offset_total");
            seen.lag_records = number(&lag, "lag_records");
            seen.keys = number(&cache, "keys");
            seen.replicas = replicas(&running, worker);
        }
        Ok(seen)
    }

    /// How the system does.
    ///
    /// # Errors
    ///
    /// As [`CacheSystem::observe`].
    pub async fn status(&self, local: Option<&LocalEnvironment>) -> Result<CacheStatus> {
        let CacheEntry { topic, partitions, consumer_group, worker, namespace, .. } = self.entry;
        let now_ms = chrono::Utc::now().timestamp_millis();
        let Some(local) = local else {
            let by = format!("kubectl -n {namespace} get deployment {worker}");
            return Ok(CacheStatus {
                topic: topic.clone(),
                partitions: u64::from(*partitions),
                replicas_by: Some(by),
                ..CacheStatus::of(self.observe(None, now_ms).await?)
            });
        };
        let workers = SystemEntry {
            topic: topic.clone(),
            consumer_group: consumer_group.clone(),
            partitions: *partitions,
            consumer: worker.clone(),
            ..SystemEntry::default()
        };
        let (seen, workers) =
            tokio::try_join!(self.observe(Some(local), now_ms), status::system(local, &workers, OBSERVED))?;
        Ok(CacheStatus {
            topic: workers.topic,
            partitions: workers.partitions,
            lag_seconds: workers.lag_seconds,
            processed_total: Some(workers.processed_total),
            processed_per_second: Some(workers.processed_per_second),
            dead_letters_total: Some(workers.dead_letters_total),
            ..CacheStatus::of(seen)
        })
    }

    /// What the services tell of the group and of the cache (Amazon MSK, "Consumer-lag monitoring"; MemoryDB, "Metrics
    /// for MemoryDB").
    async fn metrics(&self, now_ms: i64) -> Result<BTreeMap<String, f64>> {
        let CacheEntry { kafka_cluster, topic, consumer_group, cache, .. } = self.entry;
        let group = [
            ("Cluster Name", kafka_cluster.as_str()),
            ("Consumer Group", consumer_group.as_str()),
            ("Topic", topic.as_str()),
        ];
        let of_cache = [("ClusterName", cache.as_str())];
        let query = |id: &str, namespace, name, dimensions: &[(&str, &str)]| {
            self.signals.query(id.to_owned(), namespace, name, dimensions, "Maximum")
        };
        let queries = vec![
            query(LAG, "AWS/Kafka", "SumOffsetLag", &group),
            query(LAG_TIME, "AWS/Kafka", "EstimatedMaxTimeLag", &group),
            query(KEYS, "AWS/MemoryDB", "CurrItems", &of_cache),
            query(MEMORY, "AWS/MemoryDB", "DatabaseMemoryUsagePercentage", &of_cache),
        ];
        self.signals.newest(queries, now_ms).await
    }
}

/// The processes of a workload, as the local environment tells them.
fn replicas(status: &Json, workload: &str) -> Option<Replicas> {
    let all = status.get("workloads").and_then(Json::as_array)?;
    let named = |one: &&Json| one.get("name").and_then(Json::as_str) == Some(workload);
    let one = all.iter().find(named)?;
    let count = |pointer: &str| one.pointer(pointer).and_then(Json::as_u64);
    Some(Replicas { desired: count("/replicas/desired")?, ready: count("/replicas/ready")? })
}

impl CacheStatus {
    /// One of which nothing is known, and why.
    #[must_use]
    pub fn unseen(entry: &CacheEntry, error: String) -> Self {
        Self { topic: entry.topic.clone(), error: Some(error), ..Self::default() }
    }

    fn of(seen: CacheObservation) -> Self {
        Self {
            lag_records: seen.lag_records,
            lag_seconds: seen.lag_seconds,
            replicas: seen.replicas,
            keys: seen.keys,
            memory_percent: seen.memory_percent,
            alarms: seen.alarms,
            ..Self::default()
        }
    }

    /// As lines for people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        if let Some(error) = &self.error {
            return vec![format!("  cannot be observed: {error}")];
        }
        let count =
            |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), |value| value.to_string());
        let seconds = self.lag_seconds.map_or_else(|| "unknown".to_owned(), |lag| format!("{lag:.1} s"));
        let mut lines = vec![format!("  topic      {} ({} partitions)", self.topic, self.partitions)];
        if let (Some(rate), Some(total)) = (self.processed_per_second, self.processed_total) {
            lines.push(format!("  processed  {rate:.1}/s, {total} in total"));
        }
        lines.push(format!("  lag        {} records, {seconds}", count(self.lag_records)));
        lines.push(match (self.replicas, &self.replicas_by) {
            (Some(Replicas { desired, ready }), _) => format!("  workers    {ready} of {desired} ready"),
            (None, Some(by)) => format!("  workers    not counted from here; `{by}` tells"),
            (None, None) => "  workers    unknown".to_owned(),
        });
        if self.dead_letters_total.is_some() {
            lines.push(format!("  dead       {} letters", count(self.dead_letters_total)));
        }
        let memory =
            self.memory_percent.map(|percent| format!(", memory {percent:.1}% full")).unwrap_or_default();
        lines.push(format!("  cache      {} keys{memory}", count(self.keys)));
        lines.extend(self.alarms.lines());
        lines
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn local() -> CacheStatus {
        CacheStatus {
            topic: "tag-data".to_owned(),
            partitions: 24,
            lag_records: Some(12),
            lag_seconds: Some(0.25),
            replicas: Some(Replicas { desired: 2, ready: 1 }),
            processed_total: Some(15_000),
            processed_per_second: Some(499.6),
            dead_letters_total: Some(1),
            keys: Some(200),
            memory_percent: Some(0.5),
            alarms: Alarms { ringing: Vec::new(), quiet: 2 },
            ..CacheStatus::default()
        }
    }

    #[test]
    fn a_status_reads_well_and_has_the_fields_that_scripts_rely_on() {
        let on_aws = CacheStatus {
            lag_records: None,
            lag_seconds: None,
            replicas: None,
            replicas_by: Some("kubectl -n tags get deployment tag-worker".to_owned()),
            processed_total: None,
            processed_per_second: None,
            dead_letters_total: None,
            ..local()
        };
        let unseen = CacheStatus::unseen(
            &CacheEntry { topic: "tag-data".to_owned(), ..CacheEntry::default() },
            "floodgate-tags is not deployed".to_owned(),
        );
        insta::assert_snapshot!(
            [local().lines(), on_aws.lines(), unseen.lines()].map(|lines| lines.join("\n")).join("\n\n")
        );
        let json = serde_json::to_value(local()).unwrap();
        for pointer in [
            "/topic",
            "/partitions",
            "/lag_records",
            "/lag_seconds",
            "/replicas/desired",
            "/replicas/ready",
            "/processed_total",
            "/processed_per_second",
            "/dead_letters_total",
            "/keys",
            "/alarms/ringing",
            "/alarms/quiet",
            "/error",
        ] {
            assert!(json.pointer(pointer).is_some(), "{pointer}");
        }
    }

    #[test]
    fn the_workers_are_those_of_the_workload() {
        let status = json!({"workloads": [
            {"name": "tag-load", "replicas": {"desired": 0, "ready": 0}},
            {"name": "tag-worker", "replicas": {"desired": 2, "ready": 1}},
        ]});
        assert_eq!(replicas(&status, "tag-worker"), Some(Replicas { desired: 2, ready: 1 }));
        assert_eq!(replicas(&status, "absent"), None);
        assert_eq!(replicas(&json!({}), "tag-worker"), None);
    }
}
