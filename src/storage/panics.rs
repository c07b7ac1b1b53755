//! sled panics on some damaged files. Round its calls a panic becomes an error; anywhere else it ends the process
//! (`process` sets the hook that asks here).

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::Error;

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is caught and told as an error.
pub fn are_caught_here() -> bool {
    CAUGHT.get()
}

/// Runs a call into the engine.
///
/// # Errors
/// `Damaged` when it panics: what it found on disk is not what it wrote.
pub(super) fn guarded<T>(path: &Path, call: impl FnOnce() -> T) -> Result<T, Error> {
    let before = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    CAUGHT.set(before);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let detail = format!("the engine gave up on it: {}", text.as_deref().unwrap_or("no reason given"));
        Error::Damaged { place: path.display().to_string(), detail }
    })
}
