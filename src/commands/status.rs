//! `status`: prints the status of the running service. If none runs, reads the database and the
//! directories.

use std::time::Duration;

use crate::config::cli::StatusArgs;
use crate::config::{Settings, redacted};
use crate::inbox;
use crate::runner::nodes_as_status;
use crate::sink::{Acknowledged, Database};
use crate::status::{Files, Status, by_reason, grouped};

use super::database::open_existing;
use super::{Outcome, http_client, open_database, orphans, others, print, status_watch};

/// Processes listed if this one does not run.
const NODES: usize = 100;

/// Files listed if no service runs.
const LAST_FILES: usize = 10;

/// Runs the command: prints the status once, or repeatedly with `--watch`.
pub(super) async fn execute(settings: &Settings, args: &StatusArgs) -> anyhow::Result<Outcome> {
    if args.acknowledge {
        return acknowledge(settings).await;
    }
    if args.watch {
        let get = async || current_status(settings).await;
        status_watch::until_quit(get, args.interval.0, args.json).await?;
        return Ok(Outcome::Complete);
    }
    let status = current_status(settings).await?;
    let text = if args.json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        status.to_string()
    };
    print(&text)?;
    Ok(Outcome::Complete)
}

/// Acknowledges the quarantined files and rejects of now: from then on, only new ones are something to
/// do.
pub(super) async fn acknowledge(settings: &Settings) -> anyhow::Result<Outcome> {
    let database = open_existing(settings).await?;
    let totals = database.totals().await?;
    database
        .acknowledge_totals(Acknowledged::all_of(totals))
        .await?;
    print(&format!(
        "acknowledged: {} files in quarantine and {} rejects; from now on, status asks to look at new \
         ones only\n",
        grouped(totals.quarantined),
        grouped(totals.rejects)
    ))?;
    Ok(Outcome::Complete)
}

async fn current_status(settings: &Settings) -> anyhow::Result<Status> {
    let status = match settings.http_addr {
        Some(addr) => http_client::status(addr).await,
        None => None,
    };
    let work = inbox::canonical(&settings.dirs.work);
    match status {
        Some(status) if status.work == work => Ok(status),
        // Another engine of this host answers at the address.
        Some(_) => {
            http_client::check_engine(settings).await?;
            status_without_service(settings).await
        }
        None => status_without_service(settings).await,
    }
}

async fn status_without_service(settings: &Settings) -> anyhow::Result<Status> {
    let mut status = Status {
        version: crate::version::VERSION.to_owned(),
        roles: settings
            .roles
            .names()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        inbound: inbox::canonical(&settings.dirs.inbound),
        work: inbox::canonical(&settings.dirs.work),
        database: redacted(&settings.database_url),
        broker: redacted(&settings.broker_url),
        ..Status::default()
    };
    let holder = inbox::holder(&settings.dirs.work);
    status.reason = Some(match &holder {
        Some(process) => format!(
            "process {process} uses this work directory, but does not answer at this HTTP address"
        ),
        None => "not running".to_owned(),
    });
    status
        .headline
        .clone_from(status.reason.as_ref().expect("it was set above"));
    let markers = settings.markers();
    let (census, quarantine) = inbox::count_files(&settings.dirs, &markers)?;
    status.files.inbound = census.inbound.files;
    status.files.work = census.work.files;
    status.files.quarantine = quarantine;
    // Opening a missing SQLite file would create it, and `status` must change nothing.
    if settings.sqlite_path().is_some_and(|path| !path.exists()) {
        status.next = Some(
            match status.files.inbound {
                0 => {
                    "nothing has been loaded yet; see `task_runner demo` or `task_runner load PATH`"
                }
                _ => "`task_runner load` loads what is in inbound",
            }
            .to_owned(),
        );
        return Ok(status);
    }
    let database = open_database(settings).await?;
    status.totals = Some(database.totals().await?);
    status.acknowledged = database.acknowledged_totals().await?;
    status.last_files = database.last_files(LAST_FILES).await?;
    status.rejects = by_reason(database.reject_reasons().await?);
    let mut missing = database.kept_indexes().await?;
    missing.retain(|index| index.is_missing);
    status.missing_indexes = missing.iter().map(ToString::to_string).collect();
    // The ledger of an earlier release has no nodes.
    let nodes = database.nodes(NODES).await.unwrap_or_default();
    status.nodes = nodes_as_status(&nodes, Duration::ZERO);
    let open = status.totals.map_or(0, |totals| totals.pending);
    status.paused = inbox::is_paused(&settings.dirs.work);
    status.next = if holder.is_some() {
        Some("run this again with the --http-addr of that process".to_owned())
    } else if let Some(next) =
        next_for_files(settings, database.as_ref(), &status.files, open).await
    {
        Some(next)
    } else if status.paused {
        Some("`task_runner resume` lets a service take files again".to_owned())
    } else {
        status.needs_attention()
    };
    Ok(status)
}

/// The next step for files that no process of these settings loads. `pending` is their number by
/// the ledger.
async fn next_for_files(
    settings: &Settings,
    database: &dyn Database,
    files: &Files,
    pending: u64,
) -> Option<String> {
    let here = files.inbound + files.work;
    if pending > 0 {
        // The ledger of an earlier release has no processes.
        if let Ok(Some(orphans)) = orphans::advice(settings, database).await {
            return Some(orphans);
        }
        let is_other = here == 0 || !settings.roles.ingest;
        if is_other && let Ok(Some(others)) = others::elsewhere(settings, database).await {
            return Some(orphans::note(pending, &others));
        }
    }
    let continues = "`task_runner load` continues with inbound and work; to continue an archive, \
                     load its path again";
    (here + pending > 0).then(|| continues.to_owned())
}
