//! What the tests of the layer share.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use traffik::http::Peer;
use traffik::{InMemory, ManualClock, Throttle, ThrottleBuilder};

pub(crate) type Answer = Response<Bytes>;

/// A backend in memory, and the clock that a test moves.
pub(crate) fn backend() -> (InMemory, ManualClock) {
    let clock = ManualClock::new();
    (InMemory::builder().clock(clock.clone()).build().unwrap(), clock)
}

pub(crate) fn throttle(name: &str, rate: &str, backend: &InMemory) -> Throttle {
    builder(name, rate, backend).build().unwrap()
}

pub(crate) fn builder(name: &str, rate: &str, backend: &InMemory) -> ThrottleBuilder {
    Throttle::builder(name).rate(rate).backend(backend.clone())
}

/// A request for a path from an address.
pub(crate) fn request(path: &str, peer: &str) -> Request<Full<Bytes>> {
    let mut request = Request::builder().uri(path).body(Full::default()).unwrap();
    let peer: IpAddr = peer.parse().unwrap();
    request.extensions_mut().insert(Peer(SocketAddr::new(peer, 4711)));
    request
}

pub(crate) fn with_header<B>(mut request: Request<B>, name: &str, value: &str) -> Request<B> {
    let name = HeaderName::try_from(name).unwrap();
    request.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    request
}

pub(crate) fn head(request: Request<Full<Bytes>>) -> Parts {
    request.into_parts().0
}

/// The response with its whole body.
pub(crate) async fn read<B>(response: Response<B>) -> Answer
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (head, body) = response.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

/// All values of a header, in order, as one text.
pub(crate) fn field(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<_> =
        headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);
