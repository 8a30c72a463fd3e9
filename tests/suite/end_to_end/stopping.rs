//! How a process ends under a backlog, and what SIGHUP means to it.

use std::fs::{self, File};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::*;
use crate::support::{self, Service, until};

const LIMIT: Duration = Duration::from_secs(60);

const SMALL_FILES: u64 = 300;
const SMALL_RECORDS: u64 = 500;
const LARGE_RECORDS: u64 = 200_000;

/// Two seconds, the commits under way, and a machine that has other things to do.
const STOP_LIMIT: Duration = Duration::from_secs(8);

async fn files_begun(pair: &Pair) -> u64 {
    pair.number("SELECT COUNT(*) FROM ingest_files").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_a_backlog_begins_no_file_and_is_quick() {
    for (name, command, signal, code) in [
        ("memory+sqlite", "run", Signal::TERM, 0),
        ("redis+mysql", "run", Signal::INT, 0),
        ("memory+sqlite", "load", Signal::HUP, 75),
        ("redis+mysql", "load", Signal::TERM, 75),
    ] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        let large = LARGE_RECORDS.to_string();
        generate(&pair, &["--files", "1", "--records", &large, "--seed", "2"]);
        let inbound = pair.at("inbound");
        for name in names(&inbound) {
            fs::rename(inbound.join(&name), inbound.join(format!("large-{name}"))).unwrap();
        }
        let (files, records) = (SMALL_FILES.to_string(), SMALL_RECORDS.to_string());
        generate(&pair, &["--files", &files, "--records", &records]);
        let mut process = Service::start(&pair, &[command]);
        let rows = "SELECT COUNT(*) FROM vehicle_events";
        until("the first rows", LIMIT, async || {
            pair.number(rows).await > 0
        })
        .await;
        process.signal(signal);
        let signalled = Instant::now();
        // A file that is being read at that moment is left in work.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let begun = files_begun(&pair).await;
        let ended = process.0.wait().unwrap().code();
        let took = signalled.elapsed();
        assert_eq!(ended, Some(code), "{name} {command}");
        assert!(took < STOP_LIMIT, "{name} {command}: {took:?}");
        assert_eq!(
            files_begun(&pair).await,
            begun,
            "{name} {command}: a file was begun"
        );
        let all = SMALL_FILES * SMALL_RECORDS + LARGE_RECORDS;
        let stored = pair.number(rows).await;
        assert!(stored < all, "{name} {command}: the stop came too late");

        pair.expect(0, &["load"]);
        assert_eq!(pair.number(rows).await, all, "{name} {command}");
        let history = names(&pair.at("history")).len() as u64;
        assert_eq!(history, SMALL_FILES + 1, "{name} {command}");
    }
}

/// As the log says: "signal again to exit now".
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_load_within_seconds_and_a_third_at_once() {
    for (is_third, limit) in [(false, 6), (true, 3)] {
        let mut database = support::private_mariadb().await;
        let mut pair = Pair::new("memory+mysql").await;
        pair.database_url.clone_from(&database.url);
        pair.expect(0, &["migrate"]);
        generate(&pair, &["--files", "60", "--records", "2000"]);
        let mut load = Service::start(&pair, &["load"]);
        let rows = "SELECT COUNT(*) FROM vehicle_events";
        until("the first rows", LIMIT, async || {
            pair.number(rows).await > 0
        })
        .await;
        database.pause();
        let signalled = Instant::now();
        // Different signals, because a pending signal is not queued twice.
        load.signal(Signal::INT);
        load.signal(Signal::TERM);
        if is_third {
            tokio::time::sleep(Duration::from_millis(300)).await;
            load.signal(Signal::INT);
        }
        let code = load.0.wait().unwrap().code();
        let took = signalled.elapsed();
        assert_eq!(code, Some(75), "third: {is_third}");
        assert!(
            took < Duration::from_secs(limit),
            "third: {is_third}: {took:?}"
        );

        database.resume();
        pair.expect(0, &["load"]);
        assert_eq!(pair.number(rows).await, 120_000);
        pair.expect(0, &["verify", "--content"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_makes_a_service_reload_its_settings() {
    let pair = Pair::new("memory+sqlite").await;
    let config = pair.at("settings.toml");
    let write = |text: &str| fs::write(&config, text).unwrap();
    write("log_level = 'warn'\nincomplete_after = '1h'\nscan_interval = '1h'\n");
    let log = pair.at("log");
    let mut command = pair.command(&["run", "--config", config.to_str().unwrap()]);
    command
        .env("LEMONADE_HTTP_ADDR", "off")
        .stdout(Stdio::null());
    command.stderr(File::create(&log).unwrap());
    fs::write(pair.at("inbound").join("vehicle_status_a.json"), "[{").unwrap();
    let mut service = Service(command.spawn().unwrap());
    let logged = |part: &'static str| {
        let log = log.clone();
        async move || fs::read_to_string(&log).unwrap().contains(part)
    };
    fs::write(pair.at("inbound").join("vehicle_status_b.json"), STATUS).unwrap();
    let in_history = async || names(&pair.at("history")).len() == 1;
    until("the whole file", LIMIT, in_history).await;
    assert_eq!(names(&pair.at("inbound")), ["vehicle_status_a.json"]);

    // An invalid settings file changes nothing.
    write("incomplete_after = '0s'\nincomplete_befor = '0s'\n");
    service.signal(Signal::HUP);
    until(
        "it is refused",
        LIMIT,
        logged("the settings are not reloaded"),
    )
    .await;
    write("log_level = 'loud=very'\n");
    service.signal(Signal::HUP);
    until("the second one is refused, too", LIMIT, logged("loud=very")).await;

    write("log_level = 'info'\nincomplete_after = '0s'\nscan_interval = '100ms'\nworkers = 7\n");
    service.signal(Signal::HUP);
    until(
        "the valid settings are applied",
        LIMIT,
        logged("the settings are reloaded"),
    )
    .await;
    until(
        "what is not",
        LIMIT,
        logged("take effect at the next start"),
    )
    .await;
    assert!(fs::read_to_string(&log).unwrap().contains("workers"));
    // The next scan is still an hour away, unless a file arrives.
    fs::write(pair.at("inbound").join("vehicle_status_c.json"), "[{").unwrap();
    until(
        "two files and their reasons in quarantine",
        LIMIT,
        async || names(&pair.at("inbound")).is_empty() && names(&pair.at("quarantine")).len() == 4,
    )
    .await;
    assert_eq!(service.terminate(), Some(0));
}
