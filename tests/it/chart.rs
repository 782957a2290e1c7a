//! The job-dashboard's chart: rendered by the real Helm, each object read as the type that Kubernetes gives it.
//!
//! An object is read strictly: what is left over after a round trip through the type is a field that Kubernetes does
//! not know. That is what kubeconform does with schemas from the network, done with the types this crate is built with.

mod priorities;

use std::path::PathBuf;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::serde::Serialize;
use k8s_openapi::serde::de::DeserializeOwned;
use labctl::config;
use labctl::drive::exec::{Cmd, Exec, ExecError, System};
use serde_json::Value;

use crate::harness::checkout;

/// Finds Helm: `LABCTL_TEST_HELM`, PATH, then what labctl itself downloaded or built.
fn helm() -> Option<PathBuf> {
    let cache = config::Dirs::from_environment().ok();
    let own = cache.as_ref().map(config::Dirs::tools);
    let built = cache.map(|dirs| dirs.cache().join("go/out"));
    let on_path = config::variable("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let named = config::variable("LABCTL_TEST_HELM").map(PathBuf::from);
    let found = named
        .into_iter()
        .chain(on_path.into_iter().flatten().map(|dir| dir.join("helm")))
        .chain(own.iter().map(|dir| dir.join("helm")))
        .chain(own.iter().chain(&built).flat_map(|dir| below(dir, "helm")))
        .find(|path| path.is_file());
    if found.is_none() {
        assert!(
            config::variable("LABCTL_REQUIRE_LAB").is_none(),
            "there is no helm, and LABCTL_REQUIRE_LAB forbids to skip"
        );
        let said = "SKIPPED: there is no helm on PATH, in LABCTL_TEST_HELM or in labctl's cache\n";
        _ = std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes());
    }
    found
}

fn below(dir: &std::path::Path, name: &str) -> Vec<PathBuf> {
    let files = labctl::drive::files::walk(dir).unwrap_or_default();
    files.into_iter().filter(|path| path.ends_with(name)).collect()
}

async fn run(helm: &PathBuf, args: &[&str], set: &[&str]) -> Result<String, ExecError> {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut cmd = Cmd::new(helm)
        .args(args.iter().copied())
        .env("HOME", home.path())
        .without_env("KUBECONFIG");
    for set in set {
        // Values as JSON, so that a test says of which type they are.
        cmd = cmd.args(["--set-json", set]);
    }
    System.run(&cmd).await.map(|output| output.stdout)
}

fn chart() -> String {
    checkout().join("charts/job-dashboard").display().to_string()
}

async fn render(helm: &PathBuf, release: &str, set: &[&str]) -> Vec<Value> {
    let chart = chart();
    let args = ["template", release, &chart, "--namespace", "demo"];
    let text = run(helm, &args, set)
        .await
        .unwrap_or_else(|error| panic!("{set:?}: {error}"));
    let objects: Vec<Option<Value>> =
        serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    objects.into_iter().flatten().collect()
}

fn kind<'a>(objects: &'a [Value], kind: &str) -> Option<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind)
}

/// Reads an object as a type and returns what the type does not know, as paths.
fn unknown<T: DeserializeOwned + Serialize>(object: &Value) -> Vec<String> {
    let read: T = T::deserialize(object).unwrap_or_else(|error| panic!("{error}: {object:#}"));
    let back = serde_json::to_value(&read).expect("an object");
    let mut lost = Vec::new();
    compare(object, &back, "", &mut lost);
    lost
}

fn compare(sent: &Value, kept: &Value, at: &str, lost: &mut Vec<String>) {
    match (sent, kept) {
        (Value::Object(sent), Value::Object(kept)) => {
            for (name, value) in sent {
                let at = format!("{at}/{name}");
                match kept.get(name) {
                    Some(kept) => compare(value, kept, &at, lost),
                    None => lost.push(at),
                }
            }
        }
        (Value::Array(sent), Value::Array(kept)) if sent.len() == kept.len() => {
            for (index, (sent, kept)) in sent.iter().zip(kept).enumerate() {
                compare(sent, kept, &format!("{at}/{index}"), lost);
            }
        }
        _ if sent == kept => {}
        _ => lost.push(format!("{at} ({sent} became {kept})")),
    }
}

fn unknown_fields(object: &Value) -> Vec<String> {
    match (object["apiVersion"].as_str(), object["kind"].as_str()) {
        (Some("apps/v1"), Some("Deployment")) => unknown::<Deployment>(object),
        (Some("v1"), Some("Service")) => unknown::<Service>(object),
        (Some("v1"), Some("PersistentVolumeClaim")) => unknown::<PersistentVolumeClaim>(object),
        (Some("v1"), Some("ServiceAccount")) => unknown::<ServiceAccount>(object),
        (Some("v1"), Some("Pod")) => unknown::<Pod>(object),
        (Some("policy/v1"), Some("PodDisruptionBudget")) => unknown::<PodDisruptionBudget>(object),
        (Some("rbac.authorization.k8s.io/v1"), Some("Role")) => unknown::<Role>(object),
        (Some("rbac.authorization.k8s.io/v1"), Some("RoleBinding")) => unknown::<RoleBinding>(object),
        other => panic!("{other:?} is not one of the chart's kinds"),
    }
}

/// Returns what PodSecurity `restricted` of Kubernetes 1.37 would refuse in a pod's spec, as far as the chart can get
/// there; see kubernetes.io/docs/concepts/security/pod-security-standards.
fn not_restricted(spec: &Value) -> Vec<&'static str> {
    let mut wrong = Vec::new();
    let pod = &spec["securityContext"];
    let mut want = |holds: bool, what| {
        if !holds {
            wrong.push(what);
        }
    };
    want(pod["runAsNonRoot"] == true, "runAsNonRoot");
    want(pod["runAsUser"].as_u64().is_some_and(|user| user != 0), "runAsUser");
    want(pod["seccompProfile"]["type"] == "RuntimeDefault", "seccompProfile");
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        want(spec[field].is_null(), "host namespaces");
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let allowed = ["emptyDir", "secret", "persistentVolumeClaim"];
        want(allowed.iter().any(|kind| volume[*kind].is_object()), "volumes");
    }
    let containers = spec["containers"].as_array().expect("containers");
    for container in containers {
        let context = &container["securityContext"];
        want(context["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation");
        want(
            context["capabilities"] == serde_json::json!({"drop": ["ALL"]}),
            "capabilities",
        );
        want(context["privileged"].is_null(), "privileged");
        for port in container["ports"].as_array().into_iter().flatten() {
            want(port["hostPort"].is_null(), "hostPort");
        }
        // Not asked by `restricted`; asked by us.
        want(context["readOnlyRootFilesystem"] == true, "readOnlyRootFilesystem");
    }
    wrong
}

const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Values that are unusual and right.
const ODD: &[&[&str]] = &[
    &[],
    &["replicaCount=0"],
    &["replicaCount=3"],
    &[r#"service={"type":"NodePort","nodePort":30080}"#],
    &[r#"service={"type":"NodePort"}"#, "service.port=65535"],
    &[r#"service.type="LoadBalancer""#],
    &[r#"image.repository="localhost:5001/a/b-c_d.e""#, r#"image.tag="1.10""#],
    &[r#"image.tag="""#],
    &[r#"serviceAccount={"create":false,"name":"there","automount":true}"#],
    &[r#"auth.tokenSecret="people""#],
    &["runner.kubernetes.enabled=true", r#"auth.tokenSecret="people""#],
    &[
        r#"runner.kubernetes={"enabled":true,"image":"localhost:5001/a/b:1"}"#,
        r#"auth.tokenSecret="people""#,
    ],
    &[
        "runner.kubernetes.enabled=true",
        r#"auth.tokenSecret="people""#,
        r#"store={"persistence":{"enabled":true,"size":"500Mi","storageClass":"fast"},"quotaMiB":200}"#,
    ],
    &[
        "runner.kubernetes.enabled=true",
        r#"auth.tokenSecret="people""#,
        r#"store.urlSecret="database""#,
        "replicaCount=2",
    ],
    &["store.persistence.enabled=true", "replicaCount=2"],
    &[r#"fullnameOverride="other""#, r#"nameOverride="name""#],
    &[r#"commonLabels={"labctl.dev/lab":"true","team":""}"#],
    &[r#"podAnnotations={"a":"b: c\n- d","n":"1"}"#],
    &[r#"nodeSelector={"kubernetes.io/os":"linux"}"#],
    &[r#"tolerations=[{"key":"a","operator":"Exists","effect":"NoExecute","tolerationSeconds":5}]"#],
    &[r#"resources={"requests":{"cpu":"0.5"},"limits":{"cpu":"1","memory":"1Gi"}}"#],
    &[
        "server.drainSeconds=0",
        r#"server.logFormat="text""#,
        r#"server.logLevel="trace""#,
    ],
];

/// A value, and what Helm must say about it.
const WRONG: &[(&str, &str)] = &[
    ("replicaCont=2", "replicaCont"),
    ("replicaCount=-1", "/replicaCount"),
    ("replicaCount=11", "/replicaCount"),
    (r#"replicaCount="2""#, "/replicaCount"),
    ("replicaCount=1.5", "/replicaCount"),
    (r#"image.repositories="x""#, "repositories"),
    (r#"image.repository="""#, "/image/repository"),
    (r#"image.repository="Upper/case""#, "/image/repository"),
    (r#"image.repository="x:tag:tag""#, "/image/repository"),
    ("image.tag=1.10", "/image/tag"),
    (r#"image.tag="a b""#, "/image/tag"),
    (r#"image.digest="sha256:12""#, "/image/digest"),
    (r#"image.pullPolicy="always""#, "/image/pullPolicy"),
    (r#"server.logLevel="verbose""#, "/server/logLevel"),
    (r#"server.logFormat="xml""#, "/server/logFormat"),
    ("server.drainSeconds=61", "/server/drainSeconds"),
    (r#"server.drainSeconds="5s""#, "/server/drainSeconds"),
    (r#"server.listen="0.0.0.0""#, "listen"),
    ("runner.kubernetes.enabled=true", "/auth/tokenSecret"),
    (r#"auth.tokenSecret="a b""#, "/auth/tokenSecret"),
    (r#"auth.token="x""#, "token"),
    (r#"runner.kubernetes.enabled="yes""#, "/runner/kubernetes/enabled"),
    (r#"runner.kubernetes.image="a b""#, "/runner/kubernetes/image"),
    (r#"runner.kubernetes.namespace="x""#, "namespace"),
    ("runner.process={}", "process"),
    (r#"store.persistence.enabled="yes""#, "/store/persistence/enabled"),
    (r#"store.persistence.size="2""#, "/store/persistence/size"),
    (r#"store.persistence.size="0Gi""#, "/store/persistence/size"),
    (
        r#"store.persistence.storageClass="A""#,
        "/store/persistence/storageClass",
    ),
    ("store.quotaMiB=0", "/store/quotaMiB"),
    (r#"store.url="postgres://x""#, "url"),
    (r#"store.urlSecret="a b""#, "/store/urlSecret"),
    (r#"service.type="nodeport""#, "/service/type"),
    ("service.port=0", "/service/port"),
    ("service.port=65536", "/service/port"),
    ("service.nodePort=30080", "/service/nodePort"),
    (r#"service={"type":"NodePort","nodePort":8080}"#, "/service/nodePort"),
    (r#"service={"type":"NodePort","nodePort":32768}"#, "/service/nodePort"),
    ("serviceAccount.create=false", "/serviceAccount/name"),
    (r#"serviceAccount.create="yes""#, "/serviceAccount/create"),
    ("resources.limits.memory=128", "/resources/limits/memory"),
    (r#"resources.limits.memory="128m""#, "/resources/limits/memory"),
    (r#"resources.requests.cpu="a lot""#, "/resources/requests/cpu"),
    ("resources.requests.gpu=1", "gpu"),
    // Helm's validator gives a wrong path for names of properties.
    (
        r#"commonLabels={"app.kubernetes.io/name":"x"}"#,
        "app.kubernetes.io/name",
    ),
    (r#"commonLabels={"a b":"x"}"#, "a b"),
    (r#"commonLabels={"a":"x y"}"#, "/commonLabels"),
    (r#"commonLabels={"a":1}"#, "/commonLabels/a"),
    (r#"podAnnotations={"a":true}"#, "/podAnnotations/a"),
    (r#"tolerations={"key":"a"}"#, "/tolerations"),
    (r#"tolerations=[{"kye":"a"}]"#, "kye"),
    (r#"fullnameOverride="Upper""#, "/fullnameOverride"),
    (r#"fullnameOverride="a.b""#, "/fullnameOverride"),
    (r#"nameOverride="-a""#, "/nameOverride"),
];

#[tokio::test]
async fn lint_has_nothing_to_say() {
    let Some(helm) = helm() else { return };
    let said = run(&helm, &["lint", "--strict", &chart()], &[])
        .await
        .expect("it passes");
    assert!(said.contains("1 chart(s) linted, 0 chart(s) failed"), "{said}");
    assert!(!said.contains("WARNING"), "{said}");
}

#[tokio::test]
async fn kubernetes_knows_every_field_of_every_object() {
    let Some(helm) = helm() else { return };
    for set in ODD {
        for object in render(&helm, "job-dashboard", set).await {
            assert_eq!(unknown_fields(&object), [""; 0], "{set:?} {}", object["kind"]);
            assert_eq!(object["metadata"]["namespace"], "demo");
            let labels = &object["metadata"]["labels"];
            for label in ["name", "instance", "version", "managed-by", "part-of", "component"] {
                let label = format!("app.kubernetes.io/{label}");
                assert!(labels[&label].is_string(), "{set:?} {} lacks {label}", object["kind"]);
            }
            let spec = match object["kind"].as_str() {
                Some("Deployment") => &object["spec"]["template"]["spec"],
                Some("Pod") => &object["spec"],
                _ => continue,
            };
            assert_eq!(not_restricted(spec), [""; 0], "{set:?} {}", object["kind"]);
        }
    }
}

#[test]
fn a_misspelt_field_would_be_seen() {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"},
        "spec": {"ports": [{"port": 80, "targetPrt": "http"}], "typ": "NodePort"},
    });
    assert_eq!(unknown_fields(&object), ["/spec/ports/0/targetPrt", "/spec/typ"]);
    let pod =
        serde_json::json!({"containers": [{"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["X"]}}}]});
    assert!(not_restricted(&pod).contains(&"capabilities"));
}

#[tokio::test]
async fn a_wrong_value_is_refused_with_its_path() {
    let Some(helm) = helm() else { return };
    let chart = chart();
    for (value, place) in WRONG {
        match run(&helm, &["template", "x", &chart], &[value]).await {
            Ok(_) => panic!("{value} is taken"),
            Err(error) => {
                let said = error.tail().join("\n");
                assert!(
                    said.contains("don't meet the specifications of the schema"),
                    "{value}: {said}"
                );
                assert!(said.contains(place), "{value}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn names_follow_the_release_and_two_releases_do_not_meet() {
    let Some(helm) = helm() else { return };
    let long = "a".repeat(53);
    for (release, set, name) in [
        ("job-dashboard", vec![], "job-dashboard".to_owned()),
        ("second", vec![], "second-job-dashboard".to_owned()),
        ("job-dashboard-2", vec![], "job-dashboard-2".to_owned()),
        ("x", vec![r#"fullnameOverride="other""#], "other".to_owned()),
        (long.as_str(), vec![], long.clone()),
    ] {
        let objects = render(&helm, release, &set).await;
        for object in &objects {
            let found = object["metadata"]["name"].as_str().expect("a name");
            let expected = if object["kind"] == "Pod" {
                format!("{name}-test")
            } else {
                name.clone()
            };
            assert_eq!(found, expected);
            assert!(found.len() <= 63);
        }
        let selector = &kind(&objects, "Service").expect("a Service")["spec"]["selector"];
        let deployment = kind(&objects, "Deployment").expect("a Deployment");
        assert_eq!(selector, &deployment["spec"]["selector"]["matchLabels"]);
        assert_eq!(selector["app.kubernetes.io/instance"], release);
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        for (label, value) in selector.as_object().expect("labels") {
            assert_eq!(&labels[label], value, "the Service finds the pods");
        }
        let test = &kind(&objects, "Pod").expect("a test")["metadata"]["labels"];
        assert_ne!(
            test["app.kubernetes.io/component"], selector["app.kubernetes.io/component"],
            "and does not find the test's pod"
        );
    }
}

#[tokio::test]
async fn values_arrive_where_they_belong() {
    let Some(helm) = helm() else { return };
    let objects = render(&helm, "job-dashboard", &[]).await;
    let service = kind(&objects, "Service").expect("a Service");
    assert_eq!(service["spec"]["type"], "ClusterIP");
    assert!(service["spec"]["ports"][0]["nodePort"].is_null());
    assert!(
        kind(&objects, "PodDisruptionBudget").is_none(),
        "it would block a drain"
    );

    let rollout = &kind(&objects, "Deployment").expect("a Deployment")["spec"]["strategy"]["rollingUpdate"];
    assert_eq!(rollout["maxUnavailable"], 0, "an upgrade has no gap");

    let digest = format!("image.digest=\"{DIGEST}\"");
    let set = [
        "replicaCount=2",
        r#"service={"type":"NodePort","nodePort":30080}"#,
        r#"image.repository="r:5000/x""#,
        digest.as_str(),
        "server.drainSeconds=7",
        r#"commonLabels={"labctl.dev/lab":"demo"}"#,
    ];
    let objects = render(&helm, "job-dashboard", &set).await;
    let service = kind(&objects, "Service").expect("a Service");
    assert_eq!(service["spec"]["ports"][0]["nodePort"], 30080);
    assert!(kind(&objects, "PodDisruptionBudget").is_some());
    let pod = &kind(&objects, "Deployment").expect("a Deployment")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["image"], format!("r:5000/x@{DIGEST}"));
    assert_eq!(
        pod["terminationGracePeriodSeconds"], 32,
        "longer than drain and finish together"
    );
    let args: Vec<_> = container["args"]
        .as_array()
        .expect("arguments")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(args.contains(&"--drain=7s"), "{args:?}");
    for object in &objects {
        assert_eq!(object["metadata"]["labels"]["labctl.dev/lab"], "demo");
    }
}

const RUNNING: [&str; 2] = [
    r#"runner.kubernetes={"enabled":true,"image":"r:5000/box:1","priorityClasses":{"create":true}}"#,
    r#"auth.tokenSecret="people""#,
];

/// A file is for one server: never two pods with it. A database on the network is for as many as there are.
#[tokio::test]
async fn jobs_are_kept_where_the_values_say() {
    let Some(helm) = helm() else { return };
    let kept = async |more: &[&str]| {
        let set: Vec<&str> = RUNNING.iter().chain(more).copied().collect();
        let objects = render(&helm, "job-dashboard", &set).await;
        let claim = kind(&objects, "PersistentVolumeClaim").cloned();
        let spec = kind(&objects, "Deployment").expect("a Deployment")["spec"].clone();
        let pod = spec["template"]["spec"].clone();
        let volume = pod["volumes"]
            .as_array()
            .expect("volumes")
            .iter()
            .find(|volume| volume["name"] == "data");
        (
            spec["strategy"].clone(),
            pod["containers"][0].clone(),
            volume.cloned(),
            claim,
        )
    };
    let in_file = |container: &Value| {
        each(&container["args"]).any(|arg| arg == "--data-dir=/var/lib/labctl")
            && each(&container["args"]).any(|arg| arg == "--quota=1024")
            && container["volumeMounts"]
                .as_array()
                .expect("mounts")
                .iter()
                .any(|mount| mount["mountPath"] == "/var/lib/labctl")
    };
    let recreate = serde_json::json!({"type": "Recreate"});

    let (strategy, container, volume, claim) = kept(&[]).await;
    assert!(in_file(&container) && claim.is_none(), "{container}");
    assert_eq!(
        volume.expect("a volume")["emptyDir"],
        serde_json::json!({"sizeLimit": "2Gi"})
    );
    assert_eq!(strategy, recreate);

    let (strategy, container, volume, claim) = kept(&["store.persistence.enabled=true"]).await;
    assert!(in_file(&container), "{container}");
    let claim = claim.expect("a claim");
    assert_eq!(
        volume.expect("a volume")["persistentVolumeClaim"]["claimName"],
        claim["metadata"]["name"]
    );
    assert_eq!(claim["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert_eq!(claim["spec"]["storageClassName"], Value::Null, "the cluster's default");
    assert_eq!(strategy, recreate);

    let (strategy, container, volume, claim) = kept(&[r#"store.urlSecret="database""#, "replicaCount=2"]).await;
    assert!(
        !in_file(&container) && volume.is_none() && claim.is_none(),
        "{container}"
    );
    assert_eq!(strategy["type"], "RollingUpdate");
    let url = container["env"]
        .as_array()
        .expect("variables")
        .iter()
        .find(|variable| variable["name"] == "LABCTL_STORE");
    assert_eq!(
        url.expect("the database")["valueFrom"]["secretKeyRef"],
        serde_json::json!({"name": "database", "key": "url"})
    );

    let two: Vec<&str> = RUNNING.iter().copied().chain(["replicaCount=2"]).collect();
    let refused = run(&helm, &["template", "x", &chart()], &two)
        .await
        .expect_err("refused");
    let said = refused.tail().join("\n");
    assert!(
        said.contains("2 servers cannot share an SQLite file") && said.contains("store.urlSecret"),
        "{said}"
    );
}

/// Rights are given only where jobs are run, and no more than the runner's calls need.
#[tokio::test]
async fn rights_are_as_few_as_can_be() {
    let Some(helm) = helm() else { return };
    let objects = render(&helm, "job-dashboard", &[]).await;
    assert!(kind(&objects, "Role").is_none() && kind(&objects, "RoleBinding").is_none());
    let token = |objects: &[Value]| {
        let pod = &kind(objects, "Deployment").expect("a Deployment")["spec"]["template"]["spec"];
        let account = kind(objects, "ServiceAccount").expect("an account");
        assert_eq!(
            pod["automountServiceAccountToken"],
            account["automountServiceAccountToken"]
        );
        pod["automountServiceAccountToken"] == true
    };
    assert!(!token(&objects));

    let objects = render(&helm, "job-dashboard", &RUNNING).await;
    assert!(token(&objects));
    let mut rights: Vec<String> = Vec::new();
    for rule in kind(&objects, "Role").expect("a Role")["rules"]
        .as_array()
        .expect("rules")
    {
        for (resource, verb) in each(&rule["resources"]).flat_map(|it| each(&rule["verbs"]).map(move |verb| (it, verb)))
        {
            rights.push(format!("{verb} {resource}"));
        }
    }
    rights.sort();
    let expected = "create jobs, delete jobs, get jobs, get pods, get pods/log, list events, list jobs, list pods, \
                    patch jobs, watch events, watch jobs, watch pods";
    assert_eq!(rights.join(", "), expected);
    let binding = kind(&objects, "RoleBinding").expect("a RoleBinding");
    let account = kind(&objects, "ServiceAccount").expect("an account");
    assert_eq!(binding["subjects"][0]["name"], account["metadata"]["name"]);
    let args =
        &kind(&objects, "Deployment").expect("a Deployment")["spec"]["template"]["spec"]["containers"][0]["args"];
    for wanted in ["--runner=kubernetes", "--namespace=demo", "--job-image=r:5000/box:1"] {
        assert!(each(args).any(|arg| arg == wanted), "{args}");
    }
}

fn each(list: &Value) -> impl Iterator<Item = &str> + Clone {
    list.as_array().expect("a list").iter().filter_map(Value::as_str)
}

/// The arguments in the chart are taken by this very program, and nothing renames one without the other.
#[tokio::test]
async fn the_program_takes_the_arguments_of_the_chart() {
    use clap::Parser;
    let Some(helm) = helm() else { return };
    let objects = render(&helm, "job-dashboard", &[]).await;
    let deployment = &kind(&objects, "Deployment").expect("a Deployment")["spec"]["template"]["spec"];
    let test = &kind(&objects, "Pod").expect("a test")["spec"];
    let running_jobs = render(&helm, "job-dashboard", &RUNNING).await;
    let running_jobs = &kind(&running_jobs, "Deployment").expect("a Deployment")["spec"]["template"]["spec"];
    for spec in [deployment, test, running_jobs] {
        let args = spec["containers"][0]["args"].as_array().expect("arguments");
        let words = std::iter::once("labctl").chain(args.iter().filter_map(Value::as_str));
        labctl::cli::Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
    }
    let container = &deployment["containers"][0];
    let port = &container["ports"][0];
    assert_eq!((&port["name"], &port["containerPort"]), (&"http".into(), &8080.into()));
    for (probe, path) in [
        ("startupProbe", "/readyz"),
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/livez"),
    ] {
        assert_eq!(
            container[probe]["httpGet"],
            serde_json::json!({"path": path, "port": "http"}),
            "{probe}"
        );
    }
}

#[test]
fn the_chart_and_the_program_have_one_version() {
    let chart: Value =
        serde_saphyr::from_str(labctl::assets::text("charts/job-dashboard/Chart.yaml").expect("embedded"))
            .expect("YAML");
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}
