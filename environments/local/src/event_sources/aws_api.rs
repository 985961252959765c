//! The AWS APIs that the runner calls, over the emulator's HTTP.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

use super::failure_record::Failure;

/// The longest that a function may run (Lambda quotas), and some time to answer.
const INVOCATION_TIMEOUT: Duration = Duration::from_secs(15 * 60 + 30);

const TIMEOUT: Duration = Duration::from_secs(15);

/// The largest answer: `GetRecords` gives 10 MB, which base64 makes a third larger.
const ANSWER_BYTES: u64 = 64 * 1024 * 1024;

/// What became of an invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invoked {
    /// The function answered.
    Answered {
        /// What it said.
        body: Vec<u8>,
        /// The invocation, should what it said be a failure.
        context: Failure,
    },
    /// The function failed: an error, a time-out, its process ended.
    Failed(Failure),
    /// There was no room for it; it counts as no attempt.
    Throttled,
    /// The service did not take it; it counts as no attempt.
    Unavailable(String),
}

/// An answer of `GetRecords`.
#[derive(Clone, Debug, Default)]
pub struct StreamRecords {
    /// As they were answered.
    pub records: Vec<Json>,
    /// Where to go on; `None` at the end of a closed shard.
    pub next_iterator: Option<String>,
}

/// Why a stream could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// The iterator has expired.
    Expired,
    /// The stream or shard is not there.
    NotFound,
    /// Too much was asked for; it may be asked again later.
    Throttled,
    /// Anything else.
    Other(String),
}

/// Calls the APIs behind an endpoint, as the account's own user would.
#[derive(Clone, Debug)]
pub struct AwsApi {
    endpoint: String,
    agent: ureq::Agent,
}

struct Answer {
    status: u16,
    headers: ureq::http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    }

    fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        format!("{} {}", self.status, text.chars().take(300).collect::<String>())
    }
}

impl AwsApi {
    /// At an endpoint.
    #[must_use]
    pub fn new(endpoint: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(3)))
            .max_idle_connections_per_host(32)
            .build()
            .into();
        Self { endpoint: endpoint.to_owned(), agent }
    }

    /// Every mapping of an MSK cluster or a Kinesis stream, in every region.
    ///
    /// # Errors
    ///
    /// When the emulator does not answer.
    pub fn mappings(&self) -> Result<Vec<Json>> {
        let url = format!("{}/2015-03-31/event-source-mappings/?EveryRegion=true", self.endpoint);
        let answer = self.get(&url, "us-east-1", "lambda")?;
        let listed: Json = serde_json::from_slice(&answer.body).context("the list of mappings is no JSON")?;
        match listed.get("EventSourceMappings") {
            Some(Json::Array(mappings)) if answer.status == 200 => Ok(mappings.clone()),
            _ => bail!("the mappings cannot be listed: {}", answer.said()),
        }
    }

    /// The role that a function runs as.
    ///
    /// # Errors
    ///
    /// When the emulator does not answer or does not know the function.
    pub fn role_of(&self, function_arn: &str, region: &str) -> Result<String> {
        let url = format!("{}/2015-03-31/functions/{function_arn}/configuration", self.endpoint);
        let answer = self.get(&url, region, "lambda")?;
        let configuration: Json = serde_json::from_slice(&answer.body)?;
        let role = configuration.get("Role").and_then(Json::as_str);
        role.map(str::to_owned).with_context(|| format!("{function_arn}: {}", answer.said()))
    }

    /// Invokes a function and waits for its end.
    #[must_use]
    pub fn invoke(&self, function_arn: &str, region: &str, event: &str) -> Invoked {
        let url = format!("{}/2015-03-31/functions/{function_arn}/invocations", self.endpoint);
        let sent = self
            .agent
            .post(&url)
            .config()
            .timeout_global(Some(INVOCATION_TIMEOUT))
            .build()
            .header("Authorization", authorization(region, "lambda"))
            .header("X-Amz-Invocation-Type", "RequestResponse")
            .content_type("application/json")
            .send(event);
        let answer = match sent.map_err(anyhow::Error::from).and_then(read) {
            Ok(answer) => answer,
            Err(error) => return Invoked::Unavailable(error.to_string()),
        };
        let context = |function_error: Option<String>| Failure {
            request_id: answer.header("x-amzn-requestid").unwrap_or_else(|| uuid::Uuid::now_v7().to_string()),
            executed_version: answer.header("x-amz-executed-version").unwrap_or_else(|| "$LATEST".to_owned()),
            function_error,
        };
        match (answer.status, answer.header("x-amz-function-error")) {
            (200, None) => Invoked::Answered { context: context(None), body: answer.body },
            (200, error) => Invoked::Failed(context(error)),
            // What is too large today is too large tomorrow: a failure of the batch, so that it is split.
            (413, _) => Invoked::Failed(context(Some("RequestTooLarge".to_owned()))),
            (429, _) => Invoked::Throttled,
            _ => Invoked::Unavailable(answer.said()),
        }
    }

    /// The shards of a stream, those that are closed among them.
    ///
    /// # Errors
    ///
    /// What the emulator says.
    pub fn shards(&self, stream: &str, region: &str) -> Result<Vec<Json>, StreamError> {
        let mut shards = Vec::new();
        let mut ask = json!({ "StreamName": stream });
        loop {
            let mut answer = self.kinesis("ListShards", region, &ask)?;
            if let Some(Json::Array(page)) = answer.get_mut("Shards") {
                shards.append(page);
            }
            match answer.get("NextToken") {
                Some(token @ Json::String(_)) => ask = json!({ "NextToken": token, "StreamName": stream }),
                _ => return Ok(shards),
            }
        }
    }

    /// An iterator; `from` holds `ShardIteratorType` and what belongs to it.
    ///
    /// # Errors
    ///
    /// What the emulator says.
    pub fn iterator(
        &self,
        stream: &str,
        shard: &str,
        region: &str,
        mut from: Json,
    ) -> Result<String, StreamError> {
        from["StreamName"] = stream.into();
        from["ShardId"] = shard.into();
        let answer = self.kinesis("GetShardIterator", region, &from)?;
        let iterator = answer.get("ShardIterator").and_then(Json::as_str);
        iterator.map(str::to_owned).ok_or_else(|| StreamError::Other("no iterator".to_owned()))
    }

    /// The records at an iterator.
    ///
    /// # Errors
    ///
    /// What the emulator says.
    pub fn records(&self, iterator: &str, limit: usize, region: &str) -> Result<StreamRecords, StreamError> {
        let ask = json!({ "ShardIterator": iterator, "Limit": limit });
        let mut answer = self.kinesis("GetRecords", region, &ask)?;
        let records = match answer.get_mut("Records") {
            Some(Json::Array(records)) => std::mem::take(records),
            _ => Vec::new(),
        };
        let next_iterator = answer.get("NextShardIterator").and_then(Json::as_str).map(str::to_owned);
        Ok(StreamRecords { records, next_iterator })
    }

    fn kinesis(&self, operation: &str, region: &str, ask: &Json) -> Result<Json, StreamError> {
        let target = format!("Kinesis_20131202.{operation}");
        let answer = self
            .json(&target, "application/x-amz-json-1.1", region, "kinesis", ask)
            .map_err(|error| StreamError::Other(error.to_string()))?;
        let body: Json = serde_json::from_slice(&answer.body).unwrap_or(Json::Null);
        if answer.status == 200 {
            return Ok(body);
        }
        let kind = body.get("__type").and_then(Json::as_str).unwrap_or_default();
        Err(match kind.rsplit('#').next().unwrap_or_default() {
            "ExpiredIteratorException" => StreamError::Expired,
            "ResourceNotFoundException" => StreamError::NotFound,
            "ProvisionedThroughputExceededException" | "LimitExceededException" => StreamError::Throttled,
            _ => StreamError::Other(answer.said()),
        })
    }

    /// Sends a message to a queue.
    ///
    /// # Errors
    ///
    /// When it was not taken.
    pub fn send_message(&self, account: &str, queue: &str, region: &str, body: &str) -> Result<()> {
        let ask = json!({ "QueueUrl": format!("{}/{account}/{queue}", self.endpoint), "MessageBody": body });
        taken(&self.json("AmazonSQS.SendMessage", "application/x-amz-json-1.0", region, "sqs", &ask)?)
    }

    /// Publishes to an SNS topic.
    ///
    /// # Errors
    ///
    /// When it was not taken.
    pub fn publish(&self, topic_arn: &str, region: &str, message: &str) -> Result<()> {
        let form =
            [("Action", "Publish"), ("Version", "2010-03-31"), ("TopicArn", topic_arn), ("Message", message)];
        let sent = self
            .agent
            .post(&self.endpoint)
            .config()
            .timeout_global(Some(TIMEOUT))
            .build()
            .header("Authorization", authorization(region, "sns"))
            .send_form(form)?;
        taken(&read(sent)?)
    }

    /// Puts an object.
    ///
    /// # Errors
    ///
    /// When it was not taken.
    pub fn put_object(&self, bucket: &str, key: &str, region: &str, body: &str) -> Result<()> {
        let sent = self
            .agent
            .put(format!("{}/{bucket}/{key}", self.endpoint))
            .config()
            .timeout_global(Some(TIMEOUT))
            .build()
            .header("Authorization", authorization(region, "s3"))
            .content_type("application/json")
            .send(body)?;
        taken(&read(sent)?)
    }

    /// Publishes a metric of a function in `AWS/Lambda`.
    ///
    /// # Errors
    ///
    /// When it was not taken.
    pub fn put_metric(&self, region: &str, function: &str, name: &str, unit: &str, value: i64) -> Result<()> {
        let value = value.to_string();
        let form = [
            ("Action", "PutMetricData"),
            ("Version", "2010-08-01"),
            ("Namespace", "AWS/Lambda"),
            ("MetricData.member.1.MetricName", name),
            ("MetricData.member.1.Unit", unit),
            ("MetricData.member.1.Value", &value),
            ("MetricData.member.1.Dimensions.member.1.Name", "FunctionName"),
            ("MetricData.member.1.Dimensions.member.1.Value", function),
        ];
        let request = self.agent.post(&self.endpoint).config().timeout_global(Some(TIMEOUT)).build();
        let request = request.header("Authorization", authorization(region, "monitoring"));
        taken(&read(request.send_form(form)?)?)
    }

    fn get(&self, url: &str, region: &str, service: &str) -> Result<Answer> {
        let request = self.agent.get(url).config().timeout_global(Some(TIMEOUT)).build();
        read(request.header("Authorization", authorization(region, service)).call()?)
    }

    fn json(
        &self,
        target: &str,
        content_type: &str,
        region: &str,
        service: &str,
        ask: &Json,
    ) -> Result<Answer> {
        let request = self.agent.post(&self.endpoint).config().timeout_global(Some(TIMEOUT)).build();
        let request = request
            .header("Authorization", authorization(region, service))
            .header("X-Amz-Target", target)
            .header("Content-Type", content_type);
        read(request.send(ask.to_string())?)
    }
}

fn read(response: ureq::http::Response<ureq::Body>) -> Result<Answer> {
    let (parts, mut body) = response.into_parts();
    let body = body.with_config().limit(ANSWER_BYTES).read_to_vec()?;
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
}

fn taken(answer: &Answer) -> Result<()> {
    if (200..300).contains(&answer.status) { Ok(()) } else { bail!("{}", answer.said()) }
}

/// The emulator looks at the region and the service that a signature names, not at the signature.
fn authorization(region: &str, service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=test/20260101/{region}/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )
}

/// The bytes of a record of a stream.
#[must_use]
pub fn data_of(record: &Json) -> Vec<u8> {
    record.get("Data").and_then(Json::as_str).and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default()
}
