//! Jobs of the dashboard as Kubernetes Jobs: from their creation to a log that outlives the pod, also where pods, Jobs,
//! the API server and the dashboard itself go away in between.
//!
//! The dashboard runs in the test's process, with the rights that the chart gives it, in a namespace in which nothing
//! runs that PodSecurity `restricted` would refuse.

mod board;
pub(crate) mod conform;
pub(crate) mod network;
pub(crate) mod node;
mod proxy;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use labctl::dashboard::job::{JobId, State};
use labctl::dashboard::log::Stream;
use labctl::dashboard::service::Action;
use labctl::dashboard::service::tail::{Item, Select};
use serde_json::json;

use self::board::{Board, NAMESPACE, PATIENCE, me, on_node, place, ready, seeing, texts, with};
use crate::Test;
use crate::support::{Lab, PORTS, say};

/// The tests of this file, in order.
pub(crate) const TESTS: &[Test] = &[
    ("jobs::a_log_outlives_its_pod", a_log_outlives_its_pod),
    ("jobs::lines_arrive_at_once", lines_arrive_at_once),
    ("jobs::failures_say_why", failures_say_why),
    ("jobs::attempts_are_one_log", attempts_are_one_log),
    ("jobs::waiting_says_why", waiting_says_why),
    ("jobs::what_is_deleted_is_gone", what_is_deleted_is_gone),
    ("jobs::cancelled_jobs_leave_nothing", cancelled_jobs_leave_nothing),
    ("jobs::a_job_is_held_and_goes_on", a_job_is_held_and_goes_on),
    ("jobs::limits_are_kept", limits_are_kept),
    (
        "jobs::a_server_goes_on_where_another_was_killed",
        a_server_goes_on_where_another_was_killed,
    ),
    ("jobs::the_api_server_may_restart", the_api_server_may_restart),
];

fn kubectl(lab: &Lab, args: &[&str]) -> Result<String> {
    let mut all = vec!["kubectl", "-n", NAMESPACE];
    all.extend(args);
    lab.ok(&all)
}

fn name(id: JobId) -> String {
    name_of(&id.to_string())
}

fn name_of(id: &str) -> String {
    format!("job-{id}")
}

fn pods(lab: &Lab, id: JobId) -> Result<String> {
    kubectl(
        lab,
        &["get", "pods", "-o", "name", "-l", &format!("labctl.dev/job-id={id}")],
    )
}

fn numbers(to: usize) -> Vec<String> {
    (1..=to).map(|number| number.to_string()).collect()
}

fn a_log_outlives_its_pod(lab: &Lab) -> Result<()> {
    with(lab, |board, _| async move {
        let script = "id -u; pwd; ls /var/run/secrets 2>&1; echo to-stderr >&2; for i in 1 2 3; do echo $i; sleep 0.3; done; printf 'no end'";
        let id = board.shell(script).await?;
        let followed = board.lines(id, true).await?;
        let job = board.end(id).await?;
        ensure!(
            job.state == State::Succeeded && job.exit_code == Some(0) && job.attempts == 1,
            "{job:?}"
        );
        let took = job.finished_ms.context("an end")? - job.started_ms.context("a beginning")?;
        ensure!((0..60_000).contains(&took), "{job:?}");
        let lines = texts(&followed);
        ensure!(lines[..2] == ["65532", "/job"], "{lines:?}");
        ensure!(lines.iter().any(|line| line == "to-stderr"), "{lines:?}");
        ensure!(
            lines.iter().any(|line| line.contains("cannot access")),
            "there is no token: {lines:?}"
        );
        // The kubelet reads both streams by themselves, so one can overtake the other.
        let out: Vec<&str> = lines
            .iter()
            .map(String::as_str)
            .filter(|line| *line != "to-stderr")
            .collect();
        ensure!(out[out.len() - 4..] == ["1", "2", "3", "no end"], "{lines:?}");
        ensure!(
            followed
                .iter()
                .all(|line| line.stream == Stream::Merged && line.attempt == 1),
            "{followed:?}"
        );
        // Only now may Kubernetes remove it, and it will.
        let began = Instant::now();
        loop {
            let ttl = kubectl(
                lab,
                &[
                    "get",
                    "job",
                    &name(id),
                    "-o",
                    "jsonpath={.spec.ttlSecondsAfterFinished}",
                ],
            )?;
            if ttl == "120" {
                break;
            }
            ensure!(began.elapsed() < PATIENCE, "its time to live is `{ttl}`");
        }
        let owner = kubectl(
            lab,
            &[
                "get",
                "job",
                &name(id),
                "-o",
                "jsonpath={.metadata.annotations.labctl\\.dev/owner}",
            ],
        )?;
        ensure!(owner == "zoe", "{owner}");
        kubectl(lab, &["delete", "job", &name(id), "--wait"])?;
        ensure!(board.text(id).await? == lines, "the log is another one without the pod");
        ensure!(board.job(id).await? == job, "an end is for good");
        Ok(())
    })
}

fn lines_arrive_at_once(lab: &Lab) -> Result<()> {
    with(lab, |board, _| async move {
        let id = board
            .shell("i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; sleep 0.1; done")
            .await?;
        let select = Select {
            follow: true,
            ..Select::default()
        };
        let mut tail = board.service.tail(&me(), id, select).await?;
        let (mut late, mut first) = (Vec::new(), None);
        while let Some(item) = tokio::time::timeout(PATIENCE, tail.next())
            .await
            .context("the log goes on")??
        {
            let Item::Lines { lines, .. } = item else {
                bail!("{item:?}")
            };
            let now = jiff::Timestamp::now().as_microsecond();
            first = first.or(lines.first().map(|line| now - line.at_us));
            late.extend(lines.last().map(|line| now - line.at_us));
        }
        // What was written before the pod was seen to run came at once, and late.
        let mut late: Vec<i64> = late.into_iter().skip(1).collect();
        late.sort_unstable();
        let at = |share: usize| late[(late.len() - 1) * share / 100];
        let (median, most) = (at(50), at(95));
        say(&format!(
            "from the container's line to a viewer: median {median} us, 95 of 100 in {most} us; the first line of the job after {} ms",
            first.context("lines")? / 1000
        ));
        ensure!(late.len() >= 30, "lines came in {} batches", late.len());
        ensure!(median < 100_000, "median {median} us");
        Ok(())
    })
}

fn failures_say_why(lab: &Lab) -> Result<()> {
    with(lab, |board, _| async move {
        let exit = board.shell("echo before; exit 3").await?;
        let signal = board.shell("sh -c 'kill -9 $$'; exit $?").await?;
        let missing = board.create(json!({"command": ["no-such-program"]})).await?;
        let memory = board.shell("echo filling; tail /dev/zero").await?;
        // containerd does not always hear of the memory in time, and the message says so all the same.
        let ended_for_memory: &[&str] = &["OOMKilled", "Signal"];
        for (id, reasons, code, said) in [
            (exit, ["ExitCode"].as_slice(), 3, "exit code 3"),
            (signal, &["Signal"], 137, "SIGKILL"),
            (missing, &["StartError"], 128, "no-such-program"),
            (memory, ended_for_memory, 137, "more memory than its limit"),
        ] {
            let job = board.end(id).await?;
            ensure!(
                job.state == State::Failed && job.reason.as_deref().is_some_and(|reason| reasons.contains(&reason)),
                "{job:?}"
            );
            ensure!(job.exit_code == Some(code), "{job:?}");
            ensure!(
                job.message.as_deref().is_some_and(|message| message.contains(said)),
                "{job:?}"
            );
        }
        ensure!(board.text(exit).await? == ["before"]);
        Ok(())
    })
}

fn attempts_are_one_log(lab: &Lab) -> Result<()> {
    with(lab, |board, _| async move {
        let id = board
            .create(json!({"command": ["sh", "-c", "echo one; echo two; exit 7"], "retries": 1}))
            .await?;
        let between = board
            .wait(id, "a pause", |job| job.reason.as_deref() == Some("ExitCode"))
            .await?;
        ensure!(between.state == State::Running && between.attempts == 1, "{between:?}");
        let lines = board.lines(id, true).await?;
        let job = board.end(id).await?;
        ensure!(
            job.reason.as_deref() == Some("BackoffLimitExceeded") && job.attempts == 2,
            "{job:?}"
        );
        ensure!(
            job.message.as_deref() == Some("2 attempts failed; the last one ended with exit code 7"),
            "{job:?}"
        );
        let found: Vec<_> = lines
            .iter()
            .map(|line| (line.attempt, String::from_utf8_lossy(&line.bytes)))
            .collect();
        ensure!(
            found
                == [
                    (1, "one".into()),
                    (1, "two".into()),
                    (2, "one".into()),
                    (2, "two".into())
                ],
            "{found:?}"
        );
        Ok(())
    })
}

fn waiting_says_why(lab: &Lab) -> Result<()> {
    let quota = format!(
        "apiVersion: v1\nkind: ResourceQuota\nmetadata:\n  name: none\n  namespace: {NAMESPACE}\nspec:\n  hard:\n    pods: \"0\"\n"
    );
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("quota.yaml");
    labctl::drive::files::write(&path, quota)?;
    let path = path.display().to_string();
    with(lab, |board, _| async move {
        let image = board
            .create(json!({"command": ["x"], "image": format!("localhost:{}/no/such:1", PORTS.registry)}))
            .await?;
        let large = board
            .create(json!({"command": ["x"], "limits": {"memory_mib": 1_000_000}}))
            .await?;
        let job = board
            .wait(image, "a reason", |job| {
                matches!(job.reason.as_deref(), Some("ErrImagePull" | "ImagePullBackOff"))
            })
            .await?;
        ensure!(job.state == State::Pending, "{job:?}");
        ensure!(
            job.message
                .as_deref()
                .is_some_and(|message| message.contains("no/such")),
            "{job:?}"
        );
        let job = board
            .wait(large, "a reason", |job| job.reason.as_deref() == Some("Unschedulable"))
            .await?;
        ensure!(
            job.message
                .as_deref()
                .is_some_and(|message| message.contains("Insufficient memory")),
            "{job:?}"
        );
        kubectl(lab, &["apply", "-f", &path])?;
        let quota = board.shell("echo hello").await;
        let waits = async {
            let quota = quota?;
            let job = board
                .wait(quota, "a reason", |job| job.reason.as_deref() == Some("FailedCreate"))
                .await?;
            ensure!(
                job.message
                    .as_deref()
                    .is_some_and(|message| message.contains("exceeded quota")),
                "{job:?}"
            );
            // While the quota holds: without it the Job would run at once.
            for id in [image, large, quota] {
                board.service.act(&me(), id, Action::Cancel, None).await?;
                let job = board.end(id).await?;
                ensure!(job.state == State::Cancelled && job.started_ms.is_none(), "{job:?}");
            }
            Ok(())
        }
        .await;
        kubectl(lab, &["delete", "-f", &path])?;
        waits
    })
}

fn what_is_deleted_is_gone(lab: &Lab) -> Result<()> {
    with(lab, |board, _| async move {
        let id = board.shell("echo hello; sleep 600").await?;
        board.state(id, State::Running).await?;
        kubectl(lab, &["delete", "job", &name(id), "--wait=false"])?;
        let job = board.end(id).await?;
        ensure!(
            job.state == State::Failed && job.reason.as_deref() == Some("Gone"),
            "{job:?}"
        );
        ensure!(
            job.message
                .as_deref()
                .is_some_and(|message| message.contains("was deleted")),
            "{job:?}"
        );
        ensure!(board.text(id).await? == ["hello"], "{:?}", board.text(id).await?);
        Ok(())
    })
}

fn cancelled_jobs_leave_nothing(lab: &Lab) -> Result<()> {
    with(lab, |board, _| async move {
        let id = board
            .shell("trap 'echo asked; exit 0' TERM; echo hello; sleep 600 & wait")
            .await?;
        board
            .wait(id, "its first line", |job| job.state == State::Running)
            .await?;
        let began = Instant::now();
        while board.text(id).await?.is_empty() {
            ensure!(began.elapsed() < PATIENCE, "no line came");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        board.service.act(&me(), id, Action::Cancel, None).await?;
        let job = board.end(id).await?;
        ensure!(
            job.state == State::Cancelled && job.reason.as_deref() == Some("Cancelled"),
            "{job:?}"
        );
        ensure!(
            board.text(id).await? == ["hello", "asked"],
            "{:?}",
            board.text(id).await?
        );
        ensure!(pods(lab, id)?.is_empty(), "{}", pods(lab, id)?);
        Ok(())
    })
}

fn a_job_is_held_and_goes_on(lab: &Lab) -> Result<()> {
    with(lab, |board, _| async move {
        let held = board
            .create(json!({"command": ["sh", "-c", "echo late"], "suspend": true}))
            .await?;
        let running = board.shell("echo hello; sleep 600").await?;
        board.state(running, State::Running).await?;
        board.state(held, State::Suspended).await?;
        ensure!(pods(lab, held)?.is_empty(), "{}", pods(lab, held)?);
        let job = board.service.act(&me(), running, Action::Suspend, None).await?;
        ensure!(job.state == State::Suspended, "{job:?}");
        let began = Instant::now();
        while !pods(lab, running)?.is_empty() {
            ensure!(began.elapsed() < PATIENCE, "its pod is still there");
        }
        board.service.act(&me(), held, Action::Resume, None).await?;
        board.service.act(&me(), running, Action::Resume, None).await?;
        ensure!(board.end(held).await?.state == State::Succeeded);
        board.state(running, State::Running).await?;
        board.service.act(&me(), running, Action::Cancel, None).await?;
        ensure!(board.end(running).await?.state == State::Cancelled);
        Ok(())
    })
}

fn limits_are_kept(lab: &Lab) -> Result<()> {
    with(lab, |board, _| async move {
        let slow = board
            .create(json!({"command": ["sleep", "600"], "limits": {"seconds": 3}}))
            .await?;
        let loud = json!({"command": ["sh", "-c", "yes 0123456789"], "limits": {"output_mib": 1, "memory_mib": 32}});
        let loud = board.create(loud).await?;
        let job = board.end(slow).await?;
        ensure!(
            job.state == State::Failed && job.reason.as_deref() == Some("DeadlineExceeded"),
            "{job:?}"
        );
        let job = board.end(loud).await?;
        ensure!(
            job.state == State::Failed && job.reason.as_deref() == Some("OutputLimitExceeded"),
            "{job:?}"
        );
        let lines = board.lines(loud, false).await?;
        let last = texts(&lines).pop().context("lines")?;
        ensure!(last.starts_with("! the program wrote more than the 1 MiB"), "{last}");
        let bytes: usize = lines.iter().map(|line| line.bytes.len() + 1).sum();
        ensure!((1 << 20..3 << 20).contains(&bytes), "{bytes} bytes are stored");
        Ok(())
    })
}

fn a_server_goes_on_where_another_was_killed(lab: &Lab) -> Result<()> {
    let place = place(lab)?;
    with(lab, |board, dir| async move {
        let id = board
            .shell("i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; sleep 0.1; done")
            .await?;
        board.state(id, State::Running).await?;
        let mut board = board;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(1_700)).await;
            // The next one finds what this one had stored, and nothing else.
            drop(board);
            tokio::time::sleep(Duration::from_millis(300)).await;
            board = Board::open(place, &dir).await?;
        }
        let followed = texts(&board.lines(id, true).await?);
        ensure!(followed == numbers(100), "{followed:?}");
        let job = board.end(id).await?;
        ensure!(job.state == State::Succeeded, "{job:?}");
        ensure!(board.text(id).await? == numbers(100));
        // One that ends while nobody looks.
        let unseen = board.shell("sleep 1; echo unseen; exit 4").await?;
        board.state(unseen, State::Running).await?;
        drop(board);
        kubectl(
            lab,
            &[
                "wait",
                "--for=condition=Failed",
                "--timeout=60s",
                &format!("job/{}", name(unseen)),
            ],
        )?;
        let board = Board::open(place, &dir).await?;
        let job = board.end(unseen).await?;
        ensure!(job.state == State::Failed && job.exit_code == Some(4), "{job:?}");
        ensure!(board.text(unseen).await? == ["unseen"]);
        Ok(())
    })
}

fn the_api_server_may_restart(lab: &Lab) -> Result<()> {
    with(lab, |board, _| async move {
        let id = board
            .shell("i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; sleep 0.1; done")
            .await?;
        board.state(id, State::Running).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        ensure!(ready(&board), "{:?}", board.health.readiness());
        // A node of the lab has a shell and little else.
        let stop = "for p in /proc/[0-9]*; do read name < $p/comm && [ $name = kube-apiserver ] && kill -9 ${p#/proc/}; done 2>/dev/null; true";
        on_node(lab, stop)?;
        let began = Instant::now();
        while ready(&board) {
            ensure!(began.elapsed() < PATIENCE, "it did not notice");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let blind = began.elapsed();
        let began = Instant::now();
        seeing(&board).await?;
        say(&format!(
            "the API server was killed: noticed after {} ms, everything seen again {} ms later",
            blind.as_millis(),
            began.elapsed().as_millis()
        ));
        let followed = texts(&board.lines(id, true).await?);
        ensure!(followed == numbers(300), "{followed:?}");
        let job = board.end(id).await?;
        ensure!(job.state == State::Succeeded, "{job:?}");
        Ok(())
    })
}
