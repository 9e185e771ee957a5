//! What the crate depends on: few, on the supported Rust version, under known licences.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// What the core may depend on directly, without any feature.
const CORE: [&str; 10] = [
    "ahash",
    "async-trait",
    "hashbrown",
    "parking_lot",
    "quanta",
    "sha2",
    "siphasher",
    "thiserror",
    "tokio",
    "tracing",
];
const LICENCES: [&str; 9] = [
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "Zlib",
    "Unlicense",
    "Unicode-3.0",
];

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The names of a build's packages, without those that only tests need.
fn tree(arguments: &[&str]) -> BTreeSet<String> {
    let mut all = vec!["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
    all.extend(arguments);
    cargo(&all)
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "traffik")
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_core_has_the_few_dependencies_that_it_says() {
    let direct = tree(&["--depth", "1", "--no-default-features"]);
    assert_eq!(direct, CORE.map(str::to_owned).into());
    let default = tree(&["--depth", "1"]);
    assert_eq!(default, direct, "no default feature pulls anything in");
}

#[test]
fn a_feature_that_is_off_leaves_its_dependency_out() {
    assert!(!tree(&[]).contains("serde"));
    assert!(tree(&["--features", "serde"]).contains("serde"));
    for client in [
        "redis",
        "deadpool",
        "memcache-async",
        "futures-core",
        "futures-sink",
        "futures-util",
        "rustls",
        "http",
        "tower",
    ] {
        assert!(!tree(&[]).contains(client), "{client}");
    }
    let redis = tree(&["--features", "redis"]);
    assert!(redis.contains("redis"));
    assert!(!redis.contains("rustls"));
    assert!(tree(&["--features", "redis-rustls"]).contains("rustls"));
    for feature in ["redis-cluster", "redis-sentinel"] {
        assert_eq!(tree(&["--features", feature]), redis, "{feature} needs no more than redis");
    }
}

#[test]
fn memcached_needs_its_client_a_pool_and_the_options_of_sockets() {
    let direct = tree(&["--depth", "1", "--features", "memcached"]);
    let more: BTreeSet<String> =
        direct.difference(&CORE.map(str::to_owned).into()).cloned().collect();
    let needed = ["deadpool", "memcache-async", "socket2"];
    assert_eq!(more, needed.map(str::to_owned).into());
    // Without a default feature of the pool's that would name another runtime.
    let all = tree(&["--features", "memcached"]);
    for unused in ["async-std", "smol", "serde"] {
        assert!(!all.contains(unused), "{unused}");
    }
}

#[test]
fn redis_needs_its_client_and_little_else() {
    let direct = tree(&["--depth", "1", "--features", "redis"]);
    let more: BTreeSet<String> =
        direct.difference(&CORE.map(str::to_owned).into()).cloned().collect();
    assert_eq!(more, ["futures-util", "redis"].map(str::to_owned).into());
    // Without a default feature of the client's that nothing here uses.
    let all = tree(&["--features", "redis"]);
    for unused in ["num-bigint", "r2d2", "serde_json", "native-tls"] {
        assert!(!all.contains(unused), "{unused}");
    }
}

#[test]
fn streams_need_the_traits_and_no_more() {
    let all = tree(&["--features", "stream"]);
    let more: BTreeSet<String> = all.difference(&tree(&[])).cloned().collect();
    assert_eq!(more, ["futures-core", "futures-sink"].map(str::to_owned).into());
}

#[test]
fn metrics_need_the_facade_and_no_exporter() {
    let direct = tree(&["--depth", "1", "--features", "metrics"]);
    let more: BTreeSet<String> =
        direct.difference(&CORE.map(str::to_owned).into()).cloned().collect();
    assert_eq!(more, ["metrics"].map(str::to_owned).into());
    let more: BTreeSet<String> =
        tree(&["--features", "metrics"]).difference(&tree(&[])).cloned().collect();
    assert!(more.len() <= 3, "{more:?}");
    assert!(!tree(&[]).contains("metrics"));
}

#[test]
fn the_layer_needs_the_types_of_http_and_tower_and_little_else() {
    let direct = tree(&["--depth", "1", "--features", "http"]);
    let more: BTreeSet<String> =
        direct.difference(&CORE.map(str::to_owned).into()).cloned().collect();
    let needed = [
        "bytes",
        "hmac",
        "http",
        "http-body",
        "ipnet",
        // The types of http need it too.
        "itoa",
        "pin-project-lite",
        "tower-layer",
        "tower-service",
    ];
    assert_eq!(more, needed.map(str::to_owned).into());
    let all = tree(&["--features", "http"]);
    for unused in ["axum", "hyper", "serde", "tonic", "tower"] {
        assert!(!all.contains(unused), "{unused}");
    }
}

#[test]
fn dependencies_keep_to_the_supported_rust_version_and_licences() {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--all-features"]))
            .unwrap();
    let ours = version(env!("CARGO_PKG_RUST_VERSION"));
    let needed = tree(&["--all-features"]);
    let mut seen = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if !needed.contains(name) {
            continue;
        }
        seen += 1;
        if let Some(theirs) = package["rust_version"].as_str() {
            assert!(version(theirs) <= ours, "{name} needs Rust {theirs}");
        }
        let licence = package["license"].as_str().unwrap_or_default();
        let known = licence.split(['/']).flat_map(|part| part.split(" OR ")).any(|choice| {
            choice
                .trim_matches(['(', ')', ' '])
                .split(" AND ")
                .all(|one| LICENCES.contains(&one.trim_matches(['(', ')', ' '])))
        });
        assert!(known, "{name} is under {licence:?}");
    }
    assert!(seen >= CORE.len(), "{seen} packages were looked at");
}

fn version(text: &str) -> Vec<u64> {
    let mut parts: Vec<u64> = text.split('.').map(|part| part.parse().unwrap()).collect();
    parts.resize(3, 0);
    parts
}
