//! Turns a chunk into a batch: typed columns and rejects.
//!
//! Owns what a record must be to become a row. A plain record is read straight from its text (see
//! `direct`). Any other record is parsed by simd-json, alone, and the result is walked, so that the
//! neighbours of a bad record live. Both ways make the same row of a record, whatever the size of
//! the chunks. docs/decisions/parse-routes.md has the figures behind the two ways.
//!
//! * A text column takes strings, and numbers and booleans as they are written. JSON columns
//!   and the rescue column hold the text of the file itself, never a rendering of it.
//! * If several things are wrong with a record, its reason is the first in the order of the file.
//!   What shows only at the end of the record comes after that: an unknown field that appears twice,
//!   then missing fields in the order of the columns.
//! * A record is judged as a whole: broken UTF-8 or nesting beyond 32 levels makes it a reject, even
//!   in a field that no column takes. A number may have any size; an integer column takes 64 bits of
//!   it, a float column what is finite, and all others its text.
//!
//! It relies on [`cut`] for the place of each record, and asserts that both see the same records.

mod columns;
mod direct;
mod fields;
mod locate;
mod record;
mod walk;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use simd_json::{Buffers, ErrorType, INPUT_PADDING, Tape};

use crate::batch::{Batch, RAW_BYTES_MAX, Reject, RejectCode, SourceFile, Span, row_id};
use crate::cut::{self, Chunk, Layout};
use crate::dataset::Dataset;
use crate::syntax;
use columns::Columns;
use direct::Direct;
use fields::Fields;
pub use locate::place_of_fault;
pub use record::DEPTH_MAX;
use record::Problem;
use walk::{Document, Walker};

/// Most bytes of a record; a larger one is a reject. Records have hundreds of bytes, and the
/// tables of the parser take up to 16 times the record: a much higher limit would not fit the
/// memory budget, a much lower one could refuse a record that carries a picture.
pub const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Buffers of more bytes than this are freed after a chunk. Chunks have at most 1 MiB by default, so
/// only a huge record needs more, and the thread must not hold its memory for ever.
const KEEP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Whether a chunk is a single record that is too large to be parsed. Its reject keeps only the first
/// bytes, so the caller need not hold all of it in memory.
#[must_use]
pub fn is_one_too_large(records: u32, bytes: u64) -> bool {
    records == 1 && bytes > RECORD_BYTES_MAX as u64
}

/// A parser with its reusable buffers: one a thread.
pub struct Parser {
    /// The record being parsed, in brackets, and padding. simd-json unescapes strings in it.
    text: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
    /// The shape of the last dataset: chunks of one dataset come in long runs.
    shape: Option<Arc<Shape>>,
}

/// What parsing needs to know of a dataset.
struct Shape {
    dataset: Arc<Dataset>,
    schema: SchemaRef,
    fields: Fields,
}

/// Bytes of a file that hold whole records: a chunk.
#[derive(Clone, Copy)]
struct Source<'a> {
    bytes: &'a [u8],
    /// Where the bytes begin in the file.
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

/// The array around the records is a level of nesting, too.
fn new_buffers() -> Buffers {
    Buffers::with_max_depth(0, DEPTH_MAX + 1)
}

impl Parser {
    /// Parses the bytes of one record, which stand alone.
    pub fn parse_record(
        &mut self,
        dataset: &Arc<Dataset>,
        file: SourceFile,
        ordinal: u32,
        record: &[u8],
    ) -> Batch {
        let chunk = Chunk {
            start: 0,
            end: record.len() as u64,
            first_ordinal: ordinal,
            records: 1,
        };
        self.parse(dataset, file, Layout::Array, chunk, record)
    }

    /// Parses the bytes of a chunk (`bytes` is the file's `chunk.start..chunk.end`). Never fails:
    /// a record that is no row is a reject.
    ///
    /// # Panics
    /// Where `bytes`, `chunk` and `layout` are not what [`cut`](crate::cut::cut) said.
    pub fn parse(
        &mut self,
        dataset: &Arc<Dataset>,
        file: SourceFile,
        layout: Layout,
        chunk: Chunk,
        bytes: &[u8],
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
            layout,
        };
        let new_output = || Output::new(dataset, span, bytes.len());
        let mut output = new_output();
        if self.read(&shape, &mut output, source).is_none() {
            output = new_output();
            self.parse_each(&shape, &mut output, source);
        }
        self.give_back();
        assert_eq!(
            output.done, chunk.records,
            "cutting and parsing see the same records"
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

    /// Reads plain records directly and parses each other one by itself. `None` if the chunk has to
    /// be parsed record by record: it is not UTF-8, a record of it can be too large, or a record is
    /// not where the cut saw it.
    fn read(&mut self, shape: &Shape, output: &mut Output, source: Source<'_>) -> Option<()> {
        let Source { bytes, layout, .. } = source;
        if bytes.len() > RECORD_BYTES_MAX {
            return None;
        }
        let text = simdutf8::basic::from_utf8(bytes).ok()?;
        let mut direct = Direct::new(&shape.dataset, &shape.fields, layout, text);
        let mut places = None;
        while output.done < output.span.records {
            if direct
                .next_record(output.next_id(), &mut output.columns)
                .is_some()
            {
                output.done += 1;
                continue;
            }
            let places = places.get_or_insert_with(|| cut::records(bytes, layout));
            let place = places.get(output.done as usize)?.clone();
            // An object over several lines of NDJSON is one record to JSON, but not to the cut.
            if place.start != direct.at() {
                return None;
            }
            direct.pass(place.end)?;
            self.parse_one(shape, output, source, place);
        }
        (direct.at() == bytes.len()).then_some(())
    }

    /// Parses the records of a chunk one by one.
    fn parse_each(&mut self, shape: &Shape, output: &mut Output, source: Source<'_>) {
        let bytes = source.bytes;
        if is_one_too_large(output.span.records, bytes.len() as u64) {
            let problem = Problem::of_record(RejectCode::TooLarge);
            return output.end_record(source, 0..bytes.len(), Some(problem));
        }
        for place in cut::records(bytes, source.layout) {
            self.parse_one(shape, output, source, place);
        }
    }

    /// Parses the record at `place` of `source` by itself.
    fn parse_one(
        &mut self,
        shape: &Shape,
        output: &mut Output,
        source: Source<'_>,
        place: Range<usize>,
    ) {
        let record = &source.bytes[place.clone()];
        let problem = if record.len() > RECORD_BYTES_MAX {
            Some(Problem::of_record(RejectCode::TooLarge))
        } else {
            self.fill(record);
            let mut walked = self.walk(shape, output, record);
            if let Err(error) = &walked
                && is_about_a_number(error)
            {
                // simd-json takes no number beyond 64 bits. Zeros in their places do not matter to
                // the walk, which takes numbers from the record's own text.
                self.fill(record);
                zero_numbers(&mut self.text[1..=record.len()]);
                walked = self.walk(shape, output, record);
            }
            walked.unwrap_or_else(|error| Some(invalid(record, &error)))
        };
        output.end_record(source, place, problem);
    }

    /// Puts a record into the buffer, as an array of one.
    fn fill(&mut self, record: &[u8]) {
        self.text.clear();
        self.text.reserve(record.len() + 2 + INPUT_PADDING);
        self.text.push(b'[');
        self.text.extend_from_slice(record);
        self.text.push(b']');
        self.text.extend_from_slice(&[b' '; INPUT_PADDING]);
    }

    /// Parses the record in the buffer, whose text is `record`, and appends it as a row, or says why
    /// it is none.
    fn walk(
        &mut self,
        shape: &Shape,
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
            let mut walker = Walker::new(&shape.dataset, &shape.fields, document);
            walker.record(output.next_id(), &mut output.columns)
        });
        self.tape = tape.reset();
        result
    }

    fn shape(&mut self, dataset: &Arc<Dataset>) -> Arc<Shape> {
        match &self.shape {
            Some(shape) if Arc::ptr_eq(&shape.dataset, dataset) => Arc::clone(shape),
            _ => {
                let shape = Arc::new(Shape {
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

fn is_about_a_number(error: &simd_json::Error) -> bool {
    matches!(
        error.error(),
        ErrorType::InvalidNumber | ErrorType::Overflow
    )
}

/// Overwrites each number that is written as JSON writes it with a zero and blanks.
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

/// Why simd-json does not take a record, and the member in which it stops being JSON.
fn invalid(record: &[u8], error: &simd_json::Error) -> Problem {
    let code = match error.error() {
        ErrorType::DepthLimitExceeded => RejectCode::TooDeep,
        _ => RejectCode::InvalidJson,
    };
    let field = locate::broken_member(record, code);
    Problem { code, field }
}

/// The batch as it grows.
struct Output {
    span: Span,
    columns: Columns,
    rejects: Vec<Reject>,
    /// Records so far.
    done: u32,
}

impl Output {
    /// Room for what becomes of `bytes` bytes of JSON.
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

    /// The id that the next record has, should it be a row.
    fn next_id(&self) -> u64 {
        row_id(self.span.file_no, self.ordinal())
    }

    /// The record at `place` of `source` is done: as a row, or as a reject with this problem.
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
