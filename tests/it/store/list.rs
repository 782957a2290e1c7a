//! Lists: every combination of filters against the same done in memory, page by page.

use std::collections::BTreeMap;

use labctl::dashboard::job::{Change, Job, JobId, State};
use labctl::dashboard::store::{Filter, JobStore, Listed, MinDuration, NewJob, Page, Scope};

use super::{BEGIN_MS, Place, bring, create, new_job, on_both, spec, to_state};

on_both!(
    every_combination_of_filters_shows_what_is_wanted,
    text_is_what_it_says,
    a_text_that_was_rare_is_found_as_it_is_now,
    filters_that_hardly_meet,
    a_page_that_was_seen_before_shows_what_is_now,
    jobs_change_while_they_are_listed
);

/// Whether a job is one that a list shows: the same as the stores do, written the slow way.
fn shown(job: &Job, scope: &Scope, filter: &Filter) -> bool {
    let text = filter.text.as_ref().is_none_or(|text| {
        let text = text.to_ascii_lowercase();
        let by_id = text.len() >= 8 && job.id.to_string().starts_with(&text);
        job.name.to_ascii_lowercase().contains(&text) || by_id
    });
    text && *scope != Scope::Owner("nobody".into())
        && !matches!(scope, Scope::Owner(owner) if *owner != job.owner)
        && (filter.states.is_empty() || filter.states.contains(&job.state))
        && filter.owner.as_ref().is_none_or(|owner| *owner == job.owner)
        && filter
            .template
            .as_ref()
            .is_none_or(|template| Some(template) == job.template.as_ref())
        && filter
            .labels
            .iter()
            .all(|(name, value)| job.labels.get(name) == Some(value))
        && filter.since_ms.is_none_or(|since| job.id >= JobId::at(since))
        && filter.until_ms.is_none_or(|until| job.id < JobId::at(until))
        && filter.min_duration.is_none_or(|least| {
            let end = job.finished_ms.unwrap_or(least.now_ms);
            job.started_ms.is_some_and(|start| end - start >= least.ms)
        })
}

async fn pages(store: &dyn JobStore, scope: &Scope, filter: &Filter, limit: u32) -> Vec<Job> {
    let mut all: Vec<Job> = Vec::new();
    loop {
        let page = Page {
            after: all.last().map(|job| job.id),
            limit,
        };
        let jobs = store.list(scope, filter, page).await.expect("a page");
        let ended = jobs.len() < limit as usize;
        all.extend(jobs.into_iter().map(Listed::into_job));
        if ended {
            return all;
        }
    }
}

async fn every_combination_of_filters_shows_what_is_wanted(place: &Place) {
    let store = &*place.store;
    let mut jobs = Vec::new();
    for number in 0..300_usize {
        let name = format!("{}-{number:03}", ["Nightly", "build_x", "a.b"][number % 3]);
        let tier = ["web", "db"][number / 2 % 2];
        let labels = [("tier", tier), ("n", if number % 50 == 0 { "" } else { "x" })];
        let new = NewJob {
            spec: spec(&name, &labels[..number % 3]),
            template: (number % 4 == 0).then(|| "etl".into()),
            ..new_job(
                ["ada", "bob"][number / 7 % 2],
                "",
                i64::try_from(number).expect("small") * 10,
            )
        };
        let mut job = create(store, new).await;
        let state = State::ALL[number % 7];
        if job.state != state {
            // How long it ran is anything from no time to two days, at both edges of each class, too.
            let lengths = [
                0,
                999,
                1000,
                59_999,
                60_000,
                600_000,
                3_599_999,
                21_600_001,
                172_800_000,
            ];
            let change = Change {
                started_ms: (number % 5 > 0).then(|| BEGIN_MS + 5000 - lengths[number % 9]),
                ..to_state(state)
            };
            job = store
                .change(job.id, 1, &change)
                .await
                .expect("changed")
                .expect("it is new");
        }
        jobs.push(job);
    }
    jobs.reverse();
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect()
    };
    let states = [
        vec![],
        vec![State::Failed],
        vec![State::Pending, State::Running, State::Cancelled],
        State::ALL.to_vec(),
    ];
    let owners = [None, Some("ada")];
    let label_sets = [
        labels(&[]),
        labels(&[("tier", "web")]),
        labels(&[("tier", "db"), ("n", "")]),
    ];
    let texts = [None, Some("NIGHT"), Some("d_x-0"), Some("9"), Some("zz")];
    let templates = [None, Some("etl")];
    let lengths = [None, Some(0), Some(60_000), Some(1_800_000)];
    let times = [(None, None), (Some(BEGIN_MS + 500), Some(BEGIN_MS + 2000))];
    let scopes = [Scope::All, Scope::Owner("ada".into())];
    let mut seen = 0;
    let mut combinations = 0;
    for scope in &scopes {
        for states in &states {
            for owner in owners {
                for labels in &label_sets {
                    for text in texts {
                        for template in templates {
                            for ((since_ms, until_ms), length) in
                                times.into_iter().flat_map(|time| lengths.map(|length| (time, length)))
                            {
                                let min_duration = length.map(|ms| MinDuration {
                                    ms,
                                    now_ms: BEGIN_MS + 100_000,
                                });
                                let filter = Filter {
                                    states: states.clone(),
                                    owner: owner.map(str::to_owned),
                                    labels: labels.clone(),
                                    text: text.map(str::to_owned),
                                    template: template.map(str::to_owned),
                                    since_ms,
                                    until_ms,
                                    min_duration,
                                    ..Filter::default()
                                };
                                let expected: Vec<&Job> =
                                    jobs.iter().filter(|job| shown(job, scope, &filter)).collect();
                                let found = pages(store, scope, &filter, 40).await;
                                assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{scope:?} {filter:?}");
                                seen += found.len();
                                combinations += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(
        combinations > 3600 && seen > 15_000,
        "{combinations} combinations showed {seen} jobs"
    );
}

async fn text_is_what_it_says(place: &Place) {
    let store = &*place.store;
    let names = [
        "a_b",
        "axb",
        "a%b",
        "100%",
        "Back\\slash",
        "quote'\"s",
        "Grün",
        "x",
        "ab",
    ];
    let mut jobs = Vec::new();
    for (ms, name) in (0..).zip(names) {
        jobs.push(create(store, new_job("ada", name, ms * 100_000)).await);
    }
    let found = async |text: &str| -> Vec<String> {
        let filter = Filter {
            text: Some(text.to_owned()),
            ..Filter::default()
        };
        pages(store, &Scope::All, &filter, 3)
            .await
            .into_iter()
            .map(|job| job.name)
            .collect()
    };
    assert_eq!(found("a_b").await, ["a_b"]);
    assert_eq!(found("_").await, ["a_b"]);
    assert_eq!(found("%").await, ["100%", "a%b"]);
    assert_eq!(found("\\").await, ["Back\\slash"]);
    assert_eq!(found("'\"").await, ["quote'\"s"]);
    assert_eq!(found("' OR 1=1 --").await, [""; 0]);
    assert_eq!(found("grün").await, ["Grün"]);
    assert_eq!(found("ün").await, ["Grün"]);
    assert_eq!(found("AB").await, ["ab"]);
    assert_eq!(found("b").await, ["ab", "Back\\slash", "a%b", "axb", "a_b"]);
    assert_eq!(found("\" OR grams:\"").await, [""; 0]);
    assert_eq!(found("NEAR(a b)").await, [""; 0]);
    assert_eq!(found("!!").await, [""; 0]);
    assert_eq!(found("").await.len(), names.len(), "no text is no filter");
    let id = jobs[3].id.to_string();
    assert_eq!(found(&id).await, ["100%"]);
    assert_eq!(found(&id[..9].to_uppercase()).await, ["100%"]);
}

/// Many jobs have one, many the other, and hardly any both: the walks go on in rounds, through every index that may lead.
async fn filters_that_hardly_meet(place: &Place) {
    let store = &*place.store;
    let mut both = Vec::new();
    let mut last = None;
    for number in 0..5000_i64 {
        let rare = number == 10 || number == 2500;
        let labels = [("even", "1"), ("hot", "1")];
        let name = if rare || number % 2 == 1 { "needle" } else { "straw" };
        let new = NewJob {
            spec: spec(
                name,
                if rare {
                    &labels
                } else {
                    &labels[..usize::from(number % 2 == 0)]
                },
            ),
            template: (rare || number % 2 == 1).then(|| "odd".into()),
            ..new_job(if number % 2 == 0 { "ada" } else { "bob" }, "", number)
        };
        let job = create(store, new).await;
        if rare {
            both.insert(0, job.id);
        }
        last = Some(job.id);
    }
    let even = BTreeMap::from([("even".to_owned(), "1".to_owned())]);
    let hot = BTreeMap::from([("even".to_owned(), "1".to_owned()), ("hot".to_owned(), "1".to_owned())]);
    let odd = Some("odd".into());
    let ada = Some("ada".to_owned());
    for filter in [
        Filter {
            labels: even.clone(),
            template: odd.clone(),
            ..Filter::default()
        },
        Filter {
            labels: hot,
            ..Filter::default()
        },
        Filter {
            owner: ada.clone(),
            template: odd.clone(),
            ..Filter::default()
        },
        Filter {
            owner: ada.clone(),
            text: Some("EED".into()),
            ..Filter::default()
        },
        Filter {
            labels: even.clone(),
            text: Some("le".into()),
            ..Filter::default()
        },
        Filter {
            states: vec![State::Pending, State::Failed],
            owner: ada,
            template: odd,
            ..Filter::default()
        },
    ] {
        for limit in [1, 2, 50] {
            let ids: Vec<JobId> = pages(store, &Scope::All, &filter, limit)
                .await
                .iter()
                .map(|job| job.id)
                .collect();
            assert_eq!(ids, both, "{filter:?}, {limit} a page");
        }
    }
    let needles = Filter {
        text: Some("needle".into()),
        ..Filter::default()
    };
    assert_eq!(pages(store, &Scope::All, &needles, 500).await.len(), 2502);
    assert_eq!(store.newest().await.expect("an answer"), last);
}

/// How a rare text was found is remembered for a moment, so what changes meanwhile has to be seen through that.
async fn a_text_that_was_rare_is_found_as_it_is_now(place: &Place) {
    let store = &*place.store;
    let mut needles = Vec::new();
    for number in 0..600 {
        let name = if number % 200 == 0 { "needle" } else { "straw" };
        let job = create(store, new_job("ada", name, number)).await;
        if number % 200 == 0 {
            needles.insert(0, job.id);
        }
    }
    let filter = Filter {
        text: Some("NEEDLE".into()),
        ..Filter::default()
    };
    let found = async |limit| -> Vec<JobId> {
        let jobs = pages(store, &Scope::All, &filter, limit).await;
        jobs.iter().map(|job| job.id).collect()
    };
    for limit in [50, 50, 2, 1] {
        assert_eq!(found(limit).await, needles, "{limit} a page");
    }
    // Now it is in all of the newest ones.
    for number in 0..70 {
        needles.insert(0, create(store, new_job("ada", "needle", 1000 + number)).await.id);
        if number % 10 == 0 {
            assert_eq!(found(50).await, needles, "{number}");
        }
    }
    let own = Scope::Owner("bob".into());
    assert_eq!(pages(store, &own, &filter, 50).await, []);
    let job = store
        .job(needles[3], &Scope::All)
        .await
        .expect("an answer")
        .expect("there");
    bring(store, &job, State::Succeeded).await;
    assert!(store.delete(job.id, &Scope::All).await.expect("an answer"));
    needles.remove(3);
    for limit in [500, 50, 7] {
        assert_eq!(found(limit).await, needles, "{limit} a page");
    }
}

const FIRST: Page = Page { after: None, limit: 50 };

/// Rows of pages are kept, so each kind of change has to be seen through what was kept before it.
async fn a_page_that_was_seen_before_shows_what_is_now(place: &Place) {
    let store = &*place.store;
    let mut jobs = Vec::new();
    for number in 0..70 {
        jobs.insert(0, create(store, new_job("ada", &format!("job-{number}"), number)).await);
    }
    for round in 0..12_usize {
        match round % 4 {
            0 => jobs[round] = bring(store, &jobs[round], State::Running).await,
            1 => {
                let last = jobs[49].clone();
                jobs[49] = bring(store, &last, State::Running).await;
                jobs[0] = bring(store, &jobs[0], State::Running).await;
            }
            2 => {
                let gone = bring(store, &jobs.remove(7), State::Succeeded).await;
                assert!(store.delete(gone.id, &Scope::All).await.expect("an answer"));
            }
            _ => {
                let ms = 100 + i64::try_from(round).expect("small");
                jobs.insert(0, create(store, new_job("ada", "later", ms)).await);
            }
        }
        // Twice: what was read anew, and what was kept of that.
        for _ in 0..2 {
            let page = store
                .list(&Scope::All, &Filter::default(), FIRST)
                .await
                .expect("a page");
            let page: Vec<Job> = page.into_iter().map(Listed::into_job).collect();
            assert_eq!(page, jobs[..50], "round {round}");
        }
    }
}

/// What a page shows was so at one moment, also where a row was kept, and another one changes while it is read.
async fn jobs_change_while_they_are_listed(place: &Place) {
    let store = &place.store;
    let mut jobs = Vec::new();
    for number in 0..120 {
        jobs.push(create(&**store, new_job("ada", "flips", number)).await);
    }
    let flips = {
        let store = std::sync::Arc::clone(store);
        tokio::spawn(async move {
            for round in 0..6 {
                for job in &mut jobs {
                    let state = [State::Running, State::Pending][round % 2];
                    *job = bring(&*store, job, state).await;
                }
            }
        })
    };
    let running = Filter {
        states: vec![State::Running],
        ..Filter::default()
    };
    let mut seen = 0;
    while !flips.is_finished() {
        let page = store.list(&Scope::All, &running, FIRST).await.expect("a page");
        assert!(page.is_sorted_by(|a, b| a.id > b.id), "{page:?}");
        for job in page {
            assert_eq!(job.state, State::Running, "{job:?}");
            seen += 1;
        }
        let all = store
            .list(&Scope::All, &Filter::default(), FIRST)
            .await
            .expect("a page");
        assert_eq!(all.len(), 50, "no row is lost");
    }
    flips.await.expect("no panic");
    assert!(seen > 0, "something ran");
}
