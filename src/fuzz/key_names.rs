use crate::backend::{memcached, redis};
use crate::key::{Key, KeyPart, bounded};

use super::Input;

/// What is stored under a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    State { throttle: String, parts: Vec<Vec<u8>> },
    Value(Vec<u8>),
    Lock(String),
}

/// Two things have one name exactly if they are the same, on Redis with groups and without, and on Memcached;
/// and a name has no byte that means something to a server.
pub fn key_names(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (one, other) = (Named::read(&mut input), Named::read(&mut input));
    let same = one == other;
    for is_grouped in [false, true] {
        let names = [&one, &other].map(|named| redis::fuzz::name(named, is_grouped));
        assert_eq!(names[0] == names[1], same, "{one:?}, {other:?}: {names:?}");
        for (name, named) in names.iter().zip([&one, &other]) {
            assert!(name.iter().all(u8::is_ascii_graphic), "{named:?}");
            let is_tagged = match named {
                Named::Lock(_) => true,
                Named::State { .. } => is_grouped,
                Named::Value(_) => false,
            };
            let braces = |brace| name.iter().filter(|byte| **byte == brace).count();
            assert_eq!(
                (braces(b'{'), braces(b'}')),
                (is_tagged.into(), is_tagged.into()),
                "{named:?}"
            );
        }
    }
    let names = [&one, &other].map(memcached::fuzz::name);
    assert_eq!(names[0] == names[1], same, "{one:?}, {other:?}: {names:?}");
    assert!(
        names.iter().all(|name| name.len() <= 250 && name.bytes().all(|it| it.is_ascii_graphic()))
    );
}

impl Named {
    fn read(input: &mut Input<'_>) -> Self {
        let kind = input.byte();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match kind % 4 {
            0 => Self::Value(piece(input)),
            1 => Self::Lock(text(&piece(input))),
            _ => {
                let throttle = text(input.piece());
                let parts = (0..1 + kind / 4 % 4).map(|_| piece(input)).collect();
                Self::State { throttle, parts }
            }
        }
    }

    /// With the key of a state or a value, as a backend gets it.
    pub(crate) fn with_key<T>(&self, then: impl FnOnce(&Key<'_>) -> T) -> Option<T> {
        match self {
            Self::Lock(_) => None,
            Self::Value(name) => Some(then(&Key::value(name))),
            Self::State { throttle, parts } => {
                let parts: Vec<_> = parts.iter().map(|part| KeyPart::bytes(part)).collect();
                let mut room = None;
                Some(then(&Key::new(throttle, bounded(&parts, &mut room))))
            }
        }
    }
}

/// A piece, or many of it, so that keys become too long for a name, or for a backend.
fn piece(input: &mut Input<'_>) -> Vec<u8> {
    match input.byte() {
        u8::MAX => input.piece().repeat(usize::from(input.byte())),
        _ => input.piece().to_vec(),
    }
}
