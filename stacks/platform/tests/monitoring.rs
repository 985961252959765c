//! What scales and watches the workloads in a cluster: that it is whole, asks for what there is, and is not rendered
//! where there is no cluster.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use capacity::scaling::{manifest::ScaledObjectManifest, stepper::Target};
use cfn::{
    Assembly, Json,
    assembly::{LookupSource, Source},
};
use platform::{Environment, environment::ScalingTarget, render, sizes};
use regex::Regex;
use serde::Deserialize;
use support::{assembly, environment, workspace};

const ON_AWS: [&str; 3] = ["dev", "prod", "staging"];

fn documents(text: &str) -> Vec<Json> {
    serde_yaml_ng::Deserializer::from_str(text).map(|document| Json::deserialize(document).unwrap()).collect()
}

/// All documents of the kind, of all files.
fn of_kind(assembly: &Assembly, kind: &str) -> Vec<Json> {
    assembly
        .files
        .iter()
        .filter(|(path, _)| path.ends_with(".yaml"))
        .flat_map(|(_, text)| documents(text))
        .filter(|document| document["kind"] == kind)
        .collect()
}

fn values(assembly: &Assembly, release: &str) -> Json {
    documents(&assembly.files[&format!("kubernetes/helm/{release}.yaml")]).remove(0)
}

/// The names that a text has filled in.
fn placeholders(text: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\$\{\{ *([a-z0-9_]+) *\}\}").unwrap();
    assert_eq!(name.find_iter(text).count(), text.matches("${{").count(), "each is a name: {text}");
    name.captures_iter(text).map(|found| found[1].to_owned()).collect()
}

#[test]
fn local_renders_workloads_alone() {
    let local = assembly("local");
    assert_eq!(
        local.files.keys().collect::<Vec<_>>(),
        [
            "kubernetes/tag-load.yaml",
            "kubernetes/tag-worker.yaml",
            "kubernetes/trade-consumer.yaml",
            "kubernetes/trade-producer.yaml"
        ]
    );
    assert!(local.manifest.helm_releases.is_empty() && local.manifest.cluster_manifests.is_empty());
    let kinds: BTreeSet<String> = local
        .files
        .values()
        .flat_map(|text| documents(text))
        .map(|document| document["kind"].as_str().unwrap().to_owned())
        .collect();
    let known = [
        "Deployment",
        "Job",
        "Namespace",
        "PodDisruptionBudget",
        "ScaledObject",
        "Service",
        "ServiceAccount",
    ];
    assert_eq!(kinds, known.map(str::to_owned).into(), "what environments/local passes over or runs");
}

#[test]
fn every_file_parses_and_is_named_in_the_manifest() {
    for name in ON_AWS {
        let assembly = assembly(name);
        let manifest = &assembly.manifest;
        let mut named: BTreeMap<&String, BTreeSet<String>> = BTreeMap::new();
        let names = |values: &[cfn::assembly::ParameterWiring]| {
            values.iter().map(|value| value.name.clone()).collect::<BTreeSet<_>>()
        };
        named.extend(manifest.workloads.iter().map(|entry| (&entry.manifest, names(&entry.values))));
        named.extend(manifest.cluster_manifests.iter().map(|entry| (&entry.manifest, names(&entry.values))));
        named.extend(manifest.helm_releases.iter().map(|entry| (&entry.values, BTreeSet::new())));
        for (path, text) in &assembly.files {
            if path.starts_with("dashboards/") {
                serde_json::from_str::<Json>(text).unwrap();
                continue;
            }
            let documents = documents(text);
            assert!(!documents.is_empty() && documents.iter().all(Json::is_object), "{name} {path}");
            assert_eq!(placeholders(text), named[path], "{name} {path}: all is given that is asked for");
            if !path.starts_with("kubernetes/helm/") {
                let whole = |document: &Json| {
                    ["/apiVersion", "/kind", "/metadata/name"]
                        .iter()
                        .all(|place| document.pointer(place).is_some_and(Json::is_string))
                };
                assert!(documents.iter().all(whole), "{name} {path}");
            }
        }
        assert_eq!(named.len() + 1, assembly.files.len(), "{name}: no file but these and the dashboard");
    }
}

#[test]
fn charts_are_pinned_and_no_place_to_get_them_from_is_written_down() {
    let prod = assembly("prod");
    let charts: Vec<_> = prod
        .manifest
        .helm_releases
        .iter()
        .map(|release| (release.chart.as_str(), release.version.as_str(), release.namespace.as_str()))
        .collect();
    assert_eq!(
        charts,
        [
            ("prometheus-community/kube-prometheus-stack", "65.1.1", "monitoring"),
            ("kedacore/keda", "2.18.1", "keda"),
        ]
    );
    let within = "http://kube-prometheus-stack-prometheus.monitoring.svc:9090";
    for (path, text) in &prod.files {
        let text = text.replace(within, "");
        assert!(!text.contains("://") && !text.contains(".io/charts"), "{path}");
        assert!(!text.contains("adminPassword"), "{path}: secrets are named, not written down");
    }
    let keda = prod.template("trades").unwrap()["Resources"]["KedaAssociation"]["Properties"].clone();
    assert_eq!((&keda["Namespace"], &keda["ServiceAccount"]), (&"keda".into(), &"keda-operator".into()));
}

#[test]
fn what_the_cluster_is_watched_with_runs_on_the_system_nodes() {
    let prod = assembly("prod");
    let (keda, stack) = (values(&prod, "keda"), values(&prod, "kube-prometheus-stack"));
    for placed in [
        &keda,
        &stack["prometheusOperator"],
        &stack["prometheus"]["prometheusSpec"],
        &stack["alertmanager"]["alertmanagerSpec"],
        &stack["grafana"],
        &stack["kube-state-metrics"],
    ] {
        assert_eq!(placed["nodeSelector"]["karpenter.sh/nodepool"], "system", "{placed}");
        assert_eq!(placed["tolerations"][0]["key"], "CriticalAddonsOnly", "{placed}");
    }
    let claim = &stack["prometheus"]["prometheusSpec"]["storageSpec"]["volumeClaimTemplate"]["spec"];
    assert_eq!(claim["resources"]["requests"]["storage"], "50Gi");
    let classes = of_kind(&prod, "StorageClass");
    let [class] = classes.as_slice() else { panic!("one class, not {}", classes.len()) };
    assert_eq!(claim["storageClassName"], class["metadata"]["name"], "there is no default class");
    assert_eq!(class["parameters"]["encrypted"], "true");
    assert_eq!(stack["grafana"]["admin"]["existingSecret"], "grafana-admin");
    let label = stack["grafana"]["sidecar"]["dashboards"]["label"].as_str().unwrap();
    for map in of_kind(&prod, "ConfigMap") {
        let wanted = &stack["grafana"]["sidecar"]["dashboards"]["labelValue"];
        assert_eq!(&map["metadata"]["labels"][label], wanted, "the sidecar takes it");
    }
}

#[test]
fn consumers_are_scaled_by_the_environments_service_level() {
    for name in ON_AWS {
        let (environment, assembly) = (environment(name), assembly(name));
        let sizes = sizes(&environment).unwrap();
        let scaled = of_kind(&assembly, "ScaledObject").remove(0);
        let spec = &scaled["spec"];
        assert_eq!(spec["minReplicaCount"], 0);
        let most = spec["maxReplicaCount"].as_u64().unwrap();
        assert_eq!(most, sizes.trades("consumers").min(sizes.trades("partitions")), "{name}");
        let trigger = &spec["triggers"][0];
        let metadata = &trigger["metadata"];
        assert!(metadata.as_object().unwrap().values().all(Json::is_string), "KEDA takes text alone");
        assert_eq!(metadata["awsRegion"], environment.region);
        assert_eq!(metadata["topic"], assembly.manifest.systems["trades"].topic);
        assert_eq!(metadata["consumerGroup"], assembly.manifest.systems["trades"].consumer_group);
        let rate = sizes.trades("messages_per_second_per_consumer") as f64;
        let threshold: f64 = metadata["lagThreshold"].as_str().unwrap().parse().unwrap();
        assert!((threshold / rate - environment.trades.backlog_drain_seconds).abs() < 1.0, "{name}");
        let authentication = of_kind(&assembly, "TriggerAuthentication").remove(0);
        assert_eq!(trigger["authenticationRef"]["name"], authentication["metadata"]["name"]);
        assert_eq!(authentication["spec"]["podIdentity"]["provider"], "aws");
        let targets: Vec<Json> = of_kind(&assembly, "Deployment")
            .into_iter()
            .filter(|deployment| deployment["metadata"]["name"] == spec["scaleTargetRef"]["name"])
            .collect();
        assert_eq!(targets.len(), 1, "{name}");
        assert_eq!(targets[0]["metadata"]["namespace"], scaled["metadata"]["namespace"]);
    }
}

#[test]
fn either_target_is_what_the_arithmetic_reads() {
    let scaling = |environment: &Environment| {
        let scaled = of_kind(&render(environment).unwrap(), "ScaledObject").remove(0);
        let manifest: ScaledObjectManifest = serde_json::from_value(scaled).unwrap();
        (manifest.scaling().unwrap(), manifest.source().unwrap())
    };
    for name in ["dev", "local", "prod", "staging"] {
        let mut environment = environment(name);
        let level = environment.trades.clone();
        environment.trades.backlog_drain_seconds = level.backlog_drain_seconds.ceil();
        environment.trades.scaling.target = ScalingTarget::Lag;
        let (by_lag, source) = scaling(&environment);
        assert_eq!((by_lag.target, by_lag.trigger.allow_idle_consumers), (Target::Lag, false), "{name}");
        assert_eq!(source.rate_window_seconds, None, "{name}");
        environment.trades.scaling.target = ScalingTarget::Rate;
        let (by_rate, source) = scaling(&environment);
        let Target::Rate(target) = by_rate.target else { panic!("{name}: {by_rate:?}") };
        assert_eq!(f64::from(target.drain_seconds), level.backlog_drain_seconds.ceil(), "{name}");
        let rate = sizes(&environment).unwrap().trades("messages_per_second_per_consumer") as f64;
        let reserve = rate / target.messages_per_second_per_replica as f64;
        assert!((level.safety_factor..level.safety_factor * 1.1).contains(&reserve), "{name}: {reserve}");
        assert!(
            by_rate.trigger.allow_idle_consumers,
            "{name}: the trigger's own bound would cut the formula"
        );
        assert_eq!(source.rate_window_seconds, Some(level.scaling.rate_window_seconds), "{name}");
        let object = &by_rate.object;
        assert_eq!(object.cooldown_period_seconds, level.scaling.cooldown_seconds, "{name}");
        assert_eq!(object.polling_interval_seconds, level.scaling.polling_interval_seconds, "{name}");
        let windows = [&object.behavior.scale_up, &object.behavior.scale_down]
            .map(|rules| rules.stabilization_window_seconds);
        assert_eq!(
            windows,
            [level.scaling.scale_up_window_seconds, level.scaling.scale_down_window_seconds],
            "{name}"
        );
    }
}

#[test]
fn every_broker_and_every_workload_is_scraped() {
    for name in ON_AWS {
        let assembly = assembly(name);
        let brokers = sizes(&environment(name)).unwrap().kafka("brokers");
        let targets: BTreeSet<String> = of_kind(&assembly, "ScrapeConfig")
            .iter()
            .flat_map(|config| {
                assert_eq!(config["spec"]["scrapeInterval"], "60s");
                config["spec"]["staticConfigs"][0]["targets"].as_array().unwrap().clone()
            })
            .map(|target| target.as_str().unwrap().to_owned())
            .collect();
        let expected = (1..=brokers).flat_map(|broker| {
            [11_001, 11_002].map(|port| format!("${{{{ kafka_broker_{broker} }}}}:{port}"))
        });
        assert_eq!(targets, expected.collect());
        let manifest = &assembly.manifest;
        let entry = manifest.cluster_manifests.iter().find(|entry| entry.name == "kafka-exporters").unwrap();
        for (value, number) in entry.values.iter().zip(1..) {
            assert!(
                matches!(&value.source, Source::Lookup(LookupSource::MskBrokerHost { broker, .. }) if *broker == number),
                "{:?}",
                value.source
            );
        }
        let services = of_kind(&assembly, "Service");
        let monitors = of_kind(&assembly, "ServiceMonitor");
        let jobs = of_kind(&assembly, "Job");
        assert_eq!(monitors.len() + jobs.len(), manifest.workloads.len(), "a Job serves nothing");
        for monitor in monitors {
            let (wanted, endpoint) =
                (&monitor["spec"]["selector"]["matchLabels"], &monitor["spec"]["endpoints"][0]);
            assert_eq!(endpoint["interval"], "30s");
            let found = services.iter().any(|service| {
                service["metadata"]["labels"] == *wanted
                    && service["metadata"]["namespace"] == monitor["metadata"]["namespace"]
                    && service["spec"]["ports"][0]["name"] == endpoint["port"]
            });
            assert!(found, "{name}: nothing has {wanted}");
        }
    }
}

#[test]
fn the_dashboard_has_its_seven_panels_and_the_config_map_has_the_dashboard() {
    let prod = assembly("prod");
    let dashboard: Json = serde_json::from_str(&prod.files["dashboards/msk-keda.json"]).unwrap();
    assert_eq!(dashboard["title"], "MSK & KEDA Monitoring");
    let titles: Vec<&str> = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|panel| panel["title"].as_str().unwrap())
        .collect();
    assert_eq!(
        titles,
        [
            "Kafka Inbound Messages",
            "Consumer Processing Rate",
            "HPA Offset Lag",
            "Message Time in Kafka",
            "Consumer Pod Count",
            "Ready Nodes Count",
            "Kafka Partition Offset Lag",
        ]
    );
    let map = of_kind(&prod, "ConfigMap").remove(0);
    let carried: Json = serde_json::from_str(map["data"]["msk-keda.json"].as_str().unwrap()).unwrap();
    assert_eq!(carried, dashboard);
}

#[test]
fn every_alert_says_what_it_means_and_what_to_do() {
    let rules = rules(&assembly("prod"));
    let (ours, metric) = (registered(), Regex::new(r"\bkafka_[a-z_]+").unwrap());
    let alerts: BTreeMap<&str, &Json> =
        rules.iter().filter_map(|rule| Some((rule["alert"].as_str()?, rule))).collect();
    for wanted in [
        "TradesConsumerLag",
        "TradesDeadLetters",
        "TradesNoConsumer",
        "TradesLagUnreadable",
        "TradesBatchRetries",
        "TradesDrainTimeouts",
    ] {
        let alert = alerts.get(wanted).unwrap_or_else(|| panic!("no {wanted}"));
        for annotation in ["summary", "description", "action"] {
            let text = alert["annotations"][annotation].as_str().unwrap();
            assert!(text.len() > 20, "{wanted}: {annotation}");
            for named in metric.find_iter(text).map(|found| found.as_str()) {
                let there = ours.contains(named) || ours.contains(&format!("{named}_bucket"));
                assert!(there, "{wanted}: nobody exports {named}");
            }
        }
        assert!(["critical", "warning"].contains(&alert["labels"]["severity"].as_str().unwrap()));
    }
}

fn rules(assembly: &Assembly) -> Vec<Json> {
    of_kind(assembly, "PrometheusRule")
        .iter()
        .flat_map(|rule| rule["spec"]["groups"].as_array().unwrap().clone())
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

/// The metrics that an expression asks for: its words without selectors, label lists, ranges, functions and
/// keywords.
fn metrics(expression: &str) -> BTreeSet<String> {
    let dropped = Regex::new(r"\{[^}]*\}|\b(by|on|without|ignoring) *\([^)]*\)|\[[^\]]*\]").unwrap();
    let bare = dropped.replace_all(expression, " ");
    let word = Regex::new(r"([a-zA-Z_:][a-zA-Z0-9_:]*) *(\(?)").unwrap();
    word.captures_iter(&bare)
        .filter(|found| found[2].is_empty() && !["and", "or", "unless"].contains(&&found[1]))
        .map(|found| found[1].to_owned())
        .collect()
}

#[test]
fn metrics_are_told_from_the_rest_of_an_expression() {
    let expression = "sum by (le) (rate(a_bucket{x=\"b_total\"}[5m])) / on () c:d:max unless e_count > 0.5";
    assert_eq!(metrics(expression), ["a_bucket", "c:d:max", "e_count"].map(str::to_owned).into());
}

/// What a running consumer exports, as its own test has it from a real one, with the series that a histogram becomes.
fn registered() -> BTreeSet<String> {
    let snapshot = "apps/trades/consumer/tests/snapshots/exposition__what_a_consumer_exports_is_what_prometheus_takes_and_rules_ask_for.snap";
    let text = std::fs::read_to_string(workspace().join(snapshot)).unwrap();
    let families = text.rsplit_once("---\n").unwrap().1;
    let mut names = BTreeSet::new();
    for family in families.lines() {
        let (name, kind) = family.split_once(' ').unwrap();
        if kind == "histogram" {
            names.extend(["bucket", "count", "sum"].map(|suffix| format!("{name}_{suffix}")));
        } else {
            names.insert(name.to_owned());
        }
    }
    assert!(names.len() > 10 && names.contains("kafka_consumer_lag_seconds"), "{names:?}");
    names
}

/// Metrics of others, by who exports them. A new one is to be looked up first.
const OF_OTHERS: [&str; 11] = [
    // The JMX exporter of MSK's brokers: Amazon MSK Developer Guide, "Open monitoring with Prometheus"; consumer lag
    // by "Monitor consumer lags".
    "kafka_consumer_group_ConsumerLagMetrics_Value",
    "kafka_server_BrokerTopicMetrics_Count",
    // KEDA's operator: keda.sh, "Integrate with Prometheus".
    "keda_scaler_detail_errors_total",
    "keda_scaler_metrics_value",
    // kube-state-metrics: docs/metrics/{workload,cluster} of its repository.
    "kube_deployment_spec_replicas",
    "kube_deployment_status_replicas",
    "kube_deployment_status_replicas_ready",
    "kube_horizontalpodautoscaler_spec_max_replicas",
    "kube_horizontalpodautoscaler_spec_target_metric",
    "kube_horizontalpodautoscaler_status_target_metric",
    "kube_node_status_condition",
];

#[test]
fn the_dashboard_and_the_rules_ask_for_metrics_that_there_are() {
    let prod = assembly("prod");
    let rules = rules(&prod);
    let dashboard: Json = serde_json::from_str(&prod.files["dashboards/msk-keda.json"]).unwrap();
    let mut expressions: Vec<String> =
        rules.iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()).collect();
    for panel in dashboard["panels"].as_array().unwrap() {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty());
        expressions.extend(targets.iter().map(|target| target["expr"].as_str().unwrap().to_owned()));
    }
    for scaled in of_kind(&prod, "ScaledObject") {
        let triggers = scaled["spec"]["triggers"].as_array().unwrap();
        expressions.extend(
            triggers.iter().filter_map(|trigger| Some(trigger["metadata"]["query"].as_str()?.to_owned())),
        );
    }
    let recorded: BTreeSet<String> =
        rules.iter().filter_map(|rule| rule["record"].as_str()).map(str::to_owned).collect();
    let ours = registered();
    let kept = of_kind(&prod, "ScrapeConfig")
        .iter()
        .find_map(|config| config["spec"]["metricRelabelings"][0]["regex"].as_str().map(str::to_owned))
        .unwrap();
    let kept = Regex::new(&format!("^({kept})$")).unwrap();
    let mut used = BTreeSet::new();
    for expression in expressions {
        let found = metrics(&expression);
        assert!(!found.is_empty(), "{expression}");
        for metric in &found {
            let others = OF_OTHERS.contains(&metric.as_str());
            assert!(ours.contains(metric) || others || recorded.contains(metric), "{metric} in {expression}");
            let of_brokers = others && metric.starts_with("kafka_");
            assert!(!of_brokers || kept.is_match(metric), "{metric} is dropped when brokers are scraped");
        }
        used.extend(found);
    }
    assert!(used.intersection(&ours).count() >= 8, "{used:?}");
    let idle: Vec<_> = OF_OTHERS.iter().filter(|metric| !used.contains(**metric)).collect();
    assert_eq!(idle, Vec::<&&str>::new(), "no longer asked for");
}
