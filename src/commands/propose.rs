//! `config dataset`: proposes the definition of a dataset for samples of its files, and checks that
//! it loads them.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use toml::Value;

use super::parsed::{self, each_batch};
use super::{INFALLIBLE, NoInput, Outcome, output, print};
use crate::config::Settings;
use crate::config::cli::DatasetArgs;
use crate::content::{self, ContentError};
use crate::dataset::{Column, ColumnType, Dataset, Datasets, Encoding, Format};
use crate::parse::Parser;
use crate::propose::{NotASample, Proposal, ProposedColumn, Samples, of_dataset};

/// Longest line of a comment, in characters.
const COMMENT_CHARS: usize = 96;

/// Most samples that a proposed command names.
const FILES_SHOWN: usize = 3;

/// Runs the command. Prints the definition to stdout, and what it could not do to stderr.
pub(super) fn execute(settings: &Settings, args: &DatasetArgs) -> anyhow::Result<Outcome> {
    let most = if args.sample == 0 {
        u64::MAX
    } else {
        args.sample
    };
    let mut samples = Samples::new(args.records.clone(), most);
    for path in &args.files {
        read(settings, path, |bytes| samples.look(bytes))?;
    }
    for path in &args.files {
        read(settings, path, |bytes| samples.add(&file_name(path), bytes))?;
    }
    let Some(proposal) = samples.proposal() else {
        bail!("the samples have no record that is an object with a value: give other files");
    };
    let names: Vec<String> = args.files.iter().map(|path| file_name(path)).collect();
    let (name, files) = match (&args.name, of_dataset(&names)) {
        (Some(name), Some((_, files))) => (name.clone(), files),
        (Some(name), None) => (name.clone(), name.clone()),
        (None, Some(found)) => found,
        (None, None) => bail!("the names of the files have nothing in common: add --name NAME"),
    };
    let definition = written(&name, &files, &proposal, &args.files);
    let outcome = check(settings, &definition, &args.files)?;
    print(&definition)?;
    Ok(outcome)
}

/// Passes the inflated bytes of a file to `inspect`.
fn read(
    settings: &Settings,
    path: &Path,
    inspect: impl FnOnce(&[u8]) -> Result<(), NotASample> + Send,
) -> anyhow::Result<()> {
    let shown = || path.display().to_string();
    match content::open_and(path, &parsed::options(settings), inspect) {
        Ok((_, inspected)) => inspected.map_err(anyhow::Error::new),
        Err(ContentError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(NoInput(shown()).into());
        }
        Err(error) => Err(anyhow::Error::new(error)),
    }
    .with_context(shown)
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().map(OsStr::to_string_lossy);
    name.unwrap_or_default().into_owned()
}

/// Parses the samples by the definition, and reports on stderr what does not load by it.
fn check(settings: &Settings, definition: &str, files: &[PathBuf]) -> anyhow::Result<Outcome> {
    /// The part of a settings file that is printed.
    #[derive(serde::Deserialize)]
    struct Printed {
        datasets: Vec<Dataset>,
    }
    let Printed { datasets } = toml::from_str(definition).context("the proposed definition")?;
    let name = datasets[0].name.clone();
    let datasets = Datasets::new(datasets)?;
    let own = datasets.by_name(&name).expect("it was given");
    let mut parser = Parser::default();
    let mut outcome = Outcome::Complete;
    for path in files {
        let of = datasets.of_file(file_name(path).as_bytes(), Some(own))?;
        let shown = path.display().to_string();
        let (mut rejects, mut first) = (0, None);
        let mut visit = |batch: &crate::batch::Batch| {
            rejects += batch.rejects.len();
            first = first.take().or_else(|| batch.rejects.first().cloned());
        };
        if let Err(reason) = each_batch(settings, &mut parser, path, &of, &mut visit)? {
            eprintln!("{}: unreadable: {reason}", shown.escape_debug());
            outcome = Outcome::Rejected;
        } else if let Some(reject) = first {
            let field = output::field_suffix(reject.field.as_ref());
            eprintln!(
                "{}: {rejects} records are rejects, the first one is record {}: {}{field}; with \
                 --sample 0, all records are examined\n    {}",
                shown.escape_debug(),
                reject.ordinal,
                reject.code.as_str(),
                output::excerpt(&reject.raw)
            );
            outcome = Outcome::Rejected;
        }
        note_owner(settings, &name, path);
    }
    Ok(outcome)
}

/// Says on stderr if a file would go to another dataset of the settings, by its name.
fn note_owner(settings: &Settings, name: &str, path: &Path) {
    let file = file_name(path);
    if let Ok(owner) = settings.datasets.for_file_name(file.as_bytes())
        && owner.name != name
    {
        eprintln!(
            "{}: its name also fits the dataset `{}`: of the two, the one with the longer `files` \
             takes it",
            path.display().to_string().escape_debug(),
            owner.name
        );
    }
}

/// The definition as a part of a settings file, with a comment at each doubtful choice.
fn written(name: &str, files: &str, proposal: &Proposal, samples: &[PathBuf]) -> String {
    let mut out = String::new();
    let mut line = |line: &str| writeln!(out, "{line}").expect(INFALLIBLE);
    let from = format!(
        "Proposed from {} in {}. A field that each of them has is required.",
        counted(proposal.examined, "record"),
        counted(samples.len() as u64, "file")
    );
    for comment in std::iter::once(&from).chain(&proposal.notes) {
        for comment in wrapped(comment) {
            line(&comment);
        }
    }
    line("[[datasets]]");
    line(&format!("name = {}", text(name)));
    if files != name {
        line(&format!("files = {}", text(files)));
    }
    // Of an array or of lines, `records` says nothing; an object alone is a record only with "".
    line(&format!("records = {}", text(&proposal.records)));
    match proposal.format {
        Format::Lines => line("format = \"lines\""),
        Format::Sequence => line("format = \"sequence\""),
        Format::Auto | Format::Document => {}
    }
    line("columns = [");
    for proposed in &proposal.columns {
        let mut comments: Vec<String> = proposed.notes.iter().flat_map(|it| wrapped(it)).collect();
        if let Some(records) = &proposed.records {
            comments.extend(of_elements(name, records, proposed, samples));
        }
        for comment in comments {
            line(&format!("    {comment}"));
        }
        line(&format!("    {{ {} }},", inline(&proposed.column)));
    }
    line("]");
    out
}

/// The comments that say how the elements of a column's arrays become a dataset of their own. The
/// command is on a line of its own, so that it can be copied.
fn of_elements(name: &str, records: &str, of: &ProposedColumn, samples: &[PathBuf]) -> Vec<String> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let paths = samples.iter().take(FILES_SHOWN);
    let paths: Vec<String> = paths
        .map(|path| quoted(&path.display().to_string()))
        .collect();
    let parent = records
        .strip_suffix(&of.column.source())
        .unwrap_or_default();
    let command = format!(
        "task_runner config dataset {} --records {} --name {name}_{}",
        paths.join(" "),
        quoted(records),
        of.column.name
    );
    let note = format!(
        "proposes it; add `also = true`, since the files belong to `{name}`, and a column with \
         `envelope = \"{parent}/…\"` for each field of the record around its elements"
    );
    let command = format!("#   {}", output::on_one_line(&command));
    std::iter::once(command).chain(wrapped(&note)).collect()
}

fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// The keys of a column that differ from their defaults.
fn inline(column: &Column) -> String {
    let mut keys = vec![
        ("name", text(&column.name)),
        ("type", text(&column.kind.to_string())),
    ];
    let by_name = format!("/{}", crate::dataset::escaped(&column.name));
    for field in column.fields().iter().filter(|field| **field != by_name) {
        keys.push(("field", text(field)));
    }
    if column.kind == ColumnType::Text && column.max_chars != 255 {
        keys.push(("max_chars", column.max_chars.to_string()));
    }
    if let Some(unit) = column.epoch {
        keys.push(("epoch", text(unit.as_str())));
    }
    if !column.formats.is_empty() {
        let formats: Vec<String> = column.formats.iter().map(|format| text(format)).collect();
        keys.push(("formats", format!("[{}]", formats.join(", "))));
    }
    if column.encoding == Some(Encoding::Hex) {
        keys.push(("encoding", text("hex")));
    }
    if !column.required {
        keys.push(("required", "false".to_owned()));
    }
    let keys: Vec<String> = keys
        .iter()
        .map(|(key, value)| format!("{key} = {value}"))
        .collect();
    keys.join(", ")
}

/// A text as TOML writes it on one line.
fn text(text: &str) -> String {
    let written = Value::String(text.to_owned()).to_string();
    if written.contains('\n') {
        // A text of several lines: JSON's escapes are those of TOML.
        return Value::String(text.escape_debug().to_string()).to_string();
    }
    written
}

/// A comment of lines that are not too long, without control characters.
fn wrapped(comment: &str) -> Vec<String> {
    let mut lines = vec!["#".to_owned()];
    for word in comment.split(' ') {
        let word = output::on_one_line(word);
        let last = lines.last_mut().expect("it has one");
        if last.chars().count() + 1 + word.chars().count() > COMMENT_CHARS && last.len() > 1 {
            lines.push(format!("# {word}"));
        } else {
            last.push(' ');
            last.push_str(&word);
        }
    }
    lines
}
