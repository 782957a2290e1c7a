//! The rule model. Rules are data: `assets/prose/rules.toml`, and `[[rule]]` in a project's `prose.toml`.
//!
//! A rule with `patterns` is looked for by `super::phrase`; the others are code that names its rule by id. Every rule
//! has examples that it must find and examples that it must leave alone; a test runs them all.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::phrase::Phrases;
use super::toml_file::{self, Wrong};
use crate::assets;

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Spelling, doubled words, links, order: what is wrong by itself
    Copyedit,
    /// Padding and formula, whoever wrote it
    Slop,
    /// Whether a chapter can be followed
    Narrative,
    /// White space
    Whitespace,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::Copyedit, Self::Slop, Self::Narrative, Self::Whitespace];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Copyedit => "copyedit",
            Self::Slop => "slop",
            Self::Narrative => "narrative",
            Self::Whitespace => "whitespace",
        }
    }
}

/// How sure a rule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Strength {
    /// A sign only by density: reported where a document has more of it than 9 of 10 human texts of its register
    Weak,
    /// Mostly right; people may have a reason
    Medium,
    /// Nearly never right
    Strong,
}

impl Strength {
    /// Returns how much a hit weighs in the score.
    pub fn weight(self) -> f64 {
        match self {
            Self::Weak => 1.0,
            Self::Medium => 3.0,
            Self::Strong => 10.0,
        }
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weak => "weak",
            Self::Medium => "medium",
            Self::Strong => "strong",
        }
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name.
    pub id: String,
    /// What it is about.
    pub class: Class,
    /// How sure it is.
    pub strength: Strength,
    /// What is wrong, in one line.
    pub message: String,
    /// Why it matters to a reader.
    pub why: String,
    /// What to do instead.
    pub instead: String,
    /// Phrases that it finds, in the form of `super::phrase`; a rule without them is code.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
    /// Whether comments of programs are looked at too.
    #[serde(default)]
    pub comments: bool,
    /// Texts in which it must find something.
    #[serde(default)]
    pub bad: Vec<String>,
    /// Texts in which it must find nothing.
    #[serde(default)]
    pub good: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    rule: Vec<Rule>,
}

/// All rules of a run.
pub struct Rules {
    all: Vec<Arc<Rule>>,
    by_id: HashMap<String, usize>,
    phrases: Phrases,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all.iter().map(|rule| &rule.id)).finish()
    }
}

impl Rules {
    /// Returns the rules that labctl comes with.
    pub fn built_in() -> &'static Arc<Self> {
        static RULES: OnceLock<Arc<Rules>> = OnceLock::new();
        RULES.get_or_init(|| {
            let text = assets::text("assets/prose/rules.toml").expect("the file is embedded");
            let raw: Raw = toml_file::read(text).expect("a unit test reads the file");
            Arc::new(Self::new(raw.rule).expect("a unit test reads the file"))
        })
    }

    /// Makes a set of rules.
    ///
    /// # Errors
    /// An id is used twice, or a pattern cannot be read: the rule's place in the list, and what is wrong.
    pub fn new(rules: Vec<Rule>) -> Result<Self, (usize, String)> {
        let mut by_id = HashMap::new();
        let mut phrases = Phrases::default();
        for (index, rule) in rules.iter().enumerate() {
            if by_id.insert(rule.id.clone(), index).is_some() {
                return Err((index, format!("a second rule has the id `{}`", rule.id)));
            }
            for pattern in &rule.patterns {
                phrases
                    .add(pattern, index)
                    .map_err(|wrong| (index, format!("rule `{}`: {wrong}", rule.id)))?;
            }
        }
        Ok(Self {
            all: rules.into_iter().map(Arc::new).collect(),
            by_id,
            phrases,
        })
    }

    /// Returns the same rules with a project's own behind them.
    ///
    /// # Errors
    /// As [`Rules::new`]; the place is that in `own`.
    pub fn with(&self, own: Vec<Rule>) -> Result<Self, (usize, String)> {
        let known = self.all.len();
        let all = self.all.iter().map(|rule| (**rule).clone()).chain(own).collect();
        Self::new(all).map_err(|(index, wrong)| (index.saturating_sub(known), wrong))
    }

    /// Returns every rule, in the order of the file.
    pub fn all(&self) -> &[Arc<Rule>] {
        &self.all
    }

    /// Returns the rule of an id.
    pub fn find(&self, id: &str) -> Option<&Arc<Rule>> {
        self.by_id.get(id).map(|index| &self.all[*index])
    }

    /// Returns the phrases of all rules; they are known by the rules' places in [`Rules::all`].
    pub(super) fn phrases(&self) -> &Phrases {
        &self.phrases
    }
}

/// Checks a rule that a project brings along.
///
/// # Errors
/// It can find nothing, or it has no examples.
pub(super) fn acceptable(rule: &Rule, at: Range<usize>) -> Result<(), Wrong> {
    let wrong = |text: String| {
        Err(Wrong {
            at: Some(at.clone()),
            text,
        })
    };
    if rule.patterns.is_empty() {
        return wrong(format!("rule `{}` has no `patterns`, so it can find nothing", rule.id));
    }
    if rule.bad.is_empty() || rule.good.is_empty() {
        return wrong(format!(
            "rule `{}` needs at least one example in `bad` and one in `good`; they are run",
            rule.id
        ));
    }
    Ok(())
}
