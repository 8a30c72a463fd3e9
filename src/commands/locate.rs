//! Finds the file behind an entry of the ledger: by its name, proved by its content.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::config::Settings;
use crate::content::{self, Content, ContentError, ContentOptions};
use crate::sink::LedgerFile;

/// Most names that are tried in a directory: a file whose name is taken gets a suffix, `.1` and so
/// on. A thousand files of one name are none that a person would keep.
const SUFFIXES_MAX: u32 = 1_000;

/// A suffix that is free does not end the search: somebody may have taken some files away.
const FREE_SUFFIXES_MAX: u32 = 8;

/// The file of an entry, open.
pub(super) struct Found {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its bytes, which have the hash of the entry.
    pub(super) content: Content,
}

/// Looks for a file in history, work and quarantine, or takes the one that is given. `None` where
/// none of them has its content.
///
/// # Errors
/// The given file cannot be read, or is another one.
pub(super) fn locate(
    settings: &Settings,
    file: &LedgerFile,
    given: Option<&Path>,
) -> anyhow::Result<Option<Found>> {
    let options = ContentOptions {
        spill_dir: settings.dirs.work.clone(),
        ..ContentOptions::default()
    };
    if let Some(path) = given {
        let content = match content::open(path, &options) {
            Ok(content) => content,
            // The kind of the system's error decides the exit code.
            Err(ContentError::Io(error)) => {
                return Err(error).with_context(|| path.display().to_string());
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        if content.hash != file.hash {
            bail!(
                "{} is another file than {}, which was loaded as file {}: its content differs",
                path.display(),
                file.entry.name.escape_debug(),
                file.entry.file_no
            );
        }
        let path = path.to_owned();
        return Ok(Some(Found { path, content }));
    }
    let dirs = &settings.dirs;
    for dir in [&dirs.history, &dirs.work, &dirs.quarantine] {
        let mut free = 0;
        for suffix in 0..SUFFIXES_MAX {
            let path = dir.join(with_suffix(&file.entry.name, suffix));
            if fs::symlink_metadata(&path).is_err() {
                free += 1;
                if free > FREE_SUFFIXES_MAX {
                    break;
                }
                continue;
            }
            // One that cannot be read is not proved to be it, and the next may be.
            if let Ok(content) = content::open(&path, &options)
                && content.hash == file.hash
            {
                return Ok(Some(Found { path, content }));
            }
        }
    }
    Ok(None)
}

/// The name that a file gets in a directory where so many of the same name are already.
fn with_suffix(name: &str, suffix: u32) -> String {
    match suffix {
        0 => name.to_owned(),
        suffix => format!("{name}.{suffix}"),
    }
}
