//! Judges a chapter: builds what the checks may use, runs them, and says what they came to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use super::chapter::Chapter;
use crate::assets;
use crate::check::ask::Ask;
use crate::check::explain::{self, Around};
use crate::check::judge::{Reason, Verdict};
use crate::check::probe::{Context, NoCluster, http};
use crate::check::schedule::{self, Judged};
use crate::check::spec::{Check, closest, names};
use crate::error::{Code, Diagnosis, Exit};
use crate::lab::record::{Origin, Record};
use crate::lab::tools::{self, Tool};
use crate::lab::versions;
use crate::report::Event;
use crate::report::json::millis;
use crate::report::junit::{Case, Outcome, Suite};
use crate::world::World;

/// The namespace and the release of the dashboard.
const DASHBOARD: &str = "job-dashboard";
/// The chart's folder.
const CHART: &str = "charts/job-dashboard";

/// Judges a chapter, or only some of its checks with what they need, and emits what they came to.
///
/// # Errors
/// A check that is asked for does not exist, or the HTTP client cannot be set up. A cluster that does not answer is no
/// error of this function but of every check that stands on it.
pub async fn run(world: &World, chapter: &Chapter, only: &[String]) -> Result<Vec<Judged>> {
    let start = Instant::now();
    let checks = select(chapter, only)?;
    let kubeconfig = world.settings().kubeconfig();
    let cluster = match world.cluster().await {
        Ok(cluster) => Ok(cluster.client()),
        Err(error) => Err(NoCluster::from_error(&error)),
    };
    let tried: Vec<&Check> = checks
        .iter()
        .filter(|check| cluster.is_ok() || !check.cluster)
        .collect();
    let tools = find_tools(world, &tried).await;
    let none = cluster.as_ref().err().cloned();
    let find = |name: &str| match tools.get(name) {
        Some(Ok(path)) => Ok(path.clone()),
        Some(Err(why)) => Err(anyhow::anyhow!(why.clone())),
        None => Err(anyhow::anyhow!("labctl did not look for it")),
    };
    let context = Context {
        facts: facts(world, &checks)?,
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
        if let Some(check) = checks.iter().find(|check| check.id == judged.id) {
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
            world.reporter().emit(event(chapter, check, judged, lines));
        }
    };
    let judged = schedule::run(&checks, &context, &mut on_judged).await;
    let count = |verdict| judged.iter().filter(|judged| judged.verdict() == verdict).count();
    world.reporter().emit(Event::ChapterJudged {
        chapter: chapter.id.clone(),
        title: chapter.title.clone(),
        passed: count(Verdict::Pass),
        failed: count(Verdict::Fail),
        errored: count(Verdict::Error),
        skipped: count(Verdict::Skip),
        elapsed_ms: millis(start.elapsed()),
    });
    Ok(judged)
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
    let ids = || chapter.checks.iter().map(|check| check.id.as_str());
    for id in only {
        if !ids().any(|known| known == id) {
            let text = format!("chapter {} has no check `{id}`", chapter.id);
            let mut diagnosis = Diagnosis::new(Code::Arguments, text);
            if let Some(meant) = closest(id, ids()) {
                diagnosis = diagnosis.hint(format!("did you mean `{meant}`?"));
            }
            return Err(diagnosis.hint(format!("it has {}", names(ids()))).error());
        }
    }
    Ok(schedule::with_needs(&chapter.checks, only))
}

/// Finds the tools that the checks run, and only those: finding one may mean to download it.
async fn find_tools(world: &World, checks: &[&Check]) -> BTreeMap<&'static str, Result<PathBuf, String>> {
    let mut found = BTreeMap::new();
    for tool in Tool::ALL {
        let used = checks.iter().any(|check| match &check.ask {
            Ask::Exec(exec) => exec.run.first().is_some_and(|program| program == tool.name()),
            Ask::K8s(_) | Ask::Http(_) => false,
        });
        if used {
            let path = tools::find(world, tool).await.map_err(|error| format!("{error:#}"));
            found.insert(tool.name(), path);
        }
    }
    found
}

/// Returns the values of the placeholders; one that this lab cannot give is left out.
fn facts(world: &World, checks: &[Check]) -> Result<BTreeMap<String, String>> {
    let settings = world.settings();
    let record = Record::read(settings)?.unwrap_or_default();
    let kubernetes = &versions::pinned().kubernetes;
    let mut facts: BTreeMap<String, String> = [
        ("kubeconfig", settings.kubeconfig().display().to_string()),
        ("kubernetes", kubernetes.to_string()),
        ("kubernetes_minor", format!("{}.{}", kubernetes.major, kubernetes.minor)),
        ("namespace", DASHBOARD.to_owned()),
        ("run_id", run_id()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    // The nodes of a cluster that is not ours publish no port.
    if record.cluster == Origin::Kind {
        facts.insert("http_url".to_owned(), format!("http://127.0.0.1:{}", record.ports.http));
    }
    let wants_chart = checks.iter().any(|check| check.ask.placeholders().contains("chart"));
    if wants_chart && assets::folder(CHART).is_some() {
        let digest = assets::digest(CHART);
        let dir = settings
            .dirs
            .cache()
            .join("charts")
            .join(digest.short())
            .join(DASHBOARD);
        assets::unpack(CHART, &dir)?;
        facts.insert("chart".to_owned(), dir.display().to_string());
    }
    Ok(facts)
}

/// Makes a name that no other run on this machine uses, fit for a Kubernetes object.
fn run_id() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("run-{:x}-{:x}", since.as_millis(), std::process::id())
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

    fn judged(verdicts: &[Verdict]) -> Vec<Judged> {
        verdicts
            .iter()
            .map(|verdict| Judged {
                id: "a".into(),
                asked: String::new(),
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
        let chapter = Catalogue::embedded().find("02").expect("there").read().expect("valid");
        let judged = run(&world, &chapter, &[]).await.expect("no error of its own");
        assert_eq!(judged.len(), chapter.checks.len());
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
        assert_eq!(explained, [3, 1, 1, 1, 1], "{events:#?}");
        assert!(matches!(
            events.last(),
            Some(Event::ChapterJudged {
                passed: 0,
                failed: 0,
                errored: 5,
                ..
            })
        ));
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
