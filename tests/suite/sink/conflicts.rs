//! Files whose records have the same keys.

/// A record: the two values of its key, the value that orders it, and another value.
pub type Record = (&'static str, i64, i64, &'static str);

/// A file of records, by its content.
#[derive(Clone)]
pub struct File {
    pub hash: u8,
    pub records: Vec<Record>,
}

pub fn file(hash: u8, records: &[Record]) -> File {
    File {
        hash,
        records: records.to_vec(),
    }
}

/// Each order of up to three things.
pub fn orders(count: usize) -> Vec<Vec<usize>> {
    match count {
        1 => vec![vec![0]],
        2 => vec![vec![0, 1], vec![1, 0]],
        _ => vec![
            vec![0, 1, 2],
            vec![0, 2, 1],
            vec![1, 0, 2],
            vec![1, 2, 0],
            vec![2, 0, 1],
            vec![2, 1, 0],
        ],
    }
}

/// Files whose records have the same keys.
pub fn conflicts() -> Vec<(&'static str, Vec<File>)> {
    vec![
        (
            "in one file",
            vec![file(
                1,
                &[("a", 1, 5, "x"), ("a", 1, 6, "y"), ("b", 1, 1, "z")],
            )],
        ),
        (
            "in one file, downwards",
            vec![file(1, &[("a", 1, 6, "x"), ("a", 1, 5, "y")])],
        ),
        (
            "equal order in one file",
            vec![file(
                1,
                &[("a", 1, 5, "x"), ("a", 1, 5, "x"), ("a", 1, 5, "y")],
            )],
        ),
        (
            "in two files",
            vec![
                file(2, &[("a", 1, 5, "x"), ("b", 1, 5, "x")]),
                file(1, &[("a", 1, 6, "y")]),
            ],
        ),
        (
            "equal order in two files",
            vec![
                file(2, &[("a", 1, 5, "x")]),
                file(1, &[("c", 1, 5, "x"), ("a", 1, 5, "x")]),
            ],
        ),
        (
            "in three files",
            vec![
                file(1, &[("a", 1, 5, "x"), ("b", 1, 9, "x"), ("d", 1, 1, "x")]),
                file(2, &[("b", 1, 7, "y"), ("a", 1, 6, "y"), ("a", 1, 4, "y")]),
                file(3, &[("a", 1, 7, "z"), ("b", 1, 8, "z"), ("d", 1, 1, "z")]),
            ],
        ),
        (
            "a file of which no record is a row",
            vec![
                file(1, &[("a", 1, 5, "x"), ("b", 1, 5, "x")]),
                file(
                    2,
                    &[
                        ("a", 1, 1, "x"),
                        ("a", 1, 9, "x"),
                        ("b", 1, 1, "x"),
                        ("b", 1, 9, "x"),
                    ],
                ),
            ],
        ),
        (
            "keys that differ in a space, in case or in one column",
            vec![
                file(1, &[("a", 1, 5, "x"), ("a ", 1, 5, "x"), ("A", 1, 5, "x")]),
                file(2, &[("a", 2, 5, "x"), ("ä", 1, 5, "x"), ("a", 1, 4, "x")]),
            ],
        ),
    ]
}
