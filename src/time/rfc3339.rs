//! RFC 3339: texts of points in time, such as `2026-01-31T12:00:00Z`.

use jiff::Timestamp;

/// Formats milliseconds since 1970 with three decimals, such as `2026-01-31T12:00:00.250Z`.
/// A time after the year 9999 becomes the last time that RFC 3339 can express.
pub fn format_ms(ms: u64) -> String {
    format!("{:.3}", timestamp(ms))
}

/// Formats milliseconds since 1970 as whole seconds, such as `2026-01-31T12:00:00Z`.
pub fn format_seconds(ms: u64) -> String {
    format!("{:.0}", timestamp(ms))
}

/// Parses a date, a time and an offset into milliseconds since 1970. Returns `None` for a text
/// that is not RFC 3339 and for a time before 1970.
pub fn parse_ms(text: &str) -> Option<u64> {
    let parsed: Timestamp = text.parse().ok()?;
    parsed.as_millisecond().try_into().ok()
}

fn timestamp(ms: u64) -> Timestamp {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_formatted_and_parsed_again() {
        let noon = 1_769_860_800_250;
        assert_eq!(format_ms(noon), "2026-01-31T12:00:00.250Z");
        assert_eq!(format_ms(noon - 250), "2026-01-31T12:00:00.000Z");
        assert_eq!(format_seconds(noon), "2026-01-31T12:00:00Z");
        assert_eq!(parse_ms(&format_ms(noon)), Some(noon));
        assert_eq!(format_ms(u64::MAX), "9999-12-30T22:00:00.999Z");
    }

    #[test]
    fn an_offset_changes_the_time() {
        let noon = Some(1_769_860_800_000);
        assert_eq!(parse_ms("2026-01-31T12:00:00Z"), noon);
        assert_eq!(parse_ms("2026-01-31T14:00:00+02:00"), noon);
        assert_eq!(parse_ms("2026-01-31T06:30:00-05:30"), noon);
    }

    #[test]
    fn a_text_without_a_time_or_an_offset_is_refused() {
        for text in [
            "",
            "12",
            "yesterday",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-13-31T12:00:00Z",
            "1969-12-31T23:59:59Z",
            "é+02:00",
            "+02:00",
        ] {
            assert_eq!(parse_ms(text), None, "{text}");
        }
    }
}
