//! The schema in SQLite: the numbered migrations of the ledger, and the tables of the datasets, all
//! in the transaction of the caller. An existing table is compared with the table that its dataset
//! needs. Only if the user asks for it, columns and indexes are added; nothing else is changed.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Transaction, params};

use crate::dataset::{Dataset, Datasets};
use crate::fault::Fault;
use crate::sink::Migration;
use crate::sink::definitions::{DEFINITIONS, not_of_other_tables};
use crate::sink::lost::{self, Missing};
use crate::sink::migrations;
use crate::sink::mismatch::{self, Mismatch};
use crate::sink::partitions::without_partitions;
use crate::sink::summary::zone_statements;
use crate::sink::table::{Kind, Table, TableColumn, quoted, tables};
use crate::sink::view;

use super::errors::Failure;
use super::now::now;
use super::views::make_views;
use super::{indexes, summary};

const MIGRATIONS_DDL: &str = "CREATE TABLE IF NOT EXISTS ingest_migrations (number INTEGER PRIMARY \
    KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at TEXT NOT NULL)";

/// See [`Schema::migrate`](crate::sink::Schema::migrate).
pub(super) fn migrate(
    db: &Transaction<'_>,
    datasets: &Datasets,
    asked: Migration,
) -> Result<(), Failure> {
    db.execute_batch(MIGRATIONS_DDL)?;
    let recorded = recorded(db)?;
    let missing = missing_of_ledger(db)?;
    if let Some(fault) = missing.fault() {
        return Err(fault.into());
    }
    for statement in missing.made_again.iter().flat_map(|(_, it)| it) {
        db.execute_batch(statement)?;
    }
    for migration in migrations::due(migrations::SQLITE, &recorded)? {
        for statement in migration.statements() {
            match db.execute_batch(statement) {
                // If only some of the ledger's tables were dropped, the others have the column
                // already.
                Err(error) if error.to_string().contains("duplicate column name") => {}
                done => done?,
            }
        }
        db.execute(
            "INSERT INTO ingest_migrations (number, name, checksum, applied_at) VALUES (?, ?, ?, ?)",
            params![migration.number, migration.name, migration.checksum(), now()],
        )?;
    }
    if asked.ledger_only {
        return Ok(());
    }
    without_partitions(datasets)?;
    for dataset in datasets.iter() {
        db.execute(
            "INSERT OR IGNORE INTO ingest_definitions (definition, dataset, text, recorded_at) VALUES \
             (?, ?, ?, ?)",
            params![
                dataset.fingerprint.to_bytes(),
                dataset.name,
                dataset.definition(),
                now()
            ],
        )?;
    }
    let mismatches = mismatches(db, datasets)?;
    let kept = mismatch::kept(&mismatches).filter(|_| asked.keep_rows);
    if let Some((file_no, hash, dataset)) = kept {
        db.execute(
            "INSERT INTO ingest_files (file_no, hash, dataset, name, bytes, records, state, summarised, \
             registered_at, settled_at) VALUES (?1, ?2, ?3, ?4, 0, 0, 'settled', 1, ?5, ?5)",
            params![file_no, hash, dataset, mismatch::KEPT_NAME, now()],
        )?;
    } else if let Some(fault) = mismatch::fault(&mismatches) {
        return Err(fault.into());
    }
    summary::keep_zones(db, datasets, asked.any_zone)?;
    for table in tables(datasets) {
        if !has_table(db, &table.name)? {
            db.execute_batch(&create(&table))?;
            for statement in indexes::statements(&table) {
                db.execute_batch(&statement)?;
            }
            if let Some(dataset) = &table.summary_of {
                summary::mark(db, dataset)?;
            }
        }
        if asked.add {
            add_columns(db, &table)?;
            indexes::add_unique(db, &table)?;
        }
        check(db, &table)?;
    }
    if asked.add {
        for (_, sql) in missing_indexes(db, datasets)? {
            db.execute_batch(&sql)?;
        }
    }
    make_views(db, datasets, asked.add)
}

/// The tables of the ledger that migrations have made and that are missing.
pub(super) fn missing_of_ledger(db: &Transaction<'_>) -> Result<Missing, Failure> {
    let existing: BTreeSet<String> = db
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'ingest_%'")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    if !existing.contains("ingest_migrations") {
        return Ok(Missing::default());
    }
    Ok(lost::missing(migrations::SQLITE, &recorded(db)?, &existing))
}

/// Why the ledger cannot be migrated. `None` if it can be, and if there is none.
pub(super) fn refusal_of_ledger(db: &Transaction<'_>) -> Result<Option<Fault>, Failure> {
    if !has_table(db, "ingest_migrations")? {
        return Ok(None);
    }
    Ok(migrations::due(migrations::SQLITE, &recorded(db)?).err())
}

/// Number and checksum of each migration that the database has run.
fn recorded(db: &Transaction<'_>) -> Result<Vec<(u32, String)>, Failure> {
    Ok(db
        .prepare("SELECT number, checksum FROM ingest_migrations")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?)
}

/// Adds the columns that a table of rows lacks.
fn add_columns(db: &Transaction<'_>, table: &Table) -> Result<(), Failure> {
    let is_table = "SELECT 1 FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name = ? \
                    COLLATE NOCASE";
    if table.summary_of.is_some() || !db.prepare(is_table)?.exists([&table.name])? {
        return Ok(());
    }
    let found: Vec<String> = db
        .prepare("SELECT name FROM pragma_table_xinfo(?)")?
        .query_map([&table.name], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let is_missing = |column: &&TableColumn| {
        !found
            .iter()
            .any(|found| found.eq_ignore_ascii_case(&column.name))
    };
    // The id decides what a row is: without it, the table is another one.
    let is_new = |column: &&TableColumn| !table.key.contains(&column.name);
    for column in table.columns.iter().filter(is_missing).filter(is_new) {
        db.execute_batch(&add_column(&table.name, column))?;
    }
    Ok(())
}

fn add_column(table: &str, column: &TableColumn) -> String {
    format!(
        "ALTER TABLE `{table}` ADD COLUMN `{}` {}",
        column.name,
        sql_type(column.kind)
    )
}

/// The indexes of definitions that existing tables lack: a problem, and the statement that adds the
/// index.
pub(super) fn missing_indexes(
    db: &Transaction<'_>,
    datasets: &Datasets,
) -> Result<Vec<(String, String)>, Failure> {
    let mut missing = Vec::new();
    for table in tables(datasets) {
        if table.indexes.is_empty() || !has_table(db, &table.name)? {
            continue;
        }
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut statement = db.prepare(
            "SELECT l.name, COALESCE(i.name, '') FROM pragma_index_list(?) l JOIN \
             pragma_index_info(l.name) i WHERE l.partial = 0 ORDER BY l.name, i.seqno",
        )?;
        let mut rows = statement.query([&table.name])?;
        while let Some(row) = rows.next()? {
            found.entry(row.get(0)?).or_default().push(row.get(1)?);
        }
        for index in &table.indexes {
            if !found.values().any(|columns| index.is_served_by(columns)) {
                let columns = quoted(index.columns.iter().map(String::as_str));
                let what = format!("`{}` has no index on {columns}", table.name);
                missing.push((what, indexes::create_index(&table, index)));
            }
        }
    }
    Ok(missing)
}

pub(super) fn has_table(db: &Transaction<'_>, name: &str) -> Result<bool, Failure> {
    let found = db
        .prepare("SELECT 1 FROM pragma_table_info(?)")?
        .exists([name])?;
    Ok(found)
}

/// How the ledger and the tables of the datasets contradict each other.
pub(super) fn mismatches(
    db: &Transaction<'_>,
    datasets: &Datasets,
) -> Result<Vec<Mismatch>, Failure> {
    let mut found = Vec::new();
    let has_ledger = has_table(db, mismatch::LEDGER)?;
    for dataset in datasets.iter() {
        let (table, name) = (dataset.table.clone(), dataset.name.clone());
        let with_rows = if has_ledger {
            files_with_rows(db, dataset)?
        } else {
            Vec::new()
        };
        if !has_table(db, &table)? {
            if !with_rows.is_empty() {
                found.push(Mismatch::Missing { table });
            }
            continue;
        }
        // A table with another kind of id does not fit, which is reported as such.
        let ids =
            "SELECT 1 FROM pragma_table_info(?) WHERE name = 'id' AND UPPER(type) = 'INTEGER'";
        if !db.prepare(ids)?.exists([&table])? {
            continue;
        }
        let in_table: u32 = db.query_row(&mismatch::last_in_table(&table), [], |row| row.get(0))?;
        let in_ledger: u32 = if has_ledger {
            db.query_row(mismatch::LAST_FILE, [], |row| row.get(0))?
        } else {
            0
        };
        if in_table > in_ledger {
            found.push(Mismatch::Unknown {
                table,
                dataset: name,
                in_table,
                in_ledger,
            });
            continue;
        }
        for file_no in with_rows {
            if !db
                .prepare(&mismatch::has_row_of(&table, file_no))?
                .exists([])?
            {
                found.push(Mismatch::Lost { table, file_no });
                break;
            }
        }
    }
    Ok(found)
}

/// See [`mismatch::files_with_rows`]. Files that were loaded while the dataset had another table are
/// left out.
fn files_with_rows(db: &Transaction<'_>, dataset: &Dataset) -> Result<Vec<u32>, Failure> {
    // The ledger of an early release, which `doctor` may read, has no definitions.
    let mut definitions: Vec<(Vec<u8>, String)> = Vec::new();
    if has_table(db, "ingest_definitions")? {
        definitions = db
            .prepare(DEFINITIONS)?
            .query_map([&dataset.name], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
    }
    let sql = mismatch::files_with_rows(&not_of_other_tables(&definitions, &dataset.table));
    let mut find = db.prepare(&sql)?;
    let file_nos = find.query_map([&dataset.name, &dataset.name], |row| row.get(0))?;
    Ok(file_nos.collect::<Result<_, _>>()?)
}

/// See [`Schema::schema`](crate::sink::Schema::schema).
pub(super) fn statements(datasets: &Datasets) -> Vec<String> {
    let tables = tables(datasets).into_iter().flat_map(|table| {
        let indexes = indexes::statements(&table);
        std::iter::once(create(&table)).chain(indexes)
    });
    let all = tables
        .chain(view::statements(datasets))
        .chain(zone_statements(datasets));
    let now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')";
    migrations::all(migrations::SQLITE, MIGRATIONS_DDL, now, all)
}

/// The DDL of a table. A key of one column is the row id itself; with several columns, the table is
/// stored in the index of its key (WITHOUT ROWID).
fn create(table: &Table) -> String {
    let single = table.key.len() == 1;
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            let suffix = match (single && table.key[0] == column.name, column.nullable) {
                (true, _) => " PRIMARY KEY",
                (false, true) => "",
                (false, false) => " NOT NULL",
            };
            format!("`{}` {}{suffix}", column.name, sql_type(column.kind))
        })
        .collect();
    let columns = columns.join(", ");
    if single {
        return format!("CREATE TABLE IF NOT EXISTS `{}` ({columns})", table.name);
    }
    let key = quoted(table.key.iter().map(String::as_str));
    format!(
        "CREATE TABLE IF NOT EXISTS `{}` ({columns}, PRIMARY KEY ({key})) WITHOUT ROWID",
        table.name
    )
}

fn sql_type(kind: Kind) -> &'static str {
    match kind {
        Kind::RowId | Kind::Integer | Kind::Boolean => "INTEGER",
        Kind::Float => "REAL",
        Kind::Binary => "BLOB",
        // SQLite has no exact type for an unsigned integer of 64 bits or a decimal.
        Kind::Text(_)
        | Kind::Timestamp
        | Kind::Day
        | Kind::Time
        | Kind::Unsigned
        | Kind::Decimal(..)
        | Kind::Json => "TEXT",
    }
}

/// A column as SQLite has it.
struct Existing {
    name: String,
    declared: String,
    not_null: bool,
    has_default: bool,
    /// Whether the value is an expression: an INSERT may not name the column.
    generated: bool,
    /// The place in the primary key, from 1. 0 if the column is not in the key.
    key: u32,
}

/// A table as SQLite has it.
struct Found {
    /// `table`, `view` or `virtual`.
    kind: String,
    columns: Vec<Existing>,
    /// A collation of the key that does not compare byte by byte.
    collation: Option<String>,
    /// What the table does with a row that violates a constraint, if that is not ABORT.
    conflict: Option<String>,
    /// A name that no table has.
    free: String,
}

/// Compares an existing table with the one that is needed.
pub(super) fn check(db: &Transaction<'_>, table: &Table) -> Result<(), Failure> {
    let found = read(db, &table.name)?;
    match misfit(table, &found) {
        None => indexes::check_unique(db, table),
        Some((problem, correction)) => Err(Failure::Found {
            next_step: format!("correct it with {correction}"),
            problem: format!("table `{}` does not fit its dataset: {problem}", table.name),
        }),
    }
}

fn read(db: &Transaction<'_>, name: &str) -> Result<Found, Failure> {
    let columns: Vec<Existing> = db
        .prepare("SELECT name, type, `notnull`, dflt_value, pk, hidden FROM pragma_table_xinfo(?)")?
        .query_map([name], |row| {
            Ok(Existing {
                name: row.get(0)?,
                declared: row.get::<_, String>(1)?.to_uppercase(),
                not_null: row.get(2)?,
                has_default: row.get::<_, Option<String>>(3)?.is_some(),
                key: row.get(4)?,
                // 1 is a hidden column of a virtual table, 2 and 3 are generated ones.
                generated: row.get::<_, u32>(5)? > 1,
            })
        })?
        .collect::<Result<_, _>>()?;
    let collation: Option<String> = db
        .prepare(
            "SELECT x.coll FROM pragma_index_list(?) i JOIN pragma_index_xinfo(i.name) x WHERE i.origin \
             = 'pk' AND x.key = 1 AND x.coll <> 'BINARY'",
        )?
        .query_map([name], |row| row.get(0))?
        .next()
        .transpose()?;
    let (kind, sql): (String, String) = db.query_row(
        "SELECT t.type, COALESCE(m.sql, '') FROM pragma_table_list t JOIN sqlite_master m ON m.name = \
         t.name AND m.type IN ('table', 'view') WHERE t.schema = 'main' AND t.name = ? COLLATE NOCASE",
        [name],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(Found {
        kind,
        columns,
        collation,
        conflict: conflict_clause(&sql),
        free: free_name(db, name)?,
    })
}

/// A name that no table has, for a table that is renamed: `NAME_old`, or `NAME_old` and a number.
fn free_name(db: &Transaction<'_>, name: &str) -> Result<String, Failure> {
    let mut free = format!("{name}_old");
    let mut number = 2;
    while has_table(db, &free)? {
        free = format!("{name}_old{number}");
        number += 1;
    }
    Ok(free)
}

/// The action of the first ON CONFLICT clause in the SQL of a table that is not ABORT. With any
/// other, SQLite skips a row, or removes another one, without an error.
fn conflict_clause(sql: &str) -> Option<String> {
    let words = words(sql);
    let clauses = words
        .windows(3)
        .filter(|of| of[0] == "ON" && of[1] == "CONFLICT");
    clauses
        .map(|of| of[2].clone())
        .find(|action| action != "ABORT")
}

/// The words of a statement in upper case, without quoted texts, quoted names and comments.
fn words(sql: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let closing = match first {
            '\'' | '"' | '`' => Some((1, first.to_string())),
            '[' => Some((1, "]".to_owned())),
            '-' if rest.starts_with("--") => Some((2, "\n".to_owned())),
            '/' if rest.starts_with("/*") => Some((2, "*/".to_owned())),
            _ => None,
        };
        let last = words.last_mut().expect("it begins with one word");
        if closing.is_none() && (first.is_alphanumeric() || first == '_') {
            last.extend(first.to_uppercase());
        } else if !last.is_empty() {
            words.push(String::new());
        }
        rest = match closing {
            None => &rest[first.len_utf8()..],
            Some((opening, closing)) => {
                let inner = &rest[opening..];
                let end = inner.find(&closing).map(|at| at + closing.len());
                &inner[end.unwrap_or(inner.len())..]
            }
        };
    }
    words
}

/// The problem of a table, and the statement that corrects it.
fn misfit(table: &Table, found: &Found) -> Option<(String, String)> {
    let name = &table.name;
    let existing = &found.columns;
    // SQLite cannot change a column, so the correction is a new table.
    let replace = || {
        let free = &found.free;
        format!("ALTER TABLE `{name}` RENAME TO `{free}`, and migrate and copy its rows")
    };
    if found.kind == "view" {
        // SQLite cannot rename a view.
        let correction = format!("another `table` in the dataset, or with DROP VIEW `{name}`");
        return Some(("it is a view".to_owned(), correction));
    }
    if found.kind == "virtual" {
        return Some(("it is a virtual table".to_owned(), replace()));
    }
    if let Some(action) = &found.conflict {
        let problem = format!(
            "a constraint of it has ON CONFLICT {action}, so that rows would be lost without an error"
        );
        return Some((problem, replace()));
    }
    if let Some(collation) = &found.collation {
        let problem = format!(
            "its key is compared by the collation {collation}, by which different keys are equal"
        );
        return Some((problem, replace()));
    }
    for needed in &table.columns {
        let found = existing
            .iter()
            .find(|found| found.name.eq_ignore_ascii_case(&needed.name));
        let Some(found) = found else {
            let problem = format!("it has no column `{}`", needed.name);
            // SQLite adds no column to a key.
            let correction = if table.key.contains(&needed.name) {
                replace()
            } else {
                let add = add_column(name, needed);
                format!("`task_runner migrate --add`, or {add}")
            };
            return Some((problem, correction));
        };
        if found.generated {
            let name = &needed.name;
            let problem =
                format!("column `{name}` is generated by the database, and the dataset fills it");
            return Some((problem, replace()));
        }
        let is_id = table.key.len() == 1 && table.key[0] == needed.name;
        let fits = if is_id {
            found.declared == "INTEGER"
        } else {
            holds(found, needed.kind)
        };
        if !fits {
            let problem = format!("column `{}` has the type {}", needed.name, found.declared);
            return Some((problem, replace()));
        }
        if needed.nullable && found.not_null {
            return Some((format!("column `{}` takes no NULL", needed.name), replace()));
        }
    }
    let keys = existing.iter().filter(|found| found.key > 0).count();
    let keyed = |name: &String| {
        existing
            .iter()
            .any(|found| found.key > 0 && found.name.eq_ignore_ascii_case(name))
    };
    if keys != table.key.len() || !table.key.iter().all(keyed) {
        let wanted = quoted(table.key.iter().map(String::as_str));
        return Some((format!("its primary key is not ({wanted})"), replace()));
    }
    let unfilled = existing.iter().find(|found| {
        let ours = table
            .columns
            .iter()
            .any(|of| of.name.eq_ignore_ascii_case(&found.name));
        !ours && found.not_null && !found.has_default && !found.generated
    })?;
    let problem = format!(
        "column `{}` is not in the dataset, takes no NULL and has no default",
        unfilled.name
    );
    Some((problem, replace()))
}

/// Whether a column returns values as they were stored, by the affinity of its declared type: a
/// column with numeric affinity turns a text that looks like a number into a number.
fn holds(found: &Existing, kind: Kind) -> bool {
    let declared = |parts: &[&str]| parts.iter().any(|part| found.declared.contains(part));
    let integer = declared(&["INT"]);
    let text = !integer && declared(&["CHAR", "CLOB", "TEXT"]);
    let blob = !integer && !text && (found.declared.is_empty() || declared(&["BLOB"]));
    let real = !integer && !text && !blob && declared(&["REAL", "FLOA", "DOUB"]);
    let numeric = !(integer || text || blob || real);
    match sql_type(kind) {
        "INTEGER" => integer || numeric,
        "REAL" => real || numeric,
        "BLOB" => blob,
        _ => text || blob,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflict_clauses_are_found_in_the_sql_of_a_table() {
        let lossy = [
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE ON CONFLICT REPLACE)",
            "create table t (a text unique on  conflict\n replace)",
            "CREATE TABLE t (a TEXT UNIQUE ON/* */CONFLICT--\nREPLACE)",
            "CREATE TABLE t (a TEXT UNIQUE ON CONFLICT ABORT, b TEXT UNIQUE ON CONFLICT REPLACE)",
            "CREATE TABLE t (a TEXT NOT NULL ON CONFLICT REPLACE DEFAULT 'it''s')",
            "CREATE TABLE t (a TEXT DEFAULT 'x', UNIQUE (a)ON CONFLICT REPLACE)",
        ];
        for sql in lossy {
            assert_eq!(conflict_clause(sql).as_deref(), Some("REPLACE"), "{sql}");
        }
        let harmless = [
            "",
            "CREATE TABLE t (id INTEGER PRIMARY KEY)",
            "CREATE TABLE t (a TEXT UNIQUE ON CONFLICT ABORT)",
            "CREATE TABLE t (a TEXT DEFAULT 'x'' ON CONFLICT REPLACE')",
            "CREATE TABLE t ([a ON CONFLICT REPLACE] TEXT, `b ON CONFLICT IGNORE` TEXT)",
            "CREATE TABLE t (a TEXT -- ON CONFLICT REPLACE\n, b /* ON CONFLICT FAIL */ TEXT)",
            "CREATE TABLE t (a TEXT) /* ON CONFLICT REPLACE",
        ];
        for sql in harmless {
            assert_eq!(conflict_clause(sql), None, "{sql}");
        }
    }
}
