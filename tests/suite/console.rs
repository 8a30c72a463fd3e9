//! The console in a real browser, by the keyboard alone: a bad file is found, its reject read,
//! corrected and replayed; a file is retried and reloaded; the service is paused and resumed.
//!
//! With `LEMONADE_AXE=FILE` each page is also checked by the axe-core in that file, in light and
//! dark (`scripts/accessibility`). With `LEMONADE_PICTURES=DIR` pictures of the pages go there.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::end_to_end::generate;
use crate::support::browser::Browser;
use crate::support::{Pair, Service, free_addr, page, until};

/// Timeout for a machine that builds and tests at the same time.
const LIMIT: Duration = Duration::from_secs(60);

/// Most presses of the Tab key to reach an element. A page has fewer elements that take the focus.
const TABS_MAX: usize = 80;

const GOOD: &str = r#"{"vehicle_id":"v-1","report_time":"2022-06-05T21:02:34Z","status_source":"mobile","status":"ok"}"#;

/// The time has a month that no year has.
const BAD: &str = r#"{"vehicle_id":"<b>v-2</b>","report_time":"2022-13-05T21:02:34Z","status_source":"é","status":"ok"}"#;

/// What the focused element says.
const FOCUSED: &str = "(() => { const e = document.activeElement; \
    if (e.tagName === 'TEXTAREA') return 'the text area'; \
    return e === document.body ? '' : e.textContent.trim() || e.name || ''; })()";

struct Scene {
    pair: Pair,
    _service: Service,
    addr: String,
    browser: Browser,
    axe: Option<String>,
    pictures: Option<PathBuf>,
}

impl Scene {
    async fn new() -> Self {
        let pair = Pair::new("memory+sqlite").await;
        pair.at("inbound");
        let addr = free_addr();
        let service = Service::start_with_http(&pair, &["run", "--http-actions"], &addr);
        until("an answer", LIMIT, async || page(&addr, "/livez").is_some()).await;
        let axe = std::env::var_os("LEMONADE_AXE");
        Self {
            pair,
            _service: service,
            addr,
            browser: Browser::start(),
            axe: axe.map(|path| fs::read_to_string(path).unwrap()),
            pictures: std::env::var_os("LEMONADE_PICTURES").map(PathBuf::from),
        }
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.pair.at("inbound").join(name), text).unwrap();
    }

    /// Presses Tab until the focus is on an element with this text, or a field with this name.
    fn focus(&mut self, text: &str) {
        let mut passed = Vec::new();
        for _ in 0..TABS_MAX {
            self.browser.tab();
            let focused = self.browser.evaluate(FOCUSED);
            let focused = focused.as_str().unwrap();
            if focused.contains(text) {
                let outlined = "getComputedStyle(document.activeElement).outlineStyle !== 'none'";
                assert_eq!(
                    self.browser.evaluate(outlined),
                    true,
                    "{text}: the focus is seen"
                );
                return;
            }
            passed.push(focused.to_owned());
        }
        panic!("the keyboard does not reach `{text}`, but {passed:?}");
    }

    /// Presses Enter on an element with this text, and waits for the page that follows.
    async fn follow(&mut self, text: &str) {
        self.focus(text);
        self.browser.evaluate("window.isOld = true");
        self.browser.press("Enter", "\r", 13, 0);
        let browser = &mut self.browser;
        until(&format!("the page behind `{text}`"), LIMIT, async || {
            let is_new = "window.isOld !== true && document.readyState === 'complete'";
            browser.evaluate(is_new) == true
        })
        .await;
    }

    async fn shows(&mut self, selector: &str, text: &str) {
        let browser = &mut self.browser;
        until(&format!("`{text}` in {selector}"), LIMIT, async || {
            browser.text(selector).contains(text)
        })
        .await;
    }

    /// Checks the page that is open: it fits a phone, and axe-core finds nothing.
    fn check(&mut self, name: &str) {
        for (width, dark) in [(390, true), (390, false), (1000, true), (1000, false)] {
            self.browser.look(width, 1_000, dark);
            let wide = "document.documentElement.scrollWidth";
            let wide = self.browser.evaluate(wide).as_u64().unwrap();
            assert!(wide <= u64::from(width), "{name}: {wide} > {width}");
            if let Some(axe) = &self.axe {
                self.browser.evaluate(axe);
                let found = self.browser.resolve(
                    "axe.run().then((found) => found.violations.map((violation) => \
                     [violation.id, violation.help, violation.nodes.map((node) => node.html)]))",
                );
                assert_eq!(found, json!([]), "{name}, {width} wide, dark {dark}");
            }
            let picture = width == 1000 && !dark;
            if let (true, Some(pictures)) = (picture, &self.pictures) {
                let file = pictures.join(format!("console-{name}.png"));
                fs::write(file, self.browser.picture()).unwrap();
            }
        }
    }

    async fn rows(&self) -> u64 {
        self.pair
            .number("SELECT COUNT(*) FROM vehicle_status")
            .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_corrects_a_record_and_retries_a_file_with_the_keyboard_alone() {
    let mut scene = Scene::new().await;
    let records = format!("{{\"vehicle_status\": [{GOOD},\n{BAD},\n7]}}");
    scene.put("vehicle_status_bad.json", &records);
    scene.put("vehicle_status_cut.json", "hello\n");
    scene.browser.open(&format!("http://{}/", scene.addr));
    scene.shows("#stored", "1").await;
    scene.shows("main", "vehicle_status_cut.json").await;
    scene.check("status");

    // The file, its rejects, the reject of its second record.
    scene.follow("Files").await;
    scene.check("files");
    scene.focus("name");
    scene.browser.type_text("status_bad");
    scene.follow("Show").await;
    let listed = scene.browser.text("table.stack tbody");
    assert!(
        listed.contains("vehicle_status_bad.json") && !listed.contains("cut"),
        "{listed}"
    );
    scene.follow("vehicle_status_bad.json").await;
    scene.shows("main", "settled").await;
    scene.check("file");
    scene.follow("record 1").await;
    scene.shows("main", "invalid_timestamp").await;
    assert_eq!(scene.browser.text("mark"), "\"2022-13-05T21:02:34Z\"");
    assert_eq!(
        scene
            .browser
            .evaluate("document.querySelectorAll('pre b').length"),
        0
    );
    scene.check("reject");

    // A text that is still wrong stays a reject; the page says why.
    scene.follow("Replay it as it is").await;
    scene
        .shows(".outcome", "still a reject: invalid_timestamp")
        .await;
    assert_eq!(scene.rows().await, 1);
    scene.focus("the text area");
    scene.browser.press("a", "", 65, 2);
    scene.browser.type_text(&BAD.replace("2022-13", "2022-12"));
    scene.follow("Replay the corrected record").await;
    scene
        .shows(".outcome", "1 stored, 0 stored already, 0 still rejects")
        .await;
    assert_eq!(scene.rows().await, 2);
    scene.follow("Rejects").await;
    scene
        .shows("main", "record 2 of vehicle_status_bad.json")
        .await;
    let none = scene.browser.text("main").contains("record 1 of");
    assert!(!none, "the corrected record is no longer listed");
    scene.check("rejects");

    // The file in quarantine comes right, and is retried.
    scene.follow("Files").await;
    scene.follow("vehicle_status_cut.json").await;
    scene.shows("main", "quarantined").await;
    let whole = format!("{{\"vehicle_status\": [{GOOD}]}}");
    fs::write(
        scene.pair.at("quarantine").join("vehicle_status_cut.json"),
        whole,
    )
    .unwrap();
    scene.follow("Retry").await;
    scene.shows(".outcome", "is in inbound again").await;
    let pair = &scene.pair;
    until("the file is stored", LIMIT, async || {
        pair.number("SELECT COUNT(*) FROM vehicle_status").await == 3
    })
    .await;

    // A file is loaded again: the record that was corrected is a reject again.
    scene.follow("Files").await;
    scene.follow("vehicle_status_bad.json").await;
    scene.follow("Acknowledge").await;
    scene.shows(".outcome", "finds no problem").await;
    scene.follow("Reload").await;
    scene.shows(".outcome", "is in inbound again").await;
    let pair = &scene.pair;
    until("the file is loaded again", LIMIT, async || {
        pair.number("SELECT COUNT(*) FROM ingest_rejects").await == 2
    })
    .await;

    // What was seen is not asked for again.
    scene.follow("Status").await;
    scene.shows(".next", "rejects list").await;
    scene.follow("Acknowledge").await;
    scene.shows(".outcome", "from now on").await;
    scene.shows(".next", "nothing").await;

    // The service is paused, and goes on.
    scene.follow("Pause").await;
    scene.shows(".says", "Paused").await;
    scene.put(
        "vehicle_status_later.json",
        &format!("{{\"vehicle_status\": [{GOOD}, {GOOD}]}}"),
    );
    scene.shows("#inbound", "1").await;
    scene.follow("Resume").await;
    scene.shows("#inbound", "0").await;
    scene.shows("main", "vehicle_status_later.json").await;
    assert_eq!(scene.browser.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_machines_need_a_secret_for_actions() {
    let pair = Pair::new("memory+sqlite").await;
    let refused = pair.run(&["run", "--http-actions", "--http-addr", "0.0.0.0:0"]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78), "{message}");
    assert!(message.contains("set http_token_file"), "{message}");
    let secret = pair.at("secret");
    fs::write(&secret, "short\n").unwrap();
    let secret = secret.to_str().unwrap();
    let refused = pair.run(&[
        "run",
        "--http-addr",
        "127.0.0.1:0",
        "--http-token-file",
        secret,
    ]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78), "{message}");
    assert!(message.contains("at least 16"), "{message}");
}

/// Whether the page of the status has a button that pauses or resumes.
fn can_pause(addr: &str) -> bool {
    let (_, html) = page(addr, "/").unwrap();
    html.contains("value=\"pause\"") || html.contains("value=\"resume\"")
}

/// A pause is one of a service that takes files, and other processes have other directories.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_service_that_takes_files_acts_on_directories() {
    let pair = Pair::new("redis+mysql").await;
    let records = format!("{{\"vehicle_status\": [{GOOD}]}}");
    fs::write(pair.at("inbound").join("vehicle_status_a.json"), records).unwrap();
    pair.expect(0, &["load"]);
    let file_no = pair.number("SELECT file_no FROM ingest_files").await;
    for (role, takes_files) in [("work", false), ("ingest", true)] {
        let addr = free_addr();
        let args = ["run", "--role", role, "--http-actions"];
        let _service = Service::start_with_http(&pair, &args, &addr);
        let shown = |path: &str| page(&addr, path).unwrap_or_default();
        until("an answer", LIMIT, async || shown("/readyz").0 == 200).await;
        assert_eq!(can_pause(&addr), takes_files, "{role}");
        let (code, html) = shown(&format!("/file?no={file_no}"));
        assert_eq!(code, 200, "{html}");
        assert_eq!(html.contains("value=\"reload\""), takes_files, "{html}");
        let elsewhere = html.contains("An action on a file needs");
        assert_eq!(elsewhere, !takes_files, "{html}");
    }

    // A load ignores the pause of the service, and says so.
    pair.expect(0, &["pause"]);
    generate(&pair, &["--files", "20", "--records", "4000"]);
    let addr = free_addr();
    let args = ["load", "--http-addr", &addr, "--http-actions"];
    let pace = ["--max-records-per-second", "400"];
    let _load = Service::start_with_http(&pair, &[&args[..], &pace].concat(), &addr);
    let shown = |path: &str| page(&addr, path).unwrap_or_default().1;
    // The metric of the pause is set before this one.
    let is_observed = async || shown("/metrics").contains("lemonade_disk_free_bytes{");
    until("an observation", LIMIT, is_observed).await;
    assert!(shown("/metrics").contains("\nlemonade_paused 0\n"));
    let status: Value = serde_json::from_str(&shown("/api/status")).unwrap();
    assert_eq!(status["paused"], false, "{status}");
    assert!(!can_pause(&addr));
}

/// Reads do not need the service's own connections: they are answered while files are loaded.
#[tokio::test(flavor = "multi_thread")]
async fn the_pages_list_what_the_ledger_has() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = Pair::new(name).await;
        let records = format!("{{\"vehicle_status\": [{BAD}, {BAD}, 7, {GOOD}]}}");
        fs::write(pair.at("inbound").join("vehicle_status_a.json"), records).unwrap();
        pair.expect(2, &["load"]);
        let addr = free_addr();
        let _service = Service::start_with_http(&pair, &["run"], &addr);
        let shown = |path: &str| page(&addr, path).unwrap_or_default();
        until("an answer", LIMIT, async || shown("/readyz").0 == 200).await;

        let (code, html) = shown("/rejects");
        assert_eq!(code, 200, "{html}");
        let by_field = "invalid_timestamp</code> report_time</a></th><td class=\"n\">2<";
        assert!(html.contains(by_field), "{html}");
        let (_, html) = shown("/rejects?code=invalid_timestamp&field=report_time");
        assert_eq!(
            html.matches("of vehicle_status_a.json").count(),
            2,
            "{html}"
        );
        let (_, html) = shown("/rejects?field=other");
        assert!(html.contains("No such reject."), "{html}");
        let (_, html) = shown("/files?state=settled&dataset=vehicle_status&name=status_a");
        assert!(html.contains("vehicle_status_a.json"), "{html}");
        let (_, html) = shown("/files?state=quarantined");
        assert!(html.contains("No such file."), "{html}");
        let file_no = pair.number("SELECT file_no FROM ingest_files").await;
        let (_, html) = shown(&format!("/file?no={file_no}"));
        let settled = "<time datetime=\"20";
        assert_eq!(html.matches(settled).count(), 5, "{html}");
        // Without `http_actions`, no page shows the text of a record.
        let (code, html) = shown(&format!("/reject?id={}", file_no << 32));
        assert!(code == 200 && html.contains("invalid_timestamp"), "{html}");
        assert!(!html.contains("2022-13"), "{html}");
        let log: Value = serde_json::from_str(&shown("/api/status").1).unwrap();
        assert_eq!(log["totals"]["rejects"], 3);
    }
}
