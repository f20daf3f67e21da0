//! Where a wallet key comes from: a file, a variable or standard input; never an argument, never a log line.

use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;

use alloy::signers::local::PrivateKeySigner;
use zeroize::Zeroizing;

use super::TxError;

/// Longest accepted key text in bytes: 0x, 64 hex digits, white space around them.
const MAX_KEY_TEXT: u64 = 256;

/// A reference to a key: `file:<path>`, `env:<name>` or `stdin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRef {
    /// The file holds the key in hex.
    File(PathBuf),
    /// The variable holds the key in hex.
    Env(String),
    /// The key in hex is read from standard input, up to its end.
    Stdin,
}

impl FromStr for KeyRef {
    type Err = TxError;

    /// The message never repeats the text: someone may have put a key there.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            None if text == "stdin" => Ok(Self::Stdin),
            _ => Err(TxError::KeyReference),
        }
    }
}

impl KeyRef {
    /// Reads the key.
    ///
    /// # Errors
    /// The source cannot be read, or does not hold a secp256k1 key in hex. Messages never contain the key.
    pub fn load(&self) -> Result<PrivateKeySigner, TxError> {
        let unreadable = |e: std::io::Error| TxError::KeyUnreadable {
            source_name: self.to_string(),
            reason: e.to_string(),
        };
        let mut text = Zeroizing::new(String::new());
        match self {
            Self::File(path) => {
                let file = std::fs::File::open(path).map_err(unreadable)?;
                file.take(MAX_KEY_TEXT)
                    .read_to_string(&mut text)
                    .map_err(unreadable)?;
            }
            Self::Env(name) => {
                *text = std::env::var(name)
                    .map_err(|_| unreadable(std::io::ErrorKind::NotFound.into()))?;
            }
            Self::Stdin => {
                std::io::stdin()
                    .take(MAX_KEY_TEXT)
                    .read_to_string(&mut text)
                    .map_err(unreadable)?;
            }
        }
        text.trim().parse().map_err(|_| TxError::KeyInvalid {
            source_name: self.to_string(),
        })
    }
}

impl std::fmt::Display for KeyRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::Stdin => f.write_str("stdin"),
        }
    }
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

    const KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

    #[test]
    fn a_key_given_as_an_argument_is_refused_and_not_repeated() {
        let error = KEY.parse::<KeyRef>().unwrap_err().to_string();
        assert!(
            error.contains("file:") && !error.contains("ac0974"),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_key_file_is_refused_without_showing_it() {
        let path = std::env::temp_dir().join(format!("writ-key-{}", std::process::id()));
        std::fs::write(&path, "0xac0974 not a key").unwrap();
        let error = KeyRef::File(path.clone()).load().unwrap_err().to_string();
        std::fs::write(&path, format!("{KEY}\n")).unwrap();
        let signer = KeyRef::File(path.clone()).load().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!error.contains("ac0974"), "{error}");
        assert_eq!(
            signer.address().to_string(),
            "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
        );
    }

    #[test]
    fn references_are_written_as_they_are_read() {
        for text in ["file:/run/key", "env:OWNER_KEY", "stdin"] {
            assert_eq!(text.parse::<KeyRef>().unwrap().to_string(), text);
        }
        for text in ["", "file:", "env:", "stdin:x", "/run/key"] {
            assert!(text.parse::<KeyRef>().is_err(), "{text}");
        }
    }
}
