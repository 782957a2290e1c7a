//! What the container engine says of itself.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{EngineFacts, EngineUp};
use crate::config;
use crate::drive::docker::{self, Docker};
use crate::error::Code;

/// How long the engine may take for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Asks the engine what it is; also returns where it keeps its data.
pub(super) async fn facts(engine: anyhow::Result<Docker>) -> (EngineFacts, Option<PathBuf>) {
    let engine = match engine {
        Ok(engine) => engine,
        Err(error) => {
            let found = crate::error::diagnosis(&error);
            let down = Some((
                found.map_or(Code::EngineMissing, |found| found.code),
                found.map_or_else(|| format!("{error:#}"), |found| found.message.clone()),
                found.map(|found| found.hints.clone()).unwrap_or_default(),
            ));
            return (EngineFacts { up: None, down }, None);
        }
    };
    let info = tokio::time::timeout(ANSWER_LIMIT, engine.api().info()).await;
    let info = match info {
        Ok(Ok(info)) => info,
        Ok(Err(error)) => {
            return (failed(format!("the engine does not describe itself: {error}")), None);
        }
        Err(_) => {
            return (failed("the engine did not describe itself within 5s".into()), None);
        }
    };
    let containers = tokio::time::timeout(ANSWER_LIMIT, engine.containers(HashMap::new())).await;
    let published = containers.ok().and_then(Result::ok).unwrap_or_default();
    let published = published
        .iter()
        .flat_map(|container| {
            let labels = container.labels.clone().unwrap_or_default();
            let lab = labels
                .get(config::LABEL)
                .or_else(|| labels.get("io.x-k8s.kind.cluster"))
                .cloned();
            let name = container.names.as_ref().and_then(|names| names.first());
            let name = name
                .map(|name| name.trim_start_matches('/').to_owned())
                .unwrap_or_default();
            let ports = container.ports.clone().unwrap_or_default();
            ports
                .into_iter()
                .filter_map(move |port| Some((port.public_port?, name.clone(), lab.clone())))
        })
        .collect();
    let options = info.security_options.unwrap_or_default();
    let status = info.driver_status.unwrap_or_default();
    let up = EngineUp {
        version: engine.version().to_owned(),
        host: engine.host().to_owned(),
        managed: *engine.source() == docker::Source::Managed,
        cpus: info.ncpu.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
        memory: info.mem_total.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
        system: info.operating_system.unwrap_or_default(),
        kernel: info.kernel_version.unwrap_or_default(),
        driver: info.driver.unwrap_or_default(),
        containerd_store: status
            .iter()
            .flatten()
            .any(|word| word.contains("io.containerd.snapshotter")),
        runtime: info.default_runtime.unwrap_or_default(),
        rootless: options.iter().any(|option| option.contains("name=rootless")),
        cgroup: info.cgroup_version.and_then(|version| version.to_string().parse().ok()),
        published,
    };
    let root = info.docker_root_dir.map(PathBuf::from);
    (
        EngineFacts {
            up: Some(up),
            down: None,
        },
        root,
    )
}

fn failed(message: String) -> EngineFacts {
    EngineFacts {
        up: None,
        down: Some((Code::EngineFailed, message, Vec::new())),
    }
}
