//! What comes of an answer: the request is served, or denied, and the response says so.

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
use super::fields::{self, FieldValues, Told, ToldWait};
use super::identity::Refusal;
use super::rule::Rule;
use super::settings::Settings;
use crate::decision::{Decision, Outcome};
use crate::on_error::OnError;
use crate::throttle::Mode;

/// A request that is served: what its response will say, and what waits for it.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    fields: FieldValues,
    /// For the extensions of the response: of this layer, and of those around it.
    decisions: Option<Decisions>,
    pending: Option<Box<PendingCharges>>,
}

/// What was taken for a request, where its response decides whether it is charged.
#[derive(Debug)]
struct PendingCharges {
    charges: Vec<PendingCharge>,
    /// To a request whose response has no body.
    is_head: bool,
    /// Its server may drop the body of the response after the last byte that was announced.
    is_http_1: bool,
}

impl Settings {
    /// Admits a request that one rule concerns, and that is charged whatever comes of it.
    #[inline]
    pub(super) fn admit(
        &self,
        (index, rule): (usize, &Rule),
        decision: &mut Option<Decision>,
        request: &mut Parts,
    ) -> Admitted {
        debug_assert!(decision.as_ref().is_some_and(Decision::is_allowed), "it admits");
        let told = decision.as_ref().filter(|_| self.tells_admitted());
        let told = told.and_then(|decision| Told::of(decision, rule));
        let fields = told.map_or_else(FieldValues::default, |told| self.fields.of_one(&told));
        let mut decisions = None;
        if self.wants_decisions(request)
            && let Some(decision) = decision.take()
        {
            let own = Decisions::of([RequestDecision::of(index, rule, decision)]);
            decisions = self.put_into(request, own);
        }
        Admitted { fields, decisions, pending: None }
    }

    /// Admits a request, or answers it.
    pub(super) fn conclude(
        &self,
        answer: RequestAnswer,
        request: &mut Parts,
    ) -> Result<Admitted, Box<Response<Bytes>>> {
        let RequestAnswer { decisions: own, denied, is_shadow, pending } = answer;
        let mut admitted = Admitted::default();
        match &denied {
            None if self.tells_admitted() => admitted.fields = self.fields_of(&own, None),
            None => {}
            Some(denied_by) => {
                let denied = self.denied(&own, denied_by, request, !is_shadow);
                self.tell(&denied, denied_by);
                if !is_shadow {
                    return Err(Box::new(self.respond(&denied, &own)));
                }
                if self.tells_admitted() {
                    admitted.fields = self.fields_of(&own, None);
                }
            }
        }
        if !pending.is_empty() {
            let is_head = request.method == Method::HEAD;
            let is_http_1 = request.version <= Version::HTTP_11;
            admitted.pending =
                Some(Box::new(PendingCharges { charges: pending, is_head, is_http_1 }));
        }
        if self.wants_decisions(request) {
            admitted.decisions = self.put_into(request, own);
        }
        Ok(admitted)
    }

    /// Returns whether the response of a request that is admitted has fields.
    fn tells_admitted(&self) -> bool {
        self.mode.get() != Mode::Shadow && self.fields_on.includes(false)
    }

    /// Returns whether decisions are of use to others: to handlers, or to compare them with those of a layer around.
    fn wants_decisions(&self, request: &Parts) -> bool {
        self.decisions_in != DecisionsIn::Neither || request.extensions.get::<Decisions>().is_some()
    }

    /// Puts decisions into the request, and returns those that are to be in its response.
    fn put_into(&self, request: &mut Parts, own: Decisions) -> Option<Decisions> {
        let outer = request.extensions.get::<Decisions>();
        if let Some(outer) = outer {
            self.hint_twice(outer, &own);
        }
        if self.decisions_in == DecisionsIn::Neither {
            return None;
        }
        let all = outer.map(|outer| own.after(outer)).unwrap_or(own);
        let in_response = (self.decisions_in == DecisionsIn::Both).then(|| all.clone());
        request.extensions.insert(all);
        in_response
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
                let denial = decisions.get(*place);
                let denial = denial.and_then(|one| one.decision.denial_or_shadowed());
                (DeniedReason::of(denial), None, Some(*place))
            }
            DeniedBy::Refusal(refusal) => (DeniedReason::Unidentified, Some(&**refusal), None),
            DeniedBy::Error(error) => (DeniedReason::of_error(error), None, None),
        };
        let outcome = denied_by.and_then(|place| decisions.get(place));
        let outcome = outcome.map_or(Outcome::Never, |one| one.decision.outcome_or_shadowed());
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
                    let throttles: Vec<_> =
                        self.rules.iter().map(|rule| rule.throttle.name()).collect();
                    tracing::error!(?throttles, %error, suppressed, "a throttle of this layer failed for a request");
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
            let told = denied.denied_by.zip(told);
            self.fields_of(decisions, told).append_to(response.headers_mut());
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

    /// Returns the fields of these decisions. `told` is the place of the one that denies, and the seconds that are
    /// told.
    fn fields_of(&self, decisions: &Decisions, told: Option<(usize, u64)>) -> FieldValues {
        let mut all = decisions.as_slice().iter().enumerate().filter_map(|(place, one)| {
            let wait = told
                .map(|(denied_by, seconds)| ToldWait { seconds, is_its_own: denied_by == place });
            Some(Told::of(&one.decision, self.rules.get(one.rule)?)?.of_denied(wait))
        });
        match decisions.as_slice() {
            [_] => all.next().map_or_else(FieldValues::default, |one| self.fields.of_one(&one)),
            _ => self.fields.of_several(&all.collect::<Vec<_>>()),
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
}

impl Admitted {
    /// Completes the response to a request that was served.
    #[inline]
    pub(super) fn complete<B: Body>(&mut self, response: Response<B>) -> Response<ResponseBody<B>> {
        let mut response = match self.pending.take() {
            None => response.map(ResponseBody::inner),
            Some(pending) => pending.settle_by(response),
        };
        self.fields.append_to(response.headers_mut());
        if let Some(decisions) = self.decisions.take() {
            // An inner layer has put those of all.
            response.extensions_mut().get_or_insert_with(|| decisions);
        }
        response
    }
}

impl PendingCharges {
    /// Settles what the response decides by its head, and leaves the rest to its body.
    fn settle_by<B: Body>(self, response: Response<B>) -> Response<ResponseBody<B>> {
        let (head, body) = response.into_parts();
        let body = match Settlement::of(self.charges, &head) {
            // Nobody asks such a body for its end.
            Some(settlement) if self.is_head || has_no_body(head.status) => {
                settlement.settle(None);
                ResponseBody::inner(body)
            }
            settlement => ResponseBody::settling(body, (&head, self.is_http_1), settlement),
        };
        Response::from_parts(head, body)
    }
}

/// Returns whether a response of that status has no body (RFC 9110, section 6.4.1).
fn has_no_body(status: StatusCode) -> bool {
    status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}
