//! Compresses the files of history. The files are in history all the while: a file that is not
//! compressed yet is a file like any other, so no list of them is kept, and ingest waits for none.
//!
//! `NAME` becomes `NAME.zst`:
//!
//! 1. The file is locked, and compressed to a hidden file beside it, which is synced and read back.
//! 2. The hidden file gets its name, and the directory is synced. From here on, both files are there.
//! 3. The file is removed.
//!
//! After a kill, the next start removes the hidden file, and the next pass ends the third step. Files
//! that are compressed already, containers, and files that would not take less of the disk stay as they
//! are.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use rustix::process::setpriority_process;

use super::names::{NAME_BYTES_MAX, is_hidden};
use super::open::Inbox;
use super::replacing::Replacement;
use super::times::arrived;
use super::tree::each_file;
use crate::content;

/// The lowest priority: ingest has the processor first.
const PRIORITY: i32 = 19;

/// Room in a name for a number and the ending.
const ENDING_BYTES_MAX: usize = 15;

/// Endings of files that are not opened in each pass.
const COMPRESSED: [&str; 11] = [
    ".zst", ".gz", ".tgz", ".bz2", ".xz", ".lz4", ".sz", ".zip", ".tar", ".7z", ".parquet",
];

/// Larger files would not be inflated again: see `ContentOptions::inflated_bytes_max`.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// What a pass over history compressed.
#[derive(Debug, Default)]
pub struct Compacting {
    /// How many files.
    pub files: u64,
    /// Their bytes before.
    pub bytes_before: u64,
    /// Their bytes now.
    pub bytes_now: u64,
    /// The first file that could not be compressed. The others were all the same.
    pub failed: Option<io::Error>,
}

impl Inbox {
    /// Compresses the files that were moved to history since a time, or all of them, at the lowest
    /// priority. Ends early, without an error, if `is_stopped`, or if fewer than `floor_bytes` are free.
    ///
    /// # Errors
    /// History cannot be read.
    pub fn compact_history(
        &self,
        since: Option<SystemTime>,
        floor_bytes: u64,
        is_stopped: &(dyn Fn() -> bool + Sync),
    ) -> io::Result<Compacting> {
        let pass = || {
            // Without it, ingest is only slower.
            let _ = setpriority_process(None, PRIORITY);
            self.compact(since, floor_bytes, is_stopped)
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("history".to_owned());
            let done = thread.spawn_scoped(scope, pass)?.join();
            done.unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    fn compact(
        &self,
        since: Option<SystemTime>,
        floor_bytes: u64,
        is_stopped: &dyn Fn() -> bool,
    ) -> io::Result<Compacting> {
        let history = &self.directories.history;
        let mut done = Compacting::default();
        let visited = each_file(
            history,
            |_| true,
            |below, entry| {
                if is_stopped() {
                    return Err(ErrorKind::Interrupted.into());
                }
                let metadata = entry.metadata().ok().filter(Metadata::is_file);
                let Some(metadata) = metadata.filter(|it| may_be_compacted(&entry.file_name(), it))
                else {
                    return Ok(());
                };
                if since.is_some_and(|since| arrived(&metadata) < since) {
                    return Ok(());
                }
                let path = history.join(below);
                match compact_file(&path, floor_bytes, is_stopped) {
                    Ok(None) => {}
                    Ok(Some(bytes)) => {
                        done.files += 1;
                        done.bytes_before += metadata.len();
                        done.bytes_now += bytes;
                    }
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                    Err(error) => {
                        let is_full = error.kind() == ErrorKind::StorageFull;
                        let text = format!("{}: {error}", path.display());
                        let named = io::Error::new(error.kind(), text);
                        done.failed.get_or_insert(named);
                        if is_full {
                            return Err(error);
                        }
                    }
                }
                Ok(())
            },
        );
        match visited {
            Err(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::Interrupted | ErrorKind::StorageFull
                ) =>
            {
                Err(error)
            }
            _ => Ok(done),
        }
    }
}

fn may_be_compacted(name: &OsStr, metadata: &Metadata) -> bool {
    let bytes = name.as_bytes();
    let has_ending = |ending: &str| bytes.ends_with(ending.as_bytes());
    !is_hidden(name)
        && bytes.len() <= NAME_BYTES_MAX - ENDING_BYTES_MAX
        && !COMPRESSED.iter().any(|ending| has_ending(ending))
        && content::may_shrink(metadata.len())
        && metadata.len() <= FILE_BYTES_MAX
}

/// Compresses a file. Returns its new size, or `None` if it stays as it is.
fn compact_file(
    path: &Path,
    floor_bytes: u64,
    is_stopped: &dyn Fn() -> bool,
) -> io::Result<Option<u64>> {
    let (mut source, metadata) = match content::open_regular(path) {
        Ok(opened) => opened,
        Err(content::ContentError::Io(error)) => return Err(error),
        Err(_) => return Ok(None),
    };
    if !content::is_text(&mut source)? {
        return Ok(None);
    }
    let room = (path.parent().expect("a file in a directory"), floor_bytes);
    let write =
        |out: &mut _| content::write_compacted(&mut source, &metadata, out, room, is_stopped);
    let (new, hash) = Replacement::write(path, write)?;
    let Some(hash) = hash else {
        return Ok(None);
    };
    let bytes = new.bytes()?;
    new.finish_compacted(&metadata, hash)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::content::ContentOptions;
    use crate::inbox::aside::Aside;
    use crate::inbox::moving::{begin_copy, set_aside};
    use crate::inbox::{Directories, HistoryLimits, Patience, return_from_history};

    fn directories(root: &Path) -> Directories {
        Directories {
            inbound: root.join("inbound"),
            work: root.join("work"),
            history: root.join("history"),
            quarantine: root.join("quarantine"),
        }
    }

    fn inbox(root: &Path) -> Inbox {
        let patience = Patience {
            quiet_time: Duration::ZERO,
            incomplete_after: Duration::ZERO,
            one_name: false,
        };
        Inbox::open(directories(root), patience, "a").unwrap()
    }

    fn text(of: &str) -> String {
        format!("{{\"of\":\"{of}\"}}\n").repeat(1_000)
    }

    fn pass(inbox: &Inbox) -> Compacting {
        inbox.compact_history(None, 0, &|| false).unwrap()
    }

    /// The paths below a directory, in order, each with the text that it had when it was delivered.
    fn tree(root: &Path) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let visit = |below: std::ffi::OsString, entry: &fs::DirEntry| {
            let options = ContentOptions::default();
            let content = content::open(&entry.path(), &options);
            let text = content.map_or_else(
                |_| String::new(),
                |content| {
                    let mut buffer = Vec::new();
                    let bytes = content.read(0..content.bytes(), &mut buffer).unwrap();
                    String::from_utf8_lossy(bytes).into_owned()
                },
            );
            found.push((below.into_string().unwrap(), text));
            Ok(())
        };
        each_file(root, |_| true, visit).unwrap();
        found.sort();
        found
    }

    #[test]
    fn text_is_compressed_and_other_files_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = inbox(dir.path());
        let history = &inbox.directories.history;
        fs::create_dir(history.join("d")).unwrap();
        let zst = zstd::encode_all(text("b").as_bytes(), 3).unwrap();
        let long = "x".repeat(NAME_BYTES_MAX - ENDING_BYTES_MAX + 1);
        for (name, bytes) in [
            ("a.json", text("a").as_bytes()),
            ("a.json.1", text("a1").as_bytes()),
            ("b.json", text("b").as_bytes()),
            ("b.json.zst", &zst),
            ("b", &zst),
            ("d/a.json", text("d").as_bytes()),
            ("small.json", b"{}"),
            (&long, text("long").as_bytes()),
            (".hidden", text("hidden").as_bytes()),
        ] {
            fs::write(history.join(name), bytes).unwrap();
        }
        let done = pass(&inbox);
        assert!(done.failed.is_none(), "{done:?}");
        assert_eq!(done.files, 4);
        assert!(done.bytes_now * 10 < done.bytes_before, "{done:?}");
        let expected = [
            (".hidden", text("hidden")),
            ("a.json.1.zst", text("a1")),
            ("a.json.zst", text("a")),
            ("b", text("b")),
            // The delivered file has the name without a number.
            ("b.json.1.zst", text("b")),
            ("b.json.zst", text("b")),
            ("d/a.json.zst", text("d")),
            ("small.json", "{}".to_owned()),
            (&long, text("long")),
        ];
        let expected = expected.map(|(name, text)| (name.to_owned(), text));
        assert_eq!(tree(history), expected);
        assert_eq!(fs::read(history.join("b.json.zst")).unwrap(), zst);
        let again = pass(&inbox);
        assert_eq!((again.files, tree(history).len()), (0, 9));
        // Files that were there before a time are left out.
        fs::write(history.join("late.json"), text("late")).unwrap();
        let later = SystemTime::now() + Duration::from_secs(60);
        let done = inbox.compact_history(Some(later), 0, &|| false).unwrap();
        assert_eq!(done.files, 0);
        let done = inbox.compact_history(None, 0, &|| true).unwrap();
        assert_eq!(done.files, 0);
        let done = inbox.compact_history(None, u64::MAX, &|| false).unwrap();
        assert!(done.failed.is_some() && history.join("late.json").exists());
        assert_eq!(tree(history).len(), 10);
    }

    /// Each step of a compression leaves files that the next start and the next pass make one of.
    #[test]
    fn killed_at_any_step_the_file_is_there_and_in_the_end_once() {
        for step in ["hidden", "half", "named", "aside", "done", "reloaded"] {
            let dir = tempfile::tempdir().unwrap();
            let (history, inbound) = (dir.path().join("history"), dir.path().join("inbound"));
            let plain = history.join("a.json");
            let first = inbox(dir.path());
            let write = || fs::write(&plain, text("a")).unwrap();
            write();
            match step {
                "hidden" | "half" => {
                    let copy = begin_copy(&history).unwrap();
                    let whole = compacted_bytes(&text("a"));
                    let written = if step == "half" { 20 } else { whole.len() };
                    fs::write(copy.path(), &whole[..written]).unwrap();
                    copy.keep().unwrap();
                }
                "named" | "aside" => {
                    pass(&first);
                    write();
                    if step == "aside" {
                        let (_file, opened) = content::open_regular(&plain).unwrap();
                        set_aside(&plain, &opened).unwrap();
                    }
                }
                "done" => drop(pass(&first)),
                // A kill after `files reload` has written the file to inbound: both are there.
                _ => {
                    pass(&first);
                    fs::copy(history.join("a.json.zst"), dir.path().join("kept")).unwrap();
                    let aside = Aside::set(&history.join("a.json.zst")).unwrap();
                    return_from_history(&directories(dir.path()), aside, None).unwrap();
                    let kept = history.join(".lemonade-moved-a.json.zst");
                    fs::rename(dir.path().join("kept"), kept).unwrap();
                }
            }
            drop(first);
            let second = inbox(dir.path());
            if step == "reloaded" {
                assert_eq!(tree(&inbound), [("a.json".to_owned(), text("a"))]);
                fs::rename(inbound.join("a.json"), &plain).unwrap();
            }
            let left = tree(&history);
            assert!(
                left.iter().all(|(_, found)| *found == text("a")),
                "{step}: {left:?}"
            );
            assert!(!left.is_empty() && left.len() < 3, "{step}: {left:?}");
            let done = pass(&second);
            assert!(done.failed.is_none(), "{step}: {done:?}");
            let expected = [("a.json.zst".to_owned(), text("a"))];
            assert_eq!(tree(&history), expected, "{step}");
        }
    }

    fn compacted_bytes(text: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let inbox = inbox(dir.path());
        let path = inbox.directories.history.join("a");
        fs::write(&path, text).unwrap();
        pass(&inbox);
        fs::read(path.with_extension("zst")).unwrap()
    }

    #[test]
    fn a_file_that_another_process_replaces_or_moves_stays() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = inbox(dir.path());
        let path = inbox.directories.history.join("a.json");
        fs::write(&path, text("a")).unwrap();
        let (held, ()) = Replacement::write(&path, |file| {
            use std::io::Write as _;
            file.write_all(b"blank")
        })
        .unwrap();
        let failed = pass(&inbox).failed.unwrap();
        assert_eq!(failed.kind(), ErrorKind::ResourceBusy, "{failed}");
        assert!(failed.to_string().contains("history/a.json: "), "{failed}");
        held.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"blank");

        // Changed after it was read: the compressed file is not kept.
        fs::write(&path, text("a")).unwrap();
        let (mut source, metadata) = content::open_regular(&path).unwrap();
        let write = |out: &mut _| {
            let room = (dir.path(), 0);
            content::write_compacted(&mut source, &metadata, out, room, || false)
        };
        let (new, hash) = Replacement::write(&path, write).unwrap();
        fs::write(&path, text("b")).unwrap();
        let error = new.finish_compacted(&metadata, hash.unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        let history = &inbox.directories.history;
        assert_eq!(tree(history), [("a.json".to_owned(), text("b"))]);
    }

    #[test]
    fn a_compressed_file_keeps_its_age_and_comes_back_as_it_was_delivered() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = inbox(dir.path());
        let history = &inbox.directories.history;
        let path = history.join("2026/02/28/a.json");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text("a")).unwrap();
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(1_200));
        pass(&inbox);
        let compacted = PathBuf::from(format!("{}.zst", path.display()));
        let found = fs::metadata(&compacted).unwrap();
        assert_eq!(found.modified().unwrap(), written);
        let aside = Aside::set(&compacted).unwrap();
        aside.give_back().unwrap();
        let limits = |millis| HistoryLimits {
            age: Some(Duration::from_millis(millis)),
            bytes: None,
        };
        let now = SystemTime::now();
        assert_eq!(inbox.prune_history(limits(60_000), now).unwrap().files, 0);
        let aside = Aside::set(&compacted).unwrap();
        return_from_history(&inbox.directories, aside, None).unwrap();
        let back = inbox.directories.inbound.join("a.json");
        assert_eq!(fs::read_to_string(&back).unwrap(), text("a"));
        assert_eq!(fs::metadata(&back).unwrap().modified().unwrap(), written);
        assert!(!history.join("2026").exists());

        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::rename(&back, &path).unwrap();
        std::thread::sleep(Duration::from_millis(1_200));
        pass(&inbox);
        // By its ctime, it is younger.
        let now = SystemTime::now();
        assert_eq!(inbox.prune_history(limits(1_000), now).unwrap().files, 1);
        assert!(!history.join("2026").exists());
    }
}
