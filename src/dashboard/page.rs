//! The web pages: whole HTML from the server, to which a few small scripts add what changes while one looks.
//!
//! Pages call [`service`](super::service) and nothing else. Text becomes HTML through [`maud`] alone, which escapes it;
//! scripts put text into text nodes alone. So names, messages and output of jobs are never HTML, and the policy that
//! every answer carries ([`guard`](super::http::guard)) would not let a script in them run.
//!
//! | module | what it owns |
//! |---|---|
//! | `visit` | who looks, with which token and theme; the frame around every page; the token's check |
//! | `list`, `query` | the list, and what it shows as it stands in its address |
//! | `job`, `tail` | one job, and the end of its log for browsers without scripts |
//! | `form`, `words` | the form of a new job, and the command line in it |
//! | `templates`, `inputs` | templates, and the fields that a schema becomes |
//! | `schedules` | schedules, with their next occurrences |
//! | `act` | what is done to jobs, asked for once more where it cannot be undone |
//! | `show` | times, durations, states |
//! | `files` | style sheet, scripts, pictures |

mod act;
mod acts;
mod files;
mod form;
mod inputs;
mod job;
mod list;
mod query;
mod schedules;
mod show;
mod tail;
mod templates;
mod visit;
mod words;

use axum::Router;
use axum::routing::{get, post};

use super::http::Api;

/// Returns the routes of the pages. They belong behind the [guard](super::http::guard), which says who asks and refuses
/// other hosts and sites.
pub fn router() -> Router<Api> {
    Router::new()
        .route("/", get(list::page))
        .route("/ui/jobs/new", get(form::empty))
        .route("/ui/jobs", post(form::create))
        .route("/ui/jobs/{id}", get(job::page))
        .route("/ui/jobs/{id}/head", get(job::head))
        .route("/ui/templates", get(templates::list).post(templates::save))
        .route("/ui/templates/new", get(templates::empty))
        .route("/ui/templates/{name}", get(templates::page).post(templates::run))
        .route("/ui/templates/{name}/edit", get(templates::edit))
        .route(
            "/ui/templates/{name}/delete",
            get(templates::doomed).post(templates::delete),
        )
        .route("/ui/schedules", get(schedules::list).post(schedules::save))
        .route("/ui/schedules/new", get(schedules::empty))
        .route("/ui/schedules/{name}", get(schedules::page).post(schedules::act))
        .route("/ui/schedules/{name}/edit", get(schedules::edit))
        .route(
            "/ui/schedules/{name}/delete",
            get(schedules::doomed).post(schedules::delete),
        )
        .route("/ui/act", get(act::confirm).post(act::perform))
        .route("/ui/theme", post(visit::choose_theme))
        .route("/ui/help", get(list::help))
        .route("/ui/assets/{version}/{name}", get(files::serve))
}
