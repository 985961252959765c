//! The variables of the tags system's workloads. The stack writes them and the workloads read them.

/// The topic of tags.
pub const TOPIC: &str = "KAFKA_TOPIC";

/// The consumer group of the workers.
pub const CONSUMER_GROUP: &str = "CONSUMER_GROUP";

/// `host:port` of the cache's cluster endpoint.
pub const CACHE_ENDPOINT: &str = "CACHE_ENDPOINT";

/// The cache's name, which IAM tokens are signed for.
pub const CACHE_NAME: &str = "CACHE_NAME";

/// The cache's user, who signs in by IAM.
pub const CACHE_USER: &str = "CACHE_USER";
