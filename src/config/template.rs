//! A settings file to begin with: each setting with what it means and its default, all of it comments.
//!
//! Made of the help and of the defaults themselves, so that it cannot say anything else. A `#` before
//! a setting stands at its first letter; before words there is a space.

use std::fmt::Write as _;

use clap::{Args, Command};

use super::Settings;
use super::options::Options;

const HEAD: &str = "\
# Settings of task_runner. Each stands here as a comment, with its default: take the # away to change
# it. Flags win over the environment, and that over this file. `task_runner config show` prints what
# is in effect.
";

/// The two that have no flag.
const URLS: [(&str, &str); 2] = [
    (
        "database_url",
        "The database: mysql://user:password@host:3306/vehicles, or sqlite:PATH",
    ),
    ("redis_url", "The queue: redis://host:6379, or memory:"),
];

const DATASETS: &str = r#"
# A dataset of your own, beside vehicle_events and vehicle_status; a file is of it if the file's name
# contains `files`. All keys are in docs/datasets.md.
#[[datasets]]
#name = "trips"
#files = "trips"
#columns = [{ name = "trip", type = "text" }, { name = "ended", type = "timestamp" }]
"#;

/// The text of the file.
#[must_use]
pub fn template() -> String {
    let defaults = Settings::finish(Options::default(), Vec::new());
    let defaults = defaults.expect("the defaults can be used").to_string();
    let flags = Options::augment_args(Command::new("settings"));
    let meaning = |key: &str| {
        let flag = flags.get_arguments().find(|flag| flag.get_id() == key);
        let url = URLS.iter().find(|(name, _)| *name == key);
        let help = flag.and_then(|flag| flag.get_help().map(ToString::to_string));
        help.or(url.map(|(_, meaning)| (*meaning).to_owned()))
    };
    let mut text = HEAD.to_owned();
    for line in defaults.lines() {
        // The datasets that are known from the start are comments there.
        let Some((key, _)) = line.split_once(" = ") else {
            continue;
        };
        let meaning = meaning(key).expect("every setting has a flag, or is a URL");
        write!(text, "\n# {meaning}\n#{line}\n").expect("a String takes what is written");
    }
    text + DATASETS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Settings {
        let options = toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        Settings::finish(options, Vec::new()).unwrap()
    }

    #[test]
    fn as_it_is_it_changes_nothing() {
        assert_eq!(read(&template()).to_string(), read("").to_string());
    }

    #[test]
    fn without_its_signs_it_says_the_defaults_and_one_more_dataset() {
        let bare = |line: &str| {
            let setting = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
            setting.unwrap_or(line).to_owned()
        };
        let text: Vec<String> = template().lines().map(bare).collect();
        let settings = read(&text.join("\n"));
        let shown = settings.to_string();
        let added = shown.strip_prefix(&read("").to_string());
        assert_eq!(added, Some("# dataset trips: files *trips*, table trips\n"));
    }
}
