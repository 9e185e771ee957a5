//! Identities: where a key is found, and what holds without one.

use http::request::Parts;
use http::{HeaderValue, StatusCode};
use traffik::Exempt;
use traffik::http::{
    DigestKey, Everyone, Identity, Lookup, PeerAddr, RoutePattern, cookie, extension, header,
    lookup, matched_route,
};

use crate::support::{head, request, with_header};

/// The parts of the key; `None` if it is exempt.
fn key(identity: &impl Identity, request: &Parts) -> Option<Vec<Vec<u8>>> {
    let identified = identity.identify(request);
    let key = identified.to_key().unwrap();
    let parts = key.as_slice().unwrap()?;
    Some(parts.iter().map(|part| part.as_bytes().to_vec()).collect())
}

fn text(parts: &[&str]) -> Option<Vec<Vec<u8>>> {
    Some(parts.iter().map(|part| part.as_bytes().to_vec()).collect())
}

fn status(identity: &impl Identity, request: &Parts) -> Option<StatusCode> {
    identity.identify(request).to_key().err().map(traffik::http::Refusal::status)
}

fn plain() -> Parts {
    head(request("/", "203.0.113.1"))
}

fn with(name: &str, values: &[&str]) -> Parts {
    let request = request("/", "203.0.113.1");
    head(values.iter().fold(request, |request, value| with_header(request, name, value)))
}

#[test]
fn a_header_counts_if_it_is_there_once_and_says_something() {
    let identity = header("X-Api-Key").or_refuse(StatusCode::UNAUTHORIZED);
    assert_eq!(key(&identity, &with("x-api-key", &["abc"])), text(&["abc"]));
    for values in [&[][..], &[""]] {
        let request = with("x-api-key", values);
        assert_eq!(status(&identity, &request), Some(StatusCode::UNAUTHORIZED), "{values:?}");
    }
    for values in [&["abc", "abc"][..], &["abc", "def"]] {
        let request = with("x-api-key", values);
        assert_eq!(status(&identity, &request), Some(StatusCode::BAD_REQUEST), "{values:?}");
        // Whatever holds without one.
        let exempt = header("x-api-key").or_exempt();
        assert_eq!(status(&exempt, &request), Some(StatusCode::BAD_REQUEST), "{values:?}");
    }
    let mut request = plain();
    request.headers.insert("x-api-key", HeaderValue::from_bytes(b"\xff\xfe").unwrap());
    assert_eq!(key(&identity, &request), Some(vec![b"\xff\xfe".to_vec()]), "any bytes are a key");
}

#[test]
#[should_panic(expected = "\"x api key\" is not the name of a header, such as \"x-api-key\"")]
fn what_is_no_header_is_refused_at_once() {
    let _ = header("x api key");
}

#[test]
fn a_cookie_counts_if_it_is_there_once_and_says_something() {
    let identity = cookie("sid").or_refuse(StatusCode::UNAUTHORIZED);
    for lines in
        [&["sid=abc"][..], &["a=b; sid=abc; c=d"], &["a=b", "sid=abc"], &["xsid=1;sid=abc"]]
    {
        assert_eq!(key(&identity, &with("cookie", lines)), text(&["abc"]), "{lines:?}");
    }
    assert_eq!(key(&identity, &with("cookie", &["sid=a=b"])), text(&["a=b"]));
    // However it is written, it is one.
    for line in ["sid=a%62c", "sid=%61%62%63", "sid=\"abc\"", "sid=\"a%62c\""] {
        assert_eq!(key(&identity, &with("cookie", &[line])), text(&["abc"]), "{line}");
    }
    assert_eq!(key(&identity, &with("cookie", &["sid=%zz%4"])), text(&["%zz%4"]));
    for lines in [
        &[][..],
        &["sid"],
        &["sid="],
        &["sid=a; sid=b"],
        &["sid=\"\""],
        &["sid=a", "sid=a"],
        &["SID=a"],
        &["sid=%00everyone"],
    ] {
        let request = with("cookie", lines);
        assert_eq!(status(&identity, &request), Some(StatusCode::UNAUTHORIZED), "{lines:?}");
    }
}

#[test]
fn extensions_routes_and_closures_are_found() {
    #[derive(Clone)]
    struct User(u64);
    let user = extension(|user: &User| user.0).or_refuse(StatusCode::FORBIDDEN);
    let mut request = plain();
    assert_eq!(status(&user, &request), Some(StatusCode::FORBIDDEN));
    request.extensions.insert(User(7));
    assert_eq!(key(&user, &request), Some(vec![7u64.to_be_bytes().to_vec()]));

    let route = matched_route().or_share("none");
    assert_eq!(key(&route, &request), text(&["\0shared", "none"]));
    request.extensions.insert(RoutePattern("/items/{id}".into()));
    assert_eq!(key(&route, &request), text(&["/items/{id}"]));

    let query = lookup(|request| request.uri.query().map(str::to_owned)).or_exempt();
    assert_eq!(key(&query, &request), None);
    assert_eq!(key(&|request: &Parts| request.method.to_string(), &request), text(&["GET"]));
    assert_eq!(key(&|_: &Parts| Exempt, &request), None);
    assert_eq!(key(&Everyone, &request), text(&["\0everyone"]));
}

#[test]
fn nobody_can_send_what_another_is_known_by() {
    let shared = header("x-api-key").or_share("anonymous");
    let by_address = header("x-api-key").or(|_: &Parts| "203.0.113.1");
    assert_eq!(key(&shared, &plain()), text(&["\0shared", "anonymous"]));
    assert_eq!(key(&by_address, &plain()), text(&["\0or", "203.0.113.1"]));
    for forged in ["anonymous", "shared", "203.0.113.1"] {
        let request = with("x-api-key", &[forged]);
        assert_eq!(key(&shared, &request), text(&[forged]));
        assert_eq!(key(&by_address, &request), text(&[forged]));
    }
}

#[test]
fn several_identities_are_one_key_or_none() {
    let both = (header("x-tenant").or_refuse(StatusCode::BAD_REQUEST), PeerAddr::new());
    let request = with("x-tenant", &["t7"]);
    assert_eq!(key(&both, &request), Some(vec![b"t7".to_vec(), vec![203, 0, 113, 1]]));
    assert_eq!(status(&both, &plain()), Some(StatusCode::BAD_REQUEST), "one refuses");
    let exempt = (PeerAddr::new(), header("x-tenant").or_exempt());
    assert_eq!(key(&exempt, &plain()), None, "one is exempt");
    let four = (Everyone, Everyone, Everyone, Everyone);
    assert_eq!(key(&four, &plain()).unwrap().len(), 4);
    let many = ((Everyone, Everyone), (Everyone, Everyone), Everyone);
    assert!(many.identify(&plain()).to_key().unwrap().as_slice().is_err(), "too many parts");
    // What is behind `or` may refuse too.
    let chain = header("a").or(header("b").or_refuse(StatusCode::CONFLICT));
    assert_eq!(status(&chain, &plain()), Some(StatusCode::CONFLICT));
}

#[test]
fn a_digest_hides_the_key_and_tells_keys_apart() {
    let secret = || DigestKey::new("0123456789abcdef0123").unwrap();
    let plainly = (header("x-api-key").or_refuse(StatusCode::UNAUTHORIZED), PeerAddr::new());
    let identity = plainly.digested(secret());
    let one = key(&identity, &with("x-api-key", &["abc"])).unwrap();
    assert_eq!((one.len(), one[0].len()), (1, 16));
    assert_eq!(key(&identity, &with("x-api-key", &["abc"])).unwrap(), one);
    assert_ne!(key(&identity, &with("x-api-key", &["abd"])).unwrap(), one);
    assert_eq!(status(&identity, &plain()), Some(StatusCode::UNAUTHORIZED), "a refusal stays one");
    let looked_up = secret().key_of(("abc", std::net::Ipv4Addr::new(203, 0, 113, 1))).unwrap();
    assert_eq!(looked_up.to_vec(), one[0], "an operator finds it");
    let exempt = header("x-api-key").or_exempt().digested(secret());
    assert_eq!(key(&exempt, &plain()), None, "exempt stays exempt");
}
