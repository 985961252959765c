"""Metrics that AWS tells of queues and streams and the emulator does not: what waits in a queue, what comes into a
stream. They are gathered for a second, because a point for each record would fill the memory.
"""

import json
import logging
import threading
import time
from collections import Counter

from ministack.core import responses
from ministack.services import cloudwatch, kinesis, sqs

logger = logging.getLogger("floodgate.measures")

EVERY_SECONDS = 1.0

# What came in since it was last told, by account, region, stream and metric.
INCOMING = Counter()
LOCK = threading.Lock()


def came_in(data, records, refused):
    """Counts records; of a request that was taken in part, each has the mean size."""
    name = kinesis._resolve_stream(data)[0]
    taken = len(records) - refused
    # Base64 holds three bytes in four characters.
    size = sum(len(record.get("Data") or "") for record in records) * 3 // 4
    scope = (responses.get_account_id(), responses.get_region(), name)
    with LOCK:
        INCOMING[(*scope, "IncomingRecords")] += taken
        INCOMING[(*scope, "IncomingBytes")] += size * taken // max(len(records), 1)


def counted(put, records_of, refused_of):
    def count(data):
        answer = put(data)
        if answer[0] < 300:
            came_in(data, records_of(data), refused_of(answer[2]))
        return answer

    return count


def tell():
    with LOCK:
        incoming = dict(INCOMING)
        INCOMING.clear()
    for (account, region, stream, metric), value in incoming.items():
        responses.set_request_account_id(account)
        responses.set_request_region(region)
        unit = "Bytes" if metric == "IncomingBytes" else "Count"
        cloudwatch.record_metric("AWS/Kinesis", metric, value, unit, {"StreamName": stream})
    now = time.time()
    for (account, region, _), queue in list(sqs._queues._data.items()):
        responses.set_request_account_id(account)
        responses.set_request_region(region)
        visible = sum(1 for message in list(queue["messages"]) if message["visible_at"] <= now)
        name = queue["attributes"]["QueueArn"].rsplit(":", 1)[-1]
        cloudwatch.record_metric(
            "AWS/SQS", "ApproximateNumberOfMessagesVisible", visible, "Count", {"QueueName": name})


def keep_telling():
    while True:
        time.sleep(EVERY_SECONDS)
        try:
            tell()
        except Exception:
            logger.exception("queues and streams cannot be measured")


def install():
    kinesis._put_record = counted(kinesis._put_record, lambda data: [data], lambda body: 0)
    kinesis._put_records = counted(
        kinesis._put_records,
        lambda data: data.get("Records", []),
        lambda body: json.loads(body).get("FailedRecordCount", 0),
    )


def start():
    threading.Thread(target=keep_telling, daemon=True, name="floodgate-measures").start()
