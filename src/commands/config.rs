//! `config`: prints the settings in effect, writes an initial settings file, prints its schema. The
//! command `config dataset` is in `propose`.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::output::JSON_VERSION;
use super::{Outcome, print};
use crate::config::cli::{ConfigCommand, InitArgs};
use crate::config::{self, Settings};
use crate::dataset::Dataset;

/// Runs the command.
///
/// # Errors
/// Stdout fails, or the file exists or cannot be written.
pub(super) fn execute(settings: &Settings, command: &ConfigCommand) -> anyhow::Result<Outcome> {
    match command {
        ConfigCommand::Show { json } => {
            if *json {
                print(&format!("{}\n", as_json(settings)?))?;
            } else {
                print(&settings.to_string())?;
            }
            Ok(Outcome::Complete)
        }
        ConfigCommand::Dataset(args) => super::propose::execute(settings, args),
        ConfigCommand::Init(args) => init(args),
        ConfigCommand::Schema => schema(),
    }
}

/// The settings in effect: the keys and values of a settings file, and the datasets.
fn as_json(settings: &Settings) -> anyhow::Result<Value> {
    let file: toml::Table = toml::from_str(&settings.to_string())?;
    let dataset = |dataset: &Arc<Dataset>| {
        json!({
            "name": dataset.name, "files": dataset.files_as_glob(), "also": dataset.also,
            "table": dataset.table
        })
    };
    let datasets: Vec<Value> = settings.datasets.iter().map(dataset).collect();
    Ok(json!({"version": JSON_VERSION, "settings": file, "datasets": datasets}))
}

/// Writes an initial settings file. Needs no valid settings: the user may be about to correct them.
///
/// # Errors
/// The file exists, or cannot be written.
pub(super) fn init(args: &InitArgs) -> anyhow::Result<Outcome> {
    let path = &args.file;
    match write_new(path, &config::template()) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => anyhow::bail!(
            "{} exists and was not changed; name another file",
            path.display()
        ),
        done => done.with_context(|| format!("cannot write {}", path.display()))?,
    }
    eprintln!(
        "wrote {}: each line of it is a comment, so no setting has changed yet",
        path.display()
    );
    Ok(Outcome::Complete)
}

/// Prints the JSON Schema of a settings file. Needs no valid settings.
///
/// # Errors
/// Stdout fails.
pub(super) fn schema() -> anyhow::Result<Outcome> {
    let schema = serde_json::to_string_pretty(&config::schema())?;
    print(&format!("{schema}\n"))?;
    Ok(Outcome::Complete)
}

/// Creates a file that only its owner can read, because a URL in it may hold a password.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}
