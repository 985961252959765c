//! Assets on the real local parts: packed, uploaded once, run by Lambda, invoked after their stack.

#![allow(clippy::unwrap_used)]

mod support;

use cfn::Json;
use deploy_engine::lock::{self, Holder, State};
use serde_json::json;
use support::{
    House,
    answer::{compile, with_function},
};

fn outputs(house: &House) -> Json {
    serde_json::from_str(&house.succeeds(&["outputs", "--json"])).unwrap()
}

/// The keys in the bucket below a prefix, as S3 lists them.
fn keys(house: &House, prefix: &str) -> Vec<String> {
    let bucket = outputs(house)["delivery"]["ArtifactBucket"].as_str().unwrap().to_owned();
    let url = format!("{}/{bucket}?list-type=2&prefix={prefix}", house.environment.endpoint_url().unwrap());
    let listed = ureq::get(&url).call().unwrap().body_mut().read_to_string().unwrap();
    listed.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once('<')?.0.to_owned())).collect()
}

/// Holds the environment's lock from another machine.
fn hold(house: &House) {
    let holder = Holder {
        token: "another".to_owned(),
        doing: "deploy".to_owned(),
        identity: "arn:aws:sts::1:assumed-role/dev/ada".to_owned(),
        person: "Ada".to_owned(),
        host: "elsewhere".to_owned(),
        pid: 1,
        since: lock::now(),
        renewed: lock::now(),
    };
    let value = serde_json::to_string(&State::Held(holder)).unwrap();
    let endpoint = house.environment.endpoint_url().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        aws_sdk_ssm::Client::new(&local_testing::config(&endpoint).await)
            .put_parameter()
            .name("/floodgate-local/deploy-lock")
            .value(value)
            .overwrite(true)
            .send()
            .await
            .unwrap();
    });
}

#[test]
fn functions_are_packed_and_uploaded_once_and_invoked_after_every_deployment() {
    let house = House::new();
    house.environment.up();
    with_function(&house);
    compile(&house, "one");
    let first = house.succeeds(&["deploy"]);
    assert!(first.contains("packed") && first.contains("uploaded"), "{first}");
    assert!(first.contains(r#"s: "one""#), "Lambda ran it: {first}");
    assert!(first.contains("3 stacks changed"), "{first}");

    // What is in the bucket is what its name says.
    let stored = keys(&house, "assets/");
    assert_eq!(stored.len(), 1, "{stored:?}");
    let bucket = outputs(&house)["delivery"]["ArtifactBucket"].as_str().unwrap().to_owned();
    let url = format!("{}/{bucket}/{}", house.environment.endpoint_url().unwrap(), stored[0]);
    let bytes = ureq::get(&url).call().unwrap().body_mut().read_to_vec().unwrap();
    assert_eq!(stored[0], format!("assets/{}.zip", cfn::assembly::sha256_hex(&bytes)));

    let again = house.succeeds(&["deploy"]);
    assert!(!again.contains("packed") && !again.contains("uploaded"), "{again}");
    assert!(again.contains("all stacks are as they should be"), "{again}");
    assert!(again.contains(r#"s: "one""#), "invoked on every deployment: {again}");

    // Another program is another zip; the same one again is the one that is there.
    compile(&house, "two");
    let changed = house.succeeds(&["deploy"]);
    assert!(changed.contains("1 stacks changed") && changed.contains(r#"s: "two""#), "{changed}");
    compile(&house, "one");
    let back = house.succeeds(&["deploy"]);
    assert!(!back.contains("uploaded") && back.contains(r#"s: "one""#), "{back}");
    assert_eq!(keys(&house, "assets/").len(), 2);

    // A failure says why and lets nothing be deployed that comes after it.
    compile(&house, "fail to migrate");
    house.edit("after.template.json", |template| {
        template["Resources"]["Topic"]["Properties"]["DisplayName"] = "changed".into();
    });
    let (success, text) = house.run(&["deploy"]);
    assert!(!success && text.contains("fail to migrate (Refused)"), "{text}");
    assert!(text.contains("about to fail to migrate"), "the end of the log: {text}");
    assert!(!text.contains("floodgate-local-after            updating"), "{text}");
    compile(&house, "three");
    let repaired = house.succeeds(&["deploy"]);
    assert!(repaired.contains(r#"s: "three""#) && repaired.contains("2 stacks changed"), "{repaired}");
}

#[test]
fn a_large_template_goes_through_the_bucket() {
    let house = House::new();
    house.environment.up();
    with_function(&house);
    compile(&house, "one");
    house.edit("after.template.json", |template| {
        template["Metadata"] = json!({ "Filling": "x".repeat(60_000) });
    });
    let (success, text) = house.run(&["deploy", "--stack", "after"]);
    assert!(!success && text.contains("has no output"), "{text}");
    let deployed = house.succeeds(&["deploy"]);
    assert!(deployed.contains("3 stacks changed"), "{deployed}");
    assert_eq!(keys(&house, "templates/").len(), 1);
    let again = house.succeeds(&["deploy"]);
    assert!(again.contains("all stacks are as they should be"), "{again}");
}

#[test]
fn a_large_template_without_a_bucket_says_what_to_do() {
    let house = House::new();
    house.environment.up();
    house.edit("network.template.json", |template| {
        template["Metadata"] = json!({ "Filling": "x".repeat(60_000) });
    });
    let (success, text) = house.run(&["deploy", "--stack", "network"]);
    assert!(!success && text.contains("more than CloudFormation takes within a request"), "{text}");
    assert!(text.contains("cargo xtask deploy --env local --stack delivery"), "{text}");
}

#[test]
fn what_no_stack_and_no_release_names_is_collected() {
    let house = House::new();
    house.environment.up();
    with_function(&house);
    for answer in ["one", "two", "three"] {
        compile(&house, answer);
        house.succeeds(&["deploy"]);
    }
    let stored = keys(&house, "assets/");
    assert_eq!(stored.len(), 3);
    let outputs = outputs(&house);
    let deployed = house.succeeds(&["pack"]);
    let deployed = deployed.split("sha256:").nth(1).unwrap()[..64].to_owned();
    let deployed = format!("assets/{deployed}.zip");
    let others: Vec<&String> = stored.iter().filter(|key| **key != deployed).collect();
    assert_eq!(others.len(), 2, "{stored:?}, {deployed} deployed");
    // A release keeps what it names.
    let bucket = outputs["delivery"]["ArtifactBucket"].as_str().unwrap();
    let url = format!("{}/{bucket}/releases/one.json", house.environment.endpoint_url().unwrap());
    ureq::put(&url).send(json!({ "assets": [others[0]] }).to_string()).unwrap();

    let young = house.succeeds(&["gc", "--older-than", "1h"]);
    assert!(young.contains("3 objects, of which 0"), "{young}");
    let listed = house.succeeds(&["gc", "--older-than", "0s", "--dry-run"]);
    assert!(listed.contains("3 objects, of which 1") && listed.contains(others[1].as_str()), "{listed}");
    assert_eq!(keys(&house, "assets/").len(), 3, "nothing is deleted by a dry run");
    // While somebody deploys nothing goes: what nobody names may be about to be used.
    hold(&house);
    let (success, text) = house.run(&["gc", "--older-than", "0s"]);
    assert!(!success && text.contains("a deploy by Ada"), "{text}");
    assert_eq!(keys(&house, "assets/").len(), 3, "{text}");
    house.succeeds(&["unlock"]);
    house.succeeds(&["gc", "--older-than", "0s"]);
    let left = keys(&house, "assets/");
    assert!(left.len() == 2 && left.contains(&deployed) && left.contains(others[0]), "{left:?}");
    // What is gone from this machine is packed again, and is what is deployed.
    let again = house.succeeds(&["deploy"]);
    assert!(again.contains("all stacks are as they should be") && !again.contains("uploaded"), "{again}");
}
