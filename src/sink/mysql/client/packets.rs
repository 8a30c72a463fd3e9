//! Packets: what client and server send each other, each with its length and its number.
//!
//! Knows nothing of what is in them.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// A longer payload is cut into parts of this length, and ends with a shorter one.
const PART_BYTES: usize = 0xFF_FFFF;

/// Length and number of a part.
const HEADER_BYTES: usize = 4;

/// Longest answer that is read. What we ask for is far below; anything longer is no answer to us.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How much is read from the connection at once.
const READ_BYTES: usize = 16 * 1024;

/// What packets go over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A packet to be sent: room for a header, and then the payload, which grows in place.
#[derive(Debug, Default)]
pub(super) struct Packet {
    bytes: Vec<u8>,
}

impl Packet {
    /// Starts a new payload in the memory of the one before.
    pub(super) fn restart(&mut self) -> &mut Vec<u8> {
        self.bytes.clear();
        self.bytes.resize(HEADER_BYTES, 0);
        &mut self.bytes
    }

    /// How many bytes of memory the packet holds.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// One end of a connection.
pub(super) struct Packets {
    stream: BufReader<Box<dyn Stream>>,
    /// The number of the next part. A command starts with 0, and both sides go on counting.
    number: u8,
    /// Whether a packet was begun and not sent to its end: an error, or somebody who did not wait.
    torn: bool,
}

impl std::fmt::Debug for Packets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packets")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Packets {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self {
            stream: BufReader::with_capacity(READ_BYTES, stream),
            number: 0,
            torn: false,
        }
    }

    /// Whether what is sent now would be taken for a packet.
    pub(super) fn is_between_packets(&self) -> bool {
        !self.torn
    }

    /// The stream beneath, to put TLS on. What came after the last packet was sent by someone who
    /// could not wait, perhaps not by the server, and must not count as said under TLS.
    pub(super) fn into_stream(self) -> Result<(Box<dyn Stream>, u8)> {
        if self.stream.buffer().is_empty() {
            return Ok((self.stream.into_inner(), self.number));
        }
        Err(invalid("the server speaks before TLS is there"))
    }

    /// Goes on over another stream, with the next number.
    pub(super) fn resume(stream: Box<dyn Stream>, number: u8) -> Self {
        Self {
            number,
            ..Self::new(stream)
        }
    }

    /// Sends the first packet of a command.
    pub(super) async fn command(&mut self, packet: &mut Packet) -> Result<()> {
        self.number = 0;
        self.write(packet).await
    }

    /// Sends a packet.
    pub(super) async fn write(&mut self, packet: &mut Packet) -> Result<()> {
        self.torn = true;
        let payload = packet.bytes.len() - HEADER_BYTES;
        if payload < PART_BYTES {
            let header = self.header(payload);
            packet.bytes[..HEADER_BYTES].copy_from_slice(&header);
            self.stream.write_all(&packet.bytes).await?;
        } else {
            // Where the last part is full, an empty one says that it was the last.
            let mut rest = &packet.bytes[HEADER_BYTES..];
            loop {
                let (part, others) = rest.split_at(rest.len().min(PART_BYTES));
                let header = self.header(part.len());
                self.stream.write_all(&header).await?;
                self.stream.write_all(part).await?;
                rest = others;
                if part.len() < PART_BYTES {
                    break;
                }
            }
        }
        self.stream.flush().await?;
        self.torn = false;
        Ok(())
    }

    fn header(&mut self, length: usize) -> [u8; HEADER_BYTES] {
        let [low, middle, high, ..] = length.to_le_bytes();
        let number = self.number;
        self.number = number.wrapping_add(1);
        [low, middle, high, number]
    }

    /// The payload of the next packet.
    pub(super) async fn read(&mut self) -> Result<Vec<u8>> {
        let mut payload = Vec::new();
        loop {
            let mut header = [0; HEADER_BYTES];
            self.stream.read_exact(&mut header).await.map_err(ended)?;
            let [low, middle, high, number] = header;
            self.number = number.wrapping_add(1);
            let length = usize::from(low) | usize::from(middle) << 8 | usize::from(high) << 16;
            let start = payload.len();
            if start + length > ANSWER_BYTES_MAX {
                return Err(invalid(
                    "the server's answer is longer than any that was asked for",
                ));
            }
            payload.resize(start + length, 0);
            let part = &mut payload[start..];
            self.stream.read_exact(part).await.map_err(ended)?;
            if length < PART_BYTES {
                return Ok(payload);
            }
        }
    }
}

/// An error that says what happened.
fn ended(error: Error) -> Error {
    if error.kind() == ErrorKind::UnexpectedEof {
        return Error::new(error.kind(), "the server closed the connection");
    }
    error
}

/// What the server sent is not as the protocol has it.
pub(super) fn invalid(problem: &str) -> Error {
    Error::new(ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Packets, Packets) {
        let (one, other) = tokio::io::duplex(1 << 20);
        (Packets::new(Box::new(one)), Packets::new(Box::new(other)))
    }

    #[tokio::test]
    async fn a_packet_of_any_length_arrives_whole() {
        for length in [
            0,
            1,
            PART_BYTES - 1,
            PART_BYTES,
            PART_BYTES + 1,
            2 * PART_BYTES,
        ] {
            let (mut client, mut server) = pair();
            let payload: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let mut packet = Packet::default();
            packet.restart().extend_from_slice(&payload);
            let sent = async {
                client.command(&mut packet).await.unwrap();
                client.number
            };
            let (number, received) = tokio::join!(sent, server.read());
            assert!(received.unwrap() == payload, "{length}");
            assert_eq!(usize::from(number), 1 + length / PART_BYTES);
            assert_eq!(server.number, number, "both count alike");
        }
    }

    #[tokio::test]
    async fn what_is_said_before_tls_is_not_heard_after_it() {
        let (client, mut server) = pair();
        assert!(client.into_stream().is_ok());
        let (mut client, mut early) = pair();
        for _ in 0..2 {
            early
                .write(&mut Packet::default_with(b"hello"))
                .await
                .unwrap();
        }
        client.read().await.unwrap();
        let refused = client.into_stream().err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::InvalidData);
        let closed = server.read().await.unwrap_err();
        assert_eq!(closed.to_string(), "the server closed the connection");
    }

    #[tokio::test]
    async fn an_endless_answer_is_given_up() {
        let (mut client, mut server) = pair();
        let mut packet = Packet::default_with(&vec![0; ANSWER_BYTES_MAX + 1]);
        let ((), read) = tokio::join!(
            async {
                // The reader leaves in the middle of it.
                let _ = server.write(&mut packet).await;
            },
            async {
                let read = client.read().await;
                drop(client);
                read
            }
        );
        assert_eq!(read.unwrap_err().kind(), ErrorKind::InvalidData);
    }

    impl Packet {
        fn default_with(payload: &[u8]) -> Self {
            let mut packet = Self::default();
            packet.restart().extend_from_slice(payload);
            packet
        }
    }
}
