//! What a remote says about when to come back.

use std::time::{Duration, UNIX_EPOCH};

use http::header::{DATE, HeaderMap, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use sfv::{BareItem, List, ListEntry, Parser};

use crate::clock::{Clock, WallClock};

/// The least wait after a 429.
const UNSAID: Duration = Duration::from_secs(1);

/// Returns how long a remote asks to wait, by the status and the fields of its response.
pub(super) fn wait_of(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let is_too_many = status == StatusCode::TOO_MANY_REQUESTS;
    let by_status = match is_too_many || status == StatusCode::SERVICE_UNAVAILABLE {
        true => retry_after(headers),
        false => None,
    };
    let least = is_too_many.then_some(UNSAID);
    let said = by_status.into_iter().chain(used_up(headers)).chain(least).max();
    said.filter(|wait| !wait.is_zero())
}

/// Reads `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date. A date is compared with that of the response,
/// so that it does not matter whose clock is right.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Too many digits are too long a wait, which is bounded by whoever asks.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let now =
        headers.get(DATE).and_then(|said| httpdate::parse_http_date(said.to_str().ok()?).ok());
    let now = now
        .unwrap_or_else(|| UNIX_EPOCH + Duration::from_micros(WallClock::new().now().as_micros()));
    Some(date.duration_since(now).unwrap_or_default())
}

/// Returns the longest time of the limits in `RateLimit` of which nothing is left.
fn used_up(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("ratelimit").iter();
    values.filter_map(longest_of).max()
}

fn longest_of(value: &HeaderValue) -> Option<Duration> {
    let list: List = Parser::new(value.as_bytes()).parse().ok()?;
    let waits = list.iter().filter_map(|entry| {
        let ListEntry::Item(item) = entry else { return None };
        let figure = |name: &str| match item.params.get(name) {
            Some(BareItem::Integer(figure)) => u64::try_from(i64::from(*figure)).ok(),
            _ => None,
        };
        if figure("r")? > 0 { None } else { figure("t").map(Duration::from_secs) }
    });
    waits.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(status: u16, headers: &[(&'static str, &'static str)]) -> Option<u64> {
        let headers = headers.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), HeaderValue::from_static(value))
        });
        let headers = headers.collect();
        wait_of(StatusCode::from_u16(status).unwrap(), &headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn reads_what_a_remote_says() {
        let now = ("date", "Tue, 15 Nov 1994 08:12:31 GMT");
        for (status, headers, expected) in [
            (200, &[][..], None),
            (200, &[("retry-after", "5")], None),
            (429, &[("retry-after", "5")], Some(5)),
            (503, &[("retry-after", "120")], Some(120)),
            (503, &[], None),
            (429, &[], Some(1)),
            (429, &[("retry-after", "soon")], Some(1)),
            (429, &[("retry-after", "-5")], Some(1)),
            (429, &[("retry-after", "0")], Some(1)),
            (503, &[("retry-after", "0")], None),
            (429, &[("retry-after", "99999999999999999999999")], Some(u64::MAX)),
            (429, &[("retry-after", "Tue, 15 Nov 1994 08:13:01 GMT"), now], Some(30)),
            (429, &[("retry-after", "Tue, 15 Nov 1994 08:12:01 GMT"), now], Some(1)),
            (503, &[("retry-after", "Tue, 15 Nov 1994 08:12:01 GMT"), now], None),
            (200, &[("ratelimit", "\"a\";r=1;t=9")], None),
            (200, &[("ratelimit", "\"a\";r=0;t=9")], Some(9)),
            (200, &[("ratelimit", "\"a\";r=0;t=9, \"b\";r=5;t=99, \"c\";r=0;t=7")], Some(9)),
            (200, &[("ratelimit", "\"a\";r=0")], None),
            (200, &[("ratelimit", "limit=10, remaining=0, reset=9")], None),
            (200, &[("ratelimit", "\"a\";r=0;t=-9")], None),
            (200, &[("ratelimit", "\"a\";r=0;t")], None),
            (429, &[("ratelimit", "\"a\";r=0;t=9"), ("retry-after", "5")], Some(9)),
        ] {
            assert_eq!(wait(status, headers), expected, "{status} {headers:?}");
        }
    }
}
