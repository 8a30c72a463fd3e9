//! A broker, a database and a data directory for one test, and the real binary over them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mysql_async::prelude::Queryable;

/// A broker and a database for one test, and a data directory.
pub struct Pair {
    pub name: &'static str,
    pub database_url: String,
    pub redis_url: Option<String>,
    dir: tempfile::TempDir,
}

impl Pair {
    pub async fn all() -> Vec<Self> {
        let mut pairs = Vec::new();
        for name in [
            "memory+sqlite",
            "memory+mysql",
            "redis+sqlite",
            "redis+mysql",
        ] {
            pairs.push(Self::new(name).await);
        }
        pairs
    }

    pub async fn new(name: &'static str) -> Self {
        Self::within(name, &std::env::temp_dir()).await
    }

    /// As [`Pair::new`], with the data directory below `place`.
    pub async fn within(name: &'static str, place: &Path) -> Self {
        let dir = tempfile::tempdir_in(place).unwrap();
        let database_url = if name.ends_with("mysql9") {
            super::mysql9(true).await.fresh().await
        } else if name.ends_with("mysql") {
            super::mariadb().await.fresh().await
        } else {
            format!("sqlite:{}", dir.path().join("test.db").display())
        };
        let redis_url = if name.starts_with("redis") {
            Some(super::redis().await.fresh())
        } else {
            None
        };
        Self {
            name,
            database_url,
            redis_url,
            dir,
        }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        if name == "inbound" {
            std::fs::create_dir_all(&path).unwrap();
        }
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_task_runner"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", &self.database_url)
            .env("LEMONADE_DATA_DIR", self.dir.path())
            .stdin(Stdio::null());
        if let Some(url) = &self.redis_url {
            command.env("REDIS_URL", url);
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs the binary with these arguments, and checks its exit code. Returns its output.
    pub fn expect(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{}: {args:?}\n{}\n{}",
            self.name,
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// All rows of a query, each value as text.
    pub async fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        if let Some(path) = self.database_url.strip_prefix("sqlite:") {
            let db = rusqlite::Connection::open(path).unwrap();
            let mut statement = db.prepare(sql).unwrap();
            let columns = statement.column_count();
            let row = |row: &rusqlite::Row<'_>| {
                (0..columns)
                    .map(|at| row.get_ref(at).map(sqlite_text))
                    .collect()
            };
            return statement
                .query_map([], row)
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
        }
        let pool = mysql_async::Pool::new(self.database_url.as_str());
        let mut conn = pool.get_conn().await.unwrap();
        let rows: Vec<mysql_async::Row> = conn.query(sql).await.unwrap();
        drop(conn);
        pool.disconnect().await.unwrap();
        let value = |value: mysql_async::Value| match value {
            mysql_async::Value::NULL => None,
            value => Some(mysql_async::from_value::<String>(value)),
        };
        rows.into_iter()
            .map(|row| row.unwrap().into_iter().map(value).collect())
            .collect()
    }

    /// Runs a statement.
    pub async fn execute(&self, sql: &str) {
        if let Some(path) = self.database_url.strip_prefix("sqlite:") {
            let db = rusqlite::Connection::open(path).unwrap();
            db.execute_batch(sql).unwrap();
            return;
        }
        let pool = mysql_async::Pool::new(self.database_url.as_str());
        let mut conn = pool.get_conn().await.unwrap();
        conn.query_drop(sql).await.unwrap();
        drop(conn);
        pool.disconnect().await.unwrap();
    }

    pub async fn number(&self, sql: &str) -> u64 {
        self.query(sql).await[0][0]
            .as_ref()
            .unwrap()
            .parse()
            .unwrap()
    }
}

fn sqlite_text(value: rusqlite::types::ValueRef<'_>) -> Option<String> {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(text) | ValueRef::Blob(text) => {
            Some(String::from_utf8_lossy(text).into_owned())
        }
    }
}

/// Names of the entries of a directory that are not hidden, sorted. In work, those of its files, which
/// are in the directories of nodes.
pub fn names(dir: &Path) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let is_work = dir.join(LOCK_FILE).exists();
    let found = if is_work {
        files_below(dir)
    } else {
        entries(dir)
    };
    let mut names: Vec<String> = found.iter().map(name).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

/// The file of work and of the directory of each node that a process locks.
const LOCK_FILE: &str = ".lemonade.lock";

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    // It may have been removed since.
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

/// All files below a directory, except locks.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(dir) {
        if path.is_dir() && !path.is_symlink() {
            found.extend(files_below(&path));
        } else if !path.ends_with(LOCK_FILE) {
            found.push(path);
        }
    }
    found
}

/// The path of a file with this name in work; one that leads nowhere if it has none.
pub fn in_work(work: &Path, name: &str) -> PathBuf {
    let found = files_below(work).into_iter();
    let mut found = found.filter(|path| path.ends_with(name));
    found.next().unwrap_or_else(|| work.join(name))
}
