//! Creates an engine from settings: connects to queue and database, and opens the directories.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use super::engine::{Engine, EngineOptions};
use super::nodes::{LOAD, Member};
use crate::broker::{self, BrokerOptions};
use crate::config::{HardLinks, HistoryCompression, HistoryLayout, Settings, redacted};
use crate::content::{ContentOptions, Windows};
use crate::cut::ChunkLimits;
use crate::dataset::Dataset;
use crate::fault::{Fault, Origin};
use crate::inbox::{Inbox, Patience};
use crate::ingest::IngestOptions;
use crate::restore::Neighbours;
use crate::shutdown::Shutdown;
use crate::sink::{self, Replicas};

/// Opens the directories, connects to the database of the settings, creates or updates its tables, and
/// connects to the queue. If `dataset` is given, all files are loaded as this dataset.
/// `incomplete_may_wait` is that of [`IngestOptions`].
///
/// # Errors
/// Transient if queue or database cannot be reached now. Fatal if a new attempt would fail as well.
/// Those of [`Schema::migrate`](crate::sink::Schema::migrate).
pub async fn open(
    settings: &Settings,
    dataset: Option<&Arc<Dataset>>,
    incomplete_may_wait: bool,
) -> Result<Engine, Fault> {
    if let Some(note) = settings.embedded_note() {
        tracing::info!("{note}");
    }
    let mut patience = patience(settings);
    if !incomplete_may_wait {
        // A load does not wait for the rest of an incomplete document.
        patience.incomplete_after = Duration::ZERO;
    }
    let is_new = expect_inbound(settings)?;
    let name = settings.node_name();
    let inbox = Arc::new(Inbox::open(settings.dirs.clone(), patience, &name)?);
    if is_new {
        let inbound = settings.dirs.inbound.display();
        tracing::info!("{inbound} did not exist and is created: files arrive there");
    }
    inbox.set_markers(settings.markers());
    inbox.set_by_day(settings.history_layout == HistoryLayout::Day);
    // A queue in this process takes memory of the same budget as the stages.
    let queue_bytes_max = if settings.broker_url.starts_with("memory:") {
        settings
            .queue_bytes_max
            .min(settings.memory_budget_bytes / 2)
    } else {
        settings.queue_bytes_max
    };
    let replicas = settings.replica_url.as_deref().map(Replicas::new);
    let replicas = replicas.transpose()?.map(Arc::new);
    let database = sink::open(&settings.database_url, &settings.sink_options()).await?;
    database.migrate(&settings.datasets).await?;
    let broker_options = BrokerOptions {
        queue_bytes_max,
        ..settings.queue_options(database.frame_key().await?)
    };
    let broker = broker::open(&settings.broker_url, &broker_options, &settings.datasets).await?;
    // A service without this role only holds its name.
    let takes_files = !incomplete_may_wait || settings.roles.ingest;
    let roles = if incomplete_may_wait {
        settings.roles.to_string()
    } else {
        LOAD.to_owned()
    };
    // Last, so that a start that fails or is stopped seldom leaves a row in the ledger.
    let member = Member::join(database.clone(), &inbox, &name, roles, takes_files).await?;
    let options = EngineOptions {
        node: name,
        roles: settings.roles,
        database: redacted(&settings.database_url),
        queue: redacted(&settings.broker_url),
        workers: settings.workers,
        ingest: IngestOptions {
            chunk: ChunkLimits {
                records: settings.frame_records,
                bytes: settings.frame_bytes,
            },
            budget_bytes: settings.memory_budget_bytes / 4,
            content: ContentOptions {
                spill_dir: settings.dirs.work.clone(),
                spill_floor_bytes: settings.disk_floor_bytes,
                windows: Windows::new(settings.memory_budget_bytes),
                ..ContentOptions::default()
            },
            dataset: dataset.cloned(),
            incomplete_may_wait,
            rehash: false,
            // A service says what becomes of each file; a load counts what was stored.
            names_stored: incomplete_may_wait,
            // A load tells of them at its end.
            tells_unmet: incomplete_may_wait,
        },
        scan_interval: settings.scan_interval,
        replicas,
        summary_every: settings.summary_every,
        compacts_history: settings.history_compression == HistoryCompression::Zstd,
        history_limits: settings.history_limits,
        disk_floor_bytes: settings.disk_floor_bytes,
    };
    let mut engine = Engine::new(
        broker,
        database.clone(),
        Some(database.clone()),
        settings.datasets.clone(),
        inbox,
        options,
    );
    engine.neighbours = Some(Arc::new(Neighbours {
        settings: settings.clone(),
        database,
    }));
    engine.set_limits(settings);
    engine.membership = member.live(settings.roles.summary && incomplete_may_wait);
    Ok(engine)
}

/// Whether inbound, which the settings name outside of the data directory, does not exist yet.
///
/// # Errors
/// Fatal: the directory above it does not exist either.
fn expect_inbound(settings: &Settings) -> Result<bool, Fault> {
    let Settings { dirs, data_dir, .. } = settings;
    if let Some(parent) = dirs.missing_parent(data_dir) {
        let doing = format!("inbound is {}", dirs.inbound.display());
        let why = format!("there is no directory {}", parent.display());
        let why = std::io::Error::new(ErrorKind::NotFound, why);
        return Err(Fault::fatal(Origin::Files, doing, why).with_next_step(
            "correct the path (--inbound, LEMONADE_INBOUND, SRC_PATH, or `inbound` in the settings \
             file), or create the directory",
        ));
    }
    Ok(!dirs.has_inbound_in(data_dir) && !dirs.inbound.exists())
}

/// How long files wait, by the settings.
fn patience(settings: &Settings) -> Patience {
    Patience {
        quiet_time: settings.quiet_time,
        incomplete_after: settings.incomplete_after,
        one_name: settings.hard_links == HardLinks::Wait,
    }
}

impl Engine {
    /// Applies the settings that can change while a service runs: [`Settings::RELOADED`].
    pub fn reload(&self, settings: &Settings) {
        self.inbox.set_patience(patience(settings));
        self.inbox.set_markers(settings.markers());
        self.set_limits(settings);
        *self.scan_interval.lock() = settings.scan_interval;
    }

    fn set_limits(&self, settings: &Settings) {
        self.pace.set(settings.max_records_per_second);
        *self.max_replica_lag.lock() = settings.max_replica_lag;
    }
}

/// Opens an engine for a load. `None` if the shutdown began first.
///
/// # Errors
/// Those of [`open`].
pub async fn open_to_load(
    settings: &Settings,
    dataset: Option<&Arc<Dataset>>,
    shutdown: &Shutdown,
) -> Result<Option<Engine>, Fault> {
    let opening = Box::pin(open(settings, dataset, false));
    shutdown.unless_draining(opening).await
}
