//! One line of an access log, in the Common or the Combined Log Format:
//!
//! ```text
//! host ident user [10/Oct/2000:13:55:36 -0700] "request" status bytes
//! host ident user [10/Oct/2000:13:55:36 -0700] "request" status bytes "referer" "user agent"
//! ```
//!
//! Fields after the user agent, which many servers add, are left alone.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use traffik::Timestamp;

use super::time;

/// The longest name that a host can have.
const MAX_HOST: usize = 255;

/// What a replay needs to know of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// The client's address in its shortest form, or its host name in lower case.
    pub(crate) client: String,
    pub(crate) at: Timestamp,
    /// As it was logged, escapes included; `None` in the Common Log Format and for `-`.
    pub(crate) agent: Option<&'a [u8]>,
}

/// Why a line cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Reads one line, without its line ending.
pub(crate) fn parse(line: &[u8]) -> Result<Entry<'_>, Malformed> {
    let mut rest = Rest(line);
    let client = rest.until(b" ").ok_or(Malformed("there is only one field"))?;
    let ident = rest.until(b" ").ok_or(Malformed("there are only two fields"))?;
    // A user's name may have spaces in it.
    let _user = rest.until(b" [").ok_or(Malformed("there is no time in brackets"))?;
    let at = rest.until(b"] ").ok_or(Malformed("the time has no closing bracket"))?;
    let _request =
        rest.quoted("the request is not in quotes", "the request has no closing quote")?;
    let status = rest.word().ok_or(Malformed("there is no status"))?;
    if status.len() != 3 || !is_number(status) {
        return Err(Malformed("the status is not three digits"));
    }
    let bytes = rest.word().ok_or(Malformed("there is no size"))?;
    if bytes != b"-" && !is_number(bytes) {
        return Err(Malformed("the size is not a number"));
    }
    let _referer = rest.optional("the referer has no closing quote")?;
    let agent = rest.optional("the user agent has no closing quote")?;
    // With a virtual host in front, each field is the one after it, and all still looks well.
    if address(ident).is_some() {
        return Err(Malformed("the client's address must be the first field"));
    }
    Ok(Entry {
        client: self::client(client)?,
        at: time::parse(at)?,
        agent: agent.filter(|agent| *agent != b"-"),
    })
}

/// One text for one client: an address has many forms, `::1` and `0:0::1`.
fn client(field: &[u8]) -> Result<String, Malformed> {
    if field == b"-" {
        return Err(Malformed("there is no client address"));
    }
    if let Some(address) = address(field) {
        return Ok(address.to_string());
    }
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:%".contains(byte);
    if field.is_empty() || field.len() > MAX_HOST || !field.iter().all(is_allowed) {
        return Err(Malformed("the client is neither an address nor a host name"));
    }
    Ok(String::from_utf8_lossy(field).to_ascii_lowercase())
}

/// An address, perhaps in brackets or with a port, which is another one at each connection.
fn address(field: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(field).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().map(|socket| socket.ip());
    // An IPv4 client of a socket that also serves IPv6 is the same client.
    bare.parse::<IpAddr>().or_else(|_| with_port()).ok().map(|address| address.to_canonical())
}

fn is_number(field: &[u8]) -> bool {
    !field.is_empty() && field.iter().all(u8::is_ascii_digit)
}

/// What is left of a line.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// What stands before `stop`, which is skipped.
    fn until(&mut self, stop: &[u8]) -> Option<&'a [u8]> {
        let at = self.0.windows(stop.len()).position(|window| window == stop)?;
        let field = &self.0[..at];
        self.0 = &self.0[at + stop.len()..];
        Some(field)
    }

    /// What stands before the next space or the end; `None` if that is nothing.
    fn word(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == b' ').unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        self.skip_space();
        (!word.is_empty()).then_some(word)
    }

    /// What stands in quotes. A backslash takes away the meaning of the byte after it.
    fn quoted(
        &mut self,
        no_quote: &'static str,
        no_end: &'static str,
    ) -> Result<&'a [u8], Malformed> {
        let Some((b'"', text)) = self.0.split_first() else { return Err(Malformed(no_quote)) };
        let mut escaped = false;
        let end = text.iter().position(|byte| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        });
        let (field, rest) = text.split_at(end.ok_or(Malformed(no_end))?);
        self.0 = &rest[1..];
        self.skip_space();
        Ok(field)
    }

    /// What stands in quotes, if there is a quote.
    fn optional(&mut self, no_end: &'static str) -> Result<Option<&'a [u8]>, Malformed> {
        match self.0.first() {
            Some(b'"') => self.quoted(no_end, no_end).map(Some),
            _ => Ok(None),
        }
    }

    fn skip_space(&mut self) {
        self.0 = self.0.strip_prefix(b" ").unwrap_or(self.0);
    }
}

#[cfg(test)]
mod tests;
