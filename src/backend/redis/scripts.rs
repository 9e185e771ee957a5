//! Lua scripts: their text and the hash by which a server knows them.

use std::borrow::Cow;

/// A script, hashed once.
#[derive(Debug)]
pub(super) struct Script {
    source: Cow<'static, str>,
    sha: String,
}

impl Script {
    pub(super) fn new(source: impl Into<Cow<'static, str>>) -> Self {
        let source = source.into();
        let sha = ::redis::Script::new(&source).get_hash().to_owned();
        Self { source, sha }
    }

    /// One script of several files, in this order; each sees the locals of those before it.
    pub(super) fn compose<'a>(files: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(files.into_iter().collect::<String>())
    }

    /// The text, for `EVAL` and `SCRIPT LOAD`.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// The SHA-1 of the text in hexadecimal, for `EVALSHA`.
    pub(super) fn sha(&self) -> &str {
        &self.sha
    }
}
