//! An Aurora PostgreSQL cluster behind an RDS Proxy, with IAM from end to end: no password is stored for a
//! worker anywhere. The administrator alone has one, which Secrets Manager makes and rotates; it signs in through the
//! proxy as well, for migrations.

use std::collections::BTreeMap;

use cfn::{Handle, Json, Removal, Scope, Value};
use cfn_resources::{
    cloudwatch::AlarmStatistic,
    ec2::SecurityGroup,
    kms::Key,
    rds::{
        DbCluster, DbClusterMasterUserSecret, DbClusterParameterGroup, DbClusterParameterGroupRequired,
        DbClusterServerlessV2ScalingConfiguration, DbInstance, DbProxy, DbProxyAuthFormat,
        DbProxyAuthFormatAuthScheme, DbProxyAuthFormatClientPasswordAuthType, DbProxyAuthFormatIamAuth,
        DbProxyDefaultAuthScheme, DbProxyEngineFamily, DbProxyRequired, DbProxyTargetGroup,
        DbProxyTargetGroupConnectionPoolConfigurationInfoFormat, DbProxyTargetGroupTargetGroupName,
        DbSubnetGroup,
    },
};
use serde_json::json;

use crate::{
    DataPolicy,
    alarm::Metric,
    connections, encryption,
    iam::{self, Trust},
    needs::Peer,
    network::{Network, as_text},
};

/// Where PostgreSQL and its proxy listen.
pub const POSTGRESQL_PORT: i64 = 5432;

/// What a database is made for.
#[derive(Clone, Debug)]
pub struct DatabaseProperties {
    /// The cluster's identifier.
    pub name: String,
    /// The database's name.
    pub database: String,
    /// Aurora's version, such as `16.8`.
    pub engine_version: String,
    /// Such as `db.r7g.large`, or `db.serverless`.
    pub instance_class: String,
    /// The bounds of a serverless cluster's capacity, in Aurora capacity units (steps of 0.5). The lower one is
    /// above 0: behind a proxy, connections keep the cluster from pausing.
    pub serverless_capacity: Option<(f64, f64)>,
    /// Readers beside the writer; one can take over from it.
    pub readers: u32,
    /// Days that backups are kept, 1 to 35.
    pub backup_retention_days: i64,
    /// The share of the instance's connections that the proxy may use, in percent.
    pub proxy_max_connections_percent: i64,
    /// The share that it keeps open while idle, in percent.
    pub proxy_max_idle_percent: i64,
    /// What happens to the data with the stack.
    pub data: DataPolicy,
}

/// A database with its proxy.
#[derive(Clone, Debug)]
pub struct Database {
    /// The cluster.
    pub cluster: Handle<DbCluster>,
    /// The proxy.
    pub proxy: Handle<DbProxy>,
    /// The proxy's security group: where workers connect.
    pub proxy_group: Handle<SecurityGroup>,
    key: Handle<Key>,
    identifier: String,
    proxy_name: String,
    database: String,
}

impl Database {
    /// A cluster in the private subnets with a writer and readers, encrypted with a key of its own, and a
    /// proxy that takes IAM over TLS alone.
    #[track_caller]
    pub fn new(
        scope: &mut Scope<'_>,
        name: &str,
        network: &Network,
        users: &[&str],
        properties: &DatabaseProperties,
    ) -> Self {
        let mut scope = scope.child(name);
        let removal = match properties.data {
            DataPolicy::Disposable => Removal::Delete,
            DataPolicy::Kept => Removal::Snapshot,
        };
        let key = encryption::key(
            &mut scope,
            "Key",
            &format!("{}-database", properties.name),
            "The database, its secret and its insights at rest",
            &[],
            properties.data,
        );
        let group =
            network.security_group(&mut scope, "SecurityGroup", "Instances of the database", Vec::new());
        let proxy_group =
            network.security_group(&mut scope, "ProxySecurityGroup", "Proxy of the database", Vec::new());
        connections::allow(
            &mut scope,
            &proxy_group,
            &Peer { name: "Database", group: group.clone(), port: POSTGRESQL_PORT },
        );
        let subnets =
            scope.add("Subnets", DbSubnetGroup::new("The private subnets", network.private_subnet_ids()));
        let major = properties.engine_version.split('.').next().unwrap_or_default().to_owned();
        let parameters = scope.add(
            "Parameters",
            DbClusterParameterGroup::new(DbClusterParameterGroupRequired {
                description: Value::Literal("TLS alone, slow statements in the log".to_owned()),
                family: Value::Literal(format!("aurora-postgresql{major}")),
                parameters: Value::Literal(
                    json!({ "rds.force_ssl": "1", "log_min_duration_statement": "1000" }),
                ),
            }),
        );
        let monitoring = iam::role(
            &mut scope,
            "MonitoringRole",
            "Enhanced monitoring of the database",
            &Trust::service("monitoring.rds.amazonaws.com"),
            &["service-role/AmazonRDSEnhancedMonitoringRole"],
            Vec::new(),
        );
        let mut cluster = DbCluster::new()
            .db_cluster_identifier(properties.name.clone())
            .engine("aurora-postgresql")
            .engine_version(properties.engine_version.clone())
            .database_name(properties.database.clone())
            .db_subnet_group_name(subnets.reference())
            .db_cluster_parameter_group_name(parameters.reference())
            .vpc_security_group_ids([group.group_id()])
            .port(POSTGRESQL_PORT)
            .storage_encrypted(true)
            .kms_key_id(as_text(&key.arn()))
            .master_username("administrator")
            // Secrets Manager makes the password and rotates it every seven days.
            .manage_master_user_password(true)
            .master_user_secret(DbClusterMasterUserSecret::new().kms_key_id(key.key_id()))
            .enable_iam_database_authentication(true)
            .enable_cloudwatch_logs_exports(["postgresql"])
            .backup_retention_period(properties.backup_retention_days)
            .copy_tags_to_snapshot(true)
            .deletion_protection(properties.data == DataPolicy::Kept);
        if let Some((least, most)) = properties.serverless_capacity {
            cluster = cluster.serverless_v2_scaling_configuration(
                DbClusterServerlessV2ScalingConfiguration::new().min_capacity(least).max_capacity(most),
            );
        }
        let cluster = scope.add("Resource", cluster);
        scope.removal(cluster.raw(), removal);
        let mut instances = Vec::new();
        for number in 0..=properties.readers {
            let role = if number == 0 { "Writer".to_owned() } else { format!("Reader{number}") };
            let instance = scope.add(
                &role,
                DbInstance::new()
                    .db_cluster_identifier(cluster.reference())
                    .engine("aurora-postgresql")
                    .db_instance_class(properties.instance_class.clone())
                    .publicly_accessible(false)
                    .auto_minor_version_upgrade(true)
                    .monitoring_interval(60)
                    .monitoring_role_arn(monitoring.arn())
                    .enable_performance_insights(true)
                    .performance_insights_kms_key_id(as_text(&key.arn()))
                    .promotion_tier(i64::from(number)),
            );
            scope.removal(instance.raw(), Removal::Delete);
            if properties.data == DataPolicy::Kept {
                scope.waive(
                    instance.raw(),
                    "FG412",
                    "the data is the cluster's; an instance has none of its own",
                );
            }
            instances.push(instance);
        }

        let user_arns: Vec<Value<String>> =
            users.iter().map(|user| database_user(cluster.db_cluster_resource_id(), user)).collect();
        let proxy_role = iam::role(
            &mut scope,
            "ProxyRole",
            "The proxy connects to the database as the users that connect to it",
            &Trust::service("rds.amazonaws.com"),
            &[],
            [
                vec![iam::allow("ConnectAsUsers", &["rds-db:connect"], &user_arns)],
                grant_read_secret(cluster.master_user_secret_secret_arn(), &key),
            ]
            .concat(),
        );
        let proxy_name = format!("{}-proxy", properties.name);
        let proxy = scope.add(
            "Proxy",
            DbProxy::new(DbProxyRequired {
                db_proxy_name: Value::Literal(proxy_name.clone()),
                engine_family: Value::Literal(DbProxyEngineFamily::Postgresql),
                role_arn: proxy_role.arn(),
                vpc_subnet_ids: Value::Literal(network.private_subnet_ids()),
            })
            .default_auth_scheme(DbProxyDefaultAuthScheme::IamAuth)
            .auth([DbProxyAuthFormat::new()
                .description("The administrator, for migrations")
                .auth_scheme(DbProxyAuthFormatAuthScheme::Secrets)
                .client_password_auth_type(DbProxyAuthFormatClientPasswordAuthType::PostgresScramSha256)
                .iam_auth(DbProxyAuthFormatIamAuth::Disabled)
                .secret_arn(cluster.master_user_secret_secret_arn().assume())])
            .require_tls(true)
            .idle_client_timeout(1800)
            .vpc_security_group_ids([proxy_group.group_id()]),
        );
        let target = scope.add(
            "ProxyTarget",
            DbProxyTargetGroup::new(proxy.reference(), DbProxyTargetGroupTargetGroupName::Default)
                .db_cluster_identifiers([cluster.reference()])
                .connection_pool_configuration_info(
                    DbProxyTargetGroupConnectionPoolConfigurationInfoFormat::new()
                        .max_connections_percent(properties.proxy_max_connections_percent)
                        .max_idle_connections_percent(properties.proxy_max_idle_percent)
                        .connection_borrow_timeout(120),
                ),
        );
        for instance in &instances {
            scope.depend(target.raw(), instance.raw());
        }
        Self {
            cluster,
            proxy,
            proxy_group,
            key,
            identifier: properties.name.clone(),
            proxy_name,
            database: properties.database.clone(),
        }
    }

    /// Connects through the proxy as a user, by IAM.
    #[must_use]
    pub fn grant_connect(&self, user: &str) -> Vec<Json> {
        // arn:PARTITION:rds:REGION:ACCOUNT:db-proxy:prx-…
        let parts: Value<Vec<Value<String>>> = Value::split(":", self.proxy.db_proxy_arn());
        vec![iam::allow(
            "ConnectToDatabase",
            &["rds-db:connect"],
            &[database_user(Value::select(6, parts), user)],
        )]
    }

    /// The secret with the administrator's user name and password.
    #[must_use]
    pub fn administrator_secret(&self) -> Value<String> {
        self.cluster.master_user_secret_secret_arn()
    }

    /// Reads that secret.
    #[must_use]
    pub fn grant_read_administrator_secret(&self) -> Vec<Json> {
        grant_read_secret(self.administrator_secret(), &self.key)
    }

    /// The proxy, as something to connect to.
    #[must_use]
    pub fn peer(&self) -> Peer {
        Peer { name: "DatabaseProxy", group: self.proxy_group.clone(), port: POSTGRESQL_PORT }
    }

    /// The database's name.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// A metric of the cluster.
    #[must_use]
    pub fn metric(&self, name: &'static str, statistic: AlarmStatistic) -> Metric {
        Metric {
            namespace: "AWS/RDS",
            name,
            dimensions: BTreeMap::from([("DBClusterIdentifier", Value::Literal(self.identifier.clone()))]),
            statistic,
        }
    }

    /// A metric of the proxy.
    #[must_use]
    pub fn proxy_metric(&self, name: &'static str, statistic: AlarmStatistic) -> Metric {
        Metric {
            namespace: "AWS/RDS",
            name,
            dimensions: BTreeMap::from([("ProxyName", Value::Literal(self.proxy_name.clone()))]),
            statistic,
        }
    }
}

/// Reads a secret that is encrypted with that key.
fn grant_read_secret(secret: Value<String>, key: &Handle<Key>) -> Vec<Json> {
    vec![
        iam::allow("ReadSecret", &["secretsmanager:GetSecretValue"], &[secret]),
        iam::allow("DecryptSecret", &["kms:Decrypt"], &[as_text(&key.arn())]),
    ]
}

/// A user of a database or proxy, as IAM names it.
fn database_user(resource_id: Value<String>, user: &str) -> Value<String> {
    let prefix = Value::sub("arn:${AWS::Partition}:rds-db:${AWS::Region}:${AWS::AccountId}:dbuser:", []);
    Value::join("", [prefix, resource_id, Value::Literal(format!("/{user}"))])
}

#[cfg(test)]
mod tests {
    use cfn::Property;

    use super::*;

    #[test]
    fn a_user_is_named_by_the_resource_that_is_connected_to() {
        let arn = database_user(Value::Literal("prx-1".to_owned()), "writer").to_json();
        assert!(arn.to_string().contains("prx-1") && arn.to_string().contains("/writer"), "{arn}");
    }
}
