//! Reads that fail, are interrupted, or return fewer bytes than requested: by libfiu, and for
//! mapped files by a library of the test.

use super::*;

/// The library that replaces `mmap`.
const BAD_SECTOR: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/suite/machine/bad_sector.c"
);

/// A command of the engine whose system calls libfiu makes fail.
fn failing(pair: &Pair, args: &[&str], faults: &str) -> Command {
    let engine = pair.command(args);
    let mut command = Command::new(crate::support::program("fiu-run"));
    // libfiu opens no pipe for changing the faults.
    command.args(["-x", "-f", "", "-c", faults]);
    through(command, &engine)
}

/// EIO, EINTR and short reads of the chunks of a large file, which are read one by one.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_cannot_be_read_at_once_are_read_again() {
    for fault in [
        "posix/io/rw/pread,failinfo=5,probability=0.05",
        "posix/io/rw/pread,failinfo=4,probability=0.2",
        "posix/io/rw/pread/reduce,probability=0.2",
    ] {
        let pair = Pair::new("memory+mysql").await;
        pair.expect(0, &["migrate"]);
        generate(&pair, &["--files", "1", "--records", "60000"]);
        let faults = format!("enable_random name={fault}");
        let output = failing(&pair, &["load"], &faults).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{fault}: {}", said(&output));
        is_loaded_once(&pair, 60_000, 1).await;
    }
}

/// EIO, EINTR and short reads, each for a share of all reads. The files are small enough to be read
/// into memory.
#[tokio::test(flavor = "multi_thread")]
async fn reads_that_fail_or_are_short_cost_a_load_nothing() {
    for fault in [
        "posix/io/rw/read,failinfo=5,probability=0.05",
        "posix/io/rw/read,failinfo=4,probability=0.05",
        "posix/io/rw/read/reduce,probability=0.2",
    ] {
        let pair = Pair::new("memory+mysql").await;
        pair.expect(0, &["migrate"]);
        generate(&pair, &["--files", "300", "--records", "20"]);
        let faults = format!("enable_random name={fault}");
        let output = failing(&pair, &["load"], &faults).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{fault}: {}", said(&output));
        is_loaded_once(&pair, 6_000, 300).await;
    }
}

/// As with a bad sector: the file waits, and is loaded once the disk works.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_device_never_returns_is_quarantined() {
    let pair = Pair::new("memory+mysql").await;
    pair.expect(0, &["migrate"]);
    generate(&pair, &["--files", "2", "--records", "20"]);
    let delivered = names(&pair.at("inbound"));
    let faults = "enable name=posix/io/rw/read,failinfo=5";
    let output = failing(&pair, &["load"], faults).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let quarantine = pair.at("quarantine");
    for name in &delivered {
        let reason = fs::read_to_string(quarantine.join(format!("{name}.reason"))).unwrap();
        assert!(reason.contains("Input/output error"), "{reason}");
    }
    pair.expect(0, &["files", "retry", "--all"]);
    pair.expect(0, &["load"]);
    is_loaded_once(&pair, 40, 2).await;
}

/// The same for a mapped file: only the read of one page fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_mapped_file_that_the_device_never_returns_is_quarantined() {
    let pair = Pair::new("memory+sqlite").await;
    pair.expect(0, &["migrate"]);
    generate(&pair, &["--files", "2", "--records", "20000"]);
    let inbound = pair.at("inbound");
    let name = "vehicle_events_bad_sector.json";
    let delivered = names(&inbound);
    fs::rename(inbound.join(&delivered[0]), inbound.join(name)).unwrap();
    assert!(inbound.join(name).metadata().unwrap().len() > 3 << 20);
    let library = pair.at("bad_sector.so");
    let mut compiler = Command::new(crate::support::program("cc"));
    let compiler = compiler.args(["-shared", "-fPIC", "-o"]).arg(&library);
    assert!(compiler.arg(BAD_SECTOR).status().unwrap().success());
    let mut load = pair.command(&["load"]);
    let output = load.env("LD_PRELOAD", &library).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let reason = pair.at("quarantine").join(format!("{name}.reason"));
    let reason = fs::read_to_string(reason).unwrap();
    assert!(reason.contains("Input/output error"), "{reason}");
    assert_eq!(names(&pair.at("history")), delivered[1..]);
    pair.expect(0, &["files", "retry", "--all"]);
    pair.expect(0, &["load"]);
    is_loaded_once(&pair, 40_000, 2).await;
}

/// Before the service takes a new file, it reads the end of the file. If that read fails, the
/// service takes the file, and the load reports the error.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_a_file_that_cannot_be_read_holds_up_no_file() {
    const WITHIN: Duration = Duration::from_secs(20);
    let pair = Pair::new("memory+mysql").await;
    pair.expect(0, &["migrate"]);
    let faults = "enable name=posix/io/rw/pread,failinfo=5";
    let mut service = failing(&pair, &["run", "--http-addr", "off"], faults);
    let mut service = Service(service.stderr(Stdio::null()).spawn().unwrap());
    generate(&pair, &["--files", "5", "--records", "20"]);
    until("the files in history", WITHIN, async || {
        names(&pair.at("history")).len() == 5
    })
    .await;
    assert_eq!(service.terminate(), Some(0));
    is_loaded_once(&pair, 100, 5).await;
}
