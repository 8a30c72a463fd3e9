//! A client of MySQL's protocol that takes rows as bytes.
//!
//! Drivers want every value of a row in memory of its own, and copy it twice more before it is sent:
//! for us that was two fifths of all work. Here rows are written straight into the packet that goes
//! out ([`Values`]), and statements follow each other without waiting for each answer. How packets
//! look inside, how passwords are proven and how rows of answers are read is the business of
//! `mysql_common`, as TLS is that of `rustls`.
//!
//! Has no time limits, and no session state beyond what the protocol needs; see
//! [`session`](super::session) for both. After an [`Error::Io`] the connection is of no further use.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use futures_util::FutureExt as _;
use mysql_common::constants::{CapabilityFlags, Command};
use mysql_common::io::ParseBuf;
use mysql_common::packets::{
    Column, ComStmtExecuteRequestBuilder, CommonOkPacket, ErrPacket, OkPacketDeserializer,
    StmtPacket,
};
use mysql_common::params::Params;
use mysql_common::prelude::FromRow;
use mysql_common::proto::{Binary, MyDeserialize, MySerialize, Text};
use mysql_common::row::{Row, RowDeserializer};
use mysql_common::value::ServerSide;

pub(super) use address::Address;
use packets::{Packet, Packets, invalid};
pub(super) use values::{Type, Values};

mod address;
mod login;
mod packets;
#[cfg(test)]
mod tests;
mod values;

/// A packet's memory is kept for the next one up to this size.
const KEPT_BYTES_MAX: usize = 2 << 20;

/// What goes wrong between client and server.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{problem}")]
    Url {
        advice: &'static str,
        problem: String,
    },
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Untrusted(io::Error),
    #[error("the server has no TLS")]
    NoTls,
    #[error("the login `{0}` is not known here")]
    Plugin(String),
    #[error("the server's public key, or the password, has a length that is not expected")]
    Key,
    #[error("row {row} of the answer has other types than were asked for")]
    Unfit { row: usize },
}

/// What the server says is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ERROR {code} ({state}): {message}")]
pub(super) struct ServerError {
    pub(super) code: u16,
    /// Five characters, or none.
    pub(super) state: String,
    pub(super) message: String,
}

impl ServerError {
    fn parse(packet: &[u8], capabilities: CapabilityFlags) -> io::Result<Self> {
        match ParseBuf(packet).parse::<ErrPacket<'_>>(capabilities)? {
            ErrPacket::Error(error) => Ok(Self {
                code: error.error_code(),
                state: error
                    .sql_state_ref()
                    .map(|state| state.as_str().into_owned())
                    .unwrap_or_default(),
                message: error.message_str().into_owned(),
            }),
            ErrPacket::Progress(_) => Err(invalid("a report of progress that nobody asked for")),
        }
    }
}

/// What a statement without rows did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) affected: u64,
    pub(super) warnings: u16,
}

/// A prepared statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Statement {
    id: u32,
}

/// How a server's answer begins.
enum Answer {
    Done(Done),
    /// Rows of so many columns.
    Rows(usize),
    /// The server wants the file of a LOAD DATA LOCAL.
    File,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    packets: Packets,
    capabilities: CapabilityFlags,
    bulk: bool,
    packet: Packet,
    /// How many statements were sent whose answers have not been read.
    unanswered: usize,
    /// Answers that were read before they were asked for.
    early: VecDeque<Result<Done, ServerError>>,
}

impl Client {
    /// Connects and logs in.
    pub(super) async fn connect(address: &Address) -> Result<Self, Error> {
        let login = login::login(address).await?;
        Ok(Self {
            packets: login.packets,
            capabilities: login.capabilities,
            bulk: login.bulk,
            packet: Packet::default(),
            unanswered: 0,
            early: VecDeque::new(),
        })
    }

    /// Whether the server takes [`Client::send`] with the rows of a statement of one row.
    pub(super) fn takes_bulk(&self) -> bool {
        self.bulk
    }

    /// Runs a statement that gives no rows.
    pub(super) async fn run(&mut self, sql: &str) -> Result<Done, Error> {
        self.command(Command::COM_QUERY, sql.as_bytes()).await?;
        self.done().await
    }

    /// The rows of a query.
    pub(super) async fn query<T: FromRow>(&mut self, sql: &str) -> Result<Vec<T>, Error> {
        self.command(Command::COM_QUERY, sql.as_bytes()).await?;
        match self.answer().await? {
            Answer::Rows(columns) => {
                self.rows::<T, RowDeserializer<ServerSide, Text>>(columns)
                    .await
            }
            _ => Err(unexpected()),
        }
    }

    /// Runs LOAD DATA LOCAL with `data` as its file, in packets of so many bytes.
    pub(super) async fn load_data(
        &mut self,
        sql: &str,
        data: &[u8],
        packet_bytes: usize,
    ) -> Result<Done, Error> {
        self.command(Command::COM_QUERY, sql.as_bytes()).await?;
        match self.answer().await? {
            Answer::File => {}
            Answer::Done(done) => return Ok(done),
            Answer::Rows(_) => return Err(unexpected()),
        }
        // An empty packet ends the file.
        for part in data.chunks(packet_bytes).chain([&[][..]]) {
            self.packet.restart().extend_from_slice(part);
            self.packets.write(&mut self.packet).await?;
        }
        self.done().await
    }

    /// Prepares a statement.
    pub(super) async fn prepare(&mut self, sql: &str) -> Result<Statement, Error> {
        self.command(Command::COM_STMT_PREPARE, sql.as_bytes())
            .await?;
        let packet = self.packets.read().await?;
        if packet.first() == Some(&0xFF) {
            return Err(ServerError::parse(&packet, self.capabilities)?.into());
        }
        let prepared = ParseBuf(&packet).parse::<StmtPacket>(())?;
        for definitions in [prepared.num_params(), prepared.num_columns()] {
            for _ in 0..definitions {
                self.packets.read().await?;
            }
            if definitions > 0 {
                self.end_of_definitions().await?;
            }
        }
        let id = prepared.statement_id();
        Ok(Statement { id })
    }

    /// Forgets a prepared statement. The server does not answer.
    pub(super) async fn close(&mut self, statement: Statement) -> Result<(), Error> {
        self.command(Command::COM_STMT_CLOSE, &statement.id.to_le_bytes())
            .await
    }

    /// Runs a prepared statement that gives no rows.
    pub(super) async fn execute(
        &mut self,
        statement: Statement,
        params: impl Into<Params>,
    ) -> Result<Done, Error> {
        self.start(statement, params.into()).await?;
        self.done().await
    }

    /// The rows of a prepared query.
    pub(super) async fn execute_query<T: FromRow>(
        &mut self,
        statement: Statement,
        params: impl Into<Params>,
    ) -> Result<Vec<T>, Error> {
        self.start(statement, params.into()).await?;
        match self.answer().await? {
            Answer::Rows(columns) => {
                self.rows::<T, RowDeserializer<ServerSide, Binary>>(columns)
                    .await
            }
            _ => Err(unexpected()),
        }
    }

    async fn start(&mut self, statement: Statement, params: Params) -> Result<(), Error> {
        self.catch_up().await?;
        let params = match params {
            Params::Positional(params) => params,
            Params::Empty => Vec::new(),
            Params::Named(_) => unreachable!("our statements have no names in them"),
        };
        let (request, too_long) = ComStmtExecuteRequestBuilder::new(statement.id).build(&params);
        if too_long {
            return Err(invalid("parameters of more than 16 MiB").into());
        }
        request.serialize(self.packet.restart());
        Ok(self.packets.command(&mut self.packet).await?)
    }

    /// Sends the execution of a prepared INSERT: `write` writes the values of `rows` rows.
    /// [`Client::outcome`] tells what became of it, after all that was sent before.
    ///
    /// In bulk the statement has placeholders for one row; otherwise for all of them.
    pub(super) async fn send(
        &mut self,
        statement: Statement,
        types: &[Type],
        rows: usize,
        write: impl FnOnce(&mut Values<'_>),
    ) -> Result<(), Error> {
        let payload = self.packet.restart();
        let mut values = if self.bulk {
            Values::in_bulk(payload, statement.id, types)
        } else {
            Values::placed(payload, statement.id, types, rows)
        };
        write(&mut values);
        self.packets.command(&mut self.packet).await?;
        self.unanswered += 1;
        if self.packet.capacity() > KEPT_BYTES_MAX {
            self.packet = Packet::default();
        }
        Ok(())
    }

    /// What became of the oldest statement that was sent and not yet asked about.
    pub(super) async fn outcome(&mut self) -> Result<Done, Error> {
        if let Some(early) = self.early.pop_front() {
            return Ok(early?);
        }
        self.unanswered = self.unanswered.checked_sub(1).expect("it was sent");
        self.done().await
    }

    /// Waits for what was sent, and forgets what became of it.
    pub(super) async fn forget(&mut self) -> Result<(), Error> {
        self.catch_up().await?;
        self.early.clear();
        Ok(())
    }

    /// Reads the answers to all that was sent, so that the next one is to what is sent now.
    async fn catch_up(&mut self) -> Result<(), Error> {
        while self.unanswered > 0 {
            self.unanswered -= 1;
            let outcome = match self.done().await {
                Ok(done) => Ok(done),
                Err(Error::Server(error)) => Err(error),
                Err(other) => return Err(other),
            };
            self.early.push_back(outcome);
        }
        Ok(())
    }

    async fn command(&mut self, command: Command, argument: &[u8]) -> Result<(), Error> {
        self.catch_up().await?;
        let payload = self.packet.restart();
        payload.push(command as u8);
        payload.extend_from_slice(argument);
        Ok(self.packets.command(&mut self.packet).await?)
    }

    /// The answer to a statement that gives no rows.
    async fn done(&mut self) -> Result<Done, Error> {
        match self.answer().await? {
            Answer::Done(done) => Ok(done),
            _ => Err(unexpected()),
        }
    }

    async fn answer(&mut self) -> Result<Answer, Error> {
        let packet = self.packets.read().await?;
        match packet.first() {
            Some(0x00) => {
                let ok = ParseBuf(&packet)
                    .parse::<OkPacketDeserializer<'_, CommonOkPacket>>(self.capabilities)?
                    .into_inner();
                Ok(Answer::Done(Done {
                    affected: ok.affected_rows(),
                    warnings: ok.warnings(),
                }))
            }
            Some(0xFF) => Err(ServerError::parse(&packet, self.capabilities)?.into()),
            Some(0xFB) => Ok(Answer::File),
            Some(_) => {
                let columns = ParseBuf(&packet).checked_eat_lenenc_int();
                let columns = columns.ok_or_else(unexpected)?;
                Ok(Answer::Rows(columns as usize))
            }
            None => Err(unexpected()),
        }
    }

    async fn rows<T, R>(&mut self, columns: usize) -> Result<Vec<T>, Error>
    where
        T: FromRow,
        R: for<'de> MyDeserialize<'de, Ctx = Arc<[Column]>> + Into<Row>,
    {
        let mut definitions = Vec::new();
        for _ in 0..columns {
            let packet = self.packets.read().await?;
            definitions.push(ParseBuf(&packet).parse::<Column>(())?);
        }
        self.end_of_definitions().await?;
        let definitions: Arc<[Column]> = definitions.into();
        let mut rows = Vec::new();
        // Reported after the last row, so that the connection stays usable.
        let mut unfit = None;
        loop {
            let packet = self.packets.read().await?;
            match packet.first() {
                Some(0xFF) => return Err(ServerError::parse(&packet, self.capabilities)?.into()),
                Some(0xFE) if self.ends_rows(&packet) => break,
                _ => {}
            }
            let row: Row = ParseBuf(&packet).parse::<R>(definitions.clone())?.into();
            match T::from_row_opt(row) {
                Ok(row) => rows.push(row),
                // Its error would show the row.
                Err(_) => unfit = unfit.or(Some(rows.len())),
            }
        }
        match unfit {
            Some(row) => Err(Error::Unfit { row }),
            None => Ok(rows),
        }
    }

    /// A row that begins with 0xFE has a value of 16 MiB or more behind it.
    fn ends_rows(&self, packet: &[u8]) -> bool {
        if self.without_eof() {
            packet.len() < 0xFF_FFFF
        } else {
            packet.len() < 9
        }
    }

    /// Older servers and proxies send a packet between definitions and rows.
    async fn end_of_definitions(&mut self) -> Result<(), Error> {
        if !self.without_eof() {
            self.packets.read().await?;
        }
        Ok(())
    }

    fn without_eof(&self) -> bool {
        self.capabilities
            .contains(CapabilityFlags::CLIENT_DEPRECATE_EOF)
    }
}

/// Says goodbye: otherwise the server would count and log a client that was lost. It is a few bytes, for
/// which there is room where nothing else is on its way; there is no waiting for more.
impl Drop for Client {
    fn drop(&mut self) {
        if self.packets.is_between_packets() {
            self.packet.restart().push(Command::COM_QUIT as u8);
            let _ = self.packets.command(&mut self.packet).now_or_never();
        }
    }
}

fn unexpected() -> Error {
    invalid("the server's answer is of another kind than the statement").into()
}
