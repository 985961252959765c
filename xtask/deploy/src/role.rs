//! The role that CloudFormation works with, where the environment has one: whoever deploys then needs no rights of
//! its own on what the stacks hold.

use std::collections::BTreeMap;

use anyhow::Result;
use cfn::assembly::Manifest;

use crate::cloudformation::CloudFormation;

/// The stack that gives it, and that output.
const SOURCE: (&str, &str) = ("delivery", "ExecutionRoleArn");

/// The role of an environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecutionRole(Option<String>);

impl ExecutionRole {
    /// From the outputs of the deployed stacks, by id. An environment on this machine has none.
    #[must_use]
    pub fn of(manifest: &Manifest, outputs: &BTreeMap<String, BTreeMap<String, String>>) -> Self {
        let (stack, output) = SOURCE;
        let of_stack = outputs.get(stack).filter(|_| manifest.provider == "aws");
        Self(of_stack.and_then(|outputs| outputs.get(output)).cloned())
    }

    /// Asks CloudFormation for it.
    ///
    /// # Errors
    ///
    /// What CloudFormation says.
    pub async fn look_up(manifest: &Manifest, cloud: &impl CloudFormation) -> Result<Self> {
        let Some(entry) = manifest.stack(SOURCE.0).filter(|_| manifest.provider == "aws") else {
            return Ok(Self::default());
        };
        let deployed = cloud.describe(&entry.name).await?;
        let outputs = deployed.map(|deployed| (entry.id.clone(), deployed.outputs));
        Ok(Self::of(manifest, &outputs.into_iter().collect()))
    }

    /// For work on a stack. Not for the one that makes the role: that one changes what the role may do, and outlives
    /// it when it is deleted.
    #[must_use]
    pub fn for_stack(&self, id: &str) -> Option<String> {
        self.0.clone().filter(|_| id != SOURCE.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(provider: &str) -> Manifest {
        serde_json::from_value(serde_json::json!({
            "schema_version": 1, "environment": "dev", "provider": provider, "account": "", "region": "", "prefix": "",
            "digest": "", "stacks": [], "assets": [], "workloads": [], "cluster": null, "systems": {},
        }))
        .unwrap()
    }

    #[test]
    fn all_stacks_but_its_own_have_it_and_none_on_this_machine() {
        let outputs = BTreeMap::from([("ExecutionRoleArn".to_owned(), "arn:role".to_owned())]);
        let outputs = BTreeMap::from([("delivery".to_owned(), outputs)]);
        let role = ExecutionRole::of(&manifest("aws"), &outputs);
        assert_eq!(role.for_stack("network").as_deref(), Some("arn:role"));
        assert_eq!(role.for_stack("delivery"), None);
        assert_eq!(ExecutionRole::of(&manifest("local"), &outputs).for_stack("network"), None);
        assert_eq!(ExecutionRole::of(&manifest("aws"), &BTreeMap::new()).for_stack("network"), None);
    }
}
