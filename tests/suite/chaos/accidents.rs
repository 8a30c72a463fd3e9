//! What happens to the database while no engine runs: a backup of the ledger, the tables or both is
//! restored, a table is truncated, a definition changes.
//!
//! The operator then does what the engine and docs/repairs.md say, with the real commands.

use std::ffi::OsString;
use std::fs;
use std::process::Output;

use mysql_async::prelude::Queryable as _;

use super::audit::FOREIGN;
use super::files::{Dice, reason_name};
use super::world::World;
use crate::support::LEDGER;

/// The tables of the datasets.
const TABLES: [&str; 2] = ["vehicle_events", "vehicle_status"];

/// Something that happens while no engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Accident {
    Redefine,
    Truncate,
    Restore { ledger: bool, tables: bool },
}

impl Accident {
    /// In the order of a run. The first one leaves time for a backup.
    pub const ALL: [Self; 5] = [
        Self::Redefine,
        Self::Restore {
            ledger: true,
            tables: false,
        },
        Self::Truncate,
        Self::Restore {
            ledger: false,
            tables: true,
        },
        Self::Restore {
            ledger: true,
            tables: true,
        },
    ];
}

/// Kills both processes, lets an accident happen, and repairs it. Both processes are down then.
///
/// # Errors
/// A command or statement fails, or a start does not notice what it must. Holds the reason.
pub async fn strike(world: &mut World, accident: Accident, dice: &mut Dice) -> Result<(), String> {
    world.service.kill();
    world.worker.kill();
    // A file that has grown may be forgotten, and foreign rows with its number would be unknown.
    remove_foreign(world).await?;
    match accident {
        Accident::Redefine => world.redefine(),
        Accident::Truncate => {
            let table = dice.pick(&TABLES);
            statement(world, &format!("TRUNCATE TABLE {table}")).await?;
        }
        Accident::Restore { ledger, tables } => {
            restore(world, ledger, tables).await?;
        }
    }
    if accident != Accident::Redefine {
        start_is_refused(world, accident).await?;
        repair(world).await?;
    }
    if dice.percent(60) || accident == Accident::Redefine {
        back_up(world).await?;
    }
    Ok(())
}

/// Checks that a start refuses a table without rows of files that the ledger has.
async fn start_is_refused(world: &World, accident: Accident) -> Result<(), String> {
    if accident != Accident::Truncate {
        return Ok(());
    }
    let lost = "SELECT COUNT(*) FROM ingest_files WHERE state = 'settled' AND records > rejects AND \
                ((dataset = 'vehicle_events' AND NOT EXISTS (SELECT 1 FROM vehicle_events)) OR \
                (dataset = 'vehicle_status' AND NOT EXISTS (SELECT 1 FROM vehicle_status)))";
    if number(world, lost).await? == 0 {
        return Ok(());
    }
    let refused = expect(world, &[78], &["migrate"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    if said.contains("files restore --all") {
        return Ok(());
    }
    Err(format!(
        "a truncated table is refused without its repair: {said}"
    ))
}

/// The steps of docs/repairs.md for a database of which a part is from before, or is empty.
async fn repair(world: &World) -> Result<(), String> {
    let page = include_str!("../../../docs/repairs.md");
    let printed = page
        .split("```")
        .find_map(|block| block.strip_prefix("sql\n"));
    let printed = printed.expect("the page has a statement");
    for table in TABLES {
        statement(world, &printed.replace("vehicle_events", table)).await?;
    }
    let restored = expect(world, &[0, 1], &["files", "restore", "--all"])?;
    let said = String::from_utf8_lossy(&restored.stderr).into_owned();
    for part in said.split("files forget ").skip(1) {
        let file_no = part.split('`').next().unwrap_or_default();
        expect(world, &[0], &["files", "forget", file_no, "--yes"])?;
    }
    let history = world.history();
    let open = "SELECT COUNT(*) FROM ingest_files WHERE path IS NOT NULL AND state <> 'settled'";
    for attempt in 0.. {
        expect(world, &[0, 2], &["load", &history])?;
        if number(world, open).await? == 0 {
            break;
        }
        // A file that was begun by another definition loads the next time.
        if attempt == 2 {
            return Err("files of history are not loaded".to_owned());
        }
    }
    expect(world, &[0], &["summary", "--rebuild"])?;
    Ok(())
}

/// Follows the reasons of files in quarantine, and forgets grown files that no directory has. Returns
/// how many files are in inbound again.
///
/// # Errors
/// A command fails.
pub async fn retry(world: &mut World, all: bool) -> Result<usize, String> {
    let quarantine = world.quarantine();
    let mut names = Vec::new();
    for entry in fs::read_dir(&quarantine).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let reason = reason_name(&name);
        if reason == name {
            // It is a reason itself.
            continue;
        }
        let reason = quarantine.join(reason);
        let reason = fs::read_to_string(reason).unwrap_or_default();
        if reason.starts_with("changed") {
            let number = reason.split("as file ").nth(1).unwrap_or_default();
            let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
            // After a restore of the ledger, the number may be that of another file.
            let sql = format!("SELECT name FROM ingest_files WHERE file_no = '{digits}'");
            if world.ask_database(&sql).await.as_deref() == name.to_str() {
                expect(world, &[0], &["files", "forget", &digits, "--yes"])?;
            }
        } else if !reason.starts_with("other_definition") && (!all || reason.is_empty()) {
            continue;
        }
        names.push(name);
    }
    for name in &names {
        let retried = world.command(&["files", "retry", "--"]).arg(name).output();
        let retried = retried.map_err(|error| error.to_string())?;
        if !retried.status.success() {
            return Err(format!("files retry {}: {retried:?}", name.display()));
        }
    }
    if !names.is_empty() {
        return Ok(names.len());
    }
    let open = "SELECT file_no, name FROM ingest_files WHERE state IN ('pending', 'quarantined') AND \
                name LIKE '%grows%'";
    let mut conn = world.connect().await.map_err(|error| error.to_string())?;
    let open: Vec<(u32, String)> = conn.query(open).await.map_err(|error| error.to_string())?;
    for (file_no, name) in open {
        if !quarantine.join(name).exists() {
            expect(
                world,
                &[0],
                &["files", "forget", &file_no.to_string(), "--yes"],
            )?;
        }
    }
    Ok(0)
}

/// Forgets what was stored of grown files in inbound before they grew: they wait until then.
///
/// # Errors
/// The database does not answer.
pub async fn forget_grown(world: &World, inbound: &[OsString]) -> Result<(), String> {
    let grown = |name: &&OsString| name.to_string_lossy().contains("grows");
    for name in inbound.iter().filter(grown) {
        let name = name.to_string_lossy();
        let begun = format!(
            "SELECT COALESCE(GROUP_CONCAT(file_no), '') FROM ingest_files WHERE name = '{name}' AND \
             state IN ('pending', 'quarantined')"
        );
        let begun = world.ask_database(&begun).await;
        let begun = begun.ok_or("no answer about the files that were begun")?;
        for file_no in begun.split(',').filter(|file_no| !file_no.is_empty()) {
            // The command refuses the file whose content is in inbound, which may have been begun too.
            world.run(&["files", "forget", file_no, "--yes"]);
        }
    }
    Ok(())
}

/// Removes the rows of other programs, and replays the records whose ids they took. Forgets what was
/// read of files that have grown since, and loads those again that are in history.
///
/// # Errors
/// A command or statement fails.
pub async fn correct(world: &World) -> Result<(), String> {
    remove_foreign(world).await?;
    let taken = "SELECT COUNT(*) FROM ingest_rejects WHERE code = 'id_taken'";
    if number(world, taken).await? > 0 {
        expect(world, &[0], &["rejects", "replay", "--code", "id_taken"])?;
    }
    let compared = expect(world, &[0, 1], &["verify", "--content", "--json"])?;
    let mut forgotten = 0;
    for line in String::from_utf8_lossy(&compared.stdout).lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let is_gone = line["problems"].to_string().contains("cannot be compared");
        if is_gone && line["name"].to_string().contains("grows") {
            let file_no = line["file_no"].to_string();
            expect(world, &[0], &["files", "forget", &file_no, "--yes"])?;
            forgotten += 1;
        }
    }
    // One that grew at the moment of its move is in history as it is now.
    if forgotten > 0 {
        expect(world, &[0, 2], &["load", &world.history()])?;
    }
    Ok(())
}

async fn remove_foreign(world: &World) -> Result<(), String> {
    for table in TABLES {
        let delete = format!("DELETE FROM {table} WHERE vehicle_id = '{FOREIGN}'");
        statement(world, &delete).await?;
    }
    Ok(())
}

/// Copies all tables.
async fn back_up(world: &World) -> Result<(), String> {
    statement(world, "CREATE DATABASE IF NOT EXISTS backup").await?;
    for table in LEDGER.iter().chain(&TABLES) {
        for sql in [
            format!("DROP TABLE IF EXISTS backup.{table}"),
            format!("CREATE TABLE backup.{table} LIKE {table}"),
            format!("INSERT INTO backup.{table} SELECT * FROM {table}"),
        ] {
            statement(world, &sql).await?;
        }
    }
    Ok(())
}

/// Restores tables as a dump does: empties them, inserts the rows, and sets the next number.
async fn restore(world: &World, ledger: bool, tables: bool) -> Result<(), String> {
    let chosen = LEDGER.iter().filter(|_| ledger);
    for table in chosen.chain(TABLES.iter().filter(|_| tables)) {
        for sql in [
            format!("TRUNCATE TABLE {table}"),
            format!("INSERT INTO {table} SELECT * FROM backup.{table}"),
        ] {
            statement(world, &sql).await?;
        }
    }
    Ok(())
}

/// Runs a statement of the administrator. Repeats it while connections of killed processes still hold
/// locks.
async fn statement(world: &World, sql: &str) -> Result<(), String> {
    let mut failed = String::new();
    for _ in 0..30 {
        let run = async { world.connect().await?.query_drop(sql).await };
        match run.await {
            Ok(()) => return Ok(()),
            Err(error) => failed = format!("{sql}: {error}"),
        }
    }
    Err(failed)
}

async fn number(world: &World, sql: &str) -> Result<u64, String> {
    let answer = world.ask_database(sql).await;
    let answer = answer.ok_or_else(|| format!("no answer to {sql}"))?;
    answer.parse().map_err(|_| format!("{sql}: {answer}"))
}

/// Runs a command of the engine, and expects one of these exit codes.
///
/// # Errors
/// Another exit code. Holds the last lines of its output.
pub fn expect(world: &World, codes: &[i32], args: &[&str]) -> Result<Output, String> {
    let output = world.run(args);
    if output
        .status
        .code()
        .is_some_and(|code| codes.contains(&code))
    {
        return Ok(output);
    }
    let end = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    };
    Err(format!(
        "{args:?}: {}, not one of {codes:?}\n{}\n{}",
        output.status,
        end(&output.stdout),
        end(&output.stderr)
    ))
}
