//! The machine, the build and the peers: what a figure depends on beside the code.

use std::fs;
use std::thread;

const WORKSPACE: &str = include_str!("../../../Cargo.toml");
const LOCK: &str = include_str!("../../../Cargo.lock");

/// One line each.
pub fn describe() -> Vec<String> {
    describe_with(&["governor", "trypema", "limitador"])
}

/// ... with these peers.
pub fn describe_with(peers: &[&str]) -> Vec<String> {
    let peers: Vec<_> = peers.iter().map(|name| format!("{name} {}", version(name))).collect();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let flags = match env!("VERSUS_RUSTFLAGS") {
        "" => "no rustflags",
        flags => flags,
    };
    let optimized = match cfg!(debug_assertions) {
        true => "; WITH DEBUG ASSERTIONS, so no figure means anything",
        false => "",
    };
    vec![
        format!("machine: {}, {cores} cores, {}", cpu(), huge_pages()),
        format!(
            "build: {}; profile bench: {}, opt-level = {}; {flags}{optimized}",
            env!("VERSUS_RUSTC"),
            profile(),
            env!("VERSUS_OPT_LEVEL"),
        ),
        format!("peers: {}", peers.join(", ")),
    ]
}

fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().into())
}

fn huge_pages() -> String {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let modes = fs::read_to_string(path).unwrap_or_default();
    let mode = modes.split('[').nth(1).and_then(|rest| rest.split(']').next());
    format!("transparent huge pages: {}", mode.unwrap_or("unknown"))
}

/// The settings of the profile: of the workspace, unless the environment changed them.
fn profile() -> String {
    let section = WORKSPACE.split("[profile.bench]").nth(1).unwrap_or_default();
    let settings = section.lines().skip(1).take_while(|line| !line.starts_with('['));
    let mut all: Vec<String> =
        settings.filter(|line| line.contains('=')).map(|line| line.trim().to_owned()).collect();
    for (name, value) in [
        ("lto", option_env!("CARGO_PROFILE_BENCH_LTO")),
        ("codegen-units", option_env!("CARGO_PROFILE_BENCH_CODEGEN_UNITS")),
    ] {
        if let Some(value) = value {
            all.retain(|line| !line.starts_with(name));
            all.push(format!("{name} = {value}"));
        }
    }
    all.join(", ")
}

fn version(name: &str) -> &'static str {
    let package = LOCK.split("[[package]]").find(|it| it.contains(&format!("name = \"{name}\"\n")));
    package.and_then(|it| it.split("version = \"").nth(1)?.split('"').next()).unwrap_or("unknown")
}
