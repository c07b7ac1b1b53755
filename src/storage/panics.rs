//! sled panics on some damaged files. Round its calls a panic becomes an error; anywhere else it ends the process
//! (`process` sets the hook that asks here).

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Error;

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Opens under way: sled reads damaged files on threads of its own, too.
static OPENING: AtomicUsize = AtomicUsize::new(0);

/// Whether a panic of this thread is caught and told as an error.
pub fn are_caught_here() -> bool {
    let is_engine = std::thread::current().name().is_some_and(|name| name.starts_with("sled-io"));
    CAUGHT.get() || (is_engine && OPENING.load(Ordering::Acquire) > 0)
}

/// Opens a database, with the engine's own threads.
///
/// # Errors
/// `Damaged` when it panics.
pub(super) fn guarded_open<T>(path: &Path, open: impl FnOnce() -> T) -> Result<T, Error> {
    OPENING.fetch_add(1, Ordering::AcqRel);
    let opened = guarded(path, open);
    OPENING.fetch_sub(1, Ordering::AcqRel);
    opened
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
