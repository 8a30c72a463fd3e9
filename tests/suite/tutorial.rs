//! The commands of the tutorial and of the pages that say how to do a task, run as they are written,
//! each page in its order and in an empty directory.

use std::path::Path;
use std::process::Command;

use crate::support;

/// Before the exit code that a command of a page has, if it is not 0.
const CODE: &str = "# exit code ";

/// The commands of the page: the lines of its blocks of shell.
fn commands(page: &str) -> Vec<&str> {
    let mut is_shell = false;
    let mut found = Vec::new();
    for line in page.lines() {
        if line.starts_with("```") {
            is_shell = line == "```sh";
        } else if is_shell {
            found.push(line);
        }
    }
    found
}

/// A directory in which the commands of a page have run.
struct Tried {
    dir: tempfile::TempDir,
}

/// Runs the commands of a page, with these variables. `prepare` makes files that the page assumes.
fn tried(page: &str, variables: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Tried {
    let commands = commands(page);
    assert!(commands.len() > 5, "{commands:?}");
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let binaries = Path::new(env!("CARGO_BIN_EXE_task_runner"))
        .parent()
        .unwrap();
    let path = std::env::var("PATH").unwrap();
    for line in commands {
        let code = line.split_once(CODE).map_or("0", |(_, code)| code);
        let output = Command::new("bash")
            .args(["-o", "pipefail", "-c", line])
            .current_dir(dir.path())
            .env_clear()
            .env("PATH", format!("{}:{path}", binaries.display()))
            .env("HOME", dir.path())
            .env("LEMONADE_HTTP_ADDR", "off")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let ended = output.status.code().map(|code| code.to_string());
        assert_eq!(ended.as_deref(), Some(code), "{line}: {output:?}");
    }
    Tried { dir }
}

impl Tried {
    /// The number that a query of the SQLite database returns.
    fn count(&self, sql: &str) -> u32 {
        let path = self.dir.path().join("lemonade-data/lemonade.db");
        let db = rusqlite::Connection::open(path).unwrap();
        db.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

#[test]
fn the_commands_of_the_tutorial_work_as_written() {
    let tried = tried(include_str!("../../docs/tutorial.md"), &[], |_| {});
    assert_eq!(tried.count("SELECT COUNT(*) FROM trips"), 3);
    assert_eq!(tried.count("SELECT COUNT(*) FROM ingest_files"), 5);
}

#[test]
fn the_commands_for_a_backfill_work_as_written() {
    let tried = tried(include_str!("../../docs/backfill.md"), &[], |_| {});
    let stored =
        "SELECT (SELECT COUNT(*) FROM vehicle_events) + (SELECT COUNT(*) FROM ingest_rejects)";
    assert_eq!(tried.count(stored), 12_000);
    assert!(tried.count("SELECT COUNT(*) FROM ingest_rejects") > 0);
}

#[test]
fn the_commands_for_retention_work_as_written() {
    let tried = tried(include_str!("../../docs/retention.md"), &[], |_| {});
    assert_eq!(tried.count("SELECT COUNT(*) FROM ingest_files"), 5);
    assert_eq!(tried.count("SELECT COUNT(*) FROM ingest_rejects"), 0);
}

#[test]
fn the_commands_for_a_reload_work_as_written() {
    let tried = tried(include_str!("../../docs/reload.md"), &[], |_| {});
    assert_eq!(tried.count("SELECT COUNT(*) FROM trips WHERE km = 3"), 1);
    assert_eq!(tried.count("SELECT COUNT(*) FROM trips"), 1);
}

#[test]
fn the_commands_to_erase_a_record_work_as_written() {
    let tried = tried(include_str!("../../docs/erase.md"), &[], |_| {});
    assert_eq!(tried.count("SELECT COUNT(*) FROM trips"), 2);
    assert_eq!(tried.count("SELECT COUNT(*) FROM ingest_erased"), 1);
}

/// The blocks of a page in this language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    let blocks = page.split(begin.as_str()).skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

/// The query of the page returns the rows of the page.
#[test]
fn the_example_of_nested_records_works_as_written() {
    let page = include_str!("../../docs/orders.md");
    let tried = tried(page, &[], |home| {
        let [file] = blocks(page, "json")[..] else {
            panic!("one file");
        };
        std::fs::write(home.join("orders_1.json"), file).unwrap();
        let [definition] = blocks(page, "toml")[..] else {
            panic!("one settings file");
        };
        std::fs::write(home.join("lemonade.toml"), definition).unwrap();
    });
    let db = tried.dir.path().join("lemonade-data/lemonade.db");
    let db = rusqlite::Connection::open(db).unwrap();
    let mut query = db.prepare(blocks(page, "sql")[0]).unwrap();
    let columns = query.column_count();
    let line = |row: &rusqlite::Row<'_>| {
        let text = |at| {
            Ok(match row.get(at)? {
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => panic!("{other:?}"),
            })
        };
        let texts: rusqlite::Result<Vec<String>> = (0..columns).map(text).collect();
        Ok(texts?.join(" | ") + "\n")
    };
    let rows: rusqlite::Result<String> = query.query_map([], line).unwrap().collect();
    assert_eq!(rows.unwrap(), blocks(page, "text")[0]);
    assert_eq!(tried.count("SELECT COUNT(*) FROM order_items"), 3);
    assert_eq!(tried.count("SELECT COUNT(*) FROM ingest_rejects"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_for_an_upgrade_work_as_written() {
    let redis = support::redis().await.fresh();
    let page = include_str!("../../docs/upgrade.md");
    tried(page, &[("REDIS_URL", &redis)], |_| {});
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_for_backup_and_restore_work_as_written() {
    let server = support::private_mariadb().await;
    let port = server.port;
    let database = format!("mysql://root@127.0.0.1:{port}/vehicles");
    let page = include_str!("../../docs/backup.md");
    let tried = tried(page, &[("DATABASE_URL", &database)], |home| {
        let login = format!("[client]\nhost = 127.0.0.1\nport = {port}\nuser = root\n");
        std::fs::write(home.join(".my.cnf"), login).unwrap();
    });
    let pool = mysql_async::Pool::new(database.as_str());
    let mut conn = pool.get_conn().await.unwrap();
    let sql =
        "SELECT (SELECT COUNT(*) FROM vehicle_events) + (SELECT COUNT(*) FROM ingest_rejects)";
    let stored: Option<u64> = mysql_async::prelude::Queryable::query_first(&mut conn, sql)
        .await
        .unwrap();
    assert_eq!(stored, Some(4_000));
    drop(conn);
    pool.disconnect().await.unwrap();
    assert!(tried.dir.path().join("vehicles.sql").exists());
}
