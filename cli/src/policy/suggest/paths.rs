//! Paths that were seen, as templates. No I/O.

/// One segment of a template.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Variable,
}

/// A path template of literals and variables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Template(Vec<Segment>);

/// Most segments and bytes of a template that a catalog takes.
const MAX_SEGMENTS: usize = 32;
const MAX_BYTES: usize = 512;

impl Template {
    /// The template of a canonical path (without its query): segments that look like identifiers
    /// become variables.
    ///
    /// # Errors
    /// Why no template can spell it.
    pub fn of(path: &str) -> Result<Self, &'static str> {
        Self::read(path, looks_like_an_id)
    }

    /// The template that is this path and no other.
    ///
    /// # Errors
    /// Why no template can spell it.
    pub fn exactly(path: &str) -> Result<Self, &'static str> {
        Self::read(path, |_| false)
    }

    fn read(path: &str, is_variable: impl Fn(&str) -> bool) -> Result<Self, &'static str> {
        let path = path.split('?').next().unwrap_or_default();
        if !path.starts_with('/') {
            return Err("its path is not recorded");
        }
        let decoded = writ_canonical::decoded_segments(path);
        if decoded.len() > MAX_SEGMENTS || path.len() > MAX_BYTES {
            return Err("its path is too long for a template");
        }
        let last = decoded.len().saturating_sub(1);
        let mut segments = Vec::new();
        for (at, segment) in decoded.iter().enumerate() {
            let forbidden =
                |c: char| c.is_control() || matches!(c, '{' | '}' | '%' | '?' | '#' | '\\' | '/');
            let dots = matches!(segment.as_ref(), "." | "..");
            if segment.chars().any(forbidden) || dots || (segment.is_empty() && at != last) {
                return Err("its path has characters that no template can spell");
            }
            segments.push(if is_variable(segment) {
                Segment::Variable
            } else {
                Segment::Literal(segment.to_string())
            });
        }
        Ok(Self(segments))
    }

    /// Whether some path matches both and neither is the more specific: a catalog refuses that.
    pub fn is_ambiguous_with(&self, other: &Self) -> bool {
        if self.0.len() != other.0.len() {
            return false;
        }
        let (mut ours, mut theirs) = (false, false);
        for pair in self.0.iter().zip(&other.0) {
            match pair {
                (Segment::Literal(a), Segment::Literal(b)) if a != b => return false,
                (Segment::Literal(a), Segment::Variable) if a.is_empty() => return false,
                (Segment::Variable, Segment::Literal(b)) if b.is_empty() => return false,
                (Segment::Literal(_), Segment::Variable) => ours = true,
                (Segment::Variable, Segment::Literal(_)) => theirs = true,
                _ => {}
            }
        }
        ours && theirs
    }

    /// As a catalog writes it: `/orders/{id}/items/{id2}`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut nth = 0;
        for segment in &self.0 {
            text.push('/');
            match segment {
                Segment::Literal(literal) => text.push_str(literal),
                Segment::Variable => {
                    nth += 1;
                    text.push_str(&match nth {
                        1 => "{id}".to_owned(),
                        n => format!("{{id{n}}}"),
                    });
                }
            }
        }
        text
    }

    /// Its literals, for names.
    pub fn literals(&self) -> String {
        let literals = self.0.iter().filter_map(|segment| match segment {
            Segment::Literal(text) => Some(text.as_str()),
            Segment::Variable => None,
        });
        literals.collect::<Vec<_>>().join("-")
    }
}

/// Numbers, UUIDs, long hexadecimal or mixed texts: what one call names and the next does not.
fn looks_like_an_id(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let hex = |b: u8| b.is_ascii_hexdigit() || b == b'-';
    let wordy = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if segment.is_empty() || digits == 0 {
        return false;
    }
    let all_digits = digits == segment.len();
    let long_hex = segment.len() >= 12 && segment.bytes().all(hex);
    let long_mixed = segment.len() >= 20 && digits >= 4 && segment.bytes().all(wordy);
    all_digits || long_hex || long_mixed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> String {
        Template::of(path).unwrap().text()
    }

    #[test]
    fn identifiers_become_variables_and_words_stay() {
        for (path, template) in [
            ("/", "/"),
            ("/v1/orders/123/items/9", "/v1/orders/{id}/items/{id2}"),
            ("/v2/users/alice?x=1", "/v2/users/alice"),
            ("/o/3f2504e0-4f89-11d3-9a0c-0305e82c3301", "/o/{id}"),
            ("/thread_abc1234567890abcdef/", "/{id}/"),
            ("/caf%C3%A9", "/caf\u{e9}"),
            ("/deadbeef", "/deadbeef"),
        ] {
            assert_eq!(text(path), template);
        }
    }

    #[test]
    fn what_no_template_can_spell_is_said() {
        for path in ["", "/a%7Bb", "/a//b", "/50%25", &"/x".repeat(40)] {
            assert!(Template::of(path).is_err(), "{path}");
        }
    }

    #[test]
    fn templates_that_compete_for_a_path_are_found() {
        let of = |path| Template::of(path).unwrap();
        assert!(of("/orders/1/items").is_ambiguous_with(&of("/orders/list/2")));
        assert!(!of("/orders/1/items").is_ambiguous_with(&of("/orders/1/parts")));
        assert!(!of("/orders/1").is_ambiguous_with(&of("/orders/list")));
        assert!(!of("/orders/1").is_ambiguous_with(&of("/orders/")));
    }
}
