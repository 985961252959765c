//! The variables of the ledger system's functions. The stack writes them and the functions read them.

/// The topic that a function reads.
pub const SOURCE_TOPIC: &str = "SOURCE_TOPIC";

/// The topic that the transform function writes.
pub const BUFFER_TOPIC: &str = "BUFFER_TOPIC";

/// The compacted topic that carries the mode.
pub const CONTROL_TOPIC: &str = "CONTROL_TOPIC";

/// The topic for events that cannot be processed.
pub const DEAD_LETTER_TOPIC: &str = "DEAD_LETTER_TOPIC";

/// The Parameter Store parameter that holds the mode.
pub const MODE_PARAMETER: &str = "MODE_PARAMETER";

/// The alarms whose states make the mode: names, separated by commas.
pub const MODE_ALARMS: &str = "MODE_ALARMS";

/// The host of the database's proxy.
pub const DATABASE_HOST: &str = "DATABASE_HOST";

/// The database.
pub const DATABASE_NAME: &str = "DATABASE_NAME";

/// The user, who signs in by IAM.
pub const DATABASE_USER: &str = "DATABASE_USER";

/// Connections of a function's instance, at most.
pub const DATABASE_CONNECTIONS: &str = "DATABASE_CONNECTIONS";

/// Records in a chunk, which is one transaction.
pub const CHUNK_RECORDS: &str = "CHUNK_RECORDS";

/// Chunks at once, in the mode GREEN.
pub const CHUNK_CONCURRENCY: &str = "CHUNK_CONCURRENCY";
