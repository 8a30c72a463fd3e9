//! The files that a load takes: all of inbound, one file in inbound, or an archive outside of it.
//!
//! Knows nothing of the stages.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{io, iter};

use super::engine::Engine;
use crate::config::Settings;
use crate::config::cli::{DeferIndexes, FileOrder};
use crate::fault::Fault;
use crate::inbox::{self, Archive, Arriving, Candidate, Claim, Claimed, Found, WaitReason};
use crate::ingest::{ItemOrigin, Tally};
use crate::shutdown::Shutdown;
use crate::telemetry;

/// The endings of the names of compressed files.
const COMPRESSED: [&[u8]; 7] = [b".gz", b".zst", b".zstd", b".bz2", b".xz", b".lz4", b".sz"];

/// How much smaller compressed JSON is, about. Only an estimate of the rows to come uses it.
const COMPRESSION: u64 = 8;

/// Most files of archives that a plan holds: about 20 MB. More of them are listed twice, which costs
/// a few microseconds for each: once for their number of bytes, and once while they are loaded.
const HELD_FILES_MAX: usize = 65_536;

/// The files of a load.
pub struct LoadPlan {
    files: Vec<(Claimed, ItemOrigin)>,
    /// Archives of so many files that they are listed again while they are loaded.
    archives: Vec<Archive>,
    /// The origin of the files of archives.
    origin: ItemOrigin,
    /// Whether the files of work and inbound are loaded as well.
    inbound: bool,
    bytes: u64,
    left: Vec<(PathBuf, WaitReason)>,
    defer: DeferIndexes,
}

/// The meaning of a path on the command line.
pub enum Source {
    /// The directory inbound: all files in it, and in work.
    Inbound,
    /// One file in inbound, or of a directory below it whose files are taken.
    FileInInbound(PathBuf),
    /// The name of a file of inbound that an earlier load of this node has left in work.
    Claimed(PathBuf),
    /// Files outside of inbound.
    Archive(Archive),
}

impl LoadPlan {
    /// Finds the files of the paths. Without a path: the files of inbound and work. Files of an
    /// archive get the origin `archive`. A named file in inbound is claimed at once. The files that an
    /// earlier load of this node has left in work come with all others.
    ///
    /// # Errors
    /// A path or directory cannot be read. The message names it.
    pub fn find(
        engine: &Engine,
        settings: &Settings,
        paths: &[PathBuf],
        archive: ItemOrigin,
        order: FileOrder,
    ) -> io::Result<Self> {
        let mut plan = Self {
            files: Vec::new(),
            archives: Vec::new(),
            origin: archive,
            inbound: false,
            bytes: 0,
            left: Vec::new(),
            defer: DeferIndexes::Never,
        };
        let mut archives = Vec::new();
        let sources = sources(settings, paths)?;
        plan.inbound = sources.iter().any(|it| matches!(it, Source::Inbound));
        if !plan.inbound {
            plan.go_on(engine, &sources)?;
        }
        for source in sources {
            match source {
                Source::Inbound | Source::Claimed(_) => {}
                Source::FileInInbound(path) => plan.claim(engine, path)?,
                Source::Archive(archive) => archives.push(archive),
            }
        }
        plan.list(engine, archives, order)?;
        sort(&mut plan.files, order);
        plan.count(engine)
    }

    /// The files of work and inbound.
    ///
    /// # Errors
    /// One of the two directories cannot be read.
    pub fn inbound(engine: &Engine) -> io::Result<Self> {
        let plan = Self {
            files: Vec::new(),
            archives: Vec::new(),
            origin: ItemOrigin::Archive,
            inbound: true,
            bytes: 0,
            left: Vec::new(),
            defer: DeferIndexes::Never,
        };
        plan.count(engine)
    }

    /// A file that this process has written into work, and the files that an earlier load of this node
    /// has left there.
    ///
    /// # Errors
    /// Work cannot be read, or the file cannot be given this name.
    pub fn arriving(engine: &Engine, arriving: Arriving, name: &OsStr) -> io::Result<Self> {
        let mut plan = Self {
            files: Vec::new(),
            archives: Vec::new(),
            origin: ItemOrigin::Archive,
            inbound: false,
            bytes: 0,
            left: Vec::new(),
            defer: DeferIndexes::Never,
        };
        plan.go_on(engine, &[])?;
        let file = engine.inbox.end_file(arriving, name)?;
        plan.bytes += file.bytes;
        plan.files.push((file, ItemOrigin::Mailbox));
        Ok(plan)
    }

    /// Lists the files of archives, and holds them, unless they are very many and in the order in
    /// which a walk finds them.
    fn list(
        &mut self,
        engine: &Engine,
        mut archives: Vec<Archive>,
        order: FileOrder,
    ) -> io::Result<()> {
        archives.sort_by(|a, b| a.path.cmp(&b.path));
        let mut held = Some(Vec::new());
        for found in archives.iter().cloned().flat_map(Archive::walk) {
            let Found::File(file) = found? else {
                Tally::add(&engine.tally.passed_over, 1);
                continue;
            };
            self.bytes += file.bytes;
            if let Some(files) = &mut held {
                files.push((file, self.origin));
                if order == FileOrder::Name && files.len() > HELD_FILES_MAX {
                    held = None;
                }
            }
        }
        match held {
            Some(files) => self.files.extend(files),
            None => self.archives = archives,
        }
        Ok(())
    }

    fn count(mut self, engine: &Engine) -> io::Result<Self> {
        if self.inbound {
            let scan = engine.inbox.scan()?;
            self.bytes += scan.bytes;
            Tally::add(&engine.tally.passed_over, scan.markers);
            let recovered = engine.inbox.recovered()?;
            self.bytes += recovered.iter().map(|file| file.bytes).sum::<u64>();
        }
        Ok(self)
    }

    /// Adds the files that an earlier load has left in work. If all files are loaded as one dataset, only
    /// those that the paths name: the name of each other file says its dataset.
    fn go_on(&mut self, engine: &Engine, sources: &[Source]) -> io::Result<()> {
        let mut recovered = engine.inbox.recovered()?;
        if engine.options.ingest.dataset.is_some() {
            let is_named = |file: &Claimed| {
                let is_it =
                    |it: &Source| matches!(it, Source::Claimed(name) if *name == *file.name);
                sources.iter().any(is_it)
            };
            recovered.retain(is_named);
        }
        if !recovered.is_empty() {
            tracing::info!(
                files = recovered.len(),
                "goes on with files of an earlier run"
            );
        }
        telemetry::files_discovered("recovered", recovered.len() as u64);
        for file in recovered {
            self.bytes += file.bytes;
            self.files.push((file, ItemOrigin::Recovered));
        }
        Ok(())
    }

    /// Claims one named file in inbound.
    fn claim(&mut self, engine: &Engine, path: PathBuf) -> io::Result<()> {
        let metadata = path.metadata()?;
        let modified = metadata.modified()?;
        // Both paths are without links.
        let inbound = engine.inbox.directories().inbound.canonicalize()?;
        let name = path.strip_prefix(inbound).unwrap_or(&path);
        let candidate = Candidate {
            name: name.as_os_str().to_owned(),
            bytes: metadata.len(),
            modified,
            // `load` does not measure how long a file waited in inbound.
            arrived: modified,
        };
        match engine.inbox.claim(&candidate)? {
            Claim::Taken(file) => {
                self.bytes += file.bytes;
                self.files.push((file, ItemOrigin::Mailbox));
            }
            Claim::Waits(reason) => {
                Tally::add(&engine.tally.left, 1);
                self.left.push((path, reason));
            }
        }
        Ok(())
    }

    /// The bytes of all files on the disk, for a progress bar.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the plan has no file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.archives.is_empty() && self.bytes == 0
    }

    /// The named files of inbound that could not be claimed, each with the reason.
    #[must_use]
    pub fn left(&self) -> &[(PathBuf, WaitReason)] {
        &self.left
    }

    /// This plan, with the indexes of the tables deferred.
    #[must_use]
    pub fn with_deferred_indexes(mut self, defer: DeferIndexes) -> Self {
        self.defer = defer;
        self
    }

    /// Loads the files. Returns when all are stored and no index is missing, or when the shutdown
    /// ends the load.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn load(self, engine: &Engine, shutdown: &Shutdown) -> Result<(), Fault> {
        let loaded = tokio::select! {
            loaded = Box::pin(self.load_all(engine, shutdown)) => loaded,
            fault = engine.until_taken_over() => Err(fault),
        };
        engine.leave().await;
        loaded
    }

    async fn load_all(self, engine: &Engine, shutdown: &Shutdown) -> Result<(), Fault> {
        if self.defer != DeferIndexes::Never && !self.is_empty() {
            let coming = self.bytes_by_dataset(engine);
            engine
                .defer_indexes(self.defer, &coming, &shutdown.drain)
                .await?;
        }
        let loaded = self.load_files(engine, shutdown).await;
        if loaded.is_err() || shutdown.drain.is_cancelled() {
            engine.report_missing_indexes().await;
            return loaded;
        }
        engine.build_indexes(&shutdown.drain).await
    }

    /// The bytes of the files of each dataset, those of compressed files as about inflated.
    fn bytes_by_dataset(&self, engine: &Engine) -> HashMap<String, u64> {
        let mut found = HashMap::new();
        let only = engine.options.ingest.dataset.as_ref();
        let mut add = |name: &OsStr, bytes: u64| {
            let name = name.as_encoded_bytes();
            let Ok(of) = engine.datasets.of_file(name, only) else {
                return;
            };
            let is_compressed = COMPRESSED.iter().any(|ending| name.ends_with(ending));
            let bytes = bytes * if is_compressed { COMPRESSION } else { 1 };
            for dataset in iter::once(of.own).chain(of.also) {
                *found.entry(dataset.name.clone()).or_default() += bytes;
            }
        };
        for (file, _) in &self.files {
            add(file.path.as_os_str(), file.bytes);
        }
        for found in self.archives.iter().cloned().flat_map(Archive::walk) {
            if let Ok(Found::File(file)) = found {
                add(&file.name, file.bytes);
            }
        }
        // A directory that cannot be read now counts as empty here: the load reports it.
        if self.inbound
            && let Ok(scan) = engine.inbox.scan()
        {
            let (ready, all) = (&scan.ready, scan.bytes);
            let listed: u64 = ready.iter().map(|file| file.bytes).sum();
            // A scan lists only the first files of a huge directory.
            let times = all.checked_div(listed).unwrap_or(1);
            for file in ready {
                add(&file.name, file.bytes * times);
            }
        }
        if self.inbound
            && let Ok(recovered) = engine.inbox.recovered()
        {
            for file in &recovered {
                add(&file.name, file.bytes);
            }
        }
        found
    }

    async fn load_files(self, engine: &Engine, shutdown: &Shutdown) -> Result<(), Fault> {
        if !self.files.is_empty() || !self.archives.is_empty() {
            let origin = self.origin;
            let walked = self.archives.into_iter().flat_map(Archive::walk);
            let walked = walked.filter_map(move |found| match found {
                Ok(Found::File(file)) => Some(Ok((file, origin))),
                Ok(Found::PassedOver) => None,
                Err(error) => Some(Err(error)),
            });
            let files = self.files.into_iter().map(Ok).chain(walked);
            engine.load_files(Box::new(files), shutdown).await?;
        }
        if self.inbound && !shutdown.drain.is_cancelled() {
            engine.load_inbound(shutdown).await?;
        }
        Ok(())
    }
}

/// The meaning of each path. No path means inbound.
///
/// # Errors
/// A path cannot be read. The message names it.
pub fn sources(settings: &Settings, paths: &[PathBuf]) -> io::Result<Vec<Source>> {
    if paths.is_empty() {
        return Ok(vec![Source::Inbound]);
    }
    let inbound = settings.dirs.inbound.canonicalize().ok();
    // An archive may contain the engine's own directories and database. Their files are left out.
    let directories = settings.dirs.named().map(|(_, path)| path.to_owned());
    let database = settings.sqlite_path().map(|database| {
        ["", "-wal", "-shm", "-journal"].map(|ending| {
            let mut path = database.as_os_str().to_owned();
            path.push(ending);
            PathBuf::from(path)
        })
    });
    let own = directories
        .into_iter()
        .chain(database.into_iter().flatten());
    let own: Vec<_> = own.filter_map(|path| path.canonicalize().ok()).collect();
    let markers = settings.markers();
    let claimed = |path: &Path| {
        let name = name_below(inbound.as_deref()?, path)?;
        let (work, node) = (&settings.dirs.work, settings.node_name());
        inbox::has_claimed(work, &node, &name).then_some(name)
    };
    let source_of = |path: &PathBuf| {
        let full = match canonical(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return claimed(path).map(Source::Claimed).ok_or(error);
            }
            full => full?,
        };
        if Some(&full) == inbound.as_ref() {
            return Ok(Source::Inbound);
        }
        let is_in_inbound = inbound.as_ref().is_some_and(|inbound| {
            let below = settings.inbound_recursive && full.starts_with(inbound);
            below || full.parent() == Some(inbound)
        });
        if is_in_inbound && !full.is_dir() {
            return Ok(Source::FileInInbound(full));
        }
        let is_below = |own: &&PathBuf| **own != full && own.starts_with(&full);
        Ok(Source::Archive(Archive {
            left_out: own.iter().filter(is_below).cloned().collect(),
            path: full,
            markers: markers.clone(),
        }))
    };
    paths.iter().map(source_of).collect()
}

/// The path of a file that is gone from a directory, relative to it. `None` if its parent is not in the
/// directory.
fn name_below(directory: &Path, path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let full = parent.canonicalize().ok()?.join(path.file_name()?);
    full.strip_prefix(directory).ok().map(Path::to_owned)
}

fn canonical(path: &Path) -> io::Result<PathBuf> {
    path.canonicalize().map_err(|error| {
        let message = format!("cannot load {}: {error}", path.display());
        io::Error::new(error.kind(), message)
    })
}

/// Sorts files in the order in which they are loaded.
pub fn sort(files: &mut [(Claimed, ItemOrigin)], order: FileOrder) {
    match order {
        FileOrder::Name => files.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path)),
        FileOrder::Oldest => files.sort_by_key(|(file, _)| file.modified),
        FileOrder::Newest => files.sort_by_key(|(file, _)| Reverse(file.modified)),
    }
}
