//! The chart: a group of bars per case, on a scale where doubling is always the same step.

use crate::report::MEASURES;
use crate::table::Row;

const COLOURS: [&str; 4] = ["#2f81c7", "#3fa66a", "#c77b2f", "#8a63c7"];
const LEFT: f64 = 250.0;
const STEP: f64 = 90.0;
const BAR: f64 = 9.0;
const GROUP: f64 = 42.0;
const TOP: f64 = 64.0;
/// Doublings to the left and right of "the same".
const LOWEST: f64 = -1.0;
const HIGHEST: f64 = 4.5;

/// Readable on a light and on a dark ground.
pub fn draw(rows: &[Row]) -> String {
    let (width, height) = (LEFT + STEP * (HIGHEST - LOWEST) + 70.0, TOP + GROUP * rows.len() as f64 + 20.0);
    let x = |ratio: f64| LEFT + STEP * (ratio.log2().clamp(LOWEST, HIGHEST) - LOWEST);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#7d8590\">\n"
    );
    let is_drawn = |place: usize| rows.iter().any(|row| row.better[place].median.is_finite());
    for (place, (name, _, _)) in MEASURES.iter().enumerate().filter(|(place, _)| is_drawn(*place)) {
        let at = LEFT + 150.0 * place as f64;
        svg += &format!(
            "<rect x=\"{at}\" y=\"10\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{}\" y=\"20\">{name}</text>\n",
            COLOURS[place],
            at + 18.0
        );
    }
    let mut doubling = LOWEST;
    while doubling <= HIGHEST {
        let (at, ratio) = (x(doubling.exp2()), doubling.exp2());
        let weight = if doubling == 0.0 { 2.0 } else { 0.5 };
        svg += &format!(
            "<line x1=\"{at}\" y1=\"{}\" x2=\"{at}\" y2=\"{}\" stroke=\"#7d8590\" stroke-width=\"{weight}\"/>\
             <text x=\"{at}\" y=\"{}\" text-anchor=\"middle\">{ratio}x</text>\n",
            TOP - 12.0,
            height - 10.0,
            TOP - 18.0
        );
        doubling += 1.0;
    }
    for (place, row) in rows.iter().enumerate() {
        let top = TOP + GROUP * place as f64;
        svg += &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n",
            LEFT - 10.0,
            top + GROUP / 2.0 - 2.0,
            row.name
        );
        for (number, spread) in row.better.iter().enumerate().filter(|(_, spread)| spread.median.is_finite())
        {
            // What happens once has one bar, in the place of the first.
            let y = top + (BAR + 2.0) * (number % 3) as f64;
            let (from, to) = (x(1.0).min(x(spread.median)), x(1.0).max(x(spread.median)));
            let middle = y + BAR / 2.0;
            svg += &format!(
                "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>\
                 <line x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\" stroke=\"#7d8590\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\">{:.1}x</text>\n",
                (to - from).max(1.0),
                COLOURS[number],
                x(spread.low),
                x(spread.high),
                x(spread.high).max(to) + 5.0,
                middle + 3.5,
                spread.median
            );
        }
    }
    svg + "</svg>\n"
}
