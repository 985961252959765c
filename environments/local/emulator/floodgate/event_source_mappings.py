"""Event source mappings of MSK clusters and Kinesis streams: kept and answered here, run by `local-environment`.

The emulator has no mapping of an MSK cluster and keeps few of the settings of a Kinesis one. Here a mapping has every
setting, as AWS returns it, and the emulator's own poller leaves it alone. Mappings of queues and table streams stay
the emulator's.
"""

import time

from ministack.core.arn import ArnParseError, parse_arn
from ministack.core.responses import error_response_json, json_response, new_uuid
from ministack.services import lambda_svc
from ministack.services.cloudformation import provisioners

SERVICES = ("kafka", "kinesis")

# What AWS answers where nothing was said.
DEFAULTS = {
    "kafka": {
        "BatchSize": 100,
        "DestinationConfig": {"OnFailure": {}},
        "FunctionResponseTypes": [],
        "StartingPosition": "TRIM_HORIZON",
    },
    "kinesis": {
        "BatchSize": 100,
        "BisectBatchOnFunctionError": False,
        "DestinationConfig": {"OnFailure": {}},
        "FunctionResponseTypes": [],
        "MaximumBatchingWindowInSeconds": 0,
        "MaximumRecordAgeInSeconds": -1,
        "MaximumRetryAttempts": -1,
        "ParallelizationFactor": 1,
        "StartingPosition": "LATEST",
        "TumblingWindowInSeconds": 0,
    },
}

SETTINGS = (
    "AmazonManagedKafkaEventSourceConfig", "BatchSize", "BisectBatchOnFunctionError", "DestinationConfig",
    "FilterCriteria", "FunctionResponseTypes", "KMSKeyArn", "KmsKeyArn", "LoggingConfig",
    "MaximumBatchingWindowInSeconds", "MaximumRecordAgeInSeconds", "MaximumRetryAttempts", "MetricsConfig",
    "ParallelizationFactor", "ProvisionedPollerConfig", "SourceAccessConfigurations", "StartingPosition",
    "StartingPositionTimestamp", "Topics", "TumblingWindowInSeconds",
)

NUMBERS = {
    "BatchSize", "MaximumBatchingWindowInSeconds", "MaximumPollers", "MaximumRecordAgeInSeconds",
    "MaximumRetryAttempts", "MinimumPollers", "ParallelizationFactor", "TumblingWindowInSeconds",
}

# What cannot change in place.
CREATE_ONLY = ("EventSourceArn", "StartingPosition", "StartingPositionTimestamp")


def service_of(source_arn):
    """`kafka` or `kinesis`, or None for a source that is not ours."""
    try:
        service = parse_arn(source_arn or "").service
    except ArnParseError:
        return None
    return service if service in SERVICES else None


def typed(value, key=""):
    """A template's values may be text: numbers and booleans become what the API has."""
    if isinstance(value, dict):
        return {name: typed(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if key in NUMBERS:
        return int(value)
    if key in ("BisectBatchOnFunctionError", "Enabled"):
        return str(value).lower() == "true"
    return value


def mapping(identity, properties):
    """The record of a mapping; raises ValueError for what AWS refuses at once."""
    properties = {key: typed(value, key) for key, value in properties.items() if value is not None}
    source_arn = properties.get("EventSourceArn", "")
    service = service_of(source_arn)
    reference = properties.get("FunctionName", "")
    name, qualifier, error = lambda_svc._resolve_existing_esm_function(reference)
    if error:
        raise ValueError(f"Function not found: {reference}")
    if service == "kafka" and len(properties.get("Topics") or []) != 1:
        raise ValueError("An event source mapping of an MSK cluster wants exactly one topic")
    enabled = properties.get("Enabled", True)
    record = {
        "UUID": identity,
        "EventSourceArn": source_arn,
        "FunctionArn": lambda_svc._func_arn(name) + (f":{qualifier}" if qualifier else ""),
        "FunctionName": name,
        "Qualifier": qualifier,
        "Enabled": enabled,
        "State": "Enabled" if enabled else "Disabled",
        "StateTransitionReason": "User action",
        "LastModified": int(time.time()),
        "LastProcessingResult": "No records processed",
        **DEFAULTS[service],
        **{key: properties[key] for key in SETTINGS if key in properties},
    }
    if service == "kafka":
        config = dict(record.get("AmazonManagedKafkaEventSourceConfig") or {})
        config.setdefault("ConsumerGroupId", identity)
        record["AmazonManagedKafkaEventSourceConfig"] = config
    tags = properties.get("Tags") or {}
    if isinstance(tags, list):
        tags = {tag["Key"]: tag.get("Value", "") for tag in tags}
    if tags:
        record["Tags"] = dict(tags)
    return record


# -- CloudFormation -----------------------------------------------------------------------------------------


def handlers(emulators):
    """Handlers of the type: ours for our sources, the emulator's for the others."""

    def attributes(identity):
        return {"Id": identity, "EventSourceMappingArn": lambda_svc._esm_arn(identity)}

    def create(logical_id, props, stack_name):
        if not service_of(props.get("EventSourceArn")):
            return emulators["create"](logical_id, props, stack_name)
        identity = new_uuid()
        lambda_svc._esms[identity] = mapping(identity, props)
        return identity, attributes(identity)

    def update(physical_id, old_props, new_props, stack_name):
        ours = service_of(old_props.get("EventSourceArn")), service_of(new_props.get("EventSourceArn"))
        if not any(ours):
            return emulators["update"](physical_id, old_props, new_props, stack_name)
        known = lambda_svc._esms.get(physical_id)
        if known is None or any(old_props.get(key) != new_props.get(key) for key in CREATE_ONLY):
            made = create("", new_props, stack_name)
            lambda_svc._esms.pop(physical_id, None)
            return made
        lambda_svc._esms[physical_id] = mapping(physical_id, new_props)
        return physical_id, attributes(physical_id)

    def delete(physical_id, props):
        if not service_of(props.get("EventSourceArn")):
            return emulators["delete"](physical_id, props)
        lambda_svc._esms.pop(physical_id, None)

    return {"create": create, "update": update, "delete": delete}


# -- The Lambda API -----------------------------------------------------------------------------------------


def refused(error):
    return error_response_json("InvalidParameterValueException", str(error), 400)


def extend_api():
    """Has the Lambda API make, change and list our mappings, and the emulator's poller leave streams alone."""
    emulators_create, emulators_update = lambda_svc._create_esm, lambda_svc._update_esm
    emulators_list = lambda_svc._list_esms

    def create(data):
        if not service_of(data.get("EventSourceArn")):
            return emulators_create(data)
        identity = new_uuid()
        try:
            record = mapping(identity, data)
        except ValueError as error:
            return refused(error)
        lambda_svc._esms[identity] = record
        return json_response(lambda_svc._esm_response(record), 202)

    def update(identity, data):
        known = lambda_svc._esms.get(identity)
        if known is None or not service_of(known.get("EventSourceArn")):
            return emulators_update(identity, data)
        kept = {key: known[key] for key in ("EventSourceArn", "FunctionName", "Enabled", "Tags") if key in known}
        if known.get("Qualifier"):
            kept["FunctionName"] = f"{known['FunctionName']}:{known['Qualifier']}"
        kept.update({key: known[key] for key in SETTINGS if key in known})
        changed = {key: value for key, value in data.items() if key not in CREATE_ONLY and key != "Topics"}
        try:
            record = mapping(identity, {**kept, **changed})
        except ValueError as error:
            return refused(error)
        lambda_svc._esms[identity] = record
        return json_response(lambda_svc._esm_response(record), 202)

    def listed(query_params):
        # The runner looks after every region; AWS has no such list.
        if not lambda_svc._qp_first(query_params, "EveryRegion"):
            return emulators_list(query_params)
        records = [
            {**lambda_svc._esm_response(record), "EventSourceMappingArn": every_region_arn(record)}
            for record in list(lambda_svc._esms._data.values())
            if service_of(record.get("EventSourceArn"))
        ]
        return json_response({"EventSourceMappings": records})

    lambda_svc._create_esm, lambda_svc._update_esm, lambda_svc._list_esms = create, update, listed
    lambda_svc._poll_kinesis = lambda: False


def every_region_arn(record):
    """The mapping's ARN, with the region and account of its function instead of the request's."""
    prefix, _, _ = record["FunctionArn"].partition(":function:")
    return f"{prefix}:event-source-mapping:{record['UUID']}"


def install():
    """Puts ours in front of the emulator's type and API."""
    handlers_of_types, name = provisioners._RESOURCE_HANDLERS, "AWS::Lambda::EventSourceMapping"
    handlers_of_types[name] = handlers(handlers_of_types[name])
    extend_api()
