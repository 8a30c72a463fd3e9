//! HTTP beside the work of a command: metrics, health and the status page.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::http::Http;
use crate::status::StatusSource;
use crate::telemetry::{self, Handle};

/// A bound address, and the metrics that it will serve.
pub(super) struct Served {
    http: Http,
    metrics: Handle,
}

impl Served {
    /// Begins to record metrics, and binds the address.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(super) async fn bind(
        settings: &Settings,
        addr: SocketAddr,
        keeps_summary: bool,
    ) -> anyhow::Result<Self> {
        let metrics = telemetry::install();
        telemetry::begin_at_zero(&settings.datasets);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        telemetry::begin(now.unwrap_or_default(), settings.roles.work, keeps_summary);
        let http = Http::bind(addr, settings.http_hosts.0.clone()).await?;
        tracing::info!(addr = %http.addr()?, "http");
        Ok(Self { http, metrics })
    }

    /// Runs the work and answers until it ends, so that users can watch the end. Without an address
    /// (`served` is `None`), runs the work alone.
    pub(super) async fn beside<T>(
        served: Option<Self>,
        source: Arc<dyn StatusSource>,
        work: impl Future<Output = T>,
    ) -> T {
        let Some(Self { http, metrics }) = served else {
            return work.await;
        };
        let ended = CancellationToken::new();
        let page = http.serve(metrics, source, ended.clone());
        let work = async {
            let result = work.await;
            ended.cancel();
            result
        };
        tokio::join!(work, page).0
    }
}
