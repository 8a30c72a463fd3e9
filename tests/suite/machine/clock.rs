//! A wall clock that jumps: libfaketime changes the wall clock of the engine, but not its monotonic
//! clock.

use super::*;

/// The library, by the name under which the loader of Debian finds it.
const LIBRARY: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";

/// The environment that makes a process read its wall clock from a file each time.
fn with_clock(command: &mut Command, clock: &std::path::Path) {
    command
        .env("LD_PRELOAD", LIBRARY)
        .env("FAKETIME_TIMESTAMP_FILE", clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("NO_FAKE_STAT", "1");
}

/// The year that `date` prints with this clock. Without the library it would be the real one.
fn year(clock: &std::path::Path) -> i32 {
    let mut date = Command::new("date");
    date.args(["-u", "+%Y"]);
    with_clock(&mut date, clock);
    let year = date.output().unwrap().stdout;
    String::from_utf8(year).unwrap().trim().parse().unwrap()
}

/// Sets the clock of processes that were started [`with_clock`].
fn jump(pair: &Pair, to: &str) {
    let aside = pair.at("clock.new");
    fs::write(&aside, to).unwrap();
    fs::rename(&aside, pair.at("clock")).unwrap();
}

/// Starts a service whose clock jumps, and which logs to the file `log`. Returns it with the year.
fn start(pair: &Pair, clock: &str, settings: &[(&str, &str)]) -> (Service, i32) {
    let path = pair.at("clock");
    jump(pair, "+0");
    let now = year(&path);
    jump(pair, "+3y");
    assert!(
        year(&path) >= now + 2,
        "libfaketime is not installed: scripts/test brings it"
    );
    jump(pair, clock);
    let log = fs::File::create(pair.at("log")).unwrap();
    let mut command = pair.command(&["run", "--log-format", "json", "--log-level", "debug"]);
    with_clock(&mut command, &path);
    command
        .env("LEMONADE_HTTP_ADDR", "off")
        .env("LEMONADE_SCAN_INTERVAL", "200ms")
        .env("LEMONADE_SUMMARY_EVERY", "1s")
        .envs(settings.iter().copied())
        .stdout(Stdio::null())
        .stderr(log);
    (Service(command.spawn().unwrap()), now)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_jumps_holds_up_no_file() {
    const JUMPS: [&str; 6] = ["+0", "+5h", "-5h", "+3y", "-3y", "+0"];
    const WITHIN: Duration = Duration::from_secs(10);
    let pair = Pair::new("memory+sqlite").await;
    pair.expect(0, &["migrate"]);
    let (mut service, now) = start(&pair, "+0", &[]);
    for (round, to) in JUMPS.into_iter().enumerate() {
        // One batch is in progress when the clock jumps, and another one arrives later.
        for half in 0..2 {
            let args = ["--files", "5", "--records", "200", "--seed"];
            let seed = (2 * round + half).to_string();
            generate_as(
                &pair,
                &format!("{round}-{half}-"),
                &[&args[..], &[&seed]].concat(),
            );
            if half == 0 {
                jump(&pair, to);
            }
        }
        until(to, WITHIN, async || {
            names(&pair.at("history")).len() == 10 * (round + 1)
        })
        .await;
    }
    assert_eq!(service.terminate(), Some(0));
    is_loaded_once(&pair, 12_000, 60).await;
    let log = fs::read_to_string(pair.at("log")).unwrap();
    let is_of = |year: i32| log.contains(&format!("\"{year}-"));
    assert!(is_of(now - 3) && is_of(now + 3), "the service saw no jump");
    assert!(!log.contains("\"ERROR\""), "{log}");
}

/// By the clock of the host alone, each file would be three years old.
#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_is_ahead_removes_no_file_of_history() {
    // In SQLite, there is no clock but that of the host.
    for (name, clock) in [("memory+mysql", "+3y"), ("memory+sqlite", "+0")] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        let deliver = |number: u32| {
            let seed = number.to_string();
            let args = ["--files", "1", "--records", "100", "--seed", &seed];
            generate_as(&pair, &format!("{number}-"), &args);
        };
        for number in 0..3 {
            deliver(number);
            // One file after the other, so that their order in history is known.
            pair.expect(0, &["load"]);
        }
        let files = names(&pair.at("history"));
        let bytes = fs::metadata(pair.at("history").join(&files[0]))
            .unwrap()
            .len();
        let room_for_two = (bytes * 5 / 2).to_string();
        let settings = [
            ("LEMONADE_HISTORY_MAX_AGE", "90days"),
            ("LEMONADE_HISTORY_MAX_BYTES", &*room_for_two),
        ];
        let (mut service, _) = start(&pair, clock, &settings);
        // A pass that removes a file for its bytes is over.
        let passes = async |count: usize| {
            until("a pass over history", LIMIT * 2, async || {
                let log = fs::read_to_string(pair.at("log")).unwrap();
                log.matches("removed the oldest files of history").count() == count
            })
            .await;
        };
        passes(1).await;
        let kept = |oldest: usize| {
            let found = names(&pair.at("history")).into_iter();
            let numbers = found.map(|name| name.split_once('-').unwrap().0.to_owned());
            let expected = [oldest.to_string(), (oldest + 1).to_string()];
            assert_eq!(numbers.collect::<Vec<_>>(), expected, "{name}");
        };
        kept(1);
        if clock == "+0" {
            jump(&pair, "+3y");
            deliver(3);
            passes(2).await;
            kept(2);
            let log = fs::read_to_string(pair.at("log")).unwrap();
            let told = log
                .matches("the clock of this host has jumped ahead")
                .count();
            assert_eq!(told, 1, "{log}");
        }
        assert_eq!(service.terminate(), Some(0), "{name}");
    }
}
