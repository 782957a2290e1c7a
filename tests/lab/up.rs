//! A lab that is up: what it is made of, and that making it again changes nothing.

use anyhow::{Result, ensure};

use crate::Test;
use crate::support::{Lab, NAME};

/// The tests of this file, in order.
pub(crate) const TESTS: &[Test] = &[
    ("up::the_node_is_ready", the_node_is_ready),
    (
        "up::the_second_time_nothing_is_to_be_done",
        the_second_time_nothing_is_to_be_done,
    ),
    ("up::the_doctor_finds_no_problem", the_doctor_finds_no_problem),
    ("up::no_log_has_a_key", no_log_has_a_key),
    ("up::env_leads_to_the_same_cluster", env_leads_to_the_same_cluster),
    (
        "up::the_exit_code_of_kubectl_is_passed_on",
        the_exit_code_of_kubectl_is_passed_on,
    ),
];

fn the_node_is_ready(lab: &Lab) -> Result<()> {
    let ready = lab.ok(&[
        "kubectl",
        "get",
        "nodes",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type==\"Ready\")].status}{end}",
    ])?;
    ensure!(ready == format!("{NAME}-control-plane=True"), "{ready}");
    Ok(())
}

fn the_second_time_nothing_is_to_be_done(lab: &Lab) -> Result<()> {
    lab.nothing_to_do()
}

fn the_doctor_finds_no_problem(lab: &Lab) -> Result<()> {
    let report = lab.ok(&["doctor"])?;
    ensure!(!report.contains("PROBLEM"), "{report}");
    Ok(())
}

fn no_log_has_a_key(lab: &Lab) -> Result<()> {
    // Users attach these files to reports.
    let logs = labctl::drive::files::walk(&lab.dir().join("logs"))?;
    ensure!(logs.iter().any(|log| log.ends_with("cluster.log")), "{logs:?}");
    for log in logs {
        let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        for secret in ["PRIVATE KEY", "client-key-data", "LS0tLS1CRUdJTi"] {
            ensure!(!text.contains(secret), "{} has `{secret}`", log.display());
        }
    }
    Ok(())
}

fn env_leads_to_the_same_cluster(lab: &Lab) -> Result<()> {
    let text = lab.ok(&["env", "--json"])?;
    let variables: serde_json::Value = serde_json::from_str(text.lines().next().unwrap_or_default())?;
    let kubeconfig = variables["KUBECONFIG"].as_str().unwrap_or_default();
    ensure!(std::path::Path::new(kubeconfig).exists(), "{text}");
    let context = lab.ok(&[
        "kubectl",
        "config",
        "view",
        "--output=jsonpath={.contexts[0].context.cluster}",
    ])?;
    ensure!(context == format!("kind-{NAME}"), "{context}");
    ensure!(variables["DOCKER_HOST"].is_string(), "{text}");
    Ok(())
}

fn the_exit_code_of_kubectl_is_passed_on(lab: &Lab) -> Result<()> {
    let output = lab.labctl(&["kubectl", "get", "no-such-kind"])?;
    ensure!(output.status.code() == Some(1), "{:?}", output.status);
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("the server doesn't have a resource type"), "{said}");
    Ok(())
}
