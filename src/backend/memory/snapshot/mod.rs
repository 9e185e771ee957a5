//! Snapshots: what is counted, as bytes from which a later process goes on.
//!
//! `format` says how they lie in a file. `walk` copies a shard a few slots at a time into `copied`, `record` makes bytes
//! of a key and states of these, `write` and `restore` do so for all keys; `frame_writer` and `frame_reader` hold the
//! checksums, and `file` replaces a file as a whole.

mod copied;
mod fields;
mod file;
mod format;
mod frame_reader;
mod frame_writer;
mod held_back;
mod record;
mod restore;
mod settings;
#[cfg(all(test, not(traffik_model)))]
mod tests;
mod walk;
mod write;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::{Instrument, debug_span, info, warn};

pub use restore::Restored;
use restore::Snapshot;
pub(super) use settings::{Settings, Source};

use super::{InMemory, MemoryInner, failed};
use crate::backend::Result;
use crate::background::{self, Task};
use crate::error::{BackendError, ErrorKind};
use crate::on_drop::OnDrop;
use crate::on_error::LogLimiter;

/// What a backend knows of its snapshots. No hit looks at it.
#[derive(Debug)]
pub(super) struct Snapshots {
    /// Held by who takes one.
    turn: Mutex<()>,
    /// Held by who replaces a file, or an older one could take the place of a newer. On a thread for what blocks: no
    /// future has it, for that may stand still.
    replacing: Mutex<Last>,
    file: Option<PathBuf>,
    every: Option<Duration>,
    task: Task,
    /// Lifespans that have begun, with the one without any.
    lifespans: AtomicU64,
    /// Since the last lifespan began somebody has written the file, or knows that it could not be. The task does not
    /// count: what comes after its last one is in no file.
    is_tried: AtomicBool,
    log: LogLimiter,
    restored: Option<Restored>,
}

/// The last that this backend knows of its own file.
#[derive(Debug, Default)]
struct Last {
    /// As it has read or written it.
    version: Option<file::Version>,
    /// The number of the last lifespan whose end has written it.
    ended: u64,
}

impl InMemory {
    /// Writes a snapshot of all that is counted to `writer`, and returns that.
    ///
    /// Has all limits of all keys, blocks and values, and not the locks. Hits go on meanwhile: a key is written as it is
    /// at one instant, with all its limits, but different keys at different ones. No hit waits for longer than a few
    /// hundred slots take, or 64 kB of a key's logs: those of a key with more are copied that much at a time, and begun
    /// anew where the key is counted meanwhile. Only one that is counted so 64 times in a row, which takes thousands of
    /// hits a second that pass, is copied at once: some 100 us for 35,000 entries.
    ///
    /// Works on a thread for what blocks, and on this one where there is no runtime; two at the same time take turns: a
    /// writer that waits holds up the others, and the end of the lifespan, so give it a file or a `Vec`. A
    /// closed backend has what it had before; but the end of a lifespan clears it, unless it is
    /// [`persistent`](crate::backend::InMemoryBuilder::persistent), so take it before that.
    ///
    /// A snapshot has the secret by which long keys are digested, and short keys as they are: whoever reads it can make
    /// keys that share a count. Keep it as you keep a password. Read it by
    /// [`restore_from`](crate::backend::InMemoryBuilder::restore_from); to write a file, call
    /// [`write_snapshot`](Self::write_snapshot).
    ///
    /// ```
    /// use traffik::{InMemory, Throttle};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let before = InMemory::new();
    /// let throttle = Throttle::builder("api").rate("5/h").backend(before.clone()).build()?;
    /// let _ = throttle.hit("alice").await?;
    /// let bytes = before.snapshot(Vec::new()).await?;
    ///
    /// let after = InMemory::builder().restore_from(std::io::Cursor::new(bytes)).build()?;
    /// let throttle = Throttle::builder("api").rate("5/h").backend(after).build()?;
    /// assert_eq!(throttle.hit("alice").await?.remaining(), 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When `writer` fails, or panics on a thread of the runtime, or that is being shut down.
    ///
    /// # Cancel safety
    ///
    /// When dropped, `writer` has a part, which no backend takes for a snapshot.
    pub async fn snapshot<W: Write + Send + 'static>(&self, writer: W) -> Result<W> {
        let write =
            |inner: &MemoryInner, cancelled: &AtomicBool| write::write(inner, writer, cancelled);
        let written = off_thread(Arc::clone(&self.inner), write).await;
        written.map_err(|error| {
            let message = format!("the snapshot could not be written: {error}");
            failed("snapshot", ErrorKind::Other).with_message(message).with_cause(error)
        })
    }

    /// Writes a [`snapshot`](Self::snapshot) to a file, in place of the one that is there.
    ///
    /// The file is readable by its owner alone (mode 0600 on Unix). What is new is written to a file beside it, which takes
    /// its place once the disk has it: a process or a machine that dies meanwhile leaves the old file as it was, and
    /// the next writer removes what lies beside it, if it may read the folder. The folder must be there. Of two processes
    /// that write the same file the last one wins; give each its own.
    ///
    /// ```
    /// use traffik::InMemory;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = std::env::temp_dir().join(format!("traffik-doc-{}", std::process::id()));
    /// let backend = InMemory::builder().restore_existing(&path).build()?;
    /// backend.write_snapshot(&path).await?;
    /// let next = InMemory::builder().restore(&path).build()?;
    /// # drop(next);
    /// # std::fs::remove_file(&path)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the file cannot be written, or the path is that of a symbolic link, a device or a pipe; when the runtime is
    /// being shut down. The old file is as it was, but for a failure to let the disk have the folder, the last step: then
    /// the new one is there, and a loss of power may bring either back.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the file is the old or the new one, and what was written beside it is soon removed.
    pub async fn write_snapshot(&self, path: impl Into<PathBuf>) -> Result<()> {
        write_file(Arc::clone(&self.inner), path.into(), Why::Asked).await
    }

    /// Returns what was restored when the backend was built; `None` if there was nothing to restore from.
    #[must_use]
    pub fn restored(&self) -> Option<Restored> {
        self.inner.snapshots.restored
    }
}

impl Snapshots {
    fn new(settings: Settings, restored: Option<Restored>) -> Self {
        let Settings { file, every, .. } = settings;
        Self {
            turn: Mutex::new(()),
            replacing: Mutex::new(Last {
                version: file.as_deref().and_then(file::version),
                ended: 0,
            }),
            file,
            every,
            task: Task::new(),
            lifespans: AtomicU64::new(1),
            is_tried: AtomicBool::new(false),
            log: LogLimiter::default(),
            restored,
        }
    }

    /// Begins a lifespan.
    pub(super) fn start(&self, inner: &Arc<MemoryInner>) {
        self.lifespans.fetch_add(1, Ordering::SeqCst);
        self.is_tried.store(false, Ordering::Relaxed);
        let (Some(file), Some(every)) = (&self.file, self.every) else { return };
        let (backend, file) = (Arc::downgrade(inner), file.clone());
        let span = debug_span!("traffik_snapshot", namespace = inner.core.namespace());
        if !self.task.start(|| write_often(backend, file, every).instrument(span)) {
            warn!("no runtime for snapshots in the background; the end of the lifespan writes one");
        }
    }

    /// Stops the task without waiting.
    pub(super) fn stop(&self) {
        self.task.stop();
    }

    /// Tells of what was counted, if nobody has tried to write the file since the lifespan began, if one did.
    pub(super) fn tell_if_not_written(&self) {
        if let (Some(file), false) = (&self.file, self.is_tried.load(Ordering::Relaxed)) {
            warn!(
                file = %shown(file),
                "a backend was dropped without a last snapshot, so what it counted since the one before is in no file; \
                 begin a lifespan with the service, and close it when that ends"
            );
        }
    }

    /// Returns the number of the last lifespan that has begun.
    pub(super) fn lifespan(&self) -> u64 {
        self.lifespans.load(Ordering::SeqCst)
    }

    /// Ends the lifespan of that number: writes the file, unless that was done.
    pub(super) async fn finish(&self, inner: &Arc<MemoryInner>, lifespan: u64) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        write_file(Arc::clone(inner), file.clone(), Why::End { lifespan }).await
    }
}

/// Why the file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// A lifespan ends. One who ends it beside another is over when that one has written, and writes if it could not.
    End {
        lifespan: u64,
    },
    Every,
    Asked,
}

/// Writes the file now and then, until the backend is gone.
async fn write_often(backend: Weak<MemoryInner>, file: PathBuf, every: Duration) {
    let log = LogLimiter::default();
    loop {
        tokio::time::sleep(every).await;
        let Some(inner) = backend.upgrade() else { return };
        if let Err(error) = write_file(inner, file.clone(), Why::Every).await
            && let Some(suppressed) = log.pass()
        {
            warn!(
                %error, suppressed,
                "a snapshot failed and is tried again; the file may be as old as it was"
            );
        }
    }
}

async fn write_file(inner: Arc<MemoryInner>, path: PathBuf, why: Why) -> Result<()> {
    let name = shown(&path);
    // Also if no thread takes it on.
    let is_end = matches!(why, Why::End { .. });
    inner.snapshots.is_tried.fetch_or(is_end, Ordering::Relaxed);
    let write = move |inner: &MemoryInner, cancelled: &AtomicBool| {
        let snapshots = &inner.snapshots;
        let path = if why == Why::Asked { file::located(&path) } else { path };
        let mut last = snapshots.replacing.lock();
        // Ended beside another, who has written it.
        if matches!(why, Why::End { lifespan } if lifespan <= last.ended) {
            return Ok(());
        }
        let is_own = why != Why::Asked || snapshots.file.as_ref() == Some(&path);
        snapshots.is_tried.fetch_or(is_own && why != Why::Every, Ordering::Relaxed);
        let found = if is_own { file::version(&path) } else { None };
        if found.is_some()
            && found != last.version
            && let Some(suppressed) = snapshots.log.pass()
        {
            warn!(
                file = %shown(&path), suppressed,
                "another wrote this snapshot too, and what that counted is lost; give each backend a file of its own"
            );
        }
        let write = |file: &mut _| write::write(inner, file, cancelled).map(drop);
        let replaced = file::replace(&path, write, || write::check(cancelled));
        if is_own {
            // Also when the last step failed: the new one is there.
            last.version = file::version(&path);
        }
        replaced?;
        if let Why::End { lifespan } = why {
            last.ended = lifespan;
            info!(file = %shown(&path), "the snapshot is written");
        }
        Ok(())
    };
    let operation = match why {
        Why::End { .. } => "close",
        Why::Every => "snapshot_every",
        Why::Asked => "write_snapshot",
    };
    off_thread(inner, write).await.map_err(|error| not_written(&name, operation, error))
}

fn not_written(path: &str, operation: &'static str, error: io::Error) -> BackendError {
    let message = format!("the snapshot {path} could not be written: {error}");
    failed(operation, ErrorKind::Other).with_message(message).with_cause(error)
}

/// Writes on a thread for what blocks; stops when the caller goes away.
async fn off_thread<T: Send + 'static>(
    inner: Arc<MemoryInner>,
    write: impl FnOnce(&MemoryInner, &AtomicBool) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&cancelled);
    let _cancel = OnDrop::new(move || cancelled.store(true, Ordering::Relaxed));
    let written = background::blocking(move || write(&inner, &seen)).await;
    let nobody = "the writer panicked, or the runtime is being shut down";
    written.unwrap_or_else(|| Err(io::Error::other(nobody)))
}

/// A path as errors show it.
fn shown(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().escape_debug())
}
