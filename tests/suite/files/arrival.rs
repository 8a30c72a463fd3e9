//! How a running service is notified of files, and what it does without notifications.

use std::fs::OpenOptions;

use rustix::process::Signal;

use super::*;
use crate::support::{free_addr, page};

/// A service with an address for its metrics and its readiness.
async fn service(pair: &Pair, through: &[&str], settings: &[(&str, &str)]) -> (Service, String) {
    pair.expect(0, &["migrate"]);
    // The service creates its directories, but a test may need them before.
    pair.at("inbound");
    let addr = free_addr();
    let settings: Vec<String> = settings
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .chain([format!("LEMONADE_HTTP_ADDR={addr}")])
        .collect();
    let mut with_settings = through.to_vec();
    with_settings.push("env");
    with_settings.extend(settings.iter().map(String::as_str));
    let service = Service(start(pair, &with_settings, &["run"]));
    until("the service to be ready", LIMIT, async || {
        page(&addr, "/readyz").is_some_and(|(code, _)| code == 200)
    })
    .await;
    (service, addr)
}

fn metric(addr: &str, name: &str) -> u64 {
    let (_, metrics) = page(addr, "/metrics").unwrap();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} in {metrics}"))
        .parse()
        .unwrap()
}

/// Whether the service reports that it waits for a file for this reason.
fn waits(addr: &str, name: &str, why: &str) -> bool {
    let Some((_, status)) = page(addr, "/api/status") else {
        return false;
    };
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let waiting = status["files"]["waiting"].as_array().unwrap();
    waiting
        .iter()
        .any(|file| file["name"] == name && file["why"] == why)
}

/// The watches of a process, as inode numbers.
fn watched(service: &Service) -> Vec<u64> {
    let folder = format!("/proc/{}/fdinfo", service.0.id());
    let infos = fs::read_dir(folder).unwrap().flatten();
    let infos: Vec<String> = infos
        .filter_map(|info| fs::read_to_string(info.path()).ok())
        .collect();
    infos
        .iter()
        .flat_map(|info| info.lines())
        .filter(|line| line.starts_with("inotify "))
        .filter_map(|line| line.split(' ').find_map(|word| word.strip_prefix("ino:")))
        .map(|inode| u64::from_str_radix(inode, 16).unwrap())
        .collect()
}

/// The kernel drops events that do not fit into the queue of a process that does not read them. The
/// overflow event is the last one that fits. Only this event leads to the good file, because the
/// next periodic scan is an hour away.
#[tokio::test(flavor = "multi_thread")]
async fn dropped_notifications_are_noticed_and_the_scan_finds_the_files() {
    let pair = embedded().await;
    let hourly = [("LEMONADE_SCAN_INTERVAL", "1h")];
    let (mut service, addr) = service(&pair, &["env"], &hourly).await;
    assert_eq!(metric(&addr, "lemonade_watcher_overflows_total"), 0);
    let inbound = pair.at("inbound");
    service.stop();
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: usize = queue.trim().parse().unwrap();
    // Two names in turn, because the kernel merges an event with an equal one before it.
    let noise = ["one.tmp", "two.tmp"].map(|name| inbound.join(name));
    for number in 0..queue {
        fs::write(&noise[number % 2], "").unwrap();
    }
    put_good(&pair);
    service.signal(Signal::CONT);
    until("the good file in history", LIMIT, async || {
        names(&pair.at("history")) == ["vehicle_status_good.json"]
    })
    .await;
    assert!(metric(&addr, "lemonade_watcher_overflows_total") >= 1);
    assert_eq!(good_rows(&pair).await, 1);
    assert_eq!(service.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbound_that_is_removed_and_made_again_is_scanned_and_watched() {
    let pair = embedded().await;
    let often = [("LEMONADE_SCAN_INTERVAL", "200ms")];
    let (mut service, addr) = service(&pair, &["env"], &often).await;
    let inbound = pair.at("inbound");
    let inode = fs::metadata(&inbound).unwrap().ino();
    assert_eq!(watched(&service), [inode]);
    // Kept open, so that the new directory cannot have the same inode number.
    let old = File::open(&inbound).unwrap();
    fs::remove_dir_all(&inbound).unwrap();
    until("no watch", LIMIT, async || watched(&service).is_empty()).await;
    put_good(&pair);
    until("the good file in history", LIMIT, async || {
        names(&pair.at("history")) == ["vehicle_status_good.json"]
    })
    .await;
    let inode = fs::metadata(&inbound).unwrap().ino();
    assert_ne!(inode, old.metadata().unwrap().ino());
    until("the new watch", LIMIT, async || {
        watched(&service) == [inode]
    })
    .await;
    assert_eq!(good_rows(&pair).await, 1);
    assert_eq!(page(&addr, "/readyz").unwrap().0, 200);
    assert_eq!(service.terminate(), Some(0));
}

/// No inotify instance is available, in a separate user namespace.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_can_watch_nothing_scans_and_says_so() {
    let pair = embedded().await;
    let no_watch = "echo 0 >/proc/sys/user/max_inotify_instances && exec \"$@\"";
    let through = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        no_watch,
        "sh",
    ];
    let often = [("LEMONADE_SCAN_INTERVAL", "200ms")];
    let (mut service, _) = service(&pair, &through, &often).await;
    put_good(&pair);
    until("the good file in history", LIMIT, async || {
        names(&pair.at("history")) == ["vehicle_status_good.json"]
    })
    .await;
    assert_eq!(watched(&service), [0; 0]);
    let said = BufReader::new(service.0.stderr.take().unwrap());
    assert_eq!(service.terminate(), Some(0));
    let said: Vec<String> = said.lines().map(Result::unwrap).collect();
    let says = said
        .iter()
        .filter(|line| line.contains("it is scanned instead"));
    assert_eq!(says.count(), 1, "once, not at every scan: {said:?}");
}

/// One writer keeps the file open through its pause, the other closes it and comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_pauses_in_the_middle_is_waited_for() {
    let pair = embedded().await;
    let settings = [
        ("LEMONADE_SCAN_INTERVAL", "100ms"),
        ("LEMONADE_INCOMPLETE_AFTER", "1h"),
    ];
    let (mut service, addr) = service(&pair, &["env"], &settings).await;
    let inbound = pair.at("inbound");
    let first = format!("[{},", record("good"));
    let kept = inbound.join("vehicle_status_kept.json");
    let mut writer = File::create(&kept).unwrap();
    writer.write_all(first.as_bytes()).unwrap();
    let closed = inbound.join("vehicle_status_closed.json");
    fs::write(&closed, &first).unwrap();
    until("both to wait", LIMIT, async || {
        let closed = "the document is not complete yet";
        waits(
            &addr,
            "vehicle_status_kept.json",
            "it is still being written",
        ) && waits(&addr, "vehicle_status_closed.json", closed)
    })
    .await;
    let second = format!("{}]", record("good"));
    writer.write_all(second.as_bytes()).unwrap();
    drop(writer);
    let mut writer = OpenOptions::new().append(true).open(&closed).unwrap();
    writer.write_all(second.as_bytes()).unwrap();
    drop(writer);
    // The same bytes are the same file in the ledger: both files are in history, and the records
    // are stored once.
    until("both in history", LIMIT, async || {
        names(&pair.at("history")).len() == 2
    })
    .await;
    assert_eq!((good_rows(&pair).await, rows(&pair).await), (2, 2));
    assert_eq!(names(&pair.at("quarantine")), [""; 0]);
    assert_eq!(service.terminate(), Some(0));
}

/// The mtime of a file is set by its writer. One far in the future or before the epoch does not
/// delay the file.
#[tokio::test]
async fn files_of_any_time_load() {
    let pair = embedded().await;
    put_good(&pair);
    let second = Duration::from_secs(1);
    let now = std::time::SystemTime::now();
    let times = [
        now + second * 86_400 * 365 * 50,
        std::time::UNIX_EPOCH,
        std::time::UNIX_EPOCH - second * 86_400 * 365 * 60,
    ];
    for (number, time) in times.into_iter().enumerate() {
        let path = pair
            .at("inbound")
            .join(format!("vehicle_status_{number}.json"));
        fs::write(&path, format!("[{}]", record(number))).unwrap();
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), time);
    }
    pair.expect(0, &["load"]);
    assert_eq!(rows(&pair).await, 4);
    assert_eq!(names(&pair.at("history")).len(), 4);
}

/// More files wait than are listed. The number counts all of them.
#[tokio::test(flavor = "multi_thread")]
async fn all_files_that_wait_are_counted() {
    const FILES: u64 = 130;
    let pair = embedded().await;
    let settings = [
        ("LEMONADE_SCAN_INTERVAL", "200ms"),
        ("LEMONADE_INCOMPLETE_AFTER", "1h"),
    ];
    let (mut service, addr) = service(&pair, &["env"], &settings).await;
    let inbound = pair.at("inbound");
    for number in 0..FILES {
        let name = format!("vehicle_status_{number}.json");
        fs::write(inbound.join(name), "[{").unwrap();
    }
    put_good(&pair);
    until("the metric", LIMIT, async || {
        let (_, metrics) = page(&addr, "/metrics").unwrap();
        metrics.contains("lemonade_files{state=\"waiting\"} 130\n")
    })
    .await;
    let (_, status) = page(&addr, "/api/status").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let files = &status["files"];
    assert_eq!(files["waiting_files"], FILES, "{files}");
    assert_eq!(files["waiting"].as_array().unwrap().len(), 20, "{files}");
    until("the headline", LIMIT, async || {
        let (_, status) = page(&addr, "/api/status").unwrap();
        status.contains("\"Waiting with 130 files\"")
    })
    .await;
    assert_eq!(good_rows(&pair).await, 1);
    assert_eq!(service.terminate(), Some(0));
}

/// Hidden files and `.reason` files do not count as files of quarantine, but a `.reason` without
/// its file does.
#[tokio::test(flavor = "multi_thread")]
async fn the_files_in_quarantine_are_counted() {
    let pair = embedded().await;
    let quarantine = pair.at("quarantine");
    fs::create_dir(&quarantine).unwrap();
    for name in ["a.json", "a.json.reason", "b.json.reason", ".hidden"] {
        fs::write(quarantine.join(name), "x").unwrap();
    }
    let (mut service, addr) = service(&pair, &["env"], &[]).await;
    until("the metric", LIMIT, async || {
        let (_, metrics) = page(&addr, "/metrics").unwrap();
        metrics.contains("lemonade_files{state=\"quarantine\"} 2\n")
    })
    .await;
    assert_eq!(service.terminate(), Some(0));
}
