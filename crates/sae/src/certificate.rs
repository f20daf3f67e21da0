//! `SAE-Certificate`: the certificate chain, and the key statement where a delegate signs.
//!
//! A structured field (RFC 9651), Dictionary: `chain=(:<DER>: :<DER>:), statement="<JWS>"`, leaf
//! first, roots left out.

use std::fmt;

use sfv::{
    BareItem, DictSerializer, Dictionary, KeyRef, ListEntry, Parser, RefBareItem, StringRef,
};

use crate::{COMPACT_MAX_BYTES, Refusal, Signer};

/// Longest value of the field.
pub const CERTIFICATE_HEADER_MAX_BYTES: usize = 16 * 1024;
const MAX_CERTIFICATES: usize = 4;
const MAX_CERTIFICATE_BYTES: usize = 4096;

/// Decoded `SAE-Certificate`; nothing in it is verified.
#[derive(Clone, PartialEq, Eq)]
pub struct SaeCertificate {
    /// DER certificates, leaf first; 1 to 4, each at most 4096 bytes.
    pub chain: Vec<Vec<u8>>,
    /// Key statement, compact form.
    pub statement: Option<String>,
}

impl fmt::Debug for SaeCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaeCertificate")
            .field("certificates", &self.chain.len())
            .field("statement", &self.statement.is_some())
            .finish()
    }
}

fn invalid(why: &str) -> Refusal {
    Refusal::CertificateHeaderInvalid(why.to_owned())
}

impl SaeCertificate {
    /// What `signer` has to send along.
    pub fn of(signer: &dyn Signer) -> Self {
        Self {
            chain: signer.certificate_chain().to_vec(),
            statement: signer.key_statement().map(str::to_owned),
        }
    }

    /// The field's value.
    ///
    /// # Errors
    /// [`Refusal::CertificateHeaderTooLarge`] or [`Refusal::CertificateHeaderInvalid`] for
    /// content that a receiver would refuse.
    pub fn encode(&self) -> Result<String, Refusal> {
        self.check()?;
        let key = |name| KeyRef::from_str(name).map_err(|e| invalid(&e.to_string()));
        let mut dictionary = DictSerializer::new();
        {
            let mut list = dictionary.inner_list(key("chain")?);
            for der in &self.chain {
                list.bare_item(RefBareItem::ByteSequence(der));
            }
            let _no_parameters = list.finish();
        }
        if let Some(statement) = &self.statement {
            let text = StringRef::from_str(statement).map_err(|e| invalid(&e.to_string()))?;
            dictionary.bare_item(key("statement")?, text);
        }
        let value = dictionary.finish().ok_or_else(|| invalid("it is empty"))?;
        if value.len() > CERTIFICATE_HEADER_MAX_BYTES {
            return Err(Refusal::CertificateHeaderTooLarge);
        }
        Ok(value)
    }

    /// Parses the field's value.
    ///
    /// # Errors
    /// [`Refusal::CertificateHeaderTooLarge`] or [`Refusal::CertificateHeaderInvalid`].
    pub fn decode(value: &[u8]) -> Result<Self, Refusal> {
        if value.len() > CERTIFICATE_HEADER_MAX_BYTES {
            return Err(Refusal::CertificateHeaderTooLarge);
        }
        let dictionary: Dictionary = Parser::new(value)
            .parse()
            .map_err(|e| invalid(&e.to_string()))?;
        let mut certificate = Self {
            chain: Vec::new(),
            statement: None,
        };
        for (name, member) in &dictionary {
            match (name.as_str(), member) {
                ("chain", ListEntry::InnerList(list)) if list.params.is_empty() => {
                    for item in &list.items {
                        match &item.bare_item {
                            BareItem::ByteSequence(der) if item.params.is_empty() => {
                                certificate.chain.push(der.clone());
                            }
                            _ => return Err(invalid("chain holds other than byte sequences")),
                        }
                    }
                }
                ("statement", ListEntry::Item(item)) if item.params.is_empty() => {
                    match &item.bare_item {
                        BareItem::String(text) => {
                            certificate.statement = Some(text.as_str().to_owned());
                        }
                        _ => return Err(invalid("statement is not a string")),
                    }
                }
                _ => return Err(invalid("only chain and statement may occur")),
            }
        }
        certificate.check()?;
        Ok(certificate)
    }

    fn check(&self) -> Result<(), Refusal> {
        if self.chain.is_empty() {
            return Err(invalid("chain is missing or empty"));
        }
        let too_large = self.chain.len() > MAX_CERTIFICATES
            || self
                .chain
                .iter()
                .any(|der| der.len() > MAX_CERTIFICATE_BYTES)
            || self
                .statement
                .as_ref()
                .is_some_and(|statement| statement.len() > COMPACT_MAX_BYTES);
        if too_large {
            return Err(Refusal::CertificateHeaderTooLarge);
        }
        if self.chain.iter().any(Vec::is_empty) {
            return Err(invalid("a certificate is empty"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_with_anything_else_in_it_is_refused() {
        let good = "chain=(:AQI=: :AwQ=:), statement=\"a.b.c\"";
        let decoded = SaeCertificate::decode(good.as_bytes()).unwrap();
        assert_eq!(decoded.chain, [vec![1, 2], vec![3, 4]]);
        assert_eq!(decoded.statement.as_deref(), Some("a.b.c"));
        assert_eq!(decoded.encode().unwrap(), good);
        for bad in [
            "",
            "chain",
            "chain=()",
            "chain=:AQI=:",
            "statement=\"a\"",
            "chain=(1)",
            "chain=(:AQI=:;a=1)",
            "chain=(:AQI=:);a=1",
            "chain=(:AQI=:), x=1",
            "chain=(::)",
            "chain=(:AQI=:), statement=a",
            "chain=(:A*I=:)",
            "chain=(:AQI=:",
        ] {
            let refusal = SaeCertificate::decode(bad.as_bytes()).unwrap_err();
            assert_eq!(refusal.code(), "certificate-header-invalid", "{bad}");
        }
    }

    #[test]
    fn a_field_over_its_limits_is_refused() {
        let five = SaeCertificate {
            chain: vec![vec![1]; 5],
            statement: None,
        };
        assert_eq!(five.encode(), Err(Refusal::CertificateHeaderTooLarge));
        let long = vec![b' '; CERTIFICATE_HEADER_MAX_BYTES + 1];
        assert_eq!(
            SaeCertificate::decode(&long),
            Err(Refusal::CertificateHeaderTooLarge)
        );
    }
}
