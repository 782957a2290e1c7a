//! `/audit`: who did what.

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::api::Moment;
use super::guard::By;
use super::jobs::Answer;
use super::openapi::{ActsRefused, CheckRefused};
use super::query::{Acts, AfterSeal};
use crate::dashboard::service::audit::Checked;
use crate::dashboard::store::audit::{Entry, Seal};

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Act)]
pub struct ApiAct {
    /// Its number: a later entry has a greater one.
    pub number: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Moment,
    /// Who did it; a part of the server is in parentheses, such as `(retention)`.
    pub actor: String,
    /// What was done: `create`, `rerun`, `cancel`, `suspend`, `resume`, `change` or `delete`.
    pub verb: String,
    /// To what: `job/ID`, `template/NAME` or `schedule/NAME`.
    pub object: String,
    /// Whose that is or was.
    pub owner: String,
    /// How it was before: a job's state, the version of a template or schedule, or the job that was run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub before: Option<String>,
    /// How it was after; not there where it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub after: Option<String>,
    /// The id of the request, as in `X-Request-Id` and in the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub request_id: Option<String>,
    /// The address of the other end of the connection: of the client, or of the last proxy before the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub ip: Option<String>,
}

impl From<Entry> for ApiAct {
    fn from(entry: Entry) -> Self {
        Self {
            number: entry.number,
            at: Moment(entry.at_ms),
            actor: entry.actor,
            verb: entry.verb,
            object: entry.object,
            owner: entry.owner,
            before: entry.before,
            after: entry.after,
            request_id: entry.request_id,
            ip: entry.ip,
        }
    }
}

/// A page of what was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Acts)]
pub struct ApiActs {
    /// The entries, newest first.
    pub acts: Vec<ApiAct>,
    /// The `cursor` of the next page, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next: Option<String>,
}

/// A digest of entries that follow each other, and of the seal before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Seal)]
pub struct ApiSeal {
    /// Its place in the chain, from 1.
    pub place: i64,
    /// The number of its last entry.
    pub last: i64,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub at: Moment,
    /// The digest, SHA-256; the server's log has it too.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub digest: String,
}

impl From<Seal> for ApiSeal {
    fn from(seal: Seal) -> Self {
        Self {
            place: seal.place,
            last: seal.last,
            at: Moment(seal.at_ms),
            digest: seal.hex(),
        }
    }
}

/// What was found of seals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = CheckedSeals)]
pub struct ApiChecked {
    /// How many seals were looked at and are as they were made.
    pub seals: u64,
    /// How many entries they have.
    pub entries: u64,
    /// What is wrong with the next one; those after it were not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub wrong: Option<String>,
    /// The last seal that is as it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last: Option<ApiSeal>,
    /// Whether there are more, which come with its place as `after`.
    pub more: bool,
}

impl From<Checked> for ApiChecked {
    fn from(checked: Checked) -> Self {
        Self {
            seals: checked.seals,
            entries: checked.entries,
            wrong: checked.wrong,
            last: checked.last.map(ApiSeal::from),
            more: checked.more,
        }
    }
}

/// List who did what, newest first
///
/// What was done to jobs, templates and schedules that are or were the caller's, also to those that are deleted; to
/// everybody's for an admin.
#[utoipa::path(
    get, path = "/audit", operation_id = "listActs", tag = "audit",
    params(
        ("job" = Option<String>, Query, description = "What was done to the job with this id", min_length = 1),
        ("template" = Option<String>, Query, description = "What was done to the template of this name", min_length = 1),
        ("schedule" = Option<String>, Query, description = "What was done to the schedule of this name", min_length = 1),
        ("limit" = Option<u32>, Query, description = "How many entries at most; 50 where it is not given", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "The `next` of the page before"),
    ),
    responses((status = 200, description = "The entries", body = ApiActs), ActsRefused)
)]
pub(super) async fn list(State(api): State<Api>, By(caller): By, asked: Acts) -> Answer {
    let service = api.service()?;
    let object = asked.object.as_deref();
    let mut acts = service
        .acts(&caller, object, asked.before, asked.limit.saturating_add(1))
        .await?;
    let more = acts.len() as u64 > u64::from(asked.limit);
    acts.truncate(usize::try_from(asked.limit).unwrap_or(usize::MAX));
    let next = acts.last().filter(|_| more).map(|last| last.number.to_string());
    Ok(Json(ApiActs {
        acts: acts.into_iter().map(ApiAct::from).collect(),
        next,
    })
    .into_response())
}

/// Check that nobody changed what was written
///
/// Every few seconds the entries that are new are sealed: a digest of them and of the seal before. This looks at twenty
/// seals after a place and at their entries, for an admin. Compare the last digest with the one in the server's log.
#[utoipa::path(
    get, path = "/audit/check", operation_id = "checkActs", tag = "audit",
    params(("after" = Option<u32>, Query, description = "The place of the seal after which to look; from the first one on where it is not given")),
    responses((status = 200, description = "What was found", body = ApiChecked), CheckRefused)
)]
pub(super) async fn check(State(api): State<Api>, By(caller): By, AfterSeal(after): AfterSeal) -> Answer {
    let checked = api.service()?.check_acts(&caller, after).await?;
    Ok(Json(ApiChecked::from(checked)).into_response())
}
