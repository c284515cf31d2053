//! How an API server is reached.

use std::path::PathBuf;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::plugin::Plugin;
use super::renewal::Renewal;
use super::watch::words;

/// Where an API server is, and who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// What Kubernetes gives to every container.
    InCluster,
    /// A kubeconfig file.
    Kubeconfig {
        path: PathBuf,
        /// Its current context where absent.
        context: Option<String>,
    },
}

impl Access {
    /// A client, and what renews its credentials where a plugin gives them: nothing is sent, and no plugin
    /// run, before that runs.
    pub async fn client(&self) -> Result<(Client, Option<Renewal>), ConnectError> {
        let (access, runtime) = (self.clone(), Handle::current());
        // Files are read, which may be far away.
        let connect = spawn_blocking(move || runtime.block_on(access.connect()));
        match timeout(PATIENCE, connect).await {
            Ok(outcome) => outcome.map_err(|_| ConnectError::Panicked)?,
            Err(_) => Err(ConnectError::Slow),
        }
    }

    async fn connect(&self) -> Result<(Client, Option<Renewal>), ConnectError> {
        let mut config = match self {
            Self::InCluster => Config::incluster()?,
            Self::Kubeconfig { path, context } => {
                let wrong = |source| ConnectError::Kubeconfig {
                    path: path.clone(),
                    source: Box::new(source),
                };
                let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
                let options = KubeConfigOptions {
                    context: context.clone(),
                    ..KubeConfigOptions::default()
                };
                Config::from_custom_kubeconfig(kubeconfig, &options)
                    .await
                    .map_err(wrong)?
            }
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        // Whoever asks has a pause of its own before it asks again.
        config.default_retry = false;
        // kube would run its program without a limit, whenever it asks for a token.
        let provider = config.auth_info.auth_provider.as_ref();
        if provider.is_some_and(|it| it.config.contains_key("cmd-path")) {
            return Err(ConnectError::AuthProvider);
        }
        match Plugin::taken_from(&mut config.auth_info) {
            Some(plugin) => {
                let (client, renewal) = Renewal::of(config, plugin);
                Ok((client, Some(renewal)))
            }
            None => Ok((build(config)?, None)),
        }
    }
}

/// A client of what a kubeconfig says in full.
pub fn build(config: Config) -> Result<Client, ConnectError> {
    let client = ClientBuilder::try_from(config).map_err(Box::new)?;
    Ok(client.build())
}

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Not in a container of Kubernetes.
    #[error("{} (outside of a cluster, name a --kubeconfig)", words(.0))]
    InCluster(#[from] InClusterError),
    /// The file cannot be read or is wrong.
    #[error("{}: {}", path.display(), words(source))]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<KubeconfigError>,
    },
    /// What it says cannot be used.
    #[error("{}", words(.0))]
    Client(#[from] Box<kube::Error>),
    /// A file system hangs.
    #[error("the kubeconfig, or a file that it names, cannot be read within {PATIENCE:?}")]
    Slow,
    /// A program is named in a way that Kubernetes has forgotten.
    #[error("its auth-provider names a program, as Kubernetes had it before 1.26: use exec")]
    AuthProvider,
    /// A bug.
    #[error("reading the kubeconfig panicked (please report this)")]
    Panicked,
}

/// Files get so long.
const PATIENCE: Duration = Duration::from_secs(30);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Watches end after a minute at most, so whoever is silent for longer is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(75);
