//! The views of definitions.

use crate::dataset::Datasets;
use crate::sink::view::views;

use super::errors::Failure;
use super::session::Session;

/// Creates the views that do not exist. With `again`, those that exist are made again.
pub(super) async fn make_views(
    session: &mut Session,
    datasets: &Datasets,
    again: bool,
) -> Result<(), Failure> {
    for view in views(datasets) {
        if !has_view(session, view.name).await? {
            session.run(&view.create()).await?;
        } else if again {
            let replace = view.create().replacen("CREATE", "CREATE OR REPLACE", 1);
            session.run(&replace).await?;
        }
    }
    Ok(())
}

async fn has_view(session: &mut Session, name: &str) -> Result<bool, Failure> {
    let sql = "SELECT 1 FROM information_schema.VIEWS WHERE TABLE_SCHEMA = DATABASE() AND \
               TABLE_NAME = ?";
    let found: Vec<u8> = session.rows_with(sql, (name,)).await?;
    Ok(!found.is_empty())
}

/// The names of the views of definitions that do not exist.
pub(super) async fn missing_views(
    session: &mut Session,
    datasets: &Datasets,
) -> Result<Vec<String>, Failure> {
    let mut missing = Vec::new();
    for view in views(datasets) {
        if !has_view(session, view.name).await? {
            missing.push(view.name.to_owned());
        }
    }
    Ok(missing)
}
