//! What is checked about settings together, once all layers are merged.

use super::{
    FRAME_RECORDS_MAX, HTTP_PORT_DEFAULT, MEMORY_BUDGET_MIN, PACE_SECONDS_MAX, Settings,
    WORKERS_MAX, redacted, url,
};
use crate::broker::redis;
use crate::otlp;
use crate::worker::COMMIT_RECORDS;

impl Settings {
    /// What is wrong with the settings. `None` if they can be used.
    pub(super) fn problem(&self) -> Option<String> {
        let database = url::scheme(&self.database_url);
        if !matches!(database, "mysql" | "mariadb" | "sqlite") {
            return Some(format!(
                "DATABASE_URL: `{}` has an unknown scheme; write mysql://… or sqlite:PATH",
                redacted(&self.database_url)
            ));
        }
        if database != "sqlite" && url::names_no_database(&self.database_url) {
            return Some(format!(
                "DATABASE_URL: `{}` names no database; write mysql://USER:PASSWORD@HOST:PORT/DATABASE",
                redacted(&self.database_url)
            ));
        }
        let queue = url::scheme(&self.broker_url);
        if queue != "memory" && !redis::SCHEMES.contains(&queue) {
            return Some(format!(
                "REDIS_URL: `{}` has an unknown scheme; write redis://… or memory:",
                redacted(&self.broker_url)
            ));
        }
        let replicas = self.replica_url.as_ref();
        let urls = [
            ("DATABASE_URL", &self.database_url),
            ("REDIS_URL", &self.broker_url),
        ];
        for (name, url) in urls
            .into_iter()
            .chain(replicas.map(|url| ("REPLICA_URL", url)))
        {
            if let Some(why) = url::misread(url) {
                return Some(format!("{name}: `{}`: {why}", redacted(url)));
            }
        }
        if let Some(url) = replicas
            && let of = [database, url::scheme(url)]
            && !of
                .iter()
                .all(|scheme| matches!(*scheme, "mysql" | "mariadb"))
        {
            return Some(format!(
                "REPLICA_URL: `{}`: write mysql://USER:PASSWORD@HOST,HOST/DATABASE, the replicas of a \
                 MySQL database, or off",
                redacted(url)
            ));
        }
        if let Some(problem) = self.otlp_url.as_deref().and_then(otlp::problem) {
            return Some(format!("otlp_url: {problem}"));
        }
        if !redis::is_prefix(&self.redis_prefix) {
            return Some(format!(
                "redis_prefix: `{}`: write letters, digits and `-`, `_`, `.`, `:`",
                self.redis_prefix
            ));
        }
        if self.queue_shards > redis::SHARDS_MAX {
            return Some(format!(
                "queue_shards: {} is too many; at most {}",
                self.queue_shards,
                redis::SHARDS_MAX
            ));
        }
        if let Some(bad) = self.bad_node() {
            return Some(bad);
        }
        if self.workers > WORKERS_MAX {
            return Some(format!(
                "workers: {} is too many; at most {WORKERS_MAX}",
                self.workers
            ));
        }
        if self.memory_budget_bytes < MEMORY_BUDGET_MIN.as_u64() {
            return Some(format!(
                "memory_budget: too small; at least {MEMORY_BUDGET_MIN}"
            ));
        }
        if self.frame_records > FRAME_RECORDS_MAX {
            return Some(format!(
                "frame_records: too many; at most {FRAME_RECORDS_MAX}"
            ));
        }
        let least = COMMIT_RECORDS
            .max(self.frame_records)
            .div_ceil(PACE_SECONDS_MAX);
        if self.max_records_per_second.is_some_and(|pace| pace < least) {
            return Some(format!(
                "max_records_per_second: too few, since a transaction has up to {} records; at least \
                 {least}",
                COMMIT_RECORDS.max(self.frame_records)
            ));
        }
        if self.frame_bytes == 0 || self.queue_bytes_max == 0 || self.scan_interval.is_zero() {
            return Some("frame_bytes, queue_bytes and scan_interval must not be 0".to_owned());
        }
        let stars = |pattern: &&String| pattern.matches('*').count() > 1 || *pattern == "*";
        for (setting, names) in [
            ("marker files", &self.marker_files),
            ("temporary files", &self.temporary_files),
        ] {
            if let Some(pattern) = names.0.iter().find(stars) {
                return Some(format!(
                    "{setting}: `{pattern}`: write a name, with one * for any characters"
                ));
            }
        }
        // Roles in different processes exchange frames through the queue, which must be in Redis.
        if queue == "memory" && (self.roles.ingest != self.roles.work) {
            return Some(format!(
                "role {}: another process cannot reach the in-process queue; set REDIS_URL",
                self.roles
            ));
        }
        self.reachable_actions().or_else(|| self.shared_directory())
    }

    /// Actions without a secret, at an address that other machines can reach.
    fn reachable_actions(&self) -> Option<String> {
        let addr = self.http_addr.filter(|addr| !addr.ip().is_loopback())?;
        (self.http_actions && self.http_token_file.is_none()).then(|| {
            format!(
                "http_actions: other machines can reach {addr}; set http_token_file to a file with a \
                 secret, or http_addr to 127.0.0.1:{HTTP_PORT_DEFAULT}"
            )
        })
    }

    fn shared_directory(&self) -> Option<String> {
        let named = self.dirs.named();
        for (at, (name, path)) in named.iter().enumerate() {
            if let Some((other, _)) = named[..at].iter().find(|(_, earlier)| earlier == path) {
                return Some(format!(
                    "{other} and {name} are both {}: give each a directory of its own",
                    path.display()
                ));
            }
        }
        None
    }
}
