//! History by day, and compressed: each command finds each kind of file, whatever the settings were
//! when the file was moved there.

use super::*;

/// Some text, gzip, and zstd as it was delivered; a container, and a file of a directory. The delivered
/// zstd has the name that the text has when it is compressed.
const NAMES: [&str; 6] = [
    "sub/vehicle_status_1.ndjson",
    "vehicle_status_1.ndjson",
    "vehicle_status_2.ndjson.gz",
    "vehicle_status_3.ndjson",
    "vehicle_status_3.ndjson.zst",
    "vehicle_status_4.tar",
];

/// The second file that has this name.
const AGAIN: &str = "vehicle_status_1.ndjson";

/// Records of a file: enough to take fewer blocks of the disk when it is compressed.
const RECORDS: usize = 100;

/// Files that are compressed if the settings say so: text, and no container.
const TEXTS: usize = 4;

fn text(of: &str) -> String {
    (0..RECORDS)
        .map(|no| record(format!("{no} of {of}")) + "\n")
        .collect()
}

fn shell(dir: &Path, script: &str) {
    let mut command = Command::new("sh");
    let done = command.args(["-ec", script]).current_dir(dir).status();
    assert!(done.unwrap().success(), "{script}");
}

/// Puts the files into inbound, each with two records of its own.
fn deliver(pair: &Pair) {
    let inbound = pair.at("inbound");
    fs::create_dir_all(inbound.join("sub")).unwrap();
    for name in NAMES {
        let path = inbound.join(name);
        fs::write(&path, text(name)).unwrap();
        let last = path.file_name().unwrap().to_str().unwrap();
        let script = match name.rsplit('.').next().unwrap() {
            "gz" => format!("gzip -c {last} >x.tmp; mv x.tmp {last}"),
            "zst" => format!("zstd -q -c {last} >x.tmp; mv x.tmp {last}"),
            "tar" => {
                let other = text("member b");
                fs::write(inbound.join("vehicle_status_b.tmp"), other).unwrap();
                format!(
                    "mv {last} vehicle_status_a.tmp; tar -cf {last} --transform s/tmp/json/ \
                     vehicle_status_a.tmp vehicle_status_b.tmp; rm *.tmp"
                )
            }
            _ => continue,
        };
        shell(&inbound, &script);
    }
}

/// What history has.
#[derive(Debug, PartialEq)]
struct History {
    /// The bytes of its files as they were delivered.
    delivered: Vec<Vec<u8>>,
    /// Whether all of its files are below the directory of a day, or none.
    layout: &'static str,
    /// How many files the engine has compressed.
    compacted: usize,
}

fn history(pair: &Pair) -> History {
    let paths = tree(&pair.at("history"));
    let is_day = |path: &&String| {
        let segments: Vec<&str> = path.split('/').collect();
        segments.len() > 3
            && segments[0].len() == 4
            && segments[..3].iter().all(|it| it.parse::<u16>().is_ok())
    };
    let layout = match paths.iter().filter(is_day).count() {
        0 => "flat",
        all if all == paths.len() => "day",
        _ => "both",
    };
    let mut compacted = 0;
    let mut delivered = Vec::new();
    for path in &paths {
        let bytes = fs::read(pair.at("history").join(path)).unwrap();
        let is_compacted = bytes.get(8..16) == Some(b"lemonade");
        assert!(
            !is_compacted || Path::new(path).extension() == Some(OsStr::new("zst")),
            "{path}"
        );
        compacted += usize::from(is_compacted);
        delivered.push(if is_compacted {
            zstd::decode_all(&bytes[..]).unwrap()
        } else {
            bytes
        });
    }
    delivered.sort();
    History {
        delivered,
        layout,
        compacted,
    }
}

/// The settings of history: layout and compression.
type Form = (&'static str, &'static str);

fn set(pair: &Pair, (layout, compression): Form) {
    let settings = format!(
        "inbound_recursive = true\nhistory_layout = '{layout}'\nhistory_compression = '{compression}'\n"
    );
    fs::write(pair.at("lemonade.toml"), settings).unwrap();
}

fn compacted((_, compression): Form) -> usize {
    if compression == "zstd" { TEXTS } else { 0 }
}

/// The number of each file, and whether it is a member of a container.
async fn files(pair: &Pair) -> Vec<(String, bool)> {
    let sql = "SELECT file_no, name FROM ingest_files ORDER BY file_no";
    let rows = pair.query(sql).await.into_iter();
    rows.map(|row| {
        let is_member = row[1].as_deref().unwrap().contains(".tar/");
        (row[0].clone().unwrap(), is_member)
    })
    .collect()
}

async fn each_file_is_found_in_each_form(name: &'static str, first: Form, then: Form) {
    let pair = Pair::new(name).await;
    set(&pair, first);
    deliver(&pair);
    let inbound = pair.at("inbound");
    let mut delivered: Vec<_> = NAMES
        .map(|name| fs::read(inbound.join(name)).unwrap())
        .to_vec();
    pair.expect(0, &["load"]);
    fs::write(inbound.join(AGAIN), text("another")).unwrap();
    pair.expect(0, &["load"]);
    delivered.push(text("another").into_bytes());
    delivered.sort();
    let in_form = |form: Form| History {
        delivered: delivered.clone(),
        layout: form.0,
        compacted: compacted(form),
    };
    assert_eq!(history(&pair), in_form(first));
    let rows = "SELECT status FROM vehicle_status ORDER BY status";
    let stored = pair.query(rows).await;
    let numbers = files(&pair).await;
    assert_eq!((stored.len(), numbers.len()), (8 * RECORDS, 8));

    if first == ("day", "none") {
        // A move that failed for long leads to the directory of a later day.
        let day = pair.at("history/2100/12/31");
        fs::create_dir_all(&day).unwrap();
        for name in [AGAIN, "vehicle_status_4.tar"] {
            let found = tree(&pair.at("history"));
            let is_it = |path: &&String| path.split('/').nth(3) == Some(name);
            let path = found.iter().find(is_it).unwrap();
            fs::rename(pair.at("history").join(path), day.join(name)).unwrap();
        }
    }
    // Each command looks for the files of the other form.
    set(&pair, then);
    let all_is_well = || {
        let said = pair.expect(0, &["verify"]);
        assert!(!said.contains("note:"), "{said}");
        let said = pair.expect(0, &["verify", "--content"]);
        assert!(
            said.contains("800 records compared with their files: 0 differ"),
            "{said}"
        );
    };
    all_is_well();
    for (number, _) in &numbers {
        let said = pair.expect(0, &["trace", &format!("{number}:17")]);
        assert!(said.contains("17 of "), "{said}");
    }
    pair.execute("DELETE FROM vehicle_status").await;
    pair.expect(0, &["files", "restore", "--all"]);
    assert_eq!(pair.query(rows).await, stored);
    for (number, is_member) in &numbers {
        pair.expect(0, &["files", "reload", number, "--yes"]);
        // The members of one container come again with it.
        if !is_member {
            assert!(!tree(&pair.at("inbound")).is_empty());
        }
        pair.expect(0, &["load"]);
    }
    assert_eq!(pair.query(rows).await, stored);
    assert_eq!(history(&pair), in_form(then));
    // The directories of the first layout went with their last files.
    let found = names(&pair.at("history"));
    let is_of_day = |name: &String| name.len() == 4;
    assert_eq!(found.iter().any(is_of_day), then.0 == "day", "{found:?}");
    all_is_well();
    let mut left = stored.len() as u64;
    for (number, is_member) in files(&pair).await {
        let code = i32::from(is_member);
        pair.expect(code, &["erase", &format!("{number}:0"), "--yes"]);
        left -= 1;
        assert_eq!(
            pair.number("SELECT COUNT(*) FROM vehicle_status").await,
            left
        );
    }
    let said = pair.run(&["verify"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    // The container still has the records of its two members.
    let named = said
        .lines()
        .filter(|line| line.starts_with("file "))
        .count();
    assert_eq!(named, 2, "{said}");
}

const PLAIN: [Form; 2] = [("flat", "none"), ("day", "none")];
const COMPACTED: [Form; 2] = [("flat", "zstd"), ("day", "zstd")];

#[tokio::test(flavor = "multi_thread")]
async fn each_file_is_found_in_each_form_with_sqlite() {
    each_file_is_found_in_each_form("memory+sqlite", PLAIN[0], PLAIN[1]).await;
    each_file_is_found_in_each_form("memory+sqlite", PLAIN[1], COMPACTED[0]).await;
    each_file_is_found_in_each_form("memory+sqlite", PLAIN[0], COMPACTED[1]).await;
    each_file_is_found_in_each_form("memory+sqlite", COMPACTED[0], COMPACTED[1]).await;
    each_file_is_found_in_each_form("memory+sqlite", COMPACTED[0], PLAIN[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_file_is_found_in_each_form_with_redis_and_mariadb() {
    each_file_is_found_in_each_form("redis+mysql", PLAIN[1], PLAIN[0]).await;
    each_file_is_found_in_each_form("redis+mysql", COMPACTED[1], COMPACTED[0]).await;
}

fn only_file(pair: &Pair) -> String {
    let found = tree(&pair.at("history"));
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

/// A compressed file that is edited loses what tells it from a delivered one, or has another ctime.
#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_file_that_is_edited_is_named_and_another_one_beside_it_is_not() {
    let pair = embedded().await;
    set(&pair, COMPACTED[0]);
    let name = "vehicle_status_1.ndjson";
    fs::write(pair.at("inbound").join(name), text("a")).unwrap();
    pair.expect(0, &["load"]);
    let path = pair.at("history").join(only_file(&pair));
    let stored = fs::read(&path).unwrap();
    pair.expect(0, &["verify"]);
    // As an editor of compressed files does it; then at its place; then cut.
    let edited = zstd::encode_all(text("b").as_bytes(), 3).unwrap();
    let mut in_place = stored.clone();
    in_place[40] ^= 1;
    *in_place.last_mut().unwrap() ^= 1;
    for bytes in [&edited, &in_place, &stored[..stored.len() - 1].to_vec()] {
        fs::write(&path, bytes).unwrap();
        let said = pair.expect(1, &["verify"]);
        assert!(
            said.contains("does not have the bytes that were loaded"),
            "{said}"
        );
        pair.expect(1, &["verify", "--content"]);
    }
    fs::write(&path, &stored).unwrap();
    let said = pair.expect(0, &["verify"]);
    assert!(!said.contains("note:"), "{said}");
    // A file that was delivered under the name of the compressed one is no edit of it.
    fs::remove_file(&path).unwrap();
    fs::write(pair.at("inbound").join(format!("{name}.zst")), &edited).unwrap();
    pair.expect(0, &["load"]);
    let said = pair.expect(0, &["verify"]);
    assert!(said.contains("note: 1 files are not in history"), "{said}");
}

/// The files of history are an archive like any other: they belong to the dataset that they were
/// delivered for, and are known.
#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_history_can_be_loaded_into_another_database() {
    let pair = embedded().await;
    let trips = "history_compression = 'zstd'\n[[datasets]]\nname = 'trips'\nfiles = 'trips_*.json'\n\
                 columns = [{ name = 'no', type = 'integer' }]\n";
    fs::write(pair.at("lemonade.toml"), trips).unwrap();
    let records: Vec<String> = (0..1_000).map(|no| format!("{{\"no\":{no}}}\n")).collect();
    let records = records.concat();
    fs::write(pair.at("inbound").join("trips_1.json"), &records).unwrap();
    pair.expect(0, &["load"]);
    assert_eq!(only_file(&pair), "trips_1.json.zst");
    let history = pair.at("history").display().to_string();
    pair.expect(0, &["load", &history]);
    assert_eq!(pair.number("SELECT COUNT(*) FROM trips").await, 1_000);
    let other = embedded().await;
    fs::write(other.at("lemonade.toml"), trips).unwrap();
    other.expect(0, &["load", &history]);
    other.expect(0, &["verify", "--content"]);
    assert_eq!(other.number("SELECT COUNT(*) FROM trips").await, 1_000);
    // The same bytes as text are the same file.
    fs::write(other.at("inbound").join("trips_1.json"), &records).unwrap();
    other.expect(0, &["load"]);
    assert_eq!(other.number("SELECT COUNT(*) FROM trips").await, 1_000);
    assert_eq!(only_file(&other), "trips_1.json.zst");
}

/// A load is killed while it compresses a file: the file is there after each kill, and in the end once.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_killed_while_it_compresses_loses_nothing() {
    let pair = embedded().await;
    let name = "vehicle_status_1.ndjson";
    let all: String = (0..60_000)
        .map(|no| record(format!("{no} of a")) + "\n")
        .collect();
    fs::write(pair.at("inbound").join(name), &all).unwrap();
    set(&pair, PLAIN[0]);
    pair.expect(0, &["load"]);
    set(&pair, COMPACTED[0]);
    let history = pair.at("history");
    let bytes = || -> Vec<u64> {
        let files = fs::read_dir(&history).unwrap();
        let sizes = files.filter_map(|file| Some(file.unwrap().metadata().ok()?.len()));
        let mut sizes: Vec<u64> = sizes.collect();
        sizes.sort_unstable();
        sizes
    };
    // At the beginning of the hidden file, in its middle, and once it has its name.
    let is_begun = || bytes().len() > 1;
    let is_half = || bytes().len() > 1 && bytes()[0] > 20_000;
    let is_named = || history.join(format!("{name}.zst")).exists();
    let moments: [&dyn Fn() -> bool; 3] = [&is_begun, &is_half, &is_named];
    for (moment, has_come) in moments.iter().enumerate() {
        let mut load = pair.command(&["load"]).spawn().unwrap();
        let since = Instant::now();
        while !has_come() {
            assert!(since.elapsed() < LIMIT, "moment {moment} never came");
        }
        load.kill().unwrap();
        load.wait().unwrap();
        let said = pair.expect(0, &["verify", "--content"]);
        assert!(!said.contains("note:"), "moment {moment}: {said}");
    }
    pair.expect(0, &["load"]);
    assert_eq!(only_file(&pair), format!("{name}.zst"));
    let stored = fs::read(history.join(only_file(&pair))).unwrap();
    assert!(zstd::decode_all(&stored[..]).unwrap() == all.as_bytes());
    pair.expect(0, &["verify", "--content"]);
    // `files reload` brings it back as it was delivered.
    pair.expect(0, &["files", "reload", "1", "--yes"]);
    assert!(fs::read(pair.at("inbound").join(name)).unwrap() == all.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_shrink_to_a_fifth() {
    let pair = embedded().await;
    set(&pair, COMPACTED[0]);
    let inbound = pair.at("inbound").display().to_string();
    pair.expect(
        0,
        &[
            "generate",
            "--dir",
            &inbound,
            "--files",
            "3",
            "--records",
            "500",
        ],
    );
    let bytes = |name: &str| -> u64 {
        let dir = pair.at(name);
        let size = |path: &String| fs::metadata(dir.join(path)).unwrap().len();
        tree(&dir).iter().map(size).sum()
    };
    let before = bytes("inbound");
    pair.expect(0, &["load"]);
    let now = bytes("history");
    assert!(now > 0 && now * 5 < before, "{before} bytes, now {now}");
}

/// A service compresses the files that were there before, and goes on loading.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_compresses_the_files_that_are_in_history() {
    let pair = Pair::new("memory+sqlite").await;
    set(&pair, PLAIN[1]);
    deliver(&pair);
    pair.expect(0, &["load"]);
    set(&pair, COMPACTED[1]);
    let mut service = Service::start(&pair, &[]);
    // The delivered one, and the text files.
    until("the files to be compressed", LIMIT, async || {
        let found = tree(&pair.at("history"));
        let is_text = |path: &String| path.ends_with("json");
        let is_hidden = |path: &String| path.contains("/.");
        !found.iter().any(is_text) && !found.iter().any(is_hidden)
    })
    .await;
    assert_eq!(history(&pair).compacted, TEXTS - 1);
    fs::write(pair.at("inbound").join(AGAIN), text("another")).unwrap();
    until("one more file in history", LIMIT, async || {
        tree(&pair.at("history")).len() == NAMES.len() + 1
    })
    .await;
    service.terminate();
    let said = pair.expect(0, &["verify", "--content"]);
    assert!(!said.contains("note:"), "{said}");
}
