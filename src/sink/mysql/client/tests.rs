//! The client before a server whose answers are written down beforehand. Real servers are those of
//! the suite; this has what they do not do, or not in this order.

use mysql_common::constants::ColumnType;

use super::*;

const OLD: CapabilityFlags = CapabilityFlags::CLIENT_PROTOCOL_41;
const NEW: CapabilityFlags = OLD.union(CapabilityFlags::CLIENT_DEPRECATE_EOF);

/// `OK`, with so many affected rows.
fn ok(affected: u8) -> Vec<u8> {
    vec![0x00, affected, 0, 2, 0, 0, 0]
}

fn error(code: u16) -> Vec<u8> {
    [&[0xFF][..], &code.to_le_bytes(), b"#HY000no"].concat()
}

fn end_of_file() -> Vec<u8> {
    vec![0xFE, 0, 0, 2, 0]
}

/// The end of rows as newer servers have it: `OK` under another number.
fn end_of_rows() -> Vec<u8> {
    vec![0xFE, 0, 0, 2, 0, 0, 0]
}

fn definition() -> Vec<u8> {
    let mut packet = Vec::new();
    Column::new(ColumnType::MYSQL_TYPE_VAR_STRING)
        .with_name(b"a")
        .serialize(&mut packet);
    packet
}

/// A client that will read these answers, and the server that has given them.
async fn before(capabilities: CapabilityFlags, answers: &[Vec<u8>]) -> (Client, Packets) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let mut server = Packets::new(Box::new(theirs));
    for answer in answers {
        let mut packet = Packet::default();
        packet.restart().extend_from_slice(answer);
        server.write(&mut packet).await.unwrap();
    }
    let client = Client {
        packets: Packets::new(Box::new(ours)),
        capabilities,
        bulk: true,
        packet: Packet::default(),
        unanswered: 0,
        early: VecDeque::new(),
    };
    (client, server)
}

#[tokio::test]
async fn rows_of_older_and_newer_servers_are_read() {
    let row = vec![2, b'4', b'2'];
    let old = [
        vec![1],
        definition(),
        end_of_file(),
        row.clone(),
        row.clone(),
        end_of_file(),
        ok(7),
    ];
    let new = [
        vec![1],
        definition(),
        row.clone(),
        row,
        end_of_rows(),
        ok(7),
    ];
    for (capabilities, answers) in [(OLD, &old[..]), (NEW, &new[..])] {
        let (mut client, _server) = before(capabilities, answers).await;
        assert_eq!(client.query::<u64>("SELECT a").await.unwrap(), [42, 42]);
        assert_eq!(client.run("DELETE").await.unwrap().affected, 7);
    }
}

#[tokio::test]
async fn a_row_that_does_not_fit_costs_no_connection() {
    let answers = [
        vec![1],
        definition(),
        vec![2, b'n', b'o'],
        vec![1, b'1'],
        end_of_rows(),
        ok(7),
    ];
    let (mut client, _server) = before(NEW, &answers).await;
    let unfit = client.query::<u64>("SELECT a").await.unwrap_err();
    assert!(matches!(unfit, Error::Unfit { row: 0 }), "{unfit}");
    assert_eq!(client.run("DELETE").await.unwrap().affected, 7);
}

#[tokio::test]
async fn outcomes_come_in_the_order_of_the_statements_whatever_is_asked_between() {
    let answers = [ok(1), error(1062), ok(3), ok(9)];
    let (mut client, _server) = before(NEW, &answers).await;
    let statement = Statement { id: 1 };
    for _ in 0..3 {
        let write = |values: &mut Values<'_>| values.unsigned(1);
        client
            .send(statement, &[Type::UNSIGNED], 1, write)
            .await
            .unwrap();
    }
    assert_eq!(client.outcome().await.unwrap().affected, 1);
    assert_eq!(client.run("SELECT").await.unwrap().affected, 9);
    let refused = client.outcome().await.unwrap_err();
    assert!(
        matches!(&refused, Error::Server(error) if error.code == 1062 && error.state == "HY000")
    );
    assert_eq!(client.outcome().await.unwrap().affected, 3);
}

#[tokio::test]
async fn what_is_forgotten_answers_nothing_later() {
    let (mut client, _server) = before(NEW, &[ok(1), error(1213), ok(9)]).await;
    for _ in 0..2 {
        let write = |values: &mut Values<'_>| values.null();
        client
            .send(Statement { id: 1 }, &[Type::BYTES], 1, write)
            .await
            .unwrap();
    }
    client.forget().await.unwrap();
    assert_eq!(client.run("ROLLBACK").await.unwrap().affected, 9);
    assert!(client.early.is_empty());
}

/// A server may ask for any file of ours in answer to any statement. It gets none.
#[tokio::test]
async fn a_file_that_was_not_offered_is_not_sent() {
    let wanted = [&[0xFB][..], b"/etc/passwd"].concat();
    let (mut client, _server) = before(NEW, std::slice::from_ref(&wanted)).await;
    let refused = client.run("DELETE").await.unwrap_err();
    assert!(matches!(refused, Error::Io(_)), "{refused}");
    // Nor does the name count where a file was offered: what is sent is what we have made.
    let (mut client, mut server) = before(NEW, &[wanted, ok(1)]).await;
    let done = client.load_data("LOAD DATA", b"made", 3).await.unwrap();
    assert_eq!(done.affected, 1);
    for sent in [&b"\x03LOAD DATA"[..], b"mad", b"e", b""] {
        assert_eq!(server.read().await.unwrap(), sent);
    }
}
