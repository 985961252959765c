//! What CloudWatch would be told of the parts, every second: of what our alarms watch and nobody else tells. It is
//! measured at the parts themselves, so that a busy database, a lost partition or a full cache sets the real alarm off.

mod processor_time;
mod sessions;
mod watched;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::{Value as Json, json};

use self::{processor_time::ProcessorTime, sessions::Sessions, watched::Watched};
use crate::{control::State, layout::Layout, supervised::note, valkey};

/// How often is measured and told: the resolution at which a demonstration can be followed.
const EVERY: Duration = Duration::from_secs(1);

/// How often is asked what the alarms watch.
const ALARMS_EVERY: Duration = Duration::from_secs(3);

/// How often the broker's data is measured on the disk.
const DISK_EVERY: Duration = Duration::from_secs(30);

const TIMEOUT: Duration = Duration::from_secs(2);

/// The most data that one request may hold (PutMetricData takes 1,000).
const DATA_PER_REQUEST: usize = 500;

/// What is measured, by namespace and name, in the unit of the metric.
type Measured = BTreeMap<(&'static str, &'static str), f64>;

/// Measures and tells until SIGTERM. What cannot be measured is not told: that is what an alarm's missing data are for.
///
/// # Errors
///
/// When signals cannot be listened for.
pub fn run(layout: &Layout) -> Result<()> {
    let terminated = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, terminated.clone())?;
    }
    let mut reporter = Reporter::new(layout);
    while !terminated.load(Ordering::Relaxed) {
        let began = Instant::now();
        reporter.round();
        std::thread::sleep(EVERY.saturating_sub(began.elapsed()));
    }
    Ok(())
}

struct Reporter {
    layout: Layout,
    agent: ureq::Agent,
    watched: Vec<Watched>,
    asked: Option<Instant>,
    database: ProcessorTime,
    cache: ProcessorTime,
    sessions: Option<Sessions>,
    broker: Option<(String, BaseConsumer)>,
    disk: Option<(Instant, f64)>,
    /// What was last said to be wrong, so that it is said once.
    said: String,
}

impl Reporter {
    fn new(layout: &Layout) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .build()
            .into();
        Self {
            layout: layout.clone(),
            agent,
            watched: Vec::new(),
            asked: None,
            database: ProcessorTime::default(),
            cache: ProcessorTime::default(),
            sessions: None,
            broker: None,
            disk: None,
            said: String::new(),
        }
    }

    fn round(&mut self) {
        let Some(state) = State::read(&self.layout) else { return };
        let mut wrong = Vec::new();
        if self.asked.is_none_or(|asked| asked.elapsed() >= ALARMS_EVERY) {
            match self.alarms(&state) {
                Ok(watched) => {
                    self.watched = watched;
                    self.asked = Some(Instant::now());
                }
                Err(error) => wrong.push(error),
            }
        }
        // How busy the processors are is told before the parts are asked anything: a busy database answers late, and that
        // it is busy must not wait for that.
        let processors = self.processors(&state);
        let told = self.tell(&state, &processors);
        let measured = self.measure(&state, &mut wrong);
        for told in [told, self.tell(&state, &measured)] {
            wrong.extend(told.err());
        }
        let said = wrong.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("; ");
        if said != self.said {
            note(if said.is_empty() { "everything is measured" } else { &said });
            self.said = said;
        }
    }

    /// What the alarms of the region watch.
    fn alarms(&self, state: &State) -> Result<Vec<Watched>> {
        let mut found = Vec::new();
        let mut token = Json::Null;
        loop {
            let mut ask = json!({ "MaxRecords": 100 });
            if !token.is_null() {
                ask["NextToken"] = token;
            }
            let mut answer = self.cloudwatch(state, "DescribeAlarms", &ask)?;
            found.extend(watched::of(&answer));
            token = answer["NextToken"].take();
            if token.as_str().is_none_or(str::is_empty) {
                found.sort();
                found.dedup();
                return Ok(found);
            }
        }
    }

    /// How busy the parts' processes keep the processors.
    fn processors(&mut self, state: &State) -> Measured {
        let processors = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
        let pid = |part: &str| state.processes.get(part).map(|identity| identity.pid);
        // Valkey runs commands on one thread: a whole processor is all that the engine can use.
        let told = [
            (("AWS/RDS", "CPUUtilization"), self.database.percent(pid("postgresql"), processors)),
            (("AWS/MemoryDB", "EngineCPUUtilization"), self.cache.percent(pid("valkey"), 1.0)),
        ];
        told.into_iter().filter_map(|(metric, percent)| Some((metric, percent?))).collect()
    }

    /// What the parts tell when they are asked.
    fn measure(&mut self, state: &State, wrong: &mut Vec<anyhow::Error>) -> Measured {
        let mut measured = Measured::new();
        let mut take = |namespace, name, value: Result<Option<f64>>| match value {
            Ok(Some(value)) => drop(measured.insert((namespace, name), value)),
            Ok(None) => {}
            Err(error) => wrong.push(error.context(name)),
        };
        take("AWS/MemoryDB", "DatabaseMemoryUsagePercentage", cache_memory(state).map(Some));
        take("AWS/Kafka", "OfflinePartitionsCount", self.offline_partitions(state).map(Some));
        take("AWS/Kafka", "KafkaDataLogsDiskUsed", self.broker_disk().map(Some));
        match self.counts(state) {
            Ok(counts) => {
                for (name, value) in [
                    ("ClientConnections", counts.sessions),
                    ("DatabaseConnections", counts.sessions),
                    ("DatabaseConnectionsCurrentlySessionPinned", counts.pinned),
                ] {
                    take("AWS/RDS", name, Ok(Some(value)));
                }
            }
            Err(error) => take("AWS/RDS", "ClientConnections", Err(error)),
        }
        measured
    }

    /// The proxy is not there on one machine, its clients reach the server: both counts are that of their sessions.
    fn counts(&mut self, state: &State) -> Result<sessions::Counts> {
        let endpoint = state.postgresql.as_ref().context("there is no database")?;
        let mut sessions = match self.sessions.take() {
            Some(sessions) => sessions,
            None => Sessions::open(&self.layout, endpoint)?,
        };
        let counts = sessions.counts()?;
        self.sessions = Some(sessions);
        Ok(counts)
    }

    /// Partitions without a leader, as the broker tells.
    fn offline_partitions(&mut self, state: &State) -> Result<f64> {
        let servers = &state.kafka.bootstrap_servers;
        if self.broker.as_ref().is_none_or(|(known, _)| known != servers) {
            let client = ClientConfig::new().set("bootstrap.servers", servers).create()?;
            self.broker = Some((servers.clone(), client));
        }
        let (_, client) = self.broker.as_ref().context("there is no broker")?;
        let metadata = client.fetch_metadata(None, TIMEOUT)?;
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        Ok(partitions.filter(|partition| partition.leader() < 0).count() as f64)
    }

    /// What the broker's data takes of the room that it could have, in percent.
    fn broker_disk(&mut self) -> Result<f64> {
        if let Some((measured, percent)) = self.disk
            && measured.elapsed() < DISK_EVERY
        {
            return Ok(percent);
        }
        let directory = self.layout.kafka_data();
        let room = nix::sys::statvfs::statvfs(&directory)?;
        let free = room.blocks_available() as f64 * room.fragment_size() as f64;
        let used = size_of(&directory)? as f64;
        let percent = 100.0 * used / (used + free).max(1.0);
        self.disk = Some((Instant::now(), percent));
        Ok(percent)
    }

    /// Tells what is watched and was measured.
    fn tell(&self, state: &State, measured: &Measured) -> Result<()> {
        let mut by_namespace: BTreeMap<&str, Vec<Json>> = BTreeMap::new();
        for watched in &self.watched {
            let found = measured.iter().find(|((namespace, name), _)| watched.is(namespace, name));
            if let Some(((namespace, _), value)) = found {
                by_namespace.entry(namespace).or_default().push(watched.datum(*value));
            }
        }
        for (namespace, data) in by_namespace {
            for data in data.chunks(DATA_PER_REQUEST) {
                let ask = json!({ "Namespace": namespace, "MetricData": data });
                self.cloudwatch(state, "PutMetricData", &ask)?;
            }
        }
        Ok(())
    }

    fn cloudwatch(&self, state: &State, operation: &str, ask: &Json) -> Result<Json> {
        let mut answer = self
            .agent
            .post(&state.aws.endpoint_url)
            .header(
                "Authorization",
                // The emulator looks at the region and the service that a signature names, not at the signature.
                &format!(
                    "AWS4-HMAC-SHA256 Credential=test/20260101/{}/monitoring/aws4_request, SignedHeaders=host, Signature=0",
                    state.aws.region
                ),
            )
            .header("Content-Type", "application/x-amz-json-1.0")
            .header("X-Amz-Target", &format!("GraniteServiceVersion20100801.{operation}"))
            .send(ask.to_string())
            .with_context(|| format!("{operation} is not answered"))?;
        let text = answer.body_mut().read_to_string()?;
        ensure!(answer.status().is_success(), "{operation}: {}: {text}", answer.status());
        Ok(serde_json::from_str(&text).unwrap_or(Json::Null))
    }
}

/// What Valkey holds of the machine's memory, in percent: it has no limit of its own here.
fn cache_memory(state: &State) -> Result<f64> {
    let endpoint = state.valkey.as_ref().context("there is no cache")?;
    let address: SocketAddr = format!("{}:{}", endpoint.host, endpoint.port).parse()?;
    let told = valkey::ask(address, "INFO memory", TIMEOUT)?;
    memory_percent(&told).context("Valkey does not tell its memory")
}

fn memory_percent(told: &str) -> Option<f64> {
    let figure = |name: &str| -> Option<f64> {
        told.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':')?.parse().ok())
    };
    let (used, all) = (figure("used_memory")?, figure("total_system_memory")?);
    (all > 0.0).then(|| 100.0 * used / all)
}

/// The bytes of the files in a directory. What goes away meanwhile counts nothing.
fn size_of(directory: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let Ok(entry) = entry else { continue };
        let Ok(found) = entry.metadata() else { continue };
        sum += if found.is_dir() { size_of(&entry.path()).unwrap_or(0) } else { allocated(&found) };
    }
    Ok(sum)
}

/// What a file takes on the disk: indexes are longer than what is written of them.
fn allocated(found: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(found) * 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_share_of_the_machines() {
        let told =
            "$100\r\n# Memory\r\nused_memory:250\r\nused_memory_rss:900\r\ntotal_system_memory:1000\r\n";
        assert_eq!(memory_percent(told), Some(25.0));
        assert_eq!(memory_percent("used_memory:250\r\n"), None);
        assert_eq!(memory_percent("used_memory:250\r\ntotal_system_memory:0\r\n"), None);
    }

    #[test]
    fn a_directory_is_as_large_as_what_is_written_in_it() {
        let directory = tempfile::TempDir::new().unwrap();
        fs::create_dir(directory.path().join("inner")).unwrap();
        fs::write(directory.path().join("inner/log"), vec![1; 100_000]).unwrap();
        let empty = fs::File::create(directory.path().join("index")).unwrap();
        empty.set_len(10_000_000).unwrap();
        let size = size_of(directory.path()).unwrap();
        assert!((100_000..1_000_000).contains(&size), "{size}");
    }
}
