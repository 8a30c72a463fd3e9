//! A file with any bytes is opened (plain, or in each compression), cut, parsed, framed, and decoded as by a
//! worker. Every record is a row or a reject.
#![no_main]

use std::io::{self, Write as _};
use std::sync::LazyLock;

use lemonade_fuzz::{DATASETS, KEY, batches, dataset, limits};
use lemonade_task::content::{self, ContentError, ContentOptions};
use lemonade_task::cut::cut;
use lemonade_task::frame::{Codec, Encoder, Frame, decode};
use libfuzzer_sys::fuzz_target;

static DIR: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a directory for the files"));

type Compress = fn(&[u8]) -> io::Result<Vec<u8>>;

/// How the document is stored: the three highest bits of the last byte decide.
const COMPRESS: [Option<Compress>; 8] = [
    None,
    None,
    Some(gzip),
    Some(zstd),
    Some(bzip2),
    Some(xz),
    Some(lz4),
    Some(snappy),
];

fuzz_target!(|data: &[u8]| {
    let Some((&choice, document)) = data.split_last() else {
        return;
    };
    let compress = COMPRESS[choice as usize / 32];
    // Without one: the bytes as they are, a document or damaged compressed data.
    let stored = compress.map_or_else(
        || document.to_vec(),
        |compress| compress(document).expect("writing to memory cannot fail"),
    );
    let path = DIR.path().join("file");
    std::fs::write(&path, &stored).expect("the directory takes it");
    let options = ContentOptions {
        inflated_bytes_max: 1 << 20,
        spill_dir: DIR.path().to_owned(),
        ..ContentOptions::default()
    };
    let content = match content::open(&path, &options) {
        Ok(content) => content,
        Err(ContentError::Corrupt { .. }) => {
            assert!(
                compress.is_none(),
                "what was compressed here is not corrupt"
            );
            return;
        }
        // The bytes begin like another format, perhaps like compressed data, and are compressed
        // here.
        Err(ContentError::NotRead { .. }) => return,
        Err(other) => panic!("{other}"),
    };
    assert_eq!(content.stored_bytes, stored.len() as u64);
    let inspected = content.inspect(0..content.bytes(), |bytes| {
        if compress.is_some() {
            assert_eq!(bytes, document);
        }
        arrives(bytes, choice);
    });
    inspected.expect("no process changes the file");
});

/// Cuts, parses, frames and decodes, and counts.
fn arrives(content: &[u8], choice: u8) {
    let dataset = dataset(choice);
    let limits = limits(choice);
    let Ok(plan) = cut(content, dataset, limits) else {
        return;
    };
    let mut records = 0;
    for batch in batches(dataset, content, &plan) {
        let codec = [Codec::Plain, Codec::Lz4][choice as usize % 2];
        let sent = Encoder::default().encode(&batch, codec);
        let header = sent.header(&KEY);
        let frame = Frame::from_parts(header.as_bytes(), sent.rows, sent.rejects, Some(&KEY));
        let frame = frame.expect("the header fits");
        let arrived = decode(&frame, &DATASETS).expect("the frame is one of ours");
        assert_eq!(arrived, batch);
        records += arrived.rows.num_rows() + arrived.rejects.len();
    }
    assert_eq!(records, plan.records as usize);
}

fn gzip(document: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(document)?;
    encoder.finish()
}

fn zstd(document: &[u8]) -> io::Result<Vec<u8>> {
    zstd::encode_all(document, 1)
}

fn bzip2(document: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(document)?;
    encoder.finish()
}

fn xz(document: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
    encoder.write_all(document)?;
    encoder.finish()
}

fn lz4(document: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(document)?;
    encoder.finish().map_err(io::Error::other)
}

fn snappy(document: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = snap::write::FrameEncoder::new(Vec::new());
    encoder.write_all(document)?;
    encoder.into_inner().map_err(io::Error::other)
}
