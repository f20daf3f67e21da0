//! Most specific template first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use matchit::{InsertError, Router};

use crate::template::Template;

/// Values behind path templates that [`Template::compare`] never calls ambiguous.
///
/// `matchit` prefers literals to variables but refuses a variable and a rest in one place, so
/// templates that end in a rest have routers of their own, by depth. Where a template without a rest
/// and one with it overlap and are not ambiguous, the former is the more specific; of two with a rest
/// the deeper is.
#[derive(Debug)]
pub(crate) struct PathRoutes<T> {
    whole: Router<T>,
    rest: BTreeMap<Reverse<usize>, Router<T>>,
}

impl<T> Default for PathRoutes<T> {
    fn default() -> Self {
        Self {
            whole: Router::new(),
            rest: BTreeMap::new(),
        }
    }
}

impl<T> PathRoutes<T> {
    pub(crate) fn insert(&mut self, template: &Template, value: T) -> Result<(), InsertError> {
        let router = match template.rest_depth() {
            None => &mut self.whole,
            Some(depth) => self.rest.entry(Reverse(depth)).or_default(),
        };
        router.insert(template.shape(), value)
    }

    /// The value of the most specific template, and its variables by the names of
    /// [`Template::bindings`].
    pub(crate) fn at(&self, decoded_path: &str) -> Option<(&T, HashMap<String, String>)> {
        let matched = std::iter::once(&self.whole)
            .chain(self.rest.values())
            .find_map(|router| router.at(decoded_path).ok())?;
        let values = matched
            .params
            .iter()
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect();
        Some((matched.value, values))
    }
}
