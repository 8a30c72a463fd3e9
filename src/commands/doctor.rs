//! `doctor`: checks settings, directories, queue and database, and prints a fix for each problem. The
//! worst finding decides the exit code, which is that of a start.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::statfs;
use serde_json::{Value, json};

use super::output::JSON_VERSION;
use super::{Exit, INFALLIBLE, Outcome, print, served};
use crate::broker;
use crate::config::cli::DoctorArgs;
use crate::config::{Settings, redacted};
use crate::content::{self, Writers};
use crate::fault::Fault;
use crate::finding::{Finding, Level};
use crate::inbox::{self, FreeRoom};
use crate::sink::{Database, Lag, Replicas, without_partitions};

/// Magic numbers (`statfs(2)`) of network file systems, on which notifications and leases do not
/// work: NFS, SMB, SMB2, CIFS, FUSE, 9P.
const NETWORK_FILE_SYSTEMS: [i64; 6] = [
    0x6969,
    0x517b,
    0xfe53_4d42,
    0xff53_4d42,
    0x6573_5546,
    0x0102_1997,
];

/// Fewest inotify instances for a user. Each service takes one; the kernel's default is 128.
const INOTIFY_INSTANCES_MIN: u64 = 16;

/// The findings of a section.
type Section = (&'static str, Vec<Finding>);

/// Runs the command.
pub(super) async fn execute(settings: &Settings, args: DoctorArgs) -> anyhow::Result<Outcome> {
    let mut all: Vec<Section> = vec![("settings", settings_in_effect(settings))];
    all.push(("directories", directories(settings)));
    let opened = match settings.sqlite_path() {
        Some(path) if !path.exists() => None,
        _ => Some(super::open_database(settings).await),
    };
    all.push(("queue", queue(settings, &opened).await));
    all.push(("database", database(settings, opened).await));
    if let Some(url) = &settings.replica_url {
        all.push(("replicas", replicas(settings, url).await));
    }
    let findings = all.iter().flat_map(|(_, findings)| findings);
    let worst = findings.map(|finding| finding.level).max();
    let outcome = Outcome::Found(worst.unwrap_or(Level::Ok));
    let report = if args.json {
        as_json(&all, outcome.into())
    } else {
        as_text(&all)
    };
    print(&report)?;
    Ok(outcome)
}

/// The findings of all sections as text.
fn as_text(all: &[Section]) -> String {
    let mut text = String::new();
    for (section, findings) in all {
        for Finding { level, what, fix } in findings {
            let level = word(*level).to_uppercase();
            writeln!(text, "{level:<4}  {section}: {what}").expect(INFALLIBLE);
            if !fix.is_empty() {
                writeln!(text, "      {fix}").expect(INFALLIBLE);
            }
        }
    }
    text
}

/// The findings of all sections as JSON.
fn as_json(all: &[Section], exit: Exit) -> String {
    let of_section = |(section, findings): &Section| -> Vec<Value> {
        let one = |Finding { level, what, fix }: &Finding| {
            let level = word(*level);
            json!({"level": level, "section": section, "what": what, "fix": fix})
        };
        findings.iter().map(one).collect()
    };
    let findings: Vec<Value> = all.iter().flat_map(of_section).collect();
    let report = json!({"version": JSON_VERSION, "exit_code": exit as u8, "findings": findings});
    format!("{report}\n")
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Warn => "warn",
        _ => "fail",
    }
}

fn settings_in_effect(settings: &Settings) -> Vec<Finding> {
    let (database, queue) = (
        redacted(&settings.database_url),
        redacted(&settings.broker_url),
    );
    let names: Vec<_> = settings.datasets.iter().map(|d| d.name.as_str()).collect();
    let names = names.join(", ");
    let mut findings = vec![Finding::ok(format!(
        "{database}, {queue}, datasets {names}"
    ))];
    let unusable = |error: &anyhow::Error| {
        Finding::new(
            Exit::of(error).level(),
            format!("{error:#}"),
            "correct the file, or the setting that names it: the service does not start otherwise",
        )
    };
    findings.extend(served::unusable_files(settings).iter().map(unusable));
    findings
}

fn directories(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut devices = Vec::new();
    for (name, path) in settings.dirs.named() {
        match directory(name, path, settings.disk_floor_bytes) {
            Ok((found, device)) => {
                findings.extend(found);
                devices.push((name, device));
            }
            Err(error) => findings.push(unusable_directory(name, path, &error)),
        }
    }
    if let Some((name, _)) = devices.iter().find(|(_, device)| *device != devices[0].1) {
        findings.push(Finding::warn(
            format!("{name} is on another file system than {}", devices[0].0),
            "put both on one file system: a move between two copies every byte",
        ));
    }
    if let Some(parent) = settings.dirs.missing_parent(&settings.data_dir) {
        findings.push(Finding::new(
            Level::NoInput,
            format!("inbound: there is no directory {}", parent.display()),
            "correct the path of inbound, or create the directory: the engine does not start \
             otherwise",
        ));
    }
    if let Err(fault) = inbox::check_distinct(&settings.dirs) {
        findings.push(Finding::new(
            Exit::of_fault(&fault).level(),
            fault.to_string(),
            "name four separate directories: the engine does not start otherwise",
        ));
    }
    findings.push(inotify());
    findings
}

/// The finding about a directory whose check failed. A start creates directories that are missing,
/// writes into work, and reads the others.
fn unusable_directory(name: &str, path: &Path, error: &anyhow::Error) -> Finding {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    let is_enough = name != "work" && path.read_dir().is_ok();
    let level = match kind {
        Some(ErrorKind::PermissionDenied) if !is_enough => Level::NotPermitted,
        _ => Level::Fail,
    };
    let fix = match kind {
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            "make room: remove or move files, or raise the quota"
        }
        _ => "give this user the right to write there, or name another directory",
    };
    let what = format!("{name} {} cannot be used: {error}", path.display());
    Finding::new(level, what, fix)
}

/// Checks a directory without creating it, because `doctor` may run as another user than the
/// service. Returns the findings and the device number.
fn directory(name: &str, path: &Path, floor: u64) -> anyhow::Result<(Vec<Finding>, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let shown = path.display();
    let is_there = |path: &&Path| path.symlink_metadata().is_ok();
    let there = path.ancestors().find(is_there).unwrap_or(Path::new("."));
    anyhow::ensure!(there.is_dir(), "{} is not a directory", there.display());
    if there == path {
        there.read_dir()?;
    }
    let room = FreeRoom::of(there)?;
    if room.inodes == Some(0) {
        let full = Finding::fail(
            format!("{name} {shown} has no free inodes, so no file can be created there"),
            "remove files that are not needed (df -i shows the file system), or move the directory \
             to a file system with more inodes",
        );
        return Ok((vec![full], there.metadata()?.dev()));
    }
    let probe = tempfile::Builder::new()
        .prefix(".doctor-")
        .tempfile_in(there)?;
    let probe = probe.into_temp_path();
    let moved = inbox::try_move(&probe);
    let mut findings = vec![Finding::ok(if there != path {
        format!("{name} {shown} does not exist yet: the first start creates it")
    } else if moved.is_ok() {
        format!("{name} {shown} is writable, and files can be moved there")
    } else {
        format!("{name} {shown} is writable")
    })];
    if let Err(error) = moved {
        findings.push(Finding::fail(
            format!("{name}: no file can be moved there: {error}"),
            "use a file system with RENAME_NOREPLACE or hard links, as local ones have",
        ));
    }
    let path = there;
    let (file, _) = content::open_regular(&probe)?;
    if content::writers(&file) == Writers::Unknown {
        findings.push(Finding::warn(
            format!("{name}: this file system does not report whether a file is being written"),
            "write files under a temporary name and rename them; otherwise a file is taken once \
             it has not changed for `quiet_time`",
        ));
    }
    let at = statfs(path)?;
    // The type's width differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    let is_network = NETWORK_FILE_SYSTEMS.contains(&(at.f_type as i64));
    if is_network {
        findings.push(Finding::warn(
            format!("{name} is on a network file system, which sends no notifications"),
            "lower `scan_interval`, or use a local directory",
        ));
    }
    if let Some(shortage) = room.shortage(floor) {
        findings.push(Finding::fail(
            format!("{name} has {shortage}"),
            "free some disk space: until then no file is taken",
        ));
    }
    Ok((findings, path.metadata()?.dev()))
}

fn inotify() -> Finding {
    let limit = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    match (limit("max_user_instances"), limit("max_user_watches")) {
        (Some(instances), Some(watches)) => Finding::expect(
            instances >= INOTIFY_INSTANCES_MIN && watches > 0,
            format!("inotify: max_user_instances {instances}, max_user_watches {watches}"),
            "raise fs.inotify.max_user_instances with sysctl; without inotify, files are found only \
             by the scan every `scan_interval`",
        ),
        _ => Finding::warn(
            "inotify: cannot read its limits",
            "nothing to do: a scan every `scan_interval` finds files as well",
        ),
    }
}

/// A connection to the database. `None`: it is a SQLite file that does not exist yet.
type Opened = Option<Result<Arc<dyn Database>, Fault>>;

async fn queue(settings: &Settings, opened: &Opened) -> Vec<Finding> {
    let options = settings.broker_options();
    // If the ledger cannot be read, the findings about the database say so.
    let ours = match opened {
        None => Some(settings.claim(None)),
        Some(Ok(database)) => match database.stored_frame_key().await {
            Ok(key) => Some(settings.claim(key.as_ref())),
            Err(_) => None,
        },
        Some(Err(_)) => None,
    };
    let inspected = async {
        let broker = broker::open(&settings.broker_url, &options, &settings.datasets).await?;
        broker.inspect(ours.as_ref()).await
    };
    inspected
        .await
        .unwrap_or_else(|fault| vec![failed_check(fault)])
}

/// How far each replica is behind. A service goes on without a replica that does not answer.
async fn replicas(settings: &Settings, url: &str) -> Vec<Finding> {
    let replicas = match Replicas::new(url) {
        Ok(replicas) => replicas,
        Err(fault) => return vec![failed_check(fault)],
    };
    let max = settings.max_replica_lag;
    let finding = |(replica, lag): (&str, Result<Lag, Fault>)| match lag {
        Ok(lag) => Finding::expect(
            lag <= Lag::Behind(max),
            format!("{replica}: {lag}"),
            "the service commits nothing meanwhile; repair its replication, or raise max_replica_lag",
        ),
        Err(fault) => Finding::warn(
            format!("{replica}: {fault}"),
            "the service goes on without this replica; its account needs REPLICA MONITOR (MariaDB) or \
             REPLICATION CLIENT (MySQL)",
        ),
    };
    replicas.lags().await.into_iter().map(finding).collect()
}

async fn database(settings: &Settings, opened: Opened) -> Vec<Finding> {
    let Some(opened) = opened else {
        let partitions = without_partitions(&settings.datasets);
        let refused = partitions.err().map(Finding::refused);
        return vec![
            refused.unwrap_or_else(|| Finding::ok("SQLite: the first load creates the database")),
        ];
    };
    let inspected = async {
        let database = opened?;
        let mut findings = database.inspect(&settings.datasets).await?;
        // Without tables of the ledger, the findings say so.
        if let Ok(Some(orphans)) = super::orphans::advice(settings, database.as_ref()).await {
            findings.push(Finding::warn(
                orphans,
                "bring the content back, or forget the file",
            ));
        }
        Ok(findings)
    };
    let mut findings = inspected
        .await
        .unwrap_or_else(|fault: Fault| vec![failed_check(fault)]);
    findings.extend(settings.sqlite_path().and_then(shared_database));
    findings
}

/// Finds a database file that other users may read: a user or an older release created it.
fn shared_database(path: &Path) -> Option<Finding> {
    use std::os::unix::fs::MetadataExt as _;
    const OTHERS: u32 = 0o077;
    let mode = path.metadata().ok()?.mode() & 0o777;
    let shown = path.display();
    (mode & OTHERS != 0).then(|| {
        Finding::warn(
            format!("SQLite: other users have rights to {shown} (mode {mode:03o})"),
            format!("run `chmod 600 {shown}*`, unless they should read it"),
        )
    })
}

/// The finding for a check that could not be made. A start meets the same fault.
fn failed_check(fault: Fault) -> Finding {
    let level = Exit::of_fault(&fault).level();
    let fix = if fault.is_transient() {
        "start the server, or correct the URL"
    } else {
        "correct what the message names; waiting does not help"
    };
    let what = format!("{}: {}", fault.doing, fault.cause);
    Finding::new(level, what, fault.next_step.unwrap_or(fix.into()))
}
