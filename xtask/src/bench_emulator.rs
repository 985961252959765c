//! The emulator's CloudFormation, asked by a bare client: what it takes by itself.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use cfn::{
    Json,
    assembly::{Manifest, StackEntry},
    to_canonical_bytes,
};
use regex::Regex;

/// How often a stack's status is asked for.
const POLL: Duration = Duration::from_millis(20);

/// How long a stack may take.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Stack id -> parameter -> value.
pub(crate) type Parameters = BTreeMap<String, BTreeMap<String, String>>;

/// CloudFormation at an endpoint that looks at no signature.
pub(crate) struct Emulator {
    endpoint_url: String,
    agent: ureq::Agent,
}

impl Emulator {
    pub(crate) fn new(endpoint_url: &str) -> Self {
        let agent = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).build().into();
        Self { endpoint_url: endpoint_url.to_owned(), agent }
    }

    fn call(&self, region: &str, action: &str, fields: &[(String, String)]) -> Result<String> {
        let named = [("Action", action), ("Version", "2010-05-15")];
        let named = named.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let form: Vec<(&str, &str)> =
            named.iter().chain(fields).map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=test/20260101/{region}/cloudformation/aws4_request, SignedHeaders=host, Signature=none"
        );
        let mut answer = self
            .agent
            .post(&self.endpoint_url)
            .header("Authorization", &authorization)
            .send_form(form)
            .with_context(|| format!("the emulator refuses {action}"))?;
        Ok(answer.body_mut().read_to_string()?)
    }

    /// The values with which the stacks of a manifest are deployed.
    pub(crate) fn parameters(&self, manifest: &Manifest) -> Result<Parameters> {
        let pair =
            Regex::new(r"<ParameterKey>([^<]*)</ParameterKey>\s*<ParameterValue>([^<]*)</ParameterValue>")?;
        let mut found = Parameters::new();
        for entry in &manifest.stacks {
            let fields = [("StackName".to_owned(), entry.name.clone())];
            let text = self.call(&manifest.region, "DescribeStacks", &fields)?;
            let pairs = pair.captures_iter(&text).map(|pair| (pair[1].to_owned(), plain(&pair[2])));
            found.insert(entry.id.clone(), pairs.collect());
        }
        Ok(found)
    }

    /// Creates all stacks at once and waits for the last.
    pub(crate) fn create_all(
        &self,
        region: &str,
        stacks: &[&StackEntry],
        templates: &BTreeMap<String, Json>,
        parameters: &Parameters,
    ) -> Result<Duration> {
        let begun = Instant::now();
        let outcomes: Vec<Result<()>> = thread::scope(|scope| {
            let running: Vec<_> = stacks
                .iter()
                .map(|entry| {
                    scope.spawn(|| {
                        let template = templates.get(&entry.id).context("a stack without a template")?;
                        let values = parameters.get(&entry.id).cloned().unwrap_or_default();
                        self.create(region, &entry.name, template, &values)
                    })
                })
                .collect();
            running
                .into_iter()
                .map(|one| one.join().unwrap_or_else(|_| bail!("a thread of the bare client ended")))
                .collect()
        });
        outcomes.into_iter().collect::<Result<()>>()?;
        Ok(begun.elapsed())
    }

    fn create(
        &self,
        region: &str,
        name: &str,
        template: &Json,
        values: &BTreeMap<String, String>,
    ) -> Result<()> {
        let mut fields = vec![
            ("StackName".to_owned(), name.to_owned()),
            ("TemplateBody".to_owned(), String::from_utf8(to_canonical_bytes(template))?),
            ("Capabilities.member.1".to_owned(), "CAPABILITY_NAMED_IAM".to_owned()),
        ];
        for (number, (key, value)) in values.iter().enumerate() {
            let field = |what: &str| format!("Parameters.member.{}.Parameter{what}", number + 1);
            fields.extend([(field("Key"), key.clone()), (field("Value"), value.clone())]);
        }
        self.call(region, "CreateStack", &fields)?;
        let status = Regex::new(r"<StackStatus>([A-Z_]*)</StackStatus>")?;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let text = self.call(region, "DescribeStacks", &fields[..1])?;
            match status.captures(&text).map(|found| found[1].to_owned()).as_deref() {
                Some("CREATE_COMPLETE") => return Ok(()),
                Some("CREATE_IN_PROGRESS") if Instant::now() < deadline => thread::sleep(POLL),
                other => bail!("the bare client's stack {name} is {other:?}"),
            }
        }
    }
}

/// XML's text as it was.
fn plain(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}
