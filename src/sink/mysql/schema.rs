//! The schema in MySQL: the numbered migrations of the ledger, and the tables of the datasets.
//!
//! DDL commits by itself here, so each statement must bear being run twice, and a lock of the
//! server's keeps several processes from migrating at once. A table that exists already is never
//! changed: it is compared with what its dataset needs.

use mysql_common::Row;

use crate::dataset::Datasets;
use crate::fault::{Fault, Origin};
use crate::finding::Finding;
use crate::sink::migrations;
use crate::sink::table::{Kind, Table, TableColumn, quoted, tables};

use super::errors::Failure;
use super::session::Session;
use super::summary;

/// How long one process waits for another one's migration.
const LOCK_WAIT_SECONDS: u32 = 30;

/// Most bytes of the VARCHAR columns of a table. MySQL takes 65,535 for a whole row, the other
/// columns included.
const VARCHAR_BYTES_MAX: u32 = 60_000;

/// Longest text that stays VARCHAR in a table whose texts are together above that limit.
const VARCHAR_CHARS_SHORT: u32 = 64;

/// Bytes of a character in utf8mb4, at most.
const CHAR_BYTES: u32 = 4;

const MIGRATIONS: &str = "ingest_migrations";

const MIGRATIONS_DDL: &str = "CREATE TABLE IF NOT EXISTS ingest_migrations (number INT UNSIGNED NOT \
    NULL PRIMARY KEY, name VARCHAR(64) NOT NULL, checksum CHAR(32) NOT NULL, applied_at \
    DATETIME(6) NOT NULL) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";

/// See [`Schema::migrate`](crate::sink::Schema::migrate).
pub(super) async fn migrate(session: &mut Session, datasets: &Datasets) -> Result<(), Failure> {
    let database = session.rows::<Option<String>>("SELECT DATABASE()").await?;
    let Some(database) = database.into_iter().next().flatten() else {
        return Err(Failure::Found {
            advice: "name a database in the URL, mysql://HOST/DATABASE",
            problem: "the URL names none".to_owned(),
        });
    };
    // Locks are the server's, not the database's, and their names end at 64 characters.
    let lock = format!(
        "lemonade-{}",
        &blake3::hash(database.as_bytes()).to_hex()[..32]
    );
    let sql = format!("SELECT GET_LOCK('{lock}', {LOCK_WAIT_SECONDS})");
    let got = session.rows::<Option<i64>>(&sql).await?;
    if got.first().copied().flatten() != Some(1) {
        let cause = format!("it took longer than {LOCK_WAIT_SECONDS} s");
        return Err(Fault::transient(
            Origin::Sink,
            "waiting for another process that migrates the database",
            cause,
        )
        .into());
    }
    let outcome = locked(session, datasets).await;
    // If this fails the session is thrown away, which frees the lock as well.
    let freed = session.run(&format!("DO RELEASE_LOCK('{lock}')")).await;
    outcome?;
    freed.map(drop)
}

/// See [`Schema::schema`](crate::sink::Schema::schema).
pub(super) fn statements(datasets: &Datasets, mariadb: bool) -> Vec<String> {
    let tables = tables(datasets).into_iter();
    migrations::all(
        migrations::MYSQL,
        MIGRATIONS_DDL,
        "UTC_TIMESTAMP(6)",
        tables.map(|table| create(&table, mariadb)),
    )
}

async fn locked(session: &mut Session, datasets: &Datasets) -> Result<(), Failure> {
    // Asked for first, because CREATE TABLE wants the right to create even where it finds the table:
    // the account of a service may do without that right once the database is migrated.
    if !has_table(session, MIGRATIONS).await? {
        session.run(MIGRATIONS_DDL).await?;
    }
    let recorded = session
        .rows::<(u32, String)>("SELECT number, checksum FROM ingest_migrations")
        .await?;
    for migration in migrations::due(migrations::MYSQL, &recorded)? {
        for statement in migration.statements() {
            session.run(statement).await?;
        }
        // The lock is of one server: on another node of a cluster the same may happen at the same time.
        let sql = "INSERT INTO ingest_migrations (number, name, checksum, applied_at) VALUES (?, \
                   ?, ?, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE number = number";
        let params = (migration.number, migration.name, migration.checksum());
        session.run_with(sql, params).await?;
    }
    let mut misfits = Vec::new();
    for table in tables(datasets) {
        if !has_table(session, &table.name).await? {
            // Before the table is made: once it is there, nobody does this any more.
            if let Some(dataset) = &table.summary_of {
                summary::mark(session, dataset).await?;
            }
            let ddl = create(&table, session.server.mariadb);
            session.run(&ddl).await?;
        }
        misfits.extend(check(session, &table).await?);
    }
    if misfits.is_empty() {
        return Ok(());
    }
    // All of them at once, so that they can be mended at once; in a form that can be pasted.
    let problems: Vec<&str> = misfits.iter().map(|misfit| &*misfit.problem).collect();
    let mends: Vec<&str> = misfits.iter().map(|misfit| &*misfit.mend).collect();
    let doing = format!("tables do not fit their datasets: {}", problems.join("; "));
    let cause = format!(
        "run these statements, and then `task_runner migrate` again:\n\n{};\n",
        mends.join(";\n")
    );
    Err(Fault::fatal(Origin::Sink, doing, cause).into())
}

/// What migrating would find of the tables of the datasets: the names of those that are missing, and
/// findings about the others.
pub(super) async fn inspect(
    session: &mut Session,
    datasets: &Datasets,
) -> Result<(Vec<String>, Vec<Finding>), Failure> {
    let mut missing = Vec::new();
    let mut findings = Vec::new();
    for table in tables(datasets) {
        if !has_table(session, &table.name).await? {
            missing.push(table.name);
        } else if let Some(Misfit { problem, mend }) = check(session, &table).await? {
            let what = format!("a table does not fit its dataset: {problem}");
            findings.push(Finding::fail(what, format!("{mend};")));
        }
    }
    Ok((missing, findings))
}

async fn has_table(session: &mut Session, name: &str) -> Result<bool, Failure> {
    let sql = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND \
               TABLE_NAME = ?";
    Ok(!session.rows_with::<u64>(sql, (name,)).await?.is_empty())
}

/// The DDL of a table.
fn create(table: &Table, mariadb: bool) -> String {
    let texts = table.columns.iter().map(|column| match column.kind {
        Kind::Text(chars) => chars * CHAR_BYTES,
        _ => 0,
    });
    let wide = texts.sum::<u32>() > VARCHAR_BYTES_MAX;
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| definition(column, wide, mariadb))
        .collect();
    format!(
        "CREATE TABLE IF NOT EXISTS `{}` ({}, PRIMARY KEY ({})) ENGINE = InnoDB DEFAULT {}",
        table.name,
        columns.join(", "),
        quoted(table.key.iter().map(String::as_str)),
        text(mariadb),
    )
}

fn definition(column: &TableColumn, wide: bool, mariadb: bool) -> String {
    let null = if column.nullable { "NULL" } else { "NOT NULL" };
    format!(
        "`{}` {} {null}",
        column.name,
        sql_type(column.kind, wide, mariadb)
    )
}

/// Text is compared byte by byte. `utf8mb4_bin` would do so but for spaces at the end, which it pads:
/// 'a' and 'a ' would be one key of a summary. Both tables have the same, since MySQL joins no two
/// binary collations.
fn text(mariadb: bool) -> String {
    let collation = if mariadb {
        "utf8mb4_nopad_bin"
    } else {
        "utf8mb4_0900_bin"
    };
    format!("CHARACTER SET utf8mb4 COLLATE {collation}")
}

fn sql_type(kind: Kind, wide: bool, mariadb: bool) -> String {
    match kind {
        Kind::RowId => "BIGINT UNSIGNED".to_owned(),
        Kind::Text(chars) if wide && chars > VARCHAR_CHARS_SHORT => {
            format!("TEXT {}", text(mariadb))
        }
        Kind::Text(chars) => format!("VARCHAR({chars}) {}", text(mariadb)),
        Kind::Timestamp => "DATETIME(6)".to_owned(),
        Kind::Day => "DATE".to_owned(),
        Kind::Integer => "BIGINT".to_owned(),
        Kind::Float => "DOUBLE".to_owned(),
        Kind::Boolean => "BOOLEAN".to_owned(),
        Kind::Json => "JSON".to_owned(),
    }
}

/// A column as `information_schema` has it.
#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about the column"
)]
struct Existing {
    name: String,
    data_type: String,
    unsigned: bool,
    /// As it is declared, without character set.
    column_type: String,
    text_bytes: u64,
    /// Most characters, of a text.
    chars: u64,
    collation: String,
    precision: u64,
    nullable: bool,
    primary: bool,
    /// The server fills it where an INSERT does not name it.
    optional: bool,
}

impl Existing {
    fn is_text(&self) -> bool {
        matches!(
            self.data_type.as_str(),
            "varchar" | "tinytext" | "text" | "mediumtext" | "longtext"
        )
    }

    /// What the name of a collation begins with.
    fn charset(&self) -> &str {
        self.collation.split('_').next().unwrap_or_default()
    }

    /// The same column, where an INSERT may leave it out.
    fn as_optional(&self) -> String {
        let collated = if self.collation.is_empty() {
            String::new()
        } else {
            let (charset, collation) = (self.charset(), &self.collation);
            format!(" CHARACTER SET {charset} COLLATE {collation}")
        };
        format!("`{}` {}{collated} NULL", self.name, self.column_type)
    }
}

/// Compares a table with what is needed; `None` where it fits.
async fn check(session: &mut Session, table: &Table) -> Result<Option<Misfit>, Failure> {
    let sql = "SELECT COLUMN_NAME AS a, DATA_TYPE AS b, COLUMN_TYPE AS c, CHARACTER_OCTET_LENGTH AS \
               d, COLLATION_NAME AS e, DATETIME_PRECISION AS f, IS_NULLABLE AS g, COLUMN_KEY AS h, \
               COLUMN_DEFAULT AS i, EXTRA AS j, CHARACTER_MAXIMUM_LENGTH AS k FROM \
               information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? ORDER BY \
               ORDINAL_POSITION";
    let rows = session.rows_with::<Row>(sql, (&table.name,)).await?;
    let existing: Vec<Existing> = rows.iter().map(existing).collect();
    let sql = "SELECT ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND \
               TABLE_NAME = ?";
    let engine = session
        .rows_with::<Option<String>>(sql, (&table.name,))
        .await?;
    let engine = engine.into_iter().next().flatten().unwrap_or_default();
    Ok(misfit(table, &existing, &engine, session.server.mariadb))
}

fn existing(row: &Row) -> Existing {
    let text = |at: usize| {
        row.get::<Option<String>, _>(at)
            .flatten()
            .unwrap_or_default()
    };
    let number = |at: usize| row.get::<Option<u64>, _>(at).flatten().unwrap_or_default();
    let default = row.get::<Option<String>, _>(8).flatten();
    let nullable = text(6) == "YES";
    let filled = [
        "auto_increment",
        "generated",
        "default_generated",
        "persistent",
        "virtual",
    ];
    let extra = text(9).to_lowercase();
    Existing {
        name: text(0),
        data_type: text(1).to_lowercase(),
        unsigned: text(2).to_lowercase().contains("unsigned"),
        column_type: text(2),
        text_bytes: number(3),
        chars: number(10),
        collation: text(4),
        precision: number(5),
        nullable,
        primary: text(7) == "PRI",
        optional: nullable || default.is_some() || filled.iter().any(|word| extra.contains(word)),
    }
}

/// What is wrong with a table, and the one statement that would mend all of it.
#[derive(Debug)]
struct Misfit {
    problem: String,
    mend: String,
}

fn misfit(table: &Table, existing: &[Existing], engine: &str, mariadb: bool) -> Option<Misfit> {
    let mut problems = Vec::new();
    let mut changes = Vec::new();
    let mut wrong = |problem: String, change: String| {
        problems.push(problem);
        changes.push(change);
    };
    let find = |name: &str| {
        existing
            .iter()
            .find(|found| found.name.eq_ignore_ascii_case(name))
    };
    if !engine.eq_ignore_ascii_case("InnoDB") {
        let problem = format!("its engine `{engine}` has no transactions");
        wrong(problem, "ENGINE = InnoDB".to_owned());
    }
    for needed in &table.columns {
        let in_key = table.key.contains(&needed.name);
        let Some(found) = find(&needed.name) else {
            // The rows that are there have no value for it.
            let added = TableColumn {
                nullable: true,
                ..needed.clone()
            };
            let definition = definition(&added, false, mariadb);
            let problem = format!("it has no column `{}`", needed.name);
            wrong(problem, format!("ADD COLUMN {definition}"));
            continue;
        };
        if let Some(problem) = column_misfit(needed, found) {
            let problem = format!("column `{}` {problem}", needed.name);
            let nullable = !in_key && (needed.nullable || found.nullable);
            let definition = mended(needed, found, nullable, mariadb);
            wrong(problem, format!("MODIFY COLUMN {definition}"));
        }
    }
    let primary = |column: &&Existing| column.primary;
    let key: Vec<&str> = existing
        .iter()
        .filter(primary)
        .map(|column| column.name.as_str())
        .collect();
    let same = |name: &String| key.iter().any(|found| found.eq_ignore_ascii_case(name));
    if key.len() != table.key.len() || !table.key.iter().all(same) {
        let wanted = quoted(table.key.iter().map(String::as_str));
        let problem = format!(
            "its primary key is ({}), not ({wanted})",
            quoted(key.clone())
        );
        // The rows that are there may not be distinct by that key, or have no value for it at all; and
        // a summary can be made again from the table of its dataset.
        if table.summary_of.is_some() || table.key.iter().any(|name| find(name).is_none()) {
            return Some(Misfit {
                problem: format!("`{}`: {problem}", table.name),
                mend: format!("RENAME TABLE `{0}` TO `{0}_old`", table.name),
            });
        }
        let drop = if key.is_empty() {
            ""
        } else {
            "DROP PRIMARY KEY, "
        };
        wrong(problem, format!("{drop}ADD PRIMARY KEY ({wanted})"));
    }
    let ours = |found: &Existing| {
        let is_it = |needed: &TableColumn| needed.name.eq_ignore_ascii_case(&found.name);
        table.columns.iter().any(is_it)
    };
    let unfilled = |found: &&Existing| !found.optional && !ours(found);
    for found in existing.iter().filter(unfilled) {
        let problem = format!(
            "column `{}` is not in the dataset, takes no NULL and has no default",
            found.name
        );
        wrong(problem, format!("MODIFY COLUMN {}", found.as_optional()));
    }
    (!problems.is_empty()).then(|| Misfit {
        problem: format!("`{}`: {}", table.name, problems.join(", ")),
        mend: format!("ALTER TABLE `{}` {}", table.name, changes.join(", ")),
    })
}

/// A column as it is to become, whatever its rows hold: NULL stays allowed where it is, a long text
/// long, and a text that nobody has held to be JSON a text.
fn mended(needed: &TableColumn, found: &Existing, nullable: bool, mariadb: bool) -> String {
    let null = if nullable { "NULL" } else { "NOT NULL" };
    let sql_type = match needed.kind {
        Kind::Json if found.is_text() => format!("LONGTEXT {}", text(mariadb)),
        Kind::Text(chars) if found.is_text() && found.chars > u64::from(chars) => {
            format!("{} {}", found.column_type, text(mariadb))
        }
        kind => sql_type(kind, false, mariadb),
    };
    format!("`{}` {sql_type} {null}", needed.name)
}

/// What is wrong with a column.
fn column_misfit(needed: &TableColumn, found: &Existing) -> Option<String> {
    let data_type = found.data_type.as_str();
    let text_type = found.is_text();
    let type_fits = match needed.kind {
        Kind::RowId => data_type == "bigint" && found.unsigned,
        Kind::Integer => data_type == "bigint" && !found.unsigned,
        Kind::Text(_) => text_type,
        Kind::Json => data_type == "json" || (text_type && found.text_bytes >= 65_535),
        Kind::Timestamp => data_type == "datetime",
        Kind::Day => data_type == "date",
        Kind::Float => data_type == "double",
        Kind::Boolean => data_type.ends_with("int"),
    };
    if !type_fits {
        return Some(format!(
            "has the type {data_type}{}",
            if found.unsigned { " unsigned" } else { "" }
        ));
    }
    match needed.kind {
        Kind::Text(_) | Kind::Json if data_type != "json" && found.charset() != "utf8mb4" => {
            return Some(format!("has the character set {}", found.charset()));
        }
        Kind::Text(chars) if found.text_bytes < u64::from(chars) * u64::from(CHAR_BYTES) => {
            return Some(format!("is too short for {chars} characters"));
        }
        Kind::Timestamp if found.precision < 6 => {
            return Some("has no microseconds".to_owned());
        }
        _ => {}
    }
    (needed.nullable && !found.nullable).then(|| "takes no NULL".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ddl_of_the_built_in_tables() {
        let tables = tables(&Datasets::new(vec![]).unwrap());
        let events = create(&tables[0], true);
        assert!(events.starts_with(
            "CREATE TABLE IF NOT EXISTS `vehicle_events` (`id` BIGINT UNSIGNED NOT NULL, \
             `vehicle_id` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL, \
             `event_time` DATETIME(6) NOT NULL"
        ));
        assert!(events.contains("`_rescued` JSON NULL, PRIMARY KEY (`id`)) ENGINE = InnoDB"));
        assert!(create(&tables[2], false).contains("PRIMARY KEY (`vehicle_id`, `day`)"));
    }

    #[test]
    fn a_table_of_many_long_texts_keeps_them_outside_of_the_row() {
        let column = |at: u32| TableColumn {
            name: format!("c{at}"),
            kind: Kind::Text(255),
            nullable: false,
        };
        let table = Table {
            name: "t".to_owned(),
            columns: (0..80).map(column).collect(),
            key: vec!["c0".to_owned()],
            summary_of: None,
        };
        assert!(create(&table, true).contains("`c0` TEXT "));
    }
}
