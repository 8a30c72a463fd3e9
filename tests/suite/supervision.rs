//! The supervision of a running service: systemd over its socket, health checks, a terminal.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::support;
use crate::support::{Pair, Service, free_addr, page, until};

const LIMIT: Duration = Duration::from_secs(60);

/// A service that reports to a socket of the test instead of systemd.
fn supervised(pair: &Pair, addr: &str) -> (Service, UnixDatagram) {
    let path = pair.at("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut command = pair.command(&["run"]);
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000")
        .env("LEMONADE_HTTP_ADDR", addr)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    (Service(command.spawn().unwrap()), socket)
}

/// All messages up to and including one with this beginning.
fn messages_until(socket: &UnixDatagram, begin: &str) -> Vec<String> {
    let mut told = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).expect(begin);
        told.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        if told.last().unwrap().starts_with(begin) {
            return told;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_notified_of_ready_alive_and_stopping() {
    let pair = Pair::new("memory+sqlite").await;
    let (mut service, socket) = supervised(&pair, "off");
    messages_until(&socket, "READY=1");
    messages_until(&socket, "STATUS=ready");
    let beats = (0..5).map(|_| messages_until(&socket, "WATCHDOG=1").len());
    assert_eq!(
        beats.sum::<usize>(),
        5,
        "no other message comes while nothing changes"
    );
    service.signal(rustix::process::Signal::TERM);
    messages_until(&socket, "STOPPING=1");
    assert_eq!(service.0.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_waits_for_the_database_and_a_stopped_process_sends_no_heartbeat() {
    let mut database = support::private_mariadb().await;
    let mut pair = Pair::new("memory+mysql").await;
    pair.database_url.clone_from(&database.url);
    database.kill();
    let addr = free_addr();
    let (service, socket) = supervised(&pair, &addr);
    let before = messages_until(&socket, "STATUS=not ready: database unavailable");
    let early = |message: &String| message.starts_with("READY") || message.starts_with("WATCHDOG");
    assert!(!before.iter().any(early), "{before:?}");
    let health = pair.run(&["health", "--http-addr", &addr]);
    assert_eq!(health.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&health.stderr).contains("database unavailable"));

    database.restart().await;
    messages_until(&socket, "READY=1");
    until("health", LIMIT, async || {
        pair.run(&["health", "--http-addr", &addr]).status.code() == Some(0)
    })
    .await;
    let history = |addr: &str| -> Value {
        serde_json::from_str(&page(addr, "/api/status").unwrap().1).unwrap()
    };
    // The page also shows outages from before the first connection.
    let outage = &history(&addr)["outages"][0];
    assert_eq!(outage["trouble"], "database");
    assert!(outage["ended_seconds_ago"].as_f64().is_some(), "{outage}");

    // A hang, as seen from outside: no watchdog message arrives.
    messages_until(&socket, "WATCHDOG=1");
    service.stop();
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    while socket.recv(&mut buffer).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    assert!(
        socket.recv(&mut buffer).is_err(),
        "a stopped process sent a heartbeat"
    );
    service.signal(rustix::process::Signal::CONT);
    messages_until(&socket, "WATCHDOG=1");
}

/// `systemctl status` shows it while systemd waits for the next start.
#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_why_a_service_cannot_start() {
    let mut pair = Pair::new("memory+sqlite").await;
    pair.database_url = "nosuch://host/vehicles".to_owned();
    let (mut service, socket) = supervised(&pair, "off");
    let messages = messages_until(&socket, "STATUS=DATABASE_URL:");
    assert!(!messages.iter().any(|it| it.starts_with("READY")));
    let why = messages.last().unwrap();
    assert!(why.contains("nosuch"), "{why}");
    assert_eq!(service.0.wait().unwrap().code(), Some(78));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_reports_that_no_service_answers() {
    let pair = Pair::new("memory+sqlite").await;
    let health = pair.run(&["health", "--http-addr", &free_addr()]);
    assert_eq!(health.status.code(), Some(1));
    let said = String::from_utf8_lossy(&health.stderr);
    assert!(said.contains("no service answers"), "{said}");
    assert!(said.contains("; start `task_runner`, or set"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_watch_follows_the_service_and_what_it_leaves() {
    let pair = Pair::new("memory+sqlite").await;
    let addr = free_addr();
    let mut service = Service::start_with_http(&pair, &["run"], &addr);
    until("readiness", LIMIT, async || {
        page(&addr, "/readyz").is_some_and(|(code, _)| code == 200)
    })
    .await;
    let watch = [
        "status",
        "--watch",
        "--interval",
        "100ms",
        "--http-addr",
        &addr,
    ];
    let mut json = pair.command(&[&watch[..], &["--json"]].concat());
    let mut json = Service(json.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(json.0.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["state"], "idle");
    assert_eq!(next()["running"], true);
    assert_eq!(service.terminate(), Some(0));
    // If no service runs, the status comes from the ledger.
    while next()["state"] != "stopped" {}
    assert_eq!(json.terminate(), Some(0));

    let mut text = pair.command(&watch);
    let mut text = Service(text.stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(text.0.stdout.take().unwrap()).lines();
    let engines = lines
        .map(Result::unwrap)
        .filter(|line| line.starts_with("engine "));
    let seen: BTreeSet<String> = engines.take(3).collect();
    assert_eq!(Vec::from_iter(seen), ["engine    not running"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_watch_draws_on_a_terminal_and_ends_with_q() {
    let pair = Pair::new("memory+sqlite").await;
    // `script` provides a terminal. The key is typed after the first picture.
    let binary = env!("CARGO_BIN_EXE_task_runner");
    let mut shell = pair.command(&[]);
    let command = format!("{binary} status --watch --interval 100ms --http-addr off");
    shell.args(["-qec", &command, "/dev/null"]);
    let mut shell = as_program(&shell, "script");
    let mut watch = Service(
        shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut shown = BufReader::new(watch.0.stdout.take().unwrap());
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("q to quit") {
        assert_ne!(shown.read_until(b'\n', &mut seen).unwrap(), 0);
        if seen.len() > 1 << 16 {
            break;
        }
    }
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(seen.starts_with("\u{1b}[?1049h"), "{seen:?}");
    assert!(seen.contains("engine    not running"), "{seen:?}");
    std::io::Write::write_all(watch.0.stdin.as_mut().unwrap(), b"q").unwrap();
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut shown, &mut rest).unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("\u{1b}[?1049l"));
    assert_eq!(watch.0.wait().unwrap().code(), Some(0));
}

#[test]
fn the_unit_is_understood_and_leaves_the_service_few_rights() {
    let unit = include_str!("../../deploy/task_runner.service");
    let binary = env!("CARGO_BIN_EXE_task_runner");
    let unit = unit.replace("/usr/bin/task_runner", binary);
    // The user of the service does not exist on this machine.
    let unit = unit.replace("=lemonade", "=daemon");
    let folder = support::folder();
    let path = folder.path().join("task_runner.service");
    std::fs::write(&path, unit).unwrap();
    let analyze = |args: &[&str]| {
        let mut command = std::process::Command::new(support::program("systemd-analyze"));
        let output = command.args(args).arg(&path).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    // The manual page that the unit names comes with the package.
    assert_eq!(analyze(&["--man=no", "verify"]), (true, String::new()));
    // The exposure level that systemd-analyze prints, times ten (at most 100).
    let (few, table) = analyze(&["security", "--offline=true", "--threshold=17"]);
    assert!(few, "{table}");
}

#[test]
fn the_containers_share_two_gigabytes_and_tell_their_health() {
    let compose = include_str!("../../deploy/compose.yaml");
    let services = compose.split("\nvolumes:").next().unwrap();
    let is_service =
        |line: &&str| line.starts_with("  ") && !line.starts_with("   ") && line.ends_with(':');
    assert_eq!(services.lines().filter(is_service).count(), 5);
    for each in ["    healthcheck:", "    restart: unless-stopped"] {
        assert_eq!(
            services.lines().filter(|line| *line == each).count(),
            5,
            "{each}"
        );
    }
    let limits = services
        .lines()
        .filter_map(|line| line.strip_prefix("    mem_limit: "));
    let limits: Vec<u32> = limits
        .map(|limit| limit.strip_suffix('m').unwrap().parse().unwrap())
        .collect();
    assert_eq!((limits.len(), limits.iter().sum()), (5, 2_048));
    // The ports of the containers are published on this machine only.
    let published = services
        .lines()
        .filter_map(|line| line.strip_prefix("      - \"127.0.0.1:"));
    assert_eq!(published.count(), 3, "the page, Prometheus, Grafana");
}

#[test]
fn prometheus_finds_the_engine_after_its_container_is_created_again() {
    let compose = include_str!("../../deploy/compose.yaml");
    assert!(!compose.contains("network_mode"));
    assert!(compose.contains("./prometheus.compose.yml:/etc/prometheus/prometheus.yml:ro"));
    assert!(compose.contains("PROMETHEUS_URL: http://prometheus:9090"));
    // The engine listens on an address that other containers can reach.
    let image = include_str!("../../deploy/Containerfile");
    assert!(image.contains("LEMONADE_HTTP_ADDR=0.0.0.0:9464"));
    assert!(!compose.contains("LEMONADE_HTTP_ADDR"));
    // Everything else equals the configuration for a machine.
    let statements = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    let on_a_machine = include_str!("../../deploy/prometheus.yml");
    assert_eq!(
        statements(include_str!("../../deploy/prometheus.compose.yml")),
        statements(&on_a_machine.replace("127.0.0.1:9464", "engine:9464"))
    );
}

/// The same arguments and environment for another program.
pub fn as_program(command: &std::process::Command, program: &str) -> std::process::Command {
    let mut other = std::process::Command::new(program);
    other.args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            other.env(name, value);
        }
    }
    if let Some(dir) = command.get_current_dir() {
        other.current_dir(dir);
    }
    other
}

/// The driver panics in a login if the server sends an invalid key.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_makes_the_driver_panic_does_not_end_the_process() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let greeting = b"\x56\0\0\0\x0a8.0.0\0\x01\0\0\0saltsalt\0\x08\xa2\x2d\x02\0\x08\0\x15\
            \0\0\0\0\0\0\0\0\0\0saltsaltsalt\0caching_sha2_password\0";
        let greeting = [&[greeting.len() as u8 - 4][..], &greeting[1..]].concat();
        for client in listener.incoming() {
            let mut client = client.unwrap();
            // The write fails if the client has already disconnected.
            for bytes in [&greeting[..], b"\x02\0\0\x02\x01\x04", b"\x01\0\0\x04\x01"] {
                let sent = client.write_all(bytes);
                let _ = sent.and_then(|()| client.read(&mut [0; 1024]));
            }
        }
    });
    let mut pair = Pair::new("memory+sqlite").await;
    pair.database_url = format!("mysql://u:secret@127.0.0.1:{port}/d");
    let output = pair.run(&["doctor"]);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("the driver cannot handle"), "{said}");
    assert!(!said.contains("this is a bug"), "{said}");
}
