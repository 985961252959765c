//! Which stacks have functions that were swapped, in a parameter of the environment itself: until a proper deploy has
//! looked at them, nobody can tell from the stacks what they run. A deploy cannot find that out from the stacks either:
//! code that was swapped and then taken back has the key in its parameter that the next deploy gives it.

use std::collections::BTreeSet;

use anyhow::Result;
use aws_sdk_ssm::{Client, error::ProvideErrorMetadata, types::ParameterType};

use crate::sdk::told;

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

    /// The ids of the stacks whose functions may run other code than their stacks say.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn read(&self) -> Result<BTreeSet<String>> {
        match self.client.get_parameter().name(&self.name).send().await {
            Ok(answer) => {
                let text = answer.parameter().and_then(|parameter| parameter.value()).unwrap_or_default();
                // What this program did not write says nothing.
                Ok(serde_json::from_str(text).unwrap_or_default())
            }
            Err(error) if error.code() == Some("ParameterNotFound") => Ok(BTreeSet::new()),
            Err(error) => Err(told(error, &format!("cannot read {}, which names swapped stacks", self.name))),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// What the SDK says.
    pub async fn write(&self, stacks: &BTreeSet<String>) -> Result<()> {
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
