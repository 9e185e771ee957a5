//! The least that limits a service: a hit in memory, and two fields. It shows what is left to gain.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use axum::extract::ConnectInfo;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::Service;
use traffik::{InMemory, Throttle};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// It knows one identity, no denial, no rule and no mode.
pub(crate) struct Least<S> {
    inner: S,
    throttle: Throttle,
    policy: HeaderValue,
}

impl<S> Least<S> {
    pub(crate) fn new(inner: S) -> Self {
        let throttle = Throttle::builder("api").rate("4000000/s").backend(InMemory::new());
        let policy = HeaderValue::from_static("\"api/s\";q=4000000;w=1");
        Self { inner, throttle: throttle.build().unwrap(), policy }
    }
}

impl<S, A, B> Service<Request<A>> for Least<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<OwnBody<B>>;
    type Error = S::Error;
    type Future = LeastFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().unwrap().0.ip();
        let hit = pin!(self.throttle.hit(peer));
        let Poll::Ready(Ok(decision)) = hit.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("in memory a hit is decided at once");
        };
        assert!(decision.is_allowed());
        LeastFuture {
            future: self.inner.call(request),
            policy: self.policy.clone(),
            remaining: decision.remaining(),
            seconds: decision.reset_after().as_secs() + 1,
        }
    }
}

pin_project! {
    pub(crate) struct LeastFuture<F> {
        #[pin]
        future: F,
        policy: HeaderValue,
        remaining: u32,
        seconds: u64,
    }
}

impl<F, B, E> Future for LeastFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<OwnBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.future.poll(cx))?.map(|body| OwnBody { body });
        let mut text = [0; 64];
        let mut len = 0;
        let mut push = |part: &[u8]| {
            text[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        };
        push(b"\"api/s\";r=");
        push(itoa::Buffer::new().format(*this.remaining).as_bytes());
        push(b";t=");
        push(itoa::Buffer::new().format(*this.seconds).as_bytes());
        let fields = response.headers_mut();
        fields.append(POLICY, this.policy.clone());
        fields.append(LEFT, HeaderValue::from_bytes(&text[..len]).unwrap());
        Poll::Ready(Ok(response))
    }
}

pin_project! {
    /// A type of its own, as of every layer whose denials have a body, whatever the service's is.
    pub(crate) struct OwnBody<B> {
        #[pin]
        body: B,
    }
}

impl<B: Body> Body for OwnBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
