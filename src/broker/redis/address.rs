//! A URL of Redis as configuration of the client: the server or the seeds of a cluster, the login,
//! and the certificates that TLS trusts.

use std::fmt::Display;

use fred::error::{Error, ErrorKind};
use fred::rustls::pki_types::CertificateDer;
use fred::rustls::pki_types::pem::PemObject;
use fred::rustls::{ClientConfig, RootCertStore};
use fred::types::RespVersion;
use fred::types::config::{Config, Server, ServerConfig, TlsConnector};

use crate::hosts::{has_port, split_hosts};
use crate::tls::split_ca;

/// The port of a server whose URL names none.
const PORT: u16 = 6379;

/// The client's configuration for a URL, including the trusted certificates.
pub(super) fn config_of(url: &str) -> Result<Config, Error> {
    fn wrong(error: impl Display) -> Error {
        Error::new(ErrorKind::Tls, error.to_string())
    }
    let (url, authority) = split_ca(url).map_err(wrong)?;
    let mut config = with_seeds(&url)?;
    // The first connection reports its error at once. Later failures reconnect.
    config.fail_fast = true;
    // The code and its tests parse the replies of RESP2.
    config.version = RespVersion::RESP2;
    let Some(certificates) = authority else {
        return Ok(config);
    };
    if config.tls.is_none() {
        return Err(Error::new(ErrorKind::Config, "`ca` needs TLS: `rediss://`"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&certificates) {
        roots.add(certificate.map_err(wrong)?)?;
    }
    let client = ClientConfig::builder().with_root_certificates(roots);
    config.tls = Some(TlsConnector::from(client.with_no_client_auth()).into());
    Ok(config)
}

/// The configuration for a URL without `ca`. The client reads the first host. The others of a
/// cluster are added here: the form that the client has for them takes no IPv6 address.
fn with_seeds(url: &str) -> Result<Config, Error> {
    let wrong = |problem| Error::new(ErrorKind::Config, problem);
    let (before, hosts, after) = split_hosts(url);
    let Some((first, others)) = hosts.split_once(',') else {
        return Config::from_url(url);
    };
    if first.is_empty() {
        return Err(wrong("a host is missing beside a comma"));
    }
    let mut config = Config::from_url(&format!("{before}{first}{after}"))?;
    let ServerConfig::Clustered { hosts, .. } = &mut config.server else {
        return Err(wrong("only `redis-cluster://` has several hosts"));
    };
    for other in others.split(',') {
        let (host, port) = match other.rsplit_once(':') {
            Some((host, port)) if has_port(other) => (host, port.parse().ok()),
            _ => (other, Some(PORT)),
        };
        let Some(port) = port else {
            return Err(wrong("the port of a host after a comma is not a number"));
        };
        if host.is_empty() {
            return Err(wrong("a host is missing beside a comma"));
        }
        hosts.push(Server::new(host, port));
    }
    Ok(config)
}

/// Whether two configurations lead to the same servers and the same database.
pub(super) fn leads_to_same(one: &Config, other: &Config) -> bool {
    one.server == other.server && one.database == other.database
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_may_have_several_seeds() {
        let seeds = |url: &str| {
            let config = config_of(url).unwrap();
            assert_eq!(config.password.as_deref(), Some("p,w"), "{url}");
            let hosts = config.server.hosts();
            let mut hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
            hosts.sort();
            hosts
        };
        assert_eq!(
            seeds("redis-cluster://:p,w@r1:1,r2,r3:3"),
            ["r1:1", "r2:6379", "r3:3"]
        );
        assert_eq!(seeds("redis-cluster://:p,w@r1"), ["r1:6379"]);
        assert_eq!(
            seeds("redis-cluster://:p,w@[::1]:1,[::2]:2,[::3]"),
            ["[::1]:1", "[::2]:2", "[::3]:6379"]
        );
        for url in [
            "redis://r1,r2",
            "rediss://u:secret@r1:1,r2:2",
            "redis-cluster://r1,",
            "redis-cluster://,r1",
            "redis-cluster://r1,:7",
            "redis-cluster://r1,r2:secret",
        ] {
            let error = config_of(url)
                .err()
                .unwrap_or_else(|| panic!("{url} is read"));
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn another_login_leads_to_the_same_servers() {
        let url = "redis-cluster://u:1@r1:1,r2:2";
        for (other, same) in [
            ("redis-cluster://v:2@r1:1,r2:2", true),
            ("redis-cluster://u:1@r2:2,r1:1", false),
            ("redis-cluster://u:1@r1:1", false),
            ("redis-cluster://u:1@r1:1,r2:3", false),
            ("redis://u:1@r1:1", false),
        ] {
            let [one, other] = [url, other].map(|url| config_of(url).unwrap());
            assert_eq!(leads_to_same(&one, &other), same, "{:?}", other.server);
        }
        let [one, other] = ["redis://h/1", "redis://h/2"].map(|url| config_of(url).unwrap());
        assert!(!leads_to_same(&one, &other));
    }
}
