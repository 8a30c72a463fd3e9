//! The settings file: TOML. An unknown key is an error that names the most similar setting.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::error::ConfigError;
use super::options::Options;
use crate::dataset::{Datasets, InvalidDataset};

/// The settings file in the current directory, read if no other is named.
pub(super) const FILE_DEFAULT: &str = "lemonade.toml";

/// Smallest similarity (0 to 1) at which a known name is suggested for an unknown one. Lower
/// suggests nonsense; higher misses two swapped letters in a short name.
const SIMILARITY_MIN: f64 = 0.7;

/// Most characters of a line of the file in an error.
const WRITTEN_CHARS_MAX: usize = 80;

/// Reads a settings file.
///
/// # Errors
/// The file does not exist, is not TOML, or has an unknown key or a wrong value. The message names
/// the file, the line, and the key that was probably meant.
pub(super) fn read(path: &Path) -> Result<Options, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::new(format!("settings file {}: {error}", path.display())))?;
    parse(&format!("settings file {}", path.display()), &text)
}

/// Reads the text of a settings file, and checks its datasets. Errors name it as `source`.
pub(super) fn parse(source: &str, text: &str) -> Result<Options, ConfigError> {
    let options: Options =
        toml::from_str(text).map_err(|error| ConfigError::new(describe(source, text, &error)))?;
    Datasets::new(options.datasets.clone()).map_err(|error| {
        let line = place_of(text, &error).map_or_else(String::new, |at| line(text, at));
        ConfigError::new(format!("{source}{line}: {error}"))
    })?;
    Ok(options)
}

/// The place of the name of the dataset or column that has a problem. Of several with the name, the
/// last one. `None` if it is a built-in dataset.
fn place_of(text: &str, error: &InvalidDataset) -> Option<usize> {
    #[derive(Deserialize)]
    struct Places {
        datasets: Vec<Place>,
    }
    #[derive(Deserialize)]
    struct Place {
        name: Spanned<String>,
        #[serde(default)]
        columns: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        name: Spanned<String>,
    }
    let places: Places = toml::from_str(text).ok()?;
    let datasets = places.datasets.iter().rev();
    let mut datasets = datasets.filter(|it| *it.name.get_ref() == error.dataset);
    let dataset = datasets.next()?;
    let is_it = |column: &&Named| Some(column.name.get_ref()) == error.column.as_ref();
    let column = dataset.columns.iter().rev().find(is_it);
    let name = column.map_or(&dataset.name, |column| &column.name);
    Some(name.span().start)
}

/// `:` and the number of the line of a place.
fn line(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    format!(":{}", before.matches('\n').count() + 1)
}

fn describe(source: &str, text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map(|span| span.start);
    let line = at.map_or_else(String::new, |at| line(text, at));
    let message = without_urls(&error.message().replace('\n', " "));
    if let Some((unknown, close)) = meant(&message) {
        return format!("{source}{line}: unknown setting `{unknown}`; did you mean `{close}`?");
    }
    if let Some(name) = unknown(&message).filter(|name| Options::has(name)) {
        return format!(
            "{source}{line}: `{name}` is no setting of a dataset; write it above the first \
             [[datasets]]"
        );
    }
    let written = at.and_then(|at| written_at(text, at)).unwrap_or_default();
    if written == "[datasets]" {
        return format!("{source}{line}: write `[[datasets]]`, since there may be several");
    }
    let place = match written.split_once('=') {
        _ if message.starts_with("unknown field") => String::new(),
        _ if message.starts_with("missing field") => format!(" in `{written}`"),
        Some((key, _)) if !message.contains(key.trim()) => format!(" (`{}`)", key.trim()),
        _ => String::new(),
    };
    // The words of serde for what every reader of a settings file calls otherwise.
    let message = [
        (
            "expected a sequence",
            "expected a list, such as [\"a\", \"b\"]",
        ),
        (
            "expected a nonzero usize",
            "expected a whole number above 0",
        ),
        ("expected a nonzero u32", "expected a whole number above 0"),
    ]
    .into_iter()
    .fold(message, |message, (jargon, plain)| {
        message.replace(jargon, plain)
    });
    format!("{source}{line}: {message}{place}")
}

/// What a line of the file has at a place, up to its end. `None` if it contains a URL, which may
/// contain a password, or is long.
fn written_at(text: &str, at: usize) -> Option<&str> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
    let line = text.get(start..)?.lines().next()?.trim();
    (line.chars().count() <= WRITTEN_CHARS_MAX && !line.contains("://")).then_some(line)
}

/// The message with its quoted parts hidden if it contains a URL, which may contain a password.
fn without_urls(message: &str) -> String {
    let quote = |c| matches!(c, '"' | '`' | '\'');
    match (message.find(quote), message.rfind(quote)) {
        (Some(first), Some(last)) if message.contains("://") => {
            format!("{}***{}", &message[..first], &message[last + 1..])
        }
        _ => message.to_owned(),
    }
}

/// The unknown name in serde's message, and the most similar of the known names that it lists. If
/// serde changes its wording, only this suggestion is lost.
fn meant(message: &str) -> Option<(&str, &str)> {
    let unknown = unknown(message)?;
    let known = message.split('`').skip(3).step_by(2);
    Some((unknown, nearest(unknown, known)?))
}

/// The unknown name in serde's message.
fn unknown(message: &str) -> Option<&str> {
    let named = message.strip_prefix("unknown field `")?;
    Some(named.split_once('`')?.0)
}

/// The known name that is most similar to `unknown`; `None` if none is similar enough.
pub(super) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let unknown = unknown.replace('-', "_");
    known
        .map(|name| (strsim::normalized_damerau_levenshtein(&unknown, name), name))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::super::url::malformed::{MALFORMED, shows_a_secret};
    use super::*;
    use crate::config::HardLinks;

    fn read_text(text: &str) -> Result<Options, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lemonade.toml");
        std::fs::write(&path, text).unwrap();
        read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn all_kinds_of_values_are_read() {
        let options = read_text(
            "workers = 4\nqueue_bytes = '32MiB'\nmemory_budget = 1000\nsummary_every = 'off'\n\
             http_addr = '0.0.0.0:80'\nrole = 'ingest,work'\nlog_format = 'json'\n\
             hard_links = 'wait'\ndatabase_url = 'sqlite:x'\n[[datasets]]\nname = 'trips'\n\
             columns = [{name = 'a', type = 'text'}]\n",
        )
        .unwrap();
        assert_eq!(options.workers.unwrap().get(), 4);
        assert_eq!(options.queue_bytes.unwrap().as_u64(), 32 << 20);
        assert_eq!(options.summary_every.unwrap().on(), None);
        assert_eq!(options.hard_links, Some(HardLinks::Wait));
        assert_eq!(options.datasets[0].name, "trips");
    }

    #[test]
    fn a_misspelt_key_is_reported_with_file_line_and_the_similar_key() {
        let error = read_text("workers = 4\nquue-bytes = '1MiB'\n").unwrap_err();
        assert!(error.contains("lemonade.toml:2"), "{error}");
        assert!(
            error.contains("`quue-bytes`; did you mean `queue_bytes`?"),
            "{error}"
        );
        let nested = read_text("[[datasets]]\nname = 'a'\ncolums = []\n").unwrap_err();
        assert!(nested.contains("did you mean `columns`?"), "{nested}");
    }

    #[test]
    fn a_wrong_value_names_its_setting_and_what_is_expected() {
        for (text, expected) in [
            ("workers = '4'\n", "a whole number above 0 (`workers`)"),
            ("quiet_time = 'x'\n", "(`quiet_time`)"),
            ("[datasets]\nname = 'a'\n", "write `[[datasets]]`"),
            (
                "[[datasets]]\nname = 'a'\nindexes = ['at']\n",
                "expected a list, such as",
            ),
            (
                "[[datasets]]\nname = 'a'\nkey = 'x'\n",
                "such as [\"a\", \"b\"] (`key`)",
            ),
            (
                "[[datasets]]\nname = 'a'\ncolumns = [{ name = 'x' }]\n",
                "missing field `type` in `columns = [{ name = 'x' }]`",
            ),
            (
                "[[datasets]]\nname = 'a'\nhttp_addr = 'off'\n",
                "write it above the first [[datasets]]",
            ),
            (
                "[[datasets]]\nname = 'a'\ncolumns = [{ name = 'mysql://u:p@h' }]\n",
                ":3: missing field `type`",
            ),
        ] {
            let error = read_text(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("u:p"), "{error}");
        }
    }

    #[test]
    fn a_key_without_a_similar_one_lists_all_keys() {
        let error = read_text("colour = 'green'\n").unwrap_err();
        assert!(
            error.contains("unknown field `colour`, expected one of"),
            "{error}"
        );
    }

    #[test]
    fn a_url_in_the_place_of_another_setting_is_not_shown() {
        for url in MALFORMED
            .iter()
            .filter(|url| url.contains("://") && !url.contains('\u{1b}'))
        {
            for text in [
                format!("workers = \"{url}\"\n"),
                format!("hard_links = \"{url}\"\n"),
                format!("role = \"{url}\"\n"),
                format!("database_url = {url}\n"),
                format!("{url}\n"),
                format!("[[datasets]]\nname = 'a'\ncolumns = ['{url}']\n"),
                format!("\"{url}\" = 1\n"),
            ] {
                let error = read_text(&text).unwrap_err();
                // The name of a temporary directory may hold any letters.
                let (_, said) = error.split_once("lemonade.toml").unwrap();
                assert!(!shows_a_secret(said), "{text}: {said}");
            }
        }
    }

    /// What is wrong with a definition, each with its line: unknown members, wrong types, and what
    /// cannot work together.
    #[test]
    fn what_is_wrong_with_a_definition_names_its_line() {
        let head = "workers = 1\n\n[[datasets]]\nname = 'trips'\n";
        let column = "\n[[datasets.columns]]\nname = 'no'\ntype = 'text'\n";
        for (text, line, problem) in [
            (format!("{head}colums = []\n"), 5, "did you mean `columns`"),
            (
                format!("{head}{column}tpye = 'text'\n"),
                9,
                "did you mean `type`",
            ),
            (format!("{head}also = 'yes'\n{column}"), 5, "boolean"),
            (format!("{head}format = 'csv'\n{column}"), 5, "csv"),
            (format!("{head}{column}max_chars = 'many'\n"), 9, "u32"),
            (format!("{head}{column}field = 3\n"), 9, "JSON pointer"),
            (
                format!("{head}{}", column.replace("'text'", "'txt'")),
                8,
                "txt",
            ),
            (format!("{head}columns = [\n {{name = 'no'}}]\n"), 6, "type"),
            (
                format!("{head}indexes = 'no'\n{column}"),
                5,
                "expected a list",
            ),
            (
                format!("{head}retain = '24h'\n{column}"),
                5,
                "such as \"400 days\"",
            ),
            (
                format!("{head}partition_every = 'week'\n{column}"),
                5,
                "week",
            ),
            (
                format!("{head}partition_by = 'no'\n{column}"),
                8,
                "of the type timestamp or date",
            ),
            (head.to_owned(), 4, "has no columns"),
            (
                format!("{head}records = 'x'\n{column}"),
                4,
                "must begin with `/`",
            ),
            (format!("{head}{column}path = 'day=*'\n"), 7, "`{}` once"),
            (
                format!("{head}{column}{column}"),
                11,
                "another column has the same",
            ),
            (
                format!("{head}{column}[[datasets]]\nname = 'trips'\n{column}"),
                10,
                "two datasets",
            ),
        ] {
            let error = read_text(&text).unwrap_err();
            let place = format!("lemonade.toml:{line}: ");
            assert!(
                error.contains(&place) && error.contains(problem),
                "{text}\n{error}"
            );
        }
    }

    #[test]
    fn a_bad_value_names_its_line() {
        let error = read_text("\nquiet_time = 'soon'\n").unwrap_err();
        assert!(
            error.contains("lemonade.toml:2") && error.contains("30s"),
            "{error}"
        );
        assert!(read_text("workers = 0\n").is_err());
    }

    #[test]
    fn a_number_that_may_be_off_is_written_with_or_without_quotes() {
        for (text, expected) in [
            ("max_records_per_second = 20000", Ok(Some(20_000))),
            ("max_records_per_second = '20000'", Ok(Some(20_000))),
            ("max_records_per_second = 'off'", Ok(None)),
            ("max_records_per_second = 0", Err("zero")),
            ("max_records_per_second = -1", Err("a text or a number")),
            ("max_records_per_second = 'many'", Err("or write off")),
        ] {
            let options = read_text(&format!("{text}\n"));
            let read = options.map(|options| options.max_records_per_second.unwrap().on());
            match (read, expected) {
                (Ok(read), Ok(expected)) => {
                    assert_eq!(read.map(NonZeroU32::get), expected, "{text}");
                }
                (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
                (read, _) => panic!("{text}: {read:?}"),
            }
        }
    }
}
