//! `verify --content` compares values, whatever type a column of the table has now, and names what
//! was really changed.

use std::fs;

use crate::support::Pair;

const DEFINITION: &str = r#"{name="i",type="integer"},{name="u",type="unsigned"},
    {name="f",type="float"},{name="d",type="decimal(10,2)"},{name="b",type="boolean"},
    {name="t",type="timestamp"},{name="day",type="date"},{name="n",type="text",max_chars=40}"#;

/// The same columns, each as a text, and the text of digits as an integer.
const CONVERTED: &str = r#"{name="i",type="text",max_chars=40},
    {name="u",type="text",max_chars=40},{name="f",type="text",max_chars=40},
    {name="d",type="text",max_chars=40},{name="b",type="text",max_chars=40},
    {name="t",type="text",max_chars=40},{name="day",type="text",max_chars=40},
    {name="n",type="integer"}"#;

fn define(pair: &Pair, columns: &str) {
    let settings = format!("[[datasets]]\nname = \"m\"\ncolumns = [{columns}]\n");
    fs::write(pair.at("lemonade.toml"), settings).unwrap();
}

/// Records with numbers at their limits, and a zero of each sign.
fn records() -> String {
    let record = |i: &str, u: &str, f: &str, d: &str, n: &str| {
        format!(
            "{{\"i\":{i},\"u\":{u},\"f\":{f},\"d\":{d},\"b\":true,\"t\":\"2026-03-01T10:00:00.000001Z\",\
             \"day\":\"2026-03-01\",\"n\":\"{n}\"}}\n"
        )
    };
    [
        record("7", "7", "-0.0", "1.5", "42"),
        record(
            "-9223372036854775808",
            "18446744073709551615",
            "-0",
            "-0.01",
            "-9223372036854775808",
        ),
        record(
            "9007199254740993",
            "9007199254740993",
            "-1e-400",
            "0",
            "9007199254740993",
        ),
        record("0", "0", "1e20", "99999999.99", "0"),
        record("1", "1", "0.1", "-1", "1"),
        record("1", "1", "1.7976931348623157e308", "100", "1"),
    ]
    .concat()
}

/// Makes each column a text, and `n` an integer.
async fn convert(pair: &Pair) {
    if pair.name.ends_with("sqlite") {
        pair.execute(
            "CREATE TABLE m2 (id INTEGER PRIMARY KEY, i TEXT NOT NULL, u TEXT NOT NULL, f TEXT NOT \
             NULL, d TEXT NOT NULL, b TEXT NOT NULL, t TEXT NOT NULL, day TEXT NOT NULL, n INTEGER NOT \
             NULL, _rescued TEXT); INSERT INTO m2 SELECT id, i, u, f, d, b, t, day, n, _rescued FROM m; \
             DROP TABLE m; ALTER TABLE m2 RENAME TO m",
        )
        .await;
        return;
    }
    let texts = ["i", "u", "f", "d", "b", "t", "day"];
    let texts = texts.map(|column| {
        let collation = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";
        format!("MODIFY `{column}` VARCHAR(400) {collation} NOT NULL")
    });
    let texts = texts.join(", ");
    pair.execute(&format!("ALTER TABLE m {texts}, MODIFY n BIGINT NOT NULL"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_converted_column_holds_the_same_values_and_a_changed_one_is_named() {
    for name in ["memory+sqlite", "memory+mysql", "memory+mysql9"] {
        let pair = Pair::new(name).await;
        define(&pair, DEFINITION);
        fs::write(pair.at("inbound").join("m.ndjson"), records()).unwrap();
        pair.expect(0, &["load"]);
        pair.expect(0, &["verify", "--content"]);
        convert(&pair).await;
        define(&pair, CONVERTED);
        pair.expect(0, &["verify", "--content"]);
        for (column, value) in [
            ("i", "'07'"),
            ("i", "'8'"),
            ("u", "'7.0'"),
            ("f", "'1e-300'"),
            ("d", "'1.51'"),
            ("b", "'0'"),
            ("b", "'true'"),
            ("t", "'2026-03-01 10:00:00.000002'"),
            ("day", "'2026-03-02'"),
            ("n", "43"),
        ] {
            let id = u64::from(u32::MAX) + 1;
            let before = format!("SELECT {column} FROM m WHERE id = {id}");
            let before = pair.query(&before).await[0][0].clone().unwrap();
            let set = |value: &str| format!("UPDATE m SET {column} = {value} WHERE id = {id}");
            pair.execute(&set(value)).await;
            let said = pair.run(&["verify", "--content"]);
            let said = String::from_utf8(said.stdout).unwrap();
            let is_named = said.contains("record 1:0") && said.contains(&format!(" {column}"));
            assert!(is_named, "{name} {column} {value} {said}");
            pair.execute(&set(&format!("'{before}'"))).await;
        }
        pair.expect(0, &["verify", "--content"]);
    }
}
