//! The course's prose, held to rules that a program can decide: `labctl prose`.
//!
//! [`span`] cuts prose out of Markdown, plain text and comments, with the place of every byte. Rules ([`rule`], data in
//! `assets/prose/rules.toml`) look at it: [`copyedit`] for what is wrong by itself, [`slop`] for padding, [`narrative`]
//! for whether a chapter can be followed, [`whitespace`] for what stands at the ends of lines. A [`Checker`] puts them
//! together for one project and its `prose.toml`; it takes time in proportion to a text's length, and no text makes it
//! panic.

mod allow;
pub mod config;
pub mod copyedit;
pub mod finding;
pub mod hook;
pub mod lsp;
pub mod narrative;
mod phrase;
pub mod rule;
pub mod show;
pub mod slop;
pub mod span;
pub mod toml_file;
pub mod tree;
pub mod whitespace;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use config::Config;
use copyedit::Tested;
use finding::{Finding, Report, Said, Score, Sink};
use rule::{Class, Rule, Rules, Strength};
use slop::Register;
use span::{Document, Language};

/// Files larger than this are not read as prose: nobody wrote them.
pub const LARGEST: usize = 16 << 20;

/// Which rules a run wants.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Ids of rules; all of them where it is empty.
    pub rules: Vec<String>,
    /// Classes; all of them where it is empty.
    pub classes: Vec<Class>,
    /// The weakest strength that is reported.
    pub least: Option<Strength>,
}

impl Selection {
    fn has(&self, rule: &Rule) -> bool {
        (self.rules.is_empty() || self.rules.contains(&rule.id))
            && (self.classes.is_empty() || self.classes.contains(&rule.class))
            && self.least.is_none_or(|least| rule.strength >= least)
    }
}

/// Says why labctl would refuse a command, which is given as its words; nothing for one that it takes or does not know.
pub type Refuses = dyn Fn(&[String]) -> Option<String> + Send + Sync;

/// Looks at the files of one project.
pub struct Checker {
    config: Config,
    /// Ids of the rules that run on a chapter.
    of_chapters: HashSet<String>,
    /// Ids of the rules that run on other files.
    of_files: HashSet<String>,
    chapters: HashMap<PathBuf, Chapter>,
    tested: Tested,
    refuses: Option<Box<Refuses>>,
    anchors: Mutex<HashMap<PathBuf, Arc<Vec<String>>>>,
}

/// What a chapter's rules must know beside its text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chapter {
    /// Its number.
    number: u32,
    /// What works after it, as its `chapter.yaml` says.
    works_after: Option<String>,
    /// Abbreviations that earlier chapters explain.
    terms: HashSet<String>,
}

/// The part of `chapter.yaml` that a chapter's text repeats.
#[derive(Debug, Deserialize)]
struct Spec {
    works_after: Option<String>,
}

/// One look at one document: what rules read and where they report.
pub(crate) struct Look<'l, 'd> {
    document: &'l Document<'d>,
    config: &'l Config,
    active: &'l HashSet<String>,
    sink: Sink<'l>,
    register: Register,
    dir: PathBuf,
    chapter: Option<&'l Chapter>,
    /// Whether a test runs the sessions of this file and compares what they print.
    sessions: bool,
    rates: BTreeMap<String, f64>,
}

impl<'l> Look<'l, '_> {
    /// Returns whether a rule is wanted here.
    fn runs(&self, id: &str) -> bool {
        self.active.contains(id)
    }

    fn rules(&self) -> &'l Arc<Rules> {
        &self.config.rules
    }

    fn rule(&self, id: &str) -> Option<&'l Arc<Rule>> {
        self.config.rules.find(id)
    }

    /// Reports a finding of a rule.
    fn add(&mut self, id: &str, span: Range<usize>, said: Said) {
        if let Some(rule) = self.config.rules.find(id) {
            self.sink.add(rule, span, said);
        }
    }
}

/// What rules ask of other files.
pub(crate) struct Rooms<'c> {
    checker: &'c Checker,
    refuses: Option<&'c Refuses>,
}

impl Rooms<'_> {
    fn tested(&self) -> &Tested {
        &self.checker.tested
    }

    /// Returns the anchors of another Markdown file; it is read once.
    fn anchors(&self, file: &Path) -> Arc<Vec<String>> {
        let key = file.to_owned();
        let known = self
            .checker
            .anchors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned();
        known.unwrap_or_else(|| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let document = Document::new(&text, Language::Markdown);
            let headings = document.headings.into_iter().map(|heading| heading.anchor);
            let anchors: Arc<Vec<String>> = Arc::new(headings.chain(document.anchors).collect());
            let mut all = self.checker.anchors.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(key, Arc::clone(&anchors));
            anchors
        })
    }
}

impl Checker {
    /// Makes a checker for a project. Reads its chapters and the tests that its `prose.toml` names.
    pub fn new(config: Config, selection: &Selection) -> Self {
        let wanted = |chapter: bool| -> HashSet<String> {
            let on = |rule: &&Arc<Rule>| !config.off.contains(&rule.id) && selection.has(rule);
            let here = |rule: &&Arc<Rule>| chapter || rule.class != Class::Narrative;
            let rules = config.rules.all().iter();
            rules.filter(on).filter(here).map(|rule| rule.id.clone()).collect()
        };
        let mut checker = Self {
            of_chapters: wanted(true),
            of_files: wanted(false),
            chapters: HashMap::new(),
            tested: Tested::default(),
            refuses: None,
            anchors: Mutex::default(),
            config,
        };
        checker.read_course();
        checker
    }

    /// Lets commands in chapters be judged by the program that they call.
    #[must_use]
    pub fn with_commands(mut self, refuses: impl Fn(&[String]) -> Option<String> + Send + Sync + 'static) -> Self {
        self.refuses = Some(Box::new(refuses));
        self
    }

    /// Returns what the project says of its prose.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reads chapters in their order, and the tests that run their commands.
    fn read_course(&mut self) {
        if self.config.chapters.is_empty() {
            return;
        }
        let root = self.config.root.clone();
        let mut terms = HashSet::new();
        for path in tree::below(&root) {
            let name = self.config.relative(&path);
            let Ok(text) = std::fs::read_to_string(&path) else {
                continue;
            };
            if self.config.tests.has(&name) {
                self.tested.add(&text, Language::of(&path, &text));
            }
            if !self.config.chapters.has(&name) {
                continue;
            }
            let chapter = Chapter {
                terms: terms.clone(),
                ..chapter_of(&path)
            };
            terms.extend(copyedit::defined(&Document::new(&text, Language::Markdown)).into_keys());
            self.chapters.insert(name, chapter);
        }
    }

    /// Looks at a file's bytes. `path` says what they are written in and where links lead from; it need not exist.
    pub fn check(&self, path: &Path, bytes: &[u8]) -> Report {
        let mut report = Report {
            path: path.to_owned(),
            ..Report::default()
        };
        match readable(bytes) {
            Ok(text) => self.check_text(path, text, &mut report),
            Err(why) => report.skipped = Some(why),
        }
        report
    }

    fn check_text(&self, path: &Path, text: &str, report: &mut Report) {
        let document = Document::new(text, Language::of(path, text));
        let name = self.config.relative(path);
        let (findings, _) = self.findings(&document, &name, path);
        let allows = allow::read(&document);
        let active = self.active(&name);
        let ran = |id: &str| active.contains(id);
        let (findings, allowed) = allow::apply(&allows, findings, &self.config.rules, &ran, &document);
        report.words = document.words();
        report.score = Score::of(&findings, report.words);
        report.findings = findings;
        report.allowed = allowed;
    }

    fn active(&self, name: &Path) -> &HashSet<String> {
        if self.chapters.contains_key(name) {
            &self.of_chapters
        } else {
            &self.of_files
        }
    }

    /// Runs all rules on a document; also returns how often each weak sign stands in it, per 1,000 words.
    fn findings(&self, document: &Document<'_>, name: &Path, path: &Path) -> (Vec<Finding>, BTreeMap<String, f64>) {
        let mut look = Look {
            document,
            config: &self.config,
            active: self.active(name),
            sink: Sink::new(document),
            register: self.config.register(name),
            dir: path.parent().map(Path::to_owned).unwrap_or_default(),
            chapter: self.chapters.get(name),
            sessions: self.config.sessions.has(name) || self.config.on_lab.has(name),
            rates: BTreeMap::new(),
        };
        let rooms = Rooms {
            checker: self,
            refuses: self.refuses.as_deref(),
        };
        if look.runs("trailing-space") && !whitespace::is_data(path) && !self.config.keep.has(name) {
            for fix in whitespace::fixes(document) {
                let span = fix.span.clone();
                look.add("trailing-space", span, Said::default().fix(fix.span, fix.with));
            }
        }
        copyedit::look(&mut look, &rooms);
        slop::look(&mut look);
        slop::phrases(&mut look);
        narrative::look(&mut look);
        (look.sink.finish(), look.rates)
    }

    /// Returns how often each weak sign stands in a text, per 1,000 words: what the human rates are measured with.
    pub fn rates(&self, path: &Path, text: &str) -> BTreeMap<String, f64> {
        let document = Document::new(text, Language::of(path, text));
        self.findings(&document, &self.config.relative(path), path).1
    }

    /// Returns a file's text with every fix of the wanted rules made, and how many were made; nothing where none is.
    ///
    /// Fixes are made until none is left, so that a second run has nothing to do.
    pub fn fix(&self, path: &Path, bytes: &[u8]) -> Option<(String, usize)> {
        let mut text = readable(bytes).ok()?.to_owned();
        let mut made = 0;
        // Each round takes something away or ends; a doubled word may be tripled.
        for _ in 0..8 {
            let report = self.check(path, text.as_bytes());
            let fixes: Vec<_> = report.findings.into_iter().filter_map(|finding| finding.fix).collect();
            if fixes.is_empty() {
                break;
            }
            made += fixes.len();
            text = whitespace::apply(&text, fixes);
        }
        (made > 0).then_some((text, made))
    }
}

/// Returns the text of a file, or why it is none.
///
/// # Errors
/// It is binary, not UTF-8, or too large for anything that people wrote.
fn readable(bytes: &[u8]) -> Result<&str, String> {
    if bytes.len() > LARGEST {
        return Err(format!("larger than {} MiB", LARGEST >> 20));
    }
    if bytes.iter().take(8192).any(|byte| *byte == 0) {
        return Err("binary".into());
    }
    std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to()))
}

/// Reads what a chapter's folder says: its number and its `chapter.yaml`.
fn chapter_of(readme: &Path) -> Chapter {
    let folder = readme.parent().unwrap_or(Path::new(""));
    let name = folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let number = name
        .split('-')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    let spec = std::fs::read_to_string(folder.join("chapter.yaml")).unwrap_or_default();
    let works_after = serde_saphyr::from_str::<Spec>(&spec)
        .ok()
        .and_then(|spec| spec.works_after);
    Chapter {
        number,
        works_after,
        terms: HashSet::new(),
    }
}

#[cfg(test)]
#[path = "prose/prose_tests.rs"]
mod tests;
