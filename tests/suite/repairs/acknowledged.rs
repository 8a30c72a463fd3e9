//! Problems that an operator has accepted, seen by processes with other directories.

use std::fs;

use super::loaded;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_stays_acknowledged_whatever_the_directories_are() {
    let pair = loaded("memory+sqlite").await;
    fs::remove_file(pair.at("history").join("vehicle_events_2.ndjson")).unwrap();
    let verify = ["verify", "--content", "--file", "2"];
    let said = pair.expect(1, &verify);
    let why = "file 2 vehicle_events_2.ndjson: no file with its bytes in ";
    assert!(said.contains(why), "{said}");
    pair.expect(0, &["files", "acknowledge", "2", "--yes"]);
    pair.expect(0, &verify);
    pair.expect(0, &[&verify[..], &["--quarantine", "elsewhere"]].concat());
}
