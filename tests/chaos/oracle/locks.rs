//! Fencing tokens rise: a lock that was asked for after another was taken has the larger one.

use super::Violation;
use crate::history::{History, Lock};

pub(super) fn judge(history: &History) -> Vec<Violation> {
    let mut taken: Vec<(&Lock, u64)> = Vec::new();
    for lock in history.participants.iter().flat_map(|one| &one.locks) {
        // Memcached promises none.
        taken.extend(lock.token.map(|token| (lock, token)));
    }
    let mut by_end = taken.clone();
    by_end.sort_by_key(|(lock, _)| lock.end);
    taken.sort_by_key(|(lock, _)| lock.start);
    let (mut ended, mut highest) = (by_end.into_iter().peekable(), 0);
    let mut found = Vec::new();
    for (lock, token) in taken {
        while let Some((_, token)) = ended.next_if(|(other, _)| other.end < lock.start) {
            highest = highest.max(token);
        }
        if token <= highest {
            let what = format!("a lock has the token {token}, after {highest} was given");
            found.push(Violation { what, at: lock.start });
        }
    }
    found
}
