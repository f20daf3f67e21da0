//! What a regular expression cannot say.

use serde::Deserialize;

/// A test of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Check {
    /// Payment card: number range and length of an issuer, and the Luhn digit (ISO/IEC 7812-1).
    Card,
    /// IBAN: length, and remainder 1 by 97 (ISO 13616).
    Iban,
    /// US social security number: no reserved group.
    Ssn,
}

impl Check {
    pub(super) fn accepts(self, text: &[u8]) -> bool {
        match self {
            Self::Card => {
                let digits: Vec<u8> = text
                    .iter()
                    .filter(|b| b.is_ascii_digit())
                    .map(|b| b - b'0')
                    .collect();
                is_issued(&digits) && luhn(&digits)
            }
            Self::Iban => iban(text),
            Self::Ssn => ssn(text),
        }
    }
}

/// Shannon entropy, bits per byte.
#[allow(clippy::cast_precision_loss)]
pub(super) fn entropy(text: &[u8]) -> f64 {
    let mut counts = [0usize; 256];
    for byte in text {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    let total = text.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| *count as f64 / total)
        .map(|p| -p * p.log2())
        .sum()
}

fn prefix(digits: &[u8], length: usize) -> u32 {
    digits
        .iter()
        .take(length)
        .fold(0, |number, digit| number * 10 + u32::from(*digit))
}

/// Ranges of the large schemes; without them every tenth long number would count as a card.
fn is_issued(digits: &[u8]) -> bool {
    let (two, three, four) = (prefix(digits, 2), prefix(digits, 3), prefix(digits, 4));
    match digits.len() {
        13 => digits.first() == Some(&4),
        14 => matches!(three, 300..=305) || matches!(two, 36 | 38 | 39),
        15 => matches!(two, 34 | 37),
        16 => {
            digits.first() == Some(&4)
                || matches!(two, 51..=55 | 62 | 65)
                || matches!(three, 644..=649)
                || matches!(four, 2221..=2720 | 3528..=3589 | 6011)
        }
        17 | 18 => two == 62,
        19 => digits.first() == Some(&4) || two == 62,
        _ => false,
    }
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let digit = u32::from(*digit);
            match (at % 2, digit * 2) {
                (0, _) => digit,
                (_, doubled) if doubled > 9 => doubled - 9,
                (_, doubled) => doubled,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

fn iban(text: &[u8]) -> bool {
    let compact: Vec<u8> = text
        .iter()
        .copied()
        .filter(u8::is_ascii_alphanumeric)
        .collect();
    if !(15..=34).contains(&compact.len()) {
        return false;
    }
    let (head, tail) = compact.split_at(4);
    let remainder = tail.iter().chain(head).try_fold(0u32, |rest, byte| {
        let value = char::from(*byte).to_digit(36)?;
        Some(if value < 10 {
            (rest * 10 + value) % 97
        } else {
            (rest * 100 + value) % 97
        })
    });
    remainder == Some(1)
}

fn ssn(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let mut groups = text.split('-');
    let (Some(area), Some(group), Some(serial)) = (groups.next(), groups.next(), groups.next())
    else {
        return false;
    };
    !matches!(area, "000" | "666") && !area.starts_with('9') && group != "00" && serial != "0000"
}
