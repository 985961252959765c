//! A Lambda function of a test: a script that speaks the runtime's API and writes down what it gets.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use serde_json::Value as Json;

use super::{Environment, parts};

/// The bucket of the function's code.
pub(crate) const BUCKET: &str = "tests-code";

/// The key of the function's code.
pub(crate) const KEY: &str = "function.zip";

/// A function's package in the environment's S3, and the file of what it got.
pub(crate) struct Listener {
    events: PathBuf,
}

impl Listener {
    /// Packs it and puts it there.
    #[must_use]
    pub(crate) fn upload(environment: &Environment, endpoint: &str) -> Self {
        let directory = environment.root().join("function");
        fs::create_dir_all(&directory).unwrap();
        let events = directory.join("events.jsonl");
        let script = format!(
            "#!/usr/bin/env python3
import os, urllib.request
api = 'http://' + os.environ['AWS_LAMBDA_RUNTIME_API'] + '/2018-06-01/runtime/invocation/'
while True:
    with urllib.request.urlopen(api + 'next') as answer:
        event, number = answer.read(), answer.headers['Lambda-Runtime-Aws-Request-Id']
    with open({events:?}, 'ab') as file:
        file.write(event.replace(b'\\n', b' ') + b'\\n')
    done = urllib.request.Request(api + number + '/response', data=b'{{}}', method='POST')
    urllib.request.urlopen(done).read()
",
            events = events.to_string_lossy()
        );
        let bootstrap = directory.join("bootstrap");
        fs::write(&bootstrap, script).unwrap();
        fs::set_permissions(&bootstrap, fs::Permissions::from_mode(0o755)).unwrap();
        let packed = Command::new(parts().join("python/bin/python"))
            .args(["-m", "zipfile", "-c", KEY, "bootstrap"])
            .current_dir(&directory)
            .status()
            .unwrap();
        assert!(packed.success());
        for (path, body) in
            [(String::new(), Vec::new()), (format!("/{KEY}"), fs::read(directory.join(KEY)).unwrap())]
        {
            let url = format!("{endpoint}/{BUCKET}{path}");
            ureq::put(&url)
                .header("Authorization", &super::cloudformation::authorization("s3"))
                .send(&body)
                .unwrap();
        }
        Self { events }
    }

    /// What it got so far.
    #[must_use]
    pub(crate) fn events(&self) -> Vec<Json> {
        let text = fs::read_to_string(&self.events).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}
