//! The layers that are compared, set to do the same.

use axum_governor::extractor::PeerIp;
use axum_governor::{BodyPreset, GovernorConfigBuilder, Quota, nz};
use traffik::http::{DecisionsIn, Fields, PeerAddr, ThrottleLayer};
use traffik::{InMemory, Throttle};

pub(crate) fn traffik(is_denied: bool) -> ThrottleLayer {
    let rate = if is_denied { "1/h" } else { "4000000/s" };
    let throttle = Throttle::builder("api").rate(rate).backend(InMemory::new()).build().unwrap();
    ThrottleLayer::new(throttle, PeerAddr::new())
}

/// With the older fields, as tower_governor has them.
pub(crate) fn traffik_x(is_denied: bool) -> ThrottleLayer {
    traffik(is_denied).fields(Fields::XRateLimit)
}

/// Without decisions for handlers, which tower_governor has not.
pub(crate) fn without_decisions(layer: ThrottleLayer) -> ThrottleLayer {
    layer.decisions_in(DecisionsIn::Neither)
}

pub(crate) fn axum_governor(is_denied: bool) -> axum_governor::GovernorLayer<std::net::IpAddr> {
    let quota = match is_denied {
        true => Quota::requests_per_hour(nz!(1u32)),
        false => Quota::requests_per_second(nz!(4_000_000u32)),
    };
    let config = GovernorConfigBuilder::default()
        .with_extractor(PeerIp::default())
        .expect_connect_info()
        .quota_default(quota)
        .body_preset(BodyPreset::ProblemJson)
        .finish()
        .unwrap();
    axum_governor::GovernorLayer::new(config)
}

/// Its type is long, so it is made where it is used.
macro_rules! tower_governor {
    ($is_denied:expr) => {{
        let mut config = tower_governor::governor::GovernorConfigBuilder::default();
        match $is_denied {
            true => config.per_second(3600).burst_size(1),
            false => config.per_nanosecond(250).burst_size(4_000_000),
        };
        tower_governor::GovernorLayer::new(config.use_headers().finish().unwrap())
    }};
}

pub(crate) use tower_governor;
