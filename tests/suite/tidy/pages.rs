//! docs/datasets.md agrees with the code on definitions and rejects.

use lemonade_task::batch::RejectCode;
use lemonade_task::dataset::Datasets;

use super::read;

#[test]
fn the_example_of_a_dataset_is_one() {
    let page = read("docs/datasets.md").text;
    let (_, example) = page.split_once("```toml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let file: toml::Table = toml::from_str(example).unwrap();
    let trips = file["datasets"][0].clone().try_into().unwrap();
    let datasets = Datasets::new(vec![trips]).unwrap();
    assert_eq!(datasets.by_name("trips").unwrap().columns.len(), 5);
}

#[test]
fn codes_of_rejects_are_documented() {
    let page = read("docs/datasets.md").text;
    for code in RejectCode::ALL {
        let name = format!("`{}`", code.as_str());
        assert!(page.contains(&name), "{name} is not in docs/datasets.md");
    }
}
