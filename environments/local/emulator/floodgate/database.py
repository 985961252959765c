"""RDS: the control plane is the emulator's; a cluster is a database on the local PostgreSQL, with a master user whose
password is in a real secret. Proxies and instances are recorded: their endpoint is the server itself.
"""

import json
import secrets

from ministack.core.responses import get_account_id, get_region
from ministack.services import rds, secretsmanager
from ministack.services.cloudformation import provisioners

from floodgate import postgresql
from floodgate.postgresql import identifier, literal

CLUSTER = "AWS::RDS::DBCluster"
INSTANCE = "AWS::RDS::DBInstance"
PROXY = "AWS::RDS::DBProxy"
TARGET_GROUP = "AWS::RDS::DBProxyTargetGroup"

# What RDS has made before anybody connects. Who is in rds_iam signs in by IAM there; here the role only exists, so
# that the same migrations run.
GROUPS = ("rds_superuser", "rds_iam")


# -- The real side -------------------------------------------------------------------------------------------


def unless(query, statement):
    """A statement that is executed unless the query finds something."""
    return f"SELECT {literal(statement)} WHERE NOT EXISTS ({query}) \\gexec"


def role(name, attributes):
    """What makes a role, whether or not there is one."""
    return (
        unless(f"SELECT FROM pg_roles WHERE rolname = {literal(name)}", f"CREATE ROLE {identifier(name)}"),
        f"ALTER ROLE {identifier(name)} {attributes};",
    )


def make_database(name, master, password):
    """The master user and its database, by one run of the client. What outlived a crash of the emulator is taken over."""
    statements = [statement for group in GROUPS for statement in role(group, "NOLOGIN")]
    statements += role(master, f"LOGIN CREATEDB CREATEROLE PASSWORD {literal(password)}")
    for group in (*GROUPS, "pg_monitor", "pg_signal_backend"):
        admin = " WITH ADMIN OPTION" if group != "rds_superuser" else ""
        statements.append(f"GRANT {group} TO {identifier(master)}{admin};")
    if name:
        there = f"SELECT FROM pg_database WHERE datname = {literal(name)}"
        statements.append(unless(there, f"CREATE DATABASE {identifier(name)} OWNER {identifier(master)}"))
    postgresql.run("\n".join(statements))


def drop_database(name, master, is_shared):
    """The database, and unless another cluster has the same master user, that user and the roles that it made."""
    if name:
        postgresql.run(f"DROP DATABASE IF EXISTS {identifier(name)} WITH (FORCE)")
    if is_shared or not postgresql.run(f"SELECT 1 FROM pg_roles WHERE rolname = {literal(master)}"):
        return
    made = postgresql.run(
        "SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid "
        f"JOIN pg_roles u ON u.oid = m.member WHERE u.rolname = {literal(master)} AND m.admin_option"
    )
    for role in made:
        if role not in GROUPS and not role.startswith("pg_"):
            postgresql.run(f"DROP ROLE IF EXISTS {identifier(role)}")
    postgresql.run(f"DROP ROLE IF EXISTS {identifier(master)}")


# -- Clusters ------------------------------------------------------------------------------------------------


def cluster_id(props, stack_name, logical_id):
    return props.get("DBClusterIdentifier") or provisioners._physical_name(
        stack_name, logical_id, lowercase=True, max_len=63)


def master_user(props):
    return props.get("MasterUsername", "postgres")


def cluster_attributes(name):
    """Tells the real endpoint, also to who asks the RDS API."""
    cluster = rds._clusters[name]
    cluster["Endpoint"] = cluster["ReaderEndpoint"] = postgresql.host()
    cluster["Port"] = postgresql.port()
    attributes = provisioners._rds_db_cluster_attrs(cluster)
    secret = (cluster.get("MasterUserSecret") or {}).get("SecretArn")
    return {**attributes, **({"MasterUserSecret.SecretArn": secret} if secret else {})}


def cluster_create(logical_id, props, stack_name):
    name = cluster_id(props, stack_name, logical_id)
    if name in rds._clusters:
        raise ValueError(f"{CLUSTER}: {name} already exists")
    password = props.get("MasterUserPassword") or secrets.token_urlsafe(24)
    make_database(props.get("DatabaseName", ""), master_user(props), password)
    provisioners._rds_db_cluster_create(logical_id, props, stack_name)
    cluster = rds._clusters[name]
    cluster["_MasterUserPassword"] = password
    if provisioners._cfn_bool(props.get("ManageMasterUserPassword", False)):
        # The keys that RDS writes: where the server is, is not among them.
        secret_arn = secretsmanager.create_secret_in_process(
            f"rds!cluster-{provisioners.new_uuid()}",
            json.dumps({"username": master_user(props), "password": password}),
            description=f"Secret managed by RDS for DB cluster {name}",
        )
        key = (props.get("MasterUserSecret") or {}).get("KmsKeyId")
        cluster["MasterUserSecret"] = {
            "SecretArn": secret_arn,
            "SecretStatus": "active",
            "KmsKeyId": key or f"arn:aws:kms:{get_region()}:{get_account_id()}:alias/aws/secretsmanager",
        }
    return name, cluster_attributes(name)


def cluster_update(physical_id, old_props, new_props, stack_name, logical_id):
    if cluster_id(new_props, stack_name, logical_id) != physical_id:
        created = cluster_create(logical_id, new_props, stack_name)
        provisioners._delete_predecessor(cluster_delete, physical_id, old_props)
        return created
    if provisioners._requires_replacement(CLUSTER, old_props, new_props):
        raise ValueError(f"{CLUSTER}: {physical_id} would have to be replaced; give it another identifier")
    provisioners._rds_db_cluster_update(physical_id, old_props, new_props, stack_name, logical_id)
    return physical_id, cluster_attributes(physical_id)


def cluster_delete(physical_id, props):
    cluster = rds._clusters.pop(physical_id, None)
    master = master_user(props)
    is_shared = any(other.get("MasterUsername") == master for other in list(rds._clusters.values()))
    drop_database(props.get("DatabaseName", ""), master, is_shared)
    secret_arn = ((cluster or {}).get("MasterUserSecret") or {}).get("SecretArn")
    if secret_arn:
        secretsmanager._delete_secret({"SecretId": secret_arn, "ForceDeleteWithoutRecovery": True})


# -- Instances -----------------------------------------------------------------------------------------------


def instance_attributes(physical_id):
    instance = rds._instances[physical_id]
    instance["Endpoint"].update({"Address": postgresql.host(), "Port": postgresql.port()})
    return physical_id, provisioners._rds_db_instance_attrs(instance)


def instance_create(logical_id, props, stack_name):
    physical_id, _ = provisioners._rds_db_instance_create(logical_id, props, stack_name)
    return instance_attributes(physical_id)


def instance_update(physical_id, old_props, new_props, stack_name, logical_id):
    updated, _ = provisioners._rds_db_instance_update(physical_id, old_props, new_props, stack_name, logical_id)
    return instance_attributes(updated)


# -- Proxies -------------------------------------------------------------------------------------------------


def call(function, props, resource_type, action):
    provisioners._rds_call(function, provisioners._ec_query(props), resource_type, action)


def proxy_attributes(name):
    proxy = rds._db_proxies[name]
    proxy["Endpoint"] = postgresql.endpoint()
    return name, {"DBProxyArn": proxy["DBProxyArn"], "Endpoint": proxy["Endpoint"], "VpcId": proxy["VpcId"]}


def proxy_create(logical_id, props, stack_name):
    call(rds._create_db_proxy, props, PROXY, "create")
    return proxy_attributes(props["DBProxyName"])


def proxy_update(physical_id, old_props, new_props, stack_name):
    create_only = ("DBProxyName", "EngineFamily", "VpcSubnetIds")
    if new_props["DBProxyName"] != physical_id:
        created = proxy_create("", new_props, stack_name)
        provisioners._delete_predecessor(proxy_delete, physical_id, old_props)
        return created
    if any(old_props.get(key) != new_props.get(key) for key in create_only):
        raise ValueError(f"{PROXY}: {physical_id} would have to be replaced; give it another name")
    changed = {key: value for key, value in new_props.items() if key not in create_only[1:]}
    if "VpcSecurityGroupIds" in changed:
        changed["SecurityGroups"] = changed.pop("VpcSecurityGroupIds")
    call(rds._modify_db_proxy, changed, PROXY, "update")
    return proxy_attributes(physical_id)


def proxy_delete(physical_id, props):
    if physical_id in rds._db_proxies:
        call(rds._delete_db_proxy, {"DBProxyName": physical_id}, PROXY, "delete")


TARGETS = ("DBClusterIdentifiers", "DBInstanceIdentifiers")


def targets_of(props):
    named = {"DBProxyName": props["DBProxyName"], "TargetGroupName": props.get("TargetGroupName", "default")}
    return named, {**named, **{key: props[key] for key in TARGETS if props.get(key)}}


def target_group_create(logical_id, props, stack_name):
    named, targets = targets_of(props)
    pool = props.get("ConnectionPoolConfigurationInfo") or {}
    call(rds._modify_db_proxy_target_group, {**named, "ConnectionPoolConfig": pool}, TARGET_GROUP, "create")
    if len(targets) > len(named):
        call(rds._register_db_proxy_targets, targets, TARGET_GROUP, "create")
    value = rds._db_proxies[props["DBProxyName"]]["TargetGroup"]["TargetGroupArn"]
    return value, {"TargetGroupArn": value}


def target_group_update(physical_id, old_props, new_props, stack_name):
    if old_props["DBProxyName"] == new_props["DBProxyName"]:
        target_group_delete(physical_id, old_props)
    return target_group_create("", new_props, stack_name)


def target_group_delete(physical_id, props):
    named, targets = targets_of(props)
    if props["DBProxyName"] in rds._db_proxies and len(targets) > len(named):
        call(rds._deregister_db_proxy_targets, targets, TARGET_GROUP, "delete")


EXERCISED = {
    CLUSTER: {
        "create": cluster_create,
        "update": cluster_update,
        "update_with_logical_id": True,
        "delete": cluster_delete,
        "snapshot": provisioners._rds_db_cluster_snapshot,
    },
}

RECORDED = {
    INSTANCE: {
        "create": instance_create,
        "update": instance_update,
        "update_with_logical_id": True,
        "delete": provisioners._rds_db_instance_delete,
        "snapshot": provisioners._rds_db_instance_snapshot,
    },
    PROXY: {"create": proxy_create, "update": proxy_update, "delete": proxy_delete},
    TARGET_GROUP: {
        "create": target_group_create, "update": target_group_update, "delete": target_group_delete,
    },
}

WAITING = {CLUSTER}

RECORDED_BY_EMULATOR = {
    "AWS::RDS::DBClusterParameterGroup", "AWS::RDS::DBParameterGroup", "AWS::RDS::DBSubnetGroup",
}
