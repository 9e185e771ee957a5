//! What the parser reads, what it refuses, and that no line makes it panic.

use proptest::prelude::*;

use super::*;

const COMMON: &str =
    r#"127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326"#;

fn read(line: &str) -> Entry<'_> {
    parse(line.as_bytes()).unwrap_or_else(|problem| panic!("{problem}: {line}"))
}

fn problem(line: &str) -> &'static str {
    parse(line.as_bytes()).expect_err(line).0
}

/// A line of a client with a user agent, both as logged.
fn line(client: &str, agent: &str) -> String {
    COMMON.replace("127.0.0.1", client) + r#" "-" ""# + agent + "\""
}

#[test]
fn reads_both_formats() {
    let at = Timestamp::from_micros(971_211_336_000_000);
    assert_eq!(read(COMMON), Entry { client: "127.0.0.1".into(), at, agent: None });
    let combined = format!(r#"{COMMON} "http://www.example.com/" "Mozilla/4.08 [en]""#);
    assert_eq!(read(&combined).agent, Some(&b"Mozilla/4.08 [en]"[..]));
    assert_eq!(read(&line("::1", "-")).agent, None);
    assert_eq!(read(&line("::1", "")).agent, Some(&b""[..]));
}

#[test]
fn leaves_further_fields_alone() {
    assert_eq!(read(&format!(r#"{} "10.0.0.1" 0.003"#, line("::1", "a"))).agent, Some(&b"a"[..]));
    assert_eq!(read(&format!("{COMMON} 0.003 -")).agent, None);
}

#[test]
fn reads_dashes_spaces_and_escapes() {
    let dashes = r#"10.0.0.1 - - [10/Oct/2000:13:55:36 -0700] "-" 408 - "-" "-""#;
    assert_eq!(read(dashes).agent, None);
    assert_eq!(read(&COMMON.replace("frank", "john at work")).client, "127.0.0.1");
    assert_eq!(read(&line("::1", r#"a \"b\" c\\"#)).agent, Some(&br#"a \"b\" c\\"#[..]));
    let request = COMMON.replace("/apache_pb.gif", r#"/\"x\" y\x00\\"#);
    assert_eq!(read(&request).client, "127.0.0.1");
}

#[test]
fn a_client_has_one_name_in_all_its_forms() {
    for (logged, client) in [
        ("2001:db8:0:0::1", "2001:db8::1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("10.0.0.1:4711", "10.0.0.1"),
        ("Host-1.Example.com", "host-1.example.com"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("unix:", "unix:"),
    ] {
        assert_eq!(read(&line(logged, "-")).client, client);
    }
}

#[test]
fn says_what_is_wrong() {
    for (bad, why) in [
        (String::new(), "there is only one field"),
        ("127.0.0.1 -".into(), "there are only two fields"),
        ("127.0.0.1 - - 10/Oct/2000".into(), "there is no time in brackets"),
        (COMMON.replace("] ", " "), "the time has no closing bracket"),
        (
            COMMON.replace("Oct", "October"),
            "the time does not look like 10/Oct/2000:13:55:36 -0700",
        ),
        (COMMON.replace("\"GET", "GET"), "the request is not in quotes"),
        (COMMON.replace("1.0\"", "1.0"), "the request has no closing quote"),
        (COMMON.replace(" 200 2326", ""), "there is no status"),
        (COMMON.replace("200", "+20"), "the status is not three digits"),
        (COMMON.replace(" 2326", ""), "there is no size"),
        (COMMON.replace("2326", "2k"), "the size is not a number"),
        (format!("{COMMON} \"http:"), "the referer has no closing quote"),
        (format!("{COMMON} \"-\" \"Mozi"), "the user agent has no closing quote"),
        (line("-", "-"), "there is no client address"),
        (line("a\u{1b}[2J", "-"), "the client is neither an address nor a host name"),
        (line("", "-"), "the client is neither an address nor a host name"),
        (line(&"a".repeat(256), "-"), "the client is neither an address nor a host name"),
        (format!("example.com:80 {COMMON}"), "the client's address must be the first field"),
    ] {
        assert_eq!(problem(&bad), why, "{bad}");
    }
}

proptest! {
    #[test]
    fn no_line_panics(line: Vec<u8>) {
        let _ = parse(&line);
    }

    #[test]
    fn no_line_of_the_right_bytes_panics(line in r#"[-0-9:./\[\]\\" a-zA-Z+]{0,120}"#) {
        let _ = parse(line.as_bytes());
    }

    /// A line that was cut, or had some bytes overwritten.
    #[test]
    fn no_damaged_line_panics(
        cut in 0..200usize,
        damage in prop::collection::vec((0..200usize, any::<u8>()), 0..4),
    ) {
        let mut bytes = line("2001:db8::1", r#"curl/8.5.0 \"x\""#).into_bytes();
        bytes.truncate(cut);
        for (at, byte) in damage {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        let _ = parse(&bytes);
    }

    /// Whatever a client sends, a server that escapes quotes and backslashes logs a line that is read.
    #[test]
    fn escaped_fields_are_read_back(client: std::net::IpAddr, sent in "\\PC{0,40}") {
        let logged = sent.replace('\\', r"\\").replace('"', "\\\"");
        prop_assume!(logged != "-");
        let line = line(&client.to_string(), &logged);
        let entry = parse(line.as_bytes()).unwrap();
        prop_assert_eq!(entry.client, client.to_canonical().to_string());
        prop_assert_eq!(entry.agent, Some(logged.as_bytes()));
    }
}
