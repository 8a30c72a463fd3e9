//! The files of a seed, and what must become of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use super::OTHER;
use super::world::{Random, World};
use crate::support::{in_work, names};

/// What the names of files of lines begin with. Only these grow: they have no copies, and a line
/// more is a record more.
const LINES: &str = "vehicle_events_lines_";

/// The expected outcome of a seed's files.
#[derive(Default)]
pub struct Expected {
    pub rows: BTreeSet<String>,
    /// The records of the dataset with a key, by file and ordinal.
    pub keyed: BTreeMap<(String, u32), KeyedRecord>,
    pub rejects: usize,
    pub history: usize,
    pub quarantine: usize,
}

/// A record of the dataset with a key.
pub struct KeyedRecord {
    pub key: u64,
    /// The value that orders the records of a key.
    pub time: u64,
}

/// A record that becomes a row of this value.
pub fn record(value: &str) -> String {
    format!(
        r#"{{"vehicle_id":"v","event_time":"2024-01-01T00:00:00Z","event_source":"s","event_type":"t","event_value":"{value}","other":"{OTHER}{value}"}}"#
    )
}

/// A second delivery has the same names with other contents.
pub fn write_files(random: &mut Random, inbound: &Path, delivery: u64, expected: &mut Expected) {
    write_keyed(random, inbound, delivery, expected);
    let files = 1 + random.below(6);
    for file in 0..files {
        let name = format!("vehicle_events_{file}.json");
        let copy = format!("copy_of_{name}");
        // A producer does not overwrite a delivered file.
        if [&name, &copy]
            .iter()
            .any(|name| inbound.join(name).exists())
        {
            continue;
        }
        let file = format!("{delivery}.{file}");
        if random.one_in(12) {
            std::fs::write(inbound.join(name), format!("no JSON {file}")).unwrap();
            expected.quarantine += 1;
            continue;
        }
        let is_lines = random.one_in(3);
        let name = if is_lines {
            format!("{LINES}{file}.json")
        } else {
            name
        };
        let mut records = Vec::new();
        for ordinal in 0..u64::from(is_lines) + random.below(60) {
            if random.one_in(15) {
                records.push(format!("{{\"vehicle_id\": \"{file}-{ordinal}\"}}"));
                expected.rejects += 1;
                continue;
            }
            let value = format!("{file}-{ordinal}");
            records.push(record(&value));
            expected.rows.insert(value);
        }
        if is_lines {
            std::fs::write(inbound.join(name), records.join("\n")).unwrap();
            expected.history += 1;
            continue;
        }
        // The file's number makes empty files differ; otherwise they would be duplicates.
        let document = format!(
            "{{\"file\": \"{file}\", \"vehicle_events\": [{}]}}",
            records.join(",")
        );
        std::fs::write(inbound.join(&name), &document).unwrap();
        expected.history += 1;
        if random.one_in(10) {
            std::fs::write(inbound.join(copy), &document).unwrap();
            expected.history += 1;
        }
    }
}

/// Files whose records share keys. Some have equal values in the column that orders them.
fn write_keyed(random: &mut Random, inbound: &Path, delivery: u64, expected: &mut Expected) {
    for file in 0..random.below(3) {
        let name = format!("keyed_{delivery}.{file}.ndjson");
        let mut text = String::new();
        for ordinal in 0..=random.below(30) as u32 {
            let (key, time) = (random.below(12), random.below(4));
            let value = format!("{delivery}.{file}-{ordinal}");
            writeln!(text, "{{\"k\":{key},\"t\":{time},\"v\":\"{value}\"}}").unwrap();
            let record = KeyedRecord { key, time };
            expected.keyed.insert((name.clone(), ordinal), record);
        }
        std::fs::write(inbound.join(name), text).unwrap();
        expected.history += 1;
    }
}

/// Deletes files with a repeated name, as a move that replaces would.
pub fn replace_namesakes(root: &Path) {
    for name in names(&root.join("inbound")) {
        for dir in ["work", "history"] {
            // Mostly there is none.
            let _ = std::fs::remove_file(in_work(&root.join(dir), &name));
        }
    }
}

/// Adds a record to a file in work, by its number in the ledger.
pub fn grow_number(world: &World, file_no: u32) {
    let sql = format!("SELECT name FROM ingest_files WHERE file_no = {file_no}");
    for name in world.database.column::<String>(&sql) {
        grow(world, &name, "a file grows after it was read");
    }
}

/// Adds a record to a random file in work.
pub fn grow_any(world: &World, random: &mut Random) {
    let names = names(&world.root.join("work"));
    if !names.is_empty() {
        let at = random.below(names.len() as u64) as usize;
        grow(world, &names[at], "a file grows while no engine runs");
    }
}

/// Adds a record to a file in work, as a program does that still has it open.
fn grow(world: &World, name: &str, fault: &'static str) {
    let path = in_work(&world.root.join("work"), name);
    let label = name.strip_prefix(LINES);
    let label = label.and_then(|name| name.strip_suffix(".json"));
    let (Some(label), Ok(text)) = (label, std::fs::read_to_string(&path)) else {
        return;
    };
    let value = format!("{label}-{}", text.lines().count());
    let mut file = std::fs::File::options().append(true).open(path).unwrap();
    file.write_all(format!("\n{}", record(&value)).as_bytes())
        .unwrap();
    world.grown.lock().unwrap().push(value);
    world.note(fault);
}
