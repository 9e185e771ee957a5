//! What the system tells of this process.

/// Returns the memory of this process that is in RAM, in KiB.
pub fn resident_kib() -> u64 {
    field("VmRSS:")
}

/// Returns how many threads this process has.
pub fn threads() -> u64 {
    field("Threads:")
}

fn field(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()).unwrap().parse().unwrap()
}
