//! One agreed head after the other: onwards, the same, replaced, or refused.

use writ_policy::ProvedHeader;

/// How an accepted head relates to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// There was none before.
    First,
    /// The same block.
    Same,
    /// Its child.
    Child,
    /// Higher, with blocks between them that were not seen.
    Gap,
    /// Another block at the same height, or a next block with another parent.
    Reorg,
}

/// Why an agreed head is not taken. The head before stays, and ages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadRefusal {
    /// The endpoints serve an older block than before.
    #[error("endpoints went back from block {from} to {to}; check that they are in sync")]
    WentBack {
        /// Height of the head before.
        from: u64,
        /// Height served now.
        to: u64,
    },
    /// The block lies in the future.
    #[error("block {number} is {ahead} s ahead of this machine's clock; check the clock")]
    Ahead {
        /// Height.
        number: u64,
        /// Seconds ahead of the wall clock.
        ahead: u64,
    },
    /// A child is older than its parent.
    #[error("block {number} is older than its ancestor; the endpoints serve no valid chain")]
    TimeWentBack {
        /// Height.
        number: u64,
    },
}

/// Judges a head that a quorum agrees on. `now` is wall time and `max_ahead` a span, both in seconds.
pub(crate) fn judge(
    current: Option<&ProvedHeader>,
    next: &ProvedHeader,
    now: u64,
    max_ahead: u64,
) -> Result<Step, HeadRefusal> {
    let ahead = next.timestamp.saturating_sub(now);
    if ahead > max_ahead {
        return Err(HeadRefusal::Ahead {
            number: next.number,
            ahead,
        });
    }
    let Some(current) = current else {
        return Ok(Step::First);
    };
    if next.hash == current.hash {
        return Ok(Step::Same);
    }
    if next.number < current.number {
        return Err(HeadRefusal::WentBack {
            from: current.number,
            to: next.number,
        });
    }
    if next.number == current.number {
        return Ok(Step::Reorg);
    }
    let step = match next.number - current.number {
        1 if next.parent_hash == current.hash => Step::Child,
        1 => return Ok(Step::Reorg),
        _ => Step::Gap,
    };
    if step == Step::Child && next.timestamp < current.timestamp {
        return Err(HeadRefusal::TimeWentBack {
            number: next.number,
        });
    }
    Ok(step)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_primitives::B256;

    fn header(number: u64, timestamp: u64, parent: B256) -> ProvedHeader {
        let header = alloy::consensus::Header {
            number,
            timestamp,
            parent_hash: parent,
            ..Default::default()
        };
        ProvedHeader::from_consensus(&header).unwrap()
    }

    #[test]
    fn onwards_the_same_and_replaced_are_told_apart() {
        let a = header(10, 1000, B256::ZERO);
        let judged = |next: &ProvedHeader| judge(Some(&a), next, 1000, 30);
        assert_eq!(judge(None, &a, 1000, 30), Ok(Step::First));
        assert_eq!(judged(&a), Ok(Step::Same));
        assert_eq!(judged(&header(11, 1002, a.hash)), Ok(Step::Child));
        assert_eq!(
            judged(&header(11, 1002, B256::repeat_byte(1))),
            Ok(Step::Reorg)
        );
        assert_eq!(judged(&header(10, 1001, B256::ZERO)), Ok(Step::Reorg));
        assert_eq!(judged(&header(15, 1010, B256::ZERO)), Ok(Step::Gap));
    }

    #[test]
    fn going_back_the_future_and_time_running_backwards_are_refused() {
        let a = header(10, 1000, B256::ZERO);
        let judged = |next: &ProvedHeader, now| judge(Some(&a), next, now, 30);
        let back = header(9, 1000, B256::ZERO);
        assert_eq!(
            judged(&back, 1000),
            Err(HeadRefusal::WentBack { from: 10, to: 9 })
        );
        let future = header(11, 1031, a.hash);
        assert_eq!(
            judged(&future, 1000),
            Err(HeadRefusal::Ahead {
                number: 11,
                ahead: 31
            })
        );
        assert_eq!(judged(&future, 1001), Ok(Step::Child));
        let older = header(11, 999, a.hash);
        assert_eq!(
            judged(&older, 1000),
            Err(HeadRefusal::TimeWentBack { number: 11 })
        );
    }

    #[test]
    fn a_clock_set_back_refuses_heads_instead_of_making_them_younger() {
        let a = header(10, 1000, B256::ZERO);
        assert!(judge(Some(&a), &header(11, 1002, a.hash), 100, 30).is_err());
        assert!(judge(None, &a, 100, 30).is_err());
    }
}
