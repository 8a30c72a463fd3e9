//! Turns a chunk into a batch: typed columns and rejects.
//!
//! Owns the rules by which a record becomes a row. A plain record is read directly from its text
//! (see `direct`). simd-json parses any other record by itself, so that a bad record does not
//! affect its neighbours, and `walk` reads the result. Both routes make the same row of the same
//! record, whatever the size of the chunks. docs/decisions/parse-routes.md has the figures for the
//! two routes.
//!
//! * A text column accepts strings, and numbers and booleans as they are written. JSON columns and
//!   the rescue column hold the text of the file itself. Any other column accepts a value from
//!   which it loses nothing: `"12"` and `12.0` are the integer 12, unless the dataset is strict.
//! * If a record has several problems, the reason of its reject is the first in the order of the
//!   file. Problems that appear only at the end of the record come last: first an unknown field
//!   that the record has twice, then missing fields in the order of the columns.
//! * Broken UTF-8, or nesting beyond 32 levels, makes a record a reject even in a field that no
//!   column takes. A number may have any size: an integer column accepts one that fits 64 bits, a
//!   float column one that is finite as a float, and any other column takes its text.
//!
//! This module relies on [`cut`] for the place of each record, and asserts that both find the same
//! records.

mod columns;
mod direct;
mod fields;
mod fixed;
mod locate;
mod record;
mod value;
mod walk;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use simd_json::{Buffers, ErrorType, INPUT_PADDING, Tape};

use crate::batch::{Batch, RAW_BYTES_MAX, Reject, RejectCode, SourceFile, Span, row_id};
use crate::cut::{self, Chunk, Group, Layout, Outside};
use crate::dataset::{Dataset, Outer, Part, segments};
use crate::syntax;
use columns::Columns;
use direct::Direct;
use fields::Fields;
use fixed::{Fixed, Problem};
pub use fixed::{PathProblem, path_problem};
pub use locate::place_of_fault;
pub use record::DEPTH_MAX;
use walk::{Document, Walker};

/// Most bytes of a record; a larger record is a reject. Most records have hundreds of bytes. The
/// tables of the parser take up to 16 times the record, so a much higher limit would exceed the
/// memory budget. A much lower one could refuse a record that holds a picture.
pub const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Buffers of more bytes than this are freed after a chunk. Chunks have at most 1 MiB by default,
/// so only a huge record needs more. Without this limit, a thread would keep that memory until it
/// ends.
const KEEP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Whether a chunk is a single record of more than [`RECORD_BYTES_MAX`]. Its reject keeps only its
/// first bytes, so the caller need not read the rest into memory.
#[must_use]
pub fn is_one_too_large(chunk: &Chunk) -> bool {
    // With an envelope around it, the record may be smaller than the chunk.
    let is_one = chunk.records == 1 && !chunk.layout.has_envelopes();
    is_one && chunk.end - chunk.start > RECORD_BYTES_MAX as u64
}

/// A parser with its reusable buffers. Each thread has one.
pub struct Parser {
    /// The record that is being parsed, in brackets and with padding. simd-json unescapes strings
    /// in place.
    text: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
    /// The shape of the last chunk's dataset, since most chunks have the dataset of the one before.
    shape: Option<Arc<Shape>>,
}

/// The schema and the fields of a dataset, computed once.
struct Shape {
    dataset: Arc<Dataset>,
    schema: SchemaRef,
    fields: Fields,
    /// The columns whose value is outside of the record.
    outers: Vec<Outer>,
    /// Whether one of them is the index of the record, which differs from record to record.
    has_index: bool,
}

/// The bytes of a chunk.
#[derive(Clone, Copy)]
struct Source<'a> {
    bytes: &'a [u8],
    /// The place of the first byte in the file.
    origin: u64,
    layout: Layout,
}

impl Default for Parser {
    fn default() -> Self {
        let tape = Tape(Vec::new());
        Self {
            text: Vec::new(),
            buffers: new_buffers(),
            tape,
            shape: None,
        }
    }
}

impl fmt::Debug for Parser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parser")
            .field("text_capacity", &self.text.capacity())
            .finish_non_exhaustive()
    }
}

/// One level more than a record may have, for the brackets that [`Parser::fill`] puts around it.
fn new_buffers() -> Buffers {
    Buffers::with_max_depth(0, DEPTH_MAX + 1)
}

impl Parser {
    /// Parses a single record. `record` holds its bytes and no others, and `outside` the values
    /// outside of it.
    pub fn parse_record(
        &mut self,
        dataset: &Arc<Dataset>,
        file: SourceFile,
        ordinal: u32,
        record: &[u8],
        outside: &Outside<'_>,
    ) -> Batch {
        let chunk = Chunk {
            start: 0,
            end: record.len() as u64,
            first_ordinal: ordinal,
            records: 1,
            layout: Layout::Array,
            around: None,
        };
        self.parse(dataset, file, &chunk, record, outside)
    }

    /// Parses a chunk. `bytes` are the bytes `chunk.start..chunk.end` of the file, and `outside` are
    /// the values [`outside`](Chunk::outside) of the chunk. Never fails: a record that cannot become
    /// a row is a reject.
    ///
    /// # Panics
    /// If `bytes` does not hold the records that [`cut`](crate::cut::cut) found in `chunk`.
    pub fn parse(
        &mut self,
        dataset: &Arc<Dataset>,
        file: SourceFile,
        chunk: &Chunk,
        bytes: &[u8],
        outside: &Outside<'_>,
    ) -> Batch {
        assert_eq!(
            bytes.len() as u64,
            chunk.end - chunk.start,
            "the bytes of the chunk"
        );
        let shape = self.shape(dataset);
        let span = Span {
            file_no: file.file_no,
            first_ordinal: chunk.first_ordinal,
            records: chunk.records,
        };
        let source = Source {
            bytes,
            origin: chunk.start,
            layout: chunk.layout,
        };
        let new_output = || Output::new(dataset, span, bytes.len());
        let mut output = new_output();
        if is_one_too_large(chunk) {
            let problem = Problem::of_record(RejectCode::TooLarge);
            output.end_record(source, 0..bytes.len(), Some(problem));
        } else if !shape.outers.is_empty() && (shape.has_index || chunk.layout.has_envelopes()) {
            let (places, groups) =
                cut::groups(bytes, chunk.layout, dataset, &shape.outers, outside);
            if (self.read_groups(&shape, &mut output, source, &places, &groups)).is_none() {
                output = new_output();
                self.parse_groups(&shape, &mut output, source, &places, &groups);
            }
        } else {
            let fixed = Fixed::new(dataset, &shape.outers, outside);
            if self.read(&shape, &fixed, &mut output, source).is_none() {
                output = new_output();
                self.parse_each(&shape, &fixed, &mut output, source);
            }
        }
        self.give_back();
        assert_eq!(
            output.done, chunk.records,
            "cut and parse find the same records"
        );
        let rows = output.columns.finish(&shape.schema);
        let rejects = output.rejects;
        assert_eq!(rows.num_rows() + rejects.len(), chunk.records as usize);
        Batch {
            dataset: Arc::clone(dataset),
            span,
            hash: file.hash,
            rows,
            rejects,
        }
    }

    /// Reads plain records directly, and parses each other record by itself. `None` if the chunk
    /// must be parsed record by record instead: it is not UTF-8, it is so large that a record may
    /// be too large, or a record does not begin where the cut found it.
    fn read(
        &mut self,
        shape: &Shape,
        fixed: &Fixed<'_>,
        output: &mut Output,
        source: Source<'_>,
    ) -> Option<()> {
        let Source { bytes, layout, .. } = source;
        let text = readable(bytes)?;
        let dataset = &shape.dataset;
        if layout.has_envelopes() {
            let places = cut::records(bytes, layout, dataset);
            return self.read_places(shape, fixed, output, source, text, &places);
        }
        let mut direct = Direct::new(dataset, &shape.fields, fixed, layout, text);
        let mut places = None;
        while output.done < output.span.records {
            if direct
                .next_record(output.next_id(), &mut output.columns)
                .is_some()
            {
                output.done += 1;
                continue;
            }
            let places = places.get_or_insert_with(|| cut::records(bytes, layout, dataset));
            let place = places.get(output.done as usize)?.clone();
            // The direct reader takes an object over several lines for one record; the cut does
            // not.
            if place.start != direct.at() {
                return None;
            }
            direct.pass(place.end)?;
            self.parse_one(shape, fixed, output, source, place);
        }
        (direct.at() == bytes.len()).then_some(())
    }

    /// As [`read`](Self::read), but takes the place of each record from the cut: the direct reader
    /// would take an envelope for a record.
    fn read_places(
        &mut self,
        shape: &Shape,
        fixed: &Fixed<'_>,
        output: &mut Output,
        source: Source<'_>,
        text: &str,
        places: &[Range<usize>],
    ) -> Option<()> {
        // The places are known, whatever separates them.
        let layout = Layout::Sequence;
        let mut direct = Direct::new(&shape.dataset, &shape.fields, fixed, layout, text);
        for place in places {
            direct.go_to(place.start);
            let read = direct.next_record(output.next_id(), &mut output.columns);
            if read.is_none() {
                self.parse_one(shape, fixed, output, source, place.clone());
            } else if direct.at() == place.end {
                output.done += 1;
            } else {
                return None;
            }
        }
        Some(())
    }

    /// As [`read`](Self::read), for records with values outside of them.
    fn read_groups(
        &mut self,
        shape: &Shape,
        output: &mut Output,
        source: Source<'_>,
        places: &[Range<usize>],
        groups: &[Group<'_>],
    ) -> Option<()> {
        let text = readable(source.bytes)?;
        groups.iter().try_for_each(|group| {
            let fixed = Fixed::new(&shape.dataset, &shape.outers, &group.outside);
            let places = &places[group.records.clone()];
            self.read_places(shape, &fixed, output, source, text, places)
        })
    }

    /// Parses the records of a chunk one by one, with the values outside of them.
    fn parse_groups(
        &mut self,
        shape: &Shape,
        output: &mut Output,
        source: Source<'_>,
        places: &[Range<usize>],
        groups: &[Group<'_>],
    ) {
        for group in groups {
            let fixed = Fixed::new(&shape.dataset, &shape.outers, &group.outside);
            for place in &places[group.records.clone()] {
                self.parse_one(shape, &fixed, output, source, place.clone());
            }
        }
    }

    /// Parses the records of a chunk one by one.
    fn parse_each(
        &mut self,
        shape: &Shape,
        fixed: &Fixed<'_>,
        output: &mut Output,
        source: Source<'_>,
    ) {
        for place in cut::records(source.bytes, source.layout, &shape.dataset) {
            self.parse_one(shape, fixed, output, source, place);
        }
    }

    /// Parses the record at `place` of `source` by itself.
    fn parse_one(
        &mut self,
        shape: &Shape,
        fixed: &Fixed<'_>,
        output: &mut Output,
        source: Source<'_>,
        place: Range<usize>,
    ) {
        let record = &source.bytes[place.clone()];
        let problem = if record.len() > RECORD_BYTES_MAX {
            Some(Problem::of_record(RejectCode::TooLarge))
        } else {
            self.fill(record);
            let mut walked = self.walk(shape, fixed, output, record);
            if let Err(error) = &walked
                && is_about_a_number(error)
            {
                // simd-json refuses a number beyond 64 bits. A zero in its place parses, and the
                // walk takes numbers from the record's own text.
                self.fill(record);
                zero_numbers(&mut self.text[1..=record.len()]);
                walked = self.walk(shape, fixed, output, record);
            }
            walked.unwrap_or_else(|error| Some(invalid(record, &error)))
        };
        output.end_record(source, place, problem);
    }

    /// Copies a record into the buffer, as the only element of an array.
    fn fill(&mut self, record: &[u8]) {
        self.text.clear();
        self.text.reserve(record.len() + 2 + INPUT_PADDING);
        self.text.push(b'[');
        self.text.extend_from_slice(record);
        self.text.push(b']');
        self.text.extend_from_slice(&[b' '; INPUT_PADDING]);
    }

    /// Parses the record in the buffer and appends it as a row, or returns the problem that makes
    /// it a reject. `record` is its text in the file.
    fn walk(
        &mut self,
        shape: &Shape,
        fixed: &Fixed<'_>,
        output: &mut Output,
        record: &[u8],
    ) -> Result<Option<Problem>, simd_json::Error> {
        let len = self.text.len() - INPUT_PADDING;
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new()));
        let parsed = simd_json::fill_tape_padded(&mut self.text, len, &mut self.buffers, &mut tape);
        let result = parsed.map(|()| {
            let document = Document::new(&tape.0, self.buffers.structural_indexes(), record);
            if document.records() != 1 {
                return Some(Problem::of_record(RejectCode::InvalidJson));
            }
            let mut walker = Walker::new(&shape.dataset, &shape.fields, fixed, document);
            walker.record(output.next_id(), &mut output.columns)
        });
        self.tape = tape.reset();
        result
    }

    fn shape(&mut self, dataset: &Arc<Dataset>) -> Arc<Shape> {
        match &self.shape {
            Some(shape) if Arc::ptr_eq(&shape.dataset, dataset) => Arc::clone(shape),
            _ => {
                let outers = dataset.outers();
                let levels = segments(dataset.pointer()).count();
                let is_index = |outer: &Outer| outer.part == Part::Key && outer.level == levels;
                let shape = Arc::new(Shape {
                    has_index: outers.iter().any(is_index),
                    outers,
                    dataset: Arc::clone(dataset),
                    schema: dataset.schema(),
                    fields: Fields::new(dataset),
                });
                self.shape = Some(Arc::clone(&shape));
                shape
            }
        }
    }

    fn give_back(&mut self) {
        if self.text.capacity() > KEEP_BYTES_MAX {
            *self = Self {
                shape: self.shape.take(),
                ..Self::default()
            };
        }
    }
}

/// The text of a chunk, if its records may be read directly.
fn readable(bytes: &[u8]) -> Option<&str> {
    if bytes.len() > RECORD_BYTES_MAX {
        return None;
    }
    simdutf8::basic::from_utf8(bytes).ok()
}

fn is_about_a_number(error: &simd_json::Error) -> bool {
    matches!(
        error.error(),
        ErrorType::InvalidNumber | ErrorType::Overflow
    )
}

/// Overwrites each valid number with a zero and blanks.
fn zero_numbers(record: &mut [u8]) {
    let is_part = |byte: u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let mut at = 0;
    while at < record.len() {
        match record[at] {
            b'"' => at = syntax::string(record, at).unwrap_or(record.len()),
            b'-' | b'0'..=b'9' => {
                let run = record[at..].iter().take_while(|byte| is_part(**byte));
                let end = at + run.count();
                if syntax::number(record, at) == Some(end) {
                    record[at] = b'0';
                    record[at + 1..end].fill(b' ');
                }
                at = end;
            }
            _ => at += 1,
        }
    }
}

/// Why simd-json refuses a record, and the member in which the record stops being JSON.
fn invalid(record: &[u8], error: &simd_json::Error) -> Problem {
    let code = match error.error() {
        ErrorType::DepthLimitExceeded => RejectCode::TooDeep,
        _ => RejectCode::InvalidJson,
    };
    let field = locate::broken_member(record, code);
    Problem { code, field }
}

/// The batch while its records are parsed.
struct Output {
    span: Span,
    columns: Columns,
    rejects: Vec<Reject>,
    /// How many records have become rows or rejects.
    done: u32,
}

impl Output {
    /// An empty batch with capacity for the records of `bytes` bytes of JSON.
    fn new(dataset: &Dataset, span: Span, bytes: usize) -> Self {
        Self {
            span,
            columns: Columns::new(dataset, span.records as usize, bytes),
            rejects: Vec::new(),
            done: 0,
        }
    }

    fn ordinal(&self) -> u32 {
        self.span.first_ordinal + self.done
    }

    /// The id of the next record, if it becomes a row.
    fn next_id(&self) -> u64 {
        row_id(self.span.file_no, self.ordinal())
    }

    /// Ends the record at `place` of `source`: with a `problem` it is a reject, else its row has
    /// been appended.
    #[inline]
    fn end_record(&mut self, source: Source<'_>, place: Range<usize>, problem: Option<Problem>) {
        if let Some(Problem { code, field }) = problem {
            let raw = &source.bytes[place.clone()];
            self.rejects.push(Reject {
                ordinal: self.ordinal(),
                code,
                field,
                byte_offset: source.origin + place.start as u64,
                raw: raw[..raw.len().min(RAW_BYTES_MAX)].to_vec(),
            });
        }
        self.done += 1;
    }
}

#[cfg(test)]
mod tests;
