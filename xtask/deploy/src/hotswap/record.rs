//! Which stacks have functions that were swapped, and whether workloads were, in a parameter of the environment itself:
//! until a proper deploy has looked at them, nobody can tell from the stacks what they run. A deploy cannot find that
//! out from the stacks either: code that was swapped and then taken back has the key in its parameter that the next
//! deploy gives it.

use std::collections::BTreeSet;

use anyhow::Result;
use aws_sdk_ssm::{Client, error::ProvideErrorMetadata, types::ParameterType};

use crate::sdk::told;

/// How the record names the workloads, among the ids of stacks.
pub const WORKLOADS: &str = "workloads";

/// The parameter. It is written only while the environment's lock is held.
#[derive(Clone, Debug)]
pub struct Record {
    client: Client,
    name: String,
}

impl Record {
    /// Of the environment with that prefix.
    #[must_use]
    pub fn new(client: Client, prefix: &str) -> Self {
        Self { client, name: format!("/{prefix}/hotswapped") }
    }

    /// The parameter's name.
    #[must_use]
    pub fn parameter(&self) -> &str {
        &self.name
    }

    /// Whether the parameter is there: it is written for the first time when code is swapped.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn exists(&self) -> Result<bool> {
        Ok(self.text().await?.is_some())
    }

    /// The ids of the stacks whose functions may run other code than their stacks say, and [`WORKLOADS`] where these
    /// may run other code than was deployed.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn read(&self) -> Result<BTreeSet<String>> {
        // What this program did not write says nothing.
        Ok(self.text().await?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    async fn text(&self) -> Result<Option<String>> {
        match self.client.get_parameter().name(&self.name).send().await {
            Ok(answer) => {
                let value = answer.parameter().and_then(|parameter| parameter.value());
                Ok(Some(value.unwrap_or_default().to_owned()))
            }
            Err(error) if error.code() == Some("ParameterNotFound") => Ok(None),
            Err(error) => Err(told(error, &format!("cannot read {}, which names swapped stacks", self.name))),
        }
    }

    /// Writes down that these may run other code from now on.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn add(&self, swapped: impl IntoIterator<Item = String>) -> Result<()> {
        let mut recorded = self.read().await?;
        let before = recorded.len();
        recorded.extend(swapped);
        if recorded.len() == before { Ok(()) } else { self.write(&recorded).await }
    }

    /// Takes one out, which runs what was deployed again. Another stack may do the same beside this one: who is
    /// overwritten is written down once too long, and the next deployment finds it as it should be; nobody is taken
    /// out but by itself.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn take_out(&self, right: &str) -> Result<()> {
        let mut left = self.read().await?;
        if left.remove(right) { self.write(&left).await } else { Ok(()) }
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    async fn write(&self, stacks: &BTreeSet<String>) -> Result<()> {
        self.client
            .put_parameter()
            .name(&self.name)
            .r#type(ParameterType::String)
            .value(serde_json::to_string(stacks)?)
            .description(
                "Stacks whose functions got code by `cargo xtask deploy --hotswap` since they were deployed",
            )
            .overwrite(true)
            .send()
            .await
            .map(drop)
            .map_err(|error| told(error, &format!("cannot write {}, which names swapped stacks", self.name)))
    }
}
