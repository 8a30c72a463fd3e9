//! A stream of xz. Each of its blocks says how much memory it takes, which is known only while the
//! stream is read: the stream begins with no memory, and takes room for each block that needs more.

use std::io::{self, BufRead, Read};

use liblzma::stream::{Action, Error, Status, Stream, TELL_UNSUPPORTED_CHECK};

use crate::content::format::Compression;
use crate::content::room::{TakenWindow, Windows};

/// One stream: an xz file has one or several of them.
pub(super) struct XzStream<'a, I> {
    input: I,
    stream: Stream,
    has_ended: bool,
    windows: &'a Windows,
    /// The room of the largest block so far.
    window: Option<TakenWindow>,
}

impl<'a, I> XzStream<'a, I> {
    pub(super) fn new(input: I, windows: &'a Windows) -> io::Result<Self> {
        Ok(Self {
            input,
            // The smallest limit. A check that the decoder cannot verify is an error.
            stream: Stream::new_stream_decoder(1, TELL_UNSUPPORTED_CHECK)?,
            has_ended: false,
            windows,
            window: None,
        })
    }

    /// The input behind the stream.
    pub(super) fn into_input(self) -> I {
        self.input
    }

    /// Takes the memory that the current block needs.
    fn take_memory(&mut self) -> io::Result<()> {
        let bytes = memory_needed(&mut self.stream);
        // Returned before it waits: two streams that hold a part and wait for more would wait for
        // ever.
        self.window = None;
        let window = self.windows.take_for(Compression::Xz, bytes);
        self.window = Some(window.map_err(io::Error::other)?);
        Ok(())
    }
}

/// The memory that the current block needs, in bytes: the smallest limit that the decoder accepts.
/// It becomes the limit.
fn memory_needed(stream: &mut Stream) -> u64 {
    // A block has at most 4 GiB of dictionary, and each filter takes some KiB.
    let (mut too_little, mut enough) = (0_u64, 1 << 40);
    while enough - too_little > 1 {
        let limit = too_little.midpoint(enough);
        match stream.set_memlimit(limit) {
            Ok(()) => enough = limit,
            Err(_) => too_little = limit,
        }
    }
    enough
}

impl<I: BufRead> Read for XzStream<'_, I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.has_ended && !buffer.is_empty() {
            let stored = self.input.fill_buf()?;
            let is_last = stored.is_empty();
            let before = (self.stream.total_in(), self.stream.total_out());
            let processed = self.stream.process(stored, buffer, Action::Run);
            let consumed = self.stream.total_in() - before.0;
            let made = self.stream.total_out() - before.1;
            self.input.consume(in_memory(consumed));
            match processed {
                Ok(Status::StreamEnd) => self.has_ended = true,
                Ok(_) if consumed == 0 && made == 0 && is_last => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(_) => {}
                Err(Error::MemLimit) => self.take_memory()?,
                Err(error) => return Err(error.into()),
            }
            if made > 0 {
                return Ok(in_memory(made));
            }
        }
        Ok(0)
    }
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("these bytes are in memory")
}
