//! `/schedules`: jobs that are made by themselves.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::api::{ApiJob, ApiOccurrence, ApiOccurrences, ApiSchedule, ApiSchedules, Moment};
use super::extract::{Conditions, IdempotencyKey, Name, Text, document, tag};
use super::guard::By;
use super::jobs::{Answer, created, etag, located};
use super::openapi::{
    ActScheduleRefused, AddScheduleRefused, ChangeScheduleRefused, DocumentsRefused, OccurrencesRefused,
    RunScheduleRefused, ScheduleRefused,
};
use super::problem::{Kind, Problem};
use super::query::{At, Occurrences};
use crate::dashboard::control::now_ms;
use crate::dashboard::job::schedule::Schedule;
use crate::dashboard::service::documents::Kept;
use crate::dashboard::service::{Caller, Service};
use crate::dashboard::store::documents::Mark;

fn answer(status: StatusCode, kept: Kept<Schedule>, mark: Option<Mark>) -> Response {
    let tag = etag(&tag(kept.version));
    (status, tag, Json(ApiSchedule::new(kept, mark, now_ms()))).into_response()
}

fn read(body: &[u8]) -> Result<Schedule, Problem> {
    document(body).map_err(|problem| problem.instead(Kind::Invalid, Kind::InvalidSchedule))
}

async fn version(
    service: &Service,
    caller: &Caller,
    name: &str,
    conditions: &Conditions,
    required: bool,
) -> Result<Option<i64>, Problem> {
    let now = async { Ok::<_, Problem>(service.schedule(caller, name).await?.0.version) };
    conditions.version(required, now).await
}

/// List schedules by their names
#[utoipa::path(
    get, path = "/schedules", operation_id = "listSchedules", tag = "schedules",
    responses((status = 200, description = "The caller's schedules, with their next occurrences", body = ApiSchedules), DocumentsRefused)
)]
pub(super) async fn list(State(api): State<Api>, By(caller): By) -> Answer {
    let now = now_ms();
    let schedules = api.service()?.schedules(&caller).await?.into_iter();
    Ok(Json(ApiSchedules {
        schedules: schedules
            .map(|(kept, mark)| ApiSchedule::new(kept, mark, now))
            .collect(),
    })
    .into_response())
}

/// Create a schedule
///
/// It makes the job in `job`, or one of `template` with `parameters`, at the times of `cron` in `time_zone`. Each
/// occurrence makes one job at most.
#[utoipa::path(
    post, path = "/schedules", operation_id = "createSchedule", tag = "schedules",
    request_body(content = Schedule, description = "The schedule"),
    responses(
        (status = 201, description = "Created", body = ApiSchedule, headers(
            ("Location" = String, description = "Where the schedule is"),
            ("ETag" = String, description = "The version of the schedule"),
        )),
        AddScheduleRefused,
    )
)]
pub(super) async fn create(State(api): State<Api>, By(caller): By, Text(body): Text) -> Answer {
    let schedule = read(&body)?;
    let kept = api.service()?.add_schedule(&caller, &schedule).await?;
    let response = answer(StatusCode::CREATED, kept, None);
    Ok(located(response, &format!("/schedules/{}", schedule.name)))
}

/// Look at a schedule
///
/// Its jobs are `/jobs?label=schedule%3DNAME`.
#[utoipa::path(
    get, path = "/schedules/{name}", operation_id = "getSchedule", tag = "schedules",
    params(("name" = String, Path, description = "The schedule's name", min_length = 1, max_length = 63)),
    responses(
        (status = 200, description = "The schedule, with its next occurrences", body = ApiSchedule, headers(("ETag" = String, description = "The version of the schedule"))),
        ScheduleRefused,
    )
)]
pub(super) async fn get(State(api): State<Api>, By(caller): By, Name(name): Name) -> Answer {
    let (kept, mark) = api.service()?.schedule(&caller, &name).await?;
    Ok(answer(StatusCode::OK, kept, mark))
}

/// Change a schedule
///
/// What it was to do until now and did not is not made up for.
#[utoipa::path(
    put, path = "/schedules/{name}", operation_id = "replaceSchedule", tag = "schedules",
    params(
        ("name" = String, Path, description = "The schedule's name", min_length = 1, max_length = 63),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that the schedule must still have, or `*`; it must be given"),
    ),
    request_body(content = Schedule, description = "The whole schedule; its name stays"),
    responses(
        (status = 200, description = "Changed", body = ApiSchedule, headers(("ETag" = String, description = "The new version of the schedule"))),
        ChangeScheduleRefused,
    )
)]
pub(super) async fn replace(
    State(api): State<Api>,
    By(caller): By,
    Name(name): Name,
    conditions: Conditions,
    Text(body): Text,
) -> Answer {
    let schedule = read(&body)?;
    let service = api.service()?;
    let version = version(service, &caller, &name, &conditions, true).await?;
    let kept = service.change_schedule(&caller, &name, version, &schedule).await?;
    let mark = service.schedule(&caller, &name).await?.1;
    Ok(answer(StatusCode::OK, kept, mark))
}

/// Delete a schedule; its jobs stay
#[utoipa::path(
    delete, path = "/schedules/{name}", operation_id = "deleteSchedule", tag = "schedules",
    params(
        ("name" = String, Path, description = "The schedule's name", min_length = 1, max_length = 63),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that the schedule must still have"),
    ),
    responses((status = 204, description = "Deleted"), ActScheduleRefused)
)]
pub(super) async fn delete(State(api): State<Api>, By(caller): By, Name(name): Name, conditions: Conditions) -> Answer {
    let service = api.service()?;
    let version = version(service, &caller, &name, &conditions, false).await?;
    service.remove_schedule(&caller, &name, version).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn hold(api: &Api, caller: &Caller, name: &str, suspend: bool, conditions: &Conditions) -> Answer {
    let service = api.service()?;
    let version = version(service, caller, name, conditions, false).await?;
    let kept = service.suspend_schedule(caller, name, suspend, version).await?;
    let mark = service.schedule(caller, name).await?.1;
    Ok(answer(StatusCode::OK, kept, mark))
}

/// Hold a schedule back
///
/// It makes no jobs until it is resumed; those that it made go on.
#[utoipa::path(
    post, path = "/schedules/{name}/suspend", operation_id = "suspendSchedule", tag = "schedules",
    params(
        ("name" = String, Path, description = "The schedule's name", min_length = 1, max_length = 63),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that the schedule must still have"),
    ),
    responses((status = 200, description = "It is held back", body = ApiSchedule), ActScheduleRefused)
)]
pub(super) async fn suspend(
    State(api): State<Api>,
    By(caller): By,
    Name(name): Name,
    conditions: Conditions,
) -> Answer {
    hold(&api, &caller, &name, true, &conditions).await
}

/// Let a schedule go on
///
/// What it left out meanwhile is not made up for.
#[utoipa::path(
    post, path = "/schedules/{name}/resume", operation_id = "resumeSchedule", tag = "schedules",
    params(
        ("name" = String, Path, description = "The schedule's name", min_length = 1, max_length = 63),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that the schedule must still have"),
    ),
    responses((status = 200, description = "It goes on", body = ApiSchedule), ActScheduleRefused)
)]
pub(super) async fn resume(State(api): State<Api>, By(caller): By, Name(name): Name, conditions: Conditions) -> Answer {
    hold(&api, &caller, &name, false, &conditions).await
}

/// Make a job of a schedule now
///
/// Also where others of it run, and where it is suspended. With `at`, it is the job of that occurrence: there is one of each,
/// and none is made beside another one where the schedule has one job run at a time.
#[utoipa::path(
    post, path = "/schedules/{name}/run", operation_id = "runSchedule", tag = "schedules",
    params(
        ("name" = String, Path, description = "The schedule's name", min_length = 1, max_length = 63),
        ("at" = Option<String>, Query, format = DateTime, description = "An occurrence that is over, to make the job that it did not make"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters without spaces", min_length = 1, max_length = 255, pattern = "^[!-~]+$"),
    ),
    responses(
        (status = 201, description = "Created, or created by an earlier request with this key", body = ApiJob, headers(
            ("Location" = String, description = "Where the job is"),
            ("ETag" = String, description = "The version of the job"),
            ("Idempotent-Replayed" = Option<String>, description = "`true` where it was created earlier"),
        )),
        RunScheduleRefused,
    )
)]
pub(super) async fn run(
    State(api): State<Api>,
    By(caller): By,
    Name(name): Name,
    At(at): At,
    IdempotencyKey(key): IdempotencyKey,
) -> Answer {
    if let Some(at) = at {
        return Ok(created(api.service()?.run_occurrence(&caller, &name, at).await?, None));
    }
    // What is left is its owner's, who need not be the caller.
    Ok(created(api.service()?.run_schedule(&caller, &name, key).await?, None))
}

/// List the occurrences of a schedule
///
/// In their order, those that are over and those to come. Where there are more, the next ones come with a `since` after the
/// last one.
#[utoipa::path(
    get, path = "/schedules/{name}/occurrences", operation_id = "listOccurrences", tag = "schedules",
    params(
        ("name" = String, Path, description = "The schedule's name", min_length = 1, max_length = 63),
        ("since" = String, Query, description = "From this time on: RFC 3339, or how long ago (`90s`, `1h30m`, `7d`)"),
        ("until" = Option<String>, Query, description = "Until this time, in the same forms; now where it is not given"),
        ("limit" = Option<u32>, Query, description = "How many at most; 50 where it is not given", minimum = 1, maximum = 500),
    ),
    responses((status = 200, description = "The occurrences", body = ApiOccurrences), OccurrencesRefused)
)]
pub(super) async fn occurrences(
    State(api): State<Api>,
    By(caller): By,
    Name(name): Name,
    asked: Occurrences,
) -> Answer {
    let most = usize::try_from(asked.limit).unwrap_or(usize::MAX);
    let times = asked.since_ms..=asked.until_ms;
    let mut found = api.service()?.occurrences(&caller, &name, times, most + 1).await?;
    let more = found.len() > most;
    found.truncate(most);
    let occurrences = found
        .into_iter()
        .map(|(at, local)| ApiOccurrence { at: Moment(at), local });
    Ok(Json(ApiOccurrences {
        occurrences: occurrences.collect(),
        more,
    })
    .into_response())
}
