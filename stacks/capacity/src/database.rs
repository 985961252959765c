//! The database behind a proxy: how much memory an instance has, and how many connections it takes.

use crate::figure::CapacityError;

/// The instance class of Aurora Serverless v2.
pub const SERVERLESS: &str = "db.serverless";

/// Memory of an Aurora capacity unit, in GiB: Aurora user guide, Aurora Serverless v2 capacity.
pub const GIB_PER_CAPACITY_UNIT: f64 = 2.0;

/// PostgreSQL's `max_connections` is at most this by default: `LEAST({DBInstanceClassMemory/9531392},5000)`.
pub const CONNECTIONS_MAX: u64 = 5000;

/// With so little minimum capacity, Aurora Serverless v2 takes fewer connections, whatever its maximum is.
const SMALL_MINIMUM_CAPACITY: f64 = 0.5;

/// How many it takes then: Aurora user guide, maximum connections for Aurora Serverless v2.
const CONNECTIONS_OF_SMALL_MINIMUM: u64 = 2000;

/// Bytes of memory a connection is reckoned with in the default parameter group.
const BYTES_PER_CONNECTION: f64 = 9_531_392.0;

/// The part of an instance's memory that `DBInstanceClassMemory` stands for: the operating system and RDS's own
/// processes take the rest. Derived from db.t4g.medium, which has 4 GiB and takes 405 connections.
const MEMORY_FOR_DATABASE: f64 = 0.9;

/// Connections that Aurora's own processes need beside those of clients: Aurora user guide, maximum connections.
pub const CONNECTIONS_RESERVED: u64 = 3;

/// What the environment says of the database.
#[derive(Clone, Copy, Debug)]
pub struct Database<'a> {
    /// Such as `db.t4g.medium`, or `db.serverless`.
    pub instance_class: &'a str,
    /// The least capacity of a serverless instance, in Aurora capacity units.
    pub min_capacity: f64,
    /// The greatest capacity of a serverless instance, in Aurora capacity units.
    pub max_capacity: f64,
}

/// Memory of an instance class in GiB: Aurora user guide, hardware specifications of instance classes. Nothing for
/// `db.serverless`, whose memory follows its capacity, and for what is no class of Aurora PostgreSQL.
#[must_use]
pub fn memory_gib(instance_class: &str) -> Option<f64> {
    let (family, size) = instance_class.strip_prefix("db.")?.split_once('.')?;
    let per_large = match family {
        "t3" | "t4g" => 8.0,
        "r6g" | "r6i" | "r7g" | "r7i" | "r8g" => 16.0,
        _ => return None,
    };
    match (family, size) {
        ("t3" | "t4g", "medium") => Some(4.0),
        ("t3" | "t4g", "large") | (_, "large") => Some(per_large),
        ("t3" | "t4g", _) => None,
        (_, "xlarge") => Some(per_large * 2.0),
        (_, size) => {
            let times: u32 = size.strip_suffix("xlarge")?.parse().ok()?;
            matches!(times, 2 | 4 | 8 | 12 | 16 | 24 | 32 | 48).then_some(per_large * 2.0 * f64::from(times))
        }
    }
}

/// The connections that the database takes from clients, by PostgreSQL's default parameter group.
///
/// # Errors
///
/// When the class is unknown, or a serverless instance has no capacity.
pub fn max_connections(database: &Database<'_>) -> Result<u64, CapacityError> {
    let serverless = database.instance_class == SERVERLESS;
    let memory = if serverless {
        database.max_capacity * GIB_PER_CAPACITY_UNIT
    } else {
        memory_gib(database.instance_class).ok_or_else(|| {
            CapacityError::new(format!(
                "the instance class `{}` is not one of Aurora PostgreSQL's, such as db.t4g.medium or {SERVERLESS}",
                database.instance_class
            ))
        })?
    };
    let by_memory = memory * (1u64 << 30) as f64 * MEMORY_FOR_DATABASE / BYTES_PER_CONNECTION;
    let most = if serverless && database.min_capacity <= SMALL_MINIMUM_CAPACITY {
        CONNECTIONS_OF_SMALL_MINIMUM
    } else {
        CONNECTIONS_MAX
    };
    match (by_memory as u64).min(most) {
        connections if connections > CONNECTIONS_RESERVED => Ok(connections),
        connections => Err(CapacityError::new(format!(
            "the database takes {connections} connections, and its own processes need {CONNECTIONS_RESERVED}; raise database.max_capacity"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEDIUM: Database<'_> =
        Database { instance_class: "db.t4g.medium", min_capacity: 0.5, max_capacity: 1.0 };

    #[test]
    fn connections_follow_memory() {
        let of = |instance_class| max_connections(&Database { instance_class, ..MEDIUM }).unwrap();
        assert_eq!(
            (of("db.t4g.medium"), of("db.r7g.large"), of("db.r7g.4xlarge")),
            (405, 1622, CONNECTIONS_MAX)
        );
        assert!(max_connections(&Database { instance_class: "db.t4g.huge", ..MEDIUM }).is_err());
        assert!(max_connections(&Database { instance_class: "t4g.medium", ..MEDIUM }).is_err());
    }

    #[test]
    fn a_serverless_database_is_held_down_by_a_small_minimum() {
        let of = |min_capacity, max_capacity| {
            max_connections(&Database { instance_class: SERVERLESS, min_capacity, max_capacity })
        };
        assert_eq!(of(0.5, 64.0).unwrap(), CONNECTIONS_OF_SMALL_MINIMUM);
        assert_eq!(of(1.0, 64.0).unwrap(), CONNECTIONS_MAX);
        assert_eq!(of(0.5, 2.0).unwrap(), 405);
        assert!(of(0.5, 0.0).is_err());
    }
}
