//! Rows into MySQL or MariaDB from a plain client.
//!
//! Each run begins with an empty table. Connections are opened, statements prepared and values
//! bound before the clock starts; it stops when the last transaction is committed. Connections take
//! the next transaction from a common list, as the workers of the engine do.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use lemonade_task::batch::Batch;
use lemonade_task::sink::{self, SinkOptions};
use lemonade_task::timestamp;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder, Params, Statement, Value};
use tokio::task::JoinSet;

use super::Made;
use super::made::{self, Row};
use super::meter::Meter;

#[derive(Args)]
pub(super) struct Options {
    #[command(flatten)]
    made: Made,
    /// `mysql://USER@HOST:PORT/DATABASE`; the database's table `vehicle_events` is dropped
    #[arg(long)]
    url: String,
    /// Process of the server, for its processor time
    #[arg(long)]
    server_pid: Option<u32>,
    /// How rows are sent
    #[arg(long, value_enum, value_delimiter = ',', default_value = "insert")]
    ways: Vec<Way>,
    /// The tables to send them to
    #[arg(long, value_enum, value_delimiter = ',', default_value = "engine")]
    tables: Vec<Table>,
    /// Numbers of connections
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    connections: Vec<usize>,
    /// Rows of a statement
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    rows: Vec<usize>,
    /// Statements of a transaction
    #[arg(long, value_delimiter = ',', default_value = "4")]
    statements: Vec<usize>,
    /// Number of runs of each combination
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Folder for the files that the server is to read
    #[arg(long, default_value = "/tmp")]
    folder: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Prepared multi-row INSERT
    Insert,
    /// `COM_STMT_BULK_EXECUTE` of MariaDB
    Bulk,
    /// LOAD DATA LOCAL, with the rows of ten statements
    Local,
    /// LOAD DATA INFILE of a file that the server reads, one for each connection
    Infile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Table {
    /// The table of the engine's `migrate`
    Engine,
    /// The same with LONGTEXT in the place of JSON: no CHECK constraint
    Text,
    /// The table of the Python program: an `AUTO_INCREMENT` key, which the client does not send
    Auto,
}

/// The data that a transaction sends.
enum Work {
    /// Values of each statement.
    Insert(Vec<Vec<Value>>),
    /// Rows of each statement.
    Bulk(Vec<Vec<Vec<Value>>>),
    /// The text of a file.
    Local(Bytes),
    /// The path of a file.
    Infile(PathBuf),
}

/// One run.
#[derive(Clone, Copy)]
struct Run {
    way: Way,
    table: Table,
    connections: usize,
    rows: usize,
    statements: usize,
}

pub(super) async fn measure(options: &Options) -> anyhow::Result<()> {
    let batches = made::batches(&options.made);
    for _ in 0..options.rounds {
        for run in runs(options) {
            measure_run(options, run, &batches).await?;
        }
    }
    Ok(())
}

/// All combinations. The ways of sending rows follow each other, so that a change of the machine's
/// speed affects all of them.
fn runs(options: &Options) -> Vec<Run> {
    let mut runs = Vec::new();
    for &table in &options.tables {
        for &rows in &options.rows {
            for &statements in &options.statements {
                for &connections in &options.connections {
                    runs.extend(options.ways.iter().map(|&way| Run {
                        way,
                        table,
                        connections,
                        rows,
                        statements,
                    }));
                }
            }
        }
    }
    runs
}

async fn measure_run(options: &Options, run: Run, batches: &[Batch]) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(&options.folder).context("the folder for files")?;
    make_table(&options.url, run.table).await?;
    let mut conns = Vec::new();
    for _ in 0..run.connections {
        let mut conn = connect(&options.url).await?;
        let statement = match run.way {
            Way::Insert => Some(conn.prep(insert_sql(run, run.rows)).await?),
            Way::Bulk => Some(conn.prep(insert_sql(run, 1)).await?),
            Way::Local | Way::Infile => None,
        };
        conns.push((conn, statement));
    }
    let rows: Vec<Row<'_>> = batches.iter().flat_map(made::rows).collect();
    let sent = match run.way {
        // Whole statements only, so that one statement is prepared.
        Way::Insert => rows.len() / run.rows * run.rows,
        _ => rows.len(),
    };
    let work = work(run, &rows[..sent], folder.path())?;
    let work = Arc::new(Mutex::new(work));

    let meter = Meter::start(options.server_pid);
    let mut tasks = JoinSet::new();
    for (conn, statement) in conns {
        tasks.spawn(send(conn, statement, run, Arc::clone(&work)));
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a connection's task")??;
    }
    meter.report(
        sent as u64,
        &serde_json::json!({
            "part": "mysql",
            "way": name(&run.way),
            "table": name(&run.table),
            "connections": run.connections,
            "rows": run.rows,
            "statements": run.statements,
        }),
    );

    let mut conn = connect(&options.url).await?;
    let stored: Option<usize> = conn
        .query_first("SELECT COUNT(*) FROM vehicle_events")
        .await?;
    ensure!(
        stored == Some(sent),
        "{stored:?} rows of {sent} were stored"
    );
    conn.disconnect().await?;
    Ok(())
}

/// The name of a variant as it is written on the command line.
fn name(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value().expect("no variant is skipped");
    value.get_name().to_owned()
}

async fn connect(url: &str) -> anyhow::Result<Conn> {
    let options = OptsBuilder::from_opts(Opts::from_url(url)?)
        .prefer_socket(false)
        .tcp_nodelay(true)
        .setup(vec!["SET SESSION time_zone = '+00:00'"]);
    Ok(Conn::new(options).await?)
}

async fn make_table(url: &str, table: Table) -> anyhow::Result<()> {
    let mut conn = connect(url).await?;
    conn.query_drop("DROP TABLE IF EXISTS vehicle_events")
        .await?;
    if table == Table::Auto {
        conn.query_drop(
            "CREATE TABLE vehicle_events (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, vehicle_id \
             VARCHAR(255), event_time DATETIME, event_source VARCHAR(255), event_type \
             VARCHAR(255), event_value VARCHAR(255), event_extra_data VARCHAR(255))",
        )
        .await?;
    } else {
        let (datasets, _) = made::dataset();
        let sink = sink::open(url, &SinkOptions::default()).await?;
        sink.migrate(&datasets).await?;
    }
    if table == Table::Text {
        conn.query_drop(
            "ALTER TABLE vehicle_events MODIFY event_extra_data LONGTEXT NOT NULL, MODIFY _rescued \
             LONGTEXT NULL",
        )
        .await?;
    }
    conn.disconnect().await?;
    Ok(())
}

/// The names of the columns that a run sends.
fn columns(run: Run) -> Vec<&'static str> {
    let mut columns = vec![
        "id",
        "vehicle_id",
        "event_time",
        "event_source",
        "event_type",
        "event_value",
        "event_extra_data",
        "_rescued",
    ];
    if run.table == Table::Auto {
        columns.pop();
        columns.remove(0);
    }
    columns
}

fn insert_sql(run: Run, rows: usize) -> String {
    let columns = columns(run);
    let group = format!("({})", vec!["?"; columns.len()].join(","));
    format!(
        "INSERT INTO vehicle_events ({}) VALUES {}",
        columns.join(", "),
        vec![group; rows].join(",")
    )
}

/// The data to send, by transactions.
fn work(run: Run, rows: &[Row<'_>], folder: &std::path::Path) -> anyhow::Result<VecDeque<Work>> {
    let columns = columns(run);
    let transaction = run.rows * run.statements;
    let bound = |row: &Row<'_>| {
        let values = values(row);
        let skipped = usize::from(run.table == Table::Auto);
        values.into_iter().skip(skipped).take(columns.len())
    };
    Ok(match run.way {
        Way::Insert => rows
            .chunks(transaction)
            .map(|rows| {
                let statements = rows.chunks(run.rows);
                Work::Insert(
                    statements
                        .map(|rows| rows.iter().flat_map(bound).collect())
                        .collect(),
                )
            })
            .collect(),
        Way::Bulk => rows
            .chunks(transaction)
            .map(|rows| {
                let rows_of =
                    |rows: &[Row<'_>]| rows.iter().map(|row| bound(row).collect()).collect();
                Work::Bulk(rows.chunks(run.rows).map(rows_of).collect())
            })
            .collect(),
        Way::Local => rows
            .chunks(run.rows * 10)
            .map(|rows| Work::Local(text(run, rows).into()))
            .collect(),
        Way::Infile => {
            let mut files = VecDeque::new();
            for (number, rows) in rows
                .chunks(rows.len().div_ceil(run.connections))
                .enumerate()
            {
                let path = folder.join(format!("rows-{number}.tsv"));
                std::fs::write(&path, text(run, rows))?;
                files.push_back(Work::Infile(path));
            }
            files
        }
    })
}

fn values(row: &Row<'_>) -> [Value; 8] {
    let at = timestamp::civil(row.event_time);
    [
        Value::UInt(row.id),
        Value::from(row.vehicle_id),
        Value::Date(
            at.year, at.month, at.day, at.hour, at.minute, at.second, at.micros,
        ),
        Value::from(row.event_source),
        Value::from(row.event_type),
        Value::from(row.event_value),
        Value::from(row.event_extra_data),
        Value::from(row.rescued),
    ]
}

/// Rows as LOAD DATA reads them. In made values, only the backslash needs escaping.
fn text(run: Run, rows: &[Row<'_>]) -> String {
    let mut text = String::with_capacity(rows.len() * 200);
    for row in rows {
        if run.table != Table::Auto {
            write!(text, "{}\t", row.id).expect("writing to memory cannot fail");
        }
        let time = timestamp::text(row.event_time);
        let escaped = |json: &str| json.replace('\\', "\\\\");
        let extra = escaped(row.event_extra_data);
        let words = [
            row.vehicle_id,
            &time,
            row.event_source,
            row.event_type,
            row.event_value,
            &extra,
        ];
        text.push_str(&words.join("\t"));
        if run.table != Table::Auto {
            text.push('\t');
            match row.rescued {
                Some(rescued) => text.push_str(&escaped(rescued)),
                None => text.push_str("\\N"),
            }
        }
        text.push('\n');
    }
    text
}

/// Sends transactions until there are none left.
async fn send(
    mut conn: Conn,
    statement: Option<Statement>,
    run: Run,
    work: Arc<Mutex<VecDeque<Work>>>,
) -> anyhow::Result<()> {
    let next = || {
        work.lock()
            .expect("no thread panics with the lock")
            .pop_front()
    };
    let load = format!(
        "INTO TABLE vehicle_events CHARACTER SET utf8mb4 ({})",
        columns(run).join(", ")
    );
    while let Some(transaction) = next() {
        match (transaction, &statement) {
            (Work::Insert(statements), Some(statement)) => {
                conn.query_drop("START TRANSACTION").await?;
                for values in statements {
                    conn.exec_drop(statement, Params::Positional(values))
                        .await?;
                }
                conn.query_drop("COMMIT").await?;
            }
            (Work::Bulk(statements), Some(statement)) => {
                conn.query_drop("START TRANSACTION").await?;
                for rows in statements {
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "only MariaDB gets bulk statements"
                    )]
                    conn.exec_batch(statement, rows).await?;
                }
                conn.query_drop("COMMIT").await?;
            }
            (Work::Local(text), _) => {
                conn.set_infile_handler(async move {
                    let packets =
                        futures_util::stream::iter((0..text.len()).step_by(256 * 1024).map(
                            move |from| Ok(text.slice(from..text.len().min(from + 256 * 1024))),
                        ));
                    Ok(Box::pin(packets) as mysql_async::InfileData)
                });
                conn.query_drop(format!("LOAD DATA LOCAL INFILE 'rows' {load}"))
                    .await?;
            }
            (Work::Infile(path), _) => {
                let sql = format!("LOAD DATA INFILE '{}' {load}", path.display());
                conn.query_drop(sql).await?;
            }
            (Work::Insert(_) | Work::Bulk(_), None) => unreachable!("it was prepared"),
        }
    }
    conn.disconnect().await?;
    Ok(())
}
