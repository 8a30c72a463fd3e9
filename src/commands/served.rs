//! HTTP beside the work of a command: metrics, health and the status page.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::console::OperatorConsole;
use crate::config::{ConfigError, Settings};
use crate::http::{Allowed, Http};
use crate::otlp::{self, Otlp};
use crate::status::StatusSource;
use crate::telemetry::{self, Handle};

/// Begins to record metrics.
pub(super) fn record(settings: &Settings, keeps_summary: bool) -> Handle {
    let metrics = telemetry::install();
    telemetry::begin_at_zero(&settings.datasets);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    telemetry::begin(now, settings.roles.work, keeps_summary);
    // Before the ledger is read, the newest file counts as settled now: else no alert would report a
    // dataset whose first file never comes.
    for dataset in settings.datasets.iter() {
        if let Some(every) = dataset.expected_every {
            telemetry::expected_every(&dataset.name, every.length());
            let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            telemetry::last_settled(&dataset.name, now);
        }
    }
    metrics
}

/// What a command reports to other programs while it works.
pub(super) struct Reported {
    served: Option<Served>,
    sent: Option<Otlp>,
}

impl Reported {
    /// Binds `addr`, and reads the settings of the receiver of metrics and traces. Begins to record
    /// metrics if one of the two is set. `takes_files` is that of [`Allowed`].
    ///
    /// # Errors
    /// The address cannot be bound, or the receiver cannot be used.
    pub(super) async fn begin(
        settings: &Settings,
        addr: Option<SocketAddr>,
        keeps_summary: bool,
        takes_files: bool,
    ) -> anyhow::Result<Self> {
        if addr.is_none() && settings.otlp_url.is_none() {
            return Ok(Self {
                served: None,
                sent: None,
            });
        }
        let metrics = record(settings, keeps_summary);
        let sent = settings.otlp_url.as_ref().map(|url| {
            let headers = settings.otlp_headers_file.as_deref();
            let node = settings.node_name();
            Otlp::new(url, headers, &node, metrics.clone()).map_err(ConfigError::new)
        });
        let sent = sent.transpose()?;
        let served = match addr {
            Some(addr) => Some(Served::bind(settings, addr, metrics, takes_files).await?),
            None => None,
        };
        Ok(Self { served, sent })
    }

    /// Whether metrics are recorded.
    pub(super) fn is_on(&self) -> bool {
        self.served.is_some() || self.sent.is_some()
    }

    /// Runs the work, and reports until it ends.
    pub(super) async fn beside<T>(
        self,
        source: Arc<dyn StatusSource>,
        abort: &CancellationToken,
        work: impl Future<Output = T>,
    ) -> T {
        let work = Served::beside(self.served, source, work);
        Otlp::beside(self.sent, abort, work).await
    }
}

/// A bound address, and the metrics that it will serve.
pub(super) struct Served {
    http: Http,
    console: Arc<OperatorConsole>,
    metrics: Handle,
}

impl Served {
    /// Binds the address, at which these metrics will be served. `takes_files` is that of
    /// [`Allowed`].
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(super) async fn bind(
        settings: &Settings,
        addr: SocketAddr,
        metrics: Handle,
        takes_files: bool,
    ) -> anyhow::Result<Self> {
        let allowed = Allowed {
            actions: settings.http_actions,
            secret: secret(settings)?,
            takes_files,
        };
        let http = Http::bind(addr, settings.http_hosts.0.clone(), allowed).await?;
        tracing::info!(addr = %http.addr()?, actions = settings.http_actions, "http");
        let console = Arc::new(OperatorConsole::new(settings));
        Ok(Self {
            http,
            console,
            metrics,
        })
    }

    /// Runs the work and answers until it ends, so that users can watch the end. Without an address
    /// (`served` is `None`), runs the work alone.
    pub(super) async fn beside<T>(
        served: Option<Self>,
        source: Arc<dyn StatusSource>,
        work: impl Future<Output = T>,
    ) -> T {
        let Some(Self {
            http,
            console,
            metrics,
        }) = served
        else {
            return work.await;
        };
        let ended = CancellationToken::new();
        let page = http.serve(metrics, source, console, ended.clone());
        let work = async {
            let result = work.await;
            ended.cancel();
            result
        };
        tokio::join!(work, page).0
    }
}

/// Why a service would not start with the files of `http_token_file` and `otlp_headers_file`.
pub(super) fn unusable_files(settings: &Settings) -> Vec<anyhow::Error> {
    let token = settings.http_addr.and_then(|_| secret(settings).err());
    let receiver = settings.otlp_url.as_deref().and_then(|url| {
        let headers = settings.otlp_headers_file.as_deref();
        let problem = otlp::check(url, headers).err()?;
        Some(ConfigError::new(problem).into())
    });
    token.into_iter().chain(receiver).collect()
}

/// Fewest bytes of a secret. A shorter one can be guessed by trying.
const SECRET_BYTES_MIN: usize = 16;

/// The secret of `http_token_file`, without the blanks around it.
///
/// # Errors
/// The file cannot be read, or its text is too short.
fn secret(settings: &Settings) -> anyhow::Result<Option<String>> {
    let Some(path) = &settings.http_token_file else {
        return Ok(None);
    };
    let shown = path.display();
    let unusable = |problem: String| {
        ConfigError::new(format!(
            "http_token_file: {shown}{problem}: write a random text of at least \
             {SECRET_BYTES_MIN} bytes into it, for example by `openssl rand -hex 16`"
        ))
    };
    let text = match std::fs::read_to_string(path) {
        // Its exit code is that of every file that this user may not read.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(error).with_context(|| format!("http_token_file: {shown}"));
        }
        read => read.map_err(|error| unusable(format!(": {error}")))?,
    };
    let secret = text.trim();
    if secret.len() < SECRET_BYTES_MIN {
        return Err(unusable(format!(" has {} bytes", secret.len())).into());
    }
    Ok(Some(secret.to_owned()))
}
