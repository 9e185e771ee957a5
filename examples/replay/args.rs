//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use traffik::{InMemory, Rate};

use crate::simulation::kind::{Kind, reason};

pub(crate) const HELP: &str = "\
Replays an access log by its own time, and shows whom a rate limit would have hit.

usage: replay [OPTIONS] [FILE]

FILE is a log in the Common or Combined Log Format, plain or gzip. Without one, or for `-`, it is read
from standard input. Each client address has the rate for itself.

options:
  --rate RATE      what each client may do: 30/min, \"100/h burst 20\"   [default: 30/min]
  --strategy NAME  how it is counted                                   [default: token-bucket]
                   fixed-window, sliding-window-counter, sliding-window-log,
                   token-bucket, leaky-bucket or gcra
  --top N          list at most N clients                              [default: 20]
  -h, --help       show this

exit code: 0 done, 1 the log cannot be read, 2 wrong arguments or no request in the log
";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Replay(Args),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    /// `None` is standard input.
    pub(crate) file: Option<PathBuf>,
    pub(crate) rate: Rate,
    pub(crate) strategy: Kind,
    pub(crate) top: usize,
}

/// Reads the arguments, without the name of the program. The error is for the user.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let (mut rate, mut strategy, mut top) = (Rate::per_minute(30), Kind::TokenBucket, 20);
    let (mut file, mut only_files) = (None, false);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        // An option is text; a file's name may be any bytes.
        let option =
            arg.to_str().filter(|text| !only_files && text.starts_with('-') && *text != "-");
        let Some(option) = option else {
            if let Some(first) = file.replace(arg) {
                return Err(format!("more than one file: {first:?} was not the last"));
            }
            continue;
        };
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let mut value = || match value.clone().map(OsString::from).or_else(|| args.next()) {
            Some(value) => value.into_string().map_err(|value| format!("{value:?} is not text")),
            None => Err(format!("{name} needs a value")),
        };
        match name {
            "--rate" => rate = value()?.parse().map_err(|error| format!("--rate: {error}"))?,
            "--strategy" => {
                strategy = value()?.parse().map_err(|error| format!("--strategy: {error}"))?;
            }
            "--top" => {
                let text = value()?;
                top = text.parse().map_err(|_| format!("--top: {text:?} is not a whole number"))?;
            }
            "-h" | "--help" => return Ok(Command::Help),
            "--" => only_files = true,
            _ => return Err(format!("no option is called {name:?}; see --help")),
        }
    }
    // Not every strategy can keep every rate; the library knows.
    strategy
        .throttle(rate, InMemory::new())
        .map_err(|error| format!("{strategy}: {}", reason(&error)))?;
    let file = file.filter(|file| file != "-").map(PathBuf::from);
    Ok(Command::Replay(Args { file, rate, strategy, top }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Command, String> {
        parse(args.iter().map(OsString::from))
    }

    fn args(args: &[&str]) -> Args {
        match read(args) {
            Ok(Command::Replay(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_options_and_a_file() {
        let defaults =
            Args { file: None, rate: Rate::per_minute(30), strategy: Kind::TokenBucket, top: 20 };
        assert_eq!(args(&[]), defaults);
        assert_eq!(args(&["-"]), defaults);
        let given = args(&["--rate=5/s burst 9", "a.log", "--strategy", "gcra", "--top", "3"]);
        assert_eq!(given.file, Some("a.log".into()));
        assert_eq!(given.rate, Rate::per_second(5).burst(9));
        assert_eq!((given.strategy, given.top), (Kind::Gcra, 3));
        assert_eq!(args(&["--", "--rate"]).file, Some("--rate".into()));
        assert_eq!(read(&["--rate", "5/s", "--help"]), Ok(Command::Help));
        for kind in Kind::ALL {
            assert_eq!(args(&["--strategy", kind.name()]).strategy, kind);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (given, why) in [
            (&["--rate"][..], "--rate needs a value"),
            (&["--rate", "fast"], "--rate: invalid rate \"fast\""),
            (&["--strategy=fifo"], "--strategy: no strategy is called \"fifo\""),
            (&["--top", "-1"], "--top: \"-1\" is not a whole number"),
            (&["--what"], "no option is called \"--what\""),
            (&["a", "b"], "more than one file"),
            (
                &["--rate=2/s burst 3", "--strategy=fixed-window"],
                "fixed-window: rate 2/s burst 3: ",
            ),
        ] {
            let error = read(given).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
