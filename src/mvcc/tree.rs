//! A persistent, order-statistic B-tree from keys to their versions.
//! Owns the order of keys and the number of live ones below each node. Cloning is one reference count: a clone
//! is a snapshot that later writes never touch (they copy the nodes on their path, and only when shared).
//!
//! Keys of a node stand in one byte string, versions in one array, so that copying a node is copying two blocks
//! of memory, and a key costs its own bytes and about 40 more.

use std::sync::Arc;

use super::history::{Compacted, History, Older, Version};
use super::keys::Keys;
use crate::ids::Revision;

/// Most keys in a leaf and most children of an inner node: a put copies one of each, and every node costs some memory.
const LEAF_KEYS: usize = 48;
const INNER_CHILDREN: usize = 32;
/// A node below a quarter of its size is joined with a neighbour.
const LEAF_SMALL: usize = LEAF_KEYS / 4;
const INNER_SMALL: usize = INNER_CHILDREN / 4;

#[derive(Clone, Default)]
pub struct Tree {
    root: Option<Arc<Node>>,
}

#[derive(Clone)]
enum Node {
    Leaf(Leaf),
    Inner(Inner),
}

#[derive(Clone, Default)]
struct Leaf {
    keys: Keys,
    newest: Vec<Version>,
    /// Slot of a key that has older versions, with them; rising in slot.
    older: Vec<(u16, Older)>,
}

#[derive(Clone, Default)]
struct Inner {
    /// A lower bound of each child's keys; the first is never looked at.
    lows: Keys,
    live: Vec<u64>,
    children: Vec<Arc<Node>>,
}

/// The right half of a node that grew too large.
struct Split {
    low: Vec<u8>,
    live: u64,
    node: Arc<Node>,
}

impl Tree {
    /// The versions of `key`.
    pub fn get(&self, key: &[u8]) -> Option<History<'_>> {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Inner(inner) => node = &inner.children[inner.child_of(key)],
                Node::Leaf(leaf) => return leaf.keys.find(key).ok().map(|slot| leaf.history(slot)),
            }
        }
    }

    /// Adds the newest version of `key`.
    pub fn push(&mut self, key: &[u8], version: Version) {
        let Some(root) = &mut self.root else {
            let mut leaf = Leaf::default();
            leaf.insert(0, key, version);
            self.root = Some(Arc::new(Node::Leaf(leaf)));
            return;
        };
        let (_, split) = push_below(root, key, version);
        let Some(right) = split else {
            return;
        };
        let left = root.clone();
        let mut inner = Inner::default();
        inner.insert(0, &[], left.live(), left);
        inner.insert(1, &right.low, right.live, right.node);
        self.root = Some(Arc::new(Node::Inner(inner)));
    }

    /// Drops what a compaction at `revision` removes from the leaf that holds `from`. Returns the first key of
    /// the next leaf, `None` after the last.
    pub fn compact_leaf(&mut self, from: &[u8], revision: Revision) -> Option<Vec<u8>> {
        let mut root = self.root.take()?;
        let mut next = None;
        compact_below(&mut root, from, revision, &mut next);
        while let Node::Inner(inner) = &*root
            && inner.children.len() == 1
        {
            root = inner.children[0].clone();
        }
        self.root = (!root.is_empty()).then_some(root);
        next
    }

    /// Keys whose newest version is not a deletion.
    pub fn live(&self) -> u64 {
        self.root.as_ref().map_or(0, |root| root.live())
    }

    /// Live keys from `from` up to `to` (no end: `None`).
    pub fn count_live(&self, from: &[u8], to: Option<&[u8]>) -> u64 {
        let above = to.map_or_else(|| self.live(), |to| self.live_below(to));
        above.saturating_sub(self.live_below(from))
    }

    fn live_below(&self, key: &[u8]) -> u64 {
        let Some(mut node) = self.root.as_deref() else {
            return 0;
        };
        let mut below = 0;
        loop {
            match node {
                Node::Inner(inner) => {
                    let child = inner.child_of(key);
                    below += inner.live[..child].iter().sum::<u64>();
                    node = &inner.children[child];
                }
                Node::Leaf(leaf) => {
                    let slot = leaf.keys.find(key).unwrap_or_else(|slot| slot);
                    return below + leaf.live_in(0..slot);
                }
            }
        }
    }

    /// Every key from `from` up to `to` (no end: `None`) with its versions, in order.
    pub fn range<'a>(&'a self, from: &[u8], to: Option<&'a [u8]>) -> Range<'a> {
        let mut range = Range { path: Vec::new(), leaf: None, to };
        if let Some(root) = self.root.as_deref() {
            range.descend_to(root, from);
        }
        range
    }
}

/// Keys in order with their versions.
pub struct Range<'a> {
    /// Inner nodes above the leaf, with the child to go to next.
    path: Vec<(&'a Inner, usize)>,
    leaf: Option<(&'a Leaf, usize)>,
    to: Option<&'a [u8]>,
}

impl<'a> Range<'a> {
    fn descend_to(&mut self, mut node: &'a Node, from: &[u8]) {
        loop {
            match node {
                Node::Inner(inner) => {
                    let child = inner.child_of(from);
                    self.path.push((inner, child + 1));
                    node = &inner.children[child];
                }
                Node::Leaf(leaf) => {
                    self.leaf = Some((leaf, leaf.keys.find(from).unwrap_or_else(|slot| slot)));
                    return;
                }
            }
        }
    }

    fn next_leaf(&mut self) -> Option<&'a Leaf> {
        while let Some((inner, child)) = self.path.pop() {
            let Some(node) = inner.children.get(child) else {
                continue;
            };
            self.path.push((inner, child + 1));
            self.descend_to(node, &[]);
            return self.leaf.map(|(leaf, _)| leaf);
        }
        None
    }
}

impl<'a> Iterator for Range<'a> {
    type Item = (&'a [u8], History<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (leaf, slot) = self.leaf?;
            if slot < leaf.newest.len() {
                let key = leaf.keys.get(slot);
                if self.to.is_some_and(|to| key >= to) {
                    self.leaf = None;
                    return None;
                }
                self.leaf = Some((leaf, slot + 1));
                return Some((key, leaf.history(slot)));
            }
            self.leaf = None;
            self.next_leaf()?;
        }
    }
}

impl Node {
    fn live(&self) -> u64 {
        match self {
            Self::Leaf(leaf) => leaf.live_in(0..leaf.newest.len()),
            Self::Inner(inner) => inner.live.iter().sum(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.newest.is_empty(),
            Self::Inner(inner) => inner.children.is_empty(),
        }
    }

    fn is_small(&self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.newest.len() < LEAF_SMALL,
            Self::Inner(inner) => inner.children.len() < INNER_SMALL,
        }
    }

    /// Whether `right` can be put behind `self` without either growing too large.
    fn joins(&self, right: &Self) -> bool {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(right)) => left.newest.len() + right.newest.len() <= LEAF_KEYS,
            (Self::Inner(left), Self::Inner(right)) => {
                left.children.len() + right.children.len() <= INNER_CHILDREN
            }
            _ => false,
        }
    }
}

impl Leaf {
    fn history(&self, slot: usize) -> History<'_> {
        let older = self.older_at(slot).ok().map(|place| &self.older[place].1);
        History { newest: self.newest[slot], older }
    }

    fn older_at(&self, slot: usize) -> Result<usize, usize> {
        self.older.binary_search_by(|(at, _)| usize::from(*at).cmp(&slot))
    }

    fn live_in(&self, slots: std::ops::Range<usize>) -> u64 {
        self.newest[slots].iter().filter(|version| !version.is_tombstone()).count() as u64
    }

    /// Moves the slot numbers from `slot` on by one up or down.
    fn shift_older(&mut self, slot: usize, up: bool) {
        let from = self.older_at(slot).unwrap_or_else(|place| place);
        for (at, _) in &mut self.older[from..] {
            *at = if up { *at + 1 } else { *at - 1 };
        }
    }

    fn insert(&mut self, slot: usize, key: &[u8], version: Version) {
        self.shift_older(slot, true);
        self.keys.insert(slot, key);
        if self.newest.len() == self.newest.capacity() {
            self.newest.reserve_exact(8);
        }
        self.newest.insert(slot, version);
    }

    fn remove(&mut self, slot: usize) {
        if let Ok(place) = self.older_at(slot) {
            self.older.remove(place);
        }
        self.shift_older(slot, false);
        self.keys.remove(slot);
        self.newest.remove(slot);
    }

    fn replace(&mut self, slot: usize, version: Version) {
        let before = std::mem::replace(&mut self.newest[slot], version);
        match self.older_at(slot) {
            Ok(place) => self.older[place].1.push(before),
            Err(place) => {
                let mut older = Older::default();
                older.push(before);
                let slot = u16::try_from(slot).expect("a leaf has at most LEAF_KEYS slots");
                self.older.insert(place, (slot, older));
            }
        }
    }

    fn split_off(&mut self, slot: usize) -> Self {
        let place = self.older_at(slot).unwrap_or_else(|place| place);
        let moved = u16::try_from(slot).expect("a leaf has at most LEAF_KEYS slots");
        let older = self.older.split_off(place).into_iter().map(|(at, older)| (at - moved, older)).collect();
        let right = Self { keys: self.keys.split_off(slot), newest: self.newest.split_off(slot), older };
        // It may stay as it is for good: keys that rise go on in the right half.
        self.keys.shrink_to_fit();
        self.newest.shrink_to_fit();
        right
    }

    fn append(&mut self, right: &Self) {
        let moved = u16::try_from(self.newest.len()).expect("a leaf has at most LEAF_KEYS slots");
        self.older.extend(right.older.iter().map(|(at, older)| (at + moved, older.clone())));
        self.keys.append(&right.keys);
        self.newest.extend_from_slice(&right.newest);
    }

    /// What a compaction at `revision` changes, from the last slot to the first.
    fn compaction(&self, revision: Revision) -> Vec<(usize, Compacted)> {
        let slots = (0..self.newest.len()).rev();
        slots
            .map(|slot| (slot, self.history(slot).compact(revision)))
            .filter(|(_, left)| !matches!(left, Compacted::Same))
            .collect()
    }

    fn apply_compaction(&mut self, changes: Vec<(usize, Compacted)>) {
        for (slot, left) in changes {
            match left {
                Compacted::Same => {}
                Compacted::Gone => self.remove(slot),
                Compacted::Older(older) => {
                    if let Ok(place) = self.older_at(slot) {
                        if older.is_empty() {
                            self.older.remove(place);
                        } else {
                            self.older[place].1 = older;
                        }
                    }
                }
            }
        }
    }
}

impl Inner {
    fn child_of(&self, key: &[u8]) -> usize {
        match self.lows.find_from(1, key) {
            Ok(child) => child,
            Err(after) => after - 1,
        }
    }

    fn insert(&mut self, at: usize, low: &[u8], live: u64, child: Arc<Node>) {
        self.lows.insert(at, low);
        self.live.insert(at, live);
        self.children.insert(at, child);
    }

    fn remove(&mut self, at: usize) -> Arc<Node> {
        self.lows.remove(at);
        self.live.remove(at);
        self.children.remove(at)
    }

    fn split_off(&mut self, at: usize) -> Self {
        Self {
            lows: self.lows.split_off(at),
            live: self.live.split_off(at),
            children: self.children.split_off(at),
        }
    }

    /// Puts the small child at `at` together with a neighbour it fits with.
    fn join(&mut self, at: usize) {
        let left = if at + 1 < self.children.len() { at } else { at.saturating_sub(1) };
        let Some(right) = self.children.get(left + 1) else {
            return;
        };
        if !self.children[left].joins(right) {
            return;
        }
        let low = self.lows.get(left + 1).to_vec();
        let live = self.live[left + 1];
        let right = self.remove(left + 1);
        self.live[left] += live;
        match (Arc::make_mut(&mut self.children[left]), &*right) {
            (Node::Leaf(left), Node::Leaf(right)) => left.append(right),
            (Node::Inner(left), Node::Inner(right)) => {
                for (at, child) in right.children.iter().enumerate() {
                    let low = if at == 0 { &low } else { right.lows.get(at) };
                    left.insert(left.children.len(), low, right.live[at], child.clone());
                }
            }
            _ => unreachable!("children of one node are of one kind"),
        }
    }
}

/// Adds a version below `node`. Returns by how much the number of live keys changed (in what stays in `node`
/// and its split together) and the right half if it was split.
fn push_below(node: &mut Arc<Node>, key: &[u8], version: Version) -> (i64, Option<Split>) {
    match Arc::make_mut(node) {
        Node::Leaf(leaf) => {
            let became_live = i64::from(!version.is_tombstone());
            match leaf.keys.find(key) {
                Ok(slot) => {
                    let was_live = i64::from(!leaf.newest[slot].is_tombstone());
                    leaf.replace(slot, version);
                    (became_live - was_live, None)
                }
                Err(slot) => {
                    leaf.insert(slot, key, version);
                    (became_live, split_leaf(leaf, slot))
                }
            }
        }
        Node::Inner(inner) => {
            let child = inner.child_of(key);
            let (change, split) = push_below(&mut inner.children[child], key, version);
            inner.live[child] = inner.live[child].wrapping_add_signed(change);
            let Some(right) = split else {
                return (change, None);
            };
            inner.live[child] -= right.live;
            inner.insert(child + 1, &right.low, right.live, right.node);
            (change, split_inner(inner))
        }
    }
}

/// Keys that arrive in rising order, or nearly so because many clients put them, fill leaves to the brim: the split point follows
/// an insertion near the end.
fn split_leaf(leaf: &mut Leaf, inserted: usize) -> Option<Split> {
    let length = leaf.newest.len();
    if length <= LEAF_KEYS {
        return None;
    }
    let at = if inserted >= length - length / 8 { inserted } else { length / 2 };
    let right = leaf.split_off(at);
    let live = right.live_in(0..right.newest.len());
    Some(Split { low: right.keys.get(0).to_vec(), live, node: Arc::new(Node::Leaf(right)) })
}

fn split_inner(inner: &mut Inner) -> Option<Split> {
    if inner.children.len() <= INNER_CHILDREN {
        return None;
    }
    let right = inner.split_off(INNER_CHILDREN / 2);
    let live = right.live.iter().sum();
    Some(Split { low: right.lows.get(0).to_vec(), live, node: Arc::new(Node::Inner(right)) })
}

/// Compacts one leaf; a node that nothing changes in is not copied.
fn compact_below(node: &mut Arc<Node>, from: &[u8], revision: Revision, next: &mut Option<Vec<u8>>) -> bool {
    match &**node {
        Node::Leaf(leaf) => {
            let changes = leaf.compaction(revision);
            if changes.is_empty() {
                return false;
            }
            if let Node::Leaf(leaf) = Arc::make_mut(node) {
                leaf.apply_compaction(changes);
            }
            true
        }
        Node::Inner(inner) => {
            let at = inner.child_of(from);
            if at + 1 < inner.children.len() {
                *next = Some(inner.lows.get(at + 1).to_vec());
            }
            let mut child = inner.children[at].clone();
            if !compact_below(&mut child, from, revision, next) {
                return false;
            }
            if let Node::Inner(inner) = Arc::make_mut(node) {
                inner.live[at] = child.live();
                inner.children[at] = child;
                if inner.children[at].is_empty() {
                    inner.remove(at);
                } else if inner.children[at].is_small() {
                    inner.join(at);
                }
            }
            true
        }
    }
}

#[cfg(test)]
mod tests;
