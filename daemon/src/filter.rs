//! The filter language of containerd's list and subscribe calls.
//!
//! A list of filters matches when one of them does; a filter is selectors joined by commas, all of which must match:
//! `name==a`, `labels."x.y"!=b`, `topic~=/^.tasks/`, or a bare field path, which asks for presence.

mod scan;

use std::borrow::Cow;

use regex::Regex;

use crate::error::Result;
use crate::labels::Labels;
use scan::Parser;

/// Something that filters look into.
pub trait Fields {
    /// Returns the value of the field at `path`, or nothing if there is no such field.
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>>;
}

/// A parsed list of filters.
#[derive(Debug, Default)]
pub struct Filter {
    /// Matches if one of these does; empty matches everything.
    any: Vec<Vec<Selector>>,
    everything: bool,
}

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    /// A pattern that does not compile matches nothing, as in containerd.
    Matches(Option<Regex>),
}

impl Filter {
    /// Parses a list of filters; no filter, or an empty one, matches everything.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self> {
        let mut any = Vec::with_capacity(filters.len());
        let mut everything = filters.is_empty();
        for text in filters {
            let text = text.as_ref();
            if text.is_empty() {
                everything = true;
            } else {
                any.push(Parser::new(text).selectors()?);
            }
        }
        Ok(Self { any, everything })
    }

    /// Returns whether `object` is asked for.
    pub fn matches(&self, object: &impl Fields) -> bool {
        self.everything
            || self
                .any
                .iter()
                .any(|all| all.iter().all(|selector| selector.matches(object)))
    }
}

impl Selector {
    fn matches(&self, object: &impl Fields) -> bool {
        let value = object.field(&self.path);
        match (&self.test, value) {
            (Test::Present, value) => value.is_some(),
            (Test::Equal(wanted), Some(value)) => value == wanted.as_str(),
            (Test::NotEqual(wanted), value) => value.is_none_or(|value| value != wanted.as_str()),
            (Test::Matches(Some(pattern)), Some(value)) => pattern.is_match(&value),
            (Test::Equal(_) | Test::Matches(_), _) => false,
        }
    }
}

/// Returns the label that the rest of a field path names: a path of several parts is one key with dots.
pub fn label<'a>(labels: &'a Labels, path: &[String]) -> Option<Cow<'a, str>> {
    let key = path.join(".");
    labels.get(&key).map(|value| Cow::Borrowed(value.as_str()))
}

/// Returns `value` as a field: in containerd's adaptors an empty string is a field that is not present.
pub fn text(value: &str) -> Option<Cow<'_, str>> {
    (!value.is_empty()).then_some(Cow::Borrowed(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    struct Object {
        name: &'static str,
        labels: Labels,
    }

    impl Fields for Object {
        fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
            match path.first()?.as_str() {
                "name" => text(self.name),
                "labels" => label(&self.labels, &path[1..]),
                _ => None,
            }
        }
    }

    fn object() -> Object {
        Object {
            name: "docker.io/library/a:1",
            labels: [("x.y", "1"), ("z", "a b"), ("buildkit/lease", "t")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }

    #[test]
    fn filters_match_as_in_containerd() {
        let cases: &[(&[&str], bool)] = &[
            (&[], true),
            (&[""], true),
            (&["name==docker.io/library/a:1"], true),
            (&["name==b"], false),
            (&["name==b", "name"], true),
            (&["name==b", ""], true),
            (&["name!=b"], true),
            (&["missing!=b"], true),
            (&["missing"], false),
            (&["missing==b"], false),
            (&["labels.x.y==1"], true),
            (&["labels.\"x.y\"==1"], true),
            (&["labels.\"x.y\"==1,labels.z==2"], false),
            (&["labels.\"x.y\"==1, labels.z==\"a b\""], true),
            (&["labels.\"buildkit/lease\""], true),
            (&["name~=/^docker.io/"], true),
            (&["name~=|^docker.io/library|"], true),
            (&["name~=\"^other\""], false),
            (&["name~=docker"], true),
            (&["name~=("], false),
            (&["name == docker.io/library/a:1"], true),
            (&["name==\"docker.io\\u002flibrary/a:1\""], true),
        ];
        for (filters, expected) in cases {
            let filter = Filter::parse(filters).unwrap();
            assert_eq!(filter.matches(&object()), *expected, "{filters:?}");
        }
    }

    #[test]
    fn malformed_filters_are_invalid_arguments() {
        for bad in [
            "name=",
            "name=a",
            "name===a",
            "==a",
            "name==a,",
            "name==\"a",
            "name==/a/",
            ".a",
            "a..b",
            "name==\"\\q\"",
            "name a",
            "a\0",
            "name==",
        ] {
            let error = Filter::parse(&[bad]).expect_err(bad);
            assert_eq!(error.kind(), Kind::InvalidArgument, "{bad}");
        }
    }
}
