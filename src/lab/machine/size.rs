//! Whether the lab fits: processors, memory, disk.

use std::collections::BTreeMap;

use super::{Finding, GIB, MIB, Request, Severity, Wants, local};
use crate::drive::machine::{Facts, Place};
use crate::error::Code;
use crate::report::human::size;

pub(super) fn processors(facts: &Facts, wants: &Wants) -> Finding {
    let requested: u64 = wants.requests.iter().map(|request| request.cpu_milli).sum();
    let have = facts
        .engine
        .up
        .as_ref()
        .map(|up| up.cpus)
        .filter(|&cpus| cpus > 0)
        .or(facts.cpus);
    let parts = breakdown(wants, |request| format!("{}m", request.cpu_milli));
    let Some(cpus) = have else {
        return Finding::ok("processors", Code::Cpu, "their number cannot be read")
            .but(Severity::Note, format!("the lab requests {requested}m ({parts})"));
    };
    let limit = facts
        .cpu_limit_milli
        .filter(|_| local(facts))
        .filter(|&limit| limit < cpus * 1000);
    let milli = limit.unwrap_or(cpus * 1000);
    let whose = if facts.engine.up.is_some() {
        "the engine has"
    } else {
        "the machine has"
    };
    let mut seen = format!("{whose} {cpus}; the lab requests {requested}m ({parts})");
    if let Some(limit) = limit {
        seen = format!("{seen}; a control group allows {limit}m");
    }
    let found = Finding::ok("processors", Code::Cpu, seen);
    if milli < requested {
        return found
            .but(
                Severity::Problem,
                "what is requested beyond that stays Pending for ever",
            )
            .fix(more(facts, "--cpu 2"));
    }
    if milli < 2000 {
        return found
            .but(
                Severity::Warning,
                "kubeadm asks for 2; starting takes several times as long with fewer",
            )
            .fix(more(facts, "--cpu 2"));
    }
    found
}

pub(super) fn memory(facts: &Facts, wants: &Wants) -> Finding {
    let requested: u64 = wants.requests.iter().map(|request| request.memory).sum();
    let needed = requested.max(wants.node_memory);
    let parts = breakdown(wants, |request| format!("{} MiB", request.memory / MIB));
    let engine = facts
        .engine
        .up
        .as_ref()
        .map(|up| up.memory)
        .filter(|&memory| memory > 0);
    let Some(total) = engine.or(facts.memory.map(|(total, _)| total)) else {
        return Finding::ok("memory", Code::Memory, "its size cannot be read")
            .but(Severity::Note, format!("the lab takes about {}", size(needed)));
    };
    let whose = if engine.is_some() {
        "the engine has"
    } else {
        "the machine has"
    };
    let available = facts.memory.filter(|_| local(facts)).map(|(_, available)| available);
    let limit = facts
        .memory_limit
        .filter(|_| local(facts))
        .filter(|&limit| limit < total);
    let mut seen = format!("{whose} {}", size(total));
    if let Some(available) = available {
        seen = format!("{seen}, {} available", size(available));
    }
    if let Some(limit) = limit {
        seen = format!("{seen}; a control group allows {}", size(limit));
    }
    seen = format!(
        "{seen}; the lab requests {} MiB ({parts}) and takes about {}",
        requested / MIB,
        size(needed)
    );
    let found = Finding::ok("memory", Code::Memory, seen);
    let total = total.min(limit.unwrap_or(total));
    if total < needed + needed / 2 {
        return found
            .but(
                Severity::Problem,
                "the kernel would end the API server or etcd when memory runs out",
            )
            .fix(more(facts, "--memory 4"));
    }
    if total < 3 * GIB || available.is_some_and(|available| available < needed) {
        return found
            .but(
                Severity::Warning,
                "what else runs here and the lab may not fit together",
            )
            .fix(more(facts, "--memory 4"));
    }
    found
}

fn breakdown(wants: &Wants, show: impl Fn(&Request) -> String) -> String {
    let parts: Vec<String> = wants
        .requests
        .iter()
        .map(|request| format!("{} {}", request.what, show(request)))
        .collect();
    parts.join(", ")
}

/// Returns how to give the engine more of the machine.
fn more(facts: &Facts, colima: &str) -> String {
    let system = facts
        .engine
        .up
        .as_ref()
        .map(|up| up.system.to_lowercase())
        .unwrap_or_default();
    if system.contains("docker desktop") {
        "give Docker Desktop more: Settings, Resources, then `labctl up` again".into()
    } else if facts.engine.up.as_ref().is_some_and(|up| up.host.contains("colima")) || facts.os.release.id == "macos" {
        format!("colima stop && colima start {colima}")
    } else {
        "stop what else runs on this machine, or use a larger one".into()
    }
}

pub(super) fn disks(facts: &Facts, wants: &Wants) -> Vec<Finding> {
    // What lies on one file system must fit together.
    let mut systems: BTreeMap<(Option<u64>, usize), Vec<&Place>> = BTreeMap::new();
    for (index, place) in facts.places.iter().enumerate() {
        let key = if place.device.is_some() {
            (place.device, 0)
        } else {
            (None, index)
        };
        systems.entry(key).or_default().push(place);
    }
    let mut found: Vec<Finding> = systems
        .values()
        .filter_map(|places| {
            let free = places.first()?.free?;
            let need = |pick: fn(&(u64, u64)) -> u64| -> u64 {
                places
                    .iter()
                    .filter_map(|place| wants.disk.get(place.what))
                    .map(pick)
                    .sum()
            };
            let (least, build) = (need(|pair| pair.0), need(|pair| pair.1));
            let names: Vec<String> = places
                .iter()
                .map(|place| format!("{} {}", place.what, place.path.display()))
                .collect();
            let seen = format!("{} free for {}", size(free), names.join(", "));
            let finding = Finding::ok("disk", Code::Disk, seen);
            let room = "labctl image prune frees what no lab uses; docker system df says what else there is";
            Some(if free < least {
                finding
                    .but(Severity::Problem, format!("the lab needs {} at the least", size(least)))
                    .fix(room)
            } else if free < build {
                finding
                    .but(
                        Severity::Warning,
                        format!("building everything for the first time takes up to {}", size(build)),
                    )
                    .fix(room)
                    .fix("LABCTL_CACHE_DIR=<a directory on a larger disk> labctl up")
            } else {
                finding
            })
        })
        .collect();
    found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    found
}
