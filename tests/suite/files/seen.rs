//! Archives that are loaded again: stored files are recognised without being opened, and whatever
//! changed is read.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::record;
use crate::support::Pair;

/// How old the ctime of a file must be for it to be remembered, and a little more.
const CTIME_AGE: Duration = Duration::from_millis(2_100);

const BY_STATE: &str = "already stored, by its state on the disk";

/// Waits until the file was changed long enough ago. No program can set ctime, so this takes
/// seconds.
async fn aged(path: &Path) {
    let found = fs::metadata(path).unwrap();
    let nanos = u32::try_from(found.ctime_nsec()).unwrap();
    let changed = UNIX_EPOCH + Duration::new(u64::try_from(found.ctime()).unwrap(), nanos);
    let left = (changed + CTIME_AGE).duration_since(SystemTime::now());
    tokio::time::sleep(left.unwrap_or_default()).await;
}

fn write(path: &Path, statuses: &[&str]) {
    let records: Vec<_> = statuses.iter().map(record).collect();
    fs::write(path, format!("[{}]", records.join(","))).unwrap();
}

/// Loads the archive with -v. Returns how many files were recognised by their state, and how many
/// were stored already in all.
fn load(pair: &Pair, more: &[&str]) -> (usize, usize) {
    let archive = pair.at("archive");
    let args = [&["load", "-v", archive.to_str().unwrap()], more].concat();
    let output = pair.run(&args);
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let all = text
        .lines()
        .find_map(|line| line.strip_suffix(" already stored"));
    let all = all.map_or(0, |files| {
        let number = files.split(' ').next().unwrap().replace(',', "");
        number.parse().unwrap()
    });
    (text.matches(BY_STATE).count(), all)
}

/// An archive of three files, of which one has records of two datasets.
async fn archive(name: &'static str) -> (Pair, Vec<PathBuf>) {
    let pair = Pair::new(name).await;
    let dir = pair.at("archive");
    fs::create_dir_all(dir.join("deeper")).unwrap();
    let files =
        ["vehicle_status_1.json", "deeper/vehicle_status_2.json"].map(|name| dir.join(name));
    let mut files = files.to_vec();
    write(&files[0], &["one", "two"]);
    write(&files[1], &["three"]);
    let both = format!(
        r#"{{"vehicle_status": [{}], "vehicle_events": [{{"vehicle_id": "v", "event_time":
        "2024-01-01T00:00:00Z", "event_source": "s", "event_type": "t", "event_value": "w"}}]}}"#,
        record("four")
    );
    files.push(dir.join("vehicle_status_3.json"));
    fs::write(&files[2], both).unwrap();
    aged(&files[2]).await;
    (pair, files)
}

async fn rows(pair: &Pair) -> u64 {
    super::rows(pair).await + pair.number("SELECT COUNT(*) FROM vehicle_events").await
}

/// Files whose identity has values of their path are recognised as well. In a directory of another
/// name, the same file is another one.
#[tokio::test(flavor = "multi_thread")]
async fn files_with_values_of_their_path_are_recognised_at_it() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = Pair::new(name).await;
        let settings = "[[datasets]]\nname = 'trips'\nfiles = 'day=*/a'\ncolumns = [{name = 'day', \
                        path = 'day={}', type = 'integer'}]\n";
        fs::write(pair.at("lemonade.toml"), settings).unwrap();
        let day = |day: u32| pair.at("archive").join(format!("day={day}"));
        fs::create_dir_all(day(1)).unwrap();
        fs::write(day(1).join("a"), "[{\"day\": null}]").unwrap();
        aged(&day(1).join("a")).await;
        assert_eq!(load(&pair, &[]), (0, 0), "{name}");
        assert_eq!(load(&pair, &[]), (1, 1), "{name}");
        fs::rename(day(1), day(2)).unwrap();
        assert_eq!(load(&pair, &[]), (0, 0), "{name}");
        let days = pair.query("SELECT day FROM trips ORDER BY id").await;
        let days: Vec<_> = days.into_iter().flatten().flatten().collect();
        assert_eq!(days, ["1", "2"], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_archive_is_recognised_and_what_changed_is_read() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let (pair, files) = archive(name).await;
        assert_eq!(load(&pair, &[]), (0, 0), "{name}");
        assert_eq!(load(&pair, &[]), (3, 3), "{name}");
        assert_eq!(load(&pair, &["--rehash"]), (0, 3), "{name}");
        assert_eq!(rows(&pair).await, 5, "{name}");

        // One line for all files without -v.
        let dir = pair.at("archive");
        let quiet = pair.run(&["load", dir.to_str().unwrap()]);
        let text = String::from_utf8(quiet.stderr).unwrap();
        assert_eq!(text.matches("stored").count(), 1, "{text}");
        assert!(text.contains("3 files already stored\n"), "{text}");

        // Another content of the same size, with the old mtime.
        let mtime = fs::metadata(&files[0]).unwrap().modified().unwrap();
        write(&files[0], &["six", "two"]);
        let file = File::options().write(true).open(&files[0]).unwrap();
        file.set_modified(mtime).unwrap();
        drop(file);
        assert_eq!(load(&pair, &[]), (2, 2), "{name}");
        assert_eq!(rows(&pair).await, 7, "{name}");
        // Its hash decides once more if less than two seconds passed from the write to the read. No
        // test can promise that.
        aged(&files[0]).await;
        let (by_state, stored) = load(&pair, &[]);
        assert!(
            (2..=3).contains(&by_state) && stored == 3,
            "{name}: {by_state} {stored}"
        );
        assert_eq!(load(&pair, &[]), (3, 3), "{name}");

        // A copy and a new name are read once.
        fs::copy(&files[1], dir.join("vehicle_status_copy.json")).unwrap();
        let renamed = dir.join("vehicle_status_4.json");
        fs::rename(&files[2], &renamed).unwrap();
        aged(&renamed).await;
        assert_eq!(load(&pair, &[]), (2, 4), "{name}");
        assert_eq!(load(&pair, &[]), (4, 4), "{name}");
        assert_eq!(rows(&pair).await, 7, "{name}");
        pair.expect(0, &["verify"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_more_files_than_a_list_holds_is_loaded() {
    const FILES: usize = 65_536;
    let pair = Pair::new("memory+sqlite").await;
    let dir = pair.at("archive");
    for part in 0..8 {
        let part = dir.join(format!("part-{part}"));
        fs::create_dir_all(&part).unwrap();
        // All have one content, so that only one of them becomes rows.
        let first = part.join("vehicle_status_0.json");
        write(&first, &["same"]);
        for number in 1..FILES / 8 {
            let name = format!("vehicle_status_{number}.json");
            fs::hard_link(&first, part.join(name)).unwrap();
        }
    }
    fs::write(dir.join("_SUCCESS"), "").unwrap();
    let last = dir.join("vehicle_status_last.json");
    write(&last, &["last"]);
    aged(&last).await;
    assert_eq!(load(&pair, &["--log-level", "warn"]), (0, FILES - 1));
    assert_eq!(rows(&pair).await, 2);
    assert_eq!(load(&pair, &["--log-level", "warn"]), (0, FILES + 1));
    let remembered = "SELECT COUNT(*) FROM ingest_seen";
    assert_eq!(pair.number(remembered).await, FILES as u64 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_entry_is_gone_or_of_another_ledger_is_loaded() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let (pair, files) = archive(name).await;
        load(&pair, &[]);
        let number = async |sql: &str| pair.number(sql).await;
        let of_events = "SELECT file_no FROM ingest_files WHERE dataset = 'vehicle_events'";
        let file_no = number(of_events).await.to_string();
        // One of the two datasets of a file.
        pair.expect(0, &["files", "forget", &file_no, "--yes"]);
        let left = format!("SELECT COUNT(*) FROM ingest_seen WHERE file_no = {file_no}");
        assert_eq!(number(&left).await, 0, "{name}");
        assert_eq!(rows(&pair).await, 4, "{name}");
        assert_eq!(load(&pair, &[]), (2, 2), "{name}");
        assert_eq!(rows(&pair).await, 5, "{name}");
        assert_eq!(load(&pair, &[]), (3, 3), "{name}");

        let of_first = "SELECT file_no FROM ingest_files WHERE name = 'vehicle_status_1.json'";
        let file_no = number(of_first).await.to_string();
        pair.expect(0, &["files", "reload", &file_no, "--yes"]);
        assert_eq!(load(&pair, &[]), (2, 2), "{name}");
        assert_eq!(rows(&pair).await, 5, "{name}");
        assert_eq!(load(&pair, &[]), (3, 3), "{name}");

        // A ledger of another time has another content under the number.
        let file_no = number(of_first).await;
        let sql = format!(
            "UPDATE ingest_files SET hash = x'00112233445566778899aabbccddeeff' WHERE file_no = {file_no}"
        );
        pair.execute(&sql).await;
        assert_eq!(load(&pair, &[]), (2, 2), "{name}");
        assert_eq!(rows(&pair).await, 7, "{name}");

        // A definition that changed could give the file other rows.
        assert_eq!(load(&pair, &[]), (3, 3), "{name}");
        let dataset = "[[datasets]]\nname = \"trips\"\n[[datasets.columns]]\nname = \"speed\"\ntype \
                       = \"float\"\n";
        let config = pair.at("other.toml");
        fs::write(&config, dataset).unwrap();
        let with = ["--config", config.to_str().unwrap()];
        assert_eq!(load(&pair, &with), (0, 3), "{name}");
        assert_eq!(load(&pair, &with), (3, 3), "{name}");
        assert_eq!(load(&pair, &[]), (0, 3), "{name}");

        // A file that is not stored yet is never taken for one that is.
        fs::remove_file(&files[1]).unwrap();
        write(&files[1], &["seven"]);
        assert_eq!(load(&pair, &[]).1, 2, "{name}");
        assert_eq!(rows(&pair).await, 8, "{name}");
    }
}
