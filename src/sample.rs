//! Sample files of any size: the same seed makes the same bytes.
//!
//! Pure: writes into any `Write` and knows nothing of directories. Used by the commands `generate`
//! and `demo`, by tests and by benches.

use std::io::{self, Write};

use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng as _;

/// Bytes passed to the writer at a time.
const WRITE_BYTES: usize = 64 * 1024;

const MILLIS_PER_DAY: u64 = 86_400_000;

/// The day of the records in file 0.
const FIRST_DAY: jiff::civil::Date = jiff::civil::date(2022, 6, 5);

/// Random numbers to skip at the start of a stream: the first numbers of neighbouring streams
/// resemble each other.
const WARM_UP: usize = 4;

/// The record types that a sample can have; each is a built-in dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordType {
    /// Events of vehicles.
    VehicleEvents,
    /// Reports of a vehicle's status.
    VehicleStatus,
}

impl RecordType {
    /// The name of its dataset.
    #[must_use]
    pub const fn dataset(self) -> &'static str {
        match self {
            Self::VehicleEvents => "vehicle_events",
            Self::VehicleStatus => "vehicle_status",
        }
    }
}

/// How a file holds its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// An object that holds the array of records.
    Document,
    /// A bare array.
    Array,
    /// One record a line.
    Ndjson,
}

/// Makes files of records.
///
/// The bytes of a file depend only on these fields, the file's index and its number of records.
/// They are the same on every machine and after every upgrade: `rand_pcg` promises that its stream
/// of random numbers never changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Generator {
    /// The type of the records.
    pub record_type: RecordType,
    /// Another seed makes other vehicles and other records.
    pub seed: u64,
    /// Number of distinct vehicles in the records; at least 1.
    pub vehicles: u32,
    /// Number of days that the records cover, one day a file; 1 to 36,500.
    pub days: u32,
    /// Share of the records that the engine will reject, 0 to 1.
    pub bad: f64,
    /// The format of the files.
    pub format: FileFormat,
}

impl Default for Generator {
    fn default() -> Self {
        Self {
            record_type: RecordType::VehicleEvents,
            seed: 1,
            vehicles: 1_000,
            days: 7,
            bad: 0.0,
            format: FileFormat::Document,
        }
    }
}

impl Generator {
    /// The name of the file with this index; it differs for each record type, seed and index.
    #[must_use]
    pub fn file_name(&self, index: u32) -> String {
        let day = self.day(index).strftime("%Y%m%d");
        let extension = match self.format {
            FileFormat::Document | FileFormat::Array => "json",
            FileFormat::Ndjson => "ndjson",
        };
        format!(
            "{}_{day}_{}_{index:06}.{extension}",
            self.record_type.dataset(),
            self.seed
        )
    }

    /// Writes the file with this index and number of records. Returns how many of the records are
    /// bad.
    ///
    /// # Errors
    /// Errors of the writer.
    pub fn write(&self, index: u32, records: u32, out: &mut impl Write) -> io::Result<u32> {
        let mut random = Random::new(self.seed, u64::from(index));
        let day = self.day(index).strftime("%Y-%m-%d").to_string();
        let (open, between, close) = match self.format {
            FileFormat::Document => (
                format!("{{\"{}\": [", self.record_type.dataset()),
                ", ",
                "]}",
            ),
            FileFormat::Array => ("[".to_owned(), ", ", "]"),
            FileFormat::Ndjson => (String::new(), "\n", "\n"),
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
            let defect = Defect::draw(self.bad, &mut random);
            bad += u32::from(defect.is_some());
            let vehicle = vehicle_id(self.seed, random.below(u64::from(self.vehicles)));
            let time = time_of(&day, millis);
            match self.record_type {
                RecordType::VehicleEvents => {
                    write_event(&mut text, &mut random, vehicle, time, defect);
                }
                RecordType::VehicleStatus => {
                    write_status(&mut text, &mut random, vehicle, time, defect);
                }
            }
            if text.len() >= WRITE_BYTES {
                out.write_all(&text)?;
                text.clear();
            }
        }
        if records > 0 || self.format != FileFormat::Ndjson {
            text.extend_from_slice(close.as_bytes());
        }
        out.write_all(&text)?;
        Ok(bad)
    }

    fn day(&self, index: u32) -> jiff::civil::Date {
        let days = jiff::Span::new().days(i64::from(index % self.days.max(1)));
        FIRST_DAY
            .checked_add(days)
            .expect("a hundred years later is a valid date")
    }
}

/// Why the engine rejects a bad record. The file as a whole stays valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    MissingField,
    WrongType,
    TextTooLong,
    ImpossibleDate,
}

impl Defect {
    /// Draws equally many random numbers for every ratio, so that the good records do not change
    /// with it.
    fn draw(ratio: f64, random: &mut Random) -> Option<Self> {
        let defects = [
            Self::MissingField,
            Self::WrongType,
            Self::TextTooLong,
            Self::ImpossibleDate,
        ];
        let defect = defects[random.index(defects.len())];
        (random.unit() < ratio).then_some(defect)
    }
}

/// Random numbers for sample data. The bias of [`Random::below`] is less than one in four billion.
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
        // 53 bits: the precision of an f64.
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn choose<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.index(choices.len())]
    }
}

fn vehicle_id(seed: u64, vehicle: u64) -> [u8; 32] {
    // The highest bit separates the streams of vehicles from those of files, which have 32 bits.
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

/// Writes `, "name": "value"`, or the member that the defect makes of it.
fn push_field(text: &mut Vec<u8>, name: &str, value: &str, defect: Option<Defect>) {
    match defect {
        Some(Defect::MissingField) => {}
        Some(Defect::WrongType) => push(text, &[b", \"", name.as_bytes(), b"\": {\"is\": 1}"]),
        Some(Defect::TextTooLong) => {
            push(
                text,
                &[b", \"", name.as_bytes(), b"\": \"", &[b'x'; 300], b"\""],
            );
        }
        Some(Defect::ImpossibleDate) | None => {
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
    defect: Option<Defect>,
) {
    if defect == Some(Defect::ImpossibleDate) {
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
/// Texts of notes, as they are written in JSON: escapes included.
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
    defect: Option<Defect>,
) {
    let event = random.choose(&EVENTS);
    let position = format!(
        "-{}.{:07},{}.{:07}",
        79 + random.below(5),
        random.below(10_000_000),
        8 + random.below(5),
        random.below(10_000_000)
    );
    let value = if event.starts_with("door") {
        random.choose(&DOORS)
    } else {
        &position
    };
    push_head(text, vehicle, "event_time", time, defect);
    push_field(text, "event_source", random.choose(&SOURCES), None);
    push_field(text, "event_type", event, defect);
    push_field(text, "event_value", value, None);
    let (note, boot, percentile) = (random.choose(&NOTES), random.below(100), random.below(100));
    // One event in a hundred has no extra data. Another one in a hundred has it under a name with a
    // stray colon, which occurs in real files.
    let name: &[u8] = match percentile {
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
    defect: Option<Defect>,
) {
    push_head(text, vehicle, "report_time", time, defect);
    push_field(text, "status_source", random.choose(&SOURCES), None);
    push_field(text, "status", random.choose(&STATES), defect);
    text.push(b'}');
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
            FileFormat::Document => read(&text)[generator.record_type.dataset()]
                .as_array()
                .unwrap()
                .clone(),
            FileFormat::Array => read(&text).as_array().unwrap().clone(),
            FileFormat::Ndjson => text.lines().map(read).collect(),
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
    fn the_record_of_a_seed_never_changes() {
        let (text, _) = made(&Generator::default(), 0, 1);
        assert_eq!(text, PINNED);
    }

    /// Users rely on a seed to make the same bytes in every release.
    const PINNED: &str = concat!(
        r#"{"vehicle_events": [{"vehicle_id": "ab98c1bf6735a8fec35bf90061b5d16f", "#,
        r#""event_time": "2022-06-05T21:37:54.428Z", "event_source": "device", "#,
        r#""event_type": "door_close", "event_value": "rear_left_door", "#,
        r#""event_extra_data:": {"note": "reported by the driver, not confirmed", "#,
        r#""boot_time": 56}}]}"#,
    );

    #[test]
    fn all_formats_hold_the_same_records() {
        for record_type in [RecordType::VehicleEvents, RecordType::VehicleStatus] {
            let document = Generator {
                record_type,
                ..Generator::default()
            };
            let expected = records(&document, 1, 20);
            assert_eq!(expected.len(), 20);
            for format in [FileFormat::Array, FileFormat::Ndjson] {
                assert_eq!(records(&Generator { format, ..document }, 1, 20), expected);
                assert!(records(&Generator { format, ..document }, 1, 0).is_empty());
            }
        }
    }

    #[test]
    fn events_resemble_those_of_users() {
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
    fn days_repeat_after_the_last() {
        let generator = Generator {
            days: 2,
            ..Generator::default()
        };
        let day = |index| records(&generator, index, 1)[0]["event_time"].to_string();
        assert!(day(0).contains("2022-06-05T") && day(2).contains("2022-06-05T"));
        assert!(day(1).contains("2022-06-06T"));
    }

    #[test]
    fn the_returned_number_of_records_is_bad_and_the_others_are_unchanged() {
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
