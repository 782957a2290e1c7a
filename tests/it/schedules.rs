//! Schedules without HTTP: what is made when, by one server, by two, and by one that was cut off.

use std::sync::atomic::Ordering;

use labctl::dashboard::control::now_ms;
use labctl::dashboard::job::schedule::Schedule;
use labctl::dashboard::job::{Job, State};
use labctl::dashboard::service::Action;
use labctl::dashboard::store::documents::{Documents as _, Kind, Mark, NewDocument};
use labctl::dashboard::store::{Filter, Listed, Page, StoreError};
use serde_json::{Value, json};

use crate::dashboard::{Dashboard, caller};

/// A minute that is always the first of its kind: schedules of these tests begin when they are made.
const HOUR: i64 = 3_600_000;

async fn made(dashboard: &Dashboard, name: &str) -> Vec<Job> {
    let filter = Filter {
        labels: [("schedule".to_owned(), name.to_owned())].into(),
        ..Filter::default()
    };
    let page = Page {
        after: None,
        limit: 500,
    };
    let listed = dashboard.service.list(&caller(), &filter, page).await;
    listed.expect("a list").into_iter().map(Listed::into_job).collect()
}

async fn mark(dashboard: &Dashboard, name: &str) -> Option<Mark> {
    dashboard.service.schedule(&caller(), name).await.expect("there").1
}

/// Keeps a schedule of which nothing is due by the real clock for an hour, and returns its first occurrence.
async fn keep(dashboard: &Dashboard, change: Value) -> i64 {
    let minute = (now_ms() / 60_000 + 30) % 60;
    let mut document = json!({
        "name": "s", "cron": format!("{minute} * * * *"),
        "job": {"name": "tick", "command": ["/bin/sh", "-c", "exit 0"]},
    });
    for (key, value) in change.as_object().expect("an object") {
        document[key] = value.clone();
    }
    let schedule: Schedule = serde_json::from_value(document).expect("a schedule");
    dashboard
        .service
        .add_schedule(&caller(), &schedule)
        .await
        .expect("kept");
    let timing = schedule.timing().expect("good");
    timing.next(now_ms()).expect("there is a next one")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_occurrence_makes_one_job_whoever_works_on_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = Dashboard::at(dir.path(), "one", 2).await;
    let second = Dashboard::at(dir.path(), "two", 2).await;
    let at = keep(&first, json!({"concurrency": "allow"})).await;
    assert_eq!(first.control.fire_due(at - 1).await.expect("looked"), Some(at));
    assert!(made(&first, "s").await.is_empty());
    // Two servers that both think they have the lease, each several times.
    let both = (0..6).map(|number| {
        let control = if number % 2 == 0 {
            &first.control
        } else {
            &second.control
        };
        let control = control.clone();
        tokio::spawn(async move { control.fire_due(at + 5).await })
    });
    let mut done = 0;
    for one in both.collect::<Vec<_>>() {
        match one.await.expect("it ends") {
            Ok(next) => {
                assert_eq!(next, Some(at + HOUR));
                done += 1;
            }
            // What it writes without the lease is refused.
            Err(error) => assert!(matches!(error, StoreError::LeaseLost), "{error:?}"),
        }
    }
    assert!(done > 0, "one of them has the lease");
    let jobs = made(&first, "s").await;
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    assert_eq!((jobs[0].name.as_str(), jobs[0].owner.as_str()), ("tick", "ann"));
    let mark = mark(&first, "s").await.expect("a mark");
    assert_eq!((mark.done_ms, mark.job, mark.said), (at, Some(jobs[0].id), None));
    // The clock is set back and comes again to the same time.
    for now in [at - HOUR, at - 1, at, at + 10] {
        first.control.fire_due(now).await.expect("looked");
    }
    assert_eq!(made(&first, "s").await.len(), 1);
    first.control.fire_due(at + HOUR).await.expect("looked");
    assert_eq!(made(&first, "s").await.len(), 2, "the next one is another one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_cut_off_makes_no_second_job() {
    for concurrency in ["allow", "forbid", "replace"] {
        let dashboard = Dashboard::new(2).await;
        let at = keep(
            &dashboard,
            json!({"concurrency": concurrency, "job": {"name": "long", "command": ["/bin/sleep", "60"]}}),
        )
        .await;
        dashboard.store.cut.store(true, Ordering::Relaxed);
        dashboard.control.fire_due(at).await.expect_err("cut off");
        assert_eq!(mark(&dashboard, "s").await, None, "it could not be said");
        let before = made(&dashboard, "s").await;
        assert_eq!(before.len(), 1);
        dashboard.store.cut.store(false, Ordering::Relaxed);
        dashboard.control.fire_due(at + 10).await.expect("looked");
        let after = made(&dashboard, "s").await;
        assert_eq!(after.len(), 1, "{concurrency}: {after:?}");
        assert!(!after[0].cancelling, "{concurrency}: it is not its own successor");
        assert_eq!(
            mark(&dashboard, "s").await.map(|mark| (mark.done_ms, mark.said)),
            Some((at, None))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_where_the_one_before_still_runs_is_chosen() {
    for (concurrency, jobs, cancelled) in [("allow", 2, 0), ("forbid", 1, 0), ("replace", 2, 1)] {
        let dashboard = Dashboard::new(4).await;
        let at = keep(
            &dashboard,
            json!({"concurrency": concurrency, "job": {"name": "long", "command": ["/bin/sleep", "60"]}}),
        )
        .await;
        dashboard.control.fire_due(at).await.expect("looked");
        dashboard.control.fire_due(at + HOUR).await.expect("looked");
        let found = made(&dashboard, "s").await;
        assert_eq!(found.len(), jobs, "{concurrency}");
        let ending: Vec<_> = found.iter().filter(|job| job.cancelling).map(|job| job.id).collect();
        assert_eq!(ending.len(), cancelled, "{concurrency}");
        if let [older] = ending[..] {
            assert_eq!(older, found[1].id, "the older one");
            dashboard
                .until(older, "its end", |job| job.state == State::Cancelled)
                .await;
        }
        let said = mark(&dashboard, "s").await.expect("a mark").said;
        assert_eq!(said.is_some(), concurrency == "forbid", "{said:?}");
        for job in found {
            dashboard.act(job.id, Action::Cancel).await.expect("asked to end");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_what_was_missed_one_job_is_made_within_the_limit() {
    let dashboard = Dashboard::new(2).await;
    let at = keep(&dashboard, json!({"catch_up_seconds": 600})).await;
    // Five hours without a server, and then it is 9 minutes past; an hour later, 11 minutes past.
    dashboard
        .control
        .fire_due(at + 4 * HOUR + 540_000)
        .await
        .expect("looked");
    assert_eq!(made(&dashboard, "s").await.len(), 1);
    assert_eq!(
        mark(&dashboard, "s").await.map(|mark| mark.done_ms),
        Some(at + 4 * HOUR)
    );
    dashboard
        .control
        .fire_due(at + 5 * HOUR + 660_000)
        .await
        .expect("looked");
    assert_eq!(made(&dashboard, "s").await.len(), 1);
    let mark = mark(&dashboard, "s").await.expect("a mark");
    assert_eq!(mark.done_ms, at + 5 * HOUR);
    assert!(mark.said.is_some_and(|said| said.contains("too late")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_that_is_held_back_makes_nothing_and_makes_up_for_nothing() {
    let dashboard = Dashboard::new(2).await;
    let at = keep(&dashboard, json!({"suspend": true})).await;
    assert_eq!(dashboard.control.fire_due(at).await.expect("looked"), None);
    assert!(made(&dashboard, "s").await.is_empty());
    let service = &dashboard.service;
    let resumed = service
        .suspend_schedule(&caller(), "s", false, None)
        .await
        .expect("resumed");
    assert_eq!((resumed.version, resumed.document.suspend), (2, false));
    let again = service
        .suspend_schedule(&caller(), "s", false, None)
        .await
        .expect("resumed");
    assert_eq!(again.version, 2, "asking again changes nothing");
    // By the clock that it was resumed at, the occurrence before is over.
    dashboard.control.fire_due(now_ms()).await.expect("looked");
    assert!(made(&dashboard, "s").await.is_empty());
    dashboard.control.fire_due(at).await.expect("looked");
    assert_eq!(made(&dashboard, "s").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_makes_the_job_by_itself() {
    let dashboard = Dashboard::new(2).await;
    // One that was kept two minutes ago: its newest occurrence is due.
    let schedule = json!({
        "name": "minutely", "cron": "* * * * *",
        "job": {"name": "tick", "command": ["/bin/sh", "-c", "echo tock"]},
    });
    let new = NewDocument {
        name: "minutely".to_owned(),
        owner: caller().name,
        now_ms: now_ms() - 120_000,
        text: schedule.to_string(),
    };
    dashboard.store.add_document(Kind::Schedule, &new).await.expect("kept");
    dashboard.control.plan();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let job = loop {
        if let [job] = &made(&dashboard, "minutely").await[..] {
            break job.clone();
        }
        assert!(std::time::Instant::now() < until, "no job");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    let job = dashboard.whole(job.id).await;
    assert_eq!(job.state, State::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_whose_template_is_gone_says_so_and_keeps_no_other_from_its_time() {
    let dashboard = Dashboard::new(2).await;
    let service = &dashboard.service;
    service.seed().await.expect("seeded");
    service.seed().await.expect("once");
    let at = keep(
        &dashboard,
        json!({"job": null, "template": "hello", "parameters": {"count": 1}}),
    )
    .await;
    keep(&dashboard, json!({"name": "t", "concurrency": "allow"})).await;
    dashboard.control.fire_due(at).await.expect("looked");
    let job = &made(&dashboard, "s").await[0];
    assert_eq!(job.template.as_deref(), Some("hello"));
    let origin = service
        .origin(&caller(), job.id)
        .await
        .expect("an answer")
        .expect("an origin");
    assert_eq!((origin.version, &origin.parameters["count"]), (1, &json!(1)));
    service
        .remove_template(&labctl::dashboard::service::Caller::new("root", true), "hello", None)
        .await
        .expect("deleted");
    dashboard.control.fire_due(at + HOUR).await.expect("looked");
    assert_eq!(
        (made(&dashboard, "s").await.len(), made(&dashboard, "t").await.len()),
        (1, 2)
    );
    let said = mark(&dashboard, "s").await.expect("a mark").said.expect("a reason");
    assert!(said.contains("no such template"), "{said}");
    service.seed().await.expect("looked");
    assert!(
        service.template("hello", None).await.is_err(),
        "whoever deleted it does not want it back"
    );
}
