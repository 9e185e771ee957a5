//! What a replay found, as text.

use std::io::{self, Write};
use std::time::Duration;

use traffik::Rate;

use crate::simulation::kind::reason;
use crate::simulation::outcome::{Limited, Outcome, Tally};
use crate::simulation::time;

/// Prints the whole report, with at most `top` clients.
pub(crate) fn print(
    out: &mut impl Write,
    outcome: &Outcome,
    rate: Rate,
    top: usize,
) -> io::Result<()> {
    print_log(out, outcome)?;
    if let Some(Tally { kind, denied, clients, .. }) = outcome.tallies.first() {
        let [denied, requests] = [denied, &outcome.requests].map(grouped);
        let [limited, clients] = [clients, &outcome.clients].map(grouped);
        writeln!(
            out,
            "\n{rate} by {kind} would have limited {limited} of {clients} clients, \
             and denied {denied} of {requests} requests."
        )?;
        print_clients(out, &outcome.limited, top)?;
    }
    writeln!(out, "\nThe same log at {rate} by each strategy:\n")?;
    print_strategies(out, &outcome.tallies)
}

fn print_log(out: &mut impl Write, outcome: &Outcome) -> io::Result<()> {
    let (requests, clients) = (grouped(outcome.requests), grouped(outcome.clients));
    write!(out, "{requests} requests of {clients} clients")?;
    if let Some((first, last)) = outcome.span {
        write!(out, ", {} to {} UTC", time::show(first), time::show(last))?;
    }
    writeln!(out)?;
    if outcome.skipped.lines > 0 {
        writeln!(
            out,
            "{} lines could not be read and were skipped",
            grouped(outcome.skipped.lines)
        )?;
    }
    if outcome.back.lines > 0 {
        let (lines, furthest) = (grouped(outcome.back.lines), short(outcome.back.furthest));
        writeln!(
            out,
            "{lines} lines are older than one before them, by {furthest} at most; \
             all were replayed in the order of the file"
        )?;
    }
    Ok(())
}

fn print_clients(out: &mut impl Write, limited: &[Limited], top: usize) -> io::Result<()> {
    let shown = &limited[..limited.len().min(top)];
    if shown.is_empty() {
        return Ok(());
    }
    let wide = shown.iter().map(|limited| limited.client.len()).fold(6, usize::max);
    writeln!(
        out,
        "\n  {:wide$}  {:>9}  {:>9}  {:19}  {:>12}  user agent",
        "client", "requests", "denied", "first denied (UTC)", "longest wait"
    )?;
    for Limited { client, requests, denied, first, longest_wait, agent } in shown {
        let (requests, denied) = (grouped(*requests), grouped(*denied));
        let wait = longest_wait.map_or_else(|| "for ever".into(), short);
        let (first, agent) = (time::show(*first), agent.as_deref().unwrap_or("-"));
        writeln!(
            out,
            "  {client:wide$}  {requests:>9}  {denied:>9}  {first:19}  {wait:>12}  {agent}"
        )?;
    }
    match limited.len() - shown.len() {
        0 => Ok(()),
        more => writeln!(out, "  and {} more", grouped(more)),
    }
}

fn print_strategies(out: &mut impl Write, tallies: &[Tally]) -> io::Result<()> {
    writeln!(
        out,
        "  {:22}  {:>11}  {:>11}  {:>15}",
        "strategy", "allowed", "denied", "clients limited"
    )?;
    for Tally { kind, allowed, denied, clients, refused } in tallies {
        if let Some(error) = refused {
            writeln!(out, "  {kind:22}  {}", reason(error))?;
            continue;
        }
        let (allowed, denied) = (grouped(*allowed), grouped(*denied));
        writeln!(out, "  {kind:22}  {allowed:>11}  {denied:>11}  {:>15}", grouped(*clients))?;
    }
    Ok(())
}

/// `1,234,567`.
pub(crate) fn grouped(number: impl ToString) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1.5 s`, `2 min 5 s`, `3 h 10 min`: enough for a reader.
pub(crate) fn short(duration: Duration) -> String {
    // To the tenth of a second, up: who waits for what is shown has waited long enough.
    let tenths = duration.as_millis().div_ceil(100);
    match tenths / 10 {
        0..60 => format!("{}.{} s", tenths / 10, tenths % 10),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_durations_are_short() {
        assert_eq!(["0", "999", "1,000", "12,345,678"], [0, 999, 1000, 12_345_678].map(grouped));
        let millis = [0, 1, 900, 1_500, 59_901, 125_000, 11_400_000];
        let shown = millis.map(|millis| short(Duration::from_millis(millis)));
        let expected = ["0.0 s", "0.1 s", "0.9 s", "1.5 s", "1 min 0 s", "2 min 5 s", "3 h 10 min"];
        assert_eq!(shown, expected);
    }
}
