//! Accidents of the database while no engine runs, and the operator, who does what the engine and
//! docs/repairs.md say, with the real commands.

use std::process::{Command, Output, Stdio};

use lemonade_task::batch::row_id;
use lemonade_task::dataset::Datasets;
use lemonade_task::inbox::requeue;

use super::database::FOREIGN;
use super::directories;
use super::files::grow_any;
use super::world::{Broken, Random, World};
use crate::support::{LEDGER, names};

/// The tables of the datasets.
const TABLES: [&str; 3] = ["vehicle_events", "keyed", "daily_summary"];

/// An accident of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accident {
    Truncated,
    Restored { ledger: bool, tables: bool },
}

pub struct Operator<'a> {
    world: &'a World,
}

impl<'a> Operator<'a> {
    pub fn new(world: &'a World) -> Self {
        Self { world }
    }

    /// Lets something happen to the database and to the files in work, or nothing.
    pub fn accident(&self, random: &mut Random) -> Option<Accident> {
        let database = &self.world.database;
        if random.one_in(10) {
            grow_any(self.world, random);
        }
        let accident = if random.one_in(6) {
            self.harm(random)
        } else {
            None
        };
        // A backup has a ledger and tables that belong together.
        if accident.is_none() && random.one_in(2) {
            for table in LEDGER.iter().chain(&TABLES) {
                database.run(&format!(
                    "DROP TABLE IF EXISTS before_{table}; CREATE TABLE before_{table} AS SELECT * \
                     FROM {table}"
                ));
            }
            database.run(
                "DROP TABLE IF EXISTS before_sequence; CREATE TABLE before_sequence AS SELECT \
                 COALESCE(MAX(seq), 0) AS seq FROM sqlite_sequence WHERE name = 'ingest_files'",
            );
        }
        accident
    }

    fn harm(&self, random: &mut Random) -> Option<Accident> {
        let database = &self.world.database;
        let backups = "SELECT COUNT(*) FROM sqlite_master WHERE name = 'before_sequence'";
        let has_backup = database.number(backups) == 1;
        let (accident, name) = match random.below(4) {
            0 => (Accident::Truncated, "the table is truncated"),
            _ if !has_backup => return None,
            1 => (
                Accident::Restored {
                    ledger: true,
                    tables: false,
                },
                "the ledger is restored from before",
            ),
            2 => (
                Accident::Restored {
                    ledger: false,
                    tables: true,
                },
                "the table is restored from before",
            ),
            _ => (
                Accident::Restored {
                    ledger: true,
                    tables: true,
                },
                "the ledger and the table are restored from before",
            ),
        };
        self.world.note(name);
        let restore = |table: &str| {
            database.run(&format!(
                "DELETE FROM {table}; INSERT INTO {table} SELECT * FROM before_{table}"
            ));
        };
        match accident {
            Accident::Truncated => database.run("DELETE FROM vehicle_events"),
            Accident::Restored { ledger, tables } => {
                if ledger {
                    for table in LEDGER {
                        restore(table);
                    }
                    database.run(
                        "UPDATE sqlite_sequence SET seq = (SELECT seq FROM before_sequence) WHERE \
                         name = 'ingest_files'",
                    );
                }
                if tables {
                    for table in TABLES {
                        restore(table);
                    }
                }
            }
        }
        Some(accident)
    }

    /// Compares the ledger with the tables, as every start does, and follows its advice until it is
    /// content. After an accident, also docs/repairs.md.
    pub fn start(
        &self,
        random: &mut Random,
        datasets: &Datasets,
        accident: Option<Accident>,
    ) -> Result<(), String> {
        let database = &self.world.database;
        if self.world.broken == Some(Broken::LedgerTrusted) {
            if database.migrate(datasets).is_err() && accident.is_none() {
                self.remove_foreign();
            }
            return Ok(());
        }
        let contradiction = self.contradiction(accident);
        if matches!(accident, Some(Accident::Restored { .. })) {
            // As docs/repairs.md says, whether a start refuses the database or not.
            let page = include_str!("../../../docs/repairs.md");
            let statement = page.split("```sql").nth(1).unwrap();
            let statement = statement.split("```").next().unwrap();
            database.run(&statement.replace("vehicle_events", "keyed"));
            // Else the start prints a statement for this table.
            if contradiction.is_none() {
                database.run(statement);
            }
        }
        let mut refusals = 0;
        while let Err(fault) = database.migrate(datasets) {
            refusals += 1;
            if refusals > 4 {
                return Err(format!("the advice does not end: {fault}"));
            }
            self.follow(random, &fault.to_string())?;
        }
        if let Some(contradiction) = contradiction.filter(|_| refusals == 0) {
            return Err(format!("a start does not notice that {contradiction}"));
        }
        if accident.is_some() {
            self.restore_all()?;
            self.load_history(random)?;
        }
        Ok(())
    }

    /// A contradiction of ledger and table that a start must notice.
    fn contradiction(&self, accident: Option<Accident>) -> Option<&'static str> {
        let database = &self.world.database;
        let tables = "SELECT COUNT(*) FROM sqlite_master WHERE name = 'vehicle_events'";
        if database.number(tables) == 0 {
            return None;
        }
        let with_rows = "SELECT COUNT(*) FROM ingest_files WHERE dataset = 'vehicle_events' AND state \
                         = 'settled' AND records > rejects";
        if accident == Some(Accident::Truncated) && database.number(with_rows) > 0 {
            return Some("the table was truncated");
        }
        (self.unknown_rows("vehicle_events", "") > 0)
            .then_some("rows have numbers above those of the ledger")
    }

    /// The number of rows with a file number above those of the ledger.
    fn unknown_rows(&self, table: &str, and: &str) -> u64 {
        let database = &self.world.database;
        let last = database.number("SELECT COALESCE(MAX(file_no), 0) FROM ingest_files");
        database.number(&format!(
            "SELECT COUNT(*) FROM {table} WHERE id >= {}{and}",
            row_id(last as u32 + 1, 0)
        ))
    }

    /// Does what a refusal to start says.
    fn follow(&self, random: &mut Random, said: &str) -> Result<(), String> {
        if let Some((_, statement)) = said.split_once("\"DELETE FROM") {
            let ours = format!(" AND event_value <> '{FOREIGN}'");
            let unknown =
                self.unknown_rows("vehicle_events", &ours) + self.unknown_rows("keyed", "");
            if unknown == 0 && random.one_in(2) {
                self.expect(&[0], &["migrate", "--keep-rows"])?;
                return Ok(());
            }
            let statement = statement.split('"').next().unwrap_or_default();
            self.world.database.run(&format!("DELETE FROM{statement}"));
            return Ok(());
        }
        if said.contains("files restore --all") {
            return self.restore_all();
        }
        Err(format!("no way on: {said}"))
    }

    /// Stores missing rows again. A file that no directory has any more is forgotten.
    fn restore_all(&self) -> Result<(), String> {
        let output = self.expect(&[0, 1], &["files", "restore", "--all"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        for (_, rest) in said
            .match_indices("files forget ")
            .map(|(at, text)| said.split_at(at + text.len()))
        {
            let file_no = rest.split('`').next().unwrap_or_default();
            self.expect(&[0], &["files", "forget", file_no, "--yes"])?;
        }
        Ok(())
    }

    /// Loads the files of history: those that the ledger has are duplicates. A file that was begun by
    /// another definition is named by the first load, and loaded by the second.
    fn load_history(&self, random: &mut Random) -> Result<(), String> {
        let history = self.world.root.join("history");
        let history = history.to_str().unwrap();
        for _ in 0..4 {
            let output = self.expect(&[0, 2, 78], &["load", history])?;
            if output.status.code() == Some(78) {
                // The newest file was forgotten, and another program has a row with its number.
                self.follow(random, &String::from_utf8_lossy(&output.stderr))?;
                continue;
            }
            let open =
                "SELECT COUNT(*) FROM ingest_files WHERE path IS NOT NULL AND state <> 'settled'";
            if self.world.database.number(open) == 0 {
                return Ok(());
            }
        }
        Err("files of history are not loaded".to_owned())
    }

    /// Follows the reasons of files in quarantine, and forgets files that no directory has. Returns
    /// how many files are in inbound.
    pub fn retry(&self) -> Result<usize, String> {
        let quarantine = self.world.root.join("quarantine");
        let mut moved = 0;
        for name in names(&quarantine) {
            let reason = std::fs::read_to_string(quarantine.join(format!("{name}.reason")));
            let Ok(reason) = reason else { continue };
            if reason.starts_with("changed") {
                let number = reason.split("as file ").nth(1).unwrap_or_default();
                let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
                let sql = format!(
                    "SELECT COUNT(*) FROM ingest_files WHERE file_no = '{digits}' AND name = '{name}'"
                );
                if self.world.database.number(&sql) == 1 {
                    self.expect(&[0], &["files", "forget", &digits, "--yes"])?;
                }
            } else if reason.starts_with("other_definition") {
                self.world
                    .note("a definition changes while a file is half loaded");
            } else {
                continue;
            }
            requeue(&directories(&self.world.root), name.as_ref(), false).unwrap();
            moved += 1;
        }
        if moved > 0 {
            return Ok(moved);
        }
        let open: Vec<(u32, String)> = self.world.database.pairs(
            "SELECT file_no, name FROM ingest_files WHERE state IN ('pending', 'quarantined')",
        );
        for (file_no, name) in open {
            if !quarantine.join(name).exists() {
                let output =
                    self.expect(&[0, 1], &["files", "forget", &file_no.to_string(), "--yes"])?;
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                // A file with content waits in inbound for another one of its name without.
                if !output.status.success() && !said.contains("is being loaded") {
                    return Err(format!("files forget {file_no}: {said}"));
                }
            }
        }
        // A file waits in inbound until what is stored of its former content is forgotten.
        Ok(names(&self.world.root.join("inbound")).len())
    }

    /// Removes the rows of other programs and replays the records whose ids they took. Then
    /// `verify --content` must find no difference, but for files that have changed since.
    pub fn correct(&self, always: bool) -> Result<(), String> {
        let faults = self.world.faults.lock().unwrap().clone();
        let happened = |name: &&str| faults.keys().any(|fault| fault.starts_with(name));
        let accidents = ["a file grows", "another program", "the ledger", "the table"];
        if !always && !accidents.iter().any(happened) {
            return Ok(());
        }
        self.remove_foreign();
        let taken = "SELECT COUNT(*) FROM ingest_rejects WHERE code = 'id_taken'";
        if self.world.database.number(taken) > 0 {
            self.expect(&[0], &["rejects", "replay", "--code", "id_taken"])?;
        }
        let output = self.expect(&[0, 1], &["verify", "--content", "--json"])?;
        if output.status.success() {
            return Ok(());
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            if line["problems"].to_string().contains("cannot be compared") {
                let file_no = line["file_no"].to_string();
                self.expect(&[0], &["files", "forget", &file_no, "--yes"])?;
            }
        }
        self.expect(&[0], &["verify", "--content"])?;
        Ok(())
    }

    fn remove_foreign(&self) {
        let sql = format!("DELETE FROM vehicle_events WHERE event_value = '{FOREIGN}'");
        self.world.database.run(&sql);
    }

    /// Runs a command of the engine, and expects one of these exit codes.
    fn expect(&self, codes: &[i32], args: &[&str]) -> Result<Output, String> {
        let root = &self.world.root;
        let output = Command::new(env!("CARGO_BIN_EXE_task_runner"))
            .args(args)
            .current_dir(root)
            .env_clear()
            .env(
                "DATABASE_URL",
                format!("sqlite:{}", root.join("test.db").display()),
            )
            .env("LEMONADE_DATA_DIR", root)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if output
            .status
            .code()
            .is_some_and(|code| codes.contains(&code))
        {
            return Ok(output);
        }
        let said =
            [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        Err(format!("{args:?}: {}: {}", output.status, said.concat()))
    }
}
