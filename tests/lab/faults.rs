//! What goes wrong under a lab: nodes and engines that stop, runs that are killed, ports that are taken, two at once.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use labctl::drive::docker::{Docker, Source};
use labctl::drive::files::Lock;
use labctl::lab::engine;

use crate::Test;
use crate::support::{Lab, NAME, PORTS, both};

/// The tests of this file, in order; the last one leaves no lab behind.
pub(crate) const TESTS: &[Test] = &[
    (
        "faults::a_second_run_waits_and_says_for_whom",
        a_second_run_waits_and_says_for_whom,
    ),
    (
        "faults::a_taken_port_is_named_with_its_holder",
        a_taken_port_is_named_with_its_holder,
    ),
    ("faults::a_stopped_node_comes_back", a_stopped_node_comes_back),
    ("faults::a_removed_registry_comes_back", a_removed_registry_comes_back),
    ("faults::a_killed_engine_comes_back", a_killed_engine_comes_back),
    (
        "faults::a_restarted_machine_is_brought_back",
        a_restarted_machine_is_brought_back,
    ),
    ("faults::a_full_disk_is_told", a_full_disk_is_told),
    ("faults::prune_keeps_what_the_lab_needs", prune_keeps_what_the_lab_needs),
    ("faults::without_a_network", without_a_network),
    (
        "faults::an_engine_killed_while_it_builds",
        an_engine_killed_while_it_builds,
    ),
    (
        "faults::a_killed_up_is_finished_by_the_next",
        a_killed_up_is_finished_by_the_next,
    ),
    ("faults::teardown_leaves_nothing", teardown_leaves_nothing),
    (
        "faults::a_stopped_registry_keeps_its_image",
        a_stopped_registry_keeps_its_image,
    ),
];

fn with_docker<T>(lab: &Lab, work: impl AsyncFnOnce(Docker) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let docker = Docker::find(&lab.settings()?).await?;
        work(docker).await
    })
}

fn answers() -> bool {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    labctl::world::install_crypto();
    runtime.block_on(async {
        let url = format!("http://127.0.0.1:{}/healthz", PORTS.http);
        let answer = reqwest::Client::new()
            .get(url)
            .timeout(Duration::from_secs(2))
            .send()
            .await;
        answer.is_ok_and(|answer| answer.status().is_success())
    })
}

fn uid(lab: &Lab) -> Result<String> {
    lab.ok(&[
        "kubectl",
        "get",
        "namespace",
        "kube-system",
        "-o",
        "jsonpath={.metadata.uid}",
    ])
}

fn a_second_run_waits_and_says_for_whom(lab: &Lab) -> Result<()> {
    let path = lab.state().join("locks").join(format!("{NAME}.lock"));
    let held = match Lock::try_take(&path, "labctl up (pid 4711)")? {
        Ok(lock) => lock,
        Err(holder) => bail!("{holder} has the lock"),
    };
    let child = lab.spawn(&["up"])?;
    std::thread::sleep(Duration::from_secs(2));
    drop(held);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", both(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        said.contains("waiting: `labctl up (pid 4711)` works on the lab"),
        "{said}"
    );
    Ok(())
}

fn a_taken_port_is_named_with_its_holder(lab: &Lab) -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let output = lab.labctl_of("labctl-test-two", &["up", "--yes", "--http-port", &port])?;
    ensure!(output.status.code() == Some(3), "{}", both(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("LAB-ENV-010") && said.contains(&port), "{said}");
    ensure!(
        said.contains(&std::process::id().to_string()),
        "it does not say who has the port: {said}"
    );
    // It was noticed before anything was made.
    let gone = lab.labctl_of("labctl-test-two", &["teardown"])?;
    ensure!(gone.status.success(), "{}", both(&gone));
    Ok(())
}

fn a_stopped_node_comes_back(lab: &Lab) -> Result<()> {
    let before = uid(lab)?;
    with_docker(lab, async |docker| {
        let options = bollard::query_parameters::StopContainerOptionsBuilder::default()
            .t(1)
            .build();
        let node = format!("{NAME}-control-plane");
        docker
            .api()
            .stop_container(&node, Some(options))
            .await
            .context("stop the node")
    })?;
    ensure!(!answers(), "the dashboard answers without its node");
    let status = lab.labctl(&["status"])?;
    ensure!(status.status.code() == Some(3), "{}", both(&status));
    lab.ok(&["up"])?;
    ensure!(answers(), "the dashboard does not answer");
    ensure!(uid(lab)? == before, "it is another cluster");
    Ok(())
}

fn a_removed_registry_comes_back(lab: &Lab) -> Result<()> {
    with_docker(lab, async |docker| {
        docker.remove_container(&format!("{NAME}-registry")).await
    })?;
    lab.ok(&["up"])?;
    // Its volume was kept, so what pods were made from is still there.
    lab.ok(&["kubectl", "delete", "pods", "-n", "job-dashboard", "--all", "--wait"])?;
    lab.ok(&["up"])?;
    ensure!(answers(), "the dashboard does not answer");
    Ok(())
}

/// Kills the engine with -9, where it is one that labctl manages; says whether it did.
fn kill_engine(lab: &Lab) -> Result<bool> {
    let settings = lab.settings()?;
    let managed = with_docker(lab, async |docker| Ok(*docker.source() == Source::Managed))?;
    let Some(pid) = engine::running(&settings).filter(|_| managed) else {
        // Somebody else's engine is not ours to kill; where labctl manages one, as on CI, it is.
        crate::support::say("the engine is not one that labctl manages, so it is not killed");
        return Ok(false);
    };
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .context("a pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    std::thread::sleep(Duration::from_secs(1));
    Ok(true)
}

fn a_killed_engine_comes_back(lab: &Lab) -> Result<()> {
    let before = uid(lab)?;
    if !kill_engine(lab)? {
        return Ok(());
    }
    lab.ok(&["up", "--yes"])?;
    ensure!(answers(), "the dashboard does not answer");
    ensure!(uid(lab)? == before, "it is another cluster");
    let status = lab.labctl(&["status"])?;
    ensure!(status.status.success(), "{}", both(&status));
    Ok(())
}

/// What a restart of the machine leaves: no engine, a stale pid file, and no process or network of any container.
fn a_restarted_machine_is_brought_back(lab: &Lab) -> Result<()> {
    let before = uid(lab)?;
    let (inits, bridge) = with_docker(lab, async |docker| {
        let network = docker.api().inspect_network(NAME, None).await?;
        let bridge = format!("br-{}", network.id.unwrap_or_default().get(..12).context("an id")?);
        let mut pids = Vec::new();
        for name in [format!("{NAME}-control-plane"), format!("{NAME}-registry")] {
            let state = docker.container(&name).await?.and_then(|container| container.state);
            let pid = state.and_then(|state| state.pid).context("a pid")?;
            pids.push(i32::try_from(pid)?);
        }
        Ok((pids, bridge))
    })?;
    if !kill_engine(lab)? {
        return Ok(());
    }
    for pid in inits {
        let pid = rustix::process::Pid::from_raw(pid).context("a pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    }
    // Nor is there a network. Connections that nobody closed keep one of a container for a minute, and it would answer for
    // an address that the next container gets.
    for port in std::fs::read_dir(format!("/sys/class/net/{bridge}/brif"))? {
        let port = port?.file_name();
        crate::support::program("ip", &["link", "delete", &port.to_string_lossy()], &[])?;
    }
    ensure!(!answers(), "the dashboard answers without its node");
    lab.ok(&["up", "--yes"])?;
    ensure!(answers(), "the dashboard does not answer");
    ensure!(uid(lab)? == before, "it is another cluster");
    Ok(())
}

/// Runs labctl with one of its directories on a file system of this size, which goes when labctl ends.
fn on_a_small_disk(lab: &Lab, variable: &str, size: &str, name: &str, args: &[&str]) -> Result<std::process::Output> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().display();
    let script = format!(
        "mount -t tmpfs -o size={size} none {path} && {variable}={path} exec {} --lab {name} {}",
        env!("CARGO_BIN_EXE_labctl"),
        args.join(" ")
    );
    lab.apart("--mount", &script)
}

fn a_full_disk_is_told(lab: &Lab) -> Result<()> {
    let build = |size| {
        on_a_small_disk(
            lab,
            "LABCTL_CACHE_DIR",
            size,
            NAME,
            &["image", "build", "job-dashboard"],
        )
    };
    let full = build("1m")?;
    ensure!(full.status.code() == Some(3), "{}", both(&full));
    let said = String::from_utf8_lossy(&full.stderr);
    ensure!(
        said.contains("LAB-ENV-009") && said.contains("No space left") && said.contains("hint:"),
        "{said}"
    );
    let roomy = build("1g")?;
    ensure!(roomy.status.success(), "{}", both(&roomy));
    let ports = ["21080", "21081", "21443", "21090", "21001"];
    let mut args = vec!["up", "--yes"];
    for (flag, port) in [
        "--http-port",
        "--grpc-port",
        "--mtls-port",
        "--metrics-port",
        "--registry-port",
    ]
    .into_iter()
    .zip(ports)
    {
        args.extend([flag, port]);
    }
    let full = on_a_small_disk(lab, "LABCTL_STATE_DIR", "4k", "labctl-test-full", &args)?;
    ensure!(full.status.code() == Some(3), "{}", both(&full));
    let said = String::from_utf8_lossy(&full.stderr);
    ensure!(said.contains("LAB-ENV-009"), "{said}");
    Ok(())
}

fn prune_keeps_what_the_lab_needs(lab: &Lab) -> Result<()> {
    let dir = tempfile::tempdir()?;
    labctl::drive::files::write(&dir.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n")?;
    let host = with_docker(lab, async |docker| Ok(docker.host().to_owned()))?;
    let path = dir.path().to_str().context("a path")?;
    let docker = |args: &[&str]| crate::support::program("docker", args, &[("DOCKER_HOST", &host)]);
    docker(&["build", "--quiet", "--tag", "prune-me:1", path])?;
    lab.ok(&["image", "load", "--wait", "prune-me:1"])?;
    ensure!(lab.ok(&["image", "list"])?.contains("/prune-me:1"), "it was not loaded");
    let refused = lab.labctl(&["image", "prune"])?;
    ensure!(refused.status.code() == Some(2), "{}", both(&refused));
    let said = lab.ok(&["--yes", "image", "prune"])?;
    ensure!(said.contains("/prune-me:1"), "{said}");
    let left = lab.ok(&["image", "list"])?;
    ensure!(
        !left.contains("/prune-me:1") && left.contains("/job-dashboard:"),
        "{left}"
    );
    // The user's own image is the user's.
    ensure!(
        !docker(&["images", "--quiet", "prune-me:1"])?.trim().is_empty(),
        "their image is gone"
    );
    docker(&["rmi", "prune-me:1"])?;
    // Nothing that the lab is made of went with it: no step would run, and a new pod finds its image.
    lab.nothing_to_do()?;
    lab.ok(&["kubectl", "delete", "pods", "-n", "job-dashboard", "--all", "--wait"])?;
    lab.ok(&["up"])?;
    ensure!(answers(), "the dashboard does not answer");
    Ok(())
}

fn without_a_network(lab: &Lab) -> Result<()> {
    // What is here already is enough for a new cluster: nothing may be asked of the outside.
    lab.ok(&["teardown"])?;
    let ports = lab.port_flags();
    let mut args = vec!["up", "--yes"];
    args.extend(ports.iter().map(String::as_str));
    let nowhere = "http://127.0.0.1:1";
    let variables = [
        ("HTTP_PROXY", nowhere),
        ("HTTPS_PROXY", nowhere),
        ("http_proxy", nowhere),
        ("https_proxy", nowhere),
        ("NO_PROXY", "127.0.0.1,localhost"),
        ("no_proxy", "127.0.0.1,localhost"),
        ("GOPROXY", "off"),
    ];
    let up = lab.labctl_with(NAME, &args, &variables)?;
    ensure!(up.status.success(), "{}", both(&up));
    ensure!(answers(), "the dashboard does not answer");
    // What is not here cannot be had, and that is said, soon and by name.
    let cache = tempfile::tempdir()?;
    let script = format!(
        "LABCTL_CACHE_DIR={} exec {} --lab labctl-test-alone up --yes --images build --only programs",
        cache.path().display(),
        env!("CARGO_BIN_EXE_labctl")
    );
    let start = Instant::now();
    let alone = lab.apart("--net", &script)?;
    ensure!(alone.status.code() == Some(3), "{}", both(&alone));
    let said = String::from_utf8_lossy(&alone.stderr);
    ensure!(said.contains("LAB-ENV-017"), "{said}");
    ensure!(
        start.elapsed() < Duration::from_secs(60),
        "it took {:?}",
        start.elapsed()
    );
    let gone = lab.labctl_of("labctl-test-alone", &["teardown"])?;
    ensure!(gone.status.success(), "{}", both(&gone));
    Ok(())
}

fn an_engine_killed_while_it_builds(lab: &Lab) -> Result<()> {
    lab.ok(&["teardown"])?;
    let host = with_docker(lab, async |docker| Ok(docker.host().to_owned()))?;
    let docker = |args: &[&str]| crate::support::program("docker", args, &[("DOCKER_HOST", &host)]);
    let running = || docker(&["ps", "--quiet"]).map(|ids| ids.lines().map(str::to_owned).collect::<Vec<_>>());
    let before = running()?;
    let mut child = lab.spawn(&["image", "build", "node", "--no-cache"])?;
    // The engine builds in a container, which is one more than there were.
    let builds = loop {
        let new: Vec<String> = running()?.into_iter().filter(|id| !before.contains(id)).collect();
        if !new.is_empty() {
            break new;
        }
        if child.try_wait()?.is_some() {
            bail!(
                "the build was over before it was seen: {}",
                both(&child.wait_with_output()?)
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let killed = kill_engine(lab)?;
    let output = child.wait_with_output()?;
    if killed {
        ensure!(output.status.code() == Some(3), "{}", both(&output));
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains("LAB-ENV-004") || said.contains("LAB-ENV-001"), "{said}");
        ensure!(said.contains("hint:"), "{said}");
    }
    let ports = lab.port_flags();
    let mut args = vec!["up", "--yes"];
    args.extend(ports.iter().map(String::as_str));
    lab.ok(&args)?;
    ensure!(answers(), "the dashboard does not answer");
    // A builder that is killed leaves its container, without a label; it is ours all the same.
    for build in builds {
        _ = docker(&["rm", "--force", &build]);
    }
    Ok(())
}

fn a_killed_up_is_finished_by_the_next(lab: &Lab) -> Result<()> {
    lab.ok(&["teardown"])?;
    let ports = lab.port_flags();
    let mut args = vec!["up", "--yes"];
    args.extend(ports.iter().map(String::as_str));
    for after in [700, 2500, 6000, 10_000] {
        let mut child = lab.spawn(&args)?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(after) && child.try_wait()?.is_none() {
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill()?;
        child.wait()?;
    }
    // Ctrl-C is gentler: it says how to go on.
    let child = lab.spawn(&args)?;
    std::thread::sleep(Duration::from_secs(3));
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .context("a pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.code() == Some(130), "{}", both(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("goes on from here"), "{said}");

    lab.ok(&args)?;
    ensure!(answers(), "the dashboard does not answer");
    let verified = lab.labctl(&["chapter", "03", "verify"])?;
    ensure!(verified.status.success(), "{}", both(&verified));
    Ok(())
}

fn teardown_leaves_nothing(lab: &Lab) -> Result<()> {
    let said = lab.labctl(&["teardown"])?;
    ensure!(said.status.success(), "{}", both(&said));
    let listing = |what: &str| -> Result<String> {
        let settings = lab.settings()?;
        let runtime = tokio::runtime::Runtime::new()?;
        let host = runtime.block_on(async { Docker::find(&settings).await.map(|docker| docker.host().to_owned()) })?;
        crate::support::program(
            "docker",
            &[
                what,
                "ls",
                "--filter",
                &format!("label=labctl.dev/lab={NAME}"),
                "--format",
                "{{.}}",
            ],
            &[("DOCKER_HOST", &host)],
        )
    };
    let networks = listing("network")?;
    ensure!(networks.trim().is_empty(), "{networks}");
    // The registry and its volume outlive a plain teardown, and nothing else does.
    let containers = listing("container")?;
    ensure!(containers.lines().all(|line| line.contains("registry")), "{containers}");
    ensure!(!lab.dir().exists(), "the lab's state is still there");
    let said = lab.labctl(&["teardown"])?;
    ensure!(
        String::from_utf8_lossy(&said.stderr).contains("nothing of labctl was here"),
        "{}",
        both(&said)
    );
    Ok(())
}

/// After its teardown a lab has only its registry, perhaps stopped: who removes another lab with its images leaves those
/// that this one runs from.
fn a_stopped_registry_keeps_its_image(lab: &Lab) -> Result<()> {
    let registry = format!("{NAME}-registry");
    let image = with_docker(lab, async |docker| {
        let options = bollard::query_parameters::StopContainerOptionsBuilder::default()
            .t(1)
            .build();
        docker
            .api()
            .stop_container(&registry, Some(options))
            .await
            .context("stop the registry")?;
        let found = docker
            .container(&registry)
            .await?
            .context("a plain teardown keeps it")?;
        found.config.and_then(|config| config.image).context("an image")
    })?;
    let said = lab.labctl_of("labctl-test-other", &["teardown", "--images"])?;
    ensure!(said.status.success(), "{}", both(&said));
    with_docker(lab, async |docker| {
        ensure!(
            docker.image(&image).await?.is_some(),
            "{image} is gone: {}",
            both(&said)
        );
        let removed = String::from_utf8_lossy(&said.stderr);
        ensure!(!removed.contains("labctl.dev/"), "{removed}");
        Ok(())
    })
}
