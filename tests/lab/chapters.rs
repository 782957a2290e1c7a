//! Chapters 01 to 03 on the lab, and on worlds that were broken on purpose: each fails with its reason, and `up` mends it.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Test;
use crate::support::{Lab, both};

/// The tests of this file, in order.
pub(crate) const TESTS: &[Test] = &[
    ("chapters::all_pass_after_up", all_pass_after_up),
    ("chapters::an_unknown_chapter_is_refused", an_unknown_chapter_is_refused),
    ("chapters::scaled_to_zero_fails", scaled_to_zero_fails),
    ("chapters::a_wrong_selector_fails", a_wrong_selector_fails),
    ("chapters::a_deleted_release_fails", a_deleted_release_fails),
    ("chapters::a_dead_kubeconfig_is_an_error", a_dead_kubeconfig_is_an_error),
    ("chapters::another_cluster_is_an_error", another_cluster_is_an_error),
    (
        "chapters::what_a_learner_did_is_not_asked_of_others",
        what_a_learner_did_is_not_asked_of_others,
    ),
    (
        "chapters::the_selftest_of_01_to_03_is_well",
        the_selftest_of_01_to_03_is_well,
    ),
    ("chapters::helm_test_passes", helm_test_passes),
    ("chapters::the_pod_is_restricted", the_pod_is_restricted),
];

/// The verdict of each check, by the check's id.
type Verdicts = Vec<(String, String)>;

/// Judges a chapter and returns its exit code and the verdict of each check.
fn verdicts(lab: &Lab, args: &[&str]) -> Result<(Option<i32>, Verdicts)> {
    let mut all = vec!["chapter"];
    all.extend(args);
    all.push("--json");
    let output = lab.labctl(&all)?;
    let mut out = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let value: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        if value["event"] == "check-judged" {
            let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            out.push((text("check"), text("verdict")));
        }
    }
    Ok((output.status.code(), out))
}

fn of<'a>(verdicts: &'a [(String, String)], check: &str) -> &'a str {
    verdicts
        .iter()
        .find(|(name, _)| name == check)
        .map_or("none", |(_, verdict)| verdict)
}

fn all_pass_after_up(lab: &Lab) -> Result<()> {
    // Those about what a learner did are left out, as no chapter was started in this folder.
    for (chapter, checks) in [("01", 10), ("02", 5), ("03", 7)] {
        let (code, verdicts) = verdicts(lab, &[chapter, "verify"])?;
        ensure!(code == Some(0), "chapter {chapter}: exit {code:?}: {verdicts:?}");
        let passed = verdicts.iter().filter(|(_, verdict)| verdict == "pass").count();
        ensure!(
            passed == checks && verdicts.len() == checks,
            "chapter {chapter}: {verdicts:?}"
        );
    }
    Ok(())
}

fn an_unknown_chapter_is_refused(lab: &Lab) -> Result<()> {
    let output = lab.labctl(&["chapter", "99", "verify"])?;
    ensure!(output.status.code() == Some(2), "{}", both(&output));
    ensure!(
        String::from_utf8_lossy(&output.stderr).contains("LAB-USE-002"),
        "{}",
        both(&output)
    );
    Ok(())
}

fn scaled_to_zero_fails(lab: &Lab) -> Result<()> {
    lab.ok(&[
        "kubectl",
        "scale",
        "-n",
        "job-dashboard",
        "deploy/job-dashboard",
        "--replicas=0",
    ])?;
    let (code, found) = verdicts(lab, &["02", "verify", "--only", "deployment-available"])?;
    ensure!(code == Some(1), "exit {code:?}: {found:?}");
    ensure!(of(&found, "deployment-available") == "fail", "{found:?}");
    lab.ok(&["up"])?;
    let (code, found) = verdicts(lab, &["02", "verify"])?;
    ensure!(code == Some(0), "after up: {found:?}");
    Ok(())
}

fn a_wrong_selector_fails(lab: &Lab) -> Result<()> {
    let patch = r#"{"spec":{"selector":{"app.kubernetes.io/name":"typo"}}}"#;
    lab.ok(&[
        "kubectl",
        "patch",
        "-n",
        "job-dashboard",
        "svc",
        "job-dashboard",
        "-p",
        patch,
    ])?;
    let (code, found) = verdicts(lab, &["02", "verify"])?;
    ensure!(code == Some(1), "exit {code:?}: {found:?}");
    ensure!(of(&found, "service-endpoints") == "fail", "{found:?}");
    // Its cause is told once: what needs it is skipped, and what does not is judged.
    ensure!(of(&found, "forward-healthz") == "skip", "{found:?}");
    ensure!(of(&found, "deployment-available") == "pass", "{found:?}");
    lab.ok(&["up"])?;
    let (code, found) = verdicts(lab, &["02", "verify"])?;
    ensure!(code == Some(0), "after up: {found:?}");
    Ok(())
}

fn a_deleted_release_fails(lab: &Lab) -> Result<()> {
    lab.ok(&["helm", "uninstall", "job-dashboard", "-n", "job-dashboard", "--wait"])?;
    let (code, found) = verdicts(lab, &["03", "verify"])?;
    ensure!(code == Some(1), "exit {code:?}: {found:?}");
    ensure!(of(&found, "release-deployed") == "fail", "{found:?}");
    lab.ok(&["up"])?;
    let (code, found) = verdicts(lab, &["03", "verify"])?;
    ensure!(code == Some(0), "after up: {found:?}");
    Ok(())
}

fn a_dead_kubeconfig_is_an_error(lab: &Lab) -> Result<()> {
    let path = lab.dir().join("kubeconfig");
    let sound = std::fs::read_to_string(&path)?;
    let server = sound
        .lines()
        .find(|line| line.trim_start().starts_with("server:"))
        .context("a server in the kubeconfig")?;
    // Port 1 on loopback: refused at once.
    let dead = sound.replace(server, "    server: https://127.0.0.1:1");
    labctl::drive::files::write_secret(&path, dead)?;
    let judged = verdicts(lab, &["02", "verify"]);
    labctl::drive::files::write_secret(&path, sound)?;
    let (code, found) = judged?;
    ensure!(code == Some(3), "exit {code:?}: {found:?}");
    ensure!(found.iter().all(|(_, verdict)| verdict != "pass"), "{found:?}");
    Ok(())
}

fn another_cluster_is_an_error(lab: &Lab) -> Result<()> {
    let path = lab.dir().join("cluster-uid");
    let sound = std::fs::read_to_string(&path)?;
    labctl::drive::files::write(&path, "00000000-0000-0000-0000-000000000000\n")?;
    let judged = verdicts(lab, &["01", "verify"]);
    labctl::drive::files::write(&path, sound)?;
    let (code, found) = judged?;
    ensure!(code == Some(3), "exit {code:?}: {found:?}");
    ensure!(found.iter().all(|(_, verdict)| verdict != "pass"), "{found:?}");
    Ok(())
}

fn what_a_learner_did_is_not_asked_of_others(lab: &Lab) -> Result<()> {
    let output = lab.labctl(&["chapter", "03", "verify"])?;
    ensure!(output.status.success(), "{}", both(&output));
    ensure!(both(&output).contains("3 checks were left out"), "{}", both(&output));
    let output = lab.labctl(&["chapter", "03", "verify", "--only", "rolled-back"])?;
    ensure!(output.status.code() == Some(2), "{}", both(&output));
    ensure!(both(&output).contains("labctl chapter 03 start"), "{}", both(&output));
    Ok(())
}

/// Every world of the three chapters, on the lab that the other tests use: it must be left as `up` made it.
fn the_selftest_of_01_to_03_is_well(lab: &Lab) -> Result<()> {
    let start = Instant::now();
    let output = lab.labctl(&["chapter", "selftest", "01", "02", "03"])?;
    ensure!(output.status.success(), "{}", both(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(!said.contains("survivor"), "{said}");
    ensure!(said.matches("\nfault ").count() >= 40, "{said}");
    crate::support::say(&format!(
        "the selftest of chapters 01 to 03 took {:.0} s\n{said}",
        start.elapsed().as_secs_f32()
    ));
    lab.nothing_to_do()?;
    all_pass_after_up(lab)
}

fn helm_test_passes(lab: &Lab) -> Result<()> {
    let said = lab.ok(&["helm", "test", "job-dashboard", "-n", "job-dashboard"])?;
    ensure!(said.contains("Phase:          Succeeded"), "{said}");
    // Its pod stays for a look at it, and whoever reads chapter 02 next has none.
    lab.ok(&["kubectl", "delete", "pod", "job-dashboard-test", "-n", "job-dashboard"])?;
    Ok(())
}

fn the_pod_is_restricted(lab: &Lab) -> Result<()> {
    let json = lab.ok(&[
        "kubectl",
        "get",
        "pods",
        "-n",
        "job-dashboard",
        "-l",
        "app.kubernetes.io/name=job-dashboard",
        "-o",
        "json",
    ])?;
    let pods: Value = serde_json::from_str(&json)?;
    let pod = pods["items"]
        .as_array()
        .and_then(|pods| pods.iter().find(|pod| pod["status"]["phase"] == "Running"))
        .context("a running pod")?;
    let container = &pod["spec"]["containers"][0]["securityContext"];
    ensure!(container["readOnlyRootFilesystem"] == true, "{container}");
    ensure!(container["allowPrivilegeEscalation"] == false, "{container}");
    ensure!(
        pod["spec"]["securityContext"]["runAsNonRoot"] == true,
        "{}",
        pod["spec"]["securityContext"]
    );
    let bytes: u64 = {
        let image = pod["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let json = lab.ok(&["image", "list", "--json"])?;
        let listed: Vec<Value> = json.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        size_of(&Value::Array(listed), &image).with_context(|| format!("`{image}` in {json}"))?
    };
    // The release has a bound of 60 MB, which a unit test holds; the code of a debug build is larger.
    let bound = if cfg!(debug_assertions) {
        120_000_000
    } else {
        60_000_000
    };
    ensure!(bytes < bound, "the dashboard's image has {bytes} bytes");
    Ok(())
}

/// Finds the object that names the image, however deep, and returns its size.
fn size_of(value: &Value, image: &str) -> Option<u64> {
    match value {
        Value::Array(list) => list.iter().find_map(|inner| size_of(inner, image)),
        Value::Object(map) => {
            let named = map.values().any(|inner| inner.as_str() == Some(image));
            let size = ["bytes", "size"].iter().find_map(|name| map.get(*name)?.as_u64());
            match (named, size) {
                (true, Some(size)) => Some(size),
                _ => map.values().find_map(|inner| size_of(inner, image)),
            }
        }
        _ => None,
    }
}
