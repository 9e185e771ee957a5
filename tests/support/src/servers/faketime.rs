//! A wall clock that a test shifts, for servers.

use std::path::{Path, PathBuf};

use super::dir::TempDir;
use super::process::missing;

/// The wall clock of the servers that are started with its `env()`.
#[derive(Debug)]
pub struct FakeTime {
    library: PathBuf,
    dir: TempDir,
}

impl FakeTime {
    /// Not shifted yet.
    ///
    /// # Panics
    ///
    /// If libfaketime is not installed.
    pub fn new() -> Self {
        let Some(library) = library() else { missing("libfaketime") };
        let time = Self { library, dir: TempDir::new() };
        time.shift(0);
        time
    }

    /// For `RedisServer::with_env` and `MemcachedServer::with_env`.
    pub fn env(&self) -> Vec<(String, String)> {
        let file = self.file();
        // libc comes first so that its `malloc` wins over jemalloc's: that asks for the time when
        // it begins, libfaketime then asks for memory, and each waits for the other.
        let preload = format!("{} libc.so.6", self.library.display());
        [
            ("LD_PRELOAD", preload.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
            // Look at the file each time, not every ten seconds.
            ("FAKETIME_NO_CACHE", "1"),
            // Only the wall clock is shifted: timers go on.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// From now on the clock is that many seconds ahead of the real one, or behind it.
    pub fn shift(&self, seconds: i64) {
        let new = self.dir.join("new");
        std::fs::write(&new, format!("{seconds:+}\n")).unwrap();
        // At once: a server must not find half of it.
        std::fs::rename(new, self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.dir.join("offset")
    }
}

fn library() -> Option<PathBuf> {
    let files = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    files(Path::new("/usr/lib"))
        .map(|entry| entry.path().join("faketime"))
        .chain([PathBuf::from("/usr/lib/faketime"), PathBuf::from("/usr/lib64/faketime")])
        // The one for programs of several threads, as these servers are.
        .map(|dir| dir.join("libfaketimeMT.so.1"))
        .find(|path| path.exists())
}
