//! Runs the checks of a chapter: needs first, what only reads together, what changes something alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{RwLock, Semaphore, watch};

use super::ask::{Ask, Expect};
use super::evidence::{Evidence, History};
use super::judge::{self, Judgement, Next, Reason, Verdict};
use super::probe::{Context, Probe};
use super::spec::Check;

/// How many checks look at the world at the same time.
const TOGETHER: usize = 8;
/// The pause between the first two looks of a check; it grows by half up to the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The pause of checks that must not miss anything: `always`, `never`, and what must stay stable.
const STEADY_PAUSE: Duration = Duration::from_millis(250);

/// A check with what it came to.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The check's id.
    pub id: String,
    /// What was asked, as a person would ask it.
    pub asked: String,
    /// What was expected, with its placeholders filled.
    pub expect: Expect,
    /// The values of the placeholders in what was asked.
    pub filled: BTreeMap<String, String>,
    /// The verdict and its reason.
    pub judgement: Judgement,
    /// All that was seen.
    pub history: History,
    /// How long it took from its first look.
    pub elapsed: Duration,
}

impl Judged {
    /// Returns the verdict.
    pub fn verdict(&self) -> Verdict {
        self.judgement.verdict
    }
}

/// Runs checks and calls `on_judged` for each, in the order of the file. Returns them in that order.
pub async fn run(checks: &[Check], context: &Context<'_>, on_judged: &mut (dyn FnMut(&Judged) + Send)) -> Vec<Judged> {
    run_with(checks, context, &|_, ask| Box::new(ask), on_judged).await
}

/// Makes the probe of a check.
pub type ProbeOf<'a> = dyn Fn(&Check, Ask) -> Box<dyn Probe> + Sync + 'a;

/// As [`run`], with probes made by `probe_of`.
pub async fn run_with(
    checks: &[Check],
    context: &Context<'_>,
    probe_of: &ProbeOf<'_>,
    on_judged: &mut (dyn FnMut(&Judged) + Send),
) -> Vec<Judged> {
    let slots = Arc::new(Semaphore::new(TOGETHER));
    // Checks that only read share the cluster, a locked one has it alone.
    let lock = Arc::new(RwLock::new(()));
    let channels: Vec<_> = checks.iter().map(|_| watch::channel(None::<Verdict>)).collect();
    let mut running: FuturesUnordered<_> = checks
        .iter()
        .enumerate()
        .map(|(i, check)| {
            let needs: Vec<_> = check
                .needs
                .iter()
                .filter_map(|need| checks.iter().position(|other| other.id == *need))
                .map(|need| (checks[need].id.clone(), channels[need].1.clone()))
                .collect();
            let (slots, lock, told) = (slots.clone(), lock.clone(), &channels[i].0);
            async move {
                let judged = one(check, needs, context, probe_of, &slots, &lock).await;
                if judged.verdict() == Verdict::Pass {
                    save(check, &judged, context);
                }
                // Nobody may need this check; then nobody listens.
                _ = told.send(Some(judged.verdict()));
                (i, judged)
            }
        })
        .collect();
    let mut done: Vec<Option<Judged>> = checks.iter().map(|_| None).collect();
    let mut shown = 0;
    while let Some((i, judged)) = running.next().await {
        done[i] = Some(judged);
        while let Some(Some(judged)) = done.get(shown) {
            on_judged(judged);
            shown += 1;
        }
    }
    done.into_iter().flatten().collect()
}

async fn one(
    check: &Check,
    needs: Vec<(String, watch::Receiver<Option<Verdict>>)>,
    context: &Context<'_>,
    probe_of: &ProbeOf<'_>,
    slots: &Semaphore,
    lock: &RwLock<()>,
) -> Judged {
    let start = Instant::now();
    let end = |asked: String, verdict, reason| Judged {
        id: check.id.clone(),
        asked,
        expect: context.fill_known(&check.ask).expect(),
        filled: context.values_of(&check.ask),
        judgement: Judgement { verdict, reason },
        history: History::default(),
        elapsed: start.elapsed(),
    };
    let as_far = || context.fill_known(&check.ask).asked();
    // Without a cluster nothing that stands on it can be told; that is said of every check, not only of the first.
    if check.cluster
        && let Err(none) = &context.cluster
    {
        return end(as_far(), Verdict::Error, Reason::Blind { why: none.why.clone() });
    }
    for (id, mut verdict) in needs {
        let verdict = match verdict.wait_for(Option::is_some).await {
            Ok(verdict) => verdict.unwrap_or(Verdict::Error),
            Err(_) => Verdict::Error,
        };
        let came_to = match verdict {
            Verdict::Pass => continue,
            Verdict::Fail => "failed",
            Verdict::Error => "could not be judged",
            Verdict::Skip => "was skipped",
        };
        let because = format!("`{id}` {came_to}");
        return end(as_far(), Verdict::Skip, Reason::Skipped { because });
    }
    // Only now: what the needed checks saved is part of the question.
    let ask = match context.fill(&check.ask) {
        Ok(ask) => ask,
        Err(why) => return end(as_far(), Verdict::Error, Reason::Blind { why }),
    };
    let asked = ask.asked();
    let (_shared, _alone) = if check.locked {
        (None, Some(lock.write().await))
    } else {
        (Some(lock.read().await), None)
    };
    let Ok(_slot) = slots.acquire().await else {
        let why = "the run was stopped".to_owned();
        return end(asked, Verdict::Error, Reason::Blind { why });
    };
    watch_until_decided(check, &ask, asked, probe_of, context).await
}

/// Keeps what later checks ask for: a value of what was seen last. One that is not there is not kept, and who needs it
/// says so.
fn save(check: &Check, judged: &Judged, context: &Context<'_>) {
    let Some(Evidence::Seen(seen)) = judged.history.0.last().map(|sample| &sample.evidence) else {
        return;
    };
    for (name, path) in &check.save {
        let found = seen.candidates.iter().find_map(|candidate| {
            let found = path.find(&candidate.value);
            found.first().map(|(_, value)| (*value).clone())
        });
        if let Some(value) = found {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            context.save(name, text);
        }
    }
}

async fn watch_until_decided(
    check: &Check,
    ask: &Ask,
    asked: String,
    probe_of: &ProbeOf<'_>,
    context: &Context<'_>,
) -> Judged {
    use super::spec::Time;
    let expect = ask.expect();
    let probe = probe_of(check, ask.clone());
    let limit = ask.look_limit();
    let start = Instant::now();
    let mut history = History::default();
    let mut pause = FIRST_PAUSE;
    loop {
        let evidence = match tokio::time::timeout(limit, probe.observe(context)).await {
            Ok(evidence) => evidence,
            Err(_) => Evidence::blind(format!("no answer within {}s", limit.as_secs())),
        };
        let now = millis(start.elapsed());
        let met = judge::look(&expect, &evidence) == judge::State::Met;
        history.add(now, evidence);
        if let Next::Done(judgement) = judge::history(check, &expect, &history, now) {
            return Judged {
                id: check.id.clone(),
                asked,
                expect,
                filled: context.values_of(&check.ask),
                judgement,
                history,
                elapsed: start.elapsed(),
            };
        }
        // Never sleep past the moment at which the answer is due, or a check would take longer than it says.
        let due = match &check.time {
            Time::Once => judge::CATCH_UP,
            Time::Eventually { within, .. } => *within,
            Time::Always { lasting } | Time::Never { lasting, .. } => *lasting,
        };
        let steady = met || matches!(check.time, Time::Always { .. } | Time::Never { .. });
        let next = if steady { STEADY_PAUSE } else { pause };
        let left = due.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
        tokio::time::sleep(next.min(left)).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the checks with these ids and all that they need, in the order of the file.
pub fn with_needs(checks: &[Check], ids: &[String]) -> Vec<Check> {
    let mut wanted: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut i = 0;
    while i < wanted.len() {
        if let Some(check) = checks.iter().find(|check| check.id == wanted[i]) {
            for need in &check.needs {
                if !wanted.contains(&need.as_str()) {
                    wanted.push(need);
                }
            }
        }
        i += 1;
    }
    checks
        .iter()
        .filter(|check| wanted.contains(&check.id.as_str()))
        .cloned()
        .collect()
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
