//! A process that does not outlive us.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::wait::wait_until;

/// Waits for its standard input to end, which is when the tests' process ends in whatever way
/// without dropping the server; then it ends the server.
const WATCH: &str = r#"trap '' INT TERM; read -r _; kill -KILL "$1" 2>/dev/null; rm -rf "$2""#;

/// A running process, killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    watch: Child,
    paused: AtomicBool,
}

impl Process {
    /// Starts it; its output goes to the end of `log`. When it outlives us, it is killed and
    /// `dir` removed.
    ///
    /// # Panics
    ///
    /// If the program is not installed.
    pub fn spawn(command: &mut Command, log: &Path, dir: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).unwrap();
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                missing(&command.get_program().to_string_lossy())
            }
            Err(error) => panic!("cannot start {command:?}: {error}"),
        };
        let watch = Command::new("sh")
            .args(["-c", WATCH, "sh", &child.id().to_string()])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, watch, paused: AtomicBool::new(false) }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Stops it where it is (SIGSTOP): its connections stay open and nothing answers.
    ///
    /// # Panics
    ///
    /// If a thread of it still runs after a while.
    pub fn pause(&self) {
        self.signal("STOP");
        self.paused.store(true, Ordering::SeqCst);
        // The signal is pending until a thread takes it, and meanwhile another can answer.
        wait_until("the process stands still", Duration::from_secs(10), || self.stands_still());
    }

    /// Whether each of its threads is stopped.
    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        threads.into_iter().all(|thread| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
            // The state comes after the name, which is in parentheses and may have any in it.
            stat.is_ok_and(|stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('T'))
        })
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    pub fn resume(&self) {
        self.signal("CONT");
        self.paused.store(false, Ordering::SeqCst);
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(status.success(), "cannot send SIG{name} to process {pid}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // First who watches: it must not kill another that gets the number later.
        let _ = self.watch.kill();
        let _ = self.watch.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fails the test: it cannot say anything without what is not installed.
pub fn missing(what: &str) -> ! {
    panic!("{what} is missing: install it, or run scripts/test, which does")
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
