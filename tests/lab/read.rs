//! The chapters as a reader goes through them: each command of a README is typed, and what it prints is compared with what
//! the README shows. What a reader does with an editor stands in comments there.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::Test;
use crate::support::{Lab, NAME, PORTS, both};

/// The tests of this file, in order.
pub(crate) const TESTS: &[Test] = &[
    ("read::chapter_00", |lab| read(lab, "00-simple-http-api")),
    ("read::chapter_01", |lab| read(lab, "01-kind-cluster")),
    ("read::chapter_02", |lab| read(lab, "02-manifests")),
    ("read::chapter_03", |lab| read(lab, "03-helm-chart")),
    ("read::chapter_04", |lab| read(lab, "04-jobs")),
    ("read::chapter_05", |lab| read(lab, "05-streaming")),
];

/// How long a reader who does not think may take.
const LIMIT: &str = "6m";

/// Types what a README says, on this lab instead of the reader's own, and leaves the lab as it was.
fn read(lab: &Lab, chapter: &str) -> Result<()> {
    let settings = lab.settings()?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path that is text");
    let readme = text(
        &Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("labs")
            .join(chapter)
            .join("README.md"),
    )?;
    let state = text(settings.dirs.state())?;
    let cache = text(settings.dirs.cache())?;
    let mut args = vec!["blog".to_owned(), "test".into(), readme, "--limit".into(), LIMIT.into()];
    for assignment in [
        format!("LABCTL_LAB={NAME}"),
        format!("LABCTL_STATE_DIR={state}"),
        format!("LABCTL_CACHE_DIR={cache}"),
    ] {
        args.extend(["--env".into(), assignment]);
    }
    // A reader's lab has another name and other ports.
    for exchange in [
        format!("labctl-control-plane={NAME}-control-plane"),
        format!("labctl-registry={NAME}-registry"),
        format!("kind-labctl=kind-{NAME}"),
        format!("127.0.0.1:8080=127.0.0.1:{}", PORTS.http),
        format!("127.0.0.1:8090=127.0.0.1:{}", PORTS.metrics),
    ] {
        args.extend(["--with".into(), exchange]);
    }
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let output = lab.labctl(&args);
    // Whatever the reader came to, the next test finds the lab as `up` made it.
    lab.ok(&["up"])?;
    let output = output?;
    ensure!(output.status.success(), "{}", both(&output));
    Ok(())
}
