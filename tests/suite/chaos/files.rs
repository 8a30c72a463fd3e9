//! Makes input files together with the expected outcome of each record.
//!
//! The outcome of a record is decided before its text is written, not by parsing the text, so that
//! no parser can share a mistake with that of the product. Each valid record has a unique name,
//! `f<file>-<ordinal>`, in its last text column, to identify a lost or doubled row. The same seed
//! makes the same files.

use crate::support;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng as _;
use xxhash_rust::xxh3::xxh3_64;

/// Most records of a file.
const RECORDS_MAX: u64 = 20_000;

/// Files whose bytes are kept, to be copied later.
const KEPT_MAX: usize = 8;

/// Longest file name that Linux takes, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// The name of the reason beside a file in quarantine: of at most 255 bytes.
pub fn reason_name(name: &OsStr) -> OsString {
    const SUFFIX: &[u8] = b".reason";
    let name = name.as_bytes();
    let kept = &name[..name.len().min(255 - SUFFIX.len())];
    OsString::from_vec([kept, SUFFIX].concat())
}

/// The end of the name of a file that may grow. It is plain lines, and has no copies.
const GROWS: &str = "_grows.ndjson";

/// Random numbers of a seed.
pub struct Dice(Pcg64);

impl Dice {
    /// Numbers of this seed; another `stream` gives others.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(Pcg64::new(u128::from(seed), u128::from(stream)))
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0.next_u64() % end
    }

    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True with this probability in percent.
    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// The built-in datasets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dataset {
    Events,
    Status,
}

impl Dataset {
    /// Its name, which is also that of its table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Events => "vehicle_events",
            Self::Status => "vehicle_status",
        }
    }
}

/// The expected outcome of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// A row of these values; see [`checksum`].
    Row(u64),
    /// A reject with this code.
    Reject(&'static str),
}

/// The expected outcome of a content, which several files may have.
pub struct Expected {
    pub dataset: Dataset,
    /// Its hash in the ledger.
    pub hash: [u8; 16],
    /// The names of the files with this content.
    pub names: Vec<OsString>,
    /// Its records; `None` if it cannot be read as a whole.
    pub records: Option<Vec<Worth>>,
}

/// A file to be delivered.
pub struct Made {
    pub name: OsString,
    pub bytes: Vec<u8>,
}

/// One number for the values of a row, as the database prints them.
pub fn checksum<'a>(values: impl Iterator<Item = Option<&'a str>>) -> u64 {
    let mut text = String::new();
    for value in values {
        text.push_str(value.unwrap_or("\u{1}"));
        text.push('\0');
    }
    xxh3_64(text.as_bytes())
}

/// The name of a record.
pub fn record_name(file: usize, ordinal: usize) -> String {
    format!("f{file}-{ordinal}")
}

/// The record with this name.
pub fn parse_record_name(name: &str) -> Option<(usize, usize)> {
    let (file, ordinal) = name.strip_prefix('f')?.split_once('-')?;
    Some((file.parse().ok()?, ordinal.parse().ok()?))
}

/// Makes files one after the other.
pub struct Maker {
    dice: Dice,
    /// The contents made so far, in order. The name of a record contains the index in this list.
    pub log: Vec<Expected>,
    /// Some earlier contents, by their index in the log.
    kept: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Document,
    Array,
    Lines,
}

impl Maker {
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed, 1),
            log: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// Makes the next file and adds it to the log.
    pub fn make(&mut self) -> Made {
        if !self.kept.is_empty() && self.dice.percent(5) {
            return self.copy();
        }
        if self.dice.percent(5) {
            return self.unreadable();
        }
        let dataset = self.dice.pick(&[Dataset::Events, Dataset::Status]);
        let file = self.log.len();
        let records = self.how_many();
        let mut shape = self
            .dice
            .pick(&[Shape::Document, Shape::Array, Shape::Lines]);
        if records == 0 {
            // Only a document can be empty and different from all others.
            shape = Shape::Document;
        }
        let (text, worths) = self.text(dataset, file, records, shape);
        if shape == Shape::Lines && self.dice.percent(40) {
            let name = format!("{}_{file}{GROWS}", dataset.name());
            return self.note(dataset, name.into(), text.into_bytes(), Some(worths));
        }
        let (bytes, ending) = self.stored(text.as_bytes(), shape);
        let name = self.name(dataset, file, &ending);
        if bytes.len() < 100_000 {
            self.kept.push((file, bytes.clone()));
            if self.kept.len() > KEPT_MAX {
                self.kept.remove(0);
            }
        }
        self.note(dataset, name, bytes, Some(worths))
    }

    /// Mostly small files, some large ones.
    fn how_many(&mut self) -> usize {
        let most = match self.dice.below(20) {
            0 | 1 => return 0,
            2..=10 => 50,
            11..=17 => 2_000,
            _ => RECORDS_MAX,
        };
        self.dice.between(1, most) as usize
    }

    fn note(
        &mut self,
        dataset: Dataset,
        name: OsString,
        bytes: Vec<u8>,
        records: Option<Vec<Worth>>,
    ) -> Made {
        self.log.push(Expected {
            dataset,
            hash: content_hash(&bytes),
            names: vec![name.clone()],
            records,
        });
        Made { name, bytes }
    }

    /// An earlier content under another name.
    fn copy(&mut self) -> Made {
        let at = self.dice.below(self.kept.len() as u64) as usize;
        let (file, bytes) = self.kept[at].clone();
        let number = self.log[file].names.len();
        let dataset = self.log[file].dataset.name();
        let name = OsString::from(format!("{dataset}_{file}_copy{number}.json"));
        self.log[file].names.push(name.clone());
        Made { name, bytes }
    }

    /// A file that cannot be read as a whole, or that matches no dataset.
    fn unreadable(&mut self) -> Made {
        let dataset = self.dice.pick(&[Dataset::Events, Dataset::Status]);
        let file = self.log.len();
        let (text, _) = self.text(dataset, file, 40, Shape::Document);
        let prefix = dataset.name();
        let (name, bytes) = match self.dice.below(5) {
            0 => {
                // Cut at any byte, because a writer may die within a character.
                let mut bytes = text.into_bytes();
                bytes.truncate(bytes.len() / 2);
                (format!("{prefix}_{file}_cut.json"), bytes)
            }
            1 => {
                let text = format!("hello, world {file}");
                (format!("{prefix}_{file}_text.json"), text.into_bytes())
            }
            2 => (format!("other_{file}.json"), text.into_bytes()),
            3 => {
                let mut bytes = gzip(text.as_bytes());
                bytes.truncate(bytes.len() - 20);
                (format!("{prefix}_{file}_cut.json.gz"), bytes)
            }
            _ => {
                let mut bytes = zstd::encode_all(text.as_bytes(), 1).unwrap();
                bytes.truncate(bytes.len() - 20);
                (format!("{prefix}_{file}_cut.json.zst"), bytes)
            }
        };
        self.note(dataset, name.into(), bytes, None)
    }

    fn text(
        &mut self,
        dataset: Dataset,
        file: usize,
        records: usize,
        shape: Shape,
    ) -> (String, Vec<Worth>) {
        let name = dataset.name();
        // The number makes even an empty document unique.
        let (head, between, tail) = match shape {
            Shape::Document => (format!("{{\"n\": {file}, \"{name}\": ["), ",\n ", "]}\n"),
            Shape::Array => (" [".to_owned(), " , ", " ]"),
            Shape::Lines => (String::new(), self.dice.pick(&["\n", "\r\n", "\n\n"]), "\n"),
        };
        let mut text = head;
        let mut worths = Vec::with_capacity(records);
        for ordinal in 0..records {
            if ordinal > 0 {
                text.push_str(between);
            }
            // The first line must be valid, because it distinguishes NDJSON from an array.
            let sound = ordinal == 0 && shape == Shape::Lines;
            let bad = !sound && self.dice.percent(2);
            let mut record = Record::new(dataset, &record_name(file, ordinal), &mut self.dice);
            if bad {
                let code = record.spoil(&mut self.dice);
                worths.push(Worth::Reject(code));
            } else {
                worths.push(Worth::Row(record.checksum()));
            }
            text.push_str(&record.text);
            if !bad {
                record.write(&mut text);
            }
        }
        text.push_str(tail);
        (text, worths)
    }

    /// The bytes of a text, compressed or not, and the matching suffix of the name.
    fn stored(&mut self, text: &[u8], shape: Shape) -> (Vec<u8>, String) {
        let plain = if shape == Shape::Lines {
            "ndjson"
        } else {
            "json"
        };
        match self.dice.below(4) {
            0 => (gzip(text), format!("{plain}.gz")),
            1 => {
                let bytes = zstd::encode_all(text, 1).expect("memory takes it");
                (bytes, format!("{plain}.zst"))
            }
            _ => (text.to_vec(), plain.to_owned()),
        }
    }

    /// One name in six contains characters that break scripts, and one in thirty was used before.
    fn name(&mut self, dataset: Dataset, file: usize, ending: &str) -> OsString {
        let prefix = dataset.name();
        if self.dice.percent(3) {
            return format!("{prefix}_again.{ending}").into();
        }
        if !self.dice.percent(17) {
            return format!("{prefix}_{file}.{ending}").into();
        }
        let naughty: [&[u8]; 9] = [
            b"-rf ",
            b"\n\x1b[31m",
            b"'; DROP TABLE x; --",
            b"\xff\xfe",
            b"%s%n{}",
            b"$(id) `id` * ?",
            "\u{e9}\u{1f600}\u{202e}".as_bytes(),
            b"\"quoted\" \\ ",
            b"",
        ];
        let mut name = self.dice.pick(&naughty).to_vec();
        let long = name.is_empty();
        name.extend_from_slice(prefix.as_bytes());
        name.extend_from_slice(format!("_{file}.").as_bytes());
        if long {
            let padding = NAME_BYTES_MAX - name.len() - ending.len() - 1;
            name.extend(vec![b'x'; padding]);
            name.push(b'.');
        }
        name.extend_from_slice(ending.as_bytes());
        OsString::from_vec(name)
    }
}

/// The part of a content's hash that the ledger stores.
pub fn content_hash(bytes: &[u8]) -> [u8; 16] {
    let hash = blake3::hash(bytes);
    hash.as_bytes()[..16]
        .try_into()
        .expect("a hash has 32 bytes")
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text).expect("memory takes it");
    gz.finish().expect("memory takes it")
}

/// A record that was added to a file in work.
pub struct Growth {
    /// The index of the file in the log.
    file: usize,
    worth: Worth,
    /// The hash of the content since then.
    hash: [u8; 16],
}

impl Growth {
    /// Adds a record to a file in work, as a program does that still has it open. `None` if no file
    /// may grow.
    pub fn cause(work: &Path, dice: &mut Dice) -> Option<Self> {
        let mut names = support::names(work);
        names.retain(|name| name.ends_with(GROWS));
        let at = dice.below(names.len().max(1) as u64) as usize;
        let name = names.get(at)?;
        let number = name.strip_suffix(GROWS)?.rsplit('_').next()?;
        let file = number.parse().ok()?;
        let dataset = if name.starts_with(Dataset::Events.name()) {
            Dataset::Events
        } else {
            Dataset::Status
        };
        let mut target = fs::File::options()
            .append(true)
            .open(support::in_work(work, name))
            .ok()?;
        let mut text = fs::read_to_string(support::in_work(work, name)).ok()?;
        let ordinal = text.lines().filter(|line| !line.is_empty()).count();
        let record = Record::new(dataset, &record_name(file, ordinal), dice);
        let mut line = String::new();
        record.write(&mut line);
        line.push('\n');
        target.write_all(line.as_bytes()).ok()?;
        text.push_str(&line);
        Some(Self {
            file,
            worth: Worth::Row(record.checksum()),
            hash: content_hash(text.as_bytes()),
        })
    }

    /// Adds the record to what is expected.
    pub fn note(&self, log: &mut [Expected]) {
        let expected = &mut log[self.file];
        expected.hash = self.hash;
        expected
            .records
            .as_mut()
            .expect("only whole files grow")
            .push(self.worth);
    }
}

/// A record that is being made.
struct Record {
    /// Fields as they are written, the required ones first.
    fields: Vec<(&'static str, String)>,
    required: usize,
    /// The resulting values of the columns.
    values: Vec<Option<String>>,
    /// The text of the record, if it is not made of the fields.
    text: String,
}

/// Texts as they are written, and their values.
const TEXTS: [(&str, &str); 8] = [
    (r#""mobile""#, "mobile"),
    (r#""caf\u00e9 \ud83d\ude00""#, "caf\u{e9} \u{1f600}"),
    (r#""a\"b\\c\/d\n""#, "a\"b\\c/d\n"),
    ("17", "17"),
    ("true", "true"),
    (
        r#""o'brien; DROP TABLE x; --""#,
        "o'brien; DROP TABLE x; --",
    ),
    (r#"" spaces around ""#, " spaces around "),
    (r#""""#, ""),
];

impl Record {
    fn new(dataset: Dataset, name: &str, dice: &mut Dice) -> Self {
        let vehicle = format!("v{}", dice.below(40));
        let (time_written, time) = time(dice);
        let (first, first_means) = dice.pick(&TEXTS);
        let (second, second_means) = dice.pick(&TEXTS);
        let quoted = |text: &str| format!("\"{text}\"");
        let mut values: Vec<Option<String>> = [&vehicle, &time, first_means]
            .map(|value| Some(value.to_owned()))
            .to_vec();
        let mut fields = match dataset {
            Dataset::Events => {
                values.extend([Some(second_means.to_owned()), Some(name.to_owned())]);
                vec![
                    ("vehicle_id", quoted(&vehicle)),
                    ("event_time", quoted(&time_written)),
                    ("event_source", first.to_owned()),
                    ("event_type", second.to_owned()),
                    ("event_value", quoted(name)),
                ]
            }
            Dataset::Status => {
                values.push(Some(name.to_owned()));
                vec![
                    ("vehicle_id", quoted(&vehicle)),
                    ("report_time", quoted(&time_written)),
                    ("status_source", first.to_owned()),
                    ("status", quoted(name)),
                ]
            }
        };
        let required = fields.len();
        if dataset == Dataset::Events {
            let extra = dice.pick(&["", "{}", r#"{"note": "ok", "n": [1, 2.50]}"#, "null"]);
            if !extra.is_empty() {
                fields.push(("event_extra_data", extra.to_owned()));
            }
            let stored = match extra {
                "" | "null" => "{}",
                extra => extra,
            };
            values.push(Some(stored.to_owned()));
        }
        values.push(None);
        if dice.percent(5) {
            fields.push(("spare", r#"{"a":[1,null]}"#.to_owned()));
            *values.last_mut().expect("it was pushed") = Some(r#"{"spare":{"a":[1,null]}}"#.into());
        }
        Self {
            fields,
            required,
            values,
            text: String::new(),
        }
    }

    fn checksum(&self) -> u64 {
        checksum(self.values.iter().map(Option::as_deref))
    }

    fn write(&self, text: &mut String) {
        for (at, (name, value)) in self.fields.iter().enumerate() {
            text.push_str(if at == 0 { "{\"" } else { ", \"" });
            text.push_str(name);
            text.push_str("\": ");
            text.push_str(value);
        }
        text.push('}');
    }

    /// Makes the record invalid in one way. Returns the expected code.
    fn spoil(&mut self, dice: &mut Dice) -> &'static str {
        let any = dice.below(self.required as u64) as usize;
        let mut whole = None;
        let code = match dice.below(10) {
            0 => {
                self.fields.remove(any);
                "missing_field"
            }
            1 => {
                "null".clone_into(&mut self.fields[any].1);
                "missing_field"
            }
            2 => {
                dice.pick(&["[1]", "{}"]).clone_into(&mut self.fields[0].1);
                "wrong_type"
            }
            3 => {
                self.fields[2].1 = format!("\"{}\"", "\u{e9}".repeat(256));
                "text_too_long"
            }
            4 => {
                dice.pick(&["\"2024-02-31T00:00:00Z\"", "\"yesterday\""])
                    .clone_into(&mut self.fields[1].1);
                "invalid_timestamp"
            }
            5 => {
                whole = Some(dice.pick(&["17", "\"text\"", "[1, 2]", "null"]));
                "not_an_object"
            }
            6 => {
                whole = Some("{\"vehicle_id\": nope}");
                "invalid_json"
            }
            7 => {
                let again = self.fields[any].clone();
                self.fields.push(again);
                "duplicate_field"
            }
            8 => {
                let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
                self.fields.push(("deep", deep));
                "too_deep"
            }
            _ => {
                whole = Some("{\"vehicle_id\": 1.}");
                "invalid_json"
            }
        };
        let mut text = String::new();
        match whole {
            Some(whole) => text.push_str(whole),
            None => self.write(&mut text),
        }
        self.text = text;
        code
    }
}

/// A time written in one of several formats, and as the database prints it. No offset moves it to
/// another day.
fn time(dice: &mut Dice) -> (String, String) {
    let (month, day) = (dice.between(1, 2), dice.between(1, 28));
    let hour = dice.between(3, 20);
    let (minute, second) = (dice.below(60), dice.below(60));
    let (fraction, micros) = dice.pick(&[
        ("", "000000"),
        (".5", "500000"),
        (".123", "123000"),
        (".000001", "000001"),
    ]);
    let (offset, local) = match dice.below(4) {
        0 => ("+02:00", hour + 2),
        1 => ("-03:00", hour - 3),
        2 => ("", hour),
        _ => ("Z", hour),
    };
    (
        format!("2024-{month:02}-{day:02}T{local:02}:{minute:02}:{second:02}{fraction}{offset}"),
        format!("2024-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros}"),
    )
}
