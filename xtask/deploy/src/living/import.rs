//! Resources that exist become a stack's.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use aws_sdk_cloudformation::{
    Client,
    types::{Capability, ChangeSetType, Parameter, ResourceToImport, Tag},
};
use cfn::{Json, assembly::StackEntry, to_canonical_bytes};

use crate::{
    approval::shown,
    cloudformation::{CHANGE_SET, CloudFormation},
    living::change::with_imported,
    operation::{Operations, Sources},
    sdk::told,
    stacks::Stacks,
};

/// A resource to take in: which it is in the stack, and which it is in AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its logical id.
    pub logical_id: String,
    /// The values of the properties that name it in AWS.
    pub identifier: BTreeMap<String, String>,
}

/// Reads `LOGICAL_ID=PROPERTY=VALUE[,PROPERTY=VALUE]`. A value goes up to the next comma that a property follows.
///
/// # Errors
///
/// When it is something else.
pub fn parse(text: &str) -> Result<Claim, String> {
    let usage = || format!("`{text}` is not LOGICAL_ID=PROPERTY=VALUE[,PROPERTY=VALUE]");
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric());
    let (logical_id, rest) = text.split_once('=').filter(|(id, _)| is_name(id)).ok_or_else(usage)?;
    let mut identifier: BTreeMap<String, String> = BTreeMap::new();
    let mut last: Option<String> = None;
    for part in rest.split(',') {
        match (part.split_once('=').filter(|(name, _)| is_name(name)), &last) {
            (Some((name, value)), _) => {
                identifier.insert(name.to_owned(), value.to_owned());
                last = Some(name.to_owned());
            }
            (None, Some(name)) => {
                identifier.entry(name.clone()).and_modify(|value| *value = format!("{value},{part}"));
            }
            (None, None) => return Err(usage()),
        }
    }
    if identifier.values().any(String::is_empty) {
        return Err(usage());
    }
    Ok(Claim { logical_id: logical_id.to_owned(), identifier })
}

/// Takes resources into a stack, with the role that CloudFormation works with there. `parameters` are the values that
/// the stack is deployed with.
///
/// # Errors
///
/// When a resource is not rendered or not found, or CloudFormation refuses.
pub async fn run(
    client: &Client,
    operations: &Operations<'_, Stacks>,
    (entry, role): (&StackEntry, Option<&str>),
    rendered: &Json,
    parameters: &BTreeMap<String, String>,
    claims: &[Claim],
) -> Result<()> {
    let name = &entry.name;
    let there = operations.cloud.describe(name).await?.filter(|stack| stack.status != "REVIEW_IN_PROGRESS");
    let deployed = match there {
        Some(_) => Some(operations.cloud.template(name).await?),
        None => None,
    };
    let ids: Vec<String> = claims.iter().map(|claim| claim.logical_id.clone()).collect();
    let template = with_imported(deployed.as_ref(), rendered, &ids)?;
    let body = String::from_utf8(to_canonical_bytes(&template)).context("a template is text")?;
    let resources = claims
        .iter()
        .map(|claim| {
            ResourceToImport::builder()
                .resource_type(template["Resources"][&claim.logical_id]["Type"].as_str().unwrap_or_default())
                .logical_resource_id(&claim.logical_id)
                .set_resource_identifier(Some(claim.identifier.clone().into_iter().collect()))
                .build()
        })
        .collect();
    let wanted = template["Parameters"].as_object();
    let parameters = parameters
        .iter()
        .filter(|(key, _)| wanted.is_some_and(|wanted| wanted.contains_key(*key)))
        .map(|(key, value)| Parameter::builder().parameter_key(key).parameter_value(value).build())
        .collect();
    operations.cloud.delete_change_set(name).await?;
    client
        .create_change_set()
        .stack_name(name)
        .change_set_name(CHANGE_SET)
        .change_set_type(ChangeSetType::Import)
        .template_body(body)
        .set_parameters(Some(parameters))
        .set_resources_to_import(Some(resources))
        .set_role_arn(role.map(str::to_owned))
        .set_tags(Some(
            entry.tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect(),
        ))
        .set_capabilities(Some(
            entry.capabilities.iter().map(|name| Capability::from(name.as_str())).collect(),
        ))
        .send()
        .await
        .map_err(|error| told(error, &format!("CloudFormation refuses the import into {name}")))?;
    let failed = format!("nothing is imported into {name}");
    let Some(change_set) = operations.await_change_set(name, &failed, "").await? else {
        bail!("{failed}: CloudFormation finds nothing to change");
    };
    operations.reporter.say(&shown(name, &change_set));
    operations.reporter.stack(name, "importing", &ids.join(", "));
    operations.execute(name, &template, &Sources::new()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_names_properties() {
        let claim = parse("Queue=QueueUrl=https://sqs.eu-west-1.amazonaws.com/1/q?a=b,c").unwrap();
        assert_eq!(claim.logical_id, "Queue");
        assert_eq!(claim.identifier["QueueUrl"], "https://sqs.eu-west-1.amazonaws.com/1/q?a=b,c");
        let claim = parse("Route=RouteTableId=rtb-1,CidrBlock=0.0.0.0/0").unwrap();
        assert_eq!(claim.identifier["CidrBlock"], "0.0.0.0/0");
        for wrong in ["Queue", "=x", "Queue=", "Que ue=A=x", "Queue=A="] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
