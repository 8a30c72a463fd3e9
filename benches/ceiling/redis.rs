//! Frames through a stream by a plain client over a socket: one thread sends XADD in pipelines,
//! another sends XREADGROUP, XACK and XDEL.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use lemonade_task::frame::{Codec, Encoder, Frame, FrameKey};

use super::Made;
use super::made;
use super::meter::Meter;

/// The stream, and its consumer group.
const KEY: &str = "ceiling";

/// Frames in a round trip: the number that the engine sends at once.
const PIPELINE_FRAMES: usize = 16;

#[derive(Args)]
pub(super) struct Options {
    #[command(flatten)]
    made: Made,
    /// `HOST:PORT`; its stream `ceiling` is deleted
    #[arg(long)]
    addr: String,
    /// Process of the server, for its processor time
    #[arg(long)]
    server_pid: Option<u32>,
}

pub(super) fn measure(options: &Options) -> anyhow::Result<()> {
    let batches = made::batches(&options.made);
    let mut encoder = Encoder::default();
    let frames: Vec<Frame> = batches
        .iter()
        .map(|batch| encoder.encode(batch, Codec::Lz4))
        .collect();
    let mut publisher = Client::connect(&options.addr)?;
    publisher.call(&[b"DEL", KEY.as_bytes()])?;
    publisher.call(&[
        b"XGROUP",
        b"CREATE",
        KEY.as_bytes(),
        b"workers",
        b"0",
        b"MKSTREAM",
    ])?;

    let memory_before = memory_bytes(&mut publisher)?;
    let meter = Meter::start(options.server_pid);
    publish(&mut publisher, &frames)?;
    let words = serde_json::json!({"part": "redis", "stage": "xadd"});
    meter.report(u64::from(options.made.events), &words);
    let memory = memory_bytes(&mut publisher)?.saturating_sub(memory_before);
    consume(&options.addr, frames.len())?;

    let meter = Meter::start(options.server_pid);
    std::thread::scope(|threads| {
        let consumer = threads.spawn(|| consume(&options.addr, frames.len()));
        publish(&mut publisher, &frames)?;
        consumer.join().expect("it returns its errors")
    })?;
    let weight: usize = frames.iter().map(Frame::weight).sum();
    let words = serde_json::json!({
        "part": "redis",
        "stage": "through",
        "frame_bytes_per_event": weight as f64 / f64::from(options.made.events),
        "redis_bytes_per_event": memory as f64 / f64::from(options.made.events),
    });
    meter.report(u64::from(options.made.events), &words);
    publisher.call(&[b"DEL", KEY.as_bytes()])?;
    Ok(())
}

fn publish(client: &mut Client, frames: &[Frame]) -> anyhow::Result<()> {
    for frames in frames.chunks(PIPELINE_FRAMES) {
        for frame in frames {
            let header = frame.header(&FrameKey::new([0; FrameKey::BYTES]));
            let (key, header, rows) = (KEY.as_bytes(), header.as_bytes(), &frame.rows[..]);
            client.write(&[b"XADD", key, b"*", b"h", header, b"rows", rows])?;
        }
        for _ in frames {
            client.read()?;
        }
    }
    Ok(())
}

/// Reads, acks and deletes this number of entries.
fn consume(addr: &str, frames: usize) -> anyhow::Result<()> {
    let mut client = Client::connect(addr)?;
    let key = KEY.as_bytes();
    let mut done = 0;
    while done < frames {
        let reply = client.call(&[
            b"XREADGROUP",
            b"GROUP",
            b"workers",
            b"bare",
            b"COUNT",
            b"4",
            b"BLOCK",
            b"5000",
            b"STREAMS",
            key,
            b">",
        ])?;
        let ids = reply.ids().context("entries within five seconds")?;
        let mut ack: Vec<&[u8]> = vec![b"XACK", key, b"workers"];
        ack.extend(ids.iter().map(Vec::as_slice));
        let mut delete: Vec<&[u8]> = vec![b"XDEL", key];
        delete.extend(ids.iter().map(Vec::as_slice));
        client.write(&ack)?;
        client.write(&delete)?;
        client.read()?;
        client.read()?;
        done += ids.len();
    }
    Ok(())
}

fn memory_bytes(client: &mut Client) -> anyhow::Result<u64> {
    let Reply::Text(info) = client.call(&[b"INFO", b"memory"])? else {
        bail!("INFO gave no text");
    };
    let info = String::from_utf8_lossy(&info).into_owned();
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    Ok(used.context("no used_memory in INFO")?.trim().parse()?)
}

/// A connection that speaks RESP2.
struct Client {
    stream: BufReader<TcpStream>,
    out: Vec<u8>,
}

enum Reply {
    Text(Vec<u8>),
    List(Vec<Reply>),
    Nothing,
}

impl Reply {
    /// The ids of an XREADGROUP reply of one stream: `[[key, [[id, fields], …]]]`.
    fn ids(self) -> Option<Vec<Vec<u8>>> {
        let first = |reply: Reply, at: usize| match reply {
            Reply::List(list) => list.into_iter().nth(at),
            _ => None,
        };
        let Reply::List(entries) = first(first(self, 0)?, 1)? else {
            return None;
        };
        entries
            .into_iter()
            .map(|entry| match first(entry, 0)? {
                Reply::Text(id) => Some(id),
                _ => None,
            })
            .collect()
    }
}

impl Client {
    fn connect(addr: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).with_context(|| addr.to_owned())?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(256 * 1024, stream),
            out: Vec::new(),
        })
    }

    fn call(&mut self, words: &[&[u8]]) -> anyhow::Result<Reply> {
        self.write(words)?;
        self.read()
    }

    /// Adds a command to the buffer, which is sent before the next read.
    fn write(&mut self, words: &[&[u8]]) -> io::Result<()> {
        write!(self.out, "*{}\r\n", words.len())?;
        for word in words {
            write!(self.out, "${}\r\n", word.len())?;
            self.out.extend_from_slice(word);
            self.out.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    fn read(&mut self) -> anyhow::Result<Reply> {
        if !self.out.is_empty() {
            self.stream.get_mut().write_all(&self.out)?;
            self.out.clear();
        }
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        ensure!(line.len() > 2, "the server closed the connection");
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "+" | ":" => Ok(Reply::Text(rest.as_bytes().to_vec())),
            "$" | "*" if rest == "-1" => Ok(Reply::Nothing),
            "$" => {
                let mut text = vec![0; rest.parse::<usize>()? + 2];
                self.stream.read_exact(&mut text)?;
                text.truncate(text.len() - 2);
                Ok(Reply::Text(text))
            }
            "*" => {
                let list = (0..rest.parse::<usize>()?).map(|_| self.read());
                Ok(Reply::List(list.collect::<anyhow::Result<_>>()?))
            }
            _ => bail!("redis said {}", line.trim_end()),
        }
    }
}
