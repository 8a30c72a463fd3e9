//! The content of a stored file arrives again after some of its records were removed from the
//! database: it is no duplicate, and the reason has the commands that store them again.

use std::fs;

use super::Pair;

const NAME: &str = "m_1.ndjson";

const LATER: u32 = 1_000_000;

/// A file of this many rows and one reject at its end, in history and as text. A later file has a row
/// with the number [`LATER`]: a start compares the newest file with the tables.
async fn loaded(name: &'static str, rows: u32) -> (Pair, String) {
    let pair = Pair::new(name).await;
    let definition =
        "[[datasets]]\nname = \"m\"\ncolumns = [{ name = \"a\", type = \"integer\" }]\n";
    fs::write(pair.at("lemonade.toml"), definition).unwrap();
    let lines: Vec<String> = (0..rows).map(|a| format!("{{\"a\":{a}}}\n")).collect();
    let text = lines.concat() + "bad\n";
    fs::write(pair.at("inbound").join(NAME), &text).unwrap();
    pair.expect(2, &["load"]);
    let later = format!("{{\"a\":{LATER}}}\n");
    fs::write(pair.at("inbound").join("m_2.ndjson"), later).unwrap();
    pair.expect(0, &["load"]);
    (pair, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_records_are_gone_is_no_duplicate() {
    for (rows, harm) in [
        (3, "DELETE FROM m WHERE a < 1000000"),
        (3, "DELETE FROM m WHERE a = 1"),
        (3, "DELETE FROM ingest_rejects"),
        (1_500, "DELETE FROM m WHERE a < 1000000"),
        (1_500, "DELETE FROM ingest_rejects"),
    ] {
        for name in ["memory+sqlite", "memory+mysql"] {
            let (pair, text) = loaded(name, rows).await;
            let about = format!("{name}: {harm}");
            let again = pair.at("inbound").join("again_m.ndjson");
            fs::write(&again, &text).unwrap();
            pair.expect(0, &["load"]);
            pair.execute(harm).await;
            fs::write(&again, &text).unwrap();
            pair.expect(2, &["load"]);
            let reason = pair.at("quarantine").join("again_m.ndjson.reason");
            let reason = fs::read_to_string(reason).unwrap();
            assert!(reason.starts_with("not_stored: "), "{about}: {reason}");
            assert!(reason.contains("files restore 1`"), "{about}: {reason}");
            // The ledger has the file as settled.
            let listed = pair.run(&["files", "list", "--state", "quarantined"]);
            let said = String::from_utf8(listed.stderr).unwrap();
            assert!(said.contains("1 more in "), "{about}: {said}");
            assert!(said.contains(": again_m.ndjson; "), "{about}: {said}");
            pair.expect(1, &["verify"]);
            pair.expect(0, &["files", "restore", "1"]);
            pair.expect(0, &["files", "retry", "--all"]);
            pair.expect(0, &["load"]);
            pair.expect(0, &["verify", "--content"]);
            let stored = pair.number("SELECT COUNT(*) FROM m").await;
            assert_eq!(stored, u64::from(rows) + 1, "{about}");
        }
    }
}

/// An operator has removed records on purpose, and has said so.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_missing_records_are_acknowledged_is_a_duplicate() {
    let (pair, text) = loaded("memory+sqlite", 3).await;
    pair.execute("DELETE FROM m WHERE a = 1").await;
    pair.expect(0, &["files", "acknowledge", "1", "--yes"]);
    fs::write(pair.at("inbound").join("again_m.ndjson"), text).unwrap();
    pair.expect(0, &["load"]);
    assert_eq!(pair.number("SELECT COUNT(*) FROM m").await, 3);
}
