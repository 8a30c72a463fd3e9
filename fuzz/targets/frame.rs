//! Hostile frames: any header and any payloads, also with a valid checksum, so that Arrow's reader
//! gets them. Each is refused, or decodes to a batch that is the same after it is encoded and
//! decoded again.
#![no_main]

use std::sync::LazyLock;

use lemonade_fuzz::{DATASETS, FILE, KEY, NO_LIMITS, dataset};
use lemonade_task::batch::Span;
use lemonade_task::cut::{Outside, cut};
use lemonade_task::frame::{Codec, Encoder, Frame, FrameError, decode};
use lemonade_task::parse::Parser;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_last() else {
        return;
    };
    match choice % 4 {
        0 => any_parts(data),
        1 => any_payloads(data, choice),
        _ => damaged(data, choice),
    }
});

/// Header, rows and rejects with a zero byte between them.
fn any_parts(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (header, rows, rejects) = (part(), part().to_vec(), part().to_vec());
    if let Ok(frame) = Frame::from_parts(header, rows.into(), rejects.into(), Some(&KEY)) {
        let again = frame.header(&KEY);
        let again = Frame::from_parts(
            again.as_bytes(),
            frame.rows.clone(),
            frame.rejects.clone(),
            Some(&KEY),
        );
        assert_eq!(again.expect("a frame's own header fits it"), frame);
        let _ = decode(&frame, &DATASETS);
    }
}

/// Bytes as rows and rejects of a frame.
fn any_payloads(data: &[u8], choice: u8) {
    let Some((&at, data)) = data.split_last() else {
        return;
    };
    let (rows, rejects) = data.split_at(data.len() * at as usize / 256);
    arrive(Frame {
        dataset: dataset(choice >> 2).name.as_str().into(),
        definition: dataset(choice >> 2).fingerprint,
        span: Span {
            file_no: 1,
            first_ordinal: 0,
            records: u32::from(choice),
        },
        hash: FILE.hash,
        rows: rows.to_vec().into(),
        rejects: rejects.to_vec().into(),
    });
}

/// A good frame in which some bytes or numbers are changed. The input has, for each change, its
/// place (two bytes) and the new value.
fn damaged(data: &[u8], choice: u8) {
    let frame = &FRAMES[(choice >> 2) as usize % FRAMES.len()];
    let mut rows = frame.rows.to_vec();
    let mut rejects = frame.rejects.to_vec();
    let mut span = frame.span;
    for change in data.chunks_exact(4) {
        let payload = if change[0] & 1 == 0 || rejects.is_empty() {
            &mut rows
        } else {
            &mut rejects
        };
        let at = u16::from_le_bytes([change[1], change[2]]) as usize % (payload.len() + 1);
        let byte = change[3];
        match change[0] >> 1 {
            0 => payload.truncate(at),
            1 => payload.insert(at, byte),
            2 => span.records = u32::from(byte),
            3 => span.first_ordinal = u32::from(byte),
            // Eight-byte numbers at the places of lengths and offsets.
            4..=15 => {
                let at = at & !7;
                let number = (i64::from(byte.cast_signed()) << (change[0] % 57)).to_le_bytes();
                if let Some(eight) = payload.get_mut(at..at + 8) {
                    eight.copy_from_slice(&number);
                }
            }
            _ if at < payload.len() => payload[at] = byte,
            _ => {}
        }
    }
    arrive(Frame {
        dataset: frame.dataset.clone(),
        definition: frame.definition,
        span,
        hash: frame.hash,
        rows: rows.into(),
        rejects: rejects.into(),
    });
}

/// The frame arrives from the queue with a valid checksum.
fn arrive(sent: Frame) {
    let header = sent.header(&KEY);
    let frame = Frame::from_parts(header.as_bytes(), sent.rows, sent.rejects, Some(&KEY));
    let frame = frame.expect("the checksum is right");
    match decode(&frame, &DATASETS) {
        Ok(batch) => {
            assert_eq!(batch.span, frame.span);
            let records = batch.rows.num_rows() + batch.rejects.len();
            assert_eq!(records, batch.span.records as usize);
            let again = decode(&Encoder::default().encode(&batch, Codec::Plain), &DATASETS);
            let again = again.expect("what was decoded can be encoded");
            // Compared as text, because NaN is not equal to itself.
            assert_eq!(format!("{:?}", again.rows), format!("{:?}", batch.rows));
            assert_eq!(again.rejects, batch.rejects);
        }
        Err(FrameError::Damaged(_) | FrameError::Dataset(_)) => {}
    }
}

/// Good frames: of each dataset, compressed and not, with and without rejects.
static FRAMES: LazyLock<Vec<Frame>> = LazyLock::new(|| {
    let mut frames = Vec::new();
    let trip = r#"{"t":"a","n":-1,"f":1.5,"b":true,"at":1,"day":"2024-01-01","w":{"x":1},"u":[]}"#;
    let status = r#"{"vehicle_id":"v","report_time":"2024-01-01T00:00:00Z","status_source":"s","status":"é"}"#;
    for (name, record) in [("trips", trip), ("vehicle_status", status)] {
        let dataset = DATASETS.by_name(name).expect("the dataset is defined");
        for (records, bad, codec) in [
            (1, "", Codec::Plain),
            (3, ",7", Codec::Plain),
            (110, ",7", Codec::Lz4),
        ] {
            let document = format!("[{}{bad}]", vec![record; records].join(","));
            let plan = cut(document.as_bytes(), dataset, NO_LIMITS);
            let plan = plan.expect("the document is right");
            let chunk = &plan.chunks[0];
            let bytes = &document.as_bytes()[chunk.start as usize..chunk.end as usize];
            let batch = Parser::default().parse(dataset, FILE, chunk, bytes, &Outside::default());
            frames.push(Encoder::default().encode(&batch, codec));
        }
    }
    frames
});
