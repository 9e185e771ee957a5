//! [`ForwardedHeader`]: the header in which a proxy says whose request it is.

use http::HeaderName;

/// The header in which a proxy says whose request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: a list of addresses, to which each proxy adds the one it sees.
    XForwardedFor,
    /// `Forwarded` (RFC 7239): the same as `for=` of each element.
    Forwarded,
    /// `X-Real-IP`: one address, by nginx when it is set so.
    XRealIp,
    /// `True-Client-IP`: one address, by Akamai and Cloudflare.
    TrueClientIp,
    /// `CF-Connecting-IP`: one address, by Cloudflare.
    CfConnectingIp,
    /// `CloudFront-Viewer-Address`: one address with its port, by Amazon CloudFront.
    CloudFrontViewerAddress,
    /// `Fly-Client-IP`: one address, by Fly.io.
    FlyClientIp,
    /// `X-Envoy-External-Address`: one address, by Envoy.
    XEnvoyExternalAddress,
    /// Another header with one address.
    Single(HeaderName),
}

impl ForwardedHeader {
    /// Returns the name of the header.
    #[must_use]
    pub fn name(&self) -> HeaderName {
        HeaderName::from_static(match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
            Self::XRealIp => "x-real-ip",
            Self::TrueClientIp => "true-client-ip",
            Self::CfConnectingIp => "cf-connecting-ip",
            Self::CloudFrontViewerAddress => "cloudfront-viewer-address",
            Self::FlyClientIp => "fly-client-ip",
            Self::XEnvoyExternalAddress => "x-envoy-external-address",
            Self::Single(name) => return name.clone(),
        })
    }
}
