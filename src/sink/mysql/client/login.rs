//! The beginning of a connection: greeting, TLS, and the proof of who we are.

use std::ops::RangeInclusive;
use std::time::Duration;

use mysql_common::collations::CollationId;
use mysql_common::constants::{CapabilityFlags, MariadbCapabilities};
use mysql_common::crypto;
use mysql_common::io::ParseBuf;
use mysql_common::packets::{
    AuthPlugin, AuthSwitchRequest, HandshakePacket, HandshakeResponse, SslRequest,
};
use mysql_common::proto::MySerialize;
use rustix::net::sockopt;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, rustls};

use super::address::{Address, Place, Trust};
use super::packets::{Packet, Packets, Stream, invalid};
use super::{Error, ServerError};

/// What we speak of the options of the protocol.
const SPOKEN: CapabilityFlags = CapabilityFlags::CLIENT_PROTOCOL_41
    .union(CapabilityFlags::CLIENT_LONG_PASSWORD)
    .union(CapabilityFlags::CLIENT_SECURE_CONNECTION)
    .union(CapabilityFlags::CLIENT_PLUGIN_AUTH)
    .union(CapabilityFlags::CLIENT_TRANSACTIONS)
    .union(CapabilityFlags::CLIENT_LOCAL_FILES)
    .union(CapabilityFlags::CLIENT_DEPRECATE_EOF);

/// Longest command that we may send, as far as we are concerned: the server has its own limit.
const COMMAND_BYTES_MAX: u32 = 1 << 30;

/// Length of a server's public key as text: RSA of 2,048 to 4,096 bits. Servers make 2,048.
const KEY_BYTES: RangeInclusive<usize> = 400..=1_024;

/// The most that such a key encrypts in one piece: the password and a zero byte.
const ENCRYPTED_BYTES_MAX: usize = 214;

/// Silence after which the connection is probed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A connection that is logged in.
pub(super) struct Login {
    pub(super) packets: Packets,
    pub(super) capabilities: CapabilityFlags,
    /// The server takes many rows for a statement with placeholders for one.
    pub(super) bulk: bool,
}

/// Connects and logs in.
pub(super) async fn login(address: &Address) -> Result<Login, Error> {
    let mut packets = Packets::new(connect(&address.place).await?);
    let greeting = packets.read().await?;
    if greeting.first() == Some(&0xFF) {
        // The server does not know yet what we speak, and sends no state.
        return Err(ServerError::parse(&greeting, CapabilityFlags::empty())?.into());
    }
    let greeting = ParseBuf(&greeting).parse::<HandshakePacket<'_>>(())?;
    let mut capabilities = greeting.capabilities() & SPOKEN;
    // Where this flag is missing the server is MariaDB, and has flags of its own.
    let extended = if greeting
        .capabilities()
        .contains(CapabilityFlags::CLIENT_LONG_PASSWORD)
    {
        MariadbCapabilities::empty()
    } else {
        greeting.mariadb_ext_capabilities()
            & MariadbCapabilities::MARIADB_CLIENT_STMT_BULK_OPERATIONS
    };
    let private = address.tls.is_some() || matches!(address.place, Place::Unix(_));
    if let Some(trust) = &address.tls {
        if !greeting
            .capabilities()
            .contains(CapabilityFlags::CLIENT_SSL)
        {
            return Err(Error::NoTls);
        }
        capabilities |= CapabilityFlags::CLIENT_SSL;
        if address.database.is_some() {
            capabilities |= CapabilityFlags::CLIENT_CONNECT_WITH_DB;
        }
        let collation = CollationId::UTF8MB4_GENERAL_CI as u8;
        let request = SslRequest::new(capabilities, COMMAND_BYTES_MAX, collation)
            .with_mariadb_capabilities(extended);
        send(&mut packets, &request).await?;
        packets = secure(packets, trust).await?;
    }

    let mut proof = Proof {
        password: &address.password,
        nonce: greeting.nonce(),
        private,
    };
    let plugin = match greeting.auth_plugin() {
        Some(AuthPlugin::CachingSha2Password) => AuthPlugin::CachingSha2Password,
        // The server asks for another one where it must.
        _ => AuthPlugin::MysqlNativePassword,
    };
    let data = plugin.gen_data(Some(proof.password), &proof.nonce);
    let response = HandshakeResponse::new(
        data.as_deref(),
        (8, 0, 0),
        Some(address.user.as_bytes()),
        address.database.as_deref().map(str::as_bytes),
        Some(plugin),
        capabilities,
        None,
        COMMAND_BYTES_MAX,
    )
    .with_mariadb_ext_capabilities(extended);
    send(&mut packets, &response).await?;
    proof.give(&mut packets, capabilities).await?;
    Ok(Login {
        packets,
        capabilities,
        bulk: !extended.is_empty(),
    })
}

/// What proves to the server who we are.
struct Proof<'a> {
    password: &'a str,
    nonce: Vec<u8>,
    /// Nobody else can hear what we say.
    private: bool,
}

impl Proof<'_> {
    /// Answers what the server asks until it lets us in.
    async fn give(
        &mut self,
        packets: &mut Packets,
        capabilities: CapabilityFlags,
    ) -> Result<(), Error> {
        let mut switched = false;
        loop {
            let asked = packets.read().await?;
            match asked.as_slice() {
                [0x00, ..] => return Ok(()),
                [0xFF, ..] => return Err(ServerError::parse(&asked, capabilities)?.into()),
                [0xFE, _, ..] if !switched => {
                    switched = true;
                    let request = ParseBuf(&asked).parse::<AuthSwitchRequest<'_>>(())?;
                    self.switch(packets, &request).await?;
                }
                // The server remembers us (3), or wants the password itself (4).
                [0x01, 0x03] => {}
                [0x01, 0x04] => self.whole_password(packets).await?,
                _ => return Err(invalid("the server's login is of an unknown kind").into()),
            }
        }
    }

    async fn switch(
        &mut self,
        packets: &mut Packets,
        request: &AuthSwitchRequest<'_>,
    ) -> Result<(), Error> {
        let plugin = request.auth_plugin();
        if !matches!(
            plugin,
            AuthPlugin::MysqlNativePassword | AuthPlugin::CachingSha2Password
        ) {
            let name = String::from_utf8_lossy(plugin.as_bytes()).into_owned();
            return Err(Error::Plugin(name));
        }
        self.nonce = request.plugin_data().to_vec();
        let mut packet = Packet::default();
        let payload = packet.restart();
        if let Some(data) = plugin.gen_data(Some(self.password), &self.nonce) {
            data.serialize(payload);
        }
        Ok(packets.write(&mut packet).await?)
    }

    /// `caching_sha2_password`: the password as it is where nobody listens, or else under the
    /// server's public key.
    async fn whole_password(&self, packets: &mut Packets) -> Result<(), Error> {
        let mut password = [self.password.as_bytes(), &[0]].concat();
        let mut packet = Packet::default();
        if !self.private {
            const ASK_FOR_KEY: u8 = 0x02;
            packet.restart().push(ASK_FOR_KEY);
            packets.write(&mut packet).await?;
            let answer = packets.read().await?;
            let key = match answer.strip_prefix(&[0x01]) {
                Some(key) if key.starts_with(b"-----BEGIN PUBLIC KEY-----") => key,
                _ => return Err(invalid("the server has no public key for the login").into()),
            };
            if !KEY_BYTES.contains(&key.len()) || password.len() > ENCRYPTED_BYTES_MAX {
                return Err(Error::Key);
            }
            for (byte, noise) in password.iter_mut().zip(self.nonce.iter().cycle()) {
                *byte ^= noise;
            }
            password = crypto::encrypt(&password, key);
        }
        packet.restart().extend_from_slice(&password);
        Ok(packets.write(&mut packet).await?)
    }
}

async fn connect(place: &Place) -> std::io::Result<Box<dyn Stream>> {
    match place {
        Place::Tcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            sockopt::set_socket_keepalive(&stream, true)?;
            sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
            Ok(Box::new(stream))
        }
        Place::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
    }
}

/// Puts TLS on the connection.
async fn secure(packets: Packets, trust: &Trust) -> Result<Packets, Error> {
    let (stream, number) = packets.into_stream()?;
    let connector = TlsConnector::from(trust.config.clone());
    let stream = connector
        .connect(trust.name.clone(), stream)
        .await
        .map_err(|error| {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
            match cause {
                Some(rustls::Error::InvalidCertificate(_)) => Error::Untrusted(error),
                _ => Error::Io(error),
            }
        })?;
    Ok(Packets::resume(Box::new(stream), number))
}

async fn send(packets: &mut Packets, message: &impl MySerialize) -> std::io::Result<()> {
    let mut packet = Packet::default();
    message.serialize(packet.restart());
    packets.write(&mut packet).await
}
