//! k of n distinct endpoints agree on a block hash.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::B256;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use writ_policy::ProvedHeader;

use crate::rpc::Endpoint;
use crate::{ChainError, HeadTag};

/// A header that a quorum agrees on.
#[derive(Debug, Clone)]
pub(crate) struct Agreed {
    pub header: ProvedHeader,
    /// Indices of the endpoints that voted for it.
    pub voters: Vec<usize>,
}

/// The highest block whose hash `quorum` endpoints agree on. Endpoints may be a few blocks apart: those ahead are asked
/// for the lower height. It does not wait for the slow ones once a quorum is there: a quorum is a majority, so no other
/// can stand higher.
pub(crate) async fn agree(
    endpoints: &[Arc<Endpoint>],
    quorum: usize,
    tag: HeadTag,
) -> Result<Agreed, ChainError> {
    let mut asked: FuturesUnordered<_> = endpoints
        .iter()
        .enumerate()
        .map(|(index, endpoint)| async move { (index, endpoint.head(tag.as_str()).await) })
        .collect();
    let mut tips: BTreeMap<usize, ProvedHeader> = BTreeMap::new();
    while let Some((index, answer)) = asked.next().await {
        let Ok(header) = answer else { continue };
        let hash = header.hash;
        tips.insert(index, header);
        if let Some(agreed) = elected(&tips, hash, quorum) {
            dissent(endpoints, &tips, &agreed.header);
            return Ok(agreed);
        }
    }
    let no_quorum = ChainError::NoQuorum {
        quorum,
        endpoints: endpoints.len(),
        answered: tips.len(),
    };
    for height in heights(&tips, quorum) {
        let votes = votes(endpoints, &tips, height).await;
        let agreed = votes
            .values()
            .find_map(|header| elected(&votes, header.hash, quorum));
        if let Some(agreed) = agreed {
            dissent(endpoints, &votes, &agreed.header);
            return Ok(agreed);
        }
    }
    Err(no_quorum)
}

/// Heights that at least `quorum` endpoints have reached, highest first. There are no more than endpoints.
fn heights(tips: &BTreeMap<usize, ProvedHeader>, quorum: usize) -> Vec<u64> {
    let mut heights: Vec<u64> = tips.values().map(|header| header.number).collect();
    heights.sort_unstable_by(|a, b| b.cmp(a));
    let mut reached: Vec<u64> = heights.into_iter().skip(quorum.saturating_sub(1)).collect();
    reached.dedup();
    reached
}

/// What each endpoint that reached this height has there.
async fn votes(
    endpoints: &[Arc<Endpoint>],
    tips: &BTreeMap<usize, ProvedHeader>,
    height: u64,
) -> BTreeMap<usize, ProvedHeader> {
    let reached = endpoints
        .iter()
        .enumerate()
        .filter_map(|(index, endpoint)| {
            let tip = tips.get(&index).filter(|tip| tip.number >= height)?;
            Some((index, endpoint, tip))
        });
    let asked = reached.map(|(index, endpoint, tip)| async move {
        if tip.number == height {
            return Some((index, tip.clone()));
        }
        Some((index, endpoint.header_at(height).await.ok()?))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn elected(votes: &BTreeMap<usize, ProvedHeader>, hash: B256, quorum: usize) -> Option<Agreed> {
    let voters: Vec<usize> = votes
        .iter()
        .filter(|(_, header)| header.hash == hash)
        .map(|(index, _)| *index)
        .collect();
    let header = votes.get(voters.first()?)?.clone();
    (voters.len() >= quorum).then_some(Agreed { header, voters })
}

/// Counts against endpoints that have another block at the agreed height.
fn dissent(
    endpoints: &[Arc<Endpoint>],
    votes: &BTreeMap<usize, ProvedHeader>,
    agreed: &ProvedHeader,
) {
    for (index, header) in votes {
        if header.number == agreed.number
            && header.hash != agreed.hash
            && let Some(endpoint) = endpoints.get(*index)
        {
            endpoint.disagreed();
        }
    }
}

/// Which of these earlier heads, newest first, a quorum says are no longer part of the chain. Ends at the first that is.
pub(crate) async fn orphaned(
    endpoints: &[Arc<Endpoint>],
    quorum: usize,
    earlier: impl IntoIterator<Item = (u64, B256)>,
) -> Vec<(u64, B256)> {
    let mut orphans = Vec::new();
    for (number, hash) in earlier {
        let answers = join_all(endpoints.iter().map(|endpoint| endpoint.header_at(number))).await;
        let votes: BTreeMap<usize, ProvedHeader> =
            answers.into_iter().flatten().enumerate().collect();
        match votes
            .values()
            .find_map(|header| elected(&votes, header.hash, quorum))
        {
            Some(agreed) if agreed.header.hash != hash => orphans.push((number, hash)),
            _ => break,
        }
    }
    orphans
}
