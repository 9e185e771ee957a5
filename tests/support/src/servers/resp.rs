//! The least of a Redis client, apart from the one that the crate uses.

use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a reply may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Nil,
    Status(String),
    Error(String),
    Int(i64),
    Bytes(Vec<u8>),
    Array(Vec<Value>),
}

impl Value {
    /// As text, an array as one line an element; nil is empty.
    pub fn text(&self) -> String {
        match self {
            Value::Nil => String::new(),
            Value::Status(text) | Value::Error(text) => text.clone(),
            Value::Int(number) => number.to_string(),
            Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Value::Array(values) => values.iter().map(Value::text).collect::<Vec<_>>().join("\n"),
        }
    }

    /// As a number.
    #[track_caller]
    pub fn int(&self) -> i64 {
        self.text().parse().unwrap_or_else(|_| panic!("not a number: {self:?}"))
    }

    /// The elements of an array.
    #[track_caller]
    pub fn array(&self) -> &[Value] {
        match self {
            Value::Array(values) => values,
            other => panic!("not an array: {other:?}"),
        }
    }

    pub fn is_nil(&self) -> bool {
        *self == Value::Nil
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Value::Error(_))
    }

    /// The value of `name:` in a reply of lines, as of `INFO`.
    pub fn field(&self, name: &str) -> Option<String> {
        let text = self.text();
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// How long a reply may take, instead of 10 seconds.
    pub fn limit(&self, limit: Duration) -> Result<()> {
        self.0.get_ref().set_read_timeout(Some(limit))
    }

    pub fn authenticate(&mut self, password: &str) -> Result<Value> {
        self.command(&[b"AUTH", password.as_bytes()])
    }

    /// Sends a command and reads its reply, which may be an error reply.
    pub fn command(&mut self, words: &[&[u8]]) -> Result<Value> {
        self.send(words)?;
        self.read()
    }

    /// Like `command`, of a text split at spaces.
    pub fn cmd(&mut self, text: &str) -> Result<Value> {
        let words: Vec<&[u8]> = text.split_whitespace().map(str::as_bytes).collect();
        self.command(&words)
    }

    fn send(&mut self, words: &[&[u8]]) -> Result<()> {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            out.extend(format!("${}\r\n", word.len()).bytes());
            out.extend(*word);
            out.extend(b"\r\n");
        }
        self.0.get_mut().write_all(&out)
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let Some(line) = line.strip_suffix("\r\n") else {
            return Err(Error::other(format!("the connection was closed after {line:?}")));
        };
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| unexpected(line))?;
        let number = || rest.parse::<i64>().map_err(|_| unexpected(line));
        Ok(match kind {
            "+" => Value::Status(rest.to_owned()),
            "-" => Value::Error(rest.to_owned()),
            ":" => Value::Int(number()?),
            "$" => match usize::try_from(number()?) {
                Ok(length) => self.bytes(length)?,
                Err(_) => Value::Nil,
            },
            "*" => match usize::try_from(number()?) {
                Ok(count) => Value::Array((0..count).map(|_| self.read()).collect::<Result<_>>()?),
                Err(_) => Value::Nil,
            },
            _ => return Err(unexpected(line)),
        })
    }

    fn bytes(&mut self, length: usize) -> Result<Value> {
        let mut bytes = vec![0; length + 2];
        self.0.read_exact(&mut bytes)?;
        bytes.truncate(length);
        Ok(Value::Bytes(bytes))
    }
}

fn unexpected(line: &str) -> Error {
    Error::other(format!("not a reply: {line:?}"))
}
