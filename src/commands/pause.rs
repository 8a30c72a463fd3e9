//! `pause` and `resume`: make the service stop taking files out of inbound, and start again.

use anyhow::Context as _;

use super::{Outcome, UsageError, http_client, others, print};
use crate::config::Settings;
use crate::inbox;

/// Makes the service take no files, even after a restart.
pub(super) async fn pause(settings: &Settings) -> anyhow::Result<Outcome> {
    http_client::check_engine(settings).await?;
    pause_here(settings)
}

/// As [`pause`], for the service of these settings, which need not be checked.
pub(super) fn pause_here(settings: &Settings) -> anyhow::Result<Outcome> {
    check_role(settings, "pause")?;
    let work = &settings.dirs.work;
    let is_new = inbox::pause(work).with_context(|| format!("pausing in {}", work.display()))?;
    print(if is_new {
        "paused: the service takes no more files out of inbound, and finishes those in work; \
         `task_runner load` ignores the pause. `task_runner resume` ends it\n"
    } else {
        "already paused; `task_runner resume` ends it\n"
    })?;
    Ok(Outcome::Complete)
}

/// Makes the service take files again.
pub(super) async fn resume(settings: &Settings) -> anyhow::Result<Outcome> {
    http_client::check_engine(settings).await?;
    resume_here(settings)
}

/// As [`resume`], for the service of these settings, which need not be checked.
pub(super) fn resume_here(settings: &Settings) -> anyhow::Result<Outcome> {
    check_role(settings, "resume")?;
    let work = &settings.dirs.work;
    let was = inbox::resume(work).with_context(|| format!("resuming in {}", work.display()))?;
    print(if was {
        "resumed: the service takes files out of inbound again\n"
    } else {
        "it was not paused\n"
    })?;
    Ok(Outcome::Complete)
}

/// Checks that a process of the settings takes files: no other one looks for a pause.
fn check_role(settings: &Settings, command: &str) -> Result<(), UsageError> {
    others::check_role(settings, command, "takes effect in the work directory")
}
