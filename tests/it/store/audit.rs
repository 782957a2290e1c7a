//! Who did what: written with what it tells of, and sealed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use labctl::dashboard::job::{Change, State};
use labctl::dashboard::store::audit::{Act, Entry, Seal, Verb};
use labctl::dashboard::store::documents::{Kind, NewDocument};
use labctl::dashboard::store::{Created, JobStore, Key, Scope};

use super::{BEGIN_MS, Place, bring, create, new_job, on_both, to_state};

on_both!(
    what_is_done_is_written_down_and_what_is_refused_is_not,
    everybody_sees_what_was_done_to_his_own,
    nothing_that_is_written_while_it_is_sealed_is_left_out,
    the_oldest_leave_and_the_chain_holds,
);

fn act(actor: &str, verb: Verb) -> Act {
    Act {
        at_ms: BEGIN_MS,
        actor: actor.to_owned(),
        verb,
        before: None,
        request_id: Some("request-1".to_owned()),
        ip: Some("192.0.2.7".to_owned()),
    }
}

async fn all(store: &dyn JobStore, scope: &Scope, object: Option<&str>) -> Vec<Entry> {
    store.acts(scope, object, None, 500).await.expect("an answer")
}

/// Actor, verb, object, owner, before, after.
fn told(entry: &Entry) -> [&str; 6] {
    let Entry {
        actor,
        verb,
        object,
        owner,
        before,
        after,
        ..
    } = entry;
    let text = |text: &'_ Option<String>| text.as_deref().unwrap_or("-").to_owned().leak() as &'static str;
    [actor, verb, object, owner, text(before), text(after)]
}

async fn what_is_done_is_written_down_and_what_is_refused_is_not(place: &Place) {
    let store = &*place.store;
    let by = |verb| store.by(act("root", verb));
    let job = create(&*by(Verb::Create), new_job("ada", "a", 0)).await;
    let object = format!("job/{}", job.id);
    let mut cancel = act("root", Verb::Cancel);
    cancel.before = Some("pending".to_owned());
    let changed = store.by(cancel).change(job.id, 1, &to_state(State::Cancelled)).await;
    changed.expect("an answer").expect("changed");
    // What nobody is named for, and what comes to nothing.
    let other = create(store, new_job("ada", "b", 1)).await;
    bring(store, &other, State::Running).await;
    let late = by(Verb::Cancel).change(job.id, 1, &to_state(State::Failed)).await;
    assert_eq!(late.expect("an answer"), None);
    assert!(!by(Verb::Delete).delete(other.id, &Scope::All).await.expect("an answer"));
    assert!(by(Verb::Delete).delete(job.id, &Scope::All).await.expect("an answer"));
    assert!(!by(Verb::Delete).delete(job.id, &Scope::All).await.expect("an answer"));
    // One that waits is asked to end, and does so later.
    let waits = create(store, new_job("ada", "c", 3)).await;
    let ask = Change {
        cancelling: Some(true),
        ..Change::default()
    };
    let mut cancel = act("root", Verb::Cancel);
    cancel.before = Some("pending".to_owned());
    let asked = store.by(cancel).change(waits.id, 1, &ask).await;
    asked.expect("an answer").expect("changed");
    // A key makes one job, and one entry.
    let keyed = || {
        let mut new = new_job("ada", "keyed", 2);
        new.key = Some(Key {
            key: "k".to_owned(),
            body: [1; 32],
        });
        new
    };
    let first = create(&*by(Verb::Create), keyed()).await;
    let again = by(Verb::Create).create(keyed()).await.expect("an answer");
    assert!(matches!(again, Created::Replayed(job) if job.id == first.id));
    let new = NewDocument {
        name: "t".to_owned(),
        owner: "ada".to_owned(),
        now_ms: BEGIN_MS,
        text: "{}".to_owned(),
    };
    for _ in 0..2 {
        by(Verb::Create)
            .add_document(Kind::Template, &new)
            .await
            .expect("an answer");
    }
    for version in [1, 1] {
        let store = by(Verb::Change);
        let changed = store
            .change_document(Kind::Template, "t", version, "[]", BEGIN_MS)
            .await;
        changed.expect("an answer");
    }
    for version in [1, 2, 2] {
        let removed = by(Verb::Delete).remove_document(Kind::Template, "t", version).await;
        removed.expect("an answer");
    }
    let entries = all(store, &Scope::All, None).await;
    assert!(entries.is_sorted_by(|a, b| a.number > b.number), "newest first");
    let key = format!("job/{}", first.id);
    let ending = format!("job/{}", waits.id);
    let wanted = [
        ["root", "delete", "template/t", "ada", "version 2", "-"],
        ["root", "change", "template/t", "ada", "version 1", "version 2"],
        ["root", "create", "template/t", "ada", "-", "version 1"],
        ["root", "create", &key, "ada", "-", "pending"],
        ["root", "cancel", &ending, "ada", "pending", "pending, asked to end"],
        ["root", "delete", &object, "ada", "cancelled", "-"],
        ["root", "cancel", &object, "ada", "pending", "cancelled"],
        ["root", "create", &object, "ada", "-", "pending"],
    ];
    assert_eq!(entries.iter().map(told).collect::<Vec<_>>(), wanted);
    for entry in &entries {
        let how = (entry.at_ms, entry.request_id.as_deref(), entry.ip.as_deref());
        assert_eq!(how, (BEGIN_MS, Some("request-1"), Some("192.0.2.7")));
    }
    // Also of one that is deleted, page by page.
    let of_job = all(store, &Scope::All, Some(&object)).await;
    assert_eq!(of_job.len(), 3);
    let next = store.acts(&Scope::All, Some(&object), Some(of_job[0].number), 1).await;
    assert_eq!(next.expect("an answer"), of_job[1..2]);
    assert_eq!(all(store, &Scope::All, Some("job/\0")).await, []);
}

async fn everybody_sees_what_was_done_to_his_own(place: &Place) {
    let store = &*place.store;
    for number in 0..30 {
        let owner = ["ada", "bob", "eve"][number % 3];
        let store = store.by(act(owner, Verb::Create));
        create(&*store, new_job(owner, "a", i64::try_from(number).expect("small"))).await;
    }
    let everything = all(store, &Scope::All, None).await;
    assert_eq!(everything.len(), 30);
    for owner in ["ada", "bob", "eve"] {
        let scope = Scope::Owner(owner.to_owned());
        let own: Vec<Entry> = everything
            .iter()
            .filter(|entry| entry.owner == owner)
            .cloned()
            .collect();
        assert_eq!(all(store, &scope, None).await, own);
        let page = store.acts(&scope, None, Some(own[3].number), 4).await;
        assert_eq!(page.expect("an answer"), own[4..8]);
        for entry in &everything {
            let seen = all(store, &scope, Some(&entry.object)).await;
            assert_eq!(seen.len(), usize::from(entry.owner == owner));
        }
    }
    assert_eq!(all(store, &Scope::Owner("nobody".to_owned()), None).await, []);
}

/// Returns all seals, each of which is looked at.
async fn checked(store: &dyn JobStore) -> Vec<Seal> {
    let seals = store.seals(0, 500).await.expect("an answer");
    for (place, seal) in seals.iter().enumerate() {
        let before = place.checked_sub(1).map(|place| &seals[place]);
        let entries = store
            .acts_between(seal.first, seal.last, 2000)
            .await
            .expect("an answer");
        assert_eq!(seal.wrong(before, &entries), None);
        if let Some(before) = before {
            // Nothing lies between them.
            let between = store.acts_between(before.last + 1, seal.first - 1, 10).await;
            assert_eq!(between.expect("an answer"), []);
        }
    }
    seals
}

async fn nothing_that_is_written_while_it_is_sealed_is_left_out(place: &Place) {
    let done = Arc::new(AtomicBool::new(false));
    let sealing = tokio::spawn({
        let (store, done) = (Arc::clone(&place.store), Arc::clone(&done));
        async move {
            let mut seals = 0;
            loop {
                let last = done.load(Ordering::SeqCst);
                let sealed = store.seal_acts(BEGIN_MS).await.expect("an answer");
                seals += u32::from(sealed.is_some());
                if last && sealed.is_none() {
                    return seals;
                }
            }
        }
    });
    let mut work = tokio::task::JoinSet::new();
    for worker in 0..8_i64 {
        let store = Arc::clone(&place.store);
        work.spawn(async move {
            for number in 0..25 {
                let job = create(
                    &*store.by(act("ada", Verb::Create)),
                    new_job("ada", "a", worker * 100 + number),
                )
                .await;
                let cancel = to_state(State::Cancelled);
                let changed = store.by(act("ada", Verb::Cancel)).change(job.id, 1, &cancel).await;
                changed.expect("an answer").expect("changed");
            }
        });
    }
    work.join_all().await;
    done.store(true, Ordering::SeqCst);
    let count = sealing.await.expect("no panic");
    assert!(count > 2, "it was sealed meanwhile: {count}");
    let seals = checked(&*place.store).await;
    assert_eq!(seals.iter().map(|seal| seal.entries).sum::<i64>(), 400);
    assert_eq!(place.store.seal_acts(BEGIN_MS).await.expect("an answer"), None);
}

async fn the_oldest_leave_and_the_chain_holds(place: &Place) {
    let store = &*place.store;
    for number in 0..40 {
        create(&*store.by(act("ada", Verb::Create)), new_job("ada", "a", number)).await;
        let seal = store.seal_acts(BEGIN_MS + number).await.expect("an answer");
        assert_eq!(seal.expect("a seal").entries, 1);
    }
    let mut gone = 0;
    loop {
        let some = store.forget_acts(BEGIN_MS + 30).await.expect("an answer");
        if some == 0 {
            break;
        }
        gone += some;
        let left = checked(store).await;
        assert_eq!(left.len() as u64, 40 - gone);
    }
    assert_eq!(gone, 30);
    while store.forget_acts(i64::MAX).await.expect("an answer") > 0 {}
    assert_eq!(checked(store).await.len(), 1, "the newest one stays");
    create(&*store.by(act("ada", Verb::Create)), new_job("ada", "b", 99)).await;
    let next = store.seal_acts(BEGIN_MS).await.expect("an answer").expect("a seal");
    assert_eq!(next.place, 41);
    assert_eq!(checked(store).await.len(), 2);
}
