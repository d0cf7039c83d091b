//! Plots of ratios: one bar for each row, with the goal as a line across it, in SVG.

use std::fmt::Write;

use crate::report::Line;

const LABELS: f64 = 190.0;
const BARS: f64 = 460.0;
const PEERS: f64 = 250.0;
const STEP: f64 = 24.0;
const TOP: f64 = 62.0;

/// Draws the rows of one suite; bars end at the right edge where the ratio is larger than the scale.
pub fn draw(suite: &str, lines: &[&Line]) -> String {
    let rows: Vec<(&Line, f64)> = lines
        .iter()
        .filter_map(|line| Some((*line, line.ratio()?)))
        .collect();
    // Up to twice the peer's is worth seeing in proportion; what is beyond only has to be seen as being beyond.
    let largest = rows.iter().map(|(_, ratio)| *ratio).fold(1.0, f64::max);
    let scale = BARS / (largest.min(2.0) * 1.05);
    let x = |ratio: f64| LABELS + (ratio * scale).min(BARS);
    let bottom = TOP + STEP * rows.len() as f64;
    let (width, height) = (LABELS + BARS + PEERS, bottom + 44.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    text(
        &mut svg,
        12.0,
        24.0,
        "font-size=\"16\" fill=\"#222222\"",
        &format!("{suite}: ours divided by the peer's"),
    );
    text(
        &mut svg,
        12.0,
        42.0,
        "fill=\"#555555\"",
        "shorter is better; the dark line is the goal, the dashed one the peer",
    );
    for tick in 0..=(2.0 * largest.min(2.0)) as u32 {
        let ratio = f64::from(tick) / 2.0;
        let style = if tick == 2 {
            "stroke=\"#666666\" stroke-dasharray=\"4 3\""
        } else {
            "stroke=\"#dddddd\""
        };
        line(&mut svg, x(ratio), TOP - 6.0, bottom, style);
        text(
            &mut svg,
            x(ratio),
            bottom + 16.0,
            "text-anchor=\"middle\" fill=\"#555555\"",
            &format!("{ratio}"),
        );
    }
    for (number, (row, ratio)) in rows.iter().enumerate() {
        let y = TOP + STEP * number as f64;
        let colour = match row.goal() {
            Some(goal) if *ratio > goal => "#c8553d",
            Some(_) => "#3f7d58",
            None => "#7a8ca3",
        };
        text(
            &mut svg,
            LABELS - 8.0,
            y + 13.0,
            "text-anchor=\"end\" fill=\"#222222\"",
            row.name(),
        );
        let _ = writeln!(
            svg,
            "<rect x=\"{LABELS}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
            x(*ratio) - LABELS,
            STEP - 7.0
        );
        if let Some(goal) = row.goal() {
            line(
                &mut svg,
                x(goal),
                y - 3.0,
                y + STEP - 4.0,
                "stroke=\"#222222\" stroke-width=\"2\"",
            );
        }
        let note = format!("{ratio:.2}  {}", row.peer());
        text(
            &mut svg,
            LABELS + BARS + 8.0,
            y + 13.0,
            "fill=\"#222222\"",
            &note,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn line(svg: &mut String, x: f64, from: f64, to: f64, style: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x:.1}\" y1=\"{from:.1}\" x2=\"{x:.1}\" y2=\"{to:.1}\" {style}/>"
    );
}

fn text(svg: &mut String, x: f64, y: f64, style: &str, words: &str) {
    let escaped = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{escaped}</text>"
    );
}
