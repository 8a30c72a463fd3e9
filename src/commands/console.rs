//! The console of the pages: reads as `files` and `rejects` read, and actions by the code of the
//! commands.
//!
//! It has a connection of its own to the database, opened by the first request, so that its reads
//! never take one of the stages. Requests that need it wait for each other, and none waits longer
//! than [`ANSWER_TIMEOUT`]. Reading files is done on threads for blocking work.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OnceCell};
use tokio::task::spawn_blocking;

use super::output::captured;
use super::reject_reader::{KnownFiles, Texts, find_reject};
use super::{Outcome, database, files, pause, repair, replay, status, verify};
use crate::batch::provenance;
use crate::config::Settings;
use crate::console::{
    Action, Console, FileView, FilesPage, FilesQuery, PAGE_ROWS, RejectView, RejectsPage,
    RejectsQuery, SEARCHED_MAX,
};
use crate::coverage;
use crate::parse;
use crate::sink::{Database, FileState, LedgerFile, OpenReject, RejectQuery};

/// Longest wait for the database, so that a page says that it does not answer before the browser
/// gives up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Files or rejects read at a time. A reject holds at most 8 KiB of its record.
const READ_ROWS: usize = 500;

/// Rejects that the counts by field read, and the number of their groups.
const COUNTED_MAX: usize = 10_000;
const GROUPS_MAX: usize = 50;

/// Largest file that is read for the text of a record. A larger one would keep a disk busy for
/// seconds; `rejects show` reads it.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// The implementation of [`Console`].
pub(super) struct OperatorConsole {
    settings: Arc<Settings>,
    database: OnceCell<Arc<dyn Database>>,
    /// One request reads at a time.
    reading: Mutex<()>,
    /// One text at a time is read from a file.
    reading_text: Mutex<()>,
    /// One action at a time.
    acting: Arc<Mutex<()>>,
}

impl OperatorConsole {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            settings: Arc::new(settings.clone()),
            database: OnceCell::new(),
            reading: Mutex::default(),
            reading_text: Mutex::default(),
            acting: Arc::default(),
        }
    }

    /// The database, which the first call opens.
    async fn database(&self) -> anyhow::Result<&Arc<dyn Database>> {
        let open = || database::open_existing(&self.settings);
        self.database.get_or_try_init(open).await
    }

    /// Runs reads of the database, one request after the other, within [`ANSWER_TIMEOUT`].
    async fn read<T>(&self, reads: impl Future<Output = anyhow::Result<T>>) -> Result<T, String> {
        let read = async {
            let _turn = self.reading.lock().await;
            reads.await
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, read).await {
            Ok(answer) => answer.map_err(|error| format!("{error:#}")),
            Err(_) => Err(format!(
                "no answer from the database within {} s",
                ANSWER_TIMEOUT.as_secs()
            )),
        }
    }
}

#[async_trait]
impl Console for OperatorConsole {
    async fn files(&self, query: &FilesQuery) -> Result<FilesPage, String> {
        self.read(async { find_files(self.database().await?.as_ref(), query).await })
            .await
    }

    async fn file(&self, file_no: u32) -> Result<Option<FileView>, String> {
        self.read(async {
            let database = self.database().await?;
            let Some(file) = database::ledger_file(database.as_ref(), file_no).await? else {
                return Ok(None);
            };
            let stored = match file.entry.state {
                FileState::Settled => u64::from(file.entry.records),
                _ => coverage::len(&database.coverage(&[file_no]).await?.remove(0)),
            };
            let query = RejectQuery {
                file_no: Some(file_no),
                ..RejectQuery::default()
            };
            let rejects = database.find_rejects(&query, PAGE_ROWS).await?;
            Ok(Some(FileView {
                file,
                stored,
                rejects,
            }))
        })
        .await
    }

    async fn rejects(&self, query: &RejectsQuery) -> Result<RejectsPage, String> {
        self.read(async { find_rejects(self.database().await?.as_ref(), query).await })
            .await
    }

    async fn reject(&self, id: u64, with_text: bool) -> Result<Option<RejectView>, String> {
        let (file_no, ordinal) = provenance(id);
        let found = self
            .read(async {
                let database = self.database().await?;
                let reject = find_reject(database.as_ref(), file_no, ordinal).await?;
                let file = database::ledger_file(database.as_ref(), file_no).await?;
                Ok(reject.map(|reject| (reject, file, database.clone())))
            })
            .await?;
        let Some((reject, file, database)) = found else {
            return Ok(None);
        };
        let text = match &file {
            _ if !with_text => None,
            None => Some(Err("the ledger does not have its file".to_owned())),
            Some(file) => Some(self.text(&reject, file, database).await),
        };
        let place = {
            let entry = &reject.entry;
            let known = text.as_ref().and_then(|text| text.as_ref().ok());
            let raw = known.map_or(&*entry.raw, |text| text.as_bytes());
            parse::place_of_fault(None, raw, entry.code, entry.field.as_deref())
        };
        Ok(Some(RejectView {
            reject,
            file,
            text,
            place,
        }))
    }

    async fn act(&self, action: Action) -> Result<String, String> {
        let settings = self.settings.clone();
        let acting = self.acting.clone();
        // A task of its own, on a thread for blocking work: it reads and moves files, and a client
        // that leaves does not end it halfway.
        let done = spawn_blocking(move || {
            Handle::current().block_on(async {
                let _turn = acting.lock().await;
                Box::pin(captured(run(&settings, &action))).await
            })
        });
        let (said, outcome) = done.await.map_err(|error| error.to_string())?;
        match outcome {
            Ok(Outcome::Complete) => Ok(said),
            Ok(_) => Err(said),
            Err(error) => Err(format!("{said}{error:#}")),
        }
    }
}

impl OperatorConsole {
    /// The text of a reject's record.
    async fn text(
        &self,
        reject: &OpenReject,
        file: &LedgerFile,
        database: Arc<dyn Database>,
    ) -> Result<String, String> {
        if file.entry.bytes > FILE_BYTES_MAX {
            return Err("its file is too large to be read for a page".to_owned());
        }
        let _turn = self.reading_text.lock().await;
        let settings = self.settings.clone();
        let (entry, file) = (reject.entry.clone(), file.clone());
        let read = spawn_blocking(move || {
            let mut texts = Texts::new(&settings, database.as_ref());
            Handle::current().block_on(texts.of_reject(&file, &entry))
        });
        match read.await {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Does an action as its command does, after the confirmation.
async fn run(settings: &Settings, action: &Action) -> anyhow::Result<Outcome> {
    match action {
        Action::Pause => pause::pause_here(settings),
        Action::Resume => pause::resume_here(settings),
        Action::AcknowledgeAll => status::acknowledge(settings).await,
        Action::Retry { name } => {
            files::retry(settings, &[OsString::from(name)], false)?;
            Ok(Outcome::Complete)
        }
        Action::Release { file_no } => repair::release(settings, &[*file_no]).await,
        Action::Acknowledge { file_no } => verify::acknowledge(settings, &[*file_no], true).await,
        Action::Reload { file_no } => repair::reload(settings, &[*file_no], true).await,
        Action::Replay { id, text } => {
            let database = database::open_existing(settings).await?;
            replay::one(settings, database.as_ref(), *id, text.as_deref()).await
        }
    }
}

async fn find_files(database: &dyn Database, query: &FilesQuery) -> anyhow::Result<FilesPage> {
    let mut page = FilesPage::default();
    let mut below = query.below.unwrap_or(u32::MAX);
    let mut searched = 0;
    loop {
        let read = database.files(0..below, query.state, READ_ROWS).await?;
        searched += read.len();
        let is_last = read.len() < READ_ROWS;
        for file in read {
            below = file.entry.file_no;
            let entry = &file.entry;
            let is_wanted = (query.dataset.is_empty() || entry.dataset == query.dataset)
                && entry.name.contains(&query.name);
            if is_wanted {
                page.files.push(file);
            }
            if page.files.len() == PAGE_ROWS {
                page.below = Some(below);
                return Ok(page);
            }
        }
        if is_last {
            return Ok(page);
        }
        if searched >= SEARCHED_MAX {
            page.below = Some(below);
            return Ok(page);
        }
    }
}

async fn find_rejects(
    database: &dyn Database,
    query: &RejectsQuery,
) -> anyhow::Result<RejectsPage> {
    let mut page = RejectsPage {
        counted_max: COUNTED_MAX,
        ..RejectsPage::default()
    };
    if query.file_no.is_none() {
        page.by_field = database
            .newest_rejects_by_field(COUNTED_MAX, GROUPS_MAX)
            .await?;
    }
    let mut known = KnownFiles::default();
    let mut asked = RejectQuery {
        file_no: query.file_no,
        code: query.code,
        ordinal: None,
        before: query.before,
    };
    // Without a field, every reject that is read is shown.
    let rows = if query.field.is_empty() {
        PAGE_ROWS
    } else {
        READ_ROWS
    };
    let mut searched = 0;
    loop {
        let read = database.find_rejects(&asked, rows).await?;
        searched += read.len();
        let is_last = read.len() < rows;
        for reject in read {
            let entry = &reject.entry;
            asked.before = Some((entry.file_no, entry.ordinal));
            if !query.field.is_empty() && entry.field.as_deref() != Some(&*query.field) {
                continue;
            }
            let file = known.get(database, entry.file_no).await?;
            let name = file.map_or(String::new(), |file| file.entry.name.clone());
            page.rejects.push((reject, name));
            if page.rejects.len() == PAGE_ROWS {
                page.before = asked.before;
                return Ok(page);
            }
        }
        if is_last {
            return Ok(page);
        }
        if searched >= SEARCHED_MAX {
            page.before = asked.before;
            return Ok(page);
        }
    }
}
