//! A file that is replaced as a whole, or not at all.
//!
//! What is new is written beside the file, under a name that nobody else uses, and takes its place once the disk has it.
//! A process that dies meanwhile leaves the old file as it was, and its own beside it, which the next writer removes.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;
use tracing::debug;

use crate::random;

/// How often a file is written anew that was removed before it took its place: by another process that writes the same
/// file, and takes this one for left behind.
const ATTEMPTS: usize = 3;

/// The names of the files that this process is writing. They are random, so the folder does not matter.
static WRITING: Mutex<BTreeSet<OsString>> = Mutex::new(BTreeSet::new());

/// Replaces a file by what `write` writes, if it is `still_wanted` then. After an error the old one is as it was, but for
/// an error of the very last step: then either may be found after a loss of power.
pub(super) fn replace(
    path: &Path,
    mut write: impl FnMut(&mut File) -> io::Result<()>,
    still_wanted: impl Fn() -> io::Result<()>,
) -> io::Result<()> {
    let folder = folder_of(path);
    let name = name_of(path).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "it has no file name; name a file in a folder")
    })?;
    check_link(path)?;
    for attempt in 1.. {
        remove_left_behind(folder, name);
        let mut beside = Beside::create(folder, name)?;
        write(&mut beside.file)?;
        beside.file.sync_all()?;
        still_wanted()?;
        match fs::rename(&beside.path, path) {
            Ok(()) => return sync_folder(folder),
            Err(error) if error.kind() != io::ErrorKind::NotFound || attempt == ATTEMPTS => {
                return Err(error);
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// Fails if [`replace`] could not begin: by a link, or where it cannot create the file that it writes beside.
pub(super) fn check(path: &Path) -> io::Result<()> {
    check_link(path)?;
    let name = name_of(path).unwrap_or_default();
    Beside::create(folder_of(path), name).map(drop)
}

/// Returns the one path of a file, however that of its folder is spelled. As it is, where that cannot be told; then
/// whoever opens it is told why.
pub(super) fn located(path: &Path) -> PathBuf {
    match (fs::canonicalize(folder_of(path)), name_of(path)) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => std::path::absolute(path).unwrap_or_else(|_| path.into()),
    }
}

/// Fails for a link: whoever may write to its folder could else choose which file is replaced, and to replace the link
/// would leave the file as it is to which it leads.
fn check_link(path: &Path) -> io::Result<()> {
    if path.is_symlink() {
        let message = "it is a symbolic link; name the file to which it leads";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(())
}

/// What tells a file that another wrote from one's own.
pub(super) type Version = (SystemTime, u64, u64);

/// Returns the version of a file; `None` if it is not there, or the system does not tell.
pub(super) fn version(path: &Path) -> Option<Version> {
    let known = fs::metadata(path).ok()?;
    Some((known.modified().ok()?, known.len(), inode(&known)))
}

/// A file that takes the place of another has another one, also within a tick of the clock.
#[cfg(unix)]
fn inode(file: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(file)
}

#[cfg(not(unix))]
const fn inode(_file: &fs::Metadata) -> u64 {
    0
}

/// Returns the name of a file; `None` for what is or ends as a folder does.
pub(super) fn name_of(path: &Path) -> Option<&OsStr> {
    let last = path.as_os_str().as_encoded_bytes().last()?;
    if std::path::is_separator(char::from(*last)) { None } else { path.file_name() }
}

/// Returns the folder of a file.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A file that is being written; removed unless it has taken the place of another.
#[derive(Debug)]
struct Beside {
    file: File,
    path: PathBuf,
    _name: Name,
}

/// A name in [`WRITING`].
#[derive(Debug)]
struct Name(OsString);

impl Beside {
    fn create(folder: &Path, of: &OsStr) -> io::Result<Self> {
        let mut name = prefix(of);
        name.push(random::id());
        name.push(SUFFIX);
        // Before there is such a file, so that no other writer of this process takes it for left behind.
        WRITING.lock().insert(name.clone());
        let name = Name(name);
        let path = folder.join(&name.0);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(Self { file: options.open(&path)?, path, _name: name })
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Not there if it has taken its place.
        drop(fs::remove_file(&self.path));
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        WRITING.lock().remove(&self.0);
    }
}

const SUFFIX: &str = ".tmp";
/// Digits of the random part of a name.
const DIGITS: usize = 32;

fn prefix(of: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(of);
    prefix.push(".");
    prefix
}

/// Removes the files that writers of that name have left behind who died. Nothing depends on it.
pub(super) fn remove_left_behind(folder: &Path, name: &OsStr) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for found in entries.flatten().map(|entry| entry.file_name()) {
        if is_beside(&found, name) && !WRITING.lock().contains(&found) {
            let removed = fs::remove_file(folder.join(&found));
            debug!(file = ?found, ok = removed.is_ok(), "removed what a writer left behind");
        }
    }
}

/// Returns whether that is the name of a file that is written beside the one called `of`.
fn is_beside(name: &OsStr, of: &OsStr) -> bool {
    let (name, prefix) = (name.as_encoded_bytes(), prefix(of));
    let random = name
        .strip_prefix(prefix.as_encoded_bytes())
        .and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()));
    random.is_some_and(|it| it.len() == DIGITS && it.iter().all(u8::is_ascii_hexdigit))
}

/// Lets the disk have the new name.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "as where folders can be synchronized")]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}
