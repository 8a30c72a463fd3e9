//! Where the server is, who we are, and whom we trust: what a database URL says.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use url::{Host, Url};

use crate::tls::{Certificates, split_ca};

use super::Error;

const PORT: u16 = 3306;

const FORM: &str = "not a database URL; write mysql://USER:PASSWORD@HOST:PORT/DATABASE";

/// What a database URL says. Shows no password.
#[derive(Clone)]
pub(in crate::sink::mysql) struct Address {
    pub(super) place: Place,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) database: Option<String>,
    pub(super) tls: Option<Trust>,
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// The name that the server's certificate must have, and whom it must be signed by.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    pub(super) name: ServerName<'static>,
    pub(super) config: Arc<ClientConfig>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("place", &self.place)
            .field("user", &self.user)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl Address {
    /// Reads `mysql://USER:PASSWORD@HOST:PORT/DATABASE`, with `require_ssl=true`, `ca=FILE` and
    /// `socket=PATH` as its parameters.
    pub(in crate::sink::mysql) fn parse(url: &str) -> Result<Self, Error> {
        let (url, authority) = split_ca(url).map_err(|error| Error::Url {
            advice: "check the `ca` of the database URL",
            problem: error.to_string(),
        })?;
        let url = Url::parse(&url).map_err(|error| wrong(&error.to_string()))?;
        let host = match url.host() {
            Some(Host::Domain(name)) => decoded(name)?,
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(wrong("it names no host")),
        };
        let mut place = Place::Tcp(host.clone(), url.port().unwrap_or(PORT));
        let mut secure = authority.is_some();
        for (name, value) in url.query_pairs() {
            match (name.as_ref(), value.as_ref()) {
                ("require_ssl", "true") => secure = true,
                ("require_ssl", "false") => {}
                ("socket", path) => place = Place::Unix(path.into()),
                // What is not a name may be part of a password that was not encoded.
                (name, _) => {
                    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
                    let problem = if name.bytes().all(is_name) {
                        format!("`{name}` is none of them, or has another value")
                    } else {
                        "it has others, or a password with ? in the place of %3F".to_owned()
                    };
                    return Err(parameter(problem));
                }
            }
        }
        let database = decoded(url.path().trim_start_matches('/'))?;
        if secure && matches!(place, Place::Unix(_)) {
            return Err(parameter("there is no TLS over a socket".to_owned()));
        }
        Ok(Self {
            place,
            user: decoded(url.username())?,
            password: decoded(url.password().unwrap_or_default())?,
            database: (!database.is_empty()).then_some(database),
            tls: secure.then(|| Trust::new(host, authority)).transpose()?,
        })
    }
}

impl Trust {
    /// Trusts one authority, or those of the system.
    fn new(host: String, authority: Option<Certificates>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        match authority {
            Some(certificates) => {
                for certificate in CertificateDer::pem_slice_iter(&certificates) {
                    let added = certificate
                        .map_err(|error| error.to_string())
                        .and_then(|one| roots.add(one).map_err(|error| error.to_string()));
                    added.map_err(|problem| Error::Url {
                        advice: "check the `ca` of the database URL",
                        problem,
                    })?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let name = ServerName::try_from(host).map_err(|error| wrong(&error.to_string()))?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has what the protocol's safe versions need")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            name,
            config: Arc::new(config),
        })
    }
}

fn decoded(part: &str) -> Result<String, Error> {
    let text = percent_decode_str(part).decode_utf8();
    Ok(text.map_err(|_| wrong("it is not UTF-8"))?.into_owned())
}

fn parameter(problem: String) -> Error {
    Error::Url {
        advice: "check the database URL: its parameters are require_ssl=true, ca=FILE and \
                 socket=PATH",
        problem,
    }
}

fn wrong(problem: &str) -> Error {
    Error::Url {
        advice: FORM,
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read() {
        let address = Address::parse("mysql://a%20b:p%40ss%2F@[::1]:3307/d_e%2Ff").unwrap();
        assert_eq!(address.place, Place::Tcp("::1".to_owned(), 3307));
        assert_eq!(
            (address.user.as_str(), address.password.as_str()),
            ("a b", "p@ss/")
        );
        assert_eq!(address.database.as_deref(), Some("d_e/f"));
        assert!(address.tls.is_none() && !format!("{address:?}").contains("p@ss"));

        let address = Address::parse("mysql://root@db.example?require_ssl=true").unwrap();
        assert_eq!(address.place, Place::Tcp("db.example".to_owned(), PORT));
        assert_eq!((address.database, address.password.as_str()), (None, ""));
        assert!(address.tls.is_some());

        let address = Address::parse("mysql://u@h/d?socket=/run/my%20sql.sock").unwrap();
        assert_eq!(address.place, Place::Unix("/run/my sql.sock".into()));
    }

    #[test]
    fn a_url_that_is_none_is_told_with_its_form() {
        for (url, expected) in [
            ("mysql://h:port/d", FORM),
            ("mysql:///d", FORM),
            ("mysql://h/d?pool_max=3", "require_ssl=true"),
            ("mysql://h/d?require_ssl=perhaps", "require_ssl=true"),
            ("mysql://h/d?socket=/s&require_ssl=true", "require_ssl=true"),
            ("mysql://u:12?secret@h/d", "require_ssl=true"),
            ("mysql://h/d?ca=/not/there", "`ca`"),
        ] {
            let Err(Error::Url { advice, problem }) = Address::parse(url) else {
                panic!("{url} was taken");
            };
            assert!(advice.contains(expected), "{url}: {advice}");
            assert!(!problem.contains("secret"), "{problem}");
        }
    }
}
