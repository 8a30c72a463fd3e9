//! The streams of a queue: those into which this process publishes, and those that still have frames
//! of another number of shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use super::shards::Names;
use crate::frame::Frame;

/// Frames after which a mean weight halves the weight of older frames: enough to be steady, few
/// enough to follow a change of files.
const MEAN_FRAMES_MAX: u64 = 1024;

/// A snapshot of the streams that are in use, dataset by dataset.
pub(super) type InUse = Arc<[Arc<Stream>]>;

pub(super) struct Stream {
    pub(super) dataset: Arc<str>,
    pub(super) key: Arc<str>,
    /// Its length at the last reply.
    pub(super) length: AtomicU64,
    /// Of all streams of the dataset.
    weight: Arc<Mutex<Mean>>,
    /// Whether this process publishes into it.
    pub(super) is_current: bool,
}

/// The sums for a mean over the latest frames.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    frames: u64,
    bytes: u64,
}

pub(super) struct Streams {
    /// All that can exist, dataset by dataset.
    pub(super) all: Vec<Arc<Stream>>,
    /// Those that have frames, or into which this process publishes.
    in_use: RwLock<InUse>,
    /// When to look for streams with frames again.
    pub(super) look: Mutex<Option<Instant>>,
    /// The next of several equal choices.
    turn: AtomicUsize,
}

impl Streams {
    /// The streams of these datasets, each with this many shards.
    pub(super) fn new<'a>(
        prefix: &str,
        datasets: impl Iterator<Item = &'a str>,
        shards: u16,
    ) -> Self {
        let mut all = Vec::new();
        for dataset in datasets {
            let names = Names::new(prefix, dataset);
            let current = names.of(shards);
            let weight = Arc::<Mutex<Mean>>::default();
            let dataset: Arc<str> = dataset.into();
            let stream = |key: &str| {
                Arc::new(Stream {
                    dataset: Arc::clone(&dataset),
                    key: key.into(),
                    length: AtomicU64::new(0),
                    weight: Arc::clone(&weight),
                    is_current: current.contains(&key),
                })
            };
            all.extend(names.all().map(stream));
        }
        let current = all.iter().filter(|stream| stream.is_current);
        Self {
            in_use: RwLock::new(current.cloned().collect()),
            all,
            look: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    pub(super) fn in_use(&self) -> InUse {
        Arc::clone(&self.in_use.read())
    }

    /// A number that is another one at each call, for choices in turn.
    pub(super) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// A stream of the dataset, for what all of them share.
    pub(super) fn one_of(&self, dataset: &str) -> &Stream {
        let mut all = self.all.iter();
        let stream = all.find(|stream| *stream.dataset == *dataset);
        stream.expect("frames are of the datasets that the broker was opened with")
    }

    /// The stream for each frame: of the shards of its dataset, the one with the fewest bytes. Of
    /// several such, one in turn.
    pub(super) fn spread(&self, frames: &[&Frame]) -> Vec<Arc<Stream>> {
        let in_use = self.in_use();
        let load = |stream: &Arc<Stream>| {
            let bytes = stream.length.load(Ordering::Relaxed) * stream.mean();
            (Arc::clone(stream), bytes)
        };
        let current = in_use.iter().filter(|stream| stream.is_current);
        let mut loads: Vec<(Arc<Stream>, u64)> = current.map(load).collect();
        let place = |frame: &&Frame| {
            let shards = loads
                .iter_mut()
                .filter(|(stream, _)| *stream.dataset == *frame.dataset);
            let mut shards: Vec<_> = shards.collect();
            let from = self.turn() % shards.len().max(1);
            shards.rotate_left(from);
            let least = shards.into_iter().min_by_key(|(_, bytes)| *bytes);
            let (stream, bytes) = least.expect("the broker was opened with the dataset");
            *bytes += frame.weight() as u64;
            Arc::clone(stream)
        };
        frames.iter().map(place).collect()
    }

    /// Keeps those that have frames by these lengths, and those into which this process publishes.
    pub(super) fn use_those_with_frames(&self, lengths: &[(usize, u64)]) {
        for (at, length) in lengths {
            self.all[*at].length.store(*length, Ordering::Relaxed);
        }
        let is_used =
            |stream: &&Arc<Stream>| stream.is_current || stream.length.load(Ordering::Relaxed) > 0;
        let used: InUse = self.all.iter().filter(is_used).cloned().collect();
        let mut in_use = self.in_use.write();
        let is_same = |(one, other): (&Arc<Stream>, &Arc<Stream>)| Arc::ptr_eq(one, other);
        // The same list stays, so that consumers notice a change.
        if used.len() != in_use.len() || !used.iter().zip(in_use.iter()).all(is_same) {
            *in_use = used;
        }
    }
}

impl Stream {
    pub(super) fn note_weight(&self, frame: &Frame) {
        let mut mean = self.weight.lock();
        if mean.frames == MEAN_FRAMES_MAX {
            *mean = Mean {
                frames: mean.frames / 2,
                bytes: mean.bytes / 2,
            };
        }
        mean.frames += 1;
        mean.bytes += frame.weight() as u64;
    }

    /// The mean weight of the dataset's frames in bytes; 0 if no frame was seen.
    pub(super) fn mean(&self) -> u64 {
        let mean = *self.weight.lock();
        mean.bytes.checked_div(mean.frames).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::batch::Span;
    use crate::dataset::Fingerprint;

    fn frame(bytes: usize) -> Frame {
        Frame {
            dataset: "a".into(),
            definition: Fingerprint::default(),
            span: Span {
                file_no: 1,
                first_ordinal: 0,
                records: 1,
            },
            hash: [0; 16],
            rows: vec![0; bytes].into(),
            rejects: Bytes::new(),
        }
    }

    fn bytes_of(streams: &Streams, frames: &[Frame]) -> Vec<usize> {
        let frames: Vec<&Frame> = frames.iter().collect();
        let places = streams.spread(&frames);
        let in_use = streams.in_use();
        let of = |stream: &Arc<Stream>| {
            let here = places.iter().zip(&frames);
            here.filter(|(place, _)| Arc::ptr_eq(place, stream))
                .map(|(_, frame)| frame.weight())
                .sum()
        };
        in_use.iter().map(of).collect()
    }

    #[test]
    fn frames_go_where_the_fewest_bytes_are() {
        let streams = Streams::new("p", ["a", "b"].into_iter(), 3);
        let frames: Vec<Frame> = (0..300).map(|n| frame(1_000 + n % 7 * 500)).collect();
        let bytes = bytes_of(&streams, &frames);
        let sum: usize = bytes.iter().sum();
        assert_eq!(bytes.len(), 6);
        for bytes in &bytes[..3] {
            let percent = bytes * 100 / sum;
            assert!((32..=34).contains(&percent), "{bytes} of {sum}");
        }
        assert_eq!(bytes[3..], [0; 3]);

        // A stream that is behind gets more.
        streams.one_of("a").note_weight(&frame(1_000));
        for (stream, length) in streams.in_use().iter().zip([10, 0, 10]) {
            stream.length.store(length, Ordering::Relaxed);
        }
        let frames: Vec<Frame> = (0..10).map(|_| frame(1_000)).collect();
        assert_eq!(bytes_of(&streams, &frames)[..3], [0, 10_000, 0]);
    }

    #[test]
    fn single_frames_go_to_the_shards_in_turn() {
        let streams = Streams::new("p", ["a"].into_iter(), 4);
        let one = frame(1_000);
        let mut frames = [0; 4];
        for _ in 0..40 {
            let place = &streams.spread(&[&one])[0];
            let in_use = streams.in_use();
            let at = in_use.iter().position(|stream| Arc::ptr_eq(stream, place));
            frames[at.unwrap()] += 1;
        }
        assert_eq!(frames, [10; 4]);
    }

    #[test]
    fn a_stream_of_another_number_of_shards_is_used_while_it_has_frames() {
        let streams = Streams::new("p", ["a"].into_iter(), 1);
        let before = streams.in_use();
        assert_eq!(before.len(), 1);
        streams.use_those_with_frames(&[(5, 0), (6, 0)]);
        assert!(Arc::ptr_eq(&before, &streams.in_use()));
        streams.use_those_with_frames(&[(5, 2), (6, 0)]);
        assert_eq!(streams.in_use().len(), 2);
        assert_eq!(bytes_of(&streams, &[frame(10)]), [10, 0]);
        streams.use_those_with_frames(&[(5, 0), (6, 0)]);
        assert_eq!(streams.in_use().len(), 1);
    }
}
