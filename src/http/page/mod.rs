//! The pages as HTML. Each is complete without the script, which only updates it.

use maud::html;

use crate::console::{FileView, FilesPage, FilesQuery, RejectView, RejectsPage, RejectsQuery};
use crate::status::Status;

mod chart;
mod files;
mod frame;
mod rejects;
mod status;

pub(super) use chart::Range;
pub(super) use frame::Frame;
use frame::{Content, whole, with_code};

pub(super) const STYLE: &str = include_str!("page.css");
pub(super) const SCRIPT: &str = include_str!("page.js");

/// Allows the page to load its stylesheet, its script and itself, and to send its forms to its own
/// address; no other origin and no inline code.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The page of the status.
pub(super) fn status(frame: &Frame<'_>, status: &Status, range: Range) -> String {
    whole(frame, &status::content(frame, status, range))
}

/// The list of files.
pub(super) fn files(frame: &Frame<'_>, query: &FilesQuery, page: &FilesPage) -> String {
    whole(frame, &files::list(query, page))
}

/// A file.
pub(super) fn file(frame: &Frame<'_>, view: &FileView) -> String {
    whole(frame, &files::one(frame, view))
}

/// The list of rejects.
pub(super) fn rejects(frame: &Frame<'_>, query: &RejectsQuery, page: &RejectsPage) -> String {
    whole(frame, &rejects::list(query, page))
}

/// A reject.
pub(super) fn reject(frame: &Frame<'_>, view: &RejectView) -> String {
    whole(frame, &rejects::one(frame, view))
}

/// A page that only says something.
pub(super) fn notice(frame: &Frame<'_>, title: &str, why: &str) -> String {
    let main = html! {
        section aria-labelledby="notice" {
            h2 id="notice" { (title) }
            p { (with_code(why)) }
        }
    };
    let content = Content {
        main,
        ..Content::still("", title.to_owned())
    };
    whole(frame, &content)
}
