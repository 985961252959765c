//! What the parts do sets real alarms off: load on the database, sessions, a broker that is away.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value as Json, json};
use support::{Environment, cloudformation::CloudFormation, database::ask, wait_for};

/// Sessions that take all the processor time that they get.
const BURN: &str = "SELECT sum(number % 7) FROM generate_series(1, 100000000000) AS number";

fn template() -> Json {
    let alarm = |metric: (&str, &str), dimension: (&str, &str), threshold: f64, without_data: &str| {
        json!({ "Type": "AWS::CloudWatch::Alarm", "Properties": {
            "AlarmName": metric.1, "Namespace": metric.0, "MetricName": metric.1, "Statistic": "Average",
            "Dimensions": [{ "Name": dimension.0, "Value": dimension.1 }], "Period": 10, "EvaluationPeriods": 1,
            "ComparisonOperator": "GreaterThanThreshold", "Threshold": threshold,
            "TreatMissingData": without_data } })
    };
    let proxy = ("ProxyName", "tests-proxy");
    json!({ "Resources": {
        "Cpu": alarm(("AWS/RDS", "CPUUtilization"), ("DBClusterIdentifier", "tests"), 10.0, "missing"),
        "Sessions": alarm(("AWS/RDS", "ClientConnections"), proxy, 0.5, "missing"),
        "Pinned": alarm(("AWS/RDS", "DatabaseConnectionsCurrentlySessionPinned"), proxy, 0.5, "missing"),
        "Partitions": alarm(("AWS/Kafka", "OfflinePartitionsCount"), ("Cluster Name", "tests"), 0.0, "breaching"),
        "Disk": alarm(("AWS/Kafka", "KafkaDataLogsDiskUsed"), ("Broker ID", "1"), 80.0, "missing"),
        "Cache": alarm(("AWS/MemoryDB", "DatabaseMemoryUsagePercentage"), ("ClusterName", "tests"), 80.0, "missing"),
        "Engine": alarm(("AWS/MemoryDB", "EngineCPUUtilization"), ("ClusterName", "tests"), 80.0, "missing"),
    } })
}

#[test]
fn load_on_the_database_and_its_sessions_set_alarms_off_and_their_end_ends_them() {
    let environment = Environment::new();
    let state = environment.up();
    let database = state.postgresql.unwrap();
    let password = std::fs::read_to_string(&database.password_file).unwrap();
    let server = |user: &str, password: &str| json!({ "host": database.host, "port": database.port, "superuser": user, "password": password });
    let superuser = server(&database.superuser, &password);
    let aws = CloudFormation::at(&state.aws.endpoint_url);
    let is = |name: &str, wanted: &str| aws.alarm_state(name).as_deref() == Some(wanted);
    let states =
        |names: &[&str]| -> Vec<Option<String>> { names.iter().map(|name| aws.alarm_state(name)).collect() };
    let created = aws.deploy("alarms", &template());
    assert_eq!(created, "CREATE_COMPLETE", "{:?}", aws.reasons("alarms"));
    let all = [
        "CPUUtilization",
        "ClientConnections",
        "DatabaseConnectionsCurrentlySessionPinned",
        "OfflinePartitionsCount",
        "KafkaDataLogsDiskUsed",
        "DatabaseMemoryUsagePercentage",
        "EngineCPUUtilization",
    ];
    wait_for("a healthy environment to have no alarm", || all.iter().all(|name| is(name, "OK")));

    ask(&superuser, "CREATE ROLE writer LOGIN PASSWORD 'writes' CONNECTION LIMIT 4").unwrap();
    let neighbours: Vec<_> = (0..2)
        .map(|_| {
            let superuser = superuser.clone();
            std::thread::spawn(move || ask(&superuser, BURN))
        })
        .collect();
    wait_for("the database's processors to be busy", || is("CPUUtilization", "ALARM"));
    assert!(is("ClientConnections", "OK"), "a neighbour does not come through the proxy: {:?}", states(&all));
    ask(
        &superuser,
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT sum(number%'",
    )
    .unwrap();
    neighbours.into_iter().for_each(|neighbour| drop(neighbour.join().unwrap()));
    wait_for("the alarm to end with the load", || is("CPUUtilization", "OK"));

    // What is measured goes on with other processes.
    environment.crash("postgresql");
    environment.crash("metrics");
    let writer = server("writer", "writes");
    let session = std::thread::spawn(move || ask(&writer, "SELECT pg_sleep(600)"));
    wait_for("a session to be counted", || is("ClientConnections", "ALARM"));
    assert!(is("DatabaseConnectionsCurrentlySessionPinned", "OK"), "{:?}", states(&all));
    ask(&superuser, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'writer'")
        .unwrap();
    session.join().unwrap();
    wait_for("the session to be gone", || is("ClientConnections", "OK"));
}
