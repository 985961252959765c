"""Identities and keys: recorded, because nobody is refused here and nothing is encrypted."""

from ministack.services import iam
from ministack.services.cloudformation import provisioners



def provider_create(logical_id, props, stack_name):
    """An identity provider that the IAM API tells as well."""
    status, _, body = iam._create_oidc_provider(provisioners._ec_query({
        key: props[key] for key in ("Url", "ClientIdList", "ThumbprintList") if key in props
    }, {"ClientIdList": "ClientIDList"}))
    if status >= 300:
        raise ValueError(f"AWS::IAM::OIDCProvider: {body}")
    host = props["Url"].removeprefix("https://").rstrip("/")
    arn = f"arn:aws:iam::{iam.get_account_id()}:oidc-provider/{host}"
    return arn, {"Arn": arn}


def provider_update(physical_id, old_props, new_props, stack_name):
    provider_delete(physical_id, old_props)
    return provider_create("", new_props, stack_name)


def provider_delete(physical_id, props):
    iam._oidc_providers.pop(physical_id, None)


RECORDED = {
    "AWS::IAM::OIDCProvider": {
        "create": provider_create, "update": provider_update, "delete": provider_delete,
    },
}

EXERCISED = {}

RECORDED_BY_EMULATOR = {
    "AWS::IAM::ManagedPolicy", "AWS::IAM::Policy", "AWS::IAM::Role", "AWS::KMS::Alias", "AWS::KMS::Key",
}
