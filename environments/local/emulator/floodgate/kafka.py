"""MSK: the control plane is the emulator's, the topics are real."""

import base64
import json
import os

from ministack.services import msk

from floodgate.resources import by_arn, recorded

ANSWERS_WITHIN_SECONDS = 30


def cluster_body(props):
    def lower(value):
        if isinstance(value, dict):
            return {key[:1].lower() + key[1:]: lower(item) for key, item in value.items()}
        if isinstance(value, list):
            return [lower(item) for item in value]
        return value

    return lower(props)


def cluster_create(logical_id, props, stack_name):
    for known, info in list(msk._clusters.items()):
        if info["ClusterName"] == props.get("ClusterName"):
            return known, {"Arn": known, "CurrentVersion": info["CurrentVersion"]}
    status, _, body = msk._create_cluster(json.dumps(cluster_body(props)))
    answer = json.loads(body)
    if status >= 300:
        raise ValueError(f"AWS::MSK::Cluster: {answer}")
    cluster_arn = answer.get("ClusterArn") or answer["clusterArn"]
    return cluster_arn, {"Arn": cluster_arn, "CurrentVersion": "K3AEGXETSR30VB"}


def cluster_update(physical_id, old_props, new_props, stack_name):
    if old_props.get("ClusterName") != new_props.get("ClusterName"):
        msk._clusters.pop(physical_id, None)
        return cluster_create("", new_props, stack_name)
    return physical_id, {"Arn": physical_id, "CurrentVersion": "K3AEGXETSR30VB"}


def admin():
    from confluent_kafka.admin import AdminClient

    return AdminClient({"bootstrap.servers": os.environ["MINISTACK_MSK_BOOTSTRAP"], "socket.timeout.ms": 10000})


def on_broker(ask, tolerated=()):
    """Asks the broker and waits for its answers; the client has to live until they are there."""
    from confluent_kafka import KafkaException

    client = admin()
    for name, future in ask(client).items():
        try:
            future.result(timeout=ANSWERS_WITHIN_SECONDS)
        except KafkaException as error:
            reason = error.args[0]
            if reason.name() == "_UNSUPPORTED_FEATURE":
                raise ValueError(
                    f"AWS::MSK::Topic {name}: the local broker cannot do this ({reason.str()}). Delete the stack and "
                    "deploy again, or install Java 17 and Maven to run Apache Kafka"
                ) from error
            if reason.name() not in tolerated:
                raise ValueError(f"AWS::MSK::Topic {name}: {reason.str()}") from error


def topic_configs(props):
    text = base64.b64decode(props.get("Configs") or "").decode()
    configs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    # One broker: what asks for several replicas in sync could never be written to.
    if "min.insync.replicas" in configs:
        configs["min.insync.replicas"] = "1"
    return configs


def topic_arn(props):
    name = props["TopicName"]
    return str(props["ClusterArn"]).replace(":cluster/", ":topic/") + f"/{name}", name


def topic_create(logical_id, props, stack_name):
    from confluent_kafka.admin import NewTopic

    value, name = topic_arn(props)
    topic = NewTopic(name, int(props["PartitionCount"]), 1, config=topic_configs(props))
    # A topic that outlived its stack (the emulator was killed) is taken over with its records.
    on_broker(lambda client: client.create_topics([topic]), tolerated=("TOPIC_ALREADY_EXISTS",))
    return value, {"TopicArn": value}


def partition_count(client, name):
    return len(client.list_topics(name, timeout=ANSWERS_WITHIN_SECONDS).topics[name].partitions)


def add_partitions(client, name, count):
    """A broker that has them already was told by an update whose end nobody saw."""
    from confluent_kafka.admin import NewPartitions

    return client.create_partitions([NewPartitions(name, count)]) if partition_count(client, name) < count else {}


def alter_configs(client, name, old, new):
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

    entries = [
        ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
        for key, value in new.items() if old.get(key) != value
    ] + [
        ConfigEntry(key, None, incremental_operation=AlterConfigOpType.DELETE) for key in old.keys() - new.keys()
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=entries)
    return client.incremental_alter_configs([resource]) if entries else {}


def topic_update(physical_id, old_props, new_props, stack_name):

    value, name = topic_arn(new_props)
    if value != physical_id:
        created = topic_create("", new_props, stack_name)
        topic_delete(physical_id, old_props)
        return created
    old, new = int(old_props["PartitionCount"]), int(new_props["PartitionCount"])
    if new < old:
        raise ValueError(f"AWS::MSK::Topic {name}: the partition count cannot go from {old} to {new}")
    if new > old:
        on_broker(lambda client: add_partitions(client, name, new))
    on_broker(lambda client: alter_configs(client, name, topic_configs(old_props), topic_configs(new_props)))
    return value, {"TopicArn": value}


def topic_delete(physical_id, props):
    on_broker(lambda client: client.delete_topics([props["TopicName"]]), tolerated=("UNKNOWN_TOPIC_OR_PART",))


RECORDED = {
    "AWS::MSK::Configuration": recorded(
        by_arn("kafka", "configuration", extra={"LatestRevision.Revision": 1}), ("Name",)
    ),
}

EXERCISED = {
    "AWS::MSK::Cluster": {
        "create": cluster_create,
        "update": cluster_update,
        "delete": lambda physical_id, props: msk._clusters.pop(physical_id, None),
    },
    "AWS::MSK::Topic": {"create": topic_create, "update": topic_update, "delete": topic_delete},
}

WAITING = {"AWS::MSK::Topic"}

RECORDED_BY_EMULATOR = set()
