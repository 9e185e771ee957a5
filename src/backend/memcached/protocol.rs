//! The text protocol, as far as it is used: commands to bytes, and bytes to answers. No I/O.
//!
//! Only commands that are answered. A reply is bounded before anything is allocated for it, and a value
//! is taken only under a name that was asked for.

use std::io::Write;

/// The most bytes of a value, which is what a server takes by default.
pub(super) const MAX_VALUE: usize = 1024 * 1024;
/// Keys of one command. A longer line is an attack to some servers.
pub(super) const MAX_KEYS: usize = 64;
/// Above the longest line of a reply: a key of 250 bytes and four numbers.
const MAX_LINE: usize = 512;

/// A command. Its keys were made by [`keys`](super::keys), so they need no checking here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command<'a> {
    Version,
    Gets(&'a str),
    /// At most [`MAX_KEYS`], each once. The server looks them up in this order.
    GetsMany(&'a [&'a str]),
    Add {
        key: &'a str,
        value: &'a [u8],
        exptime: u32,
    },
    Cas {
        key: &'a str,
        value: &'a [u8],
        version: u64,
        exptime: u32,
    },
    FlushAll,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    /// A value and its version.
    Value(Vec<u8>, u64),
    /// The values and versions of several keys, in the order of the command.
    Values(Vec<Option<(Vec<u8>, u64)>>),
    /// There is no such item.
    Missing,
    /// There is one (for `add`), or it was changed (for `cas`).
    Changed,
}

/// Why a reply is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// The server's own line: it refused.
    Refused(String),
    /// It does not belong to the command.
    Garbled(&'static str),
}

impl Command<'_> {
    /// Whether it changes nothing, so that no failure of it leaves a doubt.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Version | Self::Gets(_) | Self::GetsMany(_))
    }

    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        match *self {
            Self::Version => bytes.extend_from_slice(b"version\r\n"),
            Self::FlushAll => bytes.extend_from_slice(b"flush_all\r\n"),
            Self::Gets(_) | Self::GetsMany(_) => {
                bytes.extend_from_slice(b"gets");
                for key in self.keys() {
                    bytes.push(b' ');
                    bytes.extend_from_slice(key.as_bytes());
                }
                bytes.extend_from_slice(b"\r\n");
            }
            Self::Add { key, value, exptime } => {
                line(bytes, format_args!("add {key} 0 {exptime} {}\r\n", value.len()));
                bytes.extend_from_slice(value);
                bytes.extend_from_slice(b"\r\n");
            }
            Self::Cas { key, value, version, exptime } => {
                line(bytes, format_args!("cas {key} 0 {exptime} {} {version}\r\n", value.len()));
                bytes.extend_from_slice(value);
                bytes.extend_from_slice(b"\r\n");
            }
        }
    }

    fn keys(&self) -> &[&str] {
        match self {
            Self::Gets(key) => std::slice::from_ref(key),
            Self::GetsMany(keys) => keys,
            _ => &[],
        }
    }
}

fn line(bytes: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    bytes.write_fmt(text).expect("writing to memory does not fail");
}

/// The reply to one command, while it comes in.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    command: &'a Command<'a>,
    /// How many bytes were understood.
    read: usize,
    values: Vec<Option<(Vec<u8>, u64)>>,
}

impl<'a> Reply<'a> {
    pub(super) fn to(command: &'a Command<'a>) -> Self {
        Self { command, read: 0, values: Vec::with_capacity(command.keys().len()) }
    }

    /// Reads on in all the bytes that came in since the command; `None` if there are more to come.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Option<Answer>, NoAnswer> {
        loop {
            let rest = &bytes[self.read..];
            let Some(end) = rest.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
                return if rest.len() < MAX_LINE { Ok(None) } else { Err(LONG_LINE) };
            };
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            if let Some(header) = self.is_gets().then(|| line.strip_prefix(b"VALUE ")).flatten() {
                let Some(length) = self.value(header, &rest[end + 1..])? else { return Ok(None) };
                self.read += end + 1 + length;
                continue;
            }
            let answer = self.last_line(line)?;
            let whole = self.read + end + 1 == bytes.len();
            return if whole { Ok(Some(answer)) } else { Err(NoAnswer::Garbled(TOO_MUCH)) };
        }
    }

    fn is_gets(&self) -> bool {
        !self.command.keys().is_empty()
    }

    /// Takes a value, and says how many bytes it had with its line end; `None` if it is not all there.
    fn value(&mut self, header: &[u8], rest: &[u8]) -> Result<Option<usize>, NoAnswer> {
        const GARBLED: NoAnswer = NoAnswer::Garbled("a value that was not asked for");
        let mut words = header.split(|byte| *byte == b' ');
        let key = words.next().unwrap_or_default();
        let mut numbers = words.skip(1).map(number);
        let (Some(Some(length)), Some(Some(version)), None) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return Err(GARBLED);
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_VALUE);
        let length = length.ok_or(NoAnswer::Garbled("a value that is too long"))?;
        let Some((value, end)) = rest.get(..length + 2).map(|value| value.split_at(length)) else {
            return Ok(None);
        };
        let keys = self.command.keys().get(self.values.len()..).unwrap_or_default();
        let place = keys.iter().position(|asked| asked.as_bytes() == key);
        let (Some(place), b"\r\n") = (place, end) else { return Err(GARBLED) };
        self.values.extend((0..place).map(|_| None));
        self.values.push(Some((value.to_vec(), version)));
        Ok(Some(length + 2))
    }

    /// What the line at the end of the reply says.
    fn last_line(&mut self, line: &[u8]) -> Result<Answer, NoAnswer> {
        match (self.command, line) {
            (Command::Version, _) if line.starts_with(b"VERSION") => Ok(Answer::Done),
            (Command::FlushAll, b"OK") => Ok(Answer::Done),
            (Command::Add { .. } | Command::Cas { .. }, b"STORED") => Ok(Answer::Done),
            (Command::Add { .. }, b"NOT_STORED") | (Command::Cas { .. }, b"EXISTS") => {
                Ok(Answer::Changed)
            }
            (Command::Cas { .. }, b"NOT_FOUND") => Ok(Answer::Missing),
            (Command::Gets(_), b"END") => Ok(match self.values.pop().flatten() {
                Some((value, version)) => Answer::Value(value, version),
                None => Answer::Missing,
            }),
            (Command::GetsMany(keys), b"END") => {
                self.values.resize(keys.len(), None);
                Ok(Answer::Values(std::mem::take(&mut self.values)))
            }
            _ if is_refusal(line) => {
                Err(NoAnswer::Refused(String::from_utf8_lossy(line).into_owned()))
            }
            _ => Err(NoAnswer::Garbled("an answer that does not fit the command")),
        }
    }
}

const LONG_LINE: NoAnswer = NoAnswer::Garbled("a line that is too long");
const TOO_MUCH: &str = "more than the answer";

fn is_refusal(line: &[u8]) -> bool {
    [&b"ERROR"[..], b"CLIENT_ERROR", b"SERVER_ERROR"].iter().any(|word| line.starts_with(word))
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TWO: Command<'_> = Command::GetsMany(&["a", "b"]);

    /// The answer to bytes that come in piece by piece.
    fn answer(
        command: Command<'_>,
        bytes: &[u8],
        chunk: usize,
    ) -> Result<Option<Answer>, NoAnswer> {
        let mut reply = Reply::to(&command);
        let ends = (chunk..bytes.len()).step_by(chunk.max(1)).chain([bytes.len()]);
        for end in ends {
            if let Some(answer) = reply.read(&bytes[..end])? {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    fn says(command: Command<'_>, bytes: &[u8]) -> Option<Answer> {
        let whole = answer(command, bytes, bytes.len()).ok().flatten();
        for chunk in [1, 2, 7] {
            assert_eq!(answer(command, bytes, chunk).ok().flatten(), whole, "{chunk}");
        }
        whole
    }

    #[test]
    fn a_reply_is_read_in_whatever_pieces_it_comes() {
        let value = |text: &[u8], version| Some((text.to_vec(), version));
        for (bytes, expected) in [
            (&b"END\r\n"[..], vec![None, None]),
            (b"VALUE a 0 5 7\r\nx\r\nyz\r\nEND\r\n", vec![value(b"x\r\nyz", 7), None]),
            (b"VALUE b 0 0 8\r\n\r\nEND\r\n", vec![None, value(b"", 8)]),
            (
                b"VALUE a 0 1 7\r\nx\r\nVALUE b 9 5 8\r\nEND\r\n\r\nEND\r\n",
                vec![value(b"x", 7), value(b"END\r\n", 8)],
            ),
        ] {
            assert_eq!(says(TWO, bytes), Some(Answer::Values(expected)));
        }
        let one = Command::Gets("a");
        assert_eq!(
            says(one, b"VALUE a 0 1 7\r\nx\r\nEND\r\n"),
            Some(Answer::Value(b"x".into(), 7))
        );
        assert_eq!(says(one, b"END\r\n"), Some(Answer::Missing));
        assert_eq!(says(one, b"VALUE a 0 1 7\r\nx\r\n"), None, "there is more to come");
        let cas = Command::Cas { key: "a", value: b"x", version: 1, exptime: 0 };
        assert_eq!(says(cas, b"STORED\r\n"), Some(Answer::Done));
        assert_eq!(says(cas, b"EXISTS\r\n"), Some(Answer::Changed));
        assert_eq!(says(cas, b"NOT_FOUND\r\n"), Some(Answer::Missing));
        let add = Command::Add { key: "a", value: b"x", exptime: 0 };
        assert_eq!(says(add, b"NOT_STORED\r\n"), Some(Answer::Changed));
    }

    #[test]
    fn what_does_not_belong_to_the_command_is_no_answer() {
        let cas = Command::Cas { key: "a", value: b"x", version: 1, exptime: 0 };
        for (command, bytes) in [
            (cas, &b"VALUE a 0 1 7\r\nx\r\nEND\r\n"[..]),
            (cas, b"STORED\r\nSTORED\r\n"),
            (cas, b"NOT_STORED\r\n"),
            (Command::Version, b"STORED\r\n"),
            (TWO, b"STORED\r\n"),
            (TWO, b"VALUE c 0 1 7\r\nx\r\nEND\r\n"),
            (TWO, b"VALUE b 0 1 7\r\nx\r\nVALUE a 0 1 7\r\nx\r\nEND\r\n"),
            (TWO, b"VALUE a 0 1 7\r\nxy\r\nEND\r\n"),
            (TWO, b"VALUE a 0 1\r\nx\r\nEND\r\n"),
        ] {
            let outcome = answer(command, bytes, bytes.len());
            assert!(matches!(outcome, Err(NoAnswer::Garbled(_))), "{outcome:?}");
        }
        let refused = answer(cas, b"SERVER_ERROR out of memory storing object\r\n", 9).unwrap_err();
        let line = "SERVER_ERROR out of memory storing object".to_owned();
        assert_eq!(refused, NoAnswer::Refused(line));
    }

    #[test]
    fn f31_no_length_of_a_server_is_trusted() {
        for bad in ["1048577", "18446744073709551615", "-1", "", "+1", "99999999999999999999999"] {
            let header = format!("VALUE a 0 {bad} 1\r\n");
            assert!(answer(TWO, header.as_bytes(), 4).is_err(), "{bad}");
        }
        assert!(answer(TWO, &[b'x'; MAX_LINE + 1], 100).is_err());
        assert_eq!(answer(TWO, &[b'x'; MAX_LINE - 1], 100), Ok(None));
    }

    proptest! {
        #[test]
        fn f31_no_reply_makes_it_panic(reply: Vec<u8>, chunk in 1usize..20) {
            let _ = answer(TWO, &reply, chunk);
            let _ = answer(Command::Version, &reply, chunk);
            let _ = answer(TWO, &[b"VALUE a ", &reply[..]].concat(), chunk);
        }
    }
}
