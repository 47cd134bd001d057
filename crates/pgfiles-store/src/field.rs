//! One field of `meta` as it comes in: [`Field`].
//!
//! A listing reads a dozen fields of each of thousands of rows, most of them short strings and numbers. So a string that stands
//! in the answer as it is stays there, and a tree is built only of what is one.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A JSON value whose strings may be borrowed.
#[derive(Debug, Clone)]
pub(crate) enum Field<'a> {
    /// A string.
    Text(Cow<'a, str>),
    /// A whole number that is not negative.
    Whole(u64),
    /// True or false.
    Bool(bool),
    /// Anything else.
    Tree(Value),
}

impl Field<'_> {
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Field::Text(text) => Some(text),
            Field::Whole(_) | Field::Bool(_) | Field::Tree(_) => None,
        }
    }

    pub(crate) fn as_u64(&self) -> Option<u64> {
        match self {
            Field::Whole(number) => Some(*number),
            Field::Text(_) | Field::Bool(_) | Field::Tree(_) => None,
        }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self {
            Field::Bool(yes) => Some(*yes),
            Field::Text(_) | Field::Whole(_) | Field::Tree(_) => None,
        }
    }

    pub(crate) fn as_object(&self) -> Option<&Map<String, Value>> {
        match self {
            Field::Tree(value) => value.as_object(),
            Field::Text(_) | Field::Whole(_) | Field::Bool(_) => None,
        }
    }

    /// As a tree of its own; null is left.
    pub(crate) fn take_value(&mut self) -> Value {
        match std::mem::replace(self, Field::Tree(Value::Null)) {
            Field::Text(text) => text.into_owned().into(),
            Field::Whole(number) => number.into(),
            Field::Bool(yes) => yes.into(),
            Field::Tree(value) => value,
        }
    }
}

impl<'a> From<&'a Value> for Field<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::String(text) => Field::Text(Cow::Borrowed(text)),
            Value::Bool(yes) => Field::Bool(*yes),
            Value::Number(number) if number.is_u64() => Field::Whole(number.as_u64().unwrap_or_default()),
            value => Field::Tree(value.clone()),
        }
    }
}

impl<'de> Deserialize<'de> for Field<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Owned(text)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Field::Whole(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(u64::try_from(number).map_or_else(|_| Field::Tree(number.into()), Field::Whole))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Field::Tree(number.into()))
    }

    fn visit_bool<E: Error>(self, yes: bool) -> Result<Self::Value, E> {
        Ok(Field::Bool(yes))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Field::Tree(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        Value::deserialize(SeqAccessDeserializer::new(seq)).map(Field::Tree)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Value::deserialize(MapAccessDeserializer::new(map)).map(Field::Tree)
    }
}
