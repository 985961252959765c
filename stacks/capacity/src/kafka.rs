//! The MSK cluster: brokers, replicas, storage, connections.

use crate::figure::{CapacityError, Load, Sizing, ceil};

/// What a topic brings to the cluster.
#[derive(Clone, Copy, Debug)]
pub struct TopicLoad {
    /// Its name.
    pub name: &'static str,
    /// Its partitions, without replicas.
    pub partitions: u64,
    /// Sustained bytes per second in, without replicas.
    pub bytes_per_second: f64,
    /// How long its records are kept, in hours.
    pub retention_hours: u64,
    /// Client processes that produce to it or consume it, at most.
    pub clients: u64,
}

/// What the environment says of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Cluster<'a> {
    /// Availability zones: 2 or 3.
    pub zones: u64,
    /// Brokers in each zone.
    pub brokers_per_zone: u64,
    /// Such as `kafka.m7g.large`.
    pub instance_type: &'a str,
    /// Overrides the derived volume, in GiB a broker.
    pub volume_gib: Option<u64>,
    /// Overrides the derived replicas of a partition.
    pub replication_factor: Option<u64>,
}

/// TCP connections of IAM clients a broker takes (`listener.name.client_iam.max.connections`).
pub const IAM_CONNECTIONS_PER_BROKER: u64 = 3000;

/// New IAM connections a broker takes each second; MSK quotas. Newer copies of the page say 100: the lower counts.
#[must_use]
pub fn iam_connections_per_second(instance_type: &str) -> u64 {
    if instance_type == "kafka.t3.small" { 4 } else { 20 }
}

/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;

/// Partition replicas a broker should carry at most, by instance size: MSK's best practices.
#[must_use]
pub fn partition_limit(instance_type: &str) -> Option<u64> {
    let size = instance_type.strip_prefix("kafka.")?.split_once('.')?;
    match size {
        ("t3", "small") => Some(300),
        (_, "large" | "xlarge") => Some(1000),
        (_, "2xlarge") => Some(2000),
        (_, size) if size.ends_with("xlarge") => Some(4000),
        _ => None,
    }
}

/// Sizes the cluster.
///
/// # Errors
///
/// When the load does not fit, with what to change.
pub fn size(cluster: &Cluster<'_>, topics: &[TopicLoad]) -> Result<Sizing, CapacityError> {
    let total = |of: fn(&TopicLoad) -> f64| topics.iter().map(of).sum::<f64>();
    let partitions: u64 = topics.iter().map(|topic| topic.partitions).sum();
    let clients: u64 = topics.iter().map(|topic| topic.clients).sum();
    let rate = total(|topic| topic.bytes_per_second);
    let mut sizing = Sizing::of(Load::sustained(rate, "bytes/s"));
    let brokers = sizing.derive(
        "brokers",
        "brokers",
        cluster.zones * cluster.brokers_per_zone,
        None,
        format!("zones {} x brokers_per_zone {}", cluster.zones, cluster.brokers_per_zone),
        "MSK: the number of brokers is a multiple of the number of subnets",
    );
    if !(2..=3).contains(&cluster.zones) || brokers == 0 {
        return Err(CapacityError::new(format!(
            "MSK wants 2 or 3 zones with a broker each; there are {} zones and {brokers} brokers",
            cluster.zones
        )));
    }
    let replication = sizing.derive(
        "replication_factor",
        "replicas",
        cluster.zones.min(3),
        cluster.replication_factor,
        format!("min(zones {}, 3)", cluster.zones),
        "a replica a zone, so that a lost zone loses no record",
    );
    if replication < 2 || replication > cluster.zones {
        return Err(CapacityError::new(format!(
            "replication_factor {replication} in {} zones: it is 2 to the number of zones, else two replicas are lost with one zone",
            cluster.zones
        )));
    }
    sizing.derive(
        "min_insync_replicas",
        "replicas",
        replication - 1,
        None,
        format!("replication_factor {replication} - 1"),
        "acks=all survives the loss of one broker, and one broker may be away during maintenance",
    );
    let replicas = partitions * replication;
    let per_broker = sizing.derive(
        "partition_replicas_per_broker",
        "partitions",
        replicas.div_ceil(brokers),
        None,
        format!(
            "ceil(partitions {partitions} x replication_factor {replication} / brokers {brokers}), partitions = {}",
            topics
                .iter()
                .map(|topic| format!("{} {}", topic.name, topic.partitions))
                .collect::<Vec<_>>()
                .join(" + ")
        ),
        "MSK best practices, right-size your cluster",
    );
    let limit = partition_limit(cluster.instance_type).ok_or_else(|| {
        CapacityError::new(format!(
            "the instance type `{}` is not one of MSK's, such as kafka.m7g.large",
            cluster.instance_type
        ))
    })?;
    if per_broker > limit {
        return Err(CapacityError::new(format!(
            "{per_broker} partition replicas a broker exceed the {limit} that {} should carry; raise brokers_per_zone or take a larger instance_type",
            cluster.instance_type
        )));
    }
    // Bytes that all topics hold once their retention has run full.
    let held = total(|topic| topic.bytes_per_second * 3600.0 * topic.retention_hours as f64);
    let stored = held * replication as f64 / brokers as f64;
    // Half the volume stays free: 30% for a broker's catching up and 20% for growth before the alarm.
    let volume = sizing.derive(
        "volume_gib",
        "GiB a broker",
        ceil(stored * 2.0 / GIB).max(10),
        cluster.volume_gib,
        format!(
            "max(10, ceil(2 x {held:.0} bytes x replication_factor {replication} / brokers {brokers} / 2^30)), bytes = {}",
            topics
                .iter()
                .filter(|topic| topic.bytes_per_second > 0.0)
                .map(|topic| {
                    format!("{} {:.0}/s x {} h x 3600", topic.name, topic.bytes_per_second, topic.retention_hours)
                })
                .collect::<Vec<_>>()
                .join(" + ")
        ),
        "retention x rate x replicas, half of it kept free; a peak fills the volume only when it lasts as long as the retention",
    );
    sizing.exhausted_at(rate * volume as f64 * GIB / stored);
    let connections = sizing.derive(
        "connections_per_broker",
        "connections",
        clients * 2,
        None,
        format!("clients {clients} x 2 (data and coordinator)"),
        "MSK quota: 3,000 IAM connections a broker",
    );
    if connections > IAM_CONNECTIONS_PER_BROKER {
        return Err(CapacityError::new(format!(
            "{connections} connections a broker exceed MSK's {IAM_CONNECTIONS_PER_BROKER} for IAM clients; fewer clients or more brokers are needed"
        )));
    }
    let new = iam_connections_per_second(cluster.instance_type);
    sizing.derive(
        "reconnect_seconds",
        "s",
        connections.div_ceil(new).max(1),
        None,
        format!("ceil(connections_per_broker {connections} / {new} new connections/s)"),
        "MSK quota: 20 new IAM connections a second and broker, 4 on kafka.t3.small; so long do all clients take to come back",
    );
    Ok(sizing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOPIC: TopicLoad = TopicLoad {
        name: "trade-tx",
        partitions: 25,
        bytes_per_second: 200_000.0,
        retention_hours: 24,
        clients: 30,
    };
    const CLUSTER: Cluster<'_> = Cluster {
        zones: 3,
        brokers_per_zone: 1,
        instance_type: "kafka.m7g.large",
        volume_gib: None,
        replication_factor: None,
    };

    #[test]
    fn a_cluster_over_three_zones_survives_one() {
        let sizing = size(&CLUSTER, &[TOPIC]).unwrap();
        let value = |name: &str| sizing.get(name).unwrap().value;
        assert_eq!((value("brokers"), value("replication_factor"), value("min_insync_replicas")), (3, 3, 2));
        assert_eq!(value("partition_replicas_per_broker"), 25);
        // 200 kB/s x 86,400 s x 3 / 3 = 17.28 GB; twice that is 32.2 GiB.
        assert_eq!(value("volume_gib"), 33);
        assert_eq!((value("connections_per_broker"), value("reconnect_seconds")), (60, 3));
        let first = sizing.breaks_first().unwrap();
        assert_eq!((first.figure.name, first.at.round()), ("volume_gib", 410_110.0));
    }

    #[test]
    fn the_cluster_carries_the_topics_of_all_systems() {
        let tags = TopicLoad { name: "tags", partitions: 256, clients: 1000, ..TOPIC };
        let sizing = size(&CLUSTER, &[TOPIC, tags]).unwrap();
        let value = |name: &str| sizing.get(name).unwrap().value;
        assert_eq!((value("partition_replicas_per_broker"), value("connections_per_broker")), (281, 2060));
        assert_eq!((value("volume_gib"), value("reconnect_seconds")), (65, 103));
        let small = Cluster { instance_type: "kafka.t3.small", ..CLUSTER };
        let sizing = size(&small, &[TOPIC, tags]).unwrap();
        assert_eq!(sizing.get("reconnect_seconds").unwrap().value, 515, "4 new connections a second");
        let idle = size(&CLUSTER, &[TopicLoad { bytes_per_second: 0.0, ..TOPIC }]).unwrap();
        assert_eq!((idle.get("volume_gib").unwrap().value, idle.breaks_first()), (10, None));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_to_change() {
        let told = |cluster: &Cluster<'_>, topic| size(cluster, &[topic]).unwrap_err().message;
        assert!(told(&CLUSTER, TopicLoad { partitions: 5000, ..TOPIC }).contains("brokers_per_zone"));
        assert!(told(&CLUSTER, TopicLoad { clients: 2000, ..TOPIC }).contains("3000"));
        let small = Cluster { instance_type: "kafka.t3.small", ..CLUSTER };
        assert!(told(&small, TopicLoad { partitions: 301, ..TOPIC }).contains("the 300"));
        let two = Cluster { zones: 2, replication_factor: Some(3), ..CLUSTER };
        assert!(told(&two, TOPIC).contains("2 zones"));
        assert!(size(&Cluster { zones: 1, ..CLUSTER }, &[TOPIC]).is_err());
        assert!(size(&Cluster { instance_type: "m5.large", ..CLUSTER }, &[TOPIC]).is_err());
    }

    proptest! {
        #[test]
        fn more_load_never_means_less_storage(rate in 0.0f64..1e7, hours in 1u64..200, more in 1.0f64..3.0) {
            let volume = |rate| {
                let topic = TopicLoad { bytes_per_second: rate, retention_hours: hours, ..TOPIC };
                size(&CLUSTER, &[topic]).unwrap().get("volume_gib").unwrap().value
            };
            prop_assert!(volume(rate * more) >= volume(rate));
        }
    }
}
