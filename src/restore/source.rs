//! The file of a ledger entry: found, checked by its hash, and cut into its records.
//!
//! Only the file has the text of its records. All commands that need this text use this module.

use std::collections::VecDeque;
use std::fs;
use std::io::ErrorKind;
use std::mem;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::batch::{Batch, SourceFile};
use crate::chunks;
use crate::config::Settings;
use crate::content::{self, Content, ContentError, ContentOptions, Windows};
use crate::cut::{self, Chunk, ChunkLimits, Outside, Plan, Unreadable};
use crate::dataset::{Dataset, FileValues};
use crate::fault::Fault;
use crate::inbox;
use crate::parse::Parser;
use crate::sink::{Database, LedgerFile};
use crate::timestamp;

/// The file of a ledger entry, open and cut.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// The file's bytes, whose hash is that of the entry.
    pub(crate) content: Content,
    /// The places of the file's records. There are as many as the ledger has for this file.
    pub(crate) plan: Plan,
    /// The definition by which the file was cut.
    dataset: Arc<Dataset>,
    /// What its columns take from the file besides its bytes. `None` if they take nothing.
    values: Option<Arc<FileValues>>,
    /// The last chunk that was looked up, and the places of its records in the file.
    last: Option<(Chunk, Vec<Range<u64>>)>,
}

/// Why the records of a ledger entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    /// No directory has a file with this content.
    #[error(
        "file {file_no} {name}: no file with its bytes in {searched}{}; put it into one of them, \
         or use the settings of the process that loaded it",
        beside(.archive.as_ref())
    )]
    NotFound {
        file_no: u32,
        name: String,
        /// The directories, in the order in which they were searched.
        searched: String,
        /// The path at which it was loaded from an archive, and whether there is a file, whose
        /// content is another one.
        archive: Option<(PathBuf, bool)>,
    },
    /// The file that the user named has another content.
    #[error("{path} is not {name}, which was loaded as file {file_no}: its content differs")]
    OtherContent {
        path: String,
        name: String,
        file_no: u32,
    },
    /// A file that may be the right one cannot be read.
    #[error("{path}: {cause}")]
    Unreadable { path: String, cause: ContentError },
    /// The current definition of the dataset finds no records in the file.
    #[error("{path}: {cause}")]
    NoRecords { path: String, cause: Unreadable },
    /// The current definition of the dataset finds another number of records, so that the ordinals
    /// belong to other records.
    #[error(
        "{path} has {found} records with the current definition of its dataset, but was loaded with \
         {loaded}: `format` or `records` was changed"
    )]
    OtherRecords {
        path: String,
        found: u32,
        loaded: u32,
    },
}

fn beside(archive: Option<&(PathBuf, bool)>) -> String {
    archive.map_or(String::new(), |(path, is_other)| {
        let path = shown(path);
        if *is_other {
            format!(", and {path} has other content than when it was loaded")
        } else {
            format!(" nor at {path}")
        }
    })
}

impl Unavailable {
    /// The [`NotFound`](Self::NotFound) of a file. `archive` is that of the error.
    fn not_found(settings: &Settings, file: &LedgerFile, archive: Option<(PathBuf, bool)>) -> Self {
        let dirs = &settings.dirs;
        let searched = [&dirs.history, &dirs.work, &dirs.quarantine, &dirs.inbound];
        Self::NotFound {
            file_no: file.entry.file_no,
            name: file.entry.name.escape_debug().to_string(),
            searched: searched.map(|dir| shown(dir)).join(", "),
            archive,
        }
    }

    /// This error as a text that is the same in processes with other directories, so that a problem
    /// which was acknowledged in one of them is known in all.
    pub(crate) fn without_directories(&self) -> String {
        match self {
            Self::NotFound { name, archive, .. } => format!(
                "{name} is neither in history nor in work, quarantine or inbound{}",
                beside(archive.as_ref())
            ),
            other => other.to_string(),
        }
    }

    /// This error for a command that needs the file. The kind of an I/O error decides the exit
    /// code.
    pub(crate) fn into_error(self) -> anyhow::Error {
        match self {
            Self::Unreadable {
                path,
                cause: ContentError::Io(error),
            } => anyhow::Error::new(error).context(path),
            other => anyhow::Error::new(other),
        }
    }
}

impl Source {
    /// Opens the file of an entry: the `given` one, or the one in its archive, in history, in work,
    /// in quarantine or in inbound that has the entry's content.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub(crate) fn open(
        settings: &Settings,
        dataset: &Arc<Dataset>,
        file: &LedgerFile,
        given: Option<&Path>,
    ) -> Result<Self, Unavailable> {
        let open = |path: &Path| open_and_cut(settings, dataset, file, path);
        if let Some(path) = given {
            let (content, plan) = open(path).map_err(|cause| unreadable(path, cause))?;
            if !file.has_bytes(content.hash) {
                return Err(Unavailable::OtherContent {
                    path: shown(path),
                    name: file.entry.name.escape_debug().to_string(),
                    file_no: file.entry.file_no,
                });
            }
            return Self::new(path.to_owned(), content, plan, dataset, file);
        }
        let mut failed = None;
        let mut paths = VecDeque::from(candidates(settings, file));
        let mut is_again = false;
        while let Some(path) = paths.pop_front() {
            if is_gone(&path) && !mem::replace(&mut is_again, true) {
                // It was compressed meanwhile.
                paths = candidates(settings, file).into();
                continue;
            }
            match open(&path) {
                Ok((content, plan)) if file.has_bytes(content.hash) => {
                    return Self::new(path, content, plan, dataset, file);
                }
                Ok(_) | Err(ContentError::NotRegular) => {}
                // The next file may be the right one.
                Err(cause) => failed = failed.or(Some(unreadable(&path, cause))),
            }
        }
        Err(failed.unwrap_or_else(|| {
            let archive = file.path.clone().map(|path| {
                let is_other = path.is_file();
                (path, is_other)
            });
            Unavailable::not_found(settings, file, archive)
        }))
    }

    /// Opens the file at a path as that of an entry, whatever its bytes are.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub(crate) fn at(
        settings: &Settings,
        dataset: &Arc<Dataset>,
        file: &LedgerFile,
        path: &Path,
    ) -> Result<Self, Unavailable> {
        let (content, plan) =
            open_and_cut(settings, dataset, file, path).map_err(|cause| unreadable(path, cause))?;
        Self::new(path.to_owned(), content, plan, dataset, file)
    }

    /// The path of the file of an entry, in history, work, quarantine or inbound. A copy of a member
    /// of a container may lose its path on the way to inbound. If its dataset or its values depend on
    /// the path, the path in the container comes first.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub(crate) fn find(settings: &Settings, file: &LedgerFile) -> Result<PathBuf, Unavailable> {
        let options = options(settings);
        let is_it = |path: &PathBuf| {
            let opened = content::open_and(path, &options, |_| ());
            opened.is_ok_and(|(content, ())| file.has_bytes(content.hash))
        };
        let mut paths = candidates(settings, file);
        if paths.iter().any(|path| is_gone(path)) {
            // It was compressed meanwhile.
            paths = candidates(settings, file);
        }
        if file.taken.is_some() || !has_dataset_by_name(settings, file) {
            paths.sort_by_key(|path| content::located(path).is_none());
        }
        paths
            .into_iter()
            .find(is_it)
            .ok_or_else(|| Unavailable::not_found(settings, file, None))
    }

    /// Whether a directory or the archive has a file with the name and the size of an entry. Faster
    /// than [`find`](Self::find), which reads the file: one with other bytes of the same size is
    /// believed.
    pub(crate) fn may_exist(settings: &Settings, file: &LedgerFile) -> bool {
        !candidates(settings, file).is_empty()
    }

    fn new(
        path: PathBuf,
        content: Content,
        plan: Result<Plan, Unreadable>,
        dataset: &Arc<Dataset>,
        file: &LedgerFile,
    ) -> Result<Self, Unavailable> {
        let plan = plan.map_err(|cause| Unavailable::NoRecords {
            path: shown(&path),
            cause,
        })?;
        // The ledger has no number of records for a file that was quarantined before it was cut.
        let loaded = file.entry.records;
        if loaded != 0 && plan.records != loaded {
            return Err(Unavailable::OtherRecords {
                path: shown(&path),
                found: plan.records,
                loaded,
            });
        }
        Ok(Self {
            path,
            content,
            plan,
            dataset: Arc::clone(dataset),
            values: file.values(dataset),
            last: None,
        })
    }

    /// The byte range of a record in the inflated file, without the whitespace around it. `None` if
    /// the file has no such ordinal.
    ///
    /// # Errors
    /// The file was changed since it was opened, or cannot be read.
    pub(crate) fn place(&mut self, ordinal: u32) -> Result<Option<Range<u64>>, Unavailable> {
        if ordinal >= self.plan.records {
            return Ok(None);
        }
        let chunk = self.chunk(ordinal);
        if self.last.as_ref().is_none_or(|(last, _)| last != chunk) {
            self.last = Some((chunk.clone(), self.places(chunk)?));
        }
        let (chunk, places) = self.last.as_ref().expect("set above");
        Ok(Some(
            places[(ordinal - chunk.first_ordinal) as usize].clone(),
        ))
    }

    /// The records that have a byte of this range, each with its ordinal and its place.
    ///
    /// # Errors
    /// As of [`place`](Self::place).
    pub(crate) fn within(&self, range: &Range<u64>) -> Result<Vec<(u32, Range<u64>)>, Unavailable> {
        let mut found = Vec::new();
        let chunks = self.plan.chunks.iter();
        for chunk in chunks.filter(|chunk| chunk.start < range.end && chunk.end > range.start) {
            let records = (chunk.first_ordinal..).zip(self.places(chunk)?);
            found.extend(records.filter(|(_, at)| at.start < range.end && at.end > range.start));
        }
        Ok(found)
    }

    /// The places of the records of a chunk.
    fn places(&self, chunk: &Chunk) -> Result<Vec<Range<u64>>, Unavailable> {
        let places = |bytes: &[u8]| {
            let records = cut::records(bytes, chunk.layout, &self.dataset).into_iter();
            let place = |record: Range<usize>| {
                chunk.start + record.start as u64..chunk.start + record.end as u64
            };
            records.map(place).collect()
        };
        let places = self.content.inspect(chunk.start..chunk.end, places);
        places.map_err(|cause| unreadable(&self.path, cause))
    }

    /// The chunk with this ordinal, which the file has.
    fn chunk(&self, ordinal: u32) -> &Chunk {
        let chunks = &self.plan.chunks;
        let after = chunks.partition_point(|chunk| chunk.first_ordinal <= ordinal);
        &chunks[after - 1]
    }

    /// The values outside of a record that its columns take. None if the file has no such ordinal.
    ///
    /// # Errors
    /// As of [`place`](Self::place).
    pub(crate) fn outside(&self, ordinal: u32) -> Result<Outside<'static>, Unavailable> {
        let of_file = Outside::default().of_file(self.values.clone());
        if ordinal >= self.plan.records || !self.dataset.takes_around() {
            return Ok(of_file);
        }
        let chunk = self.chunk(ordinal);
        let record = (ordinal - chunk.first_ordinal) as usize;
        let around = chunks::outside(chunk, &self.content);
        let around = around.map_err(|cause| unreadable(&self.path, cause))?;
        let around = around.of_file(self.values.clone());
        self.inspect(chunk.start..chunk.end, |bytes| {
            cut::outside_of(bytes, chunk.layout, &self.dataset, &around, record)
        })
    }

    /// Parses a chunk of the file by the definition by which it was cut. Its bytes are copied to `buffer` if the file is not
    /// in memory.
    ///
    /// # Errors
    /// As of [`place`](Self::place).
    pub(crate) fn parse(
        &self,
        parser: &mut Parser,
        file: SourceFile,
        chunk: &Chunk,
        buffer: &mut Vec<u8>,
    ) -> Result<Batch, Unavailable> {
        let of = (&self.content, self.values.as_ref());
        let parsed = chunks::parse(parser, &self.dataset, file, chunk, of, buffer);
        parsed.map_err(|cause| unreadable(&self.path, cause))
    }

    /// The bytes of a place. They are copied to `buffer` if the file is not in memory.
    ///
    /// # Errors
    /// As of [`place`](Self::place).
    pub(crate) fn read<'a>(
        &'a self,
        place: Range<u64>,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Unavailable> {
        let read = self.content.read(place, buffer);
        read.map_err(|cause| unreadable(&self.path, cause))
    }

    /// Passes the bytes of a place to `inspect` without a copy, since they may be larger than
    /// memory.
    ///
    /// # Errors
    /// As of [`place`](Self::place).
    pub(crate) fn inspect<T>(
        &self,
        place: Range<u64>,
        inspect: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Unavailable> {
        let inspected = self.content.inspect(place, inspect);
        inspected.map_err(|cause| unreadable(&self.path, cause))
    }
}

/// How commands open the files of the ledger.
pub(crate) fn options(settings: &Settings) -> ContentOptions {
    ContentOptions {
        spill_dir: settings.dirs.work.clone(),
        windows: Windows::new(settings.memory_budget_bytes),
        ..ContentOptions::default()
    }
}

type OpenedAndCut = Result<(Content, Result<Plan, Unreadable>), ContentError>;

fn open_and_cut(
    settings: &Settings,
    dataset: &Arc<Dataset>,
    file: &LedgerFile,
    path: &Path,
) -> OpenedAndCut {
    // The limits of chunks need not be those of the load: the records are the same.
    let limits = ChunkLimits {
        records: settings.frame_records,
        bytes: settings.frame_bytes,
    };
    let name = match &file.path {
        Some(path) => path.as_os_str().as_encoded_bytes(),
        None => file.entry.name.as_bytes(),
    };
    let cut = |bytes: &[u8]| cut::cut_one(bytes, dataset, &settings.datasets, name, limits);
    content::open_and(path, &options(settings), cut)
}

/// Whether history has the bytes of a file that was loaded.
pub(crate) enum InHistory {
    /// History has no file of this name: it belongs to an archive, or was removed.
    Absent,
    /// It has them.
    AsRead,
    /// It has a file of this name, and none with these bytes.
    Changed(PathBuf),
    /// It has a file of this name with records that were erased.
    NotBlank(PathBuf),
}

/// How long after it was settled a file may be moved to history, and how much earlier the move may
/// seem to be, in microseconds. The hash decides about a file that was moved outside of this time:
/// with a larger time, more edits whose mtime was set back would be believed.
const MOVED_WITHIN_US: [i64; 2] = [1_000_000, 2_000_000];

/// Looks for the bytes of a settled file in history, under its name and the names with a suffix, and
/// in the containers on its path. A file of the same size, or the container of a member, is believed
/// if it is the file that was read, by inode and mtime, and if it was moved there when the file was
/// settled, by its ctime, which no program can set. A file that the engine has compressed tells these,
/// and is believed if it was not changed since. Of any other, the hash decides.
///
/// # Errors
/// Those of the database.
pub(crate) async fn in_history(
    settings: &Settings,
    database: &dyn Database,
    file: &LedgerFile,
) -> Result<InHistory, Fault> {
    loop {
        match look(settings, file) {
            // It was compressed meanwhile.
            InHistory::Changed(path) if is_gone(&path) => {}
            InHistory::Absent if file.path.is_none() => {
                return edited_or_absent(settings, database, file).await;
            }
            found => return Ok(found),
        }
    }
}

/// Looks for a file with the name that a missing file has when it is compressed, and that the engine has
/// not compressed: another file that was delivered so, or this one, edited.
async fn edited_or_absent(
    settings: &Settings,
    database: &dyn Database,
    file: &LedgerFile,
) -> Result<InHistory, Fault> {
    let dirs = near(settings, file);
    let Some(path) = (dirs.iter()).find_map(|dir| inbox::beside(dir, &file.entry.name)) else {
        return Ok(InHistory::Absent);
    };
    let opened = content::open_and(&path, &options(settings), |_| ());
    Ok(match opened {
        Ok((content, ())) if !database.with_content(content.hash).await?.is_empty() => {
            InHistory::Absent
        }
        _ => InHistory::Changed(path),
    })
}

/// The directories of history in which a file is expected.
fn near(settings: &Settings, file: &LedgerFile) -> Vec<PathBuf> {
    let dirs = &settings.dirs;
    let mut near = vec![dirs.history.clone()];
    let settled = file.settled_at.as_deref().and_then(timestamp::parse);
    // A file of an archive with the same name may belong into a directory of inbound.
    if let (None, Some(settled)) = (&file.path, settled) {
        let since_epoch = Duration::from_micros(settled.unsigned_abs());
        near.extend(inbox::days_of(dirs, SystemTime::UNIX_EPOCH + since_epoch));
    }
    near
}

fn is_gone(path: &Path) -> bool {
    let found = fs::symlink_metadata(path);
    found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

fn look(settings: &Settings, file: &LedgerFile) -> InHistory {
    let (dirs, name) = (&settings.dirs, &file.entry.name);
    let settled = file.settled_at.as_deref().and_then(timestamp::parse);
    let named = |dir: &PathBuf| inbox::named(dir, name);
    let mut paths: Vec<PathBuf> = near(settings, file).iter().flat_map(named).collect();
    if file.erased.is_blank.is_some() {
        paths.extend(inbox::in_days(dirs, name));
        return without_erased(settings, file, &paths);
    }
    let is_believed = |path: &PathBuf| {
        let container = content::located(path).map(|(container, _)| container);
        let on_disk = container.as_ref().unwrap_or(path);
        let (Some(settled), Ok(found)) = (settled, fs::symlink_metadata(on_disk)) else {
            return false;
        };
        let micros = |seconds: i64, nanos: i64| seconds * 1_000_000 + nanos / 1_000;
        let written = micros(found.mtime(), found.mtime_nsec());
        let as_it_is = (
            found.len(),
            content::mark(&content::sample(&found)),
            micros(found.ctime(), found.ctime_nsec()),
        );
        let is_as_delivered = container.is_some() || found.len() == file.entry.bytes;
        let as_delivered = if is_as_delivered {
            Some(as_it_is)
        } else {
            let compacted = content::compacted(path).filter(|it| it.is_unchanged(&found));
            compacted.map(|it| (it.bytes, it.mark, it.moved_us))
        };
        let Some((bytes, mark, moved)) = as_delivered else {
            return false;
        };
        let [before, after] = MOVED_WITHIN_US;
        (container.is_some() || bytes == file.entry.bytes)
            && file.mark.is_none_or(|as_read| as_read == mark)
            && written <= settled
            && (settled - before..=settled + after).contains(&moved)
    };
    if paths.iter().any(is_believed) {
        return InHistory::AsRead;
    }
    // A compressed file of another size has the name of this one, and is another one.
    let is_other = |path: &&PathBuf| {
        let compacted = content::compacted(path);
        compacted.is_some_and(|it| it.bytes != file.entry.bytes)
    };
    let first = paths.iter().find(|path| !is_other(path)).cloned();
    // A move that failed for a while leads to the directory of a later day.
    let is_elsewhere = || !inbox::in_days(dirs, name).is_empty();
    if (first.is_some() || is_elsewhere()) && Source::find(settings, file).is_ok() {
        return InHistory::AsRead;
    }
    first.map_or(InHistory::Absent, InHistory::Changed)
}

/// Looks for the bytes of a file of which records were erased: each of these files is read.
fn without_erased(settings: &Settings, file: &LedgerFile, paths: &[PathBuf]) -> InHistory {
    let options = options(settings);
    let blank = file.erased.blank();
    let mut found = None;
    for path in paths {
        let Ok((content, ())) = content::open_and(path, &options, |_| ()) else {
            continue;
        };
        if Some(content.hash) == blank {
            found = Some(InHistory::AsRead);
        } else if file.has_bytes(content.hash) {
            return InHistory::NotBlank(path.clone());
        }
    }
    found.unwrap_or_else(|| match paths.first() {
        Some(first) => InHistory::Changed(first.clone()),
        None => InHistory::Absent,
    })
}

fn unreadable(path: &Path, cause: ContentError) -> Unavailable {
    Unavailable::Unreadable {
        path: shown(path),
        cause,
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string().escape_debug().to_string()
}

/// Whether a file belongs to its dataset by the last segment of its name alone.
fn has_dataset_by_name(settings: &Settings, file: &LedgerFile) -> bool {
    let last = file.entry.name.rsplit('/').next().unwrap_or_default();
    let dataset = settings.datasets.for_file_name(last.as_bytes());
    dataset.is_ok_and(|dataset| dataset.name == file.entry.dataset)
}

/// The files that may be the file of an entry, by their name and size.
fn candidates(settings: &Settings, file: &LedgerFile) -> Vec<PathBuf> {
    let (name, sizes) = (&file.entry.name, file.sizes());
    inbox::candidates(&settings.dirs, name, &sizes, file.path.as_deref())
}
