//! Jobs by the parameters of their templates.

use std::collections::BTreeMap;

use labctl::dashboard::job::State;
use labctl::dashboard::job::template::Origin;
use labctl::dashboard::store::{Filter, JobStore, NewJob, Page, Scope};
use serde_json::{Value, json};

use super::{Place, bring, create, new_job, on_both, spec};

on_both!(
    jobs_are_found_by_the_parameters_of_their_templates,
    what_is_deleted_is_not_found_by_its_parameters,
);

/// Makes a job of a template with parameters.
pub(crate) fn made_with(number: i64, parameters: &Value) -> NewJob {
    NewJob {
        spec: spec("made", &[("env", "label")]),
        template: Some(Origin {
            template: "deploy".to_owned(),
            version: 1,
            parameters: parameters.as_object().expect("an object").clone(),
        }),
        ..new_job("ada", "", number)
    }
}

/// Returns the places of the jobs, newest first, that have these parameters.
pub(crate) async fn found(store: &dyn JobStore, parameters: &[(&str, &str)]) -> Vec<i64> {
    let filter = Filter {
        parameters: parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Filter::default()
    };
    let page = Page {
        after: None,
        limit: 100,
    };
    let jobs = store.list(&Scope::All, &filter, page).await.expect("an answer");
    jobs.iter().map(|job| job.created_ms - super::BEGIN_MS).collect()
}

async fn jobs_are_found_by_the_parameters_of_their_templates(place: &Place) {
    let store = &*place.store;
    let long = "x".repeat(256);
    let news = [
        json!({"env": "prod", "count": 3, "dry": true}),
        json!({"env": "test", "count": 3, "dry": false, "ratio": 1.5}),
        json!({"env": "prod", "count": -4, "note": "it's \"so\" ünï=\n", "": "empty"}),
        json!({"env": null, "list": ["prod"], "object": {"env": "prod"}, "long": long, "nul": "a\u{0}b"}),
        json!({"count": "3"}),
    ];
    for (number, parameters) in (0..).zip(&news) {
        create(store, made_with(number, parameters)).await;
    }
    // And some at once, which the stores create together.
    let mut work = tokio::task::JoinSet::new();
    for number in 10..40 {
        let store = std::sync::Arc::clone(&place.store);
        let new = made_with(number, &json!({"batch": number % 3, "env": "batch"}));
        work.spawn(async move { store.create(new).await.expect("created") });
    }
    work.join_all().await;
    for (asked, wanted) in [
        (&[("env", "prod")][..], &[2, 0][..]),
        (&[("env", "test")], &[1]),
        (&[("count", "3")], &[4, 1, 0]),
        (&[("count", "-4")], &[2]),
        (&[("dry", "true")], &[0]),
        (&[("dry", "false")], &[1]),
        (&[("ratio", "1.5")], &[1]),
        (&[("note", "it's \"so\" ünï=\n")], &[2]),
        (&[("", "empty")], &[2]),
        (&[("env", "prod"), ("count", "3")], &[0]),
        (&[("env", "prod"), ("count", "4")], &[]),
        // A label is none of them.
        (&[("env", "label")], &[]),
        (&[("env", "null")], &[]),
        (&[("long", &long)], &[]),
        (&[("nul", "a\u{0}b")], &[]),
        (&[("object", "{\"env\":\"prod\"}")], &[]),
    ] {
        assert_eq!(found(store, asked).await, wanted, "{asked:?}");
    }
    assert_eq!(found(store, &[("env", "batch")]).await.len(), 30);
    assert_eq!(found(store, &[("batch", "1"), ("env", "batch")]).await.len(), 10);
    // Beside other conditions, and for who sees his own alone.
    let filter = Filter {
        parameters: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
        labels: BTreeMap::from([("env".to_owned(), "label".to_owned())]),
        states: vec![State::Pending],
        template: Some("deploy".to_owned()),
        text: Some("MADE".to_owned()),
        ..Filter::default()
    };
    for (owner, count) in [("ada", 2), ("bob", 0)] {
        let page = Page { after: None, limit: 9 };
        let jobs = store.list(&Scope::Owner(owner.to_owned()), &filter, page).await;
        assert_eq!(jobs.expect("an answer").len(), count, "{owner}");
    }
}

async fn what_is_deleted_is_not_found_by_its_parameters(place: &Place) {
    let store = &*place.store;
    let parameters = json!({"env": "prod"});
    let gone = create(store, made_with(0, &parameters)).await;
    create(store, made_with(1, &parameters)).await;
    bring(store, &gone, State::Failed).await;
    assert!(store.delete(gone.id, &Scope::All).await.expect("an answer"));
    assert_eq!(found(store, &[("env", "prod")]).await, [1]);
}
