//! The first chapters, judged over evidence of worlds that are well and of worlds that are broken.

use serde_json::{Value, json};

use crate::check::evidence::{Candidate, Evidence, History, Seen};
use crate::check::judge::{self, Next, Reason, Verdict};
use crate::course::catalogue::Catalogue;

/// Judges one check as if it had seen only this, until it was decided. Returns the verdict and the cause.
fn verdict(chapter: &str, id: &str, evidence: &Evidence) -> (Verdict, String) {
    let chapter = Catalogue::embedded()
        .find(chapter)
        .expect("there")
        .read()
        .expect("valid");
    let check = chapter
        .checks
        .iter()
        .find(|check| check.id == id)
        .expect("such a check");
    let facts = [("kubernetes_minor", "1.37"), ("namespace", "job-dashboard")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let expect = check
        .ask
        .map_text(&|text| crate::check::ask::fill(text, &facts))
        .expect();
    let mut history = History::default();
    for second in 0..600 {
        history.add(second * 1000, evidence.clone());
        if let Next::Done(judgement) = judge::history(check, &expect, &history, second * 1000) {
            let cause = match judgement.reason {
                Reason::Unmet { cause, finding } => cause.unwrap_or(finding.actual),
                Reason::Aborted { cause, .. } => cause,
                other => other.code().to_owned(),
            };
            return (judgement.verdict, cause);
        }
    }
    panic!("{id} was never decided");
}

fn objects(all: Vec<Value>) -> Evidence {
    Evidence::Seen(Seen {
        candidates: all
            .into_iter()
            .map(|value| Candidate {
                name: value["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                value,
            })
            .collect(),
        note: None,
    })
}

fn ran(exit: i32, stdout: &str, stderr: &str) -> Evidence {
    let mut value = json!({"exit": exit, "stdout": stdout, "stderr": stderr, "output": format!("{stdout}{stderr}")});
    if let Ok(json) = serde_json::from_str::<Value>(stdout) {
        value["json"] = json;
    }
    Evidence::one("", value)
}

/// A Deployment as Kubernetes shows it when all is well.
fn deployment() -> Value {
    json!({
        "metadata": {
            "name": "job-dashboard", "namespace": "job-dashboard", "generation": 1,
            "labels": {"app.kubernetes.io/managed-by": "Helm", "app.kubernetes.io/instance": "job-dashboard"},
            "annotations": {"meta.helm.sh/release-name": "job-dashboard"},
        },
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{
            "name": "server",
            "readinessProbe": {"httpGet": {"path": "/readyz"}},
            "livenessProbe": {"httpGet": {"path": "/livez"}},
            "resources": {"requests": {"cpu": "25m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        }]}}},
        "status": {
            "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1,
            "conditions": [
                {"type": "Available", "status": "True"},
                {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
            ],
        },
    })
}

fn changed(mut object: Value, change: impl FnOnce(&mut Value)) -> Evidence {
    change(&mut object);
    objects(vec![object])
}

fn slice(endpoints: &Value) -> Evidence {
    objects(vec![
        json!({"metadata": {"name": "job-dashboard-x", "generation": 3}, "endpoints": endpoints}),
    ])
}

fn answer(status: u16, kind: &str, body: &Value) -> Evidence {
    Evidence::one(
        "",
        json!({"status": status, "content_type": kind, "headers": {}, "body": body.to_string(), "json": body}),
    )
}

#[test]
fn a_world_that_is_well_passes_every_check() {
    let node = json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let ready = json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod"}}]);
    let healthy = || answer(200, "application/json", &json!({"status": "ok"}));
    let service = json!({
        "metadata": {"name": "job-dashboard", "annotations": {"meta.helm.sh/release-name": "job-dashboard"}},
        "spec": {"ports": [{"name": "http", "port": 80, "nodePort": 30080}]},
    });
    let past = r#"[
        {"revision": 1, "description": "Install complete"},
        {"revision": 2, "description": "Upgrade complete"},
        {"revision": 3, "description": "Rollback to 1"}
    ]"#;
    let world = [
        ("01", "kubectl-lists-nodes", ran(0, r#"{"items": [{}]}"#, "")),
        (
            "01",
            "server-version",
            ran(0, r#"{"serverVersion": {"gitVersion": "v1.37.2"}}"#, ""),
        ),
        ("01", "nodes-ready", objects(vec![node.clone()])),
        ("01", "nodes-take-pods", objects(vec![node])),
        ("01", "coredns-available", objects(vec![deployment()])),
        ("01", "dns-endpoints", slice(&ready)),
        (
            "01",
            "dns-answers",
            ran(0, "GET http://x/: 400 in 3 ms, as expected\n", ""),
        ),
        ("01", "dashboard-runs", objects(vec![deployment()])),
        ("01", "node-port-open", objects(vec![service.clone()])),
        ("01", "port-answers", healthy()),
        ("02", "deployment-available", objects(vec![deployment()])),
        ("02", "probes-set", objects(vec![deployment()])),
        ("02", "resources-set", objects(vec![deployment()])),
        ("02", "service-endpoints", slice(&ready)),
        ("02", "forward-healthz", healthy()),
        ("02", "manifests-run", ran(0, "", "")),
        (
            "03",
            "release-deployed",
            ran(0, r#"{"name": "job-dashboard", "info": {"status": "deployed"}}"#, ""),
        ),
        ("03", "deployment-owned", objects(vec![deployment()])),
        ("03", "service-owned", objects(vec![service])),
        ("03", "port-healthz", healthy()),
        ("03", "upgraded", ran(0, past, "")),
        ("03", "rolled-back", ran(0, past, "")),
        ("03", "second-release", objects(vec![deployment(), deployment()])),
        ("03", "chart-renders", ran(0, "spec:\n  replicas: 2\n", "")),
        (
            "03",
            "wrong-type-refused",
            ran(
                1,
                "",
                "- replicaCount: Invalid type. Expected: integer, given: string\n",
            ),
        ),
        (
            "03",
            "misspelt-value-refused",
            ran(1, "", "- (root): Additional property replicaCont is not allowed\n"),
        ),
    ];
    let mut judged = Vec::new();
    for (chapter, id, evidence) in &world {
        assert_eq!(
            verdict(chapter, id, evidence),
            (Verdict::Pass, "held".into()),
            "{chapter}/{id}"
        );
        judged.push(format!("{chapter}/{id}"));
    }
    for entry in Catalogue::embedded()
        .entries()
        .iter()
        .filter(|entry| ["01", "02", "03"].contains(&&*entry.id))
    {
        for check in entry.read().expect("valid").checks {
            let name = format!("{}/{}", entry.id, check.id);
            assert!(judged.contains(&name), "{name} is not in this test");
        }
    }
}

#[test]
fn a_broken_world_fails_with_its_reason() {
    let without_probe = |object: &mut Value| {
        object["spec"]["template"]["spec"]["containers"] = json!([
            {"name": "server", "readinessProbe": {}, "livenessProbe": {}},
            {"name": "sidecar", "livenessProbe": {}},
        ]);
    };
    let idle = || {
        changed(deployment(), |d| {
            d["spec"]["replicas"] = json!(0);
            d["status"] = json!({"observedGeneration": 1, "conditions": [{"type": "Available", "status": "True"}]});
        })
    };
    let worlds = [
        (
            "01",
            "kubectl-lists-nodes",
            ran(1, "", "The connection to the server 127.0.0.1:1 was refused\n"),
            "nothing listens where",
        ),
        (
            "01",
            "kubectl-lists-nodes",
            ran(1, "", "error: You must be logged in to the server (Unauthorized)\n"),
            "does not know the certificate",
        ),
        ("01", "kubectl-lists-nodes", ran(0, r#"{"items": []}"#, ""), "[]"),
        (
            "01",
            "server-version",
            ran(0, r#"{"serverVersion": {"gitVersion": "v1.31.0"}}"#, ""),
            "another version of Kubernetes",
        ),
        ("01", "nodes-ready", objects(vec![]), "none"),
        (
            "01",
            "nodes-ready",
            objects(vec![
                json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
            ]),
            "has stopped to report",
        ),
        ("01", "coredns-available", idle(), "scaled to 0"),
        ("01", "dns-endpoints", slice(&json!(null)), "none"),
        (
            "01",
            "nodes-take-pods",
            objects(vec![
                json!({"metadata": {"name": "n"}, "spec": {"unschedulable": true}}),
            ]),
            "is cordoned",
        ),
        (
            "01",
            "dns-answers",
            ran(
                3,
                "",
                "failed to lookup address information: Name or service not known\n",
            ),
            "knows no such name",
        ),
        (
            "01",
            "port-answers",
            answer(200, "application/json", &json!({"lastUpdated": "now"})),
            "it is not the dashboard",
        ),
        (
            "02",
            "manifests-run",
            ran(0, "", "Warning: unknown field \"spec.replica\"\n"),
            "is misspelt or in the wrong place",
        ),
        ("02", "deployment-available", objects(vec![]), "no such Deployment"),
        ("02", "deployment-available", idle(), "asks for 0 pods"),
        (
            "02",
            "deployment-available",
            changed(deployment(), |d| d["metadata"]["generation"] = json!(2)),
            "of an older spec",
        ),
        (
            "02",
            "deployment-available",
            changed(deployment(), |d| d["status"]["unavailableReplicas"] = json!(1)),
            "a pod is not ready",
        ),
        (
            "02",
            "probes-set",
            changed(deployment(), without_probe),
            "without a readiness probe",
        ),
        (
            "02",
            "resources-set",
            changed(deployment(), without_probe),
            "without a memory limit",
        ),
        ("02", "service-endpoints", slice(&json!(null)), "selects no pod at all"),
        (
            "02",
            "service-endpoints",
            slice(&json!([{"conditions": {"ready": false}}])),
            "none of them is ready",
        ),
        ("02", "service-endpoints", objects(vec![]), "no such Service"),
        (
            "02",
            "forward-healthz",
            Evidence::nothing("Service s selects no pod"),
            "the way ends at the Service's port",
        ),
        (
            "02",
            "forward-healthz",
            answer(200, "text/html", &json!({"status": "ok"})),
            "\"text/html\"",
        ),
        (
            "03",
            "release-deployed",
            ran(1, "", "Error: release: not found\n"),
            "keeps no record of a release",
        ),
        (
            "03",
            "release-deployed",
            ran(
                0,
                r#"{"name": "job-dashboard", "info": {"status": "pending-upgrade"}}"#,
                "",
            ),
            "was cut off",
        ),
        ("03", "deployment-owned", objects(vec![]), "a record is not the thing"),
        (
            "03",
            "deployment-owned",
            changed(deployment(), |d| d["metadata"]["annotations"] = json!({})),
            "does not name a release",
        ),
        (
            "03",
            "port-healthz",
            Evidence::nothing("connection refused"),
            "only a Service of the type NodePort",
        ),
        (
            "03",
            "upgraded",
            ran(0, r#"[{"revision": 1, "description": "Install complete"}]"#, ""),
            "no upgrade that was completed",
        ),
        (
            "03",
            "rolled-back",
            ran(0, r#"[{"revision": 2, "description": "Upgrade complete"}]"#, ""),
            "has no rollback",
        ),
        ("03", "second-release", objects(vec![deployment()]), "there are not two"),
        (
            "03",
            "wrong-type-refused",
            ran(0, "  replicas: many\n", ""),
            "no schema stands between",
        ),
        (
            "03",
            "wrong-type-refused",
            ran(1, "", "Error: path not found\n"),
            "did not say which value is wrong",
        ),
        (
            "03",
            "misspelt-value-refused",
            ran(0, "  replicas: 1\n", ""),
            "taken without a word",
        ),
    ];
    for (chapter, id, evidence, reason) in &worlds {
        let (verdict, cause) = verdict(chapter, id, evidence);
        assert_eq!(verdict, Verdict::Fail, "{chapter}/{id}: {cause}");
        assert!(cause.contains(reason), "{chapter}/{id}: {cause}");
    }
}
