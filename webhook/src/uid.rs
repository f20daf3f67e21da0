//! The sidecar's uid: drawn for each admission, so that no image can name it.

use ring::rand::SecureRandom;

use crate::settings::{FIRST_UID, LAST_UID};

/// Draws a uid; `None` when there is no randomness, and then nothing may be admitted.
#[must_use]
pub fn draw(random: &dyn SecureRandom) -> Option<u32> {
    let span = LAST_UID - FIRST_UID + 1;
    let mask = span.next_power_of_two() - 1;
    // Each try succeeds more often than not.
    for _ in 0..128 {
        let mut bytes = [0; 4];
        random.fill(&mut bytes).ok()?;
        let drawn = u32::from_be_bytes(bytes) & mask;
        if drawn < span {
            return Some(FIRST_UID + drawn);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn drawn_uids_are_from_the_range_and_differ() {
        let random = ring::rand::SystemRandom::new();
        let drawn: BTreeSet<u32> = (0..1000).map(|_| draw(&random).unwrap()).collect();
        assert!(drawn.iter().all(|uid| (FIRST_UID..=LAST_UID).contains(uid)));
        assert!(drawn.len() > 990);
    }
}
