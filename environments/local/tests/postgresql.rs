//! PostgreSQL: the private server that other tests run against, and the part of the environment.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::Child,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value as Json;
use support::{Environment, database::ask, is_loopback, listening_addresses, wait_for};

/// Starts a server; the process and what it tells.
fn start(environment: &Environment, arguments: &[&str]) -> (Child, Json) {
    let (child, told) = environment.private("postgresql", arguments);
    assert_eq!(told["pid"], child.id());
    wait_for("the server to answer", || ask(&told, "SELECT 1").as_deref() == Some("1"));
    (child, told)
}

#[test]
fn a_private_server_keeps_what_it_was_told_through_a_stop_and_a_kill() {
    let environment = Environment::new();
    // As a closed home: the account of the server cannot reach what is below it.
    fs::set_permissions(environment.root(), fs::Permissions::from_mode(0o700)).unwrap();
    let (mut server, told) = start(&environment, &[]);
    ask(&told, "CREATE TABLE trades (id int PRIMARY KEY)").unwrap();
    ask(&told, "INSERT INTO trades SELECT generate_series(1, 1000)").unwrap();

    kill(Pid::from_raw(i32::try_from(server.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(server.wait().unwrap().success());
    let port = told["port"].to_string();
    let (mut server, again) = start(&environment, &["--port", &port]);
    assert_eq!((&again["port"], &again["password"]), (&told["port"], &told["password"]));
    ask(&again, "INSERT INTO trades SELECT generate_series(1001, 2000)").unwrap();

    server.kill().unwrap();
    server.wait().unwrap();
    let (mut server, again) = start(&environment, &["--port", &port]);
    assert_eq!(ask(&again, "SELECT count(*) FROM trades").as_deref(), Some("2000"));
    assert_eq!(ask(&again, "SHOW fsync").as_deref(), Some("on"));
    kill(Pid::from_raw(i32::try_from(server.id()).unwrap()), Signal::SIGINT).unwrap();
    assert!(server.wait().unwrap().success());
}

#[test]
fn the_part_is_on_loopback_behind_a_password_recovers_and_goes_with_the_environment() {
    let environment = Environment::new();
    let state = environment.up();
    let part = state.postgresql.unwrap();
    let password = fs::read_to_string(&part.password_file).unwrap();
    assert_eq!(fs::metadata(&part.password_file).unwrap().mode() & 0o777, 0o600);
    let server = |password: &str| {
        serde_json::json!({
            "host": part.host, "port": part.port, "superuser": part.superuser, "password": password })
    };
    let told = server(&password);
    assert_eq!(ask(&told, "SHOW max_connections").as_deref(), Some("100"));
    assert_eq!(ask(&server("wrong"), "SELECT 1"), None);
    assert_eq!(
        ask(&told, "SELECT left(rolpassword, 14) FROM pg_authid WHERE rolname = current_user").as_deref(),
        Some("SCRAM-SHA-256$")
    );
    let pid = environment.running_part("postgresql").unwrap();
    let addresses = listening_addresses(pid);
    assert!(!addresses.is_empty() && addresses.iter().all(|address| is_loopback(address)), "{addresses:?}");

    ask(&told, "CREATE DATABASE ledger").unwrap();
    environment.crash("postgresql");
    let found = ask(&told, "SELECT count(*) FROM pg_database WHERE datname = 'ledger'");
    assert_eq!(found.as_deref(), Some("1"));

    let logs = environment.root().join("logs");
    for log in fs::read_dir(&logs).unwrap() {
        let text = fs::read_to_string(log.unwrap().path()).unwrap();
        assert!(!text.contains(&password), "a log tells the password");
    }
    let pid = environment.running_part("postgresql").unwrap();
    // A client that stays does not hold up the end.
    let session = {
        let (told, sql) = (told.clone(), "SELECT pg_sleep(600)");
        std::thread::spawn(move || ask(&told, sql))
    };
    wait_for("the session", || {
        let asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)'";
        ask(&told, asked).as_deref() == Some("1")
    });
    assert!(environment.run(&["down"]).status.success());
    session.join().unwrap();
    assert!(!support::is_running(pid));
    assert!(!environment.root().join("postgresql").exists());
}
