//! The engine over TLS, with a certificate authority of the test: which servers it trusts and
//! refuses, and that it prints no password.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mysql_async::prelude::Queryable;

use super::STATUS;
use crate::broker::raw;
use crate::support;
use crate::support::{Pair, collector, names};

const SECRET: &str = "s3cret/of:all@them";
const SECRET_IN_URL: &str = "s3cret%2Fof%3Aall%40them";

/// A certificate authority, and its certificate for 127.0.0.1.
struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let folder = support::folder();
        fs::write(folder.path().join("san"), "subjectAltName = IP:127.0.0.1\n").unwrap();
        for arguments in [
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
             -keyout ca.key -out ca.pem",
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server -keyout \
             server.key -out server.csr",
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san \
             -out server.pem",
        ] {
            let output = Command::new("openssl")
                .args(arguments.split_whitespace())
                .current_dir(folder.path())
                .output()
                .expect("openssl is installed: scripts/test brings it");
            assert!(output.status.success(), "{output:?}");
        }
        Self { folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ca(&self) -> String {
        self.at("ca.pem").display().to_string()
    }
}

/// Loads a file, with the URLs in files, as a service receives its secrets.
fn load(pair: &Pair, redis_url: &str, database_url: &str) -> Output {
    fs::write(pair.at("inbound").join("vehicle_status.json"), STATUS).unwrap();
    with_secrets(pair, &["load"], redis_url, database_url)
}

fn with_secrets(pair: &Pair, args: &[&str], redis_url: &str, database_url: &str) -> Output {
    let file = |name: &str, url: &str| {
        let path = pair.at(name);
        fs::write(&path, format!("{url}\n")).unwrap();
        path
    };
    pair.command(args)
        .env_remove("DATABASE_URL")
        .env_remove("REDIS_URL")
        .env("DATABASE_URL_FILE", file("database.url", database_url))
        .env("REDIS_URL_FILE", file("redis.url", redis_url))
        .env("LEMONADE_LOG", "debug")
        .output()
        .unwrap()
}

/// The output, after checking that it contains no secret.
fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(!text.contains("s3cret"), "{text}");
    text
}

fn loaded(pair: &Pair, output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", said(output));
    said(output);
    let history = pair.at("history");
    assert_eq!(names(&history), ["vehicle_status.json"]);
    fs::remove_file(history.join("vehicle_status.json")).unwrap();
}

/// The process exits at once, because waiting does not help, and prints the next step.
fn distrusted(output: &Output, advice: &str) {
    let text = said(output);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains(advice), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_over_tls_is_trusted_by_its_authority_alone() {
    let (ours, other) = (Authority::new(), Authority::new());
    let redis = support::private_redis().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let set = |name: &str, path: &Path| format!("{name} {}", path.display());
    raw(
        redis.port,
        &[
            &format!(
                "CONFIG SET {} {} {} tls-auth-clients no tls-port {port}",
                set("tls-ca-cert-file", &ours.at("ca.pem")),
                set("tls-cert-file", &ours.at("server.pem")),
                set("tls-key-file", &ours.at("server.key")),
            ),
            &format!(
                "ACL SETUSER loader on >{SECRET} ~lemonade:* +@stream +@connection +info +memory|usage +del"
            ),
            &format!("CONFIG SET requirepass {SECRET}"),
        ],
    );
    let pair = Pair::new("redis+sqlite").await;
    let database = pair.database_url.clone();
    let url = |user: &str, query: &str| {
        format!("rediss://{user}:{SECRET_IN_URL}@127.0.0.1:{port}/0{query}")
    };
    let trusted = format!("?ca={}", ours.ca());
    for user in ["", "loader"] {
        // The same content again is a duplicate, and also goes to history.
        loaded(&pair, &load(&pair, &url(user, &trusted), &database));
    }
    for untrusted in [String::new(), format!("?ca={}", other.ca())] {
        let refused = load(&pair, &url("", &untrusted), &database);
        distrusted(&refused, "certificate is not trusted");
    }
    let refused = load(&pair, &url("", "?ca=/not/there.pem"), &database);
    distrusted(&refused, "ca=/not/there.pem");
    let refused = load(
        &pair,
        &url("", &trusted).replace("rediss:", "redis:"),
        &database,
    );
    distrusted(&refused, "`ca` needs TLS");
    let wrong = url("", &trusted).replace("all", "none");
    distrusted(&load(&pair, &wrong, &database), "the password");
    let shown = with_secrets(&pair, &["config", "show"], &url("", &trusted), &database);
    assert!(said(&shown).contains("rediss://:***@127.0.0.1"));
}

/// Over a server with a certificate of this authority, and an account that requires TLS.
async fn database_over_tls(admin_url: &str, ours: &Authority) {
    let mut admin = mysql_async::Conn::from_url(admin_url).await.unwrap();
    for sql in [
        format!("CREATE USER 'secure'@'%' IDENTIFIED BY '{SECRET}' REQUIRE SSL"),
        "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER ON *.* TO 'secure'@'%'".to_owned(),
        // For connections through the socket of the server.
        format!("CREATE USER 'near'@'localhost' IDENTIFIED BY '{SECRET}'"),
        "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER ON *.* TO 'near'@'localhost'"
            .to_owned(),
    ] {
        admin.query_drop(sql).await.unwrap();
    }
    let socket: Option<String> = admin.query_first("SELECT @@socket").await.unwrap();
    admin.disconnect().await.unwrap();
    let other = Authority::new();
    let pair = Pair::new("memory+mysql").await;
    let login = format!("secure:{SECRET_IN_URL}@");
    let url = |query: &str| admin_url.replace("root@", &login) + query;
    let memory = "memory:";
    let trusted = format!("?ca={}", ours.ca());
    for query in [&trusted, &format!("{trusted}&require_ssl=true")] {
        loaded(&pair, &load(&pair, memory, &url(query)));
    }
    let other = format!("?ca={}", other.ca());
    for untrusted in ["?require_ssl=true", &other] {
        let refused = load(&pair, memory, &url(untrusted));
        distrusted(&refused, "certificate is not trusted");
    }
    let another_name = url(&trusted).replace("127.0.0.1", "localhost");
    distrusted(
        &load(&pair, memory, &another_name),
        "certificate is not trusted",
    );
    let refused = load(&pair, memory, &url("?ca=/not/there.pem"));
    distrusted(&refused, "ca=/not/there.pem");
    // The account cannot log in without TLS or with another password.
    distrusted(&load(&pair, memory, &url("")), "the password");
    let wrong = url(&trusted).replace("all", "none");
    distrusted(&load(&pair, memory, &wrong), "the password");
    let shown = with_secrets(&pair, &["config", "show"], memory, &url(&trusted));
    assert!(said(&shown).contains("mysql://secure:***@127.0.0.1"));

    let near = url(&format!("?socket={}", socket.unwrap())).replace("secure:", "near:");
    loaded(&pair, &load(&pair, memory, &near));
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_over_tls_is_trusted_by_its_authority_alone() {
    let ours = Authority::new();
    let option = |name: &str, file: &str| format!("--{name}={}", ours.at(file).display());
    let server = support::private_mariadb_with(&[
        option("ssl-ca", "ca.pem"),
        option("ssl-cert", "server.pem"),
        option("ssl-key", "server.key"),
    ])
    .await;
    database_over_tls(&server.url, &ours).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_over_tls_is_trusted_by_its_authority_alone() {
    let ours = Authority::new();
    let server = support::private_mysql9().await;
    let mut admin = mysql_async::Conn::from_url(&server.url).await.unwrap();
    for (name, file) in [
        ("ssl_ca", "ca.pem"),
        ("ssl_cert", "server.pem"),
        ("ssl_key", "server.key"),
    ] {
        let path = ours.at(file);
        let sql = format!("SET GLOBAL {name} = '{}'", path.display());
        admin.query_drop(sql).await.unwrap();
    }
    admin.query_drop("ALTER INSTANCE RELOAD TLS").await.unwrap();
    admin.disconnect().await.unwrap();
    database_over_tls(&server.url, &ours).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_tls_is_reported_if_the_url_requires_tls() {
    let pair = Pair::new("memory+mysql").await;
    let url = format!("{}?require_ssl=true", pair.database_url);
    distrusted(&load(&pair, "memory:", &url), "offers no TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_over_tls_is_trusted_by_its_authority_alone() {
    let (ours, other) = (Authority::new(), Authority::new());
    let identity = (ours.at("server.pem"), ours.at("server.key"));
    let collector = collector::start(Some((&identity.0, &identity.1))).await;
    let load = async |url: String| {
        let pair = Pair::new("memory+sqlite").await;
        fs::write(pair.at("inbound").join("vehicle_status.json"), STATUS).unwrap();
        let load = pair
            .command(&["load"])
            .env("LEMONADE_OTLP_URL", url)
            .output();
        let output = load.unwrap();
        loaded(&pair, &output);
        said(&output)
    };
    let addr = collector.addr();
    for url in [
        format!("https://{addr}"),
        format!("https://{addr}?ca={}", other.ca()),
    ] {
        let said = load(url).await;
        assert!(said.contains("does not take what is sent"), "{said}");
        assert!(said.contains("certificate"), "{said}");
    }
    assert_eq!(collector.exports(), 0);
    load(format!("https://{addr}?ca={}", ours.ca())).await;
    assert_eq!(collector.exports(), 1);
}
