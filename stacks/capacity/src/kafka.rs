//! The MSK cluster: brokers, replicas, storage, connections.

use crate::figure::{CapacityError, Sizing};

/// What the cluster carries, summed over its topics.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Partitions of all topics, without replicas.
    pub partitions: u64,
    /// Sustained bytes per second in, without replicas.
    pub bytes_per_second: f64,
    /// How long records are kept, in hours.
    pub retention_hours: u64,
    /// Client processes, at most.
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
}

/// TCP connections of IAM clients a broker takes (`listener.name.client_iam.max.connections`).
pub const IAM_CONNECTIONS_PER_BROKER: u64 = 3000;

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
pub fn size(cluster: &Cluster<'_>, load: &Load) -> Result<Sizing, CapacityError> {
    let mut sizing = Sizing::default();
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
        None,
        format!("min(zones {}, 3)", cluster.zones),
        "a replica a zone, so that a lost zone loses no record",
    );
    sizing.derive(
        "min_insync_replicas",
        "replicas",
        replication - 1,
        None,
        format!("replication_factor {replication} - 1"),
        "acks=all survives the loss of one broker, and one broker may be away during maintenance",
    );
    let replicas = load.partitions * replication;
    let per_broker = sizing.derive(
        "partition_replicas_per_broker",
        "partitions",
        replicas.div_ceil(brokers),
        None,
        format!(
            "ceil(partitions {} x replication_factor {replication} / brokers {brokers})",
            load.partitions
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
    let stored =
        load.bytes_per_second * 3600.0 * load.retention_hours as f64 * replication as f64 / brokers as f64;
    // Half the volume stays free: 30% for a broker's catching up and 20% for growth before the alarm.
    let derived = ((stored * 2.0 / GIB).ceil() as u64).max(10);
    sizing.derive(
        "volume_gib",
        "GiB a broker",
        derived,
        cluster.volume_gib,
        format!(
            "max(10, ceil(2 x {:.0} bytes/s x {} h x 3600 x {replication} / {brokers} / 2^30))",
            load.bytes_per_second, load.retention_hours
        ),
        "retention x rate x replicas, half of it kept free",
    );
    let connections = sizing.derive(
        "connections_per_broker",
        "connections",
        load.clients * 2,
        None,
        format!("clients {} x 2 (data and coordinator)", load.clients),
        "MSK quota: 3,000 IAM connections a broker",
    );
    if connections > IAM_CONNECTIONS_PER_BROKER {
        return Err(CapacityError::new(format!(
            "{connections} connections a broker exceed MSK's {IAM_CONNECTIONS_PER_BROKER} for IAM clients; fewer clients or more brokers are needed"
        )));
    }
    Ok(sizing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOAD: Load = Load { partitions: 25, bytes_per_second: 200_000.0, retention_hours: 24, clients: 30 };
    const CLUSTER: Cluster<'_> =
        Cluster { zones: 3, brokers_per_zone: 1, instance_type: "kafka.m7g.large", volume_gib: None };

    #[test]
    fn a_cluster_over_three_zones_survives_one() {
        let sizing = size(&CLUSTER, &LOAD).unwrap();
        let value = |name: &str| sizing.get(name).unwrap().value;
        assert_eq!((value("brokers"), value("replication_factor"), value("min_insync_replicas")), (3, 3, 2));
        assert_eq!(value("partition_replicas_per_broker"), 25);
        // 200 kB/s x 86,400 s x 3 / 3 = 17.28 GB; twice that is 32.2 GiB.
        assert_eq!(value("volume_gib"), 33);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_to_change() {
        let many = Load { partitions: 5000, ..LOAD };
        assert!(size(&CLUSTER, &many).unwrap_err().message.contains("brokers_per_zone"));
        let crowd = Load { clients: 2000, ..LOAD };
        assert!(size(&CLUSTER, &crowd).unwrap_err().message.contains("3000"));
        assert!(size(&Cluster { zones: 1, ..CLUSTER }, &LOAD).is_err());
        assert!(size(&Cluster { instance_type: "m5.large", ..CLUSTER }, &LOAD).is_err());
    }

    proptest! {
        #[test]
        fn more_load_never_means_less_storage(rate in 0.0f64..1e7, hours in 1u64..200, more in 1.0f64..3.0) {
            let volume = |rate| {
                let load = Load { bytes_per_second: rate, retention_hours: hours, ..LOAD };
                size(&CLUSTER, &load).unwrap().get("volume_gib").unwrap().value
            };
            prop_assert!(volume(rate * more) >= volume(rate));
        }
    }
}
