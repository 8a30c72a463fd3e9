//! docs/datasets.md agrees with the code on definitions and rejects.

use lemonade_task::batch::RejectCode;
use lemonade_task::dataset::{Dataset, Datasets};

use super::read;

#[test]
fn the_examples_of_datasets_are_datasets() {
    let page = read("docs/datasets.md").text;
    let mut names = Vec::new();
    for example in page.split("```toml\n").skip(1) {
        let (example, _) = example.split_once("```").unwrap();
        let file: toml::Table = toml::from_str(example).unwrap();
        let defined: Vec<Dataset> = file["datasets"].clone().try_into().unwrap();
        names.extend(
            defined
                .iter()
                .map(|it| format!("{} {}", it.name, it.columns.len())),
        );
        Datasets::new(defined).unwrap();
    }
    for expected in ["logs 4", "plugins 2", "trips 5", "order_items 1"] {
        assert!(names.iter().any(|name| name == expected), "{names:?}");
    }
}

#[test]
fn codes_of_rejects_are_documented() {
    let page = read("docs/datasets.md").text;
    for code in RejectCode::ALL {
        let name = format!("`{}`", code.as_str());
        assert!(page.contains(&name), "{name} is not in docs/datasets.md");
    }
}
