//! The move of a file into a directory: never over another, and whole or not at all.
//!
//! A rename does it, or a second name where the file system has no rename that never replaces
//! ([`move_by_link`]). Where the devices differ, the file is copied under a temporary name, synced,
//! renamed and only then removed where it was: no half copy is ever seen under a final name. A kill
//! in the middle leaves the file where it was, and may leave a copy; [`copy_across`] and
//! [`remove_leftovers`] deal with that.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::names::{numbered, numbered_with_reason, reason_path};
use crate::content;

/// The beginning of the name of a copy until it is whole.
pub(super) const COPY_PREFIX: &str = ".lemonade-moving-";

/// Random characters after the prefix.
const COPY_SUFFIX_CHARS: usize = 6;

/// Moves a file into a directory under its name or, if that is taken, the name with a number.
/// Returns its path there. Never replaces a file.
pub(super) fn move_into(from: &Path, to: &Path, name: &OsStr) -> io::Result<PathBuf> {
    for attempt in 0..u32::MAX {
        let target = to.join(numbered(name, attempt));
        match rename_new(from, &target) {
            Ok(()) => return Ok(target),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Moves a file like [`move_into`], and puts a text beside it in `NAME.reason`. The text is written
/// first, so that no kill leaves a file without it; the same text that such a kill left there is
/// used. A name counts as taken, too, if the name of its reason is.
pub(super) fn move_with_reason(
    from: &Path,
    to: &Path,
    name: &OsStr,
    text: &str,
) -> io::Result<PathBuf> {
    // No reason is written for a file that was removed, as far as that can be known.
    fs::symlink_metadata(from)?;
    for attempt in 0..u32::MAX {
        let target = to.join(numbered_with_reason(name, attempt));
        let beside = reason_path(&target);
        if fs::symlink_metadata(&target).is_ok() || !write_reason(&beside, text)? {
            continue;
        }
        match rename_new(from, &target) {
            Ok(()) => return Ok(target),
            // Another process was faster: the reason is that of its file, if both have the same one.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Writes a reason. Returns whether its name was free, or taken by the same reason.
///
/// # Errors
/// The system's, such as no room: the file stays where it is until its reason can be beside it.
fn write_reason(beside: &Path, text: &str) -> io::Result<bool> {
    let made = File::create_new(beside);
    let written = made.and_then(|mut file| {
        // Half of a reason would take the name that the next attempt needs.
        file.write_all(text.as_bytes()).inspect_err(|_| {
            let _ = fs::remove_file(beside);
        })
    });
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok(fs::read(beside).is_ok_and(|there| there == text.as_bytes()))
        }
        Err(error) => Err(error),
    }
}

/// Renames without replacing. If the file system cannot do that, moves by a second name; if the
/// devices differ, copies.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::XDEV) => copy_across(from, to),
        Err(error) if lacks_noreplace(error) => {
            move_by_link(from, to, |name| fs::remove_file(name))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a rename failed because the file system or the kernel lacks renames that never replace.
/// NFS, Ceph, some of FUSE and old kernels answer `EINVAL` to the flag.
fn lacks_noreplace(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

/// Moves a file within a device by a second name, which is never made over another file, and by
/// taking the first one away with `unlink`.
///
/// A kill between the two leaves the file under both names. That is harmless: the ledger knows the
/// content, so the name that is found again is a duplicate, which adds nothing and goes to history
/// as any other. (With `hard_links = "wait"`, it waits until one of the two is removed.)
fn move_by_link(
    from: &Path,
    to: &Path,
    unlink: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<()> {
    match fs::hard_link(from, to) {
        // An earlier attempt made the second name.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_same_file(from, to) => {}
        linked => linked?,
    }
    let Err(error) = unlink(from) else {
        return Ok(());
    };
    match error.kind() {
        // Another process removed the first name, or a server removed it that was asked twice.
        io::ErrorKind::NotFound => return Ok(()),
        // The file has not moved: each further attempt would leave one more name of it.
        io::ErrorKind::PermissionDenied | io::ErrorKind::ResourceBusy => {
            let _ = fs::remove_file(to);
        }
        // The first name may be removed all the same, so the second one has to stay.
        _ => {}
    }
    Err(error)
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let place = |path| fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((place(one), place(other)), (Ok(one), Ok(other)) if one == other)
}

/// Moves a file to another name beside it and back again, as all files are moved.
///
/// # Errors
/// No file can be moved here. This one is where it was.
pub fn try_move(file: &Path) -> io::Result<()> {
    let mut aside = file.as_os_str().to_owned();
    aside.push("-moved");
    let aside = Path::new(&aside);
    rename_new(file, aside)?;
    rename_new(aside, file).inspect_err(|_| {
        let _ = fs::remove_file(aside);
    })
}

/// Moves a file to another device. A target that exists already and is equal byte for byte is the
/// copy of a process that was killed before it could remove the file: only that is left to do.
fn copy_across(from: &Path, to: &Path) -> io::Result<()> {
    let dir = to.parent().expect("a target in a directory");
    let (mut source, metadata) = content::open_regular(from).map_err(|error| match error {
        content::ContentError::Io(error) => error,
        other => io::Error::other(other),
    })?;
    if fs::symlink_metadata(to).is_ok() {
        if !is_equal(&source, to)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
    } else {
        let mut copy = tempfile::Builder::new()
            .prefix(COPY_PREFIX)
            .rand_bytes(COPY_SUFFIX_CHARS)
            .tempfile_in(dir)?;
        // Keeps `remove_leftovers` from removing a copy that is still being made. If the file system
        // has no locks, that gets none, either, and leaves the copy alone.
        let _ = copy.as_file().lock();
        io::copy(&mut source, copy.as_file_mut())?;
        copy.as_file().set_modified(metadata.modified()?)?;
        copy.as_file().sync_all()?;
        copy.persist_noclobber(to).map_err(|error| error.error)?;
    }
    File::open(dir)?.sync_all()?;
    fs::remove_file(from)
}

/// Whether there is a regular file at `path` with the same bytes. If so, it is synced to the disk.
fn is_equal(source: &File, path: &Path) -> io::Result<bool> {
    const PIECE: usize = 256 * 1024;
    let Ok((there, metadata)) = content::open_regular(path) else {
        return Ok(false);
    };
    if metadata.len() != source.metadata()?.len() {
        return Ok(false);
    }
    let mut ours = BufReader::with_capacity(PIECE, source);
    let mut theirs = BufReader::with_capacity(PIECE, &there);
    loop {
        let (a, b) = (ours.fill_buf()?, theirs.fill_buf()?);
        let length = a.len().min(b.len());
        if a[..length] != b[..length] || (length == 0 && a.len() != b.len()) {
            return Ok(false);
        }
        if length == 0 {
            break;
        }
        ours.consume(length);
        theirs.consume(length);
    }
    there.sync_all()?;
    Ok(true)
}

/// Removes the copies that a killed process left unfinished in a directory: regular files with the
/// name of a copy that no process has locked.
pub(super) fn remove_leftovers(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_copy = |name: &[u8]| {
            let random = name.strip_prefix(COPY_PREFIX.as_bytes());
            random.is_some_and(|rest| {
                rest.len() == COPY_SUFFIX_CHARS && rest.iter().all(u8::is_ascii_alphanumeric)
            })
        };
        if !is_copy(entry.file_name().as_bytes()) {
            continue;
        }
        let path = entry.path();
        // Another process with the same directory may be making it, or have just moved it.
        let Ok((copy, _)) = content::open_regular(&path) else {
            continue;
        };
        if copy.try_lock().is_err() {
            continue;
        }
        tracing::warn!(?path, "removes the copy that a killed move left");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_move_by_link_leaves_one_name_and_never_replaces_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("a"), "1").unwrap();
        let inode = fs::metadata(at("a")).unwrap().ino();
        let unlink = |name: &Path| fs::remove_file(name);
        move_by_link(&at("a"), &at("b"), unlink).unwrap();
        assert!(!at("a").exists());
        let moved = fs::metadata(at("b")).unwrap();
        assert_eq!((moved.ino(), moved.nlink()), (inode, 1));

        fs::write(at("a"), "2").unwrap();
        let taken = move_by_link(&at("a"), &at("b"), unlink).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(at("a")).unwrap(), b"2");
        assert_eq!(fs::read(at("b")).unwrap(), b"1");
        let gone = move_by_link(&at("none"), &at("c"), unlink).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    /// A user who may not remove the first name has not moved the file. After any other error the
    /// first name may be removed, and no move may cost the last name of a file.
    #[test]
    fn a_first_name_that_stays_costs_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (error, stays) in [
            (Errno::PERM, false),
            (Errno::BUSY, false),
            (Errno::IO, true),
        ] {
            fs::write(at("a"), "1").unwrap();
            let unlink = |_: &Path| Err(error.into());
            let failed = move_by_link(&at("a"), &at("b"), unlink).unwrap_err();
            assert_eq!(failed.raw_os_error(), Some(error.raw_os_error()));
            assert_eq!((at("a").exists(), at("b").exists()), (true, stays));
        }
        // The next attempt makes no other name.
        move_by_link(&at("a"), &at("b"), |name| fs::remove_file(name)).unwrap();
        assert!(!at("a").exists());
        assert_eq!(fs::metadata(at("b")).unwrap().nlink(), 1);

        fs::rename(at("b"), at("a")).unwrap();
        let done_before = |name: &Path| {
            fs::remove_file(name)?;
            fs::remove_file(name)
        };
        move_by_link(&at("a"), &at("b"), done_before).unwrap();
        assert!(!at("a").exists() && at("b").exists());
    }

    /// `EINVAL` is what NFS says of the flag, and Ceph, and FUSE without it.
    #[test]
    fn a_missing_rename_flag_is_distinguished_from_a_failed_move() {
        for error in [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP, Errno::OPNOTSUPP] {
            assert!(lacks_noreplace(error), "{error}");
        }
        for error in [
            Errno::EXIST,
            Errno::XDEV,
            Errno::NOENT,
            Errno::IO,
            Errno::ACCESS,
        ] {
            assert!(!lacks_noreplace(error), "{error}");
        }
    }

    #[test]
    fn a_trial_move_leaves_the_file_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, "1").unwrap();
        try_move(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"1");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(try_move(&dir.path().join("none")).is_err());
    }
}
