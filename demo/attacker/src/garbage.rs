//! Fields that are no envelope and no certificate at all, sent by a caller with a true identity.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use writ_sae::fields;

use crate::AttackError;
use crate::cases::Template;
use crate::connection::{Answer, Connection, Target};

/// What the garbage is, by name: the field, and its values.
fn fields_of(captured: &str) -> [(&'static str, &'static str, Vec<String>); 6] {
    let rubbish = || "~!{}%00;,=\"<>".to_owned();
    [
        ("envelope of rubbish", fields::SAE, vec![rubbish()]),
        ("envelope of 8 KiB", fields::SAE, vec!["e".repeat(8 << 10)]),
        (
            "envelope of 60 KiB",
            fields::SAE,
            vec!["e".repeat(60 << 10)],
        ),
        (
            "two envelopes",
            fields::SAE,
            vec![captured.to_owned(), captured.to_owned()],
        ),
        (
            "certificate of rubbish",
            fields::SAE_CERTIFICATE,
            vec![rubbish()],
        ),
        (
            "certificate of 60 KiB",
            fields::SAE_CERTIFICATE,
            vec!["M".repeat(60 << 10)],
        ),
    ]
}

/// Sends each on a connection of its own, beside what was captured, and names the answers.
///
/// # Errors
/// When an attack could not be carried out.
pub async fn run_all(
    target: &Target,
    template: &Template,
) -> Result<BTreeMap<&'static str, Answer>, AttackError> {
    let bad = |error: &dyn std::fmt::Display| AttackError::Envelope(error.to_string());
    let (captured, _) = template.envelope()?;
    let mut report = BTreeMap::new();
    for (name, field, values) in fields_of(captured) {
        let mut headers: HeaderMap = template.headers()?;
        headers.insert(fields::SAE, captured.parse().map_err(|e| bad(&e))?);
        let field: HeaderName = field.parse().map_err(|e| bad(&e))?;
        headers.remove(&field);
        for value in values {
            let value: HeaderValue = value.parse().map_err(|e| bad(&e))?;
            headers.append(&field, value);
        }
        let mut connection = Connection::open(target).await?;
        let body = template.body.as_bytes();
        let answer = connection.send(&template.method, &template.path, &headers, body);
        report.insert(name, answer.await?);
    }
    Ok(report)
}
