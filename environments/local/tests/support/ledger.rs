//! The ledger's own stacks, deployed by the engine into an environment of a test's own: the real topics, functions,
//! database, alarms and mode.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    time::Duration,
};

use ledger_events::{Change, Entity, Envelope, Mode, ModeRecord, control::ControlMessage};
use local_environment::{control::State, event_sources::status::MappingStatus, process::wait_until};
use platform::{Environment as Level, System};
use serde_json::{Value as Json, json};

use super::{
    Environment, PROGRAM,
    aws::Aws,
    cloudformation::between,
    database::{Held, ask, script},
    ledger_traffic::Sent,
    processes,
    topics::Topics,
};

/// How long something may take to come about while the machine is busy and parts are away.
const PATIENCE: Duration = Duration::from_secs(180);

/// The stack of functions and alarms.
const STACK: &str = "ledger";

/// A ledger that runs.
pub(crate) struct Ledger {
    pub(crate) environment: Environment,
    pub(crate) aws: Aws,
    pub(crate) topics: Topics,
    pub(crate) servers: String,
    /// The database, as its superuser.
    pub(crate) database: Json,
    prefix: String,
    endpoint: String,
}

/// What a writer told of an invocation.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// Which execution environment.
    pub(crate) instance: String,
    /// Its mode at the end.
    pub(crate) mode: String,
    /// Chunks at once.
    pub(crate) limit: f64,
    /// What it tried again.
    pub(crate) retries: f64,
    /// When it began and ended, in milliseconds since the epoch.
    pub(crate) began_ms: i64,
    pub(crate) ended_ms: i64,
}

impl Ledger {
    /// Deploys it, alone. `change` may alter the ledger's template.
    #[track_caller]
    pub(crate) fn deploy(change: impl FnOnce(&mut Json)) -> Self {
        let environment = Environment::new();
        let mut level = Level::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), "local").unwrap();
        level.systems = vec![System::Ledger];
        let state: State =
            serde_json::from_value(environment.ask(&["up", "--region", &level.region])).unwrap();
        let assembly = environment.root().join("assembly");
        platform::render(&level).unwrap().write(&assembly).unwrap();
        let file = assembly.join(format!("{STACK}.template.json"));
        let mut template: Json = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        change(&mut template);
        fs::write(&file, template.to_string()).unwrap();
        deploy(&environment, &assembly, &state.aws.endpoint_url);
        let database = state.postgresql.unwrap();
        Self {
            aws: Aws::of_region(&state.aws.endpoint_url, &level.region),
            topics: Topics::at(&state.kafka.bootstrap_servers),
            servers: state.kafka.bootstrap_servers,
            database: json!({
                "host": database.host, "port": database.port, "superuser": database.superuser,
                "password": fs::read_to_string(&database.password_file).unwrap(), "database": "ledger",
            }),
            prefix: level.prefix,
            endpoint: state.aws.endpoint_url,
            environment,
        }
    }

    /// Waits, longer than the other tests do.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, condition: impl FnMut() -> bool) {
        if !wait_until(PATIENCE, condition) {
            let writers = self.writers(0);
            let last = writers.iter().rev().take(3).collect::<Vec<_>>();
            panic!("waited in vain: {what}\n{:#?}\n{:?}\n{last:#?}", self.mappings(), self.mode());
        }
    }

    /// What a resource of the functions' stack is called.
    pub(crate) fn name_of(&self, logical_id: &str) -> String {
        self.name_in(STACK, logical_id)
    }

    /// What a resource of a stack is called.
    pub(crate) fn name_in(&self, stack: &str, logical_id: &str) -> String {
        let stack = format!("{}-{stack}", self.prefix);
        let asked = [("StackName", stack.as_str()), ("LogicalResourceId", logical_id)];
        let answer = self.aws.form("cloudformation", "2010-05-15", "DescribeStackResource", &asked);
        between(&answer, "PhysicalResourceId").unwrap()
    }

    /// The mode in Parameter Store.
    pub(crate) fn mode(&self) -> Option<ModeRecord> {
        let asked = json!({ "Name": self.name_of("Mode") });
        let (status, answer) = self.aws.try_json("ssm", "AmazonSSM.GetParameter", &asked);
        (status == 200).then(|| ModeRecord::parse(answer["Parameter"]["Value"].as_str().unwrap()).unwrap())
    }

    /// Puts something into the parameter, as an operator or a deployment could.
    pub(crate) fn put_mode(&self, record: &ModeRecord) {
        let asked = json!({ "Name": self.name_of("Mode"), "Value": record.to_text(), "Overwrite": true });
        let _ = self.aws.json("ssm", "AmazonSSM.PutParameter", &asked);
    }

    /// Waits until a mode holds.
    #[track_caller]
    pub(crate) fn wait_for_mode(&self, mode: Mode) -> ModeRecord {
        let mut found = None;
        self.wait_for(mode.as_str(), || {
            found = self.mode().filter(|record| record.at(now_ms()) == mode);
            found.is_some()
        });
        found.unwrap()
    }

    /// The records on the control topic, in their order.
    pub(crate) fn control_records(&self) -> Vec<ModeRecord> {
        let records = self.topics.read("ledger-control").into_iter();
        records.map(|(_, text)| serde_json::from_str::<ControlMessage>(&text).unwrap().control).collect()
    }

    /// An alarm's state.
    pub(crate) fn alarm(&self, logical_id: &str) -> String {
        let named = [("AlarmNames.member.1", self.name_of(logical_id))];
        let named = named.each_ref().map(|(key, value)| (*key, value.as_str()));
        let answer = self.aws.form("monitoring", "2010-08-01", "DescribeAlarms", &named);
        between(&answer, "StateValue").unwrap()
    }

    /// What the writers told of invocations that ended since a time, in milliseconds since the epoch.
    pub(crate) fn writers(&self, since_ms: i64) -> Vec<Told> {
        let lines = self.log("WriterLogs", "AgeMilliseconds", since_ms);
        let told = lines.iter().filter_map(|line| serde_json::from_str::<Json>(line).ok());
        let mut told: Vec<Told> = told
            .map(|line| {
                let number = |name: &str| line[name].as_f64().unwrap();
                let ended_ms = line["_aws"]["Timestamp"].as_i64().unwrap();
                #[allow(clippy::cast_possible_truncation)]
                let took_ms = number("InvocationMilliseconds") as i64;
                Told {
                    instance: line["instance"].as_str().unwrap().to_owned(),
                    mode: line["mode"].as_str().unwrap().to_owned(),
                    limit: number("Limit"),
                    retries: number("Retries"),
                    began_ms: ended_ms - took_ms,
                    ended_ms,
                }
            })
            .filter(|told| told.ended_ms >= since_ms)
            .collect();
        told.sort_by_key(|told| told.ended_ms);
        told
    }

    /// Lines of a log that hold a word.
    pub(crate) fn log(&self, logical_id: &str, word: &str, since_ms: i64) -> Vec<String> {
        let asked = json!({
            "logGroupName": self.name_of(logical_id), "filterPattern": word, "startTime": since_ms,
        });
        let answer = self.aws.json("logs", "Logs_20140328.FilterLogEvents", &asked);
        let events = answer["events"].as_array().cloned().unwrap_or_default();
        events.iter().map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The event source mappings.
    pub(crate) fn mappings(&self) -> Vec<MappingStatus> {
        self.environment.status().event_sources
    }

    /// The writer's mapping.
    pub(crate) fn writer_mapping(&self) -> MappingStatus {
        self.mappings().into_iter().find(|mapping| mapping.source == "ledger-buffer").unwrap_or_default()
    }

    /// The processes of a function's execution environments.
    pub(crate) fn environments_of(&self, logical_id: &str) -> Vec<i32> {
        let name = format!("AWS_LAMBDA_FUNCTION_NAME={}", self.name_of(logical_id));
        let endpoint = format!("AWS_ENDPOINT_URL={}", self.endpoint);
        let has = |variables: &str, wanted: &str| variables.split('\0').any(|variable| variable == wanted);
        processes()
            .into_iter()
            .filter(|pid| {
                fs::read(format!("/proc/{pid}/environ")).is_ok_and(|text| {
                    let text = String::from_utf8_lossy(&text);
                    has(&text, &name) && has(&text, &endpoint)
                })
            })
            .collect()
    }

    /// A number that the database gives; none while it is away.
    pub(crate) fn number(&self, sql: &str) -> Option<u64> {
        ask(&self.database, sql)?.parse().ok()
    }

    /// How many events have had their effect.
    pub(crate) fn written(&self) -> u64 {
        self.number("SELECT count(*) FROM applied_events").unwrap_or_default()
    }

    /// Waits until as many events have had their effect.
    #[track_caller]
    pub(crate) fn wait_until_written(&self, what: &str, events: u64) {
        self.wait_for(&format!("{what}: {events} events to be written"), || self.written() >= events);
    }

    /// Keeps the writers from finishing a statement until it is dropped.
    pub(crate) fn lock(&self, table: &str) -> Held {
        Held::begin(&self.database, &format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
    }

    /// How many of the writers' statements wait for a lock.
    pub(crate) fn waiting_writers(&self) -> u64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'ledger_writer' AND wait_event_type = 'Lock'";
        self.number(sql).unwrap_or_default()
    }

    /// Counts what must hold when all that was sent has been taken: nothing lost, no row gone back, no effect twice, what
    /// is malformed among the dead letters, with what the writer put aside, by its causes, and nothing given up.
    #[track_caller]
    pub(crate) fn assert_holds(&self, sent: &Sent, put_aside: &[&str]) {
        let ids: Vec<String> = sent.events.iter().map(|event| event.event_id.to_string()).collect();
        let mut newest: BTreeMap<(Entity, uuid::Uuid), &Envelope> = BTreeMap::new();
        for event in &sent.events {
            let row = newest.entry((event.change.entity(), event.change.id())).or_insert(event);
            if event.version > row.version {
                *row = event;
            }
        }
        let rows: Vec<String> = newest
            .iter()
            .map(|((entity, id), event)| {
                let deleted = matches!(event.change, Change::Delete { .. });
                format!("{}\t{id}\t{}\t{deleted}", entity.as_str(), event.version)
            })
            .collect();
        let tables: Vec<String> = Entity::ALL
            .iter()
            .map(|entity| format!("SELECT '{0}' AS entity, id, version, deleted FROM {0}", entity.as_str()))
            .collect();
        let figures = script(
            &self.database,
            &format!(
                "CREATE TEMP TABLE sent_events (id text);
                 COPY sent_events FROM STDIN;\n{}\n\\.\n
                 CREATE TEMP TABLE wanted (entity text, id uuid, version bigint, deleted boolean);
                 COPY wanted FROM STDIN;\n{}\n\\.\n
                 CREATE TEMP VIEW found AS {};
                 SELECT count(*) FROM sent_events s
                     WHERE NOT EXISTS (SELECT FROM applied_events a WHERE a.event_id = decode(s.id, 'hex'));
                 SELECT coalesce(sum(upserts + deletes), 0) - (SELECT count(*) FROM sent_events) FROM totals;
                 SELECT count(*) FROM wanted w LEFT JOIN found f USING (entity, id) WHERE f.id IS NULL;
                 SELECT count(*) FROM wanted w JOIN found f USING (entity, id) WHERE f.version < w.version;
                 SELECT count(*) FROM wanted w JOIN found f USING (entity, id)
                     WHERE f.version > w.version OR f.deleted <> w.deleted;
                 SELECT count(*) FROM found f LEFT JOIN wanted w USING (entity, id) WHERE w.id IS NULL;
                 SELECT s.id FROM sent_events s
                     WHERE NOT EXISTS (SELECT FROM applied_events a WHERE a.event_id = decode(s.id, 'hex')) LIMIT 5;",
                ids.join("\n"),
                rows.join("\n"),
                tables.join(" UNION ALL "),
            ),
        );
        let told: Vec<&str> = figures.lines().collect();
        println!(
            "{} records, {} events, {} malformed: events lost {}, effects twice {}, rows lost {}, rows that went back {}",
            sent.records,
            ids.len(),
            sent.malformed,
            told[0],
            told[1],
            told[2],
            told[3]
        );
        let letters = self.topics.headers("ledger-dlq", 3);
        let by_the_writer = |letter: &&BTreeMap<String, String>| letter["source_topic"] == "ledger-buffer";
        assert_eq!(
            told[..6],
            ["0"; 6],
            "events lost, effects twice, rows lost, rows that went back, rows that differ, rows that nobody sent; {:?} {:?}",
            told.get(6..),
            letters.iter().filter(by_the_writer).collect::<Vec<_>>()
        );
        let mut by_cause: BTreeMap<String, BTreeSet<(String, String, String)>> = BTreeMap::new();
        for mut headers in letters {
            let mut take = |key: &str| headers.remove(key).unwrap_or_default();
            let origin = (take("source_topic"), take("source_partition"), take("source_offset"));
            by_cause.entry(take("cause")).or_default().insert(origin);
        }
        for cause in put_aside {
            let found = by_cause.remove(*cause).unwrap_or_default();
            assert!(
                found.iter().all(|(topic, ..)| topic == "ledger-buffer") && found.len() == 1,
                "{found:?}"
            );
        }
        let causes: Vec<&String> = by_cause.keys().collect();
        assert_eq!(causes, ["invalid", "malformed", "unknown_entity", "unknown_version"]);
        let malformed: usize = by_cause.values().map(BTreeSet::len).sum();
        assert_eq!(malformed, sent.malformed, "dead letters, each counted once");
        for mapping in self.mappings() {
            assert_eq!((mapping.given_up, mapping.destination_sends), (0, 0), "{mapping:?}");
        }
        let queue = json!({ "QueueUrl": self.name_of("FailedBatches"), "AttributeNames": ["All"] });
        let queue = self.aws.json("sqs", "AmazonSQS.GetQueueAttributes", &queue);
        assert_eq!(queue["Attributes"]["ApproximateNumberOfMessages"], "0", "{queue}");
    }
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    local_environment::event_sources::dispatch::now_ms()
}

#[track_caller]
fn deploy(environment: &Environment, assembly: &Path, endpoint: &str) {
    let binaries = Path::new(PROGRAM).parent().unwrap();
    for program in ["deploy-engine", "ledger-transform", "ledger-writer", "ledger-mode", "ledger-migrate"] {
        assert!(
            binaries.join(program).is_file(),
            "this test deploys {program}: run it by `cargo xtask test`, or `cargo build --workspace --bins` first"
        );
    }
    let output = Command::new(binaries.join("deploy-engine"))
        .arg("--assembly")
        .arg(assembly)
        .arg("--local-environment")
        .arg(PROGRAM)
        .arg("--local-root")
        .arg(environment.root())
        .arg("--assets")
        .arg(environment.root().join("assets"))
        .args(["--endpoint-url", endpoint, "deploy", "--yes", "--stacks-only", "--binaries"])
        .arg(binaries)
        .env_remove("AWS_PROFILE")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}
