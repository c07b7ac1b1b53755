//! Judges histories of a cluster by what etcd promises: strict serializability of the key space, and watches that are
//! ordered, unique, reliable, atomic, resumable and bookmarkable. Other tests have this file, with its folder, by path.

pub mod history;
mod wire;
