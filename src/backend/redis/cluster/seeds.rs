//! [`Seeds`]: the nodes that the user named, and the settings for connections to all nodes.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo};

use super::super::direct::{DirectServer, address, elsewhere, info};
use super::super::route::NodeAddress;
use crate::error::BuildError;

/// The nodes that the user named. Their credentials and TLS are those of the nodes that they name.
pub(in crate::backend::redis) struct Seeds(Vec<(NodeAddress, ConnectionInfo)>);

impl Seeds {
    pub(in crate::backend::redis) fn new(urls: &[String]) -> Result<Self, BuildError> {
        if urls.is_empty() {
            return Err(BuildError::setting("cluster", "names no node; name at least one"));
        }
        let seed = |url: &String| {
            let info = info(url)?;
            let node = address(&info).ok_or_else(|| {
                BuildError::setting("cluster", "names a socket; name nodes by host and port")
            })?;
            if info.redis_settings().db() != 0 {
                return Err(BuildError::setting(
                    "cluster",
                    "names a database; a cluster has only database 0, so leave it out",
                ));
            }
            Ok((node, info))
        };
        urls.iter().map(seed).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeAddress> {
        self.0.iter().map(|(node, _)| node)
    }

    pub(in crate::backend::redis) fn ports(&self) -> Vec<ConnectionAddr> {
        self.0.iter().map(|(_, info)| info.addr().clone()).collect()
    }

    /// Returns a node with the settings of its own URL, or else of that of the first seed.
    pub(super) fn server(&self, node: &NodeAddress) -> DirectServer {
        let own = self.0.iter().find(|(seed, _)| seed == node).map(|(_, info)| info.clone());
        let info = own.unwrap_or_else(|| elsewhere(&self.0[0].1, node));
        DirectServer::new(info).expect("the settings were accepted when the backend was built")
    }
}

impl fmt::Debug for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(|(_, info)| info.addr().to_string()).collect();
        write!(f, "cluster {}", names.join(","))
    }
}
