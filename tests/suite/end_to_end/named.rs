//! A load of named files that is stopped, and what the next one does with the files that it has left.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use super::faults::ended;
use super::generate;
use crate::support::{Pair, Service, files_below, names, until};

const LIMIT: Duration = Duration::from_secs(30);

/// Starts a load of these paths that takes many seconds, and interrupts it once a file is in work.
async fn interrupted(pair: &Pair, paths: &[&str]) {
    let slow = ["--max-records-per-second", "400"];
    let mut load = Service(
        pair.command(&[&["load"], paths, &slow].concat())
            .spawn()
            .unwrap(),
    );
    until("a file in work", LIMIT, async || {
        let is_json = |file: &PathBuf| file.extension().is_some_and(|it| it == "json");
        files_below(&pair.at("work")).iter().any(is_json)
    })
    .await;
    load.signal(Signal::INT);
    assert_eq!(ended(&mut load).await, Some(75), "{}", pair.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_command_goes_on_with_a_file_of_inbound_that_a_stop_left_in_work() {
    for name in ["memory+sqlite", "redis+mysql"] {
        let pair = Pair::new(name).await;
        generate(&pair, &["--files", "1", "--records", "20000", "--bad", "0"]);
        let file = names(&pair.at("inbound")).remove(0);
        let path = pair.at("inbound").join(&file);
        let path = path.to_str().unwrap();
        interrupted(&pair, &[path]).await;
        assert_eq!(names(&pair.at("inbound")), [""; 0], "{name}");
        let relative = format!("inbound/{file}");
        pair.expect(0, &["load", &relative]);
        assert_eq!(names(&pair.at("history")), [file], "{name}");
        let rows = pair.number("SELECT COUNT(*) FROM vehicle_events").await;
        assert_eq!(rows, 20_000, "{name}");
        // A file that is nowhere is still an error.
        pair.expect(66, &["load", &relative]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_of_other_files_goes_on_with_what_a_stop_left_in_work() {
    let pair = Pair::new("memory+sqlite").await;
    generate(&pair, &["--files", "2", "--records", "20000", "--bad", "0"]);
    let inbound = pair.at("inbound");
    let archive = pair.at("archive");
    std::fs::create_dir(&archive).unwrap();
    let [first, second] = names(&inbound).try_into().unwrap();
    std::fs::rename(inbound.join(&second), archive.join(&second)).unwrap();
    interrupted(&pair, &[&format!("inbound/{first}")]).await;
    // Its name says its dataset.
    std::fs::write(pair.at("status.json"), "[]").unwrap();
    pair.expect(0, &["load", "status.json", "--dataset", "vehicle_status"]);
    assert_eq!(files_below(&pair.at("work")).len(), 1, "it stays");
    pair.expect(0, &["load", "archive"]);
    assert_eq!(names(&pair.at("history")), [first]);
    assert_eq!(names(&archive), [second]);
    let rows = pair.number("SELECT COUNT(*) FROM vehicle_events").await;
    assert_eq!(rows, 40_000);
    pair.expect(0, &["verify", "--content"]);
}
