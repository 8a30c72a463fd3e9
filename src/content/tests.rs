//! Files that are read, mapped, inflated, and changed while that happens, in real directories.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::process::Command;

use super::body::{Body, identity, private_copy};
use super::*;

fn options(dir: &Path) -> ContentOptions {
    ContentOptions {
        inflated_bytes_max: 32 << 20,
        spill_dir: dir.to_owned(),
        ..ContentOptions::default()
    }
}

/// All bytes of a file. `read` and `inspect` must return the same.
fn whole(content: &Content) -> Vec<u8> {
    let all = 0..content.bytes();
    let mut buffer = Vec::new();
    let read = content.read(all.clone(), &mut buffer).unwrap().to_vec();
    let is_same = content.inspect(all, |bytes| bytes == read);
    assert!(is_same.unwrap());
    read
}

fn text(bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| b"abcdefghij\n"[at % 11] ^ u8::from(at % 4096 == 0))
        .collect()
}

#[test]
fn small_large_and_compressed_files_have_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for size in [0, 10, 100_000, 3 << 20, 20 << 20] {
        let plain = text(size);
        let path = dir.path().join("plain");
        std::fs::write(&path, &plain).unwrap();
        assert!(whole(&open(&path, &options(dir.path())).unwrap()) == plain);

        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&plain).unwrap();
        std::fs::write(&path, gz.finish().unwrap()).unwrap();
        assert!(whole(&open(&path, &options(dir.path())).unwrap()) == plain);

        std::fs::write(&path, zstd::encode_all(&plain[..], 1).unwrap()).unwrap();
        assert!(whole(&open(&path, &options(dir.path())).unwrap()) == plain);
    }
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "spilled files have no name"
    );
}

#[test]
fn several_members_of_a_compressed_file_are_all_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("members");
    let twice = |part: Vec<u8>| [part.clone(), part].concat();
    std::fs::write(&path, twice(zstd::encode_all(&b"ab"[..], 1).unwrap())).unwrap();
    assert_eq!(whole(&open(&path, &options(dir.path())).unwrap()), b"abab");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(b"ab").unwrap();
    std::fs::write(&path, twice(gz.finish().unwrap())).unwrap();
    assert_eq!(whole(&open(&path, &options(dir.path())).unwrap()), b"abab");
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// A frame that holds no data, as pzstd writes one.
fn skippable(bytes: u32) -> Vec<u8> {
    let head = [&b"\x50\x2a\x4d\x18"[..], &bytes.to_le_bytes()].concat();
    [head, vec![b'x'; bytes as usize]].concat()
}

/// Padding, frames without data, and empty files, which other readers accept as well.
#[test]
fn padding_and_frames_without_data_are_skipped() {
    type Case<'a> = (&'a str, &'a [&'a [u8]], &'a [u8]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let (gz, zst) = (gzip(b"ab"), zstd::encode_all(&b"ab"[..], 1).unwrap());
    let nothing = zstd::encode_all(&b""[..], 1).unwrap();
    let large = text(9 << 20);
    let good: &[Case<'_>] = &[
        ("padded gzip", &[&gz, &[0; 512]], b"ab"),
        ("gzip and one zero", &[&gz, &[0]], b"ab"),
        (
            "two members and padding",
            &[&gz, &gz, &vec![0; 70_000]],
            b"abab",
        ),
        ("an empty member between", &[&gz, &gzip(b""), &gz], b"abab"),
        (
            "large members",
            &[&gzip(&large), &gz],
            &[&large, &b"ab"[..]].concat(),
        ),
        ("gzip of nothing", &[&gzip(b"")], b""),
        (
            "a frame without data in front",
            &[&skippable(4), &zst],
            b"ab",
        ),
        (
            "between and behind",
            &[&zst, &skippable(0), &zst, &skippable(200_000)],
            b"abab",
        ),
        ("an empty frame between", &[&zst, &nothing, &zst], b"abab"),
        ("zstd of nothing", &[&nothing], b""),
        ("no frame with data", &[&skippable(4)], b""),
    ];
    for (what, parts, plain) in good {
        std::fs::write(&path, parts.concat()).unwrap();
        let content = open(&path, &options(dir.path())).expect(what);
        assert!(whole(&content) == *plain, "{what}");
    }
    let bad: &[(&str, &[&[u8]])] = &[
        ("text behind gzip", &[&gz, b"tail"]),
        ("zeros between members", &[&gz, &[0; 8], &gz]),
        ("zeros behind zstd", &[&zst, &[0; 512]]),
        ("text behind zstd", &[&zst, b"tail"]),
        (
            "a frame without data, cut short",
            &[&zst, &skippable(9)[..12]],
        ),
        ("its size cut short", &[&zst, &skippable(9)[..6]]),
        ("a header cut short", &[&zst[..5]]),
    ];
    for (what, parts) in bad {
        std::fs::write(&path, parts.concat()).unwrap();
        let error = open(&path, &options(dir.path())).expect_err(what);
        assert!(
            matches!(error, ContentError::Corrupt { .. }),
            "{what}: {error:?}"
        );
    }
}

/// The memory that inflating takes follows from the window of a frame, and not from its data.
#[test]
fn a_window_beyond_the_budget_is_named_and_one_within_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long");
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(b"ab").unwrap();
    std::fs::write(&path, encoder.finish().unwrap()).unwrap();
    let with_windows = |bytes| ContentOptions {
        windows: Windows::new(bytes),
        ..options(dir.path())
    };
    assert_eq!(whole(&open(&path, &with_windows(1 << 27)).unwrap()), b"ab");
    let error = open(&path, &with_windows(1 << 26)).unwrap_err();
    let ContentError::NotRead { format, .. } = error else {
        panic!("{error:?}");
    };
    let (bytes, bytes_max) = (1 << 27, 1 << 26);
    let compression = Compression::Zstd;
    let expected = NotRead::Window {
        compression,
        bytes,
        bytes_max,
    };
    assert_eq!(format, expected);
}

#[test]
fn damaged_and_exploding_data_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb");
    let bomb = zstd::encode_all(&vec![b'x'; 33 << 20][..], 1).unwrap();
    std::fs::write(&path, &bomb).unwrap();
    let error = open(&path, &options(dir.path())).unwrap_err().to_string();
    assert!(error.contains("more than 33554432 bytes"), "{error}");

    std::fs::write(&path, &bomb[..bomb.len() / 2]).unwrap();
    let error = open(&path, &options(dir.path())).unwrap_err().to_string();
    assert!(error.contains("damaged or cut short"), "{error}");

    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(b"ab").unwrap();
    let mut garbage = gz.finish().unwrap();
    garbage.extend(b"trailing garbage");
    std::fs::write(&path, garbage).unwrap();
    assert!(matches!(
        open(&path, &options(dir.path())),
        Err(ContentError::Corrupt { .. })
    ));
}

#[test]
fn a_file_with_a_writer_is_busy_and_without_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let mut writer = File::create(&path).unwrap();
    writer.write_all(b"{}").unwrap();
    assert!(matches!(
        open(&path, &options(dir.path())),
        Err(ContentError::Busy)
    ));
    drop(writer);
    assert_eq!(whole(&open(&path, &options(dir.path())).unwrap()), b"{}");
}

/// The kernel sends the holder of a lease SIGIO, which ends a process without a handler, unless the
/// holder sets another signal. The writer waits until the descriptor of the lease is closed.
#[test]
fn a_writer_that_waits_for_a_lease_does_not_end_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "{}").unwrap();
    let (file, _) = open_regular(&path).unwrap();
    assert_eq!(writers(&file), Writers::None);
    // A writer that does not wait breaks the lease, too.
    let opened = File::options()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path);
    assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let mut writer = Command::new("sh");
    writer.args(["-c", "echo more >>\"$0\""]).arg(&path);
    let mut writer = writer.spawn().unwrap();
    drop(file);
    assert!(writer.wait().unwrap().success());
    assert_eq!(std::fs::read(&path).unwrap(), b"{}more\n");
}

#[test]
fn only_regular_files_are_opened() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    symlink("/etc/hostname", &link).unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    for path in [link, fifo, dir.path().to_owned()] {
        assert!(matches!(
            open(&path, &options(dir.path())),
            Err(ContentError::NotRegular)
        ));
    }
}

/// Whether both `inspect` and `read` fail at this place with the expected error.
fn both_fail(content: &Content, at: u64, is_right: impl Fn(&ContentError) -> bool) -> bool {
    let mut buffer = Vec::new();
    let read = content.read(at..at + 100, &mut buffer).map(<[u8]>::len);
    let inspected = content.inspect(at..at + 100, <[u8]>::len);
    [read, inspected]
        .iter()
        .all(|result| result.as_ref().is_err_and(&is_right))
}

/// A lease does not prevent these changes: the kernel ends it once a writer has waited for the
/// lease break time.
#[test]
fn reading_a_file_that_has_changed_fails() {
    type Change = fn(&File);
    let changes: [(&str, Change); 4] = [
        ("cut short", |file| file.set_len(5000).unwrap()),
        ("emptied", |file| file.set_len(0).unwrap()),
        ("grown", |file| file.set_len(5 << 20).unwrap()),
        ("written", |mut file| file.write_all(b"new").unwrap()),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (how, change) in changes {
        let path = dir.path().join("large");
        std::fs::write(&path, text(4 << 20)).unwrap();
        let content = open(&path, &options(dir.path())).unwrap();
        assert!(whole(&content) == text(4 << 20), "{how}");
        let Body::Stored(stored) = &content.body else {
            panic!("{how}: a large file is not in memory");
        };
        regular::give_up_lease(stored.file());
        change(&File::options().write(true).open(&path).unwrap());
        let is_busy = |error: &ContentError| matches!(error, ContentError::Busy);
        assert!(both_fail(&content, 3 << 20, is_busy), "{how}");
        // The next attempt opens the file again.
        drop(content);
        let now = std::fs::read(&path).unwrap();
        assert!(whole(&open(&path, &options(dir.path())).unwrap()) == now);
    }
}

/// The file changes while all of its bytes are inspected: the result is dropped.
#[test]
fn a_file_that_changes_while_it_is_inspected_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large");
    std::fs::write(&path, text(4 << 20)).unwrap();
    let content = open(&path, &options(dir.path())).unwrap();
    let Body::Stored(stored) = &content.body else {
        panic!("a large file is not in memory");
    };
    regular::give_up_lease(stored.file());
    let inspected = content.inspect(0..content.bytes(), |bytes| {
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(5000).unwrap();
        (bytes[3 << 20], identity(bytes)).0
    });
    assert!(matches!(inspected, Err(ContentError::Busy)));
}

/// Pages are lost as by a bad sector. No process changed the file, so the error is not `Busy`.
#[test]
fn pages_that_the_device_does_not_return_are_a_read_error() {
    let dir = tempfile::tempdir().unwrap();
    let is_of_device = |error: &ContentError| matches!(error, ContentError::Io(error) if error.raw_os_error() == Some(libc::EIO));
    let at = 3 << 20;
    let plain = dir.path().join("plain");
    std::fs::write(&plain, text(4 << 20)).unwrap();
    let inflated = dir.path().join("inflated");
    std::fs::write(&inflated, zstd::encode_all(&text(20 << 20)[..], 1).unwrap()).unwrap();
    for path in [&plain, &inflated] {
        let opened = open_and(path, &options(dir.path()), |bytes| {
            mapping::lose_page(bytes, at);
            bytes[at]
        });
        let error = opened.unwrap_err();
        assert!(is_of_device(&error), "{error:?}");
        // The page is lost after the file was opened.
        let content = open(path, &options(dir.path())).unwrap();
        let inspected = content.inspect(0..content.bytes(), |bytes| {
            mapping::lose_page(bytes, at);
            bytes[at]
        });
        assert!(is_of_device(&inspected.unwrap_err()));
        // The next attempt maps the file again.
        assert!(whole(&content)[at] == text(4 << 20)[at]);
    }
}

#[test]
fn a_bomb_ends_by_its_ratio_before_the_cap_of_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb");
    let generous = ContentOptions {
        inflated_bytes_max: 4 << 30,
        spill_dir: dir.path().to_owned(),
        ..ContentOptions::default()
    };
    let bytes = |count: u64| io::Read::take(io::repeat(b'x'), count);
    std::fs::write(&path, zstd::encode_all(bytes(65 << 20), 1).unwrap()).unwrap();
    let error = open(&path, &generous).unwrap_err().to_string();
    assert!(error.contains("more than 67108864 bytes"), "{error}");
    // A small file may have any ratio.
    std::fs::write(&path, zstd::encode_all(bytes(60 << 20), 1).unwrap()).unwrap();
    assert_eq!(open(&path, &generous).unwrap().bytes(), 60 << 20);
}

#[test]
fn inflated_files_share_a_room_in_memory_and_the_others_go_to_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let bytes = text((6 << 20) - 1);
    let all: Vec<Content> = (0..12_u8)
        .map(|number| {
            let path = dir.path().join(number.to_string());
            let bytes = [&bytes[..], &[number]].concat();
            std::fs::write(&path, zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
            let content = open(&path, &options).unwrap();
            assert!(whole(&content) == bytes);
            content
        })
        .collect();
    let in_memory = |content: &&Content| matches!(content.body, Body::InRoom { .. });
    // Each takes 8 MiB while it is inflated, and 6 MiB after that.
    assert_eq!(all.iter().filter(in_memory).count(), 5);
    let none = dir.path().join("none");
    std::fs::write(&none, zstd::encode_all(&b""[..], 1).unwrap()).unwrap();
    let rest = std::iter::from_fn(|| options.room.take(1 << 20)).collect::<Vec<_>>();
    assert_eq!(open(&none, &options).unwrap().bytes(), 0);
    drop((all, rest));
    let again = open(&dir.path().join("11"), &options).unwrap();
    assert!(in_memory(&&again), "there is room again");
}

/// A file that stays in memory needs no free space.
#[test]
fn nothing_is_spilled_to_a_disk_below_the_floor() {
    let dir = tempfile::tempdir().unwrap();
    let full = ContentOptions {
        spill_floor_bytes: u64::MAX,
        ..options(dir.path())
    };
    let (small, large) = (dir.path().join("small"), dir.path().join("large"));
    let compressed = |bytes| zstd::encode_all(&text(bytes)[..], 1).unwrap();
    std::fs::write(&small, compressed(3 << 20)).unwrap();
    std::fs::write(&large, compressed(20 << 20)).unwrap();
    assert_eq!(open(&small, &full).unwrap().bytes(), 3 << 20);
    let copied = private_copy(&File::open(&small).unwrap(), 100, &full);
    let inflated = match open(&large, &full) {
        Err(ContentError::Io(error)) => Err(error),
        other => Ok(other),
    };
    for error in [copied.map(drop).unwrap_err(), inflated.unwrap_err()] {
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("disk_floor"), "{error}");
    }
    assert_eq!(
        open(&large, &options(dir.path())).unwrap().bytes(),
        20 << 20
    );
}

/// A new name or link changes the ctime of a file but not its content. An overwrite is found even
/// if mtime is set back.
#[test]
fn a_file_is_compared_with_its_content_as_it_was_read() {
    type Change = fn(&Path);
    let overwrite = |path: &Path| {
        let modified = std::fs::metadata(path).unwrap().modified().unwrap();
        let file = File::options().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"X", 5).unwrap();
        file.set_modified(modified).unwrap();
    };
    let changes: [(&str, Change, bool); 7] = [
        ("nothing", |_| (), true),
        (
            "another name",
            |path| std::fs::hard_link(path, path.with_extension("b")).unwrap(),
            true,
        ),
        (
            "touched",
            |path| {
                let file = File::options().write(true).open(path).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            },
            true,
        ),
        (
            "the same content in another file",
            |path| {
                let bytes = std::fs::read(path).unwrap();
                std::fs::remove_file(path).unwrap();
                std::fs::write(path, bytes).unwrap();
            },
            true,
        ),
        (
            "grown",
            |path| {
                let mut file = File::options().append(true).open(path).unwrap();
                file.write_all(b"more").unwrap();
            },
            false,
        ),
        (
            "cut short",
            |path| {
                File::options()
                    .write(true)
                    .open(path)
                    .unwrap()
                    .set_len(9)
                    .unwrap();
            },
            false,
        ),
        ("overwritten, its mtime put back", overwrite, false),
    ];
    let dir = tempfile::tempdir().unwrap();
    for bytes in [100, 3 << 20] {
        for (what, change, is_same) in &changes {
            let path = dir.path().join("file.a");
            let _ = std::fs::remove_file(path.with_extension("b"));
            std::fs::write(&path, text(bytes)).unwrap();
            let as_read = open(&path, &options(dir.path())).unwrap().as_read();
            change(&path);
            let found = as_read.is_at(&path, &options(dir.path())).unwrap();
            assert_eq!(found, *is_same, "{what}, of {bytes} bytes");
        }
    }
    let path = dir.path().join("file.a");
    let as_read = open(&path, &options(dir.path())).unwrap().as_read();
    let mut writer = File::options().append(true).open(&path).unwrap();
    writer.write_all(b"more").unwrap();
    let busy = as_read.is_at(&path, &options(dir.path()));
    assert!(matches!(busy, Err(ContentError::Busy)));
}

#[test]
fn identity_follows_from_the_content_and_not_from_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let hash = |name: &str, bytes: &[u8]| {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        open(&dir.path().join(name), &options(dir.path()))
            .unwrap()
            .hash
    };
    assert_eq!(hash("a", b"[1]"), hash("b", b"[1]"));
    assert_ne!(hash("a", b"[1]"), hash("a", b"[1] "));
}
