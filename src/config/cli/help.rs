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
