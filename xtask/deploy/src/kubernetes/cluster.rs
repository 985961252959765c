//! How an EKS cluster is reached.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value as Json, json};

use crate::{loopback::is_loopback, sdk::told};

/// The file in which the configuration of an assembly's cluster is written beside it.
pub const KUBECONFIG: &str = "kubeconfig.json";

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

/// Why a cluster is not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// It is not active.
    #[error("the cluster {name} is {status}, not ACTIVE; see it in the EKS console, then run this again")]
    NotActive {
        /// Its name.
        name: String,
        /// Its status.
        status: String,
    },
    /// It has no endpoint or authority yet.
    #[error("the cluster {0} has no endpoint yet; run this again in a minute")]
    NoEndpoint(String),
    /// A token would be sent where others read it.
    #[error(
        "the API of the cluster {name} is said to be at {endpoint}, which is not reached by TLS: no token is sent there"
    )]
    NotPrivate {
        /// Its name.
        name: String,
        /// Where it is said to be.
        endpoint: String,
    },
}

/// Asks EKS; `None` when there is no such cluster.
///
/// `on_loopback` says that EKS itself is on this machine's loopback, as `--endpoint-url` names it. Only then may the
/// cluster be there without TLS; nothing in the process's environment allows that.
///
/// # Errors
///
/// What EKS says, or why the cluster is not to be reached.
pub async fn access(eks: &aws_sdk_eks::Client, name: &str, on_loopback: bool) -> Result<Option<Access>> {
    let answer = match eks.describe_cluster().name(name).send().await {
        Ok(answer) => answer,
        Err(error)
            if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(told(error, &format!("the cluster {name} cannot be looked up"))),
    };
    let cluster = answer.cluster().with_context(|| format!("EKS says nothing of the cluster {name}"))?;
    let status = cluster.status().map(|status| status.as_str()).unwrap_or_default();
    let authority = cluster.certificate_authority().and_then(|authority| authority.data());
    Ok(Some(judge(name, status, cluster.endpoint(), authority, on_loopback)?))
}

/// Whether a cluster that EKS describes so is to be reached.
fn judge(
    name: &str,
    status: &str,
    endpoint: Option<&str>,
    authority: Option<&str>,
    on_loopback: bool,
) -> Result<Access, AccessError> {
    let named = name.to_owned();
    if !matches!(status, "ACTIVE" | "UPDATING") {
        return Err(AccessError::NotActive { name: named, status: status.to_owned() });
    }
    let (Some(endpoint), Some(authority)) = (endpoint, authority) else {
        return Err(AccessError::NoEndpoint(named));
    };
    // Without an authority any certificate of a public one would do.
    let private = endpoint.starts_with("https://") && !authority.is_empty();
    if !(private || (on_loopback && is_loopback(endpoint))) {
        return Err(AccessError::NotPrivate { name: named, endpoint: endpoint.to_owned() });
    }
    Ok(Access { name: named, endpoint: endpoint.to_owned(), certificate_authority: authority.to_owned() })
}

/// The configuration for `helm` and for our own client. It holds no secret: whoever reads it calls `program` for
/// a token, which is fresh each time.
#[must_use]
pub fn kubeconfig(access: &Access, region: &str, program: &Path) -> Json {
    let mut cluster = json!({ "server": access.endpoint });
    if access.endpoint.starts_with("https://") {
        cluster["certificate-authority-data"] = json!(access.certificate_authority);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": access.name, "cluster": cluster }],
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

/// Where the configuration of an assembly's cluster is.
#[must_use]
pub fn kubeconfig_path(assembly: &Path) -> PathBuf {
    assembly.join(KUBECONFIG)
}

/// Writes the configuration beside an assembly and gives its place.
///
/// # Errors
///
/// When it cannot be written.
pub fn write_kubeconfig(access: &Access, region: &str, assembly: &Path) -> Result<PathBuf> {
    let path = kubeconfig_path(assembly);
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
    fn a_token_goes_nowhere_without_tls() {
        let judged = |endpoint: &str, authority: &str, on_loopback| {
            judge("fg", "ACTIVE", Some(endpoint), Some(authority), on_loopback)
        };
        assert!(judged("https://x.eks.amazonaws.com", "LS0t", false).is_ok());
        for (endpoint, authority, on_loopback) in [
            ("http://x.eks.amazonaws.com", "LS0t", false),
            ("http://x.eks.amazonaws.com", "LS0t", true),
            ("http://127.0.0.1:8001", "LS0t", false),
            ("https://x.eks.amazonaws.com", "", false),
        ] {
            let error = judged(endpoint, authority, on_loopback).unwrap_err();
            assert!(matches!(error, AccessError::NotPrivate { .. }), "{endpoint}");
        }
        assert!(judged("http://127.0.0.1:8001", "LS0t", true).is_ok());
    }

    #[test]
    fn a_cluster_that_is_not_ready_says_so() {
        let error = judge("fg", "CREATING", None, None, false).unwrap_err();
        assert!(error.to_string().contains("CREATING, not ACTIVE"), "{error}");
        assert_eq!(judge("fg", "ACTIVE", None, None, false), Err(AccessError::NoEndpoint("fg".to_owned())));
    }

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
