//! `/jobs`: create, list, count, look at, act on, delete.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest as _, Sha256};

use super::api::{ApiCounts, ApiDetail, ApiJob, ApiJobOfTemplate, ApiPage};
use super::extract::{Conditions, Id, IdempotencyKey, Text, document, tag};
use super::guard::By;
use super::openapi::{ActRefused, CountRefused, CreateRefused, DeleteRefused, GetRefused, ListRefused, RerunRefused};
use super::problem::{Kind, Problem, rate_limit};
use super::query::{List, PAGE_DEFAULT};
use super::streams::{self, Open};
use super::{Api, accept};
use crate::dashboard::job::spec::Spec;
use crate::dashboard::job::{Job, JobId};
use crate::dashboard::service::rate::Left;
use crate::dashboard::service::{Action, Caller, PAGE_LIMIT, Service, ServiceError};
use crate::dashboard::store::{Created, Listed, Page};

/// The media types of a list; the first one is the default.
const LIST_MEDIA: [&str; 2] = ["application/json", "application/x-ndjson"];

pub(super) type Answer = Result<Response, Problem>;

/// Says in an answer where the thing is that was created.
pub(super) fn located(mut response: Response, path: &str) -> Response {
    if let Ok(location) = HeaderValue::from_str(path) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

pub(super) fn etag(tag: &str) -> [(HeaderName, HeaderValue); 1] {
    // Digits and quotes are always a header's value.
    [(
        header::ETAG,
        HeaderValue::from_str(tag).unwrap_or(HeaderValue::from_static("\"\"")),
    )]
}

pub(super) fn not_modified(tag: &str) -> Response {
    (StatusCode::NOT_MODIFIED, etag(tag)).into_response()
}

/// A job's row with its tag.
fn row(status: StatusCode, job: Job) -> Response {
    let tag = etag(&tag(job.version));
    (status, tag, Json(ApiJob::from(job))).into_response()
}

pub(super) fn created(created: Created, left: Option<Left>) -> Response {
    let (job, replayed) = match created {
        Created::New(job) => (job, false),
        Created::Replayed(job) => (job, true),
    };
    let path = format!("/jobs/{}", job.id);
    let mut response = located(row(StatusCode::CREATED, job), &path);
    if replayed {
        let name = HeaderName::from_static("idempotent-replayed");
        response.headers_mut().insert(name, HeaderValue::from_static("true"));
    }
    response.headers_mut().extend(left.iter().flat_map(rate_limit));
    response
}

/// Create a job
///
/// With an `Idempotency-Key`, the same request may be sent again: it is answered with the job of the first time.
#[utoipa::path(
    post, path = "/jobs", operation_id = "createJob", tag = "jobs",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters without spaces", min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    request_body(content = super::api::ApiNewJob, description = "What to run: a job, or a template with its parameters"),
    responses(
        (status = 201, description = "Created, or created by an earlier request with this key", body = ApiJob, headers(
            ("Location" = String, description = "Where the job is"),
            ("ETag" = String, description = "The version of the job"),
            ("Idempotent-Replayed" = Option<String>, description = "`true` where it was created earlier"),
            ("RateLimit" = Option<String>, description = "How many jobs may be created now (`r`), and in how many seconds all of them again (`t`), where that is limited"),
            ("RateLimit-Policy" = Option<String>, description = "How many jobs may be created (`q`) in how many seconds (`w`)"),
        )),
        CreateRefused,
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    By(caller): By,
    IdempotencyKey(key): IdempotencyKey,
    Text(body): Text,
) -> Answer {
    /// What is looked for to tell one kind of body from the other.
    #[derive(serde::Deserialize)]
    struct Kind {
        template: Option<serde::de::IgnoredAny>,
    }
    let service = api.service()?;
    if document::<Kind>(&body).is_ok_and(|kind| kind.template.is_some()) {
        let asked: ApiJobOfTemplate = document(&body)?;
        let made = service.create_from_template(&caller, &asked.template, &asked.parameters, key);
        return Ok(created(made.await?, service.left(&caller)));
    }
    let made = service.create(&caller, document::<Spec>(&body)?, key).await?;
    Ok(created(made, service.left(&caller)))
}

/// List jobs, newest first
///
/// A page at a time; `next` is the cursor of the next one. With `Accept: application/x-ndjson` all of them come, one a
/// line.
#[utoipa::path(
    get, path = "/jobs", operation_id = "listJobs", tag = "jobs",
    params(
        ("limit" = Option<u32>, Query, description = "How many jobs; 50 where it is not given", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "The `next` of the page before, with the same filter"),
        ("state" = Option<Vec<crate::dashboard::job::State>>, Query, style = Form, explode, description = "Jobs in one of these states; may be given several times, or as a list with commas"),
        ("owner" = Option<String>, Query, description = "Jobs of this owner", min_length = 1, max_length = 255),
        ("label" = Option<Vec<String>>, Query, style = Form, explode, description = "Jobs with this label, `NAME=VALUE`; may be given several times, and all must be there"),
        ("param" = Option<Vec<String>>, Query, style = Form, explode, description = "Jobs made from a template with this parameter as it was given, `NAME=VALUE`: a text of up to 255 bytes, a number, `true` or `false`; may be given several times, and all must be there"),
        ("template" = Option<String>, Query, description = "Jobs made from this template", min_length = 1, max_length = 63),
        ("q" = Option<String>, Query, description = "Jobs whose name or id contains this, without regard to case", min_length = 1, max_length = 200),
        ("since" = Option<String>, Query, description = "Jobs created at this time or later: RFC 3339, or how long ago (`90s`, `1h30m`, `7d`)"),
        ("until" = Option<String>, Query, description = "Jobs created before this time, in the same forms"),
        ("min_duration" = Option<String>, Query, description = "Jobs that ran at least so long, or run for so long already: `90s`, `1h30m`, `2d`"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an answer that the client has"),
    ),
    responses(
        (status = 200, description = "A page", headers(
            ("ETag" = String, description = "Of this page"),
            ("Link" = Option<String>, description = "The next page, as `rel=\"next\"`"),
        ), content((ApiPage = "application/json"), (String = "application/x-ndjson"))),
        (status = 304, description = "The client has this page"),
        ListRefused,
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    By(caller): By,
    conditions: Conditions,
    headers: HeaderMap,
    list: List,
) -> Answer {
    let wanted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if accept::choose(wanted, &LIST_MEDIA) == 1 {
        return export(&api, caller, list).await;
    }
    let asked = Asked::new(&caller, &list);
    let shown = api.lists.get(asked, show(&api, &caller, &list)).await?;
    if conditions.knows(&shown.tag) {
        return Ok(not_modified(&shown.tag));
    }
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(LIST_MEDIA[0]))];
    let mut response = (kind, etag(&shown.tag), shown.body()?).into_response();
    if let Some(link) = &shown.link {
        response.headers_mut().insert(header::LINK, link.clone());
    }
    Ok(response)
}

/// Which page is asked for, and by whom as far as it decides what is on it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    /// Whose jobs alone are seen.
    owner: Option<String>,
    /// As they were sent, with how many jobs: the answer says how to ask for the next page.
    parameters: Vec<(String, String)>,
    after: Option<JobId>,
}

impl Asked {
    fn new(caller: &Caller, list: &List) -> Self {
        Self {
            owner: (!caller.admin).then(|| caller.name.clone()),
            parameters: list.parameters().to_vec(),
            after: list.after,
        }
    }
}

/// A page as it is shown to all who asked for it at the same moment.
pub(super) struct Shown {
    jobs: Vec<Listed>,
    next: Option<String>,
    link: Option<HeaderValue>,
    tag: String,
    body: OnceLock<Bytes>,
}

impl Shown {
    /// Returns the page as JSON, which the first one who does not have it writes.
    fn body(&self) -> Result<Bytes, Problem> {
        if let Some(body) = self.body.get() {
            return Ok(body.clone());
        }
        let body = body(&self.jobs, self.next.as_deref()).map_err(|error| internal(&error))?;
        Ok(self.body.get_or_init(|| body.into()).clone())
    }
}

async fn show(api: &Api, caller: &Caller, list: &List) -> Result<Arc<Shown>, Problem> {
    let limit = list.limit.unwrap_or(PAGE_DEFAULT);
    // One more than is shown tells whether there is another page.
    let page = Page {
        after: list.after,
        limit: limit.saturating_add(1).min(PAGE_LIMIT),
    };
    let service = api.service()?;
    let mut jobs = service.list(caller, &list.filter, page).await?;
    let full = jobs.len() as u64 >= u64::from(limit);
    let more = if jobs.len() as u64 > u64::from(limit) {
        jobs.truncate(limit as usize);
        true
    } else if full && page.limit == limit {
        // The largest page has no room for one more.
        let after = jobs.last().map(|job| job.id);
        !service
            .list(caller, &list.filter, Page { after, limit: 1 })
            .await?
            .is_empty()
    } else {
        false
    };
    let next = jobs.last().filter(|_| more).map(|last| list.cursor(last.id));
    let link = next
        .as_deref()
        .and_then(|cursor| HeaderValue::from_str(&format!("</jobs?{}>; rel=\"next\"", list.next(cursor))).ok());
    Ok(Arc::new(Shown {
        tag: page_tag(&jobs, next.is_some()),
        jobs,
        next,
        link,
        body: OnceLock::new(),
    }))
}

/// An [`ApiPage`] of jobs that are written already.
#[derive(Serialize)]
struct Written<'a> {
    jobs: Vec<&'a RawValue>,
    next: Option<&'a str>,
}

fn body(jobs: &[Listed], next: Option<&str>) -> serde_json::Result<Vec<u8>> {
    let jobs = jobs
        .iter()
        .map(|job| job.written(|job| to_raw_value(&ApiJob::from(job.clone()))));
    serde_json::to_vec(&Written {
        jobs: jobs.collect::<Result<_, _>>()?,
        next,
    })
}

/// Returns the tag of a page: another job, another version of one, or another page after it is another page. The jobs
/// themselves need not be looked at, as every change of one gives it a version.
fn page_tag(jobs: &[Listed], more: bool) -> String {
    let mut digest = Sha256::new();
    // A labctl that writes jobs differently writes other pages.
    digest.update(env!("CARGO_PKG_VERSION"));
    digest.update([u8::from(more)]);
    for job in jobs {
        digest.update(job.id.number().to_be_bytes());
        digest.update(job.version.to_be_bytes());
    }
    let mut tag = String::from("W/\"");
    for byte in &digest.finalize()[..12] {
        _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    tag
}

fn internal(error: &serde_json::Error) -> Problem {
    tracing::error!(%error, "an answer cannot be written as JSON");
    Problem::new(Kind::Internal)
}

/// A list that is sent whole, a page of the store at a time.
struct Export {
    service: Service,
    caller: Caller,
    list: List,
    left: Option<u32>,
    after: Option<JobId>,
    _open: Arc<Open>,
}

async fn export(api: &Api, caller: Caller, list: List) -> Answer {
    let open = Arc::new(api.streams.open(&caller.name)?);
    let mut export = Export {
        service: api.service()?.clone(),
        caller,
        left: list.limit,
        after: list.after,
        list,
        _open: open,
    };
    // The first part now: what fails here can still be said in the response's head.
    let first = export.part().await?;
    let rest = futures_util::stream::unfold(Some(export), |export| async move {
        let mut export = export?;
        match export.part().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(export))),
            Ok(None) => None,
            // An end that looks like one would be a lie: the connection breaks.
            Err(problem) => Some((Err(std::io::Error::other(problem.kind().code())), None)),
        }
    });
    let first = futures_util::stream::iter(first.map(Ok));
    Ok(streams::response(LIST_MEDIA[1], Body::from_stream(first.chain(rest))))
}

impl Export {
    /// Returns the next lines; nothing at the end.
    async fn part(&mut self) -> Result<Option<Bytes>, Problem> {
        let limit = self.left.unwrap_or(PAGE_LIMIT).min(PAGE_LIMIT);
        if limit == 0 {
            return Ok(None);
        }
        let page = Page {
            after: self.after,
            limit,
        };
        let jobs = self.service.list(&self.caller, &self.list.filter, page).await?;
        let Some(last) = jobs.last().map(|job| job.id) else {
            return Ok(None);
        };
        self.after = Some(last);
        let count = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        self.left = self.left.map(|left| left.saturating_sub(count));
        if count < limit {
            self.left = Some(0);
        }
        let mut out = Vec::new();
        for job in jobs {
            serde_json::to_writer(&mut out, &ApiJob::from(job.into_job())).map_err(|error| internal(&error))?;
            out.push(b'\n');
        }
        Ok(Some(out.into()))
    }
}

/// Count jobs by state
#[utoipa::path(
    get, path = "/jobs/counts", operation_id = "countJobs", tag = "jobs",
    responses((status = 200, description = "How many jobs are in each state", body = ApiCounts), CountRefused)
)]
pub(super) async fn counts(State(api): State<Api>, By(caller): By) -> Answer {
    Ok(Json(ApiCounts::from(api.service()?.counts(&caller).await?)).into_response())
}

/// Look at a job
#[utoipa::path(
    get, path = "/jobs/{id}", operation_id = "getJob", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job's id", min_length = 13, max_length = 13, pattern = "^[0-7][0-9a-hjkmnp-tv-z]{12}$"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of the job that the client has"),
    ),
    responses(
        (status = 200, description = "The job, and what it was to run", body = ApiDetail, headers(("ETag" = String, description = "The version of the job"))),
        (status = 304, description = "The client has this version"),
        GetRefused,
    )
)]
pub(super) async fn get(State(api): State<Api>, By(caller): By, Id(id): Id, conditions: Conditions) -> Answer {
    let service = api.service()?;
    let job = service.job(&caller, id).await?;
    let tag = tag(job.version);
    if conditions.knows(&tag) {
        return Ok(not_modified(&tag));
    }
    let spec = service.spec(&caller, id).await?;
    let origin = match job.template {
        Some(_) => service.origin(&caller, id).await?,
        None => None,
    };
    let result = service.result(&job).await?;
    let detail = ApiDetail {
        job: job.into(),
        spec,
        origin,
        result,
    };
    Ok((etag(&tag), Json(detail)).into_response())
}

/// Delete a job that has ended, with its log
#[utoipa::path(
    delete, path = "/jobs/{id}", operation_id = "deleteJob", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job's id", min_length = 13, max_length = 13, pattern = "^[0-7][0-9a-hjkmnp-tv-z]{12}$"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that the job must still have"),
    ),
    responses((status = 204, description = "Deleted"), DeleteRefused)
)]
pub(super) async fn delete(State(api): State<Api>, By(caller): By, Id(id): Id, conditions: Conditions) -> Answer {
    let service = api.service()?;
    if conditions.wants_version() && !conditions.allows(service.job(&caller, id).await?.version) {
        return Err(ServiceError::Changed.into());
    }
    service.delete(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn act(api: &Api, caller: &Caller, id: JobId, action: Action, conditions: &Conditions) -> Result<Job, Problem> {
    let service = api.service()?;
    let mut version = None;
    if conditions.wants_version() {
        let job = service.job(caller, id).await?;
        if !conditions.allows(job.version) {
            return Err(ServiceError::Changed.into());
        }
        version = Some(job.version);
    }
    Ok(service.act(caller, id, action, version).await?)
}

/// End a job
///
/// Asking again is no error, nor is asking for one that was cancelled.
#[utoipa::path(
    post, path = "/jobs/{id}/cancel", operation_id = "cancelJob", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job's id", min_length = 13, max_length = 13, pattern = "^[0-7][0-9a-hjkmnp-tv-z]{12}$"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that the job must still have"),
    ),
    responses(
        (status = 200, description = "It has ended so", body = ApiJob),
        (status = 202, description = "It is asked to end", body = ApiJob),
        ActRefused,
    )
)]
pub(super) async fn cancel(State(api): State<Api>, By(caller): By, Id(id): Id, conditions: Conditions) -> Answer {
    let job = act(&api, &caller, id, Action::Cancel, &conditions).await?;
    let status = if job.state.is_final() {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    Ok(row(status, job))
}

/// Hold a job back
#[utoipa::path(
    post, path = "/jobs/{id}/suspend", operation_id = "suspendJob", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job's id", min_length = 13, max_length = 13, pattern = "^[0-7][0-9a-hjkmnp-tv-z]{12}$"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that the job must still have"),
    ),
    responses((status = 200, description = "It is held back", body = ApiJob), ActRefused)
)]
pub(super) async fn suspend(State(api): State<Api>, By(caller): By, Id(id): Id, conditions: Conditions) -> Answer {
    Ok(row(
        StatusCode::OK,
        act(&api, &caller, id, Action::Suspend, &conditions).await?,
    ))
}

/// Let a job go on
#[utoipa::path(
    post, path = "/jobs/{id}/resume", operation_id = "resumeJob", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job's id", min_length = 13, max_length = 13, pattern = "^[0-7][0-9a-hjkmnp-tv-z]{12}$"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` that the job must still have"),
    ),
    responses((status = 200, description = "It goes on", body = ApiJob), ActRefused)
)]
pub(super) async fn resume(State(api): State<Api>, By(caller): By, Id(id): Id, conditions: Conditions) -> Answer {
    Ok(row(
        StatusCode::OK,
        act(&api, &caller, id, Action::Resume, &conditions).await?,
    ))
}

/// Run again what a job ran, as a new job
#[utoipa::path(
    post, path = "/jobs/{id}/rerun", operation_id = "rerunJob", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job's id", min_length = 13, max_length = 13, pattern = "^[0-7][0-9a-hjkmnp-tv-z]{12}$"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters without spaces", min_length = 1, max_length = 255, pattern = "^[!-~]+$"),
    ),
    responses(
        (status = 201, description = "Created, or created by an earlier request with this key", body = ApiJob, headers(
            ("Location" = String, description = "Where the new job is"),
            ("ETag" = String, description = "The version of the new job"),
            ("Idempotent-Replayed" = Option<String>, description = "`true` where it was created earlier"),
            ("RateLimit" = Option<String>, description = "How many jobs may be created now (`r`), and in how many seconds all of them again (`t`), where that is limited"),
            ("RateLimit-Policy" = Option<String>, description = "How many jobs may be created (`q`) in how many seconds (`w`)"),
        )),
        RerunRefused,
    )
)]
pub(super) async fn rerun(
    State(api): State<Api>,
    By(caller): By,
    Id(id): Id,
    IdempotencyKey(key): IdempotencyKey,
) -> Answer {
    let service = api.service()?;
    let made = service.rerun(&caller, id, key).await?;
    Ok(created(made, service.left(&caller)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::job::State;

    fn job(version: i64) -> Listed {
        Listed::new(Job {
            id: JobId::at(1_800_000_000_000),
            name: "test".into(),
            owner: "ada \"l\"".into(),
            state: State::Failed,
            reason: Some("ExitCode".into()),
            message: Some("the program said \u{fffd}\n".into()),
            template: None,
            labels: [("team".to_owned(), "ü".to_owned())].into(),
            parent: None,
            created_ms: 1_800_000_000_000,
            started_ms: Some(1_800_000_000_001),
            finished_ms: None,
            exit_code: Some(3),
            attempts: 1,
            cancelling: false,
            log_complete: true,
            version,
        })
    }

    #[test]
    fn a_page_of_rows_that_are_written_already_is_the_page_of_the_api() {
        for next in [None, Some("cursor")] {
            let jobs = [job(1), job(2)];
            let page = ApiPage {
                jobs: jobs.iter().map(|job| ApiJob::from((**job).clone())).collect(),
                next: next.map(Into::into),
            };
            let page = serde_json::to_string(&page).expect("written");
            // Once written anew, once from what was kept.
            for _ in 0..2 {
                let body = body(&jobs, next).expect("written");
                assert_eq!(String::from_utf8(body).expect("text"), page);
            }
        }
    }

    #[test]
    fn the_tag_of_a_page_is_of_its_jobs_their_versions_and_whether_there_are_more() {
        let tags = [
            page_tag(&[], false),
            page_tag(&[job(1)], false),
            page_tag(&[job(2)], false),
            page_tag(&[job(2)], true),
            page_tag(&[job(2), job(2)], true),
        ];
        for (place, tag) in tags.iter().enumerate() {
            assert!(tag.starts_with("W/\"") && tag.ends_with('"'), "{tag}");
            assert!(!tags[..place].contains(tag), "{tags:?}");
        }
        assert_eq!(tags[1], page_tag(&[job(1)], false));
    }
}
