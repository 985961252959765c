"""The AWS API emulator with the CloudFormation types that it lacks.

A type is *exercised* when something real happens (a topic is made on the broker), or *recorded* when it only
answers its attributes. `--resource-types` prints which is which, as JSON.

What the emulator holds is saved as it changes, so that a kill loses a second of it and no stack.
"""

import base64
import hashlib
import json
import os
import sys
import threading
import time

from ministack.core import persistence
from ministack.services import cloudformation, msk
from ministack.services.cloudformation import provisioners

ACCOUNT = "000000000000"


def digest(*parts):
    """A stable id: the same stack and logical id give the same one."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:17]


def arn(service, resource):
    return f"arn:aws:{service}:{os.environ.get('AWS_DEFAULT_REGION', 'us-east-1')}:{ACCOUNT}:{resource}"


def recorded(make, create_only=()):
    """Handlers of a type that is only recorded: `make(physical_id, properties)` gives its attributes."""

    def create(logical_id, props, stack_name):
        # A replacement gets another id, as in AWS; anything else keeps it.
        identity = json.dumps({key: props.get(key) for key in create_only}, sort_keys=True, default=str)
        physical_id, attributes = make(digest(stack_name, logical_id, identity), props)
        return physical_id, attributes

    def update(physical_id, old_props, new_props, stack_name, logical_id):
        return create(logical_id, new_props, stack_name)

    return {
        "create": create,
        "update": update,
        "update_with_logical_id": True,
        "delete": lambda physical_id, props: None,
    }


def by_id(prefix, attribute="Id", extra=None):
    def make(identity, props):
        physical_id = f"{prefix}-{identity}"
        return physical_id, {attribute: physical_id, **(extra(physical_id, props) if extra else {})}

    return make


def by_arn(service, kind, attribute="Arn", extra=None):
    def make(identity, props):
        name = next((props[key] for key in props if key.endswith("Name")), identity)
        value = arn(service, f"{kind}/{name}/{identity}")
        return value, {attribute: value, **(extra(identity, props) if extra else {})}

    return make


def eip(identity, props):
    address = "198.51.100." + str(int(identity[:2], 16) % 254 + 1)
    return address, {"AllocationId": f"eipalloc-{identity}", "PublicIp": address}


def access_entry(identity, props):
    value = arn("eks", f"access-entry/{props.get('ClusterName')}/{identity}")
    return f"{props.get('PrincipalArn')}|{props.get('ClusterName')}", {"AccessEntryArn": value}


def pod_identity(identity, props):
    association = f"a-{identity}"
    value = arn("eks", f"podidentityassociation/{props.get('ClusterName')}/{association}")
    return value, {"AssociationArn": value, "AssociationId": association, "ExternalId": identity}


RECORDED = {
    "AWS::EC2::EIP": recorded(eip),
    "AWS::EC2::FlowLog": recorded(by_id("fl"), ("ResourceId", "LogGroupName")),
    "AWS::EC2::NatGateway": recorded(by_id("nat", "NatGatewayId"), ("SubnetId", "AllocationId")),
    "AWS::EC2::SecurityGroupEgress": recorded(by_id("sgr")),
    "AWS::EC2::SecurityGroupIngress": recorded(by_id("sgr")),
    "AWS::EKS::AccessEntry": recorded(access_entry, ("ClusterName", "PrincipalArn")),
    "AWS::EKS::PodIdentityAssociation": recorded(pod_identity, ("ClusterName", "Namespace", "ServiceAccount")),
    "AWS::MSK::Configuration": recorded(
        by_arn("kafka", "configuration", extra=lambda i, p: {"LatestRevision.Revision": 1}), ("Name",)
    ),
}


# -- MSK: the control plane is the emulator's, the topics are real ------------------------------------------


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
            future.result(timeout=30)
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


def topic_update(physical_id, old_props, new_props, stack_name):
    from confluent_kafka.admin import NewPartitions

    value, name = topic_arn(new_props)
    if value != physical_id:
        created = topic_create("", new_props, stack_name)
        topic_delete(physical_id, old_props)
        return created
    old, new = int(old_props["PartitionCount"]), int(new_props["PartitionCount"])
    if new < old:
        raise ValueError(f"AWS::MSK::Topic {name}: the partition count cannot go from {old} to {new}")
    if new > old:
        on_broker(lambda client: client.create_partitions([NewPartitions(name, new)]))
    return value, {"TopicArn": value}


def topic_delete(physical_id, props):
    on_broker(lambda client: client.delete_topics([props["TopicName"]]), tolerated=("UNKNOWN_TOPIC_OR_PART",))


EXERCISED = {
    "AWS::MSK::Cluster": {
        "create": cluster_create,
        "update": cluster_update,
        "delete": lambda physical_id, props: msk._clusters.pop(physical_id, None),
    },
    "AWS::MSK::Topic": {"create": topic_create, "update": topic_update, "delete": topic_delete},
}

# Types that the emulator knows itself, but behind which nothing happens.
RECORDED_BY_EMULATOR = {
    "AWS::EC2::InternetGateway", "AWS::EC2::Route", "AWS::EC2::RouteTable", "AWS::EC2::SecurityGroup",
    "AWS::EC2::Subnet", "AWS::EC2::SubnetRouteTableAssociation", "AWS::EC2::VPC", "AWS::EC2::VPCEndpoint",
    "AWS::EC2::VPCGatewayAttachment", "AWS::ECR::Repository", "AWS::EKS::Cluster", "AWS::IAM::ManagedPolicy",
    "AWS::IAM::Policy", "AWS::IAM::Role", "AWS::KMS::Alias", "AWS::KMS::Key", "AWS::RDS::DBCluster",
    "AWS::RDS::DBInstance",
}


def with_attributes(resource_type, attributes):
    """Adds attributes that the emulator forgets."""
    handler = provisioners._RESOURCE_HANDLERS[resource_type]
    create = handler["create"]

    def completed(logical_id, props, stack_name):
        physical_id, known = create(logical_id, props, stack_name)
        return physical_id, {**attributes(physical_id, props), **(known or {})}

    handler["create"] = completed


def register():
    handlers = provisioners._RESOURCE_HANDLERS
    handlers.update(RECORDED)
    handlers.update(EXERCISED)
    with_attributes("AWS::EC2::VPC", lambda physical_id, props: {"CidrBlock": props.get("CidrBlock", "")})


# -- What a kill leaves -------------------------------------------------------------------------------------

SAVE_EVERY_SECONDS = 1.0


def is_quiet():
    """Whether no stack is being changed: one that was saved in between would be in between for ever."""
    return not any(
        stack["StackStatus"].endswith("_IN_PROGRESS") and stack["StackStatus"] != "REVIEW_IN_PROGRESS"
        for stack in list(cloudformation._stacks._data.values())
    )


def save_when_quiet(services, saved={}):
    """Saves the services' state that has changed since it was last saved. `saved`: digests by service."""
    if not is_quiet():
        return
    changed = {}
    for name, get_state in services.items():
        state = get_state()
        if state is not None:
            text = json.dumps(state, default=persistence._json_default)
            mark = hashlib.sha256(text.encode()).digest()
            if saved.get(name) != mark:
                changed[name] = (state, mark)
    if is_quiet():
        for name, (state, mark) in changed.items():
            persistence.save_state(name, state)
            saved[name] = mark


def keep_saving(app):
    while True:
        began = time.monotonic()
        try:
            save_when_quiet(app._build_persistence_save_dict())
        except RuntimeError:
            pass  # Something changed while it was read; the next round reads it again.
        # Where there is much to save it is done less often: a twentieth of the time at most.
        time.sleep(max(SAVE_EVERY_SECONDS, 20 * (time.monotonic() - began)))


def resource_types():
    register()
    return {
        name: "recorded" if name in RECORDED or name in RECORDED_BY_EMULATOR else "exercised"
        for name in sorted(provisioners._RESOURCE_HANDLERS)
    }


if __name__ == "__main__":
    if "--resource-types" in sys.argv:
        print(json.dumps(resource_types()))
        sys.exit(0)
    register()
    from ministack import app

    if persistence.PERSIST_STATE:
        # Also at the end: a stack that is being changed then is left as it was before.
        app.save_all = save_when_quiet
        load = app._load_persisted_state

        def load_then_keep_saving():
            load()
            threading.Thread(target=keep_saving, args=(app,), daemon=True).start()

        app._load_persisted_state = load_then_keep_saving
    sys.argv = sys.argv[:1]
    app.main()
