//! Power cuts: data that was not on the disk is lost.
//!
//! All data of the engine and its database is on a file system in an image. A snapshot of the image
//! (an atomic reflink copy) contains what the file system had written to its disk, and not what was
//! still in memory: it is the disk after a power cut. The test mounts it, which recovers its
//! journal, and continues there.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::support::Private;

/// A mounted disk in an image, on a file system that can take snapshots of it.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// # Panics
    /// If no file system can be mounted, which needs root.
    fn new() -> Self {
        let folder = crate::support::folder();
        let disk = Self { folder };
        for place in ["outer", "disk"] {
            fs::create_dir(disk.at(place)).unwrap();
        }
        make(&disk.at("outer.img"), "3G");
        mount(&disk.at("outer.img"), &disk.at("outer"));
        make(&disk.at("outer/0.img"), "1G");
        disk.mount("0.img");
        disk
    }

    fn at(&self, place: &str) -> PathBuf {
        self.folder.path().join(place)
    }

    /// The mount point of the disk.
    fn root(&self) -> PathBuf {
        self.at("disk")
    }

    fn mount(&self, image: &str) {
        mount(&self.at("outer").join(image), &self.root());
    }

    fn unmount(&self) {
        run(Command::new("umount").arg(self.root()));
    }

    /// Takes a snapshot of the disk.
    fn snapshot(&self, image: &str) {
        let outer = self.at("outer");
        let mut copy = Command::new("cp");
        copy.arg("--reflink=always").arg(outer.join("0.img"));
        run(copy.arg(outer.join(image)));
    }
}

impl Drop for Disk {
    /// Unmounts lazily, because a failed test may leave a process that uses the disk. Unmounting
    /// removes the loop devices.
    fn drop(&mut self) {
        for place in ["disk", "outer"] {
            let mut unmount = Command::new("umount");
            unmount
                .arg("--lazy")
                .arg(self.at(place))
                .stderr(Stdio::null());
            let _ = unmount.status();
        }
    }
}

fn make(image: &Path, size: &str) {
    run(Command::new("truncate").args(["-s", size]).arg(image));
    let mkfs = crate::support::program("mkfs.xfs");
    run(Command::new(mkfs)
        .args(["-q", "-m", "reflink=1"])
        .arg(image));
}

fn mount(image: &Path, place: &Path) {
    run(Command::new("mount")
        .args(["-o", "loop"])
        .arg(image)
        .arg(place));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let ok = output.status.success();
    assert!(ok, "{command:?} (this takes root): {output:?}");
}

/// The files of a directory.
fn contents(place: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| {
        let bytes = fs::read(place.join(&name)).unwrap();
        (name, bytes)
    };
    names(place).into_iter().map(read).collect()
}

const FILES: usize = 60;
const RECORDS: u64 = 2_000;
const ALL: u64 = FILES as u64 * RECORDS;

/// `SQLite` keeps its write-ahead log beside the database.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_finished_after_a_power_cut_with_sqlite() {
    let disk = Disk::new();
    let pair = Pair::within("memory+sqlite", &disk.root()).await;
    power_goes(&disk, &pair, &mut []).await;
}

/// Redis loses the last second of its log; the database loses no acknowledged commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_finished_after_a_power_cut_with_redis_and_mariadb() {
    let disk = Disk::new();
    let log = disk.root().join("redis");
    fs::create_dir(&log).unwrap();
    let log = log.to_str().unwrap().to_owned();
    let options = [
        "--appendonly",
        "yes",
        "--appendfsync",
        "everysec",
        "--dir",
        &log,
    ];
    let redis = crate::support::private_redis_with(&options).await;
    let mut mariadb = crate::support::private_mariadb().await;
    mariadb.kill();
    let data = mariadb.folder().join("data");
    let on_disk = disk.root().join("mariadb");
    run(Command::new("cp").arg("-a").args([&data, &on_disk]));
    fs::remove_dir_all(&data).unwrap();
    std::os::unix::fs::symlink(&on_disk, &data).unwrap();
    mariadb.restart().await;
    let mut pair = Pair::within("redis+mysql", &disk.root()).await;
    pair.redis_url = Some(redis.url.clone());
    pair.database_url.clone_from(&mariadb.url);
    power_goes(&disk, &pair, &mut [redis, mariadb]).await;
}

/// Cuts the power at several moments of a load, and finishes the load from each.
async fn power_goes(disk: &Disk, pair: &Pair, servers: &mut [Private]) {
    let (files, records) = (FILES.to_string(), RECORDS.to_string());
    generate(pair, &["--files", &files, "--records", &records]);
    pair.expect(0, &["migrate"]);
    let delivered = contents(&pair.at("inbound"));
    // The input and the schema must be on the disk; the engine is responsible for the rest.
    run(Command::new("sync").arg("-f").arg(disk.root()));

    let mut load = Service::start(pair, &["load"]);
    let mut cuts = Vec::new();
    for done in [0, 10, 25, 40] {
        until("files in history", LIMIT, async || {
            names(&pair.at("history")).len() >= done
        })
        .await;
        let image = format!("cut-{done}.img");
        disk.snapshot(&image);
        cuts.push(image);
    }
    let code = tokio::task::spawn_blocking(move || load.0.wait().unwrap().code());
    assert_eq!(code.await.unwrap(), Some(0));
    is_loaded_once(pair, ALL, FILES).await;

    let mut in_the_middle = 0;
    for cut in cuts {
        servers.iter_mut().for_each(Private::kill);
        disk.unmount();
        disk.mount(&cut);
        for server in &mut *servers {
            server.restart().await;
        }
        let stored = pair.number("SELECT COUNT(*) FROM vehicle_events").await;
        let place = |place: &str| names(&pair.at(place)).len() as u64;
        let places = ["inbound", "work", "history"].map(place);
        let lost = places.iter().sum::<u64>() != FILES as u64;
        assert!(!lost, "{cut}: files in inbound, work, history: {places:?}");
        let settled = "SELECT COUNT(*) FROM ingest_files WHERE state = 'settled'";
        let settled = pair.number(settled).await;
        assert!(settled >= places[2], "{cut}: {settled} files, {places:?}");
        in_the_middle += usize::from((1..ALL).contains(&stored));
        pair.expect(0, &["load"]);
        is_loaded_once(pair, ALL, FILES).await;
        let kept = contents(&pair.at("history"));
        assert!(kept == delivered, "{cut}: files differ");
    }
    assert!(in_the_middle > 0, "no cut was in the middle");
}
