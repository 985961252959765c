//! CloudFormation's limits, and IAM's limits of policies.

use super::{
    Findings,
    rules::{
        BODY_LIMIT, DESCRIPTION_LIMIT, LOGICAL_ID, MAPPING_LIMIT, NAME_LIMIT, PARAMETER_DEFAULT, POLICY_SIZE,
        RESOURCE_LIMIT, RESOURCE_LIMIT_NEAR, STACK_NAME,
    },
    template::{Resource, Template},
};
use crate::{assembly::StackEntry, canonical::to_canonical_bytes, value::Json};

const RESOURCES_MAX: usize = 500;
const RESOURCES_NEAR: usize = 400;
const NAMES_MAX: usize = 200;
const NAME_LENGTH_MAX: usize = 255;
const STACK_NAME_LENGTH_MAX: usize = 128;
const MAPPING_ATTRIBUTES_MAX: usize = 200;
const BODY_BYTES_MAX: usize = 51_200;
const DESCRIPTION_BYTES_MAX: usize = 1024;
const PARAMETER_BYTES_MAX: usize = 4096;
/// IAM counts a policy's characters without white space.
const ROLE_INLINE_CHARACTERS_MAX: usize = 10_240;
const MANAGED_POLICY_CHARACTERS_MAX: usize = 6_144;
const TRUST_POLICY_CHARACTERS_MAX: usize = 4_096;

pub(super) fn check(entry: &StackEntry, template: &Template<'_>, findings: &mut Findings<'_>) {
    let resources = template.resources.len();
    if resources > RESOURCES_MAX {
        findings.stack(RESOURCE_LIMIT, format!("the stack has {resources} resources"));
    } else if resources > RESOURCES_NEAR {
        findings.stack(RESOURCE_LIMIT_NEAR, format!("the stack has {resources} resources"));
    }
    for name in ["Outputs", "Parameters"] {
        let count = template.section(name).count();
        if count > NAMES_MAX {
            findings.stack(NAME_LIMIT, format!("the stack has {count} {}", name.to_lowercase()));
        }
    }
    let bytes = to_canonical_bytes(template.body).len();
    if bytes > BODY_BYTES_MAX {
        findings.stack(BODY_LIMIT, format!("the template has {bytes} bytes"));
    }
    let description = template.body.get("Description").and_then(Json::as_str).unwrap_or_default();
    if description.len() > DESCRIPTION_BYTES_MAX {
        findings.stack(DESCRIPTION_LIMIT, format!("the description has {} bytes", description.len()));
    }
    mappings(template, findings);
    names(entry, template, findings);
    for (name, parameter) in template.section("Parameters") {
        let bytes = parameter.get("Default").and_then(Json::as_str).map_or(0, str::len);
        if bytes > PARAMETER_BYTES_MAX {
            findings.stack(PARAMETER_DEFAULT, format!("the default of {name} has {bytes} bytes"));
        }
    }
    for resource in &template.resources {
        policies(resource, findings);
    }
}

fn mappings(template: &Template<'_>, findings: &mut Findings<'_>) {
    let count = template.section("Mappings").count();
    if count > NAMES_MAX {
        findings.stack(MAPPING_LIMIT, format!("the stack has {count} mappings"));
    }
    for (name, mapping) in template.section("Mappings") {
        let attributes = mapping.as_object().map_or(0, serde_json::Map::len);
        if attributes > MAPPING_ATTRIBUTES_MAX {
            findings.stack(MAPPING_LIMIT, format!("the mapping {name} has {attributes} attributes"));
        }
    }
}

fn names(entry: &StackEntry, template: &Template<'_>, findings: &mut Findings<'_>) {
    for section in ["Resources", "Outputs", "Parameters", "Conditions", "Mappings"] {
        for (name, _) in template.section(section) {
            if name.len() > NAME_LENGTH_MAX {
                findings
                    .stack(LOGICAL_ID, format!("{name} has {} characters ({section})", name.chars().count()));
            } else if name.is_empty() || !name.chars().all(|each| each.is_ascii_alphanumeric()) {
                findings.stack(LOGICAL_ID, format!("`{name}` is not letters and digits alone ({section})"));
            }
        }
    }
    let letters = entry.name.starts_with(|first: char| first.is_ascii_alphabetic())
        && entry.name.chars().all(|each| each.is_ascii_alphanumeric() || each == '-');
    if !letters || entry.name.len() > STACK_NAME_LENGTH_MAX {
        findings.stack(STACK_NAME, format!("the stack's name is `{}`", entry.name));
    }
}

/// The characters of a policy as rendered. What an intrinsic becomes is unknown; its JSON is about as long as
/// an ARN.
fn characters(json: &Json) -> usize {
    json.to_string().len()
}

fn policies(resource: &Resource<'_>, findings: &mut Findings<'_>) {
    let mut limit = |what: &str, found: usize, most: usize| {
        if found > most {
            findings.resource(
                POLICY_SIZE,
                resource.logical_id,
                format!("{what} has about {found} characters; IAM takes {most}"),
            );
        }
    };
    match resource.kind {
        "AWS::IAM::Role" => {
            let inline = resource
                .list("/Policies")
                .iter()
                .filter_map(|policy| policy.get("PolicyDocument"))
                .map(characters)
                .sum();
            limit("the sum of its inline policies", inline, ROLE_INLINE_CHARACTERS_MAX);
            let trust = resource.at("/AssumeRolePolicyDocument").map_or(0, characters);
            limit("its trust policy", trust, TRUST_POLICY_CHARACTERS_MAX);
        }
        "AWS::IAM::ManagedPolicy" => {
            let document = resource.at("/PolicyDocument").map_or(0, characters);
            limit("the policy", document, MANAGED_POLICY_CHARACTERS_MAX);
        }
        _ => {}
    }
}
