//! CloudFormation, and others, as their wire protocols have it, with nothing of an SDK between.

use local_environment::process::wait_until;
use serde_json::Value as Json;

use super::PATIENCE;

/// The API of a local environment.
pub(crate) struct CloudFormation {
    endpoint: String,
    change_sets: std::cell::Cell<u32>,
}

impl CloudFormation {
    /// At an endpoint.
    #[must_use]
    pub(crate) fn at(endpoint: &str) -> Self {
        Self { endpoint: endpoint.to_owned(), change_sets: std::cell::Cell::new(0) }
    }

    /// One call; what it answers, errors included.
    #[must_use]
    pub(crate) fn call(&self, action: &str, parameters: &[(&str, &str)]) -> String {
        self.query("cloudformation", "2010-05-15", action, parameters)
    }

    /// One call of a service that speaks forms and XML; what it answers, errors included.
    #[must_use]
    pub(crate) fn query(
        &self,
        service: &str,
        version: &str,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> String {
        let mut form = vec![("Action", action), ("Version", version)];
        form.extend_from_slice(parameters);
        agent()
            .post(&self.endpoint)
            .header("Authorization", &authorization(service))
            .send_form(form)
            .unwrap()
            .body_mut()
            .read_to_string()
            .unwrap()
    }

    /// Brings a stack to a template by a change set; the status that it ends in.
    #[track_caller]
    #[must_use]
    pub(crate) fn deploy(&self, stack: &str, template: &Json) -> String {
        self.change_sets.set(self.change_sets.get() + 1);
        let change_set = format!("change-{}", self.change_sets.get());
        let kind = if self.status(stack).is_some() { "UPDATE" } else { "CREATE" };
        let answer = self.call(
            "CreateChangeSet",
            &[
                ("StackName", stack),
                ("ChangeSetName", &change_set),
                ("ChangeSetType", kind),
                ("Capabilities.member.1", "CAPABILITY_NAMED_IAM"),
                ("TemplateBody", &template.to_string()),
            ],
        );
        assert!(!answer.contains("<Error>"), "{answer}");
        let named = [("StackName", stack), ("ChangeSetName", change_set.as_str())];
        let mut described = String::new();
        let made = wait_until(PATIENCE, || {
            described = self.call("DescribeChangeSet", &named);
            between(&described, "Status").is_some_and(|status| status == "CREATE_COMPLETE")
        });
        assert!(made, "{described}");
        let answer = self.call("ExecuteChangeSet", &named);
        assert!(!answer.contains("<Error>"), "{answer}");
        self.settled(stack).unwrap_or_default()
    }

    /// The state of an alarm.
    #[must_use]
    pub(crate) fn alarm_state(&self, name: &str) -> Option<String> {
        let named = [("AlarmNames.member.1", name)];
        between(&self.query("monitoring", "2010-08-01", "DescribeAlarms", &named), "StateValue")
    }

    /// Deletes a stack and waits until it is gone.
    #[track_caller]
    pub(crate) fn delete(&self, stack: &str) {
        let answer = self.call("DeleteStack", &[("StackName", stack)]);
        assert!(!answer.contains("<Error>"), "{answer}");
        let end = self.settled(stack);
        assert!(end.as_deref().is_none_or(|status| status == "DELETE_COMPLETE"), "{end:?}");
    }

    /// A stack's status; `None` when there is none.
    #[must_use]
    pub(crate) fn status(&self, stack: &str) -> Option<String> {
        between(&self.call("DescribeStacks", &[("StackName", stack)]), "StackStatus")
    }

    /// The value of one of a stack's outputs.
    #[must_use]
    pub(crate) fn output(&self, stack: &str, name: &str) -> Option<String> {
        let answer = self.call("DescribeStacks", &[("StackName", stack)]);
        let found = answer
            .split("<member>")
            .find(|member| between(member, "OutputKey").is_some_and(|key| key == name))?;
        between(found, "OutputValue")
    }

    /// What happened to a stack, for a test that failed.
    #[must_use]
    pub(crate) fn reasons(&self, stack: &str) -> Vec<String> {
        let answer = self.call("DescribeStackEvents", &[("StackName", stack)]);
        answer.split("<member>").filter_map(|event| between(event, "ResourceStatusReason")).collect()
    }

    /// MSK's bootstrap brokers of a cluster, as JSON.
    #[must_use]
    pub(crate) fn bootstrap_brokers(&self, cluster_arn: &str) -> String {
        let arn = cluster_arn.replace(':', "%3A").replace('/', "%2F");
        agent()
            .get(format!("{}/v1/clusters/{arn}/bootstrap-brokers", self.endpoint))
            .header("Authorization", &authorization("kafka"))
            .call()
            .unwrap()
            .body_mut()
            .read_to_string()
            .unwrap()
    }

    /// A call of a service that speaks JSON; what it answers, errors included.
    #[must_use]
    pub(crate) fn json(&self, service: &str, target: &str, body: &Json) -> Json {
        let answer = agent()
            .post(&self.endpoint)
            .header("Authorization", &authorization(service))
            .header("Content-Type", "application/x-amz-json-1.1")
            .header("X-Amz-Target", target)
            .send(body.to_string())
            .unwrap()
            .body_mut()
            .read_to_string()
            .unwrap();
        serde_json::from_str(&answer).unwrap_or(Json::Null)
    }

    fn settled(&self, stack: &str) -> Option<String> {
        let mut status = None;
        wait_until(PATIENCE, || {
            status = self.status(stack);
            status.as_deref().is_none_or(|status| !status.ends_with("_IN_PROGRESS"))
        });
        status
    }
}

/// A client that takes errors for answers.
fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into()
}

/// The emulator looks at the service that a signature names, not at the signature.
pub(crate) fn authorization(service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )
}

/// The text of the first element of a name.
pub(crate) fn between(xml: &str, name: &str) -> Option<String> {
    let rest = xml.split_once(&format!("<{name}>"))?.1;
    Some(rest.split_once(&format!("</{name}>"))?.0.to_owned())
}
