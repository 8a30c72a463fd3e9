//! A batch in transport: encoded as Arrow IPC streams, which any Arrow reader opens.
//!
//! Owns the encoding, and the check that a decoded frame is a valid batch: it has the columns of
//! its dataset, and holds each ordinal of its span once, as a row or as a reject. Knows nothing of
//! brokers.
//!
//! A frame is a header (one line of text), the rows (one stream, which includes its schema) and the
//! rejects (another stream, or nothing). The checksum in the header is keyed: a program that can
//! write into the queue, but does not have the key, cannot make a frame. [`decode`] panics on no
//! bytes, with or without the key.

mod codec;
mod key;
mod read;
mod write;

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;

use crate::batch::{Batch, ContentHash, Reject, RejectCode, Span, provenance};
use crate::dataset::{Datasets, Fingerprint};
pub use codec::Codec;
use key::Checksum;
pub use key::FrameKey;
use read::StreamError;
use write::Writer;

/// An encoded batch: one entry of the queue, and the unit of transport and redelivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The dataset's name.
    pub dataset: Arc<str>,
    /// The fingerprint of the dataset's definition in the process that made the frame.
    pub definition: Fingerprint,
    /// The records that became its rows and rejects.
    pub span: Span,
    /// The identity of the file of the records.
    pub hash: ContentHash,
    /// The rows: an Arrow IPC stream, which includes its schema.
    pub rows: Bytes,
    /// The rejects: an Arrow IPC stream. Empty if no record is a reject.
    pub rejects: Bytes,
}

/// Why a frame cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The bytes are damaged, or not a frame.
    #[error("the frame is damaged: {0}")]
    Damaged(String),
    /// This process does not have the frame's dataset, or has another definition of it.
    #[error("the frame was made with another definition of dataset `{0}` than this process has")]
    Dataset(String),
}

impl Frame {
    /// Its size in a queue, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.rows.len() + self.rejects.len()
    }

    /// The header that accompanies rows and rejects in a queue over a network, as text:
    /// `dataset:definition:file_no:hash:first:records:checksum`. The checksum covers the header
    /// before it, the rows and the rejects.
    #[must_use]
    pub fn header(&self, key: &FrameKey) -> String {
        let provenance = self.provenance();
        let checksum = key.checksum(&provenance, &self.rows, &self.rejects);
        format!("{provenance}:{checksum}")
    }

    /// The frame with this header, these rows and these rejects. Without a key, the checksum is not
    /// compared: nothing of such a frame may be stored.
    ///
    /// # Errors
    /// [`FrameError::Damaged`] if the header is invalid or the checksum differs.
    pub fn from_parts(
        header: &[u8],
        rows: Bytes,
        rejects: Bytes,
        key: Option<&FrameKey>,
    ) -> Result<Self, FrameError> {
        let text = str::from_utf8(header).map_err(|_| damaged("the header is not UTF-8"))?;
        let Header {
            dataset,
            definition,
            span,
            hash,
            checksum: stated,
        } = parse_header(text).ok_or_else(|| damaged("the header is malformed"))?;
        let frame = Self {
            dataset: dataset.into(),
            definition,
            span,
            hash,
            rows,
            rejects,
        };
        let differs = |key: &FrameKey| {
            key.checksum(&frame.provenance(), &frame.rows, &frame.rejects) != stated
        };
        if key.is_some_and(differs) {
            return Err(damaged("the checksum differs"));
        }
        Ok(frame)
    }

    fn provenance(&self) -> String {
        let Span {
            file_no,
            first_ordinal,
            records,
        } = self.span;
        let (dataset, definition) = (&self.dataset, self.definition);
        let hash = u128::from_be_bytes(self.hash);
        format!("{dataset}:{definition}:{file_no}:{hash:032x}:{first_ordinal}:{records}")
    }
}

struct Header<'a> {
    dataset: &'a str,
    definition: Fingerprint,
    span: Span,
    hash: ContentHash,
    checksum: Checksum,
}

fn parse_header(text: &str) -> Option<Header<'_>> {
    let parts: Vec<&str> = text.splitn(8, ':').collect();
    let [
        dataset,
        definition,
        file_no,
        hash,
        first_ordinal,
        records,
        checksum,
    ] = parts[..]
    else {
        return None;
    };
    let bytes16 = |hex| u128::from_str_radix(hex, 16).ok().map(u128::to_be_bytes);
    Some(Header {
        dataset,
        definition: Fingerprint::from_bytes(bytes16(definition)?),
        span: Span {
            file_no: file_no.parse().ok()?,
            first_ordinal: first_ordinal.parse().ok()?,
            records: records.parse().ok()?,
        },
        hash: bytes16(hash)?,
        checksum: Checksum::from_hex(checksum).ok()?,
    })
}

/// Encodes batches. Each thread has its own encoder, which learns which buffers are worth
/// compressing.
#[derive(Debug, Default)]
pub struct Encoder {
    /// One writer for each dataset, by name.
    rows: HashMap<String, Writer>,
    rejects: Option<Writer>,
}

impl Encoder {
    /// Encodes a batch.
    #[must_use]
    pub fn encode(&mut self, batch: &Batch, codec: Codec) -> Frame {
        let (name, schema) = (&batch.dataset.name, batch.rows.schema_ref());
        let writer = match self.rows.get_mut(name) {
            Some(writer) if writer.schema() == schema => writer,
            _ => {
                let writer = self.rows.entry(name.clone());
                writer.insert_entry(Writer::new(schema.clone())).into_mut()
            }
        };
        let rejects = match batch.rejects.as_slice() {
            [] => Bytes::new(),
            rejects => {
                let writer = self
                    .rejects
                    .get_or_insert_with(|| Writer::new(rejects_schema()));
                writer.write(&rejects_to_arrow(rejects), codec)
            }
        };
        Frame {
            dataset: name.as_str().into(),
            definition: batch.dataset.fingerprint,
            span: batch.span,
            hash: batch.hash,
            rows: writer.write(&batch.rows, codec),
            rejects,
        }
    }
}

/// Decodes a frame from [`Encoder::encode`] or from [`Frame::from_parts`].
///
/// # Errors
/// [`FrameError::Dataset`] if `datasets` does not hold the frame's dataset, or holds another
/// definition of it; [`FrameError::Damaged`] if [`Encoder::encode`] cannot have written the rows or
/// rejects.
pub fn decode(frame: &Frame, datasets: &Datasets) -> Result<Batch, FrameError> {
    let other = || FrameError::Dataset(frame.dataset.to_string());
    let dataset = datasets.by_name(&frame.dataset).ok_or_else(other)?;
    if dataset.fingerprint != frame.definition {
        return Err(other());
    }
    let rows = read::decode(&frame.rows, &dataset.schema()).map_err(|error| match error {
        StreamError::Damaged(what) => FrameError::Damaged(what),
        StreamError::OtherShape => other(),
    })?;
    let rejects = if frame.rejects.is_empty() {
        Vec::new()
    } else {
        let rejects = read::decode(&frame.rejects, &rejects_schema());
        rejects_from_arrow(&rejects.map_err(|error| match error {
            StreamError::Damaged(what) => FrameError::Damaged(what),
            StreamError::OtherShape => damaged("its rejects have other columns"),
        })?)?
    };
    check_span(frame.span, &rows, &rejects)?;
    Ok(Batch {
        dataset: Arc::clone(dataset),
        span: frame.span,
        hash: frame.hash,
        rows,
        rejects,
    })
}

/// Checks that each ordinal of the span is a row or a reject, once, in order.
fn check_span(span: Span, rows: &RecordBatch, rejects: &[Reject]) -> Result<(), FrameError> {
    let ids = rows.column(0).as_primitive::<UInt64Type>().values();
    let mut ids = ids.iter().peekable();
    let mut rejects = rejects.iter().peekable();
    let (file_no, ordinals) = (span.file_no, span.ordinals());
    if file_no == 0 || i32::try_from(file_no).is_err() || ordinals.end > 1 << 32 {
        return Err(damaged("its span is invalid"));
    }
    for ordinal in ordinals {
        let is_row = ids.next_if(|id| {
            let (of_file, of_record) = provenance(**id);
            of_file == file_no && u64::from(of_record) == ordinal
        });
        let is_reject = rejects.next_if(|reject| u64::from(reject.ordinal) == ordinal);
        if is_row.is_some() == is_reject.is_some() {
            return Err(damaged(&format!(
                "record {ordinal} is missing, or occurs twice"
            )));
        }
    }
    if ids.next().is_some() || rejects.next().is_some() {
        return Err(damaged("it has records beyond its span"));
    }
    Ok(())
}

fn rejects_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("ordinal", DataType::UInt32, false),
        Field::new("code", DataType::Utf8, false),
        Field::new("field", DataType::Utf8, true),
        Field::new("byte_offset", DataType::UInt64, false),
        Field::new("raw", DataType::Binary, false),
    ]))
}

fn rejects_to_arrow(rejects: &[Reject]) -> RecordBatch {
    let ordinals = rejects.iter().map(|reject| reject.ordinal);
    let codes = rejects.iter().map(|reject| reject.code.as_str());
    let fields: StringArray = rejects
        .iter()
        .map(|reject| reject.field.as_deref())
        .collect();
    let offsets = rejects.iter().map(|reject| reject.byte_offset);
    let raws = rejects.iter().map(|reject| reject.raw.as_slice());
    let columns: [ArrayRef; 5] = [
        Arc::new(UInt32Array::from_iter_values(ordinals)),
        Arc::new(StringArray::from_iter_values(codes)),
        Arc::new(fields),
        Arc::new(UInt64Array::from_iter_values(offsets)),
        Arc::new(BinaryArray::from_iter_values(raws)),
    ];
    RecordBatch::try_new(rejects_schema(), columns.into()).expect("the columns are the schema's")
}

fn rejects_from_arrow(batch: &RecordBatch) -> Result<Vec<Reject>, FrameError> {
    let ordinals = batch.column(0).as_primitive::<UInt32Type>().values();
    let codes = batch.column(1).as_string::<i32>();
    let fields = batch.column(2).as_string::<i32>();
    let offsets = batch.column(3).as_primitive::<UInt64Type>().values();
    let raws = batch.column(4).as_binary::<i32>();
    (0..batch.num_rows())
        .map(|at| {
            let code = RejectCode::parse(codes.value(at));
            Ok(Reject {
                ordinal: ordinals[at],
                code: code.ok_or_else(|| damaged("a reject has an unknown code"))?,
                field: fields.is_valid(at).then(|| fields.value(at).to_owned()),
                byte_offset: offsets[at],
                raw: raws.value(at).to_vec(),
            })
        })
        .collect()
}

fn damaged(what: &str) -> FrameError {
    FrameError::Damaged(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::SourceFile;
    use crate::cut::{ChunkLimits, Outside, cut};
    use crate::parse::Parser;
    use proptest::prelude::*;
    use write::COMPRESSED_ROWS_MIN;

    const KEY: FrameKey = FrameKey::new([7; FrameKey::BYTES]);

    /// A batch of `records` records. Each `nth` record is a reject.
    fn batch(datasets: &Datasets, records: usize, nth: usize) -> Batch {
        let dataset = datasets.by_name("vehicle_status").unwrap();
        let record = |at: usize| {
            if at % nth == nth - 1 {
                return format!("{{\"vehicle_id\":{at}}}");
            }
            format!(
                "{{\"vehicle_id\":\"{at}\",\"report_time\":\"2022-05-05T21:02:34.546Z\",\
                 \"status_source\":\"mobile\",\"status\":\"é\",\"more\":[{at}]}}"
            )
        };
        let records: Vec<_> = (0..records).map(record).collect();
        let document = format!("[{}]", records.join(","));
        let limits = ChunkLimits {
            records: u32::MAX,
            bytes: usize::MAX,
        };
        let plan = cut(document.as_bytes(), dataset, limits).unwrap();
        let mut chunk = plan.chunks[0].clone();
        let bytes = &document.as_bytes()[chunk.start as usize..chunk.end as usize];
        chunk.first_ordinal = 5;
        let file = SourceFile {
            file_no: 3,
            hash: *b"0123456789abcdef",
        };
        Parser::default().parse(dataset, file, &chunk, bytes, &Outside::default())
    }

    fn encode(batch: &Batch, codec: Codec) -> Frame {
        Encoder::default().encode(batch, codec)
    }

    fn datasets() -> Datasets {
        Datasets::new(vec![]).unwrap()
    }

    #[test]
    fn a_decoded_batch_equals_the_encoded_one() {
        for (records, nth) in [
            (1, 1),
            (1, 2),
            (3, 2),
            (COMPRESSED_ROWS_MIN * 2, 7),
            (2_000, 1),
        ] {
            let datasets = datasets();
            let batch = batch(&datasets, records, nth);
            for codec in [Codec::Plain, Codec::Lz4] {
                let frame = encode(&batch, codec);
                assert_eq!(frame.rejects.is_empty(), batch.rejects.is_empty());
                let header = frame.header(&KEY);
                let again = Frame::from_parts(
                    header.as_bytes(),
                    frame.rows.clone(),
                    frame.rejects.clone(),
                    Some(&KEY),
                );
                let again = again.unwrap();
                assert_eq!(again, frame);
                assert_eq!(decode(&again, &datasets).unwrap(), batch);
            }
        }
    }

    #[test]
    fn a_frame_without_the_key_is_refused() {
        let frame = encode(&batch(&datasets(), 3, 2), Codec::Plain);
        let other_key = FrameKey::new([8; FrameKey::BYTES]);
        let provenance = frame.provenance();
        let headers = [
            frame.header(&other_key),
            // A checksum of releases without a key: half as long, with another hash.
            format!("{provenance}:{:032x}", 1),
            format!("{provenance}:{:064x}", 1),
            format!("{provenance}:"),
            provenance.clone(),
        ];
        let read = |header: &str, key: &FrameKey| {
            let (rows, rejects) = (frame.rows.clone(), frame.rejects.clone());
            Frame::from_parts(header.as_bytes(), rows, rejects, Some(key))
        };
        for header in &headers {
            let refused = read(header, &KEY);
            assert!(matches!(refused, Err(FrameError::Damaged(_))), "{header}");
        }
        assert_eq!(read(&headers[0], &other_key).unwrap(), frame);
        assert!(!format!("{KEY:?}").contains('7'));
    }

    #[test]
    fn large_frames_are_compressed() {
        let batch = batch(&datasets(), 1_000, 10_000);
        let (plain, lz4) = (encode(&batch, Codec::Plain), encode(&batch, Codec::Lz4));
        assert!(
            lz4.weight() * 2 < plain.weight(),
            "{} of {}",
            lz4.weight(),
            plain.weight()
        );
    }

    #[test]
    fn a_header_is_text() {
        let frame = encode(&batch(&datasets(), 2, 2), Codec::Plain);
        let header = frame.header(&KEY);
        let expected = "vehicle_status:7f09098aaf6a01760340d5295912e479:3:\
                        30313233343536373839616263646566:5:2:";
        assert!(header.starts_with(expected), "{header}");
        let of_another_file = Frame {
            hash: [0; 16],
            ..frame.clone()
        };
        let by_another_definition = Frame {
            definition: Fingerprint::default(),
            ..frame
        };
        for other in [of_another_file, by_another_definition] {
            assert_ne!(
                header.rsplit(':').next(),
                other.header(&KEY).rsplit(':').next()
            );
        }
    }

    #[test]
    fn a_frame_of_another_definition_is_refused() {
        let frame = Frame {
            definition: Fingerprint::default(),
            ..encode(&batch(&datasets(), 2, 2), Codec::Plain)
        };
        let refused = decode(&frame, &datasets());
        assert!(matches!(refused, Err(FrameError::Dataset(name)) if name == "vehicle_status"));
    }

    #[test]
    fn a_frame_with_a_false_span_is_refused() {
        let datasets = datasets();
        let frame = encode(&batch(&datasets, 4, 2), Codec::Plain);
        let span = frame.span;
        let lies = [
            Span { file_no: 4, ..span },
            Span { file_no: 0, ..span },
            Span {
                first_ordinal: 4,
                ..span
            },
            Span {
                first_ordinal: u32::MAX,
                ..span
            },
            Span { records: 3, ..span },
            Span { records: 5, ..span },
        ];
        for span in lies {
            let lie = Frame {
                span,
                ..frame.clone()
            };
            assert!(
                matches!(decode(&lie, &datasets), Err(FrameError::Damaged(_))),
                "{span:?}"
            );
        }
        let lie = Frame {
            rejects: Bytes::new(),
            ..frame
        };
        assert!(matches!(
            decode(&lie, &datasets),
            Err(FrameError::Damaged(_))
        ));
    }

    #[test]
    fn a_frame_with_other_columns_is_refused() {
        let frame = encode(&batch(&datasets(), 1, 2), Codec::Plain);
        let other = toml::from_str(
            "name = 'vehicle_status'\ncolumns = [{name = 'vehicle_id', type = 'text'}]",
        );
        let datasets = Datasets::new(vec![other.unwrap()]).unwrap();
        assert!(matches!(
            decode(&frame, &datasets),
            Err(FrameError::Dataset(_))
        ));
        let unknown = Frame {
            dataset: "other".into(),
            ..frame
        };
        assert!(matches!(
            decode(&unknown, &datasets),
            Err(FrameError::Dataset(_))
        ));
    }

    /// Changes each byte of a frame, and each word of eight bytes, to a number that is invalid as
    /// an offset or a length: beyond the end, negative, or huge. The checksum is correct.
    #[test]
    fn a_forged_frame_with_a_correct_checksum_causes_no_panic() {
        const NUMBERS: [i64; 7] = [-1, 0, 7, 1 << 31, 1 << 40, i64::MIN, i64::MAX];
        let datasets = datasets();
        for (records, codec) in [(4, Codec::Plain), (COMPRESSED_ROWS_MIN * 2, Codec::Lz4)] {
            let frame = encode(&batch(&datasets, records, 3), codec);
            let (mut refused, mut tried) = (0, 0);
            let mut arrives = |rows: Vec<u8>, rejects: Vec<u8>| {
                let sent = Frame {
                    rows: rows.into(),
                    rejects: rejects.into(),
                    ..frame.clone()
                };
                let header = sent.header(&KEY);
                let frame =
                    Frame::from_parts(header.as_bytes(), sent.rows, sent.rejects, Some(&KEY))
                        .unwrap();
                tried += 1;
                refused += usize::from(decode(&frame, &datasets).is_err());
            };
            for at in 0..frame.rows.len() {
                let mut rows = frame.rows.to_vec();
                rows[at] ^= 0x81;
                arrives(rows.clone(), frame.rejects.to_vec());
                rows.truncate(at);
                arrives(rows, frame.rejects.to_vec());
            }
            for number in NUMBERS {
                for at in (0..frame.rows.len() - 8).step_by(8) {
                    let mut rows = frame.rows.to_vec();
                    rows[at..at + 8].copy_from_slice(&number.to_le_bytes());
                    arrives(rows, frame.rejects.to_vec());
                }
                for at in (0..frame.rejects.len() - 8).step_by(8) {
                    let mut rejects = frame.rejects.to_vec();
                    rejects[at..at + 8].copy_from_slice(&number.to_le_bytes());
                    arrives(frame.rows.to_vec(), rejects);
                }
            }
            assert!(refused > tried / 2, "{refused} of {tried}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_frame_is_refused(
            part in 0_usize..3, at in any::<prop::sample::Index>(), bit in 0_u8..8,
            cut_off in any::<bool>(),
        ) {
            let frame = encode(&batch(&datasets(), 6, 2), Codec::Lz4);
            let (header, rows, rejects) = (frame.header(&KEY), &frame.rows, &frame.rejects);
            let mut parts = [header.into_bytes(), rows.to_vec(), rejects.to_vec()];
            let damaged = &mut parts[part];
            let at = at.index(damaged.len());
            if cut_off { damaged.truncate(at) } else { damaged[at] ^= 1 << bit }
            let [header, rows, rejects] = parts;
            match Frame::from_parts(&header, rows.into(), rejects.into(), Some(&KEY)) {
                Err(FrameError::Damaged(_)) => {}
                // The damage may turn the checksum into the same number in upper case or with a
                // sign.
                Ok(same) => prop_assert!(part == 0 && same == frame),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn any_header_is_read_without_a_panic(header in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(Frame::from_parts(&header, Bytes::new(), Bytes::new(), Some(&KEY)).is_err());
        }
    }
}
