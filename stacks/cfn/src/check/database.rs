//! Databases: Aurora, its instances and capacity, and the proxies in front of it.

use std::collections::BTreeMap;

use super::{
    Findings,
    rules::{
        AURORA_BACKUP, AURORA_ENCRYPTION, AURORA_INSTANCE, AURORA_SUBNETS, DATABASE_ENGINE, PROXY_AUTO_PAUSE,
        PROXY_FILTER, PROXY_IDLE, PROXY_TLS, PUBLIC_DATABASE, SERVERLESS_CAPACITY, SERVERLESS_CLASS,
    },
    template::{Resource, Template},
};
use crate::value::Json;

/// Days that an environment that keeps its data keeps backups.
const BACKUP_DAYS: f64 = 7.0;

/// RDS user guide, CreateDBCluster and CreateDBInstance: the engines.
const CLUSTER_ENGINES: [&str; 5] = ["aurora-mysql", "aurora-postgresql", "mysql", "neptune", "postgres"];
const ENGINES: [&str; 11] = [
    "aurora-mysql",
    "aurora-postgresql",
    "mariadb",
    "mysql",
    "postgres",
    "oracle-",
    "sqlserver-",
    "custom-oracle-",
    "custom-sqlserver-",
    "db2-",
    "neptune",
];

/// Families of instance classes that RDS has or had, without their generation's letters.
const CLASS_FAMILIES: [&str; 9] = ["t2", "t3", "t4", "m", "r", "x", "z1", "c6", "serverless"];

const CLASS_SIZES: [&str; 11] = [
    "micro", "small", "medium", "large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge",
    "24xlarge",
];

pub(super) fn check(template: &Template<'_>, findings: &mut Findings<'_>) {
    let mut instances: BTreeMap<&str, Vec<Resource<'_>>> = BTreeMap::new();
    for instance in template.of_kind("AWS::RDS::DBInstance") {
        if let Some(cluster) = instance.at("/DBClusterIdentifier").and_then(|id| template.own(id)) {
            instances.entry(cluster.logical_id).or_default().push(*instance);
        }
        if instance.on("/PubliclyAccessible") {
            findings.resource(PUBLIC_DATABASE, instance.logical_id, "it has a public address".to_owned());
        }
        if !instance.has("/DBClusterIdentifier") {
            storage(template, instance, findings);
        }
    }
    engines(template, findings);
    for cluster in template.of_kind("AWS::RDS::DBCluster") {
        if cluster.on("/PubliclyAccessible") {
            findings.resource(PUBLIC_DATABASE, cluster.logical_id, "it has a public address".to_owned());
        }
        storage(template, cluster, findings);
        let instances = instances.get(cluster.logical_id).map_or(&[][..], Vec::as_slice);
        compute(cluster, instances, findings);
        capacity(cluster, findings);
    }
    for proxy in template.of_kind("AWS::RDS::DBProxy") {
        self::proxy(proxy, findings);
    }
    for group in template.of_kind("AWS::RDS::DBProxyTargetGroup") {
        filters(template, group, findings);
        pausing(template, group, findings);
    }
    for group in template.of_kind("AWS::RDS::DBSubnetGroup") {
        if group.at("/SubnetIds").and_then(Json::as_array).is_some_and(|subnets| subnets.len() < 2) {
            findings.resource(AURORA_SUBNETS, group.logical_id, "it has fewer than two subnets".to_owned());
        }
    }
}

/// Names that RDS would refuse, as far as their form tells; which versions there are changes by the month.
fn engines(template: &Template<'_>, findings: &mut Findings<'_>) {
    let mut wrong = |resource: &Resource<'_>, property: &str, fits: &dyn Fn(&str) -> bool| {
        if let Some(text) = resource.text(&format!("/{property}")).filter(|text| !fits(text)) {
            findings.resource(
                DATABASE_ENGINE,
                resource.logical_id,
                format!("{property} is `{text}`, which RDS does not have"),
            );
        }
    };
    for cluster in template.of_kind("AWS::RDS::DBCluster") {
        wrong(cluster, "Engine", &|engine| CLUSTER_ENGINES.contains(&engine));
        wrong(cluster, "EngineVersion", &is_version);
        wrong(cluster, "DBClusterInstanceClass", &is_class);
    }
    for instance in template.of_kind("AWS::RDS::DBInstance") {
        let known = |engine: &str| {
            ENGINES
                .iter()
                .any(|known| *known == engine || (known.ends_with('-') && engine.starts_with(known)))
        };
        wrong(instance, "Engine", &known);
        wrong(instance, "EngineVersion", &is_version);
        wrong(instance, "DBInstanceClass", &is_class);
    }
}

/// Such as `16.8` or `8.0.mysql_aurora.3.10.0`: begins with a number.
fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Such as `db.r7g.large`; bare metal and the sizes of Oracle's classes end in other words.
fn is_class(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("db.") else { return false };
    let mut parts = rest.split('.');
    let family = parts.next().unwrap_or_default();
    let size = parts.next();
    CLASS_FAMILIES.iter().any(|known| family.starts_with(known))
        && match size {
            None => family == "serverless",
            Some(size) => {
                CLASS_SIZES.contains(&size) || size.ends_with("xlarge") || size.starts_with("metal")
            }
        }
}

fn storage(template: &Template<'_>, database: &Resource<'_>, findings: &mut Findings<'_>) {
    // What is restored keeps the encryption of its source.
    let restored = database.has("/SnapshotIdentifier")
        || database.has("/SourceDBClusterIdentifier")
        || database.has("/DBSnapshotIdentifier");
    if !restored && database.off("/StorageEncrypted") {
        findings.resource(
            AURORA_ENCRYPTION,
            database.logical_id,
            "its storage is not encrypted, and cannot be later".to_owned(),
        );
    }
    let days = match database.at("/BackupRetentionPeriod") {
        None => Some(1.0),
        Some(json) => super::template::number(json),
    };
    if template.data_kept
        && let Some(days) = days.filter(|days| *days < BACKUP_DAYS)
    {
        findings.resource(AURORA_BACKUP, database.logical_id, format!("backups are kept for {days} days"));
    }
}

fn compute(cluster: &Resource<'_>, instances: &[Resource<'_>], findings: &mut Findings<'_>) {
    // A Multi-AZ cluster that is not Aurora has its instances within itself.
    if cluster.has("/DBClusterInstanceClass")
        || !cluster.text("/Engine").is_none_or(|e| e.starts_with("aurora"))
    {
        return;
    }
    if instances.is_empty() {
        findings.resource(
            AURORA_INSTANCE,
            cluster.logical_id,
            "it has no instance, so that nothing answers".to_owned(),
        );
    }
    let serverless = cluster.has("/ServerlessV2ScalingConfiguration");
    for instance in instances {
        match instance.text("/DBInstanceClass") {
            Some("db.serverless") if !serverless => findings.resource(
                SERVERLESS_CLASS,
                instance.logical_id,
                "it is db.serverless in a cluster without ServerlessV2ScalingConfiguration".to_owned(),
            ),
            Some(class) if serverless && class != "db.serverless" && instances.len() == 1 => findings
                .resource(
                    SERVERLESS_CLASS,
                    instance.logical_id,
                    format!("it is {class} in a cluster that scales by ServerlessV2ScalingConfiguration"),
                ),
            _ => {}
        }
    }
}

fn capacity(cluster: &Resource<'_>, findings: &mut Findings<'_>) {
    let least = cluster.number("/ServerlessV2ScalingConfiguration/MinCapacity");
    let most = cluster.number("/ServerlessV2ScalingConfiguration/MaxCapacity");
    let mut wrong = |message: String| findings.resource(SERVERLESS_CAPACITY, cluster.logical_id, message);
    if let (Some(least), Some(most)) = (least, most)
        && least > most
    {
        wrong(format!("its capacity goes from {least} to {most}"));
    }
    for capacity in [least, most].into_iter().flatten() {
        if (capacity * 2.0).fract() != 0.0 || !(0.0..=256.0).contains(&capacity) {
            wrong(format!("a capacity of {capacity}; it goes in steps of 0.5 up to 256"));
        }
    }
    if most.is_some_and(|most| most < 1.0) {
        wrong("its largest capacity is below 1".to_owned());
    }
    let pause = cluster.number("/ServerlessV2ScalingConfiguration/SecondsUntilAutoPause");
    if pause.is_some() && least.is_some_and(|least| least > 0.0) {
        wrong("it would pause, and its smallest capacity is not 0".to_owned());
    }
}

/// A cluster that pauses behind a proxy, be it in this stack or in another.
fn pausing(template: &Template<'_>, group: &Resource<'_>, findings: &mut Findings<'_>) {
    for cluster in group.list("/DBClusterIdentifiers").iter().filter_map(|cluster| template.target(cluster)) {
        if cluster.number("/ServerlessV2ScalingConfiguration/MinCapacity") == Some(0.0) {
            let blamed = if cluster.home == template.id { cluster } else { *group };
            findings.resource(
                PROXY_AUTO_PAUSE,
                blamed.logical_id,
                format!(
                    "the smallest capacity of {} is 0, and a proxy holds connections to it",
                    cluster.logical_id
                ),
            );
        }
    }
}

fn proxy(proxy: &Resource<'_>, findings: &mut Findings<'_>) {
    if proxy.off("/RequireTLS") {
        findings.resource(PROXY_TLS, proxy.logical_id, "RequireTLS is not on".to_owned());
    }
    if !proxy.has("/IdleClientTimeout") {
        findings.resource(
            PROXY_IDLE,
            proxy.logical_id,
            "IdleClientTimeout is not set, and is 1,800 s".to_owned(),
        );
    }
    if proxy.at("/VpcSubnetIds").and_then(Json::as_array).is_some_and(|subnets| subnets.len() < 2) {
        findings.resource(AURORA_SUBNETS, proxy.logical_id, "it has fewer than two subnets".to_owned());
    }
}

/// `EXCLUDE_VARIABLE_SETS` is a filter for MySQL.
fn filters(template: &Template<'_>, group: &Resource<'_>, findings: &mut Findings<'_>) {
    let filtered = group
        .list("/ConnectionPoolConfigurationInfo/SessionPinningFilters")
        .iter()
        .any(|filter| filter.as_str() == Some("EXCLUDE_VARIABLE_SETS"));
    let proxy = group.at("/DBProxyName").and_then(|name| template.target(name));
    let family = proxy.and_then(|proxy| proxy.text("/EngineFamily"));
    if filtered && family == Some("POSTGRESQL") {
        findings.resource(PROXY_FILTER, group.logical_id, "EXCLUDE_VARIABLE_SETS with PostgreSQL".to_owned());
    }
}
