//! The list of rejects, and the page of one.

use maud::{Markup, html};
use serde::de::IgnoredAny;

use super::frame::{Content, Frame, LISTS_EVERY_MS, address, button, seen, seen_lines, time};
use crate::batch::{RejectCode, row_id};
use crate::console::{RejectView, RejectsPage, RejectsQuery, TEXT_BYTES_MAX};
use crate::sink::{FieldCount, OpenReject};
use crate::status::grouped;

/// The list of rejects.
pub(super) fn list(query: &RejectsQuery, page: &RejectsPage) -> Content {
    let file = query
        .file_no
        .map_or(String::new(), |file_no| format!(" of file {file_no}"));
    let main = html! {
        @if query.file_no.is_none() { (by_field(page)) }
        section aria-labelledby="rejects" {
            h2 id="rejects" { "Rejects" (file) }
            (filter(query))
            @if page.rejects.is_empty() {
                p.quiet {
                    "No such reject" @if page.before.is_some() { " among those searched so far" } "."
                }
            } @else {
                (table(page.rejects.iter().map(|(reject, name)| (reject, Some(&**name)))))
            }
            @if let Some(before) = page.before { (older(query, before)) }
        }
    };
    Content {
        every_ms: query.before.is_none().then_some(LISTS_EVERY_MS),
        main,
        ..Content::still("rejects", "Rejects".to_owned())
    }
}

fn by_field(page: &RejectsPage) -> Markup {
    let shown = |field: &Option<String>| field.as_deref().unwrap_or("–").to_owned();
    let row = |count: &FieldCount| {
        let field = count.field.as_deref().unwrap_or_default();
        let query = [("code", count.code.as_str()), ("field", field)];
        html! {
            tr {
                th scope="row" {
                    a href=(address("rejects", &query)) {
                        code { (count.code.as_str()) } " " (seen(&shown(&count.field)))
                    }
                }
                td.n { (grouped(count.rejects)) }
            }
        }
    };
    html! {
        section aria-labelledby="by-field" {
            div.heading {
                h2 id="by-field" { "By reason and field" }
                small { "the newest " (grouped(page.counted_max as u64)) " at most" }
            }
            @if page.by_field.is_empty() {
                p.quiet { "Every record became a row." }
            } @else {
                table {
                    thead { tr {
                        th scope="col" { "Reason and field" }
                        th.n scope="col" { "Records" }
                    } }
                    tbody { @for count in &page.by_field { (row(count)) } }
                }
            }
        }
    }
}

fn filter(query: &RejectsQuery) -> Markup {
    html! {
        form.filter method="get" action="rejects" role="search" {
            label { "Reason "
                select name="code" {
                    option value="" { "any" }
                    @for code in RejectCode::ALL {
                        option value=(code.as_str()) selected[query.code == Some(code)] { (code.as_str()) }
                    }
                }
            }
            label { "Field " input type="text" name="field" value=(query.field); }
            label { "File number "
                input type="text" inputmode="numeric" name="file"
                    value=(query.file_no.map_or(String::new(), |file_no| file_no.to_string()));
            }
            button { "Show" }
        }
    }
}

/// A table of rejects, each with the name of its file if that is not known from the page.
pub(super) fn table<'a>(
    rejects: impl Iterator<Item = (&'a OpenReject, Option<&'a str>)>,
) -> Markup {
    html! {
        table.stack {
            thead { tr {
                th scope="col" { "Record" }
                th scope="col" { "Reason" }
                th.n scope="col" { "Rejected, UTC" }
            } }
            tbody {
                @for (reject, name) in rejects {
                    @let entry = &reject.entry;
                    @let id = row_id(entry.file_no, entry.ordinal).to_string();
                    tr {
                        th.name scope="row" {
                            a href=(address("reject", &[("id", &id)])) {
                                "record " (entry.ordinal)
                                @if let Some(name) = name { " of " (seen(name)) }
                            }
                        }
                        td {
                            code { (entry.code.as_str()) }
                            @if let Some(field) = &entry.field { " " (seen(field)) }
                        }
                        td.n { (time(&reject.rejected_at)) }
                    }
                }
            }
        }
    }
}

fn older(query: &RejectsQuery, (file_no, ordinal): (u32, u32)) -> Markup {
    let before = format!("{file_no}:{ordinal}");
    let file = query
        .file_no
        .map_or(String::new(), |file_no| file_no.to_string());
    let fields = [
        ("code", query.code.map_or("", RejectCode::as_str)),
        ("field", &*query.field),
        ("file", &*file),
        ("before", &*before),
    ];
    html! { p.older { a href=(address("rejects", &fields)) { "Older rejects" } } }
}

/// A reject: why, where, its text with the problem marked, and a form to correct it.
pub(super) fn one(frame: &Frame<'_>, view: &RejectView) -> Content {
    let entry = &view.reject.entry;
    let id = row_id(entry.file_no, entry.ordinal).to_string();
    let title = format!("Record {} of file {}", entry.ordinal, entry.file_no);
    let main = html! {
        section aria-labelledby="reject" {
            h2 id="reject" { (title) }
            dl.facts {
                dt { "Reason" } dd { code { (entry.code.as_str()) } }
                @if let Some(field) = &entry.field { dt { "Field" } dd { code { (seen(field)) } } }
                @if let Some(file) = &view.file {
                    dt { "File" }
                    dd.name {
                        a href=(address("file", &[("no", &entry.file_no.to_string())])) {
                            (seen(&file.entry.name))
                        }
                    }
                    dt { "Dataset" } dd { (seen(&file.entry.dataset)) }
                }
                @if !entry.code.is_of_database() {
                    dt { "Place in the file" } dd { "byte " (grouped(entry.byte_offset)) }
                }
                @if let Some(place) = view.place {
                    dt { "Place in the record" } dd { "byte " (grouped(place as u64)) }
                }
                dt { "Rejected" } dd { (time(&view.reject.rejected_at)) " UTC" }
                @if frame.sees_records && let Some(message) = &entry.message {
                    dt { "The database says" } dd { (seen(message)) }
                }
            }
        }
        section aria-labelledby="text" {
            h2 id="text" { "Text of the record" }
            (text(frame, view, &id))
        }
    };
    Content {
        main,
        ..Content::still("rejects", title)
    }
}

fn text(frame: &Frame<'_>, view: &RejectView, id: &str) -> Markup {
    let command = html! { code { "task_runner rejects show " (id) } };
    match &view.text {
        None if frame.can_sign_in => html! {
            p { a href="sign-in" { "Sign in" } " to see it, or run " (command) "." }
        },
        None => html! {
            p { "This page asks for no secret, so it does not show texts. Run " (command)
                ", or set " code { "http_token_file" } " or " code { "http_actions" } "." }
        },
        Some(Err(why)) => {
            html! { p { (seen(why)) } p { (command) " shows what the database keeps." } }
        }
        Some(Ok(text)) => html! {
            pre.record tabindex="0" aria-label="Text of the record" { (marked(text, view.place)) }
            (correction(frame, text, id))
        },
    }
}

/// The text with the value at `place` marked.
fn marked(text: &str, place: Option<usize>) -> Markup {
    let place = place.filter(|place| *place < text.len() && text.is_char_boundary(*place));
    let Some(place) = place else {
        return html! { (seen_lines(text)) };
    };
    let (before, rest) = text.split_at(place);
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
    let is_value = values.next().is_some_and(|value| value.is_ok());
    // What is broken has no end: its first character is marked.
    let end = match values.byte_offset() {
        end if is_value && rest.is_char_boundary(end) => end,
        _ => rest.chars().next().map_or(0, char::len_utf8),
    };
    let (value, after) = rest.split_at(end);
    html! { (seen_lines(before)) mark { (seen_lines(value)) } (seen_lines(after)) }
}

/// The forms that correct the record. Nothing if actions are off.
fn correction(frame: &Frame<'_>, text: &str, id: &str) -> Markup {
    html! {
        @if let Some(token) = frame.token {
            @if text.len() <= TEXT_BYTES_MAX {
                form.correct method="post" action="act" {
                    input type="hidden" name="token" value=(token);
                    input type="hidden" name="do" value="replay";
                    input type="hidden" name="id" value=(id);
                    label for="corrected" { "Corrected text" }
                    // A browser drops the first line break of a text area.
                    textarea id="corrected" name="text" rows="8" spellcheck="false" { "\n" (text) }
                    button { "Replay the corrected record" }
                }
            }
            (button(frame, "replay", &[("id", id)], "Replay it as it is"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_with_the_problem_is_marked() {
        let html = |text, place| marked(text, place).into_string();
        let cases = [
            (
                "{\"a\":12,\"b\":1}",
                Some(5),
                "{&quot;a&quot;:<mark>12</mark>,&quot;b&quot;:1}",
            ),
            (
                "{\"a\":\"<\"}",
                Some(5),
                "{&quot;a&quot;:<mark>&quot;&lt;&quot;</mark>}",
            ),
            ("{\"a\":!}", Some(5), "{&quot;a&quot;:<mark>!</mark>}"),
            ("é", Some(1), "é"),
            ("{}", Some(9), "{}"),
            ("{}", None, "{}"),
        ];
        for (text, place, expected) in cases {
            assert_eq!(html(text, place), expected, "{text} at {place:?}");
        }
    }
}
