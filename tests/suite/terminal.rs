//! What a terminal shows during a load: one line of progress, and whole lines of the log.

use std::io::Write as _;
use std::num::NonZeroU16;
use std::process::{ChildStdin, Output};
use std::time::Duration;

use crate::supervision::as_program;
use crate::support::{self, Pair, names};

/// Runs a load on a terminal of this size, with `script`, and returns what it wrote. Calls `stop` with
/// the keyboard as soon as a progress bar is shown.
fn on_terminal(
    pair: &Pair,
    rows: u16,
    columns: u16,
    stop: Option<&mut dyn FnMut(&mut ChildStdin)>,
) -> Output {
    let binary = env!("CARGO_BIN_EXE_task_runner");
    let load = format!("stty rows {rows} cols {columns}; exec {binary} load --http-addr off");
    let mut shell = pair.command(&["-qec", &load, "/dev/null"]);
    shell.env("TERM", "xterm").env("LEMONADE_WORKERS", "1");
    let mut shell = as_program(&shell, "script");
    let Some(stop) = stop else {
        return shell.output().unwrap();
    };
    let mut child = shell
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut written = Vec::new();
    let mut piece = [0; 4_096];
    let mut keyboard = child.stdin.take();
    loop {
        let count = std::io::Read::read(&mut stdout, &mut piece).unwrap();
        if count == 0 {
            break;
        }
        written.extend_from_slice(&piece[..count]);
        if String::from_utf8_lossy(&written).contains("ETA ")
            && let Some(mut keyboard) = keyboard.take()
        {
            stop(&mut keyboard);
            std::mem::forget(keyboard);
        }
    }
    Output {
        status: child.wait().unwrap(),
        stdout: written,
        stderr: Vec::new(),
    }
}

/// The terminal turns this byte into SIGINT.
fn interrupt(keyboard: &mut ChildStdin) {
    keyboard.write_all(b"\x03").unwrap();
}

/// The text that remains on a terminal, with all lines that scrolled away.
fn remains(output: &[u8], columns: u16) -> String {
    let size = |count| NonZeroU16::new(count).unwrap();
    let mut terminal = vt100::Parser::new(size(500), size(columns), 0);
    terminal.process(output);
    terminal.screen().contents()
}

/// Each picture of the progress bar, without the codes that steer the terminal.
fn bars(output: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(output);
    let plain = |piece: &str| {
        let mut plain = String::new();
        let mut rest = piece;
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            plain.push_str(before);
            rest = after
                .split_once(|c: char| c.is_ascii_alphabetic())
                .map_or("", |(_, rest)| rest);
        }
        plain + rest
    };
    let pieces = text
        .split(['\r', '\n'])
        .flat_map(|line| line.split("\u{1b}[2K"));
    pieces
        .map(plain)
        .filter(|piece| piece.contains("ETA "))
        .collect()
}

fn files(pair: &Pair, numbers: std::ops::Range<u32>) {
    let inbound = pair.at("inbound");
    for number in numbers {
        let dir = format!("made-{number}");
        let seed = number.to_string();
        pair.expect(
            0,
            &[
                "generate",
                "--dir",
                &dir,
                "--files",
                "1",
                "--records",
                "2000",
                "--seed",
                &seed,
            ],
        );
        let made = pair.at(&dir);
        let name = &names(&made)[0];
        let good = inbound.join(format!("vehicle_events_{number:03}.json"));
        std::fs::rename(made.join(name), good).unwrap();
        let bad = inbound.join(format!("vehicle_events_{number:03}_bad.json"));
        std::fs::write(bad, format!("{{\"vehicle_events\": [{number}}}")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_has_one_line_and_tears_no_line_of_the_log() {
    for (rows, columns) in [(24, 80), (40, 120)] {
        let pair = Pair::new("memory+sqlite").await;
        files(&pair, 0..12);
        let output = on_terminal(&pair, rows, columns, None);
        assert_eq!(output.status.code(), Some(2));
        let bars = bars(&output.stdout);
        assert!(!bars.is_empty(), "no bar was drawn");
        for bar in &bars {
            assert!(bar.chars().count() <= usize::from(columns), "{bar:?}");
            assert!(
                bar.contains(" % ") && (bar.contains(" records") || bar.contains(" summary")),
                "{bar:?}"
            );
        }
        let text = remains(&output.stdout, columns);
        assert!(!text.contains("ETA"), "the bar remains:\\n{text}");
        for number in 0..12 {
            let name = format!("vehicle_events_{number:03}_bad.json");
            // The name of the file and the message are on the same line of the log.
            let line = text.lines().find(|line| line.contains(&name));
            let line = line.unwrap_or_else(|| panic!("{name} is missing:\\n{text}"));
            assert!(line.contains("WARN quarantined"), "{line}");
        }
        assert!(text.contains("rows         24,000"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_on_a_terminal_leaves_a_clean_screen_and_the_next_load_continues() {
    let pair = Pair::new("memory+sqlite").await;
    files(&pair, 0..30);
    let stopped = on_terminal(&pair, 24, 80, Some(&mut interrupt));
    let text = remains(&stopped.stdout, 80);
    assert_eq!(stopped.status.code(), Some(75), "{text}");
    assert!(!text.contains("ETA"), "the bar remains:\n{text}");
    assert!(
        text.contains("stopped before the end; nothing is lost, run it again to continue"),
        "{text}"
    );
    pair.expect(2, &["load"]);
    assert_eq!(
        pair.number("SELECT COUNT(*) FROM vehicle_events").await,
        60_000
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupts_end_a_load_that_hangs_and_leave_a_clean_screen() {
    let mut database = support::private_mariadb().await;
    let mut pair = Pair::new("memory+mysql").await;
    pair.database_url.clone_from(&database.url);
    files(&pair, 0..30);
    let mut thrice = |keyboard: &mut ChildStdin| {
        database.pause();
        for _ in 0..3 {
            interrupt(keyboard);
            // The terminal would send equal signals as one.
            std::thread::sleep(Duration::from_millis(300));
        }
    };
    let stopped = on_terminal(&pair, 24, 80, Some(&mut thrice));
    let text = remains(&stopped.stdout, 80);
    assert_eq!(stopped.status.code(), Some(75), "{text}");
    assert!(!text.contains("ETA"), "the bar remains:\n{text}");
    assert!(
        text.contains("ends now, in the middle of its work"),
        "{text}"
    );
}
