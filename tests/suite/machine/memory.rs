//! Memory that is short: the kernel kills who takes too much of it.

use super::*;

/// A memory cgroup of either version, and what may be in it. It ends with the value.
struct Cgroup {
    folder: PathBuf,
    /// Which file counts the processes that the kernel killed.
    kills: &'static str,
}

impl Cgroup {
    /// # Panics
    /// Where none can be made: this machine cannot show what the test is about.
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
            // A kernel without swap has no file for it.
            if path.exists() {
                must(fs::write(path, value.to_string()));
            }
        }
        cgroup
    }

    /// A command that puts itself in before it begins.
    fn inside(&self, engine: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside
            .args(["-c", "echo $$ >\"$0\" && exec \"$@\""])
            .arg(self.folder.join("cgroup.procs"));
        through(inside, engine)
    }

    /// How many processes the kernel has killed.
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
        // Nothing is left in it, unless the test fails with a process running.
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

/// The kernel kills a load in far too little memory, and one whose neighbour takes all that is left
/// when it is in the middle. With enough of it, the next one finishes.
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
    // The kernel kills whom it finds the worst; this says who that is.
    let mut worst = Command::new("choom");
    worst.args(["-n", "1000", "--"]);
    let mut load = shared.inside(&through(worst, &pair.command(&["load"])));
    load.stdout(Stdio::null()).stderr(Stdio::null());
    let mut load = Service(load.spawn().unwrap());
    until("some files in history", LIMIT, async || {
        names(&pair.at("history")).len() >= 20
    })
    .await;
    // Files of a file system in memory cannot be taken back from whoever wrote them.
    let in_memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut neighbour = Command::new("dd");
    neighbour.args(["if=/dev/zero", "bs=1M", "count=250", "of=taken"]);
    neighbour.current_dir(in_memory.path());
    // Whether it gets all of that, or is the next to be killed, does not matter.
    shared.inside(&neighbour).output().unwrap();
    assert_eq!(load.0.wait().unwrap().signal(), Some(9));
    assert!(shared.kills() >= 1);
    drop(in_memory);
    let stored = pair.number("SELECT COUNT(*) FROM vehicle_events").await;
    assert!((1..RECORDS).contains(&stored), "{stored}: in the middle");

    pair.expect(0, &["load"]);
    is_loaded_once(&pair, RECORDS, SMALL as usize + 1).await;
}
