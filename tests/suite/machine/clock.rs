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

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_jumps_holds_up_no_file() {
    const JUMPS: [&str; 6] = ["+0", "+5h", "-5h", "+3y", "-3y", "+0"];
    const WITHIN: Duration = Duration::from_secs(10);
    let pair = Pair::new("memory+sqlite").await;
    pair.expect(0, &["migrate"]);
    let clock = pair.at("clock");
    let jump = |to: &str| {
        let aside = pair.at("clock.new");
        fs::write(&aside, to).unwrap();
        fs::rename(&aside, &clock).unwrap();
    };
    jump("+0");
    let now = year(&clock);
    jump("+3y");
    assert!(
        year(&clock) >= now + 2,
        "libfaketime is not installed: scripts/test brings it"
    );
    jump("+0");
    let log = fs::File::create(pair.at("log")).unwrap();
    let mut command = pair.command(&["run", "--log-format", "json", "--log-level", "debug"]);
    with_clock(&mut command, &clock);
    command
        .env("LEMONADE_HTTP_ADDR", "off")
        .env("LEMONADE_SCAN_INTERVAL", "200ms")
        .env("LEMONADE_SUMMARY_EVERY", "1s")
        .stdout(Stdio::null())
        .stderr(log);
    let mut service = Service(command.spawn().unwrap());
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
                jump(to);
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
