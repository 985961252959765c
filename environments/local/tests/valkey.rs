//! Valkey: the private cluster that other tests run against, and the part of the environment.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value as Json;
use support::{Environment, is_loopback, listening_addresses, wait_for};

/// The first line of the answer to one command.
fn ask(port: &Json, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port.as_u64()?).ok()?)).ok()?;
    stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line.trim_end().to_owned()).filter(|line| !line.is_empty())
}

/// Writes or reads a key where the cluster has it, following redirections as a client does.
fn at_its_shard(ports: &[Json], command: &str) -> String {
    for port in ports {
        let answer = ask(port, command).unwrap();
        if !answer.starts_with("-MOVED") {
            return answer;
        }
        let moved_to: Json = answer.rsplit(':').next().unwrap().parse().unwrap();
        assert!(ports.contains(&moved_to), "{answer}");
    }
    panic!("no shard has the key of {command}")
}

#[test]
fn a_private_cluster_spreads_keys_over_its_shards_and_keeps_them_through_a_stop_and_a_kill() {
    let environment = Environment::new();
    let (mut cluster, told) = environment.private("valkey", &["--shards", "3"]);
    let ports = told["ports"].as_array().unwrap();
    assert_eq!(ports.len(), 3);
    for number in 0..60 {
        assert_eq!(at_its_shard(ports, &format!("SET key-{number} {number}")), "+OK");
    }
    let sizes: Vec<String> = ports.iter().map(|port| ask(port, "DBSIZE").unwrap()).collect();
    let keys: Vec<u32> = sizes.iter().map(|size| size.trim_start_matches(':').parse().unwrap()).collect();
    assert_eq!(keys.iter().sum::<u32>(), 60);
    assert!(keys.iter().all(|keys| *keys > 0), "{keys:?}");

    kill(Pid::from_raw(i32::try_from(cluster.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(cluster.wait().unwrap().success());
    let (mut cluster, again) = environment.private("valkey", &["--shards", "3"]);
    assert_eq!(again["ports"], told["ports"]);
    assert_eq!(at_its_shard(ports, "SET key-60 60"), "+OK");

    cluster.kill().unwrap();
    cluster.wait().unwrap();
    wait_for("the nodes to end with their parent", || ports.iter().all(|port| ask(port, "PING").is_none()));
    let (mut cluster, _) = environment.private("valkey", &["--shards", "3"]);
    for number in 0..=60 {
        let length = number.to_string().len();
        assert_eq!(at_its_shard(ports, &format!("GET key-{number}")), format!("${length}"), "key-{number}");
    }
    kill(Pid::from_raw(i32::try_from(cluster.id()).unwrap()), Signal::SIGTERM).unwrap();
    cluster.wait().unwrap();

    let directory = environment.private_directory("valkey");
    let message = environment.refusal(&["valkey", "--directory", &directory, "--shards", "2"]);
    assert!(message.contains("3 shards, not of 2"), "{message}");
}

#[test]
fn the_part_is_a_cluster_on_loopback_and_recovers() {
    let environment = Environment::new();
    let port = Json::from(environment.up().valkey.unwrap().port);
    assert_eq!(ask(&port, "SET key value").as_deref(), Some("+OK"));
    let pid = environment.running_part("valkey").unwrap();
    let addresses = listening_addresses(pid);
    assert!(!addresses.is_empty() && addresses.iter().all(|address| is_loopback(address)), "{addresses:?}");
    environment.crash("valkey");
    assert_eq!(ask(&port, "GET key").as_deref(), Some("$5"));
    assert!(environment.run(&["down"]).status.success());
    assert!(ask(&port, "PING").is_none());
    assert!(!environment.root().join("valkey").exists());
}
