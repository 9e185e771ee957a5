//! The main result as a picture: how many times as fast as governor, for each shape of key.

use std::fmt::Write as _;

/// A bar: what was measured, and the ratio.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) ratio: f64,
}

const WIDTH: f64 = 760.0;
/// Where the bars begin.
const LEFT: f64 = 330.0;
const ROW: f64 = 24.0;
const TOP: f64 = 44.0;
const LINE: f64 = 16.0;

/// Draws the bars in groups; each has a title. The lines tell where it was measured.
pub(crate) fn draw(groups: &[(String, Vec<Bar>)], lines: &[String]) -> String {
    let bars = groups.iter().flat_map(|(_, bars)| bars);
    let most = bars.map(|bar| bar.ratio).fold(1.2, f64::max);
    let scale = (WIDTH - LEFT - 60.0) / most;
    let rows: usize = groups.iter().map(|(_, bars)| bars.len() + 1).sum();
    let height = TOP + rows as f64 * ROW + 20.0 + lines.len() as f64 * LINE;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13" fill="currentColor">"#
    );
    let _ = writeln!(
        svg,
        "<style>svg {{ color: #24292f; }} @media (prefers-color-scheme: dark) {{ svg {{ color: #d1d9e0; }} }}</style>"
    );
    let _ = writeln!(
        svg,
        r#"<text x="8" y="22" font-size="15" font-weight="bold">Checks a second, governor's as 1: one thread</text>"#
    );
    let mut y = TOP;
    for (title, bars) in groups {
        let _ = writeln!(
            svg,
            r#"<text x="8" y="{:.0}" font-weight="bold">{}</text>"#,
            y + 16.0,
            escaped(title)
        );
        y += ROW;
        for Bar { label, ratio } in bars {
            let colour = if *ratio >= 1.0 { "#1a7f5a" } else { "#b35900" };
            let _ = writeln!(
                svg,
                r#"<text x="{:.0}" y="{:.0}" text-anchor="end">{}</text><rect x="{LEFT:.0}" y="{:.0}" width="{:.1}" height="16" rx="2" fill="{colour}"/><text x="{:.0}" y="{:.0}">{ratio:.2}</text>"#,
                LEFT - 8.0,
                y + 14.0,
                escaped(label),
                y + 2.0,
                ratio * scale,
                LEFT + ratio * scale + 6.0,
                y + 14.0
            );
            y += ROW;
        }
    }
    let one = LEFT + scale;
    let _ = writeln!(
        svg,
        r#"<line x1="{one:.1}" y1="{TOP:.0}" x2="{one:.1}" y2="{y:.0}" stroke="currentColor" stroke-dasharray="4 3"/>"#
    );
    for line in lines {
        y += LINE;
        let _ = writeln!(
            svg,
            r#"<text x="8" y="{:.0}" font-size="11">{}</text>"#,
            y + 8.0,
            escaped(line)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
