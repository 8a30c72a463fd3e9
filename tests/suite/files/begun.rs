//! A file that was begun, and whose content changes or is removed before it is settled: its new
//! content is not loaded beside what is stored of the former one, and `verify` names what is left.

use std::fs;
use std::path::PathBuf;

use super::Pair;

const NAME: &str = "m_1.ndjson";

fn write(path: &PathBuf, numbers: std::ops::Range<u32>) {
    let lines: Vec<String> = numbers.map(|a| format!("{{\"a\":{a}}}\n")).collect();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, lines.concat()).unwrap();
}

/// File 1 has three records, of which two are stored: it is in `state`, with this reason, and its
/// content is in no directory.
async fn begun(name: &'static str, state: &str, reason: &str) -> Pair {
    let pair = Pair::new(name).await;
    let definition =
        "[[datasets]]\nname = \"m\"\ncolumns = [{ name = \"a\", type = \"integer\" }]\n";
    fs::write(pair.at("lemonade.toml"), definition).unwrap();
    write(&pair.at("inbound").join(NAME), 0..3);
    pair.expect(0, &["load"]);
    for statement in [
        &format!("UPDATE ingest_files SET state = '{state}', reason = {reason}, settled_at = NULL"),
        "INSERT INTO ingest_frames VALUES (1, 0, 2)",
        &format!("DELETE FROM m WHERE id = {}", (1_u64 << 32) + 2),
    ] {
        pair.execute(statement).await;
    }
    fs::remove_file(pair.at("history").join(NAME)).unwrap();
    pair
}

/// What a command that ends with this exit code says.
fn said(pair: &Pair, code: i32, args: &[&str]) -> String {
    let output = pair.run(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

async fn rows(pair: &Pair) -> u64 {
    pair.number("SELECT COUNT(*) FROM m").await
}

#[tokio::test(flavor = "multi_thread")]
async fn new_content_is_not_stored_beside_the_remains_of_the_former() {
    let refuses = "'1526: no partition'";
    let other = "'other_definition: it was begun as file 1'";
    for (place, state, reason) in [
        ("work", "pending", "NULL"),
        ("inbound", "pending", "NULL"),
        ("inbound", "pending", refuses),
        ("inbound", "quarantined", other),
        ("archive", "pending", "NULL"),
    ] {
        for name in ["memory+sqlite", "memory+mysql"] {
            let pair = begun(name, state, reason).await;
            let about = format!("{name} {place} {state} {reason}");
            let path = pair.at(place).join(NAME);
            write(&path, 0..4);
            let path = path.to_str().unwrap();
            let load = if place == "archive" {
                let hex: Vec<String> = path.bytes().map(|byte| format!("{byte:02x}")).collect();
                let place = format!("UPDATE ingest_files SET path = x'{}'", hex.concat());
                pair.execute(&place).await;
                vec!["load", "archive"]
            } else {
                vec!["load"]
            };
            for _ in 0..2 {
                let held = said(&pair, 75, &load);
                assert!(
                    held.contains("task_runner files forget 1"),
                    "{about}: {held}"
                );
                assert_eq!(rows(&pair).await, 2, "{about}");
            }
            if state == "pending" {
                let wrong = said(&pair, 1, &["verify"]);
                for part in ["file 1 m_1.ndjson", "2 of its 3 records", "files forget 1"] {
                    assert!(wrong.contains(part), "{about}: {wrong}");
                }
            }
            pair.expect(0, &["files", "forget", "1", "--yes"]);
            pair.expect(0, &load);
            assert_eq!(rows(&pair).await, 4, "{about}");
            pair.expect(0, &["verify", "--content"]);
        }
    }
}

/// Nothing arrives in its place: each command names the file and the next step.
#[tokio::test(flavor = "multi_thread")]
async fn a_pending_file_whose_content_is_gone_is_named() {
    let pair = begun("memory+sqlite", "pending", "NULL").await;
    for (code, args) in [
        (0, vec!["load"]),
        (0, vec!["status"]),
        (0, vec!["doctor"]),
        (1, vec!["verify"]),
    ] {
        let said = said(&pair, code, &args);
        assert!(said.contains("files forget 1"), "{args:?}: {said}");
    }
    // The content is in inbound again: the next load ends it.
    write(&pair.at("inbound").join(NAME), 0..3);
    pair.expect(0, &["verify"]);
    pair.expect(0, &["load"]);
    assert_eq!(rows(&pair).await, 3);
}

/// A name comes again while a file of that name is in work: both are loaded.
#[tokio::test(flavor = "multi_thread")]
async fn another_file_of_the_same_name_is_loaded_while_the_first_exists() {
    for first in ["work", "quarantine"] {
        let pair = begun("memory+sqlite", "pending", "NULL").await;
        write(&pair.at(first).join(NAME), 0..3);
        write(&pair.at("inbound").join(NAME), 10..14);
        pair.expect(0, &["load"]);
        let expected = if first == "work" { 7 } else { 6 };
        assert_eq!(rows(&pair).await, expected, "{first}");
    }
}
