//! Hosts of a test: each is a network namespace with one link into a switch, which is a namespace
//! as well. Nothing of the machine's own network is used or changed.
//!
//! The names begin with the process id of the test. So two runs do not meet, and what a killed run
//! has left is removed by the next one: its namespaces, the processes in them, and its folder.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{program, until};

/// The names of all runs begin so.
const PREFIX: &str = "lemonade-hosts-";

/// Hosts that reach each other and nothing else, and a folder for what is on their disks.
pub struct Network {
    /// The beginning of the names of its namespaces, and the name of its folder.
    name: String,
    hosts: u8,
}

/// A host. Its link can be taken down and up.
#[derive(Clone)]
pub struct Host {
    namespace: String,
    pub address: String,
    switch: String,
    /// The end of its link in the switch.
    port: String,
}

impl Network {
    /// # Panics
    /// If no namespace can be made, which needs root.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let network = Self { name, hosts: 0 };
        fs::create_dir(network.folder()).unwrap();
        let switch = network.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "switch", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "switch", "up"]);
        network
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    /// A folder that is removed with the network.
    pub fn folder(&self) -> PathBuf {
        folder(&self.name)
    }

    /// Renames the folder, so that it stays. Returns where it is.
    pub fn keep_folder(&self) -> PathBuf {
        let kept = std::env::temp_dir().join(format!("lemonade-kept-{}", std::process::id()));
        fs::rename(self.folder(), &kept).map_or_else(|_| self.folder(), |()| kept)
    }

    /// Adds a host.
    pub fn host(&mut self, name: &str) -> Host {
        self.hosts += 1;
        let host = Host {
            namespace: format!("{}-{name}", self.name),
            address: format!("10.77.0.{}", self.hosts),
            switch: self.switch(),
            port: format!("port{}", self.hosts),
        };
        let (inside, switch) = (&*host.namespace, &*host.switch);
        ip(&["netns", "add", inside]);
        let link = [
            "link", "add", &host.port, "type", "veth", "peer", "name", "eth0",
        ];
        ip(&[&["-n", switch], &link[..], &["netns", inside]].concat());
        ip(&[
            "-n", switch, "link", "set", &host.port, "master", "switch", "up",
        ]);
        let address = format!("{}/24", host.address);
        ip(&["-n", inside, "addr", "add", &address, "dev", "eth0"]);
        for device in ["lo", "eth0"] {
            ip(&["-n", inside, "link", "set", device, "up"]);
        }
        host
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

impl Host {
    /// A command on this host. It is killed when the thread that starts it ends.
    pub fn command(&self, program_name: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program("ip"));
        command
            .args(["netns", "exec", &self.namespace])
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg(program_name);
        command
    }

    /// Takes its link down. Connections stay open, and no byte passes.
    pub fn cut_off(&self) {
        ip(&["-n", &self.switch, "link", "set", &self.port, "down"]);
    }

    /// Takes its link up.
    pub fn connect(&self) {
        ip(&["-n", &self.switch, "link", "set", &self.port, "up"]);
    }
}

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// Removes what runs have left whose process no longer exists.
fn remove_leftovers() {
    let folders = fs::read_dir(std::env::temp_dir()).into_iter().flatten();
    let folders = folders.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in namespaces().into_iter().chain(folders) {
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            remove(&name);
        }
    }
}

/// Removes the namespaces whose names begin so, with the processes in them, and the folder of this
/// name. Another run may do the same at this moment, so nothing of it has to succeed.
fn remove(name: &str) {
    let try_ip = |args: &[&str]| {
        let output = Command::new(program("ip")).args(args).output();
        output.map_or_else(|_| String::new(), |it| text(&it.stdout))
    };
    for namespace in namespaces() {
        if namespace != name && !namespace.starts_with(&format!("{name}-")) {
            continue;
        }
        for pid in try_ip(&["netns", "pids", &namespace]).lines() {
            if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        try_ip(&["netns", "delete", &namespace]);
    }
    let _ = fs::remove_dir_all(folder(name));
}

/// The names of all namespaces of this machine.
fn namespaces() -> Vec<String> {
    let listed = ip(&["netns", "list"]);
    let name = |line: &str| Some(line.split(' ').next()?.to_owned());
    listed.lines().filter_map(name).collect()
}

/// Runs `ip`, and returns what it prints.
///
/// # Panics
/// If it fails.
fn ip(args: &[&str]) -> String {
    let output = Command::new(program("ip")).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "ip {}: {}hosts of a test are network namespaces, which take root: run it as root",
        args.join(" "),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Shows that a fault of a link is one, and that a host is reached again afterwards.
#[tokio::test]
async fn a_host_that_is_cut_off_is_not_reached_until_its_link_is_up_again() {
    let mut network = Network::new();
    let (server, client) = (network.host("server"), network.host("client"));
    let mut redis = server.command("redis-server");
    redis.args(["--protected-mode", "no", "--save", ""]);
    redis.current_dir(network.folder()).stdout(Stdio::null());
    let mut redis = redis.spawn().unwrap();
    let answers = || {
        let mut ask = client.command("timeout");
        ask.args(["1", "redis-cli", "-h", &server.address, "ping"]);
        text(&ask.output().unwrap().stdout).contains("PONG")
    };
    let limit = Duration::from_secs(30);
    let answer = async |what, expected| {
        until(what, limit, async || answers() == expected).await;
    };
    answer("the server answers", true).await;
    server.cut_off();
    assert!(!answers(), "the server is cut off");
    server.connect();
    answer("the server answers again", true).await;
    let (name, folder) = (server.namespace.clone(), network.folder());
    drop(network);
    assert!(!namespaces().contains(&name) && !folder.exists());
    // The server was killed with its namespace.
    assert!(!redis.wait().unwrap().success());
}

#[test]
fn what_a_killed_run_has_left_is_removed() {
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let name = format!("{PREFIX}{}-0", gone.id());
    let namespace = format!("{name}-host");
    ip(&["netns", "add", &namespace]);
    fs::create_dir(folder(&name)).unwrap();
    drop(Network::new());
    assert!(!namespaces().contains(&namespace) && !folder(&name).exists());
}
