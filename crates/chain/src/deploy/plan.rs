//! What to deploy, for whom.

use std::collections::BTreeSet;
use std::time::Duration;

use alloy::primitives::{Address, B256};

use crate::tx::TxError;

/// Shortest delay outside development.
const LEAST_DELAY: Duration = Duration::from_secs(3600);
/// Longest delay that makes sense.
const LONGEST_DELAY: Duration = Duration::from_secs(30 * 86_400);
const MAX_MEMBERS: usize = 32;

/// What the deployment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// At least 3 of 5 owners and a delay of an hour or more.
    Production,
    /// Any number of owners, any delay.
    Development,
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployPlan {
    /// What it is for.
    pub profile: Profile,
    /// Owners of the multisig.
    pub owners: Vec<Address>,
    /// How many of them must agree.
    pub threshold: u32,
    /// Delay of the timelock.
    pub delay: Duration,
    /// Revokes and pauses, at once.
    pub guardian: Address,
    /// Anchors, and marks approvals as used.
    pub anchorer: Address,
    /// Approve actions.
    pub approvers: Vec<Address>,
    /// How many of them must agree.
    pub approval_threshold: u32,
    /// CREATE2 salt: another one gives another deployment.
    pub salt: B256,
}

impl DeployPlan {
    /// A development chain: one owner, no delay, one approver.
    pub fn development(
        owner: Address,
        guardian: Address,
        anchorer: Address,
        approver: Address,
    ) -> Self {
        Self {
            profile: Profile::Development,
            owners: vec![owner],
            threshold: 1,
            delay: Duration::ZERO,
            guardian,
            anchorer,
            approvers: vec![approver],
            approval_threshold: 1,
            salt: B256::ZERO,
        }
    }

    pub(super) fn check(&self) -> Result<(), TxError> {
        members("owners", &self.owners, self.threshold)?;
        members("approvers", &self.approvers, self.approval_threshold)?;
        let refuse = |text: String| Err(TxError::Plan(text));
        if self.guardian.is_zero() || self.anchorer.is_zero() {
            return refuse("guardian and anchorer must be given".into());
        }
        if self.delay > LONGEST_DELAY {
            return refuse(format!(
                "a delay of {:?} is longer than 30 days",
                self.delay
            ));
        }
        if self.profile == Profile::Development {
            return Ok(());
        }
        if self.owners.len() < 5 || self.threshold < 3 {
            return refuse("outside development there are at least 3 of 5 owners".into());
        }
        if self.delay < LEAST_DELAY {
            return refuse("outside development the timelock's delay is at least 1h".into());
        }
        if self.owners.contains(&self.guardian)
            || self.owners.contains(&self.anchorer)
            || self.guardian == self.anchorer
        {
            return refuse(
                "outside development owners, guardian and anchorer have keys of their own".into(),
            );
        }
        Ok(())
    }
}

fn members(what: &str, list: &[Address], threshold: u32) -> Result<(), TxError> {
    let distinct: BTreeSet<&Address> = list.iter().collect();
    let threshold = usize::try_from(threshold).unwrap_or(usize::MAX);
    if list.is_empty()
        || list.len() > MAX_MEMBERS
        || distinct.len() != list.len()
        || list.contains(&Address::ZERO)
    {
        return Err(TxError::Plan(format!(
            "{what}: 1 to {MAX_MEMBERS} different addresses, none of them zero"
        )));
    }
    if threshold == 0 || threshold > list.len() {
        return Err(TxError::Plan(format!(
            "{what}: the threshold is 1 to {}",
            list.len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )]
    use super::*;

    fn who(n: u8) -> Address {
        Address::repeat_byte(n)
    }

    fn production() -> DeployPlan {
        DeployPlan {
            profile: Profile::Production,
            owners: (1..=5).map(who).collect(),
            threshold: 3,
            delay: Duration::from_secs(86_400),
            ..DeployPlan::development(who(1), who(11), who(12), who(13))
        }
    }

    #[test]
    fn a_plan_with_three_of_five_and_a_day_is_usable() {
        production().check().unwrap();
    }

    #[test]
    fn production_refuses_few_owners_short_delays_and_shared_keys() {
        assert!(
            DeployPlan {
                threshold: 2,
                ..production()
            }
            .check()
            .is_err()
        );
        assert!(
            DeployPlan {
                owners: (1..=4).map(who).collect(),
                ..production()
            }
            .check()
            .is_err()
        );
        assert!(
            DeployPlan {
                delay: Duration::from_secs(3599),
                ..production()
            }
            .check()
            .is_err()
        );
        assert!(
            DeployPlan {
                guardian: who(1),
                ..production()
            }
            .check()
            .is_err()
        );
        assert!(
            DeployPlan {
                guardian: who(12),
                ..production()
            }
            .check()
            .is_err()
        );
    }

    #[test]
    fn impossible_members_are_refused() {
        let plan = DeployPlan::development(who(1), who(2), who(3), who(4));
        plan.check().unwrap();
        assert!(
            DeployPlan {
                threshold: 0,
                ..plan.clone()
            }
            .check()
            .is_err()
        );
        assert!(
            DeployPlan {
                threshold: 2,
                ..plan.clone()
            }
            .check()
            .is_err()
        );
        assert!(
            DeployPlan {
                owners: vec![],
                ..plan.clone()
            }
            .check()
            .is_err()
        );
        assert!(
            DeployPlan {
                owners: vec![who(1), who(1)],
                ..plan.clone()
            }
            .check()
            .is_err()
        );
        assert!(
            DeployPlan {
                approvers: vec![Address::ZERO],
                ..plan.clone()
            }
            .check()
            .is_err()
        );
        assert!(
            DeployPlan {
                guardian: Address::ZERO,
                ..plan
            }
            .check()
            .is_err()
        );
    }
}
