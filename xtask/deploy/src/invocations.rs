//! Functions that a stack wants invoked once it is deployed, such as a database's migrations: before the code that
//! needs what they do. They are invoked on every deployment and find out by themselves what is left to do.

use anyhow::{Context, Result, bail};
use aws_sdk_lambda::{
    Client,
    primitives::Blob,
    types::{InvocationType, LogType},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cfn::{Json, assembly::StackEntry};

use crate::{
    report::Reporter,
    sdk::told,
    wiring::{Known, WiringError},
};

/// How many lines of a failed function's log are shown: its end says why.
const LOG_LINES: usize = 20;

/// Invokes what a stack names, one after the other.
///
/// # Errors
///
/// What a function says when it fails, with the end of its log.
pub async fn run(client: &Client, entry: &StackEntry, known: &Known, reporter: &Reporter) -> Result<()> {
    for invocation in &entry.invocations {
        let function =
            known.outputs.get(&entry.id).and_then(|outputs| outputs.get(&invocation.output)).with_context(
                || WiringError::NoOutput { stack: entry.id.clone(), output: invocation.output.clone() },
            )?;
        invoke(client, &entry.name, function, reporter).await?;
    }
    Ok(())
}

async fn invoke(client: &Client, stack: &str, function: &str, reporter: &Reporter) -> Result<()> {
    reporter.progress(stack, &format!("{stack}  invoking {function}"));
    let begun = reporter.elapsed();
    let answer = client
        .invoke()
        .function_name(function)
        .invocation_type(InvocationType::RequestResponse)
        .log_type(LogType::Tail)
        .payload(Blob::new("{}"))
        .send()
        .await
        .map_err(|error| told(error, &format!("the function {function} of {stack} cannot be invoked")))?;
    reporter.settle(stack);
    let payload = answer.payload().map(|blob| blob.as_ref()).unwrap_or_default();
    if let Some(kind) = answer.function_error() {
        bail!("{}", failure(stack, function, kind, payload, answer.log_result().unwrap_or_default()));
    }
    let seconds = (reporter.elapsed() - begun).as_secs_f64();
    let said = told_by(payload).map(|said| format!(": {said}")).unwrap_or_default();
    reporter.stack(stack, "invoked", &format!("{function} in {seconds:.1} s{said}"));
    Ok(())
}

/// What a function answered, when it is short enough to be told.
fn told_by(payload: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(payload).ok()?.trim();
    (!text.is_empty() && text != "null" && text != "{}" && text.len() <= 200).then(|| text.to_owned())
}

/// A failed invocation in words: the error that the function gave, and the end of its log.
fn failure(stack: &str, function: &str, kind: &str, payload: &[u8], log: &str) -> String {
    let error: Json = serde_json::from_slice(payload).unwrap_or_default();
    let message = error
        .get("errorMessage")
        .and_then(Json::as_str)
        .map_or_else(|| String::from_utf8_lossy(payload).into_owned(), str::to_owned);
    let kind = error.get("errorType").and_then(Json::as_str).unwrap_or(kind);
    let log = STANDARD.decode(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let end = &lines[lines.len().saturating_sub(LOG_LINES)..];
    let log = if end.is_empty() {
        "it logged nothing".to_owned()
    } else {
        format!("the end of its log:\n  {}", end.join("\n  "))
    };
    format!(
        "{stack} is deployed, but {function}, which is invoked after it, failed: {message} ({kind}). What depends on it was not deployed. Repair it and deploy again; {log}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_which_function_why_and_what_it_logged() {
        let log = STANDARD.encode((1..=30).map(|n| format!("line {n}\n")).collect::<String>());
        let payload = br#"{"errorType": "MigrationError", "errorMessage": "no such role"}"#;
        let text = failure("fg-ledger-database", "fg-migrate", "Unhandled", payload, &log);
        assert!(text.contains("fg-migrate") && text.contains("no such role (MigrationError)"), "{text}");
        assert!(
            text.ends_with("line 30") && text.contains("line 11") && !text.contains("line 10\n"),
            "{text}"
        );
        let text = failure("s", "f", "Unhandled", b"Task timed out", "");
        assert!(text.contains("Task timed out (Unhandled)") && text.contains("logged nothing"), "{text}");
    }

    #[test]
    fn an_answer_is_told_when_it_is_short() {
        assert_eq!(told_by(br#"{"applied":3}"#).as_deref(), Some(r#"{"applied":3}"#));
        assert_eq!(told_by(b"null"), None);
        assert_eq!(told_by("x".repeat(201).as_bytes()), None);
    }
}
