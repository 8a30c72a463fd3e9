//! What all pages have in common: the frame, forms with one button, texts and times.
//!
//! `maud` escapes every text. Texts from outside, such as file names and messages of servers, also
//! go through [`seen`], so that no character of them is invisible or changes the direction of
//! writing.

use std::borrow::Cow;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::http::outcomes::Outcome;
use crate::status::EngineState;

/// How often the script loads a page again. The status changes every second; the lists are read
/// from the database.
pub(super) const STATUS_EVERY_MS: u32 = 1_000;
pub(super) const LISTS_EVERY_MS: u32 = 5_000;

/// What all pages have in common, for one request.
pub(in crate::http) struct Frame<'a> {
    /// The outcome of the action that led to this page.
    pub(in crate::http) outcome: Option<Outcome>,
    /// The token for forms. `None` if actions are off.
    pub(in crate::http) token: Option<&'a str>,
    /// Whether the process is a service that takes files.
    pub(in crate::http) takes_files: bool,
    /// Whether the request may see the text of records.
    pub(in crate::http) sees_records: bool,
    /// Whether a secret would show more.
    pub(in crate::http) can_sign_in: bool,
}

/// A page without its frame.
pub(super) struct Content {
    pub(super) title: String,
    /// The address of the page in the navigation that this page belongs to.
    pub(super) part: &'static str,
    pub(super) icon: EngineState,
    /// A line about the service, beside its name.
    pub(super) about: String,
    /// `None` if the script does not update the page.
    pub(super) every_ms: Option<u32>,
    pub(super) main: Markup,
}

impl Content {
    /// A page that the script does not update, without content.
    pub(super) fn still(part: &'static str, title: String) -> Self {
        Self {
            title,
            part,
            icon: EngineState::Idle,
            about: String::new(),
            every_ms: None,
            main: Markup::default(),
        }
    }
}

pub(super) fn whole(frame: &Frame<'_>, content: &Content) -> String {
    let parts = [("./", "Status"), ("files", "Files"), ("rejects", "Rejects")];
    let live = match content.every_ms {
        Some(_) => "as of page load; reload to update",
        None => "",
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" data-every=[content.every_ms] {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (seen(&content.title)) " · task_runner" }
                link rel="icon" href=(icon(content.icon));
                link rel="stylesheet" href="page.css";
                script src="page.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    h1 { "task_runner" }
                    nav aria-label="Pages" {
                        @for (address, name) in parts {
                            a href=(address) aria-current=[(address == content.part).then_some("page")] {
                                (name)
                            }
                        }
                        @if frame.can_sign_in { a href="sign-in" { "Sign in" } }
                    }
                    p.quiet id="about" { (seen(&content.about)) }
                    p.quiet id="live" role="status" { (live) }
                }
                main id="main" tabindex="-1" {
                    @if let Some(outcome) = &frame.outcome { (outcome_of(outcome)) }
                    (content.main)
                }
                footer.quiet {
                    span { "The same facts: " code { "task_runner status" } }
                    a href="api/status" { "as JSON" }
                    a href="metrics" { "for Prometheus" }
                    a href="readyz" { "ready?" }
                }
            }
        }
    };
    page.into_string()
}

/// What came of an action.
fn outcome_of(outcome: &Outcome) -> Markup {
    let (class, title, said) = match &outcome.said {
        Ok(said) => ("done", "Done", said),
        Err(why) => ("failed", "Not done", why),
    };
    html! {
        section.outcome.(class) aria-labelledby="outcome" role="status" {
            h2 id="outcome" { (title) ": " code { "task_runner " (seen(&outcome.command)) } }
            pre { (seen_lines(said.trim())) }
        }
    }
}

/// A form with one button, which does something. Nothing if actions are off.
pub(super) fn button(
    frame: &Frame<'_>,
    action: &str,
    fields: &[(&str, &str)],
    name: &str,
) -> Markup {
    html! {
        @if let Some(token) = frame.token {
            form.action method="post" action="act" {
                input type="hidden" name="token" value=(token);
                input type="hidden" name="do" value=(action);
                @for (field, value) in fields {
                    input type="hidden" name=(field) value=(value);
                }
                button { (name) }
            }
        }
    }
}

/// A time of the ledger.
pub(super) fn time(text: &str) -> Markup {
    // Without the fraction of the second.
    let shown = text.split('.').next().unwrap_or_default().replace('T', " ");
    html! { time datetime=(text) title="UTC" { (shown) } }
}

/// An address with a query. Only pairs with a value are part of it.
pub(super) fn address(page: &str, pairs: &[(&str, &str)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs.iter().filter(|(_, value)| !value.is_empty()));
    match query.finish() {
        query if query.is_empty() => page.to_owned(),
        query => format!("{page}?{query}"),
    }
}

/// The icon of the page: a dot in the colour of the state.
fn icon(state: EngineState) -> PreEscaped<String> {
    let colour = match state {
        EngineState::Working | EngineState::Idle => "0f8a7f",
        EngineState::Waiting | EngineState::Starting | EngineState::Paused => "d98a00",
        EngineState::Unwell | EngineState::Stopped => "d0342c",
    };
    PreEscaped(format!(
        "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' \
         viewBox='0 0 8 8'%3E%3Ccircle cx='4' cy='4' r='3.5' fill='%23{colour}'/%3E%3C/svg%3E"
    ))
}

/// Text with `<code>` around the parts between backticks.
pub(super) fn with_code(text: &str) -> Markup {
    html! {
        @for (at, part) in text.split('`').enumerate() {
            @if at % 2 == 1 { code { (seen(part)) } } @else { (seen(part)) }
        }
    }
}

/// A text from outside. Control characters and those that change the direction of writing become
/// code points.
pub(super) fn seen(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// As [`seen`], for a text of several lines.
pub(super) fn seen_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, is_kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_hidden = |c: char| {
        let turns = matches!(
            c,
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        );
        turns || (c.is_control() && !is_kept(c))
    };
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_hidden(c) && c.is_control() {
            shown.extend(c.escape_default());
        } else if is_hidden(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one() {
        let html = |text| with_code(text).into_string();
        assert_eq!(html("run `a <b>` now"), "run <code>a &lt;b&gt;</code> now");
        assert_eq!(html("plain"), "plain");
    }

    #[test]
    fn an_address_has_only_the_fields_with_a_value() {
        let query = [("name", "a b&c"), ("state", "")];
        assert_eq!(address("files", &query), "files?name=a+b%26c");
        assert_eq!(address("files", &[("name", "")]), "files");
    }

    #[test]
    fn no_character_of_a_text_is_invisible() {
        assert_eq!(seen("a\u{202e}\u{1b}[2J\n"), "a\\u{202e}\\u{1b}[2J\\n");
        assert_eq!(seen_lines("a\tb\n\r"), "a\tb\n\\r");
    }
}
