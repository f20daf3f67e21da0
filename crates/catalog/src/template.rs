//! Path templates.

/// One segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Variable(String),
    /// The rest of the path, at least one character.
    Rest(String),
}

/// `/v1/accounts/{id}/transfers` or `/files/{*rest}`. Literals are written decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    segments: Vec<Segment>,
}

impl Template {
    /// Reads a template; the error says what to change.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > 512 {
            return Err("the path is longer than 512 bytes".to_owned());
        }
        let rest = text
            .strip_prefix('/')
            .ok_or("the path must start with '/'")?;
        let parts: Vec<&str> = rest.split('/').collect();
        if parts.len() > 32 {
            return Err("the path has more than 32 segments".to_owned());
        }
        let last = parts.len() - 1;
        let mut segments = Vec::with_capacity(parts.len());
        for (at, part) in parts.into_iter().enumerate() {
            segments.push(segment(part, at == last)?);
        }
        let template = Self { segments };
        let mut variables = template.variables().collect::<Vec<_>>();
        variables.sort_unstable();
        if variables.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err("a variable occurs twice in the path: rename one".to_owned());
        }
        Ok(template)
    }

    /// Names of the variables.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Variable(name) | Segment::Rest(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// True when there is no variable.
    pub(crate) fn is_literal(&self) -> bool {
        self.variables().next().is_none()
    }

    /// Number of segments before the rest; `None` without a rest.
    pub(crate) fn rest_depth(&self) -> Option<usize> {
        matches!(self.segments.last(), Some(Segment::Rest(_))).then(|| self.segments.len() - 1)
    }

    /// The path with variables renamed by position, so that the router sees one spelling per shape.
    pub(crate) fn shape(&self) -> String {
        let mut shape = String::new();
        for (at, segment) in self.segments.iter().enumerate() {
            shape.push('/');
            match segment {
                Segment::Literal(text) => shape.push_str(text),
                Segment::Variable(_) => shape.push_str(&format!("{{v{at}}}")),
                Segment::Rest(_) => shape.push_str(&format!("{{*v{at}}}")),
            }
        }
        shape
    }

    /// Names of the variables with the names that [`Self::shape`] gives them.
    pub(crate) fn bindings(&self) -> impl Iterator<Item = (String, &str)> {
        self.segments
            .iter()
            .enumerate()
            .filter_map(|(at, segment)| match segment {
                Segment::Variable(name) | Segment::Rest(name) => {
                    Some((format!("v{at}"), name.as_str()))
                }
                Segment::Literal(_) => None,
            })
    }

    /// How two templates relate: whether some path matches both, and whether one is the more specific.
    pub(crate) fn compare(&self, other: &Self) -> Overlap {
        let (mut self_wins, mut other_wins) = (false, false);
        let mut at = 0;
        loop {
            match (self.segments.get(at), other.segments.get(at)) {
                (None, None) => break,
                (None, Some(_)) | (Some(_), None) => return Overlap::Disjoint,
                (Some(Segment::Rest(_)), Some(Segment::Rest(_))) => break,
                (Some(Segment::Rest(_)), Some(_)) => {
                    if other.never_fills_rest(at) {
                        return Overlap::Disjoint;
                    }
                    other_wins = true;
                    break;
                }
                (Some(_), Some(Segment::Rest(_))) => {
                    if self.never_fills_rest(at) {
                        return Overlap::Disjoint;
                    }
                    self_wins = true;
                    break;
                }
                (Some(Segment::Literal(a)), Some(Segment::Literal(b))) => {
                    if a != b {
                        return Overlap::Disjoint;
                    }
                }
                (Some(Segment::Literal(a)), Some(Segment::Variable(_))) => {
                    if a.is_empty() {
                        return Overlap::Disjoint;
                    }
                    self_wins = true;
                }
                (Some(Segment::Variable(_)), Some(Segment::Literal(b))) => {
                    if b.is_empty() {
                        return Overlap::Disjoint;
                    }
                    other_wins = true;
                }
                (Some(Segment::Variable(_)), Some(Segment::Variable(_))) => {}
            }
            at += 1;
        }
        match (self_wins, other_wins) {
            (false, false) => Overlap::Equal,
            (true, true) => Overlap::Ambiguous,
            _ => Overlap::Ranked,
        }
    }

    /// True when the segments from `at` on are only the empty one, which a rest does not match.
    fn never_fills_rest(&self, at: usize) -> bool {
        at + 1 == self.segments.len()
            && matches!(self.segments.get(at), Some(Segment::Literal(text)) if text.is_empty())
    }

    /// Whether a decoded path matches: the definition, against which the router is tested.
    #[cfg(test)]
    pub(crate) fn matches(&self, segments: &[String]) -> bool {
        for (at, segment) in self.segments.iter().enumerate() {
            let Some(actual) = segments.get(at) else {
                return false;
            };
            match segment {
                Segment::Literal(text) if text != actual => return false,
                Segment::Variable(_) if actual.is_empty() => return false,
                Segment::Rest(_) => return segments.len() > at + 1 || !actual.is_empty(),
                Segment::Literal(_) | Segment::Variable(_) => {}
            }
        }
        self.segments.len() == segments.len()
    }
}

/// Result of [`Template::compare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// No path matches both.
    Disjoint,
    /// The same shape.
    Equal,
    /// One is more specific wherever they differ.
    Ranked,
    /// Each is more specific somewhere.
    Ambiguous,
}

fn segment(part: &str, is_last: bool) -> Result<Segment, String> {
    if let Some(inner) = part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
        let (name, rest) = match inner.strip_prefix('*') {
            Some(name) => (name, true),
            None => (inner, false),
        };
        let valid = (1..=32).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !valid {
            return Err(format!(
                "variable {{{inner}}} must be 1 to 32 letters, digits or '_'"
            ));
        }
        return match rest {
            true if !is_last => Err("{*rest} must be the last segment".to_owned()),
            true => Ok(Segment::Rest(name.to_owned())),
            false => Ok(Segment::Variable(name.to_owned())),
        };
    }
    if part.is_empty() && !is_last {
        return Err("the path contains '//'".to_owned());
    }
    if part == "." || part == ".." {
        return Err("the path contains a dot segment".to_owned());
    }
    let forbidden = |c: char| c.is_control() || matches!(c, '{' | '}' | '%' | '?' | '#' | '\\');
    if part.chars().any(forbidden) {
        return Err("a segment is a whole variable {name} or text without { } % ? # \\ and control characters (write it decoded)".to_owned());
    }
    Ok(Segment::Literal(part.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )]
    use proptest::prelude::*;

    use super::*;
    use crate::routes::PathRoutes;

    fn template() -> impl Strategy<Value = String> {
        let segment = prop_oneof![
            Just("a".to_owned()),
            Just("b".to_owned()),
            Just("{x}".to_owned())
        ];
        (
            proptest::collection::vec(segment, 1..4),
            prop_oneof![Just(""), Just("/"), Just("/{*r}")],
        )
            .prop_map(|(segments, end)| {
                let mut n = 0;
                let named: Vec<String> = segments
                    .into_iter()
                    .map(|s| {
                        n += 1;
                        if s == "{x}" { format!("{{x{n}}}") } else { s }
                    })
                    .collect();
                format!("/{}{end}", named.join("/"))
            })
    }

    fn path() -> impl Strategy<Value = Vec<String>> {
        let segment = prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(str::to_owned);
        (proptest::collection::vec(segment, 1..5), any::<bool>()).prop_map(|(mut path, slash)| {
            if slash {
                path.push(String::new());
            }
            path
        })
    }

    proptest! {
        #[test]
        fn two_templates_that_match_one_path_are_never_called_disjoint(a in template(), b in template(), p in path()) {
            let (a, b) = (Template::parse(&a).unwrap(), Template::parse(&b).unwrap());
            if a.matches(&p) && b.matches(&p) {
                prop_assert_ne!(a.compare(&b), Overlap::Disjoint);
            }
        }

        #[test]
        fn the_routes_agree_with_the_definition(a in template(), p in path()) {
            let a = Template::parse(&a).unwrap();
            let mut routes = PathRoutes::default();
            routes.insert(&a, ()).unwrap();
            prop_assert_eq!(routes.at(&format!("/{}", p.join("/"))).is_some(), a.matches(&p));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn of_templates_that_load_together_the_most_specific_one_is_taken(
            texts in proptest::collection::vec(template(), 1..6),
            p in path(),
        ) {
            let mut loaded: Vec<Template> = Vec::new();
            for text in texts {
                let next = Template::parse(&text).unwrap();
                if loaded.iter().all(|t| matches!(t.compare(&next), Overlap::Disjoint | Overlap::Ranked)) {
                    loaded.push(next);
                }
            }
            let mut routes = PathRoutes::default();
            for (at, template) in loaded.iter().enumerate() {
                routes.insert(template, at).unwrap();
            }
            let vagueness = |t: &Template| -> Vec<u8> {
                t.segments
                    .iter()
                    .map(|s| match s {
                        Segment::Literal(_) => 0,
                        Segment::Variable(_) => 1,
                        Segment::Rest(_) => 2,
                    })
                    .collect()
            };
            let expected = loaded.iter().enumerate().filter(|(_, t)| t.matches(&p)).min_by_key(|(_, t)| vagueness(t)).map(|(at, _)| at);
            prop_assert_eq!(routes.at(&format!("/{}", p.join("/"))).map(|(at, _)| *at), expected);
        }
    }
}
