//! The totals of `verify`, and how they are printed.

use std::fmt::Write as _;

use serde_json::json;

use super::orphans::{self, Elsewhere};
use super::uncovered::Uncovered;
use super::{INFALLIBLE, print};

/// Most names in the note about files that are not in history.
pub(super) const NAMES_SHOWN: usize = 3;

/// Totals over all files.
#[derive(Debug, Default)]
pub(super) struct AuditTotals {
    pub(super) files: u64,
    pub(super) wrong: u64,
    /// Files whose problems the operator has accepted.
    pub(super) acknowledged: u64,
    pub(super) records: u64,
    pub(super) rows: u64,
    pub(super) rejects: u64,
    pub(super) purged: u64,
    /// Records that the row of another record with the same key supersedes.
    pub(super) superseded: u64,
    /// Records that were erased.
    pub(super) erased: u64,
    /// Records whose rows were removed with their partition.
    pub(super) retired: u64,
    pub(super) not_in_history: u64,
    /// Records of files that were compared with their rows.
    pub(super) compared: u64,
    /// Records whose rows differ from the file or are missing, and rows without a record.
    pub(super) different: u64,
    /// Rows of no file.
    pub(super) uncovered: Uncovered,
    /// Names of the first few files that are not in history.
    pub(super) names: Vec<String>,
    /// Pending files that are not here.
    pub(super) elsewhere: Elsewhere,
    /// Files whose records were to be compared, and could not be read.
    pub(super) unread: u64,
    /// Who may have these files.
    pub(super) unread_elsewhere: Option<String>,
}

/// Prints the totals, and notes about what they do not count.
pub(super) fn print_sums(
    audited: &AuditTotals,
    pending: u64,
    quarantined: u64,
    content: bool,
    json: bool,
) -> anyhow::Result<()> {
    let AuditTotals {
        files,
        wrong,
        acknowledged,
        records,
        rows,
        rejects,
        purged,
        superseded,
        erased,
        retired,
        not_in_history,
        compared,
        different,
        uncovered,
        names,
        elsewhere,
        ..
    } = audited;
    let text = if json {
        let mut audited = json!({
            "files": files, "wrong": wrong, "records": records, "rows": rows, "rejects": rejects,
            "purged": purged, "superseded": superseded, "erased": erased, "retired": retired,
            "not_in_history": not_in_history, "pending": pending, "quarantined": quarantined,
            "acknowledged": acknowledged,
            "uncovered": uncovered.rows, "kept": uncovered.kept, "elsewhere": elsewhere.files
        });
        if content {
            audited["compared"] = json!(compared);
            audited["different"] = json!(different);
        }
        format!("{audited}\n")
    } else {
        let mut text = format!(
            "{files} files, {wrong} of them wrong; {records} records: {rows} rows, {rejects} \
             rejects, {purged} purged"
        );
        if *superseded > 0 {
            write!(text, ", {superseded} superseded").expect(INFALLIBLE);
        }
        if *erased > 0 {
            write!(text, ", {erased} erased").expect(INFALLIBLE);
        }
        if *retired > 0 {
            write!(text, ", {retired} retired").expect(INFALLIBLE);
        }
        text.push('\n');
        if content {
            writeln!(
                text,
                "{compared} records compared with their files: {different} differ"
            )
            .expect(INFALLIBLE);
        }
        if *acknowledged > 0 {
            writeln!(
                text,
                "note: the problems of {acknowledged} files are acknowledged and not counted"
            )
            .expect(INFALLIBLE);
        }
        if uncovered.kept > 0 {
            writeln!(
                text,
                "note: {} rows have file numbers that the ledger does not have; `migrate \
                 --keep-rows` kept them",
                uncovered.kept
            )
            .expect(INFALLIBLE);
        }
        if pending + quarantined > 0 {
            writeln!(
                text,
                "note: {pending} files are pending and {quarantined} in quarantine; these are not \
                 audited"
            )
            .expect(INFALLIBLE);
        }
        if *not_in_history > 0 {
            let more = if *not_in_history > names.len() as u64 {
                ", …"
            } else {
                ""
            };
            let names: Vec<_> = names
                .iter()
                .map(|name| name.escape_debug().to_string())
                .collect();
            writeln!(
                text,
                "note: {not_in_history} files are not in history under their name ({}{more}): files \
                 of an archive stay in their place",
                names.join(", ")
            )
            .expect(INFALLIBLE);
        }
        text + &notes_of_others(audited)
    };
    print(&text)?;
    Ok(())
}

/// What other processes may have.
fn notes_of_others(audited: &AuditTotals) -> String {
    let mut text = String::new();
    let Elsewhere { files, others } = &audited.elsewhere;
    if let Some(others) = others {
        writeln!(text, "note: {}", orphans::note(*files, others)).expect(INFALLIBLE);
    }
    if let Some(others) = &audited.unread_elsewhere {
        writeln!(
            text,
            "note: {} files could not be compared; those that are not here may be in the \
             directories of {others}: run this with its settings",
            audited.unread
        )
        .expect(INFALLIBLE);
    }
    text
}
