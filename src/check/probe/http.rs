//! Makes an HTTP request, straight or through a port-forward that labctl opens itself.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::k8s::could_not;
use super::{Context, Probe, one_line};
use crate::check::ask::{Http, Port, Via};
use crate::check::evidence::Evidence;

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(8);
/// How much of a body is read, in bytes; a longer one is cut and never taken for JSON.
const BODY_LIMIT: usize = 1 << 20;

/// Makes the client that checks use: no redirect is followed and no proxy asked, as the answer itself is judged, and no
/// connection is kept, as it would go on to where it led when it was opened, be that a pod that has ended since.
///
/// # Errors
/// TLS cannot be set up.
pub fn client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .user_agent(concat!("labctl/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(LIMIT)
        .build()?)
}

/// Makes the client that reads streams: as [`client`], without a limit on the whole answer.
///
/// # Errors
/// TLS cannot be set up.
pub(super) fn streaming() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder()
        .user_agent(concat!("labctl/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(LIMIT)
        .build()?)
}

#[async_trait]
impl Probe for Http {
    async fn observe(&self, context: &Context<'_>) -> Evidence {
        match &self.via {
            None => straight(self, &context.http).await,
            Some(via) => match &context.cluster {
                Ok(client) => match tokio::time::timeout(LIMIT, forwarded(self, via, client)).await {
                    Ok(evidence) => evidence,
                    Err(_) => Evidence::nothing(format!("no answer within {}s", LIMIT.as_secs())),
                },
                Err(none) => Evidence::blind(none.why.clone()),
            },
        }
    }
}

async fn straight(ask: &Http, client: &reqwest::Client) -> Evidence {
    let (method, target) = ask.request();
    let url = match reqwest::Url::parse(target) {
        Ok(url) => url,
        Err(error) => return Evidence::blind(format!("`{target}` is not a URL: {error}")),
    };
    let method = method.parse().unwrap_or(reqwest::Method::GET);
    let mut request = client.request(method, url);
    for (name, value) in &ask.headers {
        request = request.header(name, value);
    }
    if let Some(json) = &ask.json {
        request = request.json(json);
    }
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) if error.is_builder() => return Evidence::blind(format!("the request cannot be made: {error}")),
        Err(error) => return Evidence::nothing(no_answer(&error)),
    };
    let status = answer.status();
    let headers = answer.headers().clone();
    let body = reqwest::Body::from(answer);
    match read(body).await {
        Ok((body, whole)) => Evidence::one("", value(status.as_u16(), &headers, &body, whole)),
        Err(why) => Evidence::nothing(format!("the answer {} broke off: {why}", status.as_u16())),
    }
}

pub(super) fn no_answer(error: &reqwest::Error) -> String {
    let text = one_line(error);
    if error.is_timeout() {
        return format!("no answer within {}s", LIMIT.as_secs());
    }
    if text.contains("Connection refused") {
        return "connection refused: nothing listens there".into();
    }
    text
}

/// Reads a body up to the limit; returns the bytes and whether they are all of it.
async fn read<B>(body: B) -> Result<(Vec<u8>, bool), String>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = std::pin::pin!(Limited::new(body, BODY_LIMIT));
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                if let Ok(mut data) = frame.into_data() {
                    use bytes::Buf as _;
                    while data.has_remaining() {
                        let chunk = data.chunk();
                        bytes.extend_from_slice(chunk);
                        let n = chunk.len();
                        data.advance(n);
                    }
                }
            }
            Err(error) if error.is::<http_body_util::LengthLimitError>() => return Ok((bytes, false)),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok((bytes, true))
}

pub(super) fn value(status: u16, headers: &http::HeaderMap, body: &[u8], whole: bool) -> Value {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let listed: serde_json::Map<String, Value> = headers
        .iter()
        // The date changes with every answer and would make equal answers look different.
        .filter(|(name, _)| *name != http::header::DATE)
        .map(|(name, value)| (name.to_string(), Value::String(text(value))))
        .collect();
    let mut out = json!({
        "status": status,
        "headers": listed,
        "body": String::from_utf8_lossy(body),
        "whole": whole,
    });
    if let Some(kind) = headers.get(http::header::CONTENT_TYPE) {
        out["content_type"] = Value::String(text(kind));
    }
    if whole && let Ok(json) = serde_json::from_slice::<Value>(body) {
        out["json"] = json;
    }
    out
}

/// Asks through a port-forward to a ready pod that the Service selects.
async fn forwarded(ask: &Http, via: &Via, client: &Client) -> Evidence {
    let (pod, port) = match ready_pod(via, client).await {
        Ok(Ok(found)) => found,
        Ok(Err(note)) => return Evidence::nothing(note),
        Err(error) => return Evidence::blind(could_not(&error)),
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &via.namespace);
    let mut forwarder = match pods.portforward(&pod, &[port]).await {
        Ok(forwarder) => forwarder,
        Err(error) => return Evidence::blind(format!("the port-forward to pod {pod} failed: {}", one_line(&error))),
    };
    let refused = forwarder.take_error(port);
    let Some(stream) = forwarder.take_stream(port) else {
        return Evidence::blind("the port-forward has no stream");
    };
    let answer = send(ask, hyper_util::rt::TokioIo::new(stream)).await;
    let evidence = match answer {
        Ok((status, headers, body, whole)) => Evidence::one("", value(status, &headers, &body, whole)),
        Err(why) => {
            let said = match refused {
                Some(refused) => tokio::time::timeout(Duration::from_millis(500), refused)
                    .await
                    .ok()
                    .flatten(),
                None => None,
            };
            Evidence::nothing(format!(
                "pod {pod} gave no answer on port {port}: {}",
                said.unwrap_or(why)
            ))
        }
    };
    forwarder.abort();
    evidence
}

pub(super) type Answer = (u16, http::HeaderMap, Vec<u8>, bool);

pub(super) async fn send<T>(ask: &Http, io: T) -> Result<Answer, String>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let text = |error: hyper::Error| one_line(&error);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(text)?;
    let driver = tokio::spawn(connection);
    let (method, path) = ask.request();
    let mut request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "localhost")
        .header(http::header::USER_AGENT, concat!("labctl/", env!("CARGO_PKG_VERSION")));
    for (name, value) in &ask.headers {
        request = request.header(name, value);
    }
    let body = match &ask.json {
        Some(json) => {
            request = request.header(http::header::CONTENT_TYPE, "application/json");
            bytes::Bytes::from(json.to_string())
        }
        None => bytes::Bytes::new(),
    };
    let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(text)?;
        let (parts, body) = answer.into_parts();
        let (body, whole) = read(body).await?;
        Ok((parts.status.as_u16(), parts.headers, body, whole))
    }
    .await;
    driver.abort();
    answer
}

/// Finds a ready pod behind a Service and the port to forward to. The inner error says why there is none.
async fn ready_pod(via: &Via, client: &Client) -> kube::Result<Result<(String, u16), String>> {
    let services: Api<Service> = Api::namespaced(client.clone(), &via.namespace);
    let Some(service) = services.get_opt(&via.service).await? else {
        return Ok(Err(format!(
            "there is no Service {} in the namespace {}",
            via.service, via.namespace
        )));
    };
    let spec = service.spec.unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let Some(port) = ports.iter().find(|port| match &via.port {
        Port::Name(name) => port.name.as_ref() == Some(name),
        Port::Number(number) => port.port == i32::from(*number),
    }) else {
        let has: Vec<_> = ports
            .iter()
            .map(|port| format!("{} {}", port.name.as_deref().unwrap_or("(no name)"), port.port))
            .collect();
        return Ok(Err(format!(
            "Service {} has no port {}; it has {}",
            via.service,
            via.port,
            has.join(", ")
        )));
    };
    let selector = spec.selector.unwrap_or_default();
    if selector.is_empty() {
        return Ok(Err(format!(
            "Service {} has no selector, so it selects no pod",
            via.service
        )));
    }
    let selector = selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",");
    let pods: Api<Pod> = Api::namespaced(client.clone(), &via.namespace);
    let found = pods.list(&ListParams::default().labels(&selector)).await?.items;
    let Some(pod) = found.iter().find(|pod| is_ready(pod)) else {
        return Ok(Err(if found.is_empty() {
            format!("Service {} selects no pod: none has the labels {selector}", via.service)
        } else {
            format!(
                "Service {} selects {} pod(s), and none is ready",
                via.service,
                found.len()
            )
        }));
    };
    let wanted = port.target_port.clone().unwrap_or(IntOrString::Int(port.port));
    let number = match &wanted {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .flat_map(|container| container.ports.iter().flatten())
            .find(|port| port.name.as_ref() == Some(name))
            .map(|port| port.container_port),
    };
    Ok(number
        .and_then(|number| u16::try_from(number).ok())
        .map(|number| (pod.name_any(), number))
        .ok_or_else(|| {
            let name = match &wanted {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(name) => name.clone(),
            };
            format!(
                "Service {} leads to the container port `{name}`, which pod {} does not have",
                via.service,
                pod.name_any()
            )
        }))
}

fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
