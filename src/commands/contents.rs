//! Compares the rows of a file with its records, for `verify --content` and `files restore`.

use std::sync::Arc;

use anyhow::bail;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::source::{Source, Unavailable};
use crate::batch::{Batch, SourceFile, provenance, row_id};
use crate::config::Settings;
use crate::cut::Outside;
use crate::dataset::{Dataset, FileValues};
use crate::parse::Parser;
use crate::sink::{Database, Difference, DifferenceKind, LedgerFile};

/// Chunks that are compared at a time: the database reads some while the next one is parsed.
const CHUNKS_AT_ONCE: usize = 3;

/// Most rows beyond the end of a file that are named.
const ROWS_BEYOND_MAX: usize = 1_000;

/// A record whose row differs from the file or is missing.
pub(super) struct Wrong {
    pub(super) difference: Difference,
    /// The record as it would be stored. `None` for a row beyond the end of the file.
    pub(super) record: Option<Batch>,
}

/// The file of a ledger entry, and the definitions with which its records may have become rows.
pub(super) struct Comparison<'a> {
    database: &'a dyn Database,
    source: Source,
    file: SourceFile,
    /// The dataset by whose definition the file was loaded.
    dataset: Arc<Dataset>,
    /// The dataset by whose current definition rejects may have been replayed.
    present: Option<Arc<Dataset>>,
    /// The file, cut by this definition, if it takes values around the records.
    present_source: Option<Source>,
    /// What this definition takes from the file besides its bytes.
    present_values: Option<Arc<FileValues>>,
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
        let source =
            Source::open(settings, &dataset, file, None).map_err(Unavailable::into_error)?;
        let present = settings.datasets.by_name(&dataset.name);
        let present = present.filter(|present| present.fingerprint != dataset.fingerprint);
        let takes_around = |present: &&Arc<Dataset>| {
            let is_same = present.fingerprint.has_ordinals_of(dataset.fingerprint);
            present.takes_around() && is_same
        };
        let open = |present: &Arc<Dataset>| {
            Source::open(settings, present, file, None).map_err(Unavailable::into_error)
        };
        let present_source = present.filter(takes_around).map(open).transpose()?;
        Ok(Self {
            database,
            source,
            file: SourceFile {
                file_no,
                hash: file.hash,
            },
            present_values: present.and_then(|present| file.values(present)),
            present: present.cloned(),
            present_source,
            dataset,
        })
    }

    /// Calls `found` with the records that differ, those of a chunk at a time, by ascending ordinal.
    ///
    /// # Errors
    /// The database or the file cannot be read, or `found` fails.
    pub(super) async fn run(
        self,
        found: &mut impl AsyncFnMut(Vec<Wrong>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (database, file) = (self.database, self.file);
        let source = &self.source;
        let (mut parser, mut buffer) = (Parser::default(), Vec::new());
        let batches = source.plan.chunks.iter().map(|chunk| {
            let batch = source.parse(&mut parser, file, chunk, &mut buffer);
            batch.map_err(Unavailable::into_error)
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
            if !differences.is_empty() {
                found(self.wrong(&mut replays, &batch, differences).await?).await?;
            }
        }
        let beyond = self.beyond().await?;
        if !beyond.is_empty() {
            found(beyond).await?;
        }
        Ok(())
    }

    /// The records of a batch that differ. A replayed record differs only if its row differs from
    /// the text of the replay.
    async fn wrong(
        &self,
        parser: &mut Parser,
        batch: &Batch,
        differences: Vec<Difference>,
    ) -> anyhow::Result<Vec<Wrong>> {
        let replayed = self.database.replayed(batch.span).await?;
        let mut wrong = Vec::new();
        for difference in differences {
            let ordinal = difference.ordinal;
            let (difference, record) = if replayed.binary_search(&ordinal).is_ok() {
                self.by_replay(parser, ordinal).await?
            } else {
                (Some(difference), one_record(batch, ordinal))
            };
            wrong.extend(difference.map(|difference| Wrong {
                difference,
                record: Some(record),
            }));
        }
        Ok(wrong)
    }

    /// How the row of a replayed record differs from the text of the replay, and the record parsed
    /// from that text.
    async fn by_replay(
        &self,
        parser: &mut Parser,
        ordinal: u32,
    ) -> anyhow::Result<(Option<Difference>, Batch)> {
        let file_no = self.file.file_no;
        let text = self.database.replayed_text(file_no, ordinal).await?;
        let Some(text) = text else {
            bail!("the replay of record {file_no}:{ordinal} was removed meanwhile: run this again");
        };
        // Parsed with the definition of the load and with the current one, since the replay used
        // the definition of its time.
        let outside = self
            .source
            .outside(ordinal)
            .map_err(Unavailable::into_error)?;
        let mut record = parser.parse_record(&self.dataset, self.file, ordinal, &text, &outside);
        let mut difference = self.database.differences(&record).await?.pop();
        if let Some(present) = self.present.as_ref().filter(|_| difference.is_some()) {
            let outside = self.outside_by_present(ordinal)?;
            let by_present = parser.parse_record(present, self.file, ordinal, &text, &outside);
            if self.database.differences(&by_present).await?.is_empty() {
                (difference, record) = (None, by_present);
            }
        }
        Ok((difference, record))
    }

    /// The values outside of a record by the current definition.
    fn outside_by_present(&self, ordinal: u32) -> anyhow::Result<Outside<'static>> {
        let Some(source) = &self.present_source else {
            return Ok(Outside::default().of_file(self.present_values.clone()));
        };
        source.outside(ordinal).map_err(Unavailable::into_error)
    }

    /// The rows whose ids are beyond the last record of the file.
    async fn beyond(&self) -> anyhow::Result<Vec<Wrong>> {
        let file_no = self.file.file_no;
        let first = row_id(file_no, 0) + u64::from(self.source.plan.records);
        let ids = first..row_id(file_no, u32::MAX) + 1;
        let rows = self.database.row_ids(&self.dataset, ids, ROWS_BEYOND_MAX);
        let foreign = |id: u64| Wrong {
            difference: Difference {
                ordinal: provenance(id).1,
                kind: DifferenceKind::Foreign,
            },
            record: None,
        };
        Ok(rows.await?.into_iter().map(foreign).collect())
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
