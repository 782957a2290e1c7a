//! Reading the output of jobs from an API server whose answers end, break and go missing.

use super::*;
use crate::dashboard::log::Stream;

const T: i64 = 1_767_225_600_000_000_000;

/// A reading of a job's log, in the background.
struct Follow {
    batches: mpsc::Receiver<Batch>,
    task: tokio::task::JoinHandle<Result<(), RunnerError>>,
    position: String,
    next: u64,
}

impl Follow {
    fn of(runner: &Kubernetes, job: Job, position: &str, next: u64) -> Self {
        let (sender, batches) = mpsc::channel(4);
        let runner = runner.clone();
        let from = position.to_owned();
        let task = tokio::spawn(async move { runner.follow(&job, &from, next, sender).await });
        Self {
            batches,
            task,
            position: position.to_owned(),
            next,
        }
    }

    async fn batch(&mut self) -> Option<Vec<String>> {
        let batch = timeout(PATIENCE, self.batches.recv()).await.expect("in time")?;
        self.position = batch.position;
        let mut out = Vec::new();
        for line in batch.lines {
            assert_eq!(line.number, self.next, "numbers have no holes");
            self.next += 1;
            let text = String::from_utf8_lossy(&line.bytes).into_owned();
            let mark = if line.stream == Stream::Note { "! " } else { "" };
            out.push(format!(
                "{}{mark}{text}",
                if line.attempt == 1 {
                    String::new()
                } else {
                    format!("{}: ", line.attempt)
                }
            ));
        }
        Some(out)
    }

    /// Returns the next lines, as many as are given.
    async fn expect(&mut self, expected: &[&str]) {
        let mut found = Vec::new();
        while found.len() < expected.len() {
            found.extend(self.batch().await.expect("more lines"));
        }
        assert_eq!(found, expected);
    }

    /// Returns what comes until it returns.
    async fn rest(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        while let Some(more) = self.batch().await {
            found.extend(more);
        }
        timeout(PATIENCE, &mut self.task)
            .await
            .expect("in time")
            .expect("no panic")
            .expect("no error");
        found
    }
}

async fn reading(fake: &Fake, pod: &str) {
    timeout(PATIENCE, async {
        while fake.readers(pod) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the log is opened");
}

/// A runner whose watches see one job with one running pod.
async fn one_running(fake: &Fake) -> (Kubernetes, Watch) {
    let runner = fake.runner();
    runner.begin(&row(), &spec()).await.expect("created");
    fake.put("pods", running(1));
    let mut watch = Watch::of(&runner);
    watch.until("synced").await;
    (runner, watch)
}

#[tokio::test]
async fn lines_come_as_they_are_written_and_the_end_is_seen() {
    let fake = Fake::default();
    let (runner, mut watch) = one_running(&fake).await;
    fake.write("pod-1", T, "first");
    let mut follow = Follow::of(&runner, row(), "", 1);
    follow.expect(&["first"]).await;
    reading(&fake, "pod-1").await;
    fake.write("pod-1", T + 5, b"\xff");
    follow.expect(&["\u{fffd}"]).await;
    fake.write("pod-1", T + 6, "last");
    fake.put("pods", ended(1, 0));
    fake.end_log("pod-1");
    assert_eq!(follow.rest().await, ["last"]);
    watch.until("Succeeded").await;
    // Its row says by now that it has ended: there is nothing more.
    let row = Job {
        state: State::Succeeded,
        ..row()
    };
    let mut again = Follow::of(&runner, row, &follow.position, follow.next);
    assert_eq!(again.rest().await, [] as [&str; 0]);
}

#[tokio::test]
async fn the_end_of_an_answer_is_not_the_end_of_the_job() {
    let fake = Fake::default();
    let (runner, _watch) = one_running(&fake).await;
    let mut follow = Follow::of(&runner, row(), "", 1);
    for round in 0..6 {
        reading(&fake, "pod-1").await;
        // Several lines of one moment, before and after each break.
        let at = T + i64::from(round / 2) * 1_000_000_000;
        fake.write("pod-1", at, format!("a{round}"));
        fake.write("pod-1", at, format!("b{round}"));
        follow.expect(&[&format!("a{round}"), &format!("b{round}")]).await;
        if round % 2 == 0 {
            fake.end_log("pod-1");
        } else {
            fake.cut_log("pod-1");
        }
    }
    reading(&fake, "pod-1").await;
    fake.write("pod-1", T + 9_000_000_000, "end");
    fake.put("pods", ended(1, 0));
    fake.end_log("pod-1");
    assert_eq!(follow.rest().await, ["end"]);
    let opened = fake.asked("GET /api/v1/namespaces/demo/pods/pod-1/log");
    assert!(
        opened[0].contains("follow=true") && opened[0].contains("timestamps=true"),
        "{}",
        opened[0]
    );
    assert!(
        opened[1].contains("sinceTime=2026-01-01T00%3A00%3A00Z"),
        "{}",
        opened[1]
    );
    assert!(opened.iter().all(|asked| !asked.contains("tailLines")), "{opened:?}");
    let last = opened.last().expect("opened");
    assert!(!last.contains("follow"), "once more, after the end: {last}");
}

#[tokio::test]
async fn reading_goes_on_where_another_server_left_it() {
    let fake = Fake::default();
    let (runner, _watch) = one_running(&fake).await;
    for number in 0..5 {
        fake.write("pod-1", T + number / 3, format!("line {number}"));
    }
    fake.put("pods", ended(1, 0));
    let mut whole = Follow::of(&runner, row(), "", 1);
    assert_eq!(whole.rest().await.len(), 5);
    // As if the server had stored one line and was killed, then two, and so on.
    let mut position = String::new();
    for number in 0..5_u64 {
        let partial = Fake::default();
        let (one, _watch) = one_running(&partial).await;
        for line in 0..=number {
            let at = T + i64::try_from(line).expect("small") / 3;
            partial.write("pod-1", at, format!("line {line}"));
        }
        partial.put("pods", ended(1, 0));
        let mut follow = Follow::of(&one, row(), &position, number + 1);
        assert_eq!(follow.rest().await, [format!("line {number}")]);
        position = follow.position;
    }
}

#[tokio::test]
async fn attempts_follow_each_other() {
    let fake = Fake::default();
    let (runner, mut watch) = one_running(&fake).await;
    fake.put(
        "jobs",
        json!({"metadata": {"name": name(), "labels": labels()}, "spec": {"backoffLimit": 1, "template": {}}}),
    );
    let mut follow = Follow::of(&runner, row(), "", 1);
    reading(&fake, "pod-1").await;
    fake.write("pod-1", T, "of the first");
    fake.put("pods", ended(1, 1));
    fake.end_log("pod-1");
    follow.expect(&["of the first"]).await;
    watch.until("Waiting ExitCode").await;
    fake.put("pods", pod(2, json!({"waiting": {"reason": "ContainerCreating"}})));
    fake.write("pod-2", T + 20_000_000_000, "of the second");
    fake.put("pods", running(2));
    reading(&fake, "pod-2").await;
    fake.put("pods", ended(2, 1));
    fake.end_log("pod-2");
    assert_eq!(follow.rest().await, ["2: of the second"]);
    watch.until("Failed BackoffLimitExceeded").await;
    // From a place in the second attempt, the first one is not read again, though it is still there.
    let row = Job {
        state: State::Failed,
        ..row()
    };
    let mut again = Follow::of(&runner, row, &follow.position, follow.next);
    assert_eq!(again.rest().await, [] as [&str; 0]);
}

#[tokio::test]
async fn what_is_lost_is_told() {
    let fake = Fake::default();
    let (runner, _watch) = one_running(&fake).await;
    let mut follow = Follow::of(&runner, row(), "", 1);
    reading(&fake, "pod-1").await;
    fake.write("pod-1", T, "a");
    follow.expect(&["a"]).await;
    // The log is rotated while the connection is broken.
    fake.rotate_log("pod-1");
    fake.cut_log("pod-1");
    reading(&fake, "pod-1").await;
    fake.write("pod-1", T + 5, "b");
    follow
        .expect(&[
            "! the log was rotated while it was not read; lines can be missing here",
            "b",
        ])
        .await;
    // And the pod is deleted while the connection is broken.
    fake.delete("jobs", &name());
    fake.delete("pods", "pod-1");
    fake.cut_log("pod-1");
    let rest = follow.rest().await;
    assert_eq!(rest.len(), 1);
    assert!(
        rest[0].starts_with("! the pod `pod-1` was deleted before its output was read"),
        "{rest:?}"
    );
}

#[tokio::test]
async fn a_pod_that_is_deleted_after_its_last_line_loses_nothing() {
    let fake = Fake::default();
    let (runner, _watch) = one_running(&fake).await;
    let mut follow = Follow::of(&runner, row(), "", 1);
    reading(&fake, "pod-1").await;
    fake.write("pod-1", T, "a");
    fake.delete("jobs", &name());
    fake.delete("pods", "pod-1");
    fake.end_log("pod-1");
    assert_eq!(
        follow.rest().await,
        ["a"],
        "the kubelet ended the answer, so that was all"
    );
}

#[tokio::test]
async fn a_container_that_is_removed_after_its_last_line_is_no_news() {
    let fake = Fake::default();
    let (runner, _watch) = one_running(&fake).await;
    let mut follow = Follow::of(&runner, row(), "", 1);
    reading(&fake, "pod-1").await;
    fake.write("pod-1", T, "a");
    fake.remove_container("pod-1");
    fake.put("pods", ended(1, 0));
    fake.end_log("pod-1");
    assert_eq!(follow.rest().await, ["a"]);
    // Where it was not read to its end, that is told, and once.
    let fake = Fake::default();
    let (runner, _watch) = one_running(&fake).await;
    let mut follow = Follow::of(&runner, row(), "", 1);
    reading(&fake, "pod-1").await;
    fake.say("pod-1", "failed to watch file\n");
    fake.remove_container("pod-1");
    fake.put("pods", ended(1, 0));
    fake.cut_log("pod-1");
    assert_eq!(
        follow.rest().await,
        [
            "! Kubernetes says: failed to watch file",
            "! Kubernetes says: unable to retrieve container logs for containerd://b0c3"
        ]
    );
}

#[tokio::test]
async fn trouble_with_the_log_is_waited_out() {
    let fake = Fake::default();
    let (runner, _watch) = one_running(&fake).await;
    let log = "GET /api/v1/namespaces/demo/pods/pod-1/log";
    fake.answer_next(
        log,
        500,
        "InternalError",
        "dial tcp 10.0.0.1:10250: connect: connection refused",
    );
    fake.answer_next(log, 429, "TooManyRequests", "slowly");
    fake.answer_next(
        log,
        400,
        "BadRequest",
        "container \"job\" in pod \"pod-1\" is waiting to start: ContainerCreating",
    );
    fake.write("pod-1", T, "a");
    let mut follow = Follow::of(&runner, row(), "", 1);
    follow.expect(&["a"]).await;
    let refused = "pods \"pod-1\" is forbidden: cannot get resource \"pods/log\"";
    fake.answer_next(log, 403, "Forbidden", refused);
    fake.cut_log("pod-1");
    assert!(follow.batch().await.is_none());
    let error = follow.task.await.expect("no panic").expect_err("not for us to mend");
    assert!(message(&error).contains("may not read the logs"), "{}", message(&error));
}

#[tokio::test]
async fn who_writes_too_much_is_ended() {
    let fake = Fake::default();
    let (runner, mut watch) = one_running(&fake).await;
    let mut follow = Follow::of(&runner, row(), "", 1);
    reading(&fake, "pod-1").await;
    for number in 0..3 {
        fake.write("pod-1", T + number, vec![b'x'; 500_000]);
    }
    let lines = follow.rest().await;
    assert_eq!(
        lines.last().map(String::as_str),
        Some("! the program wrote more than the 1 MiB of output of its limit, and is ended")
    );
    assert!(fake.asked("PATCH")[0].contains("OutputLimitExceeded"));
    assert!(fake.object("jobs", &name()).is_none(), "it is deleted");
    watch.until("Ending OutputLimitExceeded").await;
    fake.put("pods", ended(1, 137));
    watch.until("Gone OutputLimitExceeded").await;
    // Nothing more is read of it, and it is not told twice.
    let mut again = Follow::of(&runner, row(), &follow.position, follow.next);
    assert_eq!(again.rest().await, [] as [&str; 0]);
}

#[tokio::test]
async fn without_watches_a_log_is_read_all_the_same() {
    let fake = Fake::default();
    let runner = fake.runner();
    runner.begin(&row(), &spec()).await.expect("created");
    fake.put("pods", ended(1, 0));
    fake.write("pod-1", T, "a");
    let row = Job {
        state: State::Succeeded,
        ..row()
    };
    let mut follow = Follow::of(&runner, row.clone(), "", 1);
    assert_eq!(follow.rest().await, ["a"]);
    let mut other = Follow::of(&runner, row, "of another runner", 1);
    assert_eq!(other.rest().await, [] as [&str; 0]);
}

#[tokio::test]
async fn who_stops_listening_is_noticed() {
    let fake = Fake::default();
    let (runner, _watch) = one_running(&fake).await;
    let mut follow = Follow::of(&runner, row(), "", 1);
    reading(&fake, "pod-1").await;
    follow.batches.close();
    timeout(PATIENCE, follow.task)
        .await
        .expect("in time")
        .expect("no panic")
        .expect("no error");
    timeout(PATIENCE, async {
        while fake.readers("pod-1") > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the connection is closed");
}
