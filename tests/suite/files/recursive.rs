//! Directories below inbound: their files are taken, and keep their path below it.

use std::fs;

use super::*;

const SETTINGS: &str = "
inbound_recursive = true

[[datasets]]
name = 'trips'
files = 'trips/**/*.json'
columns = [
    { name = 'no', type = 'integer' },
    { name = 'day', path = 'day={}', type = 'integer' },
]
";

fn write(path: &Path, no: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("[{{\"no\": {no}}}]")).unwrap();
}

async fn rows(pair: &Pair) -> Vec<String> {
    let rows = pair
        .query("SELECT day, no FROM trips ORDER BY day, no")
        .await;
    let text = |row: Vec<Option<String>>| row.into_iter().flatten().collect::<Vec<_>>().join(" ");
    rows.into_iter().map(text).collect()
}

async fn history_is(pair: &Pair, expected: &[&str]) {
    let is_it = async || tree(&pair.at("history")) == expected;
    until("history", LIMIT, is_it).await;
}

async fn files_of_directories_keep_their_path(name: &'static str) {
    let pair = Pair::new(name).await;
    fs::write(pair.at("lemonade.toml"), SETTINGS).unwrap();
    let inbound = pair.at("inbound");
    write(&inbound.join("trips/day=1/a.json"), 1);
    write(&inbound.join("trips/.day=9/a.json"), 9);
    let service = Service::start(&pair, &["--scan-interval", "1h"]);
    history_is(&pair, &["trips/day=1/a.json"]).await;

    // A directory that is moved in is seen without a scan, since the one above it is watched.
    write(&pair.at("elsewhere/day=3/a.json"), 1);
    fs::rename(pair.at("elsewhere/day=3"), inbound.join("trips/day=3")).unwrap();
    history_is(&pair, &["trips/day=1/a.json", "trips/day=3/a.json"]).await;
    // Directories that are made during the run, and one that gets its name when it is whole.
    write(&inbound.join("trips/day=2/hour=1/a.json"), 1);
    fs::rename(inbound.join("trips/.day=9"), inbound.join("trips/day=9")).unwrap();
    // Not followed.
    write(&pair.at("elsewhere/day=4/a.json"), 1);
    std::os::unix::fs::symlink(pair.at("elsewhere/day=4"), inbound.join("trips/day=4")).unwrap();
    drop(service);
    let mut service = Service::start(&pair, &[]);
    let days = [
        "trips/day=1/a.json",
        "trips/day=2/hour=1/a.json",
        "trips/day=3/a.json",
        "trips/day=9/a.json",
    ];
    history_is(&pair, &days).await;

    // The same name again, and without the part that a column takes.
    write(&inbound.join("trips/day=1/a.json"), 2);
    write(&inbound.join("trips/other/a.json"), 1);
    let all = [
        "trips/day=1/a.json",
        "trips/day=1/a.json.1",
        "trips/day=2/hour=1/a.json",
        "trips/day=3/a.json",
        "trips/day=9/a.json",
    ];
    history_is(&pair, &all).await;
    let quarantine = ["trips/other/a.json", "trips/other/a.json.reason"];
    until("quarantine", LIMIT, async || {
        tree(&pair.at("quarantine")) == quarantine
    })
    .await;
    let reason = fs::read_to_string(pair.at("quarantine").join(quarantine[1])).unwrap();
    assert!(
        reason.contains("trips/other/a.json has no such part"),
        "{reason}"
    );
    assert_eq!(rows(&pair).await, ["1 1", "1 2", "2 1", "3 1", "9 9"]);
    service.terminate();
    assert_eq!(tree(&inbound), ["trips/day=4"]);
    assert!(
        inbound.join("trips/day=2/hour=1").is_dir(),
        "it is the producer's"
    );
    pair.expect(0, &["verify"]);
    pair.expect(0, &["verify", "--content"]);

    // Back to inbound and again to history, from quarantine and from history.
    pair.expect(0, &["files", "retry", "trips/other/a.json"]);
    assert_eq!(tree(&inbound), ["trips/day=4", "trips/other/a.json"]);
    let listed = pair.expect(0, &["files", "list"]);
    let line = listed.lines().find(|line| line.contains("hour=1")).unwrap();
    assert!(line.contains("trips/day=2/hour=1/a.json"), "{listed}");
    let file_no = line.split_whitespace().next().unwrap();
    pair.expect(0, &["files", "reload", file_no, "--yes"]);
    assert!(inbound.join("trips/day=2/hour=1/a.json").exists());
    let planned = pair.expect(0, &["load", "--dry-run"]);
    assert!(planned.contains("hour=1/a.json"), "{planned}");
    pair.expect(2, &["load"]);
    assert_eq!(tree(&pair.at("history")), all);
    assert_eq!(tree(&pair.at("quarantine")), quarantine);
    pair.expect(0, &["verify", "--content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_directories_keep_their_path_in_sqlite() {
    files_of_directories_keep_their_path("memory+sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_directories_keep_their_path_through_redis_in_mariadb() {
    files_of_directories_keep_their_path("redis+mysql").await;
}

/// After a kill, files are in work with their path, and the next start goes on with them. A file whose
/// name is taken in work has its own name nevertheless.
#[tokio::test(flavor = "multi_thread")]
async fn files_in_work_keep_their_path_over_a_kill() {
    let pair = embedded().await;
    fs::write(pair.at("lemonade.toml"), SETTINGS).unwrap();
    write(&pair.at("inbound").join("trips/day=1/a.json"), 1);
    pair.expect(0, &["load"]);
    write(&pair.at("work").join("trips/day=2/a.json"), 1);
    write(&pair.at("work").join(".again-1/trips/day=2/a.json"), 2);
    pair.expect(0, &["load"]);
    assert_eq!(rows(&pair).await, ["1 1", "2 1", "2 2"]);
    assert_eq!(
        tree(&pair.at("history")),
        [
            "trips/day=1/a.json",
            "trips/day=2/a.json",
            "trips/day=2/a.json.1"
        ]
    );
    assert_eq!(tree(&pair.at("work")), [""; 0]);
    pair.expect(0, &["verify", "--content"]);
    // Without the setting, directories are passed over.
    fs::write(pair.at("lemonade.toml"), SETTINGS.replace("true", "false")).unwrap();
    write(&pair.at("inbound").join("trips/day=3/a.json"), 1);
    pair.expect(0, &["load"]);
    assert_eq!(rows(&pair).await.len(), 3);
}
