//! The texts around the lists of commands and arguments: examples first. They are printed as they
//! stand, so they hold no markup.

pub(super) const EXAMPLES: &str = "\
Examples:
  task_runner demo                        a complete first run with made data, no server needed
  task_runner load ./archive              load a directory of files, then exit
  task_runner load                        load what is in inbound, then exit
  task_runner                             the service: watch inbound for ever
  task_runner check ./archive             parse only: print the rejects, write nothing
  task_runner status --watch              what moves, what waits and why
  task_runner pause                       take no files for a while; resume goes on
  task_runner queue peek                  what is in the queue, and in whose hands
  task_runner verify                      audit every stored file against the tables
  task_runner rejects list                the records that are no rows, and why
  task_runner trace 4294967296            a row back to its file and its original JSON";

pub(super) const AFTER: &str = "\
Database and queue are set by the environment or the settings file:
  DATABASE_URL  mysql://user:password@host:3306/vehicles, or sqlite:PATH
  REDIS_URL     redis://host:6379, or memory:
Each may stand in a file that DATABASE_URL_FILE or REDIS_URL_FILE names. With neither set: SQLite
in the data directory and the in-process queue. A .env file in the current directory is read.

Exit codes:
  0   all loaded                         69  Redis or database unavailable
  2   finished, something was rejected   70  internal error
      or quarantined                     75  stopped before the end, run it again
  1   failed                             77  permission denied
  64  usage                              78  configuration
  66  no input";

pub(super) const DRAIN: &str = "\
Examples:
  task_runner pause                       first, so that a service publishes no more
  task_runner queue drain                 before a Redis server is taken out of use
  task_runner queue drain --take-over-after 1s
                                          no other worker lives: do not wait for one

Takes no file out of inbound, and may run beside a service. The files whose frames it commits are
settled by their service, or by load. Stopped by a signal it ends with 75: run it again.";

pub(super) const PEEK: &str = "\
Examples:
  task_runner queue peek                  the oldest 20 frames of each stream
  task_runner queue peek --limit 1000 --json";

pub(super) const COMPLETIONS: &str = "\
Examples:
  source <(task_runner completions bash)                    in ~/.bashrc
  source <(task_runner completions zsh)                     in ~/.zshrc, after compinit
  task_runner completions fish > ~/.config/fish/completions/task_runner.fish";

pub(super) const CORRECTIONS: &str = "\
FILE has one JSON object a line:
  {\"file_no\": 1, \"ordinal\": 0, \"record\": {...}}
Other fields are ignored, so that lines of an export will do once they have a record; without one,
the text of the reject itself is tried again.";

pub(super) const RUN: &str = "\
Examples:
  task_runner                             the service, with all of its roles
  task_runner run --role ingest           takes files in; another process commits
  task_runner run --http-addr off         without metrics and status page";

pub(super) const LOAD: &str = "\
Examples:
  task_runner load                        what is in inbound; its files go to history
  task_runner load ./archive              all below it, read where it lies
  task_runner load ./archive --dry-run    say what would be loaded, and do nothing
  task_runner load trips.json --dataset trips --max-rejects 100";

pub(super) const CHECK: &str = "\
Examples:
  task_runner check ./archive             all rejects, and nothing is written
  task_runner check new.json --dataset vehicle_events";

pub(super) const STATUS: &str = "\
Examples:
  task_runner status --watch              again and again, until q
  task_runner status --json               the same for programs";

pub(super) const FILES: &str = "\
Examples:
  task_runner files list --state quarantined
  task_runner files show 17               one file, and what is stored of it
  task_runner files retry --all           those in quarantine, back to inbound";

pub(super) const REJECTS: &str = "\
Examples:
  task_runner rejects list --file 17
  task_runner rejects show 17:160         one of them, as the list names it
  task_runner rejects export --out bad.ndjson
  task_runner rejects replay mended.ndjson";

pub(super) const TRACE: &str = "\
Examples:
  task_runner trace 4294967299            the id of a row
  task_runner trace 1:3                   the same as file and ordinal";

pub(super) const VERIFY: &str = "\
Examples:
  task_runner verify                      every stored file
  task_runner verify --json               the same for programs";

pub(super) const SUMMARY: &str = "\
Examples:
  task_runner summary                     what was stored since the last time
  task_runner summary --rebuild           all of it, from the tables";

pub(super) const MIGRATE: &str = "\
Examples:
  task_runner migrate
  task_runner migrate --print             the statements, to be run by hand";

pub(super) const GENERATE: &str = "\
Examples:
  task_runner generate                    sample files, into inbound
  task_runner generate --dir ./samples --files 20 --records 50000 --bad 0.01";

pub(super) const DEMO: &str = "\
Examples:
  task_runner demo                        a first run in a directory that is gone after it
  task_runner demo --keep                 the same, and the directory stays";

pub(super) const CONFIG: &str = "\
Examples:
  task_runner config show                 the settings in effect
  task_runner config init                 write ./lemonade.toml to begin with
  task_runner config schema > lemonade.schema.json
                                          what an editor can check it by";
