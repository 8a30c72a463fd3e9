//! Renders a [`Status`] as an HTML page. The page is complete without its script, which only
//! updates it.
//!
//! Invariant: every text from outside goes through [`escaped`], such as file names and messages of
//! servers.

use std::fmt::{self, Write as _};

use crate::sink::{FileEntry, Totals};
use crate::status::{EngineState, History, Outage, Status, bytes, grouped, length};

pub(super) const STYLE: &str = include_str!("page.css");
pub(super) const SCRIPT: &str = include_str!("page.js");

/// Allows the page to load its stylesheet, its script and itself; no other origin and no inline
/// code.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Size of the chart in units of the SVG, which the browser scales.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 100.0;

/// Most samples in the chart. Fewer samples fill it from the right.
const SAMPLES: usize = 150;

pub(super) fn render(status: &Status) -> String {
    let mut html = String::with_capacity(16 << 10);
    write(&mut html, status).expect("writing to a String cannot fail");
    html
}

fn write(html: &mut String, status: &Status) -> fmt::Result {
    let headline = escaped(&status.headline);
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <title>{headline} · task_runner</title>{icon}\
         <link rel=\"stylesheet\" href=\"page.css\"><script src=\"page.js\" defer></script>\
         </head><body>\n<a class=\"skip\" href=\"#main\">Skip to the state</a>\n\
         <header><h1>task_runner</h1>",
        icon = icon(status.state)
    )?;
    let uptime = status
        .uptime_seconds
        .map_or(String::new(), |up| format!(", up {}", length(up)));
    writeln!(
        html,
        "<p id=\"about\" class=\"quiet\">{} as {}{uptime}</p>\
         <p id=\"live\" class=\"quiet\" role=\"status\">as of page load; reload to \
         update</p></header>\n<main id=\"main\" tabindex=\"-1\">",
        escaped(&status.version),
        escaped(&status.roles.join(", "))
    )?;
    state(html, status)?;
    flow(html, status)?;
    chart(html, &status.history, status.records_per_second)?;
    html.push_str("<div class=\"pair\">");
    waiting(html, status)?;
    rejects(html, status)?;
    html.push_str("</div>\n");
    last_files(html, status)?;
    outages(html, status)?;
    html.push_str(
        "</main>\n<footer class=\"quiet\"><span>The same facts: <code>task_runner status</code></span>\
         <a href=\"api/status\">as JSON</a><a href=\"metrics\">for Prometheus</a>\
         <a href=\"readyz\">ready?</a></footer></body></html>\n",
    );
    Ok(())
}

/// The state of the engine, its duration, its cause, and the next step.
fn state(html: &mut String, status: &Status) -> fmt::Result {
    write!(
        html,
        "<section class=\"state {}\" aria-labelledby=\"says\"><div class=\"line\">\
         <h2 class=\"says\" id=\"says\"><span role=\"status\">{}</span></h2>",
        status.state.as_str(),
        escaped(&status.headline)
    )?;
    // Outside of the live region: a screen reader would read it out every second.
    if let Some(outage) = status.outage() {
        write!(
            html,
            "<p class=\"since\">for <span id=\"since\">{}</span></p>",
            length(outage.seconds)
        )?;
    }
    html.push_str("</div>");
    if let Some(outage) = status.outage() {
        write!(html, "<p class=\"why\">{}</p>", escaped(&outage.detail))?;
    } else if let Some(Outage {
        trouble,
        seconds,
        ended_seconds_ago: Some(ago),
        ..
    }) = status.outages.first()
    {
        write!(
            html,
            "<p class=\"why\" id=\"recovered\">Recovered {} ago: {} for {}.</p>",
            length(*ago),
            trouble.as_text(),
            length(*seconds)
        )?;
    }
    let next = status
        .next
        .as_deref()
        .map_or("nothing".to_owned(), with_code);
    writeln!(
        html,
        "<p class=\"next\"><strong>To do:</strong> {next}</p></section>"
    )
}

/// The number of files and records in each stage, in the order of the flow.
fn flow(html: &mut String, status: &Status) -> fmt::Result {
    html.push_str(
        "<section aria-labelledby=\"flow\"><h2 id=\"flow\">What flows</h2><ol class=\"flow\">",
    );
    let mut stage = |id: &str, name: &str, number: &str, about: &str| {
        write!(
            html,
            "<li><h3>{name}</h3><p class=\"number\" id=\"{id}\">{number}</p><small>{about}</small></li>"
        )
    };
    let files = &status.files;
    let (waiting, listed) = (files.waiting_in_all(), files.waiting.len() as u64);
    let waits = match waiting {
        0 => "files".to_owned(),
        _ if waiting == listed => format!("files, {listed} listed below"),
        _ => format!("files, {} wait, {listed} listed below", grouped(waiting)),
    };
    stage("inbound", "Inbound", &grouped(files.inbound), &waits)?;
    stage(
        "work",
        "In work",
        &grouped(files.work),
        "files being loaded",
    )?;
    match status.queue {
        Some(queue) => stage(
            "queue",
            "Queue",
            &grouped(queue.frames),
            &format!("frames, {}", bytes(queue.bytes)),
        )?,
        None => stage("queue", "Queue", "–", "not known yet")?,
    }
    let rate = status.records_per_second.unwrap_or_default() as u64;
    let read = bytes(status.bytes_per_second.unwrap_or_default() as u64);
    let about = format!("records/s, {read}/s of files");
    stage("rate", "Into the database", &grouped(rate), &about)?;
    match status.totals {
        Some(Totals {
            settled, records, ..
        }) => {
            let age = status.ledger_seconds_ago.filter(|age| *age >= 10.0);
            let age = age.map_or(String::new(), |age| format!("; {} ago", length(age)));
            let quarantined = match status.files.quarantine {
                0 => String::new(),
                number => format!(", {} in quarantine", grouped(number)),
            };
            let about = format!("files, {} records{quarantined}{age}", grouped(records));
            stage("stored", "Stored", &grouped(settled), &about)?;
        }
        None => stage("stored", "Stored", "–", "waiting for the database")?,
    }
    html.push_str("</ol></section>\n");
    Ok(())
}

/// A chart of the last minutes: records stored per second, and marks where the engine was not
/// ready.
fn chart(html: &mut String, history: &History, now: Option<f64>) -> fmt::Result {
    let samples = &history.records_per_second;
    let highest = samples.iter().copied().max().unwrap_or(0);
    let minutes = SAMPLES as f64 * history.every_seconds.max(1.0) / 60.0;
    let mean = samples.iter().sum::<u64>() / (samples.len() as u64).max(1);
    let (now, mean, highest_text) = (
        grouped(now.unwrap_or_default() as u64),
        grouped(mean),
        grouped(highest),
    );
    write!(
        html,
        "<section aria-labelledby=\"chart\"><div class=\"heading\"><h2 id=\"chart\">Records stored \
         per second</h2><small>highest {highest_text}, mean {mean}</small></div>\
         <div class=\"chart\"><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" \
         role=\"img\" aria-label=\"Records stored per second over the last {minutes:.0} minutes: now \
         {now}, mean {mean}, highest {highest_text}\">"
    )?;
    let step = WIDTH / (SAMPLES - 1) as f64;
    let skipped = samples.len().saturating_sub(SAMPLES);
    let first = SAMPLES - samples.len().min(SAMPLES);
    let x = |at: usize| step * (first + at) as f64;
    let y = |sample: u64| HEIGHT - sample as f64 / highest.max(1) as f64 * (HEIGHT - 4.0);
    for (at, _) in history
        .ready
        .iter()
        .skip(skipped)
        .enumerate()
        .filter(|(_, ready)| !**ready)
    {
        let left = (x(at) - step).max(0.0);
        write!(
            html,
            "<rect class=\"down\" x=\"{left:.1}\" y=\"0\" width=\"{:.1}\" height=\"{HEIGHT}\"/>",
            x(at) - left
        )?;
    }
    for line in [
        y(highest.max(1)),
        f64::midpoint(y(highest.max(1)), HEIGHT),
        HEIGHT,
    ] {
        write!(html, "<path class=\"grid\" d=\"M0 {line:.1}H{WIDTH}\"/>")?;
    }
    let mut curve = String::new();
    for (at, sample) in samples.iter().skip(skipped).enumerate() {
        write!(curve, " {:.1},{:.1}", x(at), y(*sample))?;
    }
    if !curve.is_empty() {
        write!(
            html,
            "<path class=\"area\" d=\"M{:.1},{HEIGHT}L{curve} {WIDTH},{HEIGHT}Z\"/>\
             <path class=\"curve\" d=\"M{curve}\"/>",
            x(0)
        )?;
    }
    let down = if history.ready.contains(&false) {
        "<small>marked: not ready</small>"
    } else {
        ""
    };
    writeln!(
        html,
        "</svg></div><div class=\"ends\"><small>{minutes:.0} min ago</small>{down}<small>now</small>\
         </div></section>"
    )
}

fn waiting(html: &mut String, status: &Status) -> fmt::Result {
    html.push_str("<section aria-labelledby=\"waits\"><h2 id=\"waits\">What waits, and why</h2>");
    if status.files.waiting.is_empty() {
        let none = match status.state {
            EngineState::Unwell => "No file is the cause: the engine cannot work, as shown above.",
            _ => "No file waits.",
        };
        writeln!(html, "<p class=\"quiet\">{none}</p></section>")?;
        return Ok(());
    }
    html.push_str(
        "<table><thead><tr><th scope=\"col\">File in inbound</th><th scope=\"col\">Why</th>\
         <th scope=\"col\" class=\"n\">For</th></tr></thead><tbody>",
    );
    for file in &status.files.waiting {
        write!(
            html,
            "<tr><th scope=\"row\" class=\"name\">{}</th><td>{}</td><td class=\"n\">{}</td></tr>",
            escaped(&file.name),
            escaped(&file.why),
            file.seconds.map_or(String::new(), length)
        )?;
    }
    html.push_str("</tbody></table></section>\n");
    Ok(())
}

fn rejects(html: &mut String, status: &Status) -> fmt::Result {
    let counted: u64 = status.rejects.iter().map(|reject| reject.records).sum();
    let all = status.totals.map_or(0, |totals| totals.rejects);
    let last = if all > counted && counted > 0 {
        format!("the last {} of {}", grouped(counted), grouped(all))
    } else {
        format!("{} in all", grouped(all))
    };
    write!(
        html,
        "<section aria-labelledby=\"rejects\"><div class=\"heading\"><h2 id=\"rejects\">Rejects by \
         reason</h2><small>{last}</small></div>"
    )?;
    if status.rejects.is_empty() {
        writeln!(
            html,
            "<p class=\"quiet\">Every record became a row.</p></section>"
        )?;
        return Ok(());
    }
    html.push_str(
        "<table><thead><tr><th scope=\"col\">Reason</th><th scope=\"col\" class=\"n\">Records</th>\
         <th scope=\"col\" class=\"share\">Share</th></tr></thead><tbody>",
    );
    for reject in &status.rejects {
        let share = reject.records as f64 * 100.0 / counted.max(1) as f64;
        write!(
            html,
            "<tr><th scope=\"row\"><code>{}</code></th><td class=\"n\">{}</td><td class=\"share\">\
             <svg viewBox=\"0 0 100 1\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"\
             {share:.0} %\"><rect width=\"{share:.1}\" height=\"1\"/></svg></td></tr>",
            escaped(&reject.code),
            grouped(reject.records)
        )?;
    }
    html.push_str("</tbody></table></section>\n");
    Ok(())
}

fn last_files(html: &mut String, status: &Status) -> fmt::Result {
    html.push_str("<section aria-labelledby=\"files\"><h2 id=\"files\">Last files</h2>");
    if status.last_files.is_empty() {
        let none = if status.totals.is_some() {
            "None yet."
        } else {
            "Waiting for the database."
        };
        writeln!(html, "<p class=\"quiet\">{none}</p></section>")?;
        return Ok(());
    }
    html.push_str(
        "<table class=\"files\"><thead><tr><th scope=\"col\">File</th><th scope=\"col\">Outcome</th>\
         <th scope=\"col\" class=\"n\">Records</th><th scope=\"col\" class=\"n\">Rejects</th>\
         <th scope=\"col\" class=\"n\">Size</th></tr></thead><tbody>",
    );
    for file in &status.last_files {
        let FileEntry {
            name,
            state,
            bytes: size,
            records,
            rejects,
            reason,
            ..
        } = file;
        let why = reason
            .as_ref()
            .map_or(String::new(), |why| format!(": {}", escaped(why)));
        write!(
            html,
            "<tr><th scope=\"row\" class=\"name\">{}</th><td><span class=\"{state}\">{state}</span>{why}</td>\
             <td class=\"n\" data-unit=\"records\">{}</td><td class=\"n wide\" \
             data-unit=\"rejects\">{}</td><td class=\"n\">{}</td></tr>",
            escaped(name),
            grouped(u64::from(*records)),
            grouped(u64::from(*rejects)),
            bytes(*size)
        )?;
    }
    html.push_str("</tbody></table></section>\n");
    Ok(())
}

fn outages(html: &mut String, status: &Status) -> fmt::Result {
    if status.outages.is_empty() {
        return Ok(());
    }
    html.push_str(
        "<section aria-labelledby=\"outages\"><h2 id=\"outages\">Outages</h2>\
         <table><thead><tr><th scope=\"col\">Cause</th><th scope=\"col\">Error</th>\
         <th scope=\"col\" class=\"n\">Lasted</th><th scope=\"col\" class=\"n\">Ended</th></tr>\
         </thead><tbody>",
    );
    for outage in &status.outages {
        let ended = outage
            .ended_seconds_ago
            .map_or("lasts".to_owned(), |ago| format!("{} ago", length(ago)));
        write!(
            html,
            "<tr><th scope=\"row\">{}</th><td class=\"name\">{}</td><td class=\"n\">{}</td><td class=\"n\">{ended}\
             </td></tr>",
            outage.trouble.as_text(),
            escaped(&outage.detail),
            length(outage.seconds)
        )?;
    }
    html.push_str("</tbody></table></section>\n");
    Ok(())
}

/// The icon of the page: a dot in the colour of the state.
fn icon(state: EngineState) -> String {
    let colour = match state {
        EngineState::Working | EngineState::Idle => "0f8a7f",
        EngineState::Waiting | EngineState::Starting | EngineState::Paused => "d98a00",
        EngineState::Unwell | EngineState::Stopped => "d0342c",
    };
    format!(
        "<link rel=\"icon\" href=\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' \
         viewBox='0 0 8 8'%3E%3Ccircle cx='4' cy='4' r='3.5' fill='%23{colour}'/%3E%3C/svg%3E\">"
    )
}

/// Text as HTML, with `<code>` around the parts between backticks.
fn with_code(text: &str) -> String {
    let mut html = String::new();
    for (at, part) in text.split('`').enumerate() {
        let part = escaped(part);
        if at % 2 == 1 {
            html.extend(["<code>", &part, "</code>"]);
        } else {
            html.push_str(&part);
        }
    }
    html
}

/// Text escaped for HTML, between tags or in double quotes. Control characters and those that
/// change the direction of writing are shown as code points.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                html.extend(c.escape_unicode());
            }
            c if c.is_control() => html.extend(c.escape_default()),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::FileState;
    use crate::status::{Files, RejectCount, Trouble, WaitingFile};

    const HOSTILE: &str = "\"><script>alert('x')</script>`<b>\u{202e}\u{1b}[2J&amp;.json";
    const HARMLESS: &str = "&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;`&lt;b&gt;\
         \\u{202e}\\u{1b}[2J&amp;amp;.json";

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
        // Version, headline (twice), role, waiting (twice), file, its reason, code, outage (twice).
        // The next step has its backtick taken for code.
        assert_eq!(html.matches(HARMLESS).count(), 11, "{html}");
        assert!(html.contains("&lt;/script&gt;<code>&lt;b&gt;"), "{html}");
    }

    #[test]
    fn all_files_that_wait_are_counted_and_the_first_are_listed() {
        let mut status = hostile();
        assert!(render(&status).contains("files, 1 listed below"));
        status.files.waiting_files = 1_234;
        assert!(render(&status).contains("files, 1,234 wait, 1 listed below"));
    }

    #[test]
    fn the_chart_has_a_point_for_each_sample_and_marks_outages() {
        let mut html = String::new();
        let history = History {
            every_seconds: 2.0,
            records_per_second: vec![0, 50, 100],
            ready: vec![true, false, true],
        };
        chart(&mut html, &history, Some(100.0)).unwrap();
        assert!(
            html.contains("d=\"M 591.9,100.0 596.0,52.0 600.0,4.0\""),
            "{html}"
        );
        assert_eq!(html.matches("class=\"down\"").count(), 1, "{html}");
        assert!(
            html.contains("over the last 5 minutes: now 100, mean 50, highest 100"),
            "{html}"
        );
        chart(&mut html, &History::default(), None).unwrap();
    }

    #[test]
    fn a_command_is_shown_as_one() {
        assert_eq!(
            with_code("run `a <b>` now"),
            "run <code>a &lt;b&gt;</code> now"
        );
        assert_eq!(with_code("plain"), "plain");
    }
}
