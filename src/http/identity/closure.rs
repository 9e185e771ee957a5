//! Identities that are made of others: closures, and tuples of identities.

use http::request::Parts;

use super::{Identified, Identity};
use crate::key::{KeyParts, ToKey};

impl<F, K> Identity for F
where
    F: Fn(&Parts) -> K + Send + Sync + 'static,
    K: ToKey + Send + Sync + 'static,
{
    fn identify<'r>(&'r self, request: &'r Parts) -> Identified<'r> {
        Identified::key(self(request))
    }
}

/// The keys of several identities as one key, part by part.
struct Joined<'r, const N: usize>([Identified<'r>; N]);

impl<const N: usize> ToKey for Joined<'_, N> {
    fn to_key(&self) -> KeyParts<'_> {
        // Those that refuse are not joined.
        KeyParts::join(self.0.each_ref().map(|one| one.to_key().unwrap_or(KeyParts::EXEMPT)))
    }
}

fn join<const N: usize>(all: [Identified<'_>; N]) -> Identified<'_> {
    match all.iter().find_map(|one| one.to_key().err()) {
        Some(refusal) => Identified::refused(refusal.clone()),
        None => Identified::key(Joined(all)),
    }
}

macro_rules! identity_of_tuple {
    ($($name:ident $index:tt),*) => {
        impl<$($name: Identity),*> Identity for ($($name,)*) {
            fn identify<'r>(&'r self, request: &'r Parts) -> Identified<'r> {
                join([$(self.$index.identify(request)),*])
            }
        }
    };
}

identity_of_tuple!(A 0, B 1);
identity_of_tuple!(A 0, B 1, C 2);
identity_of_tuple!(A 0, B 1, C 2, D 3);
