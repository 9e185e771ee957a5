//! The text form of a rate.

use std::str::FromStr;
use std::time::Duration;

use super::{DAY, HOUR, MILLI, MINUTE, Rate, RateError, SECOND, WEEK};
use crate::excerpt::Excerpt;

/// Length in microseconds and names of each unit, longest first; the first name is the one written.
const UNITS: [(u64, &[&str]); 6] = [
    (WEEK, &["week", "weeks", "w"]),
    (DAY, &["day", "days", "d"]),
    (HOUR, &["h", "hr", "hour", "hours"]),
    (MINUTE, &["min", "m", "minute", "minutes"]),
    (SECOND, &["s", "sec", "second", "seconds"]),
    (MILLI, &["ms", "millisecond", "milliseconds"]),
];

/// Bytes in each unit of data, and its names. Case counts: a small `b` is a bit elsewhere.
const SIZES: [(u64, &[&str]); 7] = [
    (1, &["B"]),
    (1_000, &["kB", "KB"]),
    (1_000_000, &["MB"]),
    (1_000_000_000, &["GB"]),
    (1 << 10, &["KiB"]),
    (1 << 20, &["MiB"]),
    (1 << 30, &["GiB"]),
];

/// The longest unit that measures the period without a rest, and its name.
pub(super) fn largest_unit(period: u64) -> (u64, &'static str) {
    UNITS
        .iter()
        .find(|(unit, _)| period.is_multiple_of(*unit))
        .map_or((MILLI, "ms"), |(unit, names)| (*unit, names[0]))
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        Parser { text, at: 0 }.rate()
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rate(mut self) -> Result<Rate, RateError> {
        if self.word_is("unlimited") {
            self.end()?;
            return Ok(Rate::UNLIMITED);
        }
        let limit =
            self.quantity("a limit such as the 100 in \"100/min\" (\"0/day\" denies all)")?;
        if !self.slash() && !self.per() {
            let problem = match self.text[self.at..].chars().next() {
                Some('.' | ',' | '_') => "a limit is a whole number, in digits alone",
                _ => "expected '/' or \"per\" after the limit, and a period, as in \"5/min\"",
            };
            return Err(self.error(problem));
        }
        let rate = Rate::new(limit, self.period()?)
            .map_err(|error| self.error_at(self.at, error.to_string()))?;
        let rate = if self.word_is("burst") {
            rate.burst(self.quantity("a number after \"burst\"")?)
        } else {
            rate
        };
        self.end()?;
        Ok(rate)
    }

    fn period(&mut self) -> Result<Duration, RateError> {
        self.spaces();
        let start = self.at;
        let count = match self.digits() {
            "" => 1,
            _ => {
                self.at = start;
                self.number("a period")?
            }
        };
        self.spaces();
        let (at, name) = (self.at, self.letters());
        let unit =
            UNITS.iter().find(|(_, names)| names.iter().any(|n| n.eq_ignore_ascii_case(name)));
        match unit {
            // Far out of range either way, if it does not fit.
            Some((unit, _)) => Ok(Duration::from_micros(count.saturating_mul(*unit))),
            None if name.is_empty() => {
                Err(self.error("expected a unit: ms, s, min, h, day or week"))
            }
            None => {
                let name = Excerpt(name.as_bytes());
                Err(self
                    .error_at(at, format!("unknown unit {name}; use ms, s, min, h, day or week")))
            }
        }
    }

    /// A number of units, or of bytes in a unit of data.
    fn quantity(&mut self, wanted: &str) -> Result<u32, RateError> {
        self.spaces();
        let at = self.at;
        let number = self.number(wanted)?;
        let size = self.size()?;
        u32::try_from(number.saturating_mul(size))
            .map_err(|_| self.error_at(at, format!("too large a number; use {} at most", u32::MAX)))
    }

    /// Consumes a unit of data, if there is one.
    fn size(&mut self) -> Result<u64, RateError> {
        let start = self.at;
        self.spaces();
        let (at, name) = (self.at, self.letters());
        if let Some((bytes, _)) = SIZES.iter().find(|(_, names)| names.contains(&name)) {
            return Ok(*bytes);
        }
        let is_meant = ["b", "bit", "byte", "bytes"].iter().any(|end| {
            let Some(before) = name.len().checked_sub(end.len()) else { return false };
            let is_end = name.get(before..).is_some_and(|rest| rest.eq_ignore_ascii_case(end));
            is_end
                && ["", "k", "m", "g", "t", "ki", "mi", "gi", "ti"]
                    .contains(&name[..before].to_ascii_lowercase().as_str())
        });
        if is_meant {
            let problem = format!(
                "unknown unit {}; use B, kB, MB, GB, KiB, MiB or GiB, with that case",
                Excerpt(name.as_bytes())
            );
            return Err(self.error_at(at, problem));
        }
        self.at = start;
        Ok(1)
    }

    /// Held at `u64::MAX`.
    fn number(&mut self, wanted: &str) -> Result<u64, RateError> {
        self.spaces();
        let digits = self.digits();
        if digits.is_empty() {
            return Err(self.error(format!("expected {wanted}, in ASCII digits only")));
        }
        // Nothing but digits, so only the size can be wrong.
        Ok(digits.parse().unwrap_or(u64::MAX))
    }

    fn end(&mut self) -> Result<(), RateError> {
        self.spaces();
        if self.at == self.text.len() {
            return Ok(());
        }
        Err(self.error("unexpected text; a rate ends here, or goes on with \"burst N\""))
    }

    fn slash(&mut self) -> bool {
        self.spaces();
        let found = self.text[self.at..].starts_with('/');
        self.at += usize::from(found);
        found
    }

    /// Consumes "per", also where the unit follows without a space.
    fn per(&mut self) -> bool {
        const PER: &str = "per";
        self.spaces();
        let word = self.text.get(self.at..self.at + PER.len());
        let found = word.is_some_and(|word| word.eq_ignore_ascii_case(PER));
        self.at += if found { PER.len() } else { 0 };
        found
    }

    /// Consumes the next word if it is `word`.
    fn word_is(&mut self, word: &str) -> bool {
        self.spaces();
        let start = self.at;
        let found = self.letters().eq_ignore_ascii_case(word);
        if !found {
            self.at = start;
        }
        found
    }

    fn spaces(&mut self) {
        self.take_while(|byte| byte == b' ' || byte == b'\t');
    }

    fn digits(&mut self) -> &'a str {
        self.take_while(|byte| byte.is_ascii_digit())
    }

    fn letters(&mut self) -> &'a str {
        self.take_while(|byte| byte.is_ascii_alphabetic())
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let length = rest.bytes().position(|byte| !wanted(byte)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn error(&self, problem: impl Into<String>) -> RateError {
        self.error_at(self.at, problem)
    }

    fn error_at(&self, at: usize, problem: impl Into<String>) -> RateError {
        RateError::Syntax { text: self.text.to_owned(), at, problem: problem.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_each_form_of_the_grammar() {
        for (text, limit, period) in [
            ("100/min", 100, MINUTE),
            ("5/s", 5, SECOND),
            ("10/30s", 10, 30 * SECOND),
            ("2 per second", 2, SECOND),
            ("1000/500ms", 1000, 500 * MILLI),
            ("5/millisecond", 5, MILLI),
            ("10/30 milliseconds", 10, 30 * MILLI),
            ("3perminute", 3, MINUTE),
            ("3 per30 Milliseconds", 3, 30 * MILLI),
            ("3PER2h", 3, 2 * HOUR),
            ("10/30 seconds", 10, 30 * SECOND),
            ("  7 / 2 Hr ", 7, 2 * HOUR),
            ("3 PER 2 WEEKS", 3, 2 * WEEK),
            ("0/min", 0, MINUTE),
            ("4294967295/d", u32::MAX, DAY),
            ("10MB/s", 10_000_000, SECOND),
            ("10 MiB / s", 10 << 20, SECOND),
            ("64kB/min", 64_000, MINUTE),
            ("64 KB per minute", 64_000, MINUTE),
            ("512KiB per 2s", 512 << 10, 2 * SECOND),
            ("1500B/s", 1500, SECOND),
            ("4GB/h", 4_000_000_000, HOUR),
            ("3GiB/h", 3 << 30, HOUR),
        ] {
            assert_eq!(text.parse::<Rate>(), Ok(Rate::from_micros(limit, period)), "{text}");
        }
        for (length, names) in UNITS {
            for name in names {
                assert_eq!(
                    format!("1/{name}").parse::<Rate>(),
                    Ok(Rate::from_micros(1, length)),
                    "{name}"
                );
            }
        }
        assert_eq!("100/min burst 150".parse(), Ok(Rate::per_minute(100).burst(150)));
        let data = Rate::per_second(10_000_000).burst(1 << 20);
        assert_eq!("10MB/s burst 1MiB".parse(), Ok(data));
        assert_eq!(data.to_string(), "10000000/s burst 1048576");
        assert_eq!(" Unlimited ".parse(), Ok(Rate::UNLIMITED));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        for (text, at, problem) in [
            ("", 0, "expected a limit"),
            ("fast", 0, "expected a limit"),
            ("+5/s", 0, "ASCII digits only"),
            ("-5/s", 0, "ASCII digits only"),
            ("off", 0, "\"0/day\" denies all"),
            ("1_000/s", 1, "a whole number"),
            ("1.5/s", 1, "a whole number"),
            ("\u{0665}/s", 0, "ASCII digits only"),
            ("5", 1, "expected '/' or \"per\""),
            ("5/", 2, "expected a unit"),
            ("5per", 4, "expected a unit"),
            ("5 percent", 5, "unknown unit \"cent\""),
            ("5 pe", 2, "expected '/' or \"per\""),
            ("5 p\u{e9}r", 2, "expected '/' or \"per\""),
            ("5/fortnight", 2, "unknown unit \"fortnight\""),
            ("5/s extra", 4, "unexpected text"),
            ("5/s burst", 9, "expected a number after \"burst\""),
            ("4294967296/s", 0, "too large"),
            ("99999999999999999999/s", 0, "too large"),
            ("5/99999999999999999999ms", 24, "out of range"),
            ("5/0s", 4, "out of range"),
            ("5/367d", 6, "out of range"),
            ("5/4294967295w", 13, "out of range"),
            ("unlimited/s", 9, "unexpected text"),
            ("10mb/s", 2, "unknown unit \"mb\"; use B, kB, MB"),
            ("10 Mbit/s", 3, "unknown unit \"Mbit\""),
            ("10 bytes/s", 3, "unknown unit \"bytes\""),
            ("10TB/s", 2, "unknown unit \"TB\""),
            ("10M/s", 2, "expected '/' or \"per\""),
            ("1.5MB/s", 1, "a whole number"),
            ("4GiB/s", 0, "too large"),
            ("1/s burst 5mb", 11, "unknown unit \"mb\""),
        ] {
            let error = text.parse::<Rate>().expect_err(text);
            let RateError::Syntax { at: found, .. } = &error else { panic!("{text}: {error:?}") };
            assert_eq!(*found, at, "{text}: {error}");
            assert!(error.to_string().contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn an_error_is_one_short_line_whatever_was_read() {
        let error = "x\r\nflush_all".repeat(1000).parse::<Rate>().expect_err("garbage");
        let text = error.to_string();
        assert!(text.len() < 300 && !text.contains(['\r', '\n']), "{text}");
    }

    #[test]
    fn refuses_periods_outside_the_domain() {
        for period in [Duration::ZERO, Duration::from_micros(999), Duration::MAX] {
            assert_eq!(Rate::new(1, period), Err(RateError::PeriodRange { period }));
        }
        let period = Duration::from_nanos(1_000_001);
        assert_eq!(Rate::new(1, period), Err(RateError::PeriodFraction { period }));
        assert!(Rate::new(1, Rate::MIN_PERIOD).is_ok() && Rate::new(1, Rate::MAX_PERIOD).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            limit: u32,
            millis in 1..=366u64 * 86_400_000,
            burst: Option<u32>,
        ) {
            let mut rate = Rate::new(limit, Duration::from_millis(millis)).unwrap();
            rate.burst = burst;
            prop_assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _: Result<Rate, RateError> = text.parse();
        }
    }
}
