//! Durations as Go writes them: `1h30m`, `10ms`, `1.5h`.

use std::time::Duration;

/// The longest that Go knows, about 292 years: it can be added to any time of a clock.
const LONGEST: Duration = Duration::from_nanos(i64::MAX.unsigned_abs());

/// `None` for what Go would not read, and for negative times.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * seconds;
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(total).ok().filter(|time| *time <= LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, millis) in
            [("10ms", 10), ("1h30m", 5_400_000), ("1.5h", 5_400_000), ("2s", 2000), ("0", 0), ("0s", 0)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "1", "-1s", "s", "1x", "1h2", "..s", "ten", "99999999999999999999h"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
