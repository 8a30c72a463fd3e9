//! Takes over the files that others have left in work: dead nodes, earlier processes of this one, and an
//! earlier release.
//!
//! The files of a process that has died are taken over by a rename of its directory into that of the
//! heir. This module does not know who is dead: the ledger decides.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::claim::{Claimed, claimed};
use super::clearing::{clear_up, clear_up_all};
use super::lock::{LOCK_FILE, Lock};
use super::moving::lacks_noreplace;
use super::names::{is_again, is_hidden, name_in_work, work_for};
use super::open::Inbox;
use super::place::{epochs, is_place, places, remove_claims, remove_place};
use super::tree::each_file;
use crate::directory;

impl Inbox {
    /// The epoch of the last process of this node that has used work. `None` if there is none, or it has
    /// ended in order.
    #[must_use]
    pub fn former_epoch(&self) -> Option<u64> {
        epochs(&self.node.path).into_iter().max()
    }

    /// Claims files as the process with this epoch from now on. With `takes_files`, also takes over what
    /// earlier processes of this node have left, and the files that an earlier release has left in work
    /// itself.
    ///
    /// # Errors
    /// A system call fails.
    pub fn begin(&self, epoch: u64, takes_files: bool) -> io::Result<()> {
        let claims = self.node.path.join(epoch.to_string());
        directory::create_private(&claims)?;
        *self.node.claims.write() = claims;
        self.keep_lock()?;
        if takes_files {
            let mut files = Vec::new();
            self.take_epochs(&self.node.name, epochs(&self.node.path), &mut files)?;
            self.adopt()?;
        } else {
            // Those of killed processes. Others take over their files.
            for former in epochs(&self.node.path) {
                if former != epoch {
                    remove_claims(&self.node.path.join(former.to_string()));
                }
            }
        }
        Ok(())
    }

    /// Takes the lock of this node again if its directory was removed.
    ///
    /// # Errors
    /// The lock cannot be taken.
    pub fn keep_lock(&self) -> io::Result<()> {
        self.node.keep_lock().map_err(io::Error::other)
    }

    /// The name of this node.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.node.name
    }

    /// Removes the directory of this process if it is empty: it ends in order.
    pub fn end(&self) {
        remove_claims(&self.node.claims());
    }

    /// Whether another process has taken over the directory of this one. In a work that is gone as a
    /// whole, as after a lost mount, it may come back.
    #[must_use]
    pub fn is_taken_over(&self) -> bool {
        self.directories.work.join(LOCK_FILE).exists() && !self.node.claims().exists()
    }

    /// The names of the other nodes with a directory in work, each with whether it has files there.
    ///
    /// # Errors
    /// Work cannot be read.
    pub fn other_nodes(&self) -> io::Result<Vec<(String, bool)>> {
        let mut names = places(&self.directories.work)?;
        names.retain(|name| *name != self.node.name);
        let with_files = |name: String| {
            let files = files_below(&self.directories.work.join(&name), Path::new(""));
            let files = files.inspect_err(|error| {
                tracing::warn!(node = name, %error, "the directory of a node in work cannot be read");
            });
            // One that cannot be read may have files.
            let has_files = files.map_or(true, |files| !files.is_empty());
            (name, has_files)
        };
        Ok(names.into_iter().map(with_files).collect())
    }

    /// Sets whether intake takes over files from now on.
    pub fn set_takes_over(&self, takes_over: bool) {
        self.node.takes_over.store(takes_over, Relaxed);
    }

    /// Whether intake takes over files now.
    #[must_use]
    pub fn takes_over(&self) -> bool {
        self.node.takes_over.load(Relaxed)
    }

    /// Notes how many other nodes have files in work and have not been seen to live. `None`: not known.
    pub fn suspect(&self, suspects: Option<usize>) {
        self.node.suspects.send_replace(suspects);
    }

    /// Waits until there are files to take over (`true`), or each other node that has files in work has
    /// been seen to live (`false`).
    pub async fn others_known(&self) -> bool {
        let mut suspects = self.node.suspects.subscribe();
        let none_left = async {
            // The sender lives as long as this inbox.
            let _ = suspects.wait_for(|suspects| *suspects == Some(0)).await;
        };
        tokio::select! {
            biased;
            () = self.orphaned() => true,
            () = none_left => !self.node.orphans.lock().is_empty(),
        }
    }

    /// The epochs of a node that have a directory in work.
    #[must_use]
    pub fn epochs_of(&self, name: &str) -> Vec<u64> {
        epochs(&self.directories.work.join(name))
    }

    /// Lets intake take over the files of these epochs of a node, which must be dead by the ledger. Its
    /// next process may begin before intake does that: the files of later epochs stay.
    pub fn orphan(&self, name: String, epochs: Vec<u64>) {
        self.node.orphans.lock().push((name, epochs));
        self.node.orphaned.notify_one();
    }

    /// Waits until there are files to take over.
    pub async fn orphaned(&self) {
        self.node.orphaned.notified().await;
    }

    /// Takes over the files of the nodes that were [orphaned](Self::orphan). Returns the files. Those
    /// that cannot be taken over now [wait](Self::has_taken) for the next call, or for the next beats.
    #[must_use]
    pub fn take_orphans(&self) -> Vec<Claimed> {
        let mut taken = Vec::new();
        if let Err(error) = self.unpack_taken(&mut taken) {
            tracing::warn!(%error, "files of a dead node wait for a later attempt");
        }
        let orphans = std::mem::take(&mut *self.node.orphans.lock());
        for (name, dead) in orphans {
            let before = taken.len();
            let result = self.take_epochs(&name, dead, &mut taken);
            let files = taken.len() - before;
            if files > 0 {
                tracing::warn!(node = name, files, "takes over the files of a dead node");
            }
            if let Err(error) = result {
                // What is still in its directory, the next beats find dead again.
                tracing::warn!(node = name, %error, "files of a dead node wait for a later attempt");
                continue;
            }
            clear_up_all(&self.directories, self.markers().directories);
            let place = self.directories.work.join(&name);
            // A process of this name that is starting has the lock.
            if epochs(&place).is_empty()
                && let Ok(_lock) = Lock::take(&place)
            {
                remove_place(&place);
            }
        }
        taken
    }

    /// Whether this process has taken over directories whose files are not yet in their places.
    #[must_use]
    pub fn has_taken(&self) -> bool {
        !self.node.taken.lock().is_empty()
    }

    /// Takes the directories of these epochs of a node, except the one of this process, and adds their
    /// files.
    fn take_epochs(
        &self,
        name: &str,
        epochs: Vec<u64>,
        files: &mut Vec<Claimed>,
    ) -> io::Result<()> {
        let own = self.node.claims();
        let place = self.directories.work.join(name);
        for epoch in epochs {
            let from = place.join(epoch.to_string());
            if from == own {
                continue;
            }
            // As one: a process that was stopped, and goes on, finds none of its paths.
            match rename_into(&from, &own) {
                Ok(there) => self.node.taken.lock().push(there),
                // Another node was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.unpack_taken(files)
    }

    /// Unpacks all directories that were taken. Those that cannot be unpacked now stay for the next
    /// attempt; the error is that of the last one.
    fn unpack_taken(&self, files: &mut Vec<Claimed>) -> io::Result<()> {
        let mut result = Ok(());
        let taken = std::mem::take(&mut *self.node.taken.lock());
        for there in taken {
            if let Err(error) = self.unpack(&there, files) {
                self.node.taken.lock().push(there);
                result = Err(error);
            }
        }
        result
    }

    /// Moves the files of a directory that was taken to their places in the own one, so that directories
    /// do not nest deeper with each take-over, and adds them. A file that cannot be moved is claimed
    /// where it is.
    fn unpack(&self, taken: &Path, files: &mut Vec<Claimed>) -> io::Result<()> {
        clear_up(taken, true)?;
        for (path, name) in files_below(taken, Path::new(""))? {
            let path = self.move_into_work(&path, name.as_ref()).unwrap_or(path);
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            files.push(Claimed {
                name: name.into_os_string(),
                ..claimed(path, &metadata)?
            });
        }
        remove_claims(taken);
        Ok(())
    }

    /// Takes the files that are in work itself, where an earlier release has claimed them.
    fn adopt(&self) -> io::Result<()> {
        let work = &self.directories.work;
        let mut found = Vec::new();
        let mut directories = Vec::new();
        for entry in fs::read_dir(work)? {
            let entry = entry?;
            let (name, path) = (entry.file_name(), entry.path());
            let kind = entry.file_type()?;
            if kind.is_dir() && !is_place(&path) && (is_again(&name) || !is_hidden(&name)) {
                found.extend(files_below(&path, Path::new(&name))?);
                directories.push(path);
            } else if kind.is_file() && !is_hidden(&name) {
                found.push((path, name.into()));
            }
        }
        for (path, name) in found {
            match self.move_into_work(&path, name.as_ref()) {
                // Another node was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => {}
                moved => drop(moved?),
            }
        }
        for directory in directories {
            // A node that is starting may have made it: then it has a lock, or will make it again.
            if !is_place(&directory) {
                remove_claims(&directory);
            }
        }
        Ok(())
    }
}

/// The regular files below a directory that are not hidden, each with its name in inbound. `below` is
/// the path of the directory from the root of the names.
fn files_below(directory: &Path, below: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut files = Vec::new();
    let visit = |path: std::ffi::OsString, entry: &fs::DirEntry| {
        if entry.file_type()?.is_file() && !is_hidden(&entry.file_name()) {
            let name = below.join(path);
            files.push((entry.path(), PathBuf::from(name_in_work(&name))));
        }
        Ok(())
    };
    match each_file(directory, |_| true, visit) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map(|()| files),
    }
}

/// Renames a directory to a free name in another one, which has the form of a directory for files whose
/// name is taken.
fn rename_into(from: &Path, to: &Path) -> io::Result<PathBuf> {
    for attempt in 1..u32::MAX {
        let target = work_for(to, attempt);
        let renamed = match renameat_with(CWD, from, CWD, &target, RenameFlags::NOREPLACE) {
            // A rename replaces a directory only if it is empty.
            Err(error) if lacks_noreplace(error) => fs::rename(from, &target),
            renamed => renamed.map_err(Into::into),
        };
        match renamed {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
                ) => {}
            renamed => return renamed.map(|()| target),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
