//! Clauses about erased records: what is removed, and that no commit brings it back.

use lemonade_task::batch::{RejectCode, row_id};
use lemonade_task::sink::{Blank, Standing};

use super::fixture::{Fixture, Target, batch, event, events, new_file, reject, span};

/// A frame that is delivered again after an erasure adds nothing, in any cut.
pub async fn no_commit_brings_an_erased_record_back(target: Target) {
    let fixture = Fixture::new(target).await;
    let file_no = fixture.file("vehicle_events", 3).await;
    let dataset = fixture.dataset("vehicle_events").clone();
    let rows = [(0, event(0)), (1, event(1))].into();
    let rejected = vec![reject(2, RejectCode::WrongType)];
    let whole = batch(&dataset, span(file_no, 0, 3), &rows, rejected.clone());
    fixture.commit(std::slice::from_ref(&whole)).await;
    fixture.sink.settle(&[file_no]).await.unwrap();
    let erase = async |ordinal: u32| {
        let id = row_id(file_no, ordinal);
        let erasure = fixture.sink.erase(id, &fixture.datasets).await.unwrap();
        assert!(erasure.superseded.is_empty());
        erasure.was
    };
    assert_eq!(erase(1).await, Standing::Row);
    assert_eq!(erase(2).await, Standing::Reject);
    assert_eq!(erase(2).await, Standing::Erased);
    assert_eq!(fixture.sink.erased(file_no).await.unwrap(), [1, 2]);

    // All of it, and each erased record alone: then no row of the frame is there.
    let last = batch(&dataset, span(file_no, 2, 1), &[].into(), rejected);
    for batches in [
        vec![whole.clone()],
        vec![events(&fixture, file_no, 1..2)],
        vec![last],
        vec![whole.clone(), whole],
    ] {
        let committed = fixture.commit(&batches).await;
        assert_eq!(committed.rows, 0);
        let audit = fixture.sink.audit(&dataset, &[file_no]).await.unwrap()[0];
        assert_eq!((audit.rows, audit.rejects, audit.erased), (1, 0, 2));
        assert_eq!((audit.stored(), audit.doubled), (3, 0));
    }
    for (ordinal, standing) in [
        (0, Standing::Row),
        (1, Standing::Erased),
        (2, Standing::Erased),
    ] {
        let id = row_id(file_no, ordinal);
        assert_eq!(fixture.sink.standing(&dataset, id).await.unwrap(), standing);
    }
    // With its file, the mark is removed.
    fixture
        .sink
        .remove(file_no, &fixture.datasets)
        .await
        .unwrap();
    assert_eq!(
        fixture.number("SELECT COUNT(*) FROM ingest_erased").await,
        0
    );
}

/// The ledger says which bytes stand for a content, and nothing is erased in a file that is not settled.
pub async fn the_bytes_of_erased_records_are_known(target: Target) {
    let fixture = Fixture::new(target).await;
    let file = new_file("vehicle_events", 2);
    let file_no = fixture.register(std::slice::from_ref(&file)).await.unwrap()[0].file_no;
    let content = fixture.adopt(file_no).await;
    let id = row_id(file_no, 0);
    let refused = fixture.sink.erase(id, &fixture.datasets).await.unwrap_err();
    assert!(refused.to_string().contains("not settled"), "{refused}");
    fixture.commit(&[events(&fixture, file_no, 0..2)]).await;
    fixture.sink.settle(&[file_no]).await.unwrap();
    assert!(
        fixture
            .sink
            .known_bytes(&[content])
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(fixture.sink.with_content(content).await.unwrap(), [file_no]);
    fixture.sink.erase(id, &fixture.datasets).await.unwrap();

    let entry = async || {
        let numbers = file_no..file_no + 1;
        let files = fixture.sink.files(numbers, None, 1).await.unwrap();
        files.into_iter().next().unwrap()
    };
    let erased = entry().await.erased;
    assert_eq!(erased.stand_ins, [(content, file.bytes)]);
    assert_eq!((erased.is_blank, erased.blank()), (Some(false), None));
    let blank = Blank {
        content,
        hash: [7; 16],
        bytes: 12,
    };
    fixture.sink.begin_blank(blank).await.unwrap();
    fixture.sink.begin_blank(blank).await.unwrap();
    assert_eq!(entry().await.erased.stand_ins.len(), 2);
    fixture.sink.end_blank(blank, &[file_no]).await.unwrap();
    fixture.sink.end_blank(blank, &[file_no]).await.unwrap();
    let file = entry().await;
    assert_eq!(file.erased.blank(), Some([7; 16]));
    assert!(file.has_bytes(content) && file.has_bytes([7; 16]) && !file.has_bytes([8; 16]));
    assert_eq!(file.sizes(), [file.entry.bytes, 12]);
    for hash in [content, [7; 16]] {
        let known = fixture.sink.known_bytes(&[[9; 16], hash]).await.unwrap();
        assert_eq!(known.len(), 1);
        assert_eq!((known[0].blank, known[0].is_settled), (blank, true));
    }
}
