//! Every rendered manifest is what its types say, and a slip in one is refused.

#![allow(clippy::unwrap_used)]

mod support;

use cfn::{Assembly, Json};
use platform::{environment::ScalingTarget, kubernetes::reading, render};
use serde::Deserialize;
use support::{assembly, environment};

const ALL: [&str; 4] = ["dev", "local", "prod", "staging"];

/// Manifests as they are applied: Helm's values are of no kind.
fn manifests(assembly: &Assembly) -> impl Iterator<Item = (&String, &String)> {
    let applied = |path: &str| path.ends_with(".yaml") && !path.starts_with("kubernetes/helm/");
    assembly.files.iter().filter(move |(path, _)| applied(path))
}

fn documents(text: &str) -> Vec<Json> {
    serde_yaml_ng::Deserializer::from_str(text).map(|document| Json::deserialize(document).unwrap()).collect()
}

#[test]
fn every_manifest_of_every_environment_is_what_its_types_say() {
    for name in ALL {
        for target in [ScalingTarget::Lag, ScalingTarget::Rate] {
            let mut environment = environment(name);
            environment.trades.scaling.target = target;
            for (path, text) in manifests(&render(&environment).unwrap()) {
                assert_eq!(reading::check(text), Ok(()), "{name} {path}");
            }
        }
    }
}

/// Each key of each document, misspelt, and each text and number made something else.
fn slips(document: &Json, place: &str, found: &mut Vec<(String, Json)>) {
    // What is free text by its type: labels, data, a trigger's settings, quantities.
    const FREE: [&str; 9] = [
        "labels",
        "matchLabels",
        "data",
        "annotations",
        "parameters",
        "selector",
        "nodeSelector",
        "requests",
        "limits",
    ];
    let mut note = |place: String, change: &dyn Fn(&mut Json)| {
        let mut slip = document.clone();
        change(&mut slip);
        found.push((place, slip));
    };
    match document.pointer(place) {
        Some(Json::Object(map)) => {
            let free = place.rsplit('/').next().is_some_and(|last| FREE.contains(&last))
                || place.ends_with("metadata") && place.contains("triggers");
            for key in map.keys() {
                if !free {
                    note(format!("{place}/{key} misspelt"), &|slip| {
                        let map = slip.pointer_mut(place).unwrap().as_object_mut().unwrap();
                        let value = map.remove(key).unwrap();
                        map.insert(format!("{key}z"), value);
                    });
                }
            }
            let deeper: Vec<String> = map
                .keys()
                .map(|key| format!("{place}/{}", key.replace('~', "~0").replace('/', "~1")))
                .collect();
            for place in deeper {
                slips(document, &place, found);
            }
        }
        Some(Json::Array(items)) => {
            for index in 0..items.len() {
                slips(document, &format!("{place}/{index}"), found);
            }
        }
        Some(Json::Null) | None => {}
        Some(_) => note(format!("{place} of another type"), &|slip| {
            *slip.pointer_mut(place).unwrap() = serde_json::json!([{}]);
        }),
    }
}

#[test]
fn a_slip_in_a_manifest_is_refused() {
    let prod = assembly("prod");
    let (mut tried, mut taken) = (0, Vec::new());
    for (path, text) in manifests(&prod) {
        for document in documents(text) {
            let mut found = Vec::new();
            slips(&document, "", &mut found);
            for (what, slip) in found {
                tried += 1;
                if reading::check(&serde_yaml_ng::to_string(&slip).unwrap()).is_ok() {
                    taken.push(format!("{path} {}: {what}", document["kind"]));
                }
            }
        }
    }
    assert!(tried > 400, "{tried}");
    assert_eq!(taken, Vec::<String>::new(), "of {tried} slips");
}

#[test]
fn a_refusal_names_kind_name_and_place() {
    let told = |text: &str| reading::check(text).unwrap_err();
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: w}\nspec:\n  selector: {}\n  template: {spec: {containers: [{name: c, imagePullPolicyy: Always}]}}\n";
    assert_eq!(
        told(deployment),
        "Deployment w: .spec.template.spec.containers[0].imagePullPolicyy is not a field of it, or not written as the type \
         has it"
    );
    let rule = "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {name: r}\nspec: {groups: [{name: g, rules: [{alert: A, exprs: up}]}]}\n";
    assert!(told(rule).starts_with("PrometheusRule r: ") && told(rule).contains("`exprs`"), "{}", told(rule));
    let version = "apiVersion: keda.sh/v1\nkind: TriggerAuthentication\nmetadata: {name: t}\nspec: {podIdentity: {provider: aws, identityOwner: keda}}\n";
    assert!(
        told(version).contains("keda.sh/v1 TriggerAuthentication is not keda.sh/v1alpha1"),
        "{}",
        told(version)
    );
    assert!(told("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n").contains("no such kind of v1"));
    assert!(told("a: [").contains("no YAML"));
}
