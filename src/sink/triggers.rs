//! Triggers that change the values of rows while they are stored, for `doctor`. Pure: reads the
//! statement of a trigger, for both dialects.

use crate::finding::Finding;

/// What `doctor` says of a trigger that changes rows of a table.
pub(super) fn finding(name: &str, table: &str) -> Finding {
    Finding::warn(
        format!("the trigger `{name}` changes values of rows of `{table}` while they are stored"),
        "drop it, and compute such values in another column or a view: `verify --content` reports each \
         value that it changes",
    )
}

/// Whether the statement of a BEFORE trigger of MySQL assigns to a column of the new row.
pub(super) fn sets_new(statement: &str) -> bool {
    let tokens = tokens(statement);
    let is_at = |at: usize, token: &str| tokens.get(at).is_some_and(|found| found == token);
    (1..tokens.len()).any(|at| {
        let assigns = is_at(at + 3, "=") || is_at(at + 3, ":");
        let may_assign = is_at(at - 1, "SET") || is_at(at - 1, ",");
        is_at(at, "NEW") && is_at(at + 1, ".") && (is_at(at - 1, "INTO") || may_assign && assigns)
    })
}

/// Whether the CREATE TRIGGER of SQLite is for an INSERT, and updates rows of this table.
pub(super) fn updates(statement: &str, table: &str) -> bool {
    let tokens = tokens(statement);
    let Some(begin) = tokens.iter().position(|token| token == "BEGIN") else {
        return false;
    };
    let (header, body) = tokens.split_at(begin);
    let is_update = |at: &usize| {
        let mut table_at = at + 1;
        if body.get(table_at).is_some_and(|token| token == "OR") {
            table_at += 2;
        }
        let named = body.get(table_at);
        body[*at] == "UPDATE" && named.is_some_and(|named| named.eq_ignore_ascii_case(table))
    };
    header.iter().any(|token| token == "INSERT") && (0..body.len()).any(|at| is_update(&at))
}

/// The words and names of a statement in upper case, and its other characters one by one. A text in
/// single quotes is one quote; comments and blanks are left out.
fn tokens(sql: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let (opening, closing) = match first {
            '-' if rest.starts_with("--") => (2, "\n"),
            '#' => (1, "\n"),
            '/' if rest.starts_with("/*") => (2, "*/"),
            '\'' => (1, "'"),
            '"' => (1, "\""),
            '`' => (1, "`"),
            '[' => (1, "]"),
            _ => (0, ""),
        };
        if opening > 0 {
            let inner = &rest[opening..];
            let end = inner.find(closing).unwrap_or(inner.len());
            match first {
                '\'' => tokens.push("'".to_owned()),
                '"' | '`' | '[' => tokens.push(inner[..end].to_uppercase()),
                _ => {}
            }
            rest = &inner[(end + closing.len()).min(inner.len())..];
            continue;
        }
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let end = end.max(if is_word(first) { 0 } else { first.len_utf8() });
        if !first.is_whitespace() {
            tokens.push(rest[..end].to_uppercase());
        }
        rest = &rest[end..];
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_that_assigns_to_the_new_row_is_found() {
        for (statement, expected) in [
            ("SET NEW.a = 1", true),
            ("set new.a=TRIM(new.a)", true),
            ("SET NEW . `a` = 1", true),
            ("BEGIN SET @x = 1, NEW.a = 2; END", true),
            ("SET NEW.a := 2", true),
            ("IF NEW.a = 1 THEN SET NEW.a = 2; END IF", true),
            ("SELECT MAX(b) INTO NEW.a FROM t", true),
            ("SET /* a */ NEW.a = 1", true),
            ("SET @x = NEW.a", false),
            ("INSERT INTO log VALUES (1, NEW.a)", false),
            ("IF NEW.a = 1 THEN SIGNAL SQLSTATE '45000'; END IF", false),
            (
                "INSERT INTO log VALUES ('SET NEW.a = 1') -- SET NEW.a = 1",
                false,
            ),
            ("SET @new.a = 1", false),
            ("", false),
        ] {
            assert_eq!(sets_new(statement), expected, "{statement}");
        }
    }

    #[test]
    fn a_trigger_of_sqlite_that_updates_its_table_is_found() {
        for (statement, expected) in [
            (
                "CREATE TRIGGER x AFTER INSERT ON t BEGIN UPDATE t SET a = 1; END",
                true,
            ),
            (
                "create trigger x after insert on t begin update \"t\" set a = 1; end",
                true,
            ),
            (
                "CREATE TRIGGER x AFTER INSERT ON t BEGIN UPDATE OR IGNORE [T] SET a = 1; END",
                true,
            ),
            (
                "CREATE TRIGGER x AFTER INSERT ON t BEGIN UPDATE other SET a = 1; END",
                false,
            ),
            (
                "CREATE TRIGGER x AFTER UPDATE ON t BEGIN UPDATE t SET a = 1; END",
                false,
            ),
            (
                "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 'UPDATE t'; END",
                false,
            ),
        ] {
            assert_eq!(updates(statement, "t"), expected, "{statement}");
        }
    }
}
