//! Sends a file that does not begin with the base: copies of the blocks that it shares with the base,
//! and the rest as data.

use std::time::Instant;

use filepull_core::delta::{BlockList, DeltaSearch, Piece};

use super::base::ListRequest;
use super::first_reading::FirstReading;
use super::parts::Part;
use super::{ReadError, Reader};
use crate::extents::ExtentSender;
use crate::server_answers::{NextBlocks, ServerAnswers};

impl Reader {
    /// Receives a list of blocks, and sends keepalives meanwhile. None if the list cannot be used:
    /// then everything is sent as data.
    pub(crate) fn receive_list(
        &self,
        request: ListRequest,
        answers: &mut ServerAnswers,
        extents: &mut ExtentSender<'_, '_>,
    ) -> Result<Option<BlockList>, ReadError> {
        let len = usize::try_from(request.len).unwrap_or(usize::MAX);
        let mut list = Vec::with_capacity(len);
        let mut last_ids = Instant::now();
        while list.len() < len && last_ids.elapsed() < self.list_timeout {
            match answers.next_blocks(self.keepalive_interval.min(self.list_timeout)) {
                NextBlocks::Blocks(blocks) if blocks.gone => break,
                NextBlocks::Blocks(blocks) if !blocks.ids.is_empty() => {
                    list.extend_from_slice(&blocks.ids);
                    last_ids = Instant::now();
                }
                NextBlocks::Blocks(_) | NextBlocks::TimedOut => {}
                NextBlocks::Closed => break,
            }
            extents.keepalive_if_due()?;
        }
        answers.close_list();
        let ListRequest { base_len, offer, .. } = request;
        // A list that is too short or too long is rejected here.
        Ok(BlockList::parse(offer.key, base_len, offer.block_len, &list).ok())
    }

    /// Reads the file from the end of `first`, and sends what `list` does not name.
    pub(crate) fn send_changes(
        &self,
        list: &BlockList,
        first: &mut FirstReading,
        extents: &mut ExtentSender<'_, '_>,
    ) -> Result<(), ReadError> {
        let mut search = DeltaSearch::new(list);
        self.for_each_part(first.n_bytes()..self.size(), |part| {
            first.update(&part);
            let mut sent = Ok(());
            let mut send = |piece: Piece<'_>| sent = sent.and_then(|()| extents.piece(piece));
            match part {
                Part::Bytes(bytes) => {
                    search.push(&bytes, &mut send);
                    sent?;
                }
                Part::Zeros(len) => {
                    let before = std::mem::replace(&mut search, DeltaSearch::new(list));
                    before.finish(&mut send);
                    sent?;
                    extents.hole(len)?;
                }
            }
            extents.keepalive_if_due()
        })?;
        let mut sent = Ok(());
        search.finish(&mut |piece: Piece<'_>| sent = sent.and_then(|()| extents.piece(piece)));
        Ok(sent?)
    }
}
