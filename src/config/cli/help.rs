//! Texts before and after the lists of commands and arguments. They are printed as plain text, so
//! they have no markup.

pub(super) const EXAMPLES: &str = "\
Examples:
  task_runner demo                        a complete first run with sample data, no server needed
  task_runner load ./archive              load a directory of files, then exit
  task_runner load                        load the files in inbound, then exit
  task_runner                             run the service: load files as they arrive
  task_runner check ./archive             parse only: print the rejects, change nothing
  task_runner status --watch              show progress, and which files wait and why
  task_runner pause                       take no files until task_runner resume
  task_runner queue peek                  list the frames in the queue
  task_runner verify                      audit every stored file against the tables
  task_runner rejects list                list rejected records with their reasons
  task_runner trace 4294967296            find the file and the original JSON of a row";

pub(super) const AFTER: &str = "\
Set the database and the queue in the environment or the settings file:
  DATABASE_URL  mysql://user:password@host:3306/vehicles, or sqlite:PATH
  REDIS_URL     redis://host:6379, or memory:
DATABASE_URL_FILE and REDIS_URL_FILE may name a file that holds the URL. Without any of them: SQLite
in the data directory and the in-process queue. A .env file in the current directory is read, too.

Exit codes:
  0   all loaded                         69  Redis or database unavailable
  2   finished, something was rejected   70  internal error
      or quarantined                     75  stopped before the end, run it again
  1   failed                             77  permission denied
  64  usage                              78  configuration
  66  no input";

pub(super) const DRAIN: &str = "\
Examples:
  task_runner pause                       first, so that the service publishes no more frames
  task_runner queue drain                 then, before the Redis server is shut down
  task_runner queue drain --take-over-after 1s
                                          do not wait for workers that have died

Takes no file out of inbound, and may run beside a service. The service or load settles the files
whose frames it commits. If a signal stops it, it exits with 75: run it again.";

pub(super) const PEEK: &str = "\
Examples:
  task_runner queue peek                  the oldest 20 frames of each stream
  task_runner queue peek --limit 1000 --json";

pub(super) const COMPLETIONS: &str = "\
Examples:
  source <(task_runner completions bash)                    in ~/.bashrc
  source <(task_runner completions zsh)                     in ~/.zshrc, after compinit
  task_runner completions fish > ~/.config/fish/completions/task_runner.fish";

pub(super) const MANUAL: &str = "\
Examples:
  task_runner manual /usr/local/share/man/man1              then: man task_runner";

pub(super) const CORRECTIONS: &str = "\
Examples:
  task_runner rejects replay --all        after a table or a dataset was changed
  task_runner rejects replay --code missing_field --field status --set status=unknown
  task_runner rejects replay --id 17:160 --set speed=41.5

Without FILE, the records of the rejects themselves are parsed again, byte for byte as they are in
their files. FILE has one JSON object per line:
  {\"file_no\": 1, \"ordinal\": 0, \"record\": {...}}
Other fields are ignored, so the lines of an export need only a record each. For a line without a
record, `raw` is parsed again. A number that a program has rounded is refused.";

pub(super) const RUN: &str = "\
Examples:
  task_runner                             the service with all of its roles
  task_runner run --role ingest           take files in; another process commits
  task_runner run --http-addr off         without metrics and status page";

pub(super) const LOAD: &str = "\
Examples:
  task_runner load                        load the files in inbound and move them to history
  task_runner load ./archive              load all files below it in place; again: only what is new
  task_runner load ./archive --dry-run    print what would be loaded, and do nothing
  task_runner load trips.json --dataset trips --max-rejects 100
  curl … | task_runner load - --as trips_1.json
  task_runner load ./archive --defer-indexes
                                          MySQL and MariaDB: if the indexes of a table do not fit into
                                          the buffer pool, drop them and build them after the load";

pub(super) const CHECK: &str = "\
Examples:
  task_runner check ./archive             print the reasons of rejects, change nothing
  task_runner check new.json --dataset vehicle_events
  task_runner check new.json --rows 3     print the first rows as they would be stored
  task_runner check new.json --json       print each reject as JSON, for programs";

pub(super) const STATUS: &str = "\
Examples:
  task_runner status --watch              repeat until q
  task_runner status --json               JSON for programs";

pub(super) const FILES: &str = "\
Examples:
  task_runner files list --state quarantined
  task_runner files show 17               one file, and how many of its records are stored
  task_runner files retry --all           move all files of quarantine back to inbound
  task_runner files restore 17            store the rows again that are gone
  task_runner files reload 17             remove its rows and load it anew";

pub(super) const REJECTS: &str = "\
Examples:
  task_runner rejects list --file 17
  task_runner rejects show 17:160         one reject, by the name that the list shows
  task_runner rejects replay --field status --set status=unknown
  task_runner rejects replay --field extra --unset extra
  task_runner rejects export --out bad.ndjson
  task_runner rejects replay corrected.ndjson";

pub(super) const TRACE: &str = "\
Examples:
  task_runner trace 4294967299            the id of a row
  task_runner trace 1:3                   the same as file number and ordinal";

pub(super) const ERASE: &str = "\
Examples:
  task_runner erase 4294967299            the id of a row
  task_runner erase 1:3 1:7 --yes         file number and ordinal; does not ask";

pub(super) const VERIFY: &str = "\
Examples:
  task_runner verify                      audit every stored file
  task_runner verify --json               JSON for programs
  task_runner verify --content            compare each row with its record
  task_runner verify --content --file 17
                                          compare the rows of one file";

pub(super) const SUMMARY: &str = "\
Examples:
  task_runner summary                     add the rows stored since the last refresh
  task_runner summary --rebuild           rebuild it from the tables";

pub(super) const RETAIN: &str = "\
Examples:
  task_runner retain --dry-run            print which rows are no longer kept
  task_runner retain                      remove them now; the service does so every hour";

pub(super) const MIGRATE: &str = "\
Examples:
  task_runner migrate
  task_runner migrate --add               add columns and indexes to existing tables as well
  task_runner migrate --print             print the statements, to run them by hand";

pub(super) const GENERATE: &str = "\
Examples:
  task_runner generate                    write sample files into inbound
  task_runner generate --dir ./samples --files 20 --records 50000 --bad 0.01";

pub(super) const DEMO: &str = "\
Examples:
  task_runner demo                        use a temporary directory, removed at the end
  task_runner demo --keep                 keep the directory";

pub(super) const CONFIG: &str = "\
Examples:
  task_runner config show                 print the settings in effect
  task_runner config init                 write ./lemonade.toml
  task_runner config dataset trips_*.json propose the definition of a dataset for these files
  task_runner config schema > lemonade.schema.json
                                          a schema with which an editor checks the file";

pub(super) const DATASET: &str = "\
Examples:
  task_runner config dataset trips_1.json trips_2.json.gz
  task_runner config dataset trips_1.json > trips.toml
  task_runner config dataset export.json --name orders --records /data/orders

Prints a part of a settings file, with a comment at each doubtful choice. Exit code 2: some of the
records would be rejects by it.";
