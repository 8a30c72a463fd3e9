//! [`Erasures`] of MySQL: each method is work on a session.

use async_trait::async_trait;

use crate::batch::ContentHash;
use crate::dataset::Datasets;
use crate::fault::Fault;
use crate::sink::erasures::{self, literal};
use crate::sink::{Blank, Erasure, Erasures};

use super::session::Session;
use super::{MysqlSink, READING_LEDGER, erase};

#[async_trait]
impl Erasures for MysqlSink {
    async fn erase(&self, id: u64, datasets: &Datasets) -> Result<Erasure, Fault> {
        let work = async |session: &mut Session| erase::erase(session, id, datasets).await;
        self.control.on_session("erasing a record", work).await
    }

    async fn erased(&self, file_no: u32) -> Result<Vec<u32>, Fault> {
        let work = async |session: &mut Session| session.rows(&erasures::erased(file_no)).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn with_content(&self, content: ContentHash) -> Result<Vec<u32>, Fault> {
        let sql = erasures::with_content(&literal(content));
        let work = async |session: &mut Session| session.rows(&sql).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn begin_blank(&self, blank: Blank) -> Result<(), Fault> {
        let work =
            async |session: &mut Session| session.run(&erase::insert(&blank)).await.map(drop);
        self.control.on_session("erasing a record", work).await
    }

    async fn end_blank(&self, blank: Blank, file_nos: &[u32]) -> Result<(), Fault> {
        let work = async |session: &mut Session| erase::end_blank(session, &blank, file_nos).await;
        self.control.on_session("erasing a record", work).await
    }
}
