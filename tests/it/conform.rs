//! The conformance suite against child processes; `tests/lab` runs it against a cluster.

use crate::conformance::Subject;
use crate::postgres;

fn conforms(url: Option<&str>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut args = vec!["--runner", "process", "--slots", "64"];
    let variables: Vec<_> = url.map(|url| ("LABCTL_STORE", url)).into_iter().collect();
    if url.is_none() {
        args.extend(["--quota", "256"]);
    }
    // A process keeps nothing of a job whose log is stored.
    let subject = Subject::start(dir.path(), &args, &variables, |_| {});
    if let Err(failed) = subject.conforms() {
        panic!("{failed}");
    }
}

#[test]
fn processes_with_sqlite_conform() {
    conforms(None);
}

#[test]
fn processes_with_postgresql_conform() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let Some(url) = runtime.block_on(async { Some(postgres::shared().await?.database().await) }) else {
        return;
    };
    conforms(Some(&url));
}
