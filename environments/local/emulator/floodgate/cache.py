"""MemoryDB: a cluster is the local Valkey, whose data goes with it. Users and access lists are recorded: the local
Valkey has no TLS and nobody signs in.
"""

import os
import socket

from ministack.services import cloudformation

from floodgate.resources import arn, by_name, recorded

CLUSTER = "AWS::MemoryDB::Cluster"
TIMEOUT_SECONDS = 10


def address():
    return os.environ["FLOODGATE_VALKEY_HOST"], int(os.environ["FLOODGATE_VALKEY_PORT"])


def ask(command):
    """One command; the first line of the answer."""
    with socket.create_connection(address(), timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall(command.encode() + b"\r\n")
        with connection.makefile("rb") as answer:
            line = answer.readline().decode().strip()
    if not line or line.startswith("-"):
        raise ValueError(f"{CLUSTER}: Valkey answers {line!r} to {command}")
    return line


def attributes(props):
    host, port = address()
    name = props["ClusterName"]
    return name, {
        "ARN": arn("memorydb", f"cluster/{name}"),
        "Status": "available",
        # AWS gives the name alone, and the stack's own port goes with it. Here the port is a free one, as the
        # database's proxy has it: whoever connects takes `host` or `host:port`.
        "ClusterEndpoint.Address": f"{host}:{port}",
        "ClusterEndpoint.Port": port,
        "ParameterGroupStatus": "in-sync",
    }


def cluster_create(logical_id, props, stack_name):
    ask("PING")
    return attributes(props)


def cluster_update(physical_id, old_props, new_props, stack_name):
    return attributes(new_props)


def cluster_delete(physical_id, props):
    # All clusters are the same server: its data goes with the last one.
    others = (
        resource
        for stack in list(cloudformation._stacks._data.values())
        for resource in (stack.get("_resources") or {}).values()
        if resource.get("ResourceType") == CLUSTER and resource.get("PhysicalResourceId") != physical_id
    )
    if next(others, None) is None:
        ask("FLUSHALL")


def with_status(props):
    return {"Status": "active"}


RECORDED = {
    "AWS::MemoryDB::ACL": recorded(by_name("ACLName", "memorydb", "acl", extra=with_status)),
    "AWS::MemoryDB::SubnetGroup": recorded(by_name("SubnetGroupName", "memorydb", "subnetgroup", "ARN")),
    "AWS::MemoryDB::User": recorded(by_name("UserName", "memorydb", "user", extra=with_status)),
}

EXERCISED = {CLUSTER: {"create": cluster_create, "update": cluster_update, "delete": cluster_delete}}

WAITING = {CLUSTER}

RECORDED_BY_EMULATOR = set()
