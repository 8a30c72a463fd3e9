//! The server with real connections.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use async_trait::async_trait;

use super::clients::{CLIENTS_MAX, FAREWELL, HEAD_TIMEOUT, QUIET_MAX};
use super::*;
use crate::console::{Action, FileView, FilesPage, RejectView, RejectsPage};
use crate::sink::Totals;
use crate::status::{Files, Status, WaitingFile};
use crate::telemetry;

struct Engine {
    ready: AtomicBool,
}

#[async_trait]
impl StatusSource for Engine {
    fn ready(&self) -> Result<(), String> {
        let ready = self.ready.load(Ordering::SeqCst);
        ready
            .then_some(())
            .ok_or_else(|| "the database \"does\" not answer".to_owned())
    }

    fn work(&self) -> String {
        "/work".to_owned()
    }

    async fn status(&self) -> Status {
        let file = WaitingFile {
            name: "<script>.json".to_owned(),
            why: "open & young".to_owned(),
            code: "incomplete".to_owned(),
            seconds: None,
        };
        let files = Files {
            inbound: 1,
            waiting: vec![file],
            ..Files::default()
        };
        // One reject that no operator has acknowledged.
        let totals = Totals {
            rejects: 1,
            ..Totals::default()
        };
        Status {
            running: true,
            ready: true,
            files,
            totals: Some(totals),
            ..Status::default()
        }
    }
}

/// A console that notes its actions.
#[derive(Default)]
struct Ledger {
    done: parking_lot::Mutex<Vec<Action>>,
}

#[async_trait]
impl Console for Ledger {
    async fn files(&self, _: &FilesQuery) -> Result<FilesPage, String> {
        Ok(FilesPage::default())
    }

    async fn file(&self, _: u32) -> Result<Option<FileView>, String> {
        Ok(None)
    }

    async fn rejects(&self, _: &RejectsQuery) -> Result<RejectsPage, String> {
        Err("no answer from the database".to_owned())
    }

    async fn reject(&self, _: u64, _: bool) -> Result<Option<RejectView>, String> {
        Ok(None)
    }

    async fn act(&self, action: Action) -> Result<String, String> {
        self.done.lock().push(action);
        Ok("<paused>".to_owned())
    }
}

async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer)
}

#[tokio::test]
async fn every_page_is_served_until_a_stop() {
    let engine = Arc::new(Engine {
        ready: AtomicBool::new(false),
    });
    let http = Http::bind(
        "127.0.0.1:0".parse().unwrap(),
        Vec::new(),
        Allowed::default(),
    )
    .await
    .unwrap();
    let addr = http.addr().unwrap();
    let stop = CancellationToken::new();
    let source: Arc<dyn StatusSource> = engine.clone();
    let server = tokio::spawn(http.serve(
        telemetry::install(),
        source,
        Arc::new(Ledger::default()),
        stop.clone(),
    ));

    assert_eq!(get(addr, "/livez").await.0, 200);
    let (code, answer) = get(addr, "/readyz").await;
    assert_eq!(code, 503);
    assert!(answer.ends_with(
        r#"{"ready":false,"reason":"the database \"does\" not answer","work":"/work"}"#
    ));
    engine.ready.store(true, Ordering::SeqCst);
    assert_eq!(get(addr, "/readyz").await.0, 200);
    let (code, answer) = get(addr, "/metrics").await;
    assert!(
        code == 200 && answer.contains("text/plain; version=0.0.4"),
        "{answer}"
    );
    assert!(answer.contains("lemonade_build_info"), "{answer}");
    let (_, answer) = get(addr, "/api/status").await;
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    assert_eq!(
        serde_json::from_str::<Status>(body).unwrap(),
        engine.status().await
    );
    let (code, answer) = get(addr, "/").await;
    assert_eq!(code, 200);
    assert!(
        answer.contains("&lt;script&gt;.json</th><td>open &amp; young"),
        "{answer}"
    );
    assert_eq!(get(addr, "/else").await.0, 404);

    let taken = Http::bind(addr, Vec::new(), Allowed::default())
        .await
        .unwrap_err();
    assert!(taken.to_string().contains("--http-addr"), "{taken}");
    // A client that does not finish its request does not delay the end.
    let mut silent = TcpStream::connect(addr).await.unwrap();
    silent.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    assert_eq!(get(addr, "/livez").await.0, 200);
    stop.cancel();
    let ended = tokio::time::timeout(FAREWELL * 5, server).await;
    ended.expect("it ends").unwrap();
    let left = silent.read(&mut [0; 64]).await;
    assert!(matches!(left, Ok(0) | Err(_)), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_whole_request_is_disconnected() {
    let engine = Arc::new(Engine {
        ready: AtomicBool::new(true),
    });
    let http = Http::bind(
        "127.0.0.1:0".parse().unwrap(),
        Vec::new(),
        Allowed::default(),
    )
    .await
    .unwrap();
    let addr = http.addr().unwrap();
    tokio::spawn(http.serve(
        telemetry::install(),
        engine,
        Arc::new(Ledger::default()),
        CancellationToken::new(),
    ));
    let mut silent = TcpStream::connect(addr).await.unwrap();
    silent.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    let began = tokio::time::Instant::now();
    let mut answer = Vec::new();
    let _ = silent.read_to_end(&mut answer).await;
    let took = began.elapsed();
    assert!((HEAD_TIMEOUT..HEAD_TIMEOUT * 3).contains(&took), "{took:?}");
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
}

/// All places are taken by clients that only wait, or do not read their response.
#[tokio::test]
async fn a_new_client_is_answered_beside_two_hundred_idle_ones() {
    let engine = Arc::new(Engine {
        ready: AtomicBool::new(true),
    });
    let http = Http::bind(
        "127.0.0.1:0".parse().unwrap(),
        Vec::new(),
        Allowed::default(),
    )
    .await
    .unwrap();
    let addr = http.addr().unwrap();
    tokio::spawn(http.serve(
        telemetry::install(),
        engine,
        Arc::new(Ledger::default()),
        CancellationToken::new(),
    ));
    let mut idle = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        if number % 2 == 0 {
            let asks = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n";
            stream.write_all(asks).await.unwrap();
        }
        idle.push(stream);
    }
    let answer = tokio::time::timeout(HEAD_TIMEOUT / 5, get(addr, "/readyz")).await;
    assert_eq!(answer.expect("at once").0, 200);
    let mut left = 0;
    for stream in &mut idle {
        let open = tokio::time::timeout(Duration::from_millis(1), async {
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
        });
        left += usize::from(open.await.is_ok());
    }
    assert!(left >= 200 - CLIENTS_MAX, "{left} have lost their place");
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_new_request_is_disconnected() {
    let engine = Arc::new(Engine {
        ready: AtomicBool::new(true),
    });
    let http = Http::bind(
        "127.0.0.1:0".parse().unwrap(),
        Vec::new(),
        Allowed::default(),
    )
    .await
    .unwrap();
    let addr = http.addr().unwrap();
    tokio::spawn(http.serve(
        telemetry::install(),
        engine,
        Arc::new(Ledger::default()),
        CancellationToken::new(),
    ));
    let mut quiet = TcpStream::connect(addr).await.unwrap();
    let asks = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    quiet.write_all(asks).await.unwrap();
    let began = tokio::time::Instant::now();
    let mut answer = Vec::new();
    let _ = quiet.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    assert!(
        began.elapsed() <= QUIET_MAX + FAREWELL,
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_request_for_an_unknown_host_is_refused() {
    let engine = Arc::new(Engine {
        ready: AtomicBool::new(true),
    });
    let hosts = vec!["engine".to_owned()];
    let http = Http::bind("127.0.0.1:0".parse().unwrap(), hosts, Allowed::default())
        .await
        .unwrap();
    let addr = http.addr().unwrap();
    tokio::spawn(http.serve(
        telemetry::install(),
        engine,
        Arc::new(Ledger::default()),
        CancellationToken::new(),
    ));
    for (host, expected) in [("evil.example", "421"), ("engine", "200")] {
        for path in [
            "/",
            "/api/status",
            "/metrics",
            "/readyz",
            "/livez",
            "/page.js",
        ] {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(
                answer.split(' ').nth(1),
                Some(expected),
                "{host}{path}: {answer}"
            );
        }
    }
}

/// Sends a POST, and returns the whole answer.
async fn post(addr: SocketAddr, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let length = body.len();
    let request = format!(
        "POST /act HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Serves pages of a service that may act, and returns the address and the console.
async fn acting(secret: Option<&str>) -> (SocketAddr, Arc<Ledger>) {
    allowed_to_act(secret, true).await
}

async fn allowed_to_act(secret: Option<&str>, takes_files: bool) -> (SocketAddr, Arc<Ledger>) {
    let engine = Arc::new(Engine {
        ready: AtomicBool::new(true),
    });
    let allowed = Allowed {
        actions: true,
        secret: secret.map(str::to_owned),
        takes_files,
    };
    let http = Http::bind("127.0.0.1:0".parse().unwrap(), Vec::new(), allowed)
        .await
        .unwrap();
    let addr = http.addr().unwrap();
    let console = Arc::new(Ledger::default());
    let served = http.serve(
        telemetry::install(),
        engine,
        console.clone(),
        CancellationToken::new(),
    );
    tokio::spawn(served);
    (addr, console)
}

/// The token that the forms of the page have.
async fn page_token(addr: SocketAddr) -> String {
    let (_, page) = get(addr, "/").await;
    let after = page.split("name=\"token\" value=\"").nth(1).unwrap();
    after.split('"').next().unwrap().to_owned()
}

/// A form with a token as a browser encodes it.
fn form(fields: &str, token: &str) -> String {
    let token = token
        .replace('+', "%2B")
        .replace('=', "%3D")
        .replace('/', "%2F");
    format!("{fields}&token={token}")
}

#[tokio::test]
async fn only_a_form_of_the_page_acts() {
    let (addr, console) = acting(None).await;
    let token = page_token(addr).await;
    let own = "Host: localhost\r\nOrigin: http://localhost\r\n".to_owned();
    let good = form("do=pause", &token);
    let foreign = [
        (
            "no origin",
            "Host: localhost\r\n".to_owned(),
            good.clone(),
            "403",
        ),
        (
            "another origin",
            "Host: localhost\r\nOrigin: http://evil.example\r\n".to_owned(),
            good.clone(),
            "403",
        ),
        (
            "an origin that is hidden",
            "Host: localhost\r\nOrigin: null\r\n".to_owned(),
            good.clone(),
            "403",
        ),
        (
            "another port",
            "Host: localhost\r\nOrigin: http://localhost:1\r\n".to_owned(),
            good.clone(),
            "403",
        ),
        (
            "a host that is not accepted",
            "Host: evil.example\r\nOrigin: http://evil.example\r\n".to_owned(),
            good.clone(),
            "421",
        ),
        ("no token", own.clone(), "do=pause".to_owned(), "403"),
        (
            "another token",
            own.clone(),
            form("do=pause", "AAAA"),
            "403",
        ),
        ("no action", own.clone(), form("do=forget", &token), "400"),
        (
            "a long form",
            own.clone(),
            form(&"a".repeat(500_000), &token),
            "413",
        ),
    ];
    for (what, headers, body, expected) in foreign {
        let answer = post(addr, &headers, &body).await;
        assert_eq!(answer.split(' ').nth(1), Some(expected), "{what}: {answer}");
    }
    assert_eq!(*console.done.lock(), []);
    assert_eq!(get(addr, "/act?do=pause").await.0, 405);

    let answer = post(addr, &own, &good).await;
    assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    assert!(answer.contains("location: ./?done=1\r\n"), "{answer}");
    assert_eq!(*console.done.lock(), [Action::Pause]);
    let (_, page) = get(addr, "/?done=1").await;
    assert!(page.contains("&lt;paused&gt;"), "{page}");
}

#[tokio::test]
async fn a_process_that_takes_no_files_acts_on_no_directory() {
    let (addr, console) = allowed_to_act(None, false).await;
    let (_, page) = get(addr, "/").await;
    for absent in ["value=\"pause\"", "value=\"resume\""] {
        assert!(!page.contains(absent), "{page}");
    }
    let token = page_token(addr).await;
    let own = "Host: localhost\r\nOrigin: http://localhost\r\n";
    for action in [
        "do=pause",
        "do=resume",
        "do=retry&name=a.json",
        "do=release&file=1",
        "do=reload&file=1",
        "do=acknowledge&file=1",
    ] {
        let answer = post(addr, own, &form(action, &token)).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{action}: {answer}");
        assert!(
            answer.ends_with("use its page, or run the command with its settings\n"),
            "{answer}"
        );
    }
    assert_eq!(*console.done.lock(), []);
    let of_the_ledger = [Action::AcknowledgeAll, Action::Replay { id: 7, text: None }];
    for action in ["do=acknowledge-all", "do=replay&id=7"] {
        let answer = post(addr, own, &form(action, &token)).await;
        assert!(answer.starts_with("HTTP/1.1 303"), "{action}: {answer}");
    }
    assert_eq!(*console.done.lock(), of_the_ledger);
}

#[tokio::test]
async fn a_secret_is_asked_for_and_shows_the_outcome() {
    let (addr, console) = acting(Some("a long secret")).await;
    let form = form("do=resume", &page_token(addr).await);
    let own = "Host: localhost\r\nOrigin: http://localhost\r\n";
    for given in ["", "Authorization: Bearer a short secret\r\n"] {
        let answer = post(addr, &format!("{own}{given}"), &form).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(answer.contains("www-authenticate: Basic"), "{answer}");
    }
    assert_eq!(*console.done.lock(), []);
    let bearer = "Authorization: Bearer a long secret\r\n";
    let answer = post(addr, &format!("{own}{bearer}"), &form).await;
    assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    assert_eq!(*console.done.lock(), [Action::Resume]);
    // Without the secret, a page does not show what a command printed.
    assert!(!get(addr, "/?done=1").await.1.contains("&lt;paused&gt;"));
    assert_eq!(get(addr, "/sign-in").await.0, 401);
}

#[tokio::test]
async fn without_the_setting_no_page_has_a_form_and_no_form_acts() {
    let engine = Arc::new(Engine {
        ready: AtomicBool::new(true),
    });
    let http = Http::bind(
        "127.0.0.1:0".parse().unwrap(),
        Vec::new(),
        Allowed::default(),
    )
    .await
    .unwrap();
    let addr = http.addr().unwrap();
    let console = Arc::new(Ledger::default());
    let served = http.serve(
        telemetry::install(),
        engine,
        console.clone(),
        CancellationToken::new(),
    );
    tokio::spawn(served);
    assert!(!get(addr, "/").await.1.contains("method=\"post\""));
    let own = "Host: localhost\r\nOrigin: http://localhost\r\n";
    let answer = post(addr, own, "do=pause&token=").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(*console.done.lock(), []);
    // Pages that have nothing to show say so.
    assert_eq!(get(addr, "/files").await.0, 200);
    assert_eq!(get(addr, "/file?no=1").await.0, 404);
    assert_eq!(get(addr, "/file?no=x").await.0, 404);
    let (code, page) = get(addr, "/rejects").await;
    assert!(
        code == 503 && page.contains("no answer from the database"),
        "{page}"
    );
    assert_eq!(get(addr, "/reject?id=1").await.0, 404);
}
