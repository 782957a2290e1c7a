//! A server that lost its lease and has not noticed yet.

use std::time::Duration;

use labctl::dashboard::job::State;
use labctl::dashboard::store::{Scope, StoreError};

use super::{Place, bring, chunk, create, new_job, on_both, to_state};

on_both!(who_lost_its_lease_writes_nothing);

async fn who_lost_its_lease_writes_nothing(place: &Place) {
    let store = &*place.store;
    let job = create(store, new_job("ada", "fenced", 0)).await;
    let long = Duration::from_secs(60);
    assert!(store.lease("control", "a", long).await.expect("an answer"));
    let fenced = store.fenced("control", "a");
    let job = bring(&*fenced, &job, State::Running).await;
    fenced.append_log(job.id, &chunk(1, 3, "a")).await.expect("stored");
    assert!(fenced.lease("control", "a", Duration::ZERO).await.expect("an answer"));
    assert!(store.lease("control", "b", long).await.expect("an answer"));

    let lost = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::LeaseLost)), "{result:?}");
    let change = to_state(State::Failed);
    lost(fenced.change(job.id, job.version, &change).await.map(drop));
    lost(fenced.append_log(job.id, &chunk(4, 3, "late")).await);
    assert_eq!(
        store.job(job.id, &Scope::All).await.expect("an answer"),
        Some(job.clone())
    );
    assert_eq!(store.log(job.id, 1, 10).await.expect("an answer").len(), 1);
    // Reading needs no lease, and the others write as before.
    assert_eq!(
        fenced.job(job.id, &Scope::All).await.expect("an answer"),
        Some(job.clone())
    );
    let job = bring(store, &job, State::Failed).await;
    lost(fenced.delete(job.id, &Scope::All).await.map(drop));
    store
        .fenced("control", "b")
        .append_log(job.id, &chunk(4, 1, "b"))
        .await
        .expect("stored");
    assert!(store.delete(job.id, &Scope::All).await.expect("an answer"));
}
