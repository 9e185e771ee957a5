//! The commands that are used, and their replies.
//!
//! Only commands with a reply. The client's `set` and `delete` have none, so their errors would be lost;
//! all that is written goes by `add` and `cas`.

use std::collections::HashMap;

/// The most bytes of a value, which is what a server takes by default.
pub(super) const MAX_VALUE: usize = 1024 * 1024;
/// Keys of one command. A longer line is an attack to some servers.
pub(super) const MAX_KEYS: usize = 64;

/// A command. Its keys were made by [`keys`](super::keys), so they need no checking here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command<'a> {
    Version,
    Gets(&'a str),
    /// At most [`MAX_KEYS`], each once. The server looks them up in this order.
    GetMany(&'a [&'a str]),
    /// Like `GetMany`, for their versions, too.
    GetsMany(&'a [&'a str]),
    Add {
        key: &'a str,
        value: &'a [u8],
        exptime: u32,
    },
    Cas {
        key: &'a str,
        value: &'a [u8],
        version: u64,
        exptime: u32,
    },
    /// `Add` and `Cas` of several items, at least one, without waiting in between.
    StoreMany(&'a [StoredItem<'a>]),
    FlushAll,
}

/// An item that is written, if it is as it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoredItem<'a> {
    pub(super) key: &'a str,
    pub(super) value: &'a [u8],
    /// `None` if there was none.
    pub(super) version: Option<u64>,
    pub(super) exptime: u32,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Done,
    /// A value and its version.
    Value(Vec<u8>, u64),
    /// To `GetMany`: the values that there are.
    Found(HashMap<String, Vec<u8>>),
    /// To `GetsMany`: the values and versions, in the order of the command.
    Values(Vec<Option<(Vec<u8>, u64)>>),
    /// To `StoreMany`: what became of each, in the order of the command.
    Stored(Vec<StoreOutcome>),
    /// There is no such item.
    Missing,
    /// There is one (for `add`), or it was changed (for `cas`).
    Changed,
}

/// What became of an item that was to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StoreOutcome {
    Done,
    /// It is not as it was.
    Changed,
    /// By the server, in its words.
    Refused(String),
}

impl Command<'_> {
    /// Returns whether it changes nothing, so that no failure of it leaves a doubt.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Version) || !self.keys().is_empty()
    }

    /// Returns what is to be read.
    pub(super) fn keys(&self) -> &[&str] {
        match self {
            Self::Gets(key) => std::slice::from_ref(key),
            Self::GetMany(keys) | Self::GetsMany(keys) => keys,
            _ => &[],
        }
    }
}
