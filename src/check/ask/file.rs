//! A file and what is expected in it.

use super::Field;
use crate::check::matcher::{Fields, Matcher, Path};

/// A file of the learner's.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its path.
    pub path: String,
    /// What is expected.
    pub expect: FileExpect,
}

/// What is expected of a file.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileExpect {
    /// Its text.
    pub text: Option<Matcher>,
    /// Its size in bytes.
    pub size: Option<Matcher>,
    /// Values within it, read as YAML (of which JSON is a part): `$` is the array of its documents.
    pub documents: Option<Fields>,
}

impl File {
    /// Returns what is wrong with the question, if anything.
    pub fn asks_nothing(&self) -> Option<String> {
        let expect = &self.expect;
        let nothing = expect.text.is_none() && expect.size.is_none() && expect.documents.is_none();
        nothing.then(|| "`expect` asks nothing; give it `text`, `size` or `documents`".into())
    }

    /// Returns what is expected of the file that was found.
    pub(super) fn fields(&self) -> Vec<Field> {
        let root = Path::root();
        let named = [("text", &self.expect.text), ("size", &self.expect.size)];
        let mut fields: Vec<_> = named
            .into_iter()
            .filter_map(|(name, matcher)| Some(Field::at(name, &root, matcher.as_ref()?)))
            .collect();
        for (path, matcher) in self.expect.documents.iter().flat_map(|fields| &fields.0) {
            fields.push(Field::at("documents", path, matcher));
        }
        fields
    }

    /// Applies `f` to every text that may hold placeholders.
    pub(super) fn map_text(&self, f: &dyn Fn(&str) -> String) -> Self {
        Self {
            path: f(&self.path),
            expect: FileExpect {
                text: self.expect.text.as_ref().map(|matcher| matcher.map_text(f)),
                size: self.expect.size.as_ref().map(|matcher| matcher.map_text(f)),
                documents: self.expect.documents.as_ref().map(|fields| fields.map_text(f)),
            },
        }
    }
}
