//! A database URL as options of the driver: the servers, the login, and the certificates that TLS
//! trusts.
//!
//! This module parses the URL, since the errors of the driver quote its parameters, which may be
//! part of a password that was not percent-encoded.

use std::time::Duration;

use mysql_async::{Compression, Opts, OptsBuilder, SslOpts};
use percent_encoding::percent_decode_str;
use rustls::RootCertStore;
use url::{Host, Url};

use crate::hosts::split_hosts;
use crate::tls::{Certificates, split_ca};

use super::errors::Failure;
use super::login::must_be_watched;

const PORT: u16 = 3306;

/// Largest packet of a statement or an answer, in bytes. The connection to a server that sends a
/// larger one is closed, so that it cannot fill the memory.
pub(super) const PACKET_BYTES_MAX: usize = 64 << 20;

/// After this time, TCP probes an idle connection, and ends it if the server does not answer. The
/// probes also keep the connection in the tables of balancers and firewalls, of which the strictest
/// forget an idle one after 30 s.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(10);

/// Saves a query: without this option, the driver asks each server for its `wait_timeout`, to
/// discard idle connections from the driver's pool. The engine uses `session::Pool`, which discards
/// them earlier.
const WAIT_TIMEOUT_SECONDS: usize = 28_800;

const FORM: &str = "write the database URL as mysql://USER:PASSWORD@HOST:PORT/DATABASE, with \
                    commas between several HOST:PORT";

const PARAMETERS: &str = "use only the parameters of a database URL: require_ssl=true (or \
                          ssl-mode=VERIFY_IDENTITY), ca=FILE, socket=PATH, compression=on, \
                          enable_cleartext_plugin=true and allow_public_key=true";

const CA: &str = "check the `ca` of the database URL";

/// The settings of every session. Times are UTC. A value that does not fit is an error, not a
/// warning. A statement outside a transaction commits at once, whatever the server's default. READ
/// COMMITTED takes no gap locks. The wait for a lock is shorter than the wait for a statement. The
/// SQL mode `NO_BACKSLASH_ESCAPES` is off, since LOAD DATA relies on backslashes.
const SETUP: [&str; 3] = [
    "SET NAMES utf8mb4",
    "SET SESSION time_zone = '+00:00', autocommit = 1, innodb_lock_wait_timeout = 5, sql_mode = \
     'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,\
     NO_ENGINE_SUBSTITUTION'",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
];

/// The parameters of a database URL.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a parameter that is true or false"
)]
struct Parameters {
    require_ssl: bool,
    socket: Option<String>,
    compression: bool,
    cleartext: bool,
    public_key: bool,
}

/// A server of a database URL, and how to log in there.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// `HOST:PORT`, for messages.
    pub(super) name: String,
    pub(super) opts: Opts,
    /// Whether its logins go through [`login::connect`](super::login::connect).
    pub(super) is_watched: bool,
}

/// Reads `mysql://USER:PASSWORD@HOST:PORT/DATABASE`, or the same with `mariadb://`, with its
/// parameters. There may be several `HOST:PORT` with commas between them. Login, database and
/// parameters are the same for all. Returns one server for each, in their order.
pub(super) fn options(url: &str) -> Result<Vec<Endpoint>, Failure> {
    let (url, authority) = split_ca(url).map_err(|error| wrong(CA, error.to_string()))?;
    let (before, hosts, after) = split_hosts(&url);
    if hosts.contains(',') && !before.ends_with('@') {
        // Else a part of the password would be shown as a host.
        let problem = "the database URL has a comma and no USER:PASSWORD@ before its hosts";
        return Err(wrong(FORM, problem.to_owned()));
    }
    let endpoints = hosts
        .split(',')
        .map(|host| endpoint(&format!("{before}{host}{after}"), authority.clone()));
    let endpoints: Vec<Endpoint> = endpoints.collect::<Result<_, _>>()?;
    if endpoints.len() > 1 && endpoints.iter().any(|one| one.opts.socket().is_some()) {
        let problem = "the database URL has a socket and several hosts";
        return Err(wrong(PARAMETERS, problem.to_owned()));
    }
    Ok(endpoints)
}

/// Whether two URLs lead to the same servers, in the same order, and to the same database.
pub(super) fn leads_to_same(one: &[Endpoint], other: &[Endpoint]) -> bool {
    let place = |endpoint: &Endpoint| {
        let opts = &endpoint.opts;
        let (database, socket) = (opts.db_name(), opts.socket());
        let text = |text: Option<&str>| text.map(str::to_owned);
        (endpoint.name.clone(), text(database), text(socket))
    };
    one.iter().map(place).eq(other.iter().map(place))
}

/// The server of a URL that names one host.
fn endpoint(url: &str, authority: Option<Certificates>) -> Result<Endpoint, Failure> {
    let url = Url::parse(url)
        .map_err(|error| wrong(FORM, format!("the database URL is malformed: {error}")))?;
    let host = match url.host() {
        Some(Host::Domain(name)) => decoded(name)?,
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        None => return Err(wrong(FORM, "the database URL names no host".to_owned())),
    };
    let parameters = Parameters::read(&url)?;
    let secure = parameters.require_ssl || authority.is_some();
    if secure && parameters.socket.is_some() {
        return Err(wrong(
            PARAMETERS,
            "the database URL asks for TLS over a socket, which has none".to_owned(),
        ));
    }
    if parameters.cleartext && !secure && parameters.socket.is_none() {
        let problem = "enable_cleartext_plugin sends the password unencrypted, so it needs TLS";
        return Err(wrong(PARAMETERS, problem.to_owned()));
    }
    let is_tls_or_socket = secure || parameters.socket.is_some();
    let is_watched = must_be_watched(&host, is_tls_or_socket, parameters.public_key);
    let database = decoded(url.path().trim_start_matches('/'))?;
    let compression = parameters.compression.then(Compression::fast);
    let tls = secure.then(|| trust(authority));
    let port = url.port().unwrap_or(PORT);
    let name = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let opts = OptsBuilder::default()
        .ip_or_hostname(host)
        .tcp_port(port)
        .socket(parameters.socket)
        // Else the driver would switch to the server's socket on a loopback address, and bypass a
        // proxy there.
        .prefer_socket(false)
        .user(Some(decoded(url.username())?))
        .pass(Some(decoded(url.password().unwrap_or_default())?))
        .db_name((!database.is_empty()).then_some(database))
        .ssl_opts(tls)
        .compression(compression)
        .enable_cleartext_plugin(parameters.cleartext)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE))
        .max_allowed_packet(Some(PACKET_BYTES_MAX))
        .wait_timeout(Some(WAIT_TIMEOUT_SECONDS))
        // The number of affected rows must not count rows that were already stored.
        .client_found_rows(false)
        // `session` keeps prepared statements: the driver's cache would hash their text each time.
        .stmt_cache_size(0)
        .init(SETUP.to_vec());
    Ok(Endpoint {
        name,
        opts: opts.into(),
        is_watched,
    })
}

impl Parameters {
    fn read(url: &Url) -> Result<Self, Failure> {
        let mut parameters = Self::default();
        for (name, value) in url.query_pairs() {
            match (name.as_ref(), value.as_ref()) {
                ("require_ssl", "true") => parameters.require_ssl = true,
                // The modes of the MySQL clients. TLS always verifies the certificate and its name.
                ("ssl-mode", "REQUIRED" | "VERIFY_CA" | "VERIFY_IDENTITY") => {
                    parameters.require_ssl = true;
                }
                ("ssl-mode", "PREFERRED") => {
                    let problem = "ssl-mode=PREFERRED does not say whether to use TLS: write \
                                   REQUIRED or DISABLED";
                    return Err(wrong(PARAMETERS, problem.to_owned()));
                }
                ("socket", path) => parameters.socket = Some(path.to_owned()),
                ("compression", "on") => parameters.compression = true,
                ("enable_cleartext_plugin", "true") => parameters.cleartext = true,
                ("allow_public_key", "true") => parameters.public_key = true,
                ("require_ssl" | "enable_cleartext_plugin" | "allow_public_key", "false")
                | ("compression", "off")
                | ("ssl-mode", "DISABLED") => {}
                (name, _) => {
                    let is_name = |byte: u8| byte.is_ascii_lowercase() || b"_-".contains(&byte);
                    let problem = if name.bytes().all(is_name) {
                        format!(
                            "the parameter `{name}` of the database URL is unknown or has a wrong value"
                        )
                    } else {
                        "the database URL has an unknown parameter, or its password holds a ? that is \
                         not written as %3F"
                            .to_owned()
                    };
                    return Err(wrong(PARAMETERS, problem));
                }
            }
        }
        Ok(parameters)
    }
}

/// Options of TLS that trust the given authority, or those of the system.
fn trust(authority: Option<Certificates>) -> SslOpts {
    let roots = if let Some(certificates) = authority {
        vec![certificates.into()]
    } else {
        // The driver refuses all certificates if it cannot read one of them.
        let system = rustls_native_certs::load_native_certs().certs.into_iter();
        system
            .filter(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok())
            .map(|certificate| certificate.to_vec().into())
            .collect()
    };
    SslOpts::default()
        .with_disable_built_in_roots(true)
        .with_root_certs(roots)
}

fn decoded(part: &str) -> Result<String, Failure> {
    let text = percent_decode_str(part).decode_utf8();
    let text =
        text.map_err(|_| wrong(FORM, "a part of the database URL is not UTF-8".to_owned()))?;
    Ok(text.into_owned())
}

fn wrong(next_step: &'static str, problem: String) -> Failure {
    Failure::Found { next_step, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The server of a URL that names one.
    fn one(url: &str) -> Result<Endpoint, Failure> {
        let mut endpoints = options(url)?;
        assert_eq!(endpoints.len(), 1, "{url}");
        Ok(endpoints.remove(0))
    }

    #[test]
    fn a_url_may_name_several_hosts() {
        let url = "mysql://u,v:p,w@db1,db2:3307,[::1],127.0.0.1:3308/d?compression=on";
        let endpoints = options(url).unwrap();
        let names: Vec<_> = endpoints.iter().map(|one| &*one.name).collect();
        assert_eq!(
            names,
            ["db1:3306", "db2:3307", "[::1]:3306", "127.0.0.1:3308"]
        );
        for endpoint in &endpoints {
            let opts = &endpoint.opts;
            assert_eq!((opts.user(), opts.pass()), (Some("u,v"), Some("p,w")));
            assert_eq!(opts.db_name(), Some("d"));
            assert!(opts.compression().is_some());
        }
        let watched: Vec<_> = endpoints.iter().map(|one| one.is_watched).collect();
        assert_eq!(watched, [true, true, false, false]);
    }

    #[test]
    fn another_login_leads_to_the_same_servers() {
        let url = "mysql://u:1@h,i:2/d";
        for (other, same) in [
            ("mysql://v:2@h:3306,i:2/d?require_ssl=true", true),
            ("mysql://u:1@i:2,h/d", false),
            ("mysql://u:1@h/d", false),
            ("mysql://u:1@h,i:2/e", false),
            ("mysql://u:1@h,i:2", false),
        ] {
            let [one, two] = [url, other].map(|url| options(url).unwrap());
            assert_eq!(leads_to_same(&one, &two), same, "{other}");
        }
        let socket = |path| options(&format!("mysql://u@h/d?socket={path}")).unwrap();
        assert!(!leads_to_same(&socket("/a"), &socket("/b")));
    }

    #[test]
    fn a_url_is_read() {
        let access = one("mysql://a%20b:p%40ss%2F@[::1]:3307/d_e%2Ff").unwrap();
        let opts = access.opts;
        assert!(!access.is_watched);
        assert_eq!((opts.ip_or_hostname(), opts.tcp_port()), ("::1", 3307));
        assert_eq!((opts.user(), opts.pass()), (Some("a b"), Some("p@ss/")));
        assert_eq!(opts.db_name(), Some("d_e/f"));
        assert!(opts.ssl_opts().is_none() && !opts.prefer_socket());

        let access = one("mysql://root@db.example?require_ssl=true&compression=on").unwrap();
        let opts = access.opts;
        assert!(!access.is_watched);
        assert_eq!(
            (opts.ip_or_hostname(), opts.tcp_port()),
            ("db.example", PORT)
        );
        assert_eq!((opts.db_name(), opts.pass()), (None, Some("")));
        assert!(opts.ssl_opts().is_some_and(SslOpts::disable_built_in_roots));
        assert!(opts.compression().is_some());

        let access = one("mysql://u@h/d?socket=/run/my%20sql.sock").unwrap();
        let opts = access.opts;
        assert!(!access.is_watched);
        assert_eq!(opts.socket(), Some("/run/my sql.sock"));

        for (parameters, is_watched) in [
            ("", true),
            ("?require_ssl=true", false),
            ("?ssl-mode=REQUIRED", false),
            ("?ssl-mode=VERIFY_CA", false),
            ("?ssl-mode=VERIFY_IDENTITY", false),
            ("?ssl-mode=DISABLED", true),
            ("?allow_public_key=true", false),
            ("?allow_public_key=false", true),
        ] {
            for scheme in ["mysql", "mariadb"] {
                let access = one(&format!("{scheme}://u@db.example/d{parameters}")).unwrap();
                assert_eq!(access.is_watched, is_watched, "{parameters}");
                let secure = parameters.ends_with("REQUIRED") || parameters.contains("VERIFY");
                let secure = secure || parameters == "?require_ssl=true";
                assert_eq!(access.opts.ssl_opts().is_some(), secure, "{parameters}");
            }
        }
        for host in ["127.0.0.1", "127.9.9.9:3307", "[::1]", "localhost"] {
            let access = one(&format!("mysql://u@{host}/d")).unwrap();
            assert!(!access.is_watched, "{host}");
        }
    }

    #[test]
    fn a_wrong_url_is_reported_with_its_form_and_without_its_password() {
        for (url, expected) in [
            ("mysql://h:port/d", FORM),
            ("mysql:///d", FORM),
            ("mysql://h,/d", FORM),
            ("mysql://h,i/d", FORM),
            ("mysql://root:12,secret", FORM),
            ("mysql://root:12,secret/d", FORM),
            ("mysql://u:secret@,h/d", FORM),
            ("mysql://u:secret@h,i:port/d", FORM),
            ("mysql://u:secret@h,i/d?socket=/s", PARAMETERS),
            ("mysql://h/d?pool_max=3", PARAMETERS),
            ("mysql://h/d?require_ssl=perhaps", PARAMETERS),
            ("mysql://h/d?ssl-mode=PREFERRED", PARAMETERS),
            ("mysql://h/d?ssl-mode=required", PARAMETERS),
            ("mysql://h/d?allow_public_key=yes", PARAMETERS),
            ("mysql://h/d?socket=/s&require_ssl=true", PARAMETERS),
            ("mysql://h/d?enable_cleartext_plugin=true", PARAMETERS),
            ("mysql://u:12?secret@h/d", PARAMETERS),
            ("mysql://h/d?ca=/not/there", CA),
        ] {
            let Err(Failure::Found { next_step, problem }) = options(url) else {
                panic!("{url} was accepted");
            };
            assert_eq!(next_step, expected, "{url}");
            assert!(!problem.contains("secret"), "{problem}");
        }
    }
}
