//! The AWS APIs as their wire protocols have them, with nothing of an SDK between.

use serde_json::{Value as Json, json};

use super::PATIENCE;

/// The APIs of a local environment.
pub(crate) struct Aws {
    endpoint: String,
    region: String,
    agent: ureq::Agent,
}

impl Aws {
    /// At an endpoint, in the region that is there by default.
    #[must_use]
    pub(crate) fn at(endpoint: &str) -> Self {
        Self::of_region(endpoint, "us-east-1")
    }

    /// At an endpoint, in a region.
    #[must_use]
    pub(crate) fn of_region(endpoint: &str, region: &str) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        Self { endpoint: endpoint.to_owned(), region: region.to_owned(), agent: config.build().into() }
    }

    /// The emulator looks at the region and the service that a signature names, not at the signature.
    fn authorization(&self, service: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=test/20260101/{}/{service}/aws4_request, SignedHeaders=host, Signature=0",
            self.region
        )
    }

    /// A call of an API that speaks forms and XML; what it answers, which must not be an error.
    #[track_caller]
    pub(crate) fn form(&self, service: &str, version: &str, action: &str, form: &[(&str, &str)]) -> String {
        let all = [("Action", action), ("Version", version)].into_iter().chain(form.iter().copied());
        let request = self.agent.post(&self.endpoint).header("Authorization", self.authorization(service));
        let mut response = request.send_form(all).unwrap();
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string().unwrap();
        assert_eq!(status, 200, "{action}: {text}");
        text
    }

    /// A call of the Lambda API; what it answers, which must not be an error.
    #[track_caller]
    pub(crate) fn lambda(&self, method: &str, path: &str, body: &Json) -> Json {
        let (status, answer) = self.try_lambda(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// A call of the Lambda API; its status and what it answers.
    pub(crate) fn try_lambda(&self, method: &str, path: &str, body: &Json) -> (u16, Json) {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint))
            .header("Authorization", self.authorization("lambda"))
            .header("Content-Type", "application/json")
            .body(if method == "GET" || method == "DELETE" { String::new() } else { body.to_string() })
            .unwrap();
        let mut response = self.agent.run(request).unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Json::Null))
    }

    /// A call of an API that speaks JSON with a target; its status and what it answers.
    pub(crate) fn try_json(&self, service: &str, target: &str, body: &Json) -> (u16, Json) {
        let version = if service == "sqs" { "1.0" } else { "1.1" };
        let mut response = self
            .agent
            .post(&self.endpoint)
            .header("Authorization", self.authorization(service))
            .header("X-Amz-Target", target)
            .header("Content-Type", format!("application/x-amz-json-{version}"))
            .send(body.to_string())
            .unwrap();
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string().unwrap();
        (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Json::Null))
    }

    /// The same, for calls that must not be refused.
    #[track_caller]
    pub(crate) fn json(&self, service: &str, target: &str, body: &Json) -> Json {
        let (status, answer) = self.try_json(service, target, body);
        assert_eq!(status, 200, "{target}: {answer}");
        answer
    }

    /// Makes a queue; its ARN.
    #[track_caller]
    pub(crate) fn create_queue(&self, name: &str) -> String {
        let _ = self.json("sqs", "AmazonSQS.CreateQueue", &json!({ "QueueName": name }));
        format!("arn:aws:sqs:us-east-1:000000000000:{name}")
    }

    /// Makes an SNS topic whose messages go into a queue; its ARN.
    #[track_caller]
    pub(crate) fn create_topic_into(&self, name: &str, queue_arn: &str) -> String {
        let arn = format!("arn:aws:sns:us-east-1:000000000000:{name}");
        let subscription = [("TopicArn", arn.as_str()), ("Protocol", "sqs"), ("Endpoint", queue_arn)];
        for (action, form) in [("CreateTopic", &[("Name", name)][..]), ("Subscribe", &subscription)] {
            let _ = self.form("sns", "2010-03-31", action, form);
        }
        arn
    }

    /// The highest value of a function's metric within the last hour.
    #[must_use]
    pub(crate) fn highest(&self, function: &str, metric: &str) -> Option<f64> {
        let now = chrono::Utc::now();
        let moment =
            |hours: i64| (now + chrono::Duration::hours(hours)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
        let (start, end) = (moment(-1), moment(1));
        let form = [
            ("Namespace", "AWS/Lambda"),
            ("MetricName", metric),
            ("Dimensions.member.1.Name", "FunctionName"),
            ("Dimensions.member.1.Value", function),
            ("StartTime", &start),
            ("EndTime", &end),
            ("Period", "7200"),
            ("Statistics.member.1", "Maximum"),
        ];
        let answer = self.form("monitoring", "2010-08-01", "GetMetricStatistics", &form);
        answer.split("<Maximum>").nth(1)?.split('<').next()?.parse().ok()
    }

    /// Makes a bucket.
    #[track_caller]
    pub(crate) fn create_bucket(&self, name: &str) {
        let request = self.agent.put(format!("{}/{name}", self.endpoint));
        assert_eq!(
            request.header("Authorization", self.authorization("s3")).send_empty().unwrap().status(),
            200
        );
    }

    /// The objects of a bucket: keys, and the JSON that they hold.
    #[track_caller]
    pub(crate) fn objects(&self, bucket: &str) -> Vec<(String, Json)> {
        let get = |path: &str| {
            let request = self.agent.get(format!("{}/{bucket}{path}", self.endpoint));
            let answer = request.header("Authorization", self.authorization("s3")).call();
            answer.unwrap().body_mut().read_to_string().unwrap()
        };
        let listed = get("?list-type=2");
        let keys = listed.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
        keys.map(|key| (key.to_owned(), serde_json::from_str(&get(&format!("/{key}"))).unwrap_or(Json::Null)))
            .collect()
    }

    /// Takes what is in a queue: the JSON in its messages.
    #[track_caller]
    pub(crate) fn receive(&self, queue: &str) -> Vec<Json> {
        let url = format!("{}/000000000000/{queue}", self.endpoint);
        let ask = json!({ "QueueUrl": url, "MaxNumberOfMessages": 10, "VisibilityTimeout": 600 });
        let mut found = Vec::new();
        loop {
            let answer = self.json("sqs", "AmazonSQS.ReceiveMessage", &ask);
            let messages = answer["Messages"].as_array().cloned().unwrap_or_default();
            if messages.is_empty() {
                return found;
            }
            let bodies = messages.iter().filter_map(|message| message["Body"].as_str());
            found.extend(bodies.map(|body| serde_json::from_str(body).unwrap_or(Json::Null)));
        }
    }
}
