//! `run`: the service.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;

use super::{Outcome, systemd};
use crate::config::cli::RunArgs;
use crate::config::{Settings, redacted};
use crate::fault::Fault;
use crate::http::{Http, StatusSource};
use crate::inbox;
use crate::retry::{GivenUp, until_ok};
use crate::runner::{self, Engine, Journal, Stop};
use crate::status::Status;
use crate::telemetry;

/// Runs the command: until a signal.
///
/// # Errors
/// A fatal fault, or an address that HTTP cannot have.
pub(super) async fn execute(settings: Settings, _args: RunArgs) -> anyhow::Result<Outcome> {
    let http = match settings.http_addr {
        Some(addr) => {
            let metrics = telemetry::install();
            telemetry::begin_at_zero(&settings.datasets);
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let roles = settings.roles;
            let keeps_summary = roles.summary && settings.summary_every.is_some();
            telemetry::begin(now.unwrap_or_default(), roles.work, keeps_summary);
            let http = Http::bind(addr).await?;
            tracing::info!(addr = %http.addr()?, "http");
            Some((http, metrics))
        }
        // Without an address nobody can ask for metrics, so none are kept.
        None => None,
    };
    let stop = Stop::on_signals(settings.drain_timeout)?;
    let service = Arc::new(Service::new(&settings));
    let page = async {
        match http {
            Some((http, metrics)) => {
                http.serve(metrics, service.clone(), stop.quiet.clone())
                    .await
            }
            None => Ok(()),
        }
    };
    let work = async {
        tokio::try_join!(async { anyhow::Ok(page.await?) }, async {
            Ok(service.serve(&settings, &stop).await?)
        })
    };
    tokio::select! {
        ended = work => ended?,
        () = systemd::keep_told(service.as_ref(), &stop.quiet) => unreachable!("it never ends"),
    };
    tracing::info!("stopped; nothing is lost, the next start goes on");
    Ok(Outcome::Complete)
}

/// The engine, and what there is to tell before it is connected.
struct Service {
    engine: OnceLock<Engine>,
    before: Status,
    journal: Mutex<Journal>,
}

impl Service {
    fn new(settings: &Settings) -> Self {
        let roles = settings.roles.names().into_iter();
        let before = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            running: true,
            reason: Some("connecting".to_owned()),
            roles: roles.map(str::to_owned).collect(),
            inbound: inbox::canonical(&settings.dirs.inbound),
            work: inbox::canonical(&settings.dirs.work),
            database: redacted(&settings.database_url),
            broker: redacted(&settings.broker_url),
            ..Status::default()
        };
        Self {
            engine: OnceLock::new(),
            before,
            journal: Mutex::default(),
        }
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn before(&self) -> Status {
        let mut status = self.before.clone();
        self.journal().tell(&mut status);
        status.conclude();
        status
    }

    /// Connects, however long that takes, and works until stopped.
    async fn serve(&self, settings: &Settings, stop: &Stop) -> Result<(), Fault> {
        let open = || async {
            let engine = runner::open(settings, None, true).await?;
            engine.sink.migrate(&engine.datasets).await?;
            Ok(engine)
        };
        let opened = until_ok(
            "connecting",
            &stop.quiet,
            |fault| self.journal().note_fault(fault),
            open,
        );
        let engine = match opened.await {
            Ok(engine) => self.begin(engine),
            Err(GivenUp::Stopped) => return Ok(()),
            Err(GivenUp::Fatal(fault)) => return Err(fault),
        };
        tracing::info!(inbound = %settings.dirs.inbound.display(), "ready");
        let observe = async {
            if settings.http_addr.is_none() {
                std::future::pending::<()>().await;
            }
            engine.observe().await;
        };
        tokio::select! {
            ended = engine.serve(stop) => ended,
            () = Box::pin(observe) => unreachable!("it never ends"),
        }
    }

    fn begin(&self, engine: Engine) -> &Engine {
        let mut journal = std::mem::take(&mut *self.journal());
        journal.note_well();
        engine.remember(journal);
        self.engine.get_or_init(|| engine)
    }
}

impl systemd::Told for Service {
    fn ready(&self) -> Result<(), String> {
        StatusSource::ready(self)
    }

    fn turned_within(&self, time: Duration) -> bool {
        let engine = self.engine.get();
        engine.is_some_and(|engine| engine.turned_within(time))
    }
}

#[async_trait]
impl StatusSource for Service {
    fn ready(&self) -> Result<(), String> {
        match self.engine.get() {
            Some(engine) => engine.ready(),
            None => self.before().reason.map_or(Ok(()), Err),
        }
    }

    async fn status(&self) -> Status {
        match self.engine.get() {
            Some(engine) => engine.status().await,
            None => self.before(),
        }
    }
}
