//! Medians, and the files in which a benchmark leaves what it measured.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The median; of an even number of values the mean of the two in the middle.
///
/// # Panics
///
/// If there is no value.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// Writes a report into the target directory, and returns where. `tmp` is that directory's `tmp`, which
/// Cargo tells a benchmark by `CARGO_TARGET_TMPDIR`.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write(tmp: &str, name: &str, report: &Value) -> io::Result<PathBuf> {
    write_text(tmp, name, &format!("{report:#}\n"))
}

/// As [`write`], of any text.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write_text(tmp: &str, name: &str, text: &str) -> io::Result<PathBuf> {
    let tmp = Path::new(tmp);
    let path = tmp.parent().unwrap_or(tmp).join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}
