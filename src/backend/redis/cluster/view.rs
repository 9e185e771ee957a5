//! [`View`]: the slot owners as one node sees them.

use redis::{Cmd, Value};

use super::super::failure::Failure;
use super::super::route::NodeAddress;
use crate::error::{Effect, ErrorKind};

/// A node's answer to `CLUSTER SLOTS`.
#[derive(Clone, Debug)]
pub(super) struct View {
    ranges: Vec<Range>,
    pub(super) replicas: Vec<NodeAddress>,
}

/// Slots from the first to the last, and the master that serves them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: NodeAddress,
}

/// Two nodes agree if they name the same masters. Which replicas are well is news that travels slowly.
impl PartialEq for View {
    fn eq(&self, other: &Self) -> bool {
        self.ranges == other.ranges
    }
}

impl View {
    /// Returns the question. The user of the servers may need a right for it, so it is the same in all
    /// versions of the server.
    pub(super) fn question() -> Cmd {
        let mut question = redis::cmd("CLUSTER");
        question.arg("SLOTS");
        question
    }

    pub(super) fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Reads the answer of the node at that address.
    pub(super) fn read(asked: Option<&NodeAddress>, reply: &Value) -> Result<Self, Failure> {
        let failed = |message| {
            Failure::new(ErrorKind::Unavailable, Effect::NotApplied).with_message(message)
        };
        let Value::Array(rows) = reply else {
            return Err(failed("the reply to CLUSTER SLOTS is not a list"));
        };
        let mut view = Self { ranges: Vec::new(), replicas: Vec::new() };
        for row in rows {
            view.add(asked, row).ok_or_else(|| failed("a row of CLUSTER SLOTS cannot be read"))?;
        }
        if view.ranges.is_empty() {
            return Err(failed("a node of the cluster knows no slots"));
        }
        view.ranges.sort();
        Ok(view)
    }

    /// Adds a row: the first slot, the last, the master, the replicas.
    fn add(&mut self, asked: Option<&NodeAddress>, row: &Value) -> Option<()> {
        let Value::Array(row) = row else { return None };
        let [first, last, master, replicas @ ..] = &row[..] else { return None };
        let (first, last) = (slot(first)?, slot(last)?);
        if first > last {
            return None;
        }
        self.ranges.push(Range { first, last, master: node(asked, master)? });
        self.replicas.extend(replicas.iter().filter_map(|replica| node(asked, replica)));
        Some(())
    }
}

fn slot(value: &Value) -> Option<u16> {
    match value {
        Value::Int(slot) => u16::try_from(*slot).ok().filter(|slot| *slot < super::SLOTS),
        _ => None,
    }
}

/// Host, port, and what does not matter here. Without a host it is that of the node that was asked.
fn node(asked: Option<&NodeAddress>, value: &Value) -> Option<NodeAddress> {
    let Value::Array(fields) = value else { return None };
    let [host, Value::Int(port), ..] = &fields[..] else { return None };
    let host = match host {
        Value::BulkString(host) if host != b"?" => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) if host != "?" => host.clone(),
        _ => String::new(),
    };
    NodeAddress { host, port: u16::try_from(*port).ok()? }.named_by(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn row(first: i64, last: i64, nodes: &[(Value, i64)]) -> Value {
        let nodes = nodes.iter().map(|(host, port)| {
            Value::Array(vec![host.clone(), Value::Int(*port), bulk("id"), Value::Array(vec![])])
        });
        Value::Array([Value::Int(first), Value::Int(last)].into_iter().chain(nodes).collect())
    }

    fn at(port: u16) -> NodeAddress {
        NodeAddress { host: "h".into(), port }
    }

    #[test]
    fn a_view_has_masters_and_replicas() {
        let reply = Value::Array(vec![
            row(8192, 16383, &[(bulk("h"), 2), (bulk("h"), 3)]),
            row(0, 8191, &[(bulk("h"), 1)]),
        ]);
        let view = View::read(None, &reply).unwrap();
        let expected = [(0, 8191, at(1)), (8192, 16383, at(2))]
            .map(|(first, last, master)| Range { first, last, master });
        assert_eq!(view.ranges(), expected);
        assert_eq!(view.replicas, [at(3)]);
        let other_order = Value::Array(vec![
            row(0, 8191, &[(bulk("h"), 1), (bulk("h"), 4)]),
            row(8192, 16383, &[(bulk("h"), 2)]),
        ]);
        assert_eq!(View::read(None, &other_order).unwrap(), view, "the same masters");
    }

    #[test]
    fn a_node_without_a_host_is_on_the_host_that_was_asked() {
        for unknown in [Value::Nil, bulk(""), bulk("?")] {
            let reply = Value::Array(vec![row(0, 16383, &[(unknown, 7)])]);
            let view = View::read(Some(&at(1)), &reply).unwrap();
            assert_eq!(view.ranges()[0].master, at(7));
            assert!(View::read(None, &reply).is_err());
        }
    }

    #[test]
    fn a_reply_of_another_shape_is_refused() {
        for rows in [
            vec![],
            vec![Value::Nil],
            vec![row(0, 16384, &[(bulk("h"), 1)])],
            vec![row(-1, 3, &[(bulk("h"), 1)])],
            vec![row(4, 3, &[(bulk("h"), 1)])],
            vec![row(0, 3, &[(bulk("h"), 65536)])],
            vec![row(0, 3, &[])],
        ] {
            let reply = Value::Array(rows);
            assert!(View::read(None, &reply).is_err(), "{reply:?}");
        }
        assert!(View::read(None, &bulk("x")).is_err());
    }
}
