//! Writes one batch as an Arrow IPC stream, and compresses each buffer that is worth it.
//!
//! Arrow's own writer compresses all buffers of a batch or none. Half of the buffers hardly shrink
//! (random identifiers, numbers, the ends of texts) and cost as much time as the others. The format
//! allows that single buffers are not compressed. So a writer learns from one frame which buffers
//! are worth compressing in the next ones.

use std::io::Write as _;

use arrow_array::{Array as _, RecordBatch};
use arrow_buffer::Buffer;
use arrow_data::ArrayData;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};
use arrow_ipc::{
    BodyCompressionBuilder, BodyCompressionMethod, CompressionType, FieldNode, MessageBuilder,
    MessageHeader, MetadataVersion, RecordBatchBuilder,
};
use arrow_schema::{DataType, SchemaRef};
use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;
use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};

use super::codec::Codec;
use super::read::CONTINUATION;

/// Fewest rows of a batch that is compressed. Each buffer is compressed separately, at a fixed
/// cost; with fewer rows, that cost exceeds what compression saves.
pub(super) const COMPRESSED_ROWS_MIN: usize = 100;

/// In one of this many frames, all buffers are compressed, to learn which ones are worth
/// compressing.
const LEARN_EVERY: u32 = 32;

/// A buffer is worth compressing if it shrinks to at most this part of its size. In the built-in
/// datasets, texts with few different values shrink to a third or less and ids to a half;
/// identifiers, places and times keep two thirds or more.
const WORTH_MAX: f64 = 0.6;

/// The format demands that the lengths of heads and buffers are multiples of this many bytes.
const ALIGNMENT: usize = 8;

/// The value in place of a buffer's length if the buffer is not compressed.
const AS_IT_IS: i64 = -1;

/// Most bytes of a body's memory that a writer keeps for the next frame.
const BODY_KEPT_BYTES: usize = 1024 * 1024;

/// Writes batches of one schema, each as a stream.
#[derive(Debug)]
pub(super) struct Writer {
    schema: SchemaRef,
    /// The first message of each stream.
    schema_message: Vec<u8>,
    /// For each buffer, in order: whether it was worth compressing in the last frame that learnt.
    worth: Vec<bool>,
    /// How many frames this writer has compressed.
    compressed: u32,
    /// Holds the body (the batch's buffers) until the length of the head before it is known. One
    /// encoder serves all buffers, because each encoder allocates a table and two blocks.
    encoder: FrameEncoder<Vec<u8>>,
    nodes: Vec<FieldNode>,
    buffers: Vec<arrow_ipc::Buffer>,
}

impl Writer {
    pub(super) fn new(schema: SchemaRef) -> Self {
        let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)
            .expect("the format allows this alignment");
        let mut dictionaries = DictionaryTracker::new(false);
        let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
            &schema,
            &mut dictionaries,
            &options,
        );
        let mut schema_message = Vec::new();
        write_message(&mut schema_message, encoded, &options)
            .expect("writing to memory cannot fail");
        // The smallest size, since the decoder allocates a whole block however small the data is.
        let blocks = FrameInfo::new().block_size(BlockSize::Max64KB);
        Self {
            schema,
            schema_message,
            worth: Vec::new(),
            compressed: 0,
            encoder: FrameEncoder::with_frame_info(blocks, Vec::new()),
            nodes: Vec::new(),
            buffers: Vec::new(),
        }
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Writes a batch, which must have the writer's schema, as a stream.
    pub(super) fn write(&mut self, batch: &RecordBatch, codec: Codec) -> Bytes {
        let is_compressed = codec == Codec::Lz4 && batch.num_rows() >= COMPRESSED_ROWS_MIN;
        let learns = is_compressed && self.compressed.is_multiple_of(LEARN_EVERY);
        if learns {
            self.worth.clear();
        }
        self.compressed = self.compressed.wrapping_add(u32::from(is_compressed));
        for column in batch.columns() {
            let data = column.to_data();
            let (values, nulls) = (length(data.len()), length(data.null_count()));
            self.nodes.push(FieldNode::new(values, nulls));
            each_buffer(&data, |bytes| self.push(bytes, is_compressed, learns));
        }
        let head = self.head(length(batch.num_rows()), is_compressed);
        let stream = self.assemble(head.finished_data());
        self.nodes.clear();
        self.buffers.clear();
        let body = self.encoder.get_mut();
        body.clear();
        body.shrink_to(BODY_KEPT_BYTES);
        stream
    }

    /// Adds a buffer to the body.
    fn push(&mut self, bytes: &[u8], is_compressed: bool, learns: bool) {
        let start = self.encoder.get_ref().len();
        let known = self.worth.get(self.buffers.len());
        if !is_compressed {
            self.encoder.get_mut().extend_from_slice(bytes);
        } else if bytes.is_empty() {
            // The format puts no length before an empty buffer.
        } else if learns || known.is_some_and(|is_worth| *is_worth) {
            self.push_compressed(bytes);
        } else {
            self.push_as_it_is(bytes);
        }
        let body = self.encoder.get_mut();
        let taken = body.len() - start;
        body.resize(body.len().next_multiple_of(ALIGNMENT), 0);
        if learns {
            let is_worth = taken as f64 <= bytes.len() as f64 * WORTH_MAX;
            self.worth.push(is_worth);
        }
        let buffer = arrow_ipc::Buffer::new(length(start), length(taken));
        self.buffers.push(buffer);
    }

    fn push_compressed(&mut self, bytes: &[u8]) {
        const IN_MEMORY: &str = "writing to memory cannot fail";
        let body = self.encoder.get_mut();
        let start = body.len();
        body.extend_from_slice(&length(bytes.len()).to_le_bytes());
        self.encoder.write_all(bytes).expect(IN_MEMORY);
        self.encoder.try_finish().expect(IN_MEMORY);
        let body = self.encoder.get_mut();
        if body.len() - start > size_of::<i64>() + bytes.len() {
            body.truncate(start);
            self.push_as_it_is(bytes);
        }
    }

    fn push_as_it_is(&mut self, bytes: &[u8]) {
        let body = self.encoder.get_mut();
        body.extend_from_slice(&AS_IT_IS.to_le_bytes());
        body.extend_from_slice(bytes);
    }

    /// The head of the batch's message: it holds the places of the buffers.
    fn head(&self, rows: i64, is_compressed: bool) -> FlatBufferBuilder<'static> {
        let mut built = FlatBufferBuilder::new();
        let head = &mut built;
        let compression = is_compressed.then(|| {
            let mut compression = BodyCompressionBuilder::new(head);
            compression.add_method(BodyCompressionMethod::BUFFER);
            compression.add_codec(CompressionType::LZ4_FRAME);
            compression.finish()
        });
        let buffers = head.create_vector(&self.buffers);
        let nodes = head.create_vector(&self.nodes);
        let mut batch = RecordBatchBuilder::new(head);
        batch.add_length(rows);
        batch.add_nodes(nodes);
        batch.add_buffers(buffers);
        if let Some(compression) = compression {
            batch.add_compression(compression);
        }
        let batch = batch.finish();
        let mut message = MessageBuilder::new(head);
        message.add_version(MetadataVersion::V5);
        message.add_header_type(MessageHeader::RecordBatch);
        message.add_bodyLength(length(self.encoder.get_ref().len()));
        message.add_header(batch.as_union_value());
        let message = message.finish();
        head.finish(message, None);
        built
    }

    /// The stream: the message of the schema, the message of the batch, and the mark of the end. It
    /// has no spare capacity, which a queue in this process would hold without counting it.
    fn assemble(&self, head: &[u8]) -> Bytes {
        let body = self.encoder.get_ref();
        let padded = head.len().next_multiple_of(ALIGNMENT);
        let before = CONTINUATION.len() + size_of::<u32>();
        let room = self.schema_message.len() + before + padded + body.len() + before;
        let mut stream = Vec::with_capacity(room);
        stream.extend_from_slice(&self.schema_message);
        stream.extend_from_slice(&CONTINUATION);
        let said = u32::try_from(padded).expect("a head has a few bytes for each buffer");
        stream.extend_from_slice(&said.to_le_bytes());
        stream.extend_from_slice(head);
        stream.resize(stream.len() + padded - head.len(), 0);
        stream.extend_from_slice(body);
        stream.extend_from_slice(&CONTINUATION);
        stream.extend_from_slice(&0_u32.to_le_bytes());
        stream.into()
    }
}

fn length(of: usize) -> i64 {
    i64::try_from(of).expect("memory is smaller")
}

/// The buffers of a column in the order of the format: the bits that mark NULL values (empty if no
/// value is NULL), the end of each value if the type has no fixed width, and the values.
fn each_buffer(data: &ArrayData, mut take: impl FnMut(&[u8])) {
    let part = |buffer: &Buffer, first: usize, count: usize, width: usize| {
        buffer.slice_with_length(first * width, count * width)
    };
    let (first, count) = (data.offset(), data.len());
    match data.nulls() {
        Some(nulls) if nulls.null_count() > 0 => take(&nulls.inner().sliced()),
        _ => take(&[]),
    }
    let values = &data.buffers()[0];
    match data.data_type() {
        DataType::Boolean => take(&values.bit_slice(first, count)),
        DataType::Utf8 | DataType::Binary => {
            // A column without rows may lack the ends.
            if values.is_empty() {
                take(&0_i32.to_le_bytes());
            } else {
                take(&part(values, first, count + 1, size_of::<i32>()));
            }
            take(&data.buffers()[1]);
        }
        fixed => {
            let width = fixed
                .primitive_width()
                .expect("a column's type is one of these");
            take(&part(values, first, count, width));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray,
        TimestampMicrosecondArray, UInt64Array,
    };
    use arrow_ipc::reader::StreamReader;
    use arrow_schema::{Field, Schema};
    use proptest::prelude::*;

    use super::*;

    /// A row with each type that a column may have.
    type Row = (u64, Option<String>, Vec<u8>, Option<i64>, Option<bool>, f64);

    fn batch(rows: &[Row]) -> RecordBatch {
        let ids: UInt64Array = rows.iter().map(|row| Some(row.0)).collect();
        let texts: StringArray = rows.iter().map(|row| row.1.as_deref()).collect();
        let bytes = BinaryArray::from_iter_values(rows.iter().map(|row| &row.2));
        let numbers: Int64Array = rows.iter().map(|row| row.3).collect();
        let times: TimestampMicrosecondArray = rows.iter().map(|row| row.3).collect();
        let booleans: BooleanArray = rows.iter().map(|row| row.4).collect();
        let floats: Float64Array = rows.iter().map(|row| Some(row.5)).collect();
        let columns: [(ArrayRef, bool); 7] = [
            (Arc::new(ids), false),
            (Arc::new(texts), true),
            (Arc::new(bytes), false),
            (Arc::new(numbers), true),
            (Arc::new(times), true),
            (Arc::new(booleans), true),
            (Arc::new(floats), false),
        ];
        let fields: Vec<Field> = columns
            .iter()
            .enumerate()
            .map(|(at, (column, nullable))| {
                Field::new(at.to_string(), column.data_type().clone(), *nullable)
            })
            .collect();
        let columns = columns.into_iter().map(|(column, _)| column).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    fn row() -> impl Strategy<Value = Row> {
        let text = prop::option::of("[a-c]{0,12}|\\PC{0,4}");
        let bytes = prop::collection::vec(any::<u8>(), 0..20);
        let number = prop::option::of(any::<i64>());
        let boolean = prop::option::of(any::<bool>());
        (any::<u64>(), text, bytes, number, boolean, -1e9..1e9)
    }

    /// The batch that Arrow's own reader reads from a stream.
    fn read(stream: &Bytes) -> RecordBatch {
        let mut reader = StreamReader::try_new(stream.as_ref(), None).unwrap();
        let batch = reader.next().unwrap().unwrap();
        assert!(reader.next().is_none());
        batch
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whole batches and slices of them, as the first batch of a writer and as later ones.
        #[test]
        fn the_reader_of_arrow_reads_each_stream(
            rows in prop::collection::vec(row(), 0..COMPRESSED_ROWS_MIN * 3),
            first in any::<prop::sample::Index>(),
        ) {
            let whole = batch(&rows);
            let first = first.index(whole.num_rows() + 1);
            let part = whole.slice(first, whole.num_rows() - first);
            for codec in [Codec::Plain, Codec::Lz4] {
                let mut writer = Writer::new(whole.schema());
                for batch in [&whole, &part, &whole] {
                    prop_assert_eq!(&read(&writer.write(batch, codec)), batch);
                }
            }
        }
    }

    #[test]
    fn a_writer_learns_again_which_buffers_to_compress() {
        let of = |text: fn(u64) -> String| {
            let rows = (0..10_000).map(|at| {
                let text = text(u64::wrapping_mul(at, 0x9e37_79b9_7f4a_7c15));
                (at, Some(text), Vec::new(), None, None, 0.0)
            });
            batch(&rows.collect::<Vec<_>>())
        };
        let random = of(|number| format!("{number:016x}"));
        let alike = of(|_| "0123456789abcdef".to_owned());
        let mut writer = Writer::new(random.schema());
        let sizes: Vec<usize> = (0..=LEARN_EVERY)
            .map(|at| {
                let batch = if at == 0 { &random } else { &alike };
                let stream = writer.write(batch, Codec::Lz4);
                assert_eq!(&read(&stream), batch);
                stream.len()
            })
            .collect();
        let (known, learnt) = (sizes[1], sizes[LEARN_EVERY as usize]);
        assert!(known > learnt + 150_000, "{known} {learnt}");
        assert!(
            sizes[1..LEARN_EVERY as usize]
                .iter()
                .all(|size| *size == known)
        );
    }

    #[test]
    fn a_stream_has_no_spare_capacity() {
        let batch = batch(&[(1, Some("a".to_owned()), vec![2], Some(3), None, 4.0)]);
        let stream = Writer::new(batch.schema()).write(&batch, Codec::Plain);
        let stream: Vec<u8> = stream.into();
        assert_eq!(stream.capacity(), stream.len());
    }
}
