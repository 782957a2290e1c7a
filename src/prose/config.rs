//! `prose.toml`: what a project tells labctl about its prose. Unknown keys, rules and registers are refused with their
//! place and with what was perhaps meant.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use serde::Deserialize;
use toml::Spanned;

use super::rule::{Rule, Rules, acceptable};
use super::slop::Register;
use super::toml_file::{self, Wrong};
use crate::error::{Code, Diagnosis};

/// The name of the file, at the top of a project.
pub const FILE: &str = "prose.toml";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    exclude: Vec<Spanned<String>>,
    chapters: Vec<Spanned<String>>,
    off: Vec<Spanned<String>>,
    words: Words,
    names: BTreeMap<String, Vec<String>>,
    terms: Terms,
    fences: Fences,
    whitespace: Whitespace,
    registers: BTreeMap<String, Spanned<Vec<Spanned<String>>>>,
    rule: Vec<Spanned<Rule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Words {
    accept: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Terms {
    known: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fences {
    tests: Vec<Spanned<String>>,
    sessions: Vec<Spanned<String>>,
    on_lab: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Whitespace {
    keep: Vec<Spanned<String>>,
}

/// A set of files, in the form of `.gitignore`.
#[derive(Debug, Clone)]
pub struct Globs(Gitignore);

impl Globs {
    /// Returns whether a file, named from the project's top, is in the set.
    pub fn has(&self, path: &Path) -> bool {
        !self.is_empty() && !path.has_root() && self.0.matched_path_or_any_parents(path, false).is_ignore()
    }

    /// Returns whether no file can be in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn none() -> Self {
        Self(Gitignore::empty())
    }
}

/// What a project says of its prose.
#[derive(Debug, Clone)]
pub struct Config {
    /// The project's top: the directory of `prose.toml`, or of the repository.
    pub root: PathBuf,
    /// The rules, a project's own included.
    pub rules: Arc<Rules>,
    /// Ids of rules that are off.
    pub off: Vec<String>,
    /// Files that are not looked at.
    pub exclude: Globs,
    /// Files that are chapters of a course, read in the order of their names.
    pub chapters: Globs,
    /// Words that are spelt as meant, in lower case.
    pub accept: Vec<String>,
    /// Names as they are written, with ways in which they are not.
    pub names: BTreeMap<String, Vec<String>>,
    /// Abbreviations that readers know.
    pub terms: Vec<String>,
    /// Files with tests, in which commands of chapters must be found.
    pub tests: Globs,
    /// Files whose sessions a test runs; see [`super::span::Fence::is_session`].
    pub sessions: Globs,
    /// Files whose sessions a test runs that has a lab for them.
    pub on_lab: Globs,
    /// Files whose white space is content.
    pub keep: Globs,
    registers: Vec<(Register, Globs)>,
}

impl Config {
    /// Returns what holds for a project without `prose.toml`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            rules: Arc::clone(Rules::built_in()),
            off: Vec::new(),
            exclude: Globs::none(),
            chapters: Globs::none(),
            accept: Vec::new(),
            names: BTreeMap::new(),
            terms: Vec::new(),
            tests: Globs::none(),
            sessions: Globs::none(),
            on_lab: Globs::none(),
            keep: Globs::none(),
            registers: Vec::new(),
        }
    }

    /// Finds and reads the `prose.toml` of a place: in it, or in a directory above, up to the repository's top.
    ///
    /// # Errors
    /// [`Code::SpecUnreadable`] or [`Code::SpecInvalid`], with the line.
    pub fn find(place: &Path) -> Result<Self> {
        let absolute = std::path::absolute(place).unwrap_or_else(|_| place.to_owned());
        let start = if absolute.is_dir() {
            absolute.as_path()
        } else {
            absolute.parent().unwrap_or(Path::new("/"))
        };
        for dir in start.ancestors() {
            let file = dir.join(FILE);
            if file.is_file() {
                return Self::read(&file);
            }
            if dir.join(".git").exists() {
                return Ok(Self::new(dir));
            }
        }
        Ok(Self::new(start))
    }

    /// Reads a `prose.toml`.
    ///
    /// # Errors
    /// As [`Config::find`].
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            anyhow::Error::new(error).context(
                Diagnosis::new(Code::SpecUnreadable, format!("read `{}`", file.display()))
                    .hint("--config names another file; without one the defaults hold"),
            )
        })?;
        let root = file
            .parent()
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        Self::parse(&text, root).map_err(|wrong| {
            let before = wrong.at.and_then(|at| text.get(..at.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            Diagnosis::new(
                Code::SpecInvalid,
                format!("{}:{line}:{column}: {}", file.display(), wrong.text),
            )
            .hint("labctl prose rules lists the rules; labctl prose --help lists the keys")
            .error()
        })
    }

    /// Reads the text of a `prose.toml` for the project at `root`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str, root: &Path) -> Result<Self, Wrong> {
        let raw: Raw = toml_file::read(text)?;
        let mut config = Self::new(root);
        if !raw.rule.is_empty() {
            for rule in &raw.rule {
                acceptable(rule.get_ref(), rule.span())?;
            }
            let places: Vec<_> = raw.rule.iter().map(Spanned::span).collect();
            let own = raw.rule.into_iter().map(Spanned::into_inner).collect();
            let rules = config.rules.with(own).map_err(|(index, text)| Wrong {
                at: places.get(index).cloned(),
                text,
            })?;
            config.rules = Arc::new(rules);
        }
        for id in raw.off {
            let at = Some(id.span());
            let id = id.into_inner();
            if config.rules.find(&id).is_none() {
                let known: Vec<&str> = config.rules.all().iter().map(|rule| rule.id.as_str()).collect();
                return Err(Wrong {
                    at,
                    text: toml_file::unknown("rule", &id, &known),
                });
            }
            config.off.push(id);
        }
        for (name, globs) in &raw.registers {
            let Some(register) = Register::ALL.into_iter().find(|register| register.name() == name) else {
                let known = Register::ALL.map(Register::name);
                return Err(Wrong {
                    at: Some(globs.span()),
                    text: toml_file::unknown("register", name, &known),
                });
            };
            config.registers.push((register, set(root, globs.get_ref())?));
        }
        config.exclude = set(root, &raw.exclude)?;
        config.chapters = set(root, &raw.chapters)?;
        config.tests = set(root, &raw.fences.tests)?;
        config.sessions = set(root, &raw.fences.sessions)?;
        config.on_lab = set(root, &raw.fences.on_lab)?;
        config.keep = set(root, &raw.whitespace.keep)?;
        config.accept = raw.words.accept.iter().map(|word| word.to_lowercase()).collect();
        config.names = raw.names;
        config.terms = raw.terms.known;
        Ok(config)
    }

    /// Returns the register of a file, named from the project's top.
    pub fn register(&self, path: &Path) -> Register {
        let found = self.registers.iter().find(|(_, globs)| globs.has(path));
        found.map_or(Register::HowTo, |(register, _)| *register)
    }

    /// Returns a path as it is named from the project's top, where it is below it.
    pub fn relative(&self, path: &Path) -> PathBuf {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let root = std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
        absolute.strip_prefix(&root).map_or(absolute.clone(), Path::to_owned)
    }
}

fn set(root: &Path, globs: &[Spanned<String>]) -> Result<Globs, Wrong> {
    if globs.is_empty() {
        return Ok(Globs::none());
    }
    _ = root;
    // Paths are matched as they are named from the top, so the set has no root of its own.
    let mut builder = GitignoreBuilder::new("");
    for glob in globs {
        let wrong = |error: ignore::Error| Wrong {
            at: Some(glob.span()),
            text: error.to_string(),
        };
        builder.add_line(None, glob.get_ref()).map_err(wrong)?;
    }
    builder.build().map(Globs).map_err(|error| Wrong {
        at: globs.first().map(Spanned::span),
        text: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_refused_where_it_stands() {
        let wrong = |text: &str| {
            let wrong = Config::parse(text, Path::new("/p")).expect_err(text);
            let at = wrong.at.and_then(|at| text.get(at)).unwrap_or_default().to_owned();
            (wrong.text, at)
        };
        assert_eq!(
            wrong("exclud = []"),
            ("unknown key `exclud`; did you mean `exclude`?".into(), "exclud".into())
        );
        assert_eq!(
            wrong("off = ['speling']"),
            (
                "unknown rule `speling`; did you mean `spelling`?".into(),
                "'speling'".into()
            )
        );
        assert_eq!(
            wrong("[registers]\nhow-too = ['a']").0,
            "unknown register `how-too`; did you mean `how-to`?"
        );
        assert!(wrong("exclude = ['[z-a]']").0.contains("z-a"));
        assert!(
            wrong("[[rule]]\nid = 'x'\nclass = 'slop'\nstrength = 'weak'\nmessage = ''\nwhy = ''\ninstead = ''")
                .0
                .contains("patterns")
        );
    }

    #[test]
    fn globs_are_gitignores() {
        let config = Config::parse(
            "exclude = ['*.snap', '/assets/go', 'docs/**/old.md']\nchapters = ['labs/[0-9]*/README.md']",
            Path::new("/p"),
        )
        .expect("good");
        for inside in ["a.snap", "x/y.snap", "assets/go/main.go", "docs/a/b/old.md"] {
            assert!(config.exclude.has(Path::new(inside)), "{inside}");
        }
        for outside in ["a.md", "x/assets/go/main.go", "docs/new.md"] {
            assert!(!config.exclude.has(Path::new(outside)), "{outside}");
        }
        assert!(config.chapters.has(Path::new("labs/01-kind-cluster/README.md")));
        assert!(!config.chapters.has(Path::new("labs/blog/README.md")));
    }

    #[test]
    fn a_rule_of_the_project_is_one_more_rule() {
        let text = "[[rule]]\nid = 'no-foo'\nclass = 'copyedit'\nstrength = 'strong'\nmessage = 'm'\nwhy = 'w'\ninstead = 'i'\n\
                    patterns = ['foo bar']\nbad = ['a foo bar']\ngood = ['a foo']\n";
        let config = Config::parse(text, Path::new("/p")).expect("good");
        assert!(config.rules.find("no-foo").is_some());
        assert!(config.rules.find("spelling").is_some());
        let twice = text.replace("no-foo", "spelling");
        let wrong = Config::parse(&twice, Path::new("/p")).expect_err("twice");
        assert_eq!(wrong.text, "a second rule has the id `spelling`");
    }
}
