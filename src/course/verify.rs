//! Judges a chapter: builds what the checks may use, runs them, and says what they came to.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::catalogue::Entry;
use super::chapter::{Chapter, Criterion};
use super::last;
use super::progress::{Happened, Progress};
use super::setup::Serve;
use super::stage::{Stage, Wants};
use super::subject::Subject;
use super::workspace::Workspace;
use crate::check::explain::{self, Around};
use crate::check::judge::{Reason, Verdict};
use crate::check::probe::{Context, NoCluster, http};
use crate::check::schedule::{self, Judged};
use crate::check::spec::Check;
use crate::error::Exit;
use crate::report::Event;
use crate::report::json::millis;
use crate::report::junit::{Case, Outcome, Suite};
use crate::world::World;

/// What is said of a judgement.
#[derive(Default, Clone, Copy)]
pub enum Say<'a> {
    /// Every check, and the sum.
    #[default]
    All,
    /// Only what came to something else than before, and the sum if there is any such check.
    Changes(&'a BTreeMap<String, Verdict>),
    /// Nothing; nothing is remembered either.
    Nothing,
}

impl Say<'_> {
    fn says(self, judged: &Judged) -> bool {
        match self {
            Self::All => true,
            Self::Changes(before) => before.get(&judged.id) != Some(&judged.verdict()),
            Self::Nothing => false,
        }
    }
}

/// How a chapter is to be judged.
#[derive(Default, Clone, Copy)]
pub struct Options<'a> {
    /// Only these checks, with what they need; all of them where it is empty.
    pub only: &'a [String],
    /// The learner's own server; labctl starts that of the workspace where there is none.
    pub url: Option<&'a str>,
    /// The learner's folder.
    pub workspace: Option<&'a Workspace>,
    /// What is said of it.
    pub say: Say<'a>,
    /// Changes each check before it is judged, as selftest does for its faults.
    pub change: Option<&'a (dyn Fn(&mut Check) + Sync)>,
    /// The server that is run instead of the chapter's.
    pub serve: Option<&'a Serve>,
}

/// Judges a chapter, or only some of its checks with what they need, and emits what they came to.
///
/// # Errors
/// A check that is asked for does not exist, the chapter was not started, or the HTTP client cannot be set up. A cluster
/// that does not answer is no error of this function but of every check that stands on it.
pub async fn run(world: &World, entry: &Entry, chapter: &Chapter, options: Options<'_>) -> Result<Vec<Judged>> {
    let start = Instant::now();
    let mut checks = select(chapter, options.only)?;
    if let Some(change) = options.change {
        checks.iter_mut().for_each(change);
    }
    let left_out = leave_out(&mut checks, chapter, options)?;
    let kubeconfig = world.settings().kubeconfig();
    let cluster = match world.cluster().await {
        Ok(cluster) => Ok(cluster.client()),
        Err(error) => Err(NoCluster::from_error(&error)),
    };
    let tried = checks.iter().filter(|check| cluster.is_ok() || !check.cluster);
    let mut wants = Wants::default().checks(tried.clone());
    let serve = options
        .serve
        .or(chapter.serve.as_ref())
        .filter(|_| wants.has("url") && options.url.is_none());
    if let Some(serve) = serve {
        wants = wants.program(&serve.run);
    }
    if (serve.is_some() || wants.has("workspace"))
        && let Some(workspace) = options.workspace
        && !workspace.exists()
    {
        return Err(workspace.not_started(&chapter.id).error());
    }
    let mut stage = Stage::new(world, options.workspace, entry, chapter, &wants).await?;
    let mut subject = None;
    if let Some(url) = options.url {
        stage.fact("url", url.trim_end_matches('/'));
    } else if let Some(serve) = serve {
        let output = world.settings().log_dir().join(format!("server-{}.log", chapter.id));
        let started = Subject::start(serve, stage.command(&serve.run)?, &output).await?;
        stage.fact("url", started.url());
        subject = Some(started);
    }
    let none = cluster.as_ref().err().cloned();
    let find = |name: &str| stage.tool(name);
    let context = Context {
        facts: stage.facts().clone(),
        saved: std::sync::Mutex::default(),
        kubeconfig: &kubeconfig,
        tools: &find,
        exec: world.exec(),
        http: http::client().context("set up the HTTP client of the checks")?,
        cluster,
    };
    let around = Around {
        chapter: &chapter.id,
        no_cluster: none.as_ref(),
    };
    let mut said = false;
    let mut on_judged = |judged: &Judged| {
        let Some(check) = checks.iter().find(|check| check.id == judged.id) else {
            return;
        };
        let mut lines = explain::lines(check, judged, &around);
        // That there is no cluster is said in full once.
        if let (Some(none), Reason::Blind { why }) = (around.no_cluster, &judged.judgement.reason)
            && *why == none.why
        {
            if said {
                lines.retain(|line| line.starts_with("could not"));
            }
            said = true;
        }
        if let (Verdict::Fail, Some(subject)) = (judged.verdict(), &mut subject)
            && check.ask.placeholders().contains("url")
        {
            about_server(&mut lines, subject);
        }
        if options.say.says(judged) {
            world.reporter().emit(event(chapter, check, judged, lines));
        }
    };
    let judged = schedule::run(&checks, &context, &mut on_judged).await;
    if let Some(subject) = subject {
        subject.stop().await;
    }
    if !matches!(options.say, Say::Nothing) {
        remember(world, chapter, options.workspace, &judged)?;
    }
    if let (1.., Say::All) = (left_out, options.say) {
        world.reporter().note(left_out_text(left_out, &chapter.id));
    }
    if judged.iter().any(|judged| options.say.says(judged)) {
        world.reporter().emit(judged_event(chapter, &judged, start.elapsed()));
    }
    Ok(judged)
}

/// Returns whether a judgement would need the learner's folder.
pub fn needs_workspace(chapter: &Chapter, options: Options<'_>) -> bool {
    let wants = Wants::default().checks(chapter.checks.iter().filter(|check| !check.started));
    wants.has("workspace") || (wants.has("url") && options.url.is_none())
}

/// Takes the checks away that are about what a learner did, where the chapter was never started, and returns how many
/// there were.
///
/// # Errors
/// One of them was asked for by its name.
fn leave_out(checks: &mut Vec<Check>, chapter: &Chapter, options: Options<'_>) -> Result<usize> {
    if options.workspace.is_some_and(Workspace::exists) {
        return Ok(0);
    }
    let named = |check: &&Check| check.started && options.only.contains(&check.id);
    if let (Some(_), Some(workspace)) = (checks.iter().find(named), options.workspace) {
        return Err(workspace.not_started(&chapter.id).error());
    }
    let before = checks.len();
    checks.retain(|check| !check.started);
    Ok(before - checks.len())
}

fn left_out_text(count: usize, chapter: &str) -> String {
    let (what, is) = match count {
        1 => ("1 check was".to_owned(), "is"),
        n => (format!("{n} checks were"), "are"),
    };
    format!("{what} left out, which {is} about your own work: chapter {chapter} was not started in this folder")
}

/// Adds what the learner's server says for itself, before the line that says what to do next.
fn about_server(lines: &mut Vec<String>, subject: &mut Subject) {
    let trouble = subject.trouble.clone().or_else(|| {
        let how = subject.ended()?;
        Some(format!("your server ended while it was judged ({how})"))
    });
    let Some(trouble) = trouble else { return };
    let said = subject.last_lines(2);
    let at = lines.len().saturating_sub(1);
    let mut more = vec![format!("{:<9} {trouble}", "server")];
    more.extend(said.into_iter().map(|line| format!("{:<9} {line}", "")));
    lines.splice(at..at, more);
}

/// Writes down what was seen, and which criteria are met for the first time.
fn remember(world: &World, chapter: &Chapter, workspace: Option<&Workspace>, judged: &[Judged]) -> Result<()> {
    last::write(world.settings(), chapter, judged)?;
    let Some(workspace) = workspace.filter(|workspace| workspace.root().is_dir()) else {
        return Ok(());
    };
    let mut progress = Progress::read(workspace.root())?;
    for criterion in met(chapter, judged) {
        progress.add(&chapter.id, Happened::Met(criterion.id.clone()))?;
    }
    Ok(())
}

/// Returns the criteria all of whose checks were judged and passed.
pub fn met<'c>(chapter: &'c Chapter, judged: &[Judged]) -> Vec<&'c Criterion> {
    let passed = |id: &String| {
        judged
            .iter()
            .any(|judged| judged.id == *id && judged.verdict() == Verdict::Pass)
    };
    chapter
        .criteria
        .iter()
        .filter(|criterion| criterion.checks.iter().all(passed))
        .collect()
}

fn judged_event(chapter: &Chapter, judged: &[Judged], took: std::time::Duration) -> Event {
    let count = |verdict| judged.iter().filter(|judged| judged.verdict() == verdict).count();
    Event::ChapterJudged {
        chapter: chapter.id.clone(),
        title: chapter.title.clone(),
        passed: count(Verdict::Pass),
        failed: count(Verdict::Fail),
        errored: count(Verdict::Error),
        skipped: count(Verdict::Skip),
        elapsed_ms: millis(took),
    }
}

/// Returns the verdicts as a report for CI: a suite for each criterion.
pub fn suites(chapter: &Chapter, judged: &[Judged]) -> Vec<Suite> {
    let case = |judged: &Judged| {
        let check = chapter.checks.iter().find(|check| check.id == judged.id)?;
        let around = Around {
            chapter: &chapter.id,
            no_cluster: None,
        };
        let text = explain::lines(check, judged, &around).join("\n");
        Some(Case {
            name: judged.id.clone(),
            took: judged.elapsed,
            outcome: match judged.verdict() {
                Verdict::Pass => Outcome::Passed,
                Verdict::Fail => Outcome::Failed(text),
                Verdict::Error => Outcome::Errored(text),
                Verdict::Skip => Outcome::Skipped(text),
            },
        })
    };
    chapter
        .criteria
        .iter()
        .map(|criterion| Suite {
            name: format!("{} {}: {}", chapter.id, criterion.id, criterion.text),
            cases: judged
                .iter()
                .filter(|judged| criterion.checks.contains(&judged.id))
                .filter_map(case)
                .collect(),
        })
        .filter(|suite| !suite.cases.is_empty())
        .collect()
}

/// Returns what a run of checks means for the exit code: a failure is the learner's, an error is not.
pub fn exit(judged: &[Judged]) -> Exit {
    let any = |verdict| judged.iter().any(|judged| judged.verdict() == verdict);
    if any(Verdict::Fail) {
        Exit::Unmet
    } else if judged.is_empty() || any(Verdict::Error) || any(Verdict::Skip) {
        Exit::Environment
    } else {
        Exit::Done
    }
}

fn select(chapter: &Chapter, only: &[String]) -> Result<Vec<Check>> {
    if only.is_empty() {
        return Ok(chapter.checks.clone());
    }
    for id in only {
        chapter.check(id)?;
    }
    Ok(schedule::with_needs(&chapter.checks, only))
}

fn event(chapter: &Chapter, check: &Check, judged: &Judged, explanation: Vec<String>) -> Event {
    let criterion = chapter.criterion_of(&check.id);
    Event::CheckJudged {
        chapter: chapter.id.clone(),
        check: check.id.clone(),
        criterion: criterion
            .map(|(_, criterion)| criterion.text.clone())
            .unwrap_or_default(),
        criterion_id: criterion.map(|(_, criterion)| criterion.id.clone()).unwrap_or_default(),
        number: criterion.map_or(0, |(i, _)| i + 1),
        criteria: chapter.criteria.len(),
        verdict: judged.verdict().word().to_owned(),
        reason: judged.judgement.reason.code().to_owned(),
        elapsed_ms: millis(judged.elapsed),
        attempts: judged.history.looks(),
        explanation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::evidence::History;
    use crate::check::judge::Judgement;
    use crate::config::{Dirs, LabName, Settings};
    use crate::course::catalogue::Catalogue;
    use crate::report::{Recorded, Reporter};

    fn nothing() -> crate::check::ask::Ask {
        let chapter = Catalogue::embedded().find("01").expect("there").read().expect("valid");
        chapter.checks[0].ask.clone()
    }

    fn judged(verdicts: &[Verdict]) -> Vec<Judged> {
        verdicts
            .iter()
            .map(|verdict| Judged {
                id: "a".into(),
                asked: String::new(),
                expect: nothing().expect(),
                filled: BTreeMap::new(),
                judgement: Judgement {
                    verdict: *verdict,
                    reason: Reason::Held,
                },
                history: History::default(),
                elapsed: std::time::Duration::ZERO,
            })
            .collect()
    }

    #[test]
    fn a_failure_wins_over_an_error_and_nothing_judged_is_no_pass() {
        use Verdict::{Error, Fail, Pass, Skip};
        assert_eq!(exit(&judged(&[Pass, Pass])), Exit::Done);
        assert_eq!(exit(&judged(&[Pass, Fail, Skip])), Exit::Unmet);
        assert_eq!(exit(&judged(&[Error, Fail])), Exit::Unmet);
        assert_eq!(exit(&judged(&[Pass, Error])), Exit::Environment);
        assert_eq!(exit(&judged(&[Error, Skip])), Exit::Environment);
        assert_eq!(exit(&judged(&[])), Exit::Environment);
    }

    #[tokio::test]
    async fn without_a_cluster_no_chapter_passes_anything() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let settings = Settings {
            lab: LabName::parse("demo").expect("a name"),
            dirs: Dirs::new(dir.path().join("state"), dir.path().join("cache")),
            yes: false,
            ask: false,
            json: false,
        };
        let recorded = Recorded::default();
        let world = World::real(settings, Reporter::new(recorded.clone())).expect("a world");
        let catalogue = Catalogue::embedded();
        let entry = catalogue.find("02").expect("there");
        let chapter = entry.read().expect("valid");
        let judged = run(&world, entry, &chapter, Options::default())
            .await
            .expect("no error of its own");
        let asked = chapter.checks.iter().filter(|check| !check.started).count();
        assert_eq!(judged.len(), asked);
        assert!(
            judged.iter().all(|judged| judged.verdict() == Verdict::Error),
            "{judged:#?}"
        );
        assert_eq!(exit(&judged).code(), 3);
        let events = recorded.events();
        let explained: Vec<usize> = events
            .iter()
            .filter_map(|event| match event {
                Event::CheckJudged { explanation, .. } => Some(explanation.len()),
                _ => None,
            })
            .collect();
        assert_eq!(explained.len(), asked, "{events:#?}");
        // That there is no cluster is told in full once.
        assert_eq!(explained[0], 3, "{events:#?}");
        assert!(explained[1..].iter().all(|lines| *lines == 1), "{events:#?}");
        let Some(Event::ChapterJudged {
            passed: 0,
            failed: 0,
            errored,
            ..
        }) = events.last()
        else {
            panic!("{events:#?}");
        };
        assert_eq!(*errored, asked);
    }

    #[test]
    fn what_a_learner_did_is_asked_only_where_the_chapter_was_started() {
        let text = "id: \"02\"\ntitle: t\nworks_after: w\nbudget: 1s\n\
            criteria: [{id: c, text: t, checks: [always, mine]}]\n\
            checks:\n  - {id: always, exec: {run: [x], expect: {exit: 0}}}\n  \
            - {id: mine, started: true, exec: {run: [x, \"{{workspace}}\"], expect: {exit: 0}}}\n";
        let chapter = Chapter::parse(text, std::path::Path::new("x")).unwrap_or_else(|error| panic!("{error:?}"));
        let dir = tempfile::tempdir().expect("temporary directory");
        let workspace = Workspace::new(dir.path(), "02-x");
        let options = Options {
            workspace: Some(&workspace),
            ..Options::default()
        };
        assert!(!needs_workspace(&chapter, options));
        let mut checks = chapter.checks.clone();
        assert_eq!(leave_out(&mut checks, &chapter, options).expect("no error"), 1);
        assert_eq!(checks.len(), 1);
        // Who names it wants it, and is told what is missing.
        let named = Options {
            only: &["mine".to_owned()],
            ..options
        };
        let error = leave_out(&mut chapter.checks.clone(), &chapter, named).expect_err("never started");
        assert!(crate::error::render(&error).contains("labctl chapter 02 start"));
        crate::drive::files::make_dir(&workspace.dir()).expect("writable");
        assert_eq!(
            leave_out(&mut chapter.checks.clone(), &chapter, options).expect("no error"),
            0
        );
    }

    #[test]
    fn an_unknown_check_is_a_usage_error() {
        let chapter = Catalogue::embedded().find("02").expect("there").read().expect("valid");
        let error = select(&chapter, &["probes-sets".into()]).expect_err("no such check");
        let text = crate::error::render(&error);
        assert!(text.contains("hint: did you mean `probes-set`?"), "{text}");
        assert_eq!(crate::error::exit_of(&error).code(), 2);
    }
}
