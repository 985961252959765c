//! What exists, on the real local parts: drift is seen, resources come into a stack and leave it, alive. What the
//! emulator does not know, stack refactoring, against scripted answers.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_sdk_cloudformation::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
};
use axum::{Router, body::Bytes, extract::State, http::StatusCode};
use cfn::{
    Json,
    assembly::{Manifest, StackEntry},
};
use deploy_engine::{
    cloudformation::{CloudFormation, Target},
    living::{
        command::{Command, Scene},
        drift,
        import::{self, parse},
        orphan,
        refactor::{self, Place},
    },
    operation::{Operations, Sources},
    report::{Format, Reporter},
    stacks::Stacks,
};
use local_testing::Environment;
use serde_json::json;

const POLL: Duration = Duration::from_millis(50);

/// Calls a service by its query interface, as somebody would who goes behind CloudFormation's back.
fn call(endpoint: &str, service: &str, form: &[(&str, &str)]) -> String {
    let header = format!("AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/{service}/aws4_request");
    let mut answer =
        ureq::post(endpoint).header("authorization", header).send_form(form.iter().copied()).unwrap();
    answer.body_mut().read_to_string().unwrap()
}

fn client(endpoint: &str) -> Client {
    let config = aws_sdk_cloudformation::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(endpoint)
        .build();
    Client::from_conf(config)
}

fn entry(name: &str) -> StackEntry {
    serde_json::from_value(json!({
        "id": name, "name": name, "template": "", "template_sha256": "", "depends_on": [], "capabilities": [],
        "termination_protection": false, "tags": {}, "parameters": []
    }))
    .unwrap()
}

fn queue(name: &str, seconds: u32) -> Json {
    json!({ "Type": "AWS::SQS::Queue", "Metadata": { "floodgate:path": format!("{name}/Queue") },
        "Properties": { "QueueName": name, "VisibilityTimeout": seconds } })
}

async fn deploy(operations: &Operations<'_, Stacks>, entry: &StackEntry, template: &Json) {
    let create = operations.cloud.describe(&entry.name).await.unwrap().is_none();
    let target = Target {
        name: entry.name.clone(),
        template: template.clone(),
        template_url: None,
        parameters: BTreeMap::new(),
        tags: BTreeMap::new(),
        capabilities: Vec::new(),
        role_arn: None,
    };
    if operations.change_set(&target, create).await.unwrap().is_some() {
        operations.execute(&entry.name, template, &Sources::new()).await.unwrap();
    }
}

#[tokio::test]
async fn drift_is_seen_and_resources_come_and_go_alive() {
    let environment = Environment::new();
    environment.up();
    let endpoint = environment.endpoint_url().unwrap();
    let client = client(&endpoint);
    let stacks = Stacks::new(client.clone(), POLL);
    let reporter = Reporter::new(Format::Json);
    let operations = &Operations { cloud: &stacks, reporter: &reporter };
    let queues = entry("queues");
    let template = json!({ "Resources": { "Orders": queue("orders", 30), "Trades": queue("trades", 30) } });
    deploy(operations, &queues, &template).await;
    let detect = || drift::detect(&client, POLL, &queues, &template);
    assert_eq!(detect().await.unwrap(), [], "nothing has drifted yet");

    // Somebody changes a queue by hand.
    let url = call(&endpoint, "sqs", &[("Action", "GetQueueUrl"), ("QueueName", "orders")]);
    let url = url.split("<QueueUrl>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    call(
        &endpoint,
        "sqs",
        &[
            ("Action", "SetQueueAttributes"),
            ("QueueUrl", &url),
            ("Attribute.1.Name", "VisibilityTimeout"),
            ("Attribute.1.Value", "99"),
        ],
    );
    let drifted = detect().await.unwrap();
    assert_eq!(drifted.len(), 1, "{drifted:?}");
    assert_eq!(drifted[0].path, "orders/Queue");
    assert_eq!(drifted[0].differences[0].property, "/VisibilityTimeout");
    assert_eq!(drifted[0].differences[0].actual, "99");

    // The queue leaves its stack, alive, and can be taken in again.
    let without = json!({ "Resources": { "Trades": queue("trades", 30) } });
    orphan::run(operations, (&queues, None), &without, "Orders").await.unwrap();
    assert!(stacks.template("queues").await.unwrap()["Resources"].get("Orders").is_none());
    assert!(
        call(&endpoint, "sqs", &[("Action", "GetQueueUrl"), ("QueueName", "orders")]).contains(&url),
        "it is alive"
    );
    let again = orphan::run(operations, (&queues, None), &without, "Orders").await.unwrap_err();
    assert!(again.to_string().contains("no resource `Orders`"), "{again:#}");

    let claims = [parse(&format!("Orders=QueueUrl={url}")).unwrap()];
    import::run(&client, operations, (&queues, None), &template, &BTreeMap::new(), &claims).await.unwrap();
    let imported = stacks.template("queues").await.unwrap();
    assert_eq!(imported["Resources"]["Orders"]["DeletionPolicy"], "Retain");
    deploy(operations, &queues, &template).await;
    assert_eq!(stacks.template("queues").await.unwrap(), template, "the next deploy goes on from there");
    let drifted = detect().await.unwrap();
    assert_eq!(drifted.len(), 1, "what differs from the template was left and is told: {drifted:?}");

    let claims = [parse("Missing=QueueUrl=nowhere").unwrap()];
    let none = BTreeMap::new();
    let refused = import::run(&client, operations, (&queues, None), &template, &none, &claims);
    let error = refused.await.unwrap_err();
    assert!(error.to_string().contains("no resource `Missing`"), "{error:#}");
}

/// Answers of CloudFormation's query interface, by action, in order; and what was asked.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

/// An answer that begins with `!` is a refusal, `!CODE: MESSAGE`.
async fn answer(State(script): State<Script>, body: Bytes) -> (StatusCode, String) {
    let form = String::from_utf8(body.to_vec()).unwrap();
    let action = form.split("Action=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    script.asked.lock().unwrap().push(form);
    let mut answers = script.answers.lock().unwrap();
    let left = answers.get_mut(&action).unwrap_or_else(|| panic!("{action} was not expected"));
    // The last answer is given for ever.
    let body = if left.len() > 1 { left.remove(0) } else { left[0].clone() };
    if let Some((code, message)) = body.strip_prefix('!').and_then(|body| body.split_once(": ")) {
        let error =
            format!("<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>");
        return (StatusCode::FORBIDDEN, format!("<ErrorResponse>{error}</ErrorResponse>"));
    }
    let text = format!("<{action}Response><{action}Result>{body}</{action}Result></{action}Response>");
    (StatusCode::OK, text)
}

async fn scripted(answers: &[(&str, &[&str])]) -> (Client, Script) {
    let script = Script::default();
    for (action, bodies) in answers {
        let bodies = bodies.iter().map(|body| (*body).to_owned()).collect();
        script.answers.lock().unwrap().insert((*action).to_owned(), bodies);
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(script.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (client(&endpoint), script)
}

const TEMPLATE: &str =
    r#"<TemplateBody>{"Resources":{"Users":{"Type":"AWS::DynamoDB::Table"}}}</TemplateBody>"#;

fn place(stack: &str, logical_id: &str) -> Place {
    Place { stack: stack.to_owned(), logical_id: logical_id.to_owned() }
}

#[tokio::test]
async fn a_resource_moves_by_a_refactoring_that_is_followed_to_its_end() {
    let (client, script) = scripted(&[
        ("GetTemplate", &[TEMPLATE, r#"<TemplateBody>{"Resources":{}}</TemplateBody>"#]),
        ("CreateStackRefactor", &["<StackRefactorId>r-1</StackRefactorId>"]),
        (
            "DescribeStackRefactor",
            &[
                "<Status>CREATE_IN_PROGRESS</Status>",
                "<Status>CREATE_COMPLETE</Status><ExecutionStatus>AVAILABLE</ExecutionStatus>",
                "<Status>CREATE_COMPLETE</Status><ExecutionStatus>EXECUTE_IN_PROGRESS</ExecutionStatus>",
                "<Status>CREATE_COMPLETE</Status><ExecutionStatus>EXECUTE_COMPLETE</ExecutionStatus>",
            ],
        ),
        ("ExecuteStackRefactor", &[""]),
    ])
    .await;
    let stacks = Stacks::new(client.clone(), POLL);
    let reporter = Reporter::new(Format::Json);
    let (from, to) = (place("lessons", "Users"), place("tables", "UserTable"));
    refactor::run(&client, &Operations { cloud: &stacks, reporter: &reporter }, POLL, &from, &to)
        .await
        .unwrap();
    let asked = script.asked.lock().unwrap().clone();
    let count =
        |action: &str| asked.iter().filter(|form| form.contains(&format!("Action={action}&"))).count();
    assert_eq!(count("ExecuteStackRefactor"), 1, "it is executed once");
    let created = asked.iter().find(|form| form.contains("Action=CreateStackRefactor")).unwrap();
    for part in [
        "Source.StackName=lessons",
        "Destination.StackName=tables",
        "Destination.LogicalResourceId=UserTable",
    ] {
        assert!(created.contains(part), "{part} is not in {created}");
    }
}

#[tokio::test]
async fn a_refactoring_that_is_refused_changes_nothing_and_says_why() {
    let (client, script) = scripted(&[
        ("GetTemplate", &[TEMPLATE]),
        ("CreateStackRefactor", &["<StackRefactorId>r-1</StackRefactorId>"]),
        (
            "DescribeStackRefactor",
            &["<Status>CREATE_FAILED</Status><StatusReason>Stack Refactor does not support it</StatusReason>"],
        ),
    ])
    .await;
    let stacks = Stacks::new(client.clone(), POLL);
    let (from, to) = (place("lessons", "Users"), place("lessons", "UserTable"));
    let error = refactor::run(
        &client,
        &Operations { cloud: &stacks, reporter: &Reporter::new(Format::Json) },
        POLL,
        &from,
        &to,
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("does not support it"), "{error:#}");
    assert!(!script.asked.lock().unwrap().iter().any(|form| form.contains("ExecuteStackRefactor")));
}

#[tokio::test]
async fn a_move_without_the_rights_is_told_whose_it_is() {
    let (client, _) = scripted(&[
        ("GetTemplate", &[TEMPLATE]),
        (
            "CreateStackRefactor",
            &["!AccessDenied: not authorized to perform: cloudformation:CreateStackRefactor"],
        ),
    ])
    .await;
    let stacks = Stacks::new(client.clone(), POLL);
    let (from, to) = (place("lessons", "Users"), place("lessons", "UserTable"));
    let operations = Operations { cloud: &stacks, reporter: &Reporter::new(Format::Json) };
    let error = refactor::run(&client, &operations, POLL, &from, &to).await.unwrap_err().to_string();
    assert!(
        error.contains("not authorized") && error.contains("with an administrator's credentials"),
        "{error}"
    );
}

#[tokio::test]
async fn a_reverted_drift_is_a_change_set_that_heeds_drift() {
    let failed = "<Status>FAILED</Status><StatusReason>The submitted information didn't contain changes.</StatusReason>";
    let (client, script) = scripted(&[
        ("DescribeStacks", &["<Stacks><member><StackName>queues</StackName><StackStatus>CREATE_COMPLETE</StackStatus><CreationTime>2026-01-01T00:00:00Z</CreationTime></member></Stacks>"]),
        ("DeleteChangeSet", &[""]),
        ("CreateChangeSet", &["<Id>c</Id>"]),
        ("DescribeChangeSet", &[failed]),
    ])
    .await;
    let stacks = Stacks::new(client.clone(), POLL);
    let template = json!({ "Resources": {} });
    let error = drift::revert(
        &client,
        &Operations { cloud: &stacks, reporter: &Reporter::new(Format::Json) },
        (&entry("queues"), None),
        &template,
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("by hand"), "{error:#}");
    let asked = script.asked.lock().unwrap().clone();
    let created = asked.iter().find(|form| form.contains("Action=CreateChangeSet")).unwrap();
    assert!(
        created.contains("DeploymentMode=REVERT_DRIFT") && created.contains("UsePreviousTemplate=true"),
        "{created}"
    );
}

#[tokio::test]
async fn what_changes_a_stack_is_done_with_the_role_of_its_deployments() {
    let nothing = "<Status>FAILED</Status><StatusReason>The submitted information didn't contain changes.</StatusReason>";
    let stack = "<Stacks><member><StackName>fg-queues</StackName><StackStatus>CREATE_COMPLETE</StackStatus><CreationTime>2026-01-01T00:00:00Z</CreationTime><Outputs><member><OutputKey>ExecutionRoleArn</OutputKey><OutputValue>arn:aws:iam::1:role/execution</OutputValue></member></Outputs></member></Stacks>";
    let drifted = "<StackResourceDrifts><member><StackId>s</StackId><LogicalResourceId>Orders</LogicalResourceId><ResourceType>AWS::SQS::Queue</ResourceType><StackResourceDriftStatus>MODIFIED</StackResourceDriftStatus><Timestamp>2026-01-01T00:00:00Z</Timestamp></member></StackResourceDrifts>";
    let (client, script) = scripted(&[
        ("DescribeStacks", &[stack]),
        ("GetTemplate", &[r#"<TemplateBody>{"Resources":{"Orders":{"Type":"AWS::SQS::Queue"},"Trades":{"Type":"AWS::SQS::Queue"}}}</TemplateBody>"#]),
        ("DeleteChangeSet", &[""]),
        ("CreateChangeSet", &["<Id>c</Id>"]),
        ("DescribeChangeSet", &[nothing]),
        ("DetectStackDrift", &["<StackDriftDetectionId>d</StackDriftDetectionId>"]),
        ("DescribeStackDriftDetectionStatus", &["<StackId>s</StackId><StackDriftDetectionId>d</StackDriftDetectionId><DetectionStatus>DETECTION_COMPLETE</DetectionStatus><Timestamp>2026-01-01T00:00:00Z</Timestamp>"]),
        ("DescribeStackResourceDrifts", &[drifted]),
    ])
    .await;
    let directory = tempfile::tempdir().unwrap();
    let of = |id: &str| StackEntry {
        id: id.to_owned(),
        name: format!("fg-{id}"),
        template: format!("{id}.json"),
        ..entry(id)
    };
    let rendered =
        json!({ "Resources": { "Trades": { "Type": "AWS::SQS::Queue" }, "New": queue("new", 30) } });
    std::fs::write(directory.path().join("queues.json"), rendered.to_string()).unwrap();
    std::fs::write(directory.path().join("delivery.json"), rendered.to_string()).unwrap();
    let mut manifest: Manifest = serde_json::from_value(json!({
        "schema_version": 1, "environment": "dev", "provider": "aws", "account": "1", "region": "eu-west-1",
        "prefix": "fg", "digest": "", "stacks": [], "assets": [], "workloads": [], "cluster": null, "systems": {},
    }))
    .unwrap();
    manifest.stacks = vec![of("delivery"), of("queues")];
    let (stacks, reporter) = (Stacks::new(client.clone(), POLL), Reporter::new(Format::Json));
    let scene = Scene {
        assembly: directory.path(),
        manifest: &manifest,
        client: &client,
        operations: Operations { cloud: &stacks, reporter: &reporter },
        poll: POLL,
        json: true,
    };
    let change_sets = || {
        let mut asked = script.asked.lock().unwrap();
        let all: Vec<String> =
            asked.drain(..).filter(|form| form.contains("Action=CreateChangeSet")).collect();
        all
    };
    let claims = || vec![parse("New=QueueUrl=nowhere").unwrap()];
    let revert =
        |stack: &str| Command::Drift { stacks: vec![stack.to_owned()], revert: true, exit_code: false };
    let import = |stack: &str| Command::Import { stack: stack.to_owned(), claims: claims() };
    let orphan = |stack: &str| Command::Orphan { stack: stack.to_owned(), resource: "Orders".to_owned() };
    // Nothing changes, and that is no success but where a resource had left already: what counts is what is asked.
    for (command, kind) in
        [(import("queues"), "IMPORT"), (orphan("queues"), "UPDATE"), (revert("queues"), "UPDATE")]
    {
        let _ = scene.run(&command).await;
        let created = change_sets();
        assert!(!created.is_empty(), "{command:?}");
        for form in created {
            assert!(form.contains(&format!("ChangeSetType={kind}")), "{form}");
            assert!(
                form.contains("RoleARN=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fexecution"),
                "{command:?}: {form}"
            );
        }
    }
    // The stack that makes the role is changed without it.
    for command in [import("delivery"), orphan("delivery"), revert("delivery")] {
        let _ = scene.run(&command).await;
        let created = change_sets();
        assert!(!created.is_empty() && created.iter().all(|form| !form.contains("RoleARN")), "{created:?}");
    }
}
