//! What comes of an answer: the request is served, or denied, and the response says so.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use http_body::Body;

use super::ask::{DeniedBy, RequestAnswer};
use super::body::ResponseBody;
use super::charge::{PendingCharge, Settlement};
use super::decisions::{Decisions, DecisionsIn, RequestDecision};
use super::denial::{self, Denied, DeniedReason};
use super::fields::{self, LimitTexts};
use super::identity::Refusal;
use super::mode::Mode;
use super::settings::Settings;
use crate::decision::Outcome;
use crate::on_error::OnError;

/// A request that is served: what its response will say, and what waits for it.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// Of this layer.
    own: Decisions,
    /// Of those around it and of this one, if there are any around it.
    all: Option<Decisions>,
    pending: Vec<PendingCharge>,
    has_fields: bool,
    /// To a request whose response has no body.
    is_head: bool,
    /// Its server may drop the body of the response after the last byte that was announced.
    is_http_1: bool,
}

impl Settings {
    /// Admits a request, or answers it.
    pub(super) fn conclude(
        &self,
        answer: RequestAnswer,
        request: &mut Parts,
    ) -> Result<Admitted, Box<Response<Bytes>>> {
        let is_shadow = self.mode.get() == Mode::Shadow;
        if let Some(denied_by) = &answer.denied {
            let denied = self.denied(&answer.decisions, denied_by, request, !is_shadow);
            self.tell(&denied, denied_by);
            if !is_shadow {
                return Err(Box::new(self.respond(&denied, &answer.decisions)));
            }
        }
        let RequestAnswer { decisions: own, pending, .. } = answer;
        let all = request.extensions.get::<Decisions>().map(|outer| {
            self.hint_twice(outer, &own);
            own.after(outer)
        });
        if self.decisions_in != DecisionsIn::Neither {
            request.extensions.insert(all.as_ref().unwrap_or(&own).clone());
        }
        let has_fields = !is_shadow && self.fields_on.includes(false);
        let is_head = request.method == Method::HEAD;
        let is_http_1 = request.version <= Version::HTTP_11;
        Ok(Admitted { own, all, pending, has_fields, is_head, is_http_1 })
    }

    fn denied<'d>(
        &self,
        decisions: &'d Decisions,
        denied_by: &'d DeniedBy,
        request: &'d Parts,
        is_enforced: bool,
    ) -> Denied<'d> {
        let decisions = decisions.as_slice();
        let (reason, refusal, denied_by) = match denied_by {
            DeniedBy::Decision(place) => {
                let denial = decisions.get(*place).and_then(|one| one.decision.denial());
                (DeniedReason::of(denial), None, Some(*place))
            }
            DeniedBy::Refusal(refusal) => (DeniedReason::Unidentified, Some(&**refusal), None),
            DeniedBy::Error(error) => (DeniedReason::of_error(error), None, None),
        };
        let outcome = denied_by.and_then(|place| decisions.get(place));
        let outcome = outcome.map_or(Outcome::Never, |one| one.decision.outcome());
        let outcome = match (reason, outcome) {
            // As the default error policy says it.
            (DeniedReason::Unavailable, Outcome::Never) => {
                Outcome::Denied { retry_after: OnError::DEFAULT_RETRY_AFTER }
            }
            (_, outcome) => outcome,
        };
        let wait = denial::wait_of(outcome, self.jitter);
        Denied { request, reason, decisions, denied_by, refusal, wait, is_enforced }
    }

    /// Tells the log and the hook.
    fn tell(&self, denied: &Denied<'_>, denied_by: &DeniedBy) {
        match denied_by {
            DeniedBy::Error(error) => {
                if let Some(suppressed) = self.said.errors.pass() {
                    tracing::error!(%error, suppressed, "a throttle failed for a request");
                }
            }
            _ => tracing::debug!(
                reason = ?denied.reason(),
                status = denied.status().as_u16(),
                is_enforced = denied.is_enforced(),
                "a request was denied"
            ),
        }
        if let Some(on_denied) = &self.on_denied {
            on_denied(denied);
        }
    }

    fn respond(&self, denied: &Denied<'_>, decisions: &Decisions) -> Response<Bytes> {
        let mut response = self.response_to(denied);
        if let Some(challenge) = denied.refusal.and_then(Refusal::wanted) {
            response.headers_mut().entry(WWW_AUTHENTICATE).or_insert_with(|| challenge.clone());
        }
        let told = denied.retry_after();
        fields::set_retry_after(response.headers_mut(), told);
        if self.fields_on.includes(true) {
            let texts_of = |one| self.texts_of(one);
            let decisions = denied.decisions;
            let told = denied.denied_by.zip(told);
            self.fields.append(response.headers_mut(), decisions, texts_of, told);
        }
        if self.decisions_in == DecisionsIn::Both {
            let outer = denied.request.extensions.get::<Decisions>();
            let all = outer.map_or_else(|| decisions.clone(), |outer| decisions.after(outer));
            response.extensions_mut().insert(all);
        }
        if denied.request.method == Method::HEAD {
            // It has the head of the answer to `GET`, and no body (RFC 9110, section 9.3.2), which not every server
            // takes away.
            let length = response.body().len();
            response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| length.into());
            *response.body_mut() = Bytes::new();
        }
        response
    }

    fn response_to(&self, denied: &Denied<'_>) -> Response<Bytes> {
        if let Some(responder) = &self.responder {
            return responder.respond(denied);
        }
        #[cfg(feature = "tonic")]
        if super::grpc::is_grpc(denied.request) {
            return super::grpc::respond(denied);
        }
        denied.problem()
    }

    /// Returns what the fields say of the limits that were asked.
    fn texts_of<'s>(&'s self, one: &RequestDecision) -> Option<Cow<'s, LimitTexts>> {
        match one.decision.brought() {
            _ if !one.is_told => None,
            None => Some(Cow::Borrowed(&self.rules.get(one.rule)?.texts)),
            Some(brought) => Some(Cow::Owned(LimitTexts::of(brought))),
        }
    }

    /// Says that nobody was asked about a request, so that a handler can tell.
    pub(super) fn pass_by(&self, request: &mut Parts) {
        if self.decisions_in != DecisionsIn::Neither {
            request.extensions.get_or_insert_default::<Decisions>();
        }
    }

    #[cold]
    fn hint_twice(&self, outer: &Decisions, own: &Decisions) {
        let twice = own.iter().find(|own| outer.iter().any(|outer| own.is_same_count(outer)));
        if let Some(twice) = twice {
            self.said.twice(twice.throttle.name());
        }
    }

    /// Completes the response to a request that was served.
    pub(super) fn complete<B: Body>(
        &self,
        admitted: Admitted,
        response: Response<B>,
    ) -> Response<ResponseBody<B>> {
        let Admitted { own, all, pending, has_fields, is_head, is_http_1 } = admitted;
        let mut response = match pending.is_empty() {
            true => response.map(ResponseBody::inner),
            false => {
                let (head, body) = response.into_parts();
                let settlement = Settlement::of(pending, &head);
                let body = match settlement {
                    // Nobody asks such a body for its end.
                    Some(settlement) if is_head || has_no_body(head.status) => {
                        settlement.settle(None);
                        ResponseBody::inner(body)
                    }
                    settlement => ResponseBody::settling(body, (&head, is_http_1), settlement),
                };
                Response::from_parts(head, body)
            }
        };
        if has_fields {
            let texts_of = |one| self.texts_of(one);
            self.fields.append(response.headers_mut(), own.as_slice(), texts_of, None);
        }
        // An inner layer has put those of all.
        if self.decisions_in == DecisionsIn::Both
            && response.extensions().get::<Decisions>().is_none()
        {
            response.extensions_mut().insert(all.unwrap_or(own));
        }
        response
    }
}

/// Returns whether a response of that status has no body (RFC 9110, section 6.4.1).
fn has_no_body(status: StatusCode) -> bool {
    status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}
