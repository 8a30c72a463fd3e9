//! The service, and stopping it or a load: nothing is lost, and the next run continues.

use std::io::Write as _;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;

use super::{EVENTS, STATUS, generate};
use crate::support;
use crate::support::{Pair, Service, free_addr, names, page, until};

#[tokio::test(flavor = "multi_thread")]
async fn the_service_takes_what_arrives_and_stops_cleanly() {
    for pair in Pair::all().await {
        let inbound = pair.at("inbound");
        pair.expect(0, &["migrate"]);
        // Without a command, the binary does what `run` does.
        let mut service = Service::start(&pair, &[]);

        // The file is written slowly in its place: it must not be taken before its end.
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
async fn the_service_reports_an_inbound_that_cannot_be_read() {
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
async fn the_service_waits_for_its_database_and_reports_it() {
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
async fn a_pause_is_refused_with_the_settings_of_a_process_that_takes_no_files() {
    let pair = Pair::new("redis+sqlite").await;
    for command in ["pause", "resume"] {
        let refused = pair.run(&[command, "--role", "work,summary"]);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(64), "{said}");
        assert!(said.contains("has the roles work,summary, and"), "{said}");
        assert!(said.contains("with the role ingest: run it with"), "{said}");
        assert!(!pair.at("work").exists(), "{command} leaves no marker");
    }
    pair.expect(0, &["pause", "--role", "ingest"]);
    pair.expect(0, &["resume", "--role", "ingest,work"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_service_takes_no_file_until_it_is_resumed() {
    let pair = Pair::new("memory+sqlite").await;
    let limit = Duration::from_secs(30);
    // Paused before the first start: the pause is kept.
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

/// The database answers, and every INSERT ends in a deadlock.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_fail_for_a_minute_make_the_service_unready() {
    let pair = Pair::new("redis+mysql").await;
    pair.expect(0, &["migrate"]);
    pair.query(
        "CREATE TRIGGER refuses BEFORE INSERT ON vehicle_status FOR EACH ROW \
         SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'not today'",
    )
    .await;
    let addr = free_addr();
    let _service = Service::start_with_http(&pair, &["run"], &addr);
    let is = |expected: u16, part: &'static str| {
        let addr = addr.clone();
        async move || {
            let answer = page(&addr, "/readyz");
            answer.is_some_and(|(code, why)| code == expected && why.contains(part))
        }
    };
    let limit = Duration::from_secs(120);
    until("ready", limit, is(200, "")).await;
    std::fs::write(pair.at("inbound").join("vehicle_status.json"), STATUS).unwrap();
    until("not ready, and why", limit, is(503, "not today")).await;
    let status = page(&addr, "/api/status").unwrap().1;
    assert!(status.contains("correct what the reason says"), "{status}");
    pair.query("DROP TRIGGER refuses").await;
    until("ready again", limit, is(200, "")).await;
    until("the file in history", limit, async || {
        names(&pair.at("history")).len() == 1
    })
    .await;
}

/// If the settings of a command name the address of another engine, the command reports it.
#[tokio::test(flavor = "multi_thread")]
async fn commands_for_another_engine_say_so_and_fail() {
    let (pair, other) = (
        Pair::new("memory+sqlite").await,
        Pair::new("memory+sqlite").await,
    );
    let addr = free_addr();
    let _service = Service::start_with_http(&pair, &["run"], &addr);
    until("ready", Duration::from_secs(30), async || {
        page(&addr, "/readyz").is_some_and(|(code, _)| code == 200)
    })
    .await;
    for command in ["status", "pause", "resume", "health"] {
        let ask = |pair: &Pair| {
            pair.command(&[command, "--http-addr", &addr])
                .output()
                .unwrap()
        };
        let theirs = ask(&other);
        let said = String::from_utf8_lossy(&theirs.stderr).into_owned();
        assert_eq!(theirs.status.code(), Some(1), "{command}: {said}");
        let ours = [&pair, &other].map(|pair| pair.at("work").to_str().unwrap().to_owned());
        assert!(
            ours.iter().all(|work| said.contains(work)),
            "{command}: {said}"
        );
        let asked = ask(&pair);
        let resumed = pair.run(&["resume", "--http-addr", &addr]);
        assert_eq!(resumed.status.code(), Some(0), "{resumed:?}");
        assert_eq!(asked.status.code(), Some(0), "{command}: {asked:?}");
    }
    assert!(!other.at("work").exists(), "nothing was made there");
    // Without an engine at the address, they report what the ledger and the directories show.
    other.expect(0, &["status", "--http-addr", &free_addr()]);
    other.expect(0, &["pause", "--http-addr", &free_addr()]);
}

/// Files that load, wait, are bad or are markers: status, page, API and metrics count the same.
#[tokio::test(flavor = "multi_thread")]
async fn status_page_api_and_metrics_count_the_same() {
    let pair = Pair::new("memory+sqlite").await;
    let inbound = pair.at("inbound");
    std::fs::write(inbound.join("vehicle_status_good.json"), STATUS).unwrap();
    std::fs::write(inbound.join("of_no_dataset.json"), "[]").unwrap();
    std::fs::write(inbound.join("vehicle_status_young.json"), "[{").unwrap();
    std::fs::write(inbound.join("_SUCCESS"), "").unwrap();
    let rejects = "{}\n".repeat(1_501);
    std::fs::write(inbound.join("vehicle_status_rejects.json"), rejects).unwrap();
    let addr = free_addr();
    let args = ["run", "--incomplete-after", "1h"];
    let mut service = Service::start_with_http(&pair, &args, &addr);
    let metric = |state: &str| {
        let line = format!("lemonade_files{{state=\"{state}\"}} ");
        let metrics = page(&addr, "/metrics").unwrap_or_default().1;
        let value = metrics.lines().find_map(|text| text.strip_prefix(&line));
        value.map(|value| value.parse::<f64>().unwrap() as u64)
    };
    let expected = [
        ("inbound", 1),
        ("work", 0),
        ("waiting", 1),
        ("quarantine", 1),
    ];
    until("all have ended", Duration::from_secs(60), async || {
        expected
            .iter()
            .all(|(state, files)| metric(state) == Some(*files))
    })
    .await;
    let api: serde_json::Value =
        serde_json::from_str(&page(&addr, "/api/status").unwrap().1).unwrap();
    for (state, files) in expected {
        let key = if state == "waiting" {
            "waiting_files"
        } else {
            state
        };
        assert_eq!(api["files"][key], files, "{state}: {api}");
    }
    // The reasons count all rejects.
    let sum = |status: &serde_json::Value| -> u64 {
        let counts = status["rejects"].as_array().unwrap().iter();
        counts.map(|count| count["records"].as_u64().unwrap()).sum()
    };
    assert_eq!(
        (sum(&api), &api["totals"]["rejects"]),
        (1_501, &1_501.into())
    );
    let text = pair.expect(0, &["status", "--http-addr", &addr]);
    assert!(
        text.contains("1 in inbound, 0 in work, 1 in quarantine"),
        "{text}"
    );
    let html = page(&addr, "/").unwrap().1;
    assert!(html.contains("1 in quarantine"), "{html}");
    // After the service has stopped, `status` counts from the directories and the ledger.
    assert_eq!(service.terminate(), Some(0));
    let json = pair.expect(0, &["status", "--json", "--http-addr", &addr]);
    let left: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((sum(&left), &left["rejects"]), (1_501, &api["rejects"]));
    for state in ["inbound", "work", "quarantine"] {
        assert_eq!(left["files"][state], api["files"][state], "{state}");
    }
}

/// A file of an archive that grows while it is loaded: what was read is stored, and the rest is not
/// passed over in silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_an_archive_that_grows_during_its_load_is_told() {
    let pair = Pair::new("memory+mysql").await;
    generate(
        &pair,
        &["--files", "1", "--records", "3", "--format", "ndjson"],
    );
    let name = names(&pair.at("inbound")).remove(0);
    let archive = pair.at("archive");
    std::fs::create_dir(&archive).unwrap();
    let path = archive.join(&name);
    std::fs::rename(pair.at("inbound").join(&name), &path).unwrap();
    pair.expect(0, &["migrate"]);
    // Another transaction holds the id of the first row, so the load waits for it.
    let mut conn = mysql_async::Conn::from_url(&pair.database_url)
        .await
        .unwrap();
    for sql in [
        "START TRANSACTION",
        "INSERT INTO vehicle_events (id, vehicle_id, event_time, event_source, event_type, \
         event_value, event_extra_data) VALUES (1 << 32, 'v', '2026-01-01', 's', 't', 'x', '{}')",
    ] {
        conn.query_drop(sql).await.unwrap();
    }
    let addr = free_addr();
    let mut load = pair.command(&["load", "--http-addr", &addr, archive.to_str().unwrap()]);
    let load = load.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let parsed = r#"lemonade_records_total{dataset="vehicle_events",outcome="row"} 3"#;
    until(
        "the records are parsed",
        Duration::from_secs(60),
        async || page(&addr, "/metrics").is_some_and(|(_, text)| text.contains(parsed)),
    )
    .await;
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap();
    file.write_all(b"{\"vehicle_id\":\"late\"}\n").unwrap();
    drop(file);
    conn.query_drop("ROLLBACK").await.unwrap();
    let output = load.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("it changed after it was read; what was read is stored as file 1")
            && said.contains("`task_runner load` with its path loads it as another file"),
        "{said}"
    );
    assert_eq!(pair.number("SELECT COUNT(*) FROM vehicle_events").await, 3);
}

/// `load --http-addr` serves metrics and the page until it ends. The address of the environment is
/// that of a service, which may use it meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_visible_over_http_if_it_is_asked_for() {
    let pair = Pair::new("memory+mysql").await;
    let load = |records: u32| {
        generate(&pair, &["--files", "1", "--records", &records.to_string()]);
        ["load"]
    };
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let mut beside = pair.command(&load(10));
    let beside = beside.env("LEMONADE_HTTP_ADDR", &taken).output().unwrap();
    assert_eq!(beside.status.code(), Some(0), "{beside:?}");
    pair.expect(1, &["load", "--http-addr", &taken]);

    // Another transaction holds the id of the next file's first row, so the load waits for it.
    load(3);
    let mut conn = mysql_async::Conn::from_url(&pair.database_url)
        .await
        .unwrap();
    for sql in [
        "START TRANSACTION",
        "INSERT INTO vehicle_events SELECT id + (1 << 32), vehicle_id, event_time, event_source, \
         event_type, event_value, event_extra_data, _rescued FROM vehicle_events WHERE id = 1 << 32",
    ] {
        conn.query_drop(sql).await.unwrap();
    }
    let addr = free_addr();
    let mut service = Service::start_with_http(&pair, &["load", "--http-addr", &addr], "off");
    let parsed = r#"lemonade_records_total{dataset="vehicle_events",outcome="row"} 3"#;
    until(
        "the records are parsed",
        Duration::from_secs(60),
        async || page(&addr, "/metrics").is_some_and(|(_, text)| text.contains(parsed)),
    )
    .await;
    until("the load is ready", Duration::from_secs(60), async || {
        page(&addr, "/readyz").is_some_and(|(code, _)| code == 200)
    })
    .await;
    // Files are counted at intervals.
    until("the file is counted", Duration::from_secs(60), async || {
        let (code, text) = page(&addr, "/api/status").unwrap();
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        code == 200 && status["files"]["work"] == 1
    })
    .await;
    conn.query_drop("ROLLBACK").await.unwrap();
    assert_eq!(service.0.wait().unwrap().code(), Some(0));
    assert!(page(&addr, "/metrics").is_none());
    assert_eq!(pair.number("SELECT COUNT(*) FROM vehicle_events").await, 13);
}
