//! Looking at the machine, and setting right what labctl can set right.

use anyhow::{Context, Result};

use super::machine::{Finding, Fix, Wants, check};
use super::record::Record;
use super::{engine, tools};
use crate::config::Ports;
use crate::drive::debian;
use crate::drive::exec::Cmd;
use crate::drive::files;
use crate::drive::machine::{Facts, Questions, read};
use crate::world::World;

/// Looks at this machine and at the engine, which need not be there.
///
/// # Errors
/// The lab's own record cannot be read.
pub async fn look(world: &World) -> Result<Facts> {
    let ports = Record::read(world.settings())?.unwrap_or_default().ports;
    Ok(look_for(world, ports).await)
}

/// Looks at this machine for a lab that wants these ports.
pub async fn look_for(world: &World, ports: Ports) -> Facts {
    let questions = Questions {
        ports: vec![
            ("http", ports.http),
            ("grpc", ports.grpc),
            ("mtls", ports.mtls),
            ("metrics", ports.metrics),
            ("registry", ports.registry),
        ],
        programs: tools::questions(),
        time_servers: vec!["https://dl.k8s.io/".to_owned()],
    };
    let engine = world.docker().await;
    let settings = world.settings();
    read(settings, world.exec(), world.http(), engine, &questions).await
}

/// Looks at this machine and judges it for this lab.
///
/// # Errors
/// As [`look`].
pub async fn examine(world: &World) -> Result<Vec<Finding>> {
    let facts = look(world).await?;
    Ok(check(&facts, &Wants::new(world.settings().lab.as_str())))
}

/// Does what a finding says can be done, and returns what was done.
///
/// # Errors
/// It could not be done.
pub async fn repair(world: &World, fix: &Fix) -> Result<String> {
    match fix {
        Fix::StartEngine => {
            let log = world.settings().log_dir().join("doctor.log");
            debian::install(world.exec(), &engine::PACKAGES, &log, |_| ()).await?;
            world.forget_docker().await;
            // An engine that the system starts with its package is the user's; only without one labctl runs its own.
            let docker = match world.docker().await {
                Ok(docker) if engine::unfit(&docker).await?.is_none() => docker,
                _ => engine::start(world, |_| ()).await?,
            };
            world.forget_docker().await;
            Ok(format!("started Docker {} at {}", docker.version(), docker.host()))
        }
        Fix::Inotify(instances, watches) => {
            let settings = [
                format!("fs.inotify.max_user_instances={instances}"),
                format!("fs.inotify.max_user_watches={watches}"),
            ];
            let cmd = Cmd::new("sysctl").arg("-w").args(settings.iter().cloned());
            world.exec().run(&cmd).await.context("raise the inotify limits")?;
            Ok(format!("{} until the next restart", settings.join(" ")))
        }
        Fix::MakeDir(path) => {
            files::make_dir(path)?;
            Ok(format!("made {}", path.display()))
        }
        Fix::Remove(paths) => {
            for path in paths {
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(files::explain(error, "remove", path));
                    }
                    _ => {}
                }
            }
            Ok(format!("removed {} left files", paths.len()))
        }
    }
}
