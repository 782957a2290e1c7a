//! Jobs that are created at the same moment, which the stores do together.

use std::collections::BTreeSet;
use std::time::Duration;

use labctl::dashboard::job::{Job, JobId, State};
use labctl::dashboard::store::{Changed, Created, Filter, Key, NewJob, Page, Scope, StoreError};

use super::{BEGIN_MS, Place, new_job, on_both, spec};

on_both!(
    jobs_that_are_created_at_once_each_get_their_own_answer,
    jobs_that_are_created_at_once_are_whole,
);

/// Creates them all at once, and returns those that are new. A key may be known already.
async fn create_at_once(place: &Place, news: impl Iterator<Item = NewJob>) -> Vec<Job> {
    let mut creates = tokio::task::JoinSet::new();
    for new in news {
        let store = std::sync::Arc::clone(&place.store);
        creates.spawn(async move {
            let (name, keyed) = (new.spec.name.clone(), new.key.is_some());
            match store.create(new).await {
                Ok(Created::New(job)) => {
                    assert_eq!(job.name, name);
                    Some(job)
                }
                Ok(Created::Replayed(_)) | Err(StoreError::KeyReused) if keyed => None,
                other => panic!("{other:?}"),
            }
        });
    }
    creates.join_all().await.into_iter().flatten().collect()
}

/// One with a number. Every third one has a key that a few others have, with the same document or another one.
fn numbered(number: i64) -> NewJob {
    let owner = ["ada", "bob"][usize::from(number % 2 == 0)];
    NewJob {
        key: (number % 3 == 0).then(|| Key {
            key: format!("key-{}", number % 30),
            body: [u8::from(number % 60 >= 30); 32],
        }),
        ..new_job(owner, &format!("job-{number}"), number)
    }
}

async fn jobs_that_are_created_at_once_each_get_their_own_answer(place: &Place) {
    let mut changes = place.store.changes();
    let created = create_at_once(
        place,
        (0..600_i64).map(|number| NewJob {
            // All ask for the same few ids.
            id: JobId::after(None, BEGIN_MS, u32::try_from(number % 50 * 1000).expect("small")),
            ..numbered(number)
        }),
    )
    .await;
    let mut ids: BTreeSet<JobId> = created.iter().map(|job| job.id).collect();
    assert_eq!(ids.len(), created.len(), "no id is given twice");
    // 400 have no key; of those with one, the first of each of ten keys.
    assert_eq!(created.len(), 410);
    let counts = place.store.counts(&Scope::All).await.expect("an answer");
    assert_eq!(
        usize::try_from(counts[&State::Pending]).expect("a count"),
        created.len()
    );
    while !ids.is_empty() {
        let told = tokio::time::timeout(Duration::from_secs(10), changes.recv()).await;
        let Changed::Job(job) = told.expect("in time").expect("not behind") else {
            panic!("nothing was deleted");
        };
        assert!(ids.remove(&job.id), "each is told once");
    }
}

async fn jobs_that_are_created_at_once_are_whole(place: &Place) {
    let store = &*place.store;
    let parent = super::create(store, new_job("ada", "parent", 0)).await;
    let news: Vec<NewJob> = (0..300_i64)
        .map(|number| {
            let mut new = numbered(number);
            let team = format!("t{}", number % 7);
            new.spec = spec(
                &format!("n.{number}"),
                &[("team", &team), ("quoted", "it's \"so\" \\ ünï\n")],
            );
            if number % 5 == 0 {
                new.spec.labels.clear();
            }
            new.spec.suspend = number % 4 == 0;
            new.template = (number % 6 == 1).then(|| "nightly".into());
            new.parent = (number % 8 == 1).then_some(parent.id);
            new
        })
        .collect();
    let created = create_at_once(place, news.clone().into_iter()).await;
    assert_eq!(created.len(), 210);
    for job in &created {
        let new = news.iter().find(|new| new.spec.name == job.name).expect("asked for");
        let state = if new.spec.suspend {
            State::Suspended
        } else {
            State::Pending
        };
        assert_eq!((job.id, job.version, job.state), (new.id, 1, state));
        assert_eq!((&job.owner, &job.labels), (&new.owner, &new.spec.labels));
        assert_eq!(job.parent, new.parent);
        let kept = store.job(job.id, &Scope::All).await.expect("an answer");
        assert_eq!(kept.as_ref(), Some(job));
        assert_eq!(store.spec(job.id).await.expect("an answer").as_ref(), Some(&new.spec));
        assert_eq!(store.origin(job.id).await.expect("an answer"), new.template);
    }
    // What lists walk along knows them too.
    let page = Page {
        after: None,
        limit: 500,
    };
    for team in 0..7 {
        let filter = Filter {
            labels: [("team".to_owned(), format!("t{team}"))].into(),
            ..Filter::default()
        };
        let listed = store.list(&Scope::All, &filter, page).await.expect("an answer");
        let wanted = created
            .iter()
            .filter(|job| job.labels.get("team") == Some(&format!("t{team}")));
        assert_eq!(listed.len(), wanted.count(), "t{team}");
    }
    for job in created.iter().step_by(17) {
        let filter = Filter {
            text: Some(job.name.clone()),
            ..Filter::default()
        };
        let listed = store.list(&Scope::All, &filter, page).await.expect("an answer");
        assert!(listed.iter().any(|listed| **listed == *job), "{}", job.name);
    }
    for whose in ["ada", "bob"] {
        let counts = store.counts(&Scope::Owner(whose.to_owned())).await.expect("an answer");
        let suspended = created
            .iter()
            .filter(|job| job.owner == whose && job.state == State::Suspended);
        assert_eq!(
            usize::try_from(counts[&State::Suspended]).expect("a count"),
            suspended.count()
        );
    }
}
