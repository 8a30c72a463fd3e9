//! The service, and stopping it or a load: nothing is lost, and the next run continues.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::{EVENTS, STATUS, generate};
use crate::support;
use crate::support::{Pair, Service, free_addr, names, page, until};

#[tokio::test(flavor = "multi_thread")]
async fn the_service_takes_what_arrives_and_stops_cleanly() {
    for pair in Pair::all().await {
        let inbound = pair.at("inbound");
        pair.expect(0, &["migrate"]);
        // No command is `run`.
        let mut service = Service::start(&pair, &[]);

        // Written slowly in place: it must not be taken before its end.
        let slow = inbound.join("vehicle_events_slow.json");
        let mut writer = std::fs::File::create(&slow).unwrap();
        for part in EVENTS.as_bytes().chunks(200) {
            writer.write_all(part).unwrap();
            writer.flush().unwrap();
            tokio::time::sleep(Duration::from_millis(150)).await;
            assert!(slow.exists(), "a file is taken while it is written");
        }
        drop(writer);
        // Written elsewhere and renamed to inbound.
        let elsewhere = pair.at("elsewhere.json");
        std::fs::write(&elsewhere, STATUS).unwrap();
        std::fs::rename(&elsewhere, inbound.join("vehicle_status_renamed.json")).unwrap();

        until(
            "both files in history",
            Duration::from_secs(30),
            async || names(&pair.at("history")).len() == 2,
        )
        .await;
        assert_eq!(pair.number("SELECT COUNT(*) FROM vehicle_events").await, 3);
        assert_eq!(pair.number("SELECT COUNT(*) FROM vehicle_status").await, 3);
        assert_eq!(service.terminate(), Some(0), "{}: a clean stop", pair.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_says_so_where_inbound_cannot_be_read() {
    let pair = Pair::new("memory+sqlite").await;
    let inbound = pair.at("inbound");
    let addr = free_addr();
    let mut service = Service::start_with_http(&pair, &["run", "--scan-interval", "100ms"], &addr);
    let limit = Duration::from_secs(30);
    let is_ready = |expected: u16| {
        let addr = addr.clone();
        async move || page(&addr, "/readyz").is_some_and(|(code, _)| code == expected)
    };
    until("ready", limit, is_ready(200)).await;
    std::fs::rename(&inbound, pair.at("away")).unwrap();
    until("not ready without inbound", limit, is_ready(503)).await;
    let (_, reason) = page(&addr, "/readyz").unwrap();
    assert!(reason.contains("inbound"), "{reason}");
    std::fs::rename(pair.at("away"), &inbound).unwrap();
    until("ready with it", limit, is_ready(200)).await;
    assert_eq!(service.terminate(), Some(0));
}

/// The log names a file whose move fails, and the outcome of the others.
#[tokio::test(flavor = "multi_thread")]
async fn status_names_a_file_that_cannot_be_moved_and_the_log_what_moved() {
    let pair = Pair::new("memory+sqlite").await;
    let inbound = pair.at("inbound");
    let addr = free_addr();
    let errors = pair.at("errors");
    let mut command = pair.command(&["run", "--http-addr", &addr, "--scan-interval", "100ms"]);
    command
        .env("LEMONADE_LOG", "info,lemonade_task::ingest=debug")
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(&errors).unwrap());
    let mut service = Service(command.spawn().unwrap());
    let limit = Duration::from_secs(30);
    let is_ready = || page(&addr, "/readyz").is_some_and(|(code, _)| code == 200);
    until("ready", limit, async || is_ready()).await;
    let history = pair.at("history");
    std::fs::rename(&history, pair.at("away")).unwrap();
    std::fs::write(&history, "no directory").unwrap();
    std::fs::write(inbound.join("vehicle_status_stuck.json"), STATUS).unwrap();
    until("its name in the status", limit, async || {
        let status = page(&addr, "/api/status").unwrap().1;
        status.contains("cannot be moved out of work") && status.contains("_stuck.json")
    })
    .await;
    std::fs::remove_file(&history).unwrap();
    std::fs::rename(pair.at("away"), &history).unwrap();
    std::fs::write(inbound.join("vehicle_status_again.json"), STATUS).unwrap();
    until("both files in history", limit, async || {
        names(&history).len() == 2
    })
    .await;
    assert_eq!(service.terminate(), Some(0));
    let said = std::fs::read_to_string(&errors).unwrap();
    for (file, what) in [
        ("_stuck.json", "registered"),
        ("_stuck.json", "settled"),
        ("_again.json", "is a duplicate"),
    ] {
        let is_said = |line: &str| line.contains(file) && line.contains(what);
        assert!(said.lines().any(is_said), "{file} {what}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_waits_for_its_database_and_says_so() {
    let mut database = support::private_mariadb().await;
    let mut pair = Pair::new("memory+mysql").await;
    pair.database_url.clone_from(&database.url);
    std::fs::write(pair.at("inbound").join("vehicle_status.json"), STATUS).unwrap();
    database.kill();
    let addr = free_addr();
    let mut service = Service::start_with_http(&pair, &["run"], &addr);
    let is_ready = |expected: u16| {
        let addr = addr.clone();
        async move || page(&addr, "/readyz").is_some_and(|(code, _)| code == expected)
    };
    let limit = Duration::from_secs(30);
    until("not ready, with no database", limit, is_ready(503)).await;
    assert_eq!(page(&addr, "/livez").unwrap().0, 200);
    let (_, reason) = page(&addr, "/readyz").unwrap();
    assert!(reason.contains("database"), "{reason}");

    database.restart().await;
    until("ready, with a database", limit, is_ready(200)).await;
    until("the file in history", limit, async || {
        names(&pair.at("history")).len() == 1
    })
    .await;

    database.kill();
    until("not ready again", limit, is_ready(503)).await;
    database.restart().await;
    until("ready again", limit, is_ready(200)).await;
    let metrics = page(&addr, "/metrics").unwrap().1;
    let committed = "lemonade_rows_committed_total{dataset=\"vehicle_status\"} 3";
    assert!(metrics.contains(committed), "{metrics}");
    assert_eq!(service.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_is_taken_while_the_disk_is_below_the_floor() {
    let pair = Pair::new("memory+sqlite").await;
    let file = pair.at("inbound").join("vehicle_status.json");
    std::fs::write(&file, STATUS).unwrap();
    let addr = free_addr();
    let limit = Duration::from_secs(30);
    let mut service = Service::start_with_http(&pair, &["run", "--disk-floor", "1PiB"], &addr);
    until("a reason for taking no file", limit, async || {
        page(&addr, "/readyz")
            .is_some_and(|(code, why)| code == 503 && why.contains("less than disk_floor"))
    })
    .await;
    assert!(file.exists());
    assert_eq!(service.terminate(), Some(0), "a paused service stops, too");

    let _service = Service::start_with_http(&pair, &["run"], &addr);
    until("the file in history", limit, async || {
        names(&pair.at("history")).len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_service_takes_no_file_until_it_is_resumed() {
    let pair = Pair::new("memory+sqlite").await;
    let limit = Duration::from_secs(30);
    // Before the first start: the pause is kept.
    assert!(pair.expect(0, &["pause"]).contains("resume"));
    pair.expect(0, &["pause"]);
    let addr = free_addr();
    let mut service = Service::start_with_http(&pair, &["run"], &addr);
    let gauge = |value: &'static str| {
        let addr = addr.clone();
        async move || {
            let line = format!("\nlemonade_paused {value}\n");
            page(&addr, "/metrics").is_some_and(|(_, metrics)| metrics.contains(&line))
        }
    };
    until("the gauge says so", limit, gauge("1")).await;
    std::fs::write(pair.at("inbound").join("vehicle_status.json"), STATUS).unwrap();
    until("it is seen in inbound", limit, async || {
        page(&addr, "/metrics")
            .is_some_and(|(_, metrics)| metrics.contains("\nlemonade_files{state=\"inbound\"} 1\n"))
    })
    .await;
    let status = page(&addr, "/api/status").unwrap().1;
    assert!(status.contains("task_runner resume"), "{status}");
    assert_eq!(names(&pair.at("work")), [""; 0]);

    pair.expect(0, &["resume"]);
    until("the file in history", limit, async || {
        names(&pair.at("history")).len() == 1
    })
    .await;
    until("the gauge says so again", limit, gauge("0")).await;
    assert_eq!(service.terminate(), Some(0));
    pair.expect(0, &["pause"]);
    std::fs::write(pair.at("inbound").join("vehicle_events.json"), EVENTS).unwrap();
    pair.expect(0, &["load"]);
    assert_eq!(
        names(&pair.at("history")).len(),
        2,
        "a load loads all the same"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_loses_nothing_and_the_next_run_finishes() {
    for name in ["memory+sqlite", "redis+mysql"] {
        let pair = Pair::new(name).await;
        let inbound = pair.at("inbound");
        let dir = inbound.to_str().unwrap().to_owned();
        let args = ["generate", "--dir", &dir, "--dataset", "vehicle_events"];
        pair.expect(
            0,
            &[&args[..], &["--files", "40", "--records", "2000"]].concat(),
        );
        let mut killed = 0;
        for _ in 0..4 {
            let mut service = Service::start(&pair, &["run"]);
            until(
                "a first file in history",
                Duration::from_secs(60),
                async || !names(&pair.at("history")).is_empty(),
            )
            .await;
            if service.0.try_wait().unwrap().is_none() {
                service.0.kill().unwrap();
                killed += 1;
            }
            service.0.wait().unwrap();
        }
        assert_eq!(killed, 4);
        pair.expect(0, &["load"]);
        assert_eq!(
            pair.number("SELECT COUNT(*) FROM vehicle_events").await,
            80_000
        );
        assert_eq!(names(&pair.at("history")).len(), 40, "{name}");
        assert_eq!(pair.number("SELECT COUNT(*) FROM ingest_frames").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_leaves_at_once_and_the_next_load_finishes() {
    for name in ["memory+sqlite", "redis+mysql"] {
        let pair = Pair::new(name).await;
        generate(&pair, &["--files", "60", "--records", "2000"]);
        let mut load = Service::start(&pair, &["load"]);
        until(
            "a first file in history",
            Duration::from_secs(60),
            async || !names(&pair.at("history")).is_empty(),
        )
        .await;
        // Two different signals, because a pending signal is not queued twice.
        load.signal(rustix::process::Signal::INT);
        load.signal(rustix::process::Signal::TERM);
        let began = Instant::now();
        let code = load.0.wait().unwrap().code();
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{name}: it went on"
        );
        assert_eq!(code, Some(75), "{name}: stopped before the end");
        pair.expect(0, &["load"]);
        assert_eq!(
            pair.number("SELECT COUNT(*) FROM vehicle_events").await,
            120_000
        );
        assert_eq!(names(&pair.at("history")).len(), 60, "{name}");
    }
}
