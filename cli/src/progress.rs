//! What takes longer than two seconds says so, on standard error.

use std::future::Future;
use std::io::Write;
use std::pin::pin;
use std::time::Duration;

use crate::output::plain;

const PATIENCE: Duration = Duration::from_secs(2);

/// Awaits, and says what for when it takes long.
pub async fn shown<F: Future>(what: &str, work: F) -> F::Output {
    let mut work = pin!(work);
    match tokio::time::timeout(PATIENCE, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            note(&format!("{what} ..."));
            work.await
        }
    }
}

/// A line of progress. It is lost where nobody reads it.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", plain(line));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_awaited_is_answered_whether_quick_or_slow() {
        assert_eq!(shown("quick", async { 1 }).await, 1);
        let slow = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            2
        };
        assert_eq!(shown("slow", slow).await, 2);
    }
}
