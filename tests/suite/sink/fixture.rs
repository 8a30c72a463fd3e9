//! Databases for the clauses, and batches made by hand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow_schema::DataType;
use lemonade_task::batch::{Batch, ContentHash, Reject, RejectCode, Span, row_id};
use lemonade_task::dataset::{Dataset, Datasets};
use lemonade_task::fault::Fault;
use lemonade_task::sink::{
    Committed, Database, NewFile, Registered, RejectEntry, RejectQuery, Replay, SinkOptions, open,
};
use mysql_async::prelude::Queryable;

use crate::support;

/// A database that the project supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Sqlite,
    Mariadb,
    Mysql,
    MysqlLoadData,
    /// A cluster: the sink uses one node, other processes use another.
    Galera,
}

impl Target {
    pub fn is_sqlite(self) -> bool {
        self == Self::Sqlite
    }

    /// The URL of an empty database on a server.
    pub async fn fresh_url(self) -> String {
        match self {
            Self::Sqlite => unreachable!("SQLite needs a folder: see Fixture::empty"),
            Self::Mariadb => support::mariadb().await.fresh().await,
            Self::Mysql => support::mysql9(false).await.fresh().await,
            Self::MysqlLoadData => support::mysql9(true).await.fresh().await,
            Self::Galera => support::galera().await.fresh().await,
        }
    }
}

/// A value of a row, as the test writes and reads it.
#[derive(Debug, Clone, PartialEq)]
pub enum Val {
    Null,
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    /// Microseconds since the epoch.
    Time(i64),
}

pub fn text(value: impl Into<String>) -> Val {
    Val::Text(value.into())
}

/// A database, the sink over it, and direct access to the database without the sink.
pub struct Fixture {
    pub target: Target,
    pub url: String,
    pub sink: Arc<dyn Database>,
    pub datasets: Datasets,
    _folder: tempfile::TempDir,
}

/// A dataset with every type of column, all of them optional.
const ALL_TYPES: &str = "name = 'all_types'
    columns = [
        {name = 'a_text', type = 'text', required = false, max_chars = 300},
        {name = 'an_integer', type = 'integer', required = false},
        {name = 'a_float', type = 'float', required = false},
        {name = 'a_boolean', type = 'boolean', required = false},
        {name = 'a_time', type = 'timestamp', required = false},
        {name = 'a_json', type = 'json', required = false},
    ]";

fn datasets() -> Datasets {
    let users = vec![toml::from_str(ALL_TYPES).expect("a definition")];
    Datasets::new(users).expect("it is valid")
}

impl Fixture {
    /// The last rejects, newest first.
    pub async fn rejects(&self, max: usize) -> Vec<RejectEntry> {
        let all = RejectQuery::default();
        let found = self.sink.find_rejects(&all, max).await.unwrap();
        found.into_iter().map(|open| open.entry).collect()
    }

    /// A database without any table.
    pub async fn empty(target: Target) -> Self {
        let folder = support::folder();
        let url = if target.is_sqlite() {
            // In a directory that does not exist yet.
            format!(
                "sqlite:{}",
                folder.path().join("data/lemonade.db").display()
            )
        } else {
            target.fresh_url().await
        };
        Self::over(target, url, folder).await
    }

    /// A migrated database on the server of this URL.
    pub async fn at(target: Target, url: &str) -> Self {
        let fixture = Self::over(target, url.to_owned(), support::folder()).await;
        fixture.migrated().await
    }

    async fn over(target: Target, url: String, folder: tempfile::TempDir) -> Self {
        let sink = open(&url, &SinkOptions::default())
            .await
            .expect("the database answers");
        Self {
            target,
            url,
            sink,
            datasets: datasets(),
            _folder: folder,
        }
    }

    /// A migrated database.
    pub async fn new(target: Target) -> Self {
        Self::empty(target).await.migrated().await
    }

    async fn migrated(self) -> Self {
        self.sink
            .migrate(&self.datasets)
            .await
            .expect("an empty database can be migrated");
        self
    }

    /// Another process over the same database.
    pub async fn another(&self) -> Arc<dyn Database> {
        let url = match self.target {
            Target::Galera => support::galera().await.on_second(&self.url),
            _ => self.url.clone(),
        };
        open(&url, &SinkOptions::default())
            .await
            .expect("the database answers")
    }

    pub fn dataset(&self, name: &str) -> &Arc<Dataset> {
        self.datasets.by_name(name).expect("it is defined")
    }

    /// Registers files, with the datasets of the fixture.
    pub async fn register(&self, files: &[NewFile]) -> Result<Vec<Registered>, Fault> {
        self.sink.register(files, &self.datasets).await
    }

    /// Registers a new file with this number of records.
    pub async fn file(&self, dataset: &str, records: u32) -> u32 {
        self.file_by(&self.sink, dataset, records).await
    }

    /// The same by another process.
    pub async fn file_by(&self, sink: &Arc<dyn Database>, dataset: &str, records: u32) -> u32 {
        let file = new_file(dataset, records);
        let registered = sink.register(&[file], &self.datasets).await;
        let file_no = registered.expect("the database answers")[0].file_no;
        self.adopt(file_no).await;
        file_no
    }

    /// Sets the hash of a registered file to the one that [`batch`] uses, and returns it.
    pub async fn adopt(&self, file_no: u32) -> ContentHash {
        let hash = hash_of(file_no);
        let text = u128::from_be_bytes(hash);
        let sql =
            format!("UPDATE ingest_files SET hash = x'{text:032x}' WHERE file_no = {file_no}");
        self.run(&sql).await;
        hash
    }

    pub async fn commit(&self, batches: &[Batch]) -> Committed {
        self.sink
            .commit(batches)
            .await
            .expect("the database answers")
    }

    /// Runs a statement without the sink.
    pub async fn run(&self, sql: &str) {
        self.query(sql).await;
    }

    /// A connection without the sink, for statements that belong to one session.
    pub async fn session(&self) -> mysql_async::Conn {
        let session = mysql_async::Conn::from_url(&self.url).await;
        session.expect("the server answers")
    }

    /// The rows of a query without the sink. Booleans come as numbers, times as text.
    pub async fn query(&self, sql: &str) -> Vec<Vec<Val>> {
        if self.target.is_sqlite() {
            self.query_sqlite(sql)
        } else {
            self.query_mysql(sql).await
        }
    }

    /// The one number of a query.
    pub async fn number(&self, sql: &str) -> i64 {
        match self.query(sql).await.as_slice() {
            [row] => match row.as_slice() {
                [Val::Int(number)] => *number,
                other => panic!("{sql}: {other:?}"),
            },
            other => panic!("{sql}: {other:?}"),
        }
    }

    async fn query_mysql(&self, sql: &str) -> Vec<Vec<Val>> {
        let mut conn = mysql_async::Conn::from_url(&self.url)
            .await
            .expect("the server answers");
        // The default of the server may be another.
        let commits = conn.query_drop("SET autocommit = 1").await;
        commits.expect("the server answers");
        if self.target == Target::Galera {
            let waits = conn.query_drop(support::SYNC_WAIT).await;
            waits.expect("the node reports its state");
        }
        // A prepared statement returns values in their own types.
        let rows = match conn.exec::<mysql_async::Row, _, _>(sql, ()).await {
            Ok(rows) => rows,
            Err(error) => panic!("{sql}: {error}"),
        };
        conn.disconnect().await.expect("the server answers");
        rows.into_iter()
            .map(|row| row.unwrap().into_iter().map(from_mysql).collect())
            .collect()
    }

    /// The ids of all connections to this database except this one.
    pub async fn connections(&self) -> Vec<u64> {
        let mut conn = self.session().await;
        let ids = others(&mut conn).await;
        conn.disconnect().await.expect("the server answers");
        ids
    }

    /// Kills every connection to the database, the sink's among them.
    pub async fn kill_connections(&self) {
        let mut conn = mysql_async::Conn::from_url(&self.url)
            .await
            .expect("the server answers");
        let ids = others(&mut conn).await;
        assert!(!ids.is_empty(), "the sink has connections");
        for id in ids {
            match conn.query_drop(format!("KILL {id}")).await {
                // The connection was closed in the meantime.
                Ok(())
                | Err(mysql_async::Error::Server(mysql_async::ServerError {
                    code: 1094, ..
                })) => {}
                Err(error) => panic!("KILL {id}: {error}"),
            }
        }
        conn.disconnect().await.expect("the server answers");
    }

    fn query_sqlite(&self, sql: &str) -> Vec<Vec<Val>> {
        use rusqlite::types::Value;
        let path = self
            .url
            .strip_prefix("sqlite:")
            .expect("it is a SQLite URL");
        let db = rusqlite::Connection::open(path).expect("the file is there");
        db.busy_timeout(std::time::Duration::from_secs(10))
            .expect("it can be set");
        let mut statement = db
            .prepare(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            (0..columns)
                .map(|at| {
                    Ok(match row.get(at)? {
                        Value::Null => Val::Null,
                        Value::Integer(number) => Val::Int(number),
                        Value::Real(number) => Val::Float(number),
                        Value::Text(value) => Val::Text(value),
                        Value::Blob(bytes) => Val::Text(String::from_utf8_lossy(&bytes).into()),
                    })
                })
                .collect::<rusqlite::Result<Vec<Val>>>()
        });
        let rows = rows.expect("no parameters");
        rows.map(|row| row.unwrap_or_else(|error| panic!("{sql}: {error}")))
            .collect()
    }
}

/// The ids of the other connections to the database of `conn`.
///
/// MySQL 9 fails with error 3854 if `information_schema.processlist` is read while another session
/// runs a statement whose text holds bytes that are not UTF-8, so this asks with `SHOW`.
async fn others(conn: &mut mysql_async::Conn) -> Vec<u64> {
    let database = conn.opts().db_name().map(String::from);
    let own = u64::from(conn.id());
    let all: Vec<mysql_async::Row> = conn.query("SHOW PROCESSLIST").await.expect("root may");
    let of_database = all
        .iter()
        .filter(|row| row.get("db") == Some(database.clone()));
    let ids = of_database.map(|row| row.get("Id").expect("each connection has an id"));
    ids.filter(|id| *id != own).collect()
}

fn from_mysql(value: mysql_async::Value) -> Val {
    use mysql_async::Value;
    match value {
        Value::NULL => Val::Null,
        Value::Bytes(bytes) => Val::Text(String::from_utf8_lossy(&bytes).into()),
        Value::Int(number) => Val::Int(number),
        Value::UInt(number) => Val::Int(number.try_into().expect("ids have 63 bits")),
        Value::Float(number) => Val::Float(number.into()),
        Value::Double(number) => Val::Float(number),
        Value::Date(y, mo, d, h, mi, s, us) => Val::Text(format!(
            "{y:04}-{mo:02}-{d:02} {h:02}:{mi:02}:{s:02}.{us:06}"
        )),
        Value::Time(..) => panic!("no column is a TIME"),
    }
}

/// A file that is not in the ledger. Each call returns a file with other content.
pub fn new_file(dataset: &str, records: u32) -> NewFile {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let mut hash = [0xFF; 16];
    hash[3..7].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    NewFile {
        hash,
        taken: None,
        dataset: dataset.to_owned(),
        definition: datasets()
            .by_name(dataset)
            .map(|dataset| dataset.fingerprint),
        name: format!("{dataset} `é'\"\\ 1.json"),
        path: None,
        bytes: 1 << 40,
        records,
        mark: Some(u64::MAX),
    }
}

/// A replay that replaces the reject of a record by this row.
pub fn replay_of(record: Batch) -> Replay {
    let text = format!("text {}", record.span.first_ordinal);
    Replay { record, text }
}

/// The hash of a test's file, from its number: batches are made before the file is registered.
fn hash_of(file_no: u32) -> ContentHash {
    u128::from(file_no).to_be_bytes()
}

pub fn span(file_no: u32, first_ordinal: u32, records: u32) -> Span {
    Span {
        file_no,
        first_ordinal,
        records,
    }
}

/// A batch of these rows (by ordinal; the values of the dataset's columns, without `_rescued`) and
/// rejects.
pub fn batch(
    dataset: &Arc<Dataset>,
    span: Span,
    rows: &BTreeMap<u32, Vec<Val>>,
    rejects: Vec<Reject>,
) -> Batch {
    let ids = rows.keys().map(|ordinal| row_id(span.file_no, *ordinal));
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from_iter_values(ids))];
    let schema = dataset.schema();
    for (at, field) in schema.fields()[1..].iter().enumerate() {
        let values = rows.values().map(|row| row.get(at).unwrap_or(&Val::Null));
        arrays.push(array(field.data_type(), values));
    }
    let rows = RecordBatch::try_new(schema, arrays).expect("the values fit the schema");
    assert_eq!(
        rows.num_rows() + rejects.len(),
        span.records as usize,
        "a test's mistake"
    );
    Batch {
        dataset: dataset.clone(),
        span,
        hash: hash_of(span.file_no),
        rows,
        rejects,
    }
}

fn array<'a>(data_type: &DataType, values: impl Iterator<Item = &'a Val>) -> ArrayRef {
    fn all<'a, T>(
        values: impl Iterator<Item = &'a Val>,
        of: impl Fn(&'a Val) -> Option<T>,
    ) -> Vec<Option<T>> {
        values
            .map(|value| if *value == Val::Null { None } else { of(value) })
            .collect()
    }
    match data_type {
        DataType::Utf8 => Arc::new(StringArray::from(all(values, |value| match value {
            Val::Text(text) => Some(text.as_str()),
            other => panic!("{other:?} is no text"),
        }))),
        DataType::Int64 => Arc::new(Int64Array::from(all(values, |value| match value {
            Val::Int(number) => Some(*number),
            other => panic!("{other:?} is no integer"),
        }))),
        DataType::Float64 => Arc::new(Float64Array::from(all(values, |value| match value {
            Val::Float(number) => Some(*number),
            other => panic!("{other:?} is no float"),
        }))),
        DataType::Boolean => Arc::new(BooleanArray::from(all(values, |value| match value {
            Val::Bool(value) => Some(*value),
            other => panic!("{other:?} is no boolean"),
        }))),
        DataType::Timestamp(..) => {
            let times = all(values, |value| match value {
                Val::Time(time_us) => Some(*time_us),
                other => panic!("{other:?} is no time"),
            });
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
        }
        other => panic!("no dataset has {other}"),
    }
}

/// 2022-06-05T21:02:34Z.
pub const SOME_TIME_US: i64 = 1_654_462_954_000_000;

/// The values of an event; each ordinal has its own `event_value`.
pub fn event(ordinal: u32) -> Vec<Val> {
    vec![
        text(format!("vehicle-{}", ordinal % 7)),
        Val::Time(SOME_TIME_US + i64::from(ordinal)),
        text("a source"),
        text("type"),
        text(format!("value {ordinal}")),
        text(r#"{"note": "n"}"#),
    ]
}

/// A batch of events without rejects.
pub fn events(fixture: &Fixture, file_no: u32, ordinals: std::ops::Range<u32>) -> Batch {
    let span = span(file_no, ordinals.start, ordinals.end - ordinals.start);
    let rows = ordinals.map(|ordinal| (ordinal, event(ordinal))).collect();
    batch(fixture.dataset("vehicle_events"), span, &rows, vec![])
}

pub fn reject(ordinal: u32, code: RejectCode) -> Reject {
    Reject {
        ordinal,
        code,
        field: Some("a `field` é".to_owned()),
        byte_offset: u64::from(ordinal) << 33,
        raw: (0..=u8::MAX).cycle().take(700).collect(),
    }
}
