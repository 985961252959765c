//! The derived sizes of an environment.

use capacity::{CapacityError, Sizing, kafka::TopicLoad, memory::ConsumerBounds};
use worker_contract::{
    kafka::{FETCH_QUEUE_BYTES, FETCH_QUEUE_MESSAGES, FETCH_RESPONSE_BYTES},
    trades::BATCHES_WAITING,
};

use crate::{Environment, RenderError, environment::System, trades::BATCH_BYTES};

/// The derived sizes of an environment, by system.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Of the trades system.
    pub trades: Sizing,
    /// Of the Kafka cluster, which carries the topics of all systems.
    pub kafka: Sizing,
    /// Of the ledger system.
    pub ledger: Sizing,
    /// Of the lessons system.
    pub lessons: Sizing,
    /// Of the tags system.
    pub tags: Sizing,
}

fn value(sizing: &Sizing, name: &str) -> u64 {
    sizing.get(name).map_or(0, |figure| figure.value)
}

impl Sizes {
    /// A figure of the trades system.
    #[must_use]
    pub fn trades(&self, name: &str) -> u64 {
        value(&self.trades, name)
    }

    /// A figure of the Kafka cluster.
    #[must_use]
    pub fn kafka(&self, name: &str) -> u64 {
        value(&self.kafka, name)
    }

    /// A figure of the ledger system.
    #[must_use]
    pub fn ledger(&self, name: &str) -> u64 {
        value(&self.ledger, name)
    }

    /// A figure of the lessons system.
    #[must_use]
    pub fn lessons(&self, name: &str) -> u64 {
        value(&self.lessons, name)
    }

    /// A figure of the tags system.
    #[must_use]
    pub fn tags(&self, name: &str) -> u64 {
        value(&self.tags, name)
    }

    /// All sizings with their systems' names, in the order in which they are shown.
    #[must_use]
    pub fn groups(&self) -> [(&'static str, &Sizing); 5] {
        [
            ("trades", &self.trades),
            ("ledger", &self.ledger),
            ("lessons", &self.lessons),
            ("tags", &self.tags),
            ("kafka", &self.kafka),
        ]
    }
}

/// The partitions of the dead-letter topic: few records, no order between them.
pub(crate) const DEAD_LETTER_PARTITIONS: u64 = 3;

/// The partitions of the ledger's control topic: one, so that modes have an order.
pub(crate) const CONTROL_PARTITIONS: u64 = 1;

/// Derives the sizes.
///
/// # Errors
///
/// When a service level cannot be met.
pub fn sizes(environment: &Environment) -> Result<Sizes, RenderError> {
    let refused = |source| RenderError::Capacity { environment: environment.name.clone(), source };
    let trades = trades(environment).map_err(refused)?;
    let ledger = ledger(environment).map_err(refused)?;
    let lessons = lessons(environment).map_err(refused)?;
    let tags = tags(environment).map_err(refused)?;
    let kafka = capacity::kafka::size(
        &capacity::kafka::Cluster {
            zones: u64::from(environment.network.zones),
            brokers_per_zone: u64::from(environment.kafka.brokers_per_zone),
            instance_type: &environment.kafka.instance_type,
            volume_gib: environment.kafka.volume_gib.map(u64::from),
            replication_factor: environment.kafka.replication_factor.map(u64::from),
        },
        &topics(environment, &trades, &ledger, &tags),
    )
    .map_err(refused)?;
    Ok(Sizes { trades, kafka, ledger, lessons, tags })
}

/// What the topics of all systems bring to the cluster.
fn topics(environment: &Environment, trades: &Sizing, ledger: &Sizing, tags: &Sizing) -> Vec<TopicLoad> {
    let level = &environment.trades;
    // Dead letters and modes are too few to count in bytes; their clients are those of the system's topic.
    let small = |name, partitions| TopicLoad {
        name,
        partitions,
        bytes_per_second: 0.0,
        retention_hours: 0,
        clients: 0,
    };
    let mut loads = Vec::new();
    if environment.has(System::Trades) {
        loads.push(TopicLoad {
            name: "trades",
            partitions: value(trades, "partitions"),
            bytes_per_second: level.messages_per_second.max(level.peak_messages_per_second / 2.0)
                * f64::from(level.message_bytes),
            retention_hours: u64::from(level.retention_hours),
            // Consumers, the producer, and KEDA's operator.
            clients: value(trades, "consumers") + 2,
        });
        loads.push(small("trades dead letters", DEAD_LETTER_PARTITIONS));
    }
    if environment.has(System::Ledger) {
        // Events come in at the source and go through the buffer, each with all partitions.
        // Pollers, functions that produce, the one that publishes the mode, and the ingress: of both together.
        let clients = value(ledger, "event_pollers") + value(ledger, "function_concurrency") + 2;
        for (name, clients) in [("ledger source", clients), ("ledger buffer", 0)] {
            loads.push(TopicLoad {
                name,
                partitions: value(ledger, "partitions"),
                bytes_per_second: environment.ledger.transactions_per_second
                    * f64::from(environment.ledger.record_bytes),
                retention_hours: u64::from(environment.ledger.retention_hours),
                clients,
            });
        }
        loads.push(small("ledger dead letters", DEAD_LETTER_PARTITIONS));
        loads.push(small("ledger control", CONTROL_PARTITIONS));
    }
    if environment.has(System::Tags) {
        loads.push(TopicLoad {
            name: "tags",
            partitions: value(tags, "partitions"),
            bytes_per_second: environment.tags.messages_per_second
                * f64::from(environment.tags.message_bytes),
            retention_hours: u64::from(environment.tags.retention_hours),
            clients: value(tags, "workers") + u64::from(environment.tags.producers),
        });
        loads.push(small("tags dead letters", DEAD_LETTER_PARTITIONS));
    }
    loads
}

fn trades(environment: &Environment) -> Result<Sizing, CapacityError> {
    let level = &environment.trades;
    capacity::trades::size(&capacity::trades::ServiceLevel {
        messages_per_second: level.messages_per_second,
        peak_messages_per_second: level.peak_messages_per_second,
        batch_size: u64::from(level.batch_size),
        batch_processing_seconds: level.batch_processing_seconds,
        batches_in_flight: u64::from(level.batches_in_flight),
        safety_factor: level.safety_factor,
        consumers_min: u64::from(level.consumers_min),
        consumers: level.overrides.consumers.map(u64::from),
        partitions: level.overrides.partitions.map(u64::from),
        consumer: ConsumerBounds {
            batches_waiting: u64::from(BATCHES_WAITING),
            batch_bytes: BATCH_BYTES,
            queue_bytes: FETCH_QUEUE_BYTES,
            queue_messages: FETCH_QUEUE_MESSAGES,
            response_bytes: FETCH_RESPONSE_BYTES,
            brokers: u64::from(environment.network.zones) * u64::from(environment.kafka.brokers_per_zone),
        },
        consumer_memory_mib: level.overrides.consumer_memory_mib.map(u64::from),
    })
}

fn ledger(environment: &Environment) -> Result<Sizing, CapacityError> {
    let (level, database) = (&environment.ledger, &environment.database);
    capacity::ledger::size(&capacity::ledger::ServiceLevel {
        transactions_per_second: level.transactions_per_second,
        write_seconds: level.write_seconds,
        safety_factor: level.safety_factor,
        batch_records: u64::from(level.batch_records),
        chunk_concurrency: u64::from(level.chunk_concurrency),
        pool_limit: u64::from(level.pool_limit),
        record_bytes: u64::from(level.record_bytes),
        database: capacity::database::Database {
            instance_class: &database.instance_class,
            min_capacity: database.min_capacity.unwrap_or_default(),
            max_capacity: database.max_capacity.unwrap_or_default(),
        },
        overrides: capacity::ledger::Overrides {
            partitions: level.overrides.partitions.map(u64::from),
            function_concurrency: level.overrides.function_concurrency.map(u64::from),
            event_pollers: level.overrides.event_pollers.map(u64::from),
            proxy_max_connections_percent: level.overrides.proxy_max_connections_percent.map(u64::from),
            proxy_max_idle_percent: level.overrides.proxy_max_idle_percent.map(u64::from),
            function_memory_mib: level.overrides.function_memory_mib.map(u64::from),
        },
    })
}

fn lessons(environment: &Environment) -> Result<Sizing, CapacityError> {
    let level = &environment.lessons;
    capacity::lessons::size(&capacity::lessons::ServiceLevel {
        records_per_second: level.records_per_second,
        peak_records_per_second: level.peak_records_per_second,
        record_bytes: u64::from(level.record_bytes),
        fan_out: u64::from(level.fan_out),
        reads_per_record: level.reads_per_record,
        writes_per_record: level.writes_per_record,
        users: level.users,
        user_bytes: u64::from(level.user_bytes),
        user_subscriptions: level.user_subscriptions,
        user_subscription_bytes: u64::from(level.user_subscription_bytes),
        seconds_per_record: level.seconds_per_record,
        batch_records: u64::from(level.batch_records),
        safety_factor: level.safety_factor,
        overrides: capacity::lessons::Overrides {
            input_shards: level.overrides.input_shards.map(u64::from),
            output_shards: level.overrides.output_shards.map(u64::from),
            read_units: level.overrides.read_units.map(u64::from),
            write_units: level.overrides.write_units.map(u64::from),
            parallelization_factor: level.overrides.parallelization_factor.map(u64::from),
            function_concurrency: level.overrides.function_concurrency.map(u64::from),
        },
    })
}

fn tags(environment: &Environment) -> Result<Sizing, CapacityError> {
    let level = &environment.tags;
    capacity::tags::size(&capacity::tags::ServiceLevel {
        objects: level.objects,
        object_bytes: u64::from(level.object_bytes),
        objects_per_channel: u64::from(level.objects_per_channel),
        messages_per_second: level.messages_per_second,
        message_bytes: u64::from(level.message_bytes),
        partitions: u64::from(level.partitions),
        retention_seconds: u64::from(level.expiry_seconds),
        worker_messages_per_second: level.worker_messages_per_second,
        workers_min: u64::from(level.workers_min),
        zones: u64::from(environment.network.zones),
        node_type: &environment.cache.node_type,
        overrides: capacity::tags::Overrides {
            // The service level says them itself.
            partitions: None,
            memory_gib: level.overrides.memory_gib.map(u64::from),
            shards: level.overrides.shards.map(u64::from),
            replicas_per_shard: level.overrides.replicas_per_shard.map(u64::from),
            workers: level.overrides.workers.map(u64::from),
        },
    })
}
