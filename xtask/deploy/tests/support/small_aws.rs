//! A small AWS on loopback: what the engine asks of it, and no more. Stacks come to be at once, what happens is
//! written down in one journal, and what is to fail is told beforehand. No emulator that we know has an EKS that
//! answers, brokers and drift, and fails when told to.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

use crate::kubernetes_api;

/// The account.
pub(crate) const ACCOUNT: &str = "111111111111";

/// A stack as it is.
#[derive(Clone, Default)]
pub(crate) struct Stack {
    pub(crate) status: String,
    pub(crate) template: Json,
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) protected: bool,
    /// (logical id, type, status, reason), the oldest first.
    events: Vec<[String; 4]>,
    /// Template and parameters of its change set.
    change_set: Option<(Json, BTreeMap<String, String>)>,
}

/// What AWS holds and what it is to do.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) stacks: BTreeMap<String, Stack>,
    /// Objects by `bucket/key`.
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
    /// Values and versions of parameters.
    pub(crate) parameters: BTreeMap<String, (String, i64)>,
    /// Where the cluster's API is; without it there is no cluster.
    pub(crate) cluster: Option<String>,
    /// Functions that fail.
    pub(crate) failing_functions: BTreeSet<String>,
    /// What event sources are, look after look; the last stays.
    pub(crate) event_sources: BTreeMap<String, VecDeque<String>>,
    /// Drifts as XML, by stack.
    pub(crate) drifts: BTreeMap<String, String>,
    /// Whether some resource cannot be read when drift is detected.
    pub(crate) unreadable: bool,
    /// Resources that cannot be deleted, as `stack/logical id`.
    pub(crate) undeletable: BTreeSet<String>,
    /// What the tagging API gives.
    pub(crate) tagged: Vec<String>,
    /// Revisions of helm's releases.
    pub(crate) releases: BTreeMap<String, Vec<Json>>,
    /// What `helm version` says.
    pub(crate) helm_version: String,
    /// The Kubernetes API that charts bring groups to.
    pub(crate) kubernetes: kubernetes_api::Shared,
    pub(crate) journal: Arc<Mutex<Vec<String>>>,
}

impl Held {
    fn note(&self, line: String) {
        self.journal.lock().unwrap().push(line);
    }
}

/// A small AWS.
#[derive(Clone, Default)]
pub(crate) struct SmallAws(Arc<Mutex<Held>>);

impl SmallAws {
    pub(crate) fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }

    /// Serves it and gives its address.
    pub(crate) async fn start(&self) -> String {
        let router = Router::new().fallback(answer).with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        format!("http://{address}")
    }
}

/// `helm` as a program: it asks the small AWS what to say. Written with Python, which the local parts need anyway.
pub(crate) const HELM: &str = r#"#!/usr/bin/env python3
import json, os, sys, urllib.request
said = {"arguments": sys.argv[1:], "kubeconfig": os.environ.get("KUBECONFIG", "")}
request = urllib.request.Request(os.environ["HELM_ANSWERS_AT"] + "/helm", json.dumps(said).encode())
answer = json.load(urllib.request.urlopen(request))
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["code"])
"#;

async fn answer(
    State(aws): State<SmallAws>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut held = aws.held();
    let path = uri.path();
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok());
    if let Some((_, action)) = target.and_then(|target| target.rsplit_once('.')) {
        return json_action(&mut held, action, &serde_json::from_slice(&body).unwrap());
    }
    match (method.as_str(), path) {
        ("POST", "/") => query_action(&mut held, &form(&String::from_utf8_lossy(&body))),
        ("POST", "/helm") => helm(&mut held, &serde_json::from_slice(&body).unwrap()),
        ("POST", "/service/GraniteServiceVersion20100801/operation/DescribeAlarms") => alarms(),
        ("POST", "/service/GraniteServiceVersion20100801/operation/DescribeAlarmHistory") => {
            binary(&json!({ "AlarmHistoryItems": [] }))
        }
        ("GET", path) if path.starts_with("/clusters/") => eks(&held, path),
        ("GET", path) if path.starts_with("/v1/clusters/") => kafka(path),
        (_, path) if path.starts_with("/v1/") => {
            held.note(format!("kafka {method} {path}"));
            StatusCode::FORBIDDEN.into_response()
        }
        (_, path) if path.starts_with("/2015-03-31/") => lambda(&mut held, path),
        _ => s3(&mut held, &method, &uri, &headers, &body),
    }
}

/// The fields of a form.
fn form(body: &str) -> BTreeMap<String, String> {
    body.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decoded(key), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn refusal(code: &str, message: &str) -> Response {
    let body = format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    );
    (StatusCode::BAD_REQUEST, body).into_response()
}

/// The values of `PREFIX.member.N.KEY` by those of `PREFIX.member.N.NAME`.
fn members(
    form: &BTreeMap<String, String>,
    prefix: &str,
    name: &str,
    value: &str,
) -> BTreeMap<String, String> {
    (1..)
        .map_while(|n| {
            let at = |field: &str| form.get(&format!("{prefix}.member.{n}.{field}")).cloned();
            Some((at(name)?, at(value).unwrap_or_default()))
        })
        .collect()
}

fn list(form: &BTreeMap<String, String>, prefix: &str) -> Vec<String> {
    (1..).map_while(|n| form.get(&format!("{prefix}.member.{n}")).cloned()).collect()
}

fn query_action(held: &mut Held, form: &BTreeMap<String, String>) -> Response {
    let action = form["Action"].as_str();
    let text = |key: &str| form.get(key).cloned().unwrap_or_default();
    // A stack is also named by its id, which goes on naming it when it is gone.
    let name = text("StackName").trim_start_matches("arn:stack/").to_owned();
    let role = form
        .get("RoleARN")
        .map(|role| format!(" as {}", role.rsplit('/').next().unwrap()))
        .unwrap_or_default();
    let absent = || refusal("ValidationError", &format!("Stack with id {name} does not exist"));
    let result = match action {
        "GetCallerIdentity" => {
            format!("<Arn>arn:aws:iam::{ACCOUNT}:user/test</Arn><UserId>u</UserId><Account>{ACCOUNT}</Account>")
        }
        "DescribeStacks" => {
            let shown: String = match name.as_str() {
                "" => held.stacks.iter().map(|(name, stack)| described(name, stack)).collect(),
                name => match held.stacks.get(name) {
                    Some(stack) => described(name, stack),
                    None => return absent(),
                },
            };
            format!("<Stacks>{shown}</Stacks>")
        }
        "GetTemplate" => match held.stacks.get(&name) {
            Some(stack) => format!("<TemplateBody>{}</TemplateBody>", escaped(&stack.template.to_string())),
            None => return absent(),
        },
        "CreateChangeSet" => {
            held.note(format!("cloudformation CreateChangeSet {name}{role}"));
            let parameters = members(form, "Parameters", "ParameterKey", "ParameterValue");
            let template = serde_json::from_str(&text("TemplateBody")).unwrap();
            let stack = held.stacks.entry(name).or_insert_with(|| Stack {
                status: "REVIEW_IN_PROGRESS".to_owned(),
                ..Stack::default()
            });
            stack.change_set = Some((template, parameters));
            String::new()
        }
        "DescribeChangeSet" => match held.stacks.get(&name).and_then(|stack| Some((stack, stack.change_set.as_ref()?))) {
            Some((stack, (template, parameters))) => {
                let changes = changes(&stack.template, template);
                if changes.is_empty() && *parameters == stack.parameters && stack.status != "REVIEW_IN_PROGRESS" {
                    "<Status>FAILED</Status><StatusReason>The submitted information didn&apos;t contain changes.</StatusReason>".to_owned()
                } else {
                    format!("<Status>CREATE_COMPLETE</Status><Changes>{changes}</Changes>")
                }
            }
            None => return refusal("ChangeSetNotFound", "there is none"),
        },
        "DeleteChangeSet" => {
            if let Some(stack) = held.stacks.get_mut(&name) {
                stack.change_set = None;
            }
            String::new()
        }
        "ExecuteChangeSet" => {
            held.note(format!("cloudformation ExecuteChangeSet {name}"));
            let Some(stack) = held.stacks.get_mut(&name) else { return absent() };
            let (template, parameters) = stack.change_set.take().unwrap();
            let verb = if stack.status == "REVIEW_IN_PROGRESS" { "CREATE" } else { "UPDATE" };
            (stack.template, stack.parameters) = (template, parameters);
            stack.status = format!("{verb}_COMPLETE");
            stack.event(&name, &format!("{verb}_IN_PROGRESS"));
            stack.event(&name, &format!("{verb}_COMPLETE"));
            String::new()
        }
        "DescribeStackEvents" => {
            let Some(stack) = held.stacks.get(&name) else { return absent() };
            let event = |(number, [id, kind, status, reason]): (usize, &[String; 4])| {
                format!(
                    "<member><StackId>arn:stack/{name}</StackId><StackName>{name}</StackName><EventId>{number}</EventId><Timestamp>2026-01-01T00:00:00Z</Timestamp><LogicalResourceId>{id}</LogicalResourceId><ResourceType>{kind}</ResourceType><ResourceStatus>{status}</ResourceStatus><ResourceStatusReason>{reason}</ResourceStatusReason></member>"
                )
            };
            let newest_first: String = stack.events.iter().enumerate().rev().map(event).collect();
            format!("<StackEvents>{newest_first}</StackEvents>")
        }
        "ListStackResources" => {
            let Some(stack) = held.stacks.get(&name) else { return absent() };
            let failed = stack.status == "DELETE_FAILED";
            let member = |(id, resource): (&String, &Json)| {
                let physical = resource.pointer("/Metadata/physical").and_then(Json::as_str).unwrap_or(id);
                let status = if failed && held.undeletable.contains(&format!("{name}/{id}")) { "DELETE_FAILED" } else { "CREATE_COMPLETE" };
                let kind = resource["Type"].as_str().unwrap();
                format!("<member><LogicalResourceId>{id}</LogicalResourceId><PhysicalResourceId>{physical}</PhysicalResourceId><ResourceType>{kind}</ResourceType><LastUpdatedTimestamp>2026-01-01T00:00:00Z</LastUpdatedTimestamp><ResourceStatus>{status}</ResourceStatus></member>")
            };
            let resources = stack.template.get("Resources").and_then(Json::as_object);
            let members: String = resources.into_iter().flatten().map(member).collect();
            format!("<StackResourceSummaries>{members}</StackResourceSummaries>")
        }
        "UpdateTerminationProtection" => {
            let Some(stack) = held.stacks.get_mut(&name) else { return absent() };
            stack.protected = text("EnableTerminationProtection") == "true";
            String::new()
        }
        "DeleteStack" => return delete(held, &name, &role, &list(form, "RetainResources")),
        "DetectStackDrift" => {
            held.note(format!("cloudformation DetectStackDrift {name}"));
            format!("<StackDriftDetectionId>{name}</StackDriftDetectionId>")
        }
        "DescribeStackDriftDetectionStatus" if held.unreadable => {
            "<StackId>s</StackId><StackDriftDetectionId>d</StackDriftDetectionId><DetectionStatus>DETECTION_FAILED</DetectionStatus><DetectionStatusReason>Failed to detect drift on resource [Topic]</DetectionStatusReason><Timestamp>2026-01-01T00:00:00Z</Timestamp>".to_owned()
        }
        "DescribeStackDriftDetectionStatus" => {
            "<StackId>s</StackId><StackDriftDetectionId>d</StackDriftDetectionId><DetectionStatus>DETECTION_COMPLETE</DetectionStatus><Timestamp>2026-01-01T00:00:00Z</Timestamp>".to_owned()
        }
        "DescribeStackResourceDrifts" => {
            format!("<StackResourceDrifts>{}</StackResourceDrifts>", held.drifts.get(&name).cloned().unwrap_or_default())
        }
        other => return refusal("InvalidAction", other),
    };
    format!("<{action}Response><{action}Result>{result}</{action}Result></{action}Response>").into_response()
}

impl Stack {
    fn event(&mut self, name: &str, status: &str) {
        let kind = "AWS::CloudFormation::Stack".to_owned();
        self.events.push([name.to_owned(), kind, status.to_owned(), String::new()]);
    }
}

fn delete(held: &mut Held, name: &str, role: &str, retain: &[String]) -> Response {
    let without = if retain.is_empty() { String::new() } else { format!(" without {}", retain.join(",")) };
    held.note(format!("cloudformation DeleteStack {name}{role}{without}"));
    let done = "<DeleteStackResponse><DeleteStackResult/></DeleteStackResponse>".into_response();
    let Some(stack) = held.stacks.get_mut(name) else { return done };
    if stack.protected {
        return refusal("ValidationError", "Stack cannot be deleted while TerminationProtection is enabled");
    }
    let resources = stack.template.get("Resources").and_then(Json::as_object).cloned().unwrap_or_default();
    let is_protected = |id: &String| resources[id]["Properties"]["DeletionProtection"] == true;
    let stays = |id: &String| {
        (held.undeletable.contains(&format!("{name}/{id}")) || is_protected(id)) && !retain.contains(id)
    };
    let stuck: Vec<&String> = resources.keys().filter(|id| stays(id)).collect();
    if stuck.is_empty() {
        held.stacks.remove(name);
        return done;
    }
    stack.status = "DELETE_FAILED".to_owned();
    stack.event(name, "DELETE_IN_PROGRESS");
    for id in stuck {
        let kind = resources[id]["Type"].as_str().unwrap().to_owned();
        let reason = "The bucket you tried to delete is not empty".to_owned();
        stack.events.push([id.clone(), kind, "DELETE_FAILED".to_owned(), reason]);
    }
    stack.event(name, "DELETE_FAILED");
    done
}

fn described(name: &str, stack: &Stack) -> String {
    let member = |key: &str, value: &str, (name, text): (&String, String)| {
        format!("<member><{key}>{name}</{key}><{value}>{}</{value}></member>", escaped(&text))
    };
    let parameters: String = stack
        .parameters
        .iter()
        .map(|(name, value)| member("ParameterKey", "ParameterValue", (name, value.clone())))
        .collect();
    let outputs: String = stack
        .template
        .get("Outputs")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
        .map(|(name, output)| {
            member("OutputKey", "OutputValue", (name, output["Value"].as_str().unwrap().to_owned()))
        })
        .collect();
    let tags: String =
        stack.tags.iter().map(|(name, value)| member("Key", "Value", (name, value.clone()))).collect();
    format!(
        "<member><StackName>{name}</StackName><StackId>arn:stack/{name}</StackId><CreationTime>2026-01-01T00:00:00Z</CreationTime><StackStatus>{}</StackStatus><EnableTerminationProtection>{}</EnableTerminationProtection><Parameters>{parameters}</Parameters><Outputs>{outputs}</Outputs><Tags>{tags}</Tags></member>",
        stack.status, stack.protected
    )
}

fn changes(old: &Json, new: &Json) -> String {
    let resources =
        |template: &Json| template.get("Resources").and_then(Json::as_object).cloned().unwrap_or_default();
    let (old, new) = (resources(old), resources(new));
    let ids: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    ids.into_iter()
        .filter_map(|id| {
            let (action, one) = match (old.get(id), new.get(id)) {
                (None, Some(one)) => ("Add", one),
                (Some(one), None) => ("Remove", one),
                (Some(one), Some(other)) if one != other => ("Modify", other),
                _ => return None,
            };
            let kind = one["Type"].as_str().unwrap();
            Some(format!("<member><Type>Resource</Type><ResourceChange><Action>{action}</Action><LogicalResourceId>{id}</LogicalResourceId><ResourceType>{kind}</ResourceType><Replacement>False</Replacement></ResourceChange></member>"))
        })
        .collect()
}

fn json_action(held: &mut Held, action: &str, asked: &Json) -> Response {
    let refused =
        |code: &str| (StatusCode::BAD_REQUEST, json!({ "__type": code }).to_string()).into_response();
    let answer = match action {
        "GetAuthorizationToken" => {
            json!({ "authorizationData": [{ "authorizationToken": STANDARD.encode("AWS:secret") }] })
        }
        "GetParameter" => match held.parameters.get(asked["Name"].as_str().unwrap()) {
            Some((value, version)) => json!({ "Parameter": { "Value": value, "Version": version } }),
            None => return refused("ParameterNotFound"),
        },
        "PutParameter" => {
            let name = asked["Name"].as_str().unwrap().to_owned();
            let version = held.parameters.get(&name).map_or(1, |(_, version)| version + 1);
            held.parameters.insert(name, (asked["Value"].as_str().unwrap().to_owned(), version));
            json!({ "Version": version })
        }
        "GetResources" => {
            held.note(format!("tagging GetResources {}", asked["TagFilters"][0]["Key"].as_str().unwrap()));
            let list: Vec<Json> =
                held.tagged.iter().map(|arn| json!({ "ResourceARN": arn, "Tags": [] })).collect();
            json!({ "ResourceTagMappingList": list, "PaginationToken": "" })
        }
        other => return refused(other),
    };
    answer.to_string().into_response()
}

fn eks(held: &Held, path: &str) -> Response {
    match &held.cluster {
        Some(endpoint) => {
            json!({ "cluster": { "name": path.trim_start_matches("/clusters/"), "status": "ACTIVE",
            "endpoint": endpoint, "certificateAuthority": { "data": "" } } })
            .to_string()
            .into_response()
        }
        None => {
            let headers = [("x-amzn-errortype", "ResourceNotFoundException")];
            (StatusCode::NOT_FOUND, headers, json!({ "message": "No cluster found" }).to_string())
                .into_response()
        }
    }
}

fn kafka(path: &str) -> Response {
    let broker = |n: u32| json!({ "nodeType": "BROKER", "brokerNodeInfo": { "brokerId": n, "endpoints": [format!("b-{n}.fg.example.com")] } });
    let answer = if path.ends_with("/bootstrap-brokers") {
        json!({ "bootstrapBrokerStringSaslIam": "b-1.fg.example.com:9098,b-2.fg.example.com:9098" })
    } else {
        let controller = json!({ "nodeType": "CONTROLLER", "controllerNodeInfo": { "endpoints": ["c-1.fg.example.com"] } });
        json!({ "nodeInfoList": [controller, broker(1), broker(2)] })
    };
    answer.to_string().into_response()
}

fn lambda(held: &mut Held, path: &str) -> Response {
    if let Some(id) = path.strip_prefix("/2015-03-31/event-source-mappings/") {
        let Some(states) = held.event_sources.get_mut(id) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let state = if states.len() > 1 { states.pop_front().unwrap() } else { states[0].clone() };
        let function = format!("arn:aws:lambda:eu-west-1:{ACCOUNT}:function:fg-dev-writer");
        return json!({ "UUID": id, "FunctionArn": function, "State": state, "LastProcessingResult": "OK" })
            .to_string()
            .into_response();
    }
    let function = path.split('/').nth(3).unwrap().to_owned();
    if path.ends_with("/configuration") {
        return json!({ "FunctionName": function, "CodeSha256": "another" }).to_string().into_response();
    }
    held.note(format!("lambda invoke {function}"));
    if held.failing_functions.contains(&function) {
        let body = json!({ "errorType": "MigrationError", "errorMessage": "no such role" }).to_string();
        return ([("x-amz-function-error", "Unhandled")], body).into_response();
    }
    "null".into_response()
}

/// Objects by path; listings, and deletions of several at a time.
fn s3(held: &mut Held, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Response {
    let path = uri.path().trim_matches('/').to_owned();
    let query = uri.query().unwrap_or_default();
    let starts = format!("{path}/");
    let below = |held: &Held| -> Vec<String> {
        held.objects.keys().filter_map(|name| Some(name.strip_prefix(&starts)?.to_owned())).collect()
    };
    match method.as_str() {
        "GET" if query.contains("versions") => {
            let versions: String = below(held)
                .iter()
                .map(|key| format!("<Version><Key>{key}</Key><VersionId>v1</VersionId><IsLatest>true</IsLatest></Version>"))
                .collect();
            format!("<ListVersionsResult><IsTruncated>false</IsTruncated>{versions}</ListVersionsResult>")
                .into_response()
        }
        "GET" if query.contains("list-type=2") => {
            let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or_default();
            let prefix = prefix.replace("%2F", "/");
            let found: String = below(held)
                .iter()
                .filter(|key| key.starts_with(&prefix))
                .map(|key| format!("<Contents><Key>{key}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"))
                .collect();
            format!("<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>")
                .into_response()
        }
        "POST" if query.contains("delete") => {
            let text = String::from_utf8_lossy(body).into_owned();
            for key in text.split("<Key>").skip(1).filter_map(|rest| rest.split_once('<')) {
                held.objects.remove(&format!("{path}/{}", key.0));
            }
            held.note(format!("s3 empty {path}"));
            if below(held).is_empty() {
                held.undeletable.clear();
            }
            "<DeleteResult></DeleteResult>".into_response()
        }
        "PUT" => {
            let chunked = headers.contains_key("x-amz-decoded-content-length");
            let object = if chunked { joined(body) } else { body.to_vec() };
            let what = if path.contains("/releases/") { "record" } else { "put" };
            held.note(format!("s3 {what} {path}"));
            held.objects.insert(path, object);
            StatusCode::OK.into_response()
        }
        _ => match held.objects.get(&path) {
            Some(bytes) => bytes.clone().into_response(),
            None => (StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>").into_response(),
        },
    }
}

/// A body that came in chunks, each with its length in hexadecimal on a line before it; after the last come trailers.
fn joined(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").unwrap();
        let head = std::str::from_utf8(&body[..end]).unwrap();
        let length = usize::from_str_radix(head.split(';').next().unwrap(), 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.extend(&body[end + 2..end + 2 + length]);
        body = &body[end + 4 + length..];
    }
}

/// One alarm that is quiet, in the binary form that CloudWatch speaks.
fn alarms() -> Response {
    let alarm = json!({ "AlarmName": "lag", "StateValue": "OK", "StateReason": "r", "AlarmActions": ["arn:aws:sns:eu-west-1:1:alarms"] });
    binary(&json!({ "MetricAlarms": [alarm], "CompositeAlarms": [] }))
}

fn binary(answer: &Json) -> Response {
    let mut bytes = Vec::new();
    cbor(&mut bytes, answer);
    ([("content-type", "application/cbor"), ("smithy-protocol", "rpc-v2-cbor")], bytes).into_response()
}

/// Maps, lists and texts of fewer than 24 items, or of fewer than 256 bytes (RFC 8949).
fn cbor(out: &mut Vec<u8>, json: &Json) {
    let head = |out: &mut Vec<u8>, kind: u8, length: usize| match u8::try_from(length).unwrap() {
        short @ 0..24 => out.push(kind << 5 | short),
        long => out.extend([kind << 5 | 24, long]),
    };
    match json {
        Json::String(text) => {
            head(out, 3, text.len());
            out.extend(text.bytes());
        }
        Json::Array(items) => {
            head(out, 4, items.len());
            items.iter().for_each(|item| cbor(out, item));
        }
        Json::Object(fields) => {
            head(out, 5, fields.len());
            for (key, value) in fields {
                cbor(out, &Json::String(key.clone()));
                cbor(out, value);
            }
        }
        other => panic!("{other} is not needed"),
    }
}

fn helm(held: &mut Held, said: &Json) -> Response {
    let arguments: Vec<&str> =
        said["arguments"].as_array().unwrap().iter().filter_map(Json::as_str).collect();
    let after =
        |flag: &str| arguments.iter().position(|one| *one == flag).and_then(|at| arguments.get(at + 1));
    let says = |out: &str| json!({ "code": 0, "out": out, "err": "" });
    let answer = match arguments[0] {
        "version" => says(&held.helm_version),
        "repo" => says(r#"[{"name": "kedacore"}]"#),
        "history" => match held.releases.get(arguments[1]) {
            Some(revisions) => says(&json!(revisions).to_string()),
            None => json!({ "code": 1, "out": "", "err": "Error: release: not found" }),
        },
        "upgrade" => {
            let (name, kubeconfig) = (arguments[2].to_owned(), said["kubeconfig"].as_str().unwrap());
            assert!(std::fs::read_to_string(kubeconfig).unwrap().contains("kubernetes-token"));
            held.note(format!("helm upgrade {name}"));
            let revisions = held.releases.entry(name).or_default();
            let number = revisions.len() + 1;
            revisions.push(
                json!({ "revision": number, "status": "deployed", "description": after("--description") }),
            );
            held.kubernetes.lock().unwrap().groups.insert("keda.sh/v1alpha1".to_owned());
            says("")
        }
        "uninstall" => {
            held.note(format!("helm uninstall {}", arguments[1]));
            held.releases.remove(arguments[1]);
            held.kubernetes.lock().unwrap().groups.clear();
            says("")
        }
        other => json!({ "code": 1, "out": "", "err": format!("unknown command {other}") }),
    };
    answer.to_string().into_response()
}
