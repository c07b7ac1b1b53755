//! What comes from a disk or from outside, decoded by the real decoders with a counting allocator: they never fall
//! over, and never take more memory than a small multiple of what they were given, whatever lengths it claims.
//! The decoders of the store's rows are tested beside them (`src/storage/sled/tests/decoders.rs`).

mod config;
mod directory;
mod log;
mod state;
mod state_pieces;

use parking_lot::{Mutex, MutexGuard};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What a decoder may use beside what its input is worth: error texts, tables of fixed size.
const SPARE_BYTES: usize = 64 << 10;

/// The allocator counts for the whole process: tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock()
}

/// Runs a decoder over so many bytes of input; it may take `times` as much.
fn within<T>(input: usize, times: usize, decode: impl FnOnce() -> T) -> T {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let decoded = decode();
    let used = MEMORY.peak_usage().saturating_sub(before);
    let most = input * times + SPARE_BYTES;
    assert!(used <= most, "{used} bytes were used for {input} bytes of input");
    decoded
}

/// One kind of damage to some bytes.
fn damage(bytes: &mut Vec<u8>, random: &mut rand::rngs::SmallRng) {
    use rand::Rng;
    if bytes.is_empty() {
        return bytes.push(random.random());
    }
    let place = random.random_range(0..bytes.len());
    match random.random_range(0..6) {
        0 => bytes.truncate(place),
        1 => bytes.extend((0..random.random_range(1..20)).map(|_| random.random::<u8>())),
        // What a length in protobuf looks like when it is as large as can be.
        2 => {
            let end = (place + random.random_range(1..10)).min(bytes.len());
            bytes[place..end].fill(0xff);
        }
        3 => {
            let end = (place + 4).min(bytes.len());
            let extreme: u32 = [0, u32::MAX, u32::MAX - 1, 1 << 31][random.random_range(0..4)];
            bytes[place..end].copy_from_slice(&extreme.to_le_bytes()[..end - place]);
        }
        _ => bytes[place] ^= 1 << random.random_range(0..8),
    }
}
