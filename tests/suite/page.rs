//! The status page in a real browser, over a real run with a fault.
//!
//! With `LEMONADE_PICTURES=DIR` the run is longer and writes pictures of the page there.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support;
use crate::support::browser::Browser;
use crate::support::{Pair, Service, free_addr, page, until};

/// A file name that is HTML if it is not escaped.
const HOSTILE: &str = "vehicle_events_<img src=x onerror=alert(1)>'\"&amp;.json";

/// Timeout for a machine that builds and tests at the same time.
const LIMIT: Duration = Duration::from_secs(60);

/// The lowest contrast of all text on the page, and where it is, by the formula of WCAG 2.
const LOWEST_CONTRAST: &str = r"(() => {
  const parse = (c) => c.match(/[\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((v, i) => v * a + below[i] * (1 - a));
  const ground = (e) => e ? over(parse(getComputedStyle(e).backgroundColor), ground(e.parentElement))
    : [255, 255, 255];
  const light = (rgb) => rgb.map((v) => v / 255)
    .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  let lowest = [99, ''];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest('.skip, script, title')) continue;
    const below = ground(element);
    const [a, b] = [light(over(parse(getComputedStyle(element).color), below)), light(below)];
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < lowest[0]) lowest = [contrast, walker.currentNode.data];
  }
  return lowest;
})()";

/// A run over its own database, with a browser that shows the page.
struct Scene {
    pair: Pair,
    service: Service,
    addr: String,
    database: support::Private,
    browser: Browser,
    /// The directory of the pictures.
    pictures: Option<PathBuf>,
    rounds: u32,
}

impl Scene {
    async fn new() -> Self {
        let database = support::private_mariadb().await;
        let mut pair = Pair::new("memory+mysql").await;
        pair.database_url.clone_from(&database.url);
        pair.at("inbound");
        let addr = free_addr();
        let args = ["run", "--incomplete-after", "10m"];
        let service = Service::start_with_http(&pair, &args, &addr);
        until("an answer", LIMIT, async || page(&addr, "/livez").is_some()).await;
        Self {
            pair,
            service,
            addr,
            database,
            browser: Browser::start(),
            pictures: std::env::var_os("LEMONADE_PICTURES").map(PathBuf::from),
            rounds: 0,
        }
    }

    /// Adds 4 files of 500 records each.
    fn feed(&mut self) {
        self.rounds += 1;
        let dir = self.pair.at("inbound").display().to_string();
        let seed = self.rounds.to_string();
        let args = [
            "generate",
            "--dir",
            &dir,
            "--files",
            "4",
            "--records",
            "500",
        ];
        let args = [&args[..], &["--bad", "0.01", "--seed", &seed]].concat();
        self.pair.expect(0, &args);
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.pair.at("inbound").join(name), text).unwrap();
    }

    /// Adds files until the chart of the last minutes has enough samples.
    async fn feed_for(&mut self, rounds: u32) {
        for _ in 0..if self.pictures.is_some() { rounds } else { 1 } {
            self.feed();
            if self.pictures.is_some() {
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
        }
    }

    fn take_picture(&mut self, name: &str, width: u32, dark: bool) {
        let Some(dir) = self.pictures.clone() else {
            return;
        };
        let height = if width < 600 { 1_500 } else { 1_050 };
        self.browser.look(width, height, dark);
        fs::write(dir.join(name), self.browser.picture()).unwrap();
    }

    async fn shows(&mut self, selector: &str, text: &str) {
        let browser = &mut self.browser;
        let mut last = String::new();
        let shown = async || {
            last = browser.text(selector);
            last.contains(text)
        };
        until(&format!("`{text}` in {selector}"), LIMIT, shown).await;
    }

    fn api_status(&self) -> Value {
        let (code, body) = page(&self.addr, "/api/status").unwrap();
        assert_eq!(code, 200);
        assert!(body.len() < 32 << 10, "{} bytes", body.len());
        serde_json::from_str(&body).unwrap()
    }

    /// Measures the page in each width and colour scheme.
    fn check_layout(&mut self) {
        for (width, dark) in [(1100, false), (1100, true), (375, false), (375, true)] {
            self.browser.look(width, 800, dark);
            let contrast = self.browser.evaluate(LOWEST_CONTRAST);
            assert!(
                contrast[0].as_f64().unwrap() >= 4.5,
                "dark {dark}: {contrast}"
            );
            let wide = self
                .browser
                .evaluate("document.documentElement.scrollWidth");
            assert!(
                wide.as_u64().unwrap() <= u64::from(width),
                "{wide} > {width}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_follows_a_run_through_a_fault_without_a_reload() {
    let mut scene = Scene::new().await;
    scene.browser.open(&format!("http://{}/", scene.addr));
    scene.browser.evaluate("window.loadedOnce = true");
    scene.shows(".says", "Idle: nothing has arrived yet").await;
    scene.shows(".next", "put files into").await;
    scene.shows("#live", "live").await;

    // Files arrive: one that waits, one for quarantine, and some with rejects.
    scene.put("vehicle_status_open.json", "{\"vehicle_status\": [");
    scene.feed_for(100).await;
    scene.put(HOSTILE, "hello\n");
    let settled = (scene.rounds * 4).to_string();
    scene.shows("#stored", &settled).await;
    scene.shows("main", HOSTILE).await;
    scene
        .shows("section[aria-labelledby=waits]", "vehicle_status_open.json")
        .await;
    scene
        .shows(
            "section[aria-labelledby=waits]",
            "the document is not complete yet",
        )
        .await;
    scene
        .shows("section[aria-labelledby=rejects]", "missing_field")
        .await;
    scene
        .shows(".next", "task_runner files list --state quarantined")
        .await;
    let markup = scene
        .browser
        .evaluate("document.querySelectorAll('main img').length");
    assert_eq!(markup, 0, "a name became markup");
    // The headline of the page follows that of the status.
    let mut status = scene.api_status();
    let began = Instant::now();
    while scene.browser.text(".says") != status["headline"].as_str().unwrap() {
        assert!(began.elapsed() < LIMIT, "{status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        status = scene.api_status();
    }
    assert_eq!(status["totals"]["quarantined"], 1);
    scene.check_layout();

    // The page shows the fault, and its duration grows.
    scene.database.kill();
    scene.shows(".says", "Database unavailable").await;
    scene.shows(".next", "start mysql://").await;
    assert!(
        page(&scene.addr, "/readyz")
            .unwrap()
            .1
            .contains("database unavailable")
    );
    let seconds = |text: String| text.split(' ').next().unwrap().parse::<u32>().unwrap();
    let first = seconds(scene.browser.text("#since"));
    let browser = &mut scene.browser;
    until("seconds that count", LIMIT, async || {
        seconds(browser.text("#since")) >= first + 2
    })
    .await;
    scene.shows("title", "Database unavailable").await;
    // The last known numbers are still shown.
    assert_eq!(scene.browser.text("#stored"), settled);
    scene.check_layout();
    if scene.pictures.is_some() {
        tokio::time::sleep(Duration::from_secs(9)).await;
    }
    scene.take_picture("status-dark.png", 1000, true);

    // The page shows the end of the fault as well.
    scene.database.restart().await;
    scene.shows("#recovered", "database unavailable for").await;
    scene.feed_for(50).await;
    scene.put("vehicle_status_cut.json", "{\"vehicle_status\": [{]}\n");
    scene.feed_for(1).await;
    tokio::time::sleep(Duration::from_millis(if scene.pictures.is_some() {
        900
    } else {
        0
    }))
    .await;
    scene.take_picture("status-light.png", 1000, false);
    scene.take_picture("status-phone.png", 375, false);
    scene
        .shows("#stored", &(scene.rounds * 4).to_string())
        .await;

    assert_eq!(
        scene.browser.evaluate("window.loadedOnce"),
        true,
        "it was reloaded"
    );
    assert_eq!(scene.browser.complaints(), Vec::<String>::new());
    // An open browser does not delay the end of the service, and shows it.
    assert_eq!(scene.service.terminate(), Some(0));
    scene.shows("#live", "no answer since").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_needs_neither_script_nor_mouse() {
    let mut scene = Scene::new().await;
    scene.put(HOSTILE, "hello\n");
    scene.feed();
    let addr = scene.addr.clone();
    until(
        "all in the ledger, a first sample, and rest",
        LIMIT,
        async || {
            page(&addr, "/").is_some_and(|(_, html)| {
                let signs = [
                    "id=\"stored\">4<",
                    "class=\"curve stored\"",
                    "Idle: nothing waits",
                ];
                signs.iter().all(|sign| html.contains(sign))
            })
        },
    )
    .await;

    let script = |off: bool| serde_json::json!({"value": off});
    scene
        .browser
        .ask("Emulation.setScriptExecutionDisabled", &script(true));
    scene.browser.open(&format!("http://{}/", scene.addr));
    let main = scene.browser.text("main");
    let essentials = [
        "Idle: nothing waits",
        "task_runner files list --state quarantined",
        "2,000 records",
        "missing_field",
        HOSTILE,
        "quarantined: malformed: not JSON",
    ];
    for essential in essentials {
        assert!(main.contains(essential), "{essential}: {main}");
    }
    assert!(scene.browser.text("#live").contains("reload"));
    let parts = scene.browser.evaluate(
        "[document.querySelectorAll('header, main, footer').length, \
          document.querySelectorAll('h1').length, \
          [...document.querySelectorAll('section')].filter((s) => \
            !document.getElementById(s.getAttribute('aria-labelledby'))).length, \
          document.querySelectorAll('.chart path.curve.stored').length]",
    );
    assert_eq!(
        parts,
        serde_json::json!([3, 1, 0, 1]),
        "landmarks, headings, chart"
    );

    scene
        .browser
        .ask("Emulation.setScriptExecutionDisabled", &script(false));
    scene.browser.open(&format!("http://{}/", scene.addr));
    scene.shows("#live", "live").await;
    let focus: Vec<String> = (0..4).map(|_| scene.browser.tab()).collect();
    let expected = ["Skip to the content", "Status", "Files", "Rejects"];
    assert_eq!(focus, expected);
    // The focus stays on its element while the page is updated.
    let uptime = scene.browser.text("#about");
    let browser = &mut scene.browser;
    until("news", LIMIT, async || browser.text("#about") != uptime).await;
    let focus = browser.evaluate("document.activeElement.textContent");
    assert_eq!(focus, "Rejects");

    assert_eq!(browser.complaints(), Vec::<String>::new());
    // The policy refuses inline code, and the console would report a violation.
    let inline = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; \
                  document.body.append(s); window.ran === undefined";
    assert_eq!(browser.evaluate(inline), true);
    assert!(browser.complaints()[0].contains("Content Security Policy"));
}
