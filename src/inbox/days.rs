//! History by day: a file lies below the directory of the UTC day on which it was moved there,
//! `YYYY/MM/DD`.
//!
//! The files of both layouts are found, whatever the settings are now: no list of the days is kept, and
//! history is not listed for them, since it may hold millions of files.

use std::fs;
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::directories::Directories;
use crate::dates;
use crate::timestamp;

/// The years that have directories. No file was laid out by day before the first one. With a clock
/// outside of these years, a file goes to history itself.
const YEARS: RangeInclusive<u16> = 2026..=2100;

const SECONDS_A_DAY: u64 = 86_400;

/// The directory in history for a file that is moved there now. History itself if another file has
/// the name of the directory.
///
/// # Errors
/// The directory cannot be created.
pub(super) fn directory_of_day(history: &Path, now: SystemTime) -> io::Result<PathBuf> {
    let mut directory = history.to_owned();
    let Some(below) = below(day_of(now)) else {
        return Ok(directory);
    };
    for segment in &below {
        let parent = directory.clone();
        directory.push(segment);
        match fs::create_dir(&directory) {
            // The files that are moved there must not be lost with it.
            Ok(()) => fs::File::open(parent)?.sync_all()?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // Not a link, which may lead out of history.
                if !is_directory(&directory) {
                    return Ok(history.to_owned());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(directory)
}

/// The directories of the days that history has.
pub(super) fn all_days(history: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let exists = |path: &PathBuf| is_directory(path);
    for year in YEARS
        .map(|year| history.join(year.to_string()))
        .filter(exists)
    {
        let months = (1..=12).map(|month| year.join(format!("{month:02}")));
        for month in months.filter(exists) {
            let days = (1..=31).map(|day| month.join(format!("{day:02}")));
            found.extend(days.filter(exists));
        }
    }
    found
}

/// The directories in which a file most probably is that was settled at a time: that of the day, and of
/// the day after.
#[must_use]
pub fn days_of(directories: &Directories, settled: SystemTime) -> Vec<PathBuf> {
    let day = day_of(settled);
    let days = [Some(day), day.checked_add(1)].into_iter().flatten();
    let paths = days
        .filter_map(below)
        .map(|day| directories.history.join(day));
    paths.filter(|path| is_directory(path)).collect()
}

/// A path below history, without the directory of a day.
pub(super) fn without_day(path: &Path) -> &Path {
    let mut segments = path.components();
    let mut number = |digits| match segments.next() {
        Some(Component::Normal(name)) => name
            .to_str()
            .filter(|name| name.len() == digits)
            .and_then(|name| name.parse::<u16>().ok()),
        _ => None,
    };
    let day = (number(4), number(2), number(2));
    let rest = segments.as_path();
    match day {
        (Some(year), Some(1..=12), Some(1..=31))
            if YEARS.contains(&year) && rest != Path::new("") =>
        {
            rest
        }
        _ => path,
    }
}

/// The day of a time, in days since the epoch.
fn day_of(at: SystemTime) -> i32 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i32::try_from(since.as_secs() / SECONDS_A_DAY).unwrap_or(i32::MAX)
}

/// The path of a day below history. `None` if its year has no directory.
fn below(day: i32) -> Option<PathBuf> {
    let timestamp = i64::from(day).checked_mul(timestamp::MICROS_A_DAY)?;
    let year = (timestamp <= timestamp::MAX).then(|| timestamp::civil(timestamp).year)?;
    let text = YEARS.contains(&year).then(|| dates::date_text(day))?;
    Some(text.split('-').collect())
}

fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn each_day_in_utc_has_a_directory_that_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let history = dir.path();
        // The last second of 2026-02-28, and the next one.
        let last = 1_772_323_199;
        for (seconds, expected) in [
            (last, "2026/02/28"),
            (last + 1, "2026/03/01"),
            (last, "2026/02/28"),
            (4_133_980_799, "2100/12/31"),
            // Clocks that are wrong.
            (0, ""),
            (4_133_980_800, ""),
            (u64::MAX >> 1, ""),
        ] {
            let directory = directory_of_day(history, at(seconds)).unwrap();
            assert_eq!(directory, history.join(expected), "{seconds}");
            assert!(directory.is_dir());
        }
        for other in ["2025/01/01", "2026/1/01", "2026/13/01", "x"] {
            fs::create_dir_all(history.join(other)).unwrap();
        }
        let days = ["2026/02/28", "2026/03/01", "2100/12/31"];
        assert_eq!(all_days(history), days.map(|day| history.join(day)));
        let directories = Directories {
            inbound: history.join("inbound"),
            work: history.join("work"),
            history: history.to_owned(),
            quarantine: history.join("quarantine"),
        };
        let of = |seconds| days_of(&directories, at(seconds));
        assert_eq!(of(last), [days[0], days[1]].map(|day| history.join(day)));
        assert_eq!(of(last + 1), [history.join(days[1])]);
        assert!(of(0).is_empty());
    }

    #[test]
    fn a_file_or_a_link_with_the_name_of_a_directory_stays() {
        let dir = tempfile::tempdir().unwrap();
        let day = at(1_772_323_199);
        fs::write(dir.path().join("2026"), "1").unwrap();
        assert_eq!(directory_of_day(dir.path(), day).unwrap(), dir.path());
        fs::remove_file(dir.path().join("2026")).unwrap();
        fs::create_dir(dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.path().join("2026")).unwrap();
        assert_eq!(directory_of_day(dir.path(), day).unwrap(), dir.path());
        assert!(all_days(dir.path()).is_empty());
    }

    #[test]
    fn the_directory_of_a_day_is_no_part_of_a_name() {
        for (path, expected) in [
            ("2026/02/28/a.json", "a.json"),
            ("2026/02/28/b/a.json", "b/a.json"),
            ("2026/02/28", "2026/02/28"),
            ("2025/02/28/a.json", "2025/02/28/a.json"),
            ("2026/2/28/a.json", "2026/2/28/a.json"),
            ("2026/02/a.json", "2026/02/a.json"),
            ("b/2026/02/28/a.json", "b/2026/02/28/a.json"),
            ("a.json", "a.json"),
        ] {
            assert_eq!(without_day(Path::new(path)), Path::new(expected));
        }
    }
}
