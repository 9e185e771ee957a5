//! The lines of a log: plain or gzip, from a file or a pipe, each held to a longest length.

use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;

/// The most bytes of a line that are kept. The rest of a longer one is skipped, not held in memory.
pub(crate) const MAX_LINE: usize = 64 * 1024;

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Reads the lines of a log.
pub(crate) struct Lines<'a> {
    input: Box<dyn BufRead + 'a>,
    line: Vec<u8>,
    number: u64,
}

/// One line, without its line ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Whole(&'a [u8]),
    /// The start of a line of more than [`MAX_LINE`] bytes.
    TooLong(&'a [u8]),
}

impl<'a> Lines<'a> {
    /// Looks at the first two bytes, also of a pipe, to see whether it is gzip.
    pub(crate) fn new(input: impl Read + 'a) -> io::Result<Self> {
        let mut input = BufReader::with_capacity(MAX_LINE, input);
        let mut start = Vec::with_capacity(GZIP.len());
        // A pipe may give one byte at first.
        input.by_ref().take(2).read_to_end(&mut start)?;
        let is_gzip = start == GZIP;
        let input = Cursor::new(start).chain(input);
        let input: Box<dyn BufRead> = if is_gzip {
            // Several members in one file are one log: that is what `cat a.gz b.gz` makes.
            Box::new(BufReader::with_capacity(MAX_LINE, MultiGzDecoder::new(input)))
        } else {
            Box::new(input)
        };
        Ok(Self { input, line: Vec::new(), number: 0 })
    }

    /// The number of the last line that was read; the first is 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The next line; `None` at the end.
    pub(crate) fn read(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let (mut started, mut ended, mut too_long) = (false, false, false);
        while !ended {
            let chunk = match self.input.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                chunk => chunk?,
            };
            if chunk.is_empty() {
                break;
            }
            started = true;
            let end = chunk.iter().position(|byte| *byte == b'\n');
            ended = end.is_some();
            let piece = &chunk[..end.unwrap_or(chunk.len())];
            let kept = piece.len().min(MAX_LINE - self.line.len());
            too_long |= kept < piece.len();
            self.line.extend_from_slice(&piece[..kept]);
            let used = piece.len() + usize::from(ended);
            self.input.consume(used);
        }
        if !started {
            return Ok(None);
        }
        self.number += 1;
        if too_long {
            return Ok(Some(Line::TooLong(&self.line)));
        }
        Ok(Some(Line::Whole(self.line.strip_suffix(b"\r").unwrap_or(&self.line))))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    /// Gives one byte at a time, as a slow pipe would.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let wanted = buffer.len().min(1);
            self.0.read(&mut buffer[..wanted])
        }
    }

    fn all(input: impl Read) -> io::Result<Vec<Vec<u8>>> {
        let mut lines = Lines::new(input)?;
        let mut all = Vec::new();
        while let Some(line) = lines.read()? {
            let Line::Whole(line) = line else { panic!("a line was too long") };
            all.push(line.to_vec());
        }
        assert_eq!(lines.number(), u64::try_from(all.len()).unwrap());
        Ok(all)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn line_endings_do_not_matter() {
        let lines = [&b"a"[..], b"", b"b\r", b"c"];
        assert_eq!(all(&b"a\n\r\nb\r\r\nc"[..]).unwrap(), lines);
        assert_eq!(all(&b"a\r\n\nb\r\r\nc\n"[..]).unwrap(), lines);
    }

    #[test]
    fn nothing_has_no_lines() {
        assert!(all(&b""[..]).unwrap().is_empty());
        assert!(all(&*gzip(b"")).unwrap().is_empty());
        assert_eq!(all(&b"\x1f"[..]).unwrap(), [b"\x1f"]);
    }

    #[test]
    fn a_cut_gzip_file_is_an_error() {
        let whole = gzip(&b"some words and more of them\n".repeat(100));
        for length in 2..whole.len() {
            assert!(all(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn reads_on_after_a_line_that_is_too_long() {
        let mut text = vec![b'a'; MAX_LINE];
        text.extend_from_slice(b"\nb\n");
        text.resize(text.len() + 3 * MAX_LINE, b'c');
        text.extend_from_slice(b"\nd");
        for input in [text.clone(), gzip(&text)] {
            let mut lines = Lines::new(&*input).unwrap();
            let mut next = || match lines.read().unwrap() {
                Some(Line::Whole(line)) => Some((line.len(), false)),
                Some(Line::TooLong(line)) => Some((line.len(), true)),
                None => None,
            };
            let lengths = [(MAX_LINE, false), (1, false), (MAX_LINE, true), (1, false)];
            assert_eq!(lengths.map(Some), [next(), next(), next(), next()]);
            assert_eq!(next(), None);
        }
    }

    proptest! {
        /// Plain, gzip and gzip of several members, at once and byte by byte: the same lines.
        #[test]
        fn the_way_it_comes_does_not_matter(
            text in "[ab\r\n]{0,60}",
            cut in 0..60usize,
        ) {
            prop_assume!(text.is_ascii());
            let mut expected: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b'\n').collect();
            expected.pop_if(|last| last.is_empty());
            let expected: Vec<_> =
                expected.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
            let (one, two) = text.as_bytes().split_at(cut.min(text.len()));
            let members = [gzip(one), gzip(two)].concat();
            for input in [text.as_bytes(), &*gzip(text.as_bytes()), &*members] {
                prop_assert_eq!(&all(input).unwrap(), &expected);
                prop_assert_eq!(&all(Drip(input)).unwrap(), &expected);
            }
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, gzip: bool) {
            let start: &[u8] = if gzip { &[0x1f, 0x8b, 8] } else { &[] };
            let _ = all(&*[start, &*bytes].concat());
        }
    }
}
