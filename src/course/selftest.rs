//! Proves that a chapter's checks can fail: every criterion fails where the chapter begins, the solution passes again
//! and again, other solutions pass, and every seeded fault is caught by exactly the checks that it names.

mod record;
mod spec;
mod spoil;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

pub use self::record::{Look, Recording};
pub use self::spec::{Alternative, AtStart, Edit, Fault, Spec};
use super::act;
use super::catalogue::Entry;
use super::chapter::Chapter;
use super::setup::{Serve, Step};
use super::stage::{Stage, Wants};
use super::verify::{self, Options, Say};
use super::workspace::{Files, Workspace};
use crate::check::judge::Verdict;
use crate::check::schedule::{self, Judged};
use crate::check::spec::{Check, Time};
use crate::config::{LabName, Settings};
use crate::report::Reporter;
use crate::world::World;

/// How long a check that a fault must trip is waited for, instead of its own time: it is expected never to hold.
const IMPATIENCE: Duration = Duration::from_secs(3);

/// One world in which a chapter was judged.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Which: `no lab`, `start`, `solution`, `alternative x`, `fault x`.
    pub world: String,
    /// What is so in it.
    pub what: String,
    /// The verdict of each check.
    pub verdicts: BTreeMap<String, String>,
    /// What is not as it must be; empty where all is well.
    pub wrong: Vec<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// What the selftest of a chapter came to.
#[derive(Debug, Clone, Serialize)]
pub struct Matrix {
    /// The chapter's id.
    pub chapter: String,
    /// Its checks, in order.
    pub checks: Vec<String>,
    /// The worlds, in order.
    pub rows: Vec<Row>,
    /// What the chapter's faults leave unproven, without a written reason.
    pub survivors: Vec<String>,
}

impl Matrix {
    /// Returns whether nothing is wrong.
    pub fn is_well(&self) -> bool {
        self.survivors.is_empty() && self.rows.iter().all(|row| row.wrong.is_empty())
    }

    /// Returns the matrix as text: a row a world, a letter a check (`.` pass, `F` fail, `s` skip, `E` error).
    pub fn text(&self) -> String {
        let width = self.rows.iter().map(|row| row.world.len()).max().unwrap_or(0);
        let mut out = String::new();
        for (i, check) in self.checks.iter().enumerate() {
            _ = writeln!(out, "{:width$}  {}+- {check}", "", "| ".repeat(i));
        }
        for row in &self.rows {
            let letters: Vec<_> = self
                .checks
                .iter()
                .map(|check| match row.verdicts.get(check).map(String::as_str) {
                    Some("pass") => ".",
                    Some("fail") => "F",
                    Some("skip") => "s",
                    Some("error") => "E",
                    _ => " ",
                })
                .collect();
            let mark = if row.wrong.is_empty() { "ok" } else { "WRONG" };
            let seconds = Duration::from_millis(row.took_ms).as_secs_f32();
            _ = writeln!(
                out,
                "{:width$}  {}  {mark}  {seconds:.1}s  {}",
                row.world,
                letters.join(" "),
                row.what
            );
            for wrong in &row.wrong {
                _ = writeln!(out, "{:width$}    {wrong}", "");
            }
        }
        for survivor in &self.survivors {
            _ = writeln!(out, "survivor: {survivor}");
        }
        out
    }
}

/// How much is tried.
#[derive(Debug, Clone)]
pub struct Effort {
    /// How often the solution is judged.
    pub runs: usize,
    /// Whether checks that must fail get their whole time to do so.
    pub patient: bool,
    /// Only these faults and alternatives; all where it is empty.
    pub only: Vec<String>,
}

/// A selftest that runs.
struct Test<'a> {
    world: &'a World,
    entry: &'a Entry,
    chapter: &'a Chapter,
    workspace: &'a Workspace,
    effort: &'a Effort,
    /// What was seen in the worlds in which a check did as it must.
    seen: Recording,
}

/// Runs the selftest of a chapter on this lab. `root` is an empty folder to work in.
///
/// # Errors
/// The chapter has no selftest, or its programs cannot be run. What a check should have done and did not is in the matrix.
pub async fn run(
    world: &World,
    entry: &Entry,
    chapter: &Chapter,
    workspace: &Workspace,
    effort: &Effort,
    on_row: &mut dyn FnMut(&Row),
) -> Result<(Matrix, Recording)> {
    let spec = Spec::of(entry, chapter)?;
    let mut test = Test {
        world,
        entry,
        chapter,
        workspace,
        effort,
        seen: Recording::of(chapter),
    };
    let mut rows = Vec::new();
    let mut add = |row: Row| {
        on_row(&row);
        rows.push(row);
    };
    let wanted = |id: &str| effort.only.is_empty() || effort.only.iter().any(|only| only == id);
    act::start(world, entry, chapter, workspace)
        .await
        .context("bring the lab to where the chapter begins")?;
    if effort.only.is_empty() {
        add(test.without_lab().await?);
        if let AtStart::Fails(first) = &spec.at_start {
            add(test.at_start(first).await?);
        }
    }
    act::solve(world, entry, chapter, workspace)
        .await
        .context("put the solution in place")?;
    for n in 1..=effort.runs {
        add(test.solved(n).await?);
    }
    for alternative in spec.alternatives.iter().filter(|one| wanted(&one.id)) {
        add(test.alternative(alternative).await?);
    }
    for fault in spec.faults.iter().filter(|one| wanted(&one.id)) {
        add(test.fault(fault).await?);
    }
    if effort.only.is_empty() {
        let mut row = test.solved(effort.runs + 1).await?;
        "mended".clone_into(&mut row.world);
        add(row);
    }
    let survivors = if effort.only.is_empty() {
        let mut all = spec.survivors(chapter);
        all.extend(test.seen.replay(chapter, &spec));
        all
    } else {
        Vec::new()
    };
    act::reset(world, entry, chapter, workspace)
        .await
        .context("remove what the chapter made")?;
    let matrix = Matrix {
        chapter: chapter.id.clone(),
        checks: chapter.checks.iter().map(|check| check.id.clone()).collect(),
        rows,
        survivors,
    };
    Ok((matrix, test.seen))
}

impl Test<'_> {
    /// There is no cluster: nothing that stands on one passes, and nothing of it is called the learner's failure.
    async fn without_lab(&self) -> Result<Row> {
        let settings = Settings {
            lab: LabName::parse("no-such-lab")?,
            // Its logs go with the folder that the selftest works in.
            dirs: self
                .world
                .settings()
                .dirs
                .clone()
                .with_state(self.workspace.root().join(".no-lab")),
            ..self.world.settings().clone()
        };
        let world = World::real(settings, Reporter::new(crate::report::Recorded::default()))?;
        let start = Instant::now();
        let judged = verify::run(&world, self.entry, self.chapter, self.options()).await?;
        let mut wrong = Vec::new();
        for judged in &judged {
            let check = self.check(&judged.id);
            if check.is_some_and(|check| check.cluster) && judged.verdict() != Verdict::Error {
                wrong.push(format!("{} is {}, must be error", judged.id, judged.verdict().word()));
            }
        }
        Ok(row("no lab", "no cluster answers", &judged, wrong, start))
    }

    async fn at_start(&mut self, first: &BTreeMap<String, String>) -> Result<Row> {
        let start = Instant::now();
        let trip: BTreeSet<&String> = first.values().collect();
        let judged = self.judge_with(&trip, None, IMPATIENCE).await?;
        let met: Vec<_> = verify::met(self.chapter, &judged)
            .into_iter()
            .map(|criterion| criterion.id.clone())
            .collect();
        let mut wrong = Vec::new();
        for criterion in &self.chapter.criteria {
            if met.contains(&criterion.id) {
                wrong.push(format!("criterion {} is met before anything was done", criterion.id));
            }
            let Some(check) = first.get(&criterion.id) else {
                continue;
            };
            match judged.iter().find(|judged| judged.id == *check) {
                Some(judged) if judged.verdict() == Verdict::Fail => {}
                Some(judged) => wrong.push(format!(
                    "{check} is {}, must fail for criterion {}",
                    judged.verdict().word(),
                    criterion.id
                )),
                None => wrong.push(format!("there is no check {check}")),
            }
        }
        self.remember("start", &judged, |id| trip.contains(&id.to_owned()));
        Ok(row("start", "where the chapter begins", &judged, wrong, start))
    }

    async fn solved(&mut self, n: usize) -> Result<Row> {
        let start = Instant::now();
        let judged = verify::run(self.world, self.entry, self.chapter, self.options()).await?;
        let wrong = not_passed(&judged);
        if n == 1 {
            for one in judged.iter().filter(|one| one.verdict() == Verdict::Pass) {
                self.seen.add("solution", one, true);
            }
        }
        Ok(row(
            &format!("solution {n}"),
            "the reference solution",
            &judged,
            wrong,
            start,
        ))
    }

    async fn alternative(&self, alternative: &Alternative) -> Result<Row> {
        let start = Instant::now();
        self.apply(&alternative.id, "alternatives", &alternative.edit, &alternative.run)
            .await?;
        let judged = verify::run(
            self.world,
            self.entry,
            self.chapter,
            Options {
                serve: alternative.serve.as_ref(),
                ..self.options()
            },
        )
        .await?;
        self.mend(&alternative.undo).await?;
        let wrong = not_passed(&judged);
        Ok(row(
            &format!("alternative {}", alternative.id),
            &alternative.what,
            &judged,
            wrong,
            start,
        ))
    }

    async fn fault(&mut self, fault: &Fault) -> Result<Row> {
        let start = Instant::now();
        self.apply(&fault.id, "faults", &fault.edit, &fault.run).await?;
        let trip: BTreeSet<&String> = fault.caught_by.iter().collect();
        let judged = self
            .judge_with(
                &trip,
                fault.serve.as_ref(),
                fault.within.map_or(IMPATIENCE, |span| span.0),
            )
            .await?;
        self.mend(&fault.undo).await?;
        let mut wrong = Vec::new();
        for one in &judged {
            let must_fail = trip.contains(&one.id);
            let may_skip = schedule::with_needs(&self.chapter.checks, std::slice::from_ref(&one.id))
                .iter()
                .any(|need| need.id != one.id && trip.contains(&need.id));
            let well = match one.verdict() {
                Verdict::Fail => must_fail,
                Verdict::Pass => !must_fail,
                Verdict::Skip => may_skip && !must_fail,
                Verdict::Error => false,
            };
            if !well {
                let must = match (must_fail, may_skip) {
                    (true, _) => "must fail",
                    (false, true) => "must be skipped or pass",
                    (false, false) => "must pass",
                };
                wrong.push(format!(
                    "{} is {}, {must}{}",
                    one.id,
                    one.verdict().word(),
                    because(one)
                ));
            }
        }
        let name = format!("fault {}", fault.id);
        self.remember(&name, &judged, |id| trip.contains(&id.to_owned()));
        Ok(row(&name, &fault.breaks, &judged, wrong, start))
    }

    fn options(&self) -> Options<'_> {
        Options {
            workspace: Some(self.workspace),
            say: Say::Nothing,
            ..Options::default()
        }
    }

    async fn judge_with(
        &self,
        trip: &BTreeSet<&String>,
        serve: Option<&Serve>,
        limit: Duration,
    ) -> Result<Vec<Judged>> {
        let patient = self.effort.patient;
        let change = |check: &mut Check| {
            if let Time::Eventually { within, stable_for } = &mut check.time
                && trip.contains(&check.id)
                && !patient
            {
                *within = (*within).min(limit.max(*stable_for * 2));
            }
        };
        let options = Options {
            change: Some(&change),
            serve,
            ..self.options()
        };
        verify::run(self.world, self.entry, self.chapter, options).await
    }

    /// Changes the solved world: files of the workspace first, then programs.
    async fn apply(&self, id: &str, folder: &str, edits: &[Edit], run: &[Step]) -> Result<()> {
        let mut changed: Files = self.entry.files(&format!("{folder}/{id}"))?;
        for edit in edits {
            let path = self.workspace.dir().join(&edit.file);
            let text = std::fs::read_to_string(&path).with_context(|| format!("read `{}`", path.display()))?;
            let text = match changed.iter().position(|(name, _)| *name == edit.file) {
                Some(at) => String::from_utf8_lossy(&changed.remove(at).1).into_owned(),
                None => text,
            };
            changed.push((edit.file.clone(), edit.apply(&text, id)?.into_bytes()));
        }
        self.workspace.lay_out(&changed, true)?;
        let again: &[Step] = if changed.is_empty() {
            &[]
        } else {
            &self.chapter.setup.solve
        };
        self.programs(again.iter().chain(run), id).await
    }

    /// Brings the solved world back.
    async fn mend(&self, undo: &[Step]) -> Result<()> {
        self.programs(undo.iter(), "undo").await?;
        self.workspace
            .lay_out(&act::files(self.entry, self.chapter, "solution")?, true)?;
        self.programs(self.chapter.setup.solve.iter(), "mend").await
    }

    async fn programs<'s>(&self, steps: impl Iterator<Item = &'s Step>, what: &str) -> Result<()> {
        let steps: Vec<_> = steps.cloned().collect();
        let wants = Wants::default().steps(&steps);
        let stage = Stage::new(self.world, Some(self.workspace), self.entry, self.chapter, &wants).await?;
        stage
            .run(&steps, &format!("selftest-{}.log", self.chapter.id))
            .await
            .with_context(|| format!("{what} of chapter {}", self.chapter.id))
    }

    fn check(&self, id: &str) -> Option<&Check> {
        self.chapter.checks.iter().find(|check| check.id == id)
    }

    fn remember(&mut self, world: &str, judged: &[Judged], must_fail: impl Fn(&str) -> bool) {
        for judged in judged {
            if judged.verdict() == Verdict::Fail && must_fail(&judged.id) {
                self.seen.add(world, judged, false);
            }
        }
    }
}

fn not_passed(judged: &[Judged]) -> Vec<String> {
    judged
        .iter()
        .filter(|judged| judged.verdict() != Verdict::Pass)
        .map(|judged| {
            format!(
                "{} is {}, must pass{}",
                judged.id,
                judged.verdict().word(),
                because(judged)
            )
        })
        .collect()
}

fn because(judged: &Judged) -> String {
    use crate::check::judge::Reason;
    match &judged.judgement.reason {
        Reason::Held => String::new(),
        Reason::Unmet { finding, .. } | Reason::Aborted { finding, .. } => {
            format!(
                " ({}: expected {}, actual {})",
                finding.at, finding.expected, finding.actual
            )
        }
        Reason::Blind { why } => format!(" ({why})"),
        Reason::Skipped { because } => format!(" ({because})"),
    }
}

fn row(world: &str, what: &str, judged: &[Judged], wrong: Vec<String>, start: Instant) -> Row {
    Row {
        world: world.to_owned(),
        what: what.to_owned(),
        verdicts: judged
            .iter()
            .map(|judged| (judged.id.clone(), judged.verdict().word().to_owned()))
            .collect(),
        wrong,
        took_ms: crate::report::json::millis(start.elapsed()),
    }
}
