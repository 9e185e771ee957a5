//! Where a backend restores from, and where it writes its snapshots.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::{info, warn};

use super::super::store::Store;
use super::super::stored_key::KeyHasher;
use super::{Restored, Snapshot, Snapshots, file};
use crate::clock::Timestamp;
use crate::error::{BuildError, RestoreError};

/// What a backend is restored from when it is built.
pub(in super::super) enum Source {
    /// A file that must be there.
    Required(PathBuf),
    /// A file that is not there at the first start.
    Existing(PathBuf),
    /// In a lock so that a builder can be shared, which is never taken.
    Reader(Mutex<Box<dyn Read + Send>>),
}

/// What is restored, and its name in errors.
struct Opened {
    reader: Box<dyn Read + Send>,
    from: String,
}

impl Source {
    pub(in super::super) fn reader(reader: impl Read + Send + 'static) -> Self {
        Self::Reader(Mutex::new(Box::new(BufReader::new(reader))))
    }
}

/// The file of a backend's own snapshots.
#[derive(Debug, Default)]
pub(in super::super) struct Settings {
    pub(in super::super) file: Option<PathBuf>,
    pub(in super::super) every: Option<Duration>,
    pub(in super::super) source: Option<Source>,
}

impl Settings {
    pub(in super::super) fn check(&self, persistent: Option<bool>) -> Result<(), BuildError> {
        let problem = match (&self.file, self.every, &self.source) {
            (Some(_), _, Some(_)) => (
                "restore",
                "beside snapshot_file, which restores from its own file; use one of them",
            ),
            (None, Some(_), _) => {
                ("snapshot_every", "without a file; say where to by snapshot_file")
            }
            (_, Some(Duration::ZERO), _) => ("snapshot_every", "is zero; use some seconds or more"),
            (Some(_), _, _) if persistent == Some(false) => (
                "persistent",
                "is false beside snapshot_file, which keeps what is counted; use one of them",
            ),
            (Some(file), _, _) if file::name_of(file).is_none() => {
                ("snapshot_file", "has no file name; name a file in a folder that exists")
            }
            _ => return Ok(()),
        };
        Err(BuildError::setting(problem.0, problem.1))
    }

    /// Makes the store, and restores into it what there is to restore from. Its secret comes from there too, so this is
    /// done before any key is hashed.
    pub(in super::super) fn begin(
        mut self,
        new: impl FnOnce(KeyHasher) -> Store,
        now: impl FnOnce() -> Timestamp,
    ) -> Result<(Store, Snapshots), BuildError> {
        // Also after the process has gone to another folder.
        self.file = self.file.map(|file| file::located(&file));
        // Before it is opened: a pipe would never be.
        self.check_file(file::check_kind)?;
        let Some(Opened { reader, from }) = self.open()? else {
            return Ok((new(KeyHasher::new()), Snapshots::new(self, None)));
        };
        let (store, restored) =
            read(reader, new, now).map_err(|error| BuildError::restore(from.clone(), error))?;
        let Restored { kept, over, left_out } = restored;
        if left_out > 0 {
            warn!(%from, kept, left_out, "max_keys has no room for all that was restored; raise it");
        } else {
            info!(%from, kept, over, "a snapshot was restored");
        }
        Ok((store, Snapshots::new(self, Some(restored))))
    }

    /// Opens what is to be restored, and says what it is. `None` if that is nothing.
    fn open(&mut self) -> Result<Option<Opened>, BuildError> {
        let source = self.source.take().or_else(|| self.file.clone().map(Source::Existing));
        let (file, path) = match source {
            None => return Ok(None),
            Some(Source::Reader(reader)) => {
                return Ok(Some(Opened {
                    reader: reader.into_inner(),
                    from: "from a reader".into(),
                }));
            }
            Some(Source::Required(path)) => (open(&path).map(Some), path),
            Some(Source::Existing(path)) => (open_existing(&path), path),
        };
        let from = super::shown(&path);
        let file =
            file.map_err(|error| BuildError::restore(from.clone(), RestoreError::io(&error)))?;
        self.check_file(file::check)?;
        let Some(file) = file else {
            info!(%from, "there is no snapshot, so all counts begin anew");
            return Ok(None);
        };
        Ok(Some(Opened { reader: Box::new(BufReader::new(file)), from }))
    }

    /// Looks at the file of the backend's own snapshots: what is wrong with it would else be known only when the service
    /// ends.
    fn check_file(&self, check: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), BuildError> {
        let Some(path) = &self.file else { return Ok(()) };
        check(path).map_err(|error| {
            let problem = format!("{} cannot be written: {error}", super::shown(path));
            BuildError::setting("snapshot_file", problem)
        })
    }
}

fn read(
    reader: impl Read,
    new: impl FnOnce(KeyHasher) -> Store,
    now: impl FnOnce() -> Timestamp,
) -> Result<(Store, Restored), RestoreError> {
    let snapshot = Snapshot::open(reader)?;
    let store = new(KeyHasher::with_secret(snapshot.secret()));
    let restored = snapshot.restore(&store, now())?;
    Ok((store, restored))
}

fn open(path: &Path) -> io::Result<File> {
    if path.is_dir() {
        let message = "it is a folder; name a file in it";
        return Err(io::Error::new(io::ErrorKind::IsADirectory, message));
    }
    File::open(path)
}

/// Opens a file, if it is there; its folder must be.
fn open_existing(path: &Path) -> io::Result<Option<File>> {
    match open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = file::folder_of(path);
            if folder.is_dir() {
                return Ok(None);
            }
            let message =
                format!("there is no folder {folder:?}; create it before the first start");
            Err(io::Error::new(io::ErrorKind::NotFound, message))
        }
        Err(error) => Err(error),
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required(path) => f.debug_tuple("Required").field(path).finish(),
            Self::Existing(path) => f.debug_tuple("Existing").field(path).finish(),
            Self::Reader(_) => f.write_str("Reader"),
        }
    }
}
