//! Compares the rows of a file with its records, for `verify --content` and `files restore`.

use std::sync::Arc;

use anyhow::bail;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::source::{Source, Unavailable};
use crate::batch::{Batch, SourceFile, Span, provenance, row_id};
use crate::config::Settings;
use crate::cut::Outside;
use crate::dataset::{Dataset, Fingerprint};
use crate::parse::Parser;
use crate::sink::{Database, Difference, DifferenceKind, LedgerFile};

/// Chunks that are compared at a time: the database reads some while the next one is parsed.
const CHUNKS_AT_ONCE: usize = 3;

/// Most rows beyond the end of a file that are named.
const ROWS_BEYOND_MAX: usize = 1_000;

/// A record whose row differs from the file or is missing.
pub(crate) struct Wrong {
    pub(crate) difference: Difference,
    /// The record as it would be stored. `None` for a row beyond the end of the file.
    pub(crate) record: Option<Batch>,
}

/// The file of a ledger entry, and the definition by which it was loaded.
pub(crate) struct Comparison<'a> {
    settings: &'a Settings,
    database: &'a dyn Database,
    entry: &'a LedgerFile,
    source: Source,
    file: SourceFile,
    /// The dataset by whose definition the file was loaded.
    dataset: Arc<Dataset>,
}

/// Parses the texts of replays.
#[derive(Default)]
struct Replays {
    parser: Parser,
    /// The file, cut by the definition of the last replay whose columns take values outside of the
    /// records.
    source: Option<(Fingerprint, Source)>,
}

impl<'a> Comparison<'a> {
    /// Opens the file of an entry.
    ///
    /// # Errors
    /// The definition is not known, or the file cannot be found or read.
    pub(crate) async fn open(
        settings: &'a Settings,
        database: &'a dyn Database,
        entry: &'a LedgerFile,
    ) -> anyhow::Result<Self> {
        let file_no = entry.entry.file_no;
        let Some(dataset) = database.loaded_by(file_no, &settings.datasets).await? else {
            bail!("file {file_no} is no longer in the ledger");
        };
        let source =
            Source::open(settings, &dataset, entry, None).map_err(Unavailable::into_error)?;
        Ok(Self {
            settings,
            database,
            entry,
            source,
            file: SourceFile {
                file_no,
                hash: entry.hash,
            },
            dataset,
        })
    }

    /// Leaves out the chunks without records that rows superseded which are gone. Returns the ordinals
    /// of these records, ascending.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) async fn keep_superseded(&mut self) -> anyhow::Result<Vec<u32>> {
        let mut ordinals = Vec::new();
        let mut kept = Vec::new();
        for chunk in std::mem::take(&mut self.source.plan.chunks) {
            let span = Span {
                file_no: self.file.file_no,
                first_ordinal: chunk.first_ordinal,
                records: chunk.records,
            };
            let of_chunk = self.database.unsuperseded(&self.dataset, span).await?;
            if !of_chunk.is_empty() {
                ordinals.extend(of_chunk);
                kept.push(chunk);
            }
        }
        self.source.plan.chunks = kept;
        Ok(ordinals)
    }

    /// Calls `found` with the records that differ, those of a chunk at a time, by ascending ordinal.
    ///
    /// # Errors
    /// The database or the file cannot be read, or `found` fails.
    pub(crate) async fn run(
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
        let mut replays = Replays::default();
        while let Some((batch, differences)) = compared.try_next().await? {
            let wrong = self.wrong(&mut replays, &batch, differences).await?;
            if !wrong.is_empty() {
                found(wrong).await?;
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
        replays: &mut Replays,
        batch: &Batch,
        differences: Vec<Difference>,
    ) -> anyhow::Result<Vec<Wrong>> {
        let replayed = self.database.replayed(batch.span).await?;
        let is_replayed = |ordinal: &u32| replayed.binary_search(ordinal).is_ok();
        let own = differences
            .into_iter()
            .filter(|difference| !is_replayed(&difference.ordinal));
        let mut wrong: Vec<Wrong> = own
            .map(|difference| Wrong {
                record: Some(one_record(batch, difference.ordinal)),
                difference,
            })
            .collect();
        for ordinal in replayed {
            wrong.extend(self.by_replay(replays, ordinal).await?);
        }
        wrong.sort_by_key(|wrong| wrong.difference.ordinal);
        Ok(wrong)
    }

    /// How the row of a replayed record differs from the text of the replay, and the record parsed
    /// from that text. `None` if it does not differ.
    async fn by_replay(
        &self,
        replays: &mut Replays,
        ordinal: u32,
    ) -> anyhow::Result<Option<Wrong>> {
        let file_no = self.file.file_no;
        let Some(replay) = self.database.replay_of(file_no, ordinal).await? else {
            bail!("the replay of record {file_no}:{ordinal} was removed meanwhile: run this again");
        };
        let present = self.settings.datasets.by_name(&self.dataset.name);
        // An earlier release did not record the definition of a replay. It was that of the file, or
        // a later one.
        let definitions = match replay.dataset {
            Some(dataset) => vec![dataset],
            None => [Some(&self.dataset), present]
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
        };
        let mut wrong = None;
        for dataset in definitions {
            let outside = self.outside(replays, &dataset, ordinal)?;
            let text = &replay.text;
            let parser = &mut replays.parser;
            let mut record = parser.parse_record(&dataset, self.file, ordinal, text, &outside);
            let Some(difference) = self.database.differences(&record).await?.pop() else {
                return Ok(None);
            };
            // A commit takes only records by the definition of their file.
            if dataset.fingerprint != self.dataset.fingerprint {
                let mut dataset = Dataset::clone(&dataset);
                dataset.fingerprint = self.dataset.fingerprint;
                record.dataset = Arc::new(dataset);
            }
            wrong.get_or_insert(Wrong {
                difference,
                record: Some(record),
            });
        }
        Ok(wrong)
    }

    /// The values outside of a record that the columns of a definition take.
    fn outside(
        &self,
        replays: &mut Replays,
        dataset: &Arc<Dataset>,
        ordinal: u32,
    ) -> anyhow::Result<Outside<'static>> {
        let print = dataset.fingerprint;
        if !dataset.takes_around() || !print.has_ordinals_of(self.dataset.fingerprint) {
            return Ok(Outside::default().of_file(self.entry.values(dataset)));
        }
        let opened = &mut replays.source;
        if opened.as_ref().is_none_or(|(opened, _)| *opened != print) {
            let source = Source::open(self.settings, dataset, self.entry, None);
            *opened = Some((print, source.map_err(Unavailable::into_error)?));
        }
        let (_, source) = opened.as_ref().expect("set above");
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
