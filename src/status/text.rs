//! A status as text for a terminal: a few lines, with the next step last.

use std::fmt::{self, Write as _};

use bytesize::ByteSize;

use super::{EngineState, Files, Node, Outage, Queue, RejectCount, Status, WaitingFile};
use crate::sink::{FileEntry, Totals};

/// Most processes in the text.
const NODES_SHOWN: usize = 20;

/// Most samples in the line of blocks.
const SPARKS: usize = 60;

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "engine    {}", self.engine())?;
        writeln!(f, "database  {}", shown(&self.database))?;
        let queue = self.queue.map_or(String::new(), in_queue);
        writeln!(f, "queue     {}{queue}", shown(&self.broker))?;
        if self.has_other_nodes() {
            let alive = self.nodes.iter().filter(|node| node.alive).count();
            writeln!(f, "nodes     {alive} of {} alive", self.nodes.len())?;
            for node in self.nodes.iter().take(NODES_SHOWN) {
                writeln!(f, "  node    {}", of_node(node))?;
            }
        }
        let Files {
            inbound,
            work,
            quarantine,
            waiting,
            ..
        } = &self.files;
        // An older release tells no roles of a process that does not run.
        let whose = if self.roles.is_empty() || self.has_role("ingest") {
            ""
        } else {
            " of its own directories: it takes no files"
        };
        writeln!(
            f,
            "files     {inbound} in inbound, {work} in work, {quarantine} in quarantine{whose}"
        )?;
        for WaitingFile {
            name, why, seconds, ..
        } in waiting
        {
            let seconds = seconds.map_or(String::new(), |s| format!(" ({})", length(s)));
            writeln!(f, "  waits   {}: {}{seconds}", shown(name), shown(why))?;
        }
        let more = self.files.waiting_in_all() - waiting.len() as u64;
        if more > 0 {
            writeln!(f, "  waits   {} more", grouped(more))?;
        }
        if let Some(totals) = self.totals {
            let Totals {
                pending,
                settled,
                quarantined,
                removing,
                records,
                rejects,
                superseded,
            } = totals;
            let superseded = if superseded > 0 {
                format!(", {superseded} superseded")
            } else {
                String::new()
            };
            let removing = if removing > 0 {
                format!(", {removing} being removed")
            } else {
                String::new()
            };
            writeln!(
                f,
                "ledger    {settled} settled, {pending} pending, {quarantined} quarantined{removing}; \
                 {records} records, {rejects} rejects{superseded}"
            )?;
        }
        for index in &self.missing_indexes {
            writeln!(f, "  missing index {}", shown(index))?;
        }
        if let Some(rate) = self.records_per_second {
            let rate = grouped(rate as u64);
            let sparks = sparks(&self.history.records_per_second);
            let line = format!("rate      {rate} records/s  {sparks}");
            writeln!(f, "{}", line.trim_end())?;
        }
        for outage in self
            .outages
            .iter()
            .filter(|o| o.ended_seconds_ago.is_some())
        {
            let Outage {
                trouble,
                seconds,
                ended_seconds_ago,
                ..
            } = outage;
            let (lasted, ago) = (length(*seconds), length(ended_seconds_ago.unwrap_or(0.0)));
            writeln!(
                f,
                "  outage  {} for {lasted}, until {ago} ago",
                trouble.as_text()
            )?;
        }
        for reject in &self.rejects {
            let RejectCount { code, records, .. } = reject;
            let said = reject.message.as_ref();
            let said = said.map_or(String::new(), |said| format!(", such as: {}", shown(said)));
            writeln!(f, "  reject  {code}: {records}{said}")?;
        }
        for file in &self.last_files {
            let FileEntry {
                file_no,
                name,
                dataset,
                state,
                records,
                rejects,
                reason,
                ..
            } = file;
            let of = match &**dataset {
                "" => String::new(),
                dataset => format!(" ({dataset})"),
            };
            let why = reason
                .as_ref()
                .map_or(String::new(), |why| format!(": {}", shown(why)));
            writeln!(
                f,
                "  file    {file_no} {}{of} {state}, {records} records, {rejects} rejects{why}",
                shown(name)
            )?;
        }
        match &self.next {
            Some(next) => writeln!(f, "next      {}", shown(next)),
            None => Ok(()),
        }
    }
}

impl Node {
    /// Whether it lives, in words.
    #[must_use]
    pub fn life(&self) -> String {
        if self.alive {
            let (up, beat) = (length(self.up_seconds), length(self.beat_seconds_ago));
            format!("up {up}, beat {beat} ago")
        } else {
            format!("DEAD, no beat for {}", length(self.beat_seconds_ago))
        }
    }
}

impl Status {
    /// Whether there is more to see than this process, which lives.
    #[must_use]
    pub fn has_other_nodes(&self) -> bool {
        self.nodes.len() > 1 || self.nodes.iter().any(|node| !node.alive || !self.running)
    }

    fn engine(&self) -> String {
        let roles = self.roles.join(", ");
        if !self.running {
            return shown(self.reason.as_deref().unwrap_or("not running"));
        }
        if self.state != EngineState::Unwell {
            return format!("running as {roles}. {}", shown(&self.headline));
        }
        let lasts = self.outage().map_or(String::new(), |outage| {
            format!(" for {}", length(outage.seconds))
        });
        let reason = shown(self.reason.as_deref().unwrap_or("reason unknown"));
        format!("running, not ready{lasts}: {reason}")
    }
}

fn of_node(node: &Node) -> String {
    let leads = if node.leads_summary {
        ", leads the summary"
    } else {
        ""
    };
    format!(
        "{} {}: {}{leads}",
        shown(&node.name),
        shown(&node.roles.join(", ")),
        node.life()
    )
}

fn in_queue(
    Queue {
        frames,
        bytes,
        pending,
    }: Queue,
) -> String {
    format!(", {frames} frames, {bytes} bytes, {pending} with workers")
}

/// The last samples as a line of blocks, scaled to the highest. Empty if no record was stored.
fn sparks(samples: &[u64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let last = &samples[samples.len().saturating_sub(SPARKS)..];
    let highest = last.iter().copied().max().unwrap_or(0);
    if highest == 0 {
        return String::new();
    }
    let block = |sample: &u64| BLOCKS[(sample * 7).div_ceil(highest) as usize];
    last.iter().map(block).collect()
}

/// A number with commas between its thousands.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes in a suitable unit.
#[must_use]
pub fn bytes(number: u64) -> String {
    ByteSize(number).to_string()
}

/// A length of time in its two largest units.
#[must_use]
pub fn length(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{minutes} min {} s", seconds % 60),
        3_600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// A text from outside with control characters escaped, so that it cannot control a terminal.
fn shown(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, c| {
            if c.is_control() {
                write!(out, "{}", c.escape_default()).expect("writing to a String cannot fail");
            } else {
                out.push(c);
            }
            out
        })
}

#[cfg(test)]
mod tests {
    use super::super::{History, Trouble};
    use super::*;

    #[test]
    fn the_text_says_why_and_what_next() {
        let outage = |ended_seconds_ago| Outage {
            trouble: Trouble::Database,
            detail: "refused".to_owned(),
            seconds: 75.0,
            ended_seconds_ago,
        };
        let mut status = Status {
            running: true,
            reason: Some("the database does not answer".to_owned()),
            database: "sqlite:x".to_owned(),
            files: Files {
                inbound: 1,
                work: 0,
                waiting_files: 1_235,
                waiting: vec![WaitingFile {
                    name: "a\u{1b}[2J".to_owned(),
                    why: "open".to_owned(),
                    code: "being_written".to_owned(),
                    seconds: Some(3.9),
                }],
                ..Files::default()
            },
            records_per_second: Some(12_345.6),
            history: History {
                records_per_second: vec![0, 1, 50, 100],
                ..History::default()
            },
            outages: vec![outage(None), outage(Some(9.0))],
            ..Status::default()
        };
        status.conclude();
        let text = status.to_string();
        let contains = |line: &str| assert!(text.contains(line), "{line}\n{text}");
        contains("running, not ready for 1 min 15 s: the database does not answer");
        contains(r"waits   a\u{1b}[2J: open (3 s)");
        contains("waits   1,234 more\n");
        contains("rate      12,345 records/s  ▁▂▅█\n");
        contains("outage  database unavailable for 1 min 15 s, until 9 s ago");
        assert!(text.ends_with("continues by itself\n"), "{text}");
    }

    #[test]
    fn numbers_are_written_for_people() {
        let numbers = [0, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "1,234,567"]);
        let lengths = [-1.0, 59.9, 60.0, 3_720.0, 90_000.0].map(length);
        assert_eq!(
            lengths,
            ["0 s", "59 s", "1 min 0 s", "1 h 2 min", "1 d 1 h"]
        );
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(sparks(&[0, 0]), "");
    }
}
