//! The page of the [`Status`]: what flows, what waits and why, the last files, rejects, outages.

use maud::{Markup, html};

use super::chart::{Range, chart};
use super::frame::{Content, Frame, STATUS_EVERY_MS, address, button, seen, with_code};
use crate::sink::{FileEntry, Totals};
use crate::status::{EngineState, Outage, Status, bytes, grouped, length};

pub(super) fn content(frame: &Frame<'_>, status: &Status, range: Range) -> Content {
    let uptime = status.uptime_seconds.map(length);
    let uptime = uptime.map_or(String::new(), |up| format!(", up {up}"));
    let main = html! {
        (state(frame, status))
        (flow(status))
        (chart(status, range))
        div.pair { (waiting(status)) (rejects(status)) }
        (last_files(status))
        (outages(status))
        (nodes(status))
        (places(status))
    };
    Content {
        title: status.headline.clone(),
        part: "./",
        icon: status.state,
        about: format!("{} as {}{uptime}", status.version, status.roles.join(", ")),
        every_ms: Some(STATUS_EVERY_MS),
        main,
    }
}

/// The state of the engine, its duration, its cause, and the next step.
fn state(frame: &Frame<'_>, status: &Status) -> Markup {
    let outage = status.outage();
    let recovered = status.outages.first().filter(|_| outage.is_none());
    let next = status.next.as_deref();
    html! {
        section.state.(status.state.as_str()) aria-labelledby="says" {
            div.line {
                h2.says id="says" { span role="status" { (seen(&status.headline)) } }
                // Outside of the live region: a screen reader would read it out every second.
                @if let Some(outage) = outage {
                    p.since { "for " span id="since" { (length(outage.seconds)) } }
                }
            }
            @if let Some(outage) = outage {
                p.why { (seen(&outage.detail)) }
            } @else if let Some(Outage { trouble, seconds, ended_seconds_ago: Some(ago), .. }) = recovered {
                p.why id="recovered" {
                    "Recovered " (length(*ago)) " ago: " (trouble.as_text()) " for " (length(*seconds)) "."
                }
            }
            p.next { strong { "To do:" } " " (next.map_or_else(|| html! { "nothing" }, with_code)) }
            @if status.has_news() {
                (button(frame, "acknowledge-all", &[], "Acknowledge: ask for new ones only"))
            }
            @if frame.takes_files {
                @if status.paused {
                    (button(frame, "resume", &[], "Resume: take files again"))
                } @else {
                    (button(frame, "pause", &[], "Pause: take no more files"))
                }
            }
        }
    }
}

/// The number of files and records in each stage, in the order of the flow.
fn flow(status: &Status) -> Markup {
    let stage = |id: &str, name: &str, number: &str, about: &str| {
        html! {
            li { h3 { (name) } p.number id=(id) { (number) } small { (about) } }
        }
    };
    let files = &status.files;
    let (waiting, listed) = (files.waiting_in_all(), files.waiting.len() as u64);
    let waits = match waiting {
        0 => "files".to_owned(),
        _ if waiting == listed => format!("files, {listed} listed below"),
        _ => format!("files, {} wait, {listed} listed below", grouped(waiting)),
    };
    let (frames, queue) = status.queue.map_or_else(
        || ("–".to_owned(), "not known yet".to_owned()),
        |queue| {
            let about = format!(
                "frames, {}, {} with workers",
                bytes(queue.bytes),
                grouped(queue.pending)
            );
            (grouped(queue.frames), about)
        },
    );
    let rate = status.records_per_second.unwrap_or_default() as u64;
    let read = bytes(status.bytes_per_second.unwrap_or_default() as u64);
    let (settled, stored) = status.totals.map_or_else(
        || ("–".to_owned(), "waiting for the database".to_owned()),
        |totals| (grouped(totals.settled), about_stored(status, totals)),
    );
    html! {
        section aria-labelledby="flow" {
            h2 id="flow" { "What flows" }
            ol.flow {
                (stage("inbound", "Inbound", &grouped(files.inbound), &waits))
                (stage("work", "In work", &grouped(files.work), "files being loaded"))
                (stage("queue", "Queue", &frames, &queue))
                (stage("rate", "Into the database", &grouped(rate), &format!("records/s, {read}/s of files")))
                (stage("stored", "Stored", &settled, &stored))
            }
        }
    }
}

fn about_stored(status: &Status, totals: Totals) -> String {
    let age = status.ledger_seconds_ago.filter(|age| *age >= 10.0);
    let age = age.map_or(String::new(), |age| format!("; {} ago", length(age)));
    let quarantined = match status.files.quarantine {
        0 => String::new(),
        number => format!(", {} in quarantine", grouped(number)),
    };
    format!(
        "files, {} records{quarantined}{age}",
        grouped(totals.records)
    )
}

fn waiting(status: &Status) -> Markup {
    let none = match status.state {
        EngineState::Unwell => "No file is the cause: the engine cannot work, as shown above.",
        _ => "No file waits.",
    };
    html! {
        section aria-labelledby="waits" {
            h2 id="waits" { "What waits, and why" }
            @if status.files.waiting.is_empty() {
                p.quiet { (none) }
            } @else {
                table {
                    thead { tr {
                        th scope="col" { "File" }
                        th scope="col" { "Why" }
                        th.n scope="col" { "For" }
                    } }
                    tbody {
                        @for file in &status.files.waiting {
                            tr {
                                th.name scope="row" { (seen(&file.name)) }
                                td { (seen(&file.why)) }
                                td.n { (file.seconds.map_or(String::new(), length)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn rejects(status: &Status) -> Markup {
    let counted: u64 = status.rejects.iter().map(|reject| reject.records).sum();
    let all = status.totals.map_or(0, |totals| totals.rejects);
    let last = if all > counted && counted > 0 {
        format!("the last {} of {}", grouped(counted), grouped(all))
    } else {
        format!("{} in all", grouped(all))
    };
    html! {
        section aria-labelledby="rejects" {
            div.heading { h2 id="rejects" { "Rejects by reason" } small { (last) } }
            @if status.rejects.is_empty() {
                p.quiet { "Every record became a row." }
            } @else {
                table {
                    thead { tr {
                        th scope="col" { "Reason" }
                        th.n scope="col" { "Records" }
                        th.share scope="col" { "Share" }
                    } }
                    tbody {
                        @for reject in &status.rejects {
                            @let share = reject.records as f64 * 100.0 / counted.max(1) as f64;
                            tr {
                                th scope="row" {
                                    a href=(address("rejects", &[("code", &reject.code)])) {
                                        code { (seen(&reject.code)) }
                                    }
                                    @if let Some(said) = &reject.message {
                                        br; small { (seen(said)) }
                                    }
                                }
                                td.n { (grouped(reject.records)) }
                                td.share {
                                    svg viewBox="0 0 100 1" preserveAspectRatio="none" role="img"
                                        aria-label=(format!("{share:.0} %")) {
                                        rect width=(format!("{share:.1}")) height="1" {}
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn last_files(status: &Status) -> Markup {
    let none = match status.totals {
        Some(_) => "None yet.",
        None => "Waiting for the database.",
    };
    html! {
        section aria-labelledby="files" {
            div.heading { h2 id="files" { "Last files" } a href="files" { "all files" } }
            @if status.last_files.is_empty() {
                p.quiet { (none) }
            } @else {
                table.stack {
                    thead { tr {
                        th scope="col" { "File" }
                        th scope="col" { "Outcome" }
                        th.n scope="col" { "Records" }
                        th.n scope="col" { "Rejects" }
                        th.n scope="col" { "Size" }
                    } }
                    tbody { @for file in &status.last_files { (last_file(file)) } }
                }
            }
        }
    }
}

fn last_file(file: &FileEntry) -> Markup {
    html! {
        tr {
            th.name scope="row" {
                a href=(address("file", &[("no", &file.file_no.to_string())])) { (seen(&file.name)) }
            }
            td {
                span.(file.state.as_str()) { (file.state) }
                @if let Some(why) = &file.reason { ": " (seen(why)) }
            }
            td.n data-unit="records" { (grouped(u64::from(file.records))) }
            td.n.wide data-unit="rejects" { (grouped(u64::from(file.rejects))) }
            td.n { (bytes(file.bytes)) }
        }
    }
}

fn outages(status: &Status) -> Markup {
    html! {
        @if !status.outages.is_empty() {
            section aria-labelledby="outages" {
                h2 id="outages" { "Outages" }
                table {
                    thead { tr {
                        th scope="col" { "Cause" }
                        th scope="col" { "Error" }
                        th.n scope="col" { "Lasted" }
                        th.n scope="col" { "Ended" }
                    } }
                    tbody {
                        @for outage in &status.outages {
                            tr {
                                th scope="row" { (outage.trouble.as_text()) }
                                td.name { (seen(&outage.detail)) }
                                td.n { (length(outage.seconds)) }
                                td.n {
                                    (outage.ended_seconds_ago.map_or_else(
                                        || "lasts".to_owned(), |ago| format!("{} ago", length(ago))))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The processes of the service, if there are several.
fn nodes(status: &Status) -> Markup {
    html! {
        @if status.has_other_nodes() {
            section aria-labelledby="nodes" {
                h2 id="nodes" { "Processes" }
                table {
                    thead { tr {
                        th scope="col" { "Name" }
                        th scope="col" { "Roles" }
                        th scope="col" { "State" }
                        th scope="col" { "Version" }
                    } }
                    tbody {
                        @for node in &status.nodes {
                            tr {
                                th.name scope="row" { (seen(&node.name)) }
                                td {
                                    (seen(&node.roles.join(", ")))
                                    @if node.leads_summary { "; leads the summary" }
                                }
                                td { (node.life()) }
                                td { (seen(&node.version)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Where the engine works: its directories and servers.
fn places(status: &Status) -> Markup {
    let places = [
        ("Inbound", &status.inbound),
        ("Work", &status.work),
        ("Queue", &status.broker),
        ("Database", &status.database),
    ];
    html! {
        section aria-labelledby="places" {
            h2 id="places" { "Where" }
            dl.facts {
                @for (name, place) in places { dt { (name) } dd { code { (seen(place)) } } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::page;
    use crate::sink::FileState;
    use crate::status::{Files, Node, RejectCount, Trouble, WaitingFile};

    const HOSTILE: &str = "\"><script>alert('x')</script>`<b>\u{202e}\u{1b}[2J&amp;.json";
    const HARMLESS: &str = "&quot;&gt;&lt;script&gt;alert('x')&lt;/script&gt;`&lt;b&gt;\
         \\u{202e}\\u{1b}[2J&amp;amp;.json";

    fn render(status: &Status) -> String {
        let frame = Frame {
            outcome: None,
            token: None,
            takes_files: false,
            sees_records: false,
            can_sign_in: false,
        };
        page::status(&frame, status, Range::Minutes)
    }

    fn hostile() -> Status {
        let text = || HOSTILE.to_owned();
        Status {
            version: text(),
            running: true,
            headline: text(),
            roles: vec![text()],
            next: Some(text()),
            files: Files {
                waiting: vec![WaitingFile {
                    name: text(),
                    why: text(),
                    code: text(),
                    seconds: Some(1.0),
                }],
                ..Files::default()
            },
            last_files: vec![FileEntry {
                file_no: 1,
                name: text(),
                dataset: text(),
                state: FileState::Quarantined,
                bytes: 1,
                records: 1,
                rejects: 1,
                reason: Some(text()),
            }],
            rejects: vec![RejectCount {
                code: text(),
                records: 1,
                message: Some(text()),
            }],
            nodes: vec![Node {
                name: text(),
                roles: vec![text()],
                version: text(),
                ..Node::default()
            }],
            outages: vec![Outage {
                trouble: Trouble::Database,
                detail: text(),
                seconds: 1.0,
                ended_seconds_ago: None,
            }],
            ..Status::default()
        }
    }

    #[test]
    fn no_text_from_outside_becomes_markup() {
        let html = render(&hostile());
        assert!(!html.contains("<script>"), "{html}");
        assert!(!html.contains(['\u{202e}', '\u{1b}']), "{html}");
        // Version, headline (twice), role, waiting (twice), file, its reason, code and message, outage
        // (twice), process (three times). The next step has its backtick taken for code.
        assert_eq!(html.matches(HARMLESS).count(), 15, "{html}");
        assert!(html.contains("&lt;/script&gt;<code>&lt;b&gt;"), "{html}");
    }

    #[test]
    fn all_files_that_wait_are_counted_and_the_first_are_listed() {
        let mut status = hostile();
        assert!(render(&status).contains("files, 1 listed below"));
        status.files.waiting_files = 1_234;
        assert!(render(&status).contains("files, 1,234 wait, 1 listed below"));
    }
}
