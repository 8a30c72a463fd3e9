//! `erase`, by the binary: a record that is erased is nowhere, its file stays accounted for, and nothing
//! brings it back, whatever dies in between.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::broker::address;
use crate::end_to_end::indexes::through;
use crate::support::Pair;
use crate::support::proxy::{Proxy, Strike};

const DATABASES: [&str; 3] = ["memory+sqlite", "memory+mysql", "memory+mysql9"];

const LIMIT: Duration = Duration::from_secs(60);

const FILE: &str = "vehicle_events_1.ndjson";

/// What no place may have after the record of Ann is erased.
const SECRET: &str = "Ann-secret";

/// What no place may have after the reject of Bob is erased.
const REJECTED: &str = "Bob-secret";

fn event(vehicle: &str, value: &str) -> String {
    format!(
        "{{\"vehicle_id\":\"{vehicle}\",\"event_time\":\"2026-03-01T10:00:00Z\",\"event_source\":\"s\",\
         \"event_type\":\"t\",\"event_value\":\"{value}\"}}\n"
    )
}

/// Six records: 2 is of Ann, and 4, a reject, of Bob.
fn lines() -> String {
    let of = |at: usize| match at {
        2 => event(SECRET, "2"),
        4 => format!("{{\"vehicle_id\":\"{REJECTED}\"}}\n"),
        at => event("v", &at.to_string()),
    };
    (0..6).map(of).collect()
}

async fn loaded(name: &'static str) -> Pair {
    let pair = Pair::new(name).await;
    fs::write(pair.at("inbound").join(FILE), lines()).unwrap();
    pair.expect(2, &["load"]);
    pair
}

/// Both outputs of a command that ends with this code.
fn said(pair: &Pair, code: i32, args: &[&str]) -> String {
    let output = pair.run(args);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let name = pair.name;
    assert_eq!(output.status.code(), Some(code), "{name} {args:?}: {text}");
    text
}

fn has(path: &Path, text: &str) -> bool {
    let bytes = fs::read(path).unwrap_or_default();
    bytes.windows(text.len()).any(|at| at == text.as_bytes())
}

async fn rows(pair: &Pair) -> u64 {
    pair.number("SELECT COUNT(*) FROM vehicle_events").await
}

/// Checks that both records are in none of the tables, and that the others are as before.
async fn are_erased(pair: &Pair, when: &str) {
    let text = pair.expect(0, &["verify", "--content"]);
    let all = "6 records: 4 rows, 0 rejects, 0 purged, 2 erased";
    assert!(text.contains(all), "{} {when}: {text}", pair.name);
    let sql = format!("SELECT COUNT(*) FROM vehicle_events WHERE vehicle_id = '{SECRET}'");
    assert_eq!(pair.number(&sql).await, 0, "{when}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_record_is_nowhere_and_nothing_brings_it_back() {
    for name in DATABASES {
        let pair = loaded(name).await;
        pair.expect(0, &["rejects", "export", "--out", "rejects.ndjson"]);
        pair.expect(0, &["summary"]);
        let asked = said(&pair, 64, &["erase", "1:2"]);
        assert!(asked.contains("confirm with --yes"), "{asked}");
        assert_eq!(rows(&pair).await, 5);

        let text = said(&pair, 0, &["erase", "1:2", "1:4", "--yes"]);
        for line in [
            "record 1:2: was a row; it is erased",
            "record 1:4: was a reject; it is erased",
            "the bytes are blank",
            "backups",
        ] {
            assert!(text.contains(line), "{name}: {text}");
        }
        assert!(!text.contains(SECRET), "{name}: {text}");
        are_erased(&pair, "after it").await;
        // All other bytes are in their places.
        let history = pair.at("history").join(FILE);
        let blank = fs::read_to_string(&history).unwrap();
        let of = |(now, was): (&str, &str)| {
            assert_eq!(now.len(), was.len());
            now == was
        };
        let same: Vec<bool> = blank.lines().zip(lines().lines()).map(of).collect();
        assert_eq!(same, [true, true, false, true, false, true]);
        for secret in [SECRET, REJECTED] {
            assert!(!blank.contains(secret), "{name}");
            for file in ["test.db", "test.db-wal"] {
                assert!(!has(&pair.at(file), secret), "{name}: {file}");
            }
        }

        // Each command knows it.
        let text = said(&pair, 0, &["trace", "1:2"]);
        assert!(text.contains("erased") && !text.contains(SECRET), "{text}");
        let text = said(&pair, 0, &["trace", "1:3"]);
        assert!(text.contains("\"event_value\":\"3\""), "{text}");
        let text = said(&pair, 0, &["files", "show", "1"]);
        assert!(text.contains("erased"), "{text}");
        let text = said(&pair, 0, &["files", "restore", "1"]);
        assert!(text.contains("0 rows and 0 rejects"), "{text}");
        pair.expect(0, &["summary", "--rebuild"]);
        let days = "SELECT COUNT(*) FROM daily_summary";
        assert_eq!(pair.number(days).await, 1, "{name}");
        said(&pair, 1, &["rejects", "show", "1:4"]);
        said(&pair, 2, &["rejects", "replay", "rejects.ndjson"]);
        let text = said(&pair, 1, &["files", "reload", "1", "--yes"]);
        assert!(text.contains("were erased"), "{text}");
        are_erased(&pair, "after the commands").await;

        // A lost row is stored again from the blank file, and a foreign row of its id is named.
        pair.execute("DELETE FROM vehicle_events WHERE id = 4294967299")
            .await;
        let text = said(&pair, 1, &["verify", "--content"]);
        assert!(text.contains("record 1:3"), "{text}");
        pair.expect(0, &["files", "restore", "1"]);
        are_erased(&pair, "after restore").await;

        // The same content again: as delivered, and blank.
        fs::write(pair.at("inbound").join("vehicle_events_2.ndjson"), lines()).unwrap();
        pair.expect(2, &["load"]);
        let quarantined = pair.at("quarantine").join("vehicle_events_2.ndjson");
        let reason = fs::read_to_string(quarantined.with_extension("ndjson.reason")).unwrap();
        assert!(reason.starts_with("erased: "), "{name}: {reason}");
        let text = said(&pair, 1, &["erase", "1:2", "--yes"]);
        assert!(text.contains("a file in quarantine"), "{name}: {text}");
        fs::remove_file(&quarantined).unwrap();
        let text = said(&pair, 0, &["erase", "1:2", "--yes"]);
        assert!(text.contains("was erased before"), "{name}: {text}");
        fs::write(pair.at("inbound").join("vehicle_events_3.ndjson"), &blank).unwrap();
        pair.expect(0, &["load"]);
        let archive = pair.at("history").display().to_string();
        pair.expect(0, &["load", &archive]);
        are_erased(&pair, "after the same content").await;
        assert_eq!(pair.number("SELECT COUNT(*) FROM ingest_files").await, 1);

        // Another change of the file is found.
        let edited = blank.replace("\"event_value\":\"1\"", "\"event_value\":\"7\"");
        fs::write(&history, edited).unwrap();
        fs::remove_file(pair.at("history").join("vehicle_events_3.ndjson")).unwrap();
        let text = said(&pair, 1, &["verify"]);
        assert!(text.contains("does not have the bytes"), "{name}: {text}");
        fs::write(&history, lines()).unwrap();
        let text = said(&pair, 1, &["verify"]);
        assert!(
            text.contains("still has records that were erased"),
            "{name}: {text}"
        );
        pair.expect(0, &["erase", "1:4", "--yes"]);
        are_erased(&pair, "after a restored file").await;

        // The content is known for ever.
        pair.expect(0, &["files", "forget", "1", "--yes"]);
        fs::write(pair.at("inbound").join("vehicle_events_4.ndjson"), lines()).unwrap();
        pair.expect(2, &["load"]);
        assert_eq!(rows(&pair).await, 0, "{name}");
        pair.expect(2, &["load", &history.display().to_string()]);
        assert_eq!(rows(&pair).await, 4, "{name}");
    }
}

/// A compressed file is compressed again.
#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_a_compressed_file_are_blank() {
    for name in ["memory+sqlite", "memory+mysql"] {
        for ending in ["gz", "zst"] {
            let pair = Pair::new(name).await;
            let file = format!("vehicle_events_1.ndjson.{ending}");
            let mut packed = Vec::new();
            if ending == "gz" {
                let mut to =
                    flate2::write::GzEncoder::new(&mut packed, flate2::Compression::best());
                to.write_all(lines().as_bytes()).unwrap();
                to.finish().unwrap();
            } else {
                packed = zstd::encode_all(lines().as_bytes(), 19).unwrap();
            }
            fs::write(pair.at("inbound").join(&file), &packed).unwrap();
            pair.expect(2, &["load"]);
            pair.expect(0, &["erase", "1:2", "1:4", "--yes"]);
            are_erased(&pair, ending).await;
            let stored = fs::read(pair.at("history").join(&file)).unwrap();
            assert_eq!(stored[..2], packed[..2]);
            pair.expect(0, &["erase", "1:4", "--yes"]);
            are_erased(&pair, "again").await;
            fs::write(pair.at("inbound").join(&file), &stored).unwrap();
            pair.expect(0, &["load"]);
            are_erased(&pair, "after the blank file").await;
        }
    }
}

/// What a kill leaves between two steps: `verify` names it, nothing comes back, and the next run ends it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_kill_leaves_of_an_erasure_is_named_and_ended() {
    for name in DATABASES {
        let pair = loaded(name).await;
        pair.expect(0, &["erase", "1:2", "--yes"]);
        let history = pair.at("history").join(FILE);
        let once = fs::read(&history).unwrap();
        let contents = "SELECT COUNT(*) FROM ingest_erased_contents";
        let hex = "SELECT hex(hash) FROM ingest_erased_contents";
        let first = pair.query(hex).await[0][0].clone().unwrap();
        pair.expect(0, &["erase", "1:4", "--yes"]);
        let twice = fs::read(&history).unwrap();
        let second = pair.query(hex).await[0][0].clone().unwrap();
        assert_ne!(first, second);
        let content = pair.query("SELECT hex(hash) FROM ingest_files").await[0][0]
            .clone()
            .unwrap();
        let open = "UPDATE ingest_erased SET blanked_at = NULL WHERE ordinal = 4";
        let entry = |hash: &str| {
            format!(
                "INSERT INTO ingest_erased_contents (content, hash, bytes) VALUES (x'{content}', \
                 x'{hash}', {})",
                once.len()
            )
        };
        let none = "DELETE FROM ingest_erased_contents";
        let (entry_of_first, entry_of_second) = (entry(&first), entry(&second));
        let (former, latter) = (entry_of_first.as_str(), entry_of_second.as_str());
        for (when, statements, bytes) in [
            ("marked", vec![open, none, former], &once),
            ("begun", vec![open, none, former, latter], &once),
            ("replaced", vec![open, none, former, latter], &twice),
        ] {
            for statement in statements {
                pair.execute(statement).await;
            }
            fs::write(&history, bytes).unwrap();
            let beside = pair.at("history").join(".lemonade-moving-abcdef");
            fs::write(&beside, bytes).unwrap();
            let text = said(&pair, 1, &["verify"]);
            assert!(
                text.contains("still has records that were erased"),
                "{name} {when}: {text}"
            );
            pair.expect(0, &["files", "restore", "1"]);
            pair.expect(0, &["load"]);
            assert!(!beside.exists(), "{name} {when}");
            assert_eq!(rows(&pair).await, 4, "{name} {when}");
            pair.expect(0, &["erase", "1:4", "--yes"]);
            are_erased(&pair, when).await;
            assert_eq!(pair.number(contents).await, 1, "{name} {when}");
            assert_eq!(fs::read(&history).unwrap(), twice, "{name} {when}");
        }
    }
}

/// The statements of an erasure.
const STEPS: [&str; 6] = [
    "DELETE FROM `vehicle_events`",
    "INSERT INTO ingest_erased (",
    "UPDATE bytes = VALUES(bytes)",
    "hash <>",
    "SET blanked_at",
    "COMMIT",
];

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_the_next_run_goes_on() {
    for (name, strikes) in [
        (
            "memory+mysql",
            [Strike::HoldRequest, Strike::HoldReply].as_slice(),
        ),
        ("memory+mysql9", [Strike::HoldReply].as_slice()),
    ] {
        for step in STEPS {
            for strike in strikes {
                let when = format!("{name} {step:?} {strike:?}");
                let pair = loaded(name).await;
                pair.expect(0, &["erase", "1:4", "--yes"]);
                let proxy = Proxy::start(address(&pair.database_url).0).await;
                proxy.strike(step, *strike);
                let mut erase = through(&pair, &proxy, &["erase", "1:2", "--yes"])
                    .spawn()
                    .unwrap();
                let struck = tokio::time::timeout(LIMIT, proxy.struck(1)).await;
                assert!(struck.is_ok(), "{when}: the step never came");
                erase.kill().unwrap();
                erase.wait().unwrap();
                proxy.cut();
                pair.expect(0, &["erase", "1:2", "--yes"]);
                are_erased(&pair, &when).await;
                assert!(!has(&pair.at("history").join(FILE), SECRET), "{when}");
            }
        }
    }
}

fn define(pair: &Pair, definitions: &str) {
    fs::write(pair.at("lemonade.toml"), definitions).unwrap();
}

/// What the engine does not change is named, and the exit code says so.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_changed_is_named() {
    let pair = Pair::new("memory+sqlite").await;
    let archive = pair.at("archive");
    fs::create_dir_all(&archive).unwrap();
    fs::write(archive.join(FILE), lines()).unwrap();
    let archive = archive.display().to_string();
    pair.expect(2, &["load", &archive]);
    let text = said(&pair, 1, &["erase", "1:2", "1:4", "--yes"]);
    assert!(text.contains("is a file of an archive"), "{text}");
    are_erased(&pair, "of an archive").await;
    pair.expect(0, &["load", &archive]);
    pair.expect(0, &["files", "restore", "1"]);
    are_erased(&pair, "of an archive, again").await;

    let other = event("w", "1") + &event(SECRET, "2");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(other.len() as u64);
    header.set_cksum();
    let name = "vehicle_events_7.ndjson";
    tar.append_data(&mut header, name, other.as_bytes())
        .unwrap();
    let packed = tar.into_inner().unwrap();
    fs::write(pair.at("inbound").join("c.tar"), packed).unwrap();
    pair.expect(0, &["load"]);
    let text = said(&pair, 1, &["erase", "2:1", "--yes"]);
    assert!(text.contains("is a member of a container"), "{text}");
    let text = said(&pair, 1, &["verify"]);
    assert!(
        text.contains("still has records that were erased"),
        "{text}"
    );
    fs::remove_file(pair.at("history/c.tar")).unwrap();
    pair.expect(0, &["verify"]);
    pair.expect(0, &["erase", "2:1", "--yes"]);

    // A record of a file that is not settled may be stored again.
    pair.execute("UPDATE ingest_files SET state = 'pending' WHERE file_no = 2")
        .await;
    let text = said(&pair, 1, &["erase", "2:0", "--yes"]);
    assert!(text.contains("only records of settled files"), "{text}");
    let text = said(&pair, 1, &["erase", "1:6", "--yes"]);
    assert!(text.contains("it has no ordinal 6"), "{text}");
    assert_eq!(rows(&pair).await, 4 + 1);
}

/// The bytes of a record may be those of records of other files of the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn each_file_with_the_same_bytes_is_asked_about() {
    for name in ["memory+sqlite", "memory+mysql"] {
        // Equal files of two days are two files.
        let pair = Pair::new(name).await;
        define(
            &pair,
            "inbound_recursive = true\n[[datasets]]\nname = \"trips\"\ncolumns = [{ name \
             = \"k\", type = \"text\" }, { name = \"day\", path = \"day={}\", type = \"date\" }]\n",
        );
        let text = format!("{{\"k\":\"a\"}}\n{{\"k\":\"{SECRET}\"}}\n");
        let mut days: Vec<PathBuf> = Vec::new();
        for day in ["day=2026-01-01", "day=2026-01-02"] {
            let dir = pair.at("inbound").join(day);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("trips.ndjson"), &text).unwrap();
            days.push(pair.at("history").join(day).join("trips.ndjson"));
        }
        pair.expect(0, &["load"]);
        let text = said(&pair, 0, &["erase", "1:1", "--yes"]);
        assert!(text.contains("record 2:1: was a row"), "{name}: {text}");
        assert!(days.iter().all(|day| !has(day, SECRET)), "{name}");
        let text = pair.expect(0, &["verify", "--content"]);
        assert!(
            text.contains("2 rows, 0 rejects, 0 purged, 2 erased"),
            "{text}"
        );

        // One file, two datasets: an item is a part of its order.
        let pair = Pair::new(name).await;
        define(
            &pair,
            "[[datasets]]\nname = \"orders\"\nrecords = \"/orders/*\"\nfiles = \"shop*\"\ncolumns = [{ name = \
             \"o\", type = \"text\" }]\n[[datasets]]\nname = \"items\"\nrecords = \"/orders/*/items\"\nalso = \
             true\nfiles = \"shop*\"\ncolumns = [{ name = \"i\", type = \"text\" }]\n",
        );
        let text = format!(
            "{{\"orders\":[{{\"o\":\"1\",\"items\":[{{\"i\":\"x\"}},{{\"i\":\"{SECRET}\"}}]}},{{\"o\":\"2\",\
             \"items\":[]}}]}}"
        );
        fs::write(pair.at("inbound").join("shop_1.json"), text).unwrap();
        pair.expect(0, &["load"]);
        let shop = pair.at("history").join("shop_1.json");
        let number =
            |dataset: &str| format!("SELECT file_no FROM ingest_files WHERE dataset = '{dataset}'");
        let orders = pair.number(&number("orders")).await;
        let items = pair.number(&number("items")).await;
        for id in [format!("{orders}:0"), format!("{items}:1")] {
            let text = said(&pair, 1, &["erase", &id, "--yes"]);
            assert!(text.contains("nothing was changed"), "{name}: {text}");
        }
        assert!(has(&shop, SECRET), "{name}");
        pair.expect(0, &["verify", "--content"]);
        pair.expect(0, &["erase", &format!("{orders}:1"), "--yes"]);
        pair.expect(0, &["verify", "--content"]);
    }
}

/// With a key, a record that the erased row has superseded is the row.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_erased_row_has_superseded_is_stored() {
    for name in ["memory+sqlite", "memory+mysql", "memory+mysql9"] {
        let pair = Pair::new(name).await;
        define(
            &pair,
            "[[datasets]]\nname = \"readings\"\nkey = [\"k\"]\non_conflict = \"last\"\norder_by = \
             \"t\"\ncolumns = [{ name = \"k\", type = \"text\" }, { name = \"t\", type = \"integer\" }]\n",
        );
        let line = |k: &str, t: u32| format!("{{\"k\":\"{k}\",\"t\":{t}}}\n");
        let bring = |file: &str, text: String| {
            fs::write(pair.at("inbound").join(file), text).unwrap();
            pair.expect(0, &["load"]);
        };
        bring("readings_1.ndjson", line("a", 1) + &line("b", 1));
        bring("readings_2.ndjson", line("a", 2) + &line("b", 0));
        let text = said(&pair, 0, &["erase", "2:0", "--yes"]);
        assert!(text.contains("1 records with the key"), "{name}: {text}");
        let text = pair.expect(0, &["verify", "--content"]);
        let all = "4 records: 2 rows, 0 rejects, 0 purged, 1 superseded, 1 erased";
        assert!(text.contains(all), "{name}: {text}");
        // The superseded one, too.
        let text = said(&pair, 0, &["erase", "2:1", "--yes"]);
        assert!(text.contains("2:1: was superseded"), "{name}: {text}");
        pair.expect(0, &["files", "restore", "--all"]);
        let text = pair.expect(0, &["verify", "--content"]);
        assert!(
            text.contains("2 rows, 0 rejects, 0 purged, 2 erased"),
            "{text}"
        );
        let sum = "SELECT SUM(t) FROM readings";
        assert_eq!(pair.number(sum).await, 2, "{name}");
    }
}

/// The rows of a file may be in a table that was renamed since.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_renamed_table_is_erased() {
    for name in DATABASES {
        let pair = Pair::new(name).await;
        let with_table = |table: &str| {
            let columns = "columns = [{ name = \"k\", type = \"text\" }]";
            format!("[[datasets]]\nname = \"trips\"\ntable = \"{table}\"\n{columns}\n")
        };
        define(&pair, &with_table("trips"));
        let text = format!("{{\"k\":\"a\"}}\n{{\"k\":\"{SECRET}\"}}\n");
        fs::write(pair.at("inbound").join("trips_1.ndjson"), text).unwrap();
        pair.expect(0, &["load"]);
        pair.execute("ALTER TABLE trips RENAME TO journeys").await;
        define(&pair, &with_table("journeys"));
        let text = said(&pair, 0, &["erase", "1:1", "--yes"]);
        assert!(text.contains("1:1: was a row"), "{name}: {text}");
        let rows = "SELECT COUNT(*) FROM journeys";
        assert_eq!(pair.number(rows).await, 1, "{name}");
        let text = pair.expect(0, &["verify"]);
        assert!(
            text.contains("1 rows, 0 rejects, 0 purged, 1 erased"),
            "{text}"
        );
    }
}
