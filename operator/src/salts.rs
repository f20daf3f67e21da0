//! Salts: what keeps names on chain from being guessed. Made once, kept in Secrets of the operator's
//! own namespace, out of reach of those who may delete an AgentPolicy: a new salt would give a
//! revoked agent a new key.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

use crate::OperatorError;

/// A salt, 128 bits.
pub type Salt = [u8; 16];
/// Prefix of the Secrets' names; a hex digit follows.
pub const SECRETS: &str = "writ-salts-";
/// How often another writer may come first.
const ATTEMPTS: usize = 5;

/// What a salt is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    /// The names in a policy.
    Policy(String),
    /// An agent's key.
    Agent(String),
}

impl Of {
    /// Key in the Secret: names may be longer than a Secret's keys.
    fn key(&self, namespace: &str) -> String {
        let (kind, name) = match self {
            Self::Policy(name) => ("policy", name),
            Self::Agent(account) => ("agent", account),
        };
        let digest = Sha256::digest(format!("{namespace}/{name}"));
        format!("{kind}.{}", hex::encode(digest))
    }
}

/// Random bytes.
pub trait Random: Send + Sync {
    /// A new salt.
    ///
    /// # Errors
    /// The system has no randomness to give.
    fn salt(&self) -> Result<Salt, OperatorError>;
}

impl Random for SystemRandom {
    fn salt(&self) -> Result<Salt, OperatorError> {
        let mut salt = [0; 16];
        self.fill(&mut salt)
            .map_err(|_| OperatorError::Salts("the system gives no random bytes".to_owned()))?;
        Ok(salt)
    }
}

/// The salts that were asked for.
pub type Salts = BTreeMap<Of, Salt>;

/// Name of the Secret that holds a namespace's salts: one of sixteen.
#[must_use]
pub fn secret_name(namespace: &str) -> String {
    let digest = Sha256::digest(namespace);
    let digit = digest.first().copied().unwrap_or_default() >> 4;
    format!("{SECRETS}{digit:x}")
}

/// The salts of `wanted` that `data` holds.
///
/// # Errors
/// A salt is damaged. It is never replaced: that would change an agent's key.
pub fn read(
    data: &BTreeMap<String, ByteString>,
    namespace: &str,
    wanted: &[Of],
) -> Result<Salts, OperatorError> {
    let mut salts = Salts::new();
    for of in wanted {
        let Some(ByteString(bytes)) = data.get(&of.key(namespace)) else {
            continue;
        };
        let salt = bytes.as_slice().try_into().map_err(|_| {
            OperatorError::Salts(format!(
                "the salt of {of:?} of namespace {namespace} has {} bytes, not 16: restore the Secret {}",
                bytes.len(),
                secret_name(namespace)
            ))
        })?;
        salts.insert(of.clone(), salt);
    }
    Ok(salts)
}

/// Adds what `salts` lacks of `wanted` to both. Says whether there was any.
///
/// # Errors
/// No randomness.
pub fn fill(
    data: &mut BTreeMap<String, ByteString>,
    salts: &mut Salts,
    namespace: &str,
    wanted: &[Of],
    random: &dyn Random,
) -> Result<bool, OperatorError> {
    let mut changed = false;
    for of in wanted {
        if salts.contains_key(of) {
            continue;
        }
        let salt = random.salt()?;
        data.insert(of.key(namespace), ByteString(salt.to_vec()));
        salts.insert(of.clone(), salt);
        changed = true;
    }
    Ok(changed)
}

/// The salts of `wanted`, as far as they were made.
///
/// # Errors
/// The API server fails, or a salt is damaged.
pub async fn find(
    client: &Client,
    home: &str,
    namespace: &str,
    wanted: &[Of],
) -> Result<Salts, OperatorError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), home);
    let secret = api.get_opt(&secret_name(namespace)).await?;
    let data = secret.and_then(|s| s.data).unwrap_or_default();
    read(&data, namespace, wanted)
}

/// The salts of `wanted`; what is missing is made and kept before it is used. Two writers never
/// overwrite each other: the later one reads again.
///
/// # Errors
/// The API server fails, or a salt is damaged.
pub async fn ensure(
    client: &Client,
    home: &str,
    namespace: &str,
    wanted: &[Of],
    random: &dyn Random,
) -> Result<Salts, OperatorError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), home);
    let name = secret_name(namespace);
    for _ in 0..ATTEMPTS {
        let there = api.get_opt(&name).await?;
        let is_new = there.is_none();
        let mut secret = there.unwrap_or_else(|| Secret {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(BTreeMap::from([(
                    writ_api::MANAGED_BY.to_owned(),
                    writ_api::OPERATOR.to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            ..Secret::default()
        });
        let data = secret.data.get_or_insert_default();
        let mut salts = read(data, namespace, wanted)?;
        if !fill(data, &mut salts, namespace, wanted, random)? {
            return Ok(salts);
        }
        let kept = if is_new {
            api.create(&PostParams::default(), &secret).await
        } else {
            // With the version that was read: a conflict where somebody else wrote since.
            api.replace(&name, &PostParams::default(), &secret).await
        };
        match kept {
            Ok(_) => return Ok(salts),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(OperatorError::Salts(format!(
        "the Secret {name} is being changed by somebody else"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU8, Ordering};

    struct Counting(AtomicU8);

    impl Random for Counting {
        fn salt(&self) -> Result<Salt, OperatorError> {
            Ok([self.0.fetch_add(1, Ordering::Relaxed); 16])
        }
    }

    #[test]
    fn a_salt_is_made_once() {
        let random = Counting(AtomicU8::new(1));
        let wanted = [Of::Policy("p".to_owned()), Of::Agent("p".to_owned())];
        let mut data = BTreeMap::new();
        let mut salts = Salts::new();
        assert!(fill(&mut data, &mut salts, "shop", &wanted, &random).unwrap());
        assert_eq!(salts.values().collect::<Vec<_>>().len(), 2);
        let again = read(&data, "shop", &wanted).unwrap();
        assert_eq!(again, salts);
        assert!(!fill(&mut data, &mut salts, "shop", &wanted, &random).unwrap());
        assert!(read(&data, "other", &wanted).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_salt_is_reported_and_not_replaced() {
        let of = Of::Agent("buyer".to_owned());
        let data = BTreeMap::from([(of.key("shop"), ByteString(vec![1, 2, 3]))]);
        let error = read(&data, "shop", &[of]).unwrap_err();
        assert!(error.to_string().contains("restore"), "{error}");
    }

    #[test]
    fn secret_names_are_one_of_sixteen_and_keys_fit() {
        assert_eq!(secret_name("shop").len(), SECRETS.len() + 1);
        let long = "x".repeat(253);
        let key = Of::Agent(long).key("shop");
        assert!(key.len() <= 253 && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'));
    }
}
