//! From a job that is created to a log that is stored: control, service and tails over real processes and a real store.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use labctl::dashboard::job::spec::{Priority, Spec};
use labctl::dashboard::job::{Job, JobId, State, reason};
use labctl::dashboard::log::Stream;
use labctl::dashboard::service::tail::{Item, Select};
use labctl::dashboard::service::{Action, Caller, Service, ServiceError};
use labctl::dashboard::store::{Changed, Created, Filter, JobStore as _, Page, StoreError};

use crate::dashboard::{Dashboard, LIMIT, caller, in_order, shell, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_and_its_log_is_stored_and_then_forgotten_by_the_runner() {
    let dashboard = Dashboard::new(2).await;
    let mut changes = dashboard.service.changes();
    let job = dashboard
        .create(shell("for i in 1 2 3 4 5; do echo $i; sleep 0.2; done"))
        .await;
    assert_eq!((job.state, job.version > 0), (State::Pending, true));
    let live = dashboard.follow(job.id, Select::default()).await;
    assert_eq!(text(&live), ["1", "2", "3", "4", "5"]);
    in_order(&live);
    let job = dashboard.whole(job.id).await;
    assert_eq!(
        (job.state, job.exit_code, job.attempts, job.reason),
        (State::Succeeded, Some(0), 1, None)
    );
    assert!(job.created_ms <= job.started_ms.expect("began") && job.started_ms < job.finished_ms);
    dashboard.nothing_left().await;
    assert_eq!(
        dashboard.follow(job.id, Select::default()).await,
        live,
        "the store has what was seen live"
    );
    let last = Select {
        tail: Some(2),
        ..Select::default()
    };
    assert_eq!(text(&dashboard.follow(job.id, last).await), ["4", "5"]);
    let mut states = Vec::new();
    while let Ok(change) = changes.try_recv() {
        if let Changed::Job(job) = change
            && states.last() != Some(&job.state)
        {
            states.push(job.state);
        }
    }
    assert_eq!(states, [State::Pending, State::Running, State::Succeeded]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_in_whatever_state_it_is() {
    let dashboard = Dashboard::new(1).await;
    let running = dashboard.create(shell("echo go; sleep 60")).await;
    dashboard
        .until(running.id, "running", |job| job.state == State::Running)
        .await;
    let pending = dashboard.create(shell("echo never")).await;
    let held = dashboard
        .create(Spec {
            suspend: true,
            priority: Priority::Normal,
            ..shell("echo never")
        })
        .await;
    assert_eq!(held.state, State::Suspended);
    dashboard
        .until(pending.id, "waiting", |job| {
            job.reason.as_deref() == Some("WaitingForSlot")
        })
        .await;
    for id in [pending.id, held.id, running.id] {
        let asked = dashboard.act(id, Action::Cancel).await.expect("accepted");
        assert!(asked.cancelling && asked.reason.as_deref() == Some("Cancelled"));
        dashboard.act(id, Action::Cancel).await.expect("accepted twice");
        assert!(matches!(
            dashboard.act(id, Action::Suspend).await,
            Err(ServiceError::State(_))
        ));
        let job = dashboard.whole(id).await;
        assert_eq!(
            (job.state, job.reason.as_deref()),
            (State::Cancelled, Some("Cancelled"))
        );
        dashboard.act(id, Action::Cancel).await.expect("cancelled is cancelled");
        assert!(matches!(
            dashboard.act(id, Action::Resume).await,
            Err(ServiceError::State(_))
        ));
    }
    assert_eq!(text(&dashboard.follow(running.id, Select::default()).await), ["go"]);
    assert_eq!(dashboard.job(pending.id).await.attempts, 0);
    // As soon as it is created: what it did until then is known all the same.
    for _ in 0..5 {
        let job = dashboard.create(shell("sleep 60")).await;
        dashboard.act(job.id, Action::Cancel).await.expect("accepted");
        let job = dashboard.whole(job.id).await;
        assert_eq!(job.state, State::Cancelled);
        assert_eq!(job.started_ms.is_some(), job.attempts > 0);
    }
    let done = dashboard.create(shell("true")).await;
    dashboard.whole(done.id).await;
    let refused = dashboard.act(done.id, Action::Cancel).await;
    assert!(matches!(refused, Err(ServiceError::State(why)) if why.contains("succeeded")));
    dashboard.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_and_its_viewers_go_on_while_the_store_is_away() {
    let dashboard = Dashboard::new(2).await;
    let script = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; sleep 0.05; done";
    let job = dashboard.create(shell(script)).await;
    let mut tail = dashboard
        .service
        .tail(
            &caller(),
            job.id,
            Select {
                follow: true,
                ..Select::default()
            },
        )
        .await
        .expect("a tail");
    let mut seen = Vec::new();
    let mut while_away = 0;
    loop {
        match tail
            .next()
            .await
            .expect("a viewer that reads from the hub does not notice")
        {
            Some(Item::Lines { lines, .. }) => {
                if dashboard.store.down.load(Ordering::Relaxed) {
                    while_away += lines.len();
                }
                seen.extend(lines);
            }
            Some(gap @ Item::Gap { .. }) => panic!("{gap:?}"),
            None => break,
        }
        match seen.len() {
            10..20 => dashboard.store.down.store(true, Ordering::Relaxed),
            40.. => dashboard.store.down.store(false, Ordering::Relaxed),
            _ => {}
        }
    }
    assert!(while_away >= 15, "lines are shown as they come: {while_away}");
    assert!(dashboard.store.refused.load(Ordering::Relaxed) > 0);
    in_order(&seen);
    let job = dashboard.whole(job.id).await;
    assert_eq!((job.state, seen.len()), (State::Succeeded, 60));
    assert_eq!(dashboard.follow(job.id, Select::default()).await, seen);
    // One that ends while the store is away.
    let job = dashboard.create(shell("sleep 0.5; echo late; exit 4")).await;
    dashboard
        .until(job.id, "running", |job| job.state == State::Running)
        .await;
    dashboard.store.down.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(
        dashboard.service.job(&caller(), job.id).await,
        Err(ServiceError::Store(_))
    ));
    dashboard.store.down.store(false, Ordering::Relaxed);
    let job = dashboard.whole(job.id).await;
    assert_eq!((job.state, job.exit_code), (State::Failed, Some(4)));
    assert_eq!(text(&dashboard.follow(job.id, Select::default()).await), ["late"]);
    dashboard.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_slows_no_viewer() {
    let dashboard = Dashboard::new(2).await;
    *dashboard.store.slow.lock().expect("not poisoned") = Duration::from_secs(2);
    let job = dashboard
        .create(shell(
            "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i; sleep 0.05; done",
        ))
        .await;
    let mut tail = dashboard
        .service
        .tail(
            &caller(),
            job.id,
            Select {
                follow: true,
                ..Select::default()
            },
        )
        .await
        .expect("a tail");
    let mut latest = Duration::ZERO;
    let mut lines = Vec::new();
    while lines.len() < 40 {
        let Some(Item::Lines { lines: new, .. }) = tail.next().await.expect("read") else {
            panic!("the log ended")
        };
        let now = jiff::Timestamp::now().as_microsecond();
        for line in &new {
            latest = latest.max(Duration::from_micros(
                u64::try_from(now - line.at_us).unwrap_or_default(),
            ));
        }
        lines.extend(new);
    }
    assert!(
        latest < Duration::from_secs(1),
        "a line came {latest:?} after it was written"
    );
    *dashboard.store.slow.lock().expect("not poisoned") = Duration::ZERO;
    dashboard.whole(job.id).await;
    assert_eq!(dashboard.follow(job.id, Select::default()).await, lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_change_a_job_at_once_each_sees_what_it_asked_for_or_why_not() {
    let dashboard = Arc::new(Dashboard::new(2).await);
    let job = dashboard.create(shell("trap '' TERM; sleep 60")).await;
    let job = dashboard
        .until(job.id, "running", |job| job.state == State::Running)
        .await;
    let stale = dashboard
        .service
        .act(&caller(), job.id, Action::Cancel, Some(job.version - 1))
        .await;
    assert!(matches!(stale, Err(ServiceError::Changed)), "{stale:?}");
    let asked = (0..20).map(|_| {
        let dashboard = Arc::clone(&dashboard);
        tokio::spawn(async move { dashboard.act(job.id, Action::Cancel).await })
    });
    for asked in futures_util::future::join_all(asked).await {
        assert!(asked.expect("joined").expect("accepted").cancelling);
    }
    assert_eq!(dashboard.whole(job.id).await.state, State::Cancelled);

    // Held back and let go on in any order: it ends as it should, and does not hang.
    let job = dashboard.create(shell("echo begin; sleep 0.3; echo end")).await;
    let asked = (0..12).map(|number| {
        let dashboard = Arc::clone(&dashboard);
        let action = if number % 2 == 0 {
            Action::Suspend
        } else {
            Action::Resume
        };
        tokio::spawn(async move { _ = dashboard.act(job.id, action).await })
    });
    futures_util::future::join_all(asked).await;
    // A resume that came before the last hold is no error, and the job may be held now.
    let until = Instant::now() + LIMIT;
    loop {
        _ = dashboard.act(job.id, Action::Resume).await;
        let job = dashboard.job(job.id).await;
        if job.state.is_final() {
            assert_eq!(job.state, State::Succeeded);
            break;
        }
        assert!(Instant::now() < until, "{job:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let lines = dashboard.follow(job.id, Select::default()).await;
    in_order(&lines);
    assert_eq!(text(&lines).last().map(String::as_str), Some("end"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_a_job_sees_it_through_being_held_back_and_tried_again() {
    let dashboard = Dashboard::new(2).await;
    let mark = dashboard.dir.join("mark");
    let script = format!(
        "echo begin; test -e {0} || {{ touch {0}; exec sleep 60; }}; echo end",
        mark.display()
    );
    let job = dashboard.create(shell(&script)).await;
    let service = dashboard.service.clone();
    let following = tokio::spawn(async move {
        let mut tail = service
            .tail(
                &caller(),
                job.id,
                Select {
                    follow: true,
                    ..Select::default()
                },
            )
            .await
            .expect("a tail");
        let mut lines = Vec::new();
        while let Some(Item::Lines { lines: new, .. }) = tail.next().await.expect("read") {
            lines.extend(new);
        }
        lines
    });
    while !mark.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let held = dashboard.act(job.id, Action::Suspend).await.expect("held");
    assert_eq!(held.state, State::Suspended);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let held = dashboard.job(job.id).await;
    assert_eq!((held.state, held.attempts), (State::Suspended, 1), "{held:?}");
    dashboard.act(job.id, Action::Resume).await.expect("resumed");
    let done = dashboard.whole(job.id).await;
    assert_eq!((done.state, done.attempts), (State::Succeeded, 2));
    let lines = tokio::time::timeout(LIMIT, following)
        .await
        .expect("in time")
        .expect("joined");
    assert_eq!(text(&lines), ["begin", "begin", "end"]);
    in_order(&lines);
    let second = Select {
        attempt: Some(2),
        ..Select::default()
    };
    assert_eq!(text(&dashboard.follow(job.id, second).await), ["begin", "end"]);

    let job = dashboard
        .create(Spec {
            retries: 1,
            ..shell("echo out; exit 1")
        })
        .await;
    let lines = dashboard.follow(job.id, Select::default()).await;
    let shape: Vec<_> = lines.iter().map(|line| (line.attempt, line.stream)).collect();
    assert_eq!(shape, [(1, Stream::Stdout), (1, Stream::Note), (2, Stream::Stdout)]);
    let job = dashboard.whole(job.id).await;
    assert_eq!(
        (job.state, job.reason.as_deref(), job.attempts),
        (State::Failed, Some("BackoffLimitExceeded"), 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_creates_one_job_however_often_it_is_sent() {
    let dashboard = Dashboard::new(2).await;
    let key = || Some("the-key".to_owned());
    let asked = (0..16).map(|_| {
        let service = dashboard.service.clone();
        tokio::spawn(async move { service.create(&caller(), shell("true"), key()).await })
    });
    let mut new = 0;
    let mut ids = Vec::new();
    for asked in futures_util::future::join_all(asked).await {
        match asked.expect("joined") {
            Ok(Created::New(job)) => {
                new += 1;
                ids.push(job.id);
            }
            Ok(Created::Replayed(job)) => ids.push(job.id),
            Err(ServiceError::KeyInFlight) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    ids.dedup();
    assert_eq!((new, ids.len()), (1, 1));
    let again = dashboard
        .service
        .create(&caller(), shell("true"), key())
        .await
        .expect("replayed");
    assert!(matches!(again, Created::Replayed(job) if job.id == ids[0]));
    let other = dashboard.service.create(&caller(), shell("false"), key()).await;
    assert!(matches!(other, Err(ServiceError::KeyReused)), "{other:?}");
    let bob = Caller::new("bob", false);
    let theirs = dashboard
        .service
        .create(&bob, shell("false"), key())
        .await
        .expect("a key is its owner's");
    assert!(matches!(theirs, Created::New(_)));
    for wrong in ["", "two words", "ä", &"x".repeat(256)] {
        let refused = dashboard
            .service
            .create(&caller(), shell("true"), Some(wrong.to_owned()))
            .await;
        assert!(matches!(refused, Err(ServiceError::Parameter(_))), "{wrong}");
    }
    // While the store is away nothing is created, and the same request works when it is back.
    dashboard.store.down.store(true, Ordering::Relaxed);
    let away = dashboard
        .service
        .create(&caller(), shell("true"), Some("later".into()))
        .await;
    assert!(matches!(away, Err(ServiceError::Store(StoreError::Unavailable(_)))));
    dashboard.store.down.store(false, Ordering::Relaxed);
    let back = dashboard
        .service
        .create(&caller(), shell("true"), Some("later".into()))
        .await;
    assert!(matches!(back, Ok(Created::New(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_deleted_when_it_has_ended_and_nothing_of_it_stays() {
    let dashboard = Dashboard::new(2).await;
    let job = dashboard.create(shell("echo begin; sleep 0.5; echo end")).await;
    dashboard
        .until(job.id, "running", |job| job.state == State::Running)
        .await;
    assert!(matches!(
        dashboard.service.delete(&caller(), job.id).await,
        Err(ServiceError::State(_))
    ));
    // As soon as it has ended, whether or not its log is stored.
    *dashboard.store.slow.lock().expect("not poisoned") = Duration::from_millis(300);
    dashboard.until(job.id, "the end", |job| job.state.is_final()).await;
    let mut tail = dashboard
        .service
        .tail(
            &caller(),
            job.id,
            Select {
                follow: true,
                ..Select::default()
            },
        )
        .await
        .expect("a tail");
    dashboard.service.delete(&caller(), job.id).await.expect("deleted");
    assert!(matches!(
        dashboard.service.delete(&caller(), job.id).await,
        Err(ServiceError::NotFound)
    ));
    let ended = tokio::time::timeout(LIMIT, async {
        loop {
            match tail.next().await {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    });
    assert!(
        matches!(ended.await.expect("in time"), Err(ServiceError::NotFound)),
        "a viewer is told"
    );
    dashboard.nothing_left().await;
    assert!(dashboard.store.log(job.id, 1, 10).await.expect("read").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_somebody_elses_is_not_there() {
    let dashboard = Dashboard::new(2).await;
    let job = dashboard.create(shell("echo secret")).await;
    dashboard.whole(job.id).await;
    let bob = Caller::new("bob", false);
    let service = &dashboard.service;
    let not_found =
        |found: Result<(), ServiceError>| assert!(matches!(found, Err(ServiceError::NotFound)), "{found:?}");
    not_found(service.job(&bob, job.id).await.map(drop));
    not_found(service.spec(&bob, job.id).await.map(drop));
    not_found(service.tail(&bob, job.id, Select::default()).await.map(drop));
    not_found(service.rerun(&bob, job.id, None).await.map(drop));
    not_found(service.delete(&bob, job.id).await);
    for action in [Action::Cancel, Action::Suspend, Action::Resume] {
        not_found(service.act(&bob, job.id, action, None).await.map(drop));
    }
    let page = Page { after: None, limit: 10 };
    assert_eq!(service.list(&bob, &Filter::default(), page).await.expect("a list"), []);
    assert!(!Service::may_see(&bob, &Changed::Job(job.clone())));
    let admin = Caller { admin: true, ..bob };
    assert_eq!(service.job(&admin, job.id).await.expect("there").id, job.id);
    // A rerun is the one's who asks for it.
    let Created::New(again) = service.rerun(&admin, job.id, None).await.expect("run again") else {
        panic!("a new one")
    };
    assert_eq!((again.parent, again.owner.as_str()), (Some(job.id), "bob"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_runs_the_jobs_and_another_takes_over() {
    let top = tempfile::tempdir().expect("a directory");
    let one = Dashboard::at(top.path(), "one", 2).await;
    let job = one.create(shell("echo one")).await;
    one.whole(job.id).await;
    let two = Dashboard::at(top.path(), "two", 2).await;
    // Created at the server that has no lease, run by the one that has.
    let job = two.create(shell("echo $HOME")).await;
    let lines = two.follow(job.id, Select::default()).await;
    assert!(text(&lines)[0].contains("/one/"), "{lines:?}");
    one.work.abort();
    one.control.release().await;
    let job = two.create(shell("echo $HOME")).await;
    let lines = two.follow(job.id, Select::default()).await;
    assert!(text(&lines)[0].contains("/two/"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_how_many_jobs_output_is_read() {
    let top = tempfile::tempdir().expect("a temporary directory");
    let first = Dashboard::at(top.path(), "one", 3).await;
    let reads = |what: &str| format!("this server runs the jobs; it reads the output of {what}");
    first.until_said("control", Some(&reads("0 jobs"))).await;
    first.until_said("runner", Some("processes, 3 at once")).await;
    let (one, two) = (
        first.create(shell("sleep 60")).await,
        first.create(shell("sleep 60")).await,
    );
    first.until_said("control", Some(&reads("2 jobs"))).await;
    first.act(one.id, Action::Cancel).await.expect("accepted");
    first.until_said("control", Some(&reads("1 job"))).await;
    // One that does not run the jobs says so, and nothing of a runner.
    let second = Dashboard::at(top.path(), "two", 3).await;
    second.until_said("control", Some("another server runs the jobs")).await;
    second.until_said("runner", None).await;
    first.act(two.id, Action::Cancel).await.expect("accepted");
    first.until_said("control", Some(&reads("0 jobs"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_jobs_run_through_few_slots() {
    let dashboard = Dashboard::new(4).await;
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(dashboard.create(shell("echo hello")).await.id);
    }
    for id in ids {
        let job = dashboard.whole(id).await;
        assert_eq!((job.state, job.attempts), (State::Succeeded, 1));
        assert_eq!(text(&dashboard.follow(id, Select::default()).await), ["hello"]);
    }
    dashboard.nothing_left().await;
    let counts = dashboard.service.counts(&caller()).await.expect("counters");
    assert_eq!(counts[&State::Succeeded], 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_that_wait_the_priority_says_which_is_next() {
    let dashboard = Dashboard::new(1).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let gate = dir.path().join("open");
    let script = format!("while [ ! -e '{}' ]; do sleep 0.02; done", gate.display());
    let first = dashboard.create(shell(&script)).await;
    dashboard
        .until(first.id, "running", |job| job.state == State::Running)
        .await;
    let mut ids = Vec::new();
    for priority in [
        Priority::Low,
        Priority::Normal,
        Priority::High,
        Priority::Normal,
        Priority::High,
    ] {
        let spec = Spec {
            priority,
            ..shell("exit 0")
        };
        let job = dashboard.create(spec).await;
        let waits = |job: &Job| job.reason.as_deref() == Some(reason::SLOTS);
        dashboard.until(job.id, "waiting", waits).await;
        ids.push(job.id);
    }
    // One that is cancelled while it waits has no turn any more.
    let left = ids.pop().expect("the last one");
    dashboard.act(left, Action::Cancel).await.expect("asked to end");
    dashboard
        .until(left, "cancelled", |job| job.state == State::Cancelled)
        .await;
    std::fs::File::create(&gate).expect("opened");
    let mut began = Vec::new();
    for id in &ids {
        began.push((dashboard.whole(*id).await.started_ms.expect("it ran"), *id));
    }
    began.sort_unstable();
    let order: Vec<JobId> = began.into_iter().map(|(_, id)| id).collect();
    assert_eq!(order, [ids[2], ids[1], ids[3], ids[0]]);
    assert_eq!(dashboard.job(left).await.started_ms, None);
}
