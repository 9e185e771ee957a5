//! Classifies failures of the client or the server: their kind, whether the command may have run, and
//! what can help.

use redis::{RedisError, ServerErrorKind};

use super::route::{NodeAddress, Route};
use super::{config_errors, failed};
use crate::error::{BackendError, Effect, ErrorKind};

/// A command that did not succeed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    kind: ErrorKind,
    effect: Effect,
    pub(super) remedy: Remedy,
    /// The connection is of no more use.
    pub(super) is_connection_lost: bool,
    cause: Option<RedisError>,
    message: Option<String>,
}

/// What may be tried instead. Only after a command that surely did not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    None,
    /// After a pause: the servers are in a change that ends by itself.
    Later,
    /// At once, where the server says.
    Redirected(Redirection),
    /// On a connection made anew, for this one leads to the wrong server.
    Reconnected,
    /// With the source of the script.
    WithSource,
}

/// Where a node of a cluster sends a command to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Redirection {
    pub(super) slot: u16,
    pub(super) node: NodeAddress,
    /// `ASK`: the key is elsewhere only as long as its slot is being moved.
    pub(super) is_asking: bool,
}

impl Redirection {
    pub(super) fn route(&self) -> Route {
        let node = self.node.clone();
        if self.is_asking { Route::Asking(node) } else { Route::Node(node) }
    }
}

impl Failure {
    /// A failure that has nothing to do with a reply.
    pub(super) fn new(kind: ErrorKind, effect: Effect) -> Self {
        Self {
            kind,
            effect,
            remedy: Remedy::None,
            is_connection_lost: false,
            cause: None,
            message: None,
        }
    }

    /// No connection could be made: nothing was sent.
    pub(super) fn unconnected(error: RedisError) -> Self {
        let mistake = config_errors::of_connecting(&error);
        let mut failure = Self::of(error);
        failure.effect = Effect::NotApplied;
        failure.remedy = Remedy::None;
        if let Some(problem) = mistake {
            failure = failure.misconfigured(problem);
        }
        if failure.kind == ErrorKind::Other {
            failure.kind = ErrorKind::Unavailable;
        }
        failure
    }

    /// Classifies what the client or the server said about a command that was sent.
    pub(super) fn of(error: RedisError) -> Self {
        let (kind, effect, remedy) = match error.kind() {
            redis::ErrorKind::Server(kind) => by_kind(kind, &error),
            redis::ErrorKind::Extension => by_code(&error),
            redis::ErrorKind::Io => (ErrorKind::Unavailable, Effect::Ambiguous, Remedy::None),
            redis::ErrorKind::Parse | redis::ErrorKind::UnexpectedReturnType => {
                (ErrorKind::Other, Effect::Ambiguous, Remedy::None)
            }
            redis::ErrorKind::AuthenticationFailed
            | redis::ErrorKind::InvalidClientConfig
            | redis::ErrorKind::EmptySentinelList => {
                (ErrorKind::Misconfigured, Effect::NotApplied, Remedy::None)
            }
            // No node was found to send it to.
            redis::ErrorKind::ClusterConnectionNotFound
            | redis::ErrorKind::MasterNameNotFoundBySentinel
            | redis::ErrorKind::NoValidReplicasFoundBySentinel => {
                (ErrorKind::Unavailable, Effect::NotApplied, Remedy::Later)
            }
            redis::ErrorKind::Client | redis::ErrorKind::RESP3NotSupported => {
                (ErrorKind::Other, Effect::NotApplied, Remedy::None)
            }
            _ => (ErrorKind::Other, Effect::Ambiguous, Remedy::None),
        };
        let is_connection_lost = error.is_io_error() || error.kind() == redis::ErrorKind::Parse;
        let mistake = config_errors::said(&error);
        let failure =
            Self { kind, effect, remedy, is_connection_lost, cause: Some(error), message: None };
        match mistake {
            Some(problem) => failure.misconfigured(problem),
            // Our own commands never do that on a cluster that we know to be one.
            None if failure.is_cross_slot() => {
                failure.misconfigured(config_errors::NO_CLUSTER_CLIENT)
            }
            None => failure,
        }
    }

    fn is_cross_slot(&self) -> bool {
        let kind = self.cause.as_ref().map(RedisError::kind);
        kind == Some(redis::ErrorKind::Server(ServerErrorKind::CrossSlot))
    }

    /// The same, as a mistake in the configuration, with what would be right.
    pub(super) fn misconfigured(mut self, problem: &'static str) -> Self {
        self.kind = ErrorKind::Misconfigured;
        self.remedy = Remedy::None;
        self.with_message(problem)
    }

    /// The same, for a command that changes nothing: it is as if it had not run.
    #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
    pub(super) fn not_applied(mut self) -> Self {
        self.effect = Effect::NotApplied;
        self
    }

    /// The same, with a message for its reader.
    pub(super) fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    pub(super) fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns `true` if the time was over before anything was sent.
    pub(super) fn is_unsent(&self) -> bool {
        self.kind == ErrorKind::Timeout && self.effect == Effect::NotApplied
    }

    /// Returns whether only a change of the configuration can help.
    pub(super) fn is_misconfiguration(&self) -> bool {
        self.kind == ErrorKind::Misconfigured
    }

    pub(super) fn into_error(self, operation: &'static str) -> BackendError {
        let mut error = failed(operation, self.kind).with_effect(self.effect);
        let message = self.message.or_else(|| Some(describe(self.cause.as_ref()?)));
        if let Some(message) = message {
            error = error.with_message(message);
        }
        match self.cause {
            Some(cause) => error.with_cause(cause),
            None => error,
        }
    }
}

/// The server's or the client's own words, on one line.
fn describe(error: &RedisError) -> String {
    let mut line = String::new();
    for character in error.to_string().chars().take(300) {
        match character {
            // Quotes stay as they are.
            '"' | '\'' => line.push(character),
            _ => line.extend(character.escape_debug()),
        }
    }
    line
}

type Meaning = (ErrorKind, Effect, Remedy);

const fn refused(kind: ErrorKind, remedy: Remedy) -> Meaning {
    (kind, Effect::NotApplied, remedy)
}

fn by_kind(kind: ServerErrorKind, error: &RedisError) -> Meaning {
    use ServerErrorKind as Kind;
    match kind {
        Kind::Moved => refused(ErrorKind::Unavailable, redirection(error, false)),
        Kind::Ask => refused(ErrorKind::Unavailable, redirection(error, true)),
        Kind::TryAgain | Kind::ClusterDown => refused(ErrorKind::Unavailable, Remedy::Later),
        Kind::BusyLoading => refused(ErrorKind::Unavailable, Remedy::None),
        Kind::ReadOnly | Kind::MasterDown => refused(ErrorKind::Unavailable, Remedy::Reconnected),
        Kind::NoScript => refused(ErrorKind::Other, Remedy::WithSource),
        Kind::NoPerm => refused(ErrorKind::Misconfigured, Remedy::None),
        Kind::CrossSlot => refused(ErrorKind::Other, Remedy::None),
        Kind::ResponseError => by_text(error.detail().unwrap_or_default()),
        _ => refused(ErrorKind::Other, Remedy::None),
    }
}

/// Codes that the client has no kind for. Matched by their first word.
fn by_code(error: &RedisError) -> Meaning {
    match error.code().unwrap_or_default() {
        "OOM" | "MISCONF" | "NOREPLICAS" | "BUSY" => refused(ErrorKind::Unavailable, Remedy::None),
        "NOAUTH" | "WRONGPASS" => refused(ErrorKind::Misconfigured, Remedy::None),
        "WRONGTYPE" => refused(ErrorKind::Corrupt, Remedy::None),
        _ => refused(ErrorKind::Other, Remedy::None),
    }
}

/// Errors whose code is the general one.
fn by_text(detail: &str) -> Meaning {
    let has = |text: &str| detail.contains(text);
    if has("max number of clients reached") || has("-OOM ") || has("-MISCONF ") {
        return refused(ErrorKind::Unavailable, Remedy::None);
    }
    if has("-READONLY ") {
        return refused(ErrorKind::Unavailable, Remedy::Reconnected);
    }
    if has("without any password configured") || has("invalid password") {
        return refused(ErrorKind::Misconfigured, Remedy::None);
    }
    // A command inside of a script is not permitted; in the words of 7.0 and later.
    if has("user executing the script") || has("ACL failure in script") {
        return refused(ErrorKind::Misconfigured, Remedy::None);
    }
    if has("is not an integer") {
        return refused(ErrorKind::NotANumber, Remedy::None);
    }
    if has("would overflow") {
        return refused(ErrorKind::OutOfRange, Remedy::None);
    }
    refused(ErrorKind::Other, Remedy::None)
}

fn redirection(error: &RedisError, is_asking: bool) -> Remedy {
    let target = error.redirect_node();
    let target = target.and_then(|(address, slot)| Some((NodeAddress::parse(address)?, slot)));
    match target {
        Some((node, slot)) => Remedy::Redirected(Redirection { slot, node, is_asking }),
        None => Remedy::Later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(line: &str) -> Failure {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        Failure::of(value.extract_error().unwrap_err())
    }

    #[test]
    fn what_a_server_refuses_did_not_happen() {
        let unavailable = [
            "LOADING Redis is loading the dataset in memory",
            "BUSY Redis is busy running a script.",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "READONLY You can't write against a read only replica.",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk.",
            "NOREPLICAS Not enough good replicas to write.",
            "MOVED 3999 127.0.0.1:6381",
            "ASK 3999 127.0.0.1:6381",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "CLUSTERDOWN The cluster is down",
            "ERR max number of clients reached",
            // As older servers say it from inside of a script.
            "ERR Error running script (call to f_0): @user_script:9: @user_script: 9: -OOM command not \
             allowed when used memory > 'maxmemory'.",
        ];
        let misconfigured = [
            "NOAUTH Authentication required.",
            "WRONGPASS invalid username-password pair or user is disabled.",
            "NOPERM this user has no permissions to run the 'evalsha' command",
            "CROSSSLOT Keys in request don't hash to the same slot",
            "ERR DB index is out of range",
            "ERR Protocol error: unauthenticated multibulk length",
            "ERR SELECT is not allowed in cluster mode",
            "ERR This instance has cluster support disabled",
        ];
        let others = ["ERR what", "X y"];
        for (lines, kind) in [
            (&unavailable[..], ErrorKind::Unavailable),
            (&misconfigured, ErrorKind::Misconfigured),
            (&others, ErrorKind::Other),
            (
                &["WRONGTYPE Operation against a key holding the wrong kind of value"],
                ErrorKind::Corrupt,
            ),
            (&["ERR value is not an integer or out of range"], ErrorKind::NotANumber),
            (&["ERR increment or decrement would overflow"], ErrorKind::OutOfRange),
        ] {
            for line in lines {
                let failure = reply(line);
                assert_eq!((failure.kind, failure.effect), (kind, Effect::NotApplied), "{line}");
                assert!(!failure.is_connection_lost, "{line}");
            }
        }
    }

    #[test]
    fn redirections_are_followed_and_changes_waited_for() {
        let node = NodeAddress { host: "127.0.0.1".into(), port: 6381 };
        for is_asking in [false, true] {
            let word = if is_asking { "ASK" } else { "MOVED" };
            let redirection = Redirection { slot: 3999, node: node.clone(), is_asking };
            let remedy = reply(&format!("{word} 3999 127.0.0.1:6381")).remedy;
            assert_eq!(remedy, Remedy::Redirected(redirection));
        }
        assert_eq!(reply("MOVED 3999 nowhere").remedy, Remedy::Later);
        assert_eq!(reply("TRYAGAIN x").remedy, Remedy::Later);
        assert_eq!(reply("READONLY x").remedy, Remedy::Reconnected);
        assert_eq!(reply("NOSCRIPT No matching script.").remedy, Remedy::WithSource);
        assert_eq!(reply("LOADING x").remedy, Remedy::None);
    }

    #[test]
    fn what_was_sent_may_have_happened() {
        let cut = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let failure = Failure::of(cut.into());
        assert_eq!(failure.effect, Effect::Ambiguous);
        assert!(failure.is_connection_lost && failure.remedy == Remedy::None);
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let failure = Failure::unconnected(refused.into());
        assert_eq!((failure.kind, failure.effect), (ErrorKind::Unavailable, Effect::NotApplied));
    }

    #[test]
    fn an_error_shows_the_servers_words_on_one_line() {
        let error = reply("OOM not\tallowed").into_error("apply");
        let text = error.to_string();
        assert!(text.starts_with("redis: apply: ") && text.contains("not\\tallowed"), "{text}");
    }
}
