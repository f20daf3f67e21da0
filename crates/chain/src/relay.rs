//! State by a relay: heads that witnesses vouch for and proofs that somebody else read, so that a whole cluster asks the
//! endpoints once.

use std::collections::BTreeSet;
use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U256};
use futures::future::BoxFuture;
use tokio::sync::watch;
use writ_policy::{ProvedHeader, StateKey};

use crate::HeadRefusal;
use crate::rpc::{
    AccountClaims, EndpointError, EndpointErrorKind as Kind, ProvedAccount, Record, check,
    check_code,
};

/// A relay of one chain. Its proofs and its code are checked by whoever asks; only [`Relay::head`] is taken as told, so
/// an implementation checks the witnesses' signatures itself.
pub trait Relay: Send + Sync + std::fmt::Debug {
    /// How it is called in counters and logs.
    fn label(&self) -> &str;
    /// The newest head that enough distinct witnesses signed, as long as that was a short while ago. `None` as soon as
    /// the relay is away or silent: state is read from the endpoints then.
    fn head(&self) -> Option<ProvedHeader>;
    /// Changes when there may be another head.
    fn changes(&self) -> watch::Receiver<u64>;
    /// What is to be at hand at the heads to come. Takes the place of what was said before.
    fn want(&self, keys: &BTreeSet<StateKey>);
    /// Claims about an account and exactly these slots, in this order, at this head.
    fn account<'a>(
        &'a self,
        header: &'a ProvedHeader,
        address: Address,
        slots: &'a [U256],
    ) -> BoxFuture<'a, Result<AccountClaims, EndpointError>>;
    /// The code with this hash, which this account has at this head.
    fn code<'a>(
        &'a self,
        header: &'a ProvedHeader,
        address: Address,
        code_hash: B256,
    ) -> BoxFuture<'a, Result<Bytes, EndpointError>>;
}

/// A relay, and what it did so far.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub record: Record,
    relay: Arc<dyn Relay>,
}

impl Relayed {
    pub fn new(relay: Arc<dyn Relay>) -> Self {
        Self {
            record: Record::new(relay.label().to_owned()),
            relay,
        }
    }

    pub fn head(&self) -> Option<ProvedHeader> {
        self.relay.head()
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.relay.changes()
    }

    pub fn want(&self, keys: &BTreeSet<StateKey>) {
        self.relay.want(keys);
    }

    /// Its head was refused.
    pub fn refused(&self, refusal: HeadRefusal) {
        let error = EndpointError::new(Kind::Disagreed, refusal.to_string());
        let _ = self.record.judge::<()>(Err(error));
    }

    pub async fn account(
        &self,
        header: &ProvedHeader,
        address: Address,
        slots: &[U256],
    ) -> Result<ProvedAccount, EndpointError> {
        self.record.called();
        let claims = self.relay.account(header, address, slots).await;
        let proved = claims.and_then(|claims| check(header, address, slots, claims));
        if proved.is_ok() {
            self.record.proved(slots.len());
        }
        self.record.judge(proved)
    }

    pub async fn code(
        &self,
        header: &ProvedHeader,
        address: Address,
        code_hash: B256,
    ) -> Result<Bytes, EndpointError> {
        self.record.called();
        let code = self.relay.code(header, address, code_hash).await;
        self.record
            .judge(code.and_then(|code| check_code(code, code_hash)))
    }
}
