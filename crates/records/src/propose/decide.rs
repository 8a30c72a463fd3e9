//! From what a field has held to the column that takes it.

use super::evidence::{Evidence, Field};
use super::names;
use super::numbers::Numbers;
use super::texts::{FEW, Form, Place, Texts};
use crate::dataset::{Column, ColumnType, Encoding, EpochUnit, Pointers, escaped};

/// Most columns. The limit of a table of MySQL depends on their types: with these, any of them fit.
const COLUMNS_MAX: usize = 150;

/// An object with more different keys than this is a map if most of its keys are rare: its keys are
/// values, and not names of fields.
const MAP_KEYS_MIN: usize = 24;

/// The lengths that are proposed for texts, in characters. A text has room for twice the longest
/// one.
const LENGTHS: [u64; 6] = [255, 1_000, 4_000, 16_000, 1_000_000, 16_777_216];

/// Fewest digits of a number in a string that is more likely an identifier, if all have as many.
const IDENTIFIER_DIGITS_MIN: u64 = 9;

/// Digits of headroom before the point of a decimal, and after it if the samples differ there.
const DECIMAL_HEADROOM: (u64, u64) = (4, 2);

/// A column of the proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposedColumn {
    /// The column.
    pub column: Column,
    /// Why a user may want to change it. Empty if the choice is not in doubt.
    pub notes: Vec<String>,
    /// The `records` of a dataset that takes the elements of its arrays as records. `None` if they
    /// could not be records.
    pub records: Option<String>,
}

/// What the columns depend on besides the records.
pub(super) struct Around<'a> {
    /// The pointer that leads to a record. `None` if there are several.
    pub(super) record: Option<&'a str>,
    /// The names of the samples.
    pub(super) files: &'a [String],
}

/// The columns for the records so far, and notes about what has no column.
pub(super) fn columns(
    evidence: &Evidence,
    around: &Around<'_>,
) -> (Vec<ProposedColumn>, Vec<String>) {
    let mut walk = Walk {
        around,
        records: evidence.records,
        columns: Vec::new(),
        notes: Vec::new(),
        omitted: 0,
    };
    walk.members(&evidence.root, &mut Vec::new());
    if evidence.root.is_cut {
        walk.notes.push(
            "the records have too many different keys: further fields are kept in \
                         _rescued"
                .to_owned(),
        );
    }
    if walk.omitted > 0 {
        walk.notes.push(format!(
            "{} more fields have no column, since a table holds only so many: _rescued keeps them",
            walk.omitted
        ));
    }
    (walk.columns, walk.notes)
}

struct Walk<'a> {
    around: &'a Around<'a>,
    records: u64,
    columns: Vec<ProposedColumn>,
    notes: Vec<String>,
    omitted: u64,
}

impl Walk<'_> {
    fn members(&mut self, object: &Field, path: &mut Vec<String>) {
        for (key, field) in &object.members {
            path.push(key.clone());
            self.field(field, path);
            path.pop();
        }
    }

    fn field(&mut self, field: &Field, path: &mut Vec<String>) {
        let pointer = pointer(path);
        if field.values() == 0 {
            self.notes.push(format!(
                "`{pointer}` is null in each record, and has no column"
            ));
            return;
        }
        if is_record(field) {
            self.members(field, path);
            return;
        }
        if self.columns.len() == COLUMNS_MAX {
            self.omitted += 1;
            return;
        }
        let taken: Vec<String> = self
            .columns
            .iter()
            .map(|proposed| proposed.column.name.clone())
            .collect();
        let mut column = Column::new(&names::of_column(path, &taken), ColumnType::Json);
        let record = self.around.record.filter(|_| are_records(field));
        let records = record.map(|record| format!("{record}{pointer}"));
        column.field = Pointers::One(pointer);
        column.required = field.values() == self.records;
        let mut notes = Vec::new();
        choose(field, path, &mut column, &mut notes);
        if column.kind == ColumnType::Text {
            notes.extend(self.almost(field, path));
        }
        self.columns.push(ProposedColumn {
            column,
            notes,
            records,
        });
    }

    /// What a column of texts would be without a few of them. `None` if it would be text as well.
    fn almost(&self, field: &Field, path: &[String]) -> Option<String> {
        let Field { texts, numbers, .. } = field;
        let (odd, others) = if texts.numbers.count + numbers.count > 0 {
            (&texts.no_numbers, texts.only_numbers())
        } else {
            (&texts.no_forms, texts.only_forms())
        };
        let values = texts.count + numbers.count;
        if odd.count > values / FEW || field.booleans > 0 {
            return None;
        }
        let (text, at) = odd.first.as_ref()?;
        let others = Field {
            texts: others,
            numbers: numbers.clone(),
            ..Field::default()
        };
        let mut typed = Column::new("typed", ColumnType::Json);
        choose(&others, path, &mut typed, &mut Vec::new());
        if typed.kind == ColumnType::Text {
            return None;
        }
        let Place { file, ordinal } = *at;
        let file = &self.around.files[file];
        let are = if odd.count == 1 { "is" } else { "are" };
        Some(format!(
            "text, since {} of {values} values {are} no {}: \"{text}\" in {file}, record {ordinal}; \
             `{}, required = false, on_error = \"null\"` keeps the others typed",
            odd.count,
            typed.kind,
            keys(&typed)
        ))
    }
}

fn pointer(path: &[String]) -> String {
    path.iter()
        .fold(String::new(), |pointer, key| pointer + "/" + &escaped(key))
}

/// Whether the members of a field's objects are columns of their own.
fn is_record(field: &Field) -> bool {
    let only_objects = field.objects == field.values();
    only_objects && !field.is_cut && !field.members.is_empty() && !is_map(field)
}

/// Whether the keys of a field's objects are values: there are many, and most are rare.
fn is_map(field: &Field) -> bool {
    let rare = field
        .members
        .values()
        .filter(|member| member.values() * 2 < field.objects);
    field.members.len() >= MAP_KEYS_MIN && rare.count() * 2 > field.members.len()
}

/// The type of a column and what belongs to it, as a definition has them.
fn keys(column: &Column) -> String {
    let mut keys = vec![format!("type = \"{}\"", column.kind)];
    if let Some(unit) = column.epoch {
        keys.push(format!("epoch = \"{}\"", unit.as_str()));
    }
    if !column.formats.is_empty() {
        keys.push(format!("formats = {:?}", column.formats));
    }
    keys.join(", ")
}

/// Whether a field holds arrays of objects, which could be records of their own.
fn are_records(field: &Field) -> bool {
    let arrays = &field.arrays;
    arrays.count == field.values() && arrays.objects > 0 && arrays.others == 0
}

/// Sets the type of a column, and what belongs to the type.
fn choose(field: &Field, path: &[String], column: &mut Column, notes: &mut Vec<String>) {
    let containers = field.arrays.count + field.objects;
    if containers > 0 {
        if containers < field.values() {
            notes.push("an object or array in some records, a single value in others".to_owned());
        } else if are_records(field) {
            notes.push(format!(
                "objects in arrays, up to {} in one: a dataset of their own could take them as \
                 records",
                field.arrays.elements_max
            ));
        } else if is_map(field) {
            notes.push(format!(
                "an object with {} different keys",
                field.members.len()
            ));
        }
        return;
    }
    let name = Name::of(path);
    let all_numbers = field.texts.numbers.with(&field.numbers);
    column.kind = if field.numbers.count + field.texts.count == 0 {
        ColumnType::Boolean
    } else if let Some(kind) = time(field, &name, column, notes) {
        kind
    } else if field.texts.count == field.texts.numbers.count {
        match field.booleans {
            0 => number(field, &all_numbers, &name, notes),
            _ if all_numbers.all_bits => ColumnType::Boolean,
            _ => text(&field.texts, notes),
        }
    } else if field.texts.all_booleans && (field.numbers.count == 0 || field.numbers.all_bits) {
        ColumnType::Boolean
    } else if field.texts.are_base64() && field.numbers.count + field.booleans == 0 {
        column.encoding = Some(Encoding::Base64);
        notes.push("bytes in base64; `text` keeps the characters".to_owned());
        ColumnType::Binary
    } else {
        text(&field.texts, notes)
    };
    if column.kind == ColumnType::Text {
        let written = if field.numbers.count > 0 { 64 } else { 5 };
        let chars = if field.texts.count > 0 {
            field.texts.chars_max
        } else {
            0
        }
        .max(written);
        let room = LENGTHS.iter().find(|length| **length >= chars * 2);
        let room = *room.unwrap_or(&LENGTHS[LENGTHS.len() - 1]);
        column.max_chars = u32::try_from(room).expect("at most 16 Mi");
    }
}

fn text(texts: &Texts, notes: &mut Vec<String>) -> ColumnType {
    if texts.count > 0 && texts.all_hex && texts.chars_min >= 16 {
        notes.push(
            "hexadecimal digits: `binary` with `encoding = \"hex\"` takes half the \
                    space"
                .to_owned(),
        );
    }
    ColumnType::Text
}

/// The type of a field that holds times. `None` if it may hold anything else.
fn time(
    field: &Field,
    name: &Name,
    column: &mut Column,
    notes: &mut Vec<String>,
) -> Option<ColumnType> {
    if field.booleans > 0 || name.is_version {
        return None;
    }
    let texts = &field.texts;
    let in_texts = texts.numbers.count > 0;
    // `20260301` is a number as well, and a date only by its name.
    let compact = Form::DateBy("%Y%m%d");
    if in_texts && name.is_time && texts.all_have(compact) && field.numbers.count == 0 {
        formats(column, vec![compact]);
        return Some(ColumnType::Date);
    }
    if texts.numbers.count == texts.count {
        let numbers = texts.numbers.with(&field.numbers);
        return epoch(&numbers, name, column, notes);
    }
    if in_texts {
        return None;
    }
    let unit = match field.numbers.count {
        0 => None,
        _ => Some(field.numbers.epoch()?),
    };
    let date = |form| matches!(form, Form::Date | Form::DateBy(_)) && form != compact;
    let of_day = |form| matches!(form, Form::Time | Form::TimeBy(_));
    let timestamp = |form| matches!(form, Form::Timestamp | Form::TimestampBy(_));
    let (kind, chosen) = match unit {
        None if texts.forms(date).is_some() => (ColumnType::Date, texts.forms(date)?),
        None if texts.forms(of_day).is_some() => (ColumnType::Time, texts.forms(of_day)?),
        _ => (ColumnType::Timestamp, texts.forms(timestamp)?),
    };
    column.epoch = unit;
    let patterns = formats(column, chosen);
    if let Some(pattern) = patterns.iter().find(|pattern| is_ambiguous(pattern, texts)) {
        notes.push(format!(
            "`{pattern}` or with the month first: no sample shows which"
        ));
    }
    if texts.any_cut {
        notes.push("digits after the microsecond are cut; `text` keeps them".to_owned());
    }
    Some(kind)
}

/// Whether the texts fit a pattern with day and month exchanged as well.
fn is_ambiguous(pattern: &str, texts: &Texts) -> bool {
    let exchanged = match pattern.strip_prefix("%d/%m/") {
        Some(rest) => format!("%m/%d/{rest}"),
        None => return false,
    };
    let is_it = |form: Form| match form {
        Form::TimestampBy(other) | Form::DateBy(other) => other == exchanged,
        _ => false,
    };
    let found = super::texts::FORMS.into_iter().find(|form| is_it(*form));
    found.is_some_and(|form| texts.all_have(form))
}

/// Sets the patterns of a column, and returns them.
fn formats(column: &mut Column, chosen: Vec<Form>) -> &mut Vec<String> {
    let pattern = |form| match form {
        Form::TimestampBy(pattern) | Form::DateBy(pattern) | Form::TimeBy(pattern) => {
            Some(pattern.to_owned())
        }
        Form::Timestamp | Form::Date | Form::Time => None,
    };
    column.formats = chosen.into_iter().filter_map(pattern).collect();
    &mut column.formats
}

/// The type of numbers that are times. `None` if they may be anything else.
fn epoch(
    numbers: &Numbers,
    name: &Name,
    column: &mut Column,
    notes: &mut Vec<String>,
) -> Option<ColumnType> {
    if let Some(unit) = numbers.epoch() {
        if !name.is_time {
            notes.push(format!(
                "could be times: `timestamp` with `epoch = \"{}\"`",
                unit.as_str()
            ));
            return None;
        }
        column.epoch = Some(unit);
        let cuts = unit == EpochUnit::Ns || numbers.fraction_max > 6;
        if cuts {
            notes.push(
                "nanoseconds: digits after the microsecond are cut; `integer` keeps \
                        them"
                    .to_owned(),
            );
        }
        return Some(ColumnType::Timestamp);
    }
    if numbers.days && name.is_date {
        notes.push("days since 1970-01-01, by its name".to_owned());
        column.epoch = Some(EpochUnit::Days);
        return Some(ColumnType::Date);
    }
    None
}

/// The type of a field that holds only numbers, as such or in strings.
fn number(field: &Field, numbers: &Numbers, name: &Name, notes: &mut Vec<String>) -> ColumnType {
    let texts = &field.texts;
    let in_strings = texts.count > 0;
    if let Some(kind) = name.kind {
        let fits = match kind {
            ColumnType::Integer => numbers.all_plain && numbers.all_signed,
            _ => numbers.all_floats,
        };
        if fits {
            return kind;
        }
    }
    if in_strings && name.is_version {
        return ColumnType::Text;
    }
    let equally_long = texts.chars_min == texts.chars_max;
    let is_long = texts.chars_min >= IDENTIFIER_DIGITS_MIN;
    let is_plain_string = in_strings && field.numbers.count == 0 && numbers.all_plain;
    if is_plain_string && equally_long && is_long && name.kind.is_none() {
        notes.push(
            "digits in strings, all of one length: most likely an identifier; `integer` \
                    takes them as well"
                .to_owned(),
        );
        return ColumnType::Text;
    }
    let kind = if numbers.all_bits && numbers.any_zero && numbers.any_one {
        if name.is_flag {
            return ColumnType::Boolean;
        }
        notes.push("only 0 and 1: `boolean` takes them as well".to_owned());
        ColumnType::Integer
    } else if numbers.all_plain && numbers.all_signed {
        ColumnType::Integer
    } else if numbers.all_plain && numbers.all_unsigned {
        ColumnType::Unsigned
    } else if numbers.all_floats && (numbers.any_exponent || !in_strings && !numbers.all_plain) {
        ColumnType::Float
    } else {
        decimal(numbers, notes)
    };
    if in_strings && kind != ColumnType::Text {
        notes.push("numbers in strings; `text` keeps them as they are written".to_owned());
    }
    kind
}

/// A decimal with room for each of the numbers. `text`, which keeps each digit, if a decimal has no
/// room for them.
fn decimal(numbers: &Numbers, notes: &mut Vec<String>) -> ColumnType {
    // Numbers of one length after the point, such as amounts of money, keep it.
    let scale = if numbers.written_min == numbers.written_max && !numbers.any_exponent {
        numbers.written_max
    } else {
        numbers.fraction_max + DECIMAL_HEADROOM.1
    };
    let scale = if scale > 30 {
        numbers.fraction_max
    } else {
        scale
    };
    let precision = (numbers.whole_max + DECIMAL_HEADROOM.0 + scale).min(38);
    if scale > 30 || numbers.whole_max + scale > precision {
        notes.push("numbers with more digits than a decimal has".to_owned());
        return ColumnType::Text;
    }
    if !numbers.all_floats {
        notes.push("exact: a float would lose digits".to_owned());
    }
    ColumnType::Decimal {
        precision: u8::try_from(precision).expect("at most 38"),
        scale: u8::try_from(scale).expect("at most 30"),
    }
}

/// What the name of a field says about its values.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own"
)]
struct Name {
    is_time: bool,
    is_date: bool,
    is_flag: bool,
    is_version: bool,
    /// Its producer says which type it has, as `$numberLong` does.
    kind: Option<ColumnType>,
}

impl Name {
    fn of(path: &[String]) -> Self {
        const TIMES: [&str; 28] = [
            "time",
            "timestamp",
            "ts",
            "date",
            "datetime",
            "at",
            "when",
            "since",
            "until",
            "created",
            "updated",
            "modified",
            "changed",
            "expires",
            "expiry",
            "expiration",
            "start",
            "started",
            "end",
            "ended",
            "epoch",
            "millis",
            "nanos",
            "received",
            "recorded",
            "occurred",
            "published",
            "last",
        ];
        const FLAGS: [&str; 12] = [
            "is", "has", "can", "enabled", "disabled", "active", "deleted", "valid", "flag", "on",
            "open", "enable",
        ];
        let named = path.iter().rev().find(|key| !key.starts_with('$'));
        let words = words(named.map_or("", String::as_str));
        let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
        let ends = |ends: &[&str]| {
            words
                .iter()
                .any(|word| ends.iter().any(|end| word.ends_with(end)))
        };
        let marked = |mark: &str| path.iter().any(|key| key == mark);
        Self {
            is_time: has(&TIMES) || ends(&["time", "date", "timestamp"]) || marked("$date"),
            is_date: words
                .last()
                .is_some_and(|last| last == "date" || last == "day"),
            is_flag: words
                .first()
                .is_some_and(|first| FLAGS.contains(&first.as_str()))
                || words
                    .last()
                    .is_some_and(|last| FLAGS.contains(&last.as_str())),
            is_version: has(&["version"]),
            kind: path.iter().find_map(|key| match key.as_str() {
                "$numberInt" | "$numberLong" => Some(ColumnType::Integer),
                "$numberDouble" => Some(ColumnType::Float),
                _ => None,
            }),
        }
    }
}

/// The words of a name in small letters: those of `eventTime` are those of `event-time`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_small = false;
    for c in name.chars() {
        let begins = !c.is_alphanumeric() || c.is_uppercase() && was_small;
        if begins {
            words.push(String::new());
        }
        if c.is_alphanumeric() {
            words
                .last_mut()
                .expect("it has one")
                .extend(c.to_lowercase());
        }
        was_small = c.is_lowercase() || c.is_ascii_digit();
    }
    words.retain(|word| !word.is_empty());
    words
}
