//! What a field has held in the records so far. The memory it takes depends on the number of
//! different fields, which is limited, and not on the number of records.

use indexmap::IndexMap;
use serde_json::value::RawValue;

use super::json::{self, Kind};
use super::numbers::Numbers;
use super::texts::{Place, Texts};
use crate::syntax;

/// Most different fields of all levels that are kept. Further ones are counted: records whose keys
/// are values would have any number of fields. Each takes about 800 bytes.
const FIELDS_MAX: usize = 10_000;

/// Most levels of objects whose members are fields of their own.
const LEVELS_MAX: usize = 6;

/// What is known of a field.
#[derive(Debug, Default)]
pub(super) struct Field {
    pub(super) nulls: u64,
    pub(super) booleans: u64,
    pub(super) numbers: Numbers,
    pub(super) texts: Texts,
    pub(super) arrays: Arrays,
    pub(super) objects: u64,
    /// The members of its objects, in the order in which they first appeared.
    pub(super) members: IndexMap<String, Field>,
    /// Whether it had objects whose members were not looked at, for one of the limits.
    pub(super) is_cut: bool,
}

/// What is known of the arrays of a field.
#[derive(Debug, Default)]
pub(super) struct Arrays {
    pub(super) count: u64,
    pub(super) elements_max: u64,
    /// How many elements are objects with members, and how many are anything else.
    pub(super) objects: u64,
    pub(super) others: u64,
}

impl Field {
    /// In how many records it has a value other than null.
    pub(super) fn values(&self) -> u64 {
        let scalars = self.booleans + self.numbers.count + self.texts.count;
        scalars + self.arrays.count + self.objects
    }
}

/// What is known of all records.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    pub(super) records: u64,
    /// The record itself.
    pub(super) root: Field,
    seen: Seen,
}

/// What the walk through a record needs.
#[derive(Debug, Default)]
struct Seen {
    /// How many fields are kept.
    fields: usize,
    /// The present record.
    at: Place,
}

impl Evidence {
    /// Adds the record at a place. Returns whether it is an object of JSON; anything else would be a
    /// reject of any dataset.
    pub(super) fn add(&mut self, record: &[u8], at: Place) -> bool {
        let Ok(text) = std::str::from_utf8(record) else {
            return false;
        };
        // Checked before anything is counted: half a record would make each other field optional.
        if !record.starts_with(b"{") || syntax::value(record, 0) != Ok(record.len()) {
            return false;
        }
        self.records += 1;
        self.seen.at = at;
        add_members(&mut self.root, text, LEVELS_MAX, &mut self.seen);
        true
    }
}

fn add_members(field: &mut Field, object: &str, levels: usize, seen: &mut Seen) {
    field.objects += 1;
    if levels == 0 {
        field.is_cut = true;
        return;
    }
    let visit = |key: String, value: &RawValue| {
        if seen.fields >= FIELDS_MAX && !field.members.contains_key(&key) {
            field.is_cut = true;
            return;
        }
        let member = field.members.entry(key).or_insert_with(|| {
            seen.fields += 1;
            Field::default()
        });
        add_value(member, value, levels - 1, seen);
    };
    json::members(object, visit).expect("the record is JSON");
}

fn add_value(field: &mut Field, value: &RawValue, levels: usize, seen: &mut Seen) {
    let text = value.get();
    match Kind::of_raw(value) {
        Kind::Null => field.nulls += 1,
        Kind::Boolean => field.booleans += 1,
        Kind::Number => field.numbers.add(text),
        Kind::Text => {
            let text: String = serde_json::from_str(text).expect("the record is JSON");
            field.texts.add(&text, seen.at);
        }
        Kind::Array => {
            let arrays = &mut field.arrays;
            let mut count = 0;
            let visit = |element: &RawValue| {
                count += 1;
                // `{}` has two bytes; blanks within it hardly ever occur.
                if Kind::of_raw(element) == Kind::Object && element.get().len() > 2 {
                    arrays.objects += 1;
                } else {
                    arrays.others += 1;
                }
            };
            json::elements(text, visit).expect("the record is JSON");
            arrays.count += 1;
            arrays.elements_max = arrays.elements_max.max(count);
        }
        Kind::Object => add_members(field, text, levels, seen),
    }
}
