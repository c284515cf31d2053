//! The flags of `run` that name Kubernetes clusters.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::{ArgAction, Args as ClapArgs};
use sni_router_core::model::Cluster;

use crate::source::kubernetes::{Access, Scope, Settings, Writing};

/// Where objects are read from the Kubernetes API.
#[derive(ClapArgs, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesArgs {
    /// Read Listeners, Ingresses, Services, EndpointSlices, TLS Secrets (not their keys) from the
    /// Kubernetes API: of the cluster this runs in, unless --kubeconfig or --cluster names others
    #[arg(long, conflicts_with = "manifests")]
    kubernetes: bool,

    /// Reach the API server as this file says, instead of as a container of the cluster
    #[arg(
        long,
        value_name = "FILE",
        requires = "kubernetes",
        conflicts_with = "manifests"
    )]
    kubeconfig: Option<PathBuf>,

    /// The context of --kubeconfig [default: its current one]
    #[arg(
        long,
        value_name = "NAME",
        requires = "kubeconfig",
        conflicts_with = "manifests"
    )]
    context: Option<String>,

    /// Read only objects of this namespace (repeatable) [default: all]
    #[arg(
        long = "watch-namespace",
        value_name = "NS",
        requires = "kubernetes",
        conflicts_with = "manifests"
    )]
    watch_namespaces: Vec<String>,

    /// Read only Listeners with these labels, as `team=edge`
    #[arg(
        long,
        value_name = "SELECTOR",
        requires = "kubernetes",
        conflicts_with = "manifests"
    )]
    listener_selector: Option<String>,

    /// Read only Ingresses with these labels, as `team in (a, b)`
    #[arg(
        long,
        value_name = "SELECTOR",
        requires = "kubernetes",
        conflicts_with = "manifests"
    )]
    ingress_selector: Option<String>,

    /// Serve classes of NetScaler's controller (citrix.com/ingress-controller) as well, not only those
    /// of sni-router.io/ingress-controller. Not beside a NetScaler that serves them
    #[arg(long, requires = "kubernetes", conflicts_with = "manifests")]
    citrix_class: bool,

    /// Read this cluster too, as its kubeconfig says (repeatable). Clusters know nothing of each
    /// other: one that is lost, restarted or emptied changes nothing of another
    #[arg(long = "cluster", value_name = "NAME=KUBECONFIG[#CONTEXT]", value_parser = named_cluster, requires = "kubernetes", conflicts_with = "manifests")]
    clusters: Vec<NamedCluster>,

    /// Read the clusters of these kubeconfigs too. The file's name is the cluster's; files may come
    /// and go while the router runs
    #[arg(
        long,
        value_name = "DIR",
        requires = "kubernetes",
        conflicts_with = "manifests"
    )]
    clusters_dir: Option<PathBuf>,

    /// Drop the objects of a cluster whose API server has not answered for so long. Its endpoints may
    /// well live on, and those that do not are passed over [default: never]
    #[arg(long, value_name = "TIME", requires = "kubernetes", conflicts_with = "manifests", value_parser = super::run::duration)]
    cluster_stale_after: Option<Duration>,

    /// Namespace of the Lease by which one router of each cluster is chosen to write status and events
    /// [default: the namespace of the router, or of the kubeconfig's context]
    #[arg(
        long,
        value_name = "NS",
        requires = "kubernetes",
        conflicts_with = "manifests"
    )]
    lease_namespace: Option<String>,

    /// Name of that Lease. Routers of the same Lease are one installation: another one beside it in the
    /// cluster needs another namespace or another name, and classes of its own
    #[arg(long, value_name = "NAME", default_value = "sni-router", value_parser = lease_name, conflicts_with = "manifests")]
    lease_name: String,

    /// Whether VIPs are written to the status of Ingresses, where external-dns and others read them
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, conflicts_with = "manifests")]
    update_ingress_status: bool,

    /// Where the last good state is kept, without private keys, for a start without the API server;
    /// `none` for nowhere
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/sni-router",
        conflicts_with = "manifests"
    )]
    cache_dir: PathBuf,
}

impl KubernetesArgs {
    /// What was asked for; `None` if nothing. `secrets` says whether Secrets are read.
    pub fn settings(&self, local: Option<&Cluster>, secrets: bool) -> Result<Option<Settings>> {
        if !self.kubernetes {
            return Ok(None);
        }
        Ok(Some(Settings {
            clusters: self.clusters(local)?,
            clusters_dir: self.clusters_dir.clone(),
            scope: Scope {
                namespaces: self.watch_namespaces.clone(),
                listeners: self.listener_selector.clone(),
                ingresses: self.ingress_selector.clone(),
                secrets,
            },
            writing: Writing {
                lease_namespace: self.lease_namespace.clone(),
                lease_name: self.lease_name.clone(),
                identity: identity(),
                with_ingresses: self.update_ingress_status,
            },
            cache_dir: Some(self.cache_dir.clone()).filter(|dir| dir.as_os_str() != "none"),
            stale_after: self.cluster_stale_after,
        }))
    }

    /// Whether classes of NetScaler's controller are served.
    pub fn citrix_class(&self) -> bool {
        self.citrix_class
    }

    fn clusters(&self, local: Option<&Cluster>) -> Result<Vec<(Cluster, Access)>> {
        let mut clusters: Vec<(Cluster, Access)> = Vec::new();
        for NamedCluster { name, access } in &self.clusters {
            if clusters.iter().any(|(known, _)| known == name) {
                bail!("--cluster {name} is there twice");
            }
            clusters.push((name.clone(), access.clone()));
        }
        let own = match &self.kubeconfig {
            Some(path) => Access::Kubeconfig {
                path: path.clone(),
                context: self.context.clone(),
            },
            None => Access::InCluster,
        };
        let is_among_others = local.is_some_and(|local| {
            let directory = self.clusters_dir.as_ref();
            clusters.iter().any(|(name, _)| name == local)
                || directory.is_some_and(|dir| dir.join(local.as_str()).exists())
        });
        let has_others = !clusters.is_empty() || self.clusters_dir.is_some();
        match (local, has_others) {
            (Some(_), _) if is_among_others && self.kubeconfig.is_some() => {
                bail!("--local-cluster is one of the other clusters, so --kubeconfig has no name")
            }
            (Some(_), _) if is_among_others => {}
            (Some(local), _) => clusters.insert(0, (local.clone(), own)),
            (None, false) => clusters.push((Cluster::default(), own)),
            (None, true) if self.kubeconfig.is_some() => {
                bail!("--kubeconfig needs a name beside other clusters: add --local-cluster NAME")
            }
            (None, true) => {}
        }
        Ok(clusters)
    }
}

/// The host's name for people to read, and what tells two routers of one host apart.
fn identity() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nonce = since.unwrap_or_default().subsec_nanos();
    format!("{}_{}_{nonce:08x}", host.trim(), std::process::id())
}

/// A DNS label. With a namespace it must also fit into the name of a field manager, of 128 characters.
fn lease_name(text: &str) -> Result<String, String> {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_label = text.chars().all(is_inner) && !text.starts_with('-') && !text.ends_with('-');
    match text.len() {
        1..=LEASE_NAME_MOST if is_label => Ok(text.to_owned()),
        _ => Err(format!(
            "write small letters, digits and dashes between them, {LEASE_NAME_MOST} at most"
        )),
    }
}

/// As long as the name of a release of Helm.
const LEASE_NAME_MOST: usize = 53;

/// Of a flag: `NAME=KUBECONFIG[#CONTEXT]`.
#[derive(Clone, Debug)]
struct NamedCluster {
    name: Cluster,
    access: Access,
}

fn named_cluster(text: &str) -> Result<NamedCluster, String> {
    let (name, rest) = text
        .split_once('=')
        .ok_or("write NAME=KUBECONFIG or NAME=KUBECONFIG#CONTEXT")?;
    let (path, context) = match rest.split_once('#') {
        Some((path, context)) => (path, Some(context.to_owned())),
        None => (rest, None),
    };
    if path.is_empty() {
        return Err("names no kubeconfig".into());
    }
    Ok(NamedCluster {
        name: name.parse().map_err(|error| format!("{name:?} {error}"))?,
        access: Access::Kubeconfig {
            path: path.into(),
            context,
        },
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[arg(long)]
        manifests: Option<PathBuf>,
        #[arg(long)]
        local_cluster: Option<Cluster>,
        #[command(flatten)]
        kubernetes: KubernetesArgs,
    }

    fn clusters(flags: &str) -> Result<Vec<String>> {
        let flags = flags.split_whitespace();
        let command =
            Command::try_parse_from(["sni-router", "--kubernetes"].into_iter().chain(flags))?;
        assert!(command.manifests.is_none());
        let settings = command
            .kubernetes
            .settings(command.local_cluster.as_ref(), true)?
            .unwrap();
        Ok(settings
            .clusters
            .iter()
            .map(|(name, access)| match (name, access) {
                (name, Access::InCluster) => format!("{name} here"),
                (name, Access::Kubeconfig { path, context }) => {
                    format!("{name} {} {context:?}", path.display())
                }
            })
            .collect())
    }

    #[test]
    fn clusters_are_those_that_are_named() {
        assert_eq!(clusters("").unwrap(), [" here"]);
        assert_eq!(
            clusters("--kubeconfig a --context b").unwrap(),
            [" a Some(\"b\")"]
        );
        assert_eq!(
            clusters("--cluster east=a#b --cluster west=c --local-cluster west").unwrap(),
            ["east a Some(\"b\")", "west c None"]
        );
        assert_eq!(
            clusters("--cluster east=a --local-cluster home").unwrap(),
            ["home here", "east a None"]
        );
        assert_eq!(clusters("--cluster east=a").unwrap(), ["east a None"]);
    }

    #[test]
    fn clusters_that_cannot_be_told_apart_are_refused() {
        for flags in [
            "--cluster east=a --cluster east=b",
            "--cluster east=a --kubeconfig b",
            "--cluster east=a --kubeconfig b --local-cluster east",
            "--cluster East=a",
            "--cluster east",
            "--cluster east=",
            "--manifests dir",
            "--context b",
            "--lease-name Edge",
            "--lease-name edge-",
            "--lease-name edge/a",
            "--lease-name a23456789012345678901234567890123456789012345678901234",
        ] {
            assert!(clusters(flags).is_err(), "{flags}");
        }
    }

    #[test]
    fn flags_have_no_place_beside_manifests() {
        for flag in [
            "--kubernetes",
            "--kubeconfig=a",
            "--context=a",
            "--watch-namespace=a",
            "--listener-selector=a=b",
            "--ingress-selector=a=b",
            "--citrix-class",
            "--cluster=a=b",
            "--clusters-dir=a",
            "--cluster-stale-after=1h",
            "--lease-namespace=a",
            "--lease-name=a",
            "--update-ingress-status=false",
            "--cache-dir=a",
        ] {
            let error = Command::try_parse_from(["sni-router", "--manifests=dir", flag]);
            let error = error.err().expect(flag).to_string();
            let (name, _) = flag.split_once('=').unwrap_or((flag, ""));
            assert!(
                error.contains("--manifests <MANIFESTS>") && error.contains(name),
                "{flag}: {error}"
            );
            assert!(error.lines().count() < 6, "names more: {error}");
        }
        assert!(Command::try_parse_from(["sni-router", "--manifests=dir"]).is_ok());
    }
}
