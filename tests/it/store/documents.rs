//! What every store does with documents.

use labctl::dashboard::job::State;
use labctl::dashboard::job::template::Origin;
use labctl::dashboard::store::documents::{Kind, Mark, NewDocument};
use labctl::dashboard::store::{NewJob, Scope};
use serde_json::json;

use super::{BEGIN_MS, Place, bring, create, new_job, on_both};

on_both!(
    a_document_is_kept_changed_and_deleted,
    old_versions_are_kept_of_templates_alone,
    only_who_knows_the_newest_version_changes_a_document,
    a_name_is_given_once_however_many_ask_at_once,
    documents_are_listed_by_name_and_owner,
    a_job_says_how_it_was_made,
    a_mark_is_moved_by_one_server,
);

fn new(name: &str, owner: &str, text: &str) -> NewDocument {
    NewDocument {
        name: name.to_owned(),
        owner: owner.to_owned(),
        now_ms: BEGIN_MS,
        text: text.to_owned(),
    }
}

async fn a_document_is_kept_changed_and_deleted(place: &Place) {
    let store = &*place.store;
    let kind = Kind::Schedule;
    assert_eq!(store.document(kind, "a", None).await.expect("an answer"), None);
    let text = "{\"ü\": \"it's \\\"quoted\\\"\"}";
    let added = store.add_document(kind, &new("a", "ada", text)).await.expect("added");
    let added = added.expect("the name is free");
    assert_eq!(
        (
            added.name.as_str(),
            added.owner.as_str(),
            added.version,
            added.text.as_str()
        ),
        ("a", "ada", 1, text)
    );
    assert_eq!((added.created_ms, added.changed_ms), (BEGIN_MS, BEGIN_MS));
    assert_eq!(store.document(kind, "a", None).await.expect("an answer"), Some(added));
    assert_eq!(
        store.document(Kind::Template, "a", None).await.expect("an answer"),
        None,
        "another kind has names of its own"
    );
    let changed = store
        .change_document(kind, "a", 1, "{}", BEGIN_MS + 5)
        .await
        .expect("changed");
    let changed = changed.expect("it has this version");
    assert_eq!(
        (
            changed.version,
            changed.created_ms,
            changed.changed_ms,
            changed.text.as_str()
        ),
        (2, BEGIN_MS, BEGIN_MS + 5, "{}")
    );
    assert!(!store.remove_document(kind, "a", 1).await.expect("an answer"));
    assert!(store.remove_document(kind, "a", 2).await.expect("an answer"));
    assert!(!store.remove_document(kind, "a", 2).await.expect("an answer"));
    assert_eq!(store.document(kind, "a", None).await.expect("an answer"), None);
    for odd in ["", "a\0b", "'; DROP TABLE documents; --", &"x".repeat(5000)] {
        assert_eq!(store.document(kind, odd, None).await.expect("an answer"), None);
    }
}

async fn old_versions_are_kept_of_templates_alone(place: &Place) {
    let store = &*place.store;
    for kind in [Kind::Template, Kind::Schedule] {
        store.add_document(kind, &new("a", "ada", "1")).await.expect("added");
        store
            .change_document(kind, "a", 1, "2", BEGIN_MS)
            .await
            .expect("changed");
        store.remove_document(kind, "a", 2).await.expect("removed");
        let first = store.document(kind, "a", Some(1)).await.expect("an answer");
        let second = store.document(kind, "a", Some(2)).await.expect("an answer");
        let third = store
            .add_document(kind, &new("a", "bob", "3"))
            .await
            .expect("added")
            .expect("free again");
        if kind == Kind::Template {
            assert_eq!(first.map(|old| old.text).as_deref(), Some("1"));
            assert_eq!(second.map(|old| old.text).as_deref(), Some("2"));
            assert_eq!(third.version, 3, "a version never stands for two documents");
        } else {
            assert_eq!((first, second), (None, None));
        }
        assert_eq!(store.document(kind, "a", Some(9)).await.expect("an answer"), None);
    }
}

async fn only_who_knows_the_newest_version_changes_a_document(place: &Place) {
    let store = &*place.store;
    let kind = Kind::Template;
    store.add_document(kind, &new("a", "ada", "0")).await.expect("added");
    let tries = (0..8).map(|number| {
        let store = std::sync::Arc::clone(&place.store);
        tokio::spawn(async move {
            store
                .change_document(kind, "a", 1, &number.to_string(), BEGIN_MS)
                .await
                .expect("an answer")
        })
    });
    let mut done = 0;
    for one in tries.collect::<Vec<_>>() {
        done += usize::from(one.await.expect("it ends").is_some());
    }
    assert_eq!(done, 1);
    assert_eq!(
        store
            .change_document(kind, "b", 1, "x", BEGIN_MS)
            .await
            .expect("an answer"),
        None
    );
}

async fn a_name_is_given_once_however_many_ask_at_once(place: &Place) {
    let tries = (0..8).map(|number| {
        let store = std::sync::Arc::clone(&place.store);
        tokio::spawn(async move {
            let new = new("one", "ada", &number.to_string());
            store.add_document(Kind::Template, &new).await.expect("an answer")
        })
    });
    let mut done = 0;
    for one in tries.collect::<Vec<_>>() {
        done += usize::from(one.await.expect("it ends").is_some());
    }
    assert_eq!(done, 1);
}

async fn documents_are_listed_by_name_and_owner(place: &Place) {
    let store = &*place.store;
    for (name, owner) in [("b", "ada"), ("a", "bob"), ("C", "ada")] {
        store
            .add_document(Kind::Schedule, &new(name, owner, "{}"))
            .await
            .expect("added");
    }
    let names = async |scope: Scope| -> Vec<String> {
        let found = store.documents(Kind::Schedule, &scope).await.expect("an answer");
        found.into_iter().map(|one| one.name).collect()
    };
    assert_eq!(names(Scope::All).await, ["C", "a", "b"]);
    assert_eq!(names(Scope::Owner("ada".into())).await, ["C", "b"]);
    assert_eq!(names(Scope::Owner("nobody\0".into())).await, [] as [&str; 0]);
    assert!(
        store
            .documents(Kind::Template, &Scope::All)
            .await
            .expect("an answer")
            .is_empty()
    );
}

async fn a_job_says_how_it_was_made(place: &Place) {
    let store = &*place.store;
    let origin = Origin {
        template: "etl".to_owned(),
        version: 7,
        parameters: json!({"day": "2026-09-01", "n": 3})
            .as_object()
            .expect("an object")
            .clone(),
    };
    let made = NewJob {
        template: Some(origin.clone()),
        ..new_job("ada", "made", 0)
    };
    let made = create(store, made).await;
    assert_eq!(made.template.as_deref(), Some("etl"));
    assert_eq!(store.origin(made.id).await.expect("an answer"), Some(origin));
    let plain = create(store, new_job("ada", "plain", 1)).await;
    assert_eq!(store.origin(plain.id).await.expect("an answer"), None);
    let made = bring(store, &made, State::Succeeded).await;
    assert!(store.delete(made.id, &Scope::All).await.expect("an answer"));
    assert_eq!(store.origin(made.id).await.expect("an answer"), None);
}

async fn a_mark_is_moved_by_one_server(place: &Place) {
    let store = &*place.store;
    let mark = |done_ms: i64, said: Option<&str>| Mark {
        done_ms,
        job: None,
        said: said.map(str::to_owned),
    };
    assert!(store.marks().await.expect("an answer").is_empty());
    store
        .add_document(Kind::Schedule, &new("s", "ada", "{}"))
        .await
        .expect("added");
    let job = create(store, new_job("ada", "x", 0)).await;
    let first = Mark {
        job: Some(job.id),
        ..mark(10, None)
    };
    assert!(store.set_mark("s", None, &first).await.expect("an answer"));
    assert!(
        !store.set_mark("s", None, &mark(20, None)).await.expect("an answer"),
        "there is one now"
    );
    assert!(
        !store.set_mark("s", Some(9), &mark(20, None)).await.expect("an answer"),
        "it is another one"
    );
    assert!(
        store
            .set_mark("s", Some(10), &mark(20, Some("why")))
            .await
            .expect("an answer")
    );
    let found = &store.marks().await.expect("an answer")["s"];
    assert_eq!(
        (found.done_ms, found.job, found.said.as_deref()),
        (20, Some(job.id), Some("why"))
    );
    assert!(store.remove_document(Kind::Schedule, "s", 1).await.expect("an answer"));
    assert!(
        store.marks().await.expect("an answer").is_empty(),
        "it goes with its schedule"
    );
}
