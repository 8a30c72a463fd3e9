//! Tables of the ledger that a migration has made and that are missing: which of them are made again,
//! and what an operator reads about the others. Pure, for both dialects.

use std::collections::BTreeSet;

use crate::fault::{Fault, Origin};
use crate::finding::Finding;

use super::migrations::Migration;
use super::mismatch::LEDGER;

/// Tables whose loss costs no record: what they hold is made again. `ingest_seen`: a file of an archive
/// is read once more. `ingest_settings`: a new key, with which the frames in the queue are published
/// again; problems that were acknowledged are named again. `ingest_indexes`: `doctor` names an index
/// that the definitions have. `ingest_nodes`, `ingest_leases`: each process enters itself again.
const MADE_AGAIN: [&str; 5] = [
    "ingest_indexes",
    "ingest_leases",
    "ingest_nodes",
    "ingest_seen",
    "ingest_settings",
];

/// Tables that are missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// Tables that are made again, and the statements that do so.
    pub(super) made_again: Vec<(&'static str, Vec<&'static str>)>,
    /// Tables whose entries are lost, and the statements that make them again without entries.
    lost: Vec<(&'static str, Vec<&'static str>)>,
    /// The tables that exist.
    existing: Vec<String>,
}

/// The tables that the recorded migrations have made and that are not among the existing ones.
pub(super) fn missing(
    known: &[Migration],
    recorded: &[(u32, String)],
    existing: &BTreeSet<String>,
) -> Missing {
    let is_recorded = |it: &&Migration| recorded.iter().any(|(number, _)| *number == it.number);
    let ran = || known.iter().filter(is_recorded);
    let statements = || ran().flat_map(Migration::statements);
    let mut found = Missing::default();
    for table in statements().filter_map(created) {
        if existing.contains(table) {
            continue;
        }
        let of_table = statements().filter(|statement| statement.contains(table));
        let to = if MADE_AGAIN.contains(&table) {
            &mut found.made_again
        } else {
            &mut found.lost
        };
        to.push((table, of_table.collect()));
    }
    if !found.lost.is_empty() {
        found.existing = existing.iter().cloned().collect();
    }
    found
}

/// The table that a statement creates. `None` if it creates none.
fn created(statement: &'static str) -> Option<&'static str> {
    let (_, rest) = statement.split_once("CREATE TABLE IF NOT EXISTS ")?;
    rest.split([' ', '(']).next()
}

impl Missing {
    /// The fault of a start. `None` if no entries are lost.
    pub(super) fn fault(&self) -> Option<Fault> {
        (!self.lost.is_empty()).then(|| {
            let cause = problem(&self.lost);
            Fault::fatal(Origin::Sink, "reading the ledger", cause).with_next_step(self.next_step())
        })
    }

    /// As findings of `doctor`.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if !self.made_again.is_empty() {
            let again = "run `task_runner migrate`, which makes it again, as each start does";
            findings.push(Finding::warn(problem(&self.made_again), again));
        }
        findings.extend(self.fault().map(Finding::refused));
        findings
    }

    /// What makes a consistent ledger.
    fn next_step(&self) -> String {
        let backup = "restore all ingest_* tables from one backup, and see docs/repairs.md; or, without \
                      a backup,";
        if self.lost.iter().any(|(table, _)| *table == LEDGER) {
            let drops: Vec<String> = self
                .existing
                .iter()
                .map(|table| format!("DROP TABLE {table};"))
                .collect();
            return format!(
                "{backup} begin a new ledger with these statements, and then run `task_runner migrate`, \
                 which names the ways on for the rows:\n\n{}\n",
                drops.join("\n")
            );
        }
        let statements = self.lost.iter().flat_map(|(_, statements)| statements);
        let statements: Vec<String> = statements.map(|it| without_comments(it)).collect();
        format!(
            "{backup} make the table again without its entries with the statements below, and then run \
             `task_runner files restore --all`, which stores missing rows and rejects again from the \
             files, and `task_runner verify --content`, which names what it cannot check:\n\n{};\n",
            statements.join(";\n")
        )
    }
}

fn problem(tables: &[(&str, Vec<&str>)]) -> String {
    let names: Vec<&str> = tables.iter().map(|(table, _)| *table).collect();
    format!("the ledger lacks the table {}", names.join(", "))
}

fn without_comments(statement: &str) -> String {
    let lines = statement.lines().filter(|line| !line.starts_with("--"));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::migrations::{MYSQL, SQLITE};
    use super::*;
    use crate::finding::Level;

    #[test]
    fn each_table_of_a_recorded_migration_is_missed() {
        for known in [MYSQL, SQLITE] {
            let all: Vec<(u32, String)> =
                known.iter().map(|it| (it.number, String::new())).collect();
            let tables: BTreeSet<&str> = known
                .iter()
                .flat_map(Migration::statements)
                .filter_map(created)
                .collect();
            assert!(
                tables.contains("ingest_files") && tables.len() >= 9,
                "{tables:?}"
            );
            for table in &tables {
                let mut existing: BTreeSet<String> =
                    tables.iter().map(|&table| table.to_owned()).collect();
                assert_eq!(missing(known, &all, &existing), Missing::default());
                existing.remove(*table);
                let found = missing(known, &all, &existing);
                let findings = found.findings();
                assert_eq!(findings.len(), 1);
                assert!(findings[0].what.contains(table), "{findings:?}");
                let is_made_again = MADE_AGAIN.contains(table);
                assert_eq!(found.fault().is_none(), is_made_again, "{table}");
                let is_refused = findings[0].level == Level::Refused;
                assert_eq!(is_refused, !is_made_again, "{findings:?}");
                let made = findings[0]
                    .fix
                    .contains(&format!("CREATE TABLE IF NOT EXISTS {table}"));
                let is_made = !MADE_AGAIN.contains(table) && *table != LEDGER;
                assert_eq!(made, is_made, "{findings:?}");
                for (_, statements) in found.made_again {
                    assert!(created(statements[0]) == Some(*table), "{statements:?}");
                }
                // A migration that has not run has made no table.
                assert_eq!(missing(known, &[], &existing), Missing::default());
            }
        }
    }
}
