//! What an error of the API server means for the one who asked.

use std::error::Error as StdError;

use anyhow::anyhow;
use kube::core::Status;
use kube::runtime::watcher;

use crate::dashboard::runner::RunnerError;

/// The reason of a job that waits because a quota is used up.
pub(super) const QUOTA: &str = "QuotaExceeded";
/// The reason of a job that waits because the dashboard may not create it, or has no namespace to create it in.
pub(super) const FORBIDDEN: &str = "Forbidden";

/// Why a Job was not created.
#[derive(Debug)]
pub(super) enum NotCreated {
    /// One of that name is there already.
    Exists,
    /// The answer may be another one later, and until then the job's owner is told why it waits.
    Waits {
        reason: &'static str,
        message: String,
        error: RunnerError,
    },
    /// What it means for whoever asked.
    Other(RunnerError),
}

/// Returns the status that the API server answered with.
pub(super) fn status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// Returns an error and what caused it, in one line.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // kube writes the cause into its own text as well.
        if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        cause = error.source();
    }
    out
}

/// Returns what an error of any call means.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` calls")]
pub(super) fn of(error: kube::Error) -> RunnerError {
    let Some(status) = status(&error) else {
        return RunnerError::Unavailable(anyhow!("the API server does not answer: {}", chain(&error)));
    };
    match status.code {
        400 | 413 | 422 => RunnerError::Refused(said(status)),
        409 | 429 => RunnerError::Busy(anyhow!("the API server: {}", said(status))),
        _ => RunnerError::Unavailable(anyhow!("the API server: {} (code {})", said(status), status.code)),
    }
}

fn said(status: &Status) -> String {
    if status.message.is_empty() {
        format!("{} (code {})", status.reason, status.code)
    } else {
        status.message.clone()
    }
}

/// Returns what the refusal to create a Job means.
pub(super) fn not_created(error: kube::Error, namespace: &str) -> NotCreated {
    let Some(status) = status(&error) else {
        return NotCreated::Other(of(error));
    };
    let said = said(status);
    let waits = |reason, message: String| NotCreated::Waits {
        error: RunnerError::Busy(anyhow!("{message}")),
        reason,
        message,
    };
    match status.code {
        409 if status.reason == "AlreadyExists" => NotCreated::Exists,
        403 if said.contains("exceeded quota") => waits(
            QUOTA,
            format!("a quota of the namespace `{namespace}` is used up; the job begins when there is room: {said}"),
        ),
        403 if said.contains("being terminated") => NotCreated::Other(RunnerError::Refused(format!(
            "the namespace `{namespace}` is being removed"
        ))),
        // What a person's rights lack, the API server says so; everything else is an admission rule.
        403 if said.contains("cannot create resource") => waits(
            FORBIDDEN,
            format!(
                "the dashboard may not create Jobs in the namespace `{namespace}`; its service account lacks a Role: {said}"
            ),
        ),
        403 => NotCreated::Other(RunnerError::Refused(said)),
        404 => waits(
            FORBIDDEN,
            format!("the namespace `{namespace}` is not there, or has no Jobs: {said}"),
        ),
        _ => NotCreated::Other(of(error)),
    }
}

/// Returns whether something may not be watched.
pub(super) fn is_forbidden(error: &watcher::Error) -> bool {
    watch_status(error).is_some_and(Status::is_forbidden)
}

/// Returns whether a list or a watch cannot go on because the API server does not know any more what was then.
pub(super) fn is_too_old(error: &watcher::Error) -> bool {
    watch_status(error).is_some_and(|status| status.code == 410)
}

fn watch_status(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => status(error),
        watcher::Error::WatchError(status) => Some(status),
        watcher::Error::NoResourceVersion => None,
    }
}

/// Says for `/readyz` why the jobs are not seen any more.
pub(super) fn blind(error: &watcher::Error, namespace: &str) -> String {
    if is_forbidden(error) {
        return format!(
            "the dashboard may not watch the Jobs and pods of the namespace `{namespace}`; its service account lacks a Role: {}",
            chain(error)
        );
    }
    format!("the API server does not answer: {}", chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, reason: &str, message: &str) -> kube::Error {
        kube::Error::Api(Box::new(Status::failure(message, reason).with_code(code)))
    }

    #[test]
    fn what_helps_to_ask_again_is_told_from_what_does_not() {
        for (code, expected) in [
            (400, "refused"),
            (413, "refused"),
            (422, "refused"),
            (409, "busy"),
            (429, "busy"),
            (401, "unavailable"),
            (403, "unavailable"),
            (404, "unavailable"),
            (500, "unavailable"),
            (503, "unavailable"),
            (504, "unavailable"),
        ] {
            let found = match of(api(code, "R", "the words of the server")) {
                RunnerError::Refused(text) => {
                    assert_eq!(text, "the words of the server");
                    "refused"
                }
                RunnerError::Busy(_) => "busy",
                RunnerError::Unavailable(_) => "unavailable",
                RunnerError::Unsupported(_) => "unsupported",
            };
            assert_eq!(found, expected, "{code}");
        }
        let cut = kube::Error::ReadEvents(std::io::Error::other("reset by peer"));
        let RunnerError::Unavailable(error) = of(cut) else {
            panic!("a broken connection is not for good")
        };
        assert!(format!("{error:#}").contains("reset by peer"));
    }

    #[test]
    fn a_quota_and_missing_rights_are_waited_for_and_explained() {
        let quota = "jobs.batch \"job-1\" is forbidden: exceeded quota: few, requested: count/jobs.batch=1, used: count/jobs.batch=2, limited: count/jobs.batch=2";
        let NotCreated::Waits { reason, message, error } = not_created(api(403, "Forbidden", quota), "demo") else {
            panic!("it waits")
        };
        assert_eq!(reason, QUOTA);
        assert!(
            message.contains("`demo`") && message.contains("used: count/jobs.batch=2"),
            "{message}"
        );
        assert!(matches!(error, RunnerError::Busy(_)));
        let rights = "jobs.batch is forbidden: User \"system:serviceaccount:demo:x\" cannot create resource \"jobs\" in API group \"batch\" in the namespace \"demo\"";
        let NotCreated::Waits { reason, message, .. } = not_created(api(403, "Forbidden", rights), "demo") else {
            panic!("it waits")
        };
        assert_eq!(reason, FORBIDDEN);
        assert!(message.contains("lacks a Role"), "{message}");
        let missing = not_created(api(404, "NotFound", "namespaces \"demo\" not found"), "demo");
        assert!(matches!(missing, NotCreated::Waits { reason: FORBIDDEN, .. }));
    }

    #[test]
    fn an_admission_rule_refuses_for_good() {
        let denied = "admission webhook \"policy.example\" denied the request: no";
        for (code, text) in [
            (403, denied),
            (
                403,
                "unable to create new content in namespace demo because it is being terminated",
            ),
            (422, "Job is invalid"),
        ] {
            let refused = not_created(api(code, "Forbidden", text), "demo");
            assert!(
                matches!(refused, NotCreated::Other(RunnerError::Refused(_))),
                "{text}: {refused:?}"
            );
        }
        let exists = not_created(api(409, "AlreadyExists", "exists"), "demo");
        assert!(matches!(exists, NotCreated::Exists));
        let conflict = not_created(api(409, "Conflict", "conflict"), "demo");
        assert!(matches!(conflict, NotCreated::Other(RunnerError::Busy(_))));
    }
}
