//! Tests with servers that violate the protocol, or attack: each must end in an error without a
//! panic.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::errors::Class;
use super::hosts::Hosts;
use super::login::{connect, must_be_watched};
use super::options::{KEEPALIVE, options};
use super::pool::Pool;

/// How long a server waits for a packet before it ends the connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// A server that sends the first bytes at once, and each further piece after a packet of the
/// client. Ends with the connection, and returns the packets of the client.
fn server(sends: Vec<Vec<u8>>) -> (String, JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut received = Vec::new();
        for bytes in sends {
            // The client has closed the connection: no further packet will arrive.
            if client.write_all(&bytes).is_err() {
                break;
            }
            let mut header = [0; 4];
            if client.read_exact(&mut header).is_err() {
                break;
            }
            let mut packet = vec![0; u32::from_le_bytes(header) as usize & 0xff_ffff];
            if client.read_exact(&mut packet).is_err() {
                break;
            }
            received.push(packet);
        }
        received
    });
    (format!("mysql://u:secret@127.0.0.1:{port}/d"), serving)
}

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let header = payload.len() as u32 | u32::from(sequence) << 24;
    [&header.to_le_bytes(), payload].concat()
}

fn greeting(method: &str) -> Vec<u8> {
    let mut payload = b"\x0a8.0.0\0\x01\0\0\0saltsalt\0".to_vec();
    // Capabilities: 4.1 protocol, transactions, secure connection, plugins, database; status;
    // length of the salt.
    payload.extend_from_slice(&[0x08, 0xa2, 45, 2, 0, 0x08, 0, 21]);
    payload.extend_from_slice(&[0; 10]);
    payload.extend_from_slice(b"saltsaltsalt\0");
    payload.extend_from_slice(method.as_bytes());
    payload.push(0);
    packet(0, &payload)
}

fn switch(sequence: u8, method: &str, salt: &[u8]) -> Vec<u8> {
    packet(
        sequence,
        &[b"\xfe", method.as_bytes(), b"\0", salt].concat(),
    )
}

fn key(der: &[u8]) -> Vec<u8> {
    let pem = BASE64_STANDARD.encode(der);
    format!("\x01-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n").into_bytes()
}

/// An RSA public key with these numbers.
fn rsa(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let tagged = |tag: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &length[..], content].concat()
    };
    let numbers = [tagged(2, modulus), tagged(2, exponent)].concat();
    let bits = [&[0][..], &tagged(0x30, &numbers)].concat();
    tagged(0x30, &[tagged(0x30, &[]), tagged(3, &bits)].concat())
}

const OK: [u8; 7] = [0, 0, 0, 2, 0, 0, 0];
const SALT: &[u8] = b"saltsaltsaltsaltsalt\0";
const SHA2: &str = "caching_sha2_password";
const NATIVE: &str = "mysql_native_password";

/// The packets of a login with a public key, up to the key.
fn asked_for_key(key: &[u8]) -> Vec<Vec<u8>> {
    vec![greeting(SHA2), packet(2, &[1, 4]), packet(4, key)]
}

/// The packets of a whole login and of the answers to the statements that set up a session, and
/// then `reply`.
fn logged_in(reply: Vec<u8>) -> Vec<Vec<u8>> {
    let mut sends = vec![greeting(NATIVE), packet(2, &OK)];
    sends.extend(std::iter::repeat_n(packet(1, &OK), 3));
    sends.push(reply);
    sends
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hostile_server_sends_is_an_error() {
    let huge = [0xff, 0xff, 0xff, 0, 10];
    let escape = b"\xff\x15\x04#28000\x1b[2J\x1b]0;title\x07denied";
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("nothing", vec![vec![]]),
        ("an empty greeting", vec![packet(0, &[])]),
        ("half a greeting", vec![greeting(SHA2)[..20].to_vec()]),
        (
            "a greeting cut short",
            vec![packet(0, &greeting(SHA2)[4..24])],
        ),
        (
            "a greeting of another protocol",
            vec![packet(0, b"\x095.0\0")],
        ),
        (
            "a greeting with a wrong number",
            vec![packet(7, &greeting(SHA2)[4..])],
        ),
        ("16 MiB that do not come", vec![huge.to_vec()]),
        ("an error as greeting", vec![packet(0, escape)]),
        (
            "an error with escapes",
            vec![greeting(SHA2), packet(2, escape)],
        ),
        (
            "an error cut short",
            vec![greeting(SHA2), packet(2, b"\xff")],
        ),
        ("an empty reply", vec![greeting(SHA2), packet(2, &[])]),
        (
            "a reply with a wrong number",
            vec![greeting(SHA2), packet(9, &OK)],
        ),
        (
            "an unknown method",
            vec![greeting(SHA2), switch(2, "other", SALT)],
        ),
        ("half of a method", vec![greeting(SHA2), packet(2, &[1])]),
        (
            "the oldest method",
            vec![greeting(NATIVE), packet(2, &[0xfe])],
        ),
        (
            "a switch without salt",
            vec![
                greeting(NATIVE),
                switch(2, SHA2, b""),
                packet(4, &[1, 4]),
                packet(6, &key(&rsa(&[0xff; 256], &[3]))),
            ],
        ),
        ("a second switch", {
            let second = switch(4, NATIVE, SALT);
            vec![greeting(SHA2), switch(2, NATIVE, SALT), second]
        }),
        ("parsec without its salt", {
            vec![
                greeting(NATIVE),
                switch(2, "parsec", b"short"),
                packet(4, b"P"),
            ]
        }),
        ("parsec with a salt of another length", {
            let more = packet(4, &[b"P\0", &[7; 18][..]].concat());
            vec![greeting(NATIVE), switch(2, "parsec", b"short"), more]
        }),
        ("no key", asked_for_key(&[])),
        ("an empty key", asked_for_key(&[1])),
        ("no PEM", asked_for_key(b"\x01key")),
        (
            "no base64",
            asked_for_key(b"\x01-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----"),
        ),
        ("no DER", asked_for_key(&key(b""))),
        ("another DER", asked_for_key(&key(b"\x02\x01\x01"))),
        (
            "a length beyond the key",
            asked_for_key(&key(b"\x30\x84\xff\xff\xff\xff")),
        ),
        ("a length of no bytes", asked_for_key(&key(b"\x30\xff"))),
        ("a short key", asked_for_key(&key(&rsa(&[0xff; 16], &[3])))),
        ("a key of zero", asked_for_key(&key(&rsa(&[0], &[0])))),
        (
            "a key cut short",
            asked_for_key(&key(&rsa(&[0xff; 256], &[3])[..100])),
        ),
        (
            "columns without end",
            logged_in(packet(1, &[0xfe, 255, 255, 255, 255, 255, 255, 255, 255])),
        ),
        (
            "half a column",
            logged_in([packet(1, &[1]), packet(2, &[3, b'd', b'e'])].concat()),
        ),
        (
            "an empty column",
            logged_in([packet(1, &[1]), packet(2, &[])].concat()),
        ),
        ("an answer without its number", logged_in(packet(1, &[]))),
        (
            "a file that was not offered",
            logged_in(packet(1, b"\xfb/etc/passwd")),
        ),
    ];
    for (what, sends) in cases {
        let (url, serving) = server(sends);
        let pool = Pool::new(Arc::new(Hosts::new(&url, None).unwrap()), 1);
        let opened = pool.on_session("connecting", async |_| Ok(())).await;
        let fault = opened
            .err()
            .unwrap_or_else(|| panic!("{what} was accepted"));
        let shown = crate::telemetry::logging::shown(&fault.to_string()).into_owned();
        assert!(!shown.contains(['\x1b', '\x07']), "{what}: {shown}");
        assert!(!shown.contains("secret"), "{what}: {shown}");
        serving.join().unwrap();
    }
}

/// In a login to another machine without TLS, the password is never sent encrypted with a public
/// key. Other login methods work. Both hold for any greeting.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_over_plain_tcp_sends_no_password_under_a_public_key() {
    type Case = (&'static str, (Vec<Vec<u8>>, Option<usize>));
    let set_up = || std::iter::repeat_n(packet(1, &OK), 3);
    let works = |mut sends: Vec<Vec<u8>>| {
        sends.extend(set_up());
        (sends, None)
    };
    let cases: Vec<Case> = vec![
        ("native", works(vec![greeting(NATIVE), packet(2, &OK)])),
        ("no password", works(vec![greeting(SHA2), packet(2, &OK)])),
        ("native by a switch", {
            works(vec![
                greeting(SHA2),
                switch(2, NATIVE, SALT),
                packet(4, &OK),
            ])
        }),
        ("parsec", {
            let more = packet(4, &[b"P\0", &[7; 18][..]].concat());
            works(vec![
                greeting(NATIVE),
                switch(2, "parsec", &[1; 32]),
                more,
                packet(6, &OK),
            ])
        }),
        (
            "a key is asked for",
            (asked_for_key(&key(&rsa(&[0xff; 256], &[3]))), Some(1)),
        ),
        ("a key is sent at once", {
            let asked = asked_for_key(&key(&rsa(&[0xff; 256], &[3])));
            (vec![greeting(SHA2), asked[1..].concat()], Some(1))
        }),
        (
            "the password is known",
            (vec![greeting(SHA2), packet(2, &[1, 3])], Some(1)),
        ),
        (
            "a switch",
            (
                vec![greeting(NATIVE), switch(2, SHA2, SALT), packet(4, &[1, 4])],
                Some(1),
            ),
        ),
        ("a switch to the older method", {
            let switched = switch(2, "sha256_password", SALT);
            (
                vec![greeting(NATIVE), switched, packet(4, &[1, 4])],
                Some(1),
            )
        }),
    ];
    for (what, (sends, refused_after)) in cases {
        let (url, serving) = server(sends);
        let access = options(&url).unwrap().remove(0);
        let connected = connect(&access.opts, KEEPALIVE).await;
        match (connected, refused_after) {
            (Ok(conn), None) => drop(conn),
            (Err(error), Some(packets)) => {
                let failure = super::errors::Failure::from(error);
                assert!(
                    matches!(failure.class(), Class::Fatal(_)),
                    "{what}: {failure}"
                );
                let received = serving.join().unwrap();
                assert_eq!(received.len(), packets, "{what}: {received:?}");
                let has_password = |packet: &Vec<u8>| packet.windows(6).any(|six| six == b"secret");
                assert!(!received.iter().any(has_password), "{what}");
            }
            (Ok(_), Some(_)) => panic!("{what} was accepted"),
            (Err(error), None) => panic!("{what}: {error}"),
        }
    }
}

#[test]
fn logins_that_could_give_the_password_away_are_watched() {
    let here = [
        "localhost",
        "LOCALHOST",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "::ffff:127.0.0.1",
    ];
    let elsewhere = [
        "db.example",
        "localhost.example",
        "10.0.0.1",
        "0.0.0.0",
        "fe80::1",
        "::ffff:10.0.0.1",
    ];
    for host in here {
        assert!(!must_be_watched(host, false, false), "{host}");
    }
    for host in elsewhere {
        assert!(must_be_watched(host, false, false), "{host}");
        assert!(!must_be_watched(host, true, false), "{host}: TLS");
        assert!(!must_be_watched(host, false, true), "{host}: allowed");
    }
}
