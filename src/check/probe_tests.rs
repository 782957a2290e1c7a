use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{Request, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect};
use axum::routing::{get, post};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::*;
use crate::check::judge::{self, State};
use crate::check::spec::{self, Check, RawCheck};
use crate::drive::exec::System;

fn check(yaml: &str) -> Check {
    let raw: Vec<RawCheck> = spec::read(&format!("- id: a\n{yaml}")).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    spec::checks(raw)
        .unwrap_or_else(|error| panic!("{error}\n{yaml}"))
        .remove(0)
}

fn context(facts: &[(&str, &str)], cluster: Option<kube::Client>) -> Context<'static> {
    crate::world::install_crypto();
    Context {
        facts: facts
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        saved: std::sync::Mutex::default(),
        kubeconfig: Path::new("/the/labs/kubeconfig"),
        tools: &|name| match name {
            "kubectl" => Ok("/bin/echo".into()),
            _ => Err(anyhow::anyhow!("`{name}` is not here")),
        },
        exec: &System,
        http: http::client().expect("a client"),
        cluster: cluster.ok_or(NoCluster {
            why: "the lab has no cluster".into(),
            next: None,
        }),
    }
}

async fn look(yaml: &str, context: &Context<'_>) -> (State, Evidence) {
    let check = check(yaml);
    let ask = context.fill(&check.ask).expect("every placeholder has a value");
    let evidence = ask.observe(context).await;
    (judge::look(&ask.expect(), &evidence), evidence)
}

fn actual(state: &State) -> String {
    match state {
        State::Unmet(finding) => format!("{}: {}", finding.at, finding.actual),
        other => format!("{other:?}"),
    }
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

fn dashboard() -> Router {
    Router::new()
        .route("/healthz", get(|| async { axum::Json(json!({"status": "ok"})) }))
        .route("/page", get(|| async { Html("<h1>It works</h1>") }))
        .route(
            "/lie",
            get(|| async { ([(header::CONTENT_TYPE, "application/json")], "<h1>It works</h1>") }),
        )
        .route("/moved", get(|| async { Redirect::to("/healthz") }))
        .route(
            "/down",
            get(|| async { (StatusCode::SERVICE_UNAVAILABLE, "starting").into_response() }),
        )
        .route("/big", get(|| async { "x".repeat(3 << 20) }))
        .route(
            "/echo",
            post(|headers: axum::http::HeaderMap, body: String| async move {
                let said = headers
                    .get("x-said")
                    .and_then(|value| value.to_str().ok())
                    .unwrap_or_default()
                    .to_owned();
                (StatusCode::CREATED, axum::Json(json!({"said": said, "body": body})))
            }),
        )
}

#[tokio::test]
async fn http_is_judged_by_what_the_server_says() {
    let url = serve(dashboard()).await;
    let context = context(&[("http_url", &url), ("run_id", "r-1")], None);
    let table = [
        ("/healthz", "{status: 200, json: {$.status: ok}}", "Met"),
        (
            "/healthz",
            "{status: 200, json: {$.status: up}}",
            "json $['status']: \"ok\"",
        ),
        (
            "/healthz",
            "{status: 200, headers: {content-type: application/json}, body: {contains: ok}}",
            "Met",
        ),
        (
            "/healthz",
            "{status: 200, headers: {x-none: {present: true}}}",
            "headers $['x-none']: nothing there",
        ),
        (
            "/page",
            "{status: 200, json: {$.status: ok}}",
            "content_type: \"text/html; charset=utf-8\"",
        ),
        (
            "/lie",
            "{status: 200, json: {$.status: ok}}",
            "json $.status: no JSON but \"<h1>It works</h1>\"",
        ),
        ("/moved", "{status: 200}", "status: 303"),
        ("/down", "{status: 200}", "status: 503"),
        ("/down", "{status: {gte: 500}, body: starting}", "Met"),
        ("/none", "{status: 404}", "Met"),
        ("/big", "{status: 200, body: {len: 1048576}}", "Met"),
    ];
    for (path, expect, said) in table {
        let (state, evidence) = look(
            &format!("  http: {{get: '{{{{http_url}}}}{path}', expect: {expect}}}\n"),
            &context,
        )
        .await;
        if path == "/big" {
            let Evidence::Seen(seen) = &evidence else {
                panic!("{evidence:?}")
            };
            assert_eq!(seen.candidates[0].value["whole"], false, "the cap is what cut it");
            assert!(seen.candidates[0].value["body"].as_str().expect("text").len() <= 1 << 20);
            continue;
        }
        assert_eq!(actual(&state), said, "{path} {expect}");
    }
    let (state, _) = look(
        "  http:\n    post: '{{http_url}}/echo'\n    headers: {x-said: '{{run_id}}'}\n    json: {name: '{{run_id}}'}\n    expect: {status: 201, json: {$.said: '{{run_id}}', $.body: '{\"name\":\"{{run_id}}\"}'}}\n",
        &context,
    )
    .await;
    assert_eq!(state, State::Met);
}

#[tokio::test]
async fn nobody_listening_is_seen_and_is_not_blindness() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let (state, _) = look(
        "  http: {get: '{{http_url}}/x', expect: {status: 200}}\n",
        &context(&[("http_url", &url)], None),
    )
    .await;
    assert_eq!(
        actual(&state),
        "an answer: none: connection refused: nothing listens there"
    );
}

#[tokio::test]
async fn equal_answers_are_equal_evidence() {
    let url = serve(dashboard()).await;
    let context = context(&[("http_url", &url)], None);
    let yaml = "  http: {get: '{{http_url}}/healthz', expect: {status: 200}}\n";
    let (_, one) = look(yaml, &context).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let (_, two) = look(yaml, &context).await;
    assert_eq!(one, two, "the date must not make them differ");
}

#[tokio::test]
async fn programs_are_run_without_a_shell_and_with_the_labs_kubeconfig() {
    let context = context(&[("kubeconfig", "/k"), ("namespace", "n s")], None);
    let table = [
        ("{run: [echo, '$HOME', a b], expect: {stdout: \"$HOME a b\\n\"}}", "Met"),
        ("{run: [kubectl, '{{namespace}}'], expect: {stdout: \"n s\\n\"}}", "Met"),
        (
            "{run: [printenv, KUBECONFIG], expect: {stdout: \"/the/labs/kubeconfig\\n\"}}",
            "Met",
        ),
        (
            "{run: [sh, -c, 'echo out; echo why >&2; exit 3'], expect: {exit: 0}}",
            "exit: 3: why",
        ),
        (
            "{run: [sh, -c, 'echo out; echo why >&2; exit 3'], expect: {exit: 3, stdout: \"out\\n\", stderr: \"why\\n\", output: {contains: why}}}",
            "Met",
        ),
        (
            "{run: [sh, -c, 'echo why >&2; exit 3'], expect: {exit: {ne: 0}, output: {contains: because}}}",
            "output: \"why\\n\"",
        ),
        ("{run: [echo, '{\"a\": [1, 2]}'], expect: {json: {'$.a[1]': 2}}}", "Met"),
        (
            "{run: [echo, hello], expect: {json: {$.a: 2}}}",
            "json $.a: no JSON but \"hello\\n\"",
        ),
        ("{run: [cat], stdin: '{{kubeconfig}}', expect: {stdout: /k}}", "Met"),
    ];
    for (exec, said) in table {
        let (state, _) = look(&format!("  exec: {exec}\n"), &context).await;
        assert_eq!(actual(&state), said, "{exec}");
    }
}

#[tokio::test]
async fn a_program_that_cannot_run_is_blindness() {
    let context = context(&[], None);
    for (run, why) in [
        (
            "[no-such-program-here]",
            "could not run `no-such-program-here`: start `no-such-program-here`: No such file",
        ),
        ("[helm]", "could not run `helm`: `helm` is not here"),
        ("[sh, -c, 'kill -9 $$']", "could not run `sh`: "),
    ] {
        let (state, _) = look(
            &format!("  exec: {{run: {run}, expect: {{exit: {{ne: 0}}}}}}\n"),
            &context,
        )
        .await;
        let State::Blind(said) = &state else {
            panic!("{run}: {state:?}")
        };
        assert!(said.starts_with(why), "{said}");
    }
}

/// An API server that answers from a table of paths; what it was asked is kept.
fn api_server(answers: Vec<(&'static str, u16, Value)>) -> (kube::Client, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    let answers = Arc::new(answers);
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let uri = request.uri().to_string();
        log.lock().expect("not poisoned").push(uri.clone());
        let answers = answers.clone();
        async move {
            _ = request.into_body().collect().await;
            let path = uri.split('?').next().unwrap_or_default();
            let (status, body) = answers.iter().find(|(known, ..)| *known == path).map_or_else(
                || {
                    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found"});
                    (404, status)
                },
                |(_, status, body)| (*status, body.clone()),
            );
            let answer = axum::http::Response::builder()
                .status(status)
                .header(header::CONTENT_TYPE, "application/json")
                .body(kube::client::Body::from(body.to_string().into_bytes()))
                .expect("an answer");
            Ok::<_, Infallible>(answer)
        }
    });
    (kube::Client::new(service, "default"), asked)
}

fn api_lists() -> Vec<(&'static str, u16, Value)> {
    let list = |group: &str, resources: Value| json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources});
    let resource = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list", "watch"]});
    let group = |name: &str, version: &str| {
        let at = json!({"groupVersion": format!("{name}/{version}"), "version": version});
        json!({"name": name, "versions": [at.clone()], "preferredVersion": at})
    };
    vec![
        (
            "/api",
            200,
            json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ),
        (
            "/api/v1",
            200,
            list(
                "v1",
                json!([
                    resource("nodes", "Node", false),
                    resource("pods", "Pod", true),
                    resource("services", "Service", true)
                ]),
            ),
        ),
        (
            "/apis",
            200,
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group("apps", "v1"), group("labctl.dev", "v1")]}),
        ),
        (
            "/apis/apps/v1",
            200,
            list("apps/v1", json!([resource("deployments", "Deployment", true)])),
        ),
        (
            "/apis/labctl.dev/v1",
            200,
            list("labctl.dev/v1", json!([resource("jobs", "DashboardJob", true)])),
        ),
    ]
}

fn items(kind: &str, items: &Value) -> Value {
    json!({"kind": format!("{kind}List"), "apiVersion": "v1", "metadata": {}, "items": items})
}

#[tokio::test]
async fn objects_of_any_kind_are_found_by_name_and_selector() {
    let web = json!({
        "metadata": {"name": "web", "namespace": "n", "generation": 2, "resourceVersion": "9", "managedFields": [{"manager": "x"}]},
        "spec": {"replicas": 1},
        "status": {"observedGeneration": 2, "conditions": [{"type": "Available", "status": "True"}]},
    });
    let mut other = web.clone();
    other["metadata"]["name"] = json!("other");
    let mut answers = api_lists();
    answers.push((
        "/apis/apps/v1/namespaces/n/deployments",
        200,
        items("Deployment", &json!([web, other])),
    ));
    answers.push((
        "/apis/labctl.dev/v1/dashboardjobs",
        200,
        items("DashboardJob", &json!([])),
    ));
    answers.push((
        "/apis/labctl.dev/v1/jobs",
        200,
        items("DashboardJob", &json!([{"metadata": {"name": "j"}, "spec": {"n": 1}}])),
    ));
    let (client, asked) = api_server(answers);
    let context = context(&[("namespace", "n")], Some(client));

    let yaml = "  k8s: {kind: Deployment, namespace: '{{namespace}}', name: web, expect: {condition: Available, fresh: true}}\n";
    let (state, evidence) = look(yaml, &context).await;
    assert_eq!(state, State::Met);
    let Evidence::Seen(seen) = evidence else { panic!("seen") };
    assert_eq!(
        seen.candidates.len(),
        1,
        "an API server that ignores field selectors must not matter"
    );
    assert_eq!(seen.candidates[0].name, "Deployment web");
    assert!(seen.candidates[0].value["metadata"].get("managedFields").is_none());
    assert!(seen.candidates[0].value["metadata"].get("resourceVersion").is_none());
    assert!(
        asked
            .lock()
            .expect("not poisoned")
            .iter()
            .any(|uri| uri.contains("fieldSelector=metadata.name%3Dweb"))
    );

    let (state, _) = look(
        "  k8s: {kind: Deployment, namespace: n, selector: a=b, expect: {count: 2}}\n",
        &context,
    )
    .await;
    assert_eq!(state, State::Met);
    assert!(
        asked
            .lock()
            .expect("not poisoned")
            .iter()
            .any(|uri| uri.contains("labelSelector=a%3Db"))
    );

    let (state, _) = look(
        "  k8s: {kind: DashboardJob, expect: {fields: {$.spec.n: 1}}}\n",
        &context,
    )
    .await;
    assert_eq!(state, State::Met, "a kind of a custom resource");
}

#[tokio::test]
async fn what_the_api_server_does_not_have_is_seen_and_what_it_refuses_is_not() {
    let mut answers = api_lists();
    let refused = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "pods is forbidden"});
    answers.push(("/api/v1/pods", 403, refused));
    answers.push(("/api/v1/nodes", 200, items("Node", &json!([]))));
    let (client, _) = api_server(answers);
    let context = context(&[], Some(client));
    let (state, _) = look("  k8s: {kind: Deploymint, expect: {condition: Available}}\n", &context).await;
    assert_eq!(
        actual(&state),
        "Deploymint: none: the API server knows no kind `Deploymint`"
    );
    let (state, _) = look("  k8s: {kind: Node, expect: {condition: Ready}}\n", &context).await;
    assert_eq!(actual(&state), "Node: none");
    let (state, _) = look("  k8s: {kind: Pod, expect: {condition: Ready}}\n", &context).await;
    assert_eq!(
        state,
        State::Blind("the API server refused: pods is forbidden (403)".into())
    );
}

#[tokio::test]
async fn without_a_cluster_objects_and_port_forwards_are_blindness() {
    let context = context(&[], None);
    for yaml in [
        "  k8s: {kind: Pod, expect: {condition: Ready}}\n",
        "  http: {get: /x, via: {service: s, namespace: n, port: 80}, expect: {status: 200}}\n",
    ] {
        assert_eq!(
            look(yaml, &context).await.0,
            State::Blind("the lab has no cluster".into())
        );
    }
}

#[tokio::test]
async fn a_port_forward_says_where_the_chain_from_service_to_pod_breaks() {
    let service = |selector: Value| json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "s"}, "spec": {"selector": selector, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}});
    let pod = |ready: &str, port: &str| {
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "ports": [{"name": port, "containerPort": 8080}]}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    };
    let table = [
        (None, json!([]), "http", "there is no Service s in the namespace n"),
        (
            Some(service(json!({"a": "b"}))),
            json!([]),
            "grpc",
            "Service s has no port grpc; it has http 80",
        ),
        (
            Some(service(json!({}))),
            json!([]),
            "http",
            "Service s has no selector, so it selects no pod",
        ),
        (
            Some(service(json!({"a": "b"}))),
            json!([]),
            "http",
            "Service s selects no pod: none has the labels a=b",
        ),
        (
            Some(service(json!({"a": "b"}))),
            json!([pod("False", "http")]),
            "80",
            "Service s selects 1 pod(s), and none is ready",
        ),
        (
            Some(service(json!({"a": "b"}))),
            json!([pod("True", "web")]),
            "80",
            "Service s leads to the container port `http`, which pod p does not have",
        ),
    ];
    for (service, pods, port, said) in table {
        let mut answers = vec![("/api/v1/namespaces/n/pods", 200, items("Pod", &pods))];
        answers.extend(service.map(|service| ("/api/v1/namespaces/n/services/s", 200, service)));
        let (client, _) = api_server(answers);
        let yaml =
            format!("  http: {{get: /x, via: {{service: s, namespace: n, port: {port}}}, expect: {{status: 200}}}}\n");
        let (state, _) = look(&yaml, &context(&[], Some(client))).await;
        assert_eq!(actual(&state), format!("an answer: none: {said}"));
    }
}

#[tokio::test]
async fn a_request_through_a_stream_brings_the_same_evidence_as_a_straight_one() {
    let url = serve(dashboard()).await;
    let address = url.strip_prefix("http://").expect("a URL");
    for (path, json) in [
        ("/healthz", ""),
        ("/down", ""),
        ("/echo", ", json: {a: 1}, headers: {x-said: y}"),
    ] {
        let method = if json.is_empty() { "get" } else { "post" };
        let via = format!(
            "  http: {{{method}: {path}, via: {{service: s, namespace: n, port: 80}}{json}, expect: {{status: 200}}}}\n"
        );
        let Ask::Http(forwarded) = check(&via).ask else {
            panic!("{via}")
        };
        let stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
        let (status, headers, body, whole) = http::send(&forwarded, hyper_util::rt::TokioIo::new(stream))
            .await
            .expect("an answer");
        let through = Evidence::one("", http::value(status, &headers, &body, whole));
        let direct = format!("  http: {{{method}: '{{{{http_url}}}}{path}'{json}, expect: {{status: 200}}}}\n");
        let (_, straight) = look(&direct, &context(&[("http_url", &url)], None)).await;
        assert_eq!(through, straight, "{path}");
    }
}
