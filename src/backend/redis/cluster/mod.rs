//! [`Cluster`]: a connection to each node of a cluster, and the routing of commands.
//!
//! Each node has its own [`Supervised`], so a node that is silent or gone concerns only its own keys. Who
//! serves which slot is asked of all known nodes at once: at first, when a node redirects a command or
//! its connection is lost, again and again while a master is not connected, and from time to time. The
//! last answer is used until there is a newer one. Replicas are connected too, so that one which takes
//! its master's place is there at once.

mod seeds;
mod slot_table;
mod view;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::warn;

use self::slot_table::SlotTable;
use self::view::View;
use super::failure::Failure;
use super::gather::most_frequent;
use super::route::{NodeAddress, Route};
use super::session::Session;
use super::supervisor::Supervised;
use crate::background::{Home, Task};
use crate::error::{Effect, ErrorKind};
use crate::random;

pub(super) use self::seeds::Seeds;

/// The slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// How often the cluster is asked who serves which slot, when nothing points to a change.
const REFRESH_EVERY: Duration = Duration::from_secs(15);
/// Between two questions at least, whatever happens.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// ... and at most, while a master is not connected. So its keys heal this soon after a failover.
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

pub(super) struct Cluster {
    shared: Arc<Topology>,
    supervisor: Task,
}

struct Topology {
    seeds: Seeds,
    connect_timeout: Duration,
    table: RwLock<SlotTable>,
    status: watch::Sender<TopologyStatus>,
    /// Notified when the table may be out of date.
    is_stale: Arc<Notify>,
}

#[derive(Clone, Debug)]
enum TopologyStatus {
    /// The cluster was not asked yet, or is being asked for the first time.
    Unknown,
    Known,
    /// No node answered; the next attempt comes after a pause.
    Down(Failure),
    Closed,
}

impl Cluster {
    pub(super) fn new(seeds: Seeds, connect_timeout: Duration) -> Self {
        let shared = Topology {
            seeds,
            connect_timeout,
            table: RwLock::new(SlotTable::new()),
            status: watch::Sender::new(TopologyStatus::Unknown),
            is_stale: Arc::default(),
        };
        Self { shared: Arc::new(shared), supervisor: Task::new() }
    }

    /// Returns the connection that the route leads to, if there is one now.
    pub(super) fn up(&self, route: &Route) -> Option<Session> {
        let table = self.shared.table.read();
        match route {
            Route::Slot(slot) => table.owner(*slot)?.up(),
            Route::Node(node) | Route::Asking(node) => table.link(node)?.up(),
            Route::Any => table.links().find_map(|link| link.up()),
        }
    }

    /// Returns the connection that the route leads to; waits for an attempt under way, as
    /// [`Supervised::session`] does.
    pub(super) async fn session(&self, route: &Route) -> Result<Session, Failure> {
        self.known().await?;
        let link = self.shared.link(route);
        link.ok_or_else(|| Failure::new(ErrorKind::Closed, Effect::NotApplied))?.session().await
    }

    /// Returns the nodes that serve slots.
    pub(super) async fn masters(&self) -> Result<Vec<NodeAddress>, Failure> {
        self.known().await?;
        Ok(self.shared.table.read().masters().map(|(node, _)| node.clone()).collect())
    }

    /// A node said that another serves the slot.
    pub(super) fn moved(&self, slot: u16, node: &NodeAddress) {
        if self.shared.change(|table| table.note(slot, node, |node| self.shared.new_link(node))) {
            self.refresh_soon();
        }
    }

    /// Asks the cluster again soon.
    pub(super) fn refresh_soon(&self) {
        self.shared.is_stale.notify_one();
        self.supervise();
    }

    /// Waits until it is known who serves which slot.
    async fn known(&self) -> Result<(), Failure> {
        self.supervise();
        let mut status = self.shared.status.subscribe();
        let settled = status.wait_for(|status| !matches!(status, TopologyStatus::Unknown)).await;
        match settled.as_deref() {
            Ok(TopologyStatus::Known) => Ok(()),
            Ok(TopologyStatus::Down(failure)) => Err(failure.clone()),
            Ok(TopologyStatus::Closed | TopologyStatus::Unknown) | Err(_) => {
                Err(Failure::new(ErrorKind::Closed, Effect::NotApplied))
            }
        }
    }

    /// Starts the supervisor, also again if it was stopped or ended together with its runtime.
    fn supervise(&self) {
        self.supervisor.start_on(Home::Steady, || supervise(Arc::clone(&self.shared)));
    }

    /// Opens a cluster that was closed.
    pub(super) fn open(&self) {
        self.shared.status.send_if_modified(|status| {
            let closed = matches!(status, TopologyStatus::Closed);
            if closed {
                *status = TopologyStatus::Unknown;
            }
            closed
        });
    }

    /// Stops the background tasks. The connections stay; calls that need a task start it again.
    pub(super) fn stop_tasks(&self) {
        self.supervisor.stop();
        self.shared.table.read().links().for_each(|link| link.stop_tasks());
    }

    /// Closes all connections, without waiting.
    pub(super) fn close(&self) {
        self.supervisor.stop();
        let mut table = self.shared.table.write();
        self.shared.status.send_replace(TopologyStatus::Closed);
        table.links().for_each(|link| link.close());
        *table = SlotTable::new();
    }
}

impl Topology {
    fn new_link(&self, node: &NodeAddress) -> Arc<Supervised> {
        let source = self.seeds.server(node);
        Arc::new(Supervised::notifying(source, self.connect_timeout, Arc::clone(&self.is_stale)))
    }

    /// Returns where the route leads to. A slot that nobody serves leads to any node, whose words the
    /// caller then gets.
    fn link(&self, route: &Route) -> Option<Arc<Supervised>> {
        let any = |table: &SlotTable| {
            let connected = table.links().find(|link| link.up().is_some());
            connected.or_else(|| table.links().next()).cloned()
        };
        match route {
            Route::Slot(slot) => {
                let table = self.table.read();
                table.owner(*slot).cloned().or_else(|| any(&table))
            }
            Route::Node(node) | Route::Asking(node) => {
                let mut link = None;
                self.change(|table| link = Some(table.add(node, |node| self.new_link(node))));
                link
            }
            Route::Any => any(&self.table.read()),
        }
    }

    /// Changes the table, unless the cluster is closed. Returns `true` if it is not.
    fn change(&self, change: impl FnOnce(&mut SlotTable)) -> bool {
        let mut table = self.table.write();
        let is_open = !matches!(*self.status.borrow(), TopologyStatus::Closed);
        if is_open {
            change(&mut table);
        }
        is_open
    }

    /// Sets the status while it is not known who serves which slot.
    fn set_unless_known(&self, next: TopologyStatus) {
        self.status.send_if_modified(|status| {
            let is_waiting = matches!(status, TopologyStatus::Unknown | TopologyStatus::Down(_));
            if is_waiting {
                *status = next;
            }
            is_waiting
        });
    }

    /// Asks all known nodes who serves which slot; also those that the user named, if `with_seeds`.
    async fn refresh(&self, with_seeds: bool) -> Result<(), Failure> {
        let mut links = Vec::new();
        self.change(|table| {
            if with_seeds {
                for seed in self.seeds.nodes() {
                    table.add(seed, |node| self.new_link(node));
                }
            }
            links.extend(table.links().cloned());
        });
        let time = self.connect_timeout * 2;
        let question = View::question();
        let view = most_frequent(&links, &question, time, |session, reply| {
            View::read(session.address(), &reply)
        });
        let view = view.await?;
        self.change(|table| {
            table.replace(&view, |node| self.new_link(node));
            table.links().for_each(|link| link.start());
        });
        self.set_unless_known(TopologyStatus::Known);
        Ok(())
    }

    fn has_all_masters(&self) -> bool {
        self.table.read().masters().all(|(_, link)| link.up().is_some())
    }
}

/// Keeps the table up to date until the cluster is closed or dropped.
async fn supervise(shared: Arc<Topology>) {
    let mut was_answered = true;
    let mut with_seeds = true;
    let mut pause = SHORTEST_PAUSE;
    loop {
        shared.set_unless_known(TopologyStatus::Unknown);
        let refreshed = shared.refresh(with_seeds).await;
        if let Err(failure) = &refreshed {
            if was_answered {
                let error = failure.clone().into_error("refresh");
                warn!(cluster = ?shared.seeds, %error, "no node says who serves which slot");
            }
            shared.set_unless_known(TopologyStatus::Down(failure.clone()));
        }
        was_answered = refreshed.is_ok();
        // Nodes may come back under other addresses; the names that the user gave lead to them.
        with_seeds = !was_answered;
        let next = if was_answered && shared.has_all_masters() {
            pause = SHORTEST_PAUSE;
            REFRESH_EVERY - random::up_to(REFRESH_EVERY / 4)
        } else {
            pause = (pause * 2).min(LONGEST_PAUSE);
            pause / 2 + random::up_to(pause / 2)
        };
        let _ = timeout(next, shared.is_stale.notified()).await;
        sleep(SHORTEST_PAUSE / 2 + random::up_to(SHORTEST_PAUSE / 2)).await;
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shared.seeds, f)
    }
}
