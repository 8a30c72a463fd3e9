//! The `ca` parameter of a URL: a PEM file with the certificates that a TLS connection trusts. With
//! it, only these are trusted; without it, those of the system.
//!
//! The parameter is in the URL because each server may need another file. Knows nothing of the
//! clients.

use std::borrow::Cow;
use std::io;

use percent_encoding::percent_decode_str;

/// The text that a certificate file must contain.
const BEGINNING: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// The bytes of a certificate file.
pub(crate) type Certificates = Vec<u8>;

/// Returns the URL without its `ca` parameter, and the certificates of the file that it names.
///
/// # Errors
/// The file cannot be read, or contains no certificate. The message names its path.
pub(crate) fn split_ca(url: &str) -> io::Result<(Cow<'_, str>, Option<Certificates>)> {
    let is_ca = |parameter: &&str| parameter.starts_with("ca=");
    let Some((before, query)) = url.split_once('?') else {
        return Ok((url.into(), None));
    };
    let Some(parameter) = query.split('&').find(is_ca) else {
        return Ok((url.into(), None));
    };
    let path = percent_decode_str(&parameter["ca=".len()..]).decode_utf8_lossy();
    let certificates = read(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("ca={path} in the URL: {error}")))?;
    let others: Vec<&str> = query.split('&').filter(|other| !is_ca(other)).collect();
    let url = match others.as_slice() {
        [] => before.to_owned(),
        others => format!("{before}?{}", others.join("&")),
    };
    Ok((url.into(), Some(certificates)))
}

fn read(path: &str) -> io::Result<Certificates> {
    let bytes = std::fs::read(path)?;
    if bytes.windows(BEGINNING.len()).any(|part| part == BEGINNING) {
        return Ok(bytes);
    }
    let what = "the file contains no certificate in PEM";
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_and_its_parameter_leaves_the_url() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a ca.pem");
        std::fs::write(&path, "text\n-----BEGIN CERTIFICATE-----\n").unwrap();
        let parameter = format!("ca={}", path.display().to_string().replace(' ', "%20"));
        for (with, without) in [
            (
                format!("rediss://u:p@h:1/2?{parameter}"),
                "rediss://u:p@h:1/2",
            ),
            (
                format!("mysql://h/d?a=1&{parameter}&b=2"),
                "mysql://h/d?a=1&b=2",
            ),
        ] {
            let (url, certificates) = split_ca(&with).unwrap();
            assert_eq!(url, without);
            assert!(certificates.unwrap().starts_with(b"text"));
        }
        for url in ["mysql://h/d", "mysql://h/d?a=1&cab=2", "memory:"] {
            assert_eq!(split_ca(url).unwrap(), (url.into(), None));
        }
        std::fs::write(&path, "no certificate").unwrap();
        let empty = split_ca(&format!("mysql://u:secret@h/d?{parameter}")).unwrap_err();
        assert!(
            empty.to_string().ends_with("no certificate in PEM"),
            "{empty}"
        );
        let missing = split_ca("mysql://u:secret@h/d?ca=/nowhere").unwrap_err();
        assert!(missing.to_string().contains("ca=/nowhere"), "{missing}");
        assert!(!missing.to_string().contains("secret"), "{missing}");
    }
}
