//! Finds the file of a ledger entry by its name, and checks its content by the hash.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::config::Settings;
use crate::content::{self, Content, ContentError, ContentOptions, Windows};
use crate::sink::LedgerFile;

/// Most names to try in a directory. A file whose name is taken gets a suffix: `.1`, `.2` and so
/// on.
const SUFFIXES_MAX: u32 = 1_000;

/// Unused names after which the search ends. More than one, because users may have removed files.
const FREE_SUFFIXES_MAX: u32 = 8;

/// The file of an entry, open.
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Its bytes. Their hash is that of the entry.
    pub(super) content: Content,
}

/// Finds the file of an entry in history, work or quarantine, or checks the `given` file. `None` if
/// no file has the content of the entry.
///
/// # Errors
/// The given file cannot be read, or has another content.
pub(super) fn locate(
    settings: &Settings,
    file: &LedgerFile,
    given: Option<&Path>,
) -> anyhow::Result<Option<Found>> {
    let options = ContentOptions {
        spill_dir: settings.dirs.work.clone(),
        windows: Windows::new(settings.memory_budget_bytes),
        ..ContentOptions::default()
    };
    if let Some(path) = given {
        let content = match content::open(path, &options) {
            Ok(content) => content,
            // Unwrapped, because the kind of an I/O error decides the exit code.
            Err(ContentError::Io(error)) => {
                return Err(error).with_context(|| path.display().to_string());
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        if content.hash != file.hash {
            bail!(
                "{} is not {}, which was loaded as file {}: its content differs",
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
            // A file that cannot be read is skipped: the next one may match.
            if let Ok(content) = content::open(&path, &options)
                && content.hash == file.hash
            {
                return Ok(Some(Found { path, content }));
            }
        }
    }
    Ok(None)
}

/// The name of a file in a directory that had `suffix` files of the same name before.
fn with_suffix(name: &str, suffix: u32) -> String {
    match suffix {
        0 => name.to_owned(),
        suffix => format!("{name}.{suffix}"),
    }
}
