//! A measurement in a process of its own: this program again, with a word that says so.

use std::process::{Command, Stdio};

use crate::{memory, pauses, speed};

/// The first argument of a child.
pub(crate) const MARK: &str = "--measure";

/// One measured value, as a child writes it on a line.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) unit: String,
    pub(crate) who: String,
    pub(crate) value: f64,
}

impl Row {
    pub(crate) fn new(case: impl Into<String>, unit: &str, who: &str, value: f64) -> Self {
        Self { case: case.into(), unit: unit.into(), who: who.into(), value }
    }

    fn print(&self) {
        println!("{}\t{}\t{}\t{}", self.case, self.unit, self.who, self.value);
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let mut next = || fields.next();
        Some(Self::new(next()?, next()?, next()?, next()?.parse().ok()?))
    }
}

/// What a child can be asked for: a name and its arguments.
pub(crate) fn serve(arguments: &[String]) {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let rows = match words[..] {
        ["speed", keys, quick] => speed::measure(number(keys), flag(quick)),
        ["shapes", keys, quick] => speed::measure_shapes(number(keys), flag(quick)),
        ["ways", keys, quick] => speed::measure_ways(number(keys), flag(quick)),
        ["wrapped", keys, quick] => speed::measure_wrapped(number(keys), flag(quick)),
        ["allocations"] => memory::measure_allocations(),
        ["memory", who, shape, keys] => memory::measure(who, shape, number(keys)),
        ["grow", who, keys] => pauses::measure_growth(who, number(keys)),
        ["sweep", who, keys] => pauses::measure_sweep(who, number(keys)),
        ["quiet"] => pauses::measure_quiet(),
        _ => panic!("no such measurement: {words:?}"),
    };
    rows.iter().for_each(Row::print);
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

fn flag(text: &str) -> crate::Size {
    crate::Size { quick: text == "true" }
}

/// Runs a measurement in a child, and gives what it measured.
pub(crate) fn run(arguments: &[&str]) -> Vec<Row> {
    eprintln!("measuring: {}", arguments.join(" "));
    let program = std::env::current_exe().expect("the path of this program");
    let output = Command::new(program)
        .arg(MARK)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .expect("this program can be started");
    assert!(output.status.success(), "{arguments:?} failed: {}", output.status);
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| Row::parse(line).expect("a row")).collect()
}
