//! Consumers come with the lag and go with it: on the real broker, with the supervisor, counted.

#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use local_environment::control::WorkloadStatus;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use support::{Environment, is_running, kill_at_once, wait_for};

const TOPIC: &str = "trades";
const GROUP: &str = "workers";
const PARTITIONS: i32 = 6;
const REPLICAS_MAX: u32 = 4;
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// The workspace's own consumer, which has to be built before: `cargo build --workspace --bins`.
fn consumer() -> PathBuf {
    let program = PathBuf::from(support::PROGRAM).with_file_name("trade-consumer");
    assert!(program.is_file(), "{} is not built; `cargo xtask test` builds it", program.display());
    program
}

/// An environment with a topic, and consumers of it that a ScaledObject scales. A consumer does 100 records/s.
struct Scaled {
    environment: Environment,
    servers: String,
    produced: std::cell::Cell<u64>,
}

impl Scaled {
    fn new() -> Self {
        let environment = Environment::new();
        let servers = environment.up().kafka.bootstrap_servers;
        let admin: AdminClient<DefaultClientContext> = client(&servers).create().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let topics =
            [TOPIC, "letters"].map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1)));
        for made in runtime.block_on(admin.create_topics(&topics, &AdminOptions::new())).unwrap() {
            made.unwrap();
        }
        let scaled = Self { environment, servers, produced: std::cell::Cell::new(0) };
        scaled.apply();
        scaled
    }

    fn apply(&self) {
        let root = self.environment.root();
        let (manifests, program) = (root.join("manifests"), consumer());
        fs::create_dir_all(&manifests).unwrap();
        let digest: String =
            Sha256::digest(fs::read(&program).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
        let servers = &self.servers;
        let manifest = format!(
            r#"kind: Deployment
metadata: {{name: consumer}}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 10
      containers:
        - image: "local/trade-consumer@sha256:{digest}"
          env:
            - {{name: KAFKA_BOOTSTRAP_SERVERS, value: "{servers}"}}
            - {{name: KAFKA_AUTHENTICATION, value: none}}
            - {{name: KAFKA_TOPIC, value: {TOPIC}}}
            - {{name: KAFKA_DEAD_LETTER_TOPIC, value: letters}}
            - {{name: CONSUMER_GROUP, value: {GROUP}}}
            - {{name: BATCH_SIZE, value: "20"}}
            - {{name: BATCH_PROCESSING_TIME, value: "0.195"}}
            - {{name: RUST_LOG, value: "info,trade_consumer=debug"}}
            - name: POD_NAME
              valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}
          readinessProbe: {{httpGet: {{path: /readyz, port: 8000}}}}
---
kind: ScaledObject
metadata: {{name: consumer}}
spec:
  scaleTargetRef: {{name: consumer}}
  pollingInterval: 1
  cooldownPeriod: 4
  maxReplicaCount: {REPLICAS_MAX}
  fallback: {{failureThreshold: 3, replicas: 1, behavior: currentReplicasIfHigher}}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior: {{scaleDown: {{stabilizationWindowSeconds: 15}}}}
  triggers:
    - type: kafka
      metadata:
        bootstrapServers: "{servers}"
        topic: {TOPIC}
        consumerGroup: {GROUP}
        lagThreshold: "200"
        offsetResetPolicy: earliest
"#
        );
        fs::write(manifests.join("consumer.yaml"), manifest).unwrap();
        let (manifests, binaries) = (
            manifests.to_string_lossy().into_owned(),
            program.parent().unwrap().to_string_lossy().into_owned(),
        );
        let _ = self.environment.ask(&["apply", "--manifests", &manifests, "--binaries", &binaries]);
    }

    /// Writes good trades, spread over the partitions.
    fn produce(&self, records: u64) {
        let producer: BaseProducer =
            client(&self.servers).set("enable.idempotence", "true").create().unwrap();
        for number in 0..records {
            let key = format!("ACC{}", number % 97);
            let trade = format!(
                r#"{{"account_id":"{key}","trade_id":"T{number}","symbol":"X","trade_type":"BUY","quantity":1,"price":1.0,"timestamp":"2026-01-01T00:00:00Z"}}"#
            );
            producer
                .send(BaseRecord::to(TOPIC).key(&key).payload(&trade))
                .map_err(|(error, _)| error)
                .unwrap();
        }
        producer.flush(FLUSH_TIMEOUT).unwrap();
        self.produced.set(self.produced.get() + records);
    }

    fn workload(&self) -> WorkloadStatus {
        self.environment.status().workloads.into_iter().find(|workload| workload.name == "consumer").unwrap()
    }

    fn desired(&self) -> u32 {
        self.workload().replicas.desired
    }

    fn lag(&self) -> i64 {
        local_environment::lag::lag(&self.servers, TOPIC, GROUP).map_or(i64::MAX, |lag| lag.lag_records)
    }

    /// Written batches by partition and offset, from the consumers' logs: how often each record was.
    fn written(&self) -> BTreeMap<(u32, u64), u32> {
        let mut written = BTreeMap::new();
        for entry in fs::read_dir(self.environment.root().join("logs")).unwrap() {
            let path = entry.unwrap().path();
            if !path.file_name().unwrap().to_string_lossy().starts_with("consumer-") {
                continue;
            }
            for line in fs::read_to_string(path).unwrap().lines() {
                let Ok(json) = serde_json::from_str::<Json>(line) else { continue };
                let Some(offsets) = json["offsets"].as_str() else { continue };
                for run in offsets.split(' ') {
                    let (partition, offsets) = run.split_once(':').unwrap();
                    let (first, last) = offsets.split_once('-').unwrap();
                    for offset in first.parse().unwrap()..=last.parse::<u64>().unwrap() {
                        *written.entry((partition.parse().unwrap(), offset)).or_insert(0) += 1;
                    }
                }
            }
        }
        written
    }

    /// Everything that was produced is written; the number of records that were so more than once.
    #[track_caller]
    fn count(&self) -> usize {
        let written = self.written();
        assert_eq!(written.len() as u64, self.produced.get(), "each record is written");
        written.values().filter(|times| **times > 1).count()
    }
}

fn client(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("log_level", "0");
    config
}

#[test]
fn consumers_come_with_the_lag_and_go_with_it() {
    let scaled = Scaled::new();
    wait_for("nothing to do: no consumer", || {
        let workload = scaled.workload();
        workload.replicas.desired == 0 && workload.pids.is_empty()
    });
    scaled.produce(4000);
    let mut most = 0;
    wait_for("as many consumers as there may be", || {
        most = most.max(scaled.desired());
        most == REPLICAS_MAX
    });
    wait_for("the lag to be gone", || {
        most = most.max(scaled.desired());
        scaled.lag() == 0
    });
    wait_for("no consumer again", || scaled.desired() == 0);
    assert_eq!(most, REPLICAS_MAX, "never more than there may be");
    assert_eq!(scaled.count(), 0, "nothing is written twice: consumers drain before they go");
    let scaling = scaled.workload().scaling.unwrap();
    let told: Vec<(u32, u32)> = scaling.decisions.iter().map(|one| (one.current, one.desired)).collect();
    assert!(told.iter().any(|(current, desired)| *current == 0 && *desired > 0), "{told:?}");
    assert!(told.len() <= 10 && told.last().unwrap().1 == 0, "{told:?}");
    assert!(scaling.decisions.last().unwrap().reason.contains("cooldown"), "{:?}", scaling.decisions);

    // By hand it stays as it is set, until that is taken back.
    let told = scaled.environment.run(&["scale", "consumer", "2"]);
    assert!(String::from_utf8_lossy(&told.stderr).contains("resume consumer"), "{told:?}");
    assert_eq!(scaled.workload().scaling.unwrap().paused, Some(2));
    scaled.apply();
    assert_eq!(scaled.desired(), 2, "a deploy does not take it back");
    let _ = scaled.environment.ask(&["resume", "consumer"]);
    wait_for("scaling to go on", || scaled.desired() == 0);
}

#[test]
fn a_broker_that_restarts_and_a_supervisor_that_is_killed_lose_nothing() {
    let scaled = Scaled::new();
    scaled.produce(4000);
    wait_for("several consumers", || scaled.desired() > 1);
    let before = scaled.desired();
    scaled.environment.crash("kafka");
    assert!(scaled.desired() >= before, "without a broker nobody is taken away");
    wait_for("the lag to be read again", || {
        scaled
            .workload()
            .scaling
            .is_some_and(|scaling| scaling.error.is_none() && scaling.lag_records.is_some())
    });
    scaled.produce(2000);

    let decided = scaled.workload().scaling.unwrap().decisions;
    let wanted = scaled.desired();
    let supervisor = scaled.environment.up().supervisor.pid;
    kill_at_once(supervisor);
    wait_for("the supervisor to be gone", || !is_running(supervisor));
    let _ = scaled.environment.up();
    scaled.apply();
    let remembered = scaled.workload().scaling.unwrap().decisions;
    assert!(remembered.iter().any(|one| decided.contains(one)), "{remembered:?} {decided:?}");
    let again = scaled.desired();
    assert!(again > 0 && again + 1 >= wanted.min(2), "{again} after {wanted}: it begins where it was");
    wait_for("the lag to be gone", || scaled.lag() == 0);
    wait_for("no consumer", || scaled.desired() == 0);
    // What a consumer had in hand when it was ended in the middle is written again, and nothing is lost.
    let again = scaled.count();
    assert!(again <= 2000, "{again} of {} twice", scaled.produced.get());
}
