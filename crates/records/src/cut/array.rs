//! The records of an array, and the check that exactly one value lies between two commas.

use std::ops::Range;

use super::chunker::Chunker;
use super::plan::{Chunk, ChunkLimits, Layout, Unreadable, found_here, incomplete, malformed};
use super::scan::{CURLY, Element, Scan};
use crate::syntax::{self, skip_blank, trim};

/// The records of the array whose `[` is at `open`, and the place after its `]`.
///
/// # Errors
/// [`Unreadable::Incomplete`] if the array does not close; [`Unreadable::Malformed`] if two commas
/// have more than one value between them, so that it is not certain where records end.
pub(super) fn array(
    bytes: &[u8],
    open: usize,
    limits: ChunkLimits,
) -> Result<(Chunker<'_>, usize), Unreadable> {
    let mut chunker = Chunker::new(bytes, open + 1, limits, Layout::Array);
    let mut uncertain = None;
    let close = Scan::new(bytes, open + 1).elements(|element| {
        let Element { end, is_last, .. } = element;
        let start = chunker.record_start;
        if uncertain.is_none() && !is_one_value(bytes, start, &element) {
            uncertain = Some((start, end));
        }
        // An array without records has no comma and nothing between its brackets.
        if !is_last || chunker.count > 0 || skip_blank(bytes, start) < end {
            chunker.end_record(end, end + 1);
        }
    });
    if let Some((start, end)) = uncertain {
        return Err(not_one_value(bytes, start, end));
    }
    let Some(close) = close else {
        return Err(incomplete(bytes, "the array of records does not close"));
    };
    if bytes[close] != b']' {
        let detail = "the array of records is closed by `}`".to_owned();
        return Err(malformed(close, detail));
    }
    chunker.close(close);
    Ok((chunker, close + 1))
}

/// Calls `on_record` with the place of each record in a chunk of an array, without the blanks around
/// it.
pub(super) fn for_each_record(bytes: &[u8], mut on_record: impl FnMut(Range<usize>)) {
    let mut start = 0;
    let mut scan = Scan::new(bytes, 0);
    let end = scan.elements(|element| {
        on_record(trim(bytes, start..element.end));
        start = element.end + 1;
    });
    debug_assert_eq!(end, None, "a chunk lies within its array");
    on_record(trim(bytes, start..bytes.len()));
}

/// The places of the records in a chunk of an array; `bytes` is the text in which the chunk is.
pub(super) fn records_of(bytes: &[u8], chunk: &Chunk) -> Vec<Range<usize>> {
    let start = chunk.start as usize;
    let mut found = Vec::with_capacity(chunk.records as usize);
    for_each_record(&bytes[start..chunk.end as usize], |record| {
        found.push(start + record.start..start + record.end);
    });
    found
}

/// Whether the text from `start` to the end of an element is one value, or blank. Compares only
/// brackets and quotes: whether the value is JSON is decided by the parser.
#[inline]
pub(super) fn is_one_value(bytes: &[u8], start: usize, element: &Element) -> bool {
    match element.containers {
        1 => {
            skip_blank(bytes, start) == element.open
                && skip_blank(bytes, element.close + 1) == element.end
                && !hides_records(&bytes[element.open..=element.close])
        }
        0 => is_one_scalar(&bytes[trim(bytes, start..element.end)]),
        _ => false,
    }
}

/// Whether a text without brackets outside of strings is one string, one word, or empty.
fn is_one_scalar(text: &[u8]) -> bool {
    if text.first() == Some(&b'"') {
        let mut at = 1;
        while let Some(special) = syntax::special(text, at) {
            match text[special] {
                b'"' => return special + 1 == text.len(),
                b'\\' => at = special + 2,
                _ => at = special + 1,
            }
        }
        return false;
    }
    !text
        .iter()
        .any(|byte| syntax::is_blank(*byte) || *byte == b'"')
}

/// Whether a container may be several records, one of them without its closing bracket: the bracket
/// that closes the container is of the other kind, and the container holds `},{`.
#[inline]
fn hides_records(container: &[u8]) -> bool {
    let kinds = container[0] ^ container[container.len() - 1];
    kinds & CURLY != 0 && has_two_objects(container)
}

#[cold]
fn has_two_objects(value: &[u8]) -> bool {
    let mut closes = value.iter().enumerate().filter(|(_, byte)| **byte == b'}');
    closes.any(|(at, _)| {
        let comma = skip_blank(value, at + 1);
        value.get(comma) == Some(&b',') && value.get(skip_blank(value, comma + 1)) == Some(&b'{')
    })
}

/// The error of an element that is not one value. Its place is after the first value.
#[cold]
pub(super) fn not_one_value(bytes: &[u8], start: usize, end: usize) -> Unreadable {
    let element = trim(bytes, start..end);
    let text = &bytes[..element.end];
    let first = match syntax::value(text, element.start) {
        Ok(end) => end,
        // The first value is not JSON: take its end from its brackets, or from the next separator.
        Err(_) => match text[element.start] {
            b'{' | b'[' => Scan::new(text, element.start + 1)
                .elements(|_| ())
                .map_or(element.end, |close| close + 1),
            _ => text[element.start..]
                .iter()
                .position(|byte| syntax::is_blank(*byte) || matches!(byte, b'{' | b'[' | b'"'))
                .map_or(element.end, |length| element.start + length.max(1)),
        },
    };
    let place = skip_blank(text, first);
    if place >= element.end {
        let detail = "brackets that do not match, so it is not certain where this record ends";
        return malformed(element.start, detail.to_owned());
    }
    let found = found_here(bytes, place);
    malformed(
        place,
        format!("expected `,` or `]` after a record, found {found}"),
    )
}
