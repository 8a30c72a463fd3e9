//! `pause` and `resume`: whether the engine of these directories takes files.

use anyhow::Context as _;

use super::{Outcome, print};
use crate::config::Settings;
use crate::inbox;

/// Tells the engine to take no files, now and after a restart.
pub(super) fn pause(settings: &Settings) -> anyhow::Result<Outcome> {
    let work = &settings.dirs.work;
    let is_new = inbox::pause(work).with_context(|| format!("pausing in {}", work.display()))?;
    print(if is_new {
        "paused: the service of these directories takes no file out of inbound, and finishes what is in work; \
         `task_runner load` does not ask. `task_runner resume` ends it\n"
    } else {
        "it is paused already; `task_runner resume` ends it\n"
    })?;
    Ok(Outcome::Complete)
}

/// Lets it take files again.
pub(super) fn resume(settings: &Settings) -> anyhow::Result<Outcome> {
    let work = &settings.dirs.work;
    let was = inbox::resume(work).with_context(|| format!("resuming in {}", work.display()))?;
    print(if was {
        "resumed: files are taken out of inbound again\n"
    } else {
        "it was not paused\n"
    })?;
    Ok(Outcome::Complete)
}
