//! Looking up what CloudFormation cannot tell of a Kafka cluster.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, bail};
use aws_sdk_msk::Client;
use cfn::assembly::ParameterWiring;

use crate::{
    report::Reporter,
    sdk::told,
    wiring::{Known, Lookup, lookups},
};

/// How long the brokers of a new cluster may be unknown.
const TIMEOUT: Duration = Duration::from_secs(600);

/// How often they are asked for.
const POLL: Duration = Duration::from_secs(2);

/// Makes known what values need to have looked up.
///
/// # Errors
///
/// What MSK says, or that a new cluster has no brokers in time.
pub async fn look_up(
    client: &Client,
    wired: &[ParameterWiring],
    known: &mut Known,
    reporter: &Reporter,
) -> Result<()> {
    for lookup in lookups(wired, known) {
        match lookup {
            Lookup::BootstrapBrokers { cluster_arn, authentication } => {
                let servers = bootstrap_brokers(client, &cluster_arn, &authentication, reporter).await?;
                known.bootstrap_servers.insert((cluster_arn, authentication), servers);
            }
            Lookup::BrokerHosts { cluster_arn } => {
                let hosts = broker_hosts(client, &cluster_arn).await?;
                known.broker_hosts.insert(cluster_arn, hosts);
            }
        }
    }
    Ok(())
}

async fn bootstrap_brokers(
    client: &Client,
    cluster_arn: &str,
    authentication: &str,
    reporter: &Reporter,
) -> Result<String> {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    let mut announced = false;
    loop {
        let request = client.get_bootstrap_brokers().cluster_arn(cluster_arn);
        let brokers = request.send().await.map_err(|error| {
            told(error, &format!("the bootstrap brokers of {cluster_arn} cannot be looked up"))
        })?;
        let servers = match authentication {
            "iam" => brokers.bootstrap_broker_string_sasl_iam(),
            "tls" => brokers.bootstrap_broker_string_tls(),
            _ => brokers.bootstrap_broker_string(),
        };
        if let Some(servers) = servers.filter(|servers| !servers.is_empty()) {
            return Ok(servers.to_owned());
        }
        if tokio::time::Instant::now() >= deadline {
            bail!(
                "{cluster_arn} has had no brokers for {authentication} clients for {} s; does the cluster allow such clients?",
                TIMEOUT.as_secs()
            );
        }
        if !announced {
            reporter.say(&format!("waiting for the brokers of {cluster_arn}"));
            announced = true;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The host name of each broker, by its id.
async fn broker_hosts(client: &Client, cluster_arn: &str) -> Result<BTreeMap<u32, String>> {
    let mut nodes = client.list_nodes().cluster_arn(cluster_arn).into_paginator().items().send();
    let mut hosts = BTreeMap::new();
    while let Some(node) = nodes.next().await {
        let node =
            node.map_err(|error| told(error, &format!("the brokers of {cluster_arn} cannot be listed")))?;
        // Controllers are nodes as well, and serve no exporter.
        let Some(broker) = node.broker_node_info() else { continue };
        let Some(host) = broker.endpoints().first() else { continue };
        // The API has ids as floating-point numbers; they count from 1.
        let id = broker.broker_id().unwrap_or_default() as u32;
        hosts.insert(id, host.split(':').next().unwrap_or(host).to_owned());
    }
    Ok(hosts)
}
