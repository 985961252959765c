//! How an EKS cluster is reached.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value as Json, json};

use crate::sdk::told;

/// Where a cluster is and how it is known to be that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its name.
    pub name: String,
    /// `https://…`.
    pub endpoint: String,
    /// The certificate of its authority, base64 of PEM.
    pub certificate_authority: String,
}

/// Asks EKS.
///
/// # Errors
///
/// When the cluster is not there or not active.
pub async fn access(eks: &aws_sdk_eks::Client, name: &str) -> Result<Access> {
    let answer = eks
        .describe_cluster()
        .name(name)
        .send()
        .await
        .map_err(|error| told(error, &format!("the cluster {name} cannot be looked up")))?;
    let cluster = answer.cluster().with_context(|| format!("EKS says nothing of the cluster {name}"))?;
    let status = cluster.status().map(|status| status.as_str()).unwrap_or_default();
    if !matches!(status, "ACTIVE" | "UPDATING") {
        bail!("the cluster {name} is {status}, not ACTIVE; see it in the EKS console, then deploy again");
    }
    let authority = cluster.certificate_authority().and_then(|authority| authority.data());
    match (cluster.endpoint(), authority) {
        (Some(endpoint), Some(authority)) => Ok(Access {
            name: name.to_owned(),
            endpoint: endpoint.to_owned(),
            certificate_authority: authority.to_owned(),
        }),
        _ => bail!("the cluster {name} has no endpoint yet; deploy again in a minute"),
    }
}

/// The configuration for `helm` and for our own client. It holds no secret: whoever reads it calls `program` for
/// a token, which is fresh each time.
#[must_use]
pub fn kubeconfig(access: &Access, region: &str, program: &Path) -> Json {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": access.name, "cluster": {
            "server": access.endpoint,
            "certificate-authority-data": access.certificate_authority,
        }}],
        "users": [{ "name": "floodgate", "user": { "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": program,
            "args": ["kubernetes-token", "--cluster", access.name, "--region", region],
            "interactiveMode": "Never",
        }}}],
        "contexts": [{ "name": "floodgate", "context": { "cluster": access.name, "user": "floodgate" } }],
        "current-context": "floodgate",
    })
}

/// Writes the configuration beside an assembly and gives its place.
///
/// # Errors
///
/// When it cannot be written.
pub fn write_kubeconfig(access: &Access, region: &str, assembly: &Path) -> Result<PathBuf> {
    let path = assembly.join("kubeconfig.json");
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    std::fs::write(&path, serde_json::to_vec_pretty(&kubeconfig(access, region, &program))?)
        .with_context(|| format!("cannot write {} (is the disk full?)", path.display()))?;
    Ok(path)
}

/// A client of the cluster that a configuration names.
///
/// # Errors
///
/// When the configuration cannot be used.
pub async fn connect(kubeconfig: &Path) -> Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    Client::try_from(config).context("the cluster's configuration gives no client")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one_and_holds_no_secret() {
        let access = Access {
            name: "floodgate-dev".to_owned(),
            endpoint: "https://example.eks.amazonaws.com".to_owned(),
            certificate_authority: "LS0t".to_owned(),
        };
        let json = kubeconfig(&access, "eu-west-1", Path::new("/opt/deploy-engine"));
        let read = Kubeconfig::from_yaml(&json.to_string()).expect("a kubeconfig");
        assert_eq!(read.current_context.as_deref(), Some("floodgate"));
        let user = read.auth_infos[0].auth_info.as_ref().expect("a user");
        assert!(user.token.is_none() && user.password.is_none());
        let exec = user.exec.as_ref().expect("a program that gives tokens");
        assert_eq!(exec.command.as_deref(), Some("/opt/deploy-engine"));
        assert_eq!(exec.args.as_deref().map(<[String]>::len), Some(5));
    }
}
