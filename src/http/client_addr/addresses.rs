//! [`Addresses`]: what both identities do with an address, and what they say in the log.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::request::Parts;
use http::{HeaderName, StatusCode};
use tracing::{error, warn};

use super::prefix::Ipv6Prefix;
use crate::http::hints::Once;
use crate::http::identity::{Identified, Refusal};

/// What both identities do with an address.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    pub(super) prefix: Ipv6Prefix,
    pub(super) hints: Arc<Hints>,
}

/// What was said in the log.
#[derive(Debug, Default)]
pub(super) struct Hints {
    no_peer: Once,
    untrusted: Once,
    pub(super) all_trusted: Once,
    /// Requests of proxies without the header; `CAME` once one had it.
    came: AtomicU32,
}

impl Hints {
    const CAME: u32 = u32::MAX;
    /// How many requests may come without the header before that is said: health checks have none.
    const PATIENCE: u32 = 1000;

    pub(super) fn header_came(&self) {
        // Written once, for all cores read it.
        if self.came.load(Ordering::Relaxed) != Self::CAME {
            self.came.store(Self::CAME, Ordering::Relaxed);
        }
    }

    /// Counts a request of a proxy without the header. Returns `true` once, if no other had it before.
    pub(super) fn is_first_without_header(&self) -> bool {
        let without = self.came.load(Ordering::Relaxed);
        if without == Self::CAME {
            return false;
        }
        let is_enough = without + 1 == Self::PATIENCE;
        let next = if is_enough { Self::CAME } else { without + 1 };
        let won = self.came.compare_exchange(without, next, Ordering::Relaxed, Ordering::Relaxed);
        is_enough && won.is_ok()
    }
}

impl Addresses {
    pub(super) fn identified(&self, address: IpAddr) -> Identified<'static> {
        Identified::parts(self.prefix.key_of(address).parts())
    }

    #[cold]
    pub(super) fn without_peer(&self) -> Identified<'static> {
        if self.hints.no_peer.is_first() {
            error!(
                "the server does not say the peer's address, so every request is refused; serve an axum router \
                 by `into_make_service_with_connect_info::<SocketAddr>()` or `traffik::http::serve`, and give \
                 requests of others the extension `traffik::http::Peer`"
            );
        }
        let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR);
        Identified::refused(refusal.detail("the server does not know the address of its clients"))
    }

    #[inline]
    pub(super) fn hint_untrusted(&self, request: &Parts, peer: IpAddr, header: &HeaderName) {
        if self.hints.untrusted.was() || !request.headers.contains_key(header) {
            return;
        }
        if self.hints.untrusted.is_first() {
            warn!(
                %peer,
                %header,
                "the header came from a peer that is not a trusted proxy, and does not count; if a proxy of yours \
                 has this address, identify clients by `ClientAddr::behind`, with it in the list"
            );
        }
    }
}
