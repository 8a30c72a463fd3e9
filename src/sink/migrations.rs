//! The numbered migrations of the ledger for each dialect, embedded in the binary, forward only.
//!
//! Pure: lists the migrations, splits them into statements, and decides which are due. The dialects
//! run them. The tables of datasets have no migrations: they are created from their definitions,
//! since users add datasets.

use crate::fault::{Fault, Origin};

const CHECKING: &str = "checking the migrations of the database";

/// One step of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Migration {
    pub(super) number: u32,
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
}

pub(super) const MYSQL: &[Migration] = &[
    Migration {
        number: 1,
        name: "ledger",
        sql: include_str!("../../migrations/mysql/0001_ledger.sql"),
    },
    Migration {
        number: 2,
        name: "purged",
        sql: include_str!("../../migrations/mysql/0002_purged.sql"),
    },
    Migration {
        number: 3,
        name: "definitions",
        sql: include_str!("../../migrations/mysql/0003_definitions.sql"),
    },
    Migration {
        number: 4,
        name: "indexes",
        sql: include_str!("../../migrations/mysql/0004_indexes.sql"),
    },
    Migration {
        number: 5,
        name: "seen",
        sql: include_str!("../../migrations/mysql/0005_seen.sql"),
    },
    Migration {
        number: 6,
        name: "identities",
        sql: include_str!("../../migrations/mysql/0006_identities.sql"),
    },
    Migration {
        number: 7,
        name: "replayed_by",
        sql: include_str!("../../migrations/mysql/0007_replayed_by.sql"),
    },
    Migration {
        number: 8,
        name: "mark",
        sql: include_str!("../../migrations/mysql/0008_mark.sql"),
    },
    Migration {
        number: 9,
        name: "superseded",
        sql: include_str!("../../migrations/mysql/0009_superseded.sql"),
    },
    Migration {
        number: 10,
        name: "retired",
        sql: include_str!("../../migrations/mysql/0010_retired.sql"),
    },
    Migration {
        number: 11,
        name: "erased",
        sql: include_str!("../../migrations/mysql/0011_erased.sql"),
    },
    Migration {
        number: 12,
        name: "nodes",
        sql: include_str!("../../migrations/mysql/0012_nodes.sql"),
    },
];

pub(super) const SQLITE: &[Migration] = &[
    Migration {
        number: 1,
        name: "ledger",
        sql: include_str!("../../migrations/sqlite/0001_ledger.sql"),
    },
    Migration {
        number: 2,
        name: "purged",
        sql: include_str!("../../migrations/sqlite/0002_purged.sql"),
    },
    Migration {
        number: 3,
        name: "definitions",
        sql: include_str!("../../migrations/sqlite/0003_definitions.sql"),
    },
    Migration {
        number: 4,
        name: "seen",
        sql: include_str!("../../migrations/sqlite/0004_seen.sql"),
    },
    Migration {
        number: 5,
        name: "identities",
        sql: include_str!("../../migrations/sqlite/0005_identities.sql"),
    },
    Migration {
        number: 6,
        name: "replayed_by",
        sql: include_str!("../../migrations/sqlite/0006_replayed_by.sql"),
    },
    Migration {
        number: 7,
        name: "mark",
        sql: include_str!("../../migrations/sqlite/0007_mark.sql"),
    },
    Migration {
        number: 8,
        name: "superseded",
        sql: include_str!("../../migrations/sqlite/0008_superseded.sql"),
    },
    Migration {
        number: 9,
        name: "retired",
        sql: include_str!("../../migrations/sqlite/0009_retired.sql"),
    },
    Migration {
        number: 10,
        name: "erased",
        sql: include_str!("../../migrations/sqlite/0010_erased.sql"),
    },
    Migration {
        number: 11,
        name: "nodes",
        sql: include_str!("../../migrations/sqlite/0011_nodes.sql"),
    },
];

/// All statements that create a schema in an empty database. `table` is the DDL of the table of
/// migrations, `now` the server's expression for the current time, and `tables` the statements
/// after the migrations. The statements also record that the migrations have run.
pub(super) fn all(
    known: &[Migration],
    table: &str,
    now: &str,
    tables: impl Iterator<Item = String>,
) -> Vec<String> {
    let mut all = vec![table.to_owned()];
    for migration in known {
        all.extend(migration.statements().map(str::to_owned));
        let (number, name, checksum) = (migration.number, migration.name, migration.checksum());
        all.push(format!(
            "INSERT INTO ingest_migrations (number, name, checksum, applied_at) VALUES ({number}, \
             '{name}', '{checksum}', {now})"
        ));
    }
    all.extend(tables);
    all
}

impl Migration {
    /// The statements of the migration. In its file, a semicolon at the end of a line ends a
    /// statement.
    pub(super) fn statements(&self) -> impl Iterator<Item = &'static str> {
        self.sql
            .split(";\n")
            .map(str::trim)
            .filter(|statement| !statement.is_empty())
    }

    /// A hash of the file. It shows that a migration was changed after a database ran it.
    pub(super) fn checksum(&self) -> String {
        blake3::hash(self.sql.as_bytes()).to_hex()[..32].to_owned()
    }
}

/// The migrations of `known` that are not in `recorded`, which holds number and checksum of those
/// that the database has run.
///
/// # Errors
/// Fatal if the database has a newer migration than this binary, or one with another checksum.
pub(super) fn due<'a>(
    known: &'a [Migration],
    recorded: &[(u32, String)],
) -> Result<Vec<&'a Migration>, Fault> {
    let newest = known.last().map_or(0, |migration| migration.number);
    if let Some((number, _)) = recorded.iter().find(|(number, _)| *number > newest) {
        let cause = format!(
            "the schema of the database is newer than this binary: the database has migration \
             {number}, and this binary has migrations up to {newest}"
        );
        return Err(
            Fault::fatal(Origin::Sink, CHECKING, cause).with_next_step("install the newer release")
        );
    }
    let mut due = Vec::new();
    for migration in known {
        match recorded
            .iter()
            .find(|(number, _)| *number == migration.number)
        {
            None => due.push(migration),
            Some((_, checksum)) if *checksum == migration.checksum() => {}
            Some((number, _)) => {
                let cause = format!(
                    "the database was migrated by another build: its migration {number} has \
                     another checksum"
                );
                return Err(Fault::fatal(Origin::Sink, CHECKING, cause)
                    .with_next_step("use a release build, or another database"));
            }
        }
    }
    Ok(due)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_from_one_and_hold_whole_statements() {
        for known in [MYSQL, SQLITE] {
            for (at, migration) in known.iter().enumerate() {
                assert_eq!(migration.number as usize, at + 1);
            }
        }
        // MySQL commits each of them by itself, so each may run twice.
        let may_run_twice =
            |sql: &str| sql.contains("CREATE TABLE IF NOT EXISTS") || sql.contains("ALTER TABLE");
        let mut statements = MYSQL.iter().flat_map(Migration::statements);
        assert!(statements.all(may_run_twice));
        let counts = |known: &[Migration]| -> Vec<usize> {
            known.iter().map(|m| m.statements().count()).collect()
        };
        assert_eq!(counts(MYSQL), [3, 1, 6, 1, 1, 1, 1, 1, 1, 2, 2, 2]);
        assert_eq!(counts(SQLITE), [4, 1, 12, 2, 2, 1, 1, 2, 1, 3, 2]);
    }

    #[test]
    fn recorded_migrations_decide_which_are_due() {
        assert_eq!(due(MYSQL, &[]).unwrap().len(), MYSQL.len());
        let all: Vec<_> = MYSQL.iter().map(|m| (m.number, m.checksum())).collect();
        assert!(due(MYSQL, &all).unwrap().is_empty());
        let newer = due(MYSQL, &[(99, String::new())]).unwrap_err();
        assert!(
            !newer.is_transient() && newer.cause.to_string().contains("newer than this binary")
        );
        let other = due(MYSQL, &[(1, "other".to_owned())]).unwrap_err();
        assert!(!other.is_transient() && other.cause.to_string().contains("another build"));
    }
}
