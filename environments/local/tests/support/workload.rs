//! A workload for tests: a small server that answers its readiness probe and tells what it was given.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path};

use sha2::{Digest, Sha256};

use super::Environment;

const SERVER: &str = r#"
import http.server, json, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.path in ("/readyz", "/environment")
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps(dict(os.environ)).encode())

host, port = os.environ["METRICS_ADDRESS"].split(":")
print("serving", flush=True)
http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
"#;

/// Writes the program and a manifest that runs it; the directories of both.
pub(crate) fn write(environment: &Environment, replicas: u32, mode: &str) -> (String, String) {
    let (binaries, manifests) = (environment.root().join("built"), environment.root().join("manifests"));
    fs::create_dir_all(&binaries).unwrap();
    fs::create_dir_all(&manifests).unwrap();
    let python = super::parts().canonicalize().unwrap().join("python/bin/python");
    let text = format!("#!{}\n{SERVER}", python.display());
    let digest: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    let program = binaries.join("greeter");
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let manifest = format!(
        r#"apiVersion: v1
kind: ServiceAccount
metadata: {{name: greeter, namespace: tests}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: greeter, namespace: tests}}
spec:
  replicas: {replicas}
  template:
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: greeter
          image: "local/greeter@sha256:{digest}"
          env:
            - {{name: MODE, value: "{mode}"}}
            - {{name: METRICS_ADDRESS, value: "0.0.0.0:8000"}}
            - name: POD_NAME
              valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}
          readinessProbe: {{httpGet: {{path: /readyz, port: 8000}}}}
"#
    );
    fs::write(manifests.join("greeter.yaml"), manifest).unwrap();
    (text_of(&manifests), text_of(&binaries))
}

/// What a running one was given.
#[must_use]
pub(crate) fn environment_of(endpoint: &str) -> BTreeMap<String, String> {
    let text = ureq::get(format!("http://{endpoint}/environment"))
        .call()
        .unwrap()
        .body_mut()
        .read_to_string()
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
