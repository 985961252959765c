//! A private Valkey cluster of two shards.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tag_store::connection::{Endpoint, Store};

/// A cluster of the test's own.
pub struct Valkey {
    process: Child,
    _directory: tempfile::TempDir,
    pub endpoint: Endpoint,
}

impl Drop for Valkey {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Valkey {
    pub fn start() -> Self {
        let built =
            std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("local-environment");
        let program = std::env::var_os("FLOODGATE_LOCAL_ENVIRONMENT").map_or(built, PathBuf::from);
        let parts = std::env::var_os("FLOODGATE_LOCAL_ROOT").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../target/local"),
            PathBuf::from,
        );
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(program)
            .arg("--root")
            .arg(directory.path().join("local"))
            .arg("--parts")
            .arg(parts)
            .args(["valkey", "--shards", "2", "--directory"])
            .arg(directory.path().join("valkey"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        let endpoint = Endpoint {
            host: told["host"].as_str().unwrap().to_owned(),
            port: u16::try_from(told["port"].as_u64().unwrap()).unwrap(),
            tls: false,
        };
        Self { process, _directory: directory, endpoint }
    }

    pub async fn store(&self) -> Store {
        Store::connect(self.endpoint.clone(), None).await.unwrap()
    }
}
