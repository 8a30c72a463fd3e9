//! The initial settings file: each setting with its meaning and its default, as comments.
//!
//! Generated from the help and the defaults, so that it always agrees with them. A setting follows
//! its `#` directly; a sentence follows after a space.

use std::fmt::Write as _;

use clap::{Args, Command};

use super::Settings;
use super::options::Options;

const HEAD: &str = "\
# Settings of task_runner. Each one is a comment with its default: remove the # to change it. Flags
# override the environment, which overrides this file. `task_runner config show` prints the settings
# in effect.
";

/// The settings without a flag.
const URLS: [(&str, &str); 3] = [
    (
        "database_url",
        "The database: mysql://user:password@host:3306/vehicles, or sqlite:PATH",
    ),
    ("redis_url", "The queue: redis://host:6379, or memory:"),
    (
        "replica_url",
        "Replicas that must keep up: mysql://user:password@replica1,replica2/vehicles, or off",
    ),
];

const DATASETS: &str = r#"
# A dataset of your own, besides vehicle_events and vehicle_status. It takes the files whose name
# contains `files`. docs/datasets.md describes all keys.
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
        // Skips the built-in datasets, which are printed as comments.
        let Some((key, _)) = line.split_once(" = ") else {
            continue;
        };
        let meaning = meaning(key).expect("every setting has a flag, or is a URL");
        write!(text, "\n# {meaning}\n#{line}\n").expect("writing to a String cannot fail");
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
    fn the_unchanged_file_changes_no_setting() {
        assert_eq!(read(&template()).to_string(), read("").to_string());
    }

    #[test]
    fn without_comment_signs_it_sets_the_defaults_and_one_more_dataset() {
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
