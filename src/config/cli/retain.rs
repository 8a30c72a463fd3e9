//! The arguments of `retain`.

/// Arguments of `retain`.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct RetainArgs {
    /// Print what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
