//! The whole engine over files, with a sink that stores nothing: its cost without a database.
//!
//! The sink keeps a ledger, because a load ends when the ledger covers its files. The rows are read
//! once, as a database would do, and dropped.

use std::collections::HashMap;
use std::hint::black_box;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use clap::Args;
use lemonade_task::batch::{Batch, ContentHash};
use lemonade_task::config::{Environment, Options as Flags, Settings};
use lemonade_task::coverage;
use lemonade_task::dataset::Datasets;
use lemonade_task::fault::Fault;
use lemonade_task::inbox::{Archive, Markers};
use lemonade_task::ingest::ItemOrigin;
use lemonade_task::runner;
use lemonade_task::shutdown::Shutdown;
use lemonade_task::sink::{Committed, EarlierState, NewFile, Registered, Removed, Settled, Sink};

use super::made;
use super::meter::Meter;

#[derive(Args)]
pub(super) struct Options {
    /// Folder of files
    #[arg(long)]
    files: PathBuf,
    /// The queue
    #[arg(long, default_value = "memory:")]
    broker: String,
    /// Process of Redis, for its processor time
    #[arg(long)]
    server_pid: Option<u32>,
}

pub(super) async fn measure(options: &Options) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let flags = Flags {
        data_dir: Some(folder.path().to_owned()),
        redis_url: Some(options.broker.clone()),
        ..Flags::default()
    };
    let settings = Settings::resolve(flags, &Environment::default())?;
    let shutdown = Shutdown::default();
    let opened = runner::open_to_load(&settings, None, &shutdown).await?;
    let mut engine = opened.context("nothing stops it")?;
    let sink = Arc::new(Discard::default());
    engine.sink = sink.clone();
    let (files, _) = Archive::all_of(&options.files, &Markers::default()).list()?;
    let files = files
        .into_iter()
        .map(|file| Ok((file, ItemOrigin::Archive)));

    let meter = Meter::start(options.server_pid);
    engine.load_files(Box::new(files), &shutdown).await?;
    let records = sink
        .ledger()
        .files
        .iter()
        .map(|file| u64::from(file.records))
        .sum();
    let queue = options.broker.split(':').next();
    meter.report(
        records,
        &serde_json::json!({"part": "discard", "queue": queue}),
    );
    ensure!(engine.tally.unfinished() == 0, "files are left");
    Ok(())
}

/// The stored ordinals of each file.
#[derive(Default)]
struct Ledger {
    numbers: HashMap<ContentHash, u32>,
    /// The files by number; the first has the number 1.
    files: Vec<File>,
}

struct File {
    hash: ContentHash,
    records: u32,
    stored: Vec<Range<u64>>,
}

impl Ledger {
    fn file(&mut self, file_no: u32) -> &mut File {
        &mut self.files[file_no as usize - 1]
    }
}

/// A sink that keeps only a ledger.
#[derive(Default)]
struct Discard {
    ledger: Mutex<Ledger>,
}

impl Discard {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Sink for Discard {
    fn writers(&self) -> usize {
        1
    }

    async fn register(&self, files: &[NewFile], _: &Datasets) -> Result<Vec<Registered>, Fault> {
        let mut ledger = self.ledger();
        let mut registered = Vec::with_capacity(files.len());
        for file in files {
            let known = ledger.numbers.get(&file.hash).copied();
            let file_no = known.unwrap_or(ledger.files.len() as u32 + 1);
            if known.is_none() {
                ledger.numbers.insert(file.hash, file_no);
                ledger.files.push(File {
                    hash: file.hash,
                    records: file.records,
                    stored: Vec::new(),
                });
            }
            let earlier = if known.is_some() {
                EarlierState::Pending
            } else {
                EarlierState::New
            };
            registered.push(Registered {
                file_no,
                earlier,
                registered_at_us: 0,
            });
        }
        Ok(registered)
    }

    async fn waiting(&self, _: &[u32]) -> Result<Vec<(u32, String)>, Fault> {
        Ok(Vec::new())
    }

    async fn commit(&self, batches: &[Batch]) -> Result<Committed, Fault> {
        let mut committed = Committed::default();
        for batch in batches {
            for row in made::rows(batch) {
                black_box(row);
                committed.rows += 1;
            }
            let mut ledger = self.ledger();
            let file = ledger.file(batch.span.file_no);
            coverage::insert(&mut file.stored, batch.span.ordinals());
        }
        Ok(committed)
    }

    async fn coverage(&self, file_nos: &[u32]) -> Result<Vec<Vec<Range<u64>>>, Fault> {
        let mut ledger = self.ledger();
        let stored = |file_no: &u32| ledger.file(*file_no).stored.clone();
        Ok(file_nos.iter().map(stored).collect())
    }

    async fn settle(&self, file_nos: &[u32]) -> Result<Vec<Settled>, Fault> {
        let mut ledger = self.ledger();
        let settled = |&file_no: &u32| {
            let File {
                hash,
                records,
                stored,
            } = ledger.file(file_no);
            coverage::is_whole(stored, (*records).into()).then_some(Settled {
                file_no,
                hash: *hash,
                records: *records,
                rejects: 0,
            })
        };
        Ok(file_nos.iter().filter_map(settled).collect())
    }

    async fn quarantine(&self, file: &NewFile, reason: &str) -> Result<(), Fault> {
        panic!("{} is a made file without a fault: {reason}", file.name);
    }

    async fn remove(&self, file_no: u32, _: &Datasets) -> Result<Removed, Fault> {
        panic!("file {file_no} has only one definition");
    }

    async fn end_removal(&self, _file_no: u32) -> Result<(), Fault> {
        Ok(())
    }
}
