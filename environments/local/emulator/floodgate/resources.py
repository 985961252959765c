"""Handlers of CloudFormation types that are only recorded."""

import hashlib
import json

from ministack.core.responses import get_account_id, get_region


def digest(*parts):
    """A stable id: the same stack and logical id give the same one."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:17]


def arn(service, resource):
    return f"arn:aws:{service}:{get_region()}:{get_account_id()}:{resource}"


def recorded(make, create_only=()):
    """Handlers of a type that is only recorded: `make(identity, properties)` gives its id and attributes."""

    def create(logical_id, props, stack_name):
        # A replacement gets another id, as in AWS; anything else keeps it.
        identity = json.dumps({key: props.get(key) for key in create_only}, sort_keys=True, default=str)
        return make(digest(stack_name, logical_id, identity), props)

    def update(physical_id, old_props, new_props, stack_name, logical_id):
        return create(logical_id, new_props, stack_name)

    return {
        "create": create,
        "update": update,
        "update_with_logical_id": True,
        "delete": lambda physical_id, props: None,
    }


def by_id(prefix, attribute="Id"):
    """An id such as `nat-0123`, which one attribute tells as well."""

    def make(identity, props):
        physical_id = f"{prefix}-{identity}"
        return physical_id, {attribute: physical_id}

    return make


def by_name(name_key, service, kind, attribute="Arn", extra=None):
    """The name that the template gives is the id; an attribute tells the ARN."""

    def make(identity, props):
        name = props[name_key]
        return name, {attribute: arn(service, f"{kind}/{name}"), **(extra(props) if extra else {})}

    return make


def by_arn(service, kind, attribute="Arn", extra=None):
    """The ARN is the id."""

    def make(identity, props):
        name = next((props[key] for key in props if key.endswith("Name")), identity)
        value = arn(service, f"{kind}/{name}/{identity}")
        return value, {attribute: value, **(extra or {})}

    return make
