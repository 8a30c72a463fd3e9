//! Files of archives that are recognised by their state on the disk.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::batch::ContentHash;
use crate::sink::{Digest, Remembered, SeenFile};

use super::errors::Failure;
use super::files::identity;
use super::session::Session;

/// Most paths of one statement. MariaDB turns a longer list than 1,000 into a table.
const PATHS_PER_STATEMENT: usize = 500;

const WRITES: &str = "writing to a string does not fail";

/// See [`Sink::remember`](crate::sink::Sink::remember).
pub(super) async fn remember(session: &mut Session, files: &[SeenFile]) -> Result<(), Failure> {
    session.begin().await?;
    for files in files.chunks(PATHS_PER_STATEMENT) {
        let paths = list(files.iter().map(|file| file.path));
        let sql = format!("DELETE FROM ingest_seen WHERE path IN ({paths})");
        session.run(&sql).await?;
        let mut sql = String::from("INSERT INTO ingest_seen (path, file_no, state) VALUES ");
        let mut comma = "";
        for file in files {
            for file_no in &file.file_nos {
                let (path, state) = (hex(file.path), hex(file.state));
                write!(sql, "{comma}({path},{file_no},{state})").expect(WRITES);
                comma = ",";
            }
        }
        sql.push_str(" ON DUPLICATE KEY UPDATE state = VALUES(state)");
        if !comma.is_empty() {
            session.run(&sql).await?;
        }
    }
    session.commit().await
}

/// See [`Sink::remembered`](crate::sink::Sink::remembered).
pub(super) async fn remembered(
    session: &mut Session,
    paths: &[Digest],
) -> Result<Remembered, Failure> {
    type Found = (Vec<u8>, Vec<u8>, Vec<u8>);
    let mut found: HashMap<Digest, Vec<(Digest, ContentHash)>> = HashMap::new();
    // In the order of the key, the server reads each page once.
    let mut paths = paths.to_vec();
    paths.sort_unstable();
    for paths in paths.chunks(PATHS_PER_STATEMENT) {
        let sql = format!(
            "SELECT s.path, s.state, COALESCE(i.content, f.hash) FROM ingest_seen s JOIN ingest_files \
             f ON f.file_no = s.file_no LEFT JOIN ingest_identities i ON i.hash = f.hash WHERE s.path \
             IN ({}) AND f.state = 'settled'",
            list(paths.iter().copied())
        );
        for (path, state, hash) in session.rows::<Found>(&sql).await? {
            let of_path = found.entry(identity(path)).or_default();
            of_path.push((identity(state), identity(hash)));
        }
    }
    Ok(found)
}

fn hex(digest: Digest) -> String {
    format!("x'{:032x}'", u128::from_be_bytes(digest))
}

fn list(digests: impl Iterator<Item = Digest>) -> String {
    let mut list = String::new();
    for digest in digests {
        let comma = if list.is_empty() { "" } else { "," };
        let digest = u128::from_be_bytes(digest);
        write!(list, "{comma}x'{digest:032x}'").expect(WRITES);
    }
    list
}
