//! Files that are beyond `max_reject_ratio` or `min_records` of their dataset: held before any of
//! their records is stored, named with the next step, and loaded after a release.

use std::fs;
use std::path::Path;

use super::*;
use crate::support::{free_addr, page};

const DATABASES: [&str; 2] = ["memory+sqlite", "memory+mysql"];

/// A pair with the dataset `m`: at most a quarter of a file may be rejects, and a file has at least
/// three records.
async fn limited(name: &'static str) -> Pair {
    let pair = Pair::new(name).await;
    let definition = "frame_records = 10\n[[datasets]]\nname = \"m\"\nmax_reject_ratio = 0.25\n\
                      min_records = 3\nexpected_every = \"24h\"\n\
                      columns = [{ name = \"a\", type = \"integer\" }]\n";
    fs::write(pair.at("lemonade.toml"), definition).unwrap();
    pair
}

/// Writes a file with good records and, after them, bad ones.
fn write(path: &Path, good: u32, bad: u32) {
    let good = (0..good).map(|a| format!("{{\"a\":{a}}}\n"));
    let bad = (0..bad).map(|b| format!("{{\"b\":{b}}}\n"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, good.chain(bad).collect::<String>()).unwrap();
}

/// How many rows and how many rejects are stored.
async fn stored(pair: &Pair) -> (u64, u64) {
    (
        pair.number("SELECT COUNT(*) FROM m").await,
        pair.number("SELECT COUNT(*) FROM ingest_rejects").await,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_beyond_a_limit_is_held_before_any_of_it_is_stored() {
    for name in DATABASES {
        for (good, bad, code) in [
            (3, 0, None),
            (6, 2, None),
            (75, 25, None),
            (2, 0, Some("too_few_records")),
            (0, 0, Some("too_few_records")),
            (6, 3, Some("too_many_rejects")),
            (74, 26, Some("too_many_rejects")),
            (0, 500, Some("too_many_rejects")),
        ] {
            let pair = limited(name).await;
            let about = format!("{name} {good} {bad}");
            write(&pair.at("inbound").join("m_1.ndjson"), good, bad);
            let exit = i32::from(bad > 0 || code.is_some()) * 2;
            pair.expect(exit, &["load"]);
            let Some(code) = code else {
                let expected = (u64::from(good), u64::from(bad));
                assert_eq!(stored(&pair).await, expected, "{about}");
                continue;
            };
            assert_eq!(stored(&pair).await, (0, 0), "{about}");
            let reason = pair.at("quarantine").join("m_1.ndjson.reason");
            let reason = fs::read_to_string(reason).unwrap();
            for said in [reason, pair.expect(0, &["status"])] {
                assert!(said.contains(&format!("{code}: ")), "{about}: {said}");
                assert!(
                    said.contains("task_runner files release"),
                    "{about}: {said}"
                );
            }
        }
    }
}

/// The reason names the most frequent cause.
#[tokio::test(flavor = "multi_thread")]
async fn the_reason_names_the_cause_and_the_numbers() {
    let pair = limited("memory+sqlite").await;
    write(&pair.at("inbound").join("m_1.ndjson"), 6, 3);
    pair.expect(2, &["load"]);
    let listed = pair.expect(0, &["files", "list"]);
    let text = "too_many_rejects: at least 3 of its 9 records would be rejects, most of them \
                `missing_field` in `a`, and `max_reject_ratio = 0.25` allows 2: ";
    assert!(listed.contains(text), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_file_is_loaded_and_another_one_is_not_released() {
    for name in DATABASES {
        for place in ["inbound", "archive"] {
            let pair = limited(name).await;
            let about = format!("{name} {place}");
            let path = pair.at(place).join("m_1.ndjson");
            write(&path, 6, 3);
            let load = if place == "archive" {
                vec!["load", "archive"]
            } else {
                vec!["load"]
            };
            pair.expect(2, &load);
            if place == "inbound" {
                // A retry checks the file anew.
                pair.expect(0, &["files", "retry", "m_1.ndjson"]);
            }
            pair.expect(2, &load);
            assert_eq!(stored(&pair).await, (0, 0), "{about}");
            let released = pair.expect(0, &["files", "release", "1"]);
            let next = if place == "inbound" {
                "is in inbound again"
            } else {
                "task_runner load PATH"
            };
            assert!(released.contains(next), "{about}: {released}");
            // A second release, as after a kill in the first.
            pair.expect(0, &["files", "release", "1"]);
            pair.expect(2, &load);
            assert_eq!(stored(&pair).await, (6, 3), "{about}");
            pair.expect(0, &["verify", "--content"]);

            // It is settled, so its content is a copy and not held, and no release is left.
            write(&pair.at("inbound").join("m_2.ndjson"), 6, 3);
            pair.expect(0, &["load"]);
            let refused = pair.run(&["files", "release", "1"]);
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(1), "{about}: {said}");
            assert!(said.contains("is not held because of a limit"), "{said}");
        }
    }
}

/// What a kill leaves behind: a file that was not moved after its reason was written, and a file that
/// was claimed after its release.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_file_stays_held_and_a_released_one_released_after_a_kill() {
    for name in DATABASES {
        let pair = limited(name).await;
        write(&pair.at("inbound").join("m_1.ndjson"), 6, 3);
        pair.expect(2, &["load"]);
        let (work, held) = (pair.at("work"), pair.at("quarantine").join("m_1.ndjson"));
        for _ in 0..2 {
            fs::rename(&held, work.join("m_1.ndjson")).unwrap();
            pair.expect(2, &["load"]);
            assert!(held.exists(), "{name}");
            assert_eq!(stored(&pair).await, (0, 0), "{name}");
        }
        pair.expect(0, &["files", "release", "1"]);
        let inbound = pair.at("inbound").join("m_1.ndjson");
        fs::rename(inbound, work.join("m_1.ndjson")).unwrap();
        pair.expect(2, &["load"]);
        assert_eq!(stored(&pair).await, (6, 3), "{name}");
    }
}

/// A file whose load began before the limit was set goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_begun_is_not_held() {
    for name in DATABASES {
        let pair = limited(name).await;
        let settings = pair.at("lemonade.toml");
        let limits = fs::read_to_string(&settings).unwrap();
        fs::write(&settings, limits.replace("0.25", "1")).unwrap();
        write(&pair.at("inbound").join("m_1.ndjson"), 6, 3);
        pair.expect(2, &["load"]);
        for statement in [
            "UPDATE ingest_files SET state = 'pending', settled_at = NULL",
            "INSERT INTO ingest_frames VALUES (1, 0, 5)",
            &format!("DELETE FROM m WHERE id = {}", (1_u64 << 32) + 5),
        ] {
            pair.execute(statement).await;
        }
        let from = pair.at("history").join("m_1.ndjson");
        fs::rename(from, pair.at("inbound").join("m_1.ndjson")).unwrap();
        fs::write(&settings, limits).unwrap();
        pair.expect(2, &["load"]);
        assert_eq!(stored(&pair).await, (6, 3), "{name}");
    }
}

/// Its load began, and it went to quarantine then, for example because it was changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_which_a_part_is_stored_is_not_held() {
    for name in DATABASES {
        let pair = limited(name).await;
        write(&pair.at("inbound").join("m_1.ndjson"), 6, 3);
        pair.expect(2, &["load"]);
        assert_eq!(stored(&pair).await, (0, 0), "{name}");
        let first = 1_u64 << 32;
        for statement in [
            "INSERT INTO ingest_frames VALUES (1, 0, 2)",
            "UPDATE ingest_files SET records = 9",
            &format!("INSERT INTO m (id, a) VALUES ({first}, 0), ({first} + 1, 1)"),
        ] {
            pair.execute(statement).await;
        }
        pair.expect(0, &["files", "retry", "m_1.ndjson"]);
        pair.expect(2, &["load"]);
        assert_eq!(stored(&pair).await, (6, 3), "{name}");
        pair.expect(0, &["verify", "--content"]);
    }
}

/// Delivers a container with one good file and one that is held.
fn deliver(pair: &Pair, name: &str, good: u32) {
    let made = tempfile::tempdir().unwrap();
    write(&made.path().join("m_1.ndjson"), good, 3);
    write(&made.path().join("m_2.ndjson"), 30 + good, 0);
    let bytes = shell(made.path(), "tar -cf - m_1.ndjson m_2.ndjson");
    fs::write(pair.at("inbound").join(name), bytes).unwrap();
}

/// Two containers have the same name, and so have their members. Without a copy in quarantine, the
/// container comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_member_is_released_by_its_content() {
    for name in DATABASES {
        let pair = limited(name).await;
        for good in [4, 5] {
            deliver(&pair, "m.tar", good);
            pair.expect(2, &["load"]);
        }
        assert_eq!(stored(&pair).await, (34 + 35, 0), "{name}");
        let number = async |bytes: u32| {
            let sql = format!(
                "SELECT file_no FROM ingest_files WHERE name = 'm.tar/m_1.ndjson' AND bytes = {bytes}"
            );
            pair.number(&sql).await.to_string()
        };
        // Each record has eight bytes with its newline.
        let (first, second) = (number(7 * 8).await, number(8 * 8).await);
        pair.expect(0, &["files", "release", &second]);
        assert_eq!(tree(&pair.at("inbound")), ["m_1.ndjson.1"], "{name}");
        pair.expect(2, &["load"]);
        assert_eq!(stored(&pair).await, (34 + 35 + 5, 3), "{name}");
        fs::remove_dir_all(pair.at("quarantine").join("m.tar")).unwrap();
        pair.expect(0, &["files", "release", &first]);
        assert_eq!(tree(&pair.at("inbound")), ["m.tar"], "{name}");
        pair.expect(2, &["load"]);
        assert_eq!(stored(&pair).await, (34 + 35 + 5 + 4, 6), "{name}");
        pair.expect(0, &["verify", "--content"]);
    }
}

/// The dataset of the member, or a value of it, is in its path, which a copy in inbound would not
/// have: the container comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_member_is_released_with_its_path() {
    let column = |more: &str| format!("{{ name = \"a\", type = \"integer\" }}{more}");
    let day = ", { name = \"day\", path = \"day={}\", type = \"integer\" }";
    for (files, columns) in [("day=*/m*", column("")), ("m", column(day))] {
        let pair = Pair::new("memory+sqlite").await;
        let definition = format!(
            "[[datasets]]\nname = \"m\"\nfiles = \"{files}\"\nmax_reject_ratio = 0.25\n\
             columns = [{columns}]\n"
        );
        fs::write(pair.at("lemonade.toml"), definition).unwrap();
        let made = tempfile::tempdir().unwrap();
        write(&made.path().join("day=7/m_1.ndjson"), 4, 3);
        pair.expect(0, &["migrate"]);
        let bytes = shell(made.path(), "tar -cf - day=7");
        fs::write(pair.at("inbound").join("box.tar"), bytes).unwrap();
        pair.expect(2, &["load"]);
        assert_eq!(stored(&pair).await, (0, 0), "{files}");
        pair.expect(0, &["files", "release", "1"]);
        assert_eq!(tree(&pair.at("inbound")), ["box.tar"], "{files}");
        pair.expect(2, &["load"]);
        assert_eq!(stored(&pair).await, (4, 3), "{files}");
        pair.expect(0, &["verify", "--content"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_holds_a_file_over_a_kill_and_loads_it_after_a_release() {
    for name in DATABASES {
        let pair = limited(name).await;
        pair.expect(0, &["migrate"]);
        let addr = free_addr();
        let mut service = Service::start_with_http(&pair, &["run"], &addr);
        write(&pair.at("inbound").join("m_1.ndjson"), 6, 3);
        let held = pair.at("quarantine").join("m_1.ndjson");
        until("the file to be held", LIMIT, async || held.exists()).await;
        write(&pair.at("inbound").join("m_2.ndjson"), 4, 0);
        until("the good file to be stored", LIMIT, async || {
            stored(&pair).await == (4, 0)
        })
        .await;
        until("the metrics of the datasets", LIMIT, async || {
            page(&addr, "/metrics").is_some_and(|(_, text)| {
                text.contains("lemonade_files_quarantined_total{reason=\"too_many_rejects\"} 1")
                    && text.contains("lemonade_expected_every_seconds{dataset=\"m\"} 86400")
                    && text.contains("lemonade_last_settled_timestamp_seconds{dataset=\"m\"} 1")
            })
        })
        .await;
        service.0.kill().unwrap();
        service.0.wait().unwrap();
        let service = Service::start(&pair, &["run"]);
        pair.expect(0, &["files", "release", "1"]);
        until("the released file to be stored", LIMIT, async || {
            stored(&pair).await == (10, 3)
        })
        .await;
        drop(service);
    }
}
