//! What a construct tree becomes: logical ids, wiring between stacks, tags, deletion policies, and the
//! refusal of what cannot be deployed.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cfn::{
    App, AppProperties, Assembly, ConditionExpression, DeployValue, Handle, IntoValue, Json, Lookup,
    Property, RawHandle, Removal, Resource, StackProperties, SynthError, TagKind, TagShape, Value, Workload,
    assembly::{Invocation, LookupSource, Manifest, Source},
};
use proptest::prelude::*;
use serde_json::json;

#[derive(Clone, Debug, Default)]
struct Bucket {
    name: Option<Value<String>>,
}

#[derive(Clone, Debug)]
struct BucketAttributes(RawHandle);

impl From<RawHandle> for BucketAttributes {
    fn from(raw: RawHandle) -> Self {
        Self(raw)
    }
}

impl BucketAttributes {
    fn arn(&self) -> Value<String> {
        self.0.attribute("Arn")
    }

    fn zones(&self) -> Value<Vec<Value<String>>> {
        self.0.attribute_list("Zones")
    }
}

impl Resource for Bucket {
    type Attributes = BucketAttributes;
    const TYPE: &'static str = "Test::Store::Bucket";
    const TAGS: Option<TagShape> = Some(TagShape { property: "Tags", kind: TagKind::List });
    const STATEFUL: bool = true;

    fn properties(&self) -> serde_json::Map<String, Json> {
        self.name.iter().map(|name| ("Name".to_owned(), name.to_json())).collect()
    }
}

fn named(name: impl IntoValue<String>) -> Bucket {
    Bucket { name: Some(name.into_value()) }
}

fn app() -> App {
    let mut properties = AppProperties::new("dev", "111111111111", "eu-west-1", "fg-dev");
    properties.tags.insert("environment".into(), "dev".into());
    App::new(properties)
}

fn resource<'a>(assembly: &'a Assembly, stack: &str, logical_id: &str) -> &'a Json {
    &assembly.template(stack).unwrap()["Resources"][logical_id]
}

#[test]
fn logical_ids_follow_the_path_and_hide_the_main_resource() {
    let mut app = app();
    let stack = app.stack("data", StackProperties::default());
    let mut scope = stack.scope();
    let mut archive = scope.child("Archive");
    archive.add("Resource", Bucket::default());
    archive.child("cold-store").add("Bucket1", Bucket::default());
    let assembly = app.synth().unwrap();
    let template = assembly.template("data").unwrap();
    let ids: Vec<_> = template["Resources"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(ids, ["Archive", "ArchiveColdStoreBucket1"]);
    assert_eq!(
        template["Resources"]["ArchiveColdStoreBucket1"]["Metadata"]["floodgate:path"],
        "data/Archive/cold-store/Bucket1"
    );
    assert!(assembly.provenance[0].source.contains("synthesis.rs:"), "{:?}", assembly.provenance[0]);
}

#[test]
fn a_reference_across_stacks_becomes_an_output_and_a_parameter() {
    let mut app = app();
    let producer = app.stack("data", StackProperties::default());
    let bucket: Handle<Bucket> = producer.scope().add("Store", Bucket::default());
    let consumer = app.stack("reader", StackProperties::default());
    consumer.scope().add("Copy", named(bucket.arn()));
    consumer.scope().add("Zoned", named(Value::<String>::select(0, bucket.zones())));
    let assembly = app.synth().unwrap();

    assert_eq!(
        assembly.template("data").unwrap()["Outputs"]["StoreArn"]["Value"],
        json!({"Fn::GetAtt": ["Store", "Arn"]})
    );
    assert_eq!(resource(&assembly, "reader", "Copy")["Properties"]["Name"], json!({"Ref": "DataStoreArn"}));
    let reader = assembly.template("reader").unwrap();
    assert_eq!(reader["Parameters"]["DataStoreArn"]["Type"], "String");
    assert_eq!(reader["Parameters"]["DataStoreZones"]["Type"], "CommaDelimitedList");
    assert_eq!(
        assembly.template("data").unwrap()["Outputs"]["StoreZones"]["Value"],
        json!({"Fn::Join": [",", {"Fn::GetAtt": ["Store", "Zones"]}]})
    );
    let entry = assembly.manifest.stack("reader").unwrap();
    assert_eq!(entry.depends_on, ["data"]);
    assert_eq!(entry.parameters[0].name, "DataStoreArn");
    assert_eq!(
        entry.parameters[0].source,
        Source::Output { stack: "data".into(), output: "StoreArn".into() }
    );
    let text = serde_json::to_string(&assembly.templates).unwrap();
    assert!(!text.contains("Export") && !text.contains("ImportValue"), "{text}");
}

#[test]
fn a_reference_to_a_later_stack_is_refused() {
    // Within one app it cannot be written; a handle of another app gets around that.
    let mut other = app();
    let later = other.stack("later", StackProperties::default());
    let bucket: Handle<Bucket> = later.scope().add("Store", Bucket::default());
    let mut app = app();
    let earlier = app.stack("earlier", StackProperties::default());
    earlier.scope().add("Copy", named(bucket.arn()));
    let later = app.stack("later", StackProperties::default());
    later.scope().add("Store", Bucket::default());
    let error = app.synth().unwrap_err();
    assert_eq!(
        error,
        SynthError::WrongDirection { stack: "earlier".into(), owner: "later".into(), target: "Store".into() }
    );
}

#[test]
fn a_reference_to_a_stack_outside_the_app_is_refused() {
    let mut other = app();
    let foreign = other.stack("foreign", StackProperties::default());
    let bucket: Handle<Bucket> = foreign.scope().add("Store", Bucket::default());
    let mut app = app();
    let stack = app.stack("reader", StackProperties::default());
    stack.scope().add("Copy", named(bucket.arn()));
    assert!(matches!(app.synth().unwrap_err(), SynthError::Unresolved { .. }));
}

#[test]
fn names_used_twice_are_refused_with_both_places() {
    let mut app = app();
    let stack = app.stack("data", StackProperties::default());
    stack.scope().child("A").add("BC", Bucket::default());
    stack.scope().child("AB").add("C", Bucket::default());
    let message = app.synth().unwrap_err().to_string();
    assert!(message.contains("data/A/BC") && message.contains("data/AB/C"), "{message}");
}

#[test]
fn a_handle_of_another_stack_changes_nothing_and_fails_the_synthesis() {
    let mut app = app();
    let one = app.stack("one", StackProperties::default());
    let bucket: Handle<Bucket> = one.scope().add("Store", Bucket::default());
    let two = app.stack("two", StackProperties::default());
    assert!(two.scope().get_mut(&bucket).is_none());
    assert!(matches!(app.synth().unwrap_err(), SynthError::ForeignHandle { .. }));
}

#[test]
fn tags_reach_every_taggable_resource_and_its_own_win() {
    #[derive(Debug)]
    struct Labelled(Json);
    impl Resource for Labelled {
        type Attributes = BucketAttributes;
        const TYPE: &'static str = "Test::Store::Labelled";
        const TAGS: Option<TagShape> = Some(TagShape { property: "Labels", kind: TagKind::Map });
        const STATEFUL: bool = false;
        fn properties(&self) -> serde_json::Map<String, Json> {
            [("Labels".to_owned(), self.0.clone())].into_iter().collect()
        }
    }
    let mut app = app();
    let mut properties = StackProperties::default();
    properties.tags.insert("team".into(), "streams".into());
    let stack = app.stack("data", properties);
    stack.scope().add("Store", Bucket::default());
    stack.scope().add("Own", Labelled(json!({"team": "other"})));
    let assembly = app.synth().unwrap();
    assert_eq!(
        resource(&assembly, "data", "Store")["Properties"]["Tags"],
        json!([{"Key": "environment", "Value": "dev"}, {"Key": "team", "Value": "streams"}])
    );
    assert_eq!(
        resource(&assembly, "data", "Own")["Properties"]["Labels"],
        json!({"environment": "dev", "team": "other"})
    );
}

#[test]
fn data_outlives_its_stack_unless_somebody_says_otherwise() {
    let mut app = app();
    let stack = app.stack("data", StackProperties::default());
    let mut scope = stack.scope();
    scope.add("Kept", Bucket::default());
    let scratch = scope.add("Scratch", Bucket::default());
    scope.removal(scratch.raw(), Removal::Delete);
    let careful = scope.add("Careful", Bucket::default());
    scope.removal(careful.raw(), Removal::RetainExceptOnCreate);
    let assembly = app.synth().unwrap();
    assert_eq!(resource(&assembly, "data", "Kept")["DeletionPolicy"], "Retain");
    assert_eq!(resource(&assembly, "data", "Kept")["UpdateReplacePolicy"], "Retain");
    assert_eq!(resource(&assembly, "data", "Scratch")["DeletionPolicy"], "Delete");
    assert_eq!(resource(&assembly, "data", "Careful")["DeletionPolicy"], "RetainExceptOnCreate");
    assert_eq!(resource(&assembly, "data", "Careful")["UpdateReplacePolicy"], "Retain");
}

#[test]
fn conditions_dependencies_mappings_and_metadata_stand_in_the_template() {
    let mut app = app();
    let stack = app.stack("data", StackProperties::default());
    let mut scope = stack.scope();
    let large = scope.condition("Large", ConditionExpression::equals(Value::region(), "eu-west-1"));
    scope.mapping("Sizes", json!({"eu-west-1": {"Count": "3"}}));
    let first = scope.add("First", named(Value::<String>::when(&large, "big")));
    let second = scope.add("Second", named(Value::<String>::find_in_map("Sizes", Value::region(), "Count")));
    scope.depend(second.raw(), first.raw());
    scope.depend(second.raw(), first.raw());
    scope.condition_on(second.raw(), &large);
    scope.metadata(second.raw(), "note", json!("kept"));
    let assembly = app.synth().unwrap();
    let template = assembly.template("data").unwrap();
    assert_eq!(template["Conditions"]["Large"], json!({"Fn::Equals": [{"Ref": "AWS::Region"}, "eu-west-1"]}));
    let second = resource(&assembly, "data", "Second");
    assert_eq!(second["DependsOn"], json!(["First"]));
    assert_eq!(second["Condition"], "Large");
    assert_eq!(second["Metadata"]["note"], "kept");
    assert_eq!(
        resource(&assembly, "data", "First")["Properties"]["Name"],
        json!({"Fn::If": ["Large", "big", {"Ref": "AWS::NoValue"}]})
    );
}

#[test]
fn lookups_assets_and_workload_values_are_wired() {
    let mut app = app();
    let data = app.stack("data", StackProperties::default());
    let bucket: Handle<Bucket> = data.scope().add("Store", Bucket::default());
    let brokers = Lookup::MskBootstrapBrokers { cluster_arn: bucket.arn(), authentication: "iam".to_owned() };
    let reader = app.stack("reader", StackProperties::default());
    let parameter = reader.scope().lookup::<String>("Brokers", brokers.clone());
    reader.scope().add("Copy", named(parameter.value()));
    app.workload(Workload {
        system: "trades".into(),
        name: "consumer".into(),
        namespace: "trades".into(),
        manifest: "image: \"${{ image }}\"\n".into(),
        values: BTreeMap::from([
            ("brokers".to_owned(), DeployValue::Lookup(brokers)),
            ("image".to_owned(), DeployValue::Asset { name: "consumer".into(), field: "image_uri".into() }),
        ]),
    });
    let assembly = app.synth().unwrap();
    let arn = Source::Output { stack: "data".into(), output: "StoreArn".into() };
    let expected = Source::Lookup(LookupSource::MskBootstrapBrokers {
        authentication: "iam".into(),
        cluster_arn: Box::new(arn),
    });
    let reader = assembly.manifest.stack("reader").unwrap();
    assert_eq!(reader.parameters[0].source, expected);
    assert_eq!(reader.depends_on, ["data"]);
    assert_eq!(assembly.manifest.workloads[0].values[0].source, expected);
    assert!(assembly.template("data").unwrap()["Outputs"]["StoreArn"].is_object());
    assert_eq!(assembly.files["kubernetes/consumer.yaml"], "image: \"${{ image }}\"\n");
}

#[test]
fn an_assembly_reads_back_and_drops_what_an_earlier_one_left() {
    let directory = tempfile::tempdir().unwrap();
    let render = |ids: &[&str]| {
        let mut app = app();
        for id in ids {
            let stack = app.stack(id, StackProperties::default());
            stack.scope().add("Store", Bucket::default());
        }
        app.synth().unwrap()
    };
    render(&["one", "two"]).write(directory.path()).unwrap();
    assert!(directory.path().join("two.template.json").exists());
    let assembly = render(&["one"]);
    assembly.write(directory.path()).unwrap();
    assert!(!directory.path().join("two.template.json").exists());
    assert_eq!(Manifest::read(directory.path()).unwrap(), assembly.manifest);
}

#[test]
fn a_manifest_of_another_version_is_refused_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("manifest.json"), r#"{"schema_version": 99}"#).unwrap();
    let message = Manifest::read(directory.path()).unwrap_err().to_string();
    assert!(message.contains("99") && message.contains("cargo xtask synth"), "{message}");
}

#[test]
fn a_stack_names_what_is_invoked_after_it_by_an_output_and_no_other_stack_can() {
    let mut app = app();
    let mut stack = app.stack("first", StackProperties::default()).scope();
    let function = stack.add("Migrate", Bucket::default());
    stack.invoke_after_deploy(&function);
    app.stack("second", StackProperties::default());
    let assembly = app.synth().unwrap();
    let entry = assembly.manifest.stack("first").unwrap();
    assert_eq!(entry.invocations, [Invocation { output: "MigrateInvocation".to_owned() }]);
    assert_eq!(
        assembly.template("first").unwrap()["Outputs"]["MigrateInvocation"]["Value"],
        json!({ "Ref": "Migrate" })
    );
    let second = serde_json::to_value(assembly.manifest.stack("second").unwrap()).unwrap();
    assert!(second.get("invocations").is_none(), "{second}");
}

#[test]
fn a_stack_cannot_have_a_function_of_another_invoked() {
    let mut app = app();
    let function = app.stack("first", StackProperties::default()).scope().add("Migrate", Bucket::default());
    app.stack("second", StackProperties::default()).scope().invoke_after_deploy(&function);
    assert!(matches!(app.synth(), Err(SynthError::ForeignHandle { .. })));
}

fn app_of(names: &[(u8, String, Option<usize>)]) -> Assembly {
    let mut app = app();
    let mut handles: Vec<Handle<Bucket>> = Vec::new();
    let mut stacks: BTreeMap<u8, Vec<(usize, String, Option<usize>)>> = BTreeMap::new();
    for (position, (stack, name, target)) in names.iter().enumerate() {
        stacks.entry(*stack).or_default().push((position, name.clone(), *target));
    }
    for (stack, members) in stacks {
        let building = app.stack(&format!("s{stack}"), StackProperties::default());
        for (position, name, target) in members {
            let target = target.and_then(|index| handles.get(index % handles.len().max(1)));
            let bucket = target.map_or_else(Bucket::default, |handle| named(handle.arn()));
            handles.push(building.scope().child(&format!("c{position}")).add(&name, bucket));
        }
    }
    app.synth().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The same tree gives the same bytes, every parameter is fed by an output that is there, and no stack
    /// depends on a later one.
    #[test]
    fn rendering_is_deterministic_and_wired(
        names in proptest::collection::vec((0u8..4, "[A-Z][a-z]{0,6}", proptest::option::of(0usize..40)), 1..40)
    ) {
        let first = app_of(&names);
        let second = app_of(&names);
        prop_assert_eq!(&first.manifest, &second.manifest);
        prop_assert_eq!(
            serde_json::to_string(&first.templates).unwrap(),
            serde_json::to_string(&second.templates).unwrap()
        );
        let order: Vec<_> = first.manifest.stacks.iter().map(|stack| stack.id.clone()).collect();
        for (position, stack) in first.manifest.stacks.iter().enumerate() {
            for dependency in &stack.depends_on {
                prop_assert!(order.iter().position(|id| id == dependency).unwrap() < position);
            }
            let declared = first.template(&stack.id).unwrap().get("Parameters").cloned().unwrap_or(json!({}));
            for parameter in &stack.parameters {
                prop_assert!(declared.get(&parameter.name).is_some());
                if let Source::Output { stack, output } = &parameter.source {
                    prop_assert!(first.template(stack).unwrap()["Outputs"].get(output).is_some());
                }
            }
        }
        prop_assert!(!serde_json::to_string(&first.templates).unwrap().contains("FloodgateReference"));
    }
}

#[test]
fn stacks_with_code_come_after_the_stack_of_the_bucket() {
    let mut app = app();
    app.stack("plain", StackProperties::default()).scope().add("Store", Bucket::default());
    let functions = app.stack("functions", StackProperties::default());
    let key = functions.scope().asset_field::<String>("CodeKey", "writer", "s3_key");
    functions.scope().add("Code", named(key.value()));
    let delivery = app.stack("delivery", StackProperties::default());
    let bucket: Handle<Bucket> = delivery.scope().add("Artifacts", Bucket::default());
    delivery.scope().output::<String>("ArtifactBucket", bucket.arn(), "Where artifacts are");
    app.artifact_bucket("delivery", "ArtifactBucket");
    app.deploy_first("delivery");
    let manifest = app.synth().unwrap().manifest;
    let order: Vec<&str> = manifest.stacks.iter().map(|stack| stack.id.as_str()).collect();
    assert_eq!(order, ["delivery", "plain", "functions"]);
    assert_eq!(manifest.stack("functions").unwrap().depends_on, ["delivery"]);
    assert_eq!(manifest.stack("plain").unwrap().depends_on, Vec::<String>::new());
    let expected = Source::Output { stack: "delivery".into(), output: "ArtifactBucket".into() };
    assert_eq!(manifest.artifact_bucket, Some(expected));
}

#[test]
fn a_bucket_of_artifacts_that_no_output_names_is_an_error() {
    let mut app = app();
    app.stack("delivery", StackProperties::default()).scope().add("Artifacts", Bucket::default());
    app.artifact_bucket("delivery", "ArtifactBucket");
    let error = app.synth().unwrap_err().to_string();
    assert!(error.contains("`ArtifactBucket` of stack `delivery`"), "{error}");
}
