//! Values of rules: exact amounts, budgets, times, digests.

use std::time::{Duration, UNIX_EPOCH};

use alloy_primitives::{B256, U256};

/// Reads an exact decimal as a number of smallest units. None if it is not `digits[.digits]`, has more decimal places
/// than `scale`, or does not fit.
pub fn parse_amount(text: &str, scale: u8) -> Option<U256> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let scale = usize::from(scale);
    let pointless = text.contains('.') && fraction.is_empty();
    if whole.is_empty()
        || pointless
        || !digits(whole)
        || !digits(fraction)
        || fraction.len() > scale
    {
        return None;
    }
    if whole.len() > 78 || scale > 77 {
        return None;
    }
    let number = format!("{whole}{fraction:0<scale$}");
    U256::from_str_radix(&number, 10).ok()
}

/// Writes an amount with all its decimal places; [`parse_amount`] reads it back.
pub fn format_amount(amount: U256, scale: u8) -> String {
    let scale = usize::from(scale);
    let digits = format!(
        "{amount:0>width$}",
        amount = amount.to_string(),
        width = scale + 1
    );
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(scale));
    if fraction.is_empty() {
        whole.to_owned()
    } else {
        format!("{whole}.{fraction}")
    }
}

/// One budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParsedBudget {
    Amount { total: U256, window: u32 },
    Calls { total: u64, window: u32 },
}

/// Reads "100.00 per 1h" or "20 calls per 60s".
pub(super) fn parse_budget(text: &str, scale: u8) -> Result<ParsedBudget, String> {
    let form = || format!("budget {text:?} is not like \"100.00 per 1h\" or \"20 calls per 60s\"");
    let (what, window) = text.split_once(" per ").ok_or_else(form)?;
    let window = parse_window(window).ok_or_else(|| {
        format!("budget {text:?}: the window is a whole number of seconds from 1s to 366d, such as 60s, 1h or 1d")
    })?;
    if let Some(calls) = what.strip_suffix(" calls") {
        let plain = !calls.is_empty() && calls.bytes().all(|b| b.is_ascii_digit());
        let total = calls
            .parse()
            .ok()
            .filter(|total| plain && *total > 0)
            .ok_or_else(form)?;
        return Ok(ParsedBudget::Calls { total, window });
    }
    let total = parse_amount(what, scale)
        .filter(|total| !total.is_zero())
        .ok_or_else(|| format!("budget {text:?}: the amount is an exact decimal above 0 with at most {scale} decimal places"))?;
    Ok(ParsedBudget::Amount { total, window })
}

fn parse_window(text: &str) -> Option<u32> {
    let duration = humantime::parse_duration(text).ok()?;
    let seconds = u32::try_from(duration.as_secs()).ok()?;
    let whole = duration.subsec_nanos() == 0;
    (whole && (1..=366 * 86_400).contains(&seconds)).then_some(seconds)
}

/// Reads an RFC 3339 time in whole seconds as unix seconds.
pub(super) fn parse_time(text: &str) -> Option<u64> {
    let since: Duration = humantime::parse_rfc3339(text)
        .ok()?
        .duration_since(UNIX_EPOCH)
        .ok()?;
    (since.subsec_nanos() == 0).then_some(since.as_secs())
}

/// Reads 64 hex digits.
pub(super) fn parse_digest(text: &str) -> Option<B256> {
    (text.len() == 64).then(|| text.parse().ok()).flatten()
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
    use proptest::prelude::*;

    #[test]
    fn amounts_are_exact_or_refused() {
        assert_eq!(parse_amount("100.00", 2), Some(U256::from(10_000)));
        assert_eq!(parse_amount("100", 2), Some(U256::from(10_000)));
        assert_eq!(parse_amount("0.5", 2), Some(U256::from(50)));
        for refused in [
            "", ".", "1.", ".5", "-1", "+1", "1e3", "1.001", "1,00", " 1", "0x10", "1_000", "١",
        ] {
            assert_eq!(parse_amount(refused, 2), None, "{refused:?}");
        }
        assert_eq!(parse_amount(&"9".repeat(78), 0), None);
        assert_eq!(parse_amount(&U256::MAX.to_string(), 0), Some(U256::MAX));
    }

    #[test]
    fn budgets_name_what_and_per_when() {
        let amount = ParsedBudget::Amount {
            total: U256::from(10_000),
            window: 3600,
        };
        assert_eq!(parse_budget("100.00 per 1h", 2), Ok(amount));
        assert_eq!(
            parse_budget("20 calls per 60s", 2),
            Ok(ParsedBudget::Calls {
                total: 20,
                window: 60
            })
        );
        for refused in [
            "100.00",
            "100.001 per 1h",
            "0 per 1h",
            "x calls per 1h",
            "+2 calls per 1h",
            "2 calls per 0s",
            "2 calls per 1500ms",
            "2 calls per soon",
            "2 calls per 2000d",
            "0 calls per 1h",
        ] {
            assert!(parse_budget(refused, 2).is_err(), "{refused}");
        }
    }

    #[test]
    fn times_are_utc_and_whole_seconds() {
        assert_eq!(parse_time("2026-01-01T00:00:00Z"), Some(1_767_225_600));
        for refused in [
            "2026-01-01",
            "2026-01-01T00:00:00.5Z",
            "2026-13-01T00:00:00Z",
            "tomorrow",
        ] {
            assert_eq!(parse_time(refused), None, "{refused}");
        }
    }

    proptest! {
        #[test]
        fn an_amount_that_is_written_is_read_back(value: [u64; 4], scale in 0u8..=36) {
            let amount = U256::from_limbs(value);
            prop_assert_eq!(parse_amount(&format_amount(amount, scale), scale), Some(amount));
        }

        #[test]
        fn no_text_makes_the_value_parsers_panic(text in ".{0,40}", scale: u8) {
            let _ = parse_amount(&text, scale);
            let _ = parse_budget(&text, scale);
            let _ = parse_time(&text);
            let _ = parse_digest(&text);
        }
    }
}
