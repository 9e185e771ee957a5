//! The names under which things are stored.
//!
//! ```text
//! <namespace>|t|<throttle>|<part>...    the state of a throttle's key
//! <namespace>|t|{<group>|<part>}|<throttle>|<part>...    ... of a group's throttle, by the first part
//! <namespace>|v|<name>                  a value of the user's
//! <namespace>|L{<lock>}                 the owner of a lock
//! <namespace>|F{<lock>}                 its last fencing token
//! <namespace>|G{<lock>}|<name>          a value that only the lock's holder writes
//! ```
//!
//! A namespace has no `|`, so `app` and `app:eu` never meet. Parts are percent-encoded
//! ([`names`](crate::backend::names)), so they hold no `|`, and no brace: the only hash tags are those of
//! locks, by which all that belongs to one lock has one slot in a cluster, and those of groups, by which keys
//! that begin with the same part have one. Of a key that is replaced by its digest, that is all of it.

use super::groups::Groups;
use crate::backend::names;
use crate::key::{Key, KeyPart, MAX_KEY_PARTS};

const SEPARATOR: u8 = b'|';

#[derive(Debug)]
pub(super) struct Keys {
    prefix: Vec<u8>,
    groups: Groups,
}

/// The keys of one lock.
#[derive(Clone, Debug)]
pub(super) struct LockKeys {
    pub(super) lock: Vec<u8>,
    pub(super) fence: Vec<u8>,
}

impl Keys {
    pub(super) fn new(namespace: &str) -> Self {
        Self { prefix: format!("{namespace}|").into_bytes(), groups: Groups::default() }
    }

    /// The same, where these throttles are grouped.
    pub(super) fn with_groups(self, groups: Groups) -> Self {
        Self { groups, ..self }
    }

    /// Of a throttle's state or a value.
    pub(super) fn of(&self, key: &Key<'_>) -> Vec<u8> {
        let parts: usize = key.parts().iter().map(|part| part.as_bytes().len() + 1).sum();
        let throttle = key.throttle().map_or(0, str::len);
        let mut name = Vec::with_capacity(self.prefix.len() + 2 + throttle + parts);
        name.extend_from_slice(&self.prefix);
        match key.throttle().and_then(|throttle| self.groups.of(throttle)) {
            None => names::push_key(&mut name, key, SEPARATOR),
            Some(group) => push_grouped(&mut name, group, key),
        }
        name
    }

    /// Keys that nobody uses, enough that on a cluster some are of other masters than the rest.
    pub(super) fn of_startup(&self) -> [Vec<u8>; 16] {
        std::array::from_fn(|number| self.of(&Key::value(&format!("traffik:ready:{number}"))))
    }

    pub(super) fn of_lock(&self, name: &str) -> LockKeys {
        LockKeys { lock: self.tagged(b'L', name), fence: self.tagged(b'F', name) }
    }

    /// Of a value that only the holder of that lock writes.
    pub(super) fn guarded(&self, lock: &str, name: &[u8]) -> Vec<u8> {
        let mut key = self.tagged(b'G', lock);
        key.push(SEPARATOR);
        names::push_part(&mut key, name, SEPARATOR);
        key
    }

    /// A glob for SCAN that matches all states and values, and nothing else.
    pub(super) fn pattern(&self) -> Vec<u8> {
        let mut pattern = Vec::with_capacity(self.prefix.len() + 8);
        for byte in &self.prefix {
            if b"*?[]\\^-".contains(byte) {
                pattern.push(b'\\');
            }
            pattern.push(*byte);
        }
        pattern.extend_from_slice(b"[tv]|*");
        pattern
    }

    fn tagged(&self, kind: u8, lock: &str) -> Vec<u8> {
        let mut key = self.prefix.clone();
        key.extend_from_slice(&[kind, b'{']);
        names::push_part(&mut key, lock.as_bytes(), SEPARATOR);
        key.push(b'}');
        key
    }
}

/// Appends the name of a key of a group's throttle.
fn push_grouped(name: &mut Vec<u8>, group: &str, key: &Key<'_>) {
    let parts = || key.parts().iter().map(KeyPart::as_bytes);
    let tagged = if parts().len() > MAX_KEY_PARTS { parts().len() } else { 1 };
    name.extend_from_slice(b"t|{");
    names::push_part(name, group.as_bytes(), SEPARATOR);
    for part in parts().take(tagged) {
        name.push(SEPARATOR);
        names::push_part(name, part, SEPARATOR);
    }
    name.push(b'}');
    for part in key.throttle().map(str::as_bytes).into_iter().chain(parts()) {
        name.push(SEPARATOR);
        names::push_part(name, part, SEPARATOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash tag by the cluster's rule.
    fn tag(key: &[u8]) -> Option<&[u8]> {
        let open = key.iter().position(|byte| *byte == b'{')?;
        let close = open + key[open..].iter().position(|byte| *byte == b'}')?;
        (close > open + 1).then(|| &key[open + 1..close])
    }

    #[test]
    fn all_keys_of_a_lock_have_one_hash_tag() {
        let keys = Keys::new("app:eu");
        for name in ["a", "}", "{}", "}{", "{a}b", "\u{e9}", " "] {
            let LockKeys { lock, fence } = keys.of_lock(name);
            let guarded = keys.guarded(name, b"}x{");
            assert!(tag(&lock).is_some());
            assert_eq!(tag(&lock), tag(&fence), "{name}");
            assert_eq!(tag(&lock), tag(&guarded), "{name}");
        }
        assert_ne!(keys.guarded("a", b"}|b"), keys.guarded("a}|", b"b"));
        assert_eq!(keys.of_lock("job 1").lock, b"app:eu|L{job%201}");
        assert_eq!(keys.guarded("job", b"last run"), b"app:eu|G{job}|last%20run");
    }

    #[test]
    fn namespaces_and_kinds_never_meet() {
        let (app, eu) = (Keys::new("app"), Keys::new("app:eu"));
        let parts = [KeyPart::bytes(b"a")];
        assert_eq!(app.of(&Key::new("t", &parts)), b"app|t|t|a");
        assert_eq!(app.of(&Key::value("a")), b"app|v|a");
        assert_eq!(tag(&app.of(&Key::value("{a}"))), None, "no key chooses its slot");
        assert!(!eu.of(&Key::value("a")).starts_with(&app.prefix));
        assert_eq!(app.pattern(), b"app|[tv]|*");
        assert_eq!(Keys::new("a-b").pattern(), b"a\\-b|[tv]|*");
    }

    #[test]
    fn keys_of_a_group_that_begin_alike_have_one_slot() {
        let throttles = ["requests".to_owned(), "tokens".to_owned()].into();
        let groups = Groups::new(&[("llm".to_owned(), throttles)]).unwrap();
        let keys = Keys::new("app").with_groups(groups);
        let of = |throttle, parts: &[&[u8]]| {
            let parts: Vec<_> = parts.iter().map(|part| KeyPart::bytes(part)).collect();
            keys.of(&Key::new(throttle, &parts))
        };
        let (tenant, user) = (of("requests", &[b"t7"]), of("tokens", &[b"t7", b"u"]));
        assert_eq!(tenant, b"app|t|{llm|t7}|requests|t7");
        assert_eq!(user, b"app|t|{llm|t7}|tokens|t7|u");
        assert_eq!(tag(&tenant), tag(&user));
        assert_ne!(tag(&tenant), tag(&of("tokens", &[b"t8"])), "others are elsewhere");
        assert_eq!(of("exports", &[b"t7"]), b"app|t|exports|t7", "of no group");
        assert_ne!(of("requests", &[b"a}|b"]), of("requests", &[b"a", b"b"]));
        assert_eq!(tag(&of("requests", &[b"}"])), Some(&b"llm|%7D"[..]));
        assert_eq!(of("requests", &[]), b"app|t|{llm}|requests");
        // Those of digests do not all have one slot.
        let digest = |last| of("requests", &[b"sha256", b"0", b"1", b"2", last]);
        assert_ne!(tag(&digest(b"3")), tag(&digest(b"4")));
    }
}
