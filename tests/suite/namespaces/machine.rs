//! A machine: a host, and the one process that runs on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::network::{Host, Network};
use crate::chaos::process::Process;

/// Interval of looking at processes.
pub const TICK: Duration = Duration::from_millis(50);

/// What is done to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harm {
    /// SIGKILL; the process starts again afterwards.
    Kill,
    /// SIGSTOP; SIGCONT afterwards.
    Pause,
    /// The link of the host is down; it is up again afterwards.
    CutOff,
}

impl Harm {
    pub const ALL: [Self; 3] = [Self::Kill, Self::Pause, Self::CutOff];
}

/// A host with its process.
pub struct Machine {
    pub host: Host,
    pub process: Process,
    /// Its disk.
    pub folder: PathBuf,
    pub log: PathBuf,
}

impl Machine {
    /// Adds a host with an empty disk, and starts its process.
    pub fn start<C: Fn() -> Command + Send + 'static>(
        network: &mut Network,
        name: &str,
        command: impl FnOnce(&Host, &Path, &Path) -> C,
    ) -> Self {
        let folder = network.folder().join(name);
        fs::create_dir(&folder).unwrap();
        Self::of(network.host(name), name, &folder, command)
    }

    /// Starts the process of a host. `command` gets the host, its disk and the log.
    pub fn of<C: Fn() -> Command + Send + 'static>(
        host: Host,
        name: &str,
        folder: &Path,
        command: impl FnOnce(&Host, &Path, &Path) -> C,
    ) -> Self {
        let log = folder.join("log");
        let command = command(&host, folder, &log);
        let mut process = Process::new(name, log.clone(), command);
        process.start();
        Self {
            host,
            process,
            folder: folder.to_owned(),
            log,
        }
    }

    /// Returns `false` if its process does not run, so that nothing was done.
    pub fn begin(&mut self, harm: Harm) -> bool {
        self.process.note_end();
        if !self.process.is_running() {
            return false;
        }
        match harm {
            Harm::Kill => self.process.kill(),
            Harm::Pause => self.process.pause(),
            Harm::CutOff => self.host.cut_off(),
        }
        true
    }

    pub fn end(&mut self, harm: Harm) {
        match harm {
            Harm::Kill => self.process.start(),
            Harm::Pause => self.process.resume(),
            Harm::CutOff => self.host.connect(),
        }
    }
}

/// Waits, and meanwhile starts processes again that have ended, as a supervisor does; but not that of
/// `down`, which was killed on purpose.
pub async fn attend(machines: &mut [Machine], down: Option<usize>, lasts: Duration) {
    let until = Instant::now() + lasts;
    loop {
        for (at, machine) in machines.iter_mut().enumerate() {
            machine.process.note_end();
            if down != Some(at) {
                machine.process.start();
            }
        }
        if Instant::now() >= until {
            return;
        }
        tokio::time::sleep(TICK).await;
    }
}
