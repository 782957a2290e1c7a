//! The dashboard that `labctl up` installs, as whoever has the lab uses it: it runs jobs in the cluster, knows its user,
//! and keeps its history when its pod goes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use labctl::lab::access::Access;
use serde_json::Value;

use crate::Test;
use crate::support::{Lab, PORTS, both};

/// The tests of this file, in order.
pub(crate) const TESTS: &[Test] = &[
    ("dashboard::it_runs_jobs_for_its_user", it_runs_jobs_for_its_user),
    ("dashboard::nobody_else_comes_in", nobody_else_comes_in),
    (
        "dashboard::a_priority_reaches_the_scheduler",
        a_priority_reaches_the_scheduler,
    ),
    ("dashboard::its_history_outlives_its_pod", its_history_outlives_its_pod),
    ("dashboard::a_lost_token_is_found_again", a_lost_token_is_found_again),
    ("dashboard::by_hand_with_default_values", by_hand_with_default_values),
];

/// The namespace of the release that is installed by hand.
const BY_HAND: &str = "labctl-by-hand";

fn token(lab: &Lab) -> Result<String> {
    Ok(lab.ok(&["dashboard", "--token"])?.trim().to_owned())
}

fn status(lab: &Lab, token: Option<&str>) -> Result<u16> {
    labctl::world::install_crypto();
    tokio::runtime::Runtime::new()?.block_on(async {
        let url = Access::known(&lab.settings()?)?.url.context("a URL")?;
        ensure!(url == format!("http://127.0.0.1:{}", PORTS.http), "{url}");
        let mut request = reqwest::Client::new().get(format!("{url}/jobs"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        Ok(request.send().await?.status().as_u16())
    })
}

fn it_runs_jobs_for_its_user(lab: &Lab) -> Result<()> {
    let ran = lab.labctl(&[
        "jobs",
        "run",
        "--follow",
        "--name",
        "greet",
        "--",
        "sh",
        "-c",
        "echo hello; id -u; exit 3",
    ])?;
    ensure!(ran.status.code() == Some(1), "{}", both(&ran));
    ensure!(
        String::from_utf8_lossy(&ran.stdout) == "hello\n65532\n",
        "{}",
        both(&ran)
    );
    ensure!(
        String::from_utf8_lossy(&ran.stderr).contains("exit code 3"),
        "{}",
        both(&ran)
    );
    let listed: Value = serde_json::from_str(
        lab.ok(&["jobs", "list", "--search", "greet", "--json"])?
            .lines()
            .next()
            .context("a line")?,
    )?;
    let job = &listed["jobs"][0];
    ensure!(job["owner"] == "learner" && job["exit_code"] == 3, "{job}");
    let name = format!("job-{}", job["id"].as_str().context("an id")?);
    let pods = lab.ok(&["kubectl", "get", "pods", "-n", "job-dashboard", "-o", "name"])?;
    ensure!(pods.contains(&name), "it ran elsewhere: {pods}");
    let said = lab.ok(&["dashboard"])?;
    ensure!(
        said.contains("http://127.0.0.1:18080") && !said.contains(&token(lab)?),
        "{said}"
    );
    Ok(())
}

fn nobody_else_comes_in(lab: &Lab) -> Result<()> {
    let token = token(lab)?;
    ensure!(token.len() == 64, "a token of {} characters", token.len());
    ensure!(status(lab, None)? == 401 && status(lab, Some(&"0".repeat(64)))? == 401);
    ensure!(status(lab, Some(&token))? == 200);
    // People attach logs and values to reports.
    for log in labctl::drive::files::walk(&lab.dir())? {
        let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        ensure!(
            !text.contains(&token) || log.ends_with("dashboard-tokens"),
            "{} has the token",
            log.display()
        );
    }
    for args in [
        &["helm", "get", "all", "job-dashboard", "-n", "job-dashboard"][..],
        &["kubectl", "logs", "-n", "job-dashboard", "deploy/job-dashboard"],
        &[
            "kubectl",
            "get",
            "pods,deployments,replicasets",
            "-n",
            "job-dashboard",
            "-o",
            "yaml",
        ],
        &["up", "--plan"],
        &["status"],
    ] {
        ensure!(
            !lab.ok(args)?.contains(&token),
            "labctl {} has the token",
            args.join(" ")
        );
    }
    let can = |verb: &str, what: &str| {
        let account = "--as=system:serviceaccount:job-dashboard:job-dashboard";
        lab.labctl(&["kubectl", "auth", "can-i", verb, what, "-n", "job-dashboard", account])
            .map(|output| output.status.success())
    };
    ensure!(can("create", "jobs.batch")? && can("get", "pods/log")?);
    for (verb, what) in [
        ("get", "secrets"),
        ("create", "pods"),
        ("update", "jobs.batch"),
        ("create", "pods/exec"),
    ] {
        ensure!(!can(verb, what)?, "the dashboard may {verb} {what}");
    }
    Ok(())
}

/// Waits until a new pod answers in the place of one that was deleted.
fn again(lab: &Lab) -> Result<()> {
    lab.ok(&[
        "kubectl",
        "delete",
        "pods",
        "-n",
        "job-dashboard",
        "-l",
        "app.kubernetes.io/component=server",
        "--wait",
    ])?;
    lab.ok(&["up"]).map(drop)
}

/// The classes come with the chart, and the scheduler takes them.
fn a_priority_reaches_the_scheduler(lab: &Lab) -> Result<()> {
    for (priority, class, value) in [
        ("high", "job-dashboard-job-dashboard-high", "1000"),
        ("normal", "", "0"),
    ] {
        let id = lab.ok(&["jobs", "run", "--wait", "--priority", priority, "--", "true"])?;
        let selector = format!("labctl.dev/job-id={}", id.trim());
        let path =
            "jsonpath={.items[0].spec.priorityClassName}/{.items[0].spec.priority}/{.items[0].spec.preemptionPolicy}";
        let said = lab.ok(&["kubectl", "get", "pods", "-A", "-l", &selector, "-o", path])?;
        let policy = if class.is_empty() {
            "PreemptLowerPriority"
        } else {
            "Never"
        };
        ensure!(said == format!("{class}/{value}/{policy}"), "{priority}: {said}");
    }
    Ok(())
}

fn its_history_outlives_its_pod(lab: &Lab) -> Result<()> {
    let id = lab.ok(&["jobs", "run", "--wait", "--", "sh", "-c", "echo kept"])?;
    let id = id.trim();
    let running = lab.ok(&[
        "jobs",
        "run",
        "--",
        "sh",
        "-c",
        "i=0; while [ $i -lt 20 ]; do i=$((i+1)); echo $i; sleep 1; done",
    ])?;
    let running = running.trim();
    again(lab)?;
    ensure!(lab.ok(&["jobs", "logs", id])? == "kept\n");
    // What ran meanwhile is found again, and nothing of its output is lost.
    let expected = (1..=20).fold(String::new(), |text, number| text + &number.to_string() + "\n");
    ensure!(lab.ok(&["jobs", "logs", "--follow", running])? == expected);
    let began = Instant::now();
    loop {
        let said = lab.ok(&["jobs", "get", running])?;
        if said
            .lines()
            .any(|line| line.split_whitespace().eq(["state", "succeeded"]))
        {
            return Ok(());
        }
        ensure!(began.elapsed() < Duration::from_secs(30), "{said}");
    }
}

fn a_lost_token_is_found_again(lab: &Lab) -> Result<()> {
    let before = token(lab)?;
    std::fs::remove_file(lab.dir().join("dashboard-tokens"))?;
    let lost = lab.labctl(&["dashboard", "--token"])?;
    ensure!(lost.status.code() == Some(3), "{}", both(&lost));
    ensure!(
        String::from_utf8_lossy(&lost.stderr).contains("hint: labctl up"),
        "{}",
        both(&lost)
    );
    lab.ok(&["up"])?;
    ensure!(token(lab)? == before, "the cluster had one, and it was not taken");
    // One that is gone everywhere is another one, and the dashboard knows it.
    std::fs::remove_file(lab.dir().join("dashboard-tokens"))?;
    lab.ok(&[
        "kubectl",
        "delete",
        "secret",
        "job-dashboard-tokens",
        "-n",
        "job-dashboard",
    ])?;
    lab.ok(&["up"])?;
    let after = token(lab)?;
    ensure!(after != before && status(lab, Some(&after))? == 200 && status(lab, Some(&before))? == 401);
    lab.nothing_to_do()?;
    Ok(())
}

/// Installs the chart as a person does who has read nothing: with its default values, and the image of the lab.
fn by_hand_with_default_values(lab: &Lab) -> Result<()> {
    let chart = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/job-dashboard");
    let image = lab.ok(&[
        "kubectl",
        "get",
        "deploy",
        "job-dashboard",
        "-n",
        "job-dashboard",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].image}",
    ])?;
    let (repository, tag) = image.rsplit_once(':').context("a tag")?;
    let done = (|| {
        lab.ok(&["kubectl", "create", "namespace", BY_HAND])?;
        lab.ok(&[
            "kubectl",
            "label",
            "namespace",
            BY_HAND,
            "pod-security.kubernetes.io/enforce=restricted",
        ])?;
        lab.ok(&[
            "helm",
            "install",
            "job-dashboard",
            &chart.display().to_string(),
            "-n",
            BY_HAND,
            "--wait",
            "--timeout=2m",
            "--set",
            &format!("image.repository={repository}"),
            "--set-string",
            &format!("image.tag={tag}"),
        ])?;
        let tested = lab.ok(&["helm", "test", "job-dashboard", "-n", BY_HAND])?;
        ensure!(tested.contains("Phase:          Succeeded"), "{tested}");
        // It runs no jobs, so it has no rights, no token and no volume.
        let made = lab.ok(&["kubectl", "get", "roles,rolebindings,pvc", "-n", BY_HAND, "-o", "name"])?;
        ensure!(made.is_empty(), "{made}");
        Ok(())
    })();
    lab.ok(&[
        "kubectl",
        "delete",
        "namespace",
        BY_HAND,
        "--ignore-not-found",
        "--wait=false",
    ])?;
    done
}
