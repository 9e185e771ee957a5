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
/// an error of the very last step: then the new one is there, and either may be found after a loss of power.
pub(super) fn replace(
    path: &Path,
    mut write: impl FnMut(&mut File) -> io::Result<()>,
    still_wanted: impl Fn() -> io::Result<()>,
) -> io::Result<()> {
    let folder = folder_of(path);
    let name = name_of(path).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "it has no file name; name a file in a folder")
    })?;
    check_kind(path)?;
    for attempt in 1.. {
        remove_left_behind(folder, name);
        let mut beside = Beside::create(folder, name)?;
        write(&mut beside.file)?;
        beside.file.sync_all()?;
        still_wanted()?;
        match fs::rename(&beside.path, path) {
            Ok(()) => return sync_folder(folder),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(error) if attempt == ATTEMPTS => {
                let message = "what was written beside it was removed each time, as by another process that writes the \
                               same file; give each its own";
                return Err(io::Error::new(error.kind(), message));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// Fails if [`replace`] would: by what the path is, or where it cannot create the file that it writes beside, or let the
/// disk have the folder.
pub(super) fn check(path: &Path) -> io::Result<()> {
    check_kind(path)?;
    let (folder, name) = (folder_of(path), name_of(path).unwrap_or_default());
    Beside::create(folder, name).map(drop)?;
    sync_folder(folder)
}

/// Returns the one path of a file, however that of its folder is spelled. As it is, where that cannot be told; then
/// whoever opens it is told why.
pub(super) fn located(path: &Path) -> PathBuf {
    match (fs::canonicalize(folder_of(path)), name_of(path)) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => std::path::absolute(path).unwrap_or_else(|_| path.into()),
    }
}

/// Fails for what is there and is not an ordinary file. For a link, since whoever may write to its folder could else
/// choose which file is replaced, and to replace the link would leave the file as it is to which it leads; for a device
/// or a pipe, which would be one no longer.
pub(super) fn check_kind(path: &Path) -> io::Result<()> {
    let problem = match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => "it is a symbolic link; name the file to which it leads",
        Ok(found) if found.is_dir() => "it is a folder; name a file in it",
        Ok(found) if !found.is_file() => {
            "it is a device, a pipe or a socket; name an ordinary file"
        }
        // Of an error whoever opens it is told.
        _ => return Ok(()),
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
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
    let name = path.file_name()?;
    // Of `folder/` and `folder/.` that would be the name of the folder.
    path.as_os_str().as_encoded_bytes().ends_with(name.as_encoded_bytes()).then_some(name)
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

/// Lets the disk have the new name. Some file systems cannot do that for a folder, and who may write to one need not be
/// allowed to read it: then the name gets there by itself, sooner or later.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported) => {
            Ok(())
        }
        synced => synced,
    }
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "as where folders can be synchronized")]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_synchronized_is_one_all_the_same() {
        let of_processes = File::open("/proc").unwrap().sync_all().unwrap_err();
        assert_eq!(of_processes.kind(), io::ErrorKind::InvalidInput);
        sync_folder(Path::new("/proc")).unwrap();
        let missing = sync_folder(Path::new("/proc/missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_name_is_what_a_path_ends_with() {
        for none in ["", ".", "..", "/", "a/", "a//", "a/.", "a/./", "a/..", "/a/b/."] {
            assert_eq!(name_of(Path::new(none)), None, "{none:?}");
        }
        for (path, name) in
            [("a", "a"), ("a/b", "b"), ("./a", "a"), ("../.a", ".a"), ("a/b.", "b.")]
        {
            assert_eq!(name_of(Path::new(path)), Some(OsStr::new(name)), "{path:?}");
        }
    }
}
