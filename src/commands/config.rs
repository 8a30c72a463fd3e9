//! `config`: the settings in effect, a settings file to begin with, and its schema.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;

use super::{Outcome, print};
use crate::config::cli::{ConfigCommand, InitArgs};
use crate::config::{self, Settings};

/// Runs the command.
///
/// # Errors
/// The output fails, or the file cannot be made.
pub(super) fn execute(settings: &Settings, command: &ConfigCommand) -> anyhow::Result<Outcome> {
    match command {
        ConfigCommand::Show => {
            print(&settings.to_string())?;
            Ok(Outcome::Complete)
        }
        ConfigCommand::Init(args) => init(args),
        ConfigCommand::Schema => schema(),
    }
}

/// Writes the file. Needs no settings: those there are may be what is to be mended.
///
/// # Errors
/// The file is there already, or cannot be made.
pub(super) fn init(args: &InitArgs) -> anyhow::Result<Outcome> {
    let path = &args.file;
    match write_new(path, &config::template()) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => anyhow::bail!(
            "{} is there already and stays as it is; name another file",
            path.display()
        ),
        done => done.with_context(|| format!("cannot write {}", path.display()))?,
    }
    eprintln!(
        "{} is written: all of it is comments, so nothing has changed yet",
        path.display()
    );
    Ok(Outcome::Complete)
}

/// Prints the schema. Needs no settings, likewise.
///
/// # Errors
/// The output fails.
pub(super) fn schema() -> anyhow::Result<Outcome> {
    let schema = serde_json::to_string_pretty(&config::schema())?;
    print(&format!("{schema}\n"))?;
    Ok(Outcome::Complete)
}

/// For its owner only: a URL in it may get a password.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}
