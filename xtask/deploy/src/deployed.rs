//! What is deployed, in the form of an assembly, so that it can be compared with a rendered one.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use cfn::{
    Assembly, Json,
    assembly::{Manifest, ParameterWiring, Source, StackEntry, template_sha256},
};

use crate::{
    cloudformation::{CloudFormation, Deployed, NOT_ECHOED},
    plan::status::has_come_to_be,
    stacks::Stacks,
    wiring::{Known, WiringError, resolve},
};

/// Writes the deployed templates, parameters, tags and protection of the manifest's stacks to a directory of the form
/// of an assembly's. Stacks that are not there are left out; so is what CloudFormation does not know: workloads,
/// assets, systems. Nothing is changed in AWS.
///
/// # Errors
///
/// What the SDK says, or that the directory cannot be written.
pub async fn write(manifest: &Manifest, stacks: &Stacks, directory: &Path) -> Result<()> {
    let mut found = Vec::new();
    let mut known = Known::default();
    for entry in &manifest.stacks {
        let Some(deployed) = stacks.describe(&entry.name).await? else { continue };
        if !has_come_to_be(&deployed.status) {
            continue;
        }
        if deployed.status.ends_with("_IN_PROGRESS") {
            eprintln!("{} is {}: it may come to be other than it is told here", entry.name, deployed.status);
        }
        known.outputs.insert(entry.id.clone(), deployed.outputs.clone());
        let template = stacks.template(&entry.name).await?;
        found.push((entry, deployed, template));
    }
    let mut assembly = Assembly {
        manifest: Manifest { artifact_bucket: manifest.artifact_bucket.clone(), ..manifest.emptied() },
        templates: BTreeMap::new(),
        files: BTreeMap::new(),
        provenance: Vec::new(),
    };
    for (wanted, deployed, template) in found {
        let unseen = unseen(wanted, &deployed, &known);
        if !unseen.is_empty() {
            eprintln!(
                "{}: not compared, because their values are known only while deploying: {}",
                wanted.name,
                unseen.join(", ")
            );
        }
        assembly.manifest.stacks.push(entry(wanted, &deployed, &template, &known));
        assembly.templates.insert(wanted.id.clone(), template);
    }
    assembly.write(directory)?;
    Ok(())
}

/// The manifest's entry of a stack as it is deployed. A parameter that has the value that its source gives now
/// has that source; any other has its value.
#[must_use]
pub fn entry(wanted: &StackEntry, deployed: &Deployed, template: &Json, known: &Known) -> StackEntry {
    let wired = |name: &str| wanted.parameters.iter().find(|parameter| parameter.name == name);
    let default = |name: &str| {
        template.get("Parameters")?.get(name)?.get("Default").map(|default| match default {
            Json::String(text) => text.clone(),
            other => other.to_string(),
        })
    };
    let parameters = deployed
        .parameters
        .iter()
        .filter_map(|(name, value)| {
            let source = match wired(name) {
                Some(wired) if is_unseen(&wired.source, value, known) => wired.source.clone(),
                Some(wired) if resolve(&wired.source, known).as_ref() == Ok(value) => wired.source.clone(),
                // Nobody gave it: the template did.
                None if default(name).as_ref() == Some(value) => return None,
                _ => Source::Literal(value.clone()),
            };
            Some(ParameterWiring { name: name.clone(), source })
        })
        .collect();
    StackEntry {
        template_sha256: template_sha256(template),
        termination_protection: deployed.protected,
        tags: deployed.tags.clone(),
        parameters,
        ..wanted.clone()
    }
}

/// Parameters whose new value is not known before the deployment, or whose old one is not shown.
fn unseen(wanted: &StackEntry, deployed: &Deployed, known: &Known) -> Vec<String> {
    wanted
        .parameters
        .iter()
        .filter(|wired| {
            deployed.parameters.get(&wired.name).is_some_and(|value| is_unseen(&wired.source, value, known))
        })
        .map(|wired| wired.name.clone())
        .collect()
}

fn is_unseen(source: &Source, value: &str, known: &Known) -> bool {
    value == NOT_ECHOED
        || matches!(
            resolve(source, known),
            Err(WiringError::NoAsset { .. }
                | WiringError::NotLookedUp { .. }
                | WiringError::NoBrokerHost { .. })
        )
}

#[cfg(test)]
mod tests {
    use cfn::assembly::LookupSource;
    use serde_json::json;

    use super::*;

    fn output(name: &str) -> Source {
        Source::Output { stack: "network".to_owned(), output: name.to_owned() }
    }

    fn wanted(parameters: Vec<(&str, Source)>) -> StackEntry {
        StackEntry {
            id: "kafka".to_owned(),
            name: "fg-kafka".to_owned(),
            template: "kafka.template.json".to_owned(),
            termination_protection: true,
            parameters: parameters
                .into_iter()
                .map(|(name, source)| ParameterWiring { name: name.to_owned(), source })
                .collect(),
            ..StackEntry::default()
        }
    }

    fn deployed(parameters: &[(&str, &str)]) -> Deployed {
        let texts = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        Deployed {
            name: "fg-kafka".to_owned(),
            id: "id".to_owned(),
            status: "UPDATE_COMPLETE".to_owned(),
            parameters: texts(parameters),
            outputs: BTreeMap::new(),
            tags: texts(&[("team", "streams")]),
            protected: false,
        }
    }

    fn known() -> Known {
        let outputs = BTreeMap::from([("VpcId".to_owned(), "vpc-1".to_owned())]);
        Known { outputs: BTreeMap::from([("network".to_owned(), outputs)]), ..Known::default() }
    }

    #[test]
    fn a_parameter_that_is_as_it_should_be_is_no_difference() {
        let wanted = wanted(vec![("Vpc", output("VpcId"))]);
        let same = entry(&wanted, &deployed(&[("Vpc", "vpc-1")]), &json!({}), &known());
        assert_eq!(same.parameters, wanted.parameters);
        assert_eq!((same.termination_protection, same.tags.len()), (false, 1));
        let other = entry(&wanted, &deployed(&[("Vpc", "vpc-0")]), &json!({}), &known());
        assert_eq!(other.parameters[0].source, Source::Literal("vpc-0".to_owned()));
        assert!(entry(&wanted, &deployed(&[]), &json!({}), &known()).parameters.is_empty());
    }

    #[test]
    fn a_default_is_nobodys_parameter() {
        let template = json!({ "Parameters": { "Size": { "Type": "Number", "Default": 3 } } });
        let by_default = entry(&wanted(Vec::new()), &deployed(&[("Size", "3")]), &template, &known());
        assert!(by_default.parameters.is_empty());
        let given = entry(&wanted(Vec::new()), &deployed(&[("Size", "4")]), &template, &known());
        assert_eq!(given.parameters[0].source, Source::Literal("4".to_owned()));
    }

    #[test]
    fn what_only_a_deployment_knows_is_told_and_not_compared() {
        let brokers = Source::Lookup(LookupSource::MskBootstrapBrokers {
            authentication: "iam".to_owned(),
            cluster_arn: Box::new(output("VpcId")),
        });
        let code = Source::Asset { name: "writer".to_owned(), field: "s3_key".to_owned() };
        let wanted =
            wanted(vec![("Brokers", brokers), ("Code", code), ("Secret", Source::Literal("x".to_owned()))]);
        let deployed = deployed(&[("Brokers", "b-1:9098"), ("Code", "key"), ("Secret", NOT_ECHOED)]);
        assert_eq!(unseen(&wanted, &deployed, &known()), ["Brokers", "Code", "Secret"]);
        assert_eq!(entry(&wanted, &deployed, &json!({}), &known()).parameters, wanted.parameters);
    }
}
