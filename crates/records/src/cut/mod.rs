//! Cuts a file into chunks of whole records, by one scan over its structure.
//!
//! Owns where records begin and end, how many there are, and whether the document closes. It does
//! not know the content of a record, which [`parse`](crate::parse) reads. The scan finds quotes,
//! backslashes, brackets and the commas between records, 64 bytes at a time, as simdjson does
//! (Langdale and Lemire, "Parsing Gigabytes of JSON per Second"). It keeps only the list of chunks
//! in memory and reads each byte once, so a file may be larger than memory.
//!
//! By these rules, every record becomes a row or a reject, and nothing else does:
//! * A file that is empty or blank holds no records.
//! * A *document* is one JSON value from the first byte of the file to the last. It is an array of
//!   records; or an *envelope*: an object in which the dataset's pointer leads to an array of
//!   records; or a single record: an object with a field of the dataset. Any other object is
//!   refused: it is most likely an envelope whose array has another name, and would be one reject
//!   for all its records.
//! * All of a document is JSON. Outside of the array of records, the first byte that is not JSON
//!   refuses the file. In the array, exactly one value must lie between two commas, since only then
//!   are the bounds of each record certain: `[{}{}]` refuses the file. A record with certain bounds
//!   that is not JSON is a reject.
//! * A `*` in the pointer leads to each element of an array, or member of an object. Each array to
//!   which the pointer leads holds records. If the last segment is `*`, a value that is not an array
//!   is a record, whose bounds must be certain like those of an element of an array. A missing or
//!   null value holds no records. Below a `*`, any other value through which the pointer cannot
//!   lead refuses the file.
//! * `[]` and `[ ]` have no records; `[1,]` and `[1,,2]` have an empty one, which the parser
//!   rejects.
//! * In *lines* (NDJSON), each line is a record; a blank line is none. A JSON string cannot hold a
//!   raw newline, so a broken line harms no other line. If an object follows a `}` on the same line,
//!   with only blanks between them, a new record begins with it.
//! * A *sequence* is any number of JSON values with nothing between them, or *separators*: blanks,
//!   commas, and the record separator of RFC 7464. Each element of an array, and of the array to
//!   which the dataset's pointer leads in an object, is a record. Any other value is one record.
//!   Between two values, the first byte that is neither refuses the file, and so does an envelope
//!   that is not JSON outside of its records. A record whose brackets balance, but which is not
//!   JSON, is a reject. At least one value must be an array, an envelope, or an object with a field
//!   of the dataset.
//! * With [`Format::Auto`], a file is a document if it is one value from the first byte to the
//!   last, or could become one with more bytes. It is lines if its first line is a value, or cannot
//!   begin a document (it ends within a string, for example), and one of the next lines is an
//!   object.
//! * One UTF-8 byte order mark at the start of the file is skipped.

mod array;
mod chunker;
mod envelope;
mod lines;
mod outside;
mod plan;
mod scan;
mod sequence;
mod target;

use std::ops::Range;
use std::sync::Arc;

use crate::dataset::{Dataset, Datasets, EACH, FileDatasets, Format, segments};
use crate::syntax::{self, Stop, skip_blank};
use chunker::Chunker;
use envelope::Envelope;
pub(crate) use outside::{Group, OuterValue, groups};
pub use outside::{OUTSIDE_BYTES_MAX, Outside, outside_of, records};
pub use plan::{Around, Chunk, ChunkLimits, Layout, Plan, Unreadable};
use plan::{found_here, incomplete, malformed};
use scan::Scan;
pub(crate) use sequence::skip_separators;
use sequence::{RECORD_SEPARATOR, Sequence};
use target::{Target, leads_into_array, names, record_begin};

/// Finds the records of a file of `dataset`.
///
/// # Errors
/// [`Unreadable::Incomplete`] if the document does not close; [`Unreadable::Malformed`] if it is
/// not one with records of `dataset`, and more bytes could not change that.
pub fn cut(bytes: &[u8], dataset: &Dataset, limits: ChunkLimits) -> Result<Plan, Unreadable> {
    let Found { own, .. } = Search::new(dataset, &[], limits).read(bytes)?;
    own.ok_or_else(|| no_array(dataset, 0))
}

/// Finds the records of each dataset in a file, with at least one plan. The ordinals of each dataset
/// begin at 0. In this order:
///
/// 1. The file's own dataset. Absent if the file holds only records of others.
/// 2. In an envelope, each other dataset whose pointer leads to an array with records.
/// 3. The datasets that take the file as well, each by its own definition. Absent if the file is an
///    envelope without their array, or a sequence without one.
///
/// # Errors
/// As [`cut`], for the file's own dataset, or for one that takes it as well.
pub fn cut_each(
    bytes: &[u8],
    of: &FileDatasets<'_>,
    limits: ChunkLimits,
) -> Result<Vec<(Arc<Dataset>, Plan)>, Unreadable> {
    let also = || of.also.iter().copied();
    let others: Vec<&Arc<Dataset>> = others(of.all, also(), of.own).collect();
    let Found {
        own,
        others: found,
        is_envelope,
    } = Search::new(of.own, &others, limits).read(bytes)?;
    let own = own.map(|plan| (Arc::clone(of.own), plan));
    let found = found
        .into_iter()
        .map(|(at, plan)| (Arc::clone(others[at]), plan))
        .filter(|(other, _)| !other.also);
    let mut plans: Vec<_> = own.into_iter().chain(found).collect();
    for dataset in also() {
        plans.extend(cut_also(bytes, dataset, of, is_envelope, limits)?);
    }
    if plans.is_empty() {
        return Err(no_array(of.own, 0));
    }
    Ok(plans)
}

/// The records of a dataset that takes the file in addition to its own dataset.
fn cut_also(
    bytes: &[u8],
    dataset: &Arc<Dataset>,
    of: &FileDatasets<'_>,
    is_envelope: bool,
    limits: ChunkLimits,
) -> Result<Option<(Arc<Dataset>, Plan)>, Unreadable> {
    let others: Vec<&Arc<Dataset>> = others(of.all, of.also.iter().copied(), dataset).collect();
    let search = Search {
        role: Role::Also { is_envelope },
        ..Search::new(dataset, &others, limits)
    };
    let found = search.read(bytes).map_err(|unreadable| match unreadable {
        Unreadable::Malformed { offset, detail } => {
            let detail = format!("as a file of `{}`: {detail}", dataset.name);
            Unreadable::Malformed { offset, detail }
        }
        incomplete @ Unreadable::Incomplete { .. } => incomplete,
    });
    Ok(found?.own.map(|plan| (Arc::clone(dataset), plan)))
}

/// Finds the records of `dataset` in a file with the name `file_name`, which may also hold arrays of
/// the other `datasets`. The plan is the one that [`cut_each`] returned for `dataset`, whichever of
/// them the file belongs to.
///
/// # Errors
/// As [`cut`].
pub fn cut_one(
    bytes: &[u8],
    dataset: &Dataset,
    datasets: &Datasets,
    file_name: &[u8],
    limits: ChunkLimits,
) -> Result<Plan, Unreadable> {
    let also = datasets.also_of_file(file_name);
    let others: Vec<&Arc<Dataset>> = others(datasets, also, dataset).collect();
    let Found { own, .. } = Search::new(dataset, &others, limits).read(bytes)?;
    own.ok_or_else(|| no_array(dataset, 0))
}

/// The datasets whose arrays an envelope may hold beside that of `dataset`; `also` are those that
/// take the file by its name. If `dataset` has no pointer, no object is an envelope. A dataset of
/// lines has no array, and one of sequences has none in a document. An array that the pointer of
/// `dataset` leads through is not an array of records. If two of them have the same pointer, the
/// first one gets the array, so `also` come last.
fn others<'a>(
    datasets: &'a Datasets,
    also: impl Iterator<Item = &'a Arc<Dataset>>,
    dataset: &'a Dataset,
) -> impl Iterator<Item = &'a Arc<Dataset>> {
    let owners = datasets.iter().filter(|other| !other.also);
    owners.chain(also).filter(|other| {
        let pointer = other.pointer();
        let leads_on = leads_through(dataset.pointer(), pointer);
        let has_array = match other.format {
            Format::Auto | Format::Document => !pointer.is_empty(),
            Format::Lines => false,
            Format::Sequence => dataset.format == Format::Sequence && !pointer.is_empty(),
        };
        let is_envelope = !dataset.pointer().is_empty();
        is_envelope && has_array && !leads_on && other.name != dataset.name
    })
}

/// Whether `pointer` may lead through the value at `other`, or to it.
fn leads_through(pointer: &str, other: &str) -> bool {
    let mut path = segments(pointer);
    segments(other).all(|segment| {
        let is_it = |own: String| own == segment || own == EACH || segment == EACH;
        path.next().is_some_and(is_it)
    })
}

/// What a search found. At least one plan is present, except for a dataset that takes the file as
/// well.
struct Found {
    /// The plan of the dataset.
    own: Option<Plan>,
    /// The plans of other datasets, each with its index in the datasets of the search.
    others: Vec<(usize, Plan)>,
    /// Whether the file is an object, and not one record of the dataset.
    is_envelope: bool,
}

impl From<Plan> for Found {
    fn from(plan: Plan) -> Self {
        Self {
            own: Some(plan),
            others: Vec::new(),
            is_envelope: false,
        }
    }
}

/// Why a dataset takes a file.
#[derive(Clone, Copy)]
enum Role {
    /// The file belongs to it.
    Own,
    /// It takes the file in addition to the file's own dataset, so it need not have records in it.
    Also {
        /// Whether the file is an object, and not one record of its own dataset: then it is not one
        /// record of this dataset either.
        is_envelope: bool,
    },
}

/// What is searched in a file.
struct Search<'a> {
    dataset: &'a Dataset,
    /// Datasets whose arrays may lie beside that of `dataset`.
    others: &'a [&'a Arc<Dataset>],
    limits: ChunkLimits,
    role: Role,
}

impl<'a> Search<'a> {
    fn new(dataset: &'a Dataset, others: &'a [&'a Arc<Dataset>], limits: ChunkLimits) -> Self {
        Self {
            dataset,
            others,
            limits,
            role: Role::Own,
        }
    }

    fn read(&self, bytes: &[u8]) -> Result<Found, Unreadable> {
        const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
        let format = self.dataset.format;
        let bom = if bytes.starts_with(BYTE_ORDER_MARK) {
            BYTE_ORDER_MARK.len()
        } else {
            0
        };
        let start = skip_blank(bytes, bom);
        let as_lines = || {
            let plan = lines::lines(bytes, start, self.limits)?.plan()?;
            Ok(plan.into())
        };
        if start == bytes.len() {
            let none = Chunker::new(bytes, start, self.limits, Layout::Lines).plan()?;
            return Ok(none.into());
        }
        if format == Format::Sequence {
            let outers = self.dataset.outers();
            let fields = keys(self.dataset);
            let only_arrays = self.dataset.takes_only_arrays();
            // A dataset that takes the file as well changes nothing for the others.
            let others = self.others.iter().filter(|it| !it.also && !only_arrays);
            let mut sequence = Sequence {
                bytes,
                limits: self.limits,
                targets: sequence::targets(
                    self.dataset.pointer(),
                    &outers,
                    others.map(|other| other.pointer()),
                ),
                fields: &fields,
                is_known: false,
                has_array: false,
                has_reached: false,
                joins: true,
                only_arrays,
            };
            let mut found = Found::from(sequence.plan(start)?);
            found.own = found.own.filter(|_| !only_arrays || sequence.has_array);
            return Ok(found);
        }
        if format == Format::Lines {
            return as_lines();
        }
        document(bytes, start, self).or_else(|no_document| {
            if format == Format::Auto && is_lines(bytes, start, &no_document) {
                return as_lines();
            }
            Err(no_document.error)
        })
    }
}

/// Why a file is not a document.
struct NoDocument {
    error: Unreadable,
    /// Where the first value ends, if more follows it: then the file may be lines.
    end: Option<usize>,
    /// Whether an array of records has begun: then the file is most likely a broken document.
    has_records: bool,
    /// Whether the first value has a field of the dataset: then it may be a record.
    has_field: bool,
}

impl From<Unreadable> for NoDocument {
    fn from(error: Unreadable) -> Self {
        Self {
            error,
            end: None,
            has_records: false,
            has_field: false,
        }
    }
}

/// The records of a file that is one value, which begins at `start`.
fn document(bytes: &[u8], start: usize, search: &Search<'_>) -> Result<Found, NoDocument> {
    match bytes[start] {
        b'{' => object(bytes, start, search),
        b'[' if leads_into_array(search.dataset) => object(bytes, start, search),
        b'[' => {
            let no_document = |error, end: usize| NoDocument {
                error,
                end: Some(end),
                has_records: bytes[start..end].contains(&b'{'),
                has_field: false,
            };
            let (chunker, end) = array::array(bytes, start, search.limits).map_err(|error| {
                let close = Scan::new(bytes, start + 1).elements(|_| ());
                match (close, &error) {
                    (Some(close), Unreadable::Malformed { .. }) => no_document(error, close + 1),
                    _ => error.into(),
                }
            })?;
            nothing_after(bytes, end).map_err(|error| no_document(error, end))?;
            Ok(chunker.plan()?.into())
        }
        _ => {
            let found = found_here(bytes, start);
            let mut detail =
                format!("not JSON: expected `{{` or `[` as the first character, found {found}");
            if bytes[start] == RECORD_SEPARATOR {
                detail +=
                    ", which begins a sequence: `format = \"sequence\"` of the dataset says so";
            } else if lines::is_of_csv(bytes, start) {
                detail += "; it looks like CSV, and only JSON is read: convert it, for example with \
                           `mlr --icsv --ojsonl cat`";
            }
            Err(malformed(start, detail).into())
        }
    }
}

/// The records of a document that is walked: an envelope, or one record.
fn object(bytes: &[u8], start: usize, search: &Search<'_>) -> Result<Found, NoDocument> {
    let Search {
        dataset,
        others,
        limits,
        ..
    } = *search;
    let own = Some(dataset.pointer()).filter(|pointer| !pointer.is_empty());
    let (fields, outers) = (keys(dataset), dataset.outers());
    let of_others: Vec<_> = others.iter().map(|other| other.outers()).collect();
    let targets = own.map(|own| Target::new(own, &outers)).into_iter().chain(
        (others.iter().zip(&of_others)).map(|(it, outers)| Target::new(it.pointer(), outers)),
    );
    let mut envelope = Envelope::new(bytes, limits, targets.collect(), own.is_some(), &fields);
    envelope.seen = vec![false; fields.len()];
    let walked = envelope.walk(start);
    let has_field = envelope.has_field;
    let mut is_record = has_field || own.is_none();
    // A dataset that takes the file as well changes nothing for the others.
    let arrays = envelope.targets.iter().enumerate().filter(|(at, _)| {
        let other = at.checked_sub(usize::from(own.is_some()));
        other.is_none_or(|other| !others[other].also)
    });
    let arrays: Vec<&Target<'_>> = arrays.map(|(_, target)| target).collect();
    let begin = record_begin(dataset);
    // An object with a field of the dataset and an array without records is rather a record.
    let has_records = || {
        let mut arrays = arrays.iter();
        arrays.any(|it| it.open.is_some() && (!has_field || it.may_hold(bytes, begin)))
    };
    let no_document = |error, end| NoDocument {
        error,
        end,
        has_records: has_records(),
        has_field,
    };
    let end = match walked {
        Ok(end) => end,
        // If its brackets close, it may be a single record that is not JSON.
        Err(Unreadable::Malformed { offset, detail }) => {
            let error = || malformed(offset as usize, detail.clone());
            let close = Scan::new(bytes, start + 1).elements(|_| ());
            let Some(close) = close else {
                let error = incomplete(bytes, "the document does not close");
                return Err(no_document(error, None));
            };
            if skip_blank(bytes, close + 1) < bytes.len() {
                return Err(no_document(error(), Some(close + 1)));
            }
            let text = &bytes[start..=close];
            let is_object = text[0] == b'{';
            is_record |= is_object && fields.iter().any(|field| names(text, field));
            let mut arrays = arrays.iter();
            let has_array = arrays.any(|target| target.open.is_some() || target.is_named_in(text));
            if !is_record || has_array {
                return Err(error().into());
            }
            close + 1
        }
        Err(error) => return Err(no_document(error, None)),
    };
    nothing_after(bytes, end).map_err(|error| no_document(error, Some(end)))?;
    records_of(bytes, envelope, start..end, search, is_record)
}

/// The records of an object that was walked. `is_record` says whether it may be one record.
fn records_of(
    bytes: &[u8],
    envelope: Envelope<'_>,
    place: Range<usize>,
    search: &Search<'_>,
    is_record: bool,
) -> Result<Found, NoDocument> {
    let Envelope {
        mut targets, seen, ..
    } = envelope;
    let Search {
        dataset, limits, ..
    } = *search;
    let has_pointer = !dataset.pointer().is_empty();
    let own = has_pointer.then(|| targets.remove(0));
    let (array, other) = own.map_or((None, None), |mut own| (own.take(), own.other));
    let is_empty = array.as_ref().is_some_and(|records| records.count == 0);
    let mut own = array.map(|records| records.plan(bytes)).transpose()?;
    let mut found = Vec::new();
    let mut strays: Vec<(usize, &Dataset)> = Vec::new();
    for (at, mut target) in targets.into_iter().enumerate() {
        let of: &Dataset = search.others[at];
        strays.extend(target.other.filter(|_| !of.also).map(|at| (at, of)));
        if let Some(records) = target.take().filter(|records| records.count > 0) {
            found.push((at, records.plan(bytes)?));
        }
    }
    // An array of another dataset makes the object an envelope, unless it is certainly a record, and
    // so does an empty array of its own.
    let has_required = || {
        dataset.columns.iter().enumerate().all(|(at, column)| {
            let fields = dataset.fields().into_iter().zip(&seen);
            let mut own = fields.filter(|((_, column), _)| *column == at).peekable();
            !column.required || own.peek().is_none() || own.any(|(_, seen)| *seen)
        })
    };
    let has_array = || found.iter().any(|(at, _)| !search.others[*at].also);
    let is_one = match search.role {
        Role::Own => !has_array() && !is_empty || has_required(),
        Role::Also { is_envelope } => !is_envelope,
    };
    let takes_record = (own.is_none() || is_empty) && is_record && is_one;
    if takes_record {
        let mut chunker = Chunker::new(bytes, place.start, limits, Layout::Array);
        chunker.end_record(place.end, place.end);
        chunker.close(place.end);
        own = Some(chunker.plan()?);
    }
    if matches!(search.role, Role::Own) {
        if own.is_none() && found.is_empty() {
            return Err(no_array(dataset, other.unwrap_or(place.start)).into());
        }
        if !takes_record {
            refuse_strays(bytes, other.map(|at| (at, dataset)), &strays)?;
        }
    }
    Ok(Found {
        own,
        others: found,
        is_envelope: !takes_record,
    })
}

/// Refuses a value that is beside the records of an envelope, where an array of records is expected:
/// otherwise it would be left out without a word. At the pointer of the file's own dataset (`own`)
/// this is any value but null. At that of another dataset it is an object with one of its fields,
/// since an envelope may have members of any name.
fn refuse_strays(
    bytes: &[u8],
    own: Option<(usize, &Dataset)>,
    others: &[(usize, &Dataset)],
) -> Result<(), Unreadable> {
    let is_value = |(at, _): &(usize, &Dataset)| !bytes[*at..].starts_with(b"null");
    let is_record = |(at, dataset): &&(usize, &Dataset)| {
        let end = syntax::value(bytes, *at).unwrap_or(*at);
        let text = &bytes[*at..end];
        let fields = dataset.fields();
        text.starts_with(b"{") && fields.iter().any(|(field, _)| names(text, field))
    };
    let stray = own
        .filter(is_value)
        .or_else(|| others.iter().copied().find(|other| is_record(&other)));
    let Some((at, dataset)) = stray else {
        return Ok(());
    };
    let found = found_here(bytes, at);
    let detail = format!(
        "expected an array of records of `{}` at `{}`, found {found}",
        dataset.name,
        dataset.pointer()
    );
    Err(malformed(at, detail))
}

/// Whether a file that is not a document is lines.
fn is_lines(bytes: &[u8], start: usize, no_document: &NoDocument) -> bool {
    let NoDocument {
        end,
        has_records,
        has_field,
        ..
    } = *no_document;
    let first = lines::first_line(bytes, start);
    let has_object = || lines::has_object_line(bytes, first.end + 1);
    // As one line, an array of records would be one reject. So the line must look like a record
    // itself, and a line with an object must follow.
    let is_record = !has_records || has_field && has_object();
    match end.filter(|end| *end <= first.end) {
        // The first value ends on the first line, and more follows.
        Some(end) => {
            let next = skip_blank(bytes, end);
            let on_other_line = next > first.end;
            match bytes[start] {
                b'[' => !has_records && on_other_line && has_object(),
                _ if on_other_line => is_record,
                _ if bytes[next] == b'{' => !has_records,
                _ => is_record && (has_field || has_object()),
            }
        }
        // The first value does not end on the first line: that line must not begin a document.
        None => has_object() && is_record && no_beginning(bytes, start, &first, has_records),
    }
}

/// Whether the first line of a file cannot begin a document: the file stops being JSON in this
/// line, or where the next line begins.
fn no_beginning(bytes: &[u8], start: usize, first: &Range<usize>, has_records: bool) -> bool {
    if !matches!(bytes[start], b'{' | b'[') {
        return true;
    }
    let Err(Stop::At(stop)) = syntax::value(bytes, start) else {
        return false;
    };
    // In an array of records, a record that is not JSON does not refuse the document. A raw newline
    // in a string does.
    if has_records || bytes[start] == b'[' {
        return stop == first.end;
    }
    let before = &bytes[..stop];
    let newline = before.iter().rposition(|byte| *byte == b'\n');
    let line = newline.map_or(0, |at| at + 1);
    stop <= first.end || bytes[stop] == b'{' && skip_blank(bytes, line) == stop
}

/// The keys of the members of a record that columns take values from.
fn keys(dataset: &Dataset) -> Vec<String> {
    dataset.fields().into_iter().map(|(key, _)| key).collect()
}

fn no_array(dataset: &Dataset, at: usize) -> Unreadable {
    let pointer = dataset.pointer();
    let detail = format!(
        "no array of records at `{pointer}`, and the document has no field of a record of `{}`: \
         `records` of the dataset says where its array is",
        dataset.name
    );
    malformed(at, detail)
}

fn nothing_after(bytes: &[u8], end: usize) -> Result<(), Unreadable> {
    let after = skip_blank(bytes, end);
    if after < bytes.len() {
        let found = found_here(bytes, after);
        let detail = format!(
            "more after the end of the document: {found}; if each line is a record of its own, \
             `format = \"lines\"` of the dataset says so, and `format = \"sequence\"` if values \
             follow one another in any other way"
        );
        return Err(malformed(after, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
