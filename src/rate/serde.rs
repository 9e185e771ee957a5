//! `serde` support: a rate is its text form.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

use super::Rate;

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(RateVisitor)
    }
}

struct RateVisitor;

impl Visitor<'_> for RateVisitor {
    type Value = Rate;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a rate such as \"100/min\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Rate, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_its_text() {
        let rate = Rate::per_minute(100).burst(150);
        let json = serde_json::to_string(&rate).unwrap();
        assert_eq!(json, "\"100/min burst 150\"");
        assert_eq!(serde_json::from_str::<Rate>(&json).unwrap(), rate);
        let error = serde_json::from_str::<Rate>("\"5/eon\"").unwrap_err().to_string();
        assert!(error.contains("unknown unit \"eon\""), "{error}");
        assert!(serde_json::from_str::<Rate>("5").is_err());
    }
}
