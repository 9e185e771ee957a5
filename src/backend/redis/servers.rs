//! [`Servers`]: one server, or a cluster of them.

use std::fmt;
use std::time::Duration;

use redis::ConnectionAddr;

#[cfg(feature = "redis-cluster")]
use super::cluster::{Cluster, Seeds};
use super::config_errors;
use super::connect::Connect;
use super::failure::{Failure, Remedy};
use super::route::Route;
use super::session::Session;
use super::slot_groups;
use super::source::Source;
use super::supervisor::Supervised;

/// Where the servers are, before anything is connected.
pub(super) enum ServerSpec {
    One(Box<Source>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Seeds),
}

/// One server, or a cluster.
pub(super) enum Servers {
    One(Supervised),
    #[cfg(feature = "redis-cluster")]
    Cluster(Cluster),
}

impl ServerSpec {
    /// Returns the ports that the user named.
    pub(super) fn ports(&self) -> Vec<ConnectionAddr> {
        match self {
            Self::One(source) => source.ports(),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(seeds) => seeds.ports(),
        }
    }
}

impl Servers {
    pub(super) fn new(target: ServerSpec, connect_timeout: Duration) -> Self {
        match target {
            ServerSpec::One(source) => Self::One(Supervised::new(*source, connect_timeout)),
            #[cfg(feature = "redis-cluster")]
            ServerSpec::Cluster(seeds) => Self::Cluster(Cluster::new(seeds, connect_timeout)),
        }
    }

    /// Returns the way to the server that has the key.
    pub(super) fn route(&self, key: &[u8]) -> Route {
        match self {
            Self::One(_) => {
                let _ = key;
                Route::Any
            }
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(_) => Route::Slot(slot_groups::slot_of(key)),
        }
    }

    /// Returns the keys' indices in groups that may go together in one command.
    pub(super) fn group(&self, keys: &[Vec<u8>]) -> Vec<Vec<usize>> {
        match self {
            Self::One(_) => slot_groups::together(keys),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(_) => slot_groups::by_slot(keys),
        }
    }

    /// Returns the connection that the route leads to, if there is one now.
    pub(super) fn up(&self, route: &Route) -> Option<Session> {
        match self {
            Self::One(link) => {
                let _ = route;
                link.up()
            }
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.up(route),
        }
    }

    /// Returns the connection that the route leads to; waits for an attempt under way. The caller bounds
    /// the time.
    pub(super) async fn session(&self, route: &Route) -> Result<Session, Failure> {
        match self {
            Self::One(link) => {
                let _ = route;
                link.session().await
            }
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.session(route).await,
        }
    }

    /// Returns a route to each server that keys are written to. The caller bounds the time.
    pub(super) async fn masters(&self) -> Result<Vec<Route>, Failure> {
        match self {
            Self::One(_) => Ok(vec![Route::Any]),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => {
                Ok(cluster.masters().await?.into_iter().map(Route::Node).collect())
            }
        }
    }

    /// Notes what a failed call says about the servers. Returns the failure with what may be tried.
    pub(super) fn judge(&self, session: &Session, failure: Failure) -> Failure {
        match self {
            Self::One(_) => judge_one(session, failure),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => judge_cluster(cluster, session, failure),
        }
    }

    pub(super) fn open(&self) {
        match self {
            Self::One(link) => link.open(),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.open(),
        }
    }

    pub(super) fn stop_tasks(&self) {
        match self {
            Self::One(link) => link.stop_tasks(),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.stop_tasks(),
        }
    }

    pub(super) fn close(&self) {
        match self {
            Self::One(link) => link.close(),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.close(),
        }
    }
}

fn judge_one(session: &Session, failure: Failure) -> Failure {
    match failure.remedy {
        Remedy::Reconnected => session.lose(),
        Remedy::Redirected(_) => return failure.misconfigured(config_errors::NO_CLUSTER_CLIENT),
        Remedy::None | Remedy::Later | Remedy::WithSource => {}
    }
    failure
}

#[cfg(feature = "redis-cluster")]
fn judge_cluster(cluster: &Cluster, session: &Session, mut failure: Failure) -> Failure {
    match &mut failure.remedy {
        Remedy::Redirected(redirection) => {
            let Some(node) = redirection.node.clone().named_by(session.address()) else {
                failure.remedy = Remedy::Later;
                return failure;
            };
            if !redirection.is_asking {
                cluster.moved(redirection.slot, &node);
            }
            redirection.node = node;
        }
        // A server that is no master any more, or the cluster is in a change.
        Remedy::Reconnected | Remedy::Later => {
            failure.remedy = Remedy::Later;
            cluster.refresh_soon();
        }
        Remedy::None | Remedy::WithSource => {}
    }
    failure
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(link) => link.fmt(f),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.fmt(f),
        }
    }
}
