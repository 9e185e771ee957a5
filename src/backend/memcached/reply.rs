//! Checks a reply while it comes in. No I/O.
//!
//! The client trusts what it reads: it takes any line for the success of an `add`, allocates whatever
//! length a line announces, and compares no key. So each line passes here before. A reply is bounded
//! before anything is allocated for it, must fit its command, and ends where it should.

use std::io;

use super::protocol::{Command, MAX_VALUE, StoreOutcome};

/// Above the longest line of a reply: a key of 250 bytes and four numbers.
const MAX_LINE: usize = 512;
const LINE_END: &[u8; 2] = b"\r\n";

/// Why a reply is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoReply {
    /// The server's own line: it refused.
    Refused(String),
    /// It does not belong to the command.
    Garbled(&'static str),
}

/// The reply to one command, as far as it has come in.
#[derive(Debug)]
pub(super) struct ReplyCheck<'a> {
    command: &'a Command<'a>,
    /// The beginning of a line.
    line: Vec<u8>,
    /// Bytes of a value and its line end that are still to come.
    value: usize,
    /// How many of the command's keys were answered, or passed over for they have no value.
    keys: usize,
    /// How many items of `StoreMany` were answered.
    stored: usize,
    is_whole: bool,
    no_answer: Option<NoReply>,
}

impl<'a> ReplyCheck<'a> {
    pub(super) fn to(command: &'a Command<'a>) -> Self {
        let line = Vec::new();
        Self { command, line, value: 0, keys: 0, stored: 0, is_whole: false, no_answer: None }
    }

    /// Returns whether its last byte came in.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Why it is no answer, if that has turned out.
    pub(super) fn into_no_answer(self) -> Option<NoReply> {
        self.no_answer
    }

    /// Looks at the next bytes. They must not be used after an error.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let passed = match (self.is_whole, self.value) {
                (true, _) => Err("more than the answer"),
                (false, 0) => self.pass_line(bytes),
                (false, _) => self.pass_value(bytes),
            };
            match passed {
                Ok(passed) => bytes = &bytes[passed..],
                Err(what) => return Err(self.refuse(what)),
            }
        }
        Ok(())
    }

    /// Makes it no answer.
    pub(super) fn refuse(&mut self, what: &'static str) -> io::Error {
        self.no_answer = Some(NoReply::Garbled(what));
        io::ErrorKind::InvalidData.into()
    }

    /// Returns how many bytes belonged to a line.
    fn pass_line(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let end = bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n');
        let passed = end.map_or(bytes.len(), |end| end + 1);
        if self.line.len() + passed > MAX_LINE {
            return Err("a line that is too long");
        }
        self.line.extend_from_slice(&bytes[..passed]);
        if end.is_some() {
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(LINE_END).ok_or("a line without its end")?;
            self.is_whole = !self.announces(line)? && !self.is_one_of_many(line);
            if self.is_whole {
                self.end(line)?;
            }
        }
        Ok(passed)
    }

    /// Returns whether a line announces a value.
    fn announces(&mut self, line: &[u8]) -> Result<bool, &'static str> {
        if self.command.keys().is_empty() || !line.starts_with(b"VALUE ") {
            return Ok(false);
        }
        const GARBLED: &str = "a value that was not asked for";
        let header = ValueHeader::read(line).ok_or(GARBLED)?;
        let with_version = !matches!(self.command, Command::GetMany(_));
        let keys = self.command.keys().get(self.keys..).unwrap_or_default();
        let place = keys.iter().position(|asked| asked.as_bytes() == header.key);
        let place = place.filter(|_| header.version.is_some() == with_version).ok_or(GARBLED)?;
        if header.length > MAX_VALUE {
            return Err("a value that is too long");
        }
        self.keys += place + 1;
        self.value = header.length + LINE_END.len();
        Ok(true)
    }

    /// Returns whether a line is the answer to one item of several, and not to the last.
    fn is_one_of_many(&mut self, line: &[u8]) -> bool {
        let Command::StoreMany(items) = self.command else { return false };
        // Any other line ends the reply.
        let is_answer = StoreOutcome::read(line).is_some();
        self.stored += usize::from(is_answer);
        is_answer && self.stored < items.len()
    }

    /// Returns how many bytes belonged to a value.
    fn pass_value(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let part = &bytes[..self.value.min(bytes.len())];
        let rest = self.value.saturating_sub(LINE_END.len());
        self.value -= part.len();
        let end = part.get(rest..).unwrap_or_default();
        let expected = &LINE_END[..LINE_END.len() - self.value.min(LINE_END.len())];
        if expected.ends_with(end) {
            return Ok(part.len());
        }
        Err("a value of another length")
    }

    /// Takes the line at the end of the reply.
    fn end(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let fits = match self.command {
            Command::Version => line.starts_with(b"VERSION"),
            Command::Gets(_) | Command::GetMany(_) | Command::GetsMany(_) => line == b"END",
            Command::Add { .. } => [&b"STORED"[..], b"NOT_STORED"].contains(&line),
            Command::Cas { .. } => [&b"STORED"[..], b"EXISTS", b"NOT_FOUND"].contains(&line),
            Command::StoreMany(_) => StoreOutcome::read(line).is_some(),
            Command::FlushAll => line == b"OK",
        };
        // That of one item among several is the answer to it.
        if is_refusal(line) && !(fits && matches!(self.command, Command::StoreMany(_))) {
            let line = String::from_utf8_lossy(line).into_owned();
            self.no_answer = Some(NoReply::Refused(line));
        } else if !fits {
            return Err("an answer that does not fit the command");
        }
        Ok(())
    }
}

impl StoreOutcome {
    /// `None` for a line that is no answer to an item.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        match line {
            b"STORED" => Some(Self::Done),
            b"NOT_STORED" | b"EXISTS" | b"NOT_FOUND" => Some(Self::Changed),
            // After it the server goes on with the next item; not so after other errors.
            _ if line.starts_with(b"SERVER_ERROR") => {
                Some(Self::Refused(String::from_utf8_lossy(line).into_owned()))
            }
            _ => None,
        }
    }
}

fn is_refusal(line: &[u8]) -> bool {
    [&b"ERROR"[..], b"CLIENT_ERROR", b"SERVER_ERROR"].iter().any(|word| line.starts_with(word))
}

/// A line that announces a value: `VALUE key flags length`, and a version where one was asked for.
#[derive(Debug)]
pub(super) struct ValueHeader<'a> {
    pub(super) key: &'a [u8],
    pub(super) length: usize,
    pub(super) version: Option<u64>,
}

impl<'a> ValueHeader<'a> {
    /// `None` for any other line.
    pub(super) fn read(line: &'a [u8]) -> Option<Self> {
        let mut words = line.strip_prefix(b"VALUE ")?.split(|byte| *byte == b' ');
        let key = words.next()?;
        let _flags = number(words.next()?)?;
        let length = usize::try_from(number(words.next()?)?).ok()?;
        let version = words.next().map(|word| number(word).ok_or(()));
        let header = Self { key, length, version: version.transpose().ok()? };
        words.next().is_none().then_some(header)
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::protocol::StoredItem;
    use super::*;
    use proptest::prelude::*;

    const CAS: Command<'_> = Command::Cas { key: "a", value: b"x", version: 1, exptime: 0 };
    const ADD: Command<'_> = Command::Add { key: "a", value: b"x", exptime: 0 };
    const TWO: Command<'_> = Command::GetsMany(&["a", "b"]);
    const FIND: Command<'_> = Command::GetMany(&["a", "b"]);
    const STORE: Command<'_> = Command::StoreMany(&[
        StoredItem { key: "a", value: b"x", version: Some(1), exptime: 0 },
        StoredItem { key: "b", value: b"x", version: None, exptime: 0 },
    ]);

    /// Returns whether a reply is whole, when it comes in such pieces.
    fn passes(command: Command<'_>, bytes: &[u8], chunk: usize) -> Result<bool, NoReply> {
        let mut reply = ReplyCheck::to(&command);
        let _ = bytes.chunks(chunk.max(1)).try_for_each(|bytes| reply.pass(bytes));
        let is_whole = reply.is_whole();
        reply.into_no_answer().map_or(Ok(is_whole), Err)
    }

    fn passes_in_pieces(command: Command<'_>, bytes: &[u8]) -> Result<bool, NoReply> {
        let whole = passes(command, bytes, bytes.len());
        for chunk in [1, 2, 3, 7] {
            assert_eq!(passes(command, bytes, chunk), whole, "{chunk}");
        }
        whole
    }

    #[test]
    fn a_reply_ends_where_it_should_in_whatever_pieces_it_comes() {
        for (command, bytes) in [
            (TWO, &b"END\r\n"[..]),
            (TWO, b"VALUE a 0 5 7\r\nx\r\nyz\r\nEND\r\n"),
            (TWO, b"VALUE b 0 0 8\r\n\r\nEND\r\n"),
            (TWO, b"VALUE a 0 1 7\r\nx\r\nVALUE b 9 5 8\r\nEND\r\n\r\nEND\r\n"),
            (FIND, b"VALUE a 0 1\r\n\n\r\nEND\r\n"),
            (Command::Gets("a"), b"VALUE a 0 1 7\r\nx\r\nEND\r\n"),
            (Command::Version, b"VERSION 1.6.18\r\n"),
            (Command::FlushAll, b"OK\r\n"),
            (CAS, b"STORED\r\n"),
            (CAS, b"EXISTS\r\n"),
            (CAS, b"NOT_FOUND\r\n"),
            (ADD, b"STORED\r\n"),
            (ADD, b"NOT_STORED\r\n"),
            (STORE, b"STORED\r\nNOT_STORED\r\n"),
            (STORE, b"SERVER_ERROR out of memory storing object\r\nEXISTS\r\n"),
            (STORE, b"NOT_FOUND\r\nSERVER_ERROR object too large for cache\r\n"),
        ] {
            assert_eq!(passes_in_pieces(command, bytes), Ok(true), "{}", bytes.escape_ascii());
            for end in 0..bytes.len() {
                assert_eq!(passes(command, &bytes[..end], 3), Ok(false), "there is more to come");
            }
            let more = [bytes, b"\r"].concat();
            assert_eq!(
                passes_in_pieces(command, &more),
                Err(NoReply::Garbled("more than the answer"))
            );
        }
    }

    #[test]
    fn what_does_not_belong_to_the_command_is_no_answer() {
        for (command, bytes) in [
            (CAS, &b"VALUE a 0 1 7\r\nx\r\nEND\r\n"[..]),
            (CAS, b"STORED\r\nSTORED\r\n"),
            (CAS, b"NOT_STORED\r\n"),
            (CAS, b"STORED\n"),
            (ADD, b"EXISTS\r\n"),
            (ADD, b"END\r\n"),
            (STORE, b"STORED\r\nEND\r\n"),
            (STORE, b"STORED\r\nSTORED\r\nSTORED\r\n"),
            (STORE, b"STORED\nSTORED\r\n"),
            (Command::Version, b"STORED\r\n"),
            (TWO, b"STORED\r\n"),
            (TWO, b"VALUE c 0 1 7\r\nx\r\nEND\r\n"),
            (TWO, b"VALUE b 0 1 7\r\nx\r\nVALUE a 0 1 7\r\nx\r\nEND\r\n"),
            (TWO, b"VALUE a 0 1 7\r\nx\r\nVALUE a 0 1 7\r\nx\r\nEND\r\n"),
            (TWO, b"VALUE a 0 1 7\r\nxy\r\nEND\r\n"),
            (TWO, b"VALUE a 0 2 7\r\nx\r\nEND\r\n"),
            (TWO, b"VALUE a 0 1\r\nx\r\nEND\r\n"),
            (TWO, b"VALUE a 0 1 7 7\r\nx\r\nEND\r\n"),
            (FIND, b"VALUE a 0 1 7\r\nx\r\nEND\r\n"),
            (Command::Gets("a"), b"VALUE a 0 1 7\r\nx\r\nVALUE a 0 1 7\r\nx\r\nEND\r\n"),
        ] {
            let outcome = passes_in_pieces(command, bytes);
            let bytes = bytes.escape_ascii();
            assert!(matches!(outcome, Err(NoReply::Garbled(_))), "{bytes}: {outcome:?}");
        }
        let line = "SERVER_ERROR out of memory storing object";
        for before in ["", "VALUE a 0 1 7\r\nx\r\n"] {
            let refused = passes_in_pieces(TWO, format!("{before}{line}\r\n").as_bytes());
            assert_eq!(refused, Err(NoReply::Refused(line.to_owned())));
        }
        // After these nobody knows where the next command of the same write begins.
        for line in ["ERROR", "CLIENT_ERROR bad data chunk"] {
            let refused = passes_in_pieces(STORE, format!("STORED\r\n{line}\r\n").as_bytes());
            assert_eq!(refused, Err(NoReply::Refused(line.to_owned())));
        }
    }

    #[test]
    fn f31_no_length_of_a_server_is_trusted() {
        for bad in ["1048577", "18446744073709551615", "-1", "", "+1", "99999999999999999999999"] {
            let header = format!("VALUE a 0 {bad} 1\r\n");
            assert!(passes(TWO, header.as_bytes(), 4).is_err(), "{bad}");
        }
        assert!(passes(TWO, &[b'x'; MAX_LINE + 1], 100).is_err());
        assert_eq!(passes(TWO, &[b'x'; MAX_LINE], 100), Ok(false));
    }

    proptest! {
        #[test]
        fn f31_no_reply_makes_it_panic(reply: Vec<u8>, chunk in 1usize..20) {
            let _ = passes(TWO, &reply, chunk);
            let _ = passes(Command::Version, &reply, chunk);
            let _ = passes(STORE, &[b"STORED\r\n", &reply[..]].concat(), chunk);
            let _ = passes(TWO, &[b"VALUE a ", &reply[..]].concat(), chunk);
            let _ = passes(TWO, &[b"VALUE a 0 3 1\r\n", &reply[..]].concat(), chunk);
        }
    }
}
