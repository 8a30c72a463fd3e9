//! Containers: tar and zip archives, as real tools make them. Each member is a file of its own.

use std::fs;

use super::*;
use crate::support::{free_addr, page, program};

/// The command that writes a container, and the outcome: the number of rows, or words of the reason.
/// `one` and `d/two` have ten records each, and `NAME` stands before the names of all files.
const TABLE: [(&str, Result<u64, &str>); 41] = [
    ("tar -cf - one d", Ok(20)),
    ("tar --format=ustar -cf - ./one ./d", Ok(20)),
    ("tar --format=posix -cf - one d", Ok(20)),
    ("tar --format=posix -cf - long*", Ok(10)),
    ("tar --format=gnu -cf - long*", Ok(10)),
    ("tar -czf - one d", Ok(20)),
    ("tar -cf - one d | zstd -q --long=26", Ok(20)),
    ("tar -cjf - one d", Ok(20)),
    ("tar -cJf - one d", Ok(20)),
    ("tar -cf - one d | lz4 -q", Ok(20)),
    ("gzip one; tar -cf - one.gz d", Ok(20)),
    ("cp one same; tar -cf - one same", Ok(10)),
    ("tar -cf - one .hidden", Ok(10)),
    ("tar -b 1 -cf - one", Ok(10)),
    ("zip -q -r - one d", Ok(20)),
    ("zip -q -0 -r - one d", Ok(20)),
    ("zip -q -9 -r x.zip one d; cat x.zip", Ok(20)),
    ("python3 -m zipfile -c x.zip one d; cat x.zip", Ok(20)),
    ("python3 -m tarfile -c x.tar one d; cat x.tar", Ok(20)),
    ("zip -q -r x.zip one d; gzip -c x.zip", Ok(20)),
    (
        "zip -q -r x.zip one d; echo why | zip -q -z x.zip; cat x.zip",
        Ok(20),
    ),
    ("zip -q -fz -r x.zip one d; cat x.zip", Ok(20)),
    (
        "zip -q x.zip one; zip -q -r y.zip d; cat x.zip y.zip",
        Err("its first member begins at byte"),
    ),
    (
        "zip -q x.zip one; cat x.zip x.zip",
        Err("if archives were joined, deliver each on its own"),
    ),
    (
        "zip -q -fz x.zip one; cat x.zip x.zip",
        Err("Invalid end of central directory"),
    ),
    (
        "zip -q x.zip one; echo x >>x.zip; cat x.zip",
        Err("data follows its end at byte"),
    ),
    (
        "zip -q x.zip one; (head -c 4 x.zip; cat x.zip) >y.zip; zip -q -A y.zip; cat y.zip",
        Err("its first member begins at byte 4, and not at byte 0"),
    ),
    ("zip -q -P x - one", Err("its member `one` is encrypted")),
    ("zip -q -Z bzip2 - one", Err("compressed by the method 12")),
    (
        "zip -q - one | head -c 200",
        Err("zip archive is damaged or cut short"),
    ),
    (
        "ln -s one l; zip -q -y x.zip one l; cat x.zip",
        Err("its member `l` is a symbolic link"),
    ),
    (
        "ln -s one l; tar -cf - one l",
        Err("its member `l` is a symbolic link"),
    ),
    (
        "ln one l; tar -cf - l one",
        Err("its member `one` is a hard link"),
    ),
    ("mkfifo p; tar -cf - one p", Err("its member `p` is a pipe")),
    (
        "truncate -s 1M s; echo >>s; tar -Scf - s",
        Err("pack it again without --sparse"),
    ),
    (
        "truncate -s 1M s; echo >>s; tar --format=posix -Scf - s",
        Err("without --sparse"),
    ),
    (
        "tar -Pcf - d/../one",
        Err("its member `d/../one` leads out of its directory"),
    ),
    ("tar -Pcf - $PWD/one", Err("has an absolute path")),
    (
        "tar -cf - one d | head -c 2000",
        Err("tar archive is damaged or cut short"),
    ),
    (
        "tar -cf x one; tar -rf x one; cat x",
        Err("it has the member `one` twice"),
    ),
    (
        "tar -cf x one; tar -cf y d; cat x y",
        Err("data follows its end"),
    ),
];

fn records(prefix: &str, count: usize) -> String {
    let record = |n| record(format!("{prefix}-{n}")) + "\n";
    (0..count).map(record).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_other_tools_load_or_their_member_is_named() {
    for tool in ["zstd", "bzip2", "xz", "lz4", "zip", "tar", "python3"] {
        program(tool);
    }
    let pair = embedded().await;
    // The names of the members are short, so that each script is.
    let definition = "[[datasets]]\nname = 'own'\nfiles = '*'\ncolumns = [
        { name = 'status', type = 'text' },
    ]\n";
    fs::write(pair.at("lemonade.toml"), definition).unwrap();
    pair.expect(0, &["migrate"]);
    for (at, (script, becomes)) in TABLE.iter().enumerate() {
        let made = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let text = records(&format!("{at}-{name}"), 10);
            fs::write(made.path().join(name), text).unwrap();
        };
        fs::create_dir(made.path().join("d")).unwrap();
        for name in ["one", "d/two", ".hidden"] {
            put(name);
        }
        put(&format!("long{}", "x".repeat(150)));
        let name = format!("{at}.box");
        fs::write(pair.at("inbound").join(&name), shell(made.path(), script)).unwrap();
        let count = async || pair.number("SELECT COUNT(*) FROM own").await;
        let before = count().await;
        match becomes {
            Ok(expected) => {
                pair.expect(0, &["load"]);
                assert_eq!(count().await - before, *expected, "{script}");
                assert!(pair.at("history").join(&name).is_file(), "{script}");
            }
            Err(words) => {
                pair.expect(2, &["load"]);
                let reason = pair.at("quarantine").join(format!("{name}.reason"));
                let reason = fs::read_to_string(reason).unwrap();
                assert!(reason.contains(words), "{script}: {reason}");
                assert_eq!(count().await, before, "{script}: no member is stored");
            }
        }
    }
    assert!(tree(&pair.at("work")).is_empty());
    pair.expect(0, &["verify"]);
    pair.expect(0, &["verify", "--content"]);
}

/// A container in inbound with members for two datasets, with bad ones and equal ones.
fn put_mixed(pair: &Pair, name: &str) {
    let made = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = made.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("day/vehicle_status_1.json", &records("one", 300));
    put("day/vehicle_status_2.json", &records("two", 3));
    put("vehicle_status_same.json", &records("two", 3));
    let event = r#"{"vehicle_id":"v","event_time":"2024-01-01T00:00:00Z","event_source":"s","event_type":"t","event_value":"1"}"#;
    put(
        "vehicle_events.json",
        &format!("{event}\n{{\"vehicle_id\":1}}\n"),
    );
    put("vehicle_status_bad.json", "[1, 2");
    put("README", "for nobody");
    put("in/vehicle_status_inner.json", &records("inner", 5));
    let script = "tar -C in -cf inner.tar . && rm -r in && tar -cf - *";
    let bytes = shell(made.path(), script);
    fs::write(pair.at("inbound").join(name), bytes).unwrap();
}

const COPIES: [&str; 6] = [
    "m.tar/README",
    "m.tar/README.reason",
    "m.tar/inner.tar",
    "m.tar/inner.tar.reason",
    "m.tar/vehicle_status_bad.json",
    "m.tar/vehicle_status_bad.json.reason",
];

async fn mixed_is_loaded(pair: &Pair) {
    assert_eq!(rows(pair).await, 303);
    assert_eq!(pair.number("SELECT COUNT(*) FROM vehicle_events").await, 1);
    assert_eq!(pair.number("SELECT COUNT(*) FROM ingest_rejects").await, 1);
    assert_eq!(tree(&pair.at("history")), ["m.tar"]);
    assert_eq!(tree(&pair.at("quarantine")), COPIES);
    assert!(tree(&pair.at("work")).is_empty() && tree(&pair.at("inbound")).is_empty());
}

async fn file_no(pair: &Pair, name: &str) -> String {
    let sql = format!("SELECT file_no FROM ingest_files WHERE name = '{name}'");
    pair.number(&sql).await.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_member_is_copied_to_quarantine_and_the_container_goes_to_history() {
    let pair = embedded().await;
    put_mixed(&pair, "m.tar");
    let planned = pair.expect(0, &["load", "--dry-run"]);
    assert!(
        planned.contains("m.tar/README") && planned.contains("7 files"),
        "{planned}"
    );
    let checked = pair.expect(2, &["check", "inbound/m.tar"]);
    assert!(checked.contains("m.tar/vehicle_events.json"), "{checked}");
    let report = pair.expect(2, &["load"]);
    mixed_is_loaded(&pair).await;
    assert!(
        report.contains("duplicates") && report.contains("quarantined"),
        "{report}"
    );
    let reason = |name: &str| fs::read_to_string(pair.at("quarantine").join(name)).unwrap();
    for (name, words) in [
        (COPIES[1], "no dataset takes it"),
        (COPIES[3], "a tar archive within an archive"),
        (COPIES[5], "the array of records does not close"),
    ] {
        assert!(reason(name).contains(words), "{}", reason(name));
    }
    pair.expect(0, &["verify", "--content"]);
    // The container again, whole: nothing is new, and no copy is made twice.
    let stored = pair.at("history").join("m.tar");
    fs::copy(stored, pair.at("inbound").join("m.tar")).unwrap();
    pair.expect(2, &["load"]);
    assert_eq!(tree(&pair.at("quarantine")), COPIES);
    assert_eq!(tree(&pair.at("history")), ["m.tar", "m.tar.1"]);
    assert_eq!(rows(&pair).await, 303);
    // An archive in the container is loaded on its own.
    pair.expect(0, &["files", "retry", "m.tar/inner.tar"]);
    pair.expect(0, &["load"]);
    assert_eq!(rows(&pair).await, 308);
    assert_eq!(tree(&pair.at("history")), ["inner.tar", "m.tar", "m.tar.1"]);
    pair.expect(0, &["verify", "--content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_a_member_are_found_in_history() {
    let pair = embedded().await;
    put_mixed(&pair, "m.tar");
    pair.expect(2, &["load"]);
    let one = file_no(&pair, "m.tar/day/vehicle_status_1.json").await;
    let first: u64 = one.parse::<u64>().unwrap() << 32;
    let traced = pair.expect(0, &["trace", &first.to_string()]);
    assert!(
        traced.contains("one-0") && traced.contains("m.tar/day/"),
        "{traced}"
    );
    let rejects = pair.expect(0, &["rejects", "export"]);
    assert!(rejects.contains("vehicle_id"), "{rejects}");
    // Rows that are lost are stored again.
    pair.execute(&format!(
        "DELETE FROM vehicle_status WHERE id = {}",
        first + 7
    ))
    .await;
    pair.expect(1, &["verify"]);
    pair.expect(0, &["files", "restore", &one]);
    assert_eq!(rows(&pair).await, 303);
    pair.expect(0, &["verify", "--content"]);
    // A member is loaded again with its container.
    pair.expect(0, &["files", "reload", &one, "--yes"]);
    assert_eq!(tree(&pair.at("inbound")), ["m.tar"]);
    pair.expect(2, &["load"]);
    mixed_is_loaded(&pair).await;
    pair.expect(0, &["verify", "--content"]);
    // A container that was edited is named for its members.
    let path = pair.at("history").join("m.tar");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|at| at == b"one-0").unwrap();
    bytes[at] = b'O';
    fs::write(&path, bytes).unwrap();
    let told = pair.expect(1, &["verify"]);
    assert!(
        told.contains("does not have the bytes that were loaded"),
        "{told}"
    );
}

/// The states in which a kill leaves a container: in work, with none, some or all of its members
/// stored, and with the copies in quarantine or without.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_loaded_once_whatever_a_kill_leaves() {
    let pair = embedded().await;
    put_mixed(&pair, "m.tar");
    pair.expect(0, &["migrate"]);
    let to_work = |from: &str| {
        fs::rename(pair.at(from).join("m.tar"), pair.at("work").join("m.tar")).unwrap();
    };
    fs::create_dir_all(pair.at("work")).unwrap();
    to_work("inbound");
    pair.expect(2, &["load"]);
    mixed_is_loaded(&pair).await;
    // All members are stored, and the container has not moved.
    to_work("history");
    pair.expect(2, &["load"]);
    mixed_is_loaded(&pair).await;
    // One member is stored in part, one not at all, and one copy is missing.
    to_work("history");
    let one = file_no(&pair, "m.tar/day/vehicle_status_1.json").await;
    let two = file_no(&pair, "m.tar/day/vehicle_status_2.json").await;
    let from: u64 = (one.parse::<u64>().unwrap() << 32) + 100;
    for statement in [
        format!(
            "UPDATE ingest_files SET state = 'pending', settled_at = NULL WHERE file_no = {one}"
        ),
        format!("DELETE FROM ingest_frames WHERE file_no = {one}"),
        format!("INSERT INTO ingest_frames VALUES ({one}, 0, 100)"),
        format!("DELETE FROM vehicle_status WHERE id >= {from} AND id < {from} + 1000"),
    ] {
        pair.execute(&statement).await;
    }
    pair.expect(0, &["files", "forget", &two, "--yes"]);
    fs::remove_file(pair.at("quarantine").join(COPIES[0])).unwrap();
    assert_eq!(rows(&pair).await, 100);
    pair.expect(2, &["load"]);
    mixed_is_loaded(&pair).await;
    pair.expect(0, &["verify", "--content"]);
}

/// A load of a container with many members is killed again and again, later each time.
#[tokio::test(flavor = "multi_thread")]
async fn kills_in_the_middle_of_a_container_cost_no_record() {
    let pair = Pair::new("redis+mysql").await;
    let made = tempfile::tempdir().unwrap();
    for file in 0..300 {
        let name = format!("vehicle_status_{file:03}.json");
        fs::write(made.path().join(name), records(&file.to_string(), 100)).unwrap();
    }
    fs::write(made.path().join("vehicle_status_bad.json"), "[").unwrap();
    let bytes = shell(made.path(), "tar -czf - *");
    fs::write(pair.at("inbound").join("m.tar.gz"), bytes).unwrap();
    pair.expect(0, &["migrate"]);
    let mut kills = 0;
    for stored in [0, 1, 5_000, 15_000, 25_000, 30_000] {
        let mut load = pair
            .command(&["load"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("rows", LIMIT, async || {
            rows(&pair).await >= stored || load.try_wait().unwrap().is_some()
        })
        .await;
        kills += u32::from(load.try_wait().unwrap().is_none());
        load.kill().unwrap();
        load.wait().unwrap();
    }
    assert!(kills >= 2, "{kills} kills in the middle");
    let code = pair.run(&["load"]).status.code();
    // 0 if the last load that was killed had ended.
    assert!(matches!(code, Some(0 | 2)), "{code:?}");
    assert_eq!(rows(&pair).await, 30_000);
    assert_eq!(tree(&pair.at("history")), ["m.tar.gz"]);
    let bad = "m.tar.gz/vehicle_status_bad.json";
    assert_eq!(
        tree(&pair.at("quarantine")),
        [bad.to_owned(), format!("{bad}.reason")]
    );
    assert!(tree(&pair.at("work")).is_empty());
    pair.expect(0, &["verify", "--content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_loads_containers_as_they_arrive() {
    let pair = Pair::new("redis+mysql").await;
    let mut service = Service::start(&pair, &[]);
    for name in ["m.tar", "n.tar"] {
        put_mixed(&pair, name);
        let is_there = async || pair.at("history").join(name).exists();
        until("history", LIMIT, is_there).await;
    }
    assert_eq!(rows(&pair).await, 303);
    service.terminate();
    assert!(tree(&pair.at("work")).is_empty());
    pair.expect(0, &["verify", "--content"]);
}

/// A member of another content was begun, so the container waits for an operator, and is read again
/// after a pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_waits_counts_each_member_once() {
    let pair = embedded().await;
    let deliver = |files: &[(&str, String)]| {
        let made = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(made.path().join(name), text).unwrap();
        }
        // Renamed, so that the service takes it once as a whole.
        let path = pair.at("quarantine").with_file_name("m.tar");
        fs::write(&path, shell(made.path(), "tar -cf - *")).unwrap();
        fs::rename(path, pair.at("inbound").join("m.tar")).unwrap();
    };
    let waits = "vehicle_status_1.json";
    deliver(&[(waits, records("former", 3))]);
    pair.expect(0, &["load"]);
    fs::remove_file(pair.at("history").join("m.tar")).unwrap();
    for statement in [
        "UPDATE ingest_files SET state = 'pending', settled_at = NULL",
        "INSERT INTO ingest_frames VALUES (1, 0, 3)",
    ] {
        pair.execute(statement).await;
    }
    let addr = free_addr();
    let service = Service::start_with_http(&pair, &["run"], &addr);
    deliver(&[
        (waits, records("new", 3)),
        ("vehicle_status_2.json", records("good", 5)),
        ("vehicle_status_bad.json", "[1, 2".to_owned()),
    ]);
    let mut metrics = String::new();
    until("the container to be read again", LIMIT, async || {
        metrics = page(&addr, "/metrics").map_or(String::new(), |(_, text)| text);
        let is_back = tree(&pair.at("inbound")) == ["m.tar"];
        // More than twice if a scan took it between its move to inbound and the note of its pause.
        let taken = "lemonade_files_discovered_total{via=\"scan\"} ";
        let taken = metrics.lines().find_map(|line| line.strip_prefix(taken));
        is_back && taken.is_some_and(|times| times.parse::<u64>().is_ok_and(|times| times >= 2))
    })
    .await;
    drop(service);
    assert_eq!(rows(&pair).await, 3 + 5);
    let counted = |name: &str| -> Vec<&str> {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.filter(|line| !line.ends_with(" 0")).collect()
    };
    assert_eq!(
        counted("lemonade_files_quarantined_total"),
        ["lemonade_files_quarantined_total{reason=\"incomplete\"} 1"]
    );
    let mut ends = counted("lemonade_files_settled_total");
    ends.sort_unstable();
    let of = |outcome: &str| {
        format!(
            "lemonade_files_settled_total{{dataset=\"vehicle_status\",outcome=\"{outcome}\"}} 1"
        )
    };
    assert_eq!(ends, [of("quarantined"), of("settled")]);
}

/// A container of an archive stays in its place, and its members are found there.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_an_archive_is_loaded_in_its_place() {
    let pair = embedded().await;
    put_mixed(&pair, "m.tar");
    let archive = pair.at("archive");
    fs::create_dir(&archive).unwrap();
    fs::rename(pair.at("inbound").join("m.tar"), archive.join("m.tar")).unwrap();
    for _ in 0..2 {
        pair.expect(2, &["load", archive.to_str().unwrap()]);
        assert_eq!(rows(&pair).await, 303);
        assert_eq!(tree(&archive), ["m.tar"]);
        assert!(tree(&pair.at("quarantine")).is_empty());
    }
    let one = file_no(&pair, "m.tar/day/vehicle_status_1.json").await;
    pair.execute("DELETE FROM vehicle_status").await;
    pair.expect(0, &["files", "restore", &one]);
    assert_eq!(rows(&pair).await, 300);
}
