//! Names made of other names. No I/O.

use std::collections::BTreeSet;

/// Lower-case letters and digits, in words joined by hyphens, at most `most` bytes. Never empty.
pub fn words(text: &str, most: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.truncate(most);
    let trimmed = out.trim_end_matches('-');
    if trimmed.is_empty() {
        "root".to_owned()
    } else {
        trimmed.to_owned()
    }
}

/// Names that are each given once.
#[derive(Debug, Default)]
pub struct Taken(BTreeSet<String>);

impl Taken {
    /// Notes a name that exists.
    pub fn note(&mut self, name: &str) {
        self.0.insert(name.to_owned());
    }

    /// The name, or with a number behind it, at most `most` bytes.
    pub fn unique(&mut self, name: &str, most: usize) -> String {
        let mut nth = 1_usize;
        loop {
            let end = if nth == 1 {
                String::new()
            } else {
                format!("-{nth}")
            };
            let room = most.saturating_sub(end.len());
            let cut = name.get(..room.min(name.len())).unwrap_or(name);
            let candidate = format!("{}{end}", cut.trim_end_matches(['-', '.', '_']));
            if self.0.insert(candidate.clone()) {
                return candidate;
            }
            nth += 1;
        }
    }
}

/// The next amount with at most two digits that are not 0.
pub fn rounded_up(amount: alloy_primitives::U256) -> alloy_primitives::U256 {
    use alloy_primitives::U256;
    let digits = amount.to_string().len();
    let Some(zeros) = digits.checked_sub(2).filter(|zeros| *zeros > 0) else {
        return amount;
    };
    let Some(step) = U256::from(10).checked_pow(U256::from(zeros)) else {
        return amount;
    };
    let rest = amount % step;
    if rest.is_zero() {
        return amount;
    }
    amount.checked_add(step - rest).unwrap_or(amount)
}

/// See [`rounded_up`].
pub fn calls_up(calls: u64) -> u64 {
    u64::try_from(rounded_up(alloy_primitives::U256::from(calls))).unwrap_or(calls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::U256;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_rounded_up_to_two_digits() {
        for (amount, rounded) in [
            (0, 0),
            (7, 7),
            (99, 99),
            (101, 110),
            (12_000, 12_000),
            (43_721, 44_000),
            (99_900, 100_000),
        ] {
            assert_eq!(rounded_up(U256::from(amount)), U256::from(rounded));
        }
        assert_eq!(rounded_up(U256::MAX), U256::MAX);
    }

    proptest! {
        #[test]
        fn names_are_words_and_differ(texts in proptest::collection::vec(".{0,80}", 1..20)) {
            let mut taken = Taken::default();
            let names: Vec<String> = texts.iter().map(|t| taken.unique(&words(t, 64), 64)).collect();
            let distinct: BTreeSet<&String> = names.iter().collect();
            prop_assert_eq!(distinct.len(), names.len());
            for name in names {
                prop_assert!(name.len() <= 64);
                prop_assert!(name.split('-').all(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())));
            }
        }

        #[test]
        fn rounding_never_goes_below(limbs: [u64; 4]) {
            let amount = U256::from_limbs(limbs);
            prop_assert!(rounded_up(amount) >= amount);
        }
    }
}
