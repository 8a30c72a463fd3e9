//! Compressed files: each codec alone, and the engine's way from the file on the disk to its inflated
//! bytes, which also hashes them and keeps them in memory or in a spill.

use std::fs;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::Args;
use lemonade_task::content::{self, ContentOptions};

use super::Made;
use super::made;
use super::meter;

#[derive(Args)]
pub(super) struct Options {
    #[command(flatten)]
    made: Made,
    /// Number of runs of each way; the best counts, because disturbances only make a run slower
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

/// A codec, as its crate offers it. The levels are the defaults of the commands, but for xz, whose
/// default takes minutes to compress and as long to inflate as a lower one.
struct Codec {
    name: &'static str,
    compress: fn(&[u8]) -> io::Result<Vec<u8>>,
    inflate: fn(&[u8], &mut Vec<u8>) -> io::Result<usize>,
}

const CODECS: [Codec; 6] = [
    Codec {
        name: "gzip",
        compress: |plain| {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(plain)?;
            encoder.finish()
        },
        inflate: |stored, plain| flate2::bufread::GzDecoder::new(stored).read_to_end(plain),
    },
    Codec {
        name: "zstd",
        compress: |plain| zstd::encode_all(plain, 3),
        inflate: |stored, plain| {
            zstd::stream::read::Decoder::with_buffer(stored)?.read_to_end(plain)
        },
    },
    Codec {
        name: "bzip2",
        compress: |plain| {
            let level = bzip2::Compression::best();
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), level);
            encoder.write_all(plain)?;
            encoder.finish()
        },
        inflate: |stored, plain| bzip2::bufread::BzDecoder::new(stored).read_to_end(plain),
    },
    Codec {
        name: "xz",
        compress: |plain| {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(plain)?;
            encoder.finish()
        },
        inflate: |stored, plain| liblzma::bufread::XzDecoder::new(stored).read_to_end(plain),
    },
    Codec {
        name: "lz4",
        compress: |plain| {
            let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(plain)?;
            Ok(encoder.finish()?)
        },
        inflate: |stored, plain| lz4_flex::frame::FrameDecoder::new(stored).read_to_end(plain),
    },
    Codec {
        name: "snappy",
        compress: |plain| {
            let mut encoder = snap::write::FrameEncoder::new(Vec::new());
            encoder.write_all(plain)?;
            encoder
                .into_inner()
                .map_err(snap::write::IntoInnerError::into_error)
        },
        inflate: |stored, plain| snap::read::FrameDecoder::new(stored).read_to_end(plain),
    },
];

pub(super) fn measure(options: &Options) -> anyhow::Result<()> {
    let one_file = Made {
        per_file: options.made.events,
        ..options.made.clone()
    };
    let text = made::texts(&one_file).pop().context("there is one file")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("file");
    let content = ContentOptions {
        spill_dir: folder.path().to_owned(),
        ..ContentOptions::default()
    };
    for codec in CODECS {
        let stored = (codec.compress)(&text)?;
        fs::write(&path, &stored)?;
        let mut plain = Vec::with_capacity(text.len() + 1);
        for _ in 0..options.rounds {
            plain.clear();
            let began = Instant::now();
            (codec.inflate)(&stored, &mut plain)?;
            report(codec.name, "alone", &text, began);
            ensure!(plain == text, "{}: other bytes", codec.name);
            let began = Instant::now();
            let bytes = opened(&path, &content)?;
            report(codec.name, "file", &text, began);
            ensure!(bytes == text.len() as u64, "{}: other bytes", codec.name);
        }
    }
    Ok(())
}

fn opened(path: &Path, options: &ContentOptions) -> anyhow::Result<u64> {
    Ok(content::open(path, options)?.bytes())
}

fn report(codec: &str, way: &str, text: &[u8], began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    let line = serde_json::json!({
        "part": "inflate",
        "codec": codec,
        "way": way,
        "seconds": seconds,
        "bytes_rate": text.len() as f64 / seconds,
    });
    meter::print(line, &serde_json::Value::Null);
}
