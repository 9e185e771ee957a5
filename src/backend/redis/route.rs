//! [`Route`]: the server that a command goes to.

/// Which server a command goes to. On a single server there is only one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Route {
    /// Any that answers.
    #[default]
    Any,
    /// The one that serves the slot.
    #[cfg(feature = "redis-cluster")]
    Slot(u16),
    /// That node of a cluster.
    Node(NodeAddress),
    /// That node, which is importing the key's slot and serves it only after `ASKING`.
    Asking(NodeAddress),
}

impl Route {
    /// Returns `true` if the command must follow an `ASKING`.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self, Self::Asking(_))
    }
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeAddress {
    /// Empty in a redirection to another port of the host that was asked.
    pub(super) host: String,
    pub(super) port: u16,
}

impl NodeAddress {
    /// Reads `host:port`, as in a redirection.
    pub(super) fn parse(address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }

    /// Returns the address with the host filled in, if it has none, by that of the server which named
    /// it. `None` if that is not known either.
    #[cfg(feature = "redis-cluster")]
    pub(super) fn named_by(mut self, server: Option<&Self>) -> Option<Self> {
        if self.host.is_empty() {
            self.host = server?.host.clone();
        }
        Some(self)
    }
}

#[cfg(all(test, feature = "redis-cluster"))]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_host_is_on_the_host_that_named_it() {
        let six = NodeAddress::parse("[::1]:6379").unwrap();
        assert_eq!((six.host.as_str(), six.port), ("::1", 6379));
        let unnamed = NodeAddress::parse(":7000").unwrap();
        assert_eq!(unnamed.clone().named_by(None), None);
        let named = unnamed.named_by(Some(&six)).unwrap();
        assert_eq!((named.host.as_str(), named.port), ("::1", 7000));
        assert_eq!(six.clone().named_by(None), Some(six));
        assert_eq!(NodeAddress::parse("host"), None);
        assert_eq!(NodeAddress::parse("host:x"), None);
    }
}
