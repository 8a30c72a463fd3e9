//! Deferred indexes: whatever dies in between, each index is in its table or in the ledger, and the
//! next process builds it exactly as it was.

use std::process::{Command, Stdio};
use std::time::Duration;

use mysql_async::prelude::Queryable;

use super::faults::is_loaded_once;
use super::generate;
use crate::broker::address;
use crate::sink::faults::COMMIT;
use crate::support::proxy::{Proxy, Strike};
use crate::support::{self, Pair, Service, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Statements that give `vehicle_events` indexes of every kind, on both servers.
const INDEXES: [&str; 9] = [
    "ALTER TABLE vehicle_events ADD KEY by_vehicle (vehicle_id, event_time)",
    "ALTER TABLE vehicle_events ADD KEY `odd``name, (x` (event_type(7), event_time DESC) COMMENT \
     'a ''b'', (c\\\\d'",
    "ALTER TABLE vehicle_events ADD UNIQUE KEY once (id, event_type)",
    "ALTER TABLE vehicle_events ADD FULLTEXT KEY words (event_value)",
    "ALTER TABLE vehicle_events ADD KEY last_one (event_time, vehicle_id(3))",
    "ALTER TABLE vehicle_events ADD COLUMN turn BIGINT NOT NULL AUTO_INCREMENT, ADD KEY by_turn \
     (turn)",
    "CREATE TABLE notes (note VARCHAR(9) CHARACTER SET utf8mb4 COLLATE {collation} PRIMARY KEY)",
    "ALTER TABLE vehicle_events ADD COLUMN note VARCHAR(9) NULL, ADD KEY by_note (note, event_time), \
     ADD CONSTRAINT has_note FOREIGN KEY (note) REFERENCES notes (note)",
    "ALTER TABLE vehicle_events ADD KEY hidden (event_source) {hidden}",
];

/// On MariaDB, other tables can refer to a key that is not unique.
const REFERRED: [&str; 2] = [
    "ALTER TABLE vehicle_events ADD COLUMN tag VARCHAR(9) NULL, ADD KEY by_tag (tag)",
    "CREATE TABLE tags (id BIGINT PRIMARY KEY, tag VARCHAR(9) CHARACTER SET utf8mb4 COLLATE \
     utf8mb4_nopad_bin, FOREIGN KEY (tag) REFERENCES vehicle_events (tag))",
];

/// Those that a load drops. The others are unique, full-text, of a foreign key, or of a column with
/// `AUTO_INCREMENT`.
const DEFERRED: [&str; 4] = ["by_vehicle", "odd`name, (x", "last_one", "hidden"];

/// A database whose table has all kinds of indexes.
async fn indexed(name: &'static str) -> Pair {
    let pair = Pair::new(name).await;
    pair.expect(0, &["migrate"]);
    let (collation, hidden) = if name.ends_with("mysql9") {
        ("utf8mb4_0900_bin", "INVISIBLE")
    } else {
        ("utf8mb4_nopad_bin", "IGNORED")
    };
    for sql in INDEXES {
        let sql = sql.replace("{collation}", collation);
        pair.execute(&sql.replace("{hidden}", hidden)).await;
    }
    if name.ends_with("mysql9") {
        let sql = "ALTER TABLE vehicle_events ADD KEY expression ((concat(event_type, ',)(`''x')))";
        pair.execute(sql).await;
    } else {
        for sql in REFERRED {
            pair.execute(sql).await;
        }
    }
    pair
}

/// The lines of the definition of the table, without the counter of its `AUTO_INCREMENT` column.
/// Sorted: indexes that were built again are after those that stayed.
async fn table(pair: &Pair) -> Vec<String> {
    let found = pair.query("SHOW CREATE TABLE vehicle_events").await;
    let text = found[0][1].clone().unwrap();
    let words = text.split(' ');
    let rest: Vec<_> = words
        .filter(|word| !word.starts_with("AUTO_INCREMENT="))
        .collect();
    let rest = rest.join(" ");
    let mut lines: Vec<_> = rest
        .lines()
        .map(|line| line.trim_end_matches(',').to_owned())
        .collect();
    lines.sort();
    lines
}

async fn kept(pair: &Pair) -> Vec<String> {
    let sql = "SELECT index_name FROM ingest_indexes ORDER BY position";
    let rows = pair.query(sql).await;
    rows.into_iter()
        .map(|row| row[0].clone().unwrap())
        .collect()
}

async fn existing(pair: &Pair) -> Vec<String> {
    let sql = "SELECT DISTINCT INDEX_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = \
               DATABASE() AND TABLE_NAME = 'vehicle_events'";
    let rows = pair.query(sql).await;
    rows.into_iter()
        .map(|row| row[0].clone().unwrap())
        .collect()
}

/// A command that connects to the database through a proxy. Its log is of the level `info`.
pub fn through(pair: &Pair, proxy: &Proxy, args: &[&str]) -> Command {
    let (port, _) = address(&pair.database_url);
    let url = pair
        .database_url
        .replace(&format!(":{port}/"), &format!(":{}/", proxy.port));
    let mut command = pair.command(args);
    command
        .env("DATABASE_URL", url)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Both outputs of a command that ends with this code.
fn said(pair: &Pair, code: i32, args: &[&str]) -> String {
    let output = pair.run(args);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    text
}

const ALWAYS: [&str; 2] = ["load", "--defer-indexes=always"];

#[tokio::test(flavor = "multi_thread")]
async fn indexes_of_every_kind_come_back_as_they_were() {
    for name in ["memory+mysql", "memory+mysql9"] {
        let pair = indexed(name).await;
        let before = table(&pair).await;
        generate(&pair, &["--files", "2", "--records", "2000"]);
        let text = said(&pair, 0, &ALWAYS);
        for index in DEFERRED {
            assert!(text.contains(index), "{index}: {text}");
        }
        assert_eq!(table(&pair).await, before, "{name}");
        assert_eq!(kept(&pair).await, [""; 0], "{name}");
        is_loaded_once(&pair, 4_000, 2, name).await;
        assert!(!said(&pair, 0, &["doctor"]).contains("is missing"));
    }
}

/// A load is killed at a step; `after` continues. Whatever the step, no definition is lost.
async fn killed_at(name: &'static str, step: &'static str, strike: Strike, after: &str) {
    let when = format!("{name} {step:?} {strike:?}, then {after}");
    let pair = indexed(name).await;
    let before = table(&pair).await;
    let names = existing(&pair).await;
    generate(&pair, &["--files", "2", "--records", "2000"]);
    let proxy = Proxy::start(address(&pair.database_url).0).await;
    proxy.strike(step, strike);
    let mut load = through(&pair, &proxy, &ALWAYS).spawn().unwrap();
    let struck = tokio::time::timeout(LIMIT, proxy.struck(1)).await;
    assert!(struck.is_ok(), "{when}: the step never came");
    if strike == Strike::HoldReply {
        // The proxy notices the reply, so the server has executed the request.
        assert_eq!(proxy.strikes(), 1);
    }
    load.kill().unwrap();
    load.wait().unwrap();
    proxy.cut();

    let (kept_now, existing_now) = (kept(&pair).await, existing(&pair).await);
    let is_safe = |name: &String| kept_now.contains(name) || existing_now.contains(name);
    assert!(
        names.iter().all(is_safe),
        "{when}: {kept_now:?} {existing_now:?}"
    );
    let missing = names.iter().filter(|name| !existing_now.contains(*name));
    let missing: Vec<_> = missing.collect();
    let doctor = said(&pair, 0, &["doctor"]);
    let status = said(&pair, 0, &["status"]);
    for index in &missing {
        let line = format!("the index {index} of vehicle_events is missing");
        assert!(doctor.contains(&line), "{when}: {doctor}");
        let line = format!("missing index {index} of vehicle_events");
        assert!(status.contains(&line), "{when}: {status}");
    }
    match after {
        "load" => drop(said(&pair, 0, &["load"])),
        "load again" => drop(said(&pair, 0, &ALWAYS)),
        "migrate" => {
            let text = said(&pair, 0, &["migrate"]);
            for index in missing {
                assert!(
                    text.contains(&format!("built the index `{index}`")),
                    "{text}"
                );
            }
            assert_eq!(table(&pair).await, before, "{when}");
            pair.expect(0, &["load"]);
        }
        _ => {
            let mut service = Service::start(&pair, &["run"]);
            until("the indexes and the files", LIMIT, async || {
                kept(&pair).await.is_empty()
                    && pair.number("SELECT COUNT(*) FROM vehicle_events").await == 4_000
                    && support::names(&pair.at("history")).len() == 2
            })
            .await;
            assert_eq!(service.terminate(), Some(0), "{when}");
        }
    }
    assert_eq!(table(&pair).await, before, "{when}");
    assert_eq!(kept(&pair).await, [""; 0], "{when}");
    is_loaded_once(&pair, 4_000, 2, &when).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_the_next_process_builds_what_is_missing() {
    const KEEP: &str = "INSERT INTO ingest_indexes";
    const DROP: &str = "DROP KEY";
    const ADD: &str = "ADD KEY";
    const FORGET: &str = "DELETE FROM ingest_indexes";
    let steps = [
        (KEEP, Strike::HoldRequest, "load"),
        (KEEP, Strike::HoldReply, "migrate"),
        (DROP, Strike::HoldRequest, "run"),
        (DROP, Strike::HoldReply, "load"),
        ("INSERT INTO ingest_files", Strike::HoldRequest, "migrate"),
        (COMMIT, Strike::HoldReply, "load again"),
        (COMMIT, Strike::HoldRequest, "run"),
        (ADD, Strike::HoldRequest, "migrate"),
        (ADD, Strike::HoldReply, "load"),
        (FORGET, Strike::HoldRequest, "load again"),
        (FORGET, Strike::HoldReply, "run"),
    ];
    for (step, strike, after) in steps {
        killed_at("memory+mysql", step, strike, after).await;
    }
    killed_at("redis+mysql", DROP, Strike::HoldReply, "migrate").await;
    for (step, strike, after) in [
        (DROP, Strike::HoldRequest, "load"),
        (DROP, Strike::HoldReply, "migrate"),
        (ADD, Strike::HoldRequest, "run"),
        (ADD, Strike::HoldReply, "load"),
    ] {
        killed_at("memory+mysql9", step, strike, after).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_beside_one_that_defers_indexes_neither_builds_nor_drops_them() {
    let pair = indexed("memory+mysql").await;
    let before = table(&pair).await;
    generate(&pair, &["--files", "2", "--records", "2000"]);
    let proxy = Proxy::start(address(&pair.database_url).0).await;
    proxy.strike(COMMIT, Strike::HoldReply);
    let mut load = through(&pair, &proxy, &ALWAYS).spawn().unwrap();
    let struck = tokio::time::timeout(LIMIT, proxy.struck(1)).await;
    assert!(struck.is_ok(), "the step never came");
    assert_eq!(kept(&pair).await, DEFERRED);

    let mut beside = Pair::new("memory+mysql").await;
    beside.database_url.clone_from(&pair.database_url);
    generate(
        &beside,
        &["--files", "1", "--records", "500", "--seed", "7"],
    );
    let text = said(&beside, 0, &ALWAYS);
    assert!(text.contains("another process"), "{text}");
    assert_eq!(kept(&pair).await, DEFERRED);
    let doctor = said(&pair, 0, &["doctor"]);
    assert!(doctor.contains("a process that runs builds it"), "{doctor}");
    // The held connection ends, and the load commits again.
    proxy.cut();
    let ended = tokio::task::spawn_blocking(move || load.wait().unwrap());
    let code = tokio::time::timeout(LIMIT, ended).await.expect("it ends");
    assert_eq!(code.unwrap().code(), Some(0));
    assert_eq!(table(&pair).await, before);
    assert_eq!(kept(&pair).await, [""; 0]);
    assert_eq!(
        pair.number("SELECT COUNT(*) FROM vehicle_events").await,
        4_500
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_stay_where_deferring_does_not_pay_or_is_refused() {
    let pair = indexed("memory+mysql").await;
    let before = table(&pair).await;
    generate(&pair, &["--files", "1", "--records", "500"]);
    let text = said(&pair, 0, &["load", "--defer-indexes"]);
    assert!(
        text.contains("fit into the buffer pool of 64 MiB"),
        "{text}"
    );
    assert_eq!(table(&pair).await, before);

    // An account without the right to change tables.
    let name = pair.database_url.rsplit('/').next().unwrap().to_owned();
    let pool = mysql_async::Pool::new(pair.database_url.as_str());
    let mut admin = pool.get_conn().await.unwrap();
    for sql in [
        format!("CREATE USER 'plain_{name}'@'%' IDENTIFIED BY 'p'"),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON `{name}`.* TO 'plain_{name}'@'%'"),
    ] {
        admin.query_drop(sql).await.unwrap();
    }
    drop(admin);
    pool.disconnect().await.unwrap();
    generate(&pair, &["--files", "1", "--records", "500", "--seed", "9"]);
    let mut plain = Pair::new("memory+mysql").await;
    plain.database_url = pair
        .database_url
        .replace("root@", &format!("plain_{name}:p@"));
    generate(&plain, &["--files", "1", "--records", "500", "--seed", "8"]);
    let text = said(&plain, 0, &ALWAYS);
    assert!(text.contains("cannot be dropped"), "{text}");
    assert_eq!(table(&pair).await, before);
    assert_eq!(kept(&pair).await, [""; 0]);

    let sqlite = Pair::new("memory+sqlite").await;
    generate(&sqlite, &["--files", "1", "--records", "500"]);
    let text = said(&sqlite, 0, &ALWAYS);
    assert!(text.contains("--defer-indexes has no effect"), "{text}");
    assert_eq!(
        sqlite.number("SELECT COUNT(*) FROM vehicle_events").await,
        500
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_be_built_again_is_named_with_what_to_do() {
    let pair = indexed("memory+mysql").await;
    generate(&pair, &["--files", "1", "--records", "500"]);
    let proxy = Proxy::start(address(&pair.database_url).0).await;
    proxy.strike("ADD KEY", Strike::HoldRequest);
    let mut load = through(&pair, &proxy, &ALWAYS).spawn().unwrap();
    let struck = tokio::time::timeout(LIMIT, proxy.struck(1)).await;
    assert!(struck.is_ok(), "the step never came");
    load.kill().unwrap();
    load.wait().unwrap();
    proxy.cut();
    let sql = "UPDATE ingest_indexes SET definition = 'KEY `hidden` (`gone`)' WHERE index_name = \
               'hidden'";
    pair.execute(sql).await;
    let text = said(&pair, 78, &["migrate"]);
    assert!(text.contains("delete its row there"), "{text}");
    let sql = "DELETE FROM ingest_indexes WHERE index_name = 'hidden'";
    pair.execute(sql).await;
    let text = said(&pair, 0, &["migrate"]);
    assert!(text.contains("built the index `by_vehicle`"), "{text}");
}
