//! Functions' logs, read from CloudWatch Logs.

use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_cloudwatchlogs::{Client, error::ProvideErrorMetadata};
use futures::future::try_join_all;

use super::{
    Print,
    sources::FunctionSource,
    tail::{Event, Tail},
};
use crate::{cloudformation::CloudFormation, sdk::told};

/// A function's log group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The log group's name.
    pub name: String,
    /// What its lines are shown with.
    pub label: String,
}

/// The log groups of functions, as Lambda tells them. A function that is not deployed is left out, and told.
///
/// # Errors
///
/// What the SDK says.
pub async fn groups(
    stacks: &impl CloudFormation,
    functions: &aws_sdk_lambda::Client,
    sources: &[FunctionSource<'_>],
) -> Result<Vec<Group>> {
    let mut found = Vec::new();
    for source in sources {
        let resources = match stacks.describe(&source.stack.name).await? {
            Some(_) => stacks.resources(&source.stack.name).await?,
            None => Vec::new(),
        };
        let Some(resource) = resources.into_iter().find(|resource| resource.logical_id == source.logical_id)
        else {
            eprintln!("{} is not deployed: the stack {} does not have it", source.asset, source.stack.name);
            continue;
        };
        let function = resource.physical_id;
        let answer = functions
            .get_function_configuration()
            .function_name(&function)
            .send()
            .await
            .map_err(|error| told(error, &format!("Lambda does not say where {function} logs to")))?;
        let own = answer.logging_config().and_then(|logging| logging.log_group());
        found.push(Group {
            name: own.map_or_else(|| format!("/aws/lambda/{function}"), str::to_owned),
            label: source.asset.clone(),
        });
    }
    Ok(found)
}

/// The filter pattern of lines with a text: the text itself, between quotes.
#[must_use]
pub fn pattern(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Shows what groups hold from a time on (in milliseconds since 1970), of lines with `filter` alone, and with `follow`
/// what comes, asking every so often, until whoever calls stops it. Lines come in the order of their time as far as one
/// look goes.
///
/// # Errors
///
/// What the SDK says, or that nobody reads.
pub async fn show(
    client: &Client,
    groups: &[Group],
    from_ms: i64,
    filter: Option<&str>,
    follow: Option<Duration>,
    print: Print<'_>,
) -> Result<()> {
    let pattern = filter.map(pattern);
    let mut tails: Vec<Tail> = groups.iter().map(|_| Tail::new(from_ms)).collect();
    loop {
        let looks =
            groups.iter().zip(&mut tails).map(|(group, tail)| look(client, group, tail, pattern.as_deref()));
        let mut fresh: Vec<(&Group, Event)> = Vec::new();
        for (group, events) in groups.iter().zip(try_join_all(looks).await?) {
            fresh.extend(events.into_iter().map(|event| (group, event)));
        }
        fresh.sort_by_key(|(_, event)| event.timestamp_ms);
        for (group, event) in fresh {
            print(&group.label, &event.message).context("nobody reads")?;
        }
        match follow {
            Some(every) => tokio::time::sleep(every).await,
            None => return Ok(()),
        }
    }
}

/// What a group has that was not shown, from all pages.
///
/// # Errors
///
/// What the SDK says. A group that is not there yet holds nothing.
pub async fn look(
    client: &Client,
    group: &Group,
    tail: &mut Tail,
    pattern: Option<&str>,
) -> Result<Vec<Event>> {
    let from_ms = tail.begin();
    let mut fresh = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let answer = client
            .filter_log_events()
            .log_group_name(&group.name)
            .start_time(from_ms)
            .set_filter_pattern(pattern.map(str::to_owned))
            .set_next_token(token.take())
            .send()
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            // Made when the function logs for the first time, unless its stack makes it.
            Err(error) if error.code() == Some("ResourceNotFoundException") => return Ok(fresh),
            Err(error) => return Err(told(error, &format!("the log group {} cannot be read", group.name))),
        };
        let page = answer.events().iter().map(|event| Event {
            timestamp_ms: event.timestamp().unwrap_or_default(),
            stream: event.log_stream_name().unwrap_or_default().to_owned(),
            id: event.event_id().unwrap_or_default().to_owned(),
            message: event.message().unwrap_or_default().to_owned(),
        });
        fresh.extend(tail.take(page.collect()));
        // A page may be empty and have another one after it.
        token = answer.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
        if token.is_none() {
            return Ok(fresh);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_term_of_a_pattern() {
        assert_eq!(pattern("a b"), "\"a b\"");
        assert_eq!(pattern(r#"{"level":"WARN"}"#), r#""{\"level\":\"WARN\"}""#);
        assert_eq!(pattern(r"\"), r#""\\""#);
    }
}
