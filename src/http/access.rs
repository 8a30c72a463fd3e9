//! Who may act on the pages, and see the text of records.
//!
//! An action needs all of these: `http_actions` is on; the request has the `Origin` of the page, so
//! that no other site can send it through a browser; it has the token of the page, which other sites
//! cannot read; and it has the secret of `http_token_file`, if one is set. The settings require a
//! secret if other machines can reach the address. An action on directories also needs the page
//! of a service that takes files.

use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::rand::{GetRandomFlags, getrandom};

/// What the settings allow.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// Whether the pages may change anything.
    pub actions: bool,
    /// The secret that a request must have to act or to see the text of records.
    pub secret: Option<String>,
    /// Whether the process is a service that takes files. Only the page of such a process acts on
    /// directories: elsewhere a pause has no effect, and the directories may have other files.
    pub takes_files: bool,
}

/// The checks of requests.
#[derive(Debug)]
pub(super) struct Access {
    allowed: Allowed,
    /// Random, made at the start. Each form of a page has it.
    page_token: String,
}

impl Access {
    /// # Panics
    /// If the system has no random numbers, as [`getrandom`] needs them.
    pub(super) fn new(allowed: Allowed) -> Self {
        let mut random = [0_u8; 16];
        getrandom(&mut random, GetRandomFlags::empty()).expect("the kernel has random numbers");
        let page_token = STANDARD.encode(random);
        Self {
            allowed,
            page_token,
        }
    }

    /// The token for the forms of a page. `None` if the pages may not change anything.
    pub(super) fn page_token(&self) -> Option<&str> {
        self.allowed.actions.then_some(&self.page_token)
    }

    pub(super) fn takes_files(&self) -> bool {
        self.allowed.takes_files
    }

    pub(super) fn needs_secret(&self) -> bool {
        self.allowed.secret.is_some()
    }

    /// Whether a request has the secret: as a bearer token, or as a password. A browser asks its
    /// user for a password. `true` if no secret is set.
    pub(super) fn has_secret(&self, headers: &HeaderMap) -> bool {
        let Some(secret) = &self.allowed.secret else {
            return true;
        };
        credentials(headers).is_some_and(|given| is_same(&given.secret, secret))
    }

    /// Whether a request may see the text of records. Without a secret, every program that reaches
    /// the address can send requests: so the operator has to turn the actions on first.
    pub(super) fn sees_records(&self, headers: &HeaderMap) -> bool {
        (self.allowed.actions || self.needs_secret()) && self.has_secret(headers)
    }

    /// Checks the head of a request for an action.
    ///
    /// # Errors
    /// The status code, and the reason.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        if !self.allowed.actions {
            let why = "actions are off: set http_actions = true, and restart the service\n";
            return Err((StatusCode::FORBIDDEN, why));
        }
        if !has_own_origin(headers) {
            let why = "the request does not come from a page of this service\n";
            return Err((StatusCode::FORBIDDEN, why));
        }
        if !self.has_secret(headers) {
            let why = "the secret of http_token_file is missing or wrong\n";
            return Err((StatusCode::UNAUTHORIZED, why));
        }
        Ok(())
    }

    pub(super) fn is_page_token(&self, given: &str) -> bool {
        is_same(given, &self.page_token)
    }
}

/// What a request says about its sender.
struct Credentials {
    user: String,
    secret: String,
}

fn credentials(headers: &HeaderMap) -> Option<Credentials> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, value) = given.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        let (user, secret) = ("bearer".to_owned(), value.trim().to_owned());
        return Some(Credentials { user, secret });
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    let (user, secret) = text.split_once(':')?;
    let (user, secret) = (user.to_owned(), secret.to_owned());
    Some(Credentials { user, secret })
}

/// The user that a request names, for the log. Any client with the secret can name any user.
pub(super) fn user(headers: &HeaderMap) -> String {
    let named = credentials(headers).map(|given| given.user);
    named.filter(|user| !user.is_empty()).unwrap_or_default()
}

/// Whether the `Origin` of a request is the host that it is sent to. A browser sends it with every
/// POST, and no page can change it.
fn has_own_origin(headers: &HeaderMap) -> bool {
    let one = |name| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        }
    };
    let (Some(origin), Some(host)) = (one(header::ORIGIN), one(header::HOST)) else {
        return false;
    };
    // A proxy in front of the service may use TLS.
    let name = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    name.is_some_and(|name| name.eq_ignore_ascii_case(host))
}

/// Compares in the same time whatever differs: the comparison of hashes is one of fixed length.
fn is_same(given: &str, expected: &str) -> bool {
    blake3::hash(given.as_bytes()) == blake3::hash(expected.as_bytes())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pair = |(name, value): &(HeaderName, &str)| {
            (name.clone(), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_the_page_itself_is_the_origin() {
        let cases = [
            ("http://localhost:9464", "localhost:9464", true),
            ("https://engine.example", "engine.example", true),
            ("http://evil.example", "localhost:9464", false),
            ("http://localhost", "localhost:9464", false),
            (
                "http://localhost:9464.evil.example",
                "localhost:9464",
                false,
            ),
            ("null", "localhost:9464", false),
            ("localhost:9464", "localhost:9464", false),
            ("", "localhost:9464", false),
        ];
        for (origin, host, own) in cases {
            let given = headers(&[(header::ORIGIN, origin), (header::HOST, host)]);
            assert_eq!(has_own_origin(&given), own, "{origin} at {host}");
        }
        assert!(!has_own_origin(&headers(&[(header::HOST, "localhost")])));
        let mut twice = headers(&[
            (header::HOST, "localhost"),
            (header::ORIGIN, "http://localhost"),
        ]);
        twice.append(header::ORIGIN, HeaderValue::from_static("http://localhost"));
        assert!(!has_own_origin(&twice));
    }

    #[test]
    fn the_secret_is_a_bearer_token_or_a_password() {
        let access = Access::new(Allowed {
            actions: true,
            secret: Some("s3cret".to_owned()),
            takes_files: true,
        });
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let cases = [
            ("Bearer s3cret".to_owned(), true),
            ("bearer s3cret".to_owned(), true),
            ("Bearer s3cre".to_owned(), false),
            ("Bearer ".to_owned(), false),
            ("s3cret".to_owned(), false),
            (basic("anna:s3cret"), true),
            (basic("anna:s3cret "), false),
            (basic("s3cret"), false),
            ("Basic s3cret".to_owned(), false),
        ];
        for (given, accepted) in cases {
            let given = headers(&[(header::AUTHORIZATION, &given)]);
            assert_eq!(access.has_secret(&given), accepted, "{given:?}");
        }
        let anna = headers(&[(header::AUTHORIZATION, &basic("anna:s3cret"))]);
        assert_eq!(user(&anna), "anna");
        assert!(!access.has_secret(&HeaderMap::new()));
    }

    #[test]
    fn the_text_of_records_is_shown_only_if_the_settings_say_so() {
        let sees = |actions, secret: Option<&str>, given: &[(HeaderName, &str)]| {
            let secret = secret.map(str::to_owned);
            let access = Access::new(Allowed {
                actions,
                secret,
                takes_files: true,
            });
            access.sees_records(&headers(given))
        };
        let bearer = [(header::AUTHORIZATION, "Bearer s")];
        assert!(!sees(false, None, &[]));
        assert!(!sees(false, None, &bearer));
        assert!(sees(true, None, &[]));
        assert!(!sees(true, Some("s"), &[]));
        assert!(!sees(false, Some("s"), &[]));
        assert!(sees(false, Some("s"), &bearer));
    }
}
