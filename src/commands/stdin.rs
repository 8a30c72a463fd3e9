//! `load -`: standard input becomes a file of work, which is then loaded like any other.
//!
//! It is written under a hidden name, and gets its own name when it is whole. A load that is
//! stopped before that leaves nothing behind. After a kill, the next start removes the hidden file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use tokio::task::spawn_blocking;

use super::UsageError;
use crate::config::Settings;
use crate::config::cli::LoadArgs;
use crate::inbox::{Arriving, FreeRoom, Inbox};
use crate::shutdown::Shutdown;

/// The path that means standard input.
const STDIN: &str = "-";

/// Bytes copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// The room on the disk is checked after this many rounds: 64 MiB, a quarter of the default floor.
const ROUNDS_PER_CHECK: u32 = 64;

/// The name for standard input. `None` if the paths do not have it.
///
/// # Errors
/// [`UsageError`] if it lacks a name, or is given together with what it excludes.
pub(super) fn name(args: &LoadArgs) -> Result<Option<&OsStr>, UsageError> {
    let is_stdin = args.paths.iter().any(|path| path == Path::new(STDIN));
    let usage = |message: &str| Err(UsageError(message.to_owned()));
    match &args.as_name {
        None if !is_stdin => Ok(None),
        None => usage("standard input has no name: write `load - --as NAME`, such as trips_1.json"),
        Some(_) if !is_stdin => usage("--as names standard input: write `load - --as NAME`"),
        Some(_) if args.paths.len() > 1 => usage("load standard input alone, without other paths"),
        Some(_) if args.dry_run => usage("--dry-run does not read standard input"),
        Some(name) if Path::new(name).file_name() != Some(name) || is_hidden(name) => {
            usage("--as: write the name of a file, without a directory or a point before it")
        }
        Some(name) => Ok(Some(name)),
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Copies all of standard input into work. `None` if a signal stopped it.
///
/// # Errors
/// It cannot be read or written, or is empty.
pub(super) async fn spool(
    inbox: &Inbox,
    settings: &Settings,
    name: &OsStr,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Arriving>> {
    let about = || about(name);
    // The thread may wait for input when the load is stopped: so the file is kept here, whose end
    // removes it.
    let arriving = inbox.begin_file().with_context(about)?;
    let file = arriving.file().with_context(about)?;
    let (dir, floor) = (settings.dirs.work.clone(), settings.disk_floor_bytes);
    let copying = spawn_blocking(move || copy(&mut io::stdin().lock(), file, &dir, floor));
    let copied = tokio::select! {
        copied = copying => copied?.with_context(about)?,
        () = shutdown.drain.cancelled() => return Ok(None),
    };
    if copied == 0 {
        bail!("standard input is empty: nothing was loaded");
    }
    Ok(Some(arriving))
}

/// What a load says if it cannot take its whole copy of standard input.
pub(super) fn not_loaded(name: &OsStr) -> String {
    let input = about(name);
    format!("{input} is not loaded: run this again with the same input")
}

fn about(name: &OsStr) -> String {
    format!("standard input as {}", Path::new(name).display())
}

/// Copies all bytes to the disk. Ends with an error before less than `floor` bytes are free there.
fn copy(from: &mut impl Read, mut to: File, dir: &Path, floor: u64) -> io::Result<u64> {
    let mut buffer = vec![0; COPY_BYTES];
    let (mut copied, mut round) = (0, 0_u32);
    loop {
        if round.is_multiple_of(ROUNDS_PER_CHECK)
            && let Some(shortage) = FreeRoom::of(dir)?.shortage(floor)
        {
            return Err(io::Error::new(ErrorKind::StorageFull, shortage));
        }
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..read])?;
        copied += read as u64;
        round = round.wrapping_add(1);
    }
    to.sync_all()?;
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn standard_input_has_one_plain_name() {
        let parsed = |paths: &[&str], as_name: Option<&str>| {
            let args = LoadArgs {
                paths: paths.iter().map(PathBuf::from).collect(),
                as_name: as_name.map(Into::into),
                ..LoadArgs::default()
            };
            name(&args).map(|name| name.map(OsStr::to_owned))
        };
        assert_eq!(parsed(&["a.json"], None).unwrap(), None);
        assert_eq!(
            parsed(&["-"], Some("a.json")).unwrap(),
            Some("a.json".into())
        );
        let wrong: [(&[&str], Option<&str>); 6] = [
            (&["-"], None),
            (&["a.json"], Some("b.json")),
            (&["-", "a.json"], Some("b.json")),
            (&["-"], Some("../b.json")),
            (&["-"], Some(".b.json")),
            (&["-"], Some("")),
        ];
        for (paths, as_name) in wrong {
            assert!(parsed(paths, as_name).is_err(), "{paths:?} as {as_name:?}");
        }
    }

    #[test]
    fn a_copy_ends_before_the_disk_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let file = || tempfile::tempfile_in(dir.path()).unwrap();
        let bytes = vec![1_u8; 2 * COPY_BYTES + 1];
        assert_eq!(
            copy(&mut &bytes[..], file(), dir.path(), 0).unwrap(),
            bytes.len() as u64
        );
        let full = copy(&mut &bytes[..], file(), dir.path(), u64::MAX).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }
}
