//! Derives state, headline and next step of a status, for the page, `status` and its JSON.

use super::{EngineState, Node, Status, Trouble, grouped};
use crate::sink::Acknowledged;

/// Samples that are zero after which unfinished work counts as stalled, and an idle engine as quiet.
const STALLED_SAMPLES: usize = 5;

impl Status {
    /// Sets state, headline and next step from the other fields, for a running engine.
    pub fn conclude(&mut self) {
        self.state = self.judge();
        self.headline = self.sentence();
        self.next = self.advise();
    }

    fn judge(&self) -> EngineState {
        let unfinished = self.files.work + self.queue.map_or(0, |queue| queue.frames);
        if self.outage().is_some() {
            EngineState::Unwell
        } else if !self.ready {
            EngineState::Starting
        } else if unfinished > 0 && self.is_stalled() {
            EngineState::Waiting
        } else if unfinished > 0 || self.records_per_second.is_some_and(|rate| rate > 0.0) {
            EngineState::Working
        } else if self.paused {
            EngineState::Paused
        } else if self.files.waiting_in_all() > 0 {
            EngineState::Waiting
        } else {
            EngineState::Idle
        }
    }

    /// Whether no record was stored in the last samples. False in a process without the role
    /// `work`, which cannot know.
    fn is_stalled(&self) -> bool {
        self.has_role("work") && were_zero(&self.history.records_per_second)
    }

    pub(super) fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|has| has == role)
    }

    fn sentence(&self) -> String {
        let files = |number: u64| counted(number, "file", "files");
        match self.state {
            EngineState::Unwell => self.outage().map_or(String::new(), |outage| {
                capitalised(outage.trouble.as_text())
            }),
            EngineState::Starting => {
                format!("Starting: {}", self.reason.as_deref().unwrap_or_default())
            }
            EngineState::Stopped => "Not running".to_owned(),
            EngineState::Working if self.files.work == 0 => "Loading records".to_owned(),
            EngineState::Working => format!("Loading {}", files(self.files.work)),
            EngineState::Waiting if self.files.work > 0 => {
                format!(
                    "{} in work, but nothing is being stored",
                    files(self.files.work)
                )
            }
            EngineState::Paused => "Paused: no file is taken".to_owned(),
            EngineState::Waiting => format!("Waiting with {}", files(self.files.waiting_in_all())),
            EngineState::Idle if self.files_not_here() > 0 => {
                format!("Idle: {} begun, and not here", files(self.files_not_here()))
            }
            EngineState::Idle if self.totals.is_some_and(|totals| totals.settled > 0) => {
                "Idle: nothing waits".to_owned()
            }
            EngineState::Idle => "Idle: nothing has arrived yet".to_owned(),
        }
    }

    /// Whether there are quarantined files or rejects that no operator has acknowledged.
    pub(crate) fn has_news(&self) -> bool {
        let totals = self.totals.unwrap_or_default();
        self.acknowledged.at_most(totals) != Acknowledged::all_of(totals)
    }

    /// How many files are begun, and in no directory that this engine takes files from: after a restore,
    /// history has them, and after the stop of a load, its archive. Zero while this or another process may
    /// be loading them.
    fn files_not_here(&self) -> u64 {
        let takes_files =
            |node: &&Node| node.alive && node.roles.iter().any(|role| role == "ingest");
        let is_alone = self.nodes.iter().filter(takes_files).count() <= 1;
        let is_quiet = self.state == EngineState::Idle && were_zero(&self.history.read_per_second);
        if !is_quiet || !is_alone || !self.has_role("ingest") {
            return 0;
        }
        self.totals.map_or(0, |totals| totals.pending)
    }

    /// The commands for files that are begun and not here, for quarantined files and rejects that no
    /// operator has acknowledged, for files that are being removed, and for missing indexes; `None` if
    /// there are none.
    pub(crate) fn needs_attention(&self) -> Option<String> {
        let totals = self.totals.unwrap_or_default();
        let known = self.acknowledged.at_most(totals);
        let of_new = |all: u64, known: u64, one: &str, many: &str| match known {
            0 => counted(all, one, many),
            _ => counted(all - known, &format!("new {one}"), &format!("new {many}")),
        };
        let quarantined = (totals.quarantined > known.quarantined).then(|| {
            format!(
                "`task_runner files list --state quarantined` shows what is wrong with {}",
                of_new(totals.quarantined, known.quarantined, "file", "files")
            )
        });
        let rejects = (totals.rejects > known.rejects).then(|| {
            format!(
                "`task_runner rejects list` shows {} that could not become rows",
                of_new(totals.rejects, known.rejects, "record", "records")
            )
        });
        let removing = (totals.removing > 0).then(|| {
            format!(
                "`task_runner files list --state removing` shows {} whose rows are being removed: a load \
                 of the file or `task_runner files forget` continues",
                counted(totals.removing, "file", "files")
            )
        });
        let indexes = (!self.missing_indexes.is_empty()).then(|| {
            "`task_runner migrate` builds the missing indexes, unless a load or service that runs \
             builds them"
                .to_owned()
        });
        let not_here = self.files_not_here();
        let not_here = (not_here > 0).then(|| {
            format!(
                "`task_runner files list --state pending` shows {} that are begun, and in neither inbound \
                 nor work: `task_runner load PATH` continues them from history, or from their archive",
                counted(not_here, "file", "files")
            )
        });
        let all = not_here.into_iter().chain(quarantined);
        let all = all.chain(removing).chain(rejects);
        let all = all.chain(indexes);
        let needs_attention: Vec<String> = all.collect();
        (!needs_attention.is_empty()).then(|| needs_attention.join("; "))
    }

    fn advise(&self) -> Option<String> {
        const BY_ITSELF: &str = "nothing is lost, and the engine continues by itself";
        let answer =
            |server| format!("start `{server}`, or correct what the reason says; {BY_ITSELF}");
        if let Some(outage) = self.outage() {
            return Some(match outage.trouble {
                Trouble::Database => answer(&self.database),
                Trouble::Queue => answer(&self.broker),
                Trouble::Disk => {
                    format!(
                        "free some disk space (or inodes, if the reason names them), or lower \
                         `--disk-floor`; {BY_ITSELF}"
                    )
                }
                Trouble::Workers => {
                    format!("start a process with the role `work`; {BY_ITSELF}")
                }
                Trouble::Ingest => {
                    format!("start a process with the role `ingest`; {BY_ITSELF}")
                }
                Trouble::Files => {
                    format!("`task_runner doctor` checks the directories; {BY_ITSELF}")
                }
            });
        }
        if self.state == EngineState::Waiting && self.files.work > 0 {
            return Some("`task_runner doctor` checks database, queue and disk".to_owned());
        }
        if self.paused {
            return Some("`task_runner resume` lets it take files again".to_owned());
        }
        if let Some(needs_attention) = self.needs_attention() {
            return Some(needs_attention);
        }
        let settled = self.totals.map(|totals| totals.settled);
        if self.state == EngineState::Idle && settled == Some(0) {
            return Some(if self.has_role("ingest") {
                format!("put files into `{}`", self.inbound)
            } else {
                "put files into the inbound of a process with the role `ingest`".to_owned()
            });
        }
        None
    }
}

/// Whether the last samples are all zero. False if there are too few.
fn were_zero(samples: &[u64]) -> bool {
    let last = samples.iter().rev().take(STALLED_SAMPLES);
    samples.len() >= STALLED_SAMPLES && last.into_iter().all(|sample| *sample == 0)
}

fn counted(number: u64, one: &str, many: &str) -> String {
    format!(
        "{} {}",
        grouped(number),
        if number == 1 { one } else { many }
    )
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Files, History, Outage, Queue, WaitingFile};
    use super::*;
    use crate::sink::Totals;

    fn concluded(status: Status) -> (EngineState, String, Option<String>) {
        let mut status = Status {
            running: true,
            ready: status.outage().is_none() && status.reason.is_none(),
            database: "mysql://db".to_owned(),
            inbound: "/in".to_owned(),
            roles: vec!["work".to_owned()],
            ..status
        };
        status.conclude();
        (status.state, status.headline, status.next)
    }

    fn work(work: u64) -> Files {
        Files {
            work,
            ..Files::default()
        }
    }

    #[test]
    fn an_outage_comes_first_and_says_what_to_start() {
        let outage = Outage {
            trouble: Trouble::Database,
            detail: "refused".to_owned(),
            seconds: 12.0,
            ended_seconds_ago: None,
        };
        let (state, headline, next) = concluded(Status {
            outages: vec![outage.clone()],
            files: work(3),
            ..Status::default()
        });
        assert_eq!(
            (state, &*headline),
            (EngineState::Unwell, "Database unavailable")
        );
        assert!(
            next.unwrap().starts_with(
                "start `mysql://db`, or correct what the reason says; nothing is lost"
            )
        );
        // An outage that has ended does not count.
        let (state, ..) = concluded(Status {
            outages: vec![Outage {
                ended_seconds_ago: Some(1.0),
                ..outage
            }],
            ..Status::default()
        });
        assert_eq!(state, EngineState::Idle);
    }

    #[test]
    fn what_was_acknowledged_is_not_asked_for_again() {
        let next = |quarantined, rejects, acknowledged| {
            let totals = Totals {
                settled: 1,
                quarantined,
                rejects,
                ..Totals::default()
            };
            let status = Status {
                totals: Some(totals),
                acknowledged,
                ..Status::default()
            };
            (status.has_news(), concluded(status).2.unwrap_or_default())
        };
        let known = |quarantined, rejects| Acknowledged {
            quarantined,
            rejects,
        };
        let (has_news, all) = next(2, 3, known(0, 0));
        assert!(has_news && all.contains("with 2 files") && all.contains("shows 3 records"));
        assert_eq!(next(2, 3, known(2, 3)), (false, String::new()));
        // Some were corrected since.
        assert_eq!(next(1, 0, known(2, 3)), (false, String::new()));
        let (has_news, one) = next(3, 3, known(2, 3));
        assert!(has_news && one.ends_with("with 1 new file"), "{one}");
        let (has_news, some) = next(2, 1_005, known(2, 3));
        assert!(
            has_news && some.contains("shows 1,002 new records"),
            "{some}"
        );
    }

    #[test]
    fn work_is_progress_until_nothing_is_stored() {
        let with = |samples: &[u64]| {
            concluded(Status {
                files: work(2),
                history: History {
                    records_per_second: samples.to_vec(),
                    ..History::default()
                },
                ..Status::default()
            })
        };
        assert_eq!(with(&[0; 4]).0, EngineState::Working);
        assert_eq!(with(&[0, 0, 0, 0, 0, 9]).1, "Loading 2 files");
        let (state, headline, next) = with(&[9, 0, 0, 0, 0, 0]);
        assert_eq!(state, EngineState::Waiting);
        assert_eq!(headline, "2 files in work, but nothing is being stored");
        assert!(next.unwrap().contains("doctor"));
        let queued = Status {
            queue: Some(Queue {
                frames: 1,
                ..Queue::default()
            }),
            ..Status::default()
        };
        assert_eq!(concluded(queued).1, "Loading records");
    }

    #[test]
    fn files_that_are_begun_and_not_here_are_named_once_nothing_is_read() {
        let with = |read: &[u64], others: &[(&str, bool)]| {
            let node = |(role, alive): &(&str, bool)| Node {
                roles: vec![(*role).to_owned()],
                alive: *alive,
                ..Node::default()
            };
            let mut status = Status {
                running: true,
                ready: true,
                roles: vec!["ingest".to_owned(), "work".to_owned()],
                nodes: [("ingest", true)].iter().chain(others).map(node).collect(),
                totals: Some(Totals {
                    settled: 1,
                    pending: 8,
                    ..Totals::default()
                }),
                history: History {
                    read_per_second: read.to_vec(),
                    ..History::default()
                },
                ..Status::default()
            };
            status.conclude();
            (status.headline, status.next.unwrap_or_default())
        };
        let (headline, next) = with(&[9, 0, 0, 0, 0, 0], &[("work", true), ("ingest", false)]);
        assert_eq!(headline, "Idle: 8 files begun, and not here");
        assert!(next.contains("shows 8 files that are begun"), "{next}");
        assert!(next.contains("`task_runner load PATH`"), "{next}");
        let quiet = ("Idle: nothing waits".to_owned(), String::new());
        assert_eq!(with(&[0, 0, 0, 0, 9], &[]), quiet, "read a moment ago");
        assert_eq!(with(&[0; 4], &[]), quiet, "it has just started");
        assert_eq!(
            with(&[0; 5], &[("ingest", true)]),
            quiet,
            "another one may load them"
        );
    }

    #[test]
    fn a_quiet_engine_says_what_is_left_to_do() {
        let totals = |settled, quarantined, rejects| Status {
            totals: Some(Totals {
                settled,
                quarantined,
                rejects,
                ..Totals::default()
            }),
            ..Status::default()
        };
        let next = |status| concluded(status).2.unwrap_or_default();
        let elsewhere = "put files into the inbound of a process with the role `ingest`";
        assert_eq!(next(totals(0, 0, 0)), elsewhere);
        let mut takes_files = totals(0, 0, 0);
        (takes_files.running, takes_files.ready) = (true, true);
        takes_files.inbound = "/in".to_owned();
        takes_files.roles = vec!["ingest".to_owned()];
        takes_files.conclude();
        assert_eq!(takes_files.next.unwrap(), "put files into `/in`");
        assert!(
            next(totals(1, 2, 3)).contains("--state quarantined` shows what is wrong with 2 files")
        );
        assert!(next(totals(1, 0, 3)).starts_with("`task_runner rejects list` shows 3 records"));
        assert_eq!(next(totals(1, 0, 0)), "");
        let mut removing = totals(1, 0, 0);
        removing.totals.as_mut().unwrap().removing = 1;
        assert!(
            next(removing).starts_with("`task_runner files list --state removing` shows 1 file")
        );
        assert_eq!(concluded(totals(1, 0, 0)).1, "Idle: nothing waits");
        let waiting = |waiting_files| {
            concluded(Status {
                files: Files {
                    waiting_files,
                    waiting: vec![WaitingFile {
                        name: "a".to_owned(),
                        why: "open".to_owned(),
                        code: "being_written".to_owned(),
                        seconds: None,
                    }],
                    ..Files::default()
                },
                ..Status::default()
            })
        };
        let (state, headline, _) = waiting(1);
        assert_eq!(
            (state, &*headline),
            (EngineState::Waiting, "Waiting with 1 file")
        );
        assert_eq!(waiting(1_234).1, "Waiting with 1,234 files");
        let paused = Status {
            paused: true,
            ..totals(1, 1, 0)
        };
        let (state, headline, next) = concluded(paused);
        assert_eq!(
            (state, &*headline),
            (EngineState::Paused, "Paused: no file is taken")
        );
        assert!(next.unwrap().contains("task_runner resume"));
        let starting = Status {
            reason: Some("connecting".to_owned()),
            ..Status::default()
        };
        assert_eq!(concluded(starting).1, "Starting: connecting");
    }
}
