//! Each codec: whole, in several members, padded, cut short, damaged, and as a bomb.

use std::io::Write as _;
use std::path::PathBuf;

use super::*;
use crate::content::{Content, Windows, open};

/// A codec, and what its format allows.
struct Codec {
    compression: Compression,
    compress: fn(&[u8]) -> Vec<u8>,
    /// Whether zeros behind the last member are padding.
    is_padded: bool,
    /// Whether the format has an end, by which a cut is always found.
    has_end: bool,
}

const CODECS: [Codec; 6] = [
    Codec {
        compression: Compression::Gzip,
        compress: gzip,
        is_padded: true,
        has_end: true,
    },
    Codec {
        compression: Compression::Zstd,
        compress: zstd,
        is_padded: false,
        has_end: true,
    },
    Codec {
        compression: Compression::Bzip2,
        compress: bzip2,
        is_padded: true,
        has_end: true,
    },
    Codec {
        compression: Compression::Xz,
        compress: xz,
        is_padded: true,
        has_end: true,
    },
    Codec {
        compression: Compression::Lz4,
        compress: lz4,
        is_padded: false,
        has_end: true,
    },
    Codec {
        compression: Compression::Snappy,
        compress: snappy,
        is_padded: false,
        has_end: false,
    },
];

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// With a checksum, as the command writes it.
fn zstd(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn xz(plain: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// With a checksum, as the command writes it.
fn lz4(plain: &[u8]) -> Vec<u8> {
    lz4_in_blocks(plain, lz4_flex::frame::BlockSize::Max64KB)
}

fn lz4_in_blocks(plain: &[u8], size: lz4_flex::frame::BlockSize) -> Vec<u8> {
    let info = lz4_flex::frame::FrameInfo::new()
        .block_size(size)
        .content_checksum(true);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn snappy(plain: &[u8]) -> Vec<u8> {
    let mut encoder = snap::write::FrameEncoder::new(Vec::new());
    encoder.write_all(plain).unwrap();
    encoder.into_inner().unwrap()
}

/// Opens bytes as a file in a directory of its own.
struct Place {
    dir: tempfile::TempDir,
    path: PathBuf,
    options: ContentOptions,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = ContentOptions {
            inflated_bytes_max: 32 << 20,
            spill_dir: dir.path().to_owned(),
            ..ContentOptions::default()
        };
        Self {
            path: dir.path().join("file"),
            dir,
            options,
        }
    }

    fn open(&self, bytes: &[u8]) -> Result<Content, ContentError> {
        std::fs::write(&self.path, bytes).unwrap();
        open(&self.path, &self.options)
    }

    /// All inflated bytes of a file.
    fn read(&self, bytes: &[u8]) -> Result<Vec<u8>, ContentError> {
        let content = self.open(bytes)?;
        content.inspect(0..content.bytes(), <[u8]>::to_vec)
    }
}

/// Records that differ, so that no codec makes a file of some bytes of them.
fn records(count: usize) -> Vec<u8> {
    let record = |n| format!("{{\"id\":{n},\"value\":{}}}\n", n * 7919 % 1_000_003);
    (0..count).map(record).collect::<String>().into_bytes()
}

#[test]
fn members_of_each_codec_are_read_one_after_the_other() {
    let place = Place::new();
    let (few, many) = (records(10), records(400_000));
    assert!(many.len() > INFLATED_IN_MEMORY_MAX);
    for codec in CODECS {
        let name = codec.compression.name();
        let compressed: Vec<_> = [&b""[..], &few, &many]
            .map(|plain| (codec.compress)(plain))
            .into();
        for (members, plain) in [
            (&[0][..], vec![]),
            (&[1], few.clone()),
            (&[2], many.clone()),
            (&[1, 1], few.repeat(2)),
            (&[1, 0, 1], few.repeat(2)),
            (&[2, 1], [&many[..], &few].concat()),
        ] {
            let file: Vec<u8> = members
                .iter()
                .flat_map(|at| &compressed[*at])
                .copied()
                .collect();
            assert!(
                place.read(&file).expect(name) == plain,
                "{name}, {members:?}"
            );
        }
    }
    assert_eq!(
        std::fs::read_dir(place.dir.path()).unwrap().count(),
        1,
        "spilled files have no name"
    );
}

#[test]
fn what_follows_the_last_member_is_padding_or_refuses_the_file() {
    let place = Place::new();
    let plain = records(10);
    for codec in CODECS {
        let name = codec.compression.name();
        let file = (codec.compress)(&plain);
        let behind = |tail: &[u8]| place.read(&[&file[..], tail].concat());
        for zeros in [1, 512, 70_000] {
            let read = behind(&vec![0; zeros]);
            if codec.is_padded {
                assert!(read.expect(name) == plain, "{name}, {zeros} zeros");
            } else {
                assert!(matches!(read, Err(ContentError::Corrupt { .. })), "{name}");
            }
        }
        // 0x99: a part that a reader of snappy may skip.
        for tail in [&b"tail"[..], b"\n", b"\0\0\0x", b"\x99\x01\0\0x"] {
            let read = behind(tail);
            assert!(
                matches!(read, Err(ContentError::Corrupt { .. })),
                "{name}, {tail:?}"
            );
        }
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    let place = Place::new();
    // More than one block of lz4, and more than one chunk of snappy.
    for plain in [records(20), records(10_000)] {
        for codec in CODECS {
            let name = codec.compression.name();
            let file = (codec.compress)(&plain);
            let is_small = plain.len() < 10_000;
            let near_the_end = file.len() - 40..file.len();
            let all = (20..file.len())
                .step_by(if is_small { 1 } else { file.len() / 50 })
                .chain(near_the_end);
            for bytes in all {
                match place.read(&file[..bytes]) {
                    Err(ContentError::Corrupt { detail, .. }) => {
                        assert!(detail.contains(name), "{detail}");
                    }
                    // Between two chunks.
                    Ok(part) if !codec.has_end => assert!(plain.starts_with(&part)),
                    other => panic!("{name} cut to {bytes} bytes: {other:?}"),
                }
            }
        }
    }
}

/// A changed bit is found, or it changes nothing, or the file is not of the format any more.
#[test]
fn a_changed_bit_never_changes_the_content_in_silence() {
    let place = Place::new();
    let plain = records(20);
    for codec in CODECS {
        let name = codec.compression.name();
        let file = (codec.compress)(&plain);
        let mut found = 0;
        for at in 0..file.len() {
            for bit in [0, 7] {
                let mut damaged = file.clone();
                damaged[at] ^= 1 << bit;
                match place.read(&damaged) {
                    Ok(read) => assert!(
                        read == plain || read == damaged,
                        "{name}: bit {bit} of byte {at}"
                    ),
                    Err(_) => found += 1,
                }
            }
        }
        assert!(found > file.len(), "{name}: {found} of {}", 2 * file.len());
    }
}

#[test]
fn a_bomb_of_each_codec_ends_at_the_limit() {
    let place = Place::new();
    let plain = vec![b'x'; 33 << 20];
    for codec in CODECS {
        let error = place.open(&(codec.compress)(&plain)).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(codec.compression.name()) && error.contains("more than 33554432 bytes"),
            "{error}"
        );
    }
}

#[test]
fn memory_beyond_the_budget_is_named() {
    let mut place = Place::new();
    let mut large_dictionary = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
    large_dictionary.dict_size(64 << 20);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&large_dictionary);
    let stream =
        liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32)
            .unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(b"[1]").unwrap();
    let xz = encoder.finish().unwrap();
    let lz4 = lz4_in_blocks(b"[1]", lz4_flex::frame::BlockSize::Max4MB);
    for (file, compression, least, most) in [
        (xz, Compression::Xz, 64 << 20, 65 << 20),
        (lz4, Compression::Lz4, 12 << 20, 13 << 20),
        (bzip2(b"[1]"), Compression::Bzip2, 3_600_000, 4_000_000),
    ] {
        place.options.windows = Windows::new(most);
        assert_eq!(place.read(&file).unwrap(), b"[1]");
        place.options.windows = Windows::new(least - 1);
        let error = place.open(&file).unwrap_err();
        let text = error.to_string();
        let ContentError::NotRead { format, .. } = error else {
            panic!("{text}");
        };
        let NotRead::Window {
            compression: found,
            bytes,
            bytes_max,
        } = format
        else {
            panic!("{text}");
        };
        assert_eq!((found, bytes_max), (compression, least - 1));
        assert!((least..=most).contains(&bytes), "{text}");
        assert!(
            text.contains("raise memory_budget, or recompress"),
            "{text}"
        );
    }
}

/// The blocks of a stream may need more and more memory.
#[test]
fn streams_of_xz_with_different_dictionaries_are_read() {
    let place = Place::new();
    let stream = |preset, plain: &[u8]| {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), preset);
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    };
    let plain = records(1_000);
    let small_then_large = [stream(0, &plain), stream(9, &plain), stream(0, &plain)].concat();
    assert!(place.read(&small_then_large).unwrap() == plain.repeat(3));
    let with_padding = [stream(0, &plain), vec![0; 8], stream(0, &plain)].concat();
    assert!(place.read(&with_padding).unwrap() == plain.repeat(2));
}

#[test]
fn frames_without_data_may_be_in_front_of_lz4_and_dictionaries_are_named() {
    let place = Place::new();
    let skippable = b"\x50\x2a\x4d\x18\x02\0\0\0ab";
    let frame = lz4(b"[1]");
    let file = [&skippable[..], &frame, skippable, &frame].concat();
    assert_eq!(place.read(&file).unwrap(), b"[1][1]");
    // Its flags say that a dictionary follows, which the header then names.
    let mut with_dictionary = [&frame[..6], &7_u32.to_le_bytes(), &frame[6..]].concat();
    with_dictionary[4] |= 1;
    let error = place.read(&with_dictionary).unwrap_err().to_string();
    assert!(
        error.starts_with("it is lz4 with the dictionary 7, which is not read"),
        "{error}"
    );
}
