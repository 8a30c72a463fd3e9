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
    audit_keyed(world, expected)?;
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

/// Of all records with a key, the row is that of the largest value, hash and ordinal, and supersedes
/// each other one.
fn audit_keyed(world: &World, expected: &Expected) -> Result<(), String> {
    let database = &world.database;
    let files: BTreeMap<u32, String> = database
        .pairs("SELECT file_no, name FROM ingest_files")
        .into_iter()
        .collect();
    let hashes: BTreeMap<String, String> = database
        .pairs("SELECT name, hex(hash) FROM ingest_files")
        .into_iter()
        .collect();
    let record = |id: u64| {
        let ordinal = (id & u64::from(u32::MAX)) as u32;
        let name = files.get(&file_of(id)).cloned().unwrap_or_default();
        let record = expected.keyed.get(&(name.clone(), ordinal));
        let record = record.ok_or(format!("{id} is no record of {name}"))?;
        Ok::<_, String>((record.key, (record.time, hashes[&name].clone(), ordinal)))
    };
    let mut rows = BTreeMap::new();
    for (id, value) in database.pairs::<u64, String>("SELECT id, v FROM keyed") {
        let (key, rank) = record(id)?;
        if !value.ends_with(&format!("-{}", rank.2)) {
            return Err(format!("{value} has the id {id}"));
        }
        if rows.insert(key, (id, rank)).is_some() {
            return Err(format!("two rows have the key {key}"));
        }
    }
    let superseded: BTreeMap<u64, u64> = database
        .pairs("SELECT file_no << 32 | ordinal, winner FROM ingest_superseded")
        .into_iter()
        .collect();
    let ids: BTreeMap<&String, u32> = files.iter().map(|(no, name)| (name, *no)).collect();
    for (name, ordinal) in expected.keyed.keys() {
        let Some(file_no) = ids.get(name) else {
            return Err(format!("the ledger lacks {name}"));
        };
        let id = u64::from(*file_no) << 32 | u64::from(*ordinal);
        let (key, rank) = record(id)?;
        let Some((winner, best)) = rows.get(&key) else {
            return Err(format!("no row has the key {key}"));
        };
        let right = match superseded.get(&id) {
            Some(by) => by == winner && rank < *best,
            None => id == *winner,
        };
        if !right {
            let by = superseded.get(&id);
            return Err(format!(
                "record {id} has the key of row {winner}, entry {by:?}"
            ));
        }
    }
    Ok(())
}
