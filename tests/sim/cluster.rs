//! Whole clusters in one thread under a seed: messages late, lost, doubled and out of order; partitions, also one-way;
//! machines that crash at any call and lose what was not synced, that pause, whose clocks drift, whose disks are slow;
//! members that come and go meanwhile. See `world` for what is checked. `DECKLOG_SIM_CLUSTERS` and `DECKLOG_SIM_SEED` choose how many and which.

mod disks;
pub mod machine;
mod met;
pub mod script;
mod truth;
mod world;

use std::time::Instant;

use met::Met;
use world::World;

const DEFAULT_CLUSTERS: u64 = 2000;

#[test]
fn clusters_keep_what_they_promised_and_come_to_life() {
    let first = super::setting("DECKLOG_SIM_SEED").unwrap_or_else(rand::random);
    let clusters = super::setting("DECKLOG_SIM_CLUSTERS").unwrap_or(DEFAULT_CLUSTERS);
    println!("DECKLOG_SIM_SEED={first}");
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let met = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || runs(first, thread, threads, clusters))).collect();
        let mut met = Met::default();
        for thread in threads {
            met.add(&thread.join().expect("no seed failed"));
        }
        met
    });
    let per_second = clusters as f64 / began.elapsed().as_secs_f64();
    println!("{met:?}: {} faults, {per_second:.1} clusters per second", met.faults());
    if clusters >= DEFAULT_CLUSTERS {
        assert!(met.of("write") > 100 * clusters && met.of("read") > 50 * clusters);
        assert!(met.faults() > 20 * clusters && met.of("state arrived") > 2 * clusters);
        let often =
            ["member change", "slow flush", "lease renewed", "checkpoint lifted", "lease expired", "event"];
        let seldom =
            ["voter added", "learner added", "promoted", "removed", "removed member stopped", "transfer"];
        let enough = |what: &&str| met.of(what) > clusters;
        assert!(often.iter().all(|what| met.of(what) > 2 * clusters), "{met:?}");
        assert!(seldom.iter().all(enough) && met.of("watcher compacted") > clusters, "{met:?}");
    }
}

fn size(seed: u64) -> u64 {
    [3, 5, 1, 3][(seed % 4) as usize]
}

/// Every so many of the seeds.
fn runs(first: u64, thread: u64, threads: u64, clusters: u64) -> Met {
    let mut met = Met::default();
    for run in (thread..clusters).step_by(usize::try_from(threads).expect("some cores")) {
        let seed = first.wrapping_add(run);
        let mut world = World::new(seed, size(seed));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
        assert!(ended.is_ok(), "again with DECKLOG_SIM_CLUSTERS=1 DECKLOG_SIM_SEED={seed}");
        met.add(&world.met);
    }
    met
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let seed = super::setting("DECKLOG_SIM_SEED").unwrap_or_else(rand::random);
    println!("DECKLOG_SIM_SEED={seed}");
    for seed in seed..seed.saturating_add(5) {
        assert_eq!(World::new(seed, size(seed)).run(), World::new(seed, size(seed)).run(), "seed {seed}");
    }
}
