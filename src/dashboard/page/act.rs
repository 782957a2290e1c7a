//! What is done to jobs: a page that asks once more, and the form on it that does it.
//!
//! The first page is a plain GET, so that a selection of many jobs and the link on one job's page are the same thing,
//! with or without scripts.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};

use super::query::Query;
use super::show;
use super::visit::{Failure, Form, Visit, Work, local, see_other};
use crate::dashboard::job::{Job, JobId};
use crate::dashboard::service::bulk::Counted;
pub(super) use crate::dashboard::service::bulk::Deed;
use crate::dashboard::service::{PAGE_LIMIT, Service, ServiceError};
use crate::dashboard::store::{Filter, Page};

/// How long a request does something to the jobs of a filter before it tells how far it came.
const PATIENCE: Duration = Duration::from_secs(20);

/// What can be done to a selection, with the words on the buttons.
pub(super) const BULK: [(Deed, &str); 5] = [
    (Deed::Cancel, "Cancel…"),
    (Deed::Rerun, "Rerun…"),
    (Deed::Suspend, "Suspend…"),
    (Deed::Resume, "Resume…"),
    (Deed::Delete, "Delete…"),
];

impl Deed {
    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|deed| deed.name() == name)
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Cancel => "Cancel",
            Self::Rerun => "Rerun",
            Self::Suspend => "Suspend",
            Self::Resume => "Resume",
            Self::Delete => "Delete",
        }
    }

    /// What is said when it was done.
    fn done(self) -> &'static str {
        match self {
            Self::Cancel => "asked to end",
            Self::Rerun => "started again as new jobs",
            Self::Suspend => "suspended",
            Self::Resume => "resumed",
            Self::Delete => "deleted, with their logs",
        }
    }

    fn consequence(self) -> &'static str {
        match self {
            Self::Cancel => {
                "What runs gets a signal to end, and is ended for good shortly after. Its log so far is kept."
            }
            Self::Rerun => "Each becomes a new job that runs the same again. The old ones stay as they are.",
            Self::Suspend => {
                "They are held back until they are resumed. What runs on Kubernetes is ended and begins anew then."
            }
            Self::Resume => "They run as soon as there is room.",
            Self::Delete => "The jobs and their logs are gone for good.",
        }
    }

    /// Returns whether one is asked once more, also where it is a single job.
    pub(super) fn is_asked(self) -> bool {
        matches!(self, Self::Cancel | Self::Delete)
    }
}

/// What a form asks for.
struct Asked {
    deed: Deed,
    of: Of,
    back: String,
}

/// To which jobs it is to be done.
enum Of {
    /// Those that were ticked.
    Ids(Vec<JobId>),
    /// Those that the filter of the page finds on which it was asked for: the newest that there was then, and older ones.
    Filter(Filter, Option<JobId>),
}

impl Asked {
    fn read(form: &Form) -> Result<Self, Failure> {
        let wrong = |text: &str| Failure::new(StatusCode::BAD_REQUEST, "Nothing can be done", text);
        let deed = Deed::named(form.one("do")).ok_or_else(|| wrong("It is not said what is to be done."))?;
        let back = local(form.one("back")).to_owned();
        if form.one("of") == "filter" {
            let (_, query) = back.split_once('?').unwrap_or(("", ""));
            let (query, faults) = Query::read(query);
            if !faults.is_empty() {
                return Err(wrong("The filter cannot be understood: go back and mend it."));
            }
            let newest = form.one("newest").parse().ok();
            return Ok(Self {
                deed,
                of: Of::Filter(query.filter(), newest),
                back,
            });
        }
        let mut ids: Vec<JobId> = form.all("id").filter_map(|id| id.parse().ok()).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.dedup();
        if ids.is_empty() {
            return Err(wrong("No job is selected: go back and tick some."));
        }
        if ids.len() > usize::try_from(PAGE_LIMIT).unwrap_or(usize::MAX) {
            return Err(wrong(&format!(
                "At most {PAGE_LIMIT} jobs can be ticked: go back and choose all that match the filter."
            )));
        }
        Ok(Self {
            deed,
            of: Of::Ids(ids),
            back,
        })
    }
}

/// Asks whether it is to be done.
pub(super) async fn confirm(visit: Visit, Work(service): Work, RawQuery(text): RawQuery) -> Response {
    let asked = match Asked::read(&Form::unchecked(&text.unwrap_or_default())) {
        Ok(asked) => asked,
        Err(failure) => return visit.failure(failure),
    };
    let key = match super::visit::secret() {
        Ok(key) => key,
        Err(failure) => return visit.failure(failure),
    };
    let ids = match &asked.of {
        Of::Ids(ids) => ids,
        Of::Filter(filter, _) => {
            let counted = match service.count_for(&visit.caller, asked.deed, filter, None).await {
                Ok(counted) => counted,
                Err(error) => return visit.failure(error),
            };
            let content = question_of_all(&visit, &asked, &counted, &key);
            let title = format!("{} {}?", asked.deed.verb(), how_many(&counted));
            return visit.page(StatusCode::OK, &title, None, &content);
        }
    };
    let mut jobs = Vec::new();
    for id in ids {
        match service.job(&visit.caller, *id).await {
            Ok(job) => jobs.push(job),
            // Deleted since the list was loaded: then there is nothing to ask about it.
            Err(ServiceError::NotFound) => {}
            Err(error) => return visit.failure(error),
        }
    }
    let (fit, unfit): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| asked.deed.fits(job));
    let title = format!("{} {}?", asked.deed.verb(), show::jobs(fit.len()));
    visit.page(
        StatusCode::OK,
        &title,
        None,
        &question(&visit, &asked, &fit, &unfit, &key),
    )
}

fn question(visit: &Visit, asked: &Asked, fit: &[Job], unfit: &[Job], key: &str) -> Markup {
    let deed = asked.deed;
    let named = |jobs: &[Job]| {
        html! {
            ul.chosen {
                @for job in jobs {
                    li { (show::state(job.state)) " " a href={ "/ui/jobs/" (job.id) } { (job.name) } " " code.id { (job.id) } }
                }
            }
        }
    };
    html! {
        section.narrow {
            @if fit.is_empty() {
                h1 { "Nothing to " (deed) }
            } @else {
                h1 { (deed.verb()) " " (show::jobs(fit.len())) "?" }
                p { (deed.consequence()) }
                (named(fit))
            }
            @if !unfit.is_empty() {
                h2 { "Left as they are" }
                p { "In the state in which they are, one cannot " (deed) " them." }
                (named(unfit))
            }
            form.answer method="post" action="/ui/act" {
                (visit.token_field())
                input type="hidden" name="do" value=(deed);
                input type="hidden" name="back" value=(asked.back);
                input type="hidden" name="key" value=(key);
                @for job in fit { input type="hidden" name="id" value=(job.id); }
                @if !fit.is_empty() {
                    button.primary.danger[deed.is_asked()] autofocus { (deed.verb()) " " (show::jobs(fit.len())) }
                }
                a.button href=(asked.back) { "Back" }
            }
        }
    }
}

/// Says how many jobs of a filter are meant.
fn how_many(counted: &Counted) -> String {
    let jobs = show::jobs(usize::try_from(counted.fit).unwrap_or(usize::MAX));
    match counted.more {
        Some(_) => format!("at least {jobs}"),
        None => jobs,
    }
}

/// Says what a page is filtered by; nothing where it is not.
fn filter_words(address: &str) -> Option<String> {
    const FILTERS: [&str; 9] = [
        "state",
        "q",
        "owner",
        "label",
        "param",
        "template",
        "since",
        "until",
        "min_duration",
    ];
    let (_, query) = address.split_once('?')?;
    let pairs = super::query::pairs(query).into_iter();
    let words = pairs
        .filter(|(name, value)| FILTERS.contains(&name.as_str()) && !value.trim().is_empty())
        .map(|(name, value)| {
            let name = match name.as_str() {
                "q" => "text",
                "min_duration" => "ran at least",
                "param" => "parameter",
                name => name,
            };
            format!("{name}: {}", value.trim())
        });
    let words: Vec<String> = words.collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn question_of_all(visit: &Visit, asked: &Asked, counted: &Counted, key: &str) -> Markup {
    let deed = asked.deed;
    let unfit = usize::try_from(counted.matched - counted.fit).unwrap_or(usize::MAX);
    html! {
        section.narrow {
            @if counted.fit == 0 {
                h1 { "Nothing to " (deed) }
            } @else {
                h1 { (deed.verb()) " " (how_many(counted)) "?" }
                p {
                    @if let Some(filter) = filter_words(&asked.back) {
                        "All that match " strong { (filter) } " now, also those on other pages. "
                    } @else {
                        "All jobs that there are now. "
                    }
                    (deed.consequence())
                }
            }
            @if unfit > 0 {
                p { "Left as they are, because in their state one cannot " (deed) " them: " (show::jobs(unfit)) "." }
            }
            form.answer method="post" action="/ui/act" {
                (visit.token_field())
                input type="hidden" name="do" value=(deed);
                input type="hidden" name="back" value=(asked.back);
                input type="hidden" name="key" value=(key);
                input type="hidden" name="of" value="filter";
                @if let Some(newest) = counted.newest { input type="hidden" name="newest" value=(newest); }
                @if counted.fit > 0 {
                    button.primary.danger[deed.is_asked()] autofocus { (deed.verb()) " " (how_many(counted)) }
                }
                a.button href=(asked.back) { "Back" }
            }
        }
    }
}

/// Does it to all jobs of a filter, or as many as there is time for.
async fn perform_all(
    visit: &Visit,
    service: &Service,
    asked: &Asked,
    filter: &Filter,
    newest: Option<JobId>,
    key: Option<&str>,
) -> Response {
    let begun = Instant::now();
    // What comes after the id that follows it is the newest one that was counted.
    let mut after = newest.map(JobId::next);
    let (mut done, mut refused) = (0, Vec::new());
    loop {
        let page = Page {
            after,
            limit: PAGE_LIMIT,
        };
        match service.perform_page(&visit.caller, asked.deed, filter, page, key).await {
            Ok(performed) => {
                done += usize::try_from(performed.done).unwrap_or(usize::MAX);
                refused.extend(performed.refused);
                after = performed.more;
            }
            Err(error) => return visit.failure(error),
        }
        if after.is_none() || begun.elapsed() > PATIENCE {
            break;
        }
    }
    if after.is_none() && refused.is_empty() {
        return see_other(&with_notice(&asked.back, asked.deed, done));
    }
    let content = html! {
        (partly(asked, done, &refused))
        @if after.is_some() {
            section.narrow { p { "There are more: go back and ask once more for those that are left." } }
        }
    };
    visit.page(StatusCode::CONFLICT, "Not all was done", None, &content)
}

/// Does it.
pub(super) async fn perform(visit: Visit, Work(service): Work, body: Bytes) -> Response {
    let form = match Form::checked(&visit, &body) {
        Ok(form) => form,
        Err(failure) => return visit.failure(failure),
    };
    let asked = match Asked::read(&form) {
        Ok(asked) => asked,
        Err(failure) => return visit.failure(failure),
    };
    let deed = asked.deed;
    // A form that is sent twice starts nothing twice.
    let key = Some(form.one("key"))
        .filter(|key| !key.is_empty())
        .map(|key| format!("page:{key}"));
    let ids = match &asked.of {
        Of::Ids(ids) => ids,
        Of::Filter(filter, newest) => {
            return perform_all(&visit, &service, &asked, filter, *newest, key.as_deref()).await;
        }
    };
    let results = service.perform_each(&visit.caller, deed, ids, key.as_deref()).await;
    let mut done = 0;
    let mut new = None;
    let mut failed = Vec::new();
    for (id, result) in results {
        match result {
            Ok(made) => {
                done += 1;
                new = made.or(new);
            }
            Err(error) if ids.len() == 1 => return visit.failure(error),
            Err(error) => failed.push((id, error)),
        }
    }
    if !failed.is_empty() {
        return visit.page(
            StatusCode::CONFLICT,
            "Not all was done",
            None,
            &partly(&asked, done, &failed),
        );
    }
    match (deed, ids.as_slice(), new) {
        // Whoever runs one job again wants to see it.
        (Deed::Rerun, [_], Some(new)) => see_other(&format!("/ui/jobs/{new}")),
        _ => see_other(&with_notice(&asked.back, deed, done)),
    }
}

fn partly(asked: &Asked, done: usize, failed: &[(JobId, ServiceError)]) -> Markup {
    html! {
        section.narrow {
            h1 {
                @if failed.is_empty() { "Not all is done yet" } @else { (show::jobs(failed.len())) " could not be done" }
            }
            @if done > 0 { p { (show::jobs(done)) ": " (asked.deed.done()) "." } }
            ul.chosen {
                @for (id, error) in failed {
                    li { a href={ "/ui/jobs/" (id) } { code.id { (id) } } ": " (error) }
                }
            }
            p { a.button href=(asked.back) { "Back" } }
        }
    }
}

/// Puts into an address what its page is to say; [`notice`] takes it out again.
fn with_notice(address: &str, deed: Deed, count: usize) -> String {
    let (path, query) = address.split_once('?').unwrap_or((address, ""));
    let mut pairs = form_urlencoded::Serializer::new(String::new());
    for (name, value) in super::query::pairs(query) {
        if name != "done" && name != "count" {
            pairs.append_pair(&name, &value);
        }
    }
    pairs
        .append_pair("done", deed.name())
        .append_pair("count", &count.to_string());
    format!("{path}?{}", pairs.finish())
}

/// Returns what was done before this page was asked for, by its address.
pub(super) fn notice(query: &str) -> Option<String> {
    let form = Form::unchecked(query);
    let deed = Deed::named(form.one("done"))?;
    let count: usize = form.one("count").parse().ok()?;
    let text = match (deed, count) {
        (Deed::Rerun, 1) => "started again as a new job",
        (Deed::Delete, 1) => "deleted, with its log",
        _ => deed.done(),
    };
    Some(format!("{}: {text}.", show::jobs(count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_said_once_and_filters_stay() {
        let address = with_notice("/?q=a%26b&done=cancel&count=9", Deed::Delete, 2);
        assert_eq!(address, "/?q=a%26b&done=delete&count=2");
        let query = address.split_once('?').expect("a query").1;
        assert_eq!(notice(query).as_deref(), Some("2 jobs: deleted, with their logs."));
        assert_eq!(notice("done=delete&count=<b>"), None);
        assert_eq!(notice("done=x&count=1"), None);
        assert_eq!(with_notice("/", Deed::Rerun, 1), "/?done=rerun&count=1");
    }

    #[test]
    fn a_filter_is_told_in_words() {
        let words = filter_words("/?q=a%26b&state=failed&after=0000000000001&owner=+&done=cancel&limit=500");
        assert_eq!(words.as_deref(), Some("text: a&b, state: failed"));
        assert_eq!(filter_words("/?limit=500"), None);
        assert_eq!(filter_words("/"), None);
    }

    #[test]
    fn only_sane_requests_are_taken() {
        let read = |text: &str| Asked::read(&Form::unchecked(text));
        let asked =
            read("do=cancel&id=0000000000001&id=0000000000002&id=0000000000001&id=x&back=//evil").map_err(|_| ());
        let asked = asked.expect("good");
        assert!(matches!(&asked.of, Of::Ids(ids) if ids.len() == 2));
        assert_eq!(asked.back, "/");
        let all =
            read("do=delete&of=filter&back=/%3Fstate%3Dfailed%26q%3Da%26after%3D0000000000001&newest=0000000000007");
        let all = all.map_err(|_| ()).expect("good");
        let Of::Filter(filter, newest) = &all.of else {
            panic!("a filter was asked for");
        };
        assert_eq!(filter.states, [crate::dashboard::job::State::Failed]);
        assert_eq!(filter.text.as_deref(), Some("a"));
        assert_eq!(newest.map(|id| id.to_string()).as_deref(), Some("0000000000007"));
        assert!(read("do=delete&of=filter&back=/%3Fstate%3Dno").is_err());
        assert!(read("do=format&id=0000000000001").is_err());
        assert!(read("do=cancel").is_err());
        let many: Vec<String> = (0..=PAGE_LIMIT).map(|number| format!("&id={number:013}")).collect();
        assert!(read(&format!("do=cancel{}", many.concat())).is_err());
    }
}
