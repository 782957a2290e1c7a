//! The plan: steps as a graph, what each observes of the world, and the run that makes them true.
//!
//! A step is believed only by what it *observes*. It is observed, applied where it does not hold, and observed again; a
//! step that still does not hold after it was applied has failed, whatever its programs said. So a run that was killed
//! at any moment is finished by the next one, and a run on a finished lab changes nothing.
//!
//! This module knows neither Docker nor Kubernetes; [`super::step`] does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::drive::exec::ExecError;
use crate::error::{Code, Diagnosis, diagnosis};
use crate::report::Reporter;
use crate::report::event::{Event, PlannedStep};
use crate::report::json::millis;

/// How long steps that run may go on after another one has failed.
const GRACE: Duration = Duration::from_secs(1);

/// How long what a step has made may take until it is seen to hold. A cluster that comes back tells for a moment what was
/// before: that a pod is ready, then that it is not, then how it is.
const SETTLE: Duration = Duration::from_secs(20);
/// How long a cluster may take to answer again that was seen to answer: its API server is restarted at times, and for a
/// while after the machine was.
const ABSENCE: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(250);

/// A step's name, unique in its plan, such as `node-image`.
pub type StepId = &'static str;

/// What a step sees of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is as the step wants it; the text says what is there.
    Holds(String),
    /// It is not; the text says what is missing or different.
    Wanting(String),
}

impl State {
    /// Makes a [`State::Holds`].
    pub fn holds(what: impl Into<String>) -> Self {
        Self::Holds(what.into())
    }

    /// Makes a [`State::Wanting`].
    pub fn wanting(why: impl Into<String>) -> Self {
        Self::Wanting(why.into())
    }
}

/// One thing the lab is made of.
#[async_trait]
pub trait Step: Send + Sync {
    /// Returns the step's name.
    fn id(&self) -> StepId;

    /// Returns what the step makes, for people, such as `node image v1.37.2`.
    fn title(&self) -> String;

    /// Returns the steps that must hold, and the milestones that must be reached, before this one can be observed or
    /// applied.
    fn needs(&self) -> Vec<StepId> {
        Vec::new()
    }

    /// Returns the milestones on the step's way: what others can build on before the whole step holds. They are names
    /// like those of steps. A step that holds has reached them all.
    fn milestones(&self) -> Vec<StepId> {
        Vec::new()
    }

    /// Looks at the world without changing it. Takes well under a second.
    ///
    /// # Errors
    /// It cannot be looked at, which stops the run: a guess could do harm.
    async fn observe(&self) -> Result<State>;

    /// Makes it so. Called only where [`Step::observe`] said [`State::Wanting`]; may be dropped at any await, and must
    /// leave nothing that the next call cannot deal with.
    ///
    /// # Errors
    /// It could not be made so.
    async fn apply(&self, progress: &Progress) -> Result<()>;
}

/// Tells people what a running step is doing.
#[derive(Clone)]
pub struct Progress {
    step: StepId,
    reporter: Reporter,
    milestones: mpsc::UnboundedSender<StepId>,
}

impl Progress {
    /// Says that a milestone of the step is reached, so that what needs no more than that can begin.
    pub fn reached(&self, milestone: StepId) {
        // Nobody listens any more where the run is ending.
        _ = self.milestones.send(milestone);
    }

    /// Says what the step is doing now.
    pub fn doing(&self, what: impl Into<String>) {
        self.count(what, None, None);
    }

    /// Says what the step is doing and how much of it is done.
    pub fn count(&self, what: impl Into<String>, done: Option<u64>, total: Option<u64>) {
        self.reporter.emit(Event::StepProgress {
            step: self.step.to_owned(),
            doing: what.into(),
            done,
            total,
        });
    }

    /// Says something that outlives the step's line.
    pub fn note(&self, text: impl Into<String>) {
        self.reporter.note(text);
    }

    /// Warns.
    pub fn warn(&self, text: impl Into<String>) {
        self.reporter.warn(text);
    }
}

/// Steps in an order in which every step comes after those it needs.
pub struct Plan {
    steps: Vec<Arc<dyn Step>>,
    patience: Patience,
}

/// How long is waited for what is not to be seen yet, and for what is not to be seen for a moment.
#[derive(Debug, Clone, Copy)]
struct Patience {
    settle: Duration,
    absence: Duration,
}

impl Plan {
    /// Orders the steps.
    ///
    /// # Errors
    /// A name is used twice, a needed step is not in the plan, or steps need each other in a circle: a bug in labctl.
    pub fn new(steps: Vec<Arc<dyn Step>>) -> Result<Self> {
        let mut by_id: BTreeMap<StepId, Arc<dyn Step>> = BTreeMap::new();
        let mut names: BTreeSet<StepId> = BTreeSet::new();
        let order: Vec<StepId> = steps.iter().map(|step| step.id()).collect();
        for step in steps {
            let id = step.id();
            for name in step.milestones().into_iter().chain([id]) {
                if !names.insert(name) {
                    return Err(Diagnosis::new(Code::Bug, format!("the step `{name}` is in the plan twice")).error());
                }
            }
            by_id.insert(id, step);
        }
        let mut sorted: Vec<Arc<dyn Step>> = Vec::new();
        let mut placed = BTreeSet::new();
        while sorted.len() < order.len() {
            let before = sorted.len();
            for id in &order {
                let step = &by_id[id];
                if placed.contains(id) {
                    continue;
                }
                if let Some(unknown) = step.needs().iter().find(|need| !names.contains(*need)) {
                    return Err(Diagnosis::new(
                        Code::Bug,
                        format!("the step `{id}` needs `{unknown}`, which is not in the plan"),
                    )
                    .error());
                }
                if step.needs().iter().all(|need| placed.contains(need)) {
                    placed.insert(*id);
                    placed.extend(step.milestones());
                    sorted.push(Arc::clone(step));
                }
            }
            if sorted.len() == before {
                let left: Vec<_> = order.iter().filter(|id| !placed.contains(*id)).copied().collect();
                return Err(
                    Diagnosis::new(Code::Bug, format!("these steps need each other: {}", left.join(", "))).error(),
                );
            }
        }
        Ok(Self {
            steps: sorted,
            patience: Patience {
                settle: SETTLE,
                absence: ABSENCE,
            },
        })
    }

    /// Keeps the named steps and those they need.
    ///
    /// # Errors
    /// [`Code::Arguments`]: there is no step of that name.
    pub fn only(self, wanted: &[String]) -> Result<Self> {
        if wanted.is_empty() {
            return Ok(self);
        }
        let known: Vec<StepId> = self.steps.iter().map(|step| step.id()).collect();
        if let Some(unknown) = wanted.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(Diagnosis::new(Code::Arguments, format!("there is no step `{unknown}`"))
                .hint(format!("the steps are {}", known.join(", ")))
                .error());
        }
        let mut kept: BTreeSet<String> = wanted.iter().cloned().collect();
        // From the last to the first, so that each is seen after all that need it.
        for step in self.steps.iter().rev() {
            if step.milestones().iter().any(|milestone| kept.contains(*milestone)) {
                kept.insert(step.id().to_owned());
            }
            if kept.contains(step.id()) {
                kept.extend(step.needs().into_iter().map(str::to_owned));
            }
        }
        let steps = self.steps.into_iter().filter(|step| kept.contains(step.id())).collect();
        Ok(Self { steps, ..self })
    }

    /// Looks at the whole world and says what a run would do, without changing anything.
    ///
    /// A step behind one that does not hold cannot be looked at; it is planned with that reason.
    ///
    /// # Errors
    /// A step whose needs hold cannot be looked at.
    pub async fn preview(&self) -> Result<Vec<PlannedStep>> {
        let mut wanting: BTreeSet<StepId> = BTreeSet::new();
        let mut out = Vec::new();
        for step in &self.steps {
            let needs = step.needs();
            let behind = needs.iter().find(|need| wanting.contains(*need));
            let (run, why) = if let Some(need) = behind {
                (true, format!("after `{need}`"))
            } else {
                match observe(step.as_ref(), self.patience.absence).await? {
                    State::Holds(what) => (false, what),
                    State::Wanting(why) => (true, why),
                }
            };
            if run {
                wanting.insert(step.id());
                wanting.extend(step.milestones());
            }
            out.push(PlannedStep {
                step: step.id().to_owned(),
                title: step.title(),
                run,
                why,
                needs: needs.iter().map(|&need| need.to_owned()).collect(),
            });
        }
        Ok(out)
    }

    /// Makes every step hold, independent ones at the same time, and returns how many had to run.
    ///
    /// The first failure ends the run: steps that are running are dropped, none is started any more.
    ///
    /// # Errors
    /// That of the step that failed.
    pub async fn run(&self, reporter: &Reporter) -> Result<usize> {
        let mut waiting: Vec<Arc<dyn Step>> = self.steps.clone();
        let mut done: BTreeSet<StepId> = BTreeSet::new();
        let mut running = JoinSet::new();
        let (milestones, mut reached) = mpsc::unbounded_channel();
        let mut ran = 0;
        loop {
            let (ready, rest): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .partition(|step| step.needs().iter().all(|need| done.contains(need)));
            waiting = rest;
            for step in ready {
                let progress = Progress {
                    step: step.id(),
                    reporter: reporter.clone(),
                    milestones: milestones.clone(),
                };
                let patience = self.patience;
                running.spawn(async move {
                    let outcome = run_one(step.as_ref(), &progress, patience).await;
                    (step, outcome)
                });
            }
            let joined = tokio::select! {
                Some(milestone) = reached.recv() => {
                    done.insert(milestone);
                    continue;
                }
                joined = running.join_next() => joined,
            };
            let Some(joined) = joined else {
                break;
            };
            let (step, outcome) = match joined {
                Ok(pair) => pair,
                // Let a panic in a step be the panic of the run.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(error) => return Err(error).context("run a step"),
            };
            match outcome {
                Ok(had_to) => ran += usize::from(had_to),
                Err(error) => {
                    // Whoever is in the middle of something short may end it: an engine finishes what it was asked for,
                    // and would make it behind the back of a teardown. What takes longer is dropped.
                    let drained = async { while running.join_next().await.is_some() {} };
                    _ = tokio::time::timeout(GRACE, drained).await;
                    running.shutdown().await;
                    return Err(error);
                }
            }
            done.insert(step.id());
            done.extend(step.milestones());
        }
        Ok(ran)
    }
}

/// Looks at a step, and again where the cluster does not answer for a moment.
async fn observe(step: &dyn Step, absence: Duration) -> Result<State> {
    let start = Instant::now();
    loop {
        match step.observe().await {
            Err(error) if is_absence(&error) && start.elapsed() < absence => tokio::time::sleep(LOOK).await,
            seen => return seen.with_context(|| format!("look at the {}", step.title())),
        }
    }
}

fn is_absence(error: &anyhow::Error) -> bool {
    diagnosis(error).is_some_and(|found| found.code == Code::ClusterUnready)
}

async fn run_one(step: &dyn Step, progress: &Progress, patience: Patience) -> Result<bool> {
    let reporter = &progress.reporter;
    let start = Instant::now();
    let id = step.id().to_owned();
    let title = step.title();
    let outcome = async {
        let why = match observe(step, patience.absence).await? {
            State::Holds(is) => return Ok((false, is)),
            State::Wanting(why) => why,
        };
        reporter.emit(Event::StepStarted {
            step: id.clone(),
            title: title.clone(),
            why,
        });
        step.apply(progress).await?;
        let made = Instant::now();
        loop {
            match observe(step, patience.absence).await? {
                State::Holds(is) => return Ok((true, is)),
                State::Wanting(still) if made.elapsed() >= patience.settle => {
                    return Err(Diagnosis::new(
                        Code::Bug,
                        format!("the {title} was made and is still not right: {still}"),
                    )
                    .hint("labctl doctor looks at the machine; labctl teardown and labctl up start afresh")
                    .error());
                }
                State::Wanting(still) => progress.doing(format!("waiting: {still}")),
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    .await;
    let elapsed_ms = millis(start.elapsed());
    match outcome {
        Ok((ran, is)) => {
            reporter.emit(Event::StepDone {
                step: id,
                title,
                ran,
                elapsed_ms,
                is,
            });
            Ok(ran)
        }
        Err(error) => {
            reporter.emit(Event::StepFailed {
                step: id,
                title,
                elapsed_ms,
                error: diagnosis(&error).map_or_else(|| error.to_string(), |found| found.message.clone()),
                log: log_of(&error),
            });
            Err(error)
        }
    }
}

/// Returns the file with the whole output of the program that an error comes from.
fn log_of(error: &anyhow::Error) -> Option<String> {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<ExecError>())
        .and_then(ExecError::log)
        .map(|path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Recorded;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A world of named things that are there or not, and a count of the changes until it "loses power".
    #[derive(Default)]
    struct Fake {
        there: Mutex<BTreeSet<StepId>>,
        changes_left: Mutex<Option<usize>>,
        applied: AtomicUsize,
    }

    impl Fake {
        fn has(&self, id: StepId) -> bool {
            self.there.lock().expect("not poisoned").contains(id)
        }

        fn change(&self, id: StepId) -> Result<()> {
            if let Some(left) = self.changes_left.lock().expect("not poisoned").as_mut() {
                anyhow::ensure!(*left > 0, "the power went");
                *left -= 1;
            }
            self.there.lock().expect("not poisoned").insert(id);
            Ok(())
        }
    }

    struct Thing {
        id: StepId,
        parts: Vec<StepId>,
        needs: Vec<StepId>,
        world: Arc<Fake>,
    }

    #[async_trait]
    impl Step for Thing {
        fn id(&self) -> StepId {
            self.id
        }
        fn title(&self) -> String {
            self.id.to_owned()
        }
        fn needs(&self) -> Vec<StepId> {
            self.needs.clone()
        }
        async fn observe(&self) -> Result<State> {
            for need in &self.needs {
                assert!(self.world.has(need), "{} looked at before {need} was there", self.id);
            }
            match self.parts.iter().find(|part| !self.world.has(part)) {
                None => Ok(State::holds("there")),
                Some(part) => Ok(State::wanting(format!("no {part}"))),
            }
        }
        async fn apply(&self, _: &Progress) -> Result<()> {
            self.world.applied.fetch_add(1, Ordering::Relaxed);
            for part in &self.parts {
                tokio::task::yield_now().await;
                self.world.change(part)?;
            }
            Ok(())
        }
    }

    fn lab(world: &Arc<Fake>) -> Plan {
        let thing = |id, parts: &[StepId], needs: &[StepId]| -> Arc<dyn Step> {
            Arc::new(Thing {
                id,
                parts: parts.to_vec(),
                needs: needs.to_vec(),
                world: Arc::clone(world),
            })
        };
        Plan::new(vec![
            thing("chart", &["release", "ready", "chart"], &["cluster", "push"]),
            thing("cluster", &["nodes", "cluster"], &["engine", "node-image"]),
            thing("engine", &["engine"], &[]),
            thing("node-image", &["base", "kube", "node-image"], &["engine"]),
            thing("push", &["push"], &["registry"]),
            thing("registry", &["volume", "registry"], &["engine"]),
        ])
        .expect("a sound plan")
    }

    fn silent() -> Reporter {
        Reporter::new(Recorded::default())
    }

    #[tokio::test]
    async fn a_run_makes_everything_and_a_second_one_nothing() {
        let world = Arc::new(Fake::default());
        assert_eq!(lab(&world).run(&silent()).await.expect("it runs"), 6);
        assert_eq!(lab(&world).run(&silent()).await.expect("it runs"), 0);
        assert_eq!(world.applied.load(Ordering::Relaxed), 6);
    }

    #[tokio::test]
    async fn whatever_is_missing_is_made_again_and_nothing_else() {
        let world = Arc::new(Fake::default());
        lab(&world).run(&silent()).await.expect("it runs");
        let all: Vec<StepId> = world.there.lock().expect("not poisoned").iter().copied().collect();
        for lost in all {
            if ["engine", "node-image", "cluster", "registry"].contains(&lost) {
                // Others need these; their absence is covered by the crash test.
                continue;
            }
            world.there.lock().expect("not poisoned").remove(lost);
            assert_eq!(lab(&world).run(&silent()).await.expect("it runs"), 1, "{lost}");
        }
    }

    #[tokio::test]
    async fn a_crash_after_any_number_of_changes_is_finished_by_the_next_run() {
        let whole = {
            let world = Arc::new(Fake::default());
            lab(&world).run(&silent()).await.expect("it runs");
            world.there.lock().expect("not poisoned").clone()
        };
        for crash_after in 0..whole.len() {
            let world = Arc::new(Fake::default());
            *world.changes_left.lock().expect("not poisoned") = Some(crash_after);
            lab(&world).run(&silent()).await.expect_err("the power went");
            *world.changes_left.lock().expect("not poisoned") = None;
            lab(&world).run(&silent()).await.expect("the second run");
            assert_eq!(
                *world.there.lock().expect("not poisoned"),
                whole,
                "crash after {crash_after}"
            );
        }
    }

    #[tokio::test]
    async fn a_run_dropped_at_any_await_is_finished_by_the_next_run() {
        use std::future::Future;
        use std::task::Poll;
        for polls in 0..40 {
            let world = Arc::new(Fake::default());
            let plan = lab(&world);
            let reporter = silent();
            let mut run = Box::pin(plan.run(&reporter));
            let mut left = polls;
            std::future::poll_fn(|cx| {
                if left == 0 {
                    return Poll::Ready(());
                }
                left -= 1;
                match run.as_mut().poll(cx) {
                    Poll::Ready(_) => Poll::Ready(()),
                    Poll::Pending => {
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                }
            })
            .await;
            drop(run);
            lab(&world).run(&reporter).await.expect("the second run");
            assert!(world.has("chart"));
        }
    }

    #[tokio::test]
    async fn the_preview_changes_nothing_and_says_why() {
        let world = Arc::new(Fake::default());
        let planned = lab(&world).preview().await.expect("a preview");
        assert_eq!(world.applied.load(Ordering::Relaxed), 0);
        let why = |id: &str| planned.iter().find(|p| p.step == id).map(|p| p.why.clone());
        assert_eq!(why("engine").as_deref(), Some("no engine"));
        assert_eq!(why("chart").as_deref(), Some("after `cluster`"));
    }

    #[tokio::test]
    async fn a_step_that_lies_is_a_failure() {
        struct Liar;
        #[async_trait]
        impl Step for Liar {
            fn id(&self) -> StepId {
                "liar"
            }
            fn title(&self) -> String {
                "liar".into()
            }
            async fn observe(&self) -> Result<State> {
                Ok(State::wanting("nothing there"))
            }
            async fn apply(&self, _: &Progress) -> Result<()> {
                Ok(())
            }
        }
        let recorded = Recorded::default();
        let mut plan = Plan::new(vec![Arc::new(Liar)]).expect("a sound plan");
        plan.patience.settle = Duration::ZERO;
        let error = plan.run(&Reporter::new(recorded.clone())).await.expect_err("it lies");
        assert!(error.to_string().contains("still not right: nothing there"), "{error}");
        assert!(matches!(recorded.events().last(), Some(Event::StepFailed { .. })));
    }

    #[tokio::test]
    async fn what_holds_a_moment_later_is_no_lie() {
        struct Late(AtomicUsize);
        #[async_trait]
        impl Step for Late {
            fn id(&self) -> StepId {
                "late"
            }
            fn title(&self) -> String {
                "late".into()
            }
            async fn observe(&self) -> Result<State> {
                Ok(if self.0.fetch_add(1, Ordering::Relaxed) < 3 {
                    State::wanting("not seen yet")
                } else {
                    State::holds("there")
                })
            }
            async fn apply(&self, _: &Progress) -> Result<()> {
                Ok(())
            }
        }
        let plan = Plan::new(vec![Arc::new(Late(AtomicUsize::new(0)))]).expect("a sound plan");
        assert_eq!(plan.run(&silent()).await.expect("it holds in the end"), 1);
    }

    #[tokio::test]
    async fn a_cluster_that_is_away_for_a_moment_is_waited_for() {
        struct Away(AtomicUsize);
        #[async_trait]
        impl Step for Away {
            fn id(&self) -> StepId {
                "away"
            }
            fn title(&self) -> String {
                "token".into()
            }
            async fn observe(&self) -> Result<State> {
                if self.0.fetch_sub(1, Ordering::Relaxed) > 1 {
                    return Err(Diagnosis::new(Code::ClusterUnready, "tls handshake eof").error());
                }
                Ok(State::holds("there"))
            }
            async fn apply(&self, _: &Progress) -> Result<()> {
                anyhow::bail!("there is nothing to be done")
            }
        }
        let away = |looks| Plan::new(vec![Arc::new(Away(AtomicUsize::new(looks)))]).expect("a sound plan");
        assert!(!away(2).preview().await.expect("it comes back")[0].run);
        assert_eq!(away(2).run(&silent()).await.expect("it comes back"), 0);
        let mut plan = away(100);
        plan.patience.absence = LOOK;
        let error = plan.run(&silent()).await.expect_err("it does not come back");
        assert_eq!(format!("{error:#}"), "look at the token: tls handshake eof");
    }

    #[tokio::test]
    async fn a_part_of_a_plan_has_all_that_it_needs() {
        let world = Arc::new(Fake::default());
        let plan = lab(&world).only(&["push".to_owned()]).expect("known");
        assert_eq!(plan.run(&silent()).await.expect("it runs"), 3);
        assert!(world.has("push") && world.has("engine") && !world.has("cluster"));
        let error = lab(&world).only(&["pusch".to_owned()]).err().expect("unknown");
        assert_eq!(diagnosis(&error).map(|found| found.code), Some(Code::Arguments));
    }

    /// A step with a milestone, after which it waits until somebody has built on that.
    struct Slow {
        world: Arc<Fake>,
        fails: bool,
    }

    #[async_trait]
    impl Step for Slow {
        fn id(&self) -> StepId {
            "cluster"
        }
        fn title(&self) -> String {
            "cluster".into()
        }
        fn milestones(&self) -> Vec<StepId> {
            vec!["api"]
        }
        async fn observe(&self) -> Result<State> {
            Ok(if self.world.has("cluster") {
                State::holds("there")
            } else {
                State::wanting("no cluster")
            })
        }
        async fn apply(&self, progress: &Progress) -> Result<()> {
            self.world.change("api")?;
            progress.reached("api");
            while !self.world.has("chart") {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            anyhow::ensure!(!self.fails, "the rest of the cluster failed");
            self.world.change("cluster")
        }
    }

    fn early(world: &Arc<Fake>, fails: bool) -> Plan {
        let thing = |id, needs: &[StepId]| -> Arc<dyn Step> {
            Arc::new(Thing {
                id,
                parts: vec![id],
                needs: needs.to_vec(),
                world: Arc::clone(world),
            })
        };
        let slow = Arc::new(Slow {
            world: Arc::clone(world),
            fails,
        });
        Plan::new(vec![thing("chart", &["api"]), slow, thing("after", &["cluster"])]).expect("a sound plan")
    }

    #[tokio::test]
    async fn what_needs_a_milestone_begins_before_the_step_is_done() {
        let world = Arc::new(Fake::default());
        // It would hang if the chart waited for the whole cluster.
        let ran = tokio::time::timeout(Duration::from_secs(5), early(&world, false).run(&silent())).await;
        assert_eq!(ran.expect("no deadlock").expect("it runs"), 3);
        // A step that holds has reached its milestones, and nothing is done again.
        assert_eq!(early(&world, false).run(&silent()).await.expect("it runs"), 0);
    }

    #[tokio::test]
    async fn a_step_that_fails_after_its_milestone_fails_the_run() {
        let world = Arc::new(Fake::default());
        let error = early(&world, true).run(&silent()).await.expect_err("it fails");
        assert_eq!(error.to_string(), "the rest of the cluster failed");
        assert!(!world.has("after"));
        // The next run goes on from what is there.
        assert_eq!(early(&world, false).run(&silent()).await.expect("it runs"), 2);
    }

    #[tokio::test]
    async fn a_milestone_stands_for_its_step_in_parts_and_previews() {
        let world = Arc::new(Fake::default());
        let planned = early(&world, false).preview().await.expect("a preview");
        let chart = planned.iter().find(|step| step.step == "chart").expect("planned");
        assert_eq!((chart.run, chart.why.as_str()), (true, "after `api`"));
        let part = early(&world, false).only(&["chart".to_owned()]).expect("known");
        assert_eq!(part.run(&silent()).await.expect("it runs"), 2);
        assert!(!world.has("after"));
    }

    #[test]
    fn unsound_plans_are_refused() {
        let world = Arc::new(Fake::default());
        let thing = |id, needs: &[StepId]| -> Arc<dyn Step> {
            Arc::new(Thing {
                id,
                parts: vec![],
                needs: needs.to_vec(),
                world: Arc::clone(&world),
            })
        };
        let text = |steps| Plan::new(steps).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text(vec![thing("a", &["b"]), thing("b", &["a"])]).contains("need each other: a, b"));
        assert!(text(vec![thing("a", &["c"])]).contains("`c`, which is not in the plan"));
        assert!(text(vec![thing("a", &[]), thing("a", &[])]).contains("twice"));
    }
}
