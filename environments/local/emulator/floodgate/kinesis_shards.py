"""Shards as AWS has them: limits of what goes in and out of each, and a parent that outlives its split.

The emulator takes and gives whatever it is asked for, and deletes the parents of a split or merge with their unread
records. Here a shard takes 1,000 records and 1 MB a second and gives 2 MB and five reads a second (Kinesis Data
Streams developer guide, "Quotas and limits"), and is told so in AWS's errors; a parent is closed, can be read to its
end, and is gone when its records are.
"""

import json
import threading
import time

from ministack.core.responses import error_response_json, json_response
from ministack.services import kinesis
from ministack.services.cloudformation import provisioners

RECORDS_IN = 1_000
BYTES_IN = 1_048_576
BYTES_OUT = 2_097_152
READS_OUT = 5

# What one read gives at most; after it, the shard gives nothing for as long as its 2 MB a second take.
READ_BYTES = 10 * 1_048_576


# -- Limits: pure ------------------------------------------------------------------------------------------


class Allowance:
    """So much a second, as much as a second's worth at once. A debt, after one large read, is paid off first."""

    def __init__(self, per_second):
        self.per_second = per_second
        self.left = float(per_second)
        self.at = None

    def has(self, amount, now):
        if self.at is not None:
            self.left = min(float(self.per_second), self.left + (now - self.at) * self.per_second)
        self.at = now
        return self.left >= amount

    def take(self, amount):
        self.left -= amount


class Shard:
    """What one shard may still take and give."""

    def __init__(self):
        self.records_in = Allowance(RECORDS_IN)
        self.bytes_in = Allowance(BYTES_IN)
        self.bytes_out = Allowance(BYTES_OUT)
        self.reads_out = Allowance(READS_OUT)

    def takes(self, size, now):
        """Whether a record of that size goes in."""
        # The largest record is a little more than a second's bytes: it waits for them all.
        records, size_fits = self.records_in.has(1, now), self.bytes_in.has(min(size, BYTES_IN), now)
        if not (records and size_fits):
            return False
        self.records_in.take(1)
        self.bytes_in.take(size)
        return True

    def gives(self, now):
        """Whether it may be read."""
        reads, paid = self.reads_out.has(1, now), self.bytes_out.has(0, now)
        if not (reads and paid):
            return False
        self.reads_out.take(1)
        return True

    def gave(self, size):
        self.bytes_out.take(size)


# -- In front of the emulator --------------------------------------------------------------------------------

EXCEEDED = "ProvisionedThroughputExceededException"

_limits = {}
_lock = threading.Lock()


def limits(stream, shard_id):
    return _limits.setdefault((stream["StreamARN"], shard_id), Shard())


def size_of(record):
    data = record.get("Data") or ""
    # Three bytes in four characters of base64, less what pads them.
    return len(data) * 3 // 4 - data[-2:].count("=") + len(record.get("PartitionKey", "").encode())


def message(stream, shard_id):
    account = stream["StreamARN"].split(":")[4]
    return f"Rate exceeded for shard {shard_id} in stream {stream['StreamName']} under account {account}."


def is_provisioned(stream):
    return stream.get("StreamModeDetails", {}).get("StreamMode", "PROVISIONED") == "PROVISIONED"


def shard_of(record, stream):
    explicit = record.get("ExplicitHashKey")
    hashed = int(explicit) if explicit else kinesis._partition_key_to_hash(record.get("PartitionKey", ""))
    return open_shard(hashed, stream)


def open_shard(hashed, stream):
    """The open shard that takes a hash key; the emulator's search would find a closed parent first."""
    for shard_id, shard in stream["shards"].items():
        if not shard.get("closed") and int(shard["starting_hash_key"]) <= hashed <= int(shard["ending_hash_key"]):
            return shard_id
    return next(shard_id for shard_id, shard in stream["shards"].items() if not shard.get("closed"))


def limited_put_record(emulators):
    def put_record(data):
        _, stream = kinesis._resolve_stream(data)
        if stream and data.get("PartitionKey") and is_provisioned(stream):
            shard_id = shard_of(data, stream)
            with _lock:
                taken = limits(stream, shard_id).takes(size_of(data), time.monotonic())
            if not taken:
                return error_response_json(EXCEEDED, message(stream, shard_id), 400)
        return emulators(data)

    return put_record


def limited_put_records(emulators):
    def put_records(data):
        _, stream = kinesis._resolve_stream(data)
        records = data.get("Records", [])
        if not stream or not is_provisioned(stream) or len(records) > 500:
            return emulators(data)
        now, refused = time.monotonic(), {}
        with _lock:
            for index, record in enumerate(records):
                shard_id = shard_of(record, stream)
                if not limits(stream, shard_id).takes(size_of(record), now):
                    refused[index] = shard_id
        if not refused:
            return emulators(data)
        taken = [record for index, record in enumerate(records) if index not in refused]
        status, headers, body = emulators({**data, "Records": taken}) if taken else json_response({"Records": []})
        if status != 200:
            return status, headers, body
        answer = json.loads(body)
        put = iter(answer["Records"])
        answer["Records"] = [
            {"ErrorCode": EXCEEDED, "ErrorMessage": message(stream, refused[index])}
            if index in refused
            else next(put)
            for index in range(len(records))
        ]
        answer["FailedRecordCount"] = len(refused)
        return json_response(answer)

    return put_records


def limited_get_records(emulators):
    def get_records(data):
        state = kinesis._shard_iterators.get(data.get("ShardIterator"))
        stream = kinesis._streams.get(state["stream"]) if state else None
        if not stream:
            return emulators(data)
        shard_id = state["shard_id"]
        if is_provisioned(stream):
            with _lock:
                gives = limits(stream, shard_id).gives(time.monotonic())
            if not gives:
                return error_response_json(EXCEEDED, message(stream, shard_id), 400)
        shard = stream["shards"].get(shard_id)
        if shard:
            limit = bounded(shard["records"][state["position"]:], min(data.get("Limit", 10_000), 10_000))
            data = {**data, "Limit": limit}
        status, headers, body = emulators(data)
        if status != 200:
            return status, headers, body
        answer = json.loads(body)
        with _lock:
            limits(stream, shard_id).gave(sum(size_of(record) for record in answer["Records"]))
        if shard and shard.get("closed") and state["position"] + len(answer["Records"]) >= len(shard["records"]):
            kinesis._shard_iterators.pop(answer.pop("NextShardIterator"), None)
        return json_response(answer)

    return get_records


def bounded(records, limit):
    """How many records fit into one read; one at least."""
    count = size = 0
    for record in records[:limit]:
        size += size_of(record)
        if count and size > READ_BYTES:
            break
        count += 1
    return max(count, 1)


# -- Shards that outlive their split -------------------------------------------------------------------------


def keeping_parents(emulators):
    """Has an operation that would delete shards close them instead."""

    def operation(data):
        _, stream = kinesis._resolve_stream(data)
        for key in ("ShardToSplit", "ShardToMerge", "AdjacentShardToMerge"):
            shard = stream["shards"].get(data.get(key)) if stream else None
            if shard and shard.get("closed"):
                return error_response_json(
                    "InvalidArgumentException", f"Shard {data[key]} is closed and cannot be changed", 400
                )
        before = dict(stream["shards"]) if stream else {}
        answer = emulators(data)
        if answer[0] == 200:
            closed = {key: shard for key, shard in before.items() if key not in stream["shards"]}
            for shard in closed.values():
                close(shard)
            stream["shards"] = {**closed, **stream["shards"]}
        return answer

    return operation


def close(shard):
    shard["closed"] = True
    shard["ending_sequence_number"] = kinesis._next_sequence_number()


def update_shard_count(data):
    """Splits and merges until the ranges are even, as AWS does it: each shard has its one or two parents."""
    name, stream = kinesis._resolve_stream(data)
    if not stream:
        return error_response_json("ResourceNotFoundException", f"Stream {name} not found", 400)
    target = int(data.get("TargetShardCount") or 0)
    if target < 1:
        return error_response_json("ValidationException", "TargetShardCount must be >= 1", 400)
    current = len(open_ranges(stream))
    if target > 2 * current or 2 * target < current:
        return error_response_json(
            "InvalidArgumentException",
            f"UpdateShardCount goes from {current} shards to the double at most and the half at least, not to {target}",
            400,
        )
    starts = {int(start) for start, _ in kinesis._compute_hash_ranges(target)}
    for start in sorted(starts):
        holder = next(key for key, (first, last) in open_ranges(stream).items() if first <= start <= last)
        if open_ranges(stream)[holder][0] != start:
            kinesis._split_shard({"StreamName": name, "ShardToSplit": holder, "NewStartingHashKey": str(start)})
    while surplus := [key for key, (first, _) in open_ranges(stream).items() if first not in starts]:
        first = open_ranges(stream)[surplus[0]][0]
        before = next(key for key, (_, last) in open_ranges(stream).items() if last == first - 1)
        kinesis._merge_shards({"StreamName": name, "ShardToMerge": before, "AdjacentShardToMerge": surplus[0]})
    return json_response({
        "StreamName": stream["StreamName"],
        "CurrentShardCount": current,
        "TargetShardCount": target,
        "StreamARN": stream["StreamARN"],
    })


def open_ranges(stream):
    """The open shards with the first and the last hash key of each."""
    return {
        key: (int(shard["starting_hash_key"]), int(shard["ending_hash_key"]))
        for key, shard in stream["shards"].items()
        if not shard.get("closed")
    }


def with_shard_count(handler):
    """Has a stack's change of a stream's ShardCount happen."""
    emulators = handler["update"]

    def update(physical_id, old_props, new_props, stack_name):
        answer = emulators(physical_id, old_props, new_props, stack_name)
        stream = kinesis._streams.get(physical_id)
        count = new_props.get("ShardCount")
        if stream and count and count != old_props.get("ShardCount") and answer[0] == physical_id:
            status, _, body = update_shard_count({"StreamName": physical_id, "TargetShardCount": count})
            if status != 200:
                raise ValueError(json.loads(body).get("message", "UpdateShardCount was refused"))
        return answer

    return {**handler, "update": update}


def install():
    """Puts all this in front of the emulator's functions."""
    handlers, name = provisioners._RESOURCE_HANDLERS, "AWS::Kinesis::Stream"
    handlers[name] = with_shard_count(handlers[name])
    kinesis._put_record = limited_put_record(kinesis._put_record)
    kinesis._put_records = limited_put_records(kinesis._put_records)
    kinesis._get_records = limited_get_records(kinesis._get_records)
    kinesis._split_shard = keeping_parents(kinesis._split_shard)
    kinesis._merge_shards = keeping_parents(kinesis._merge_shards)
    kinesis._update_shard_count = update_shard_count
    kinesis._route_to_shard = open_shard
    emulators_shard_out, emulators_expire = kinesis._shard_out, kinesis._expire_records
    emulators_summary = kinesis._describe_stream_summary

    def shard_out(shard_id, shard):
        described = emulators_shard_out(shard_id, shard)
        if shard.get("closed"):
            described["SequenceNumberRange"]["EndingSequenceNumber"] = shard["ending_sequence_number"]
        return described

    def expire_records(stream):
        emulators_expire(stream)
        cutoff = time.time() - stream["RetentionPeriodHours"] * 3600
        for shard_id, shard in list(stream["shards"].items()):
            ended = int(shard["ending_sequence_number"][:20]) / 1000 if shard.get("closed") else None
            if ended is not None and ended < cutoff:
                stream["shards"].pop(shard_id, None)

    def summary(data):
        status, headers, body = emulators_summary(data)
        if status != 200:
            return status, headers, body
        answer = json.loads(body)
        _, stream = kinesis._resolve_stream(data)
        count = sum(1 for shard in stream["shards"].values() if not shard.get("closed"))
        answer["StreamDescriptionSummary"]["OpenShardCount"] = count
        return json_response(answer)

    kinesis._shard_out, kinesis._expire_records = shard_out, expire_records
    kinesis._describe_stream_summary = summary
