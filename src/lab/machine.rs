//! The machine as the lab needs it: facts in, findings out.
//!
//! Pure: nothing is looked at here. `labctl doctor` prints every finding; `labctl up` stops at the problems before it
//! touches anything.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::{capability, engine as managed};
use crate::drive::machine::{EngineUp, Facts, Os, Place};
use crate::error::Code;

mod size;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// A clock that is off by more than this makes new certificates invalid somewhere.
const CLOCK_LIMIT_SECONDS: u64 = 120;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing to do.
    Note,
    /// The lab comes up, and something may go wrong later.
    Warning,
    /// The lab cannot come up.
    Problem,
}

/// What `labctl doctor --fix` can do about a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// Install and start a container engine.
    StartEngine,
    /// Raise `fs.inotify.max_user_instances` and `fs.inotify.max_user_watches` to these.
    Inotify(u64, u64),
    /// Make a directory.
    MakeDir(PathBuf),
    /// Remove files that a killed labctl left.
    Remove(Vec<PathBuf>),
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub topic: &'static str,
    /// The stable id, which is also that of the failure it prevents.
    #[serde(serialize_with = "id")]
    pub code: Code,
    /// How much it matters.
    pub severity: Severity,
    /// What was seen, with numbers.
    pub seen: String,
    /// Why it matters; empty where nothing is wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// What to do, most useful first: a command where there is one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fix: Vec<String>,
    /// What `--fix` would do.
    #[serde(skip)]
    pub repair: Option<Fix>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn id<S: serde::Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code.id())
}

/// What a part of the lab requests of the cluster's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The part.
    pub what: &'static str,
    /// Thousandths of a processor.
    pub cpu_milli: u64,
    /// Bytes.
    pub memory: u64,
}

/// What the lab needs of the machine.
#[derive(Debug, Clone)]
pub struct Wants {
    /// The lab's name: ports that it holds itself are no problem.
    pub lab: String,
    /// What its parts request.
    pub requests: Vec<Request>,
    /// How much memory the node takes at rest beyond what pods request, in bytes.
    pub node_memory: u64,
    /// How many inotify instances and watches.
    pub inotify: (u64, u64),
    /// How many bytes must be free where this is kept: the least that will do, and what a first build takes.
    pub disk: BTreeMap<&'static str, (u64, u64)>,
    /// Whether a missing engine is installed and started by what comes next.
    pub makes_engine: bool,
}

impl Wants {
    /// Returns what a lab with a control plane and the dashboard needs.
    pub fn new(lab: impl Into<String>) -> Self {
        Self {
            lab: lab.into(),
            requests: vec![
                // kubeadm's static pods (250m + 200m + 100m + 100m), two CoreDNS (100m, 70Mi each), kind's own parts.
                Request {
                    what: "Kubernetes itself",
                    cpu_milli: 950,
                    memory: 290 * MIB,
                },
                Request {
                    what: "job-dashboard",
                    cpu_milli: 25,
                    memory: 32 * MIB,
                },
            ],
            node_memory: 1100 * MIB,
            inotify: (1024, 65_536),
            disk: BTreeMap::from([
                ("state", (200_000_000, 500_000_000)),
                // Modules 3.6 GB, the Go build cache 5.0 GB, the base and the results about 2 GB.
                ("cache", (1_000_000_000, 11_000_000_000)),
                // The node image, its base, the registry and what the node unpacks.
                ("images", (3_000_000_000, 6_000_000_000)),
            ]),
            makes_engine: false,
        }
    }
}

/// Judges a machine. Findings come in the order in which a person would set it right.
pub fn check(facts: &Facts, wants: &Wants) -> Vec<Finding> {
    let mut out = vec![engine(facts, wants)];
    out.extend(facts.engine.up.as_ref().map(storage));
    out.extend(capabilities(facts));
    out.extend(control_groups(facts));
    out.push(size::processors(facts, wants));
    out.push(size::memory(facts, wants));
    out.extend(size::disks(facts, wants));
    out.extend(facts.places.iter().filter(|place| place.what != "images").map(writable));
    out.extend(inotify(facts, wants));
    out.extend(ports(facts, wants));
    out.extend(super::tools::findings(facts));
    out.push(clock(facts));
    out.push(network(facts));
    out.extend(proxy(facts));
    out.push(others(facts));
    out.extend(stale(facts));
    out
}

/// Returns the worst severity among findings.
pub fn worst(findings: &[Finding]) -> Severity {
    findings
        .iter()
        .map(|finding| finding.severity)
        .max()
        .unwrap_or(Severity::Ok)
}

impl Finding {
    /// Makes a finding that needs nothing to be done.
    pub(super) fn ok(topic: &'static str, code: Code, seen: impl Into<String>) -> Self {
        Self {
            topic,
            code,
            severity: Severity::Ok,
            seen: seen.into(),
            why: String::new(),
            fix: Vec::new(),
            repair: None,
        }
    }

    /// Says how much it matters and why.
    pub(super) fn but(mut self, severity: Severity, why: impl Into<String>) -> Self {
        self.severity = severity;
        self.why = why.into();
        self
    }

    /// Says what to do.
    pub(super) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix.push(fix.into());
        self
    }

    fn repair(mut self, repair: Fix) -> Self {
        self.repair = Some(repair);
        self
    }
}

/// Returns a command as this user must type it.
fn as_root(os: &Os, command: &str) -> String {
    if os.root {
        command.to_owned()
    } else {
        format!("sudo {command}")
    }
}

fn engine(facts: &Facts, wants: &Wants) -> Finding {
    let os = &facts.os;
    if let Some(up) = &facts.engine.up {
        let who = if up.managed { ", started by labctl" } else { "" };
        let where_ = if up.system.is_empty() {
            String::new()
        } else {
            format!(" on {}", up.system)
        };
        return Finding::ok(
            "engine",
            Code::EngineMissing,
            format!("Docker {}{where_} at {}{who}", up.version, up.host),
        );
    }
    let (code, seen, hints) =
        facts
            .engine
            .down
            .clone()
            .unwrap_or((Code::EngineMissing, "no container engine answers".into(), Vec::new()));
    let can_make = code == Code::EngineMissing && can_install(os);
    let severity = if can_make && wants.makes_engine {
        Severity::Note
    } else {
        Severity::Problem
    };
    let mut found = Finding::ok("engine", code, seen).but(severity, "the cluster's node is a container");
    if can_make {
        return found.fix("labctl up --yes").repair(Fix::StartEngine);
    }
    // What the user named (`DOCKER_HOST`, a context) is what they must set right; else there is none at all.
    let named = hints
        .iter()
        .any(|hint| hint.contains("DOCKER_HOST") || hint.contains("context"));
    let hints = if code == Code::EngineMissing && !named {
        managed::advice(&os.release).hints
    } else {
        hints
    };
    for hint in hints {
        found = found.fix(hint);
    }
    found
}

fn can_install(os: &Os) -> bool {
    os.release.has_apt() && os.root
}

fn storage(up: &EngineUp) -> Finding {
    let mut seen = if up.driver.is_empty() {
        "unknown storage".to_owned()
    } else {
        up.driver.clone()
    };
    if up.containerd_store {
        seen.push_str(", containerd image store");
    }
    if up.rootless {
        seen.push_str(", rootless");
    }
    let found = Finding::ok("engine storage", Code::EngineStorage, seen);
    if up.rootless {
        return found
            .but(Severity::Warning, "a rootless engine runs a node only with delegated control groups")
            .fix("https://kind.sigs.k8s.io/docs/user/rootless/ says how to delegate them; a rootful engine needs nothing");
    }
    if up.driver == "vfs" {
        return found
            .but(
                Severity::Warning,
                "vfs copies every layer of every image: slow, and several times the disk",
            )
            .fix("keep the engine's data on a file system that overlay works on (ext4, xfs)");
    }
    if up.containerd_store {
        return found.but(
            Severity::Note,
            "`kind load` fails on images for several platforms here; labctl uses its own registry instead",
        );
    }
    found
}

/// Returns whether the engine runs on this machine's kernel, so that what is read here holds for it too.
fn local(facts: &Facts) -> bool {
    facts
        .engine
        .up
        .as_ref()
        .is_none_or(|up| up.kernel.is_empty() || up.kernel == facts.os.kernel)
}

fn capabilities(facts: &Facts) -> Option<Finding> {
    let (bounding, last) = facts.capabilities?;
    let last = usize::try_from(last).unwrap_or_default();
    let missing = capability::Set(bounding).missing(last);
    if missing.is_empty() {
        let seen = format!("all {} are in the bounding set", last + 1);
        return Some(Finding::ok("capabilities", Code::CapabilitiesBounded, seen));
    }
    let found = Finding::ok(
        "capabilities",
        Code::CapabilitiesBounded,
        format!("the bounding set lacks {}", missing.join(", ")),
    );
    let up = facts.engine.up.as_ref();
    if up.is_some_and(|up| up.managed || up.runtime == capability::RUNTIME) {
        return Some(found.but(
            Severity::Note,
            "privileged containers ask for all; this engine's runtime asks for no more than there are",
        ));
    }
    if !local(facts) {
        return None;
    }
    Some(if can_install(&facts.os) {
        found.but(Severity::Note, "privileged containers ask for all; labctl up starts an engine whose runtime asks for no more than there are")
    } else {
        found
            .but(
                Severity::Problem,
                "privileged containers such as the cluster's node cannot start",
            )
            .fix("run labctl as root on Debian or Ubuntu, where it starts an engine of its own, or use another machine")
    })
}

fn control_groups(facts: &Facts) -> Option<Finding> {
    let version = facts.engine.up.as_ref().and_then(|up| up.cgroup).or(facts.cgroup)?;
    let found = Finding::ok("control groups", Code::CgroupV1, format!("version {version}"));
    Some(if version == 1 {
        found.but(
            Severity::Note,
            "Kubernetes is leaving it; labctl sets the kubelet's failCgroupV1 to false",
        )
    } else {
        found
    })
}

fn writable(place: &Place) -> Finding {
    let topic = if place.what == "state" {
        "state directory"
    } else {
        "cache directory"
    };
    let path = place.path.display();
    let found = Finding::ok(topic, Code::NotWritable, path.to_string());
    if !place.writable {
        let variable = if place.what == "state" {
            "LABCTL_STATE_DIR"
        } else {
            "LABCTL_CACHE_DIR"
        };
        return Finding {
            seen: format!("{path} cannot be written"),
            ..found
        }
        .but(Severity::Problem, "labctl keeps the lab's files there")
        .fix(format!("{variable}=<a directory that can be written> labctl up"));
    }
    if place.exists {
        return found;
    }
    Finding {
        seen: format!("{path} is not there yet"),
        ..found
    }
    .but(Severity::Note, "labctl up makes it")
    .repair(Fix::MakeDir(place.path.clone()))
}

fn inotify(facts: &Facts, wants: &Wants) -> Option<Finding> {
    let (instances, watches) = facts.inotify.filter(|_| local(facts))?;
    let (want_instances, want_watches) = wants.inotify;
    let found = Finding::ok(
        "inotify",
        Code::Inotify,
        format!("{instances} instances, {watches} watches a user"),
    );
    if instances >= want_instances && watches >= want_watches {
        return Some(found);
    }
    let (to_instances, to_watches) = (instances.max(want_instances), watches.max(want_watches));
    let command =
        format!("sysctl -w fs.inotify.max_user_instances={to_instances} fs.inotify.max_user_watches={to_watches}");
    let found = found
        .but(
            Severity::Warning,
            format!(
                "programs in the node fail with \"too many open files\"; {want_instances} and {want_watches} are enough"
            ),
        )
        .fix(as_root(&facts.os, &command));
    Some(if facts.os.root {
        found.repair(Fix::Inotify(to_instances, to_watches))
    } else {
        found
    })
}

fn ports(facts: &Facts, wants: &Wants) -> Vec<Finding> {
    let shared = crate::config::SHARED;
    let own = |lab: &Option<String>| lab.as_deref().is_some_and(|lab| lab == wants.lab || lab == shared);
    let taken: Vec<Finding> = facts
        .ports
        .iter()
        .filter(|port| !port.free && !own(&port.lab))
        .map(|port| {
            let flag = format!("labctl up --{}-port {}", port.what, elsewhere(port.number));
            let holder = port.holder.as_deref().unwrap_or("a process that this user cannot see");
            let fix = match &port.lab {
                Some(lab) => format!("labctl --lab {lab} teardown, or {flag}"),
                None => format!("stop it, or {flag}"),
            };
            Finding::ok(
                "port",
                Code::PortTaken,
                format!("127.0.0.1:{} is held by {holder}", port.number),
            )
            .but(Severity::Problem, format!("the lab wants it for {}", port.what))
            .fix(fix)
        })
        .collect();
    if !taken.is_empty() || facts.ports.is_empty() {
        return taken;
    }
    let ours = facts.ports.iter().filter(|port| !port.free).count();
    let numbers: Vec<String> = facts.ports.iter().map(|port| port.number.to_string()).collect();
    let seen = match ours {
        0 => format!("{} are free", numbers.join(", ")),
        n if n == facts.ports.len() => format!("{} are the lab's own", numbers.join(", ")),
        n => format!("{} are free, or ({n} of them) the lab's own", numbers.join(", ")),
    };
    vec![Finding::ok("ports", Code::PortTaken, seen)]
}

/// Returns a port that is seldom taken, and easy to remember.
fn elsewhere(port: u16) -> u16 {
    if port < 50_000 { port + 10_000 } else { port - 10_000 }
}

fn clock(facts: &Facts) -> Finding {
    let here = facts.clock.here;
    let fix = if facts.os.release.id == "macos" {
        "sudo sntp -sS time.apple.com".to_owned()
    } else {
        as_root(&facts.os, "timedatectl set-ntp true")
    };
    let why = "the lab's certificates would be expired or not valid yet";
    if let Some((there, host)) = &facts.clock.there {
        let off = here.abs_diff(*there);
        let found = Finding::ok("clock", Code::Clock, format!("{off}s from that of {host}"));
        return if off > CLOCK_LIMIT_SECONDS {
            found.but(Severity::Problem, why).fix(fix)
        } else {
            found
        };
    }
    match &facts.clock.not_before {
        Some((time, file)) if here < *time => Finding::ok(
            "clock",
            Code::Clock,
            format!("it is {}s before {file} was written", here.abs_diff(*time)),
        )
        .but(Severity::Problem, why)
        .fix(fix),
        _ => Finding::ok("clock", Code::Clock, "not before any file; no server could be asked"),
    }
}

fn network(facts: &Facts) -> Finding {
    match &facts.clock.there {
        Some((_, host)) => Finding::ok("network", Code::PackageRegistry, format!("{host} answers")),
        None => Finding::ok("network", Code::PackageRegistry, "no package mirror answered")
            .but(
                Severity::Warning,
                "what is not in the cache yet can neither be pulled nor built",
            )
            .fix(
                "check the connection, and http_proxy/https_proxy behind a proxy; a lab that is built needs no network",
            ),
    }
}

fn proxy(facts: &Facts) -> Option<Finding> {
    let mut seen: Vec<String> = facts
        .proxies
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let bundle = facts.bundle.as_ref().filter(|(_, set)| *set);
    seen.extend(bundle.map(|(path, _)| format!("certificate authorities from {}", path.display())));
    if seen.is_empty() {
        return None;
    }
    let found = Finding::ok("proxy", Code::Proxy, seen.join(", "));
    let uses = facts
        .proxies
        .iter()
        .any(|(name, _)| !name.eq_ignore_ascii_case("no_proxy"));
    let spares = facts.proxies.iter().any(|(name, value)| {
        name.eq_ignore_ascii_case("no_proxy") && (value.contains("127.0.0.1") || value.contains("127.0.0.0/8"))
    });
    Some(if uses && !spares {
        found
            .but(
                Severity::Warning,
                "kubectl and helm would ask the proxy for the lab's own API server",
            )
            .fix("export NO_PROXY=127.0.0.1,localhost,10.0.0.0/8,172.16.0.0/12")
    } else {
        found.but(Severity::Note, "builds in containers get the same")
    })
}

fn others(facts: &Facts) -> Finding {
    let Some(other) = facts.others.iter().max_by_key(|other| other.first) else {
        return Finding::ok("name", Code::OtherLabctl, "no other program is named labctl");
    };
    let which = other.which.unwrap_or("another program");
    let found = Finding::ok(
        "name",
        Code::OtherLabctl,
        format!("{} is {which}", other.path.display()),
    );
    if other.first {
        found
            .but(
                Severity::Warning,
                "it is earlier on PATH, so `labctl` runs it and not this program",
            )
            .fix("put the directory of this program first: export PATH=<its directory>:$PATH")
            .fix("or give this one a name of its own: alias lab=<path of this program>")
    } else {
        found.but(
            Severity::Note,
            "`labctl` runs this program; keep the two apart when you read other guides",
        )
    }
}

fn stale(facts: &Facts) -> Option<Finding> {
    let first = facts.stale.first()?;
    let more = match facts.stale.len() {
        1 => String::new(),
        n => format!(", and {} more", n - 1),
    };
    let paths: Vec<PathBuf> = facts.stale.iter().map(|stale| stale.path.clone()).collect();
    Some(
        Finding::ok(
            "left files",
            Code::Stale,
            format!("{}: {}{more}", first.path.display(), first.why),
        )
        .but(
            Severity::Note,
            "a labctl was killed, or the machine was restarted; labctl up copes with them",
        )
        .fix("labctl doctor --fix")
        .repair(Fix::Remove(paths)),
    )
}

#[cfg(test)]
mod tests;
