//! The scripts, with their hashes.

use std::sync::LazyLock;

use redis::Cmd;

/// A script and its hash, by which a server knows it.
#[derive(Debug)]
pub(super) struct Script {
    source: String,
    hash: String,
}

impl Script {
    pub(super) fn new(source: impl Into<String>) -> Self {
        let source = source.into();
        let hash = redis::Script::new(&source).get_hash().to_owned();
        Self { source, hash }
    }

    /// One script of several files, in this order; each sees the locals of those before it.
    pub(super) fn compose<'a>(files: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(files.into_iter().collect::<String>())
    }

    #[cfg(test)]
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// The command for a server that knows it.
    pub(super) fn by_hash(&self, keys: &[&[u8]], arguments: &[&[u8]]) -> Cmd {
        command("EVALSHA", &self.hash, keys, arguments)
    }

    /// The command for a server that does not, and knows it afterwards.
    pub(super) fn by_source(&self, keys: &[&[u8]], arguments: &[&[u8]]) -> Cmd {
        command("EVAL", &self.source, keys, arguments)
    }
}

fn command(name: &str, script: &str, keys: &[&[u8]], arguments: &[&[u8]]) -> Cmd {
    let mut cmd = redis::cmd(name);
    cmd.arg(script).arg(keys.len());
    for argument in keys.iter().chain(arguments) {
        cmd.arg(argument);
    }
    cmd
}

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        $(pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!($file)));)*
    };
}

scripts! {
    INCREMENT = "lua/increment.lua";
    DECREMENT = "lua/decrement.lua";
    COMPARE_AND_SET = "lua/compare_and_set.lua";
    READ = "lua/read.lua";
    SET_ALL = "lua/set_all.lua";
    ACQUIRE = "lua/acquire.lua";
    RELEASE = "lua/release.lua";
    EXTEND = "lua/extend.lua";
    RAISE_FENCE = "lua/raise_fence.lua";
    SET_FENCED = "lua/set_fenced.lua";
    GREET = "lua/greet.lua";
}
