//! The private broker that other tests run against, and what is said when something is in the way.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, net::TcpListener, process::Child, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer},
};
use support::{Environment, PROGRAM};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Starts a broker; the process and its address.
fn start(environment: &Environment, arguments: &[&str]) -> (Child, String) {
    let (child, told) = environment.private("kafka", arguments);
    (child, told["bootstrap_servers"].as_str().unwrap().to_owned())
}

#[test]
fn a_private_broker_ends_on_sigterm_and_goes_on_with_its_data() {
    let environment = Environment::new();
    let (mut broker, servers) = start(&environment, &[]);
    let client = || ClientConfig::new().set("bootstrap.servers", &servers).clone();
    let admin: AdminClient<DefaultClientContext> = client().create().unwrap();
    let topic = NewTopic::new("trades", 2, TopicReplication::Fixed(1));
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(admin.create_topics([&topic], &options)).unwrap();
    let producer: BaseProducer = client().set("enable.idempotence", "true").create().unwrap();
    for number in 0..10 {
        producer.send(BaseRecord::to("trades").key(&format!("{number}")).payload("a trade")).unwrap();
    }
    producer.flush(TIMEOUT).unwrap();

    kill(Pid::from_raw(i32::try_from(broker.id()).unwrap()), Signal::SIGTERM).unwrap();
    broker.wait().unwrap();
    let port = servers.rsplit_once(':').unwrap().1;
    let (mut broker, same) = start(&environment, &["--port", port]);
    assert_eq!(same, servers);
    let mut lag = None;
    support::wait_for("the broker to answer again", || {
        lag = local_environment::lag::lag(&servers, "trades", "nobody").ok();
        lag.is_some()
    });
    assert_eq!(lag.map(|lag| (lag.partitions, lag.end_offset_total)), Some((2, 10)));
    broker.kill().unwrap();
    broker.wait().unwrap();
}

#[test]
fn a_taken_port_is_named() {
    let environment = Environment::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let directory = environment.private_directory("kafka");
    let message = environment.refusal(&["kafka", "--directory", &directory, "--port", &port]);
    assert!(message.contains(&port) && message.contains("taken"), "{message}");
}

#[test]
fn a_machine_without_python_is_told_what_to_install() {
    let directory = tempfile::TempDir::new().unwrap();
    let nothing = directory.path().join("nothing");
    fs::create_dir(&nothing).unwrap();
    let output = std::process::Command::new(PROGRAM)
        .arg("--root")
        .arg(directory.path().join("local"))
        .arg("install")
        .env_clear()
        .env("PATH", &nothing)
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for word in ["Python 3.10", "none is on the PATH", "apt-get install python3"] {
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn an_interrupted_installation_is_not_taken_for_a_finished_one() {
    let directory = tempfile::TempDir::new().unwrap();
    let root = directory.path().join("local");
    fs::create_dir_all(root.join("python/bin")).unwrap();
    fs::write(root.join("python/bin/python"), "half").unwrap();
    // Without a Python to go on with it says so, instead of starting what is half there.
    let output = std::process::Command::new(PROGRAM)
        .arg("--root")
        .arg(&root)
        .arg("up")
        .env_clear()
        .env("PATH", &root)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("Python 3.10"));
    assert!(!root.join("state.json").exists(), "nothing was started");
}
