//! The move of a file into a directory. It never replaces a file, and is complete or does not
//! happen.
//!
//! The move is a rename. If the file system has no rename that never replaces a file, the file gets
//! a second name and loses the first ([`move_by_link`]). To another device, the file is copied: see
//! [`copy_across`]. No half copy ever has a final name, and a file is removed only if its copy has
//! its current content. A kill in the middle leaves the file in its old directory, possibly under a
//! hidden name, and possibly with a copy in the new one. The module `clearing` removes such a copy,
//! and gives the file its name back.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use super::names::{NAME_BYTES_MAX, numbered, numbered_with_reason, reason_path};
use super::tree::last;
use crate::batch::ContentHash;
use crate::content::{self, Hasher};

/// The beginning of the name of an unfinished copy.
pub(super) const COPY_PREFIX: &str = ".lemonade-moving-";

/// Number of random characters after the prefix.
const COPY_SUFFIX_CHARS: usize = 6;

/// The beginning of the name of a file whose copy is whole, until it is removed. The rest is its
/// own name.
pub(super) const ASIDE_PREFIX: &str = ".lemonade-moved-";

/// Bytes that are copied or compared at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// Moves a file into a directory under its name or, if that is taken, the name with a number.
/// Returns its path there. Never replaces a file.
pub(super) fn move_into(from: &Path, to: &Path, name: &OsStr) -> io::Result<PathBuf> {
    move_content_into(from, to, name, None)
}

/// As [`move_into`]. If the file must be copied, its content must have the hash `hash`.
pub(super) fn move_content_into(
    from: &Path,
    to: &Path,
    name: &OsStr,
    hash: Option<ContentHash>,
) -> io::Result<PathBuf> {
    let (mut directory, last) = directory_of(to, name)?;
    for attempt in 0..u32::MAX {
        let target = directory.join(numbered(last, attempt));
        match rename_new(from, &target, hash) {
            Ok(()) => return Ok(target),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // The limits of history, or another program, have removed the empty directory.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && directory != to
                    && fs::symlink_metadata(&directory).is_err() =>
            {
                (directory, _) = directory_of(to, name)?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The directory for a file with this name, which is a path below `to`, and the last segment of the
/// name. Creates the directory. If a file has the name of a directory, the directory gets a number.
pub(super) fn directory_of<'a>(to: &Path, name: &'a OsStr) -> io::Result<(PathBuf, &'a OsStr)> {
    let mut directory = to.to_owned();
    let last = last(name);
    let parents = Path::new(name).parent().unwrap_or(Path::new(""));
    for parent in parents {
        directory = (0..u32::MAX)
            .map(|attempt| directory.join(numbered(parent, attempt)))
            .find_map(|directory| match fs::create_dir(&directory) {
                Ok(()) => Some(Ok(directory)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // Not a link, which may lead out of the directory.
                    let is_directory = fs::symlink_metadata(&directory).is_ok_and(|it| it.is_dir());
                    is_directory.then_some(Ok(directory))
                }
                Err(error) => Some(Err(error)),
            })
            .ok_or(io::ErrorKind::AlreadyExists)??;
    }
    Ok((directory, last))
}

/// Moves a file like [`move_into`], and writes a text beside it to `NAME.reason`. The text is
/// written first, so that no kill leaves the file without it. If a kill has left the same text, it
/// is kept. A name also counts as taken if the name of its reason is taken by another text.
pub(super) fn move_with_reason(
    from: &Path,
    to: &Path,
    name: &OsStr,
    text: &str,
) -> io::Result<PathBuf> {
    // No reason is written if the file was removed before.
    fs::symlink_metadata(from)?;
    let (to, name) = directory_of(to, name)?;
    for attempt in 0..u32::MAX {
        let target = to.join(numbered_with_reason(name, attempt));
        let beside = reason_path(&target);
        if fs::symlink_metadata(&target).is_ok() || !write_reason(&beside, text)? {
            continue;
        }
        match rename_new(from, &target, None) {
            Ok(()) => return Ok(target),
            // Another process was faster. If both files have the same reason, it now belongs to the
            // other file.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Writes a reason. Returns whether its name was free, or taken by the same reason.
///
/// # Errors
/// A system call fails, for example because the disk is full. Then the file is not moved.
pub(super) fn write_reason(beside: &Path, text: &str) -> io::Result<bool> {
    let made = File::create_new(beside);
    let written = made.and_then(|mut file| {
        // Removes a half-written reason, which would take the name that the next attempt needs.
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

/// Renames without replacing. If the file system cannot do that, moves by a second name. To another
/// device, copies the file if its content has the hash `hash`.
pub(super) fn rename_new(from: &Path, to: &Path, hash: Option<ContentHash>) -> io::Result<()> {
    match rename_within(from, to) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::XDEV) => {
            copy_across(from, to, hash)
        }
        moved => moved,
    }
}

/// As [`rename_new`], within a device.
fn rename_within(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(error) if lacks_noreplace(error) => {
            move_by_link(from, to, |name| fs::remove_file(name))
        }
        renamed => Ok(renamed?),
    }
}

/// Whether a rename failed because the file system or the kernel lacks renames that never replace.
/// NFS, Ceph, some of FUSE and old kernels answer `EINVAL` to the flag.
pub(super) fn lacks_noreplace(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

/// Moves a file within a device: gives it a second name, which never replaces a file, and removes
/// the first one with `unlink`.
///
/// A kill between the two steps leaves the file with both names. That is harmless: the ledger has
/// the content, so the file under its first name loads as a duplicate, stores nothing and goes to
/// history. (With `hard_links = "wait"`, it waits until one of the names is removed.)
fn move_by_link(
    from: &Path,
    to: &Path,
    unlink: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<()> {
    match fs::hard_link(from, to) {
        // An earlier attempt has created the second name.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_same_file(from, to) => {}
        linked => linked?,
    }
    let Err(error) = unlink(from) else {
        return Ok(());
    };
    match error.kind() {
        // Another process removed the first name, or a file server received the request twice.
        io::ErrorKind::NotFound => return Ok(()),
        // The file has not moved. The second name is removed, since each further attempt would
        // leave another one.
        io::ErrorKind::PermissionDenied | io::ErrorKind::ResourceBusy => {
            let _ = fs::remove_file(to);
        }
        // The first name may have been removed despite the error, so the second one must stay.
        _ => {}
    }
    Err(error)
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let place = |path| fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((place(one), place(other)), (Ok(one), Ok(other)) if one == other)
}

/// Moves a file to another name in its directory and back, in the same way as all moves. For
/// `doctor`.
///
/// # Errors
/// No file can be moved in this directory. The file is in its old place.
pub fn try_move(file: &Path) -> io::Result<()> {
    let mut aside = file.as_os_str().to_owned();
    aside.push("-moved");
    let aside = Path::new(&aside);
    rename_within(file, aside)?;
    rename_within(aside, file).inspect_err(|_| {
        let _ = fs::remove_file(aside);
    })
}

/// Moves a file to another device:
///
/// 1. Locks the file, so that of several engines with one inbound only one copies it.
/// 2. Copies it under a temporary name, and syncs the copy. If the file changed meanwhile, or its
///    content has another hash than `hash`, the move fails.
/// 3. Renames the file in its directory ("sets it aside"): of several processes that try to move
///    the file, only one succeeds. If another file has taken the name, that file gets the name
///    back, and the move fails.
/// 4. Gives the copy its final name, and removes the file.
///
/// A move that fails leaves no copy. If the target exists and is equal byte for byte, a process was
/// killed in the last step: then only the file is removed.
pub(super) fn copy_across(from: &Path, to: &Path, hash: Option<ContentHash>) -> io::Result<()> {
    let dir = to.parent().expect("a target in a directory");
    let (mut source, opened) = open_to_move(from)?;
    let copy = if fs::symlink_metadata(to).is_ok() {
        if !is_equal(&source, to)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        None
    } else {
        Some(copy_into(dir, &mut source, &opened, hash)?)
    };
    if content::state(&source.metadata()?) != content::state(&opened) {
        return Err(busy("it changed while it was copied"));
    }
    let aside = set_aside(from, &opened)?;
    if let Some(copy) = copy
        && let Err(error) = copy.persist_noclobber(to)
    {
        move_within(&aside, parent(from), from.file_name().unwrap_or_default())?;
        return Err(error.error);
    }
    File::open(dir)?.sync_all()?;
    match fs::remove_file(aside) {
        // Not found: without locks, another process may have given the file its name back at its
        // start.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Opens and locks a file that is to be moved.
pub(super) fn open_to_move(from: &Path) -> io::Result<(File, Metadata)> {
    let (source, opened) = content::open_regular(from).map_err(|error| match error {
        content::ContentError::Io(error) => error,
        other => io::Error::other(other),
    })?;
    // If the file system has no locks, a rename alone ensures that one process moves the file.
    if let Err(TryLockError::WouldBlock) = source.try_lock() {
        return Err(busy("another process is moving it"));
    }
    Ok((source, opened))
}

/// Creates an empty copy under a temporary name.
pub(super) fn begin_copy(dir: &Path) -> io::Result<NamedTempFile> {
    let copy = tempfile::Builder::new()
        .prefix(COPY_PREFIX)
        .rand_bytes(COPY_SUFFIX_CHARS)
        .tempfile_in(dir)?;
    // The lock prevents that `clear_up` removes an unfinished copy. It is a shared one, so that a
    // handle that only reads can take it over. If the file system has no locks, `clear_up` gets
    // none, and removes nothing.
    let _ = copy.as_file().lock_shared();
    Ok(copy)
}

/// Makes a copy under a temporary name, and syncs it.
fn copy_into(
    dir: &Path,
    source: &mut File,
    opened: &Metadata,
    hash: Option<ContentHash>,
) -> io::Result<NamedTempFile> {
    let mut copy = begin_copy(dir)?;
    let mut copied = Hasher::default();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let bytes = match source.read(&mut piece) {
            Ok(0) => break,
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        copied.update(&piece[..bytes]);
        copy.write_all(&piece[..bytes])?;
    }
    if hash.is_some_and(|hash| hash != copied.finish()) {
        return Err(busy("its content differs from the content that was read"));
    }
    copy.as_file().set_modified(opened.modified()?)?;
    copy.as_file().sync_all()?;
    Ok(copy)
}

/// Renames an opened file to a hidden name in its directory. Returns the new path.
///
/// # Errors
/// The file was removed, or another file has its name; that file keeps the name.
pub(super) fn set_aside(from: &Path, copied: &Metadata) -> io::Result<PathBuf> {
    let name = from.file_name().unwrap_or_default();
    let mut hidden = OsString::from(ASIDE_PREFIX);
    hidden.push(name);
    let aside = move_within(from, parent(from), &hidden)?;
    let renamed = fs::symlink_metadata(&aside)?;
    // A rename changes ctime, so only device and inode are compared. The rest was compared before.
    if (renamed.dev(), renamed.ino()) == (copied.dev(), copied.ino()) {
        return Ok(aside);
    }
    move_within(&aside, parent(from), name)?;
    Err(busy("another file took its name while it was copied"))
}

/// As [`move_into`], within a device.
pub(super) fn move_within(from: &Path, to: &Path, name: &OsStr) -> io::Result<PathBuf> {
    for attempt in 0..u32::MAX {
        let target = to.join(numbered(cut(name), attempt));
        match rename_within(from, &target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            renamed => return renamed.map(|()| target),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The name, cut to the longest length of file systems.
fn cut(name: &OsStr) -> &OsStr {
    OsStr::from_bytes(&name.as_bytes()[..name.len().min(NAME_BYTES_MAX)])
}

fn parent(file: &Path) -> &Path {
    file.parent().expect("a file in a directory")
}

fn busy(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, why)
}

/// Whether `path` is a regular file with the same bytes. If so, the file is synced to the disk.
pub(super) fn is_equal(source: &File, path: &Path) -> io::Result<bool> {
    let Ok((there, metadata)) = content::open_regular(path) else {
        return Ok(false);
    };
    if metadata.len() != source.metadata()?.len() {
        return Ok(false);
    }
    let mut ours = BufReader::with_capacity(PIECE_BYTES, source);
    let mut theirs = BufReader::with_capacity(PIECE_BYTES, &there);
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

/// Whether a name is that of an unfinished copy.
pub(super) fn is_copy(name: &OsStr) -> bool {
    let random = name.as_bytes().strip_prefix(COPY_PREFIX.as_bytes());
    random.is_some_and(|rest| {
        rest.len() == COPY_SUFFIX_CHARS && rest.iter().all(u8::is_ascii_alphanumeric)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::inbox::tests::names;

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

    /// If the user may not remove the first name, the file has not moved. After any other error,
    /// the first name may have been removed, so the second name must stay.
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
        // The next attempt creates no third name.
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

    /// NFS, Ceph, and FUSE without the flag return `EINVAL`.
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

    fn opened(path: &Path) -> (File, Metadata) {
        content::open_regular(path).unwrap()
    }

    #[test]
    fn only_the_file_that_was_copied_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, "1").unwrap();
        let (_file, copied) = opened(&file);
        fs::write(dir.path().join("b"), "2").unwrap();
        fs::rename(dir.path().join("b"), &file).unwrap();
        let error = set_aside(&file, &copied).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(names(dir.path()), ["a"]);
        assert_eq!(fs::read(&file).unwrap(), b"2");

        let (_file, copied) = opened(&file);
        let aside = set_aside(&file, &copied).unwrap();
        assert_eq!(names(dir.path()), [".lemonade-moved-a"]);
        assert_eq!(fs::read(aside).unwrap(), b"2");
        let error = set_aside(&file, &copied).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_copy_of_another_content_or_of_a_locked_file_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&from, "1").unwrap();
        let mut hash = Hasher::default();
        hash.update(b"2");
        let refused = || {
            let error = copy_across(&from, &to, Some(hash.finish())).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
            assert_eq!(names(dir.path()), ["a"]);
        };
        refused();
        fs::write(&from, "2").unwrap();
        let (other, _) = opened(&from);
        other.lock().unwrap();
        refused();
        drop(other);
        copy_across(&from, &to, Some(hash.finish())).unwrap();
        assert_eq!(names(dir.path()), ["b"]);
    }
}
