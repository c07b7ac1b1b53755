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
    let mut total = 0_u128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number = &rest[..digits];
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3600 * 1_000_000_000,
            _ => return None,
        };
        total = total.checked_add(nanoseconds(number, unit)?)?;
        rest = &rest[unit_end..];
    }
    u64::try_from(total).ok().map(Duration::from_nanos).filter(|time| *time <= LONGEST)
}

/// A decimal number of a unit; what is below a nanosecond is cut off.
fn nanoseconds(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits =
        |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u64>().map(u128::from).ok() };
    // More than are worth a nanosecond of an hour.
    let kept = fraction.len().min(18);
    let scale = 10_u128.pow(u32::try_from(kept).ok()?);
    let is_number = fraction.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(digits(whole)? * unit + digits(&fraction[..kept])? * unit / scale)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, millis) in
            [("10ms", 10), ("1h30m", 5_400_000), ("1.5h", 5_400_000), ("2s", 2000), ("0", 0), ("0s", 0)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "1", "-1s", "s", "1x", "1h2", "..s", "ten", "99999999999999999999h", "2562048h"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_that_can_be_added_or_nothing(text in "[-+0-9.hmsnuµ ]{0,24}|\\PC{0,12}") {
            if let Some(time) = parse(&text) {
                prop_assert!(time <= LONGEST);
                prop_assert!(std::time::Instant::now().checked_add(time * 2).is_some());
            }
        }

        #[test]
        fn whole_parts_add_up(hours in 0u64..5000, minutes in 0u64..100, seconds in 0u64..100, millis in 0u64..5000) {
            let text = format!("{hours}h{minutes}m{seconds}s{millis}ms");
            let whole = Duration::from_millis(((hours * 60 + minutes) * 60 + seconds) * 1000 + millis);
            prop_assert_eq!(parse(&text), Some(whole));
        }
    }
}
