//! Waiting for conditions, never for a time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);
const PAUSE: Duration = Duration::from_millis(200);

/// Waits until `condition` has something, and panics with `what` when it never does.
pub async fn until<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, condition).await
}

/// The same, within another time.
pub async fn until_within<T>(
    limit: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        sleep(PAUSE).await;
    }
}

/// Tells what was measured, of a test that passes too. It decides nothing.
pub fn measured(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "measured: {text}");
}
