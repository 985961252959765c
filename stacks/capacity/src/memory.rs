//! What a consumer's memory is bounded by: what its client has fetched and what waits in its lanes.

/// What bounds the memory of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerBounds {
    /// Full batches that wait in a lane.
    pub batches_waiting: u64,
    /// Bytes of a batch.
    pub batch_bytes: u64,
    /// Bytes of messages that the client has fetched and nobody has read.
    pub queue_bytes: u64,
    /// The same, in messages.
    pub queue_messages: u64,
    /// Bytes of a broker's answer, as it is sent: compressed.
    pub response_bytes: u64,
    /// Brokers that may answer at the same time.
    pub brokers: u64,
}

/// Program, threads, TLS and metrics of an idle consumer, in bytes: measured, 21 to 23 MiB.
const BASE: u64 = 24 << 20;

/// Batches of a lane beside those that wait: one that fills, one in flight, one whose memory is used again.
const BATCHES_BESIDE: u64 = 3;

/// What the client keeps of a message beside its bytes: librdkafka's `rd_kafka_op_t` and what the allocator adds.
const MESSAGE_OVERHEAD: u64 = 512;

/// A broker's answer as it came, and the messages unpacked from it, which overshoot the queue: its room is looked at before
/// the broker is asked, and the bound of an answer is one of what is sent. gzip makes JSON of trades 6 times smaller.
const UNPACKED_RESPONSE: u64 = 1 + 8;

/// What the allocator keeps of what was freed, for each byte in use: every thread has an arena of its own.
const ALLOCATOR: u64 = 2;

/// What a pod has beyond the sum, in percent: what goes over a limit is killed.
const HEADROOM_PERCENT: u64 = 25;

const MIB: u64 = 1 << 20;

/// Memory is given in steps of this many MiB.
const STEP_MIB: u64 = 32;

impl ConsumerBounds {
    /// What a consumer with so many lanes takes at most, in MiB, whatever waits for it.
    #[must_use]
    pub fn memory_mib(&self, lanes: u64) -> u64 {
        let held = lanes * (self.batches_waiting + BATCHES_BESIDE) * self.batch_bytes
            + self.queue_bytes
            + self.queue_messages * MESSAGE_OVERHEAD
            + self.brokers * UNPACKED_RESPONSE * self.response_bytes;
        let most = (BASE + ALLOCATOR * held) * (100 + HEADROOM_PERCENT) / 100;
        most.div_ceil(MIB).next_multiple_of(STEP_MIB)
    }

    /// The formula with its numbers.
    #[must_use]
    pub(crate) fn formula(&self, lanes: u64) -> String {
        format!(
            "1.{HEADROOM_PERCENT} x ({} + {ALLOCATOR} x (batches_in_flight {lanes} x ({} + {BATCHES_BESIDE}) batches x {:.1} + queue {:.1} + {} messages x \
             {MESSAGE_OVERHEAD} B + brokers {} x {UNPACKED_RESPONSE} x {:.2})), a multiple of {STEP_MIB}",
            BASE / MIB,
            self.batches_waiting,
            self.batch_bytes as f64 / MIB as f64,
            self.queue_bytes as f64 / MIB as f64,
            self.queue_messages,
            self.brokers,
            self.response_bytes as f64 / MIB as f64,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_is_held_twice_and_the_program_and_some_room() {
        let bounds = ConsumerBounds {
            batches_waiting: 8,
            batch_bytes: MIB,
            queue_bytes: 8 * MIB,
            queue_messages: 20_480,
            response_bytes: MIB / 4,
            brokers: 3,
        };
        // 1.25 x (24 + 2 x (2 x 11 + 8 + 10 + 6.75)) = 146.9.
        assert_eq!(bounds.memory_mib(2), 160);
        assert!(bounds.memory_mib(4) > bounds.memory_mib(2));
        assert!(
            bounds
                .formula(2)
                .starts_with("1.25 x (24 + 2 x (batches_in_flight 2 x (8 + 3) batches x 1.0 + queue 8.0")
        );
    }
}
