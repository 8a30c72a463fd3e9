//! The manifests of `deploy/kubernetes`: they fit the schemas of Kubernetes, and what they say of
//! the engine is so. The same of the containers of one of several hosts.

use std::path::{Path, PathBuf};
use std::process::Command;

use lemonade_task::config::cli::Cli;
use serde_json::Value;

use crate::support;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The resources of the manifests in a folder, or what is wrong with them.
fn resources(folder: &Path) -> Result<Vec<Value>, String> {
    let output = Command::new(root().join("target/kubernetes/bin/python"))
        .arg(root().join("tests/kubernetes/check.py"))
        .arg(folder)
        .output()
        .expect("scripts/kubernetes has installed the schemas");
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    let lines = String::from_utf8(output.stdout).unwrap();
    let parse = |line: &str| serde_json::from_str(line).unwrap();
    Ok(lines.lines().map(parse).collect())
}

/// The containers of a resource, if it has any.
fn containers(resource: &Value) -> &[Value] {
    let containers = resource.pointer("/spec/template/spec/containers");
    containers
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

#[test]
fn the_manifests_of_kubernetes_fit_its_schemas_and_the_engine() {
    let resources = resources(&root().join("deploy/kubernetes")).unwrap();
    let settings = std::fs::read_to_string(root().join("docs/settings.md")).unwrap();
    let metrics = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let mut roles = Vec::new();
    let mut variables: Vec<&str> = Vec::new();
    for resource in &resources {
        for container in containers(resource) {
            let args = container["args"].as_array().unwrap();
            let args: Vec<&str> = args.iter().map(|arg| arg.as_str().unwrap()).collect();
            let words = ["task_runner"].iter().chain(&args);
            if let Err(error) = Cli::described().try_get_matches_from(words) {
                panic!("{args:?}: {error}");
            }
            if let ["run", "--role", role] = args[..] {
                roles.push(role);
                assert!(container["readinessProbe"].is_object(), "{role}");
                assert!(container["livenessProbe"].is_object(), "{role}");
            }
            let own = container["env"].as_array().into_iter().flatten();
            variables.extend(own.map(|variable| variable["name"].as_str().unwrap()));
        }
        if resource["kind"] == "ConfigMap" {
            let data = resource["data"].as_object().unwrap();
            variables.extend(data.keys().map(String::as_str));
        }
        if resource["kind"] == "HorizontalPodAutoscaler" {
            let name = resource["spec"]["metrics"][0]["external"]["metric"]["name"].as_str();
            let name = format!("| `{}` |", name.unwrap());
            assert!(metrics.contains(&name), "{name} is no metric of the engine");
        }
    }
    roles.sort_unstable();
    assert_eq!(roles, ["ingest", "summary", "work"]);
    assert!(variables.len() > 4, "{variables:?}");
    for variable in variables {
        assert!(
            settings.contains(&format!("`{variable}`")),
            "{variable} is no setting of the engine"
        );
    }
}

#[test]
fn manifests_that_kubernetes_would_refuse_are_reported() {
    for (file, from, to, reported) in [
        ("work.yaml", "minAvailable", "minAvailabel", "minAvailabel"),
        (
            "work.yaml",
            "minReplicas: 2",
            "minReplicas: two",
            "minReplicas",
        ),
        (
            "kustomization.yaml",
            "  - summary.yaml\n",
            "",
            "does not name it",
        ),
        (
            "kustomization.yaml",
            "  - work.yaml",
            "  - works.yaml",
            "does not exist",
        ),
    ] {
        let folder = support::folder();
        let base = root().join("deploy/kubernetes/base");
        for entry in std::fs::read_dir(&base).unwrap() {
            let entry = entry.unwrap();
            let mut text = std::fs::read_to_string(entry.path()).unwrap();
            if entry.file_name() == file {
                assert!(text.contains(from), "{file}: {from}");
                text = text.replace(from, to);
            }
            std::fs::write(folder.path().join(entry.file_name()), text).unwrap();
        }
        let problems = resources(folder.path()).expect_err(to);
        assert!(problems.contains(reported), "{reported}: {problems}");
    }
}

#[test]
fn the_containers_of_one_of_several_hosts_fit_the_engine() {
    let to_json = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let output = Command::new(root().join("target/kubernetes/bin/python"))
        .args(["-c", to_json])
        .arg(root().join("deploy/compose.host.yaml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let compose: Value = serde_json::from_slice(&output.stdout).unwrap();
    let settings = std::fs::read_to_string(root().join("docs/settings.md")).unwrap();
    let services = compose["services"].as_object().unwrap();
    assert_eq!(services.len(), 3);
    let mut published = Vec::new();
    for (role, service) in services {
        let words = service["command"].as_array().unwrap().iter();
        let words: Vec<&str> = words.map(|word| word.as_str().unwrap()).collect();
        assert_eq!(words, ["run", "--role", role]);
        let words = ["task_runner"].iter().chain(&words);
        if let Err(error) = Cli::described().try_get_matches_from(words) {
            panic!("{role}: {error}");
        }
        assert_eq!(service["profiles"], serde_json::json!([role]));
        assert_eq!(service["restart"], "unless-stopped");
        assert!(service["healthcheck"].is_object(), "{role}");
        let environment = service["environment"].as_object().unwrap();
        let node = environment["LEMONADE_NODE"].as_str().unwrap();
        assert!(node.ends_with(&format!("-{role}")), "{node}");
        for (variable, value) in environment {
            let is_known = settings.contains(&format!("`{variable}`"));
            assert!(is_known, "{variable} is no setting of the engine");
            if let Some(secret) = value.as_str().unwrap().strip_prefix("/run/secrets/") {
                assert!(compose["secrets"][secret].is_object(), "{secret}");
            }
        }
        // Only processes that take files share their directories.
        let shares = environment.contains_key("LEMONADE_DATA_DIR");
        assert_eq!(shares, role == "ingest");
        published.push(service["ports"][0].as_str().unwrap());
    }
    published.sort_unstable();
    published.dedup();
    assert_eq!(published.len(), 3, "each has a port of its own");
    assert!(published.iter().all(|port| port.starts_with("127.0.0.1:")));
}
