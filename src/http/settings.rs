//! [`Settings`]: what all services of a layer share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;

use super::decisions::DecisionsIn;
use super::denial::{OnDenied, Responder};
use super::fields::{Fields, FieldsOn};
use super::hints::Once;
use super::matching::Matcher;
use super::mode::ModeSwitch;
use super::rule::Rule;
use crate::on_error::LogLimiter;

/// What all services of a layer share.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) rules: Vec<Arc<Rule>>,
    pub(super) skip: Vec<Arc<dyn Matcher>>,
    pub(super) mode: ModeSwitch,
    pub(super) fields: Fields,
    pub(super) fields_on: FieldsOn,
    pub(super) decisions_in: DecisionsIn,
    pub(super) jitter: Duration,
    pub(super) responder: Option<Responder>,
    pub(super) on_denied: Option<OnDenied>,
    pub(super) said: Arc<Said>,
}

/// What was said in the log.
#[derive(Debug, Default)]
pub(super) struct Said {
    twice: Once,
    pub(super) errors: LogLimiter,
}

impl Said {
    /// Says once that a throttle counts a request twice.
    #[cold]
    pub(super) fn twice(&self, throttle: &str) {
        if self.twice.is_first() {
            tracing::warn!(
                throttle,
                "the throttle counts a request twice for the same key, by two rules or in one layer around another; \
                 give each a throttle of its own, or add the layer once"
            );
        }
    }
}

impl Settings {
    #[inline]
    pub(super) fn skips(&self, request: &Parts) -> bool {
        self.skip.iter().any(|matcher| matcher.matches(request))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottleLayer")
            .field("rules", &self.rules)
            .field("mode", &self.mode.get())
            .field("fields", &self.fields)
            .field("fields_on", &self.fields_on)
            .finish_non_exhaustive()
    }
}
