//! The same content more than once: as another file, or as a second link to one file.

use super::*;

/// The number of duplicates in the report of a load.
fn duplicates(report: &str) -> u32 {
    let line = report.lines().find(|line| line.contains("duplicates"));
    let (_, count) = line.unwrap().rsplit_once(' ').unwrap();
    count.parse().unwrap()
}

/// Three files with the same content, in inbound at the same time and again later: one is stored,
/// the others are reported as duplicates and go to history.
#[tokio::test]
async fn the_same_content_twice_is_stored_once_and_reported() {
    let pair = embedded().await;
    put_good(&pair);
    let text = format!("[{},{}]", record("one"), record("two"));
    let put = |name: &str| fs::write(pair.at("inbound").join(name), &text).unwrap();
    for name in ["vehicle_status_a.json", "vehicle_status_b.json"] {
        put(name);
    }
    let report = pair.expect(0, &["load"]);
    assert_eq!(duplicates(&report), 1, "{report}");
    put("vehicle_status_c.json");
    let report = pair.expect(0, &["load"]);
    assert_eq!(duplicates(&report), 1, "{report}");
    assert_eq!(rows(&pair).await, 3);
    let settled = "SELECT COUNT(*) FROM ingest_files WHERE state = 'settled'";
    assert_eq!(pair.number(settled).await, 2);
    let history = names(&pair.at("history"));
    let all = ["a", "b", "c", "good"].map(|name| format!("vehicle_status_{name}.json"));
    assert_eq!(history, all);
    for name in &all[..3] {
        let kept = fs::read_to_string(pair.at("history").join(name)).unwrap();
        assert_eq!(kept, text, "{name}");
    }
}

/// A file that holds nothing is loaded, as often as one arrives.
#[tokio::test]
async fn a_file_without_records_is_no_duplicate() {
    for content in ["", "\n \n", "[]", "{\"vehicle_status\":[]}"] {
        let pair = embedded().await;
        let put = |number: u32| {
            let name = format!("vehicle_status_{number}.json");
            fs::write(pair.at("inbound").join(name), content).unwrap();
        };
        // Two at the same time, and another one later.
        for numbers in [1..3, 3..4] {
            numbers.for_each(put);
            let report = pair.expect(0, &["load"]);
            assert_eq!(duplicates(&report), 0, "{content:?}: {report}");
        }
        assert_eq!(names(&pair.at("history")).len(), 3, "{content:?}");
    }
}

/// A file with a second hard link is taken like any other, unless a setting makes it wait.
#[tokio::test]
async fn a_hard_link_loads_or_waits_as_the_operator_says() {
    let pair = embedded().await;
    let inbound = pair.at("inbound");
    let put = |status: &str| {
        let outside = pair.at(status);
        fs::write(&outside, format!("[{}]", record(status))).unwrap();
        let name = format!("vehicle_status_{status}.json");
        fs::hard_link(&outside, inbound.join(name)).unwrap();
        outside
    };
    put("taken");
    pair.expect(0, &["load"]);
    assert_eq!(rows(&pair).await, 1);
    assert_eq!(names(&pair.at("history")), ["vehicle_status_taken.json"]);

    let outside = put("waits");
    put_good(&pair);
    let output = pair.run(&["load", "--hard-links", "wait"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "{said}");
    assert!(said.contains("it has another name"), "{said}");
    assert_eq!(names(&inbound), ["vehicle_status_waits.json"]);
    assert_eq!((good_rows(&pair).await, rows(&pair).await), (1, 2));

    // Like a producer that delivers by link and unlink: two names exist only for a moment.
    fs::remove_file(outside).unwrap();
    pair.expect(0, &["load", "--hard-links", "wait"]);
    assert_eq!(names(&inbound), [""; 0]);
    assert_eq!(rows(&pair).await, 3);
}
