//! The time zone whose days a summary has, with the database of zones that is compiled in: all
//! processes have the same rules, whatever their machines and database servers know.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::timestamp::{MAX, MICROS_A_DAY, MICROS_A_SECOND, MIN, day};

/// The name of the default.
const UTC: &str = "UTC";

/// A time zone by its name in the IANA database. The default is UTC, which costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone {
    /// `None` for UTC.
    other: Option<TimeZone>,
}

/// A name that the database of time zones does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown time zone `{0}`: write a name of the IANA database, such as `Europe/Berlin`, or `UTC`"
)]
pub struct UnknownZone(String);

impl Zone {
    /// The zone of this name.
    ///
    /// # Errors
    /// The database of time zones, as of the release, does not have it.
    pub fn named(name: &str) -> Result<Self, UnknownZone> {
        if name == UTC {
            return Ok(Self::default());
        }
        let zone = TimeZoneDatabase::bundled().get(name);
        let zone = zone.map_err(|_| UnknownZone(name.to_owned()))?;
        Ok(Self { other: Some(zone) })
    }

    /// Whether it is the default.
    #[must_use]
    pub const fn is_utc(&self) -> bool {
        self.other.is_none()
    }

    /// Its name, as the database of time zones writes it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.other
            .as_ref()
            .and_then(TimeZone::iana_name)
            .unwrap_or(UTC)
    }

    /// The day of a timestamp in this zone, in days since 1970-01-01. Days of the years 1000 to
    /// 9999 only, since a database has no others: a zone moves no time out of them.
    #[must_use]
    pub fn day(&self, us: i64) -> i32 {
        let Some(zone) = &self.other else {
            return day(us);
        };
        // The last two days of the year 9999 are later than the last timestamp of the library.
        let at = Timestamp::from_microsecond(us).unwrap_or(Timestamp::MAX);
        let offset = i64::from(zone.to_offset(at).seconds());
        day(us + offset * MICROS_A_SECOND).clamp(day(MIN), day(MAX))
    }

    /// The timestamp of 00:00 UTC on the day of a timestamp in this zone: a date in a database.
    #[must_use]
    pub fn date(&self, us: i64) -> i64 {
        i64::from(self.day(us)) * MICROS_A_DAY
    }
}

impl TryFrom<String> for Zone {
    type Error = UnknownZone;

    fn try_from(name: String) -> Result<Self, UnknownZone> {
        Self::named(&name)
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.name().to_owned()
    }
}

impl JsonSchema for Zone {
    fn schema_name() -> Cow<'static, str> {
        String::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::timestamp::{parse, text};

    fn date(zone: &str, time: &str) -> String {
        let zone = Zone::named(zone).unwrap();
        text(zone.date(parse(time).unwrap()))[..10].to_owned()
    }

    /// The days on which the clocks change have 23 and 25 hours.
    #[test]
    fn days_begin_at_local_midnight_also_when_clocks_change() {
        let hours = |zone: &str, day: &str, noon: &str| {
            let noon = parse(noon).unwrap();
            let zone = Zone::named(zone).unwrap();
            let hours = (-36..36).map(|hour| noon + hour * 3_600 * MICROS_A_SECOND);
            let of_day = hours.filter(|us| &text(zone.date(*us))[..10] == day);
            of_day.count()
        };
        assert_eq!(
            hours("Europe/Berlin", "2026-03-28", "2026-03-28T12:00:00Z"),
            24
        );
        assert_eq!(
            hours("Europe/Berlin", "2026-03-29", "2026-03-29T12:00:00Z"),
            23
        );
        assert_eq!(
            hours("Europe/Berlin", "2026-10-25", "2026-10-25T12:00:00Z"),
            25
        );
        assert_eq!(
            hours("America/New_York", "2026-11-01", "2026-11-01T12:00:00Z"),
            25
        );
        for (time, day) in [
            ("2026-03-28T22:59:59.999999Z", "2026-03-28"),
            ("2026-03-28T23:00:00Z", "2026-03-29"),
            ("2026-03-29T21:59:59.999999Z", "2026-03-29"),
            ("2026-03-29T22:00:00Z", "2026-03-30"),
            ("2026-10-24T22:00:00Z", "2026-10-25"),
            ("2026-10-25T22:59:59.999999Z", "2026-10-25"),
            ("2026-10-25T23:00:00Z", "2026-10-26"),
        ] {
            assert_eq!(date("Europe/Berlin", time), day, "{time}");
        }
        // A day that Samoa left out, and an offset of 45 minutes.
        assert_eq!(date("Pacific/Apia", "2011-12-30T09:59:59Z"), "2011-12-29");
        assert_eq!(date("Pacific/Apia", "2011-12-30T10:00:00Z"), "2011-12-31");
        assert_eq!(date("Asia/Kathmandu", "2026-01-01T18:15:00Z"), "2026-01-02");
    }

    #[test]
    fn names_are_checked_and_utc_is_the_default() {
        assert!(Zone::default().is_utc() && Zone::named("UTC").unwrap().is_utc());
        assert_eq!(
            Zone::named("europe/berlin").unwrap().name(),
            "Europe/Berlin"
        );
        for unknown in ["Europe/Berln", "", "+02:00", "localtime"] {
            let error = Zone::named(unknown).unwrap_err().to_string();
            assert!(
                error.contains(&format!("unknown time zone `{unknown}`")),
                "{error}"
            );
        }
    }

    proptest! {
        /// The same day as the calendar of the library, and always one that a database has.
        #[test]
        fn days_are_those_of_the_calendar(
            us in prop_oneof![MIN..=MAX, -2_000_000_000_000_000_i64..4_000_000_000_000_000],
            name in prop::sample::select(vec![
                "UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Kiritimati",
            ]),
        ) {
            let day_text = &text(Zone::named(name).unwrap().date(us))[..10];
            if let Ok(at) = Timestamp::from_microsecond(us) {
                let zone = TimeZoneDatabase::bundled().get(name).unwrap();
                let local = zone.to_datetime(at).date();
                if (1000..=9999).contains(&local.year()) {
                    prop_assert_eq!(day_text, local.to_string());
                }
            }
        }
    }
}
