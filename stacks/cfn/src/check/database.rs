//! Databases: Aurora, its instances and capacity, and the proxies in front of it.

use std::collections::BTreeMap;

use super::{
    Findings,
    rules::{
        AURORA_BACKUP, AURORA_ENCRYPTION, AURORA_INSTANCE, AURORA_SUBNETS, PROXY_AUTO_PAUSE, PROXY_FILTER,
        PROXY_IDLE, PROXY_TLS, PUBLIC_DATABASE, SERVERLESS_CAPACITY, SERVERLESS_CLASS,
    },
    template::{Resource, Template},
};
use crate::value::Json;

/// Days that an environment that keeps its data keeps backups.
const BACKUP_DAYS: f64 = 7.0;

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
