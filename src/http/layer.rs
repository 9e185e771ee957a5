//! [`ThrottleLayer`]: the layer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tower_layer::Layer;

use super::decisions::DecisionsIn;
use super::denial::{Denied, Responder};
use super::fields::{Fields, FieldsOn};
use super::identity::Identity;
use super::matching::Matcher;
use super::mode::ModeSwitch;
use super::rule::Rule;
use super::service::ThrottleService;
use super::settings::Settings;
use crate::throttle::Throttle;

/// A layer that serves a request only if its throttles let it pass, and else answers 429.
///
/// ```
/// use traffik::http::{PeerAddr, ThrottleLayer};
/// # use traffik::{InMemory, Throttle};
///
/// let throttle = Throttle::builder("api").rate("10/s burst 20").backend(InMemory::new()).build()?;
/// let layer = ThrottleLayer::new(throttle, PeerAddr::new());
/// # drop(layer);
/// # Ok::<(), traffik::BuildError>(())
/// ```
///
/// It denies and never waits: it is ready when the inner service is, which sees nothing of a request that is denied.
/// Its service is `Clone`, has the inner service's error, and keeps the type of its body in a
/// [`ResponseBody`](super::ResponseBody). All services that one layer and its clones make share the settings; the
/// counts are the throttles'.
///
/// Several [`Rule`]s of a layer count together or not at all, by [`all`](crate::all()). Of layers around each other
/// each counts for itself, and each appends its fields: so put what belongs together into one.
#[derive(Clone)]
#[must_use]
pub struct ThrottleLayer {
    settings: Arc<Settings>,
}

impl ThrottleLayer {
    /// Limits all requests by one throttle, which counts for each key that the identity gives.
    pub fn new(throttle: Throttle, identity: impl Identity) -> Self {
        Self::of_rules([Rule::new(throttle, identity)])
    }

    /// Limits requests by several rules. All that concern a request must let it pass, and then all count it; so
    /// what one denies, or its identity refuses, costs nothing of the others: to count that too, put the others into a
    /// layer around this one. Put narrow ones first, which deny most. Without any rule it limits nothing.
    pub fn of_rules(rules: impl IntoIterator<Item = Rule>) -> Self {
        let settings = Settings {
            rules: rules.into_iter().map(Arc::new).collect(),
            skip: Vec::new(),
            mode: ModeSwitch::default(),
            fields: Fields::default(),
            fields_on: FieldsOn::default(),
            decisions_in: DecisionsIn::default(),
            jitter: Duration::ZERO,
            responder: None,
            on_denied: None,
            said: Arc::default(),
        };
        Self { settings: Arc::new(settings) }
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    /// Adds a rule; see [`of_rules`](Self::of_rules).
    pub fn rule(self, rule: Rule) -> Self {
        self.set(|settings| settings.rules.push(Arc::new(rule)))
    }

    /// Serves such requests without asking any throttle, such as those for the health of the service. May be
    /// repeated. To limit only certain requests, use a [`Rule`] with [`only`](Rule::only).
    pub fn skip(self, matcher: impl Matcher) -> Self {
        self.set(|settings| settings.skip.push(Arc::new(matcher)))
    }

    /// Sets which fields tell a client about its limits. Defaults to [`Fields::Draft11`].
    pub fn fields(self, fields: Fields) -> Self {
        self.set(|settings| settings.fields = fields)
    }

    /// Sets on which responses the fields are. Defaults to all. `Retry-After` is on each denial.
    pub fn fields_on(self, fields_on: FieldsOn) -> Self {
        self.set(|settings| settings.fields_on = fields_on)
    }

    /// Sets in which extensions the [`Decisions`](super::Decisions) are. Defaults to both.
    pub fn decisions_in(self, decisions_in: DecisionsIn) -> Self {
        self.set(|settings| settings.decisions_in = decisions_in)
    }

    /// Adds a random time, up to this, to the wait that a denied client is told, so that those who are denied
    /// together do not come back together. Defaults to none. The decision has the exact wait.
    pub fn jitter(self, most: Duration) -> Self {
        self.set(|settings| settings.jitter = most)
    }

    /// Sets the answer to a request that is denied. Defaults to [`Denied::problem`].
    ///
    /// It is a response of text or bytes, with the status that you set: begin with [`Denied::response`], or it is 200.
    /// The fields and `Retry-After` are added to it.
    ///
    /// ```
    /// use http::HeaderValue;
    /// use http::header::CONTENT_TYPE;
    /// use traffik::http::{Everyone, ThrottleLayer};
    /// # use traffik::{InMemory, Throttle};
    /// # let throttle = Throttle::builder("api").rate("5/s").backend(InMemory::new()).build()?;
    ///
    /// let layer = ThrottleLayer::new(throttle, Everyone).respond_with(|denied| {
    ///     let wait = denied.retry_after().unwrap_or_default();
    ///     let mut response = denied.response(format!(r#"{{"error":"slow down","seconds":{wait}}}"#));
    ///     let json = HeaderValue::from_static("application/json");
    ///     response.headers_mut().insert(CONTENT_TYPE, json);
    ///     response
    /// });
    /// # drop(layer);
    /// # Ok::<(), traffik::BuildError>(())
    /// ```
    pub fn respond_with<T: Into<Bytes>>(
        self,
        respond: impl Fn(&Denied<'_>) -> Response<T> + Send + Sync + 'static,
    ) -> Self {
        self.set(|settings| settings.responder = Some(Responder::new(respond)))
    }

    /// Sets what is called for each request that is denied, such as to count it, also for one that is only looked at
    /// in [`Mode::Shadow`](super::Mode::Shadow): see [`Denied::is_enforced`]. It runs in the request's task: let it be
    /// short.
    pub fn on_denied(self, on_denied: impl Fn(&Denied<'_>) + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.on_denied = Some(Arc::new(on_denied)))
    }

    /// Sets the switch for the [`Mode`](super::Mode) of the whole layer. Defaults to one that always enforces, so that
    /// each throttle's own mode holds.
    pub fn mode(self, switch: &ModeSwitch) -> Self {
        self.set(|settings| settings.mode = switch.clone())
    }
}

impl<S> Layer<S> for ThrottleLayer {
    type Service = ThrottleService<S>;

    fn layer(&self, inner: S) -> ThrottleService<S> {
        ThrottleService::new(inner, Arc::clone(&self.settings))
    }
}

impl fmt::Debug for ThrottleLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}
