//! What goes wrong, on the real local parts: the engine killed at every step, the emulator killed in the middle, two at
//! once, a failure in the middle of a wave.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use cfn::{
    AppProperties, Assembly, Json,
    assembly::{Manifest, ParameterWiring, Source, StackEntry, template_sha256},
};
use deploy_engine::{
    cloudformation::CloudFormation,
    lock::{Holder, Locks, State},
    operation::{Operations, Sources},
    report::{Format, Reporter},
    stacks::Stacks,
};
use futures::future::join_all;
use serde_json::json;
use support::{House, read_until, told, workspace};

/// CloudFormation as the engine sees it.
async fn cloud(house: &House) -> Stacks {
    let config = local_testing::config(&house.environment.endpoint_url().unwrap()).await;
    Stacks::new(aws_sdk_cloudformation::Client::new(&config), Duration::from_millis(50))
}

/// Three stacks, each of which gets a value of the one before, of types that the emulator makes at once.
fn small(version: u32) -> Assembly {
    let stack = |id: &str, before: Option<&str>| {
        let mut template = json!({
            "Resources": { "Value": { "Type": "AWS::SSM::Parameter", "Properties": {
                "Name": format!("/small/{id}"), "Type": "String", "Value": format!("{version}"),
            } } },
            "Outputs": { "Value": { "Value": { "Fn::GetAtt": ["Value", "Value"] } } },
        });
        let mut parameters = Vec::new();
        if let Some(before) = before {
            template["Parameters"] = json!({ "Before": { "Type": "String" } });
            template["Resources"]["Value"]["Properties"]["Value"] =
                json!({ "Fn::Sub": format!("${{Before}} {version}") });
            let source = Source::Output { stack: before.to_owned(), output: "Value".to_owned() };
            parameters.push(ParameterWiring { name: "Before".to_owned(), source });
        }
        let entry = StackEntry {
            id: id.to_owned(),
            name: format!("small-{id}"),
            template: format!("{id}.template.json"),
            template_sha256: template_sha256(&template),
            depends_on: before.into_iter().map(str::to_owned).collect(),
            tags: [("floodgate:environment".to_owned(), "local".to_owned())].into(),
            parameters,
            ..StackEntry::default()
        };
        (entry, template)
    };
    let all = [stack("one", None), stack("two", Some("one")), stack("three", Some("two"))];
    let properties = AppProperties {
        provider: "local".to_owned(),
        ..AppProperties::new("local", "000000000000", "eu-west-1", "small")
    };
    Assembly {
        manifest: Manifest {
            stacks: all.iter().map(|(entry, _)| entry.clone()).collect(),
            ..properties.empty_manifest()
        },
        templates: all.into_iter().map(|(entry, template)| (entry.id, template)).collect(),
        files: BTreeMap::new(),
        provenance: Vec::new(),
    }
}

/// The values that the small stacks give, each once there and whole.
async fn values(stacks: &Stacks) -> Vec<String> {
    let mut there = stacks.list().await.unwrap();
    there.sort_by_key(|one| one.name.clone());
    assert!(there.iter().all(|one| one.status.ends_with("E_COMPLETE")), "{there:?}");
    there.into_iter().map(|one| one.outputs["Value"].clone()).collect()
}

/// Begins to deploy.
fn deploying(house: &House) -> Child {
    house.engine(&["deploy", "--stacks-only"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Begins to deploy and kills that after so many lines; whether it had not ended before.
fn killed_after(house: &House, lines: usize) -> bool {
    let mut child = deploying(house);
    let read = BufReader::new(child.stdout.take().unwrap()).lines().take(lines).count();
    let is_killed = read == lines;
    if is_killed {
        child.kill().unwrap();
    }
    child.wait().unwrap();
    is_killed
}

#[tokio::test]
async fn a_deployment_killed_at_any_line_is_gone_on_with() {
    let house = House::of(&small(1));
    house.environment.up();
    let stacks = cloud(&house).await;
    let reporter = Reporter::new(Format::Json);
    let operations = Operations { cloud: &stacks, reporter: &reporter };
    // The creation of all stacks.
    let mut line = 1;
    while killed_after(&house, line) {
        house.succeeds(&["deploy", "--stacks-only"]);
        assert_eq!(values(&stacks).await, ["1", "1 1 1", "1 1"], "killed after line {line}");
        for id in ["three", "two", "one"] {
            let name = format!("small-{id}");
            operations.delete(&name, &Json::Null, &Sources::new(), None).await.unwrap();
        }
        line += 1;
    }
    assert!(line > 9, "only {line} lines");
    // Their update, in which each has other values than before.
    let (mut version, mut line) = (2, 1);
    loop {
        small(version).write(&house.assembly()).unwrap();
        let is_killed = killed_after(&house, line);
        house.succeeds(&["deploy", "--stacks-only"]);
        let v = version;
        let expected = [format!("{v}"), format!("{v} {v} {v}"), format!("{v} {v}")];
        assert_eq!(values(&stacks).await, expected, "killed after line {line}");
        if !is_killed {
            break;
        }
        version += 1;
        line += 1;
    }
    assert!(line > 9, "only {line} lines");
}

#[tokio::test]
async fn the_emulator_killed_in_the_middle_is_gone_on_with() {
    let house = House::of(&small(1));
    house.environment.up();
    let mut child = deploying(&house);
    // The first stack is there, the second is begun.
    read_until(&mut child, "small-two");
    house.environment.kill("aws");
    // It may have found its way on by itself, once the supervisor has brought the emulator back.
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (success, text) = house.run(&["deploy", "--stacks-only"]);
        if success {
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
    }
    assert_eq!(values(&cloud(&house).await).await, ["1", "1 1 1", "1 1"]);
    let plan = house.succeeds(&["deploy", "--plan"]);
    assert!(plan.contains("local: 3 as they should be"), "{plan}");
}

#[test]
fn two_deployments_at_once_are_one() {
    let house = House::new();
    house.environment.up();
    // Another checkout: its own files, the same environment.
    let other = house.directory().join("other");
    let rendered = platform::render(&platform::Environment::load(&workspace(), "local").unwrap()).unwrap();
    rendered.write(&other).unwrap();
    let second = |arguments: &[&str]| told(house.engine_of(&other, arguments).output().unwrap());

    let mut first = deploying(&house);
    read_until(&mut first, "creating");
    let (success, text) = second(&["deploy", "--stacks-only"]);
    assert!(!success, "{text}");
    let pid = format!("process {}", first.id());
    for part in [
        "another deploy or teardown of local is under way: a deploy by",
        &pid,
        "cargo xtask unlock --env local",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Killed, it gives nothing back; on the same machine that is seen at once.
    first.kill().unwrap();
    first.wait().unwrap();
    let (success, text) = second(&["deploy", "--stacks-only"]);
    assert!(success && text.contains("is taken over") && text.contains(&pid), "{text}");
    let (success, text) = second(&["unlock"]);
    assert!(success && text.contains("was free already"), "{text}");
}

#[tokio::test]
async fn of_many_at_once_one_has_the_lock() {
    let house = House::of(&small(1));
    house.environment.up();
    let config = local_testing::config(&house.environment.endpoint_url().unwrap()).await;
    let locks = Locks::new(aws_sdk_ssm::Client::new(&config), "local", "small");
    let reporter = Reporter::new(Format::Json);
    // First there is no parameter yet, then there is one and it is free.
    for round in 0..4 {
        let holder = |number: usize| Holder {
            token: format!("{round} {number}"),
            ..Holder::this("deploy", "arn:aws:sts::1:assumed-role/dev/ada")
        };
        let all = join_all((0..8).map(|number| locks.acquire(holder(number), &reporter))).await;
        let (held, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
        assert_eq!(held.len(), 1, "round {round}");
        for one in refused {
            let text = one.unwrap_err().to_string();
            assert!(text.contains("another deploy or teardown of local is under way"), "{text}");
        }
        // Who came too late has put back what it had written over: only its holder frees it.
        assert!(matches!(locks.read().await.unwrap().0, State::Held(_)));
        held.into_iter().next().unwrap().unwrap().release().await.unwrap();
        assert_eq!(locks.read().await.unwrap().0, State::Free, "round {round}");
    }
}

#[test]
fn a_failure_in_a_wave_lets_the_others_finish_and_begins_nothing() {
    let house = House::new();
    house.environment.up();
    house.edit("kafka.template.json", |template| {
        let resources = template["Resources"].as_object_mut().unwrap();
        let (id, topic) =
            resources.iter().find(|(_, resource)| resource["Type"] == "AWS::MSK::Topic").unwrap();
        let (id, mut impossible) = (id.clone(), topic.clone());
        impossible["Properties"]["TopicName"] = json!("no/such name");
        resources.insert(id, impossible);
    });
    let (success, text) = house.run(&["deploy", "--stacks-only"]);
    assert!(!success, "{text}");
    // The template's metadata and the assembly's provenance say where it is.
    assert!(
        text.contains("floodgate-local-kafka failed at kafka/") && text.contains("declared at stacks/"),
        "{text}"
    );
    let status: Json = serde_json::from_str(&house.succeeds(&["status", "--json"])).unwrap();
    let is = |id: &str| {
        let name = format!("floodgate-local-{id}");
        let stacks = status["stacks"].as_array().unwrap();
        stacks.iter().find(|stack| stack["name"] == name.as_str()).unwrap()["status"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(is("cluster"), "CREATE_COMPLETE", "it was of the same wave");
    assert_eq!(is("kafka"), "ROLLBACK_COMPLETE");
    assert_eq!(is("trades"), "ABSENT", "it comes after");
    house.render();
    house.succeeds(&["deploy", "--stacks-only"]);

    // What destroys wants a yes where that is asked for, and without a terminal nobody gives it.
    house.edit("kafka.template.json", |template| {
        let resources = template["Resources"].as_object_mut().unwrap();
        let id =
            resources.iter().find(|(_, resource)| resource["Type"] == "AWS::MSK::Topic").unwrap().0.clone();
        resources.remove(&id);
        let outputs = template["Outputs"].as_object_mut().unwrap();
        outputs.retain(|_, output| !output.to_string().contains(&format!("\"{id}\"")));
    });
    let refused = house
        .engine(&["deploy", "--stacks-only", "--require-approval", "broadening"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(4));
    let (_, text) = told(refused);
    assert!(text.contains("1 removed") && text.contains("want to be approved"), "{text}");
    let plan = house.succeeds(&["deploy", "--plan"]);
    assert!(plan.contains("its template has changed"), "nothing was executed: {plan}");
    house.succeeds(&["deploy", "--stacks-only", "--require-approval", "never"]);
    assert!(fs::read_dir(house.assembly()).is_ok());
}
