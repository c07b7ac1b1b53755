//! The tree against a plain map, over random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ids::FullRevision;

/// Every version of every key, as plain as can be.
type Model = BTreeMap<Vec<u8>, Vec<Version>>;

fn next_version(model: &Model, key: &[u8], main: i64, delete: bool) -> Version {
    let modified = FullRevision::new(main, 0);
    let before = model.get(key).and_then(|versions| versions.last());
    match before {
        _ if delete => Version::tombstone(modified),
        Some(before) if !before.is_tombstone() => {
            Version { modified, created: before.created, version: before.version + 1 }
        }
        _ => Version { modified, created: Revision(main), version: 1 },
    }
}

fn compact_model(model: &mut Model, at: i64) {
    for versions in model.values_mut() {
        if let Some(visible) = versions.iter().rposition(|version| version.modified.main.0 <= at) {
            let dropped = versions[visible].is_tombstone() && versions[visible].modified.main.0 < at;
            versions.drain(..visible + usize::from(dropped));
        }
    }
    model.retain(|_, versions| !versions.is_empty());
}

fn versions_of(history: History<'_>) -> Vec<Version> {
    let older = history.older.into_iter().flat_map(|older| older.iter().copied());
    older.chain([history.newest]).collect()
}

fn check(tree: &Tree, model: &Model) {
    let all: Model =
        tree.range(&[], None).map(|(key, history)| (key.to_vec(), versions_of(history))).collect();
    assert_eq!(&all, model);
    let live = model.values().filter(|versions| !versions.last().unwrap().is_tombstone()).count();
    assert_eq!(tree.live(), live as u64);
}

fn check_ranges(tree: &Tree, model: &Model, from: &[u8], to: &[u8]) {
    let expected: Vec<_> = model.iter().filter(|(key, _)| from <= &key[..] && &key[..] < to).collect();
    let found: Vec<_> = tree.range(from, Some(to)).map(|(key, _)| key.to_vec()).collect();
    assert_eq!(found, expected.iter().map(|(key, _)| (*key).clone()).collect::<Vec<_>>());
    let live = expected.iter().filter(|(_, versions)| !versions.last().unwrap().is_tombstone()).count();
    assert_eq!(tree.count_live(from, Some(to)), live as u64);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u16),
    Delete(u16),
    Compact(u8),
    Snapshot,
    Range(u16, u16),
}

fn key(number: u16) -> Vec<u8> {
    // Lengths differ, so that prefixes of other keys are among them.
    format!("k{number}").into_bytes()
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0u16..2000).prop_map(Step::Put),
        4 => (0u16..2000).prop_map(Step::Delete),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => Just(Step::Snapshot),
        2 => (0u16..2000, 0u16..2000).prop_map(|(from, to)| Step::Range(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_tree_is_a_map_and_its_clones_never_change(steps in proptest::collection::vec(step(), 1..1500)) {
        let (mut tree, mut model) = (Tree::default(), Model::new());
        let (mut main, mut compacted) = (1, 0);
        let mut snapshots = Vec::new();
        for step in steps {
            match step {
                Step::Put(number) | Step::Delete(number) => {
                    let delete = matches!(step, Step::Delete(_));
                    let key = key(number);
                    if delete && tree.get(&key).is_none_or(|history| history.newest.is_tombstone()) {
                        continue;
                    }
                    main += 1;
                    let version = next_version(&model, &key, main, delete);
                    tree.push(&key, version);
                    model.entry(key).or_default().push(version);
                }
                Step::Compact(part) => {
                    compacted = compacted.max(main * i64::from(part) / 255);
                    compact_model(&mut model, compacted);
                    let mut from = Some(Vec::new());
                    while let Some(key) = from {
                        from = tree.compact_leaf(&key, Revision(compacted));
                    }
                    check(&tree, &model);
                }
                Step::Snapshot => snapshots.push((tree.clone(), model.clone())),
                Step::Range(from, to) => check_ranges(&tree, &model, &key(from), &key(to)),
            }
        }
        check(&tree, &model);
        for (tree, model) in &snapshots {
            check(tree, model);
        }
    }
}

#[test]
fn keys_in_order_fill_the_leaves() {
    let mut tree = Tree::default();
    for number in 0..100_000u32 {
        tree.push(
            format!("key{number:08}").as_bytes(),
            Version { modified: FullRevision::new(2, number), created: Revision(2), version: 1 },
        );
    }
    assert_eq!(tree.live(), 100_000);
    assert_eq!(tree.count_live(b"key00000010", Some(b"key00000020")), 10);
    assert_eq!(tree.count_live(b"key00099990", None), 10);
    assert_eq!(tree.range(b"key00050000", None).count(), 50_000);
}
