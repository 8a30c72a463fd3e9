//! Containers of all shapes: those that are read give the bytes of each member, the others are
//! refused with the member and the next step.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::{fs, iter};

use ::tar::{Builder, EntryType, Header};
use flate2::write::DeflateEncoder;
use rawzip::path::EntryPath;
use rawzip::{CompressionMethod, ZipArchiveWriter};

use super::*;
use crate::content::{Opened, open, open_any};

/// An entry of a tar archive whose name is written as it is.
fn entry(archive: &mut Builder<Vec<u8>>, kind: EntryType, name: &[u8], bytes: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    archive.append(&header, bytes).unwrap();
}

fn tar(entries: &[(EntryType, &[u8], &[u8])]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (kind, name, bytes) in entries {
        entry(&mut archive, *kind, name, bytes);
    }
    archive.into_inner().unwrap()
}

fn files(names: &[&str]) -> Vec<u8> {
    let entries: Vec<(EntryType, &[u8], &[u8])> = names
        .iter()
        .map(|name| (EntryType::Regular, name.as_bytes(), &b"{}"[..]))
        .collect();
    tar(&entries)
}

/// A member with PAX attributes.
fn with_attributes(attributes: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    let attributes = attributes.iter().copied();
    archive.append_pax_extensions(attributes).unwrap();
    entry(&mut archive, EntryType::Regular, b"short", b"{}");
    archive.into_inner().unwrap()
}

fn zip(members: &[(&str, &[u8], CompressionMethod)]) -> Vec<u8> {
    let mut made = Vec::new();
    let mut archive = ZipArchiveWriter::new(&mut made);
    for (name, bytes, method) in members {
        let (mut entry, config) = archive
            .new_file(EntryPath::verbatim(name.as_bytes()))
            .compression_method(*method)
            .start()
            .unwrap();
        if *method == CompressionMethod::DEFLATE {
            let encoder = DeflateEncoder::new(&mut entry, flate2::Compression::default());
            let mut writer = config.wrap(encoder);
            writer.write_all(bytes).unwrap();
            let (encoder, descriptor) = writer.finish().unwrap();
            encoder.finish().unwrap();
            entry.finish(descriptor).unwrap();
        } else {
            let mut writer = config.wrap(&mut entry);
            writer.write_all(bytes).unwrap();
            let (_, descriptor) = writer.finish().unwrap();
            entry.finish(descriptor).unwrap();
        }
    }
    archive.finish().unwrap();
    made
}

fn opened(bytes: &[u8]) -> Result<Arc<Container>, ContentError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, bytes).unwrap();
    match open_any(&path, &ContentOptions::default(), |_| ())? {
        Opened::Container(container) => Ok(container),
        Opened::File(..) => panic!("it is no container"),
    }
}

fn read(container: &Container, member: usize) -> Result<Vec<u8>, ContentError> {
    let options = ContentOptions::default();
    let (_, bytes) = container.open_and(member, &options, <[u8]>::to_vec)?;
    Ok(bytes)
}

#[test]
fn each_member_is_a_file_with_the_identity_of_its_bytes() {
    let large = vec![b' '; 3 << 20];
    let members: [(&str, &[u8]); 4] = [
        ("a.json", b"{\"a\":1}"),
        ("d/b.json", &large),
        ("d/e/empty", b""),
        ("c.json", b"[]"),
    ];
    let mut archive = Builder::new(Vec::new());
    archive.append_dir("d", "/").unwrap();
    for (name, bytes) in members {
        entry(&mut archive, EntryType::Regular, name.as_bytes(), bytes);
    }
    let tar = archive.into_inner().unwrap();
    let with = |method| zip(&members.map(|(name, bytes)| (name, bytes, method)));
    let packed = [
        zstd::encode_all(&tar[..], 1).unwrap(),
        tar,
        with(CompressionMethod::STORE),
        with(CompressionMethod::DEFLATE),
    ];
    let dir = tempfile::tempdir().unwrap();
    let options = ContentOptions::default();
    for (at, packed) in packed.iter().enumerate() {
        let container = opened(packed).unwrap();
        let names: Vec<_> = container.members().iter().map(|it| &it.name).collect();
        assert_eq!(names, members.map(|(name, _)| OsStr::new(name)), "{at}");
        let path = dir.path().join(at.to_string());
        fs::write(&path, packed).unwrap();
        for (index, (name, bytes)) in members.into_iter().enumerate() {
            assert_eq!(container.members()[index].bytes(), bytes.len() as u64);
            assert!(read(&container, index).unwrap() == bytes, "{at} {name}");
            let mut copied = Vec::new();
            let copy = |piece: &[u8]| copied.write_all(piece);
            container.copy(index, copy).unwrap();
            assert!(copied == bytes, "{at} {name}");
            // By its path, it has the identity of the unpacked file.
            let unpacked = dir.path().join("unpacked");
            fs::write(&unpacked, bytes).unwrap();
            let hash = open(&path.join(name), &options).unwrap().hash;
            assert_eq!(hash, open(&unpacked, &options).unwrap().hash, "{at} {name}");
        }
        let missing = open(&path.join("d/other"), &options).unwrap_err();
        assert!(
            matches!(missing, ContentError::Io(error) if error.kind() == io::ErrorKind::NotFound)
        );
        let single = open(&path, &options).unwrap_err().to_string();
        assert!(single.contains("files of their own"), "{single}");
    }
}

#[test]
fn names_are_read_in_each_format_and_are_paths_below_the_container() {
    let long = format!("{}/{}", "d".repeat(120), "x".repeat(120));
    let mut gnu = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(2);
    gnu.append_data(&mut header, &long, &b"{}"[..]).unwrap();
    for (packed, name) in [
        (files(&["./a/./b.json"]), "a/b.json"),
        (files(&["a//b.json"]), "a/b.json"),
        (gnu.into_inner().unwrap(), &*long),
        (with_attributes(&[("path", long.as_bytes())]), &*long),
        (with_attributes(&[("mtime", b"1.5")]), "short"),
    ] {
        let container = opened(&packed).unwrap();
        assert_eq!(container.members()[0].name, OsStr::new(name));
        assert_eq!(read(&container, 0).unwrap(), b"{}");
    }
}

#[test]
fn a_container_with_a_member_that_is_no_plain_file_is_refused_as_a_whole() {
    let one = |kind, name: &[u8]| tar(&[(EntryType::Regular, b"a", b"{}"), (kind, name, b"")]);
    let regular = |name: &[u8]| one(EntryType::Regular, name);
    let deep = iter::repeat_n("d", 17).collect::<Vec<_>>().join("/");
    let long = "x".repeat(250);
    let zipped = |name| zip(&[(name, b"{}", CompressionMethod::STORE)]);
    let mut bzip2 = zipped("a");
    // The method, in the central directory.
    let directory = bzip2.windows(4).position(|at| at == b"PK\x01\x02").unwrap();
    bzip2[directory + 10] = 12;
    let mut encrypted = zipped("a");
    encrypted[directory + 8] |= 1;
    for (packed, words) in [
        (
            regular(b"../a"),
            "its member `../a` leads out of its directory",
        ),
        (regular(b"a/../../b"), "leads out of its directory"),
        (
            regular(b"/etc/x"),
            "its member `/etc/x` has an absolute path",
        ),
        (regular(b"."), "has no name"),
        (regular(deep.as_bytes()), "more than 16 directories deep"),
        (
            with_attributes(&[("path", long.as_bytes())]),
            "more than 249 bytes",
        ),
        (
            one(EntryType::Symlink, b"l"),
            "its member `l` is a symbolic link",
        ),
        (one(EntryType::Link, b"l"), "is a hard link"),
        (one(EntryType::Char, b"l"), "is a device"),
        (one(EntryType::Block, b"l"), "is a device"),
        (one(EntryType::Fifo, b"l"), "is a pipe"),
        (one(EntryType::new(b'M'), b"l"), "is of the unknown type M"),
        (
            with_attributes(&[("GNU.sparse.major", b"1")]),
            "without --sparse",
        ),
        (files(&["a", "b", "./a"]), "it has the member `a` twice"),
        (
            tar(&[(EntryType::Directory, b"d/", b"")]),
            "it holds no file",
        ),
        (zip(&[]), "it holds no file"),
        (zipped("../a"), "leads out of its directory"),
        (
            bzip2,
            "its member `a` is compressed by the method 12: pack it again with deflate",
        ),
        (encrypted, "its member `a` is encrypted"),
    ] {
        match opened(&packed) {
            Err(ContentError::NotPacked { detail, .. }) => {
                assert!(detail.contains(words), "{words}: {detail}");
                assert!(detail.contains(": pack it again"), "{detail}");
            }
            other => panic!("{words}: {other:?}"),
        }
    }
}

#[test]
fn a_damaged_container_is_refused() {
    let whole = files(&["a", "b"]);
    let end = whole.len() - 1024;
    let mut header = whole.clone();
    header[1024] ^= 1;
    let zipped = zip(&[("a", b"{}", CompressionMethod::STORE)]);
    let other = zip(&[("other", b"[{}]", CompressionMethod::DEFLATE)]);
    let mut huge = Builder::new(Vec::new());
    let name = vec![b'x'; 2 << 20];
    entry(&mut huge, EntryType::GNULongName, b"././@LongLink", &name);
    entry(&mut huge, EntryType::Regular, b"a", b"{}");
    for (packed, words) in [
        (whole[..end].to_vec(), "no end after byte 2048"),
        (whole[..end - 512].to_vec(), "has no end"),
        (whole[..end - 700].to_vec(), ""),
        (header, ""),
        (
            [&whole[..], &whole[..]].concat(),
            "data follows its end at byte",
        ),
        ([&whole[..], b"x"].concat(), "data follows its end at byte"),
        (
            huge.into_inner().unwrap(),
            "a header of more than 1048576 bytes",
        ),
        (zipped[..zipped.len() - 1].to_vec(), ""),
        (zipped[..20].to_vec(), ""),
        // The offset of the second directory is that of the first one.
        (
            [&zipped[..], &zipped].concat(),
            "if archives were joined, deliver each on its own",
        ),
        (
            [&zipped[..], &other].concat(),
            "its first member begins at byte",
        ),
        (
            [&other[..], &zipped].concat(),
            "its first member begins at byte",
        ),
        ([&zipped[..], b"x"].concat(), "data follows its end at byte"),
        (
            [&zipped[..4], &zipped].concat(),
            "its first member begins at byte 4, and not at byte 0",
        ),
    ] {
        match opened(&packed) {
            Err(ContentError::Corrupt { detail, .. }) => {
                assert!(
                    detail.contains("archive is damaged or cut short"),
                    "{detail}"
                );
                assert!(detail.contains(words), "{words}: {detail}");
            }
            other => panic!("{words}: {other:?}"),
        }
    }
}

#[test]
fn containers_share_a_room_in_memory_and_the_others_go_to_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = ContentOptions {
        spill_dir: dir.path().to_owned(),
        ..ContentOptions::default()
    };
    let path = dir.path().join("a.tar");
    let member = vec![b'x'; 1_000_000];
    fs::write(&path, tar(&[(EntryType::Regular, b"x", &member)])).unwrap();
    let open = || match open_any(&path, &options, |_| ()).unwrap() {
        Opened::Container(container) => container,
        Opened::File(..) => panic!("no container"),
    };
    let is_in_memory = |container: &Arc<Container>| {
        let (content, ()) = container.open_and(0, &options, |_| ()).unwrap();
        assert_eq!(content.bytes(), 1_000_000);
        container.is_in_memory()
    };
    let all: Vec<_> = (0..40).map(|_| open()).collect();
    let in_memory = all.iter().filter(|one| is_in_memory(one)).count();
    assert_eq!(in_memory, 33, "of 1,002,496 bytes each");
    drop(all);
    assert!(is_in_memory(&open()), "there is room again");
}

#[test]
fn a_zip_archive_with_a_comment_is_read_and_one_behind_other_bytes_is_no_container() {
    let zipped = zip(&[("a", b"{}", CompressionMethod::STORE)]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, [b"x", &zipped[..]].concat()).unwrap();
    let opened_any = open_any(&path, &ContentOptions::default(), |_| ()).unwrap();
    assert!(matches!(opened_any, Opened::File(..)), "{opened_any:?}");
    // The length of the comment is in the last two bytes of the end record.
    let mut commented = zipped;
    let length = commented.len() - 2;
    commented[length] = 3;
    commented.extend(b"why");
    assert_eq!(opened(&commented).unwrap().members().len(), 1);
}

/// Each cut of a container is noticed, and none of them is a panic.
#[test]
fn no_cut_of_a_container_is_taken_for_a_whole_one() {
    let tar = files(&["a", "b"]);
    let zipped = zip(&[
        ("a", b"{\"a\":1}", CompressionMethod::STORE),
        ("b", b"{\"b\":1}", CompressionMethod::DEFLATE),
    ]);
    // A tar archive may lack the second block of zeros, and has its magic from byte 262 on.
    for (whole, cuts) in [(&tar, 265..tar.len() - 512), (&zipped, 4..zipped.len())] {
        for cut in cuts {
            assert!(opened(&whole[..cut]).is_err(), "{cut}");
        }
    }
}

#[test]
fn a_damaged_member_does_not_affect_the_others() {
    for method in [CompressionMethod::STORE, CompressionMethod::DEFLATE] {
        let members: [(&str, &[u8], _); 3] = [
            ("a", b"{\"a\":1}", method),
            ("b", b"{\"b\":1}", method),
            ("c", b"{\"c\":1}", method),
        ];
        let whole = zip(&members);
        let clean = opened(&whole).unwrap();
        let local = |at: &usize| whole[*at..].starts_with(b"PK\x03\x04");
        let second = (0..whole.len()).filter(local).nth(1).unwrap();
        let extra = usize::from(u16::from_le_bytes([whole[second + 28], whole[second + 29]]));
        let data = second + 30 + "b".len() + extra;
        let mut damaged = whole.clone();
        damaged[data + 3] ^= 0x04;
        let container = opened(&damaged).unwrap();
        for member in [0, 2] {
            assert_eq!(
                read(&container, member).unwrap(),
                read(&clean, member).unwrap()
            );
        }
        match read(&container, 1) {
            Err(ContentError::Corrupt { detail, .. }) => {
                assert!(detail.contains("the member is damaged"), "{detail}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_container_within_a_container_is_named() {
    let inner = files(&["a"]);
    let outer = tar(&[(EntryType::Regular, b"inner.tar", &inner)]);
    let packed = zstd::encode_all(&inner[..], 1).unwrap();
    let packed = tar(&[(EntryType::Regular, b"inner.tar.zst", &packed)]);
    for outer in [outer, packed] {
        let container = opened(&outer).unwrap();
        let error = read(&container, 0).unwrap_err().to_string();
        assert!(error.contains("a tar archive within an archive"), "{error}");
    }
}

#[test]
fn a_zip_bomb_ends_at_the_limit() {
    let bomb = vec![0; 80 << 20];
    let packed = zip(&[("a", &bomb, CompressionMethod::DEFLATE)]);
    let error = opened(&packed).unwrap_err().to_string();
    assert!(
        error.contains("inflates to more than 67108864 bytes"),
        "{error}"
    );
}
