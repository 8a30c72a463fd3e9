//! Compares the rows of a file with its records, for `verify --content` and `files restore`.

use std::sync::Arc;

use anyhow::bail;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::source::Source;
use crate::batch::{Batch, SourceFile, provenance, row_id};
use crate::config::Settings;
use crate::cut::Chunk;
use crate::dataset::Dataset;
use crate::parse::{self, Parser};
use crate::sink::{Database, Difference, DifferenceKind, LedgerFile};

/// Chunks that are compared at a time: the database reads some while the next one is parsed.
const CHUNKS_AT_ONCE: usize = 3;

/// Most rows beyond the end of a file that are named.
const ROWS_BEYOND_MAX: usize = 1_000;

/// A record whose row differs from the file or is missing.
pub(super) struct Wrong {
    pub(super) difference: Difference,
    /// The record as it would be stored. Empty for a row beyond the end of the file.
    pub(super) record: Option<Batch>,
}

/// The file of a ledger entry, and the definitions by which its records may have become rows.
pub(super) struct Comparison<'a> {
    database: &'a dyn Database,
    source: Source,
    file: SourceFile,
    /// The dataset by whose definition the file was loaded.
    dataset: Arc<Dataset>,
    /// The dataset by whose current definition rejects may have been replayed.
    present: Option<Arc<Dataset>>,
    parser: Parser,
}

impl<'a> Comparison<'a> {
    /// Opens the file of an entry.
    ///
    /// # Errors
    /// The definition is not known, or the file cannot be found or read.
    pub(super) async fn open(
        settings: &Settings,
        database: &'a dyn Database,
        file: &LedgerFile,
    ) -> anyhow::Result<Self> {
        let file_no = file.entry.file_no;
        let Some(dataset) = database.loaded_by(file_no, &settings.datasets).await? else {
            bail!("file {file_no} is no longer in the ledger");
        };
        let source = Source::open(settings, &dataset, file, None)
            .map_err(super::source::Unavailable::into_error)?;
        let present = settings.datasets.by_name(&dataset.name);
        let present = present.filter(|present| present.fingerprint != dataset.fingerprint);
        Ok(Self {
            database,
            source,
            file: SourceFile {
                file_no,
                hash: file.hash,
            },
            present: present.cloned(),
            dataset,
            parser: Parser::default(),
        })
    }

    /// Calls `found` with each record that differs, by ascending ordinal.
    ///
    /// # Errors
    /// The database or the file cannot be read, or `found` fails.
    pub(super) async fn run(
        mut self,
        found: &mut impl FnMut(Wrong) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (database, file) = (self.database, self.file);
        let mut parser = std::mem::take(&mut self.parser);
        let (source, dataset) = (&self.source, &self.dataset);
        let mut buffer = Vec::new();
        let batches = source.plan.chunks.iter().map(|chunk| {
            let layout = source.plan.layout;
            let parse = |bytes: &[u8]| parser.parse(dataset, file, layout, *chunk, bytes);
            let Chunk {
                start,
                end,
                records,
                ..
            } = *chunk;
            let batch = if parse::is_one_too_large(records, end - start) {
                source.inspect(start..end, parse)
            } else {
                source.read(start..end, &mut buffer).map(parse)
            };
            batch.map_err(super::source::Unavailable::into_error)
        });
        let compared = stream::iter(batches)
            .map(|batch| async move {
                let batch = batch?;
                let differences = database.differences(&batch).await?;
                anyhow::Ok((batch, differences))
            })
            .buffered(CHUNKS_AT_ONCE);
        let mut compared = std::pin::pin!(compared);
        let mut replays = Parser::default();
        while let Some((batch, differences)) = compared.try_next().await? {
            for difference in differences {
                let record = one_record(&batch, difference.ordinal);
                let replayed = self.replayed(&mut replays, difference.ordinal).await?;
                match replayed {
                    None => found(Wrong {
                        difference,
                        record: Some(record),
                    })?,
                    Some((difference, record)) => {
                        if let Some(difference) = difference {
                            found(Wrong {
                                difference,
                                record: Some(record),
                            })?;
                        }
                    }
                }
            }
        }
        self.beyond(found).await
    }

    /// For a record that was replayed: how its row differs from the text of the replay, and the
    /// record parsed from that text. `None` if the record was not replayed.
    async fn replayed(
        &self,
        parser: &mut Parser,
        ordinal: u32,
    ) -> anyhow::Result<Option<(Option<Difference>, Batch)>> {
        let file_no = self.file.file_no;
        let Some(text) = self.database.replayed_text(file_no, ordinal).await? else {
            return Ok(None);
        };
        let mut first = None;
        for dataset in [Some(&self.dataset), self.present.as_ref()]
            .into_iter()
            .flatten()
        {
            let record = parser.parse_record(dataset, self.file, ordinal, &text);
            let difference = self.database.differences(&record).await?.pop();
            if difference.is_none() {
                return Ok(Some((None, record)));
            }
            first = first.or(Some((difference, record)));
        }
        Ok(first)
    }

    /// The rows whose ids are beyond the last record of the file.
    async fn beyond(
        &self,
        found: &mut impl FnMut(Wrong) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let file_no = self.file.file_no;
        let first = row_id(file_no, 0) + u64::from(self.source.plan.records);
        let ids = first..row_id(file_no, u32::MAX) + 1;
        let rows = self.database.row_ids(&self.dataset, ids, ROWS_BEYOND_MAX);
        for id in rows.await? {
            found(Wrong {
                difference: Difference {
                    ordinal: provenance(id).1,
                    kind: DifferenceKind::Foreign,
                },
                record: None,
            })?;
        }
        Ok(())
    }
}

/// A batch with one record of `batch`.
fn one_record(batch: &Batch, ordinal: u32) -> Batch {
    let before = batch
        .rejects
        .partition_point(|reject| reject.ordinal < ordinal);
    let rejects: Vec<_> = batch.rejects[before..]
        .iter()
        .take_while(|reject| reject.ordinal == ordinal)
        .cloned()
        .collect();
    let row = (ordinal - batch.span.first_ordinal) as usize - before;
    let mut span = batch.span;
    (span.first_ordinal, span.records) = (ordinal, 1);
    Batch {
        dataset: batch.dataset.clone(),
        span,
        hash: batch.hash,
        rows: batch
            .rows
            .slice(row.min(batch.rows.num_rows()), 1 - rejects.len()),
        rejects,
    }
}
