//! Spans: the steps of a file, and the commits of the workers, for [`otlp`](crate::otlp).
//!
//! A file has one trace, whose id is the hash of its content, so that every process knows it without
//! being told. Spans are made when a file has ended and when a commit has ended, never for a record.
//! Until [`begin`] is called, nothing is kept. Invariants: the queue has at most `SPANS_MAX` spans,
//! and the spans of at most `EACH_SECOND` files, quarantined files and commits enter it in a second.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use metrics::counter;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::batch::{ContentHash, SourceFile};

/// Most spans in the queue. The limits below fill it in more than ten seconds, the interval of
/// exports. A span takes about 400 bytes.
const SPANS_MAX: usize = 4_096;

/// Most files, quarantined files and commits with spans in a second: enough to follow a service, and
/// little beside the thousands of small files that a load stores in a second.
const EACH_SECOND: u32 = 20;

/// Most links of a commit. A commit has a few files, or many small ones.
const LINKS_MAX: usize = 32;

/// Longest text of an attribute, in bytes. The name of a member of a container may be longer.
const TEXT_BYTES_MAX: usize = 1_024;

static QUEUE: OnceLock<Queue> = OnceLock::new();

/// The spans that are not sent yet.
#[derive(Debug, Default)]
struct Queue {
    spans: Mutex<VecDeque<Span>>,
    files: Allowance,
    quarantined: Allowance,
    commits: Allowance,
}

/// The second since the start of the process, and how many were let through in it.
#[derive(Debug, Default)]
struct Allowance(Mutex<(u64, u32)>);

impl Allowance {
    fn takes_one(&self, second: u64) -> bool {
        let mut state = self.0.lock();
        if state.0 != second {
            *state = (second, 0);
        }
        state.1 += 1;
        state.1 <= EACH_SECOND
    }
}

/// A span of a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The trace: the hash of a file, or a random id.
    pub trace: ContentHash,
    /// Its id in the trace.
    pub id: u64,
    /// The id of its parent in the same trace.
    pub parent: Option<u64>,
    /// The traces and ids of other spans that belong to this one.
    pub links: Vec<(ContentHash, u64)>,
    /// What was done.
    pub name: &'static str,
    /// Begin, in nanoseconds since the epoch.
    pub begin_unix_ns: u64,
    /// End, in nanoseconds since the epoch.
    pub end_unix_ns: u64,
    /// What is known about it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed.
    pub error: Option<String>,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text of at most `TEXT_BYTES_MAX` bytes.
    Text(String),
    /// A number.
    Number(u64),
}

impl Value {
    fn text(text: &str) -> Self {
        Self::Text(shortened(text))
    }
}

/// Keeps spans from now on. They are lost unless [`take`] is called every few seconds.
pub fn begin() {
    QUEUE.get_or_init(Queue::default);
}

/// Takes at most `max` spans out of the queue, in the order in which they ended.
#[must_use]
pub fn take(max: usize) -> Vec<Span> {
    let Some(queue) = QUEUE.get() else {
        return Vec::new();
    };
    let mut spans = queue.spans.lock();
    let taken = spans.len().min(max);
    spans.drain(..taken).collect()
}

/// Counts spans that no receiver gets.
pub fn dropped(spans: u64) {
    counter!("lemonade_spans_dropped_total").increment(spans);
}

/// The steps in the life of a file. Each one ends where the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Until the file is read.
    Wait,
    /// Read, identified and cut.
    Read,
    /// Entered into the ledger.
    Register,
    /// Parsed, and all of its frames are in the queue.
    Publish,
    /// All of its frames are committed.
    Commit,
    /// Settled in the ledger.
    Settle,
    /// Moved to its directory.
    Move,
}

const STEPS: [(Step, &str); 7] = [
    (Step::Wait, "wait"),
    (Step::Read, "read"),
    (Step::Register, "register"),
    (Step::Publish, "publish"),
    (Step::Commit, "commit"),
    (Step::Settle, "settle"),
    (Step::Move, "move"),
];

/// What the spans of a file will say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trail {
    found_at: Instant,
    ends: [Option<Instant>; STEPS.len()],
    /// The identity of the file. `None` if it was not read to its end.
    pub hash: Option<ContentHash>,
    /// Its records.
    pub records: Option<u32>,
    /// Those of its records that are rejects.
    pub rejects: Option<u32>,
    /// The frames that were published. `None` for a file whose records were stored before, or are
    /// stored for another file with the same content.
    pub frames: Option<usize>,
}

impl Trail {
    /// The trail of a file that was found at this time and is read from now on. `None` if no spans
    /// are kept.
    #[must_use]
    pub fn begin(found_at: Instant) -> Option<Box<Self>> {
        QUEUE.get()?;
        let mut trail = Self {
            found_at,
            ends: [None; STEPS.len()],
            hash: None,
            records: None,
            rejects: None,
            frames: None,
        };
        trail.end(Step::Wait);
        Some(Box::new(trail))
    }

    /// This step ends now.
    pub fn end(&mut self, step: Step) {
        self.end_at(step, Instant::now());
    }

    /// This step ended at this time.
    pub fn end_at(&mut self, step: Step, at: Instant) {
        self.ends[step as usize] = Some(at);
    }
}

/// How a file ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number in the ledger.
    pub file_no: Option<u32>,
    /// Its dataset; empty if none takes it.
    pub dataset: &'a str,
    /// Its size.
    pub bytes: u64,
    /// `settled`, `duplicate` or `quarantined`.
    pub outcome: &'static str,
    /// The code of the reason why it is quarantined, and its text.
    pub reason: Option<(&'static str, &'a str)>,
}

/// A file has been moved: keeps its spans.
pub fn file_ended(trail: &Trail, ended: Ended<'_>) {
    let Some(queue) = QUEUE.get() else {
        return;
    };
    let allowance = match ended.reason {
        None => &queue.files,
        Some(_) => &queue.quarantined,
    };
    let now = Now::read();
    if allowance.takes_one(now.second()) {
        queue.keep(spans_of_file(trail, ended, now));
    }
}

/// A transaction with frames of these files was committed: keeps its span.
pub fn committed(
    began: std::time::Instant,
    dataset: &str,
    frames: u64,
    rows: u64,
    duplicates: u64,
    files: impl Iterator<Item = SourceFile>,
) {
    let Some(queue) = QUEUE.get() else {
        return;
    };
    let now = Now::read();
    if !queue.commits.takes_one(now.second()) {
        return;
    }
    let mut links: Vec<_> = files.map(|file| (file.hash, root(file))).collect();
    links.sort_unstable();
    links.dedup();
    links.truncate(LINKS_MAX);
    queue.keep(vec![Span {
        trace: random_trace(),
        id: random(),
        parent: None,
        links,
        name: "transaction",
        begin_unix_ns: now.unix_ns(began.into()),
        end_unix_ns: now.unix_ns,
        attributes: vec![
            ("lemonade.dataset", Value::text(dataset)),
            ("lemonade.frames", Value::Number(frames)),
            ("lemonade.rows", Value::Number(rows)),
            ("lemonade.duplicates", Value::Number(duplicates)),
        ],
        error: None,
    }]);
}

impl Queue {
    /// Keeps all of these spans, or none.
    fn keep(&self, new: Vec<Span>) {
        let mut spans = self.spans.lock();
        if spans.len() + new.len() > SPANS_MAX {
            drop(spans);
            dropped(new.len() as u64);
        } else {
            spans.extend(new);
        }
    }
}

/// The span of a file, and one for each of its steps.
fn spans_of_file(trail: &Trail, ended: Ended<'_>, now: Now) -> Vec<Span> {
    let file = trail.hash.zip(ended.file_no);
    let root_id = file.map(|(hash, file_no)| root(SourceFile { file_no, hash }));
    // The span whose id others can tell is that of the file whose records were stored. A file that
    // adds nothing is a child of it.
    let (id, parent) = match root_id {
        Some(root) if trail.frames.is_some() => (root, None),
        parent => (random(), parent),
    };
    let trace = trail.hash.unwrap_or_else(random_trace);
    let mut attributes = vec![
        ("file.name", Value::text(ended.name)),
        ("file.size", Value::Number(ended.bytes)),
        ("lemonade.outcome", Value::text(ended.outcome)),
        ("lemonade.dataset", Value::text(ended.dataset)),
    ];
    let numbers = [
        ("lemonade.file_no", ended.file_no.map(u64::from)),
        ("lemonade.records", trail.records.map(u64::from)),
        ("lemonade.rejects", trail.rejects.map(u64::from)),
        ("lemonade.frames", trail.frames.map(|frames| frames as u64)),
    ];
    let known = numbers.into_iter();
    attributes.extend(known.filter_map(|(name, number)| Some((name, Value::Number(number?)))));
    let code = ended.reason.map(|(code, _)| code);
    attributes.extend(code.map(|code| ("lemonade.reason", Value::text(code))));
    let span = |name, id, parent, begin: Instant, end_unix_ns| Span {
        trace,
        id,
        parent,
        links: Vec::new(),
        name,
        begin_unix_ns: now.unix_ns(begin),
        end_unix_ns,
        attributes: Vec::new(),
        error: None,
    };
    let mut spans = vec![Span {
        attributes,
        error: ended.reason.map(|(_, text)| shortened(text)),
        ..span("file", id, parent, trail.found_at, now.unix_ns)
    }];
    let mut begin = trail.found_at;
    for (step, name) in STEPS {
        let at = trail.ends[step as usize];
        let end = match step {
            Step::Move => Some(now.at),
            _ => at,
        };
        if let Some(end) = end {
            spans.push(span(name, random(), Some(id), begin, now.unix_ns(end)));
            begin = end;
        }
    }
    spans
}

/// The id of the span of a file: any process that has a frame of it can tell.
fn root(file: SourceFile) -> u64 {
    let half = file.hash.first_chunk().expect("a hash has 16 bytes");
    // An id of 0 is invalid.
    (u64::from_be_bytes(*half) ^ u64::from(file.file_no)).max(1)
}

/// A number that no other span has.
fn random() -> u64 {
    RandomState::new().build_hasher().finish().max(1)
}

fn random_trace() -> ContentHash {
    (u128::from(random()) << 64 | u128::from(random())).to_be_bytes()
}

fn shortened(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
struct Now {
    at: Instant,
    unix_ns: u64,
}

impl Now {
    fn read() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            at: Instant::now(),
            unix_ns: unix.map_or(0, |unix| unix.as_nanos() as u64),
        }
    }

    fn second(self) -> u64 {
        self.unix_ns / 1_000_000_000
    }

    fn unix_ns(self, earlier: Instant) -> u64 {
        let passed = self.at.saturating_duration_since(earlier);
        self.unix_ns.saturating_sub(passed.as_nanos() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FILE: SourceFile = SourceFile {
        file_no: 7,
        hash: [9; 16],
    };

    fn trail() -> Trail {
        let found_at = Instant::now();
        let mut trail = Trail {
            found_at,
            ends: [None; STEPS.len()],
            hash: Some(FILE.hash),
            records: Some(5),
            rejects: Some(1),
            frames: Some(1),
        };
        for (at, step) in [Step::Wait, Step::Read, Step::Commit]
            .into_iter()
            .enumerate()
        {
            trail.end_at(step, found_at + Duration::from_millis(at as u64 + 1));
        }
        trail
    }

    fn ended(outcome: &'static str) -> Ended<'static> {
        Ended {
            name: "a.json",
            file_no: Some(FILE.file_no),
            dataset: "vehicle_events",
            bytes: 100,
            outcome,
            reason: None,
        }
    }

    fn later(trail: &Trail) -> Now {
        Now {
            at: trail.found_at + Duration::from_millis(10),
            unix_ns: 1_000_000_000_000,
        }
    }

    #[test]
    fn the_steps_of_a_file_follow_each_other_in_its_span() {
        let trail = trail();
        let spans = spans_of_file(&trail, ended("settled"), later(&trail));
        let names: Vec<_> = spans.iter().map(|span| span.name).collect();
        assert_eq!(names, ["file", "wait", "read", "commit", "move"]);
        let file = &spans[0];
        assert_eq!(
            (file.trace, file.id, file.parent),
            (FILE.hash, root(FILE), None)
        );
        assert_eq!(file.end_unix_ns - file.begin_unix_ns, 10_000_000);
        let mut begin = file.begin_unix_ns;
        for step in &spans[1..] {
            assert_eq!((step.trace, step.parent), (file.trace, Some(file.id)));
            assert_eq!(step.begin_unix_ns, begin);
            begin = step.end_unix_ns;
        }
        assert_eq!(begin, file.end_unix_ns);
        let records = ("lemonade.records", Value::Number(5));
        assert!(file.attributes.contains(&records), "{file:?}");
    }

    #[test]
    fn a_file_that_adds_nothing_is_a_child_of_the_one_that_was_stored() {
        let copy = Trail {
            frames: None,
            ..trail()
        };
        let spans = spans_of_file(&copy, ended("duplicate"), later(&copy));
        assert_eq!(spans[0].parent, Some(root(FILE)));
        assert_ne!(spans[0].id, root(FILE));
        let unread = Trail { hash: None, ..copy };
        let spans = spans_of_file(&unread, ended("quarantined"), later(&unread));
        assert_eq!(spans[0].parent, None);
        assert_ne!(spans[0].trace, FILE.hash);
    }

    #[test]
    fn spans_are_bounded_in_number_and_in_each_second() {
        let allowance = Allowance::default();
        let taken = |second| (0..100).filter(|_| allowance.takes_one(second)).count();
        assert_eq!((taken(1), taken(1), taken(2)), (20, 0, 20));

        let (queue, trail) = (Queue::default(), trail());
        let spans = spans_of_file(&trail, ended("settled"), later(&trail));
        for _ in 0..SPANS_MAX {
            queue.keep(spans.clone());
        }
        let kept = queue.spans.lock().len();
        assert_eq!(kept, SPANS_MAX / spans.len() * spans.len());
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let text = format!("{}é", "x".repeat(TEXT_BYTES_MAX - 1));
        assert_eq!(shortened(&text).len(), TEXT_BYTES_MAX - 1);
    }
}
