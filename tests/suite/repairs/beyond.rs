//! Rows of other programs with ids beyond the end of a file.

use lemonade_task::batch::row_id;

use super::loaded;

/// A row of another program beyond the end of a file makes up for a missing one in a count.
#[tokio::test(flavor = "multi_thread")]
async fn one_hides_no_missing_row() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = loaded(name).await;
        for beyond in [3_u64, 1_000, u64::from(u32::MAX)] {
            let (first, last) = (row_id(2, 0), row_id(2, 0) + beyond);
            pair.execute(&format!(
                "UPDATE vehicle_events SET id = {last} WHERE id = {first}"
            ))
            .await;
            let said = pair.expect(1, &["verify", "--file", "2"]);
            for part in [
                "the first missing ordinal is 0".to_owned(),
                format!("ordinal {beyond} is"),
            ] {
                assert!(said.contains(&part), "{name}, {beyond}: {said}");
            }
            let restored = pair.expect(0, &["files", "restore", "--all"]);
            let expected = "file 2: 1 rows and 0 rejects stored again\n1 files restored, 0 not\n";
            assert_eq!(restored, expected, "{name}, {beyond}");
            pair.execute(&format!("DELETE FROM vehicle_events WHERE id = {last}"))
                .await;
            pair.expect(0, &["verify", "--content"]);
        }
    }
}
