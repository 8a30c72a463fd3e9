//! Formats by the first bytes of files, and headers of zstd frames.

use super::*;

fn at_257(magic: &[u8]) -> Vec<u8> {
    [&[b'a'; 257][..], magic].concat()
}

#[test]
fn formats_are_known_by_their_first_bytes() {
    let not_read = |name| Format::NotRead(NotRead::Compression(name));
    let read = Format::Compressed;
    let encoding = |name| Format::NotRead(NotRead::Encoding(name));
    let (tar, zip) = (
        Format::Container(Packing::Tar),
        Format::Container(Packing::Zip),
    );
    let pgp = Format::NotRead(NotRead::Encrypted("OpenPGP"));
    let table: &[(&[u8], Format)] = &[
        (b"", Format::Plain),
        (b"{", Format::Plain),
        (b"\xef\xbb\xbf{}", Format::Plain),
        (b"{\"a\": 1}", Format::Plain),
        (b"[\n", Format::Plain),
        (b"\x1f\x8b\x08", read(Compression::Gzip)),
        (b"\x28\xb5\x2f\xfd\x04", read(Compression::Zstd)),
        (b"\x50\x2a\x4d\x18\0\0\0\0", read(Compression::Zstd)),
        (b"\x5f\x2a\x4d\x18\0\0\0\0", read(Compression::Zstd)),
        (b"BZh91AY&SY", read(Compression::Bzip2)),
        (b"BZh9\x17\x72\x45\x38\x50\x90", read(Compression::Bzip2)),
        (b"BZh is a name", Format::Plain),
        (b"\xfd7zXZ\0", read(Compression::Xz)),
        (b"\x04\x22\x4d\x18\x64", read(Compression::Lz4)),
        (b"\xff\x06\0\0sNaPpY", read(Compression::Snappy)),
        (b"\x02\x21\x4c\x18", not_read("lz4 in its legacy format")),
        (b"\x5d\0\0\x80\0", not_read("lzma")),
        (b"]\n", Format::Plain),
        (b"x\x9c", not_read("zlib")),
        (b"x = 1", Format::Plain),
        (b"\xff\xfe{\0", encoding("UTF-16")),
        (b"\xfe\xff\0{", encoding("UTF-16")),
        (b"\xff\xfe\0\0{\0\0\0", encoding("UTF-32")),
        (b"{\0\"\0", encoding("UTF-16LE")),
        (b"\0[\0{", encoding("UTF-16BE")),
        (b"{\0\0\0", encoding("UTF-32LE")),
        (b"\0\0\0[", encoding("UTF-32BE")),
        (b"{\0\0", Format::Plain),
        (&at_257(b"ustar\0"), tar),
        (&at_257(b"ustar  \0"), tar),
        (&at_257(b"ustard is yellow"), Format::Plain),
        (b"PK\x03\x04", zip),
        (b"PK\x05\x06\0", zip),
        (b"\x8c\x0d\x04\x09", pgp),
        (b"\x85\x01\x0c\x03", pgp),
        (b"\x85 is no UTF-8", Format::Plain),
    ];
    for (beginning, format) in table {
        assert_eq!(Format::of(beginning), *format, "{beginning:?}");
    }
}

/// No entry of the table hides one below it.
#[test]
fn each_magic_is_found() {
    for (magic, format) in NOT_READ {
        assert!(magic.len() <= BEGINNING_BYTES);
        assert_eq!(Format::of(magic), Format::NotRead(format), "{magic:?}");
        let text = format.to_string();
        assert!(text.contains("read") || text.contains("Git LFS"), "{text}");
    }
}

#[test]
fn the_format_within_a_compressed_file_is_named() {
    let of = |bytes: &[u8]| within("gzip", bytes);
    assert_eq!(of(b"{}"), Format::Plain);
    assert_eq!(of(&at_257(b"ustar\0")), Format::Container(Packing::Tar));
    let not_read = |bytes: &[u8]| match of(bytes) {
        Format::NotRead(format) => format.to_string(),
        other => panic!("{other:?}"),
    };
    let archive = not_read(b"7z\xbc\xaf\x27\x1c");
    assert!(
        archive.starts_with("it is a 7z archive in gzip, which is not read"),
        "{archive}"
    );
    assert!(not_read(b"\x1f\x8b").contains("compressed twice"));
    assert!(not_read(b"\xff\xfe[\0").contains("UTF-16"));
}

#[test]
fn a_zstd_header_holds_window_and_dictionary() {
    let frame = |rest: &[u8]| ZstdHeader::read(&[ZSTD, rest].concat());
    let header = |window_bytes, dictionary| {
        Some(ZstdHeader {
            window_bytes,
            dictionary,
        })
    };
    // A window descriptor: exponent and mantissa.
    assert_eq!(frame(&[0, 0]), header(1024, 0));
    assert_eq!(frame(&[0, 0xa8]), header(2 << 30, 0));
    assert_eq!(frame(&[0, 0x0f]), header(2048 + 7 * 256, 0));
    // One segment: the size of the content, in 1, 2, 4 or 8 bytes.
    assert_eq!(frame(&[0x20, 9]), header(9, 0));
    assert_eq!(frame(&[0x60, 1, 1]), header(257 + 256, 0));
    assert_eq!(frame(&[0xa0, 0, 0, 0, 1]), header(1 << 24, 0));
    assert_eq!(frame(&[0xe0, 0, 0, 0, 0, 1, 0, 0, 0]), header(1 << 32, 0));
    // A dictionary, in 1, 2 or 4 bytes.
    assert_eq!(frame(&[0x21, 7, 9]), header(9, 7));
    assert_eq!(frame(&[0x02, 0, 1, 2]), header(1024, 0x201));
    assert_eq!(frame(&[0x23, 1, 2, 3, 4, 9]), header(9, 0x0403_0201));
    for cut in [&[][..], &[0], &[0x23, 1, 2, 3, 4], &[0xe0, 0, 0]] {
        assert_eq!(frame(cut), None, "{cut:?}");
    }
    // Headers that zstd itself writes.
    for level in [1, 3, 19] {
        let made = zstd::encode_all(&vec![b'x'; 3 << 20][..], level).unwrap();
        let header = ZstdHeader::read(&made).unwrap();
        assert!(header.window_bytes.is_power_of_two(), "{header:?}");
        assert_eq!(header.dictionary, 0);
    }
}
