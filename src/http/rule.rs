//! [`Rule`]: a throttle in a layer, with whose request it is, which requests it concerns, and what they cost.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use http::request::Parts;

use super::charge::Charge;
use super::identity::Identity;
use super::limit_texts::{KEPT_TEXTS, Texts};
use super::matching::Matcher;
use crate::hit_options::HitOptions;
use crate::throttle::Throttle;

type OptionsFuture = Pin<Box<dyn Future<Output = HitOptions> + Send>>;

/// A throttle in a [`ThrottleLayer`](super::ThrottleLayer): whose request it is, which requests it concerns, what
/// they cost, and which responses are charged.
///
/// ```
/// use http::{Method, StatusCode};
/// use traffik::http::{Charge, Everyone, Lookup, PeerAddr, Rule, ThrottleLayer, header, path, route};
/// # use traffik::{InMemory, Throttle};
/// # let backend = InMemory::new();
/// # let throttle = |name, rate| Throttle::builder(name).rate(rate).backend(backend.clone()).build();
///
/// let failed_logins = Rule::new(throttle("logins", "5/min")?, PeerAddr::new())
///     .only(Method::POST)
///     .only(route("/login"))
///     .charge(Charge::failures());
/// let each_client = Rule::new(throttle("clients", "20/s")?, PeerAddr::new()).skip(path("/health"));
/// let all_together = Rule::new(throttle("service", "2000/s")?, Everyone).skip(path("/health"));
/// // Narrow ones first: they deny most.
/// let layer = ThrottleLayer::of_rules([failed_logins, each_client, all_together]);
/// # drop(layer);
/// # Ok::<(), traffik::BuildError>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Rule {
    pub(super) throttle: Throttle,
    pub(super) identity: Arc<dyn Identity>,
    only: Vec<Arc<dyn Matcher>>,
    skip: Vec<Arc<dyn Matcher>>,
    pub(super) options: OptionsOf,
    pub(super) charge: Charge,
    pub(super) has_fields: bool,
    /// Of the throttle's own limits.
    pub(super) texts: Texts,
}

/// What gives the options of a hit.
#[derive(Clone, Default)]
pub(super) enum OptionsOf {
    #[default]
    Default,
    Request(Arc<dyn Fn(&Parts) -> HitOptions + Send + Sync>),
    Awaited(Arc<dyn Fn(&Parts) -> OptionsFuture + Send + Sync>),
}

/// The options of the hit of one request, or how they come.
pub(super) enum RequestOptions {
    Ready(HitOptions),
    Awaited(OptionsFuture),
}

impl OptionsOf {
    pub(super) fn of(&self, request: &Parts) -> RequestOptions {
        match self {
            Self::Default => RequestOptions::Ready(HitOptions::new()),
            Self::Request(options) => RequestOptions::Ready(options(request)),
            Self::Awaited(options) => RequestOptions::Awaited(options(request)),
        }
    }
}

impl RequestOptions {
    pub(super) async fn get(self) -> HitOptions {
        match self {
            Self::Ready(options) => options,
            Self::Awaited(options) => options.await,
        }
    }
}

impl Rule {
    /// Limits requests by a throttle, which counts for each key that the identity gives.
    pub fn new(throttle: Throttle, identity: impl Identity) -> Self {
        let texts = KEPT_TEXTS.of(throttle.limits());
        Self {
            throttle,
            identity: Arc::new(identity),
            only: Vec::new(),
            skip: Vec::new(),
            options: OptionsOf::Default,
            charge: Charge::all(),
            has_fields: true,
            texts,
        }
    }

    /// Concerns only such requests. May be repeated: all must match.
    pub fn only(mut self, matcher: impl Matcher) -> Self {
        self.only.push(Arc::new(matcher));
        self
    }

    /// Does not concern such requests. May be repeated: none may match.
    pub fn skip(mut self, matcher: impl Matcher) -> Self {
        self.skip.push(Arc::new(matcher));
        self
    }

    /// Sets the units that a request costs. Defaults to the throttle's default cost.
    ///
    /// Bound what a client says, such as a length, on both sides: a cost above the burst never passes, and one of 0
    /// always does.
    pub fn cost(self, cost: impl Fn(&Parts) -> u32 + Send + Sync + 'static) -> Self {
        self.options(move |request| HitOptions::new().cost(cost(request)))
    }

    /// Sets the options of the hit: its cost, and rates of its own, such as those of a customer's plan. The last of
    /// `cost`, `options` and `options_async` holds. Limits of the plan have the throttle's name and their period.
    ///
    /// An option that is an error, such as `replace_rates` with no rate, is answered with 500.
    ///
    /// ```
    /// use traffik::http::{PeerAddr, Rule};
    /// use traffik::{HitOptions, Rate};
    /// # use traffik::{InMemory, Throttle};
    /// # let throttle = Throttle::builder("api").rate("5/s").backend(InMemory::new()).build()?;
    ///
    /// #[derive(Clone)]
    /// struct Plan(Rate);
    ///
    /// // The layer that checks the API key has put the plan into the extensions.
    /// let rule = Rule::new(throttle, PeerAddr::new()).options(|request| {
    ///     match request.extensions.get::<Plan>() {
    ///         Some(Plan(rate)) => HitOptions::new().replace_rates([*rate]),
    ///         None => HitOptions::new(),
    ///     }
    /// });
    /// # drop(rule);
    /// # Ok::<(), traffik::BuildError>(())
    /// ```
    pub fn options(
        mut self,
        options: impl Fn(&Parts) -> HitOptions + Send + Sync + 'static,
    ) -> Self {
        self.options = OptionsOf::Request(Arc::new(options));
        self
    }

    /// Sets the options of the hit by a future, such as of a plan that is looked up. It may take as long as it likes:
    /// give it a timeout, and a plan for when it fails.
    ///
    /// It is awaited before any throttle of the layer is asked. To protect the lookup itself, put a cheap limit into a
    /// layer around this one.
    ///
    /// ```
    /// use traffik::http::{PeerAddr, Rule};
    /// use traffik::{HitOptions, Rate};
    /// # use traffik::{InMemory, Throttle};
    /// # let throttle = Throttle::builder("api").rate("5/s").backend(InMemory::new()).build()?;
    /// # #[derive(Clone)]
    /// # struct Customer(u64);
    /// # async fn plan_of(_customer: Option<Customer>) -> Rate { Rate::per_second(9) }
    ///
    /// // The layer that checks the API key has put the customer into the extensions.
    /// let rule = Rule::new(throttle, PeerAddr::new()).options_async(|request| {
    ///     let customer = request.extensions.get::<Customer>().cloned();
    ///     async move { HitOptions::new().replace_rates([plan_of(customer).await]) }
    /// });
    /// # drop(rule);
    /// # Ok::<(), traffik::BuildError>(())
    /// ```
    pub fn options_async<F>(mut self, options: impl Fn(&Parts) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = HitOptions> + Send + 'static,
    {
        self.options = OptionsOf::Awaited(Arc::new(move |request| Box::pin(options(request))));
        self
    }

    /// Tells clients nothing of this rule's limits, such as of one for all clients together: neither in the fields nor
    /// by name in a denial. `Retry-After` stays.
    pub const fn without_fields(mut self) -> Self {
        self.has_fields = false;
        self
    }

    /// Sets which responses cost their request its units. Defaults to all.
    pub fn charge(mut self, charge: Charge) -> Self {
        self.charge = charge;
        self
    }

    /// Returns whether it concerns a request.
    #[inline]
    pub(super) fn concerns(&self, request: &Parts) -> bool {
        self.only.iter().all(|matcher| matcher.might_match(request))
            && !self.skip.iter().any(|matcher| matcher.matches(request))
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = match self.options {
            OptionsOf::Default => "Default",
            OptionsOf::Request(_) => "Request",
            OptionsOf::Awaited(_) => "Awaited",
        };
        f.debug_struct("Rule")
            .field("throttle", &self.throttle.name())
            .field("only", &self.only.len())
            .field("skip", &self.skip.len())
            .field("options", &options)
            .field("charge", &self.charge)
            .finish_non_exhaustive()
    }
}
