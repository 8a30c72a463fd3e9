//! A broker, a sink and a data directory of a test's own, and the real binary over them.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;

use crate::support;

/// A broker and a sink of a test's own, and a data directory.
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

    /// The same with its data directory in a place of the test's choice.
    pub async fn within(name: &'static str, place: &Path) -> Self {
        let dir = tempfile::tempdir_in(place).unwrap();
        let database_url = if name.ends_with("mysql") {
            support::mariadb().await.fresh().await
        } else {
            format!("sqlite:{}", dir.path().join("test.db").display())
        };
        let redis_url = if name.starts_with("redis") {
            Some(support::redis().await.fresh())
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

    /// Runs, and expects an exit code.
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

/// Names of the files in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

/// A running service, ended when dropped.
pub struct Service(pub Child);

impl Service {
    pub fn start(pair: &Pair, args: &[&str]) -> Self {
        Self::start_with_http(pair, args, "off")
    }

    pub fn start_with_http(pair: &Pair, args: &[&str], addr: &str) -> Self {
        let mut command = pair.command(args);
        command
            .env("LEMONADE_HTTP_ADDR", addr)
            .env("LEMONADE_SCAN_INTERVAL", "200ms");
        Self(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGTERM, and the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.0.wait().unwrap().code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for something to come true.
pub async fn until(what: &str, limit: Duration, mut check: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !check().await {
        assert!(began.elapsed() < limit, "waited {limit:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A page of a service, as its status code and body; `None` where nobody answers.
pub fn page(addr: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = std::net::TcpStream::connect(addr).ok()?;
    let limit = Some(Duration::from_secs(10));
    stream.set_read_timeout(limit).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some((code, body.to_owned()))
}

/// An address on this machine where nothing listens.
pub fn free_addr() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}
