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

#[tokio::test(flavor = "multi_thread")]
async fn a_migrated_mariadb_needs_no_right_to_create() {
    loads_without_ddl(support::mariadb().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migrated_mysql_needs_no_right_to_create() {
    loads_without_ddl(support::mysql9(false).await).await;
    loads_without_ddl(support::mysql9(true).await).await;
}
