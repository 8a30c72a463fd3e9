//! What the pages show beyond the status, and what an operator does there: files, rejects, actions.
//!
//! Pure data and the seam [`Console`], which `commands` implements with the code of its commands.
//! Every answer is bounded: in rows by [`PAGE_ROWS`] and [`SEARCHED_MAX`], in time by the
//! implementation.

use async_trait::async_trait;

use crate::batch::RejectCode;
use crate::sink::{FieldCount, FileState, LedgerFile, OpenReject};

/// Most files or rejects of a page.
pub const PAGE_ROWS: usize = 100;

/// Most files or rejects that are read to fill a page. A search for a rare name reads this many
/// before it answers with a link that goes on: about 20 ms of the database.
pub const SEARCHED_MAX: usize = 5_000;

/// Longest text of a record that a page shows and accepts, in bytes. A browser edits more only
/// slowly, and each request in progress holds one.
pub const TEXT_BYTES_MAX: usize = 128 << 10;

/// What an action on directories needs, for the page of a process that does not have them.
pub const ELSEWHERE: &str = "the directories of a service with the role `ingest`: use its page, or \
    run the command with its settings";

/// Reads for the pages, and actions.
#[async_trait]
pub trait Console: Send + Sync {
    /// A page of the files that match, newest first.
    ///
    /// # Errors
    /// The database does not answer in time, or refuses. The text is for people.
    async fn files(&self, query: &FilesQuery) -> Result<FilesPage, String>;

    /// A file of the ledger. `None` if the ledger does not have it.
    ///
    /// # Errors
    /// As of [`files`](Self::files).
    async fn file(&self, file_no: u32) -> Result<Option<FileView>, String>;

    /// A page of the rejects that match, newest first.
    ///
    /// # Errors
    /// As of [`files`](Self::files).
    async fn rejects(&self, query: &RejectsQuery) -> Result<RejectsPage, String>;

    /// The reject of a record, by its id. `None` if the record is not a reject. Its text is read
    /// only `with_text`.
    ///
    /// # Errors
    /// As of [`files`](Self::files).
    async fn reject(&self, id: u64, with_text: bool) -> Result<Option<RejectView>, String>;

    /// Does what a command does. Returns what the command prints. Goes on if the caller is dropped.
    ///
    /// # Errors
    /// What the command prints if it fails, or does not do all of it.
    async fn act(&self, action: Action) -> Result<String, String>;
}

/// Selects files. A field that is `None` or empty excludes no file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilesQuery {
    /// In this state.
    pub state: Option<FileState>,
    /// Of this dataset.
    pub dataset: String,
    /// With a name that contains this text.
    pub name: String,
    /// With a number below this one, to page.
    pub below: Option<u32>,
}

/// A page of files.
#[derive(Debug, Clone, Default)]
pub struct FilesPage {
    /// The files, newest first.
    pub files: Vec<LedgerFile>,
    /// Where the next page begins. `None` on the last page.
    pub below: Option<u32>,
}

/// A file, as its page shows it.
#[derive(Debug, Clone)]
pub struct FileView {
    /// The entry of the ledger.
    pub file: LedgerFile,
    /// How many of its records are stored, as rows or rejects.
    pub stored: u64,
    /// The first of its rejects, in the order of the file's end to its beginning.
    pub rejects: Vec<OpenReject>,
}

/// Selects rejects. A field that is `None` or empty excludes no reject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RejectsQuery {
    /// With this reason.
    pub code: Option<RejectCode>,
    /// With this field.
    pub field: String,
    /// Of this file.
    pub file_no: Option<u32>,
    /// Older than this one (file, ordinal), to page.
    pub before: Option<(u32, u32)>,
}

/// A page of rejects.
#[derive(Debug, Clone, Default)]
pub struct RejectsPage {
    /// The rejects, newest first, each with the name of its file.
    pub rejects: Vec<(OpenReject, String)>,
    /// Where the next page begins. `None` on the last page.
    pub before: Option<(u32, u32)>,
    /// The newest rejects by reason and field, most frequent first.
    pub by_field: Vec<FieldCount>,
    /// How many rejects `by_field` counts at most.
    pub counted_max: usize,
}

/// A reject, as its page shows it.
#[derive(Debug, Clone)]
pub struct RejectView {
    /// The reject.
    pub reject: OpenReject,
    /// The entry of its file. `None` if the ledger does not have it.
    pub file: Option<LedgerFile>,
    /// The text of the record, or why it cannot be shown. `None` if it was not asked for.
    pub text: Option<Result<String, String>>,
    /// The byte of the text where the problem is. `None` if the problem has no place.
    pub place: Option<usize>,
}

/// What an operator does on a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `pause`.
    Pause,
    /// `resume`.
    Resume,
    /// `status --acknowledge`.
    AcknowledgeAll,
    /// `files retry NAME`.
    Retry {
        /// The name in quarantine.
        name: String,
    },
    /// `files release FILE`.
    Release {
        /// The number of the file.
        file_no: u32,
    },
    /// `files acknowledge FILE`.
    Acknowledge {
        /// The number of the file.
        file_no: u32,
    },
    /// `files reload FILE`.
    Reload {
        /// The number of the file.
        file_no: u32,
    },
    /// `rejects replay`: of a corrected text, or of the record's own.
    Replay {
        /// The id of the record.
        id: u64,
        /// The corrected text. `None`: the record's own.
        text: Option<String>,
    },
}

impl Action {
    /// Whether it reads or changes the directories of a service: only the page of that service does
    /// it.
    #[must_use]
    pub const fn is_of_directories(&self) -> bool {
        match self {
            Self::Pause
            | Self::Resume
            | Self::Retry { .. }
            | Self::Release { .. }
            | Self::Acknowledge { .. }
            | Self::Reload { .. } => true,
            Self::AcknowledgeAll | Self::Replay { .. } => false,
        }
    }

    /// The action as the command that does the same, for the log and for the page.
    #[must_use]
    pub fn as_command(&self) -> String {
        match self {
            Self::Pause => "pause".to_owned(),
            Self::Resume => "resume".to_owned(),
            Self::AcknowledgeAll => "status --acknowledge".to_owned(),
            Self::Retry { name } => format!("files retry {name}"),
            Self::Release { file_no } => format!("files release {file_no}"),
            Self::Acknowledge { file_no } => format!("files acknowledge {file_no}"),
            Self::Reload { file_no } => format!("files reload {file_no}"),
            Self::Replay { id, text: None } => format!("rejects replay --id {id}"),
            Self::Replay { id, text: Some(_) } => format!("rejects replay of a text for {id}"),
        }
    }
}
