//! Gathers what was measured; prints tables and writes `versus.json`.

use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};
use traffik_peers::machine;
use traffik_peers::output::{self, median};

use crate::child::Row;
use crate::limiters::Which;
use crate::picture::{self, Bar};

pub(crate) struct Report {
    quick: bool,
    head: Vec<String>,
    sections: Vec<Section>,
}

struct Section {
    name: &'static str,
    cases: Vec<Case>,
    notes: Vec<String>,
}

struct Case {
    name: String,
    unit: String,
    /// Who, and what was measured in each round or run.
    columns: Vec<(String, Vec<f64>)>,
}

impl Case {
    fn of(&self, who: &str) -> Option<&[f64]> {
        self.columns.iter().find(|(name, _)| name == who).map(|(_, values)| values.as_slice())
    }

    fn ours(&self) -> Option<&[f64]> {
        self.of(Which::Traffik.name())
    }
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// How many times better ours is: less is better in all units. `None` where ours is nothing at all.
fn ratio(ours: f64, theirs: f64) -> Option<f64> {
    if ours == theirs {
        return Some(1.0);
    }
    (ours > 0.0).then(|| theirs / ours)
}

/// Three significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl Report {
    pub(crate) fn new(quick: bool) -> Self {
        Self { quick, head: machine::describe(), sections: Vec::new() }
    }

    pub(crate) fn print_head(&self) {
        for line in &self.head {
            println!("{line}");
        }
        if self.quick {
            println!("a quick run: small numbers, which say little");
        }
    }

    pub(crate) fn begin(&mut self, name: &'static str) {
        self.sections.push(Section { name, cases: Vec::new(), notes: Vec::new() });
    }

    fn section(&mut self) -> &mut Section {
        self.sections.last_mut().expect("a section was begun")
    }

    pub(crate) fn note(&mut self, note: String) {
        self.section().notes.push(note);
    }

    /// Adds values; those of the same case and limiter are several measurements of the same.
    pub(crate) fn add(&mut self, rows: Vec<Row>) {
        let cases = &mut self.section().cases;
        for row in rows {
            let case = match cases.iter().position(|case| case.name == row.case) {
                Some(index) => &mut cases[index],
                None => {
                    cases.push(Case { name: row.case, unit: row.unit, columns: Vec::new() });
                    cases.last_mut().expect("just pushed")
                }
            };
            match case.columns.iter_mut().find(|(who, _)| *who == row.who) {
                Some((_, values)) => values.push(row.value),
                None => case.columns.push((row.who, vec![row.value])),
            }
        }
    }

    /// Prints the last section as an aligned table, which is also one of Markdown.
    pub(crate) fn print_section(&self) {
        let Some(section) = self.sections.last() else { return };
        let mut who: Vec<&str> = Vec::new();
        for case in &section.cases {
            for (name, _) in &case.columns {
                if !who.contains(&name.as_str()) {
                    who.push(name);
                }
            }
        }
        // Ours first, the peers in the order of `Which`, then variants of them.
        who.sort_by_key(|name| Which::named(name).map_or(usize::MAX, |which| which as usize));
        let mut lines = vec![[section.name, "unit"].map(str::to_owned).to_vec()];
        lines[0].extend(who.iter().map(|name| (*name).to_owned()));
        for case in &section.cases {
            let mut line = vec![case.name.clone(), case.unit.clone()];
            line.extend(who.iter().map(|name| cell(section, case, name)));
            lines.push(line);
        }
        let widths: Vec<usize> = (0..lines[0].len())
            .map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0))
            .collect();
        println!();
        for (index, line) in lines.iter().enumerate() {
            let cells: Vec<String> =
                line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            println!("| {} |", cells.join(" | "));
            if index == 0 {
                let rules: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
                println!("| {} |", rules.join(" | "));
            }
        }
        for note in &section.notes {
            println!("\n{note}");
        }
    }

    /// Writes all cases, one object for each peer.
    fn write_json(&self) -> io::Result<PathBuf> {
        let mut objects = Vec::new();
        for section in &self.sections {
            for case in &section.cases {
                let Some(ours) = case.ours() else { continue };
                for (who, theirs) in &case.columns {
                    if who != Which::Traffik.name() {
                        objects.push(self.object(section, case, ours, (who, theirs)));
                    }
                }
            }
        }
        output::write(env!("CARGO_TARGET_TMPDIR"), "versus.json", &Value::Array(objects))
    }

    /// Writes all that was measured, and of the shapes of keys a picture, and says where.
    pub(crate) fn write(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = vec![self.write_json()?];
        if let Some(picture) = self.picture() {
            paths.push(output::write_text(env!("CARGO_TARGET_TMPDIR"), "versus.svg", &picture)?);
        }
        Ok(paths)
    }

    /// Draws how we compare with governor on one thread, if both sections ran.
    fn picture(&self) -> Option<String> {
        let cases = |section: &str| {
            let section = self.sections.iter().find(|it| it.name == section)?;
            Some(section.cases.iter())
        };
        let all: Vec<&Case> = cases("speed")?.chain(cases("shapes")?).collect();
        let mut groups = Vec::new();
        for keys in ["1,000 keys", "1,000,000 keys"] {
            let mut bars = Vec::new();
            for case in &all {
                let Some(shape) = case.name.strip_suffix(", 1 thread") else { continue };
                let shape = match shape.split_once(keys) {
                    Some(("", " uniform, allowed")) => "11 bytes",
                    Some(("", " uniform, denied")) => "11 bytes, denied",
                    Some((before, "")) => before.trim_end_matches(", "),
                    _ => continue,
                };
                let theirs = case.of(Which::Governor.name())?;
                let ratio = ratio(median(case.ours()?), median(theirs))?;
                bars.push(Bar { label: shape.to_owned(), ratio });
            }
            groups.push((keys.to_owned(), bars));
        }
        Some(picture::draw(&groups, &self.head))
    }

    fn object(
        &self,
        section: &Section,
        case: &Case,
        ours: &[f64],
        (who, theirs): (&str, &[f64]),
    ) -> Value {
        json!({
            "section": section.name,
            "case": format!("{} [{}], against {who}", case.name, case.unit),
            "unit": case.unit,
            "against": who,
            "ours": median(ours),
            "peer": median(theirs),
            "ratio": ratio(median(ours), median(theirs)),
            "ours_least": least(ours),
            "ours_most": most(ours),
            "peer_least": least(theirs),
            "peer_most": most(theirs),
            "samples": ours.len(),
            "quick": self.quick,
            "machine": self.head.join("; "),
        })
    }
}

/// A median and what it is compared to ours; of a pause also the least.
fn cell(section: &Section, case: &Case, who: &str) -> String {
    let Some(values) = case.of(who) else { return String::new() };
    let mut text = short(median(values));
    if section.name == "pauses" {
        text += &format!(" [{}]", short(least(values)));
    }
    if who != Which::Traffik.name()
        && median(values) > 0.0
        && let Some(ratio) = case.ours().and_then(|ours| ratio(median(ours), median(values)))
    {
        text += &format!(" ({ratio:.2}x)");
    }
    text
}
