//! The strategies by name.

use std::fmt;
use std::str::FromStr;

use traffik::{
    Backend, BuildError, FixedWindow, Gcra, LeakyBucket, Rate, SlidingWindowCounter,
    SlidingWindowLog, Throttle, TokenBucket,
};

/// A strategy that can be named on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    FixedWindow,
    SlidingWindowCounter,
    SlidingWindowLog,
    TokenBucket,
    LeakyBucket,
    Gcra,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::FixedWindow,
        Self::SlidingWindowCounter,
        Self::SlidingWindowLog,
        Self::TokenBucket,
        Self::LeakyBucket,
        Self::Gcra,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::FixedWindow => "fixed-window",
            Self::SlidingWindowCounter => "sliding-window-counter",
            Self::SlidingWindowLog => "sliding-window-log",
            Self::TokenBucket => "token-bucket",
            Self::LeakyBucket => "leaky-bucket",
            Self::Gcra => "gcra",
        }
    }

    /// A throttle of this strategy, named after it, so that several share a backend but no state.
    pub(crate) fn throttle(
        self,
        rate: Rate,
        backend: impl Backend,
    ) -> Result<Throttle, BuildError> {
        let throttle = Throttle::builder(self.name()).rate(rate).backend(backend);
        let throttle = match self {
            Self::FixedWindow => throttle.strategy(FixedWindow::new()),
            Self::SlidingWindowCounter => throttle.strategy(SlidingWindowCounter::new()),
            // The log holds what passes, which is at most the whole file.
            Self::SlidingWindowLog => {
                throttle.strategy(SlidingWindowLog::new().max_entries(u32::MAX))
            }
            Self::TokenBucket => throttle.strategy(TokenBucket::new()),
            Self::LeakyBucket => throttle.strategy(LeakyBucket::new()),
            Self::Gcra => throttle.strategy(Gcra::new()),
        };
        throttle.build()
    }
}

/// Returns why a throttle of a strategy was refused, without the throttle, which is called as its strategy.
pub(crate) fn reason(error: &BuildError) -> String {
    match error {
        BuildError::Limit { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            format!(
                "no strategy is called {text:?}; use one of {}",
                Self::ALL.map(Self::name).join(", ")
            )
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
