//! What every worker shares: configuration, telemetry, Kafka client, microbatch engine.
