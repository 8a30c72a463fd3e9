//! The records of a sequence: JSON values one after another, with or without separators.
//!
//! The cut and [`for_each_record`], which finds the records of a chunk again, take the same walk
//! from value to value. What a value holds depends only on its own text and on the dataset's
//! pointer, so a chunk may be any run of whole values.

use std::mem;
use std::ops::Range;

use super::array::{self, array};
use super::chunker::Records;
use super::envelope::Envelope;
use super::plan::{
    Around, Chunk, ChunkLimits, Layout, Plan, Unreadable, found_here, incomplete, malformed,
};
use super::scan::{CURLY, Scan};
use super::target::{Target, key_is};
use crate::dataset::{EACH, Outer};
use crate::syntax::{self, Stop, after, is_blank, skip_blank};

/// An object that closes within this many bytes is searched for its closing bracket before it is
/// walked: most of them are records, whose inside the cut need not read as JSON. An object that is
/// larger may be an envelope larger than memory, and is read only once.
const SEARCHED_BYTES_MAX: usize = 1 << 20;

/// The byte that RFC 7464 puts before each value.
pub(super) const RECORD_SEPARATOR: u8 = 0x1e;

/// Whether a byte may be between two values.
const fn is_separator(byte: u8) -> bool {
    is_blank(byte) || byte == RECORD_SEPARATOR || byte == b','
}

/// The place of the first byte from `at` on that does not separate values, or the end.
#[inline]
pub(crate) fn skip_separators(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(|byte| is_separator(*byte)) {
        at += 1;
    }
    at
}

/// Calls `on_array` with the places of the records of each array in a chunk of a sequence, and of
/// the records between two arrays. For an array in an envelope, also with where the values outside
/// of its records are.
pub(super) fn each_array(
    bytes: &[u8],
    pointer: &str,
    outers: &[Outer],
    only_arrays: bool,
    mut on_array: impl FnMut(Vec<Range<usize>>, Option<&Around>),
) {
    let limits = ChunkLimits {
        records: u32::MAX,
        bytes: usize::MAX,
    };
    let mut sequence = Sequence {
        bytes,
        limits,
        targets: targets(pointer, outers, std::iter::empty()),
        fields: &[],
        is_known: true,
        has_array: false,
        has_reached: false,
        joins: false,
        only_arrays,
    };
    let (mut at, mut between) = (0, Vec::new());
    loop {
        match sequence.next(at) {
            Ok(Some(Value::Record(place))) => {
                at = place.end;
                between.push(place);
            }
            Ok(Some(Value::Records(place, records))) => {
                at = place.end;
                if !between.is_empty() {
                    on_array(mem::take(&mut between), None);
                }
                for chunk in records.chunks {
                    on_array(array::records_of(bytes, &chunk), chunk.around.as_deref());
                }
            }
            Ok(None) => break,
            Err(error) => {
                debug_assert!(false, "the cut has walked these values: {error}");
                break;
            }
        }
    }
    on_array(between, None);
}

/// What the walk through an object searches: the array at `pointer`, whose dataset has the columns
/// `outers`, and those of `others`. Empty
/// if the dataset has no pointer, since then each object is a record.
pub(super) fn targets<'a>(
    pointer: &'a str,
    outers: &'a [Outer],
    others: impl Iterator<Item = &'a str>,
) -> Vec<Target<'a>> {
    if pointer.is_empty() {
        return Vec::new();
    }
    let own = Target::new(pointer, outers);
    let others = others.map(|other| Target::new(other, &[]));
    std::iter::once(own).chain(others).collect()
}

/// A value of a sequence, and its place.
enum Value {
    /// A record.
    Record(Range<usize>),
    /// An array of records, or an envelope that holds one.
    Records(Range<usize>, Records),
}

/// The walk from value to value.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own"
)]
pub(super) struct Sequence<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) limits: ChunkLimits,
    /// The array of the file's own dataset, then those of other datasets. Empty if each object is
    /// a record.
    pub(super) targets: Vec<Target<'a>>,
    /// The keys that a record of the file's own dataset can have.
    pub(super) fields: &'a [String],
    /// Whether one of the values so far is certainly of the dataset: an array, an envelope, or a
    /// record with a field of the dataset.
    pub(super) is_known: bool,
    /// Whether one of the values so far is an array or has one, which may be empty.
    pub(super) has_array: bool,
    /// Whether one of the values so far has containers for a `*` of the dataset, and no array below
    /// them.
    pub(super) has_reached: bool,
    /// As of [`Envelope`].
    pub(super) joins: bool,
    /// Whether a value without an array of the dataset has no record of it, instead of being one.
    pub(super) only_arrays: bool,
}

impl Sequence<'_> {
    /// The plan of the values from `start` on.
    ///
    /// # Errors
    /// [`Unreadable::Incomplete`] if the last value does not close; [`Unreadable::Malformed`] if
    /// something else than a value or a separator is between two values, if an envelope is broken
    /// or holds records of another dataset, or if no value is certainly of the dataset.
    pub(super) fn plan(&mut self, start: usize) -> Result<Plan, Unreadable> {
        let mut run = Run {
            limits: self.limits,
            chunks: Vec::new(),
            open: None,
            is_after_empty: false,
            count: 0,
        };
        let mut at = start;
        while let Some(value) = self.next(at)? {
            at = match value {
                Value::Record(place) => {
                    let end = place.end;
                    run.add(place, 1, Layout::Values);
                    end
                }
                Value::Records(place, records) => {
                    let end = place.end;
                    run.add_all(place, records);
                    end
                }
            };
        }
        let has_values = run.count > 0 || self.has_reached && !self.only_arrays;
        if has_values && !self.is_known {
            return Err(self.unknown(skip_separators(self.bytes, start)));
        }
        run.close();
        let (chunks, count) = (run.chunks, run.count);
        Records { chunks, count }.plan(self.bytes)
    }

    /// The first value from `at` on. `None` if only separators follow.
    fn next(&mut self, at: usize) -> Result<Option<Value>, Unreadable> {
        let at = skip_separators(self.bytes, at);
        let value = match self.bytes.get(at) {
            None => return Ok(None),
            Some(b'{') => self.object(at)?,
            Some(b'[') if self.targets.first().is_some_and(|own| own.is_each(0)) => {
                self.walk(at)?
            }
            Some(b'[') => {
                let (records, end) = array(self.bytes, at, self.limits)?;
                (self.is_known, self.has_array) = (true, true);
                Value::Records(at..end, records.finish())
            }
            Some(_) => self.scalar(at)?,
        };
        Ok(Some(value))
    }

    /// The object whose `{` is at `open`.
    fn object(&mut self, open: usize) -> Result<Value, Unreadable> {
        let searched = match self.targets[..] {
            [] => self.bytes,
            _ => &self.bytes[..self.bytes.len().min(open + SEARCHED_BYTES_MAX)],
        };
        match self.members(searched, open) {
            (Some(close), false) => self.record(open, close),
            (None, _) if self.targets.is_empty() => Err(self.unclosed(open)),
            _ => self.walk(open),
        }
    }

    /// The container whose bracket is at `open`, after a walk through its children.
    fn walk(&mut self, open: usize) -> Result<Value, Unreadable> {
        let targets = mem::take(&mut self.targets);
        let mut envelope = Envelope::new(self.bytes, self.limits, targets, true, self.fields);
        envelope.joins = self.joins;
        let walked = envelope.walk(open);
        let has_field = envelope.has_field;
        self.targets = envelope.targets;
        let is_open = self.targets.iter().any(|target| target.open.is_some());
        let own = self.targets.first_mut();
        let is_reached = own.is_some_and(Target::take_reached);
        let found: Vec<_> = self.targets.iter_mut().map(Target::take).collect();
        match walked {
            Ok(end) => self.envelope(open..end, found, has_field, is_reached),
            // If its brackets close, it may be a record that is not JSON.
            Err(error @ Unreadable::Malformed { .. }) => match self.members(self.bytes, open) {
                (None, _) => Err(self.unclosed(open)),
                (Some(close), leads) => {
                    let text = &self.bytes[open..=close];
                    let is_named = || self.targets.iter().any(|target| target.is_named_in(text));
                    if is_open || leads && is_named() {
                        Err(error)
                    } else {
                        self.record(open, close)
                    }
                }
            },
            Err(Unreadable::Incomplete { .. }) => Err(self.unclosed(open)),
        }
    }

    /// Passes the members of the object at `open`. Returns the place of its closing bracket, `None`
    /// if it does not close in `text`, and whether a member may lead to an array of records. A
    /// member without a container cannot.
    fn members(&mut self, text: &[u8], open: usize) -> (Option<usize>, bool) {
        let (mut leads, mut start) = (false, open + 1);
        let Self {
            targets,
            fields,
            is_known,
            ..
        } = self;
        *is_known |= targets.is_empty();
        let close = Scan::new(text, start).elements(|member| {
            let may_lead = member.containers > 0 && !leads && !targets.is_empty();
            if may_lead || !*is_known {
                let key = key(text, start);
                let is = |name: &str| key.is_some_and(|key| key_is(key, name));
                let leads_by = |segment: &str| segment == EACH || is(segment);
                leads |=
                    may_lead && (key.is_none() || targets.iter().any(|t| leads_by(&t.path[0])));
                *is_known |= fields.iter().any(|field| is(field));
            }
            start = member.end + 1;
        });
        (close, leads)
    }

    /// The record whose brackets are at `open` and `close`.
    fn record(&self, open: usize, close: usize) -> Result<Value, Unreadable> {
        if (self.bytes[open] ^ self.bytes[close]) & CURLY != 0 {
            let detail = "the record that begins here with `{` is closed by `]`, so it is not \
                          certain where it ends";
            return Err(malformed(open, detail.to_owned()));
        }
        Ok(self.whole(open..close + 1))
    }

    /// The value at `place`, which has no array of records.
    fn whole(&self, place: Range<usize>) -> Value {
        if self.only_arrays {
            let (chunks, count) = (Vec::new(), 0);
            return Value::Records(place, Records { chunks, count });
        }
        Value::Record(place)
    }

    /// The object at `place`, in which the walk has found an array, or not, for each target.
    /// `is_reached`: it has passed a container for a `*` of the dataset.
    fn envelope(
        &mut self,
        place: Range<usize>,
        found: Vec<Option<Records>>,
        has_field: bool,
        is_reached: bool,
    ) -> Result<Value, Unreadable> {
        let mut found = found.into_iter();
        let own = found.next().flatten();
        self.is_known |= own.is_some() || has_field;
        self.has_array |= own.is_some();
        // A record may have a member of any name.
        if own.is_some() || !has_field {
            let others = self.targets[1..].iter().zip(found);
            for (Target { pointer, .. }, other) in others {
                if let Some(records) = other
                    && let Some(last) = records.chunks.last()
                {
                    let end = last.end as usize;
                    let detail = format!(
                        "the array at `{pointer}` whose last record ends here holds records of another dataset, \
                         and a sequence holds records of one: put them in a file of their own"
                    );
                    return Err(malformed(end, detail));
                }
            }
        }
        Ok(match own {
            Some(records) => Value::Records(place, records),
            // The containers of an envelope without its arrays, which a producer may leave out if they
            // are empty.
            None if is_reached && !has_field => {
                self.has_reached = true;
                Value::Records(place, Records::default())
            }
            None => self.whole(place),
        })
    }

    /// The value at `at` that is neither an object nor an array: a record that the parser rejects.
    fn scalar(&self, at: usize) -> Result<Value, Unreadable> {
        let bytes = self.bytes;
        let place = match syntax::value(bytes, at) {
            Ok(end) => {
                let ends = match bytes.get(end) {
                    None | Some(b'{' | b'[' | b'"') => true,
                    Some(next) => is_separator(*next) || bytes[at] == b'"',
                };
                if ends {
                    return Ok(self.whole(at..end));
                }
                end
            }
            Err(Stop::End) => return Err(self.unclosed(at)),
            Err(Stop::At(place)) => place,
        };
        let found = found_here(bytes, place);
        let detail = format!("not JSON: expected a value of the sequence, found {found}");
        Err(malformed(place, detail))
    }

    /// The error of a value at `at` that does not close.
    #[cold]
    fn unclosed(&self, at: usize) -> Unreadable {
        let mut scan = Scan::new(self.bytes, at);
        let mut last = 0;
        while let Some((place, byte)) = scan.next() {
            // No JSON value holds `}{`: more bytes cannot make a record of this one.
            if (last, byte) == (b'}', b'{') {
                let detail = format!(
                    "the record that begins here does not close before the next one (at byte \
                     {place})"
                );
                return malformed(at, detail);
            }
            last = byte;
        }
        incomplete(self.bytes, "the last value does not close")
    }

    /// The error of a file of which no value is certainly of the dataset.
    fn unknown(&self, at: usize) -> Unreadable {
        let detail = match self.targets.first() {
            Some(Target { pointer, .. }) => format!(
                "no value has an array of records at `{pointer}` or a field of a record: `records` \
                 of the dataset says where its array is"
            ),
            None => "no value is an object or an array".to_owned(),
        };
        malformed(at, detail)
    }
}

/// The key of the member that begins at `at`, without its quotes. `None` if no key with a colon
/// begins there.
fn key(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let quote = skip_blank(bytes, at);
    let end = syntax::string(bytes, quote).ok()?;
    after(bytes, skip_blank(bytes, end), b':')?;
    Some(&bytes[quote + 1..end - 1])
}

/// The chunks of a sequence while it is walked.
struct Run {
    limits: ChunkLimits,
    chunks: Vec<Chunk>,
    /// The chunk that the next value may join.
    open: Option<Open>,
    /// Whether the last value was an array or an envelope without records, which is in no chunk
    /// unless another value with records follows in the open one.
    is_after_empty: bool,
    /// How many records the values have.
    count: u64,
}

/// A chunk that is not yet closed.
struct Open {
    place: Range<usize>,
    records: u64,
    layout: Layout,
}

impl Run {
    /// Adds the value at `place`, which holds `records` records.
    #[inline]
    fn add(&mut self, place: Range<usize>, records: u64, layout: Layout) {
        let records_max = u64::from(self.limits.records.max(1));
        if let Some(open) = &mut self.open
            && place.end - open.place.start <= self.limits.bytes
            && open.records + records <= records_max
        {
            open.place.end = place.end;
            open.records += records;
            if layout == Layout::Sequence || self.is_after_empty {
                open.layout = Layout::Sequence;
            }
        } else {
            self.close();
            self.open = Some(Open {
                place,
                records,
                layout,
            });
        }
        self.is_after_empty = false;
        self.count += records;
    }

    /// Adds the array or the envelope at `place`, whole if one chunk takes it. Otherwise the chunks
    /// of its array become chunks of their own.
    fn add_all(&mut self, place: Range<usize>, records: Records) {
        let is_small = place.len() <= self.limits.bytes && records.chunks.len() == 1;
        if records.count == 0 {
            self.is_after_empty = true;
            return;
        }
        if is_small {
            return self.add(place, records.count, Layout::Sequence);
        }
        self.close();
        for chunk in records.chunks {
            self.chunks.push(Chunk {
                first_ordinal: (self.count as u32).wrapping_add(chunk.first_ordinal),
                ..chunk
            });
        }
        self.count += records.count;
    }

    /// Ends the open chunk. The casts to 32 bits lose nothing: [`Records::plan`] refuses a file
    /// with more records.
    fn close(&mut self) {
        if let Some(Open {
            place,
            records,
            layout,
        }) = self.open.take()
        {
            self.chunks.push(Chunk {
                start: place.start as u64,
                end: place.end as u64,
                first_ordinal: (self.count - records) as u32,
                records: records as u32,
                layout,
                around: None,
            });
        }
    }
}
