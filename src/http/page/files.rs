//! The list of files, and the page of one.

use std::borrow::Cow;

use maud::{Markup, html};

use super::frame::{Content, Frame, LISTS_EVERY_MS, address, button, seen, time, with_code};
use super::rejects::table;
use crate::console::{ELSEWHERE, FileView, FilesPage, FilesQuery, PAGE_ROWS};
use crate::sink::{FileState, LedgerFile};
use crate::status::{bytes, grouped};

/// The list of files.
pub(super) fn list(query: &FilesQuery, page: &FilesPage) -> Content {
    let main = html! {
        section aria-labelledby="files" {
            h2 id="files" { "Files" }
            (filter(query))
            @if page.files.is_empty() {
                p.quiet { "No such file" @if page.below.is_some() { " among those searched so far" } "." }
            } @else {
                (table_of(&page.files))
            }
            @if let Some(below) = page.below { (older(query, below)) }
        }
    };
    Content {
        // A page of older files does not change.
        every_ms: query.below.is_none().then_some(LISTS_EVERY_MS),
        main,
        ..Content::still("files", "Files".to_owned())
    }
}

fn filter(query: &FilesQuery) -> Markup {
    html! {
        form.filter method="get" action="files" role="search" {
            label { "Name contains " input type="search" name="name" value=(query.name); }
            label { "State "
                select name="state" {
                    option value="" { "any" }
                    @for state in FileState::ALL {
                        option value=(state.as_str()) selected[query.state == Some(state)] { (state) }
                    }
                }
            }
            label { "Dataset " input type="text" name="dataset" value=(query.dataset); }
            button { "Show" }
        }
    }
}

fn table_of(files: &[LedgerFile]) -> Markup {
    html! {
        table.stack {
            thead { tr {
                th scope="col" { "File" }
                th scope="col" { "State" }
                th scope="col" { "Dataset" }
                th.n scope="col" { "Records" }
                th.n scope="col" { "Rejects" }
                th.n scope="col" { "Size" }
                th scope="col" { "Registered, UTC" }
            } }
            tbody {
                @for file in files {
                    @let entry = &file.entry;
                    tr {
                        th.name scope="row" {
                            a href=(address("file", &[("no", &entry.file_no.to_string())])) {
                                (seen(&entry.name))
                            }
                        }
                        td { (state_of(file)) }
                        td { (seen(&entry.dataset)) }
                        td.n data-unit="records" { (grouped(u64::from(entry.records))) }
                        td.n data-unit="rejects" { (grouped(u64::from(entry.rejects))) }
                        td.n { (bytes(entry.bytes)) }
                        td.n { (time(&file.registered_at)) }
                    }
                }
            }
        }
    }
}

fn state_of(file: &LedgerFile) -> Markup {
    html! { span.(file.entry.state.as_str()) { (file.entry.state) } }
}

fn older(query: &FilesQuery, below: u32) -> Markup {
    let below = below.to_string();
    let state = query.state.map_or("", FileState::as_str);
    let fields = [
        ("name", &*query.name),
        ("state", state),
        ("dataset", &*query.dataset),
        ("below", &*below),
    ];
    html! { p.older { a href=(address("files", &fields)) { "Older files" } } }
}

/// A file: its facts, its states, how much is stored, its rejects, what can be done.
pub(super) fn one(frame: &Frame<'_>, view: &FileView) -> Content {
    let (file, entry) = (&view.file, &view.file.entry);
    let title = format!("File {}: {}", entry.file_no, entry.name);
    let is_loading = matches!(entry.state, FileState::Pending | FileState::Removing);
    let main = html! {
        section aria-labelledby="file" {
            h2.name id="file" { (seen(&title)) }
            dl.facts {
                dt { "State" } dd { (state_of(file)) }
                @if let Some(reason) = &entry.reason { dt { "Reason" } dd { (seen(reason)) } }
                @if !entry.dataset.is_empty() { dt { "Dataset" } dd { (seen(&entry.dataset)) } }
                @if let Some(path) = &file.path {
                    dt { "Path" } dd { code { (seen(&path.display().to_string())) } }
                }
                dt { "Size" } dd { (bytes(entry.bytes)) }
                dt { "Records" } dd { (grouped(u64::from(entry.records))) }
                @if entry.state == FileState::Settled {
                    dt { "Rejects" } dd { (grouped(u64::from(entry.rejects))) }
                }
            }
            (progress(view))
            (actions(frame, file))
        }
        section aria-labelledby="states" {
            h2 id="states" { "States" }
            table {
                thead { tr { th scope="col" { "State" } th scope="col" { "Since, UTC" } } }
                tbody {
                    tr { th scope="row" { "registered" } td { (time(&file.registered_at)) } }
                    @if let Some(at) = &file.settled_at {
                        tr { th scope="row" { "settled" } td { (time(at)) } }
                    }
                    @if entry.state != FileState::Settled && entry.state != FileState::Pending {
                        tr { th scope="row" { (entry.state) } td { "now" } }
                    }
                }
            }
        }
        section aria-labelledby="rejects" {
            div.heading {
                h2 id="rejects" { "Rejects" }
                @if view.rejects.len() >= PAGE_ROWS {
                    a href=(address("rejects", &[("file", &entry.file_no.to_string())])) { "all of them" }
                }
            }
            @if view.rejects.is_empty() {
                p.quiet { "None." }
            } @else {
                (table(view.rejects.iter().map(|reject| (reject, None))))
            }
        }
    };
    Content {
        every_ms: is_loading.then_some(LISTS_EVERY_MS),
        main,
        ..Content::still("files", title)
    }
}

/// How many of the records are stored, of a file that is being loaded.
fn progress(view: &FileView) -> Markup {
    let records = u64::from(view.file.entry.records);
    let (stored, all) = (grouped(view.stored), grouped(records));
    html! {
        @if view.file.entry.state == FileState::Pending {
            p {
                label for="stored" { (stored) " of " (all) " records are stored" }
                progress id="stored" max=(records.max(1)) value=(view.stored) {}
            }
        }
    }
}

/// The buttons of the actions on a file, or where else it is loaded again.
fn actions(frame: &Frame<'_>, file: &LedgerFile) -> Markup {
    let entry = &file.entry;
    let number = entry.file_no.to_string();
    let of_file = [("file", &*number)];
    let is_quarantined = entry.state == FileState::Quarantined;
    let is_settled = entry.state == FileState::Settled;
    let has_actions = is_quarantined || (is_settled && frame.token.is_some());
    html! {
        @if frame.token.is_some() && frame.takes_files {
            div.actions {
                @if is_quarantined {
                    (button(frame, "retry", &[("file", &number), ("name", &entry.name)],
                        "Retry: move it back to inbound"))
                }
                @if entry.is_held() {
                    (button(frame, "release", &of_file, "Release: load it as it is"))
                }
                @if is_settled {
                    (button(frame, "reload", &of_file,
                        "Reload: remove its rows and rejects, and load it again"))
                    (button(frame, "acknowledge", &of_file,
                        "Acknowledge: accept what verify finds"))
                }
            }
        } @else {
            @if is_quarantined {
                p {
                    "To load it again: " code { "task_runner files retry " (argument(&entry.name)) }
                    @if entry.is_held() {
                        "; to load it as it is: " code { "task_runner files release " (number) }
                    }
                }
            }
            @if has_actions && !frame.takes_files {
                p { (with_code(&format!("An action on a file needs {ELSEWHERE}."))) }
            }
        }
    }
}

/// A name as an argument of a shell.
fn argument(name: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "._/-+=:@%,".contains(c);
    if !name.is_empty() && name.chars().all(is_plain) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(format!("'{}'", seen(&name.replace('\'', r"'\''"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{ErasedBytes, FileEntry};

    fn rendered(state: FileState, reason: &str, token: Option<&str>, takes_files: bool) -> String {
        let entry = FileEntry {
            file_no: 7,
            name: "it's.json".to_owned(),
            dataset: String::new(),
            state,
            bytes: 1,
            records: 1,
            rejects: 0,
            reason: Some(reason.to_owned()),
        };
        let file = LedgerFile {
            entry,
            hash: [0; 16],
            taken: None,
            erased: ErasedBytes::default(),
            path: None,
            mark: None,
            registered_at: String::new(),
            settled_at: None,
        };
        let frame = Frame {
            outcome: None,
            token,
            takes_files,
            sees_records: false,
            can_sign_in: false,
        };
        actions(&frame, &file).into_string()
    }

    #[test]
    fn a_file_has_buttons_only_where_its_directories_are() {
        let of = |state, takes_files| rendered(state, "", Some("token"), takes_files);
        for (state, buttons) in [(FileState::Quarantined, 1), (FileState::Settled, 2)] {
            let here = of(state, true);
            assert_eq!(here.matches("<button>").count(), buttons, "{here}");
            assert!(!here.contains("the role"), "{here}");
            let elsewhere = of(state, false);
            assert!(!elsewhere.contains("<button>"), "{elsewhere}");
            let said = "An action on a file needs the directories of a service with the role \
                        <code>ingest</code>";
            assert!(elsewhere.contains(said), "{elsewhere}");
        }
        assert_eq!(rendered(FileState::Settled, "", None, false), "");
    }

    #[test]
    fn without_buttons_the_commands_have_the_name_and_the_number() {
        let of = |reason| rendered(FileState::Quarantined, reason, None, true);
        let damaged = of("damaged: cut");
        let retry = r"<code>task_runner files retry 'it'\''s.json'</code>";
        assert!(damaged.contains(retry), "{damaged}");
        assert!(!damaged.contains("release"), "{damaged}");
        let held = of("too_few_records: it has 1 record");
        let release = "<code>task_runner files release 7</code>";
        assert!(held.contains(retry) && held.contains(release), "{held}");
        assert_eq!(argument("a-1.json"), "a-1.json");
        assert_eq!(argument("a b"), "'a b'");
    }
}
