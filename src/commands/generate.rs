//! `generate`: sample files of any size, the same bytes for the same seed.
//!
//! [`Generator`] is pure and serves tests, benches and the demo as well; the command puts what it
//! writes into files, each under a temporary name until it is whole, and overwrites nothing.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use flate2::write::GzEncoder;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng as _;

use crate::config::Settings;
use crate::config::cli::{Compress, GenerateArgs};
pub use crate::config::cli::{Format, Kind};
use crate::inbox::make_directory;

use super::{Outcome, say};

/// Bytes handed to a writer at a time.
const WRITE_BYTES: usize = 64 * 1024;

const MILLIS_PER_DAY: u64 = 86_400_000;

/// The first day that records are of, as the sample files have it.
const FIRST_DAY: jiff::civil::Date = jiff::civil::date(2022, 6, 5);

/// Outputs to skip, so that the first numbers of neighbouring files do not resemble each other.
const WARM_UP: usize = 4;

/// Makes files of records out of numbers. Which bytes a file has depends on these fields, its
/// index and its number of records, and on nothing else; not on the machine, nor on the version of
/// a library, since the stream of the random numbers is part of what its crate promises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Generator {
    /// Which kind of record.
    pub kind: Kind,
    /// Another seed makes other vehicles and other records.
    pub seed: u64,
    /// How many vehicles the records are of; at least 1.
    pub vehicles: u32,
    /// Over how many days they are spread, one day a file; 1 to 36,500.
    pub days: u32,
    /// Which part of the records is to be rejected, 0 to 1.
    pub bad: f64,
    /// Shape of the files.
    pub format: Format,
}

impl Default for Generator {
    fn default() -> Self {
        Self {
            kind: Kind::VehicleEvents,
            seed: 1,
            vehicles: 1_000,
            days: 7,
            bad: 0.0,
            format: Format::Document,
        }
    }
}

impl Generator {
    /// The name of a file: a name for each kind, seed and index.
    #[must_use]
    pub fn file_name(&self, index: u32) -> String {
        let day = self.day(index).strftime("%Y%m%d");
        let extension = match self.format {
            Format::Document | Format::Array => "json",
            Format::Ndjson => "ndjson",
        };
        format!("{}_{day}_{}_{index:06}.{extension}", self.name(), self.seed)
    }

    /// Writes the file of this index with this many records, and tells how many of them are to be
    /// rejected.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, index: u32, records: u32, out: &mut impl Write) -> io::Result<u32> {
        let mut random = Random::new(self.seed, u64::from(index));
        let day = self.day(index).strftime("%Y-%m-%d").to_string();
        let (open, between, close) = match self.format {
            Format::Document => (format!("{{\"{}\": [", self.name()), ", ", "]}"),
            Format::Array => ("[".to_owned(), ", ", "]"),
            Format::Ndjson => (String::new(), "\n", "\n"),
        };
        let mut text = Vec::with_capacity(2 * WRITE_BYTES);
        text.extend_from_slice(open.as_bytes());
        let mut bad = 0;
        for ordinal in 0..records {
            if ordinal > 0 {
                text.extend_from_slice(between.as_bytes());
            }
            let step = MILLIS_PER_DAY / u64::from(records);
            let millis = u64::from(ordinal) * step + random.below(step.max(1));
            let fault = Fault::drawn(self.bad, &mut random);
            bad += u32::from(fault.is_some());
            let vehicle = vehicle_id(self.seed, random.below(u64::from(self.vehicles)));
            let time = time_of(&day, millis);
            match self.kind {
                Kind::VehicleEvents => write_event(&mut text, &mut random, vehicle, time, fault),
                Kind::VehicleStatus => write_status(&mut text, &mut random, vehicle, time, fault),
            }
            if text.len() >= WRITE_BYTES {
                out.write_all(&text)?;
                text.clear();
            }
        }
        if records > 0 || self.format != Format::Ndjson {
            text.extend_from_slice(close.as_bytes());
        }
        out.write_all(&text)?;
        Ok(bad)
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::VehicleEvents => "vehicle_events",
            Kind::VehicleStatus => "vehicle_status",
        }
    }

    fn day(&self, index: u32) -> jiff::civil::Date {
        let days = jiff::Span::new().days(i64::from(index % self.days.max(1)));
        FIRST_DAY
            .checked_add(days)
            .expect("a hundred years on is a date")
    }
}

/// What makes a record a reject. None of it disturbs the structure of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    MissingField,
    WrongType,
    TextTooLong,
    ImpossibleDate,
}

impl Fault {
    /// Draws the same numbers whatever the ratio, so that the good records stay as they are.
    fn drawn(ratio: f64, random: &mut Random) -> Option<Self> {
        let kinds = [
            Self::MissingField,
            Self::WrongType,
            Self::TextTooLong,
            Self::ImpossibleDate,
        ];
        let kind = kinds[random.index(kinds.len())];
        (random.unit() < ratio).then_some(kind)
    }
}

/// Uniform enough for made data: the bias of [`Random::below`] is below one in four billion.
struct Random(Pcg64);

impl Random {
    fn new(seed: u64, stream: u64) -> Self {
        let mut random = Pcg64::new((u128::from(seed) << 64) | u128::from(stream), 1);
        for _ in 0..WARM_UP {
            random.next_u64();
        }
        Self(random)
    }

    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(end)) >> 64) as u64
    }

    fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    fn unit(&mut self) -> f64 {
        // 53 bits, as many as an f64 holds.
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.index(choices.len())]
    }
}

fn vehicle_id(seed: u64, vehicle: u64) -> [u8; 32] {
    // Streams of vehicles stand apart from those of files, which have 32 bits.
    let mut random = Random::new(seed, (1 << 63) | vehicle);
    let mut id = [0; 32];
    for half in id.chunks_exact_mut(16) {
        let bits = random.0.next_u64();
        for (at, digit) in half.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(bits >> (4 * at)) as usize & 15];
        }
    }
    id
}

/// `2022-06-05T21:02:34.546Z`: 24 bytes.
fn time_of(day: &str, millis: u64) -> [u8; 24] {
    let mut time = *b"0000-00-00T00:00:00.000Z";
    time[..10].copy_from_slice(day.as_bytes());
    let mut put = |at: usize, digits: usize, mut value: u64| {
        for place in (at..at + digits).rev() {
            time[place] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(11, 2, millis / 3_600_000);
    put(14, 2, millis / 60_000 % 60);
    put(17, 2, millis / 1_000 % 60);
    put(20, 3, millis % 1_000);
    time
}

fn push(text: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        text.extend_from_slice(part);
    }
}

/// Writes `, "name": "value"`, with the fault where it is of that kind.
fn push_field(text: &mut Vec<u8>, name: &str, value: &str, fault: Option<Fault>) {
    match fault {
        Some(Fault::MissingField) => {}
        Some(Fault::WrongType) => push(text, &[b", \"", name.as_bytes(), b"\": {\"is\": 1}"]),
        Some(Fault::TextTooLong) => {
            push(
                text,
                &[b", \"", name.as_bytes(), b"\": \"", &[b'x'; 300], b"\""],
            );
        }
        Some(Fault::ImpossibleDate) | None => {
            push(
                text,
                &[b", \"", name.as_bytes(), b"\": \"", value.as_bytes(), b"\""],
            );
        }
    }
}

fn push_head(
    text: &mut Vec<u8>,
    vehicle: [u8; 32],
    field: &str,
    mut time: [u8; 24],
    fault: Option<Fault>,
) {
    if fault == Some(Fault::ImpossibleDate) {
        time[5..10].copy_from_slice(b"02-30");
    }
    push(
        text,
        &[
            b"{\"vehicle_id\": \"",
            &vehicle,
            b"\", \"",
            field.as_bytes(),
            b"\": \"",
        ],
    );
    push(text, &[&time, b"\""]);
}

const SOURCES: [&str; 3] = ["mobile", "device", "police"];
const EVENTS: [&str; 6] = [
    "start_drive",
    "stop",
    "door_open",
    "door_close",
    "accident",
    "low_battery",
];
const STATES: [&str; 4] = ["driving", "parking", "garage", "accident"];
const DOORS: [&str; 4] = ["driver_door", "passenger_door", "rear_left_door", "trunk"];
/// As JSON texts: what a note may hold, escapes and all.
const NOTES: [&str; 8] = [
    "the device is working properly",
    "a rare event, that is usually caused by an accident",
    "reported by the driver, not confirmed",
    "said \\\"stop\\\", then drove on",
    "C:\\\\logs\\\\device.txt",
    "línea 4, andén norte",
    "\\u00fcber die Br\\u00fccke",
    "two lines\\nof text",
];

fn write_event(
    text: &mut Vec<u8>,
    random: &mut Random,
    vehicle: [u8; 32],
    time: [u8; 24],
    fault: Option<Fault>,
) {
    let event = random.of(&EVENTS);
    let position = format!(
        "-{}.{:07},{}.{:07}",
        79 + random.below(5),
        random.below(10_000_000),
        8 + random.below(5),
        random.below(10_000_000)
    );
    let value = if event.starts_with("door") {
        random.of(&DOORS)
    } else {
        &position
    };
    push_head(text, vehicle, "event_time", time, fault);
    push_field(text, "event_source", random.of(&SOURCES), None);
    push_field(text, "event_type", event, fault);
    push_field(text, "event_value", value, None);
    let (note, boot, shape) = (random.of(&NOTES), random.below(100), random.below(100));
    // One in a hundred has no extra data, and one has it under the name with a stray colon that a
    // sample file of users has.
    let name: &[u8] = match shape {
        0 => b"",
        1 => b"event_extra_data:",
        _ => b"event_extra_data",
    };
    if !name.is_empty() {
        push(
            text,
            &[
                b", \"",
                name,
                b"\": {\"note\": \"",
                note.as_bytes(),
                b"\", \"boot_time\": ",
            ],
        );
        push(text, &[boot.to_string().as_bytes(), b"}"]);
    }
    text.push(b'}');
}

fn write_status(
    text: &mut Vec<u8>,
    random: &mut Random,
    vehicle: [u8; 32],
    time: [u8; 24],
    fault: Option<Fault>,
) {
    push_head(text, vehicle, "report_time", time, fault);
    push_field(text, "status_source", random.of(&SOURCES), None);
    push_field(text, "status", random.of(&STATES), fault);
    text.push(b'}');
}

/// Writes sample files.
pub(super) fn execute(settings: &Settings, args: &GenerateArgs) -> anyhow::Result<Outcome> {
    let GenerateArgs {
        dataset: kind,
        seed,
        vehicles,
        days,
        bad,
        format,
        ..
    } = *args;
    let generator = Generator {
        kind,
        seed,
        vehicles,
        days,
        bad,
        format,
    };
    let dir = args.dir.as_ref().unwrap_or(&settings.dirs.inbound);
    make_directory(dir).with_context(|| dir.display().to_string())?;
    let (mut bytes, mut bad) = (0, 0);
    for index in 0..args.files {
        let written = write_file(&generator, index, args.records, args.compress, dir)?;
        bytes += written.0;
        bad += u64::from(written.1);
    }
    let records = u64::from(args.files) * u64::from(args.records);
    say(&format!(
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

/// Writes one file: its bytes as stored, and its bad records.
fn write_file(
    generator: &Generator,
    index: u32,
    records: u32,
    compress: Compress,
    dir: &Path,
) -> anyhow::Result<(u64, u32)> {
    let extension = match compress {
        Compress::Gzip => ".gz",
        Compress::Zstd => ".zst",
        Compress::None => "",
    };
    let path = dir.join(generator.file_name(index) + extension);
    let writing = || path.display().to_string();
    // Hidden until it is whole, so that no service takes half of it.
    let file = tempfile::Builder::new()
        .prefix(".generate-")
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(dir)
        .with_context(writing)?;
    let out = BufWriter::new(file.as_file());
    let bad = write_compressed(generator, index, records, compress, out).with_context(writing)?;
    let bytes = file.as_file().metadata().with_context(writing)?.len();
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

fn write_compressed(
    generator: &Generator,
    index: u32,
    records: u32,
    compress: Compress,
    mut out: impl Write,
) -> io::Result<u32> {
    match compress {
        Compress::None => {
            let bad = generator.write(index, records, &mut out)?;
            out.flush()?;
            Ok(bad)
        }
        Compress::Gzip => {
            let mut out = GzEncoder::new(out, flate2::Compression::default());
            let bad = generator.write(index, records, &mut out)?;
            out.finish()?.flush()?;
            Ok(bad)
        }
        Compress::Zstd => {
            let mut out = zstd::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)?;
            let bad = generator.write(index, records, &mut out)?;
            out.finish()?.flush()?;
            Ok(bad)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn made(generator: &Generator, index: u32, records: u32) -> (String, u32) {
        let mut bytes = Vec::new();
        let bad = generator.write(index, records, &mut bytes).unwrap();
        (String::from_utf8(bytes).unwrap(), bad)
    }

    fn records(generator: &Generator, index: u32, count: u32) -> Vec<Value> {
        let (text, _) = made(generator, index, count);
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        match generator.format {
            Format::Document => read(&text)[generator.name()].as_array().unwrap().clone(),
            Format::Array => read(&text).as_array().unwrap().clone(),
            Format::Ndjson => text.lines().map(read).collect(),
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_bytes_and_another_makes_others() {
        let generator = Generator::default();
        let other = Generator {
            seed: 2,
            ..generator
        };
        let first = made(&generator, 3, 50);
        assert_eq!(made(&generator, 3, 50), first);
        assert_ne!(made(&generator, 4, 50), first);
        assert_ne!(made(&other, 3, 50), first);
        assert_ne!(generator.file_name(3), other.file_name(3));
    }

    #[test]
    fn a_record_of_a_seed_stays_what_it_is_for_ever() {
        let (text, _) = made(&Generator::default(), 0, 1);
        assert_eq!(text, PINNED);
    }

    /// Changing this breaks whoever relies on a seed.
    const PINNED: &str = concat!(
        r#"{"vehicle_events": [{"vehicle_id": "ab98c1bf6735a8fec35bf90061b5d16f", "#,
        r#""event_time": "2022-06-05T21:37:54.428Z", "event_source": "device", "#,
        r#""event_type": "door_close", "event_value": "rear_left_door", "#,
        r#""event_extra_data:": {"note": "reported by the driver, not confirmed", "#,
        r#""boot_time": 56}}]}"#,
    );

    #[test]
    fn all_shapes_hold_the_same_records() {
        for kind in [Kind::VehicleEvents, Kind::VehicleStatus] {
            let document = Generator {
                kind,
                ..Generator::default()
            };
            let expected = records(&document, 1, 20);
            assert_eq!(expected.len(), 20);
            for format in [Format::Array, Format::Ndjson] {
                assert_eq!(records(&Generator { format, ..document }, 1, 20), expected);
                assert!(records(&Generator { format, ..document }, 1, 0).is_empty());
            }
        }
    }

    #[test]
    fn events_are_as_users_have_them() {
        let generator = Generator {
            vehicles: 5,
            ..Generator::default()
        };
        let (text, bad) = made(&generator, 0, 1_000);
        assert_eq!(bad, 0);
        let size = text.len() / 1_000;
        assert!((230..=270).contains(&size), "{size} bytes an event");
        let events = records(&generator, 0, 1_000);
        let mut vehicles: Vec<_> = events.iter().map(|event| &event["vehicle_id"]).collect();
        vehicles.sort_by_key(ToString::to_string);
        vehicles.dedup();
        assert_eq!(vehicles.len(), 5);
        let times: Vec<_> = events
            .iter()
            .map(|e| e["event_time"].as_str().unwrap())
            .collect();
        assert!(times.is_sorted());
        assert!(
            times
                .iter()
                .all(|time| time.starts_with("2022-06-05T") && time.len() == 24)
        );
        let missing = events
            .iter()
            .filter(|e| e["event_extra_data"].is_null())
            .count();
        assert!((1..100).contains(&missing), "{missing}");
    }

    #[test]
    fn days_go_round() {
        let generator = Generator {
            days: 2,
            ..Generator::default()
        };
        let day = |index| records(&generator, index, 1)[0]["event_time"].to_string();
        assert!(day(0).contains("2022-06-05T") && day(2).contains("2022-06-05T"));
        assert!(day(1).contains("2022-06-06T"));
    }

    #[test]
    fn bad_records_are_as_many_as_it_says_and_leave_the_others_alone() {
        let good = Generator::default();
        let some_bad = Generator { bad: 0.1, ..good };
        let (_, bad) = made(&some_bad, 0, 2_000);
        assert!((150..250).contains(&bad), "{bad}");
        let differing = records(&good, 0, 2_000)
            .iter()
            .zip(records(&some_bad, 0, 2_000))
            .filter(|(a, b)| *a != b)
            .count();
        assert_eq!(differing, bad as usize);
        assert_eq!(made(&Generator { bad: 1.0, ..good }, 0, 100).1, 100);
    }
}
