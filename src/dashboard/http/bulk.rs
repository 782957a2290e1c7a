//! `POST /jobs/bulk`: the same done to all jobs of a filter, or first counted.

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse as _;

use super::Api;
use super::api::{ApiBulk, ApiBulkDone, ApiRefused};
use super::extract::{IdempotencyKey, Text, document};
use super::guard::By;
use super::jobs::Answer;
use super::openapi::BulkRefused;
use super::problem::{Kind, Problem};
use super::query::List;
use crate::dashboard::job::JobId;
use crate::dashboard::service::PAGE_LIMIT;
use crate::dashboard::service::bulk::{Counted, Performed};
use crate::dashboard::store::{Filter, Page};

/// How many refusals are told one by one.
const TOLD: usize = 20;

/// Do the same to all jobs that a filter finds
///
/// The filter is the one of the list, in the query. With `dry_run` nothing is done: the jobs are counted, up to 10,000.
/// Without it, it is done to one page of them; `next` is the cursor of the next one, until there is none. Jobs that it cannot
/// be done to as they are, such as cancelling one that has ended, are left as they are.
#[utoipa::path(
    post, path = "/jobs/bulk", operation_id = "bulkJobs", tag = "jobs",
    params(
        ("limit" = Option<u32>, Query, description = "To how many jobs at most; 500 where it is not given", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "The `next` of the answer before, with the same filter"),
        ("state" = Option<Vec<crate::dashboard::job::State>>, Query, style = Form, explode, description = "Jobs in one of these states"),
        ("owner" = Option<String>, Query, description = "Jobs of this owner", min_length = 1, max_length = 255),
        ("label" = Option<Vec<String>>, Query, style = Form, explode, description = "Jobs with this label, `NAME=VALUE`"),
        ("param" = Option<Vec<String>>, Query, style = Form, explode, description = "Jobs made from a template with this parameter as it was given, `NAME=VALUE`: a text of up to 255 bytes, a number, `true` or `false`; may be given several times, and all must be there"),
        ("template" = Option<String>, Query, description = "Jobs made from this template", min_length = 1, max_length = 63),
        ("q" = Option<String>, Query, description = "Jobs whose name or id contains this", min_length = 1, max_length = 200),
        ("since" = Option<String>, Query, description = "Jobs created at this time or later"),
        ("until" = Option<String>, Query, description = "Jobs created before this time"),
        ("min_duration" = Option<String>, Query, description = "Jobs that ran at least so long, or run for so long already: `90s`, `1h30m`, `2d`"),
        ("Idempotency-Key" = Option<String>, Header, description = "With it, reruns that are asked for twice make one job each", min_length = 1, max_length = 255, pattern = "^[!-~]+$"),
    ),
    request_body(content = ApiBulk, description = "What to do"),
    responses((status = 200, description = "What was done, or would be", body = ApiBulkDone), BulkRefused)
)]
pub(super) async fn perform(
    State(api): State<Api>,
    By(caller): By,
    IdempotencyKey(key): IdempotencyKey,
    list: List,
    Text(body): Text,
) -> Answer {
    let asked: ApiBulk = document(&body).map_err(|problem| problem.instead(Kind::Invalid, Kind::InvalidRequest))?;
    if list.filter == Filter::default() && !asked.all {
        return Err(Problem::new(Kind::Parameter).detail(
            "without a filter these are all jobs: say so with `\"all\": true`, or name some, as in `?state=failed`",
        ));
    }
    let service = api.service()?;
    // What comes after the id that follows it is the newest job that is meant, and all that are older.
    let after = [list.after, asked.newest.map(JobId::next)].into_iter().flatten().min();
    let cursor = |more: Option<JobId>| more.map(|last| list.cursor(last));
    let done = if asked.dry_run {
        let Counted {
            matched,
            fit,
            newest,
            more,
        } = service.count_for(&caller, asked.action, &list.filter, after).await?;
        ApiBulkDone {
            action: asked.action,
            dry_run: true,
            matched,
            fit,
            done: 0,
            refused: 0,
            refusals: Vec::new(),
            newest,
            next: cursor(more),
        }
    } else {
        let page = Page {
            after,
            limit: list.limit.unwrap_or(PAGE_LIMIT),
        };
        let performed = service.perform_page(&caller, asked.action, &list.filter, page, key.as_deref());
        let Performed {
            matched,
            fit,
            done,
            refused,
            newest,
            more,
        } = performed.await?;
        ApiBulkDone {
            action: asked.action,
            dry_run: false,
            matched,
            fit,
            done,
            refused: refused.len() as u64,
            refusals: refused.into_iter().take(TOLD).map(refusal).collect(),
            newest,
            next: cursor(more),
        }
    };
    Ok(Json(done).into_response())
}

fn refusal((id, error): (JobId, crate::dashboard::service::ServiceError)) -> ApiRefused {
    let detail = error.to_string();
    ApiRefused {
        id,
        code: Problem::from(error).kind().code().to_owned(),
        detail,
    }
}
