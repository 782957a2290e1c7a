//! Judges a chapter again whenever the learner's files or the cluster change, and says what came to something else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use futures_util::StreamExt as _;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::catalogue::Entry;
use super::chapter::Chapter;
use super::verify::{self, Options, Say};
use super::workspace::Workspace;
use crate::check::judge::Verdict;
use crate::check::schedule::{self, Judged};
use crate::check::spec::{Check, Time};
use crate::drive::files;
use crate::error::Exit;
use crate::world::World;

/// The pause between two looks at the files.
const LOOK: Duration = Duration::from_millis(200);
/// How long changes may go on to come before they are judged together.
const SETTLE: Duration = Duration::from_millis(150);
/// What is judged again although nothing was seen to change: what lies outside of files and watched kinds.
const ANYWAY: Duration = Duration::from_secs(10);
/// The longest that a check may wait for itself while it is watched.
const PATIENCE: Duration = Duration::from_millis(1);
/// The kinds of objects whose changes are seen.
const KINDS: [(&str, &str, &str); 10] = [
    ("", "v1", "Pod"),
    ("", "v1", "Service"),
    ("", "v1", "Secret"),
    ("", "v1", "ConfigMap"),
    ("", "v1", "Namespace"),
    ("", "v1", "ServiceAccount"),
    ("apps", "v1", "Deployment"),
    ("batch", "v1", "Job"),
    ("discovery.k8s.io", "v1", "EndpointSlice"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding"),
];

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Files,
    Cluster,
    Nothing,
}

/// Judges until everything passes.
///
/// # Errors
/// As [`verify::run`].
pub async fn run(world: &World, entry: &Entry, chapter: &Chapter, options: Options<'_>) -> Result<Exit> {
    let (told, mut changes) = mpsc::channel(16);
    let mut tasks = JoinSet::new();
    if let Some(workspace) = options.workspace {
        tasks.spawn(see_files(workspace.clone(), told.clone()));
    }
    if let Ok(cluster) = world.cluster().await {
        for (group, version, kind) in KINDS {
            tasks.spawn(see_objects(
                cluster.client(),
                GroupVersionKind::gvk(group, version, kind),
                told.clone(),
            ));
        }
    }
    let mut before: BTreeMap<String, Verdict> = BTreeMap::new();
    let mut change = Change::Files;
    loop {
        // A check that changes the cluster would be woken by itself for ever; it waits for a change of the files.
        let calm: Vec<String> = if change == Change::Files {
            options.only.to_vec()
        } else {
            reading(chapter, options.only)
        };
        if change == Change::Files || !calm.is_empty() {
            let judged = verify::run(
                world,
                entry,
                chapter,
                Options {
                    only: &calm,
                    say: Say::Changes(&before),
                    change: Some(&hurry),
                    ..options
                },
            )
            .await?;
            before.extend(
                judged
                    .iter()
                    .map(|judged: &Judged| (judged.id.clone(), judged.verdict())),
            );
        }
        let wanted = if options.only.is_empty() {
            chapter.checks.clone()
        } else {
            schedule::with_needs(&chapter.checks, options.only)
        };
        if wanted.iter().all(|check| before.get(&check.id) == Some(&Verdict::Pass)) {
            return Ok(Exit::Done);
        }
        change = next(&mut changes).await;
    }
}

/// Returns the checks that change nothing and need none that does.
fn reading(chapter: &Chapter, only: &[String]) -> Vec<String> {
    let wanted: Vec<Check> = if only.is_empty() {
        chapter.checks.clone()
    } else {
        schedule::with_needs(&chapter.checks, only)
    };
    wanted
        .iter()
        .filter(|check| {
            let all = schedule::with_needs(&chapter.checks, std::slice::from_ref(&check.id));
            all.iter().all(|check| !check.locked)
        })
        .map(|check| check.id.clone())
        .collect()
}

/// A check that may wait is looked at once: the next change wakes it.
fn hurry(check: &mut Check) {
    if let Time::Eventually { .. } = &check.time {
        check.time = Time::Eventually {
            within: PATIENCE,
            stable_for: Duration::ZERO,
        };
    }
}

/// Waits for a change, and lets those that come with it come too.
async fn next(changes: &mut mpsc::Receiver<Change>) -> Change {
    let Ok(first) = tokio::time::timeout(ANYWAY, changes.recv()).await else {
        return Change::Nothing;
    };
    let mut all = first.unwrap_or(Change::Nothing);
    tokio::time::sleep(SETTLE).await;
    while let Ok(more) = changes.try_recv() {
        if more == Change::Files {
            all = Change::Files;
        }
    }
    all
}

async fn see_files(workspace: Workspace, told: mpsc::Sender<Change>) {
    let mut known = times(&workspace.dir());
    loop {
        tokio::time::sleep(LOOK).await;
        let now = times(&workspace.dir());
        if now != known {
            known = now;
            // Full means that a change is waiting already.
            _ = told.try_send(Change::Files);
        }
    }
}

/// Returns when each file was changed, without what programs leave behind.
fn times(dir: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let left_behind = |path: &Path| {
        path.components().any(|part| {
            let name = part.as_os_str().to_string_lossy();
            name.starts_with('.') || name == "__pycache__" || name == "node_modules" || name == "target"
        })
    };
    files::walk(dir)
        .unwrap_or_default()
        .into_iter()
        .filter(|path| !left_behind(path.strip_prefix(dir).unwrap_or(path)))
        .filter_map(|path| {
            let time = path.metadata().and_then(|found| found.modified()).ok()?;
            Some((path, time))
        })
        .collect()
}

async fn see_objects(client: Client, kind: GroupVersionKind, told: mpsc::Sender<Change>) {
    let api: Api<DynamicObject> = Api::all_with(client, &ApiResource::from_gvk(&kind));
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        if let Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_)) = event {
            _ = told.try_send(Change::Cluster);
        }
    }
}
