//! What is kept of jobs that have ended, and what is refused where there is no room.

use std::time::Duration;

use labctl::dashboard::control::retain::Keep;
use labctl::dashboard::job::spec::Spec;
use labctl::dashboard::job::{Job, State};
use labctl::dashboard::log::Stream;
use labctl::dashboard::service::tail::Select;
use labctl::dashboard::service::{Action, ServiceError};
use labctl::dashboard::store::{Filter, JobStore as _, Listed, Page};

use crate::dashboard::{Dashboard, LIMIT, caller, in_order, shell, text};

const OFTEN: Keep = Keep {
    age: None,
    jobs: None,
    logs_bytes: None,
    log_bytes: None,
    acts: None,
    every: Duration::from_millis(100),
    clock: labctl::dashboard::control::now_ms,
};

async fn keeping(keep: Keep) -> (tempfile::TempDir, Dashboard) {
    let top = tempfile::tempdir().expect("a directory");
    let dashboard = Dashboard::keeping(top.path(), "one", 4, keep).await;
    (top, dashboard)
}

fn held(spec: Spec) -> Spec {
    Spec {
        labels: [("keep".to_owned(), "true".to_owned())].into(),
        ..spec
    }
}

impl Dashboard {
    /// Runs a job to its end, which retention may make the end of its row too.
    async fn ran(&self, spec: Spec) -> Job {
        let job = self.create(spec).await;
        self.whole(job.id).await
    }

    async fn listed(&self) -> Vec<Job> {
        let page = Page {
            after: None,
            limit: 500,
        };
        let listed = self.service.list(&caller(), &Filter::default(), page).await;
        listed.expect("a list").into_iter().map(Listed::into_job).collect()
    }

    async fn until_listed(&self, what: &str, wanted: impl Fn(&[Job]) -> bool) -> Vec<Job> {
        let until = std::time::Instant::now() + LIMIT;
        loop {
            let jobs = self.listed().await;
            if wanted(&jobs) {
                return jobs;
            }
            assert!(std::time::Instant::now() < until, "{what}: {jobs:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_jobs_are_kept_and_those_that_are_held() {
    let (_top, dashboard) = keeping(Keep { jobs: Some(3), ..OFTEN }).await;
    let kept = dashboard.create(held(shell("echo kept"))).await;
    let running = dashboard.create(shell("sleep 60")).await;
    let mut newest = Vec::new();
    for _ in 0..8 {
        let job = dashboard.create(shell("echo gone")).await;
        dashboard
            .until_listed("its end", |jobs| {
                jobs.iter().all(|other| other.id != job.id || other.log_complete)
            })
            .await;
        newest.push(job.id);
    }
    let jobs = dashboard.until_listed("three are left", |jobs| jobs.len() == 5).await;
    let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
    assert_eq!(ids, [newest[7], newest[6], newest[5], running.id, kept.id]);
    // Nothing more goes, however often it is looked.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(dashboard.listed().await.len(), 5);
    assert_eq!(text(&dashboard.follow(kept.id, Select::default()).await), ["kept"]);
    let counts = dashboard.service.counts(&caller()).await.expect("counters");
    assert_eq!((counts[&State::Succeeded], counts[&State::Running]), (4, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_leave_by_their_age_with_their_logs() {
    let (_top, dashboard) = keeping(Keep {
        age: Some(Duration::from_millis(700)),
        ..OFTEN
    })
    .await;
    let kept = dashboard.ran(held(shell("echo kept"))).await;
    let job = dashboard.create(shell("echo gone")).await;
    let whole = dashboard.whole(job.id).await;
    assert!(whole.finished_ms.is_some(), "it is there for a while: {whole:?}");
    let jobs = dashboard.until_listed("it is gone", |jobs| jobs.len() == 1).await;
    assert_eq!(jobs[0].id, kept.id);
    assert!(dashboard.store.log(job.id, 1, 10).await.expect("read").is_empty());
    let passed = labctl::dashboard::control::now_ms() - whole.finished_ms.expect("ended");
    assert!(passed >= 700, "{passed} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_too_long_is_cut_and_says_so_and_the_job_goes_on() {
    let (_top, dashboard) = keeping(Keep {
        log_bytes: Some(10_000),
        ..OFTEN
    })
    .await;
    let mark = dashboard.dir.join("mark");
    let script = format!(
        "i=0; while [ $i -lt 300 ]; do i=$((i+1)); printf '%0100d\\n' $i; done; sleep 1; echo late; touch {}; exit 3",
        mark.display()
    );
    let job = dashboard.create(shell(&script)).await;
    let lines = dashboard.follow(job.id, Select::default()).await;
    in_order(&lines);
    assert!(mark.exists(), "whoever follows waits for the end of the job");
    let last = lines.last().expect("a line");
    assert_eq!(last.stream, Stream::Note);
    let said = String::from_utf8_lossy(&last.bytes).into_owned();
    assert!(
        said.contains("cut here") && said.contains("--job-log-max-bytes"),
        "{said}"
    );
    assert!((100..=300).contains(&(lines.len() - 1)), "{} lines", lines.len());
    assert!(
        lines
            .iter()
            .rev()
            .skip(1)
            .all(|line| line.stream == Stream::Stdout && line.bytes.len() == 100)
    );
    let job = dashboard.whole(job.id).await;
    assert_eq!((job.state, job.exit_code), (State::Failed, Some(3)));
    assert_eq!(dashboard.follow(job.id, Select::default()).await, lines);
    dashboard.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_logs_refuse_new_jobs_and_let_the_others_end() {
    let (_top, dashboard) = keeping(Keep {
        logs_bytes: Some(20_000),
        ..OFTEN
    })
    .await;
    // What a compressor cannot make small.
    let noise =
        "head -c 60000 /dev/urandom | od -An -tx1; echo filled; sleep 1.5; od -An -tx1 -N 64 /dev/urandom; exit 5";
    let job = dashboard.create(shell(noise)).await;
    let lines = dashboard.follow(job.id, Select::default()).await;
    in_order(&lines);
    let said = text(&lines).pop().expect("a line");
    assert!(said.contains("cut here") && said.contains("--logs-max-bytes"), "{said}");
    let ended = dashboard.whole(job.id).await;
    assert_eq!((ended.state, ended.exit_code), (State::Failed, Some(5)));
    let refused = dashboard.service.create(&caller(), shell("true"), None).await;
    let Err(ServiceError::Full(why)) = refused else {
        panic!("{refused:?}")
    };
    assert!(why.contains("delete jobs") && why.contains("--logs-max-bytes"), "{why}");
    dashboard.service.delete(&caller(), job.id).await.expect("deleted");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(dashboard.ran(shell("true")).await.state, State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_held_back_while_it_is_begun_stays_held() {
    let dashboard = Dashboard::new(8).await;
    for _ in 0..40 {
        let mark = dashboard.dir.join("ran");
        let job = dashboard
            .create(shell(&format!("sleep 0.4; touch {}", mark.display())))
            .await;
        tokio::task::yield_now().await;
        match dashboard.act(job.id, Action::Suspend).await {
            Ok(held) => assert!(held.is_held(), "{held:?}"),
            Err(error) => panic!("{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = dashboard.job(job.id).await;
        assert!(now.is_held(), "{now:?}");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!dashboard.dir.join("ran").exists(), "none of them may run");
    let jobs = dashboard.listed().await;
    assert!(jobs.len() == 40 && jobs.iter().all(Job::is_held));
    for job in &jobs {
        dashboard.act(job.id, Action::Resume).await.expect("resumed");
    }
    for job in jobs {
        assert_eq!(dashboard.whole(job.id).await.state, State::Succeeded);
    }
}
