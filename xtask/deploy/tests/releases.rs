//! A release on its way through two environments on the real local parts: the same bytes in both, a gate between them,
//! and the way back.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use aws_config::SdkConfig;
use aws_sdk_cloudwatch::types::StateValue;
use cfn::Json;
use platform::System;
use serde_json::json;
use support::{House, binaries, read_until, told};

/// Two environments and where their releases are.
struct Street {
    first: House,
    second: House,
}

impl Street {
    fn new() -> Self {
        let street = Self {
            first: House::named("first", &[System::Trades]),
            second: House::named("second", &[System::Trades]),
        };
        for house in [&street.first, &street.second] {
            calm(house);
            house.environment.up();
        }
        street
    }

    fn releases(&self) -> PathBuf {
        self.first.directory().join("releases")
    }

    /// Makes a release of what the two are rendered to now; gives its digest and archive.
    fn release(&self, revision: &str) -> (String, PathBuf) {
        let answer = self.first.directory().join("answer.json");
        let of = |house: &House| format!("{}={}", house.assembly().display(), binaries().display());
        let (ok, text) = told(
            self.first
                .engine(&[
                    "bundle",
                    "--revision",
                    revision,
                    "--compiler",
                    "rustc",
                    "--of",
                    &of(&self.first),
                    "--of",
                ])
                .arg(of(&self.second))
                .arg("--out")
                .arg(self.releases())
                .arg("--answer")
                .arg(&answer)
                .output()
                .unwrap(),
        );
        assert!(ok, "{text}");
        let made: Json = serde_json::from_slice(&fs::read(answer).unwrap()).unwrap();
        (made["digest"].as_str().unwrap().to_owned(), made["file"].as_str().unwrap().into())
    }

    fn unpack(&self, archive: &Path, house: &House) -> (bool, String) {
        self.unpack_to(&self.releases(), archive, house)
    }

    fn unpack_to(&self, place: &Path, archive: &Path, house: &House) -> (bool, String) {
        let answer = house.directory().join("answer.json");
        let output = house
            .engine(&["unpack", "--environment", &house.name, "--release"])
            .arg(archive)
            .arg("--into")
            .arg(place)
            .arg("--answer")
            .arg(answer)
            .output();
        told(output.unwrap())
    }

    fn deploy_command(&self, house: &House, digest: &str, more: &[&str]) -> std::process::Command {
        Self::deploy_from(&self.releases().join(digest), house, more)
    }

    /// Deploys what was unpacked there, as another checkout or machine has it.
    fn deploy_from(directory: &Path, house: &House, more: &[&str]) -> std::process::Command {
        let mut command = house.engine_of(&directory.join("assemblies").join(&house.name), &[]);
        command.arg("deploy").arg("--release").arg(directory).args(more);
        command
    }

    fn deploy(&self, house: &House, digest: &str, more: &[&str]) -> (bool, String) {
        told(self.deploy_command(house, digest, more).output().unwrap())
    }

    fn gate(&self, house: &House, more: &[&str]) -> (bool, String) {
        let mut command = house.engine(&["releases", "gate", "--into"]);
        command.arg(self.releases()).arg("--answer").arg(house.directory().join("answer.json"));
        told(command.args(more).output().unwrap())
    }
}

/// An alarm that a metric without data sets off is in ALARM for the first minutes: here only the test rings.
fn calm(house: &House) {
    house.edit("observability.template.json", |template| {
        for resource in template["Resources"].as_object_mut().unwrap().values_mut() {
            if resource["Type"] == "AWS::CloudWatch::Alarm" {
                resource["Properties"]["TreatMissingData"] = json!("notBreaching");
            }
        }
    });
}

fn history(house: &House) -> Vec<Json> {
    serde_json::from_str(&house.succeeds(&["releases", "history", "--json"])).unwrap()
}

/// The code and images that run in an environment.
fn running(house: &House) -> Json {
    history(house)[0]["assets"].clone()
}

async fn client_config(house: &House) -> SdkConfig {
    local_testing::config(&house.environment.endpoint_url().unwrap()).await
}

/// An alarm that somebody hears of goes off, and is over once it is judged by its metric again.
#[tokio::main(flavor = "current_thread")]
async fn ring(house: &House) -> String {
    let client = aws_sdk_cloudwatch::Client::new(&client_config(house).await);
    let alarms = client.describe_alarms().send().await.unwrap();
    let name = alarms.metric_alarms()[0].alarm_name().unwrap().to_owned();
    let set =
        client.set_alarm_state().alarm_name(&name).state_value(StateValue::Alarm).state_reason("a test");
    set.send().await.unwrap();
    name
}

#[test]
fn the_same_bytes_go_from_one_environment_to_the_next_and_back() {
    let street = Street::new();
    let Street { first, second } = &street;

    // The same sources give the same bytes, wherever the assemblies are and whenever they were written.
    let (one, archive) = street.release("1111111");
    let bytes = fs::read(&archive).unwrap();
    fs::remove_file(&archive).unwrap();
    for house in [first, second] {
        fs::remove_dir_all(house.assembly()).unwrap();
        house.render();
        calm(house);
    }
    let (again, archive) = street.release("1111111");
    assert_eq!((&again, fs::read(&archive).unwrap() == bytes), (&one, true));

    // What was tampered with is refused before anything is touched.
    let mut wrong = bytes.clone();
    let place = wrong.len() / 2;
    wrong[place] ^= 1;
    let tampered = first.directory().join("tampered.tar");
    fs::write(&tampered, wrong).unwrap();
    let (ok, text) = street.unpack(&tampered, first);
    assert!(!ok && text.contains("is not what the release says"), "{text}");
    let (ok, text) = street.unpack(&archive, first);
    assert!(ok, "{text}");
    // For machines, every line is one of JSON.
    let mut unpack = first.engine(&["unpack", "--json", "--environment", "first", "--release"]);
    unpack.arg(&archive).arg("--into").arg(street.releases());
    let (ok, text) =
        told(unpack.arg("--answer").arg(first.directory().join("answer.json")).output().unwrap());
    let events: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(ok && events[0]["event"] == "unpacked" && events[0]["digest"] == json!(one), "{text}");
    let template = street.releases().join(&one).join("assemblies/first/kafka.template.json");
    let whole = fs::read(&template).unwrap();
    fs::write(&template, b"{}").unwrap();
    let (ok, text) = street.deploy(first, &one, &[]);
    assert!(!ok && text.contains("kafka.template.json` is not what the release says"), "{text}");
    assert!(history(first).is_empty());
    fs::write(&template, whole).unwrap();

    // Nothing runs yet, so nothing goes on.
    let (ok, text) = street.gate(first, &["--bake", "0s"]);
    assert!(!ok && text.contains("no record of a deployment"), "{text}");

    let (ok, text) = street.deploy(first, &one, &[]);
    assert!(ok && text.contains("recorded as #1 of first: release"), "{text}");
    assert_eq!(history(first)[0]["release"], json!(one));

    // The gate: the bake time, an alarm, drift, each told with what to do.
    let (ok, text) = street.gate(first, &["--bake", "1h"]);
    assert!(!ok && text.contains("the bake time is 60 min") && text.contains("wait 60 min more"), "{text}");
    let alarm = ring(first);
    let (ok, text) = street.gate(first, &["--bake", "5m", "--wait"]);
    assert!(!ok && text.contains(&alarm) && text.contains("in ALARM"), "an alarm ends the waiting: {text}");
    // It is over when its metric is judged again, and forgotten when the window begins after that.
    let until = Instant::now() + Duration::from_secs(60);
    let text = loop {
        let (ok, text) = street.gate(first, &["--bake", "2s"]);
        if ok {
            break text;
        }
        assert!(text.contains(&alarm) && Instant::now() < until, "{text}");
    };
    assert!(text.contains("0 drifted resources, 0 differences"), "{text}");

    // Another release was meant, or somebody is at work there.
    let (ok, text) = street.gate(first, &["--bake", "0s", "--release", "00000000"]);
    assert!(!ok && text.contains("first does not run the release 00000000…, but"), "{text}");
    let (ok, text) = street.gate(first, &["--bake", "0s", "--release", &one[..12]]);
    assert!(ok, "{text}");
    let mut working = street.deploy_command(first, &one, &[]).stdout(Stdio::piped()).spawn().unwrap();
    read_until(&mut working, "all stacks are as they should be");
    let (ok, text) = street.gate(first, &["--bake", "0s"]);
    assert!(!ok && text.contains("somebody works on first: a deploy by "), "{text}");
    assert!(text.contains("wait until that is done") && text.contains("one thing speaks"), "{text}");
    assert!(working.wait().unwrap().success());

    // Somebody deploys another thing there: it does not run the release any more.
    first.succeeds(&["deploy", "--stack", "network"]);
    let (ok, text) = street.gate(first, &["--bake", "0s"]);
    assert!(!ok && text.contains("runs no release") && text.contains("of network alone"), "{text}");
    let (ok, text) = street.deploy(first, &one, &[]);
    assert!(ok && text.contains("all stacks are as they should be"), "{text}");

    // On to the second. It deploys what the gate brought, and refuses when somebody else was there meanwhile.
    let from_first = ["--by", "promotion", "--from", "first", "--after"];
    let (ok, text) = street.deploy(second, &one, &[&from_first[..], &["7"]].concat());
    assert!(!ok && text.contains("was deployed meanwhile (#0)"), "{text}");
    let elsewhere = first.directory().join("elsewhere");
    let (ok, text) = street.unpack_to(&elsewhere, &archive, second);
    assert!(ok, "{text}");
    let elsewhere = elsewhere.join(&one);
    let promoted = [&from_first[..], &["0"]].concat();
    let mut child = street
        .deploy_command(second, &one, &promoted)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    read_until(&mut child, "creating");
    // Whoever promotes to it at the same time, from here or from another machine, is told who is at it and since when.
    let here = format!("(process {} on ", child.id());
    for mut other in
        [Street::deploy_from(&elsewhere, second, &promoted), street.deploy_command(second, &one, &promoted)]
    {
        let (ok, text) = told(other.output().unwrap());
        assert!(!ok && text.contains("another deploy or teardown of"), "{text}");
        assert!(text.contains(": a deploy by ") && text.contains(&here) && text.contains(", for "), "{text}");
        assert!(!text.contains("creating") && !text.contains("recorded"), "nothing is touched: {text}");
    }
    let done = child.wait_with_output().unwrap();
    let (ok, text) = told(done);
    assert!(ok && text.contains("recorded as #1 of second"), "{text}");
    assert_eq!(history(second).len(), 1);
    // Afterwards it may, unless it looked before the first was done; and then there is nothing left to do.
    let late = told(Street::deploy_from(&elsewhere, second, &promoted).output().unwrap());
    assert!(!late.0 && late.1.contains("was deployed meanwhile (#1)"), "{}", late.1);
    let again = [&from_first[..], &["1"]].concat();
    let (ok, text) = told(Street::deploy_from(&elsewhere, second, &again).output().unwrap());
    assert!(ok && text.contains("nothing changed: second is as recorded as #1"), "{text}");
    assert_eq!(running(second), running(first), "the same bytes");
    assert_eq!(history(second)[0]["from"], "first");

    // A second release in the second alone, and back to the one before, which is brought from its own bucket.
    let other = |template: &mut Json| {
        template["Resources"]["Another"] = json!({ "Type": "AWS::SQS::Queue" });
    };
    second.edit("kafka.template.json", other);
    let (two, archive) = street.release("2222222");
    assert_ne!(one, two);
    street.unpack(&archive, second);
    let (ok, text) = street.deploy(second, &two, &[]);
    assert!(ok && text.contains("recorded as #2 of second"), "{text}");
    fs::remove_dir_all(street.releases()).unwrap();
    let answer = second.directory().join("answer.json");
    let (ok, text) = told(
        second
            .engine(&["releases", "fetch", "previous", "--into"])
            .arg(street.releases())
            .arg("--answer")
            .arg(&answer)
            .output()
            .unwrap(),
    );
    assert!(ok && text.contains("deployed to second as #1"), "{text}");
    let (ok, text) = street.deploy(second, &one, &["--by", "rollback", "--after", "2"]);
    assert!(ok && text.contains("1 stacks changed"), "{text}");
    let table = second.succeeds(&["releases", "history"]);
    assert!(
        table.contains("rollback")
            && table.contains("from first")
            && table.contains("* the release that runs now"),
        "{table}"
    );
    assert_eq!(history(second).len(), 3);
}

#[test]
fn a_release_holds_what_its_systems_are_tried_with() {
    let systems = [System::Ledger, System::Lessons, System::Tags];
    let street =
        Street { first: House::named("first", &systems), second: House::named("second", &[System::Trades]) };
    let Street { first, .. } = &street;
    first.environment.up();
    let (digest, archive) = street.release("1111111");
    let (ok, text) = street.unpack(&archive, first);
    assert!(ok, "{text}");
    // As it is deployed where nothing is built: the release's own programs are all that there is.
    let (ok, text) = street.deploy(first, &digest, &[]);
    let came = |text: &str| {
        for line in
            ["ledger: tried with", "as many are in the database", "lessons: tried with", "tags: tried with"]
        {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("not tried"), "{text}");
    };
    assert!(ok, "{text}");
    came(&text);
    // So it is at the gate, whatever else speaks against an environment that is minutes old.
    let (_, text) = street.gate(first, &["--bake", "0s", "--overrule"]);
    came(&text);
    assert!(!text.contains("does not work"), "{text}");
    // The ledger has written its mode: that is no drift.
    assert!(text.contains("0 drifted resources"), "{text}");
}

#[test]
fn a_deployment_of_a_release_is_killed_and_run_again_and_its_bundle_may_be_lost() {
    let house = House::named("first", &[System::Trades]);
    let street = Street { second: House::named("second", &[System::Trades]), first: house };
    let Street { first, .. } = &street;
    first.environment.up();
    let (digest, archive) = street.release("1111111");
    street.unpack(&archive, first);

    let mut child = street
        .deploy_command(first, &digest, &[])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    read_until(&mut child, "creating");
    // Another one at the same time is refused.
    let (ok, text) = street.deploy(first, &digest, &[]);
    assert!(!ok && text.contains("another deploy or teardown"), "{text}");
    child.kill().unwrap();
    child.wait().unwrap();
    let mut rest = String::new();
    child.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (ok, text) = street.deploy(first, &digest, &[]);
        if ok {
            assert!(text.contains("messages/s flow"), "{text}");
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
    }
    assert_eq!(history(first)[0]["release"], json!(digest));

    // Without its files in the bucket it is not to be had, and that is said.
    let bucket = first.succeeds(&["outputs", "--json"]);
    let bucket: Json = serde_json::from_str(&bucket).unwrap();
    let bucket = bucket["delivery"]["ArtifactBucket"].as_str().unwrap().to_owned();
    forget(first, &bucket, &format!("releases/{digest}.json"));
    fs::remove_dir_all(street.releases()).unwrap();
    let (ok, text) = street.gate(first, &["--bake", "0s"]);
    assert!(!ok && text.contains("does not keep the release") && text.contains("make it again"), "{text}");
}

#[tokio::main(flavor = "current_thread")]
async fn forget(house: &House, bucket: &str, key: &str) {
    let config =
        aws_sdk_s3::config::Builder::from(&client_config(house).await).force_path_style(true).build();
    aws_sdk_s3::Client::from_conf(config).delete_object().bucket(bucket).key(key).send().await.unwrap();
}
