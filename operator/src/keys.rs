//! The keys that sign transactions: files in one folder, named by the Chain.

use std::path::PathBuf;

use alloy::signers::local::PrivateKeySigner;
use writ_api::ChainSpec;
use writ_chain::tx::KeyRef;

use crate::OperatorError;

/// The well-known keys of development nodes: owner and deployer, guardian, anchorer, approver. They
/// hold funds on development chains only.
const DEVELOPMENT: [&str; 4] = [
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
];

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Deploys policy versions, executes what is due.
    Deployer,
    /// Proposes and confirms.
    Owner,
    /// Revokes and pauses.
    Guardian,
    /// Anchors; on a development chain only, for its deployment.
    Anchorer,
    /// Approves; on a development chain only, for its deployment.
    Approver,
}

/// Where keys are.
#[derive(Clone, Debug)]
pub struct Keyring {
    folder: PathBuf,
}

impl Keyring {
    /// Keys in the files of `folder`.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The key for a role, read anew, so that a rotated one is used at once. `None`: the Chain names none.
    ///
    /// # Errors
    /// [`OperatorError::Key`] names the file; the key itself is in no message.
    pub fn signer(
        &self,
        spec: &ChainSpec,
        role: Role,
    ) -> Result<Option<PrivateKeySigner>, OperatorError> {
        let named = match role {
            Role::Deployer => spec.keys.deployer.as_deref(),
            Role::Owner => spec.keys.owner.as_deref(),
            Role::Guardian => spec.keys.guardian.as_deref(),
            Role::Anchorer | Role::Approver => None,
        };
        match named {
            Some(name) => self.read(name).map(Some),
            None if spec.development => development(role).map(Some),
            None => Ok(None),
        }
    }

    fn read(&self, name: &str) -> Result<PrivateKeySigner, OperatorError> {
        // The API server checked the form already; a path out of the folder must not depend on that.
        let plain =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !plain {
            return Err(OperatorError::Key(format!(
                "the key name {name:?} is not of lower-case letters, digits and hyphens"
            )));
        }
        KeyRef::File(self.folder.join(name))
            .load()
            .map_err(|error| OperatorError::Key(error.to_string()))
    }
}

fn development(role: Role) -> Result<PrivateKeySigner, OperatorError> {
    let [owner, guardian, anchorer, approver] = DEVELOPMENT;
    let text = match role {
        Role::Deployer | Role::Owner => owner,
        Role::Guardian => guardian,
        Role::Anchorer => anchorer,
        Role::Approver => approver,
    };
    text.parse()
        .map_err(|_| OperatorError::Key("a development key is damaged".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use writ_api::Keys;

    fn chain(development: bool, guardian: Option<&str>) -> ChainSpec {
        ChainSpec {
            keys: Keys {
                guardian: guardian.map(str::to_owned),
                ..Keys::default()
            },
            ..serde_json::from_value(serde_json::json!({
                "chainId": 84532, "endpoints": ["http://rpc:8545"], "development": development,
            }))
            .unwrap()
        }
    }

    #[test]
    fn the_development_keys_are_the_nodes_own() {
        assert_eq!(DEVELOPMENT, writ_chain::devnode::DEV_KEYS[..4]);
    }

    #[test]
    fn a_chain_that_is_not_for_development_never_gets_a_known_key() {
        let keyring = Keyring::new("/nonexistent".into());
        for role in [Role::Deployer, Role::Owner, Role::Guardian] {
            assert!(keyring.signer(&chain(false, None), role).unwrap().is_none());
            assert!(keyring.signer(&chain(true, None), role).unwrap().is_some());
        }
    }

    #[test]
    fn a_key_name_cannot_leave_the_folder() {
        let keyring = Keyring::new("/etc/writ/keys".into());
        for name in ["../guardian", "a/b", "", "..", "/etc/passwd"] {
            let error = keyring
                .signer(&chain(true, Some(name)), Role::Guardian)
                .unwrap_err();
            assert_eq!(error.cause(), "KeyUnusable", "{name}: {error}");
        }
    }
}
