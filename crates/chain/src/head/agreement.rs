//! k of n distinct endpoints agree on a block hash.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use futures::StreamExt;
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

/// How long the slow are waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Once a quorum has answered without agreeing at its tips, the others get this long before a lower block is tried.
    pub grace: Duration,
    /// The head so far: a lower block than this is no reason to stop waiting.
    pub floor: u64,
}

/// The highest block whose hash `quorum` endpoints agree on. Endpoints may be a few blocks apart: those ahead are asked
/// for the lower height. It does not wait for the slow ones once a quorum is there: a quorum is a majority, so no other
/// can stand higher.
pub(crate) async fn agree(
    endpoints: &[Arc<Endpoint>],
    quorum: usize,
    tag: HeadTag,
    patience: Patience,
) -> Result<Agreed, ChainError> {
    let mut asked: FuturesUnordered<_> = endpoints
        .iter()
        .enumerate()
        .map(|(index, endpoint)| async move { (index, endpoint.head(tag.as_str()).await) })
        .collect();
    let mut tips: BTreeMap<usize, ProvedHeader> = BTreeMap::new();
    let mut tried_lower = false;
    loop {
        let next = if tips.len() >= quorum && !tried_lower {
            tokio::time::timeout(patience.grace, asked.next()).await
        } else {
            Ok(asked.next().await)
        };
        match next {
            Ok(None) => break,
            Ok(Some((_, Err(_)))) => {}
            Ok(Some((index, Ok(header)))) => {
                let hash = header.hash;
                tips.insert(index, header);
                if let Some(agreed) = elected(&tips, hash, quorum) {
                    dissent(endpoints, &tips, &agreed.header);
                    return Ok(agreed);
                }
            }
            Err(_) => {
                tried_lower = true;
                let lower = agree_lower(endpoints, quorum, &tips).await;
                if let Some(agreed) = lower.filter(|a| a.header.number >= patience.floor) {
                    return Ok(agreed);
                }
            }
        }
    }
    let agreed = agree_lower(endpoints, quorum, &tips).await;
    agreed.ok_or(ChainError::NoQuorum {
        quorum,
        endpoints: endpoints.len(),
        answered: tips.len(),
    })
}

/// The highest block that a quorum has, at the height of one of the tips.
async fn agree_lower(
    endpoints: &[Arc<Endpoint>],
    quorum: usize,
    tips: &BTreeMap<usize, ProvedHeader>,
) -> Option<Agreed> {
    for height in heights(tips, quorum) {
        let known = tips.iter().filter(|(_, tip)| tip.number == height);
        let known = known.map(|(index, tip)| (*index, tip.clone())).collect();
        let ahead = endpoints
            .iter()
            .enumerate()
            .filter(|(index, _)| tips.get(index).is_some_and(|tip| tip.number > height));
        let agreed = vote(ahead, height, quorum, known).await;
        if let Some((agreed, votes)) = agreed {
            dissent(endpoints, &votes, &agreed.header);
            return Some(agreed);
        }
    }
    None
}

/// Heights that at least `quorum` endpoints have reached, highest first. There are no more than endpoints.
fn heights(tips: &BTreeMap<usize, ProvedHeader>, quorum: usize) -> Vec<u64> {
    let mut heights: Vec<u64> = tips.values().map(|header| header.number).collect();
    heights.sort_unstable_by(|a, b| b.cmp(a));
    let mut reached: Vec<u64> = heights.into_iter().skip(quorum.saturating_sub(1)).collect();
    reached.dedup();
    reached
}

/// Asks endpoints for the block at this height until a quorum has the same one, votes already known included.
async fn vote<'a>(
    asked: impl Iterator<Item = (usize, &'a Arc<Endpoint>)>,
    height: u64,
    quorum: usize,
    known: BTreeMap<usize, ProvedHeader>,
) -> Option<(Agreed, BTreeMap<usize, ProvedHeader>)> {
    let mut votes = known;
    let mut asked: FuturesUnordered<_> = asked
        .map(|(index, endpoint)| async move { (index, endpoint.header_at(height).await) })
        .collect();
    loop {
        let winner = votes
            .values()
            .find_map(|header| elected(&votes, header.hash, quorum));
        if let Some(agreed) = winner {
            return Some((agreed, votes));
        }
        let (index, answer) = asked.next().await?;
        if let Ok(header) = answer {
            votes.insert(index, header);
        }
    }
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
        let all = endpoints.iter().enumerate();
        match vote(all, number, quorum, BTreeMap::new()).await {
            Some((agreed, _)) if agreed.header.hash != hash => orphans.push((number, hash)),
            _ => break,
        }
    }
    orphans
}
