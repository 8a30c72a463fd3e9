//! URLs of database and queue: made from parts, sorted by scheme, and shown without passwords.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All but the characters that mean nothing anywhere in a URL (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Shown instead of a secret.
const HIDDEN: &str = "***";

/// The parts of a `MySQL` login, as the old names give them.
pub(super) struct Mysql<'a> {
    pub(super) user: &'a str,
    pub(super) password: &'a str,
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
}

impl Mysql<'_> {
    pub(super) fn to_url(&self) -> String {
        let encoded = |text| utf8_percent_encode(text, RESERVED);
        let password = match self.password {
            "" => String::new(),
            password => format!(":{}", encoded(password)),
        };
        let (user, database) = (encoded(self.user), encoded(self.database));
        format!(
            "mysql://{user}{password}@{}:{}/{database}",
            host(self.host),
            self.port
        )
    }
}

/// A host as it stands in a URL: an IPv6 address goes in brackets.
pub(super) fn host(name: &str) -> String {
    if name.contains(':') && !name.starts_with('[') {
        format!("[{name}]")
    } else {
        name.to_owned()
    }
}

/// What stands before the first colon.
pub(super) fn scheme(url: &str) -> &str {
    url.split_once(':').map_or("", |(scheme, _)| scheme)
}

/// The URL as it may be shown and logged: without passwords.
///
/// Works on text that is no proper URL, too, since those are what errors show; where it must
/// guess, it hides too much rather than too little.
#[must_use]
pub fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // A colon alone, or nothing: a login may stand there all the same. Paths have no login.
        return match url.rsplit_once('@') {
            Some((_, rest)) if self::scheme(url) != "sqlite" => format!("{HIDDEN}@{rest}"),
            _ => url.to_owned(),
        };
    };
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    // The last @, because a password that is not percent-encoded may hold another.
    let authority = match before.rsplit_once('@') {
        None => before.to_owned(),
        Some((login, host)) => match login.split_once(':') {
            Some((user, _)) => format!("{user}:{HIDDEN}@{host}"),
            None => before.to_owned(),
        },
    };
    if query.is_empty() {
        return format!("{scheme}://{authority}");
    }
    // An @ after the ? means that the ? stood in a password.
    if query.contains('@') {
        return format!("{scheme}://{HIDDEN}");
    }
    let shown = |pair: &str| match pair.split_once('=') {
        Some((key, _)) if key.to_lowercase().contains("pass") => format!("{key}={HIDDEN}"),
        _ => pair.to_owned(),
    };
    let query: Vec<_> = query.split('&').map(shown).collect();
    format!("{scheme}://{authority}?{}", query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        let cases = [
            (
                "mysql://root:secret@db:3306/vehicles",
                "mysql://root:***@db:3306/vehicles",
            ),
            ("mysql://root:se@cr:e/t@db/v", "mysql://root:***@db/v"),
            ("mysql://root:se?cret@db/v", "mysql://***"),
            ("redis://:secret@queue:6379/1", "redis://:***@queue:6379/1"),
            (
                "redis-sentinel://h:1?sentinelPassword=secret&x=1",
                "redis-sentinel://h:1?sentinelPassword=***&x=1",
            ),
            ("root:secret@db:3306/vehicles", "***@db:3306/vehicles"),
            ("mysql:root:secret@db/v", "***@db/v"),
            ("mysql://root@db/v", "mysql://root@db/v"),
            ("sqlite:./a@b.db", "sqlite:./a@b.db"),
            ("memory:", "memory:"),
        ];
        for (url, shown) in cases {
            assert_eq!(redacted(url), shown);
            assert!(!redacted(url).contains("secret"));
        }
    }

    #[test]
    fn parts_that_mean_something_in_a_url_are_encoded() {
        let login = Mysql {
            user: "a b",
            password: "",
            host: "::1",
            port: 1,
            database: "d_e/f",
        }
        .to_url();
        assert_eq!(login, "mysql://a%20b@[::1]:1/d_e%2Ff");
        assert_eq!(scheme(&login), "mysql");
    }
}
