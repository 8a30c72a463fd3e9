//! A URL of Redis as configuration of the client: the server or the seeds of a cluster, the login,
//! and the certificates that TLS trusts.

use std::fmt::{Display, Write as _};

use fred::error::{Error, ErrorKind};
use fred::rustls::pki_types::CertificateDer;
use fred::rustls::pki_types::pem::PemObject;
use fred::rustls::{ClientConfig, RootCertStore};
use fred::types::RespVersion;
use fred::types::config::{Config, TlsConnector};

use crate::hosts::split_hosts;
use crate::tls::split_ca;

/// The client's configuration for a URL, including the trusted certificates.
pub(super) fn config_of(url: &str) -> Result<Config, Error> {
    fn wrong(error: impl Display) -> Error {
        Error::new(ErrorKind::Tls, error.to_string())
    }
    let (url, authority) = split_ca(url).map_err(wrong)?;
    let mut config = Config::from_url(&with_seeds(&url)?)?;
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

/// The URL in the form of the client, in which all hosts of a cluster but the first are parameters.
fn with_seeds(url: &str) -> Result<String, Error> {
    let (before, hosts, after) = split_hosts(url);
    let Some((first, others)) = hosts.split_once(',') else {
        return Ok(url.to_owned());
    };
    let scheme = before.split(':').next().unwrap_or_default();
    if !scheme.ends_with("-cluster") {
        let problem = "only `redis-cluster://` has several hosts";
        return Err(Error::new(ErrorKind::Config, problem));
    }
    if hosts.split(',').any(str::is_empty) {
        let problem = "a host is missing beside a comma";
        return Err(Error::new(ErrorKind::Config, problem));
    }
    let mut url = format!("{before}{first}{after}");
    let mut separator = if after.contains('?') { '&' } else { '?' };
    for host in others.split(',') {
        let has_port = !host.ends_with(']') && host.contains(':');
        let port = if has_port { "" } else { ":6379" };
        write!(url, "{separator}node={host}{port}").expect("writing to a String cannot fail");
        separator = '&';
    }
    Ok(url)
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
        for url in [
            "redis://r1,r2",
            "rediss://u:secret@r1:1,r2:2",
            "redis-cluster://r1,",
        ] {
            let error = config_of(url)
                .err()
                .unwrap_or_else(|| panic!("{url} is read"));
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
