//! The conformance suite against the cluster, by a server that is a program outside of it: `labctl serve --runner
//! kubernetes` with a kubeconfig. With SQLite it has the rights that the chart gives, and with PostgreSQL those of whoever
//! has the lab.

use anyhow::Result;

use super::board::{NAMESPACE, place};
use super::{kubectl, name_of};
use crate::Test;
use crate::conformance::Subject;
use crate::postgres;
use crate::support::Lab;

/// The tests of this file, in order.
pub(crate) const TESTS: &[Test] = &[
    ("conform::kubernetes_with_sqlite", kubernetes_with_sqlite),
    ("conform::kubernetes_with_postgresql", kubernetes_with_postgresql),
];

fn conforms(lab: &Lab, kubeconfig: &std::path::Path, url: Option<&str>) -> Result<()> {
    let place = place(lab)?;
    let dir = tempfile::tempdir()?;
    let kubeconfig = kubeconfig.display().to_string();
    let args = [
        "--runner",
        "kubernetes",
        "--kubeconfig",
        &kubeconfig,
        "--namespace",
        NAMESPACE,
        "--job-image",
        &place.image,
    ];
    let variables: Vec<_> = url.map(|url| ("LABCTL_STORE", url)).into_iter().collect();
    let subject = Subject::start(dir.path(), &args, &variables, |id| {
        let name = name_of(id);
        // What printed too much is gone already.
        let words = [
            "delete",
            "job",
            &name,
            "--wait",
            "--cascade=foreground",
            "--ignore-not-found",
        ];
        kubectl(lab, &words).expect("deleted");
    });
    subject.conforms().map_err(anyhow::Error::msg)
}

fn kubernetes_with_sqlite(lab: &Lab) -> Result<()> {
    conforms(lab, &place(lab)?.kubeconfig, None)
}

fn kubernetes_with_postgresql(lab: &Lab) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let Some(url) = runtime.block_on(async { Some(postgres::shared().await?.database().await) }) else {
        return Ok(());
    };
    conforms(lab, &lab.dir().join("kubeconfig"), Some(&url))
}
