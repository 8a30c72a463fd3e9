//! The least rights that the engine needs: those of docs/security.md.

use mysql_async::prelude::Queryable;

use crate::support;
use crate::support::Pair;

/// The rights that the account of a service needs after an administrator has run `migrate`.
const SERVICE: &str = "SELECT, INSERT, UPDATE, DELETE";

const STATUS: &str = r#"{"vehicle_status": [{"vehicle_id": "v1", "report_time": "2022-05-05T21:02:34.546Z", "status_source": "mobile", "status": "driving"}, {"vehicle_id": "v2"}]}"#;

async fn loads_without_ddl(database: &support::Database) {
    let admin_url = database.fresh().await;
    let name = admin_url.rsplit('/').next().unwrap().to_owned();
    let user = format!("service_{name}");
    let mut pair = Pair::new("memory+mysql").await;
    pair.database_url.clone_from(&admin_url);
    // The administrator may also run the statements by hand.
    let statements = pair.expect(0, &["migrate", "--print"]);
    let pool = mysql_async::Pool::new(admin_url.as_str());
    let mut admin = pool.get_conn().await.unwrap();
    for statement in statements.split(";\n").filter(|sql| !sql.trim().is_empty()) {
        admin.query_drop(statement).await.unwrap();
    }
    for sql in [
        format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'p@ss:word'"),
        format!("GRANT {SERVICE} ON `{name}`.* TO '{user}'@'%'"),
    ] {
        admin.query_drop(sql).await.unwrap();
    }
    drop(admin);
    pool.disconnect().await.unwrap();

    pair.database_url = admin_url.replace("root@", &format!("{user}:p%40ss%3Aword@"));
    let inbound = pair.at("inbound");
    std::fs::write(inbound.join("vehicle_status.json"), STATUS).unwrap();
    pair.expect(2, &["load"]);
    pair.expect(0, &["summary", "--rebuild"]);
    assert_eq!(pair.number("SELECT COUNT(*) FROM vehicle_status").await, 1);
    assert_eq!(pair.number("SELECT COUNT(*) FROM ingest_rejects").await, 1);

    // A wrong password is reported at once, with its own exit code and without the password.
    pair.database_url = admin_url.replace("root@", &format!("{user}:wrong-secret@"));
    let refused = pair.run(&["load"]);
    assert_eq!(refused.status.code(), Some(78));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(!message.contains("wrong-secret"), "{message}");
}

/// An account that may do all that tables need, and create no view.
async fn is_told_to_create_views(database: &support::Database) {
    let admin_url = database.fresh().await;
    let name = admin_url.rsplit('/').next().unwrap().to_owned();
    let user = format!("no_ddl_{name}");
    let mut pair = Pair::new("memory+mysql").await;
    pair.database_url.clone_from(&admin_url);
    let definition = "[[datasets]]\nname = 'trips'\nsettled_view = 'settled_trips'\n\
                      columns = [{name = 'trip', type = 'text'}]\n";
    std::fs::write(pair.at("lemonade.toml"), definition).unwrap();
    for sql in [
        format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'p'"),
        format!("GRANT {SERVICE}, CREATE, ALTER, DROP ON `{name}`.* TO '{user}'@'%'"),
    ] {
        pair.execute(&sql).await;
    }
    let of_user = admin_url.replace("root@", &format!("{user}:p@"));

    pair.database_url.clone_from(&of_user);
    let refused = pair.run(&["migrate"]);
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(78), "{message}");
    assert!(message.contains("CREATE VIEW command denied"), "{message}");
    assert!(
        message.contains("and CREATE VIEW for a `settled_view`"),
        "{message}"
    );
    let found = pair.expect(78, &["doctor"]);
    assert!(
        found.contains(
            "FAIL  database: the account may not create views, and the view settled_trips"
        ),
        "{found}"
    );
    assert!(found.contains("GRANT CREATE VIEW"), "{found}");

    // Once another account has created it, the service needs no such right.
    pair.database_url.clone_from(&admin_url);
    pair.expect(0, &["migrate"]);
    pair.database_url = of_user;
    assert!(!pair.expect(0, &["doctor"]).contains("settled_trips"));
    std::fs::write(pair.at("inbound").join("trips_1.json"), r#"{"trip":"t-1"}"#).unwrap();
    pair.expect(0, &["load"]);
    assert_eq!(pair.number("SELECT COUNT(*) FROM settled_trips").await, 1);

    pair.database_url = admin_url;
    pair.execute(&format!("GRANT CREATE VIEW ON `{name}`.* TO '{user}'@'%'"))
        .await;
    pair.execute("DROP VIEW settled_trips").await;
    pair.database_url = pair.database_url.replace("root@", &format!("{user}:p@"));
    let found = pair.expect(0, &["doctor"]);
    assert!(
        found.contains("OK    database: the first start creates the view settled_trips"),
        "{found}"
    );
    pair.expect(0, &["migrate"]);
}

/// An account that may create views, and tables of another database, but none of its own.
async fn may_create_other_things(database: &support::Database) {
    let admin_url = database.fresh().await;
    let name = admin_url.rsplit('/').next().unwrap().to_owned();
    let user = format!("views_{name}");
    let mut pair = Pair::new("memory+mysql").await;
    pair.database_url.clone_from(&admin_url);
    for sql in [
        format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'p'"),
        format!("GRANT {SERVICE}, CREATE VIEW ON `{name}`.* TO '{user}'@'%'"),
        format!("GRANT ALL PRIVILEGES ON `other_than_{name}`.* TO '{user}'@'%'"),
    ] {
        pair.execute(&sql).await;
    }
    pair.database_url = admin_url.replace("root@", &format!("{user}:p@"));
    let found = pair.expect(78, &["doctor"]);
    for named in [
        "FAIL  database: the account has no right to ALTER, and the ledger has to be migrated",
        "FAIL  database: the account has no right to CREATE, and the ledger has to be migrated",
        "FAIL  database: the account may not create tables, and these do not exist: vehicle_events",
    ] {
        assert!(found.contains(named), "{found}");
    }
    pair.expect(78, &["load"]);
    pair.database_url.clone_from(&admin_url);
    pair.execute(&format!(
        "GRANT CREATE, ALTER ON `{name}`.* TO '{user}'@'%'"
    ))
    .await;
    pair.database_url = admin_url.replace("root@", &format!("{user}:p@"));
    pair.expect(0, &["doctor"]);
    pair.expect(0, &["migrate"]);
    pair.expect(0, &["doctor"]);

    pair.database_url = admin_url;
    pair.execute(&format!("REVOKE INSERT ON `{name}`.* FROM '{user}'@'%'"))
        .await;
    pair.database_url = pair.database_url.replace("root@", &format!("{user}:p@"));
    let found = pair.expect(78, &["doctor"]);
    assert!(
        found.contains("the account has no right to INSERT"),
        "{found}"
    );
    pair.expect(78, &["load"]);
}

/// An account whose only rights are those of a role. `to` is the word before the account in the
/// statement that makes the role the default.
async fn has_the_rights_of_a_role(database: &support::Database, to: &str) {
    let admin_url = database.fresh().await;
    let name = admin_url.rsplit('/').next().unwrap().to_owned();
    let mut pair = Pair::new("memory+mysql").await;
    pair.database_url.clone_from(&admin_url);
    for sql in [
        format!("CREATE ROLE role_{name}"),
        format!("GRANT {SERVICE}, CREATE, ALTER ON `{name}`.* TO role_{name}"),
        format!("CREATE USER 'of_{name}'@'%' IDENTIFIED BY 'p'"),
        format!("GRANT role_{name} TO 'of_{name}'@'%'"),
        format!("SET DEFAULT ROLE role_{name} {to} 'of_{name}'@'%'"),
    ] {
        pair.execute(&sql).await;
    }
    pair.database_url = admin_url.replace("root@", &format!("of_{name}:p@"));
    for command in ["doctor", "migrate", "doctor", "load"] {
        pair.expect(0, &[command]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_of_a_role_are_rights_of_the_account() {
    has_the_rights_of_a_role(support::mariadb().await, "FOR").await;
    has_the_rights_of_a_role(support::mysql9(true).await, "TO").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_of_other_names_and_databases_are_not_taken_for_those_of_a_start() {
    may_create_other_things(support::mariadb().await).await;
    may_create_other_things(support::mysql9(true).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_may_not_create_views_is_told_so() {
    is_told_to_create_views(support::mariadb().await).await;
    is_told_to_create_views(support::mysql9(true).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migrated_mariadb_needs_no_right_to_create() {
    loads_without_ddl(support::mariadb().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migrated_mysql_needs_no_right_to_create() {
    loads_without_ddl(support::mysql9(false).await).await;
    loads_without_ddl(support::mysql9(true).await).await;
}
