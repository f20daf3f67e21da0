//! Which arrived request an outgoing one belongs to.
//!
//! Parents and principal are inherited only from one unambiguous open inbound request: with two
//! open at one time nobody can say which of them caused the action (design, section 4).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Longest chain of parents that an envelope carries.
const MAX_PARENTS: usize = 8;

/// What an outgoing action inherits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    /// SAE hashes of what led here, root first, at most 8.
    pub parents: Vec<[u8; 32]>,
    /// Verified user on whose behalf the agent acts.
    pub principal: Option<String>,
    /// Session of the request that led here.
    pub session: Option<String>,
}

#[derive(Default)]
struct Open {
    next: u64,
    requests: HashMap<u64, Lineage>,
}

/// The inbound requests that the application is working on.
#[derive(Clone, Default)]
pub struct OpenRequests {
    open: Arc<Mutex<Open>>,
}

impl OpenRequests {
    /// Registers an admitted request until the guard is dropped. `own` is its SAE hash, `above`
    /// the parents that it names itself.
    pub fn enter(
        &self,
        own: [u8; 32],
        above: &[[u8; 32]],
        principal: Option<String>,
        session: String,
    ) -> Entered {
        // The nearest ancestors are kept: they are what a reader needs to go further up.
        let skip = above.len().saturating_sub(MAX_PARENTS - 1);
        let parents = above.iter().skip(skip).copied().chain([own]).collect();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let id = open.next;
        open.next = open.next.wrapping_add(1);
        open.requests.insert(
            id,
            Lineage {
                parents,
                principal,
                session: Some(session),
            },
        );
        Entered {
            id,
            open: self.clone(),
        }
    }

    /// What an action inherits now: of exactly one open request, else nothing.
    pub fn lineage(&self) -> Lineage {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut requests = open.requests.values();
        match (requests.next(), requests.next()) {
            (Some(only), None) => only.clone(),
            _ => Lineage::default(),
        }
    }
}

/// An inbound request that is open while this lives.
pub struct Entered {
    id: u64,
    open: OpenRequests,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut open = self
            .open
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        open.requests.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_inherits_from_the_only_open_request() {
        let open = OpenRequests::default();
        let guard = open.enter([2; 32], &[[1; 32]], Some("alice".into()), "s".into());
        let lineage = open.lineage();
        assert_eq!(lineage.parents, [[1; 32], [2; 32]]);
        assert_eq!(lineage.principal.as_deref(), Some("alice"));
        drop(guard);
        assert_eq!(open.lineage(), Lineage::default());
    }

    #[test]
    fn with_two_open_requests_nothing_is_inherited() {
        let open = OpenRequests::default();
        let _one = open.enter([1; 32], &[], Some("alice".into()), "a".into());
        let _two = open.enter([2; 32], &[], Some("bob".into()), "b".into());
        assert_eq!(open.lineage(), Lineage::default());
    }

    #[test]
    fn a_chain_keeps_its_eight_nearest_ancestors() {
        let open = OpenRequests::default();
        let above: Vec<[u8; 32]> = (0..8).map(|n| [n; 32]).collect();
        let _guard = open.enter([9; 32], &above, None, "s".into());
        let parents = open.lineage().parents;
        assert_eq!(parents.len(), 8);
        assert_eq!(parents.first(), Some(&[1; 32]));
        assert_eq!(parents.last(), Some(&[9; 32]));
    }
}
