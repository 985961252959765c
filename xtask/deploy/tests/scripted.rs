//! The SDK's side, against a CloudFormation that answers from a script: what no emulator does. Throttling, credentials
//! that run out in the middle, pages of events and changes, every status in which an operation can end badly.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_sdk_cloudformation::{
    Client,
    config::{BehaviorVersion, Config, Credentials, Region, retry::RetryConfig},
};
use axum::{Router, extract::State, http::StatusCode};
use cfn::Json;
use deploy_engine::{
    cloudformation::{CloudFormation, Target},
    operation::{Operations, Sources},
    report::{Format, Reporter},
    stacks::Stacks,
};
use serde_json::json;

/// Answers by action, in order; the last one stays.
#[derive(Default)]
struct Script {
    answers: BTreeMap<&'static str, VecDeque<(u16, String)>>,
    calls: Vec<String>,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<Script>>);

impl Server {
    /// Answers an action with the content of its result.
    fn says(&self, action: &'static str, results: &[&str]) {
        for result in results {
            let body =
                format!("<{action}Response><{action}Result>{result}</{action}Result></{action}Response>");
            self.answers(action, 200, body);
        }
    }

    fn refuses(&self, action: &'static str, times: usize, code: &str, message: &str) {
        for _ in 0..times {
            let error = format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
            );
            self.answers(action, 400, error);
        }
    }

    fn answers(&self, action: &'static str, status: u16, body: String) {
        self.0.lock().unwrap().answers.entry(action).or_default().push_back((status, body));
    }

    /// The requests of an action, as they came.
    fn calls(&self, action: &str) -> Vec<String> {
        let calls = &self.0.lock().unwrap().calls;
        calls.iter().filter(|call| call.contains(&format!("Action={action}&"))).cloned().collect()
    }

    async fn stacks(&self) -> Stacks {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let retries =
            RetryConfig::standard().with_max_attempts(8).with_initial_backoff(Duration::from_millis(5));
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .retry_config(retries)
            .endpoint_url(format!("http://{address}"))
            .build();
        Stacks::new(Client::from_conf(config), Duration::from_millis(1))
    }
}

async fn answer(State(server): State<Server>, body: String) -> (StatusCode, String) {
    let mut script = server.0.lock().unwrap();
    let action = body.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap_or_default().to_owned();
    script.calls.push(body);
    let Some(answers) = script.answers.get_mut(action.as_str()) else {
        return (StatusCode::OK, format!("<{action}Response><{action}Result/></{action}Response>"));
    };
    let (status, body) = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
    (StatusCode::from_u16(status).unwrap(), body)
}

fn stack(status: &str) -> String {
    format!(
        "<Stacks><member><StackName>fg</StackName><StackId>arn:fg</StackId><CreationTime>2026-01-01T00:00:00Z</CreationTime><StackStatus>{status}</StackStatus></member></Stacks>"
    )
}

fn event(number: usize, id: &str, kind: &str, status: &str, reason: &str) -> String {
    format!(
        "<member><StackId>arn:fg</StackId><StackName>fg</StackName><EventId>{number}</EventId><Timestamp>2026-01-01T00:00:00Z</Timestamp><LogicalResourceId>{id}</LogicalResourceId><ResourceType>{kind}</ResourceType><ResourceStatus>{status}</ResourceStatus><ResourceStatusReason>{reason}</ResourceStatusReason></member>"
    )
}

const STACK: &str = "AWS::CloudFormation::Stack";

fn events(newest_first: &[String], token: Option<&str>) -> String {
    let token = token.map(|token| format!("<NextToken>{token}</NextToken>")).unwrap_or_default();
    format!("<StackEvents>{}</StackEvents>{token}", newest_first.concat())
}

fn target() -> Target {
    Target {
        name: "fg".to_owned(),
        template: json!({ "Resources": {} }),
        template_url: None,
        parameters: BTreeMap::new(),
        tags: BTreeMap::new(),
        capabilities: Vec::new(),
        role_arn: Some("arn:aws:iam::1:role/execution".to_owned()),
    }
}

#[tokio::test]
async fn throttling_is_waited_out() {
    let server = Server::default();
    server.refuses("DescribeStacks", 5, "Throttling", "Rate exceeded");
    server.says("DescribeStacks", &[&stack("CREATE_COMPLETE")]);
    let stacks = server.stacks().await;
    assert_eq!(stacks.describe("fg").await.unwrap().unwrap().status, "CREATE_COMPLETE");
    assert_eq!(server.calls("DescribeStacks").len(), 6);
}

#[tokio::test]
async fn credentials_that_run_out_in_the_middle_are_told_with_the_way_on() {
    let server = Server::default();
    server.says("DescribeStackEvents", &[&events(&[], None)]);
    server.says("DescribeStacks", &[&stack("UPDATE_IN_PROGRESS"), &stack("UPDATE_IN_PROGRESS")]);
    server.refuses(
        "DescribeStacks",
        1,
        "ExpiredToken",
        "The security token included in the request is expired",
    );
    let stacks = server.stacks().await;
    let reporter = Reporter::new(Format::Json);
    let operations = Operations { cloud: &stacks, reporter: &reporter };
    let error = operations.execute("fg", &Json::Null, &Sources::new()).await.unwrap_err().to_string();
    for part in ["ExpiredToken", "log in again", "run the same command again", "CloudFormation goes on"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(server.calls("ExecuteChangeSet").len(), 1, "what was begun is not begun again");
}

#[tokio::test]
async fn throttling_in_the_middle_of_an_operation_begins_nothing_twice() {
    let server = Server::default();
    server.refuses("ExecuteChangeSet", 2, "Throttling", "Rate exceeded");
    server.says("ExecuteChangeSet", &[""]);
    server.says("DescribeStackEvents", &[&events(&[], None)]);
    server.refuses("DescribeStackEvents", 3, "ThrottlingException", "Rate exceeded");
    let end = [
        event(2, "fg", STACK, "CREATE_COMPLETE", ""),
        event(1, "fg", STACK, "CREATE_IN_PROGRESS", "User Initiated"),
    ];
    server.says("DescribeStackEvents", &[&events(&end, None)]);
    let stacks = server.stacks().await;
    let reporter = Reporter::new(Format::Json);
    let operations = Operations { cloud: &stacks, reporter: &reporter };
    operations.execute("fg", &Json::Null, &Sources::new()).await.unwrap();
    assert_eq!(server.calls("ExecuteChangeSet").len(), 3, "two were refused");
    assert_eq!(server.calls("DescribeStackEvents").len(), 5);
}

#[tokio::test]
async fn throttling_that_does_not_end_is_told() {
    let server = Server::default();
    server.refuses("DescribeStacks", 1, "Throttling", "Rate exceeded");
    let stacks = server.stacks().await;
    let error = stacks.describe("fg").await.unwrap_err().to_string();
    assert!(error.contains("cannot describe the stack fg: Rate exceeded (Throttling)"), "{error}");
    assert!(error.contains("--concurrency"), "{error}");
}

#[tokio::test]
async fn somebody_elses_operation_is_waited_for() {
    for during in ["CREATE", "UPDATE", "UPDATE_ROLLBACK", "DELETE", "IMPORT", "UPDATE_COMPLETE_CLEANUP"] {
        let server = Server::default();
        let busy = stack(&format!("{during}_IN_PROGRESS"));
        server.says("DescribeStacks", &[&busy, &busy, &stack("UPDATE_COMPLETE")]);
        let stacks = server.stacks().await;
        let reporter = Reporter::new(Format::Json);
        Operations { cloud: &stacks, reporter: &reporter }.at_rest("fg").await.unwrap();
        assert_eq!(server.calls("DescribeStacks").len(), 3, "{during}");
    }
    // Nobody works on a stack that waits for its first change set.
    let server = Server::default();
    server.says("DescribeStacks", &[&stack("REVIEW_IN_PROGRESS")]);
    let stacks = server.stacks().await;
    let reporter = Reporter::new(Format::Json);
    Operations { cloud: &stacks, reporter: &reporter }.at_rest("fg").await.unwrap();
    assert_eq!(server.calls("DescribeStacks").len(), 1);
}

#[tokio::test]
async fn what_failed_and_was_not_rolled_back_goes_back() {
    for (status, action, end) in [
        ("UPDATE_ROLLBACK_FAILED", "ContinueUpdateRollback", "UPDATE_ROLLBACK_COMPLETE"),
        ("UPDATE_FAILED", "RollbackStack", "UPDATE_ROLLBACK_COMPLETE"),
        ("CREATE_FAILED", "RollbackStack", "ROLLBACK_COMPLETE"),
    ] {
        let server = Server::default();
        server.says("DescribeStacks", &[&stack(status)]);
        let before = event(1, "fg", STACK, status, "");
        let after = [event(2, "fg", STACK, end, ""), before.clone()];
        server.says("DescribeStackEvents", &[&events(&[before], None), &events(&after, None)]);
        let stacks = server.stacks().await;
        let reporter = Reporter::new(Format::Json);
        let operations = Operations { cloud: &stacks, reporter: &reporter };
        operations.go_back("fg", &[], &Json::Null, &Sources::new(), None).await.unwrap();
        assert_eq!(server.calls(action).len(), 1, "{status}");
    }
    let server = Server::default();
    server.says("DescribeStacks", &[&stack("UPDATE_COMPLETE")]);
    let stacks = server.stacks().await;
    let reporter = Reporter::new(Format::Json);
    let operations = Operations { cloud: &stacks, reporter: &reporter };
    let error = operations.go_back("fg", &[], &Json::Null, &Sources::new(), None).await.unwrap_err();
    assert_eq!(error.to_string(), "the stack fg is UPDATE_COMPLETE: there is nothing to roll back");
}

#[tokio::test]
async fn events_come_from_all_pages_and_stop_at_what_was_seen() {
    let server = Server::default();
    let thing =
        |number: usize| event(number, &format!("R{number}"), "AWS::MSK::Topic", "CREATE_COMPLETE", "");
    server.says(
        "DescribeStackEvents",
        &[
            &events(&[thing(6), thing(5)], Some("two")),
            &events(&[thing(4), thing(3)], Some("three")),
            &events(&[thing(2), thing(1)], Some("never")),
        ],
    );
    let stacks = server.stacks().await;
    let seen = BTreeSet::from(["1".to_owned(), "2".to_owned()]);
    let found = stacks.new_events("fg", &seen).await.unwrap();
    let ids: Vec<&str> = found.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["3", "4", "5", "6"]);
    let calls = server.calls("DescribeStackEvents");
    assert_eq!(calls.len(), 3);
    assert!(calls[1].contains("NextToken=two") && calls[2].contains("NextToken=three"), "{calls:?}");
}

#[tokio::test]
async fn a_change_set_is_read_to_its_last_page_and_made_with_the_role() {
    let server = Server::default();
    let change = |id: &str, replacement: &str| {
        format!(
            "<member><Type>Resource</Type><ResourceChange><Action>Modify</Action><LogicalResourceId>{id}</LogicalResourceId><ResourceType>AWS::RDS::DBCluster</ResourceType><Replacement>{replacement}</Replacement></ResourceChange></member>"
        )
    };
    let page = |changes: &str, token: &str| {
        format!("<Status>CREATE_COMPLETE</Status><Changes>{changes}</Changes><NextToken>{token}</NextToken>")
    };
    server.says(
        "DescribeChangeSet",
        &[
            "<Status>CREATE_IN_PROGRESS</Status>",
            &page(&change("A", "False"), "more"),
            &page(&change("B", "True"), ""),
        ],
    );
    let stacks = server.stacks().await;
    let reporter = Reporter::new(Format::Json);
    let operations = Operations { cloud: &stacks, reporter: &reporter };
    let change_set = operations.change_set(&target(), false).await.unwrap().unwrap();
    let told: Vec<(&str, &str)> = change_set
        .changes
        .iter()
        .map(|change| (change.logical_id.as_str(), change.replacement.as_str()))
        .collect();
    assert_eq!(told, [("A", "False"), ("B", "True")]);
    assert!(server.calls("CreateChangeSet")[0].contains("RoleARN=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fexecution"));
}

#[tokio::test]
async fn a_change_set_without_changes_is_deleted_and_is_no_failure() {
    for reason in
        ["The submitted information didn&apos;t contain changes.", "No updates are to be performed."]
    {
        let server = Server::default();
        let failed = format!("<Status>FAILED</Status><StatusReason>{reason}</StatusReason>");
        server.says("DescribeChangeSet", &[&failed]);
        let stacks = server.stacks().await;
        let reporter = Reporter::new(Format::Json);
        let operations = Operations { cloud: &stacks, reporter: &reporter };
        assert!(operations.change_set(&target(), false).await.unwrap().is_none());
        assert_eq!(server.calls("DeleteChangeSet").len(), 2, "before and after");
    }
}

#[tokio::test]
async fn every_bad_end_names_the_resource_its_source_the_reason_and_what_to_do() {
    let template = json!({ "Resources": { "Bad": { "Metadata": { "floodgate:path": "kafka/Bad" } } } });
    let sources = Sources::from([("Bad".to_owned(), "stacks/platform/src/kafka.rs:42".to_owned())]);
    for (status, advice) in [
        ("ROLLBACK_COMPLETE", "the next deploy deletes and creates it"),
        ("ROLLBACK_FAILED", "the next deploy deletes and creates it"),
        ("CREATE_FAILED", "the next deploy deletes and creates it"),
        ("UPDATE_ROLLBACK_COMPLETE", "it is as it was before"),
        ("UPDATE_ROLLBACK_FAILED", "cargo xtask rollback --skip-resource"),
        ("UPDATE_FAILED", "deploy again"),
        ("DELETE_FAILED", "leaves behind"),
    ] {
        let server = Server::default();
        server.says("DescribeStacks", &[&stack(status)]);
        let happened = [
            event(4, "fg", STACK, status, ""),
            event(3, "Other", "AWS::MSK::Topic", "CREATE_FAILED", "Resource creation cancelled"),
            event(
                2,
                "Bad",
                "AWS::MSK::Topic",
                "CREATE_FAILED",
                "User is not authorized to perform kafka:CreateTopic",
            ),
            event(1, "fg", STACK, "UPDATE_IN_PROGRESS", "User Initiated"),
        ];
        server.says("DescribeStackEvents", &[&events(&[], None), &events(&happened, None)]);
        let stacks = server.stacks().await;
        let reporter = Reporter::new(Format::Json);
        let operations = Operations { cloud: &stacks, reporter: &reporter };
        let error = operations.execute("fg", &template, &sources).await.unwrap_err().to_string();
        for part in ["kafka/Bad", "kafka.rs:42", "not authorized", "bootstrap", status, advice] {
            assert!(error.contains(part), "{status}: {part}: {error}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_deleted_twice_is_left_behind_and_given_back() {
    let server = Server::default();
    server.says("DescribeStacks", &[&stack("DELETE_FAILED")]);
    let bucket = "<StackResourceSummaries><member><LogicalResourceId>Bucket</LogicalResourceId><PhysicalResourceId>fg-data</PhysicalResourceId><ResourceType>AWS::S3::Bucket</ResourceType><LastUpdatedTimestamp>2026-01-01T00:00:00Z</LastUpdatedTimestamp><ResourceStatus>DELETE_FAILED</ResourceStatus></member></StackResourceSummaries>";
    server.says("ListStackResources", &[bucket]);
    let first = [
        event(3, "fg", STACK, "DELETE_FAILED", ""),
        event(2, "Bucket", "AWS::S3::Bucket", "DELETE_FAILED", "The bucket is not empty"),
        event(1, "fg", STACK, "DELETE_IN_PROGRESS", ""),
    ];
    let second = [
        event(5, "fg", STACK, "DELETE_COMPLETE", ""),
        event(4, "fg", STACK, "DELETE_IN_PROGRESS", ""),
        event(3, "fg", STACK, "DELETE_FAILED", ""),
    ];
    server.says(
        "DescribeStackEvents",
        &[&events(&[], None), &events(&first, None), &events(&first, None), &events(&second, None)],
    );
    let stacks = server.stacks().await;
    let reporter = Reporter::new(Format::Json);
    let operations = Operations { cloud: &stacks, reporter: &reporter };
    let role = Some("arn:aws:iam::1:role/execution");
    let stays = operations.delete("fg", &Json::Null, &Sources::new(), role).await.unwrap();
    assert_eq!(stays.len(), 1);
    assert_eq!((stays[0].logical_id.as_str(), stays[0].physical_id.as_str()), ("Bucket", "fg-data"));
    let calls = server.calls("DeleteStack");
    assert!(!calls[0].contains("RetainResources"), "{calls:?}");
    assert!(calls[1].contains("RetainResources.member.1=Bucket"), "{calls:?}");
    let with_role =
        calls.iter().filter(|call| call.contains("RoleARN=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fexecution"));
    assert_eq!(with_role.count(), 2, "{calls:?}");
}

#[tokio::test]
async fn what_cloudformations_own_checks_find_is_told_with_construct_source_and_repair() {
    let finding = |path: &str, name: &str, mode: &str, status: &str, reason: &str| {
        format!(
            "<member><EventId>{name}{path}</EventId><StackId>arn:fg</StackId><EventType>VALIDATION_ERROR</EventType><ResourceType>AWS::S3::Bucket</ResourceType><ValidationFailureMode>{mode}</ValidationFailureMode><ValidationName>{name}</ValidationName><ValidationStatus>{status}</ValidationStatus><ValidationStatusReason>{reason}</ValidationStatusReason><ValidationPath>{path}</ValidationPath></member>"
        )
    };
    let other = "<member><EventId>0</EventId><EventType>STACK_EVENT</EventType></member>";
    let page = |members: &str, token: &str| {
        format!("<OperationEvents>{members}</OperationEvents><NextToken>{token}</NextToken>")
    };
    let template = json!({ "Resources": { "Store": { "Type": "AWS::S3::Bucket", "Metadata": { "floodgate:path": "delivery/Store" } } } });
    let target = Target { template, ..target() };
    let sources = Sources::from([("Store".to_owned(), "stacks/platform/src/delivery.rs:9".to_owned())]);
    let reporter = Reporter::new(Format::Json);

    let server = Server::default();
    server.says("DescribeChangeSet", &["<Status>FAILED</Status><StatusReason>The following hook(s)/validation failed: [AWS::EarlyValidation::ResourceExistenceCheck]. To troubleshoot Early Validation errors, use the DescribeEvents API for detailed failure information.</StatusReason>"]);
    let taken = finding(
        "/Resources/Store",
        "NAME_CONFLICT_VALIDATION",
        "FAIL",
        "FAILED",
        "Resource of type 'AWS::S3::Bucket' with identifier 'fg' already exists.",
    );
    let wrong = finding(
        "/Resources/Store/Properties/BucketName",
        "PROPERTY_VALIDATION",
        "FAIL",
        "FAILED",
        "#/BucketName: too short",
    );
    let skipped = finding("/Resources/Store", "OTHER", "FAIL", "SKIPPED", "not looked at");
    server.says(
        "DescribeEvents",
        &[&page(&format!("{other}{taken}"), "more"), &page(&format!("{wrong}{skipped}"), "")],
    );
    let stacks = server.stacks().await;
    let operations = Operations { cloud: &stacks, reporter: &reporter };
    let error = operations.checked_change_set(&target, true, &sources).await.unwrap_err().to_string();
    for part in [
        "for 2 things; nothing was touched",
        "delivery/Store (AWS::S3::Bucket):\n    Resource of type",
        "delivery/Store (AWS::S3::Bucket) Properties.BucketName:\n    #/BucketName: too short",
        "declared at stacks/platform/src/delivery.rs:9",
        "cargo xtask import",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("not looked at"), "{error}");
    let calls = server.calls("DescribeEvents");
    assert!(calls[0].contains("ChangeSetName=floodgate") && calls[0].contains("StackName=fg"), "{calls:?}");
    assert!(calls[1].contains("NextToken=more"), "{calls:?}");
    assert_eq!(server.calls("DeleteChangeSet").len(), 2, "before and after");

    // A warning keeps nothing from being executed, and who may not ask deploys as before.
    let server = Server::default();
    server.says("DescribeChangeSet", &["<Status>CREATE_COMPLETE</Status>"]);
    server.says(
        "DescribeEvents",
        &[&page(&taken.replace("<ValidationFailureMode>FAIL", "<ValidationFailureMode>WARN"), "")],
    );
    let stacks = server.stacks().await;
    let operations = Operations { cloud: &stacks, reporter: &reporter };
    assert!(operations.checked_change_set(&target, true, &sources).await.unwrap().is_some());
    let server = Server::default();
    server.says("DescribeChangeSet", &["<Status>CREATE_COMPLETE</Status>"]);
    server.refuses(
        "DescribeEvents",
        1,
        "AccessDenied",
        "not authorized to perform cloudformation:DescribeEvents",
    );
    let stacks = server.stacks().await;
    let operations = Operations { cloud: &stacks, reporter: &reporter };
    assert!(operations.checked_change_set(&target, true, &sources).await.unwrap().is_some());
}
