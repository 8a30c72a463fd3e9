//! The settings file: TOML. An unknown key is an error that names the most similar setting.

use std::path::Path;

use super::error::ConfigError;
use super::options::Options;

/// The settings file in the current directory, read if no other is named.
pub(super) const FILE_DEFAULT: &str = "lemonade.toml";

/// Smallest similarity (0 to 1) at which a known name is suggested for an unknown one. Lower
/// suggests nonsense; higher misses two swapped letters in a short name.
const SIMILARITY_MIN: f64 = 0.7;

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

/// Reads the text of a settings file. Errors name it as `source`.
pub(super) fn parse(source: &str, text: &str) -> Result<Options, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::new(describe(source, text, &error)))
}

fn describe(source: &str, text: &str, error: &toml::de::Error) -> String {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map_or_else(String::new, |before| {
            format!(":{}", before.matches('\n').count() + 1)
        });
    let message = without_urls(&error.message().replace('\n', " "));
    match meant(&message) {
        Some((unknown, close)) => {
            format!("{source}{line}: unknown setting `{unknown}`; did you mean `{close}`?")
        }
        None => format!("{source}{line}: {message}"),
    }
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
    if !message.starts_with("unknown field") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    Some((unknown, nearest(unknown, quoted)?))
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

    #[test]
    fn a_bad_value_names_its_line() {
        let error = read_text("\nquiet_time = 'soon'\n").unwrap_err();
        assert!(
            error.contains("lemonade.toml:2") && error.contains("30s"),
            "{error}"
        );
        assert!(read_text("workers = 0\n").is_err());
    }
}
