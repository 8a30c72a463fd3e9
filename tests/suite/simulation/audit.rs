//! Compares the database and the directories with the expected outcome.

use std::collections::{BTreeMap, BTreeSet};

use super::OTHER;
use super::database::file_of;
use super::files::Expected;
use super::world::World;
use crate::support::names;

/// The first difference from the expected outcome.
pub fn audit(world: &World, expected: &Expected) -> Result<(), String> {
    let database = &world.database;
    let check = |right: bool, what: String| if right { Ok(()) } else { Err(what) };
    let stored: Vec<(u64, String)> =
        database.pairs("SELECT id, event_value FROM vehicle_events ORDER BY id");
    let replayed = database.pairs("SELECT file_no, ordinal FROM ingest_replays");
    let replayed: BTreeSet<(u32, u64)> = replayed.into_iter().collect();
    let plain = |value: &str| value.strip_prefix(OTHER).unwrap_or(value).to_owned();
    let rows: BTreeSet<String> = stored.iter().map(|(_, value)| plain(value)).collect();
    let mut by_other: BTreeMap<u32, bool> = BTreeMap::new();
    for (id, value) in &stored {
        let (file_no, ordinal) = (file_of(*id), id & u64::from(u32::MAX));
        let right = plain(value).split('-').nth(1).map(str::to_owned);
        check(
            right == Some(ordinal.to_string()),
            format!("{value} has the id of ordinal {ordinal}"),
        )?;
        // A replay uses the definition of its time.
        let is_other = value.starts_with(OTHER);
        check(
            replayed.contains(&(file_no, ordinal))
                || *by_other.entry(file_no).or_insert(is_other) == is_other,
            format!("file {file_no} has rows of two definitions"),
        )?;
    }
    let grown = world.grown.lock().unwrap();
    let mut wanted = expected.rows.clone();
    wanted.extend(grown.iter().cloned());
    let missing: Vec<_> = wanted.difference(&rows).take(5).collect();
    check(missing.is_empty(), format!("rows are missing: {missing:?}"))?;
    check(
        stored.len() == wanted.len(),
        format!(
            "{} rows of {}: some are doubled",
            stored.len(),
            wanted.len()
        ),
    )?;
    let rejects = database.number("SELECT COUNT(*) FROM ingest_rejects");
    check(
        rejects == expected.rejects as u64,
        format!("{rejects} rejects of {}", expected.rejects),
    )?;
    let entries = database.number("SELECT COUNT(*) FROM ingest_frames");
    check(entries == 0, format!("{entries} ledger entries are left"))?;
    let sql = "SELECT COUNT(*) FROM ingest_files WHERE state NOT IN ('settled', 'quarantined')";
    let unsettled = database.number(sql);
    check(unsettled == 0, format!("{unsettled} files are not settled"))?;
    for (dir, count) in [("inbound", 0), ("work", 0), ("history", expected.history)] {
        let found = names(&world.root.join(dir));
        check(
            found.len() == count,
            format!("{dir} holds {found:?}, not {count} files"),
        )?;
    }
    let quarantined = names(&world.root.join("quarantine"));
    check(
        quarantined.len() == expected.quarantine * 2,
        format!("quarantine: {quarantined:?}"),
    )
}
