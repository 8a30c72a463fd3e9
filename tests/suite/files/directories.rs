//! The four directories, and the places from which a load takes files.

use std::os::unix::fs::symlink;

use super::*;

/// A command that ends, through a shell in a mount namespace of its own.
fn in_namespace(pair: &Pair, before: &str, args: &[&str]) -> (Option<i32>, String) {
    let script = format!("{before} && exec \"$@\"");
    let through = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        &script,
        "sh",
    ];
    ended(start(pair, &through, args))
}

#[tokio::test]
async fn overlapping_directories_are_refused() {
    let pair = embedded().await;
    for name in ["inbound", "other", "elsewhere"] {
        fs::create_dir_all(pair.at(name)).unwrap();
    }
    put_good(&pair);
    symlink(pair.at("inbound"), pair.at("link")).unwrap();
    let at = |name: &str| pair.at(name).to_str().unwrap().to_owned();
    let (inbound, other) = (at("inbound"), at("other"));
    let (link, below, nested) = (at("link"), at("link/history"), at("other/deep/work"));
    for (flags, what) in [
        (["--history", &link], "are the same directory"),
        (["--quarantine", &inbound], "are both"),
        (["--history", &below], "lies in inbound"),
        (["--work", &inbound], "are both"),
    ] {
        for command in ["load", "run"] {
            let output = pair
                .command(&[&[command][..], &flags].concat())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(78), "{flags:?}: {said}");
            assert!(said.contains(what), "{flags:?}: {said}");
        }
    }
    let doctor = pair
        .command(&["doctor", "--history", &link])
        .output()
        .unwrap();
    let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert_eq!(doctor.status.code(), Some(78), "{found}");
    assert!(
        found.contains("FAIL  directories:") && found.contains("are the same directory"),
        "{found}"
    );
    // A mount of one of them under another name.
    let bind = format!("mount --bind '{inbound}' '{other}'");
    let (code, said) = in_namespace(&pair, &bind, &["load", "--history", &other]);
    assert_eq!(code, Some(78), "{said}");
    let (code, said) = in_namespace(&pair, &bind, &["load", "--work", &nested]);
    assert_eq!(code, Some(78), "{said}");
    // No file has moved, and a load without these flags stores it.
    assert_eq!(names(&pair.at("inbound")), ["vehicle_status_good.json"]);
    pair.expect(0, &["load"]);
    assert_eq!(good_rows(&pair).await, 1);
}

/// A directory directly in inbound or deeper, given by its path, through a link, or with other
/// paths.
#[tokio::test]
async fn a_directory_below_inbound_loads_when_it_is_given() {
    let pair = embedded().await;
    let (day, deep) = (
        pair.at("inbound").join("2026"),
        pair.at("inbound").join("2025/03"),
    );
    for (dir, status) in [(&day, "day"), (&deep, "deep")] {
        fs::create_dir_all(dir).unwrap();
        let file = dir.join(format!("vehicle_status_{status}.json"));
        fs::write(file, format!("[{}]", record(status))).unwrap();
    }
    let said = pair.expect(0, &["load", "--dry-run", day.to_str().unwrap()]);
    assert!(said.contains("1 files would be loaded"), "{said}");
    for dir in [&day, &deep] {
        pair.expect(0, &["load", dir.to_str().unwrap()]);
    }
    assert_eq!(rows(&pair).await, 2);
    // Files of an archive are read in their place.
    assert!(day.join("vehicle_status_day.json").exists());
    pair.expect(0, &["load", "--move", day.to_str().unwrap()]);
    assert!(!day.join("vehicle_status_day.json").exists());
    assert_eq!(names(&pair.at("history")), ["vehicle_status_day.json"]);
}

/// A file that is named and not loaded is an error; those below a directory are counted.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_loaded_are_told() {
    let pair = embedded().await;
    let archive = pair.at("archive");
    fs::create_dir(&archive).unwrap();
    let text = format!("[{}]", record("good"));
    let temporary = ["x.json.tmp", "x.json.part", ".x.json", "x.json~"];
    for name in temporary {
        let path = archive.join(format!("vehicle_status_{name}"));
        let path = if name.starts_with('.') {
            archive.join(".vehicle_status_x")
        } else {
            path
        };
        fs::write(&path, &text).unwrap();
        let output = pair.run(&["load", path.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("temporary by `temporary_files`"), "{said}");
    }
    let output = pair.run(&["load", "/dev/null"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/dev/null: it is no regular file"), "{said}");
    fs::write(archive.join("vehicle_status_1.json"), &text).unwrap();
    std::os::unix::fs::symlink("nowhere", archive.join("vehicle_status_link.json")).unwrap();
    let said = pair.expect(0, &["load", archive.to_str().unwrap()]);
    assert!(said.lines().any(|line| line == "passed over  5"), "{said}");
    assert_eq!(rows(&pair).await, 1);
    // The engine's own directories are no part of an archive around them.
    fs::write(pair.at("history").join(".hidden"), "x").unwrap();
    let said = pair.expect(0, &["load", pair.at(".").to_str().unwrap()]);
    assert!(said.lines().any(|line| line == "passed over  5"), "{said}");
}

#[tokio::test]
async fn marker_files_are_passed_over_and_counted() {
    const MARKERS: [&str; 4] = [
        "_SUCCESS",
        "vehicle_status.json.crc",
        "_started_1",
        "_committed_1",
    ];
    let pair = embedded().await;
    let archive = pair.at("archive");
    fs::create_dir(&archive).unwrap();
    for dir in [&archive, &pair.at("inbound")] {
        for marker in MARKERS {
            fs::write(dir.join(marker), "x").unwrap();
        }
    }
    fs::write(
        archive.join("vehicle_status_1.json"),
        format!("[{}]", record("good")),
    )
    .unwrap();
    let archive = archive.to_str().unwrap();
    let passed = |said: &str| said.lines().any(|line| line.starts_with("passed over  4"));
    let said = pair.expect(0, &["load", archive]);
    assert!(passed(&said), "{said}");
    assert!(passed(&pair.expect(0, &["load"])));
    pair.expect(0, &["check", archive]);
    assert_eq!(
        names(&pair.at("inbound")).len(),
        MARKERS.len(),
        "they stay where they are"
    );
    let status = pair.expect(0, &["status"]);
    assert!(status.contains("0 in inbound, 0 in work"), "{status}");
    assert_eq!(rows(&pair).await, 1);
    // The setting replaces the default patterns.
    let output = pair
        .command(&["load", "--marker-files", "", archive])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = pair
        .command(&["load", "--marker-files", "a*b*c"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}
