//! The time of a log line, as `10/Oct/2000:13:55:36 -0700`, and times for a reader, in UTC.

use traffik::Timestamp;

use super::log::Malformed;

const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];
const DAY: u64 = 86_400;
/// Days from the first of March of the year 0 to the Unix epoch.
const EPOCH: u64 = 719_468;
const MICROS: u64 = 1_000_000;

/// Where lower case stands is a field; all else must be as it is here, but for the sign.
const SHAPE: &[u8; 26] = b"dd/mmm/yyyy:hh:mm:ss +hhmm";

/// Reads the time of a log line. The zone's offset is taken off, so the result is in UTC.
pub(crate) fn parse(field: &[u8]) -> Result<Timestamp, Malformed> {
    let fits = |(byte, shape): (&u8, &u8)| {
        shape.is_ascii_lowercase() || byte == shape || *shape == b'+' && *byte == b'-'
    };
    if field.len() != SHAPE.len() || !field.iter().zip(SHAPE).all(fits) {
        return Err(Malformed("the time does not look like 10/Oct/2000:13:55:36 -0700"));
    }
    let year = number(&field[7..11], 1970, 2255)?;
    let named = (1..).zip(MONTHS).find(|(_, name)| **name == field[3..6]);
    let (month, _) = named.ok_or(Malformed("the time has no such month"))?;
    let last_day = match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let day = number(&field[..2], 1, last_day)?;
    // A second of 60 is a leap second, which Unix time counts as the one after it.
    let of_day = number(&field[12..14], 0, 23)? * 3600
        + number(&field[15..17], 0, 59)? * 60
        + number(&field[18..20], 0, 60)?;
    let local = days_to(year, month, day) * DAY + of_day;
    let offset = number(&field[22..24], 0, 23)? * 3600 + number(&field[24..], 0, 59)? * 60;
    let utc = if field[21] == b'-' { Some(local + offset) } else { local.checked_sub(offset) };
    utc.and_then(|seconds| seconds.checked_mul(MICROS))
        .filter(|micros| *micros <= Timestamp::MAX.as_micros())
        .map(Timestamp::from_micros)
        .ok_or(Malformed("the time is before 1970 or after 2255"))
}

/// A whole number of decimal digits within a range.
fn number(digits: &[u8], least: u64, most: u64) -> Result<u64, Malformed> {
    // `parse` alone would take a sign.
    let text = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
    text.and_then(|text| text.parse().ok())
        .filter(|number| (least..=most).contains(number))
        .ok_or(Malformed("the time has a number out of its range"))
}

/// Days from the Unix epoch. A year is counted from March, so that the leap day is its last.
fn days_to(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - EPOCH
}

/// `2000-10-10 20:55:36`, in UTC.
pub(crate) fn show(at: Timestamp) -> String {
    let seconds = at.as_micros() / MICROS;
    let (days, of_day) = (seconds / DAY + EPOCH, seconds % DAY);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(text: &str) -> Result<u64, Malformed> {
        parse(text.as_bytes()).map(|at| at.as_micros() / MICROS)
    }

    #[test]
    fn reads_times_of_all_zones() {
        assert_eq!(seconds("10/Oct/2000:13:55:36 -0700"), Ok(971_211_336));
        assert_eq!(seconds("10/Oct/2000:20:55:36 +0000"), Ok(971_211_336));
        assert_eq!(seconds("11/Oct/2000:02:25:36 +0530"), Ok(971_211_336));
        assert_eq!(seconds("01/Jan/1970:00:00:00 +0000"), Ok(0));
        assert_eq!(seconds("29/Feb/2024:00:00:00 +0000"), Ok(1_709_164_800));
        assert_eq!(seconds("31/Dec/2016:23:59:60 +0000"), seconds("01/Jan/2017:00:00:00 +0000"));
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "-",
            "10/Oct/2000:13:55:36",
            "10/Okt/2000:13:55:36 -0700",
            "1/Oct/2000:13:55:36 -0700",
            "31/Apr/2000:13:55:36 -0700",
            "29/Feb/2023:13:55:36 -0700",
            "00/Oct/2000:13:55:36 -0700",
            "10/Oct/2000:24:55:36 -0700",
            "10/Oct/2000:13:60:36 -0700",
            "10/Oct/2000:13:55:61 -0700",
            "10/Oct/2000:13:55:36 ~0700",
            "10/Oct/2000:13:55:36 -0760",
            "10/Oct/+200:13:55:36 -0700",
            "10/Oct/99999999999999999999:13:55:36 -0700",
            "10/Oct/1969:13:55:36 -0700",
            "01/Jan/1970:00:00:00 +0001",
            "31/Dec/2255:00:00:00 +0000",
        ] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_second_is_read_as_it_is_shown(at in 0..Timestamp::MAX.as_micros() / MICROS) {
            let at = Timestamp::from_micros(at * MICROS);
            let shown = show(at);
            let [year, month, day] = [&shown[..4], &shown[5..7], &shown[8..10]];
            let month = MONTHS[month.parse::<usize>().unwrap() - 1];
            let month = std::str::from_utf8(month).unwrap();
            let line = format!("{day}/{month}/{year}:{} +0000", &shown[11..]);
            prop_assert_eq!(parse(line.as_bytes()), Ok(at));
        }

        #[test]
        fn no_bytes_panic(field: Vec<u8>) {
            let _ = parse(&field);
        }

        #[test]
        fn no_near_time_panics(field in "[0-9]{2}/[A-Z][a-z]{2}/[0-9]{1,6}:[0-9:]{8} [-+][0-9]{4}") {
            let _ = parse(field.as_bytes());
        }
    }
}
