//! The AWS APIs, without the parts behind their resources.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use crate::{
    part::Part,
    waiting::{PATIENCE, wait_for},
};

/// An AWS of a test's own.
pub struct Emulator {
    _part: Part,
    endpoint: String,
}

impl Emulator {
    /// Starts one, and waits until it answers.
    #[track_caller]
    #[must_use]
    pub fn start() -> Self {
        let part = Part::start("aws", &[]);
        let endpoint = part.told["endpoint_url"].as_str().unwrap().to_owned();
        wait_for("the emulator to answer", || answers(&endpoint));
        Self { _part: part, endpoint }
    }

    /// Where its APIs are.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// Whether an HTTP server answers, whatever it says.
fn answers(endpoint: &str) -> bool {
    let address = endpoint.trim_start_matches("http://");
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let mut begin = [0; 5];
    stream.set_read_timeout(Some(PATIENCE)).is_ok()
        && write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").is_ok()
        && stream.read_exact(&mut begin).is_ok()
        && begin == *b"HTTP/"
}

/// The settings of clients at an endpoint, as the SDK has them but for the credentials.
#[cfg(feature = "aws")]
pub async fn config(endpoint: &str) -> aws_config::SdkConfig {
    aws_config::defaults(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new("eu-west-1"))
        .endpoint_url(endpoint)
        .test_credentials()
        .load()
        .await
}
