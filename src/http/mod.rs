//! A layer for HTTP services: axum, hyper, tonic and whatever else takes a tower layer. Feature `http`.
//!
//! [`ThrottleLayer`] serves a request only if its throttles let it pass, and answers 429 else, with the fields that
//! tell a client when to come back.
//!
//! ```
//! use axum::Router;
//! use axum::routing::get;
//! use traffik::http::{PeerAddr, ThrottleLayer};
//! use traffik::{InMemory, Throttle};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let throttle = Throttle::builder("api").rate("10/s burst 20").backend(InMemory::new()).build()?;
//! let app: Router = Router::new()
//!     .route("/", get(async || "hello"))
//!     .layer(ThrottleLayer::new(throttle, PeerAddr::new()));
//! # drop(app);
//! # Ok(())
//! # }
//! ```
//!
//! # Whose request it is
//!
//! An [`Identity`] makes a key of a request. Where clients reach the service directly, take [`PeerAddr`]; behind a
//! proxy [`ClientAddr`], with the addresses of your proxies: a header of anybody else does not count. An API key, a
//! session or a user is a [`header`](header()), a [`cookie`] or an [`extension`], and what holds without one is said by
//! [`Lookup`]. A closure makes any other key.
//!
//! # Several limits
//!
//! A [`Rule`] is a throttle with its identity; which requests it concerns, what they cost, and which responses are
//! [charged](Charge). All rules of a layer count together or not at all: what one denies costs nothing of the others.
//!
//! # What a client is told
//!
//! [`Fields`] tell of each limit, and `Retry-After` when to come back. A denial is a problem (RFC 9457), or what
//! [`respond_with`](ThrottleLayer::respond_with) makes. With the feature `tonic` a gRPC request gets its status.
//!
//! # In a handler
//!
//! [`Decisions`] are in the extensions of the request and of the response; with the feature `axum` they are an
//! extractor:
//!
//! ```
//! use traffik::http::Decisions;
//!
//! async fn quota(decisions: Decisions) -> String {
//!     match decisions.of_throttle("api") {
//!         Some(decision) => format!("{} of {} left", decision.remaining(), decision.burst()),
//!         None => "not limited".to_owned(),
//!     }
//! }
//! # drop(quota);
//! ```
//!
//! # Testing
//!
//! Call the service without a socket, by tower's `oneshot`, with a backend in memory whose [`ManualClock`] the test
//! moves. A request has a client's address by the extension [`Peer`]; the example `axum` shows it.
//!
//! [`ManualClock`]: crate::ManualClock
//!
//! # Where to put the layer
//!
//! In axum, `Router::layer` limits the routes that were added before it, and all that no route matches;
//! `route_layer` limits those routes alone. Add a health check after the layer, or [`skip`](ThrottleLayer::skip) it.
//! Layers that are added later run before it, so that is where to check an API key. In a `ServiceBuilder` layers run
//! in order.
//!
//! Browsers show a page of another origin none of these fields unless `Access-Control-Expose-Headers` names them. A
//! layer around the one for CORS limits preflight requests too, and its denials have no CORS fields: put it inside.
//!
//! # Ending
//!
//! With the feature `axum`, `serve` runs a router, and closes the lifespans that it is given when the process is told to
//! end, if it is given `shutdown_signal` too. Another server is told to end by its own means; close the
//! [lifespan](crate::lifespan) after it.
//!
//! # Trying
//!
//! To try limits on real traffic, start in [`Mode::Shadow`]: a layer, by its [`ModeSwitch`], or one throttle in it.

mod ask;
mod body;
mod charge;
mod client_addr;
mod conclude;
mod decisions;
mod denial;
mod field_text;
mod fields;
mod future;
mod glob;
#[cfg(feature = "tonic")]
mod grpc;
mod hints;
mod identity;
mod layer;
mod limit_texts;
mod matching;
mod mode;
#[cfg(feature = "http-client")]
mod outgoing;
mod path_readings;
mod percent;
mod rule;
#[cfg(feature = "axum")]
mod serve;
mod service;
mod settings;
#[cfg(feature = "axum")]
mod shutdown_signal;
mod throttled_body;

pub use body::ResponseBody;
pub use charge::Charge;
pub use client_addr::{
    ClientAddr, ClientKey, ForwardedHeader, Peer, PeerAddr, TrustedProxies, TrustedProxiesError,
};
pub use decisions::{Decisions, DecisionsIn, RequestDecision};
pub use denial::{Denied, DeniedReason};
pub use fields::{Fields, FieldsOn};
pub use future::ResponseFuture;
pub use identity::{
    Cookie, DigestKey, DigestKeyError, Digested, Everyone, ExtensionKey, Header, Identified,
    Identity, Lookup, LookupFn, MatchedRoute, Or, OrExempt, OrRefuse, OrShare, Refusal,
    RoutePattern, cookie, extension, header, lookup, matched_route,
};
pub use layer::ThrottleLayer;
pub use matching::{Matcher, PathMatcher, RouteMatcher, path, route};
pub use mode::ModeSwitch;
#[cfg(feature = "http-client")]
#[cfg_attr(docsrs, doc(cfg(feature = "http-client")))]
pub use outgoing::{AcquireError, AcquireLayer, AcquireService, RemoteHost};
pub use rule::Rule;
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use serve::{NoDecisions, Serve, ServeError, serve};
pub use service::ThrottleService;
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use shutdown_signal::shutdown_signal;
pub use throttled_body::{ThrottledBody, ThrottledBodyError};

#[doc(inline)]
pub use crate::throttle::Mode;
