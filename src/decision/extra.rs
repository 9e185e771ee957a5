//! [`Extra`]: what few decisions have.

use std::ops::Deref;
use std::sync::Arc;

use super::answer::LimitAnswer;
use crate::strategy::Limit;

/// The most answers of a decision: one for each limit of a hit.
pub(crate) const MAX_ANSWERS: usize = 8;

/// What only a decision over more than two limits, or over some that the hit brought, has.
///
/// It is dropped by value and out of line: a decision whose address is taken lies in memory, where each
/// copy of what was just written waits for the writes.
#[derive(Clone, Debug)]
pub(super) struct Extra {
    /// Of more than two limits, in order; the one that the decision names among them.
    pub(super) answers: Option<Box<[LimitAnswer; MAX_ANSWERS]>>,
    /// The limits of a hit that brought some.
    pub(super) limits: Option<BroughtLimits>,
}

impl Extra {
    pub(super) const NONE: Self = Self { answers: None, limits: None };
}

impl Drop for Extra {
    #[inline]
    fn drop(&mut self) {
        #[cold]
        #[inline(never)]
        fn free(answers: Option<Box<[LimitAnswer; MAX_ANSWERS]>>, limits: Option<BroughtLimits>) {
            drop((answers, limits));
        }
        if self.answers.is_some() || self.limits.is_some() {
            free(self.answers.take(), self.limits.take());
        }
    }
}

/// The limits of a hit that brought rates, shared by all that comes of it. Its pointer is one word.
#[derive(Clone, Debug)]
pub(crate) struct BroughtLimits(Arc<Box<[Limit]>>);

impl From<Vec<Limit>> for BroughtLimits {
    fn from(limits: Vec<Limit>) -> Self {
        Self(Arc::new(limits.into()))
    }
}

impl Deref for BroughtLimits {
    type Target = [Limit];

    fn deref(&self) -> &[Limit] {
        &self.0
    }
}
