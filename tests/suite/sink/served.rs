//! A server for one test, which tests of faults may fill, lock and set.

use std::sync::Arc;

use lemonade_task::sink::{Database, SinkOptions, open};

use super::fixture::{Fixture, Target};
use crate::support::{self, Private};

/// The rights of a service's account.
const SERVICE: &str = "SELECT, INSERT, UPDATE, DELETE";

/// A server for one test, with a migrated database and an account without special rights.
pub struct Served {
    pub fixture: Fixture,
    pub service_url: String,
    _server: Private,
}

impl Served {
    pub async fn start(target: Target) -> Self {
        let server = match target {
            Target::Mysql => support::private_mysql9().await,
            _ => support::private_mariadb().await,
        };
        let fixture = Fixture::at(target, &server.url).await;
        fixture.run("CREATE USER 'service'@'%'").await;
        fixture
            .run(&format!("GRANT {SERVICE} ON *.* TO 'service'@'%'"))
            .await;
        let service_url = server.url.replace("root@", "service@");
        Self {
            fixture,
            service_url,
            _server: server,
        }
    }

    pub async fn service(&self) -> Arc<dyn Database> {
        open(&self.service_url, &SinkOptions::default())
            .await
            .expect("the account is there")
    }
}
