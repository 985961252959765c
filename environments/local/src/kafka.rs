//! A broker of our own: one node, loopback, its data in one directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    install::Broker,
    layout::Layout,
    process::{find_program, free_port},
};

/// Any id will do: the cluster has one node and talks to nobody.
const CLUSTER_ID: &str = "Rmxvb2RnYXRlTG9jYWwwMQ";

/// The ports of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// For clients.
    pub broker: u16,
    /// For the controller, in the same process.
    pub controller: u16,
}

impl Ports {
    /// Free ports, the preferred ones if they are.
    ///
    /// # Errors
    ///
    /// When the system has none.
    pub fn free(broker: Option<u16>, controller: Option<u16>) -> std::io::Result<Self> {
        let first = free_port(broker)?;
        let mut second = free_port(controller)?;
        while second == first {
            second = free_port(None)?;
        }
        Ok(Self { broker: first, controller: second })
    }

    /// As clients are told.
    #[must_use]
    pub fn bootstrap_servers(&self) -> String {
        format!("127.0.0.1:{}", self.broker)
    }
}

/// The command that runs the broker on the data in `directory`, which is prepared if it is new. `None` for a
/// broker that is not ours.
///
/// # Errors
///
/// When the directory cannot be prepared.
pub fn command(layout: &Layout, broker: &Broker, directory: &Path, ports: Ports) -> Result<Option<Command>> {
    match broker {
        Broker::External { .. } => Ok(None),
        Broker::ApacheKafka { java } => apache_kafka(layout, java, directory, ports).map(Some),
        Broker::Nisshi { program } => {
            fs::create_dir_all(directory)?;
            let mut command = Command::new(program);
            command
                .args([
                    "broker",
                    "--storage-engine",
                    "memory://floodgate/",
                    "--group-initial-rebalance-delay",
                    "0s",
                ])
                .arg("--kafka-listener-url")
                .arg(format!("tcp://{}", ports.bootstrap_servers()))
                .arg("--kafka-advertised-listener-url")
                .arg(format!("tcp://{}", ports.bootstrap_servers()))
                .current_dir(directory);
            Ok(Some(command))
        }
    }
}

fn apache_kafka(layout: &Layout, java: &Path, directory: &Path, ports: Ports) -> Result<Command> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let data = directory.join("data");
    let properties = directory.join("server.properties");
    fs::write(&properties, server_properties(&data, ports))
        .with_context(|| format!("cannot write {}", properties.display()))?;
    let start = |main: &str| {
        let mut command = Command::new(java);
        command
            .args(["-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
            .args([
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                "-Dorg.slf4j.simpleLogger.showDateTime=true",
            ])
            .arg("-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX")
            .arg("-cp")
            .arg(layout.kafka_libraries().join("*"))
            .arg(main);
        command
    };
    if !data.join("meta.properties").is_file() {
        let output = start("kafka.tools.StorageTool")
            .args(["format", "--cluster-id", CLUSTER_ID, "--config"])
            .arg(&properties)
            .output()
            .context("Java cannot be started")?;
        if !output.status.success() {
            bail!(
                "Kafka cannot prepare {}:\n{}{}",
                data.display(),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    let mut command = start("kafka.Kafka");
    command.arg(&properties).current_dir(directory);
    Ok(command)
}

/// One node that is broker and controller. Internal topics have one replica, groups form at once and may notice a lost
/// member sooner than the default of 6 s allows, and no
/// topic comes into being by being named. A broker that was killed comes back when its former session has ended, so
/// that is kept short.
fn server_properties(data: &Path, ports: Ports) -> String {
    let Ports { broker, controller } = ports;
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={}
num.network.threads=2
num.io.threads=4
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
auto.create.topics.enable=false
message.max.bytes=1048588
log.retention.check.interval.ms=60000
",
        data.display()
    )
}

/// The directory of a private broker, made absolute.
///
/// # Errors
///
/// When it cannot be made.
pub fn private_directory(directory: &Path) -> std::io::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    directory.canonicalize()
}

/// Whether a JVM is to be had, for messages.
#[must_use]
pub fn has_java() -> bool {
    find_program("java").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_listens_on_loopback_alone() {
        let text = server_properties(Path::new("data"), Ports { broker: 1, controller: 2 });
        for line in text.lines().filter(|line| line.contains("listeners=")) {
            assert!(line.split("://").skip(1).all(|address| address.starts_with("127.0.0.1:")), "{line}");
        }
        assert!(text.contains("auto.create.topics.enable=false"));
    }
}
