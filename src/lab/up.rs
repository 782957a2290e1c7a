//! `labctl up`: the plan of the lab, made under the lab's lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::doctor;
use super::machine::{self, Finding, Fix, Severity, Wants};
use super::plan::{Plan, Step};
use super::record::Origin;
use super::step::{self, Site};
use crate::config::{Ports, Settings};
use crate::drive::debian;
use crate::drive::files::Lock;
use crate::drive::port;
use crate::error::{Code, Diagnosis};
use crate::world::World;

/// How long a second `labctl` waits for the first one.
const LOCK_LIMIT: Duration = Duration::from_secs(3600);

/// Returns the plan that makes the whole lab.
///
/// # Errors
/// The plan is not sound: a bug.
pub fn plan(site: &Site) -> Result<Plan> {
    if let Origin::Existing { context, image } = &site.record().cluster {
        return existing(site, context, image.is_none());
    }
    let steps: Vec<Arc<dyn Step>> = vec![
        Arc::new(step::packages::Packages(site.clone())),
        Arc::new(step::engine::Engine(site.clone())),
        Arc::new(step::certificates::Certificates::new(site.world().settings())),
        Arc::new(step::programs::Programs(site.clone())),
        Arc::new(step::base::Base(site.clone())),
        Arc::new(step::node_image::NodeImage(site.clone())),
        Arc::new(step::network::Network(site.clone())),
        Arc::new(step::registry::RegistryImage(site.clone())),
        Arc::new(step::registry::Registry(site.clone())),
        Arc::new(step::cluster::Cluster(site.clone())),
        Arc::new(step::dashboard_image::Push(site.clone())),
        Arc::new(step::job_image::Push(site.clone())),
        Arc::new(step::token::Token(site.clone())),
        Arc::new(step::wiring::Wiring(site.clone())),
        Arc::new(step::chart::Chart(site.clone())),
        Arc::new(step::ready::Ready(site.clone())),
    ];
    Plan::new(steps)
}

/// Looks at the machine before a new lab touches anything: sets right what it can, and stops at the problems, all of
/// them at once.
///
/// # Errors
/// The machine cannot carry the lab.
pub async fn preflight(world: &World, ports: Ports) -> Result<()> {
    let facts = doctor::look_for(world, ports).await;
    let mut wants = Wants::new(world.settings().lab.as_str());
    wants.makes_engine = true;
    let mut problems: Vec<Finding> = Vec::new();
    for finding in machine::check(&facts, &wants) {
        match (&finding.repair, finding.severity) {
            (Some(fix @ Fix::Inotify(..)), severity) if severity >= Severity::Warning && debian::is_root() => {
                let done = doctor::repair(world, fix).await?;
                world.reporter().note(format!("{}: {done}", finding.topic));
            }
            (_, Severity::Problem) => problems.push(finding),
            (_, Severity::Warning) => world.reporter().warn(format!("{}: {}", finding.topic, finding.seen)),
            _ => {}
        }
    }
    let Some(first) = problems.first() else {
        return Ok(());
    };
    let mut diagnosis = Diagnosis::new(first.code, format!("{}: {}", first.topic, first.seen));
    for problem in problems.iter().skip(1) {
        diagnosis = diagnosis.hint(format!("{} {}: {}", problem.code.id(), problem.topic, problem.seen));
    }
    for fix in problems.iter().flat_map(|problem| &problem.fix) {
        diagnosis = diagnosis.hint(fix.clone());
    }
    Err(diagnosis.error())
}

/// The plan of a lab in a cluster that the user already has; `bring` says whether labctl brings the image in.
fn existing(site: &Site, context: &str, bring: bool) -> Result<Plan> {
    let access = step::existing::Kubeconfigured {
        site: site.clone(),
        context: context.to_owned(),
    };
    let image: Arc<dyn Step> = if bring {
        Arc::new(step::existing::Loaded {
            site: site.clone(),
            context: context.to_owned(),
        })
    } else {
        Arc::new(step::existing::Published(site.clone()))
    };
    Plan::new(vec![
        Arc::new(access),
        image,
        Arc::new(step::programs::Programs(site.clone())),
        Arc::new(step::token::Token(site.clone())),
        Arc::new(step::chart::Chart(site.clone())),
    ])
}

/// Takes the lab's lock, waiting for whoever holds it, and saying who that is.
///
/// # Errors
/// [`Code::LockHeld`] after an hour, or the state directory cannot be written.
pub async fn lock(world: &World, verb: &str) -> Result<Lock> {
    let settings = world.settings();
    let path = lock_path(settings);
    let who = format!("labctl {verb} (pid {})", std::process::id());
    let deadline = Instant::now() + LOCK_LIMIT;
    let mut said = false;
    loop {
        let holder = match Lock::try_take(&path, &who)? {
            Ok(lock) => return Ok(lock),
            Err(holder) => holder,
        };
        if Instant::now() > deadline {
            return Err(Diagnosis::new(
                Code::LockHeld,
                format!("`{holder}` works on the lab `{}`", settings.lab),
            )
            .hint("wait for it to end, or end it; then run the same command again")
            .error());
        }
        if !said {
            world
                .reporter()
                .note(format!("waiting: `{holder}` works on the lab `{}`", settings.lab));
            said = true;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn lock_path(settings: &Settings) -> std::path::PathBuf {
    // Not in the lab's own directory, which teardown removes while it holds the lock.
    settings
        .dirs
        .state()
        .join("locks")
        .join(format!("{}.lock", settings.lab))
}

/// Checks that a port on the loopback address can be listened on.
///
/// # Errors
/// [`Code::PortTaken`], by whom, and the flag to choose another.
pub fn port_is_free(port: u16, flag: &str) -> Result<()> {
    match std::net::TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(()),
        Err(error) => Err(
            anyhow::Error::new(error).context(Diagnosis::new(Code::PortTaken, port::taken(port)).hint(format!(
                "choose another: labctl up {flag} {}",
                port.saturating_add(1000)
            ))),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Dirs, Images, LabName};
    use crate::lab::record::Record;
    use crate::report::{Recorded, Reporter};

    fn site(record: Record) -> Site {
        let dirs = Dirs::new("/nowhere/state", "/nowhere/cache");
        let settings = Settings {
            lab: LabName::parse("demo").expect("a name"),
            dirs,
            yes: false,
            ask: false,
            json: false,
        };
        let world = World::real(settings, Reporter::new(Recorded::default())).expect("a world");
        Site::new(world, record, Images::Build, false)
    }

    #[test]
    fn the_plan_is_sound_in_both_kinds_of_cluster() {
        plan(&site(Record::default())).expect("a sound plan");
        for image in [None, Some("r/x:1".to_owned())] {
            let mut record = Record::default();
            record.cluster = Origin::Existing {
                context: "kind-other".into(),
                image,
            };
            plan(&site(record)).expect("a sound plan");
        }
    }
}
