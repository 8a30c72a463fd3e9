//! The records of lines (NDJSON): one on each line, or several with only blanks between them.

use std::ops::Range;

use super::chunker::Chunker;
use super::plan::{ChunkLimits, Layout, Unreadable, incomplete, malformed};
use super::scan::{Lines, Scan, has_neighbours};
use crate::syntax::{skip_blank, trim};

/// How many lines are searched for one that is a whole object. With no limit, a large file that is
/// not lines would be read twice.
const SEARCHED_LINES_MAX: usize = 100;

/// The records of the lines from `start` on.
///
/// # Errors
/// [`Unreadable::Incomplete`] if the last line does not close and has no newline;
/// [`Unreadable::Malformed`] if a line holds several records and one of them does not close, so
/// that it is not certain where the next one begins.
pub(super) fn lines(
    bytes: &[u8],
    start: usize,
    limits: ChunkLimits,
) -> Result<Chunker<'_>, Unreadable> {
    let mut chunker = Chunker::new(bytes, start, limits, Layout::Lines);
    let mut last = start..start;
    // Most files have one record on each line. One search of the whole file saves a search of each
    // line.
    let neighbours = has_neighbours(bytes, &(start..bytes.len()));
    for line in Lines::new(bytes, start) {
        last = line.clone();
        if neighbours && has_neighbours(bytes, &line) {
            let mut rest = line.clone();
            for_each_record(bytes, line, |record| {
                chunker.record_start = record.start;
                chunker.end_record(record.end, record.end);
                rest = record;
            });
            let is_certain = is_whole(&bytes[rest.clone()]) || !has_neighbours(bytes, &rest);
            if !is_certain && last.end < bytes.len() {
                let detail = "the record that begins here does not close, and others follow on its \
                              line, so it is not certain where the next one begins";
                return Err(malformed(rest.start, detail.to_owned()));
            }
        } else if !trim(bytes, line.clone()).is_empty() {
            chunker.record_start = line.start;
            chunker.end_record(line.end, line.end + 1);
        }
    }
    if last.end == bytes.len() && !is_whole(&bytes[last]) {
        let detail = "the last line does not close and has no newline";
        return Err(incomplete(bytes, detail));
    }
    chunker.close(bytes.len());
    Ok(chunker)
}

/// Whether the first two lines have equally many commas, semicolons or tabs, as lines of CSV have.
pub(super) fn is_of_csv(bytes: &[u8], start: usize) -> bool {
    let mut lines = Lines::new(bytes, start).map(|line| &bytes[line]);
    let (Some(header), Some(row)) = (lines.next(), lines.next()) else {
        return false;
    };
    [b',', b';', b'\t'].into_iter().any(|separator| {
        let parts = |line: &[u8]| line.split(|byte| *byte == separator).count();
        parts(header) > 1 && parts(header) == parts(row)
    })
}

/// Calls `on_record` with the place of each record of a line, without the blanks around it. A blank
/// line has no record. A record ends where its outermost `}` closes and an object follows.
#[inline]
pub(super) fn for_each_record(
    bytes: &[u8],
    line: Range<usize>,
    mut on_record: impl FnMut(Range<usize>),
) {
    let line = trim(bytes, line);
    if line.is_empty() {
        return;
    }
    let mut start = line.start;
    if has_neighbours(bytes, &line) {
        let text = &bytes[..line.end];
        let mut scan = Scan::new(text, start);
        while let Some((_, byte)) = scan.next() {
            match byte {
                b'{' | b'[' => {
                    let Some(close) = scan.elements(|_| ()) else {
                        break;
                    };
                    let next = skip_blank(text, close + 1);
                    // As `has_neighbours`: else the records of a line would depend on where a chunk
                    // ends.
                    if text[close] == b'}' && text.get(next) == Some(&b'{') {
                        on_record(start..close + 1);
                        start = next;
                    }
                }
                // No open bracket matches this one: the rest of the line is one record.
                b'}' | b']' => break,
                _ => {}
            }
        }
    }
    on_record(start..line.end);
}

/// Whether each string and each bracket that opens in a text also closes in it.
pub(super) fn is_whole(text: &[u8]) -> bool {
    let mut scan = Scan::new(text, 0);
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

/// The line that begins at `start`, without its newline.
pub(super) fn first_line(bytes: &[u8], start: usize) -> Range<usize> {
    Lines::new(bytes, start)
        .next()
        .unwrap_or(start..bytes.len())
}

/// Whether one of the first [`SEARCHED_LINES_MAX`] lines from `start` on that are not blank is a
/// whole object.
pub(super) fn has_object_line(bytes: &[u8], start: usize) -> bool {
    let lines = Lines::new(bytes, start.min(bytes.len())).map(|line| trim(bytes, line));
    let mut lines = lines
        .filter(|line| !line.is_empty())
        .take(SEARCHED_LINES_MAX);
    lines.any(|line| {
        bytes[line.start] == b'{'
            && Scan::new(&bytes[..line.end], line.start + 1).elements(|_| ()) == Some(line.end - 1)
    })
}
