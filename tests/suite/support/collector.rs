//! The OpenTelemetry Collector, and a receiver behind it that keeps what it got.
//!
//! The collector takes OTLP as protobuf, decodes it, and sends it on as JSON, so that tests read what
//! a program that others wrote has understood. A test of faults uses the receiver without it.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::page;
use super::server::{Kind, Server};

/// How a receiver answers a request.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// With this status line and these headers.
    Status(&'static str),
    /// Not at all: the connection stays open.
    Never,
}

/// A request that a receiver got.
#[derive(Debug, Clone)]
pub struct Got {
    pub at: Instant,
    pub path: String,
    pub headers: String,
    /// `Null` unless the body is JSON.
    pub body: Value,
}

/// An HTTP server that keeps the requests that it got.
pub struct Receiver {
    pub addr: String,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    /// Answers each request by its path and the number of requests before it.
    pub fn start(answer: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let (kept, answer) = (got.clone(), Arc::new(answer));
        // Ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, answer) = (kept.clone(), answer.clone());
                std::thread::spawn(move || serve(&stream, &kept, &*answer));
            }
        });
        Self { addr, got }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The requests of this path so far.
    pub fn got(&self, path: &str) -> Vec<Got> {
        let got = self.got.lock().unwrap();
        got.iter().filter(|got| got.path == path).cloned().collect()
    }
}

fn serve(mut stream: &TcpStream, kept: &Mutex<Vec<Got>>, answer: &dyn Fn(&str, usize) -> Answer) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = String::new();
        while !headers.ends_with("\r\n\r\n") && headers != "\r\n" {
            if reader.read_line(&mut headers).unwrap_or_default() == 0 {
                return;
            }
        }
        let headers = headers.to_ascii_lowercase();
        let length = headers.split_once("content-length: ").unwrap().1;
        let length = length.lines().next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let mut got = kept.lock().unwrap();
        let before = got.len();
        got.push(Got {
            at: Instant::now(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
            path: path.clone(),
            headers,
        });
        drop(got);
        let Answer::Status(status) = answer(&path, before) else {
            std::thread::sleep(Duration::from_secs(60));
            return;
        };
        let kind = "Content-Type: application/json";
        let answer = format!("HTTP/1.1 {status}\r\n{kind}\r\nContent-Length: 2\r\n\r\n{{}}");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
        line.clear();
    }
}

/// A running collector.
pub struct Collector {
    server: Server,
    receiver: Receiver,
}

/// Certificate and key of a collector that takes only TLS.
pub type Identity<'a> = (&'a Path, &'a Path);

struct CollectorKind<'a> {
    receiver: &'a str,
    identity: Option<Identity<'a>>,
}

impl Kind for CollectorKind<'_> {
    fn fill(&self, _: &Path) {}

    fn command(&self, folder: &Path, port: u16) -> Vec<OsString> {
        let path = folder.join("collector.yml");
        let tls = self.identity.map_or(String::new(), |(certificate, key)| {
            let (certificate, key) = (certificate.display(), key.display());
            format!(", tls: {{cert_file: {certificate}, key_file: {key}}}")
        });
        let pipeline = "{receivers: [otlp], exporters: [otlp_http]}";
        let config = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'{tls}}}}}}}}}\n\
             exporters:\n  otlp_http: {{endpoint: 'http://{}', encoding: json, compression: none, \
             sending_queue: {{enabled: false}}}}\n\
             service:\n  telemetry: {{metrics: {{level: none}}}}\n  \
             pipelines: {{metrics: {pipeline}, traces: {pipeline}}}\n",
            self.receiver
        );
        fs::write(&path, config).unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/otelcol/otelcol");
        assert!(program.exists(), "no collector: run scripts/otelcol");
        vec![program.into(), "--config".into(), path.into()]
    }

    async fn answers(&self, server: &Server) -> bool {
        let addr = format!("127.0.0.1:{}", server.port());
        match self.identity {
            // It takes only POST.
            None => page(&addr, "/v1/metrics").is_some_and(|(code, _)| code == 405),
            Some(_) => TcpStream::connect(addr).is_ok(),
        }
    }
}

/// Starts a collector. With an identity, it takes only TLS.
pub async fn start(identity: Option<Identity<'_>>) -> Collector {
    let receiver = Receiver::start(|_, _| Answer::Status("200 OK"));
    let kind = CollectorKind {
        receiver: &receiver.addr,
        identity,
    };
    Collector {
        server: Server::start(&kind).await,
        receiver,
    }
}

impl Collector {
    /// Its address.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    /// The resource of the last metrics that it has sent on, and the metrics.
    pub fn metrics(&self) -> Option<(Value, Vec<Value>)> {
        let got = self.receiver.got("/v1/metrics").pop()?;
        let of_resource = &got.body["resourceMetrics"][0];
        let metrics = of_resource["scopeMetrics"][0]["metrics"].as_array();
        Some((of_resource["resource"].clone(), metrics.unwrap().clone()))
    }

    /// How many exports of metrics it has sent on.
    pub fn exports(&self) -> usize {
        self.receiver.got("/v1/metrics").len()
    }

    /// The spans that it has sent on.
    pub fn spans(&self) -> Vec<Value> {
        let got = self.receiver.got("/v1/traces");
        let spans = got.iter().flat_map(|got| {
            let of_scope = &got.body["resourceSpans"][0]["scopeSpans"][0];
            of_scope["spans"].as_array().unwrap().clone()
        });
        spans.collect()
    }
}
