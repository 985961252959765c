"""EKS and ECR: recorded, because workloads run as processes, from their binaries."""

from floodgate.resources import arn, recorded


def access_entry(identity, props):
    value = arn("eks", f"access-entry/{props.get('ClusterName')}/{identity}")
    return f"{props.get('PrincipalArn')}|{props.get('ClusterName')}", {"AccessEntryArn": value}


def pod_identity(identity, props):
    association = f"a-{identity}"
    value = arn("eks", f"podidentityassociation/{props.get('ClusterName')}/{association}")
    return value, {"AssociationArn": value, "AssociationId": association, "ExternalId": identity}


RECORDED = {
    "AWS::EKS::AccessEntry": recorded(access_entry, ("ClusterName", "PrincipalArn")),
    "AWS::EKS::PodIdentityAssociation": recorded(pod_identity, ("ClusterName", "Namespace", "ServiceAccount")),
}

EXERCISED = {}

RECORDED_BY_EMULATOR = {"AWS::ECR::Repository", "AWS::EKS::Cluster"}
