//! What the environments render, and how a wrong environment is refused.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use cfn::{
    Assembly, Json,
    assertions::{capture, has_resource, matches, resource_count, resources_of_type},
    check::Severity,
    to_canonical_bytes, to_canonical_string,
};
use platform::{Environment, render};
use serde::Deserialize;
use serde_json::json;
use support::{assembly, environment, workspace};
use worker_contract::{
    CacheAuthentication,
    tags::{LoadConfiguration, WorkerConfiguration},
    trades::{ConsumerConfiguration, ProducerConfiguration},
};

const ALL: [&str; 4] = ["dev", "local", "prod", "staging"];

#[test]
fn there_are_four_environments() {
    assert_eq!(Environment::names(&workspace()).unwrap(), ALL);
}

#[test]
fn templates_and_manifests_are_as_agreed() {
    for name in ["local", "prod"] {
        let assembly = assembly(name);
        for (id, template) in &assembly.templates {
            insta::assert_snapshot!(format!("{name}-{id}"), to_canonical_string(template));
        }
        for (path, text) in &assembly.files {
            insta::assert_snapshot!(format!("{name}-{}", path.replace('/', "-")), text);
        }
    }
}

#[test]
fn rendering_twice_gives_the_same_bytes() {
    for name in ALL {
        let (first, second) = (assembly(name), assembly(name));
        assert_eq!(first.manifest, second.manifest);
        for (id, template) in &first.templates {
            assert_eq!(to_canonical_bytes(template), to_canonical_bytes(&second.templates[id]));
        }
        assert_eq!(first.files, second.files);
    }
}

#[test]
fn nothing_is_found_that_is_not_waived_with_a_reason() {
    for name in ALL {
        let findings = cfn::check::check(&assembly(name), &cfn_resources::schema);
        let open: Vec<String> =
            findings.iter().filter(|finding| finding.waived.is_none()).map(ToString::to_string).collect();
        assert_eq!(open, Vec::<String>::new(), "{name}");
        assert!(
            findings.iter().all(|finding| finding.waived.as_ref().is_none_or(|reason| reason.len() > 20))
        );
        assert!(findings.iter().all(|finding| finding.severity == Severity::Error));
    }
}

#[test]
fn the_kafka_cluster_takes_iam_clients_over_tls_alone() {
    for name in ALL {
        let assembly = assembly(name);
        has_resource(
            assembly.template("kafka").unwrap(),
            "AWS::MSK::Cluster",
            &json!({
                "ClientAuthentication": {"Sasl": {"Iam": {"Enabled": true}}, "Unauthenticated": {"Enabled": false}},
                "EncryptionInfo": {"EncryptionInTransit": {"ClientBroker": "TLS", "InCluster": true}},
            }),
        );
    }
}

#[test]
fn topics_have_the_partitions_that_capacity_derives() {
    for name in ALL {
        let sizes = platform::sizes(&environment(name)).unwrap();
        let assembly = assembly(name);
        let kafka = assembly.template("kafka").unwrap();
        let partitions = sizes.trades("partitions");
        has_resource(
            kafka,
            "AWS::MSK::Topic",
            &json!({"TopicName": "trade-tx", "PartitionCount": partitions}),
        );
        resource_count(kafka, "AWS::MSK::Topic", 2);
        assert_eq!(u64::from(assembly.manifest.systems["trades"].partitions), partitions);
    }
}

/// The statements of a workload's role.
fn statements(assembly: &Assembly, role: &str) -> Vec<Json> {
    let template = assembly.template("trades").unwrap();
    template["Resources"][role]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
        .as_array()
        .unwrap()
        .clone()
}

fn actions(statements: &[Json]) -> BTreeSet<String> {
    statements
        .iter()
        .flat_map(|statement| statement["Action"].as_array().unwrap())
        .map(|action| action.as_str().unwrap().trim_start_matches("kafka-cluster:").to_owned())
        .collect()
}

#[test]
fn each_workload_may_do_what_it_does_and_no_more() {
    let assembly = assembly("prod");
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let producer = statements(&assembly, "ProducerRole");
    assert_eq!(actions(&producer), set(&["Connect", "DescribeTopic", "WriteData", "WriteDataIdempotently"]));
    let idempotent =
        producer.iter().find(|statement| statement.to_string().contains("WriteDataIdempotently")).unwrap();
    assert_eq!(idempotent["Resource"], json!([{"Ref": "KafkaKafkaArn"}]), "it is an action on the cluster");

    let consumer = statements(&assembly, "ConsumerRole");
    assert_eq!(
        actions(&consumer),
        set(&[
            "AlterGroup",
            "Connect",
            "DescribeGroup",
            "DescribeTopic",
            "ReadData",
            "WriteData",
            "WriteDataIdempotently"
        ])
    );
    for statement in &consumer {
        let text = statement.to_string();
        assert_eq!(text.contains("ReadData"), text.contains("/trade-tx\""), "reads the trades alone: {text}");
        assert_eq!(text.contains("kafka-cluster:WriteData\""), text.contains("/trade-tx-dlq\""), "{text}");
    }
    assert_eq!(
        actions(&statements(&assembly, "KedaRole")),
        set(&["Connect", "DescribeCluster", "DescribeGroup", "DescribeTopic"]),
        "KEDA sees no record"
    );
}

#[test]
fn data_is_kept_where_it_is_worth_more_than_its_environment() {
    for (name, policy, protected) in [("dev", "Delete", false), ("prod", "RetainExceptOnCreate", true)] {
        let assembly = assembly(name);
        for (stack, kind) in
            [("kafka", "AWS::MSK::Cluster"), ("kafka", "AWS::MSK::Topic"), ("kafka", "AWS::KMS::Key")]
        {
            for (id, resource) in resources_of_type(assembly.template(stack).unwrap(), kind) {
                assert_eq!(resource["DeletionPolicy"], policy, "{name} {id}");
            }
        }
        assert!(assembly.manifest.stacks.iter().all(|stack| stack.termination_protection == protected));
    }
}

#[test]
fn a_lost_zone_cuts_nobody_else_off_in_prod() {
    let prod = assembly("prod");
    let network = prod.template("network").unwrap();
    resource_count(network, "AWS::EC2::NatGateway", 3);
    resource_count(network, "AWS::EC2::Subnet", 6);
    resource_count(assembly("dev").template("network").unwrap(), "AWS::EC2::NatGateway", 1);
    has_resource(network, "AWS::EC2::FlowLog", &json!({"TrafficType": "ALL"}));
}

#[test]
fn every_taggable_resource_tells_its_environment() {
    let prod = assembly("prod");
    let wanted = json!([{"Key": "floodgate:environment", "Value": "prod"}]);
    for kind in ["AWS::EC2::VPC", "AWS::EC2::Subnet", "AWS::EC2::SecurityGroup"] {
        for template in prod.templates.values() {
            for (id, resource) in resources_of_type(template, kind) {
                assert!(matches(&resource["Properties"]["Tags"], &wanted), "{id}");
            }
        }
    }
    has_resource(
        prod.template("kafka").unwrap(),
        "AWS::MSK::Cluster",
        &json!({"Tags": {"floodgate:environment": "prod"}}),
    );
}

#[test]
fn manifests_are_yaml_and_give_the_workers_what_they_read() {
    for name in ALL {
        let assembly = assembly(name);
        for workload in &assembly.manifest.workloads {
            let (path, text) = (&workload.manifest, &assembly.files[&workload.manifest]);
            let documents: Vec<Json> = serde_yaml_ng::Deserializer::from_str(text)
                .map(|document| Json::deserialize(document).unwrap())
                .collect();
            let is_workload =
                |document: &&Json| document["kind"] == "Deployment" || document["kind"] == "Job";
            let deployment = documents.iter().find(is_workload).unwrap();
            let pod = &deployment["spec"]["template"]["spec"];
            let container = &pod["containers"][0];
            assert_eq!(container["image"], "${{ image }}", "{path}");
            assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            let variable = |wanted: &str| {
                container["env"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|variable| variable["name"] == wanted)
                    .and_then(|variable| variable["value"].as_str())
                    .map(|value| {
                        value.replace("${{ cache_host }}", "localhost").replace("${{ cache_port }}", "6379")
                    })
            };
            let account = documents.iter().find(|document| document["kind"] == "ServiceAccount").unwrap();
            assert_eq!(account["metadata"]["name"], pod["serviceAccountName"], "{path}");
            if path.contains("tag-load") {
                let read = LoadConfiguration::from_environment(variable).unwrap();
                assert_eq!(read.updates_per_second, environment(name).tags.messages_per_second);
                assert!(read.verify && read.cache.is_some(), "what it wrote can be verified");
                let (spec, grace) = (&deployment["spec"], pod["terminationGracePeriodSeconds"].as_u64());
                assert_eq!((&spec["suspend"], &spec["completionMode"]), (&json!(true), &json!("Indexed")));
                assert_eq!(spec["parallelism"], spec["completions"]);
                assert_eq!((&pod["restartPolicy"], grace > Some(30)), (&json!("Never"), true));
                assert!(container.get("readinessProbe").is_none() && container.get("ports").is_none());
                continue;
            }
            let scaled = path.contains("consumer");
            assert_eq!(deployment["spec"].get("replicas").is_none(), scaled, "{name} {path}: KEDA sets them");
            if path.contains("consumer") {
                let read = ConsumerConfiguration::from_environment(variable).unwrap();
                assert_eq!(read.batch_size, environment(name).trades.batch_size);
                let grace = pod["terminationGracePeriodSeconds"].as_f64().unwrap();
                assert!(grace > read.drain_timeout_seconds, "the drain fits into the grace period");
            } else if path.contains("tag-worker") {
                let read = WorkerConfiguration::from_environment(variable).unwrap();
                assert_eq!(read.expiry_seconds, environment(name).tags.expiry_seconds);
                let by_iam = matches!(read.cache.authentication, CacheAuthentication::MemoryDbIam { .. });
                assert_eq!(by_iam, name != "local", "{name}");
            } else {
                let read = ProducerConfiguration::from_environment(variable).unwrap();
                assert_eq!(read.messages_per_second, environment(name).trades.messages_per_second);
            }
        }
    }
}

fn refused(change: impl Fn(&str) -> String) -> String {
    let text = std::fs::read_to_string(workspace().join("environments/dev.toml")).unwrap();
    Environment::parse("dev", "environments/dev.toml", &change(&text)).unwrap_err().to_string()
}

#[test]
fn a_wrong_environment_is_refused_with_file_line_key_and_the_nearest_right_one() {
    let misspelt = refused(|text| text.replace("batch_size =", "batch_sise ="));
    assert!(misspelt.starts_with("environments/dev.toml:"), "{misspelt}");
    assert!(
        misspelt.contains("`batch_sise`") && misspelt.contains("did you mean `batch_size`"),
        "{misspelt}"
    );
    let line: usize = misspelt.split(':').nth(1).unwrap().parse().unwrap();
    let text = std::fs::read_to_string(workspace().join("environments/dev.toml")).unwrap();
    assert!(text.lines().nth(line - 1).unwrap().starts_with("batch_size"), "line {line}");

    for (from, to, told) in [
        ("zones = 2", "zones = 4", "network.zones: 4 is not 2 or 3"),
        ("zones = 2", "zones = \"two\"", "invalid type"),
        ("111111111111\"\nregion", "1234\"\nregion", "account: `1234` is not 12 digits"),
        ("eu-west-1", "europe", "region: `europe`"),
        ("10.10.0.0/16", "10.10.0.1/16", "network.cidr"),
        ("3.9.x.kraft", "3.6.0", "kafka.version"),
        ("safety_factor = 1.2", "safety_factor = 0.5", "trades.safety_factor: 0.5 is not 1 to 10"),
        ("provider = \"aws\"", "provider = \"awss\"", "did you mean `aws`"),
        ("eu-west-1", "eu-west-", "region: `eu-west-`"),
        (
            "backlog_drain_seconds = 60",
            "backlog_drain_seconds = 0",
            "trades.backlog_drain_seconds: 0 is not 1 to 3600",
        ),
        (
            "brokers_per_zone = 1",
            "replication_factor = 3\nbrokers_per_zone = 1",
            "3 in 2 zones (network.zones)",
        ),
        ("min_capacity = 0.5", "min_capacity = 0", "database.min_capacity: 0 pauses an idle database"),
        ("min_capacity = 0.5", "min_capacity = 0.7", "in steps of 0.5"),
        ("min_capacity = 0.5", "min_capacity = 4", "0 to max_capacity 2"),
        ("\"db.serverless\"", "\"db.t4g.medium\"", "`db.t4g.medium` has a fixed capacity"),
        ("\"db.serverless\"", "\"db.serverles\"", "`db.serverles` is not one such as"),
        ("instances = 1", "instances = 16", "database.instances: 16 is not 1 to 15"),
        ("\"db.t4g.small\"", "\"cache.t4g.small\"", "cache.node_type: `cache.t4g.small`"),
        ("write_seconds = 0.2", "write_second = 0.2", "did you mean `write_seconds`"),
        ("write_seconds = 0.2", "write_seconds = 0", "ledger.write_seconds: 0 is not 0.001 to 60"),
        ("batch_window_seconds = 1", "batch_window_seconds = 1.5", "neither at most 0.5 nor whole seconds"),
        ("chunk_concurrency = 2", "chunk_concurrency = 3", "pool_limit is 2"),
        ("pressure_period_seconds = 60", "pressure_period_seconds = 45", "none of CloudWatch's periods"),
        ("pressure_period_seconds = 60", "pressure_period_seconds = 10", "RDS tells its metrics each minute"),
        ("mode_hold_seconds = 60", "mode_hold_seconds = 0", "ledger.mode_hold_seconds: 0 is not 1 to"),
        ("fan_out = 2", "fan_out = 6", "lessons.fan_out: 6 is not 1 to 5"),
        ("peak_records_per_second = 62.5", "peak_records_per_second = 6", "less than the average"),
        (
            "replicas_per_shard = 0",
            "replicas_per_shard = 6",
            "tags.override.replicas_per_shard: 6 is not 0 to 5",
        ),
        ("[tags.override]\nshards", "[tags.override]\nshard", "did you mean `shards`"),
        ("expiry_seconds = 86400", "expiry_seconds = 1", "tags.expiry_seconds: 1 is not 60 to"),
    ] {
        let message = refused(|text| text.replacen(from, to, 1));
        assert!(message.contains(told), "{told}: {message}");
        let line: usize = message.split(':').nth(1).unwrap().parse().unwrap();
        let changed = text.replacen(from, to, 1);
        assert!(
            changed.lines().nth(line - 1).is_some_and(|at| to.lines().any(|changed| at.contains(changed))),
            "line {line}: {message}"
        );
    }
}

#[test]
fn an_unknown_environment_names_those_that_there_are() {
    let message = Environment::load(&workspace(), "prd").unwrap_err().to_string();
    assert_eq!(
        message,
        "there is no environment `prd` (did you mean `prod`?); there are: dev, local, prod, staging"
    );
}

#[test]
fn a_service_level_that_cannot_be_met_is_refused() {
    let mut environment = environment("dev");
    environment.trades.overrides.partitions = Some(1);
    let message = render(&environment).unwrap_err().to_string();
    assert!(message.contains("consumers share 1 partitions"), "{message}");
    let refused = |change: fn(&mut Environment)| {
        let mut environment = self::environment("prod");
        change(&mut environment);
        platform::sizes(&environment).unwrap_err().to_string()
    };
    let pollers = refused(|environment| environment.ledger.overrides.event_pollers = Some(6));
    assert_eq!(pollers, "environment prod: 6 pollers for 5 partitions; event_pollers is 1 to 5");
    let producers = refused(|environment| environment.tags.producers = 2000);
    assert!(producers.contains("exceed MSK's 3000 for IAM clients"), "{producers}");
    let partitions = refused(|environment| environment.tags.partitions = 1000);
    assert!(partitions.contains("exceed the 1000 that kafka.m7g.large should carry"), "{partitions}");
}

#[test]
fn prod_is_sized_as_the_published_systems_say() {
    let sizes = platform::sizes(&environment("prod")).unwrap();
    let ledger = |name| sizes.ledger(name);
    assert_eq!(
        (ledger("partitions"), ledger("client_connections"), ledger("database_connections")),
        (5, 10, 10)
    );
    let lessons = |name| sizes.lessons(name);
    assert_eq!((lessons("input_shards"), lessons("read_units"), lessons("write_units")), (1, 500, 125));
    let tags = |name| sizes.tags(name);
    assert_eq!((tags("partitions"), tags("shards"), tags("workers")), (256, 3, 4));
    assert_eq!(sizes.kafka("partition_replicas_per_broker"), 306, "the topics of all systems");
}

#[test]
fn what_an_environment_overrides_is_used_and_said() {
    let path = workspace().join("environments/dev.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let text = format!(
        "{text}\n[ledger.override]\npartitions = 8\nfunction_memory_mib = 1024\n\n[lessons.override]\ninput_shards = 3\n"
    );
    let environment = Environment::parse("dev", "environments/dev.toml", &text).unwrap();
    let sizes = platform::sizes(&environment).unwrap();
    assert_eq!((sizes.ledger("partitions"), sizes.ledger("function_memory_mib")), (8, 1024));
    assert_eq!(sizes.ledger("client_connections"), 16, "what follows from it follows the override");
    assert_eq!((sizes.lessons("input_shards"), sizes.tags("shards")), (3, 1));
    for (sizing, name) in
        [(&sizes.ledger, "partitions"), (&sizes.lessons, "input_shards"), (&sizes.tags, "shards")]
    {
        assert!(sizing.get(name).unwrap().is_overridden(), "{name}");
    }
    let plain = platform::sizes(&self::environment("dev")).unwrap();
    let replicas = |sizes: &platform::Sizes| sizes.kafka("partition_replicas_per_broker");
    assert_eq!(replicas(&sizes) - replicas(&plain), 14, "the cluster carries the partitions that are used");
}

#[test]
fn a_permissions_boundary_reaches_every_role() {
    let mut environment = environment("prod");
    let boundary = "arn:aws:iam::333333333333:policy/boundary";
    environment.permissions_boundary_arn = Some(boundary.to_owned());
    let assembly = render(&environment).unwrap();
    let mut roles = 0;
    for template in assembly.templates.values() {
        for (id, _) in resources_of_type(template, "AWS::IAM::Role") {
            assert_eq!(capture(template, id, "/PermissionsBoundary"), boundary, "{id}");
            roles += 1;
        }
    }
    assert!(roles > 10, "{roles}");
}

/// Defect 4 of the ledger's ancestor: its mode heard every alarm of the account. Here it is made of its own alarms alone.
#[test]
fn the_mode_listens_to_its_own_alarms_by_their_arns() {
    let assembly = render(&environment("prod")).unwrap();
    let template = assembly.template("ledger").unwrap();
    let rule = has_resource(
        template,
        "AWS::Events::Rule",
        &json!({ "EventPattern": { "detail-type": ["CloudWatch Alarm State Change"] } }),
    );
    let arns = capture(template, &rule, "/EventPattern/resources").as_array().unwrap();
    let expected: Vec<_> = ["Cpu", "ClientConnections", "DatabaseConnections", "PinnedSessions"]
        .map(|name| json!({ "Fn::GetAtt": [format!("Pressure{name}"), "Arn"] }))
        .into();
    assert_eq!(*arns, expected);
    let thresholds: Vec<_> = ["PressureCpu", "PressureClientConnections", "PressureDatabaseConnections"]
        .map(|alarm| capture(template, alarm, "/Threshold").as_f64().unwrap())
        .into();
    assert_eq!(thresholds, [40.0, 10.0, 10.0]);
}

#[test]
fn assets_are_built_for_what_they_run_on_and_after_the_bucket() {
    let assembly = assembly("prod");
    let found =
        cfn::architecture::of_assets(&assembly.manifest, &assembly.templates, &assembly.files).unwrap();
    assert_eq!(found["ledger-writer"], cfn::architecture::Architecture::Arm64);
    // The general-purpose pool of EKS Auto Mode has amd64 nodes.
    assert_eq!(found["trade-consumer"], cfn::architecture::Architecture::X86_64);
    for name in ALL {
        let manifest = self::assembly(name).manifest;
        assert_eq!(manifest.stacks[0].id, "delivery", "{name}");
        assert!(manifest.artifact_bucket.is_some(), "{name}");
        for stack in manifest.stacks.iter().filter(|stack| ["ledger", "lessons"].contains(&&*stack.id)) {
            assert!(stack.depends_on.contains(&"delivery".to_owned()), "{name} {}", stack.id);
        }
    }
}

#[test]
fn whoever_looks_for_drift_reads_and_does_nothing_else() {
    for name in ["dev", "staging", "prod"] {
        let assembly = assembly(name);
        let template = assembly.template("delivery").unwrap();
        let resources = template["Resources"].as_object().unwrap();
        let reads: Vec<&str> =
            resources.keys().map(String::as_str).filter(|id| id.starts_with("ReadsPolicy")).collect();
        assert!(!reads.is_empty(), "{name}");
        for id in &reads {
            for statement in capture(template, id, "/PolicyDocument/Statement").as_array().unwrap() {
                for action in statement["Action"].as_array().unwrap() {
                    let (_, verb) = action.as_str().unwrap().split_once(':').unwrap();
                    let by_lambda = statement.pointer("/Condition/StringEquals/kms:ViaService");
                    let fine = ["Get", "List", "Describe"].iter().any(|begin| verb.starts_with(begin))
                        || action == "kafka-cluster:Connect"
                        || (action == "kms:Decrypt" && by_lambda.is_some());
                    assert!(fine, "{name} {id}: {action}");
                }
            }
        }
        // What is rendered can be read, this stack included.
        let read: BTreeSet<&str> = reads
            .iter()
            .flat_map(|id| capture(template, id, "/PolicyDocument/Statement").as_array().unwrap())
            .flat_map(|statement| statement["Action"].as_array().unwrap())
            .filter_map(Json::as_str)
            .collect();
        for template in assembly.templates.values() {
            for resource in template["Resources"].as_object().unwrap().values() {
                let kind = resource["Type"].as_str().unwrap();
                let actions = cfn_resources::schema(kind).map(|schema| schema.handler_actions());
                for action in actions.and_then(|mut all| all.remove("read")).unwrap_or_default() {
                    // One hands a role on, the other is none that IAM knows.
                    let left_out = action == "iam:PassRole" || action.starts_with("vpc-lattice:");
                    assert!(left_out || read.contains(&*action), "{name} {kind}: {action}");
                }
            }
        }
        let looking: Vec<&str> = if name == "prod" { vec!["Pipeline"] } else { vec!["Pipeline", "GateRole"] };
        for id in looking {
            let given = capture(template, id, "/ManagedPolicyArns");
            assert_eq!(
                *given,
                json!(reads.iter().map(|id| json!({ "Ref": id })).collect::<Vec<_>>()),
                "{name} {id}"
            );
            let statements =
                capture(template, id, "/Policies/0/PolicyDocument/Statement").as_array().unwrap();
            let allowed: BTreeSet<&str> = statements
                .iter()
                .flat_map(|statement| statement["Action"].as_array().unwrap())
                .filter_map(Json::as_str)
                .collect();
            for action in [
                "cloudformation:BatchDescribeTypeConfigurations",
                "cloudformation:DescribeStackDriftDetectionStatus",
                "cloudformation:DescribeStackResourceDrifts",
                "cloudformation:DetectStackDrift",
                "cloudformation:DetectStackResourceDrift",
            ] {
                assert!(allowed.contains(action), "{name} {id} {action}");
            }
            assert_eq!(allowed.contains("tag:GetResources"), id == "Pipeline", "{name} {id}");
        }
        // The role of the gate may look at what runs in the cluster, where a release goes on at all.
        let cluster = assembly.template("cluster").unwrap();
        let entries = resources_of_type(cluster, "AWS::EKS::AccessEntry");
        let views: Vec<_> =
            entries.iter().filter(|(_, entry)| entry.to_string().contains("EKSViewPolicy")).collect();
        assert_eq!(views.len(), usize::from(name != "prod"), "{name}");
        let stack = assembly.manifest.stack("cluster").unwrap();
        assert_eq!(stack.depends_on.contains(&"delivery".to_owned()), name != "prod", "{name}");
    }
}
