//! Built-in definitions, definitions that are refused, and the files that a dataset takes.

use super::*;

fn user(toml: &str) -> Result<Datasets, InvalidDataset> {
    Datasets::new(vec![toml::from_str(toml).expect("a definition")])
}

#[test]
fn built_in_datasets_need_no_configuration() {
    let datasets = Datasets::new(vec![]).unwrap();
    let events = datasets
        .for_file_name(b"vehicle_events_20220605210234.json")
        .unwrap();
    assert_eq!(events.table, "vehicle_events");
    assert_eq!(events.pointer(), "/vehicle_events");
    let names: Vec<_> = events
        .schema()
        .fields()
        .iter()
        .map(|f| f.name().clone())
        .collect();
    assert_eq!(
        names.join(" "),
        "id vehicle_id event_time event_source event_type event_value event_extra_data _rescued"
    );
    let other = datasets
        .for_file_name(b"other.json")
        .unwrap_err()
        .to_string();
    assert!(
        other.contains("none of vehicle_events, vehicle_status"),
        "{other}"
    );
}

#[test]
fn the_longest_pattern_wins() {
    let datasets =
        user("name = 'eu'\nfiles = 'vehicle_events_eu'\ncolumns = [{name = 'a', type = 'text'}]")
            .unwrap();
    let name = |file: &[u8]| datasets.for_file_name(file).unwrap().name.clone();
    assert_eq!(name(b"vehicle_events_eu_1.json"), "eu");
    assert_eq!(name(b"vehicle_events_1.json"), "vehicle_events");
    // Two of the same length.
    let both = datasets.for_file_name(b"vehicle_status_vehicle_events.json");
    let both = both.unwrap_err().to_string();
    assert!(
        both.contains("`vehicle_events` and `vehicle_status` alike"),
        "{both}"
    );
}

#[test]
fn columns_that_cannot_work_are_refused() {
    let cases = [
        ("type = 'decimal(39,2)'", "P of 1 to 38"),
        ("type = 'decimal(4,5)'", "at most P"),
        ("type = 'decimal'", "is not a type"),
        ("type = 'int'", "expected one of text, integer, unsigned"),
        (
            "type = 'text', max_chars = 0",
            "`max_chars` must be 1 to 16777216",
        ),
        ("type = 'text', epoch = 's'", "can have an `epoch`"),
        ("type = 'date', epoch = 'ms'", "must be \"days\""),
        ("type = 'text', encoding = 'hex'", "only a binary column"),
        ("type = 'integer', formats = ['%Y']", "can have `formats`"),
        (
            "type = 'timestamp', formats = ['%H:%M']",
            "the format `%H:%M` cannot be used",
        ),
        (
            "type = 'time', formats = ['%Y-%m-%d']",
            "does not give a time of day",
        ),
        (
            "type = 'integer', on_error = 'null'",
            "needs `required = false`",
        ),
        (
            "type = 'integer', required = false, default = '1.5'",
            "no value of the type integer",
        ),
        (
            "type = 'date', required = false, default = '2023-02-29'",
            "no value of the type date",
        ),
        (
            "type = 'decimal(4,2)', required = false, default = '100'",
            "type decimal(4,2)",
        ),
        (
            "type = 'text', required = false, max_chars = 2, default = 'abc'",
            "type text",
        ),
        (
            "type = 'json', required = false, default = '{'",
            "is not JSON",
        ),
    ];
    for (column, expected) in cases {
        let definition = format!("name = 'a'\ncolumns = [{{name = 'b', {column}}}]");
        let error = match toml::from_str::<Dataset>(&definition) {
            Err(error) => error.to_string(),
            Ok(dataset) => Datasets::new(vec![dataset]).unwrap_err().to_string(),
        };
        assert!(error.contains(expected), "{column}: {error}");
    }
}

#[test]
fn datasets_with_also_take_files_in_addition_to_their_own_dataset() {
    let definition = |more: &str| {
        let columns = "columns = [{name = 'a', type = 'text'}]";
        toml::from_str(&format!("{more}\n{columns}")).unwrap()
    };
    let all = [
        "name = 'items'\nfiles = 'orders'\nalso = true",
        "name = 'orders'",
        // The same records of the same files, for another table.
        "name = 'audit'\nfiles = 'orders'\nrecords = '/orders'\nalso = true",
        "name = 'eu'\nfiles = '_eu_long'\nalso = true",
    ];
    let datasets = Datasets::new(all.map(definition).to_vec()).unwrap();
    let of = |name: &str, own: Option<&str>| {
        let own = own.map(|own| datasets.by_name(own).unwrap());
        let of = datasets.of_file(name.as_bytes(), own);
        of.map_or_else(|error| error.to_string(), |of| of.to_string())
    };
    assert_eq!(of("orders_1.json", None), "orders, items, audit");
    assert_eq!(of("orders_eu_long.json", None), "orders, items, audit, eu");
    assert_eq!(of("x.json", Some("orders")), "orders");
    assert_eq!(of("orders.json", Some("items")), "items, audit");
    let only = of("x_eu_long.json", None);
    assert!(
        only.contains("belongs to no dataset: `eu` takes it only"),
        "{only}"
    );
    let none = of("x.json", None);
    assert!(
        none.ends_with("none of vehicle_events, vehicle_status, orders"),
        "{none}"
    );
}

#[test]
fn a_glob_takes_files_by_name_and_by_the_end_of_their_path() {
    let definition = |name: &str, files: &str| {
        let columns = "columns = [{name = 'a', type = 'text'}]";
        toml::from_str(&format!("name = '{name}'\nfiles = '{files}'\n{columns}")).unwrap()
    };
    let datasets = Datasets::new(vec![
        definition("plain", "part-"),
        definition("named", "part-*.log"),
        definition("orders", "orders/day=*/part-*"),
        definition("items", "items/**/part-?.json"),
    ])
    .unwrap();
    for (path, expected) in [
        ("part-1.json", "plain"),
        ("part-1.log", "named"),
        ("x/part-1.log", "named"),
        ("/data/orders/day=1/part-1.json", "orders"),
        ("orders/day=1/part-1.log", "orders"),
        ("orders/part-1.json", "plain"),
        ("items/a/b/part-1.json", "items"),
        ("items/part-1.json", "items"),
        ("items/part-12.json", "plain"),
        ("part-/x.json", ""),
    ] {
        let found = datasets.for_file_name(path.as_bytes());
        let found = found.map_or("", |dataset| dataset.name.as_str());
        assert_eq!(found, expected, "{path}");
    }
    assert!(datasets.for_file_name(b"orders/day=\xff/part-1").is_ok());
}

#[test]
fn a_built_in_dataset_can_be_taken_away() {
    let datasets = Datasets::new(vec![
        toml::from_str("name = 'vehicle_events'\nenabled = false").unwrap(),
    ]);
    let datasets = datasets.unwrap();
    assert!(datasets.by_name("vehicle_events").is_none());
    assert!(datasets.by_name("vehicle_status").is_some());
}

#[test]
fn definitions_that_cannot_work_are_refused() {
    let cases = [
        (
            "name = 'a; DROP TABLE x'\ncolumns = [{name = 'a', type = 'text'}]",
            "not a name",
        ),
        (
            "name = 'a'\ncolumns = [{name = 'ID', type = 'text'}]",
            "reserved",
        ),
        ("name = 'a'\ncolumns = []", "no columns"),
        ("name = 'a'", "no columns"),
        (
            "name = 'a'\nfiles = 'a***b'\ncolumns = [{name = 'a', type = 'text'}]",
            "`files = \"a***b\"` is no glob",
        ),
        (
            "name = 'a'\nfiles = '[a-c]?[!z-a][z-ay-x].json'\ncolumns = [{name = 'a', type = 'text'}]",
            "fits no file: `[z-ay-x]` is no character",
        ),
        (
            "name = 'a'\ntable = 'ingest_files'\ncolumns = [{name = 'b', type = 'text'}]",
            "ledger",
        ),
        (
            "name = 'a'\ntable = 'SQLite_a'\ncolumns = [{name = 'b', type = 'text'}]",
            "SQLite reserves",
        ),
        (
            "name = 'vehicle_events'\ntable = 'Vehicle_Status'\n\
             columns = [{name = 'b', type = 'text'}]",
            "already belongs to `vehicle_status`",
        ),
        (
            "name = 'a'\nsummary = {table = 'Ingest_files', key = 'b', time = 'b', value = 'b'}\n\
             columns = [{name = 'b', type = 'text'}]",
            "ledger",
        ),
        (
            "name = 'a'\nsummary = {table = 'daily_summary', key = 'k', time = 't', value = 'k'}\n\
             columns = [{name = 'k', type = 'text'}, {name = 't', type = 'timestamp'}]",
            "already belongs to `vehicle_events`",
        ),
        (
            "name = 'a'\nsummary = {table = 'A', key = 'k', time = 't', value = 'k'}\n\
             columns = [{name = 'k', type = 'text'}, {name = 't', type = 'timestamp'}]",
            "already belongs to its own records",
        ),
        (
            "name = 'a'\ncolumns = [{name = 'b', type = 'text', default = '1'}]",
            "`default` needs `required = false`",
        ),
        (
            "name = 'a'\nfiles = 'vehicle_status'\nrecords = '/vehicle_status'\n\
             columns = [{name = 'b', type = 'text'}]",
            "same files and the same `records` as `vehicle_status`",
        ),
        (
            "name = 'a'\nrecords = 'x'\ncolumns = [{name = 'b', type = 'text'}]",
            "must begin",
        ),
        (
            "name = 'a'\nalso = true\nformat = 'lines'\nrecords = '/*'\ncolumns = [{name = 'b', type = \
             'text'}]",
            "has `*`",
        ),
        (
            "name = 'a'\ncolumns = [{name = 'b', type = 'text'}, {name = 'B', type = 'text'}]",
            "same name or field",
        ),
        (
            "name = 'a'\nsummary = {table = 's', key = 'b', time = 'b', value = 'b'}\n\
             columns = [{name = 'b', type = 'text'}]",
            "required timestamp",
        ),
        (
            "name = 'a'\nindexes = [['c']]\ncolumns = [{name = 'b', type = 'text'}]",
            "the index [c]: the dataset has no column `c`",
        ),
        (
            "name = 'a'\nindexes = [[]]\ncolumns = [{name = 'b', type = 'text'}]",
            "1 to 16 columns",
        ),
        (
            "name = 'a'\nindexes = [['b'], ['b']]\ncolumns = [{name = 'b', type = 'text'}]",
            "defined twice",
        ),
        (
            "name = 'a'\nindexes = [['b', 'b']]\ncolumns = [{name = 'b', type = 'date'}]",
            "it has `b` twice",
        ),
        (
            "name = 'a'\nindexes = [['b']]\ncolumns = [{name = 'b', type = 'json'}]",
            "which has no order",
        ),
        (
            "name = 'a'\nindexes = [['b']]\ncolumns = [{name = 'b', type = 'text', max_chars = 769}]",
            "lower `max_chars`",
        ),
    ];
    for (definition, expected) in cases {
        let error = user(definition).unwrap_err().to_string();
        assert!(error.contains(expected), "{definition}: {error}");
    }
}

#[test]
fn sources_of_values_that_cannot_work_are_refused() {
    let records = "/r/*/s/*/l";
    for (column, expected) in [
        (
            "envelope = '/r/*/l', key = '/r/*'",
            "`envelope` and `key` exclude each other",
        ),
        (
            "field = '/x', value = '1'",
            "`field` and `value` exclude each other",
        ),
        ("field = []", "names no field"),
        ("field = ['/x', 'y']", "`field = \"y\"` must begin with `/`"),
        ("field = ['/x', '/x']", "`field` has \"/x\" twice"),
        (
            "field = ['/x', '/a']",
            "another column has the same name or field",
        ),
        (
            "field = 5",
            "expected a JSON pointer, or a list of JSON pointers",
        ),
        (
            "type = 'integer', value = 'x'",
            "`value = \"x\"` is no value of the type integer",
        ),
        ("value = 'x', default = 'y'", "`value` needs no `default`"),
        (
            "envelope = 'r'",
            "`envelope = \"r\"` must begin with `/`, and `records` is",
        ),
        ("envelope = '/r/*'", "leads to the records"),
        ("envelope = '/r/*/s/*/l/x'", "leads to the records"),
        (
            "envelope = '/r/0/x'",
            "must have `*` where `records` has it",
        ),
        ("envelope = '/r/*/x/*'", "may have `*` only where"),
        ("envelope = '/x/*/y'", "may have `*` only where"),
        (
            "key = '/r'",
            "must be the beginning of `records` up to one of its `*`",
        ),
        ("key = '/r/*/s'", "must be the beginning of `records`"),
        ("key = '/x/*'", "must be the beginning of `records`"),
        (
            "key = '/r/*/s/*/l/*/*'",
            "must be the beginning of `records`",
        ),
    ] {
        let kind = if column.contains("type") {
            ""
        } else {
            "type = 'text', "
        };
        let columns = format!("[{{name = 'a', type = 'text'}}, {{name = 'b', {kind}{column}}}]");
        let definition = format!("name = 'd'\nrecords = '{records}'\ncolumns = {columns}");
        let error = match toml::from_str::<Dataset>(&definition) {
            Err(error) => error.to_string(),
            Ok(dataset) => Datasets::new(vec![dataset]).unwrap_err().to_string(),
        };
        assert!(error.contains(expected), "{column}: {error}");
    }
    for more in ["records = ''", "format = 'lines'"] {
        let columns = "columns = [{name = 'b', type = 'text', envelope = '/x'}]";
        let error = user(&format!("name = 'd'\n{more}\n{columns}"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("needs an envelope, but each value is a record"),
            "{error}"
        );
    }
}

#[test]
fn partitions_that_cannot_work_are_refused() {
    let columns = "columns = [{name = 'a', type = 'text'}, {name = 't', type = 'timestamp'}, {name = 'd', \
                   type = 'date', required = false, default = '2026-01-01'}, {name = 'o', type = \
                   'timestamp', required = false}]";
    let define = |more: &str| user(&format!("name = 'e'\n{more}\n{columns}"));
    let summary = "summary = {table = 's', key = 'a', time = 't', value = 'a'}";
    for more in [
        "partition_by = 't'",
        "partition_by = 'd'\npartition_every = 'day'\nretain = '1000 days'",
        "partition_by = 't'\nretain = '10 years'",
        "partition_by = 't'\nkey = ['a', 't']",
        &format!("partition_by = 't'\nretain = '400 days'\n{summary}"),
    ] {
        assert!(define(more).is_ok(), "{more}");
    }
    for (more, expected) in [
        ("partition_by = 'x'", "no column `x`"),
        ("partition_by = 'a'", "of the type timestamp or date"),
        ("partition_by = 'o'", "must be a required column"),
        ("partition_every = 'day'", "need `partition_by`"),
        ("retain = '1 day'", "need `partition_by`"),
        ("partition_by = 't'\nkey = ['a']", "add it to `key`"),
        (
            "partition_by = 't'\npartition_every = 'day'\nretain = '1001 days'",
            "more than 1000 partitions of a day",
        ),
        (
            &format!("partition_by = 'd'\nretain = '400 days'\n{summary}"),
            "both must be by the same column, `d`",
        ),
    ] {
        let error = define(more).unwrap_err().to_string();
        assert!(error.contains(expected), "{more}: {error}");
    }
}

#[test]
fn keys_that_cannot_work_are_refused() {
    let columns = "columns = [{name = 'a', type = 'text'}, {name = 'n', type = 'integer'}, {name = 't', \
                   type = 'timestamp'}, {name = 'f', type = 'float'}, {name = 'o', type = 'integer', \
                   required = false}, {name = 'd', type = 'integer', required = false, default = '0'}]";
    let define = |more: &str| user(&format!("name = 'd'\n{more}\n{columns}"));
    for more in [
        "key = ['a']",
        "key = ['a', 'n', 't', 'd']\non_conflict = 'reject'",
        "key = ['a']\non_conflict = 'first'\norder_by = 'n'",
        "key = ['n']\non_conflict = 'last'\norder_by = 'd'",
    ] {
        let datasets = define(more).unwrap();
        let dataset = datasets.by_name("d").unwrap();
        assert!(dataset.conflict().is_some(), "{more}");
        let again = Dataset::from_definition(&dataset.definition()).unwrap();
        assert_eq!(*again, **dataset);
    }
    for (more, expected) in [
        ("key = ['x']", "has no column `x`"),
        ("key = ['a', 'a']", "it has `a` twice"),
        ("key = ['o']", "`o`, which may be null"),
        ("key = ['f']", "`f`, which is float"),
        ("key = ['a']\non_conflict = 'last'", "with `order_by`"),
        ("key = ['a']\norder_by = 'n'", "`order_by` is only for"),
        (
            "key = ['a']\non_conflict = 'last'\norder_by = 'x'",
            "has no column `x`",
        ),
        (
            "key = ['a']\non_conflict = 'last'\norder_by = 'a'",
            "of the type integer",
        ),
        (
            "key = ['a']\non_conflict = 'last'\norder_by = 'o'",
            "must be a required column",
        ),
        ("on_conflict = 'last'", "need a `key`"),
        ("order_by = 'n'", "need a `key`"),
        (
            "key = ['a']\non_conflict = 'last'\norder_by = 'n'\nsummary = {table = 's', key = 'a', time \
             = 't', value = 'a'}",
            "it has a `summary` and supersedes rows",
        ),
    ] {
        let error = define(more).unwrap_err().to_string();
        assert!(error.contains(expected), "{more}: {error}");
    }
}
