//! History by day: each command finds each kind of file, whatever the layout was when the file was
//! moved there.

use super::*;

/// Some text, gzip, and zstd as it was delivered; a container, and a file of a directory.
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

fn text(of: &str) -> String {
    ["a", "b"]
        .map(|no| record(format!("{no} of {of}")) + "\n")
        .concat()
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

/// The paths of the files of history without the directory of a day, and whether all of them have one,
/// or none.
fn history(pair: &Pair) -> (Vec<String>, &'static str) {
    let paths = tree(&pair.at("history"));
    let is_day = |path: &str| {
        let segments: Vec<&str> = path.split('/').collect();
        segments.len() > 3
            && segments[0].len() == 4
            && segments[..3].iter().all(|it| it.parse::<u16>().is_ok())
    };
    let of_days = paths.iter().filter(|path| is_day(path)).count();
    let layout = match of_days {
        0 => "flat",
        all if all == paths.len() => "day",
        _ => "both",
    };
    let below = |path: String| {
        let segments = if is_day(&path) { 3 } else { 0 };
        path.splitn(segments + 1, '/').last().unwrap().to_owned()
    };
    let mut names: Vec<String> = paths.into_iter().map(below).collect();
    names.sort();
    (names, layout)
}

fn set(pair: &Pair, layout: &str) {
    let settings = format!("inbound_recursive = true\nhistory_layout = '{layout}'\n");
    fs::write(pair.at("lemonade.toml"), settings).unwrap();
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

async fn each_file_is_found_in_both_layouts(name: &'static str, first: &str, then: &str) {
    let pair = Pair::new(name).await;
    set(&pair, first);
    deliver(&pair);
    pair.expect(0, &["load"]);
    fs::write(pair.at("inbound").join(AGAIN), text("another")).unwrap();
    pair.expect(0, &["load"]);
    let mut expected: Vec<String> = NAMES.map(str::to_owned).to_vec();
    expected.push(format!("{AGAIN}.1"));
    expected.sort();
    assert_eq!(history(&pair), (expected.clone(), first));
    let rows = "SELECT status FROM vehicle_status ORDER BY status";
    let stored = pair.query(rows).await;
    let numbers = files(&pair).await;
    assert_eq!((stored.len(), numbers.len()), (16, 8));

    if first == "day" {
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
    // Each command looks for the files of the other layout.
    set(&pair, then);
    let all_is_well = || {
        let said = pair.expect(0, &["verify"]);
        assert!(!said.contains("note:"), "{said}");
        let said = pair.expect(0, &["verify", "--content"]);
        assert!(
            said.contains("16 records compared with their files: 0 differ"),
            "{said}"
        );
    };
    all_is_well();
    for (number, _) in &numbers {
        let said = pair.expect(0, &["trace", &format!("{number}:1")]);
        assert!(
            said.contains("b of ") || said.contains("member b"),
            "{said}"
        );
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
    assert_eq!(history(&pair), (expected, then));
    // The directories of the first layout went with their last files.
    let found = names(&pair.at("history"));
    let is_of_day = |name: &String| name.len() == 4;
    assert_eq!(found.iter().any(is_of_day), then == "day", "{found:?}");
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

#[tokio::test(flavor = "multi_thread")]
async fn each_file_is_found_in_both_layouts_with_sqlite() {
    each_file_is_found_in_both_layouts("memory+sqlite", "flat", "day").await;
    each_file_is_found_in_both_layouts("memory+sqlite", "day", "flat").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_file_is_found_in_both_layouts_with_redis_and_mariadb() {
    each_file_is_found_in_both_layouts("redis+mysql", "day", "flat").await;
}
