//! Members that have lost something of their own, and what of it they get back from the others.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::members::{Acknowledged, Cluster, Options};
use crate::setting;
use crate::until::LIMIT;

const VALUE_BYTES: usize = 1 << 20;
const VALUE_BYTE: u8 = b'v';
const PAGE_BYTES: usize = 4 << 10;
/// What happens to a store.
type Loss = fn(&Path);

/// How often making a store good is cut short, and how long after its beginning, at most.
const MAX_CUTS: usize = 12;
const LONGEST_CUT: Duration = Duration::from_millis(800);
const LOST: &str = "the store is lost";
/// What comes when there is a store.
const MADE_GOOD: &str = "opened the raft log";

/// The log then leaves out what the store has.
const NO_CATCH_UP: &str = "--snapshot-catchup-entries=1";

/// Writes by one member until it is acknowledged; noted.
async fn put(cluster: &Cluster, place: usize, key: String, value: Vec<u8>, history: &mut Acknowledged) {
    let revision = cluster.put_at(place, key.clone(), value).await;
    history.insert(key, revision);
}

pub async fn put_some(cluster: &Cluster, place: usize, name: &str, history: &mut Acknowledged) {
    for number in 0..20 {
        put(cluster, place, format!("{name} {number}"), b"value".to_vec(), history).await;
    }
}

/// Large values until every member has let go of the beginning of its log: only the store holds what stood there.
async fn write_until_logs_are_cut(cluster: &Cluster, history: &mut Acknowledged) {
    let first = |place: usize| cluster.data(place).join("wal/0000000000000001.wal");
    let cut = tokio::time::timeout(LIMIT, async {
        for number in 0.. {
            put(cluster, 0, format!("large {}", number % 8), vec![VALUE_BYTE; VALUE_BYTES], history).await;
            if (0..3).all(|place| !first(place).exists()) {
                return;
            }
        }
    });
    cut.await.expect("logs are cut");
}

fn database(store: &Path) -> PathBuf {
    let databases = fs::read_dir(store).expect("a store").map(|entry| entry.expect("an entry").path());
    let is_database = |path: &PathBuf| path.join("db").is_file();
    databases.into_iter().find(is_database).expect("it has a database").join("db")
}

fn remove(store: &Path) {
    fs::remove_dir_all(store).expect("it can be removed");
}

fn empty(store: &Path) {
    let file = OpenOptions::new().write(true).open(database(store)).expect("it is there");
    file.set_len(0).expect("it can be cut");
}

/// A bit is turned over in every page of its file that holds nothing but a large value, wherever those lie: all else stays
/// whole.
fn damage(store: &Path) {
    let path = database(store);
    let bytes = fs::read(&path).expect("it can be read");
    let file = OpenOptions::new().write(true).open(&path).expect("it is there");
    let mut damaged = 0;
    for (page, offset) in bytes.chunks(PAGE_BYTES).zip((0..).step_by(PAGE_BYTES)) {
        if page.iter().all(|byte| *byte == VALUE_BYTE) {
            file.write_all_at(&[VALUE_BYTE ^ 0x10], offset).expect("it can be written");
            damaged += 1;
        }
    }
    assert!(damaged > 0, "{} holds no value", path.display());
}

/// Whatever is left of a store: the member gets it back by itself, all that was acknowledged is there, and it counts in the
/// quorum again.
#[tokio::test]
async fn a_lost_store_is_made_good_by_the_others() {
    let mut cluster = Cluster::start_with(3, Options::with_flags(&[NO_CATCH_UP])).await;
    let mut history = Acknowledged::new();
    write_until_logs_are_cut(&cluster, &mut history).await;
    let cases: [(Loss, bool); 3] = [(remove, false), (empty, true), (damage, true)];
    for (victim, (lose, is_kept)) in cases.into_iter().enumerate() {
        let (one, other) = ((victim + 1) % 3, (victim + 2) % 3);
        cluster.kill(victim);
        lose(&cluster.data(victim).join("store"));
        put_some(&cluster, one, &format!("without {victim}"), &mut history).await;
        cluster.launch(victim).await;
        let log = cluster.log(victim);
        assert!(log.contains(LOST), "{log}");
        assert!(log.contains("is in the place of the lost store"), "{log}");
        assert_eq!(cluster.data(victim).join("store.lost-1").exists(), is_kept, "{log}");
        cluster.check(&history).await;
        cluster.kill(other);
        put_some(&cluster, victim, &format!("with {victim}"), &mut history).await;
        cluster.launch(other).await;
    }
    cluster.check(&history).await;
}

/// Without the one that has lost its store there is no quorum: the other gives its state all the same.
#[tokio::test]
async fn a_lost_store_is_made_good_without_a_leader() {
    let mut cluster = Cluster::start_with(3, Options::with_flags(&[NO_CATCH_UP])).await;
    let mut history = Acknowledged::new();
    write_until_logs_are_cut(&cluster, &mut history).await;
    cluster.kill(2);
    put_some(&cluster, 0, "of two", &mut history).await;
    cluster.kill(0);
    cluster.kill(1);
    remove(&cluster.data(0).join("store"));
    cluster.launch_places(&[0, 1]).await;
    put_some(&cluster, 0, "after", &mut history).await;
    cluster.launch(2).await;
    cluster.check(&history).await;
}

/// Killed at any moment of it, again and again. When it was done by then, the store is lost once more, and it is killed sooner.
#[tokio::test]
async fn a_lost_store_is_made_good_whenever_that_is_cut_short() {
    let seed = setting("DECKLOG_CLUSTER_SEED").unwrap_or_else(rand::random);
    println!("DECKLOG_CLUSTER_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut cluster = Cluster::start_with(3, Options::with_flags(&[NO_CATCH_UP])).await;
    let mut history = Acknowledged::new();
    write_until_logs_are_cut(&cluster, &mut history).await;
    cluster.kill(1);
    empty(&cluster.data(1).join("store"));
    let (mut cut_short, mut longest) = (0, LONGEST_CUT);
    for time in 0..MAX_CUTS {
        put_some(&cluster, 0, &format!("meanwhile {time}"), &mut history).await;
        let after = longest.mul_f64(random.random());
        cluster.start_and_kill(1, &[LOST, MADE_GOOD], after).await;
        if !cluster.log(1).contains(MADE_GOOD) {
            cut_short += 1;
        } else {
            empty(&cluster.data(1).join("store"));
            longest /= 2;
        }
    }
    println!("{cut_short} of {MAX_CUTS} cut short");
    assert!(cut_short >= MAX_CUTS / 2, "only {cut_short} of {MAX_CUTS} were under way");
    cluster.launch(1).await;
    cluster.check(&history).await;
    // With it alone as a second.
    cluster.kill(2);
    put_some(&cluster, 1, "after", &mut history).await;
    cluster.launch(2).await;
    cluster.check(&history).await;
}
