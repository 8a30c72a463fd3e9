//! `run`: the service.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::served::Reported;
use super::{Outcome, ending, reload, systemd};
use crate::config::{Settings, redacted};
use crate::fault::Fault;
use crate::inbox;
use crate::retry::{GivenUp, until_ok};
use crate::runner::{self, Engine, Journal};
use crate::shutdown::Shutdown;
use crate::status::{Status, StatusSource};

/// Runs the command until a signal stops it.
///
/// # Errors
/// A fatal fault, or an HTTP address that cannot be bound.
pub(super) async fn execute(settings: Settings) -> anyhow::Result<Outcome> {
    let keeps_summary = settings.roles.summary && settings.summary_every.is_some();
    let takes_files = settings.roles.ingest;
    let reported =
        Reported::begin(&settings, settings.http_addr, keeps_summary, takes_files).await?;
    let shutdown = ending::of_service(settings.drain_timeout)?;
    let hangups = reload::signals()?;
    let service = Arc::new(Service::new(&settings, shutdown.drain.clone()));
    let work = Box::pin(service.serve(&settings, &shutdown));
    let work = reported.beside(service.clone(), &shutdown.abort, work);
    let ready = || StatusSource::ready(service.as_ref());
    let turned = |time| service.turned_within(time);
    let reload = reload::on_signals(&settings, hangups, |settings| service.reload(settings));
    tokio::select! {
        ended = work => ended?,
        () = reload => unreachable!("it never ends"),
        () = systemd::report_state(ready, turned, &shutdown.drain) => unreachable!("it never ends"),
    };
    tracing::info!("stopped; nothing is lost, the next start continues");
    Ok(Outcome::Complete)
}

/// The engine, and the status of the service before the engine is connected.
struct Service {
    engine: OnceLock<Engine>,
    before: Status,
    journal: Mutex<Journal>,
    quiet: CancellationToken,
    /// The settings of a reload that arrived before the engine was open.
    reloaded: Mutex<Option<Settings>>,
}

impl Service {
    fn new(settings: &Settings, quiet: CancellationToken) -> Self {
        let roles = settings.roles.names().into_iter();
        let before = Status {
            version: crate::version::VERSION.to_owned(),
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
            quiet,
            reloaded: Mutex::default(),
        }
    }

    fn reload(&self, settings: Settings) {
        match self.engine.get() {
            Some(engine) => engine.reload(&settings),
            None => *self.reloaded.lock() = Some(settings),
        }
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock()
    }

    fn before(&self) -> Status {
        let mut status = self.before.clone();
        self.journal().report(&mut status);
        status.conclude();
        status
    }

    /// Connects, retrying until the servers answer, and works until stopped.
    async fn serve(&self, settings: &Settings, shutdown: &Shutdown) -> Result<(), Fault> {
        let open = || runner::open(settings, None, true);
        let opened = until_ok(
            "connecting",
            &shutdown.drain,
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
            if settings.http_addr.is_none() && settings.otlp_url.is_none() {
                std::future::pending::<()>().await;
            }
            engine.observe().await;
        };
        tokio::select! {
            ended = engine.serve(shutdown) => ended,
            () = Box::pin(observe) => unreachable!("it never ends"),
        }
    }

    fn begin(&self, engine: Engine) -> &Engine {
        let mut journal = std::mem::take(&mut *self.journal());
        journal.note_well();
        engine.remember(journal);
        let engine = self.engine.get_or_init(|| engine);
        if let Some(settings) = self.reloaded.lock().take() {
            engine.reload(&settings);
        }
        engine
    }

    /// Whether the main loop of the engine ran within this time.
    fn turned_within(&self, time: Duration) -> bool {
        let engine = self.engine.get();
        engine.is_some_and(|engine| engine.turned_within(time))
    }
}

#[async_trait]
impl StatusSource for Service {
    fn ready(&self) -> Result<(), String> {
        if self.quiet.is_cancelled() {
            return Err("stopping: finishes the frames in flight".to_owned());
        }
        match self.engine.get() {
            Some(engine) => engine.ready(),
            None => self.before().reason.map_or(Ok(()), Err),
        }
    }

    fn work(&self) -> String {
        self.before.work.clone()
    }

    async fn status(&self) -> Status {
        match self.engine.get() {
            Some(engine) => engine.status().await,
            None => self.before(),
        }
    }
}
