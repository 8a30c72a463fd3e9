//! Too little memory: the kernel kills a process that uses too much.

use std::io::{BufWriter, Write as _};

use super::*;

/// A memory cgroup of either version with a limit. Dropping the value removes it.
struct Cgroup {
    folder: PathBuf,
    /// The file that counts the processes killed by the kernel.
    kills: &'static str,
}

impl Cgroup {
    /// # Panics
    /// If it cannot be created: then this machine cannot run the test.
    fn new(name: &str, bytes: u64) -> Self {
        let v2 = PathBuf::from("/sys/fs/cgroup");
        let v1 = v2.join("memory");
        let controllers = fs::read_to_string(v2.join("cgroup.controllers")).unwrap_or_default();
        let (place, kills, limits) = if controllers.split_whitespace().any(|one| one == "memory") {
            must(fs::write(v2.join("cgroup.subtree_control"), "+memory"));
            let limits = [("memory.max", bytes), ("memory.swap.max", 0)];
            (v2, "memory.events", limits)
        } else {
            assert!(
                v1.is_dir(),
                "no memory cgroup here, of neither version: this test needs one"
            );
            let limits = [("memory.limit_in_bytes", bytes), ("memory.swappiness", 0)];
            (v1, "memory.oom_control", limits)
        };
        let folder = place.join(format!("lemonade-test-{}-{name}", std::process::id()));
        must(fs::create_dir(&folder));
        let cgroup = Self { folder, kills };
        for (file, value) in limits {
            let path = cgroup.folder.join(file);
            // A kernel without swap has no such file.
            if path.exists() {
                must(fs::write(path, value.to_string()));
            }
        }
        cgroup
    }

    /// A command that enters the cgroup before it starts.
    fn inside(&self, engine: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside
            .args(["-c", "echo $$ >\"$0\" && exec \"$@\""])
            .arg(self.folder.join("cgroup.procs"));
        through(inside, engine)
    }

    /// The number of processes that the kernel has killed.
    fn kills(&self) -> u64 {
        let counts = fs::read_to_string(self.folder.join(self.kills)).unwrap();
        let count = counts
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        count.expect("the kernel counts them").parse().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The cgroup is empty, unless the test fails while a process runs.
        let _ = fs::remove_dir(&self.folder);
    }
}

fn must<T>(made: std::io::Result<T>) -> T {
    made.unwrap_or_else(|error| panic!("a memory cgroup is made by root alone: {error}"))
}

/// A backlog of 240 files of 500 records, a third of them compressed, and a large one.
const SMALL: u64 = 240;
const LARGE_RECORDS: u64 = 200_000;
const RECORDS: u64 = SMALL * 500 + LARGE_RECORDS;

fn backlog(pair: &Pair) {
    for (part, compress) in [(2, "none"), (3, "gzip"), (4, "zstd")] {
        let seed = part.to_string();
        let args = ["--files", "80", "--records", "500", "--seed", &seed];
        let compress = ["--compress", compress];
        generate_as(pair, &format!("{part}-"), &[&args[..], &compress].concat());
    }
    let records = LARGE_RECORDS.to_string();
    generate_as(pair, "large-", &["--files", "1", "--records", &records]);
}

#[tokio::test]
async fn a_backlog_loads_within_512_mib() {
    let pair = Pair::new("memory+sqlite").await;
    backlog(&pair);
    let cgroup = Cgroup::new("backlog", 512 << 20);
    let output = cgroup.inside(&pair.command(&["load"])).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(cgroup.kills(), 0);
    is_loaded_once(&pair, RECORDS, SMALL as usize + 1).await;
}

/// The kernel kills a load with far too little memory, and a load whose neighbour takes the rest of
/// the memory. With enough memory, the next load finishes.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_the_kernel_kills_for_its_memory_is_finished_by_the_next() {
    let pair = Pair::new("memory+sqlite").await;
    backlog(&pair);
    pair.expect(0, &["migrate"]);
    let small = Cgroup::new("small", 24 << 20);
    let output = small.inside(&pair.command(&["load"])).output().unwrap();
    assert_eq!(output.status.signal(), Some(9), "{}", said(&output));
    assert_eq!(small.kills(), 1);

    let shared = Cgroup::new("shared", 256 << 20);
    // The kernel kills the process with the highest score; this gives the load the highest.
    let mut worst = Command::new("choom");
    worst.args(["-n", "1000", "--"]);
    let mut load = shared.inside(&through(worst, &pair.command(&["load"])));
    load.stdout(Stdio::null()).stderr(Stdio::null());
    let mut load = Service(load.spawn().unwrap());
    until("some files in history", LIMIT, async || {
        names(&pair.at("history")).len() >= 20
    })
    .await;
    // The kernel cannot reclaim the memory of files in a tmpfs.
    let in_memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut neighbour = Command::new("dd");
    neighbour.args(["if=/dev/zero", "bs=1M", "count=250", "of=taken"]);
    neighbour.current_dir(in_memory.path());
    // It does not matter whether the neighbour gets all of this memory or is killed.
    shared.inside(&neighbour).output().unwrap();
    assert_eq!(load.0.wait().unwrap().signal(), Some(9));
    assert!(shared.kills() >= 1);
    drop(in_memory);
    let stored = pair.number("SELECT COUNT(*) FROM vehicle_events").await;
    assert!((1..RECORDS).contains(&stored), "{stored}: in the middle");

    pair.expect(0, &["load"]);
    is_loaded_once(&pair, RECORDS, SMALL as usize + 1).await;
}

/// Writes a file of records that differ only in their ordinal; each has the field `extra` with this
/// text.
fn put_large(pair: &Pair, records: u32, extra: &str) {
    let file = pair.at("inbound").join("vehicle_events_large.ndjson");
    let mut file = BufWriter::new(fs::File::create(file).unwrap());
    for number in 0..records {
        let event = format!(
            r#"{{"vehicle_id":"v{number}","event_time":"2026-03-01T10:00:00Z","event_source":"s","#
        );
        writeln!(file, "{event}{extra}}}").unwrap();
    }
    file.into_inner().unwrap().sync_all().unwrap();
}

/// The database keeps 8 KiB of each reject: half a gigabyte in all.
#[tokio::test]
async fn sixty_thousand_large_rejects_load_within_384_mib() {
    const REJECTS: u32 = 60_000;
    let pair = Pair::new("memory+sqlite").await;
    let extra = format!(r#""event_type":"t","event_value":"{}""#, "x".repeat(9_000));
    put_large(&pair, REJECTS, &extra);
    let cgroup = Cgroup::new("rejects", 384 << 20);
    let output = cgroup.inside(&pair.command(&["load"])).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert_eq!(cgroup.kills(), 0);
    let rejects = pair.number("SELECT COUNT(*) FROM ingest_rejects").await;
    assert_eq!(rejects, u64::from(REJECTS));
}

/// The largest records that are not rejects, 954 MiB of them in one file.
#[tokio::test(flavor = "multi_thread")]
async fn sixty_records_of_almost_16_mib_load_within_384_mib() {
    const RECORDS: u32 = 60;
    let text = "x".repeat(159 * 1024 * 1024 / 10);
    let extra =
        format!(r#""event_type":"t","event_value":"v","event_extra_data":{{"a":"{text}"}}"#);
    for name in ["memory+sqlite", "redis+mysql"] {
        let pair = Pair::new(name).await;
        put_large(&pair, RECORDS, &extra);
        let cgroup = Cgroup::new("huge", 384 << 20);
        let output = cgroup.inside(&pair.command(&["load"])).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {}", said(&output));
        assert_eq!(cgroup.kills(), 0, "{name}");
        let whole =
            "SELECT COUNT(*) FROM vehicle_events WHERE LENGTH(event_extra_data) >= 16672358";
        assert_eq!(pair.number(whole).await, u64::from(RECORDS), "{name}");
    }
}
