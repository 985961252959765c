//! A function for tests: it writes down what it gets, and fails as it is told.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

use super::{Environment, aws::Aws};

/// Speaks the runtime API with nothing but Python. What it got is written down before it works, what it did after.
const BOOTSTRAP: &str = r#"
import base64, json, os, sys, time, urllib.request

runtime = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2018-06-01/runtime/invocation/"
directory = os.environ["DIRECTORY"]

def note(**line):
    file = os.open(directory + "/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (json.dumps({"at": time.time(), **line}) + "\n").encode())
    os.close(file)

def first_time(name):
    try:
        os.close(os.open(directory + "/once-" + name, os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False

def items(event):
    for record in event.get("Records", []):
        kinesis = record["kinesis"]
        yield (record["eventID"].split(":")[0], kinesis["sequenceNumber"], kinesis["data"], kinesis["sequenceNumber"],
               kinesis["partitionKey"])
    for part, records in event.get("records", {}).items():
        for record in records:
            name = {"partition": part, "offset": record["offset"]}
            yield part, record["offset"], record["value"], name, record["key"]

while True:
    with urllib.request.urlopen(runtime + "next") as response:
        request = response.headers["Lambda-Runtime-Aws-Request-Id"]
        event = json.loads(response.read())
    with open(directory + "/orders") as file:
        orders = json.load(file)
    got = [(part, position, base64.b64decode(value).decode(), name, key) for part, position, value, name, key in items(event)]
    values = [value for _, _, value, _, _ in got]
    note(begin=request, records=[[part, str(position), value, key] for part, position, value, _, key in got],
         event=event if orders.get("keep_events") else None)
    time.sleep(orders.get("seconds", 0))
    if any(value in orders.get("die_once_at", []) and first_time(value) for value in values):
        os._exit(1)
    failed = []
    for _, _, value, name, _ in got:
        if value in orders.get("fail", []) or value in orders.get("fail_once", []) and first_time(value):
            failed.append((value, name))
            if orders.get("checkpoint"):
                break
    reports = orders.get("report", False)
    if failed and orders.get("checkpoint"):
        # It stopped there: what comes after is not done.
        done = values[:values.index(failed[0][0])]
    elif failed and not reports:
        done = []
    else:
        done = [value for value in values if value not in [one for one, _ in failed]]
    note(end=request, done=done)
    if failed and not reports:
        answer, path = {"errorMessage": "as told", "errorType": "Told"}, "/error"
    elif reports:
        answer, path = {"batchItemFailures": [{"itemIdentifier": name} for _, name in failed]}, "/response"
    else:
        answer, path = None, "/response"
    urllib.request.urlopen(urllib.request.Request(runtime + request + path, data=json.dumps(answer).encode())).read()
"#;

/// A function that runs in the emulator.
pub(crate) struct Function {
    /// Its name.
    pub(crate) name: String,
    directory: PathBuf,
}

/// An invocation, as the function wrote it down.
#[derive(Clone, Debug, Default)]
pub(crate) struct Invocation {
    /// Part, position, value and key of its records.
    pub(crate) records: Vec<[String; 4]>,
    /// When it began, and when it ended, if it did, in seconds.
    pub(crate) began: f64,
    /// When it ended, if it did.
    pub(crate) ended: Option<f64>,
    /// The values that it did.
    pub(crate) done: Vec<String>,
    /// The event, where that was ordered.
    pub(crate) event: Json,
}

impl Function {
    /// Makes one. `settings` are more of `CreateFunction`.
    #[track_caller]
    #[must_use]
    pub(crate) fn create(
        environment: &Environment,
        aws: &Aws,
        name: &str,
        orders: &Json,
        settings: &Json,
    ) -> Self {
        let directory = environment.root().join("functions").join(name);
        fs::create_dir_all(&directory).unwrap();
        let function = Self { name: name.to_owned(), directory };
        function.order(orders);
        let python = super::parts().canonicalize().unwrap().join("python/bin/python");
        let bootstrap = function.directory.join("bootstrap");
        // A path with spaces cannot stand in a script's first line.
        fs::write(&bootstrap, format!("#!/bin/sh\nexec '{}' -c '{BOOTSTRAP}'\n", python.display())).unwrap();
        let package = function.directory.join("package.zip");
        let pack = "import sys, zipfile\nentry = zipfile.ZipInfo('bootstrap')\nentry.external_attr = 0o755 << 16\n\
                    zipfile.ZipFile(sys.argv[2], 'w').writestr(entry, open(sys.argv[1]).read())";
        let packed = Command::new(&python).args(["-c", pack]).arg(&bootstrap).arg(&package).status().unwrap();
        assert!(packed.success());
        let mut body = json!({
            "FunctionName": name,
            "Runtime": "provided.al2023",
            "Role": "arn:aws:iam::000000000000:role/tests",
            "Handler": "bootstrap",
            "Timeout": 30,
            "Code": { "ZipFile": STANDARD.encode(fs::read(&package).unwrap()) },
            "Environment": { "Variables": { "DIRECTORY": function.directory } },
        });
        for (key, value) in settings.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        let _ = aws.lambda("POST", "/2015-03-31/functions", &body);
        function
    }

    /// Tells it what to do from its next invocation on.
    pub(crate) fn order(&self, orders: &Json) {
        let partial = self.directory.join("orders.partial");
        fs::write(&partial, orders.to_string()).unwrap();
        fs::rename(&partial, self.directory.join("orders")).unwrap();
    }

    /// Its invocations, in the order in which they began.
    #[must_use]
    pub(crate) fn invocations(&self) -> Vec<Invocation> {
        let mut found: Vec<(String, Invocation)> = Vec::new();
        let text = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        // The last line may be one that is being written.
        for line in text.rsplit_once('\n').map_or("", |(whole, _)| whole).lines() {
            let line: Json = serde_json::from_str(line).unwrap();
            let at = line["at"].as_f64().unwrap();
            if let Some(request) = line["begin"].as_str() {
                let records =
                    serde_json::from_value::<Vec<Vec<Option<String>>>>(line["records"].clone()).unwrap();
                let records = records
                    .into_iter()
                    .map(|fields| {
                        <[Option<String>; 4]>::try_from(fields).unwrap().map(Option::unwrap_or_default)
                    })
                    .collect();
                let event = line["event"].clone();
                found.push((
                    request.to_owned(),
                    Invocation { records, began: at, event, ..Invocation::default() },
                ));
            } else if let Some((_, invocation)) =
                found.iter_mut().rfind(|(request, _)| line["end"].as_str() == Some(request))
            {
                invocation.ended = Some(at);
                invocation.done = serde_json::from_value(line["done"].clone()).unwrap();
            }
        }
        found.into_iter().map(|(_, invocation)| invocation).collect()
    }

    /// How often each value was done.
    #[must_use]
    pub(crate) fn done(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for value in self.invocations().into_iter().flat_map(|invocation| invocation.done) {
            *counts.entry(value).or_default() += 1;
        }
        counts
    }

    /// Fails the test if records of a part came for the first time out of their order, or if a part was in two
    /// invocations at once.
    #[track_caller]
    pub(crate) fn assert_order_and_concurrency(&self) {
        let mut newest: BTreeMap<String, u128> = BTreeMap::new();
        let mut busy: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for invocation in self.invocations() {
            let mut parts: Vec<&String> = invocation.records.iter().map(|[part, ..]| part).collect();
            parts.dedup();
            for part in parts {
                let span = (invocation.began, invocation.ended.unwrap_or(invocation.began));
                let others = busy.entry(part.clone()).or_default();
                let overlaps = others.iter().any(|(began, ended)| span.0 < *ended && *began < span.1);
                assert!(!overlaps, "{part} was in two invocations at once: {span:?} and {others:?}");
                others.push(span);
            }
            for [part, position, ..] in &invocation.records {
                if seen.insert((part.clone(), position.clone())) {
                    let position: u128 = position.parse().unwrap();
                    let before = newest.insert(part.clone(), position);
                    assert!(
                        before.is_none_or(|before| before < position),
                        "{part}: {position} after {before:?}"
                    );
                }
            }
        }
    }
}
