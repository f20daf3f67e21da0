//! Names and amounts as people write them.

use alloy_primitives::U256;
use writ_catalog::{Catalog, Destination};

/// Names of the data classes, ascending.
const CLASSES: [&str; 4] = ["public", "internal", "confidential", "restricted"];

/// Name of a class.
pub fn class_name(class: u8) -> &'static str {
    CLASSES
        .get(usize::from(class))
        .copied()
        .unwrap_or("restricted")
}

/// Class of a name, or of its number.
pub fn class_level(text: &str) -> Option<u8> {
    let named = CLASSES.iter().position(|name| *name == text);
    let level = named.and_then(|at| u8::try_from(at).ok());
    level.or_else(|| text.parse().ok().filter(|level| *level <= 3))
}

/// The destination behind host and port, whether the port is the one that agents dial or the one that
/// sidecars do: records of decisions name the latter.
pub fn destination<'c>(catalog: &'c Catalog, host: &str, port: u16) -> Option<&'c Destination> {
    catalog.destination(host, port).or_else(|| {
        catalog.destinations().find(|destination| {
            let here = catalog.destination(host, destination.port);
            destination.upstream.port == port && here.is_some_and(|d| d.name == destination.name)
        })
    })
}

/// An amount in smallest units, as a decimal of `scale` places. `None`: more places than that, or no
/// plain decimal.
pub fn units(text: &str, scale: u8) -> Option<U256> {
    // Zeros at the end say nothing.
    let trimmed = match text.split_once('.') {
        Some((whole, fraction)) => {
            let fraction = fraction.trim_end_matches('0');
            if fraction.is_empty() {
                whole.to_owned()
            } else {
                format!("{whole}.{fraction}")
            }
        }
        None => text.to_owned(),
    };
    writ_policy::rules::parse_amount(&trimmed, scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_lose_zeros_and_nothing_else() {
        assert_eq!(units("12.500", 2), Some(U256::from(1250)));
        assert_eq!(units("12.00", 0), Some(U256::from(12)));
        for refused in ["12.345", "", "-1", "1e3", ".5"] {
            assert_eq!(units(refused, 2), None, "{refused}");
        }
    }

    #[test]
    fn classes_are_names_or_numbers() {
        assert_eq!(class_level("confidential"), Some(2));
        assert_eq!(class_level("3"), Some(3));
        assert_eq!(class_level("4"), None);
        assert_eq!(class_level("secret"), None);
    }
}
