//! The schema in MySQL: the numbered migrations of the ledger, and the tables of the datasets.
//!
//! MySQL commits DDL at once, so each statement must be safe to run twice, and a lock on the server
//! prevents that several processes migrate at once. An existing table is compared with the table
//! that its dataset needs. Only if the user asks for it, columns and indexes are added; nothing else
//! is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use mysql_async::Row;

use crate::dataset::{Dataset, Datasets, ID_COLUMN};
use crate::fault::{Fault, Origin};
use crate::finding::{Finding, Level};
use crate::sink::Migration;
use crate::sink::definitions::{DEFINITIONS, not_of_other_tables};
use crate::sink::lost::{self, Missing};
use crate::sink::migrations;
use crate::sink::mismatch::{self, Mismatch};
use crate::sink::partitions::now;
use crate::sink::summary::zone_statements;
use crate::sink::table::{Table, TableColumn, missing_index, quoted, tables};
use crate::sink::view;

use super::ddl::{create, key};
use super::errors::{Class, Failure};
use super::misfit::{Change, Existing, ExistingColumn, KeyColumns, Misfit, exact_json, misfit};
use super::retired::{Moment, follow_renames};
use super::session::Session;
use super::views::make_views;
use super::{summary, trial};

/// How many seconds one process waits for the migration of another one.
const LOCK_WAIT_SECONDS: u32 = 30;

/// How long a migration is repeated. One on another node takes a few seconds, and up to this long
/// if it adds a column to a large table.
const REPEAT_FOR: Duration = Duration::from_secs(60);

/// Shortest pause before a migration is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(50);

const MIGRATIONS: &str = "ingest_migrations";

const MIGRATIONS_DDL: &str = "CREATE TABLE IF NOT EXISTS ingest_migrations (number INT UNSIGNED NOT \
    NULL PRIMARY KEY, name VARCHAR(64) NOT NULL, checksum CHAR(32) NOT NULL, applied_at \
    DATETIME(6) NOT NULL) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";

/// See [`Schema::migrate`](crate::sink::Schema::migrate).
pub(super) async fn migrate(
    session: &mut Session,
    datasets: &Datasets,
    asked: Migration,
) -> Result<(), Failure> {
    let database = session.rows::<Option<String>>("SELECT DATABASE()").await?;
    let Some(database) = database.into_iter().next().flatten() else {
        return Err(Failure::Found {
            next_step: "write the database URL as mysql://USER:PASSWORD@HOST:PORT/DATABASE",
            problem: "the database URL names no database".to_owned(),
        });
    };
    // A lock belongs to the server and not to a database, and its name has at most 64 characters.
    // So the name is a hash of the database's name.
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
    let outcome = repeated(session, datasets, asked).await;
    // If this fails, the session is closed, which frees the lock as well.
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
        tables
            .map(|table| create(&table, mariadb, now()))
            .chain(view::statements(datasets))
            .chain(zone_statements(datasets)),
    )
}

/// Repeats a migration that another one stopped: the lock belongs to one server, so processes on
/// other nodes of a cluster may migrate at the same time, and a statement or COMMIT of one of them
/// fails by a deadlock or at certification.
async fn repeated(
    session: &mut Session,
    datasets: &Datasets,
    asked: Migration,
) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let outcome = locked(session, datasets, asked).await;
        let Err(failure) = &outcome else {
            return outcome;
        };
        if failure.class() != Class::Retry || began.elapsed() >= REPEAT_FOR {
            return outcome;
        }
        tracing::debug!(%failure, "repeating the migration");
        session.rollback().await?;
        // By chance, so that two processes do not stop each other again in the same rhythm.
        let chance = u64::from(began.elapsed().subsec_nanos() % 200);
        tokio::time::sleep(REPEAT_AFTER + Duration::from_millis(chance)).await;
    }
}

async fn locked(
    session: &mut Session,
    datasets: &Datasets,
    asked: Migration,
) -> Result<(), Failure> {
    // The check comes first because CREATE TABLE needs the right to create even if the table
    // exists: once the database is migrated, the account of a service needs no such right.
    if !session.has_table(MIGRATIONS).await? {
        session.run(MIGRATIONS_DDL).await?;
    }
    let recorded = recorded(session).await?;
    let missing = missing_of_ledger(session).await?;
    if let Some(fault) = missing.fault() {
        return Err(fault.into());
    }
    for statement in missing.made_again.iter().flat_map(|(_, it)| it) {
        session.run(statement).await?;
    }
    for migration in migrations::due(migrations::MYSQL, &recorded)? {
        for statement in migration.statements() {
            match session.run(statement).await {
                Err(failure) if failure.is_done_already() => {}
                done => drop(done?),
            }
        }
        // The lock belongs to one server: a process on another node of a cluster may run the same
        // migration at the same time.
        let sql = "INSERT INTO ingest_migrations (number, name, checksum, applied_at) VALUES (?, \
                   ?, ?, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE number = number";
        let params = (migration.number, migration.name, migration.checksum());
        session.run_with(sql, params).await?;
    }
    if asked.ledger_only {
        return Ok(());
    }
    record(session, datasets).await?;
    follow_renames(session, datasets).await?;
    let mut misfits = Vec::new();
    let mismatches = mismatches(session, datasets).await?;
    let kept = mismatch::kept(&mismatches).filter(|_| asked.keep_rows);
    if let Some((file_no, hash, dataset)) = kept {
        let sql = "INSERT INTO ingest_files (file_no, hash, dataset, name, bytes, records, state, \
                   summarised, registered_at, settled_at) VALUES (?, ?, ?, ?, 0, 0, 'settled', 1, \
                   UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE file_no = file_no";
        let params = (file_no, hash.as_slice(), dataset, mismatch::KEPT_NAME);
        session.run_with(sql, params).await?;
    } else if let Some(fault) = mismatch::fault(&mismatches) {
        return Err(fault.into());
    }
    summary::keep_zones(session, datasets, asked.any_zone).await?;
    for table in tables(datasets) {
        if !session.has_table(&table.name).await? {
            // The files are marked before the table is created, since a later run that finds the
            // table does not mark them.
            if let Some(dataset) = &table.summary_of {
                summary::mark(session, dataset).await?;
            }
            let ddl = create(&table, session.server.mariadb, now());
            session.run(&ddl).await?;
        }
        let mut misfit = check(session, &table).await?;
        if let Some(adds) = misfit.take_if(|misfit| asked.add && misfit.only_adds()) {
            for statement in adds.statements() {
                add(session, &statement).await?;
            }
            misfit = check(session, &table).await?;
        }
        misfits.extend(misfit);
        if let Some((problem, statement)) = normalised_json(session, &table).await? {
            tracing::warn!("{problem}; \"{statement}\" keeps each value as it is in the record");
        }
    }
    trial::clean_up(session).await?;
    if misfits.is_empty() {
        if asked.add {
            for (_, statement) in missing_indexes(session, datasets).await? {
                add(session, &statement).await?;
            }
        }
        return make_views(session, datasets, asked.add).await;
    }
    // One message has all misfits, with statements that can be pasted.
    let problems: Vec<&str> = misfits.iter().map(|misfit| &*misfit.problem).collect();
    let statements: Vec<String> = misfits.iter().flat_map(Misfit::statements).collect();
    let how = if misfits.iter().all(Misfit::only_adds) {
        "run `task_runner migrate --add`, or these statements and then"
    } else {
        "run these statements, and then"
    };
    let next_step = format!(
        "{how} `task_runner migrate` again:\n\n{};\n",
        statements.join(";\n")
    );
    let doing = "comparing the tables with their datasets";
    Err(Fault::fatal(Origin::Sink, doing, problems.join("; "))
        .with_next_step(next_step)
        .into())
}

/// The tables of the ledger that migrations have made and that are missing.
pub(super) async fn missing_of_ledger(session: &mut Session) -> Result<Missing, Failure> {
    let sql = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND \
               TABLE_NAME LIKE 'ingest\\_%'";
    let existing: BTreeSet<String> = session.rows::<String>(sql).await?.into_iter().collect();
    if !existing.contains(MIGRATIONS) {
        return Ok(Missing::default());
    }
    Ok(lost::missing(
        migrations::MYSQL,
        &recorded(session).await?,
        &existing,
    ))
}

/// The rights with which a start migrates the ledger, or why it cannot be migrated.
pub(super) async fn rights_to_migrate(
    session: &mut Session,
) -> Result<Result<BTreeSet<&'static str>, Fault>, Failure> {
    let recorded = if session.has_table(MIGRATIONS).await? {
        recorded(session).await?
    } else {
        Vec::new()
    };
    let due = match migrations::due(migrations::MYSQL, &recorded) {
        Ok(due) => due,
        Err(refusal) => return Ok(Err(refusal)),
    };
    // A comment may be before the statement.
    let begins =
        |statement: &str, right: &str| statement.lines().any(|line| line.starts_with(right));
    let of_statement = |statement: &'static str| {
        let rights = ["CREATE", "ALTER"].into_iter();
        rights.filter(move |right| begins(statement, right))
    };
    let statements = due.iter().flat_map(|migration| migration.statements());
    Ok(Ok(statements.flat_map(of_statement).collect()))
}

/// Number and checksum of each migration that the database has run.
async fn recorded(session: &mut Session) -> Result<Vec<(u32, String)>, Failure> {
    session
        .rows("SELECT number, checksum FROM ingest_migrations")
        .await
}

/// Adds a column or an index, unless another process did.
async fn add(session: &mut Session, statement: &str) -> Result<(), Failure> {
    match session.run(statement).await {
        Err(failure) if failure.is_done_already() => Ok(()),
        done => done.map(drop),
    }
}

/// The indexes of definitions that existing tables lack: a problem, and the statement that adds the
/// index.
async fn missing_indexes(
    session: &mut Session,
    datasets: &Datasets,
) -> Result<Vec<(String, String)>, Failure> {
    let mut missing = Vec::new();
    for table in tables(datasets) {
        if table.indexes.is_empty() || !session.has_table(&table.name).await? {
            continue;
        }
        let sql = "SELECT INDEX_NAME, COALESCE(COLUMN_NAME, '') FROM information_schema.STATISTICS \
                   WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? ORDER BY INDEX_NAME, \
                   SEQ_IN_INDEX";
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (index, column) in session
            .rows_with::<(String, String)>(sql, (&table.name,))
            .await?
        {
            found.entry(index).or_default().push(column);
        }
        let existing = read(session, &table.name).await?;
        let is_outside = |column: &TableColumn| {
            let mut same = existing.columns.iter();
            let same = same.find(|found| found.name.eq_ignore_ascii_case(&column.name));
            same.is_some_and(|found| found.data_type.ends_with("text"))
        };
        for index in &table.indexes {
            if !found.values().any(|columns| index.is_served_by(columns)) {
                let columns = quoted(index.columns.iter().map(String::as_str));
                let what = format!("`{}` has no index on {columns}", table.name);
                let key = key(&table, index, is_outside);
                missing.push((what, format!("ALTER TABLE `{}` ADD {key}", table.name)));
            }
        }
    }
    Ok(missing)
}

/// The problem of a table in which MySQL does not keep JSON as it is in the record, and the statement
/// that corrects it. `None` if it has none.
async fn normalised_json(
    session: &mut Session,
    table: &Table,
) -> Result<Option<(String, String)>, Failure> {
    if session.server.mariadb {
        return Ok(None);
    }
    let statement = exact_json(table, &read(session, &table.name).await?);
    Ok(statement.map(|statement| {
        let problem = format!(
            "`{}` has columns of the type JSON, in which MySQL normalises what it stores: digits of \
             numbers and doubled keys are lost, and `verify --content` does not find that",
            table.name
        );
        (problem, statement)
    }))
}

/// Records the definitions with which this process loads files.
async fn record(session: &mut Session, datasets: &Datasets) -> Result<(), Failure> {
    for dataset in datasets.iter() {
        let sql = "INSERT INTO ingest_definitions (definition, dataset, text, recorded_at) VALUES \
                   (?, ?, ?, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE dataset = dataset";
        let fingerprint = dataset.fingerprint.to_bytes().to_vec();
        let params = (fingerprint, &dataset.name, dataset.definition());
        session.run_with(sql, params).await?;
    }
    Ok(())
}

/// How the ledger and the tables of the datasets contradict each other.
async fn mismatches(session: &mut Session, datasets: &Datasets) -> Result<Vec<Mismatch>, Failure> {
    let mut found = Vec::new();
    let has_ledger = session.has_table(mismatch::LEDGER).await?;
    // The ledger of an early release, which `doctor` may read, knows nothing of retired rows.
    let is_whole = has_ledger && session.has_table("ingest_retentions").await?;
    for dataset in datasets.iter() {
        let (table, name) = (dataset.table.clone(), dataset.name.clone());
        // The ledger is read before the rows: a commit in between can only add rows.
        let has_files = is_whole && !files_with_rows(session, dataset).await?.is_empty();
        if !session.has_table(&table).await? {
            if has_files {
                found.push(Mismatch::Missing { table });
            }
            continue;
        }
        // A table with another kind of id does not fit, which is reported as such.
        let existing = read(session, &table).await?;
        let id = existing
            .columns
            .iter()
            .find(|column| column.name == ID_COLUMN);
        if id.is_none_or(|id| id.data_type != "bigint") {
            continue;
        }
        // The rows are read before the ledger: a file is registered before its first commit.
        let in_table: u32 = session.one(&mismatch::last_in_table(&table)).await?;
        let in_ledger: u32 = if has_ledger {
            session.one(mismatch::LAST_FILE).await?
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
        if has_files && let Some(file_no) = lost_file(session, dataset).await? {
            found.push(Mismatch::Lost { table, file_no });
        }
    }
    Ok(found)
}

/// A file of which the table of a dataset has no row, although the ledger has rows of it.
async fn lost_file(session: &mut Session, dataset: &Dataset) -> Result<Option<u32>, Failure> {
    loop {
        let moment = Moment::begin(session, &dataset.table).await?;
        let lost = first_lost(session, dataset, &moment.tables).await;
        if let Some(lost) = moment.end(session, lost).await? {
            return Ok(lost);
        }
    }
}

async fn first_lost(
    session: &mut Session,
    dataset: &Dataset,
    tables: &[String],
) -> Result<Option<u32>, Failure> {
    for file_no in files_with_rows(session, dataset).await? {
        let of_table = |table: &String| format!("({})", mismatch::has_row_of(table, file_no));
        let of_tables: Vec<String> = tables.iter().map(of_table).collect();
        let sql = of_tables.join(" UNION ALL ");
        if session.rows::<u64>(&sql).await?.is_empty() {
            return Ok(Some(file_no));
        }
    }
    Ok(None)
}

/// See [`mismatch::files_with_rows`]. Files that were loaded while the dataset had another table are
/// left out.
async fn files_with_rows(session: &mut Session, dataset: &Dataset) -> Result<Vec<u32>, Failure> {
    // The ledger of an early release, which `doctor` may read, has no definitions.
    let mut definitions = Vec::new();
    if session.has_table("ingest_definitions").await? {
        let name = (&dataset.name,);
        definitions = session.rows_with(DEFINITIONS, name).await?;
    }
    let sql = mismatch::files_with_rows(&not_of_other_tables(&definitions, &dataset.table));
    session
        .rows_with(&sql, (&dataset.name, &dataset.name))
        .await
}

/// The names of the tables of datasets that are missing, and findings about the existing ones.
pub(super) async fn inspect(
    session: &mut Session,
    datasets: &Datasets,
) -> Result<(Vec<String>, Vec<Finding>), Failure> {
    let mut missing = Vec::new();
    let mut findings = Vec::new();
    let mismatches = mismatches(session, datasets).await?;
    findings.extend(mismatches.iter().map(Mismatch::finding));
    let indexes = missing_indexes(session, datasets).await?.into_iter();
    findings.extend(indexes.map(|(what, sql)| missing_index(what, &sql)));
    for table in tables(datasets) {
        if !session.has_table(&table.name).await? {
            missing.push(table.name);
            continue;
        }
        if let Some((problem, statement)) = normalised_json(session, &table).await? {
            findings.push(Finding::expect(false, problem, format!("{statement};")));
        }
        if let Some(misfit) = check(session, &table).await? {
            let what = format!("a table does not fit its dataset: {}", misfit.problem);
            let fix = format!("{};", misfit.statements().join("; "));
            findings.push(Finding::new(Level::Refused, what, fix));
        }
    }
    Ok((missing, findings))
}

/// Compares an existing table with the one that is needed. `None` if it fits.
async fn check(session: &mut Session, table: &Table) -> Result<Option<Misfit>, Failure> {
    let found = read(session, &table.name).await?;
    let Some(misfit) = misfit(table, &found, session.server.mariadb, now()) else {
        return Ok(None);
    };
    let mut must_rename = true;
    if let Change::Alter {
        hazards, clauses, ..
    } = &misfit.change
    {
        must_rename = false;
        for hazard in hazards {
            must_rename |= !session.rows::<u64>(hazard).await?.is_empty();
        }
        must_rename =
            must_rename || trial::runs(session, &table.name, clauses).await? == Some(false);
    }
    if must_rename {
        let to = free_name(session, &table.name).await?;
        return Ok(Some(misfit.renamed_to(to)));
    }
    Ok(Some(misfit))
}

/// Reads a table from `information_schema`.
async fn read(session: &mut Session, name: &str) -> Result<Existing, Failure> {
    type Found = (Option<String>, String, Option<String>);
    let sql = "SELECT COLUMN_NAME AS a, DATA_TYPE AS b, COLUMN_TYPE AS c, CHARACTER_OCTET_LENGTH AS \
               d, COLLATION_NAME AS e, DATETIME_PRECISION AS f, IS_NULLABLE AS g, COLUMN_KEY AS h, \
               COLUMN_DEFAULT AS i, EXTRA AS j, CHARACTER_MAXIMUM_LENGTH AS k, \
               GENERATION_EXPRESSION AS l FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = \
               DATABASE() AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION";
    let columns = session.rows_with::<Row>(sql, (name,)).await?;
    let sql = "SELECT ENGINE, TABLE_TYPE, CREATE_OPTIONS FROM information_schema.TABLES WHERE \
               TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?";
    let table = session.rows_with::<Found>(sql, (name,)).await?;
    let (engine, kind, options) = table.into_iter().next().unwrap_or_default();
    let key = primary_key(session, name).await?;
    Ok(Existing {
        columns: columns.iter().map(column).collect(),
        key,
        unique: unique_keys(session, name).await?,
        engine: engine.unwrap_or_default(),
        is_view: kind.to_uppercase().contains("VIEW"),
        partitioned: options.unwrap_or_default().contains("partitioned"),
        partitions: partitioning(session, name).await?,
    })
}

/// The method of the partitions of a table, and what it is applied to. Empty without partitions.
async fn partitioning(session: &mut Session, name: &str) -> Result<(String, String), Failure> {
    let sql = "SELECT PARTITION_METHOD, COALESCE(PARTITION_EXPRESSION, '') FROM \
               information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND \
               PARTITION_METHOD IS NOT NULL LIMIT 1";
    let found = session.rows_with::<(String, String)>(sql, (name,)).await?;
    Ok(found.into_iter().next().unwrap_or_default())
}

/// The columns of the primary key of a table, in its order.
pub(super) async fn primary_key(session: &mut Session, name: &str) -> Result<Vec<String>, Failure> {
    let sql = "SELECT COLUMN_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() \
               AND TABLE_NAME = ? AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX";
    session.rows_with::<String>(sql, (name,)).await
}

/// The unique keys of a table except the primary one.
async fn unique_keys(
    session: &mut Session,
    name: &str,
) -> Result<Vec<(String, KeyColumns)>, Failure> {
    let sql = "SELECT INDEX_NAME, COALESCE(COLUMN_NAME, ''), SUB_PART FROM \
               information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND \
               NON_UNIQUE = 0 AND INDEX_NAME <> 'PRIMARY' ORDER BY INDEX_NAME, SEQ_IN_INDEX";
    let found: Vec<(String, String, Option<u64>)> = session.rows_with(sql, (name,)).await?;
    let keys = found.chunk_by(|a, b| a.0 == b.0).map(|key| {
        let columns = key
            .iter()
            .map(|(_, column, prefix)| (column.clone(), *prefix));
        (key[0].0.clone(), columns.collect())
    });
    Ok(keys.collect())
}

fn column(row: &Row) -> ExistingColumn {
    let text = |at: usize| {
        row.get::<Option<String>, _>(at)
            .flatten()
            .unwrap_or_default()
    };
    let number = |at: usize| row.get::<Option<u64>, _>(at).flatten().unwrap_or_default();
    let default = row.get::<Option<String>, _>(8).flatten();
    let nullable = text(6) == "YES";
    let extra = text(9).to_lowercase();
    let generated = !text(11).is_empty();
    let auto_increment = extra.contains("auto_increment");
    ExistingColumn {
        name: text(0),
        data_type: text(1).to_lowercase(),
        unsigned: text(2).to_lowercase().contains("unsigned"),
        column_type: text(2),
        text_bytes: number(3),
        chars: number(10),
        collation: text(4),
        precision: number(5),
        nullable,
        indexed: !text(7).is_empty(),
        generated,
        auto_increment,
        optional: nullable || default.is_some() || generated || auto_increment,
    }
}

/// A name that no table has, for a table that is renamed: `NAME_old`, or `NAME_old` and a number.
async fn free_name(session: &mut Session, name: &str) -> Result<String, Failure> {
    // Identifiers have at most 64 characters.
    let stem: String = name.chars().take(56).collect();
    let mut free = format!("{stem}_old");
    for number in 2.. {
        if !session.has_table(&free).await? {
            break;
        }
        free = format!("{stem}_old{number}");
    }
    Ok(free)
}
