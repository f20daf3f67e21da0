//! Deterministic content detectors: secrets, payment data, personal data (T-025).
//!
//! A finding raises the class of a request and never lowers it. It names the rule and the place,
//! never the text. Expressions are linear in the input (crate `regex`), and the input is bounded by
//! the body limit. The rule set is data, `rules/detectors.yaml`, pinned by its hash.

mod checks;

use std::collections::BTreeSet;

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use serde::Deserialize;
use serde_json::Value;
use writ_canonical::CanonicalRequest;

use crate::Class;
use crate::error::CatalogError;
use checks::Check;

/// The rule set, as built in.
pub const RULESET: &str = include_str!("../../rules/detectors.yaml");
/// SHA-256 (hex) of [`RULESET`]; a catalog may pin it.
pub const RULESET_SHA256: &str = "8d8626cf858af3ffe76c22e762d3eb8c9bc2e8c6d93ba627547aa49fc1827a7d";
/// Most findings reported; the class counts them all.
const MAX_FINDINGS: usize = 32;
/// Longest location, bytes.
const MAX_LOCATION: usize = 256;
/// Compiled size of one expression, bytes.
const SIZE_LIMIT: usize = 1 << 20;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Credentials and keys.
    Secret,
    /// Card and account numbers.
    Payment,
    /// Data about a person.
    Personal,
}

impl Category {
    /// The class that a finding raises to.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::Secret | Self::Payment => Class::Restricted,
            Self::Personal => Class::Confidential,
        }
    }
}

/// A rule that matched, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Id of the rule.
    pub rule: String,
    /// What kind.
    pub category: Category,
    /// Class that it raises to.
    pub class: Class,
    /// JSON pointer into the body, `body` when it is not JSON, `path`, or `query`. A
    /// member name that matched itself is shown as `*`.
    pub location: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    #[allow(dead_code)]
    source: Value,
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    id: String,
    category: Category,
    regex: String,
    /// Least Shannon entropy of the match, bits per character.
    #[serde(default)]
    entropy: Option<f64>,
    #[serde(default)]
    check: Option<Check>,
}

/// The compiled rule set. Compiling costs milliseconds; matching is shared and read-only.
#[derive(Debug)]
pub struct Detectors {
    rules: Vec<(Rule, Regex)>,
    set: RegexSet,
}

impl Detectors {
    /// Compiles the built-in rules except those in `disabled`.
    ///
    /// # Errors
    /// [`CatalogError::Invalid`] when `disabled` names an unknown rule.
    pub fn new(disabled: &[String]) -> Result<Self, CatalogError> {
        let broken = |error: String| CatalogError::Detectors(error);
        let file: RuleFile = serde_saphyr::from_str(RULESET).map_err(|e| broken(e.to_string()))?;
        if let Some(unknown) = disabled
            .iter()
            .find(|id| file.rules.iter().all(|r| r.id != **id))
        {
            let problem = format!(
                "there is no detector rule {unknown}: correct the id or remove it from disabled"
            );
            return Err(CatalogError::Invalid {
                item: "detectors".to_owned(),
                problem,
            });
        }
        let mut rules = Vec::new();
        for rule in file
            .rules
            .into_iter()
            .filter(|rule| !disabled.contains(&rule.id))
        {
            let regex = RegexBuilder::new(&rule.regex)
                .unicode(false)
                .size_limit(SIZE_LIMIT)
                .build()
                .map_err(|e| broken(e.to_string()))?;
            rules.push((rule, regex));
        }
        let set = RegexSetBuilder::new(rules.iter().map(|(rule, _)| rule.regex.as_str()))
            .unicode(false)
            .size_limit(4 * SIZE_LIMIT)
            .build()
            .map_err(|e| broken(e.to_string()))?;
        Ok(Self { rules, set })
    }

    /// Findings in every string, number and member name of a JSON value.
    #[must_use]
    pub fn json(&self, value: &Value) -> Vec<Finding> {
        let mut found = BTreeSet::new();
        self.walk(value, "", &mut found);
        limited(found)
    }

    /// Findings in a body that is not JSON.
    #[must_use]
    pub fn bytes(&self, body: &[u8]) -> Vec<Finding> {
        let mut found = BTreeSet::new();
        self.scan(body, "body", &mut found);
        limited(found)
    }

    /// Findings in a form body (`application/x-www-form-urlencoded`), decoded.
    #[must_use]
    pub fn form(&self, body: &[u8]) -> Vec<Finding> {
        let mut found = BTreeSet::new();
        self.pairs(body, "body", &mut found);
        limited(found)
    }

    /// Findings in path and query, decoded. Header fields are not scanned: credentials belong there.
    #[must_use]
    pub fn request_line(&self, request: &CanonicalRequest) -> Vec<Finding> {
        let mut found = BTreeSet::new();
        for segment in writ_canonical::decoded_segments(&request.path) {
            self.scan(segment.as_bytes(), "path", &mut found);
        }
        self.pairs(
            request.query.as_deref().unwrap_or_default().as_bytes(),
            "query",
            &mut found,
        );
        limited(found)
    }

    fn pairs(&self, text: &[u8], location: &str, found: &mut BTreeSet<Finding>) {
        for (key, value) in form_urlencoded::parse(text) {
            self.scan(key.as_bytes(), location, found);
            self.scan(value.as_bytes(), location, found);
        }
    }

    fn walk(&self, value: &Value, location: &str, found: &mut BTreeSet<Finding>) {
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(number) => {
                self.scan(number.to_string().as_bytes(), location, found);
            }
            Value::String(text) => {
                self.scan(text.as_bytes(), location, found);
            }
            Value::Array(elements) => {
                for (at, element) in elements.iter().enumerate() {
                    self.walk(element, &bounded(format!("{location}/{at}")), found);
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    let hidden = bounded(format!("{location}/*"));
                    let place = if self.scan(name.as_bytes(), &hidden, found) {
                        hidden
                    } else {
                        bounded(format!(
                            "{location}/{}",
                            name.replace('~', "~0").replace('/', "~1")
                        ))
                    };
                    self.walk(member, &place, found);
                }
            }
        }
    }

    fn scan(&self, text: &[u8], location: &str, found: &mut BTreeSet<Finding>) -> bool {
        let mut any = false;
        for at in self.set.matches(text) {
            let Some((rule, regex)) = self.rules.get(at) else {
                continue;
            };
            if regex.captures_iter(text).any(|c| {
                rule.accepts(
                    c.get(1)
                        .or_else(|| c.get(0))
                        .map_or(&[][..], |m| m.as_bytes()),
                )
            }) {
                any = true;
                found.insert(Finding {
                    rule: rule.id.clone(),
                    category: rule.category,
                    class: rule.category.class(),
                    location: location.to_owned(),
                });
            }
        }
        any
    }
}

impl Rule {
    fn accepts(&self, text: &[u8]) -> bool {
        self.entropy
            .is_none_or(|least| checks::entropy(text) >= least)
            && self.check.is_none_or(|check| check.accepts(text))
    }
}

fn bounded(location: String) -> String {
    if location.len() <= MAX_LOCATION {
        location
    } else {
        location
            .chars()
            .take(MAX_LOCATION / 4)
            .chain(['…'])
            .collect()
    }
}

/// The first findings, the highest class among them.
fn limited(found: BTreeSet<Finding>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = found.into_iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.class));
    findings.truncate(MAX_FINDINGS);
    findings
}
