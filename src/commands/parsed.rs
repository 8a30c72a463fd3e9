//! Parses files as `load` would, batch by batch, and stores nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use crate::batch::{Batch, SourceFile};
use crate::chunks;
use crate::config::Settings;
use crate::content::{self, Content, ContentError, ContentOptions, Member, Windows};
use crate::cut::{self, ChunkLimits, Plan};
use crate::dataset::{Dataset, FileDatasets, FileValues};
use crate::parse::{self, Parser};
use crate::propose::{FoundArray, Shape};

/// The parser needs a file number for its rows, which are not stored.
const FILE_NO: u32 = 1;

/// Most arrays that a message names.
const ARRAYS_SHOWN: usize = 10;

/// How a command reads a file without a data directory.
pub(super) fn options(settings: &Settings) -> ContentOptions {
    ContentOptions {
        windows: Windows::new(settings.memory_budget_bytes),
        ..ContentOptions::default()
    }
}

/// The path itself; of a container, the paths of its members with their sizes. A file that cannot be
/// read is returned as it is: reading it reports why.
pub(super) fn files_at(settings: &Settings, path: &Path, bytes: u64) -> Vec<(PathBuf, u64)> {
    match content::container(path, &options(settings)) {
        Ok(Some(container)) => {
            let members = container.members().iter();
            let place = |member: &Member| (path.join(&member.name), member.bytes());
            members.map(place).collect()
        }
        _ => vec![(path.to_owned(), bytes)],
    }
}

/// The datasets that have nothing in a file which they take by its name.
#[derive(Debug, Default)]
pub(super) struct NothingOf {
    pub(super) datasets: Vec<Arc<Dataset>>,
    /// The arrays of objects in the file, with the number of their elements. Empty if there are none
    /// such datasets.
    pub(super) arrays: Vec<FoundArray>,
}

/// Parses a file and calls `visit` with each batch, in the order of the file for each of its
/// datasets. The inner error is the reason for which `load` would quarantine the file.
pub(super) fn each_batch(
    settings: &Settings,
    parser: &mut Parser,
    path: &Path,
    of: &FileDatasets<'_>,
    visit: &mut dyn FnMut(&Batch),
) -> anyhow::Result<Result<NothingOf, String>> {
    let limits = ChunkLimits {
        records: settings.frame_records,
        bytes: settings.frame_bytes,
    };
    let cut = |bytes: &[u8]| {
        let plans = cut::cut_each(bytes, of, limits)
            .map_err(|unreadable| format!("{unreadable}{}", named(&arrays(bytes))))?;
        let datasets = of.unmet(&plans);
        let arrays = if datasets.is_empty() {
            Vec::new()
        } else {
            arrays(bytes)
        };
        Ok((plans, NothingOf { datasets, arrays }))
    };
    let opened = content::open_and(path, &options(settings), cut);
    let (content, plans, nothing) = match opened {
        Ok((content, Ok((plans, nothing)))) => (content, plans, nothing),
        Ok((_, Err(unreadable))) => return Ok(Err(unreadable)),
        Err(ContentError::Io(error)) => {
            return Err(anyhow::Error::new(error).context(path.display().to_string()));
        }
        Err(error) => return Ok(Err(error.to_string())),
    };
    let place = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for (dataset, plan) in plans {
        let values = dataset.path_values(place.as_os_str().as_encoded_bytes());
        if let Some(problem) = parse::path_problem(&dataset, &place, &values) {
            return Ok(Err(problem.to_string()));
        }
        let values = dataset.takes_of_file().then(|| {
            Arc::new(FileValues {
                path: values,
                loaded_at_us: dataset.takes_time().then(now_us),
            })
        });
        match parse(parser, (&content, values.as_ref()), &dataset, &plan, visit) {
            Ok(()) => {}
            Err(ContentError::Busy) => return Ok(Err("it changed while it was read".to_owned())),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    Ok(Ok(nothing))
}

/// The current time, which a load would take for the time of loading.
fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX)
}

/// The first of the arrays of objects in a file.
fn arrays(bytes: &[u8]) -> Vec<FoundArray> {
    let arrays = Shape::of(bytes).map_or(Vec::new(), |shape| shape.arrays);
    arrays.into_iter().take(ARRAYS_SHOWN).collect()
}

/// The arrays, to append to the reason for which a file cannot be read; empty if there are none.
fn named(arrays: &[FoundArray]) -> String {
    if arrays.is_empty() {
        return String::new();
    }
    format!("; the file has arrays of objects at {}", listed(arrays))
}

/// The pointers of arrays with the numbers of their elements.
pub(super) fn listed(arrays: &[FoundArray]) -> String {
    let array = |array: &FoundArray| format!("`{}` ({})", array.pointer, array.elements);
    let arrays: Vec<String> = arrays.iter().map(array).collect();
    arrays.join(", ")
}

/// Parses the records of one dataset.
fn parse(
    parser: &mut Parser,
    of: (&Content, Option<&Arc<FileValues>>),
    dataset: &Arc<Dataset>,
    plan: &Plan,
    visit: &mut dyn FnMut(&Batch),
) -> Result<(), ContentError> {
    let file = SourceFile {
        file_no: FILE_NO,
        hash: of.0.hash,
    };
    let mut buffer = Vec::new();
    for chunk in &plan.chunks {
        let batch = chunks::parse(parser, dataset, file, chunk, of, &mut buffer)?;
        visit(&batch);
    }
    Ok(())
}
