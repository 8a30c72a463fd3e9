//! URLs of the database and the queue: made from parts, and shown without passwords.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::broker::redis;
use crate::hosts::{has_port, split_hosts};

/// Characters to encode: all but the unreserved ones (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The schemes of a database with a login.
const DATABASE_SCHEMES: [&str; 2] = ["mysql", "mariadb"];

/// Shown instead of a secret.
const HIDDEN: &str = "***";

/// Parameters whose values are not secret.
const SHOWN_PARAMETERS: [&str; 6] = [
    "allow_public_key",
    "ca",
    "node",
    "require_ssl",
    "socket",
    "ssl-mode",
];

/// The parts of a `MySQL` URL, from the variables of the Python original.
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

/// A host as it is written in a URL: an IPv6 address in brackets.
pub(super) fn host(name: &str) -> String {
    if name.contains(':') && !name.starts_with('[') {
        format!("[{name}]")
    } else {
        name.to_owned()
    }
}

/// The text before the first colon; empty if there is none.
pub(super) fn scheme(url: &str) -> &str {
    url.split_once(':').map_or("", |(scheme, _)| scheme)
}

/// Whether a URL of a server with databases names none of them.
pub(super) fn names_no_database(url: &str) -> bool {
    let (_, _, path) = split_hosts(url);
    let path = path.split(['?', '#']).next().unwrap_or(path);
    path.trim_matches('/').is_empty()
}

/// Why the URL probably does not mean what its author intended, with the next step. Shows no part
/// of the URL.
///
/// A password may contain characters that end a part of a URL. Unless they are encoded, the rest of
/// the password becomes part of the host, path or query, which errors and servers print.
pub(super) fn misread(url: &str) -> Option<&'static str> {
    let (scheme, rest) = url.split_once("://")?;
    if scheme == "sqlite" {
        return None;
    }
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = before.split_once('/').unwrap_or((before, ""));
    let user = authority.rsplit_once('@').map_or("", |(login, _)| login);
    let user = user.split_once(':').map_or(user, |(user, _)| user);
    if holds_login(user) || holds_login(path) || path.to_ascii_lowercase().contains("%40") {
        return Some(
            "its user or database has an encoded colon, @ or %; write USER:PASSWORD@HOST with a plain \
             colon and a plain @, and encode only the characters within user and password",
        );
    }
    let is_pair = |pair: &str| {
        let name = pair.split_once('=').map_or("", |(name, _)| name);
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    let is_cut = rest.contains('#')
        || path.contains('@')
        || (!authority.contains('@') && query.contains('@'))
        || !(query.is_empty() || query.split('&').all(is_pair));
    is_cut.then_some(
        "it has an unencoded special character, probably in the password; write / as %2F, ? as \
         %3F, # as %23 and @ as %40",
    )
}

/// The URL without passwords, to show and to log.
///
/// Shows only the parts of a URL of the usual form, and hides any other text completely: in an
/// invalid URL, the position of the password is unknown.
#[must_use]
pub fn redacted(url: &str) -> String {
    let scheme = self::scheme(url);
    if scheme == "sqlite" || url == "memory:" {
        return url.to_owned();
    }
    let rest = url.split_once("://").map(|(_, rest)| rest);
    let usual = rest.and_then(|rest| usual(scheme, rest));
    match usual {
        Some(usual) if !scheme.is_empty() && is_plain(scheme, "+-") => {
            format!("{scheme}://{usual}")
        }
        // The text before the colon may be the user of a login.
        _ if !DATABASE_SCHEMES.contains(&scheme) && !redis::SCHEMES.contains(&scheme) => {
            HIDDEN.to_owned()
        }
        _ => format!(
            "{scheme}:{}{HIDDEN}",
            if rest.is_some() { "//" } else { "" }
        ),
    }
}

/// The place that a URL leads to: without login and parameters, for messages.
pub(super) fn place(url: &str) -> String {
    let shown = redacted(url);
    let shown = shown.split('?').next().unwrap_or_default();
    match shown.split_once("://") {
        Some((scheme, rest)) => {
            let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
            format!("{scheme}://{place}")
        }
        None => shown.to_owned(),
    }
}

/// The part after the scheme of a URL of the usual form, with secrets hidden. `None` for any other
/// form.
fn usual(scheme: &str, rest: &str) -> Option<String> {
    let (before, query) = match rest.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (rest, None),
    };
    let (login, place) = match before.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, before),
    };
    let (hosts, path) = place.split_once('/').unwrap_or((place, ""));
    // Without a login, a text after a comma that has no port may be a part of a password.
    let is_list = hosts.contains(',');
    let is_unsure = is_list && login.is_none() && !hosts.split(',').all(has_port);
    if is_unsure || !hosts.split(',').all(is_host) {
        return None;
    }
    if !is_plain(path, "-._~%/") || holds_login(path) {
        return None;
    }
    let login = match login.map(|login| (login, login.split_once(':'))) {
        None => String::new(),
        // A password without a user is often written there.
        Some((_, None)) if !DATABASE_SCHEMES.contains(&scheme) => format!("{HIDDEN}@"),
        Some((user, _)) if holds_login(user.split(':').next().unwrap_or_default()) => {
            format!("{HIDDEN}@")
        }
        Some((user, None)) if is_plain(user, "-._~%") => format!("{user}@"),
        Some((_, Some((user, _)))) if is_plain(user, "-._~%") => format!("{user}:{HIDDEN}@"),
        Some(_) => return None,
    };
    let query = match query {
        Some(query) => {
            let pairs = query
                .split('&')
                .map(shown_pair)
                .collect::<Option<Vec<_>>>()?;
            format!("?{}", pairs.join("&"))
        }
        None => String::new(),
    };
    Some(format!("{login}{place}{query}"))
}

/// Whether the name of a user or a database has an encoded colon: a login that was encoded as a whole
/// is such a name, also if it was encoded twice.
fn holds_login(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains("%3a") || name.contains("%25")
}

/// A host with or without a port; empty for a socket, which has only a path.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, port),
        _ => (host, ""),
    };
    let inner = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    port.bytes().all(|byte| byte.is_ascii_digit())
        && match inner {
            Some(address) => is_plain(address, ":."),
            None => is_plain(name, "-._"),
        }
}

/// A parameter. Its value is shown only if it is known not to be secret.
fn shown_pair(pair: &str) -> Option<String> {
    let (name, value) = pair.split_once('=')?;
    if !is_plain(name, "_-") {
        return None;
    }
    let is_known =
        SHOWN_PARAMETERS.contains(&name) && is_plain(value, "-._~%/:") && !holds_login(value);
    Some(format!("{name}={}", if is_known { value } else { HIDDEN }))
}

fn is_plain(text: &str, others: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    text.chars().all(is_plain)
}

#[cfg(test)]
pub(super) mod malformed {
    //! Invalid URLs, for the tests of all code that shows a setting.

    /// Each has a password. No two adjacent letters of it may be shown.
    pub(in crate::config) const MALFORMED: [&str; 43] = [
        "mysql://root:QXZJ/KVWY@db/v",
        "mysql://root:QXZJ?KVWY@db/v",
        "mysql://root:QXZJ#KVWY@db/v",
        "mysql://root:QXZJ@KVWY@db/v#x",
        "mysql://root:QX@ZJ/KVWY@db/v",
        "mysql://root:QX@ZJ?KVWY@db/v",
        "mysql://root:QX@ZJ#KVWY@db/v",
        "mysql://root:QXZJ?KV=WY@db/v",
        "mysql://root:QXZJ KVWY@db/v?x",
        "mysql://root:QXZJKVWY",
        "mysql://root:QXZJ?KVWY",
        "mysql://root:QXZJ/KVWY",
        "mysql://root:12?QXZJKVWY",
        "mysql://QXZJ/KVWY@db/v",
        "mysql://root:12,QXZJKVWY",
        "mysql://root:12,QXZJ/KVWY@db,db2/v",
        "mysql://root:QXZJ@KVWY,db2/v#x",
        "mysql://u:QXZJ@db,db2:KVWY/v",
        "mysql://db,db2/root:QXZJKVWY",
        "mysql://db/root:QXZJKVWY",
        "mysql://db/v?password=QXZJKVWY",
        "mysql://db/v?QXZJKVWY",
        "mysql://db/v#QXZJKVWY",
        "mysql://root:12#QXZJ@db/v",
        "mysql:root:QXZJKVWY@db/v",
        "mysql:/root:QXZJKVWY@db/v",
        "mysql:QXZJKVWY",
        "root:QXZJKVWY@db/v",
        "root:QXZJ://KVWY@db/v",
        "QXZJKVWY",
        "\u{1b}[2J://u:QXZJKVWY@h",
        "redis://QXZJKVWY@queue/x?y",
        "redis://:QXZJ/KVWY@queue",
        "redis://queue:6379/1?sentinelPassword=QXZJ@KVWY",
        "redis://queue:QXZJKVWY/1",
        "mysql://u%3AQXZJ@db/v",
        "mysql://u%3aQXZJ:KVWY@db/v",
        "mysql://u%253AQXZJ@db/v",
        "mysql://u%3AQXZJ%40db/v",
        "mysql://db/u%3AQXZJ%40db%2Fv",
        "mysql://db/v?socket=u%3AQXZJ",
        "redis://u%3AQXZJ:KVWY@queue",
        "redis://queue/u%3AQXZJ%40queue",
    ];

    /// Whether a text contains a part of the passwords of [`MALFORMED`].
    pub(in crate::config) fn shows_a_secret(text: &str) -> bool {
        ["QX", "XZ", "ZJ", "KV", "VW", "WY"]
            .iter()
            .any(|piece| text.contains(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::malformed::{MALFORMED, shows_a_secret};
    use super::*;

    #[test]
    fn a_place_has_no_login_and_no_parameters() {
        for (url, expected) in [
            (
                "mysql://root:s@c:t@db:3306/v?ssl-mode=REQUIRED",
                "mysql://db:3306/v",
            ),
            ("mysql://root@db1,db2:3307/v", "mysql://db1,db2:3307/v"),
            ("sqlite:/data/test.db", "sqlite:/data/test.db"),
            ("mysql://secret", "mysql://secret"),
        ] {
            assert_eq!(place(url), expected, "{url}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        let cases = [
            (
                "mysql://root:secret@db:3306/vehicles",
                "mysql://root:***@db:3306/vehicles",
            ),
            ("mysql://root:se@cr:e/t@db/v", "mysql://root:***@db/v"),
            ("redis://:secret@queue:6379/1", "redis://:***@queue:6379/1"),
            ("redis://secret@queue:6379/1", "redis://***@queue:6379/1"),
            (
                "redis+unix:///run/redis.sock",
                "redis+unix:///run/redis.sock",
            ),
            (
                "redis-cluster://h:1?node=i:2&x=secret",
                "redis-cluster://h:1?node=i:2&x=***",
            ),
            (
                "mysql://u:secret@[::1]:3306/v?ca=/etc/ca.pem&require_ssl=true",
                "mysql://u:***@[::1]:3306/v?ca=/etc/ca.pem&require_ssl=true",
            ),
            (
                "mysql://root:sec,ret@db1,db2:3307,[::1]:3308/v",
                "mysql://root:***@db1,db2:3307,[::1]:3308/v",
            ),
            ("redis-cluster://h1:1,h2:2", "redis-cluster://h1:1,h2:2"),
            ("mysql://db1,db2/v", "mysql://***"),
            (
                "redis-cluster://:secret@h1:1,h2:2,h3:3",
                "redis-cluster://:***@h1:1,h2:2,h3:3",
            ),
            ("mysql://root@db/v", "mysql://root@db/v"),
            (
                "mariadb://root:secret@db/v?ssl-mode=REQUIRED",
                "mariadb://root:***@db/v?ssl-mode=REQUIRED",
            ),
            ("mariadb://root@db/v", "mariadb://root@db/v"),
            ("mysql://db:3306", "mysql://db:3306"),
            ("postgres://root:secret@db/v", "postgres://root:***@db/v"),
            ("sqlite:./a@b.db", "sqlite:./a@b.db"),
            ("memory:", "memory:"),
        ];
        for (url, shown) in cases {
            assert_eq!(redacted(url), shown);
            assert!(!redacted(url).contains("secret"));
        }
    }

    #[test]
    fn no_part_of_a_malformed_url_is_shown() {
        for url in MALFORMED {
            let shown = redacted(url);
            assert!(!shows_a_secret(&shown), "{url}: {shown}");
            assert!(
                shown.contains(HIDDEN) && !shown.contains(char::is_control),
                "{shown:?}"
            );
            let why = misread(url).unwrap_or_default();
            assert!(!shows_a_secret(why), "{why}");
        }
    }

    /// A server prints the names of users and databases.
    #[test]
    fn a_login_that_was_encoded_as_a_whole_is_refused() {
        for url in [
            "mysql://u%3AQXZJ@db/v",
            "mysql://u%3aQXZJ:KVWY@db/v",
            "mysql://u%253AQXZJ@db/v",
            "mysql://db/u%3AQXZJ%40db%2Fv",
            "mysql://db/QXZJ%40db",
            "redis://u%3AQXZJ:KVWY@queue",
        ] {
            let why = misread(url).unwrap_or_default();
            assert!(why.contains("USER:PASSWORD@HOST"), "{url}: {why}");
        }
        // An at sign belongs to the user of some services.
        for url in [
            "mysql://user%40server:p%3Aw@db/v",
            "mysql://u:p%25@db/v%2Fw",
        ] {
            assert_eq!(misread(url), None, "{url}");
        }
    }

    #[test]
    fn a_raw_character_that_cuts_a_password_is_noticed() {
        for url in &MALFORMED[..8] {
            assert!(misread(url).is_some_and(|why| why.contains("%2F")), "{url}");
        }
        for url in [
            "mysql://u:p@ss:word@db:3306/v?ca=/etc/a@b.pem&require_ssl=true",
            "mysql://u:p%23%2F%3F%40@[::1]/v",
            "mysql://u:p,w@db1,db2:3307/v?require_ssl=true",
            "redis://queue",
            "redis+unix:///run/redis.sock",
            "sqlite:///a#b?c@d",
            "memory:",
        ] {
            assert_eq!(misread(url), None, "{url}");
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
