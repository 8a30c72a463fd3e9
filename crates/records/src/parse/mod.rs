//! Turns a chunk into a batch: typed columns and rejects.
//!
//! Owns what a record must look like to become a row. Plain records are read straight from their
//! text (see `direct`). The few others of a chunk are parsed by simd-json, one by one, and the
//! result is walked. Where they are not few, what is left of the chunk is parsed at once, in a
//! buffer that is used again, and walked once. Only where that fails is the whole chunk parsed
//! record by record, so that the neighbours of a bad record live. All ways give the same batch,
//! whatever the size of the chunks.
//!
//! * A text column takes strings, and numbers and booleans as they are written. JSON columns
//!   and the rescue column hold the text of the file itself, never a rendering of it.
//! * If several things are wrong with a record, its reason is the first in the order of the file.
//!   What shows only at the end of the record counts after that: an unknown field that is there
//!   twice, then missing fields in the order of the columns.
//! * A record is judged as a whole: a number that does not fit into 64 bits, broken UTF-8, or
//!   nesting beyond 32 levels makes it a reject, even in a field that no column takes.
//!
//! It relies on [`cut`] for the place of each record, and asserts that both see the same records.
//! simd-json is used here and nowhere else.

mod columns;
mod direct;
mod fields;
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
use columns::Columns;
use direct::Direct;
use fields::Fields;
use record::Problem;
use walk::{Document, Walker};

/// Most bytes of a record; a larger one is a reject. Records have hundreds of bytes, and the
/// tables of the parser take up to 16 times the record: a much higher limit would not fit the
/// memory budget, a much lower one could refuse a record that carries a picture.
pub const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most levels of nesting in a record, its own braces included. Flat records need one.
pub const DEPTH_MAX: usize = 32;

/// One record in this many may be parsed by itself; if more are not plain, parsing the rest of the
/// chunk at once is cheaper.
const PLAIN_FOR_EACH_OTHER: u32 = 8;

/// Buffers beyond this size are given back after a chunk. Chunks have at most a megabyte by
/// default, so only a huge record needs more, and its memory must not be held for as long as the
/// thread lives.
const KEEP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Whether a chunk is a single record that is too large to be looked at. Only its first bytes are
/// kept, so that nobody has to hold all of it in memory.
#[must_use]
pub fn is_one_too_large(records: u32, bytes: u64) -> bool {
    records == 1 && bytes > RECORD_BYTES_MAX as u64
}

/// A parser with its reusable buffers: one a thread.
pub struct Parser {
    /// The text being parsed, as one JSON array, and padding. simd-json unescapes strings in it.
    text: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
    /// What is known of the last dataset: chunks of one dataset come in long runs.
    shape: Option<Arc<Shape>>,
}

/// What parsing needs to know of a dataset.
struct Shape {
    dataset: Arc<Dataset>,
    schema: SchemaRef,
    fields: Fields,
}

/// Bytes of a file that hold whole records: a chunk, or what is left of it.
#[derive(Clone, Copy)]
struct Source<'a> {
    bytes: &'a [u8],
    /// Where the bytes begin in the file.
    origin: u64,
    layout: Layout,
}

impl Source<'_> {
    /// What is left of the bytes from this offset on.
    fn from(self, at: usize) -> Self {
        Self {
            bytes: &self.bytes[at..],
            origin: self.origin + at as u64,
            layout: self.layout,
        }
    }
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
    /// what is no row is a reject. Which way is taken when:
    /// * a plain record is read straight from its text: `read_plain`;
    /// * one that is not plain is parsed by itself, while such records are few: `parse_one`;
    /// * once they are not few, all that is left of the chunk is parsed at once: `parse_rest`;
    /// * if none of that gets through the chunk, or it is huge, each record anew: `parse_each`.
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
        let done = bytes.len() <= RECORD_BYTES_MAX
            && self.read_plain(&shape, &mut output, source).is_some();
        if !done {
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

    /// Reads plain records directly, and parses the others by themselves while they are few; once
    /// they are not, the rest of the chunk is parsed at once. `None` if the chunk has to be parsed
    /// record by record: it is not UTF-8, a record is not where the cut saw it, or the rest does
    /// not parse.
    fn read_plain(&mut self, shape: &Shape, output: &mut Output, source: Source<'_>) -> Option<()> {
        let Source { bytes, layout, .. } = source;
        let text = simdutf8::basic::from_utf8(bytes).ok()?;
        let mut direct = Direct::new(&shape.dataset, &shape.fields, layout, text);
        let mut places = None;
        let mut others = 0;
        while output.done < output.span.records {
            if direct
                .next_record(output.next_id(), &mut output.columns)
                .is_some()
            {
                output.done += 1;
                continue;
            }
            others += 1;
            let at = direct.at();
            if others > output.done / PLAIN_FOR_EACH_OTHER {
                return self.parse_rest(shape, output, source.from(at));
            }
            let places = places.get_or_insert_with(|| cut::records(bytes, layout));
            let place = places.get(output.done as usize)?.clone();
            // An object over several lines of NDJSON is one record to JSON, but not to the cut.
            if place.start != at {
                return None;
            }
            direct.pass(place.end)?;
            self.parse_one(shape, output, source, place);
        }
        (direct.at() == bytes.len()).then_some(())
    }

    /// Parses all records of `source` at once: those that are left of the chunk. `None` if that is
    /// impossible: something is not JSON, or the records are not where the cut saw them.
    fn parse_rest(&mut self, shape: &Shape, output: &mut Output, source: Source<'_>) -> Option<()> {
        let Source { bytes, layout, .. } = source;
        self.fill(bytes);
        if layout == Layout::Lines {
            // The blank before a record becomes the comma that an array has there.
            for record in cut::records(bytes, layout).into_iter().skip(1) {
                // One byte on: the array's bracket stands before the source.
                self.text[record.start] = b',';
            }
        }
        self.parse_text(bytes, |document| {
            if document.records() != (output.span.records - output.done) as usize {
                return None;
            }
            let mut walker = Walker::new(&shape.dataset, &shape.fields, document);
            while let Some(passed) = walker.next_record(output.next_id(), &mut output.columns) {
                // In NDJSON, a comma in the file itself between two records means that a line holds
                // several: by chance as many as the cut saw, but not the same ones.
                if layout == Layout::Lines && bytes.get(passed.separator) == Some(&b',') {
                    return None;
                }
                output.end_record(source, passed.record, passed.problem);
            }
            Some(())
        })
        .ok()
        .flatten()
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
        let reject = |code| Some(Problem::of_record(code));
        let problem = if record.len() > RECORD_BYTES_MAX {
            reject(RejectCode::TooLarge)
        } else {
            self.fill(record);
            let walked = self.parse_text(record, |document| {
                if document.records() != 1 {
                    return reject(RejectCode::InvalidJson);
                }
                let mut walker = Walker::new(&shape.dataset, &shape.fields, document);
                let passed = walker.next_record(output.next_id(), &mut output.columns);
                passed.expect("there is one record").problem
            });
            walked.unwrap_or_else(|error| reject(why_invalid(record, &error)))
        };
        output.end_record(source, place, problem);
    }

    /// Puts records into the buffer, as an array.
    fn fill(&mut self, records: &[u8]) {
        self.text.clear();
        self.text.reserve(records.len() + 2 + INPUT_PADDING);
        self.text.push(b'[');
        self.text.extend_from_slice(records);
        self.text.push(b']');
        self.text.extend_from_slice(&[b' '; INPUT_PADDING]);
    }

    /// Parses the text in the buffer, which is the array of `source`, and looks at the result.
    fn parse_text<T>(
        &mut self,
        source: &[u8],
        look: impl FnOnce(Document<'_>) -> T,
    ) -> Result<T, simd_json::Error> {
        let len = self.text.len() - INPUT_PADDING;
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new()));
        let parsed = simd_json::fill_tape_padded(&mut self.text, len, &mut self.buffers, &mut tape);
        let result = parsed.map(|()| {
            look(Document::new(
                &tape.0,
                self.buffers.structural_indexes(),
                source,
            ))
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

/// Why simd-json does not take a record. It does not tell a number that is too large from text
/// that is no number, so `serde_json` is asked whether the record is JSON otherwise.
fn why_invalid(record: &[u8], error: &simd_json::Error) -> RejectCode {
    match error.error() {
        ErrorType::DepthLimitExceeded => RejectCode::TooDeep,
        ErrorType::InvalidNumber | ErrorType::Overflow
            if serde_json::from_slice::<serde::de::IgnoredAny>(record).is_ok() =>
        {
            RejectCode::NumberRange
        }
        _ => RejectCode::InvalidJson,
    }
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
