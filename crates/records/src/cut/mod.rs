//! Cuts a file into chunks of whole records, by one scan over its structure.
//!
//! Owns where records begin and end, how many there are, and whether the document closes; what is
//! in a record is for [`parse`](crate::parse). The scan looks at quotes, backslashes, brackets and
//! the commas between records, 64 bytes at a time, after the idea of simdjson (Langdale and Lemire,
//! "Parsing Gigabytes of JSON per Second"). It needs no memory but the list of chunks and
//! never looks at a byte twice, so a file may be larger than memory.
//!
//! These rules together mean that every record becomes a row or a reject, and that nothing is made
//! up:
//! * A file that begins with `[` is an array of records. One that begins with `{` is an envelope
//!   if the pointer leads, through objects, to an array in its first value, and else NDJSON.
//! * The records of an array are what stands between its commas. `[]` and `[ ]` have none; `[1,]`
//!   and `[1,,2]` each have an empty one, which the parser rejects.
//! * The records of NDJSON are the lines that are not blank, whatever is in them: a raw newline
//!   cannot stand in a JSON string, so a broken line harms only itself. The first line
//!   decides that the file is NDJSON; where it is broken, that must be evident (see
//!   `first_line_is_broken`), or the file is refused as a whole.
//! * A single object that spans several lines and lacks the array is a document of another kind,
//!   and the file is refused.
//! * `[` and `{` are taken for one another within a record: a mismatch is left to the parser,
//!   which sees the same record.
//! * One UTF-8 byte order mark at the start of the file is skipped.

mod scan;

use std::ops::Range;

use crate::dataset::segments;
pub(crate) use scan::skip_blank;
use scan::{Lines, Scan, trim};

/// How the records of a file are separated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Elements of a JSON array, with commas between them.
    Array,
    /// One record a line (NDJSON); blank lines are no records.
    Lines,
}

/// A run of whole records of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// First byte, from the start of the file.
    pub start: u64,
    /// The byte after the last one. The separators between its records lie within; none stands at
    /// either end, and no blank, except those of an empty record at the end in an array.
    pub end: u64,
    /// Ordinal of the first record.
    pub first_ordinal: u32,
    /// How many records.
    pub records: u32,
}

/// Where the records of a whole file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How records are separated.
    pub layout: Layout,
    /// How many records the file has.
    pub records: u32,
    /// The chunks, in order; they tile the ordinals `0..records`.
    pub chunks: Vec<Chunk>,
}

/// How large a chunk may get. It ends at whichever comes first.
#[derive(Debug, Clone, Copy)]
pub struct ChunkLimits {
    /// Records in a chunk. Zero counts as one.
    pub records: u32,
    /// Bytes in a chunk; a single larger record is a chunk of its own.
    pub bytes: usize,
}

/// Why a file has no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The document does not close: more may be coming.
    #[error("the document ends at byte {offset} before it is whole: {detail}")]
    Incomplete {
        /// Where it ends.
        offset: u64,
        /// What was still open.
        detail: &'static str,
    },
    /// The file is no JSON, or none that holds records of the dataset.
    #[error("{detail} (at byte {offset})")]
    Malformed {
        /// Where that was found.
        offset: u64,
        /// What was found, and what was expected.
        detail: String,
    },
}

/// Finds the records of a file. `records` is the JSON pointer to the array in an envelope; its
/// segments are keys of objects. `fields` are the members that a record may have, of which an object
/// that is alone in the file must have one to be taken for a record; without any it may be any object.
///
/// # Errors
/// [`Unreadable::Incomplete`] where the document does not close, an empty file among them;
/// [`Unreadable::Malformed`] where it never will be a document with records of this dataset.
pub fn cut(
    bytes: &[u8],
    records: &str,
    fields: &[String],
    limits: ChunkLimits,
) -> Result<Plan, Unreadable> {
    const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
    let bom = if bytes.starts_with(BYTE_ORDER_MARK) {
        BYTE_ORDER_MARK.len()
    } else {
        0
    };
    let start = skip_blank(bytes, bom);
    match bytes.get(start) {
        None => Err(incomplete(bytes, "the file is empty")),
        Some(b'[') => {
            let mut scan = Scan::new(bytes, start + 1);
            let (chunker, end) = array(&mut scan, start, limits)?;
            nothing_after(bytes, end + 1)?;
            chunker.plan()
        }
        Some(b'{') => object(bytes, start, records, fields, limits),
        Some(_) => Err(malformed(
            start,
            "not JSON: expected `{` or `[` as the first character".to_owned(),
        )),
    }
}

/// The place of each record in the bytes of a chunk, without the whitespace around it.
///
/// It gives as many as the chunk has records. A record of an array may be empty (see the rules).
#[must_use]
pub fn records(bytes: &[u8], layout: Layout) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    match layout {
        Layout::Lines => found.extend(Lines::new(bytes, 0).filter_map(|line| {
            let line = trim(bytes, line);
            (!line.is_empty()).then_some(line)
        })),
        Layout::Array => {
            let mut start = 0;
            let mut scan = Scan::new(bytes, 0);
            let end = scan.elements(|comma| {
                found.push(trim(bytes, start..comma));
                start = comma + 1;
            });
            debug_assert_eq!(end, None, "a chunk lies within its array");
            found.push(trim(bytes, start..bytes.len()));
        }
    }
    found
}

/// A file that begins with `{`: an envelope or NDJSON.
fn object(
    bytes: &[u8],
    start: usize,
    pointer: &str,
    fields: &[String],
    limits: ChunkLimits,
) -> Result<Plan, Unreadable> {
    let mut envelope = Envelope {
        scan: Scan::new(bytes, start + 1),
        pointer,
        path: segments(pointer).collect(),
        fields,
        has_field: fields.is_empty(),
        limits,
        found: None,
        no_array: None,
    };
    let walked = envelope.members(0);
    if let Some(chunker) = envelope.found {
        nothing_after(bytes, walked? + 1)?;
        return chunker.plan();
    }
    let end = match walked {
        Ok(end) => end,
        Err(_) if first_line_is_broken(bytes, start) => return lines(bytes, start, limits),
        Err(unreadable) => return Err(unreadable),
    };
    let on_one_line = Lines::new(bytes, start)
        .next()
        .is_some_and(|line| line.end > end);
    let alone = skip_blank(bytes, end + 1) == bytes.len();
    match envelope.no_array {
        // A record may well have a field named like the pointer's last key, but then other records
        // follow it. An object alone is an envelope with something else in place of the records.
        Some(at) if alone || !on_one_line => {
            Err(malformed(at, format!("`{pointer}` is no array of records")))
        }
        // Most likely an envelope under another name. Taken for a record, it would be one reject,
        // or one row of nothing but rescued fields, in place of all the records that it holds.
        _ if alone && !envelope.has_field => Err(malformed(
            start,
            format!("no array at `{pointer}`, and the one object has no field of a record"),
        )),
        _ if on_one_line || first_line_is_broken(bytes, start) => lines(bytes, start, limits),
        _ => Err(malformed(start, format!("no array at `{pointer}`"))),
    }
}

/// The lines from `start` on, as records.
fn lines(bytes: &[u8], start: usize, limits: ChunkLimits) -> Result<Plan, Unreadable> {
    let mut chunker = Chunker::new(bytes, start, limits, Layout::Lines);
    let mut last = start..start;
    for line in Lines::new(bytes, start) {
        last = line.clone();
        if !trim(bytes, line.clone()).is_empty() {
            chunker.record_start = line.start;
            chunker.end_record(line.end);
        }
    }
    if last.end == bytes.len() && !is_whole(&bytes[last]) {
        return Err(incomplete(
            bytes,
            "the last line does not close and has no newline",
        ));
    }
    chunker.close(bytes.len());
    chunker.plan()
}

/// Whether the first line shows that the file is not one document but lines, of which the first is
/// broken: it ends within a string, or it does not close and the next line begins an object where
/// no JSON document can have one. A document cut short by its writer is never taken for this.
fn first_line_is_broken(bytes: &[u8], start: usize) -> bool {
    let Some(line) = Lines::new(bytes, start)
        .next()
        .filter(|line| skip_blank(bytes, line.end) < bytes.len())
    else {
        return false;
    };
    let text = &bytes[trim(bytes, line.clone())];
    if is_whole(text) {
        return false;
    }
    let ends_in_string = Scan::new(text, 0).quotes() % 2 == 1;
    let opens_a_value = matches!(text.last(), Some(b'[' | b',' | b':' | b'{'));
    let object_follows = bytes.get(skip_blank(bytes, line.end)) == Some(&b'{');
    ends_in_string || object_follows && !opens_a_value
}

/// Whether all that opens in a line closes in it.
fn is_whole(line: &[u8]) -> bool {
    let mut scan = Scan::new(line, 0);
    while let Some((_, byte)) = scan.next() {
        let closes = match byte {
            b'"' => scan.next().is_some(),
            b'{' | b'[' => scan.elements(|_| ()).is_some(),
            _ => true,
        };
        if !closes {
            return false;
        }
    }
    true
}

/// The walk through an object towards the array that the pointer names.
struct Envelope<'a> {
    scan: Scan<'a>,
    pointer: &'a str,
    path: Vec<String>,
    /// The keys that a record may have, and whether one of them has been met in the outer object.
    fields: &'a [String],
    has_field: bool,
    limits: ChunkLimits,
    /// The records, once the array is met.
    found: Option<Chunker<'a>>,
    /// Where the pointer led to something else.
    no_array: Option<usize>,
}

impl Envelope<'_> {
    /// Walks the members of an object whose `{` has been passed and to which the first `level`
    /// segments of the path lead; gives the place of its `}`.
    ///
    /// Strings are keys if a colon follows; whatever else is between brackets and commas is
    /// left to the parser. It recurses once a segment of the pointer, not by the file's nesting.
    fn members(&mut self, level: usize) -> Result<usize, Unreadable> {
        let bytes = self.scan.bytes;
        let open = || incomplete(bytes, "the outer object does not close");
        loop {
            let (at, byte) = self.scan.next().ok_or_else(open)?;
            match byte {
                b'}' => return Ok(at),
                b']' => return Err(malformed(at, "`{` is closed by `]`".to_owned())),
                b'{' | b'[' => {
                    self.scan.elements(|_| ()).ok_or_else(open)?;
                }
                b'"' => {
                    let (end, _) = self.scan.next().ok_or_else(open)?;
                    let colon = skip_blank(bytes, end + 1);
                    let is_key = bytes.get(colon) == Some(&b':');
                    let key = &bytes[at + 1..end];
                    if level == 0 && is_key && !self.has_field {
                        self.has_field = self.fields.iter().any(|field| key_is(key, field));
                    }
                    let segment = self.path.get(level).filter(|_| is_key);
                    if segment.is_some_and(|segment| key_is(key, segment)) {
                        self.member(level + 1, skip_blank(bytes, colon + 1))?;
                    }
                }
                _ => {}
            }
        }
    }

    /// Walks the value of a member on the path, if it is what the path expects there.
    fn member(&mut self, level: usize, value: usize) -> Result<(), Unreadable> {
        let is_last = level == self.path.len();
        match self.scan.bytes.get(value) {
            Some(b'[') if is_last && self.found.is_some() => {
                let pointer = self.pointer;
                Err(malformed(
                    value,
                    format!("`{pointer}` is in the document a second time"),
                ))
            }
            Some(b'[') if is_last => {
                self.scan.next();
                self.found = Some(array(&mut self.scan, value, self.limits)?.0);
                Ok(())
            }
            Some(b'{') if !is_last => {
                self.scan.next();
                self.members(level).map(|_| ())
            }
            _ => {
                // Not consumed: the walk over the members takes it as any other value.
                if is_last {
                    self.no_array = Some(value);
                }
                Ok(())
            }
        }
    }
}

/// Whether a key, as it stands between its quotes, is this one.
fn key_is(raw: &[u8], key: &str) -> bool {
    if !raw.contains(&b'\\') {
        return raw == key.as_bytes();
    }
    let quoted = [b"\"", raw, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).is_ok_and(|text| text == key)
}

/// The records of the array whose `[`, at `open`, has been passed; and the place of its `]`.
fn array<'a>(
    scan: &mut Scan<'a>,
    open: usize,
    limits: ChunkLimits,
) -> Result<(Chunker<'a>, usize), Unreadable> {
    let bytes = scan.bytes;
    let mut chunker = Chunker::new(bytes, open + 1, limits, Layout::Array);
    let end = scan
        .elements(|comma| chunker.end_record(comma))
        .ok_or_else(|| incomplete(bytes, "the array of records does not close"))?;
    if bytes[end] != b']' {
        return Err(malformed(
            end,
            "the array of records is closed by `}`".to_owned(),
        ));
    }
    let has_records = chunker.count > 0 || !trim(bytes, open + 1..end).is_empty();
    if has_records {
        chunker.end_record(end);
    }
    chunker.close(end);
    Ok((chunker, end))
}

fn nothing_after(bytes: &[u8], end: usize) -> Result<(), Unreadable> {
    let after = skip_blank(bytes, end);
    if after < bytes.len() {
        return Err(malformed(
            after,
            "data after the end of the document".to_owned(),
        ));
    }
    Ok(())
}

fn incomplete(bytes: &[u8], detail: &'static str) -> Unreadable {
    Unreadable::Incomplete {
        offset: bytes.len() as u64,
        detail,
    }
}

fn malformed(at: usize, detail: String) -> Unreadable {
    Unreadable::Malformed {
        offset: at as u64,
        detail,
    }
}

/// Gathers records into chunks.
struct Chunker<'a> {
    bytes: &'a [u8],
    limits: ChunkLimits,
    layout: Layout,
    chunks: Vec<Chunk>,
    /// Where the open chunk begins, the whitespace before it included.
    start: usize,
    /// Where the next record begins, likewise.
    record_start: usize,
    /// Ordinal of the first record of the open chunk. 64 bits, since only [`Chunker::plan`] refuses
    /// what does not fit into 32.
    first: u64,
    /// Records so far.
    count: u64,
}

impl<'a> Chunker<'a> {
    fn new(bytes: &'a [u8], start: usize, limits: ChunkLimits, layout: Layout) -> Self {
        let chunks = Vec::new();
        Self {
            bytes,
            limits,
            layout,
            chunks,
            start,
            record_start: start,
            first: 0,
            count: 0,
        }
    }

    /// A record ends before its separator, at `end`.
    #[inline]
    fn end_record(&mut self, end: usize) {
        if end - self.start > self.limits.bytes && self.count > self.first {
            self.close(self.record_start - 1);
            self.start = self.record_start;
        }
        self.count += 1;
        self.record_start = end + 1;
        if self.count - self.first >= u64::from(self.limits.records) {
            self.close(end);
            self.start = end + 1;
        }
    }

    /// Ends the open chunk before the separator at `end`, if there are records in it. Its ordinals
    /// are cut to 32 bits; [`plan`](Self::plan) refuses a file for which that is too few.
    fn close(&mut self, end: usize) {
        if self.count == self.first {
            return;
        }
        let mut place = trim(self.bytes, self.start..end);
        // The place of an empty record of an array is where its blanks end. At the end of a chunk
        // the blanks are kept, or that place would depend on the size of the chunks.
        if self.layout == Layout::Array && self.bytes[place.clone()].ends_with(b",") {
            place.end = end;
        }
        self.chunks.push(Chunk {
            start: place.start as u64,
            end: place.end as u64,
            first_ordinal: self.first as u32,
            records: (self.count - self.first) as u32,
        });
        self.first = self.count;
    }

    /// The plan, once the last chunk is closed.
    fn plan(self) -> Result<Plan, Unreadable> {
        assert_eq!(self.first, self.count, "each record is in a chunk");
        let records = u32::try_from(self.count).map_err(|_| {
            let detail = format!("{} records: a file holds at most {}", self.count, u32::MAX);
            malformed(self.bytes.len(), detail)
        })?;
        Ok(Plan {
            layout: self.layout,
            records,
            chunks: self.chunks,
        })
    }
}

#[cfg(test)]
mod tests;
