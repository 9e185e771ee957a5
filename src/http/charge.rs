//! [`Charge`]: which responses cost their request its units.

use std::fmt;
use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::response;

use crate::throttle::{Permit, PermitDrop};

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Which responses cost their request its units.
///
/// The units are taken before the request is served, so that of many at once none goes free, and are given back
/// after a response that is not to be charged. So a client with one failure left can have one attempt under way.
///
/// They are given back when the whole response has been handed over. While that is unknown they stay used, and for
/// good if the client goes away before, or the body fails: whoever guesses passwords would hang up before the answer
/// ends. Say [`refund_unknown`](Self::refund_unknown) where that does no harm. A response without a body is settled by
/// its head, such as that to `HEAD`.
///
/// What a client is told of its limit is as of before its units come back.
///
/// ```
/// use traffik::http::{Charge, PeerAddr, Rule};
/// # use traffik::{InMemory, Throttle};
/// # let logins = Throttle::builder("logins").rate("5/min").backend(InMemory::new()).build()?;
///
/// let failed_logins = Rule::new(logins, PeerAddr::new()).charge(Charge::failures());
/// # drop(failed_logins);
/// # Ok::<(), traffik::BuildError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Charge {
    on: On,
    refunds_unknown: bool,
}

#[derive(Clone, Default)]
enum On {
    #[default]
    All,
    Failures,
    Successes,
    When(Arc<dyn Fn(&response::Parts) -> bool + Send + Sync>),
}

impl Charge {
    /// Charges every request, whatever comes of it. The default.
    pub fn all() -> Self {
        Self::default()
    }

    /// Charges requests that fail: answered with a status of 400 or above, or a gRPC status other than `OK`.
    ///
    /// A form that answers a wrong password by a redirect, or by 200 and a message, does not fail by this: see
    /// [`when`](Self::when). A denial by a layer inside of this one fails too; put both rules into one layer, or this one
    /// inside. A gRPC-Web response is charged, for its status is in its body; put the layer inside of the one that
    /// translates it.
    pub fn failures() -> Self {
        Self { on: On::Failures, ..Self::default() }
    }

    /// Charges requests that do not fail: see [`failures`](Self::failures).
    pub fn successes() -> Self {
        Self { on: On::Successes, ..Self::default() }
    }

    /// Charges requests whose response is such, by its head.
    ///
    /// ```
    /// use http::StatusCode;
    /// use traffik::http::Charge;
    ///
    /// let misses = Charge::when(|response| response.status == StatusCode::NOT_FOUND);
    /// # drop(misses);
    /// ```
    pub fn when(is_charged: impl Fn(&response::Parts) -> bool + Send + Sync + 'static) -> Self {
        Self { on: On::When(Arc::new(is_charged)), ..Self::default() }
    }

    /// Gives the units back too when nobody knows what came of a request: the client goes away, the service or the
    /// body fails.
    ///
    /// A client that goes away in time is then never charged.
    pub const fn refund_unknown(mut self) -> Self {
        self.refunds_unknown = true;
        self
    }

    /// Returns whether the outcome matters at all.
    pub(super) const fn is_of_outcome(&self) -> bool {
        !matches!(self.on, On::All)
    }

    /// Prepares what was taken for an outcome that stays unknown.
    pub(super) const fn on_unknown(&self, permit: Permit) -> Permit {
        permit.on_drop(if self.refunds_unknown { PermitDrop::Refund } else { PermitDrop::Keep })
    }

    /// Returns what the head says of it.
    pub(super) fn by_head(&self, head: &response::Parts) -> ChargeVerdict {
        let has_failed = head.status.as_u16() >= 400 || has_grpc_failure(&head.headers);
        match &self.on {
            On::All => ChargeVerdict::Charged,
            // Its status is in its body, which is not read.
            On::Failures | On::Successes if !has_failed && is_grpc_web(&head.headers) => {
                ChargeVerdict::Charged
            }
            On::Failures if has_failed => ChargeVerdict::Charged,
            On::Failures => ChargeVerdict::ChargedIfTrailersFail,
            On::Successes if has_failed => ChargeVerdict::Refunded,
            On::Successes => ChargeVerdict::RefundedIfTrailersFail,
            On::When(is_charged) if is_charged(head) => ChargeVerdict::Charged,
            On::When(_) => ChargeVerdict::Refunded,
        }
    }
}

/// What the head of a response says of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChargeVerdict {
    Charged,
    Refunded,
    ChargedIfTrailersFail,
    RefundedIfTrailersFail,
}

impl ChargeVerdict {
    /// Returns whether it is charged, once the whole response is there.
    pub(super) fn is_charged(self, trailers: Option<&HeaderMap>) -> bool {
        let has_failed = || trailers.is_some_and(has_grpc_failure);
        match self {
            Self::Charged => true,
            Self::Refunded => false,
            Self::ChargedIfTrailersFail => has_failed(),
            Self::RefundedIfTrailersFail => !has_failed(),
        }
    }
}

/// Returns whether a response is gRPC, whose status comes after its body.
pub(super) fn is_grpc(fields: &HeaderMap) -> bool {
    kind_of(fields).starts_with(b"application/grpc")
}

fn is_grpc_web(fields: &HeaderMap) -> bool {
    kind_of(fields).starts_with(b"application/grpc-web")
}

fn kind_of(fields: &HeaderMap) -> &[u8] {
    fields.get(CONTENT_TYPE).map_or(b"", HeaderValue::as_bytes)
}

fn has_grpc_failure(fields: &HeaderMap) -> bool {
    fields.get(&GRPC_STATUS).is_some_and(|status| status.as_bytes() != b"0")
}

/// What was taken for a request, until its response is known.
#[derive(Debug)]
pub(super) struct PendingCharge {
    pub(super) permit: Permit,
    pub(super) charge: Charge,
}

/// What was taken for a request whose response has begun. Dropped, it is unknown what came of it.
#[derive(Debug)]
pub(super) struct Settlement(Vec<(Permit, ChargeVerdict)>);

impl Settlement {
    /// Settles what the head decides; `None` if that is all.
    pub(super) fn of(pending: Vec<PendingCharge>, head: &response::Parts) -> Option<Self> {
        let mut left = Vec::new();
        for PendingCharge { permit, charge } in pending {
            match charge.by_head(head) {
                ChargeVerdict::Charged => permit.commit(),
                verdict => left.push((permit, verdict)),
            }
        }
        (!left.is_empty()).then_some(Self(left))
    }

    /// Settles all, when the response has ended with these trailers. In memory at once, on a server by a task.
    pub(super) fn settle(self, trailers: Option<&HeaderMap>) {
        for (permit, verdict) in self.0 {
            match verdict.is_charged(trailers) {
                true => permit.commit(),
                false => drop(permit.on_drop(PermitDrop::Refund)),
            }
        }
    }
}

impl fmt::Debug for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "All",
            Self::Failures => "Failures",
            Self::Successes => "Successes",
            Self::When(_) => "When",
        })
    }
}
