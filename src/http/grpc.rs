//! Denials of gRPC requests: a status with its details.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, QuotaViolation, StatusExt};

use super::denial::{Denied, DeniedReason};

/// Returns whether the client speaks gRPC: to another one the status of such an answer would be 200.
pub(super) fn is_grpc(request: &Parts) -> bool {
    if request.method != Method::POST || request.version != Version::HTTP_2 {
        return false;
    }
    let kind = request.headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Answers by a status: `RESOURCE_EXHAUSTED` with `RetryInfo` and `QuotaFailure`, or `UNAVAILABLE` where the error
/// policy denies.
pub(super) fn respond(denied: &Denied<'_>) -> Response<Bytes> {
    let mut details = ErrorDetails::new();
    if let Some(wait) = denied.wait() {
        details.set_retry_info(Some(wait));
    }
    let violated = denied.told().into_iter();
    let violations: Vec<_> =
        violated.map(|name| QuotaViolation::new(name, denied.detail())).collect();
    if !violations.is_empty() {
        details.set_quota_failure(violations);
    }
    Status::with_error_details(code_of(denied), denied.detail(), details).into_http()
}

fn code_of(denied: &Denied<'_>) -> Code {
    match denied.reason() {
        DeniedReason::Limited | DeniedReason::Never | DeniedReason::Blocked => {
            Code::ResourceExhausted
        }
        DeniedReason::Unavailable => Code::Unavailable,
        DeniedReason::Misconfigured => Code::Internal,
        DeniedReason::Unidentified => match denied.status() {
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            StatusCode::FORBIDDEN => Code::PermissionDenied,
            status if status.is_client_error() => Code::InvalidArgument,
            _ => Code::Internal,
        },
    }
}
