//! A record of the failed stream: the payload as it came, why it failed and where it came from.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{enricher::Incoming, plan::Failure};

/// The longest payload that is kept whole, in bytes: in base64 it fits into a stream's record of 1 MiB. A longer
/// one is cut here, and `payload_bytes` tells its real length.
const PAYLOAD_BYTES_MAX: usize = 512 << 10;

/// The longest error text, in bytes.
const ERROR_BYTES_MAX: usize = 1024;

/// The record. Its id follows from the place of the failed one in its stream, so that the same failure told twice
/// is known.
#[must_use]
pub fn record(incoming: &Incoming, failure: &Failure) -> Vec<u8> {
    let kept = incoming.data.get(..incoming.data.len().min(PAYLOAD_BYTES_MAX)).unwrap_or_default();
    let error = failure.error.get(..failure.error.floor_char_boundary(ERROR_BYTES_MAX)).unwrap_or_default();
    json!({
        "id": format!("{}:{}:failed", incoming.shard_id, incoming.sequence_number),
        "cause": failure.cause,
        "error": error,
        "source": {
            "stream_arn": incoming.stream_arn,
            "shard_id": incoming.shard_id,
            "sequence_number": incoming.sequence_number,
            "partition_key": incoming.partition_key,
            "arrived_at": incoming.arrived_at.to_rfc3339(),
        },
        "payload_base64": STANDARD.encode(kept),
        "payload_bytes": incoming.data.len(),
    })
    .to_string()
    .into_bytes()
}
