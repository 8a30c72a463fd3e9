//! `POST act`: checks the request, does the action, and sends the browser back to a page.
//!
//! The answer is a redirect, so that reloading the page does not repeat the action. The page shows
//! the outcome by its number. Every action is a line in the log.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use super::access::user;
use super::clients::Peer;
use super::outcomes::Outcome;
use super::site::Site;
use crate::batch::provenance;
use crate::console::{Action, ELSEWHERE, TEXT_BYTES_MAX};

/// Most bytes of a form: a text in which each byte takes three, and the other fields.
const BODY_BYTES_MAX: usize = 3 * TEXT_BYTES_MAX + (16 << 10);

/// Answers `POST act`.
pub(super) async fn act(State(site): State<Arc<Site>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    if let Err((code, why)) = site.access.admit(&head.headers) {
        let asks = [(header::WWW_AUTHENTICATE, SIGN_IN)];
        return match code {
            StatusCode::UNAUTHORIZED => (code, asks, why).into_response(),
            _ => (code, why).into_response(),
        };
    }
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        let why = "the form is too long: use `task_runner rejects replay` for this record\n";
        return (StatusCode::PAYLOAD_TOO_LARGE, why).into_response();
    };
    let form = Form::parse(&body);
    if !site.access.is_page_token(form.get("token")) {
        let why = "the page is of an earlier start of the service: load it again\n";
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    let Some(action) = action(&form) else {
        return (StatusCode::BAD_REQUEST, "the form names no known action\n").into_response();
    };
    if action.is_of_directories() && !site.access.takes_files() {
        let why = format!("this action needs {ELSEWHERE}\n");
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    let (command, user) = (action.as_command(), user(&head.headers));
    let peer = head.extensions.get::<Peer>().map(|peer| peer.0.to_string());
    let said = site.console.act(action.clone()).await;
    let (peer, done) = (peer.unwrap_or_default(), said.is_ok());
    let back = page_after(&action, done);
    // The last line says how it ended. Those before it may hold values of records.
    let result = said.as_ref().unwrap_or_else(|why| why);
    let result = result.trim().lines().last().unwrap_or_default();
    tracing::info!(command, user, peer, done, result, "action on the page");
    let number = site.outcomes.keep(Outcome { command, said });
    let joint = if back.contains('?') { '&' } else { '?' };
    let to = [(header::LOCATION, format!("{back}{joint}done={number}"))];
    (StatusCode::SEE_OTHER, to).into_response()
}

/// What a browser asks its user for.
pub(super) const SIGN_IN: &str = "Basic realm=\"task_runner\", charset=\"UTF-8\"";

/// The action of a form.
fn action(form: &Form) -> Option<Action> {
    let file_no = || form.get("file").parse().ok();
    Some(match form.get("do") {
        "pause" => Action::Pause,
        "resume" => Action::Resume,
        "acknowledge-all" => Action::AcknowledgeAll,
        "retry" => {
            let name = form.get("name").to_owned();
            Action::Retry { name }
        }
        "release" => {
            let file_no = file_no()?;
            Action::Release { file_no }
        }
        "acknowledge" => {
            let file_no = file_no()?;
            Action::Acknowledge { file_no }
        }
        "reload" => {
            let file_no = file_no()?;
            Action::Reload { file_no }
        }
        "replay" => {
            let id = form.get("id").parse().ok()?;
            // A browser ends the lines of a form by both characters.
            let text = form.find("text").map(|text| text.replace("\r\n", "\n"));
            Action::Replay { id, text }
        }
        _ => return None,
    })
}

/// The page that shows what has changed: not that of a reject that is a row now, nor that of a file
/// that gets another number.
fn page_after(action: &Action, done: bool) -> String {
    match action {
        Action::Pause | Action::Resume | Action::AcknowledgeAll => "./".to_owned(),
        Action::Retry { .. } | Action::Release { .. } | Action::Reload { .. } => "files".to_owned(),
        Action::Acknowledge { file_no } => format!("file?no={file_no}"),
        Action::Replay { id, .. } if done => format!("file?no={}", provenance(*id).0),
        Action::Replay { id, .. } => format!("reject?id={id}"),
    }
}

/// The fields of a form, or of the query of an address.
#[derive(Debug, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    pub(super) fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    fn find(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The value of a field without blanks around it. Empty if the form does not have it.
    pub(super) fn get(&self, name: &str) -> &str {
        self.find(name).unwrap_or_default().trim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_becomes_an_action_or_nothing() {
        let parsed = |text: &str| action(&Form::parse(text.as_bytes()));
        let replay = Action::Replay {
            id: 7,
            text: Some("{\"a\": 1,\n\"b\": 2}".to_owned()),
        };
        let text = "do=replay&id=7&text=%7B%22a%22%3A+1%2C%0D%0A%22b%22%3A+2%7D";
        assert_eq!(parsed(text), Some(replay));
        assert_eq!(parsed("do=pause"), Some(Action::Pause));
        assert_eq!(parsed("do=acknowledge-all"), Some(Action::AcknowledgeAll));
        let retry = Action::Retry {
            name: "a b.json".to_owned(),
        };
        assert_eq!(parsed("do=retry&name=a+b.json&file=3"), Some(retry));
        for wrong in [
            "",
            "do=forget&file=1",
            "do=reload",
            "do=reload&file=-1",
            "do=replay&id=x",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
