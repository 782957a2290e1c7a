use super::*;

fn job(state: State) -> Job {
    Job {
        id: JobId::at(EPOCH_MS + 1000),
        name: "hello".into(),
        owner: "ada".into(),
        state,
        reason: None,
        message: None,
        template: None,
        labels: BTreeMap::new(),
        parent: None,
        created_ms: EPOCH_MS + 1000,
        started_ms: None,
        finished_ms: None,
        exit_code: None,
        attempts: 0,
        cancelling: false,
        log_complete: false,
        version: 1,
    }
}

fn seen(phase: Phase) -> Seen {
    Seen {
        phase,
        reason: None,
        message: None,
        exit_code: None,
        attempts: 0,
        started_ms: None,
        finished_ms: None,
    }
}

#[test]
fn ids_are_read_back_and_sort_as_text_like_as_numbers() {
    let mut last = None;
    let mut texts = Vec::new();
    for step in 0..1000 {
        let id = JobId::after(last, EPOCH_MS + step / 3, u32::try_from(step * 7919).expect("small"));
        assert!(last < Some(id));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(JobId::from_number(id.number()), Some(id));
        texts.push(id.to_string());
        last = Some(id);
    }
    assert!(texts.is_sorted());
}

#[test]
fn an_id_follows_the_last_one_also_where_the_clock_went_back() {
    let late = JobId::after(None, EPOCH_MS + 10_000, 5);
    let next = JobId::after(Some(late), EPOCH_MS + 1, 9);
    assert_eq!(next.number(), late.number() + 1);
    assert!(JobId::after(None, 0, 0) <= JobId::at(0));
}

#[test]
fn what_is_no_id_is_refused() {
    for text in [
        "",
        "0",
        "0000000000000 ",
        "000000000000i",
        "000000000000O",
        "zzzzzzzzzzzzz",
        "é00000000000",
    ] {
        assert_eq!(text.parse::<JobId>(), Err(NotAnId), "{text}");
    }
    assert_eq!("7zzzzzzzzzzzz".parse::<JobId>().map(JobId::number), Ok(i64::MAX));
    assert!(JobId::from_number(-1).is_none());
}

#[test]
fn states_keep_their_numbers_and_names() {
    for state in State::ALL {
        assert_eq!(State::from_number(state.number()), Some(state));
        assert_eq!(serde_json::to_value(state).expect("JSON"), state.name());
    }
    assert_eq!(State::from_number(7), None);
}

#[test]
fn an_end_is_for_good() {
    for state in State::ALL.into_iter().filter(|state| state.is_final()) {
        for phase in [
            Phase::Waiting,
            Phase::Running,
            Phase::Succeeded,
            Phase::Failed,
            Phase::Gone,
        ] {
            assert!(observe(&job(state), &seen(phase), 0).is_empty(), "{state} {phase:?}");
        }
    }
}

#[test]
fn a_job_that_is_cancelled_says_so_until_its_end() {
    for phase in [Phase::Waiting, Phase::Running, Phase::Ending] {
        let job = Job {
            cancelling: true,
            ..job(State::Running)
        };
        let seen = Seen {
            reason: Some(reason::GONE.into()),
            ..seen(phase)
        };
        let change = observe(&job, &seen, 0);
        assert_eq!(change.state, Some(State::Stopping), "{phase:?}");
        assert_eq!(change.reason, Some(Some(reason::CANCELLED.into())), "{phase:?}");
    }
}

#[test]
fn the_same_observation_twice_changes_nothing_the_second_time() {
    for phase in [Phase::Waiting, Phase::Suspended, Phase::Running, Phase::Ending] {
        let mut job = job(State::Pending);
        let seen = Seen {
            reason: Some("Unschedulable".into()),
            message: Some("0/1 nodes are available".into()),
            attempts: 1,
            ..seen(phase)
        };
        let change = observe(&job, &seen, 0);
        job.state = change.state.unwrap_or(job.state);
        job.reason = change.reason.unwrap_or(job.reason);
        job.message = change.message.unwrap_or(job.message);
        job.attempts = change.attempts.unwrap_or(job.attempts);
        assert!(observe(&job, &seen, 0).is_empty(), "{phase:?}");
    }
}

#[test]
fn between_two_attempts_a_job_still_runs() {
    let change = observe(&job(State::Running), &seen(Phase::Waiting), 0);
    assert_eq!(change.state, None);
}

#[test]
fn a_cancelled_job_stops_first_and_is_cancelled_when_it_is_gone() {
    let mut cancelling = job(State::Running);
    cancelling.cancelling = true;
    assert_eq!(
        observe(&cancelling, &seen(Phase::Running), 0).state,
        Some(State::Stopping)
    );
    assert_eq!(
        observe(&cancelling, &seen(Phase::Gone), 0).state,
        Some(State::Cancelled)
    );
    assert_eq!(
        observe(&cancelling, &seen(Phase::Failed), 0).state,
        Some(State::Cancelled)
    );
    assert_eq!(
        observe(&cancelling, &seen(Phase::Succeeded), 0).state,
        Some(State::Succeeded),
        "it was faster than the request"
    );
}

#[test]
fn a_job_that_vanished_failed() {
    let change = observe(&job(State::Running), &seen(Phase::Gone), 7);
    assert_eq!(change.state, Some(State::Failed));
    assert_eq!(change.reason, Some(Some(reason::GONE.to_owned())));
    assert_eq!(change.finished_ms, Some(EPOCH_MS + 1000), "never before it was created");
}

#[test]
fn a_job_never_starts_before_it_was_created() {
    let seen = Seen {
        // The second in which it was created.
        started_ms: Some(EPOCH_MS + 300),
        finished_ms: Some(EPOCH_MS + 300),
        ..seen(Phase::Succeeded)
    };
    let change = observe(&job(State::Pending), &seen, 0);
    assert_eq!(
        (change.started_ms, change.finished_ms),
        (Some(EPOCH_MS + 1000), Some(EPOCH_MS + 1000))
    );
}

#[test]
fn a_message_is_cut_between_characters() {
    let long = "é".repeat(MESSAGE_BYTES);
    let seen = Seen {
        message: Some(long),
        ..seen(Phase::Waiting)
    };
    let message = observe(&job(State::Pending), &seen, 0)
        .message
        .flatten()
        .expect("a message");
    assert_eq!(message.len(), MESSAGE_BYTES);
    assert_eq!(clipped("aé"), "aé");
}
