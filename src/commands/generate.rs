//! `generate`: writes sample files. A file has a temporary name until it is whole, and never
//! replaces another.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use flate2::write::GzEncoder;

use crate::config::Settings;
use crate::config::cli::{Compression, GenerateArgs};
use crate::directory;
use crate::sample::Generator;

use super::{Outcome, print};

/// Runs the command.
pub(super) fn execute(settings: &Settings, args: &GenerateArgs) -> anyhow::Result<Outcome> {
    let GenerateArgs {
        dataset: record_type,
        seed,
        vehicles,
        days,
        bad,
        format,
        ..
    } = *args;
    let generator = Generator {
        record_type,
        seed,
        vehicles,
        days,
        bad,
        format,
    };
    let dir = args.dir.as_ref().unwrap_or(&settings.dirs.inbound);
    directory::create_private(dir).map_err(|error| refused("create", dir, &error))?;
    let (mut bytes, mut bad) = (0, 0);
    for index in 0..args.files {
        let written = write_file(&generator, index, args.records, args.compress, dir)?;
        bytes += written.0;
        bad += u64::from(written.1);
    }
    let records = u64::from(args.files) * u64::from(args.records);
    print(&format!(
        "{}: {} files, {records} records ({bad} of them bad), {}\n",
        dir.display(),
        args.files,
        bytesize::ByteSize(bytes).display().iec()
    ))?;
    if args.dir.is_none() {
        eprintln!("`task_runner load` loads them");
    }
    Ok(Outcome::Complete)
}

/// Writes one file. Returns its size in bytes on disk and the number of its bad records.
fn write_file(
    generator: &Generator,
    index: u32,
    records: u32,
    compress: Compression,
    dir: &Path,
) -> anyhow::Result<(u64, u32)> {
    let extension = match compress {
        Compression::Gzip => ".gz",
        Compression::Zstd => ".zst",
        Compression::None => "",
    };
    let path = dir.join(generator.file_name(index) + extension);
    let writing = |error: io::Error| refused("write", &path, &error);
    // A hidden name until the file is whole: a service must not take half of it.
    let file = tempfile::Builder::new()
        .prefix(".generate-")
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(dir)
        .map_err(writing)?;
    let out = BufWriter::new(file.as_file());
    let bad = write_compressed(generator, index, records, compress, out).map_err(writing)?;
    let bytes = file.as_file().metadata().map_err(writing)?.len();
    file.persist_noclobber(&path)
        .map_err(|error| error.error)
        .with_context(|| {
            format!(
                "{}: not written; choose another --seed or --dir",
                path.display()
            )
        })?;
    Ok((bytes, bad))
}

/// The error of a path that cannot be made.
fn refused(doing: &str, path: &Path, error: &io::Error) -> io::Error {
    let path = path.display();
    let why = format!("cannot {doing} {path}: {error}; choose another --dir");
    io::Error::new(error.kind(), why)
}

fn write_compressed(
    generator: &Generator,
    index: u32,
    records: u32,
    compress: Compression,
    mut out: impl Write,
) -> io::Result<u32> {
    match compress {
        Compression::None => {
            let bad = generator.write(index, records, &mut out)?;
            out.flush()?;
            Ok(bad)
        }
        Compression::Gzip => {
            let mut out = GzEncoder::new(out, flate2::Compression::default());
            let bad = generator.write(index, records, &mut out)?;
            out.finish()?.flush()?;
            Ok(bad)
        }
        Compression::Zstd => {
            let mut out = zstd::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)?;
            let bad = generator.write(index, records, &mut out)?;
            out.finish()?.flush()?;
            Ok(bad)
        }
    }
}
