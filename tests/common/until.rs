//! Waiting for what comes by itself: looks again and again, until it is there or the time is over.

use std::time::Duration;

/// Above what anything takes here, also on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// Looks until something is found; `None` when it does not come within the limit.
pub async fn found<T>(look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    found_within(LIMIT, look).await
}

/// As `found`, with a limit of its own.
pub async fn found_within<T>(limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let mut looks = tokio::time::interval(LOOK);
    let looking = async {
        loop {
            looks.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    tokio::time::timeout(limit, looking).await.ok()
}

/// Looks until it is so; panics with `what` when it does not come to it within the limit.
pub async fn until(what: &str, is_so: impl AsyncFnMut() -> bool) {
    until_within(LIMIT, what, is_so).await;
}

/// As `until`, with a limit of its own.
pub async fn until_within(limit: Duration, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let came = found_within(limit, async || is_so().await.then_some(())).await;
    assert!(came.is_some(), "it did not come to this: {what}");
}

#[tokio::test]
async fn what_comes_is_found_and_what_does_not_is_told() {
    let mut looks = 0;
    let third = found(async || {
        looks += 1;
        (looks == 3).then_some(looks)
    });
    assert_eq!(third.await, Some(3));
    assert_eq!(found_within(Duration::ZERO, async || None::<()>).await, None);
    until("now", async || true).await;
}
