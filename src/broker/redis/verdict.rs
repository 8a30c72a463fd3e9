//! Classifies errors of Redis and of its client.
//!
//! The client has kinds for few of the server's errors. The others are texts that begin with a code
//! word. The code word is part of the protocol
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors>), so only the
//! beginning of a text is compared.

use fred::error::{Error, ErrorKind};

use crate::fault::{Fault, Origin};
use crate::telemetry;

/// The class of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Transient. Whether the command took effect is unknown.
    Transient,
    /// The server refused a write for lack of memory: wait, as for a full queue.
    Full,
    /// The stream or its group does not exist (FLUSHALL, DEL, a restart without data): create it.
    GroupMissing,
    /// The key can never take an entry: it has another type, or the ids of its stream are used up.
    /// Replace it.
    Unusable,
    /// Fatal. Holds the next step.
    Fatal(&'static str),
}

const CREDENTIALS: &str = "check the user and the password in the URL of the broker";
const UNTRUSTED: &str = "the server's certificate is not trusted: name its authority with `ca=FILE` \
                         in the URL of the broker, and use a host name that the certificate \
                         contains";
const PERMISSIONS: &str = "give the ACL user `~PREFIX:*` and `+@stream +@connection +info +memory|usage +del`, and in a \
     cluster `+cluster|slots +cluster|info`";
const CLUSTER: &str = "the server is part of a cluster: use `redis-cluster://`";
const NO_CLUSTER: &str = "the server is not part of a cluster: use `redis://`";
const DATABASE: &str = "choose a database that the server has, at the end of the URL";

/// Beginnings of the server's errors and their class. The first match decides.
const BEGINNINGS: &[(&str, Verdict)] = &[
    ("OOM", Verdict::Full),
    ("NOGROUP", Verdict::GroupMissing),
    ("UNBLOCKED", Verdict::GroupMissing),
    ("LOADING", Verdict::Transient),
    ("READONLY", Verdict::Transient),
    ("MISCONF", Verdict::Transient),
    ("CLUSTERDOWN", Verdict::Transient),
    ("MASTERDOWN", Verdict::Transient),
    ("NOREPLICAS", Verdict::Transient),
    ("TRYAGAIN", Verdict::Transient),
    ("BUSY", Verdict::Transient),
    ("MOVED", Verdict::Transient),
    ("ASK", Verdict::Transient),
    ("NOAUTH", Verdict::Fatal(CREDENTIALS)),
    ("WRONGPASS", Verdict::Fatal(CREDENTIALS)),
    ("ERR AUTH", Verdict::Fatal(CREDENTIALS)),
    ("ERR Client sent AUTH", Verdict::Fatal(CREDENTIALS)),
    ("NOPERM", Verdict::Fatal(PERMISSIONS)),
    ("CROSSSLOT", Verdict::Fatal(CLUSTER)),
    ("ERR SELECT is not allowed", Verdict::Fatal(CLUSTER)),
    (
        "ERR This instance has cluster support disabled",
        Verdict::Fatal(NO_CLUSTER),
    ),
    ("ERR DB index", Verdict::Fatal(DATABASE)),
    ("ERR invalid DB index", Verdict::Fatal(DATABASE)),
    ("WRONGTYPE", Verdict::Unusable),
    ("ERR The stream has exhausted", Verdict::Unusable),
    (
        "ERR unknown command",
        Verdict::Fatal("use Redis 6.2 or newer, or Valkey"),
    ),
];

/// Classifies an error. An unknown one is transient: a retry is safe, and the log shows it.
pub(super) fn classify(error: &Error) -> Verdict {
    let known = BEGINNINGS
        .iter()
        .find(|(beginning, _)| error.details().starts_with(beginning));
    if let Some((_, verdict)) = known {
        return *verdict;
    }
    // Of a failed handshake, the client keeps only the text of the error.
    if error.details().contains("InvalidCertificate(") {
        return Verdict::Fatal(UNTRUSTED);
    }
    match error.kind() {
        ErrorKind::Auth => Verdict::Fatal(CREDENTIALS),
        ErrorKind::Url | ErrorKind::Config => Verdict::Fatal("check the URL of the broker"),
        ErrorKind::Tls => Verdict::Fatal("check `ca` in the URL and the certificates of this host"),
        _ => Verdict::Transient,
    }
}

/// Whether the server refuses the login.
pub(super) fn is_refused_login(error: &Error) -> bool {
    classify(error) == Verdict::Fatal(CREDENTIALS)
}

/// Counts the error and returns it as a fault.
pub(super) fn fault(doing: &str, error: Error) -> Fault {
    telemetry::broker_error();
    match classify(&error) {
        Verdict::Fatal(advice) => {
            Fault::fatal(Origin::Broker, format!("{doing} failed"), error).with_next_step(advice)
        }
        _ => Fault::transient(Origin::Broker, format!("{doing} failed"), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Class;

    fn verdict(kind: ErrorKind, details: &'static str) -> Verdict {
        classify(&Error::new(kind, details))
    }

    #[test]
    fn errors_of_the_server_are_classified_by_their_code() {
        let fatal = |advice: &str, details| match verdict(ErrorKind::Unknown, details) {
            Verdict::Fatal(given) => assert!(given.contains(advice), "{details}: {given}"),
            other => panic!("{details}: {other:?}"),
        };
        let is = |expected, details| {
            assert_eq!(verdict(ErrorKind::Unknown, details), expected, "{details}");
        };
        is(
            Verdict::Full,
            "OOM command not allowed when used memory > 'maxmemory'.",
        );
        is(
            Verdict::GroupMissing,
            "NOGROUP No such key 'k' or consumer group 'workers'",
        );
        is(
            Verdict::GroupMissing,
            "UNBLOCKED the stream key no longer exists",
        );
        for passes in [
            "LOADING Redis is loading the dataset in memory",
            "READONLY You can't write against a read only replica.",
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to",
            "CLUSTERDOWN The cluster is down",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "NOREPLICAS Not enough good replicas to write.",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "MOVED 3999 127.0.0.1:6381",
            "ERR something that nobody has seen",
        ] {
            is(Verdict::Transient, passes);
        }
        fatal(
            "redis-cluster://",
            "CROSSSLOT Keys in request don't hash to the same slot",
        );
        for unusable in [
            "WRONGTYPE Operation against a key holding the wrong kind",
            "ERR The stream has exhausted the last possible ID, unable to add more items",
        ] {
            is(Verdict::Unusable, unusable);
        }
        fatal("password", "NOAUTH Authentication required.");
        fatal(
            "password",
            "WRONGPASS invalid username-password pair or user is disabled.",
        );
        fatal(
            "password",
            "ERR AUTH <password> called without any password configured",
        );
        fatal(
            "ACL",
            "NOPERM this user has no permissions to run the 'xadd' command",
        );
        fatal("database", "ERR DB index is out of range");
        fatal(
            "6.2",
            "ERR unknown command 'XGROUP', with args beginning with:",
        );
    }

    #[test]
    fn errors_of_the_client_are_classified_by_kind() {
        for kind in [
            ErrorKind::IO,
            ErrorKind::Timeout,
            ErrorKind::Canceled,
            ErrorKind::Backpressure,
            ErrorKind::Routing,
            ErrorKind::Protocol,
            ErrorKind::Cluster,
        ] {
            assert_eq!(
                verdict(kind.clone(), "whatever"),
                Verdict::Transient,
                "{kind:?}"
            );
        }
        for kind in [
            ErrorKind::Auth,
            ErrorKind::Config,
            ErrorKind::Url,
            ErrorKind::Tls,
        ] {
            assert!(
                matches!(verdict(kind.clone(), "whatever"), Verdict::Fatal(_)),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn a_fault_shows_a_next_step_only_if_it_has_one() {
        let lost = fault(
            "publishing to redis",
            Error::new(ErrorKind::IO, "connection lost"),
        );
        assert_eq!(lost.class, Class::Transient);
        assert_eq!(
            lost.to_string(),
            "publishing to redis failed: IO Error: connection lost"
        );
        let refused = fault("opening redis", Error::new(ErrorKind::Auth, "WRONGPASS no"));
        assert_eq!(refused.class, Class::Fatal);
        assert_eq!(refused.next_step.as_deref(), Some(CREDENTIALS));
        assert_eq!(lost.next_step, None);
    }
}
