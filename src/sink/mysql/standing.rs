//! Whether a server takes writes now: what it reports of itself, judged by a pure function.
//!
//! Knows nothing of the other servers of a URL.

use std::collections::BTreeMap;
use std::fmt;

use super::errors::Failure;
use super::session::Session;

/// The number of the state of a Galera node that has all commits of its cluster (`Synced`).
const SYNCED: &str = "4";

/// The number of the state of a Galera node that sends its data to a node that joins (`Donor`). It
/// takes writes, but may lag.
const DONOR: &str = "2";

/// Whether a server takes writes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does.
    Writable,
    /// It does, but another server that takes writes is to be preferred. Holds the reason.
    Lagging(String),
    /// It does not. Holds the reason.
    Refuses(String),
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writable => f.write_str("it takes writes"),
            Self::Lagging(why) => write!(f, "it takes writes, but {why}"),
            Self::Refuses(why) => f.write_str(why),
        }
    }
}

/// A member of a group of MySQL's group replication, as the server reports it.
#[derive(Debug, PartialEq, Eq)]
struct Member {
    is_this: bool,
    state: String,
    role: String,
}

/// Queries the server of a session.
///
/// An account without a right for `performance_schema` does not see the members of a group. Their
/// secondaries are read only all the same.
pub(super) async fn standing(session: &mut Session) -> Result<Standing, Failure> {
    if session.server.is_other {
        return Ok(Standing::Writable);
    }
    // A text in some versions, and a number in others. `super_read_only` implies it.
    let read_only = session
        .one::<String>("SELECT CAST(@@GLOBAL.read_only AS CHAR)")
        .await?;
    let sql = "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_provider_name', 'wsrep_ready', \
               'wsrep_local_state')";
    let wsrep = session.rows::<(String, String)>(sql).await?;
    let mut members = Vec::new();
    if !session.server.mariadb {
        let sql = "SELECT MEMBER_ID = @@server_uuid, MEMBER_STATE, MEMBER_ROLE FROM \
                   performance_schema.replication_group_members";
        members = match session.rows::<(bool, String, String)>(sql).await {
            Ok(members) => members,
            Err(failure) if failure.code().is_some() => Vec::new(),
            Err(failure) => return Err(failure),
        };
    }
    let members = members.into_iter().map(|(is_this, state, role)| Member {
        is_this,
        state,
        role,
    });
    let members: Vec<Member> = members.collect();
    let wsrep = wsrep
        .into_iter()
        .map(|(name, value)| (name.to_lowercase(), value));
    Ok(judge(&read_only, &wsrep.collect(), &members))
}

fn judge(read_only: &str, wsrep: &BTreeMap<String, String>, members: &[Member]) -> Standing {
    if !matches!(read_only, "0" | "OFF") {
        return Standing::Refuses("it is read only".to_owned());
    }
    let of_galera = |name: &str| wsrep.get(name).map_or("", String::as_str);
    if !of_galera("wsrep_provider_name").is_empty() {
        let (ready, state) = (of_galera("wsrep_ready"), of_galera("wsrep_local_state"));
        return match (ready, state) {
            ("ON", SYNCED) => Standing::Writable,
            ("ON", DONOR) => {
                Standing::Lagging("its Galera node sends its data to another one".to_owned())
            }
            ("ON", _) => Standing::Refuses("its Galera node is not synced".to_owned()),
            _ => Standing::Refuses("its Galera node is not ready".to_owned()),
        };
    }
    // A server that has the plugin and is in no group is a member without a state.
    let this = members.iter().find(|member| member.is_this);
    let Some(this) = this.filter(|this| members.len() > 1 || this.state != "OFFLINE") else {
        return Standing::Writable;
    };
    if this.state != "ONLINE" || this.role != "PRIMARY" {
        let (state, role) = (&this.state, &this.role);
        return Standing::Refuses(format!("in its group it is {state} and {role}"));
    }
    let unreachable = members
        .iter()
        .filter(|member| member.state == "UNREACHABLE");
    if unreachable.count() * 2 >= members.len() {
        return Standing::Refuses("it does not reach most of its group".to_owned());
    }
    Standing::Writable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_judged_by_what_it_reports() {
        type Case<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
        let galera = |ready, state| ["Galera", ready, state];
        let cases: &[Case<'_>] = &[
            ("0", &[], &[], "writable"),
            ("OFF", &[], &[], "writable"),
            ("1", &[], &[], "read only"),
            ("ON", &[], &[], "read only"),
            ("NO_LOCK_NO_ADMIN", &[], &[], "read only"),
            // MariaDB without a cluster reports these as well.
            ("0", &["", "OFF", "0"], &[], "writable"),
            ("0", &galera("ON", "4"), &[], "writable"),
            ("0", &galera("ON", "2"), &[], "lagging"),
            ("0", &galera("ON", "1"), &[], "not synced"),
            ("0", &galera("OFF", "0"), &[], "not ready"),
            ("0", &["Galera"], &[], "not ready"),
            ("1", &galera("ON", "4"), &[], "read only"),
            // The first member is the server itself.
            ("0", &[], &[("OFFLINE", "")], "writable"),
            ("0", &[], &[("ONLINE", "PRIMARY")], "writable"),
            (
                "0",
                &[],
                &[("ONLINE", "PRIMARY"), ("ONLINE", "PRIMARY")],
                "writable",
            ),
            (
                "0",
                &[],
                &[("ONLINE", "SECONDARY"), ("ONLINE", "PRIMARY")],
                "SECONDARY",
            ),
            (
                "0",
                &[],
                &[("RECOVERING", "PRIMARY"), ("ONLINE", "PRIMARY")],
                "RECOVERING",
            ),
            ("0", &[], &[("ERROR", "")], "ERROR"),
            (
                "0",
                &[],
                &[
                    ("ONLINE", "PRIMARY"),
                    ("UNREACHABLE", ""),
                    ("ONLINE", "SECONDARY"),
                ],
                "writable",
            ),
            (
                "0",
                &[],
                &[
                    ("ONLINE", "PRIMARY"),
                    ("UNREACHABLE", ""),
                    ("UNREACHABLE", ""),
                ],
                "most of its group",
            ),
        ];
        for (read_only, wsrep, members, expected) in cases {
            let names = ["wsrep_provider_name", "wsrep_ready", "wsrep_local_state"];
            let pairs = names.iter().zip(*wsrep);
            let wsrep = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let members = members
                .iter()
                .enumerate()
                .map(|(at, (state, role))| Member {
                    is_this: at == 0,
                    state: (*state).to_owned(),
                    role: (*role).to_owned(),
                });
            let members: Vec<Member> = members.collect();
            let text = match judge(read_only, &wsrep.collect(), &members) {
                Standing::Writable => "writable".to_owned(),
                Standing::Lagging(why) => format!("lagging: {why}"),
                Standing::Refuses(why) => format!("refuses: {why}"),
            };
            assert!(text.contains(expected), "{read_only} {members:?}: {text}");
        }
    }
}
