//! What every store does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use labctl::dashboard::job::{Change, JobId, State};
use labctl::dashboard::store::{Changed, Counts, Created, Filter, JobStore, Key, NewJob, Page, Scope, StoreError};

use super::{BEGIN_MS, Place, bring, chunk, create, new_job, on_both, spec, to_state};

on_both!(
    a_job_is_read_back_as_it_was_created,
    a_job_of_somebody_else_does_not_exist,
    a_key_gives_the_same_job_again,
    requests_with_one_key_at_once_create_one_job,
    two_servers_that_make_one_id_create_two_jobs,
    only_who_knows_the_newest_version_changes_a_job,
    counters_are_what_counting_would_find,
    what_needs_work_and_what_is_old_is_found_in_order,
    deleting_takes_everything_with_it,
    a_log_is_read_from_any_line,
    a_part_of_a_log_comes_twice,
    one_server_has_a_lease,
    changes_are_told_in_order,
    what_cannot_be_text_is_no_failure,
);

async fn count(store: &dyn JobStore, scope: &Scope, state: State) -> i64 {
    store.counts(scope).await.expect("counters")[&state]
}

fn owner(name: &str) -> Scope {
    Scope::Owner(name.to_owned())
}

async fn a_job_is_read_back_as_it_was_created(place: &Place) {
    let store = &*place.store;
    assert_eq!(store.newest().await.expect("an answer"), None);
    store.ping().await.expect("an answer");
    let parent = create(store, new_job("ada", "first", 0)).await;
    let new = NewJob {
        spec: spec("Second.1_x-y", &[("team", "a"), ("empty", "")]),
        template: Some("nightly".into()),
        parent: Some(parent.id),
        ..new_job("ada", "", 1)
    };
    let job = create(store, new.clone()).await;
    assert_eq!((job.state, job.version, job.id), (State::Pending, 1, new.id));
    assert_eq!(job.labels, new.spec.labels);
    assert_eq!(
        store.job(job.id, &Scope::All).await.expect("an answer"),
        Some(job.clone())
    );
    assert_eq!(store.spec(job.id).await.expect("an answer"), Some(new.spec));
    assert_eq!(store.newest().await.expect("an answer"), Some(job.id));
    let mut held = new_job("ada", "held", 2);
    held.spec.suspend = true;
    assert_eq!(create(store, held).await.state, State::Suspended);
    assert_eq!(count(store, &Scope::All, State::Suspended).await, 1);
    let unknown = JobId::at(BEGIN_MS + 9);
    assert_eq!(store.job(unknown, &Scope::All).await.expect("an answer"), None);
    assert_eq!(store.spec(unknown).await.expect("an answer"), None);
    assert_eq!(
        store
            .change(unknown, 1, &to_state(State::Running))
            .await
            .expect("an answer"),
        None
    );
    assert!(!store.name().is_empty());
}

async fn a_job_of_somebody_else_does_not_exist(place: &Place) {
    let store = &*place.store;
    let job = create(store, new_job("ada", "hers", 0)).await;
    let job = bring(store, &job, State::Succeeded).await;
    let page = Page { after: None, limit: 10 };
    assert_eq!(store.job(job.id, &owner("bob")).await.expect("an answer"), None);
    assert!(!store.delete(job.id, &owner("bob")).await.expect("an answer"));
    for filter in [
        Filter::default(),
        Filter {
            owner: Some("ada".into()),
            ..Filter::default()
        },
        Filter {
            states: vec![State::Succeeded],
            ..Filter::default()
        },
        Filter {
            text: Some("hers".into()),
            ..Filter::default()
        },
        Filter {
            text: Some(job.id.to_string()),
            ..Filter::default()
        },
    ] {
        assert!(
            store
                .list(&owner("bob"), &filter, page)
                .await
                .expect("an answer")
                .is_empty(),
            "{filter:?}"
        );
        assert_eq!(
            store.list(&owner("ada"), &filter, page).await.expect("an answer").len(),
            1,
            "{filter:?}"
        );
    }
    assert_eq!(count(store, &owner("bob"), State::Succeeded).await, 0);
    assert_eq!(count(store, &owner("ada"), State::Succeeded).await, 1);
    assert!(store.delete(job.id, &owner("ada")).await.expect("an answer"));
}

fn with_key(key: &str, body: u8, ms: i64) -> NewJob {
    NewJob {
        key: Some(Key {
            key: key.to_owned(),
            body: [body; 32],
        }),
        ..new_job("ada", "keyed", ms)
    }
}

async fn a_key_gives_the_same_job_again(place: &Place) {
    let store = &*place.store;
    let job = create(store, with_key("k", 1, 0)).await;
    let job = bring(store, &job, State::Running).await;
    let again = store.create(with_key("k", 1, 1)).await.expect("an answer");
    assert_eq!(again, Created::Replayed(job.clone()), "the job as it is now");
    let other = store.create(with_key("k", 2, 2)).await;
    assert!(matches!(other, Err(StoreError::KeyReused)), "{other:?}");
    create(
        store,
        NewJob {
            owner: "bob".into(),
            ..with_key("k", 2, 3)
        },
    )
    .await;
    create(store, with_key("K", 2, 4)).await;
    assert_eq!(count(store, &owner("ada"), State::Pending).await, 1);
    let job = bring(store, &job, State::Failed).await;
    assert!(store.delete(job.id, &Scope::All).await.expect("an answer"));
    create(store, with_key("k", 2, 5)).await;
}

async fn requests_with_one_key_at_once_create_one_job(place: &Place) {
    let mut requests = tokio::task::JoinSet::new();
    for ms in 0..20 {
        let store = Arc::clone(&place.store);
        requests.spawn(async move { store.create(with_key("once", 7, ms)).await.expect("an answer") });
    }
    let mut ids = Vec::new();
    let mut new = 0;
    for created in requests.join_all().await {
        match created {
            Created::New(job) => {
                new += 1;
                ids.push(job.id);
            }
            Created::Replayed(job) => ids.push(job.id),
        }
    }
    ids.dedup();
    assert_eq!((new, ids.len()), (1, 1), "{ids:?}");
    assert_eq!(count(&*place.store, &Scope::All, State::Pending).await, 1);
}

async fn two_servers_that_make_one_id_create_two_jobs(place: &Place) {
    let store = &*place.store;
    let new = new_job("ada", "same", 0);
    let one = create(store, new.clone()).await;
    let two = create(
        store,
        NewJob {
            owner: "bob".into(),
            ..new
        },
    )
    .await;
    assert!(two.id > one.id);
    assert_eq!(
        store.job(two.id, &owner("bob")).await.expect("an answer"),
        Some(two.clone())
    );
    assert!(store.spec(two.id).await.expect("an answer").is_some());
}

async fn only_who_knows_the_newest_version_changes_a_job(place: &Place) {
    let store = &*place.store;
    let job = create(store, new_job("ada", "raced", 0)).await;
    let change = Change {
        state: Some(State::Running),
        reason: Some(Some("Because".into())),
        message: Some(Some("of ünï".into())),
        started_ms: Some(BEGIN_MS + 7),
        finished_ms: None,
        exit_code: Some(-9),
        attempts: Some(3),
        cancelling: Some(true),
        log_complete: Some(false),
    };
    let after = store
        .change(job.id, 1, &change)
        .await
        .expect("an answer")
        .expect("changed");
    assert_eq!(
        store.change(job.id, 1, &change).await.expect("an answer"),
        None,
        "the version is old"
    );
    assert_eq!(
        store.change(job.id, 3, &change).await.expect("an answer"),
        None,
        "the version is not yet"
    );
    assert_eq!(
        store.job(job.id, &Scope::All).await.expect("an answer"),
        Some(after.clone())
    );
    assert_eq!(
        (after.version, after.state, after.exit_code, after.attempts),
        (2, State::Running, Some(-9), 3)
    );
    assert_eq!(after.started_ms, Some(BEGIN_MS + 7));
    assert!(after.cancelling);
    let cleared = Change {
        reason: Some(None),
        ..Change::default()
    };
    let after = store
        .change(job.id, 2, &cleared)
        .await
        .expect("an answer")
        .expect("changed");
    assert_eq!(
        (after.reason.as_deref(), after.message.as_deref()),
        (None, Some("of ünï"))
    );
    let same = store.change(job.id, 3, &Change::default()).await.expect("an answer");
    assert_eq!(same, Some(after), "nothing changes, the version neither");

    let mut requests = tokio::task::JoinSet::new();
    for attempts in 10..30 {
        let store = Arc::clone(&place.store);
        let change = Change {
            attempts: Some(attempts),
            ..Change::default()
        };
        requests.spawn(async move { store.change(job.id, 3, &change).await.expect("an answer").is_some() });
    }
    let won = requests.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1);
    assert_eq!(
        store
            .job(job.id, &Scope::All)
            .await
            .expect("an answer")
            .expect("there")
            .version,
        4
    );
}

async fn counters_are_what_counting_would_find(place: &Place) {
    let store = &place.store;
    let mut work = tokio::task::JoinSet::new();
    for number in 0..60_i64 {
        let store = Arc::clone(store);
        work.spawn(async move {
            let whose = ["ada", "bob", "eve"][usize::try_from(number % 3).expect("small")];
            let mut job = create(&*store, new_job(whose, "counted", number)).await;
            let path = [State::Running, State::Stopping, State::Failed];
            for state in path.into_iter().take(usize::try_from(number % 4).expect("small")) {
                job = bring(&*store, &job, state).await;
            }
            if number % 8 == 7 {
                assert!(store.delete(job.id, &Scope::All).await.expect("an answer"));
            }
        });
    }
    // Whoever counts beside them finds nothing to put right.
    while !work.is_empty() {
        assert_eq!(store.recount().await.expect("an answer"), 0);
        while let Some(done) = work.try_join_next() {
            done.expect("no panic");
        }
    }
    for scope in [Scope::All, owner("ada"), owner("bob"), owner("eve"), owner("nobody")] {
        let page = Page {
            after: None,
            limit: 500,
        };
        let mut truth: Counts = State::ALL.into_iter().map(|state| (state, 0)).collect();
        for job in store.list(&scope, &Filter::default(), page).await.expect("an answer") {
            *truth.entry(job.state).or_default() += 1;
        }
        assert_eq!(store.counts(&scope).await.expect("an answer"), truth, "{scope:?}");
    }
}

async fn what_needs_work_and_what_is_old_is_found_in_order(place: &Place) {
    let store = &*place.store;
    let mut jobs = Vec::new();
    for ms in 0..6 {
        jobs.push(create(store, new_job("ada", "work", ms)).await);
    }
    let ids = |jobs: &[labctl::dashboard::job::Job]| jobs.iter().map(|job| job.id).collect::<Vec<_>>();
    for (place, finished) in [(1, 30), (3, 10), (4, 20)] {
        let change = Change {
            finished_ms: Some(BEGIN_MS + finished),
            ..to_state(State::Failed)
        };
        jobs[place] = store
            .change(jobs[place].id, 1, &change)
            .await
            .expect("an answer")
            .expect("changed");
    }
    let whole = Change {
        log_complete: Some(true),
        ..Change::default()
    };
    jobs[3] = store
        .change(jobs[3].id, 2, &whole)
        .await
        .expect("an answer")
        .expect("changed");
    let open = store.unfinished(None, 10).await.expect("an answer");
    assert_eq!(ids(&open), [0, 1, 2, 4, 5].map(|place: usize| jobs[place].id));
    let first = store.unfinished(None, 2).await.expect("an answer");
    let rest = store.unfinished(Some(first[1].id), 10).await.expect("an answer");
    assert_eq!([ids(&first), ids(&rest)].concat(), ids(&open));
    let old = store.expired(BEGIN_MS + 30, None, 10).await.expect("an answer");
    assert_eq!(
        ids(&old),
        [jobs[3].id, jobs[4].id],
        "before that time, the oldest end first"
    );
    assert_eq!(
        ids(&store.expired(BEGIN_MS + 31, None, 1).await.expect("an answer")),
        [jobs[3].id]
    );
    let after = |place: usize| jobs[place].finished_ms.map(|end| (end, jobs[place].id));
    for (place, rest) in [(3, vec![jobs[4].id, jobs[1].id]), (4, vec![jobs[1].id]), (1, vec![])] {
        let found = store.expired(i64::MAX, after(place), 10).await.expect("an answer");
        assert_eq!(ids(&found), rest);
    }
}

async fn deleting_takes_everything_with_it(place: &Place) {
    let store = &*place.store;
    let mut new = with_key("gone", 1, 0);
    new.spec = spec("goner", &[("team", "a")]);
    let job = create(store, new).await;
    let other = create(
        store,
        NewJob {
            spec: spec("stays", &[("team", "a")]),
            ..new_job("ada", "", 1)
        },
    )
    .await;
    store.append_log(job.id, &chunk(1, 10, "mine")).await.expect("stored");
    store
        .append_log(other.id, &chunk(1, 10, "others"))
        .await
        .expect("stored");
    for state in [State::Pending, State::Running, State::Stopping] {
        let now = store.job(job.id, &Scope::All).await.expect("an answer").expect("there");
        if now.state != state {
            bring(store, &now, state).await;
        }
        assert!(
            !store.delete(job.id, &Scope::All).await.expect("an answer"),
            "a job that is {state} is not deleted"
        );
    }
    let before = store.log_bytes().await.expect("an answer");
    let now = store.job(job.id, &Scope::All).await.expect("an answer").expect("there");
    bring(store, &now, State::Cancelled).await;
    assert!(store.delete(job.id, &Scope::All).await.expect("an answer"));
    assert!(
        !store.delete(job.id, &Scope::All).await.expect("an answer"),
        "it is gone"
    );
    assert_eq!(store.job(job.id, &Scope::All).await.expect("an answer"), None);
    assert_eq!(store.spec(job.id).await.expect("an answer"), None);
    assert!(store.log(job.id, 1, 10).await.expect("an answer").is_empty());
    assert_eq!(store.log_end(job.id).await.expect("an answer"), None);
    let after = store.log_bytes().await.expect("an answer");
    let packed = store
        .log_end(other.id)
        .await
        .expect("an answer")
        .expect("there")
        .data
        .len() as u64;
    assert!(
        after < before && after == packed,
        "{before} bytes, then {after}, of which {packed} are another job's"
    );
    let page = Page { after: None, limit: 10 };
    for filter in [
        Filter {
            labels: BTreeMap::from([("team".into(), "a".into())]),
            ..Filter::default()
        },
        Filter {
            text: Some("ers".into()),
            ..Filter::default()
        },
        Filter {
            text: Some("stays".into()),
            ..Filter::default()
        },
        Filter {
            text: Some("goner".into()),
            ..Filter::default()
        },
    ] {
        let left = store.list(&Scope::All, &filter, page).await.expect("an answer");
        assert!(left.iter().all(|left| left.id == other.id), "{filter:?}");
    }
    store
        .append_log(job.id, &chunk(11, 1, "late"))
        .await
        .expect("a late part of a deleted job's log is no failure");
    assert_eq!(store.log_bytes().await.expect("an answer"), after);
}

async fn a_log_is_read_from_any_line(place: &Place) {
    let store = &*place.store;
    let job = create(store, new_job("ada", "talks", 0)).await;
    let other = create(store, new_job("ada", "talks-too", 1)).await;
    assert_eq!(store.log_end(job.id).await.expect("an answer"), None);
    assert_eq!(store.log_bytes().await.expect("an answer"), 0);
    // Lines 31 to 40 are missing.
    let parts = [chunk(1, 10, "a"), chunk(11, 20, "b"), chunk(41, 5, "c")];
    for part in &parts {
        store.append_log(job.id, part).await.expect("stored");
    }
    store
        .append_log(other.id, &chunk(1, 100, "other"))
        .await
        .expect("stored");
    let first = async |from, limit| -> Vec<u64> {
        let parts = store.log(job.id, from, limit).await.expect("an answer");
        parts.iter().map(|part| part.first).collect()
    };
    assert_eq!(store.log(job.id, 1, 10).await.expect("an answer"), parts);
    assert_eq!(first(0, 10).await, [1, 11, 41]);
    assert_eq!(first(1, 2).await, [1, 11]);
    assert_eq!(first(10, 10).await, [1, 11, 41]);
    assert_eq!(first(11, 10).await, [11, 41]);
    assert_eq!(first(30, 1).await, [11]);
    assert_eq!(first(31, 10).await, [41]);
    assert_eq!(first(45, 10).await, [41]);
    assert!(first(46, 10).await.is_empty());
    for beyond in [u64::MAX >> 1, (u64::MAX >> 1) + 1, u64::MAX] {
        assert!(first(beyond, 10).await.is_empty());
    }
    assert_eq!(store.log_end(job.id).await.expect("an answer").as_ref(), parts.last());
    let data: u64 = parts.iter().map(|part| part.data.len() as u64).sum();
    let other = store
        .log_end(other.id)
        .await
        .expect("an answer")
        .expect("there")
        .data
        .len() as u64;
    assert_eq!(store.log_bytes().await.expect("an answer"), data + other);
    let size: u64 = parts.iter().map(|part| part.bytes).sum();
    assert_eq!(store.log_size(job.id).await.expect("an answer"), size);
}

async fn a_part_of_a_log_comes_twice(place: &Place) {
    let store = &*place.store;
    let job = create(store, new_job("ada", "stutters", 0)).await;
    let part = chunk(1, 10, "a");
    let longer = chunk(1, 15, "a");
    for _ in 0..2 {
        store.append_log(job.id, &part).await.expect("stored");
    }
    assert_eq!(
        store.log(job.id, 1, 10).await.expect("an answer"),
        std::slice::from_ref(&part)
    );
    assert_eq!(store.log_bytes().await.expect("an answer"), part.data.len() as u64);
    store.append_log(job.id, &longer).await.expect("stored");
    store.append_log(job.id, &part).await.expect("stored");
    assert_eq!(
        store.log(job.id, 1, 10).await.expect("an answer"),
        std::slice::from_ref(&longer)
    );
    assert_eq!(store.log_bytes().await.expect("an answer"), longer.data.len() as u64);
}

async fn one_server_has_a_lease(place: &Place) {
    let store = &*place.store;
    let long = Duration::from_secs(60);
    let short = Duration::from_millis(300);
    let lease = async |name, holder, ttl| store.lease(name, holder, ttl).await.expect("an answer");
    assert!(lease("control", "a", long).await);
    assert!(!lease("control", "b", long).await);
    assert!(
        !lease("control", "b", short).await,
        "wanting it for less time is no way to get it"
    );
    assert!(lease("other", "b", long).await, "another lease");
    assert!(lease("control", "a", short).await, "renewed");
    assert!(!lease("control", "b", long).await);
    tokio::time::sleep(short + Duration::from_millis(50)).await;
    let mut requests = tokio::task::JoinSet::new();
    for holder in ["b", "c", "d", "e"] {
        let store = Arc::clone(&place.store);
        requests.spawn(async move { store.lease("control", holder, long).await.expect("an answer") });
    }
    let taken = requests.join_all().await.into_iter().filter(|taken| *taken).count();
    assert_eq!(taken, 1, "one of those who wait has it");
    assert!(!lease("control", "a", long).await, "who had it before has it no more");
}

async fn changes_are_told_in_order(place: &Place) {
    let store = &*place.store;
    let mut changes = store.changes();
    let job = create(store, new_job("ada", "told", 0)).await;
    let running = bring(store, &job, State::Running).await;
    let ended = bring(store, &running, State::Succeeded).await;
    assert!(store.delete(ended.id, &Scope::All).await.expect("an answer"));
    let mut versions = Vec::new();
    loop {
        let change = tokio::time::timeout(Duration::from_secs(10), changes.recv())
            .await
            .expect("told in time");
        match change.expect("nothing was missed") {
            Changed::Job(told) => {
                assert_eq!(told.id, job.id);
                versions.push(told.version);
            }
            Changed::Deleted { id, owner } => {
                assert_eq!((id, owner.as_str()), (job.id, "ada"));
                break;
            }
            Changed::Missed => panic!("the connection did not break"),
        }
    }
    // Two changes that follow at once may be told as one, with the row after both; or the row is gone already.
    assert!(
        versions.is_sorted() && versions.iter().all(|version| (1..=3).contains(version)),
        "{versions:?}"
    );
}

async fn what_cannot_be_text_is_no_failure(place: &Place) {
    let store = &*place.store;
    let job = create(store, new_job("ada", "odd", 0)).await;
    let change = Change {
        message: Some(Some("a\0b".into())),
        reason: Some(Some("c\0".into())),
        ..Change::default()
    };
    let after = store
        .change(job.id, 1, &change)
        .await
        .expect("an answer")
        .expect("changed");
    assert_eq!(
        (after.message.as_deref(), after.reason.as_deref()),
        (Some("a\u{fffd}b"), Some("c\u{fffd}"))
    );
    let mut part = chunk(1, 1, "x");
    part.position = "p\0".into();
    store.append_log(job.id, &part).await.expect("stored");
    let page = Page { after: None, limit: 10 };
    for filter in [
        Filter {
            text: Some("\0".into()),
            ..Filter::default()
        },
        Filter {
            owner: Some("a\0".into()),
            ..Filter::default()
        },
        Filter {
            template: Some("\0".into()),
            ..Filter::default()
        },
        Filter {
            labels: BTreeMap::from([("\0".into(), "\0".into())]),
            ..Filter::default()
        },
    ] {
        assert!(
            store
                .list(&Scope::All, &filter, page)
                .await
                .expect("an answer")
                .is_empty(),
            "{filter:?}"
        );
    }
    assert!(store.job(job.id, &owner("\0")).await.expect("an answer").is_none());
    assert!(
        store
            .counts(&owner("\0"))
            .await
            .expect("an answer")
            .values()
            .all(|n| *n == 0)
    );
}
