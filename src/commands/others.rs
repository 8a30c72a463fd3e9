//! The directories of the settings among those of all processes of the database.
//!
//! Other processes may take files into directories of their own, on another host or in another data
//! directory. A file that is in none of these directories may be in theirs, so no command takes it
//! for gone.

use std::time::Duration;

use super::UsageError;
use crate::config::Settings;
use crate::fault::Fault;
use crate::runner::{LOAD, nodes_as_status};
use crate::sink::Database;
use crate::status::Node;

/// Processes read from the ledger, the living ones first.
const NODES_MAX: usize = 100;

/// Most processes that are named.
const NAMES_SHOWN: usize = 3;

/// The next step if the file is not in the other directories either.
pub(super) const NOWHERE: &str =
    "if it is not there either, run this while that process is stopped";

/// Names the living processes that take files into other directories. If there are none, and the
/// settings lack the role `ingest`: "a process with the role ingest". Otherwise `None`.
///
/// # Errors
/// Those of the database.
pub(super) async fn elsewhere(
    settings: &Settings,
    database: &dyn Database,
) -> Result<Option<String>, Fault> {
    let nodes = database.nodes(NODES_MAX).await?;
    let nodes = nodes_as_status(&nodes, Duration::ZERO);
    let takes_files = |node: &Node| {
        node.roles
            .iter()
            .any(|role| role == "ingest" || role == LOAD)
    };
    // It is there from the start of a process to its end, whether it has files or not.
    let is_here = |node: &Node| {
        let claims = settings.dirs.work.join(&node.name);
        claims.join(node.epoch.to_string()).is_dir()
    };
    let others = nodes.into_iter();
    let others = others.filter(|node| node.alive && takes_files(node) && !is_here(node));
    let names: Vec<String> = others
        .map(|node| node.name.escape_debug().to_string())
        .collect();
    Ok(match names.len() {
        0 if settings.roles.ingest => None,
        0 => Some("a process with the role ingest".to_owned()),
        len if len <= NAMES_SHOWN => Some(names.join(", ")),
        len => {
            let first = names[..NAMES_SHOWN].join(", ");
            Some(format!("{first} and {} more", len - NAMES_SHOWN))
        }
    })
}

/// Where a file may be that is in none of these directories, and the next step.
pub(super) fn hint(others: &str) -> String {
    format!("it may be in the directories of {others}: run this with its settings")
}

/// Checks that a process of the settings takes files, for a command that `does` something with its
/// directories.
pub(super) fn check_role(settings: &Settings, command: &str, does: &str) -> Result<(), UsageError> {
    let roles = settings.roles;
    if roles.ingest {
        return Ok(());
    }
    Err(UsageError(format!(
        "{command}: this process has the roles {roles}, and `{command}` {does} of a process with \
         the role ingest: run it with the settings of such a process"
    )))
}
