//! [`ResponseBody`]: the inner service's body, or that of a denial.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, TRAILER};
use http::response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::charge::{self, Settlement};

pin_project! {
    /// The body of a response: the inner service's, as it is, or that of a denial.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        content: Content<B>,
        settling: Option<Box<Settling>>,
    }
}

pin_project! {
    #[project = ContentProjected]
    #[derive(Debug)]
    enum Content<B> {
        Inner { #[pin] body: B },
        Denial { bytes: Bytes },
    }
}

/// What waits for the end of the body.
#[derive(Debug)]
struct Settling {
    settlement: Settlement,
    /// The bytes that are still to come, where that is known: then nobody polls for the end.
    left: Option<u64>,
}

impl<B> ResponseBody<B> {
    pub(super) const fn inner(body: B) -> Self {
        Self { content: Content::Inner { body }, settling: None }
    }

    pub(super) const fn denial(bytes: Bytes) -> Self {
        Self { content: Content::Denial { bytes }, settling: None }
    }
}

impl<B: Body> ResponseBody<B> {
    /// Settles when the body has ended.
    pub(super) fn settling(
        body: B,
        (head, is_http_1): (&response::Parts, bool),
        settlement: Option<Settlement>,
    ) -> Self {
        let Some(settlement) = settlement else { return Self::inner(body) };
        let left = length_of(&body, head, is_http_1);
        let has_ended = body.is_end_stream() || left == Some(0);
        let mut this = Self::inner(body);
        match has_ended {
            true => settlement.settle(None),
            false => this.settling = Some(Box::new(Settling { settlement, left })),
        }
        this
    }
}

impl<B: Body<Data: From<Bytes>>> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let mut body = match this.content.project() {
            ContentProjected::Inner { body } => body,
            ContentProjected::Denial { bytes } => {
                let all = std::mem::take(bytes);
                return Poll::Ready((!all.is_empty()).then(|| Ok(Frame::data(all.into()))));
            }
        };
        let frame = ready!(body.as_mut().poll_frame(cx));
        if let Some(mut settling) = this.settling.take() {
            let trailers = match &frame {
                // What came of it is unknown.
                Some(Err(_)) => return Poll::Ready(frame),
                Some(Ok(frame)) => frame.trailers_ref(),
                None => None,
            };
            if let Some(Ok(frame)) = &frame {
                settling.count(frame.data_ref().map_or(0, Buf::remaining));
            }
            let has_ended = frame.is_none() || trailers.is_some() || body.is_end_stream();
            match has_ended || settling.left == Some(0) {
                true => settling.settlement.settle(trailers),
                false => *this.settling = Some(settling),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Inner { body } => body.is_end_stream(),
            Content::Denial { bytes } => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Inner { body } => body.size_hint(),
            Content::Denial { bytes } => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

/// Returns how long the body is, if nothing comes after it: then a server may ask for no more. Over HTTP/1 that also
/// holds for a body that knows its length, which is announced then; over HTTP/2 trailers may follow.
fn length_of(body: &impl Body, head: &response::Parts, is_http_1: bool) -> Option<u64> {
    if head.headers.contains_key(TRAILER) || charge::is_grpc(&head.headers) {
        return None;
    }
    match head.headers.get(CONTENT_LENGTH) {
        Some(length) => length.to_str().ok()?.parse().ok(),
        None => body.size_hint().exact().filter(|_| is_http_1),
    }
}

impl Settling {
    fn count(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.left = self.left.map(|left| left.saturating_sub(bytes));
    }
}
