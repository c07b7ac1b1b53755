//! Sorted byte strings in one block of memory: the keys of a tree node.
//! Owns their bytes and places; knows nothing of what stands beside them.

use std::cmp::Ordering;

#[derive(Clone, Debug, Default)]
pub struct Keys {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Keys {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn get(&self, at: usize) -> &[u8] {
        &self.bytes[self.start(at)..self.ends[at] as usize]
    }

    fn start(&self, at: usize) -> usize {
        if at == 0 { 0 } else { self.ends[at - 1] as usize }
    }

    /// Where `key` stands, or where it belongs.
    pub fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.find_from(0, key)
    }

    /// The same among the keys from `first` on.
    pub fn find_from(&self, first: usize, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (first, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle).cmp(key) {
                Ordering::Equal => return Ok(middle),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    pub fn insert(&mut self, at: usize, key: &[u8]) {
        let length = u32::try_from(key.len()).expect("a request is smaller than 4 GiB");
        let start = self.start(at);
        if self.bytes.capacity() - self.bytes.len() < key.len() {
            self.bytes.reserve_exact(key.len() * 8);
        }
        self.bytes.splice(start..start, key.iter().copied());
        if self.ends.len() == self.ends.capacity() {
            self.ends.reserve_exact(8);
        }
        let start = u32::try_from(start).expect("a node's keys stay below 4 GiB");
        self.ends.insert(at, start);
        for end in &mut self.ends[at..] {
            *end += length;
        }
    }

    pub fn remove(&mut self, at: usize) {
        let (start, end) = (self.start(at), self.ends[at] as usize);
        self.bytes.drain(start..end);
        self.ends.remove(at);
        let length = u32::try_from(end - start).expect("ends are 32 bits wide");
        for end in &mut self.ends[at..] {
            *end -= length;
        }
    }

    /// Takes away the keys from `at` on.
    pub fn split_off(&mut self, at: usize) -> Self {
        let start = self.start(at);
        let moved = u32::try_from(start).expect("ends are 32 bits wide");
        let ends = self.ends.split_off(at).into_iter().map(|end| end - moved).collect();
        Self { bytes: self.bytes.split_off(start), ends }
    }

    /// Gives back the room for further keys.
    pub fn shrink_to_fit(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    pub fn append(&mut self, right: &Self) {
        let moved = u32::try_from(self.bytes.len()).expect("a node's keys stay below 4 GiB");
        self.bytes.extend_from_slice(&right.bytes);
        self.ends.extend(right.ends.iter().map(|end| end + moved));
    }
}
