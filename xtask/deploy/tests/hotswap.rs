//! Code alone on the real local parts: what is swapped, what is not, and that a proper deploy puts it right.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use cfn::Json;
use platform::System;
use serde_json::json;
use support::{
    House,
    answer::{answer, compile, with_function},
};

fn keys(house: &House) -> Json {
    let status: Json = serde_json::from_str(&house.succeeds(&["status", "--json"])).unwrap();
    status["hotswapped"].clone()
}

fn history(house: &House) -> Vec<Json> {
    serde_json::from_str(&house.succeeds(&["releases", "history", "--json"])).unwrap()
}

#[test]
fn functions_run_their_new_code_and_what_is_no_code_is_named() {
    let house = House::new();
    house.environment.up();
    with_function(&house);
    house.edit("manifest.json", |manifest| {
        manifest["stacks"][1].as_object_mut().unwrap().remove("invocations");
    });
    compile(&house, "one");
    let nothing = house.succeeds(&["deploy", "--hotswap"]);
    assert!(nothing.contains("skipped: functions: it is not there yet"), "{nothing}");
    house.succeeds(&["deploy"]);
    assert_eq!(answer(&house), "one");

    // What it logs is in CloudWatch Logs, here as on AWS.
    let log = house.succeeds(&["logs", "answer", "--since", "5m"]);
    assert!(log.lines().any(|line| line.starts_with("answer  END RequestId")), "{log}");
    let filtered = house.succeeds(&["logs", "functions", "--filter", "REPORT"]);
    assert!(!filtered.is_empty() && filtered.lines().all(|line| line.contains("REPORT")), "{filtered}");
    let (success, text) = house.run(&["logs", "nobody"]);
    assert!(!success && text.contains("there is no system, workload or function `nobody`"), "{text}");
    let variables = house.succeeds(&["outputs", "--stack", "functions", "--format", "env"]);
    assert!(variables.starts_with("export FUNCTIONS_FUNCTION_INVOCATION='"), "{variables}");

    // New code and new infrastructure: the code comes, the infrastructure is named.
    compile(&house, "two");
    let rendered = fs::read(house.assembly().join("functions.template.json")).unwrap();
    house.edit("functions.template.json", |template| {
        template["Resources"]["Function"]["Properties"]["MemorySize"] = json!(256);
        template["Resources"]["Function"]["Metadata"] = json!({ "floodgate:path": "functions/Answer" });
    });
    house.edit("after.template.json", |template| {
        template["Resources"]["Topic"]["Properties"]["DisplayName"] = "changed".into();
    });
    let swapped = house.succeeds(&["deploy", "--hotswap"]);
    assert!(swapped.contains("1 function has new code"), "{swapped}");
    for skipped in [
        "skipped: functions: functions/Answer (Metadata, Properties.MemorySize) has changed",
        "skipped: after: Topic (Properties.DisplayName) has changed",
        "`cargo xtask deploy --env local` brings what was skipped",
    ] {
        assert!(swapped.contains(skipped), "{skipped}:\n{swapped}");
    }
    assert!(!swapped.contains("updating"), "CloudFormation is not asked: {swapped}");
    assert_eq!(answer(&house), "two");
    assert_eq!(keys(&house), json!(["functions"]));
    let records = || history(&house).len();
    let recorded = records();
    let again = house.succeeds(&["deploy", "--hotswap"]);
    assert!(again.contains("no function has new code") && again.contains("no record is written"), "{again}");
    assert_eq!(records(), recorded, "who changed nothing has not deployed");

    // Taken back in the source: the stack has the key already, and nothing but the record tells that code differs.
    compile(&house, "one");
    fs::write(house.assembly().join("functions.template.json"), rendered).unwrap();
    let put_right = house.succeeds(&["deploy"]);
    assert!(
        put_right.contains("put right") && put_right.contains("answer runs what the stack says"),
        "{put_right}"
    );
    assert_eq!(answer(&house), "one");
    assert_eq!(keys(&house), json!([]));

    // Kept in the source: the stack is updated.
    compile(&house, "three");
    house.succeeds(&["deploy", "--hotswap", "--stack", "functions"]);
    assert_eq!(answer(&house), "three");
    let deployed = house.succeeds(&["deploy"]);
    assert!(deployed.contains("1 stacks changed") && !deployed.contains("put right"), "{deployed}");
    assert_eq!(answer(&house), "three");
    assert_eq!(keys(&house), json!([]));

    // Code that is of use only with its invocation waits for a deploy.
    house.edit("manifest.json", |manifest| {
        manifest["stacks"][1]["invocations"] = json!([{ "output": "FunctionInvocation" }]);
    });
    compile(&house, "four");
    let skipped = house.succeeds(&["deploy", "--hotswap"]);
    assert!(skipped.contains("skipped: functions: answer has new code, and is invoked"), "{skipped}");
    assert_eq!(answer(&house), "three");

    // Where data is kept code is not swapped, and in prod never.
    house.edit("manifest.json", |manifest| manifest["stacks"][2]["termination_protection"] = true.into());
    let (success, text) = house.run(&["deploy", "--hotswap"]);
    assert!(!success && text.contains("its data is kept"), "{text}");
    house.edit("manifest.json", |manifest| {
        manifest["stacks"][2]["termination_protection"] = false.into();
        manifest["environment"] = "prod".into();
    });
    let (success, text) = house.run(&["deploy", "--hotswap", "--confirm", "prod"]);
    assert!(!success && text.contains("not swapped in prod"), "{text}");
    assert_eq!(answer(&house), "three");
}

#[test]
fn a_workload_whose_program_changed_is_replaced_and_the_others_go_on() {
    let mut environment = platform::Environment::load(&support::workspace(), "local").unwrap();
    environment.systems = vec![System::Trades];
    let house = House::of(&platform::render(&environment).unwrap());
    fs::create_dir_all(house.binaries()).unwrap();
    let programs = support::binaries();
    for entry in fs::read_dir(&programs).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.extension().is_none() {
            fs::hard_link(&path, house.binaries().join(path.file_name().unwrap()))
                .or_else(|_| fs::copy(&path, house.binaries().join(path.file_name().unwrap())).map(drop))
                .unwrap();
        }
    }
    house.environment.up();
    house.succeeds(&["deploy"]);
    let processes = |name: &str| -> Vec<u64> {
        let status = house.environment.ask(&["status"]);
        let workloads = status["workloads"].as_array().unwrap();
        let workload = workloads.iter().find(|workload| workload["name"] == name).unwrap();
        workload["pids"].as_array().unwrap().iter().filter_map(Json::as_u64).collect()
    };
    let before = (processes("trade-producer"), processes("trade-consumer"));
    // Nothing was built: nothing is swapped, nobody has deployed, and no release is held up by it.
    let deployed = history(&house);
    let same = house.succeeds(&["deploy", "--hotswap"]);
    assert!(same.contains("the workloads run what was built already. Nothing was swapped"), "{same}");
    assert_eq!((history(&house), keys(&house)), (deployed.clone(), json!([])));
    assert_eq!((processes("trade-producer"), processes("trade-consumer")), before);
    // What is behind the end of a program is another program to who goes by content, and the same to the machine.
    let consumer = house.binaries().join("trade-consumer");
    let mut bytes = fs::read(&consumer).unwrap();
    bytes.extend_from_slice(b"changed");
    fs::remove_file(&consumer).unwrap();
    fs::write(&consumer, bytes).unwrap();
    std::process::Command::new("chmod").arg("755").arg(&consumer).status().unwrap();
    let swapped = house.succeeds(&["deploy", "--hotswap"]);
    assert!(swapped.contains("had to be changed for it: trade-consumer"), "{swapped}");
    assert_eq!(history(&house)[0]["way"], "hotswap");
    assert_eq!((history(&house).len(), keys(&house)), (deployed.len() + 1, json!(["workloads"])));
    let after = (processes("trade-producer"), processes("trade-consumer"));
    assert_eq!(before.0, after.0, "the producer goes on");
    assert!(before.1.iter().all(|pid| !after.1.contains(pid)) && !after.1.is_empty(), "{before:?} {after:?}");
}
