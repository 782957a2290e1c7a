//! An image registry on the loopback address, through the OCI distribution API.
//!
//! Every request has a limit, every answer is checked (status, length, digest), and whatever goes wrong names the
//! registry, the request and the next command ([`Code::ImageRegistry`]). No redirects, no proxy, no credentials: this
//! is the lab's own registry.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::files::Digest;
use crate::error::{Code, Diagnose, Diagnosis};

/// The manifests that are understood here.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";
/// The largest manifest or configuration that is read, as the specification recommends.
const SMALL: usize = 4 << 20;

/// How long a registry may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// To connect.
    pub connect: Duration,
    /// For a request without a large body, in all; and between two parts of any body.
    pub answer: Duration,
    /// The slowest upload that is waited for, in bytes a second.
    pub slowest: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            answer: Duration::from_secs(15),
            slowest: 1 << 20,
        }
    }
}

/// Called with the number of bytes of each part of an upload that was handed over.
pub type OnBytes = Arc<dyn Fn(u64) + Send + Sync>;

/// A manifest as a registry gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Bytes,
}

impl Manifest {
    /// Returns the manifest as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }
}

/// A client of one registry; cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    client: reqwest::Client,
    host: String,
    limits: Limits,
}

impl Registry {
    /// Makes a client of the registry at `host:port`, over plain HTTP.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn at(host: impl Into<String>) -> Result<Self> {
        Self::with_limits(host, Limits::default())
    }

    /// As [`Registry::at`], with other limits.
    ///
    /// # Errors
    /// As [`Registry::at`].
    pub fn with_limits(host: impl Into<String>, limits: Limits) -> Result<Self> {
        // reqwest wants a TLS provider even where there is no TLS; a second installation changes nothing.
        _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .user_agent(concat!("labctl/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits.connect)
            // A company's proxy cannot reach this machine's loopback address.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("set up the HTTP client")?;
        Ok(Self {
            client,
            host: host.into(),
            limits,
        })
    }

    /// Returns `host:port`, with which image names of this registry begin.
    pub fn host(&self) -> &str {
        &self.host
    }

    fn trouble(&self, doing: &str) -> Diagnosis {
        Diagnosis::new(
            Code::ImageRegistry,
            format!("the image registry at {} failed: {doing}", self.host),
        )
        .hint("labctl up starts the lab's registry again; labctl doctor says what is wrong with it")
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = if path.starts_with("http://") {
            path.to_owned()
        } else {
            format!("http://{}{path}", self.host)
        };
        self.client.request(method, url)
    }

    /// Sends a request and accepts the statuses in `good` and, as `None`, 404.
    async fn send(
        &self,
        request: RequestBuilder,
        good: &[StatusCode],
        limit: Duration,
        doing: &str,
    ) -> Result<Option<Response>> {
        let answer = tokio::time::timeout(limit, request.send())
            .await
            .map_err(|_| anyhow::anyhow!("no answer within {}s", limit.as_secs_f32()))
            .diagnose(|| self.trouble(doing))?
            .map_err(plain)
            .diagnose(|| self.trouble(doing))?;
        let status = answer.status();
        if good.contains(&status) {
            return Ok(Some(answer));
        }
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let body = self.body(answer, doing).await.unwrap_or_default();
        let said = serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|body| {
                let error = &body["errors"][0];
                Some(format!(": {} {}", error["code"].as_str()?, error["message"].as_str()?))
            })
            .unwrap_or_default();
        let diagnosis = self.trouble(doing);
        let diagnosis = match status {
            StatusCode::INSUFFICIENT_STORAGE => diagnosis.hint("labctl image prune frees what no lab uses"),
            StatusCode::METHOD_NOT_ALLOWED => diagnosis.hint("the registry was started without deletion"),
            _ => diagnosis,
        };
        Err(anyhow::anyhow!("it answered {status}{said}").context(diagnosis))
    }

    /// Reads a small body, checking its length and every pause.
    async fn body(&self, answer: Response, doing: &str) -> Result<Bytes> {
        let mut out = Vec::new();
        let mut parts = answer.bytes_stream();
        loop {
            let part = tokio::time::timeout(self.limits.answer, parts.next())
                .await
                .map_err(|_| anyhow::anyhow!("the answer stopped half-way"))
                .diagnose(|| self.trouble(doing))?;
            let Some(part) = part else {
                return Ok(out.into());
            };
            out.extend_from_slice(&part.map_err(plain).diagnose(|| self.trouble(doing))?);
            if out.len() > SMALL {
                return Err(anyhow::anyhow!("the answer is larger than {SMALL} bytes").context(self.trouble(doing)));
            }
        }
    }

    /// Asks whether the registry answers and speaks the API.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`].
    pub async fn ping(&self) -> Result<()> {
        let doing = "GET /v2/";
        self.send(
            self.request(Method::GET, "/v2/"),
            &[StatusCode::OK],
            self.limits.answer,
            doing,
        )
        .await?
        .context("it answered 404 Not Found, so it is no image registry")
        .diagnose(|| self.trouble(doing))?;
        Ok(())
    }

    /// Returns the digest of a manifest by tag or digest, or nothing where there is none; does not read it.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`].
    pub async fn manifest_digest(&self, repository: &str, reference: &str) -> Result<Option<Digest>> {
        let doing = format!("look for `{repository}:{reference}`");
        let request = self
            .request(Method::HEAD, &format!("/v2/{repository}/manifests/{reference}"))
            .header(ACCEPT, MANIFESTS);
        let answer = self
            .send(request, &[StatusCode::OK], self.limits.answer, &doing)
            .await?;
        Ok(answer.and_then(|answer| digest_header(answer.headers())))
    }

    /// Returns a manifest by tag or digest, or nothing where there is none.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`], also if its bytes do not have the digest that was asked for or promised.
    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<Option<Manifest>> {
        let doing = format!("read the manifest `{repository}:{reference}`");
        let request = self
            .request(Method::GET, &format!("/v2/{repository}/manifests/{reference}"))
            .header(ACCEPT, MANIFESTS);
        let Some(answer) = self
            .send(request, &[StatusCode::OK], self.limits.answer, &doing)
            .await?
        else {
            return Ok(None);
        };
        let promised = Digest::parse(reference).or_else(|| digest_header(answer.headers()));
        let media_type = header(answer.headers(), &CONTENT_TYPE).unwrap_or_default();
        let bytes = self.body(answer, &doing).await?;
        let digest = Digest::of(&bytes);
        if promised.is_some_and(|promised| promised != digest) {
            return Err(anyhow::anyhow!("what it sent has the digest {digest}").context(self.trouble(&doing)));
        }
        Ok(Some(Manifest {
            digest,
            media_type,
            bytes,
        }))
    }

    /// Returns how many bytes a blob has, or nothing where the repository has no such blob.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`].
    pub async fn blob_size(&self, repository: &str, digest: Digest) -> Result<Option<u64>> {
        let doing = format!("look for the blob {} of `{repository}`", digest.short());
        let request = self.request(Method::HEAD, &format!("/v2/{repository}/blobs/{digest}"));
        let answer = self
            .send(request, &[StatusCode::OK], self.limits.answer, &doing)
            .await?;
        Ok(answer.map(|answer| {
            header(answer.headers(), &CONTENT_LENGTH)
                .and_then(|n| n.parse().ok())
                .unwrap_or_default()
        }))
    }

    /// Returns the bytes of a small blob, such as a configuration, or nothing where there is none.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`], also if the bytes do not have the digest.
    pub async fn small_blob(&self, repository: &str, digest: Digest) -> Result<Option<Bytes>> {
        let doing = format!("read the blob {} of `{repository}`", digest.short());
        let request = self.request(Method::GET, &format!("/v2/{repository}/blobs/{digest}"));
        let Some(answer) = self
            .send(request, &[StatusCode::OK], self.limits.answer, &doing)
            .await?
        else {
            return Ok(None);
        };
        let bytes = self.body(answer, &doing).await?;
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(anyhow::anyhow!("what it sent has the digest {found}").context(self.trouble(&doing)));
        }
        Ok(Some(bytes))
    }

    /// Begins an upload and returns where its bytes go. With `from`, first asks for the blob of another repository,
    /// which costs nothing; `None` then means that it is there.
    async fn begin(&self, repository: &str, mount: Option<(Digest, &str)>, doing: &str) -> Result<Option<String>> {
        let query = mount
            .map(|(digest, from)| format!("?mount={digest}&from={from}"))
            .unwrap_or_default();
        let request = self
            .request(Method::POST, &format!("/v2/{repository}/blobs/uploads/{query}"))
            .header(CONTENT_LENGTH, 0);
        let answer = self
            .send(
                request,
                &[StatusCode::ACCEPTED, StatusCode::CREATED],
                self.limits.answer,
                doing,
            )
            .await?
            .context("it answered 404 Not Found")
            .diagnose(|| self.trouble(doing))?;
        if answer.status() == StatusCode::CREATED && mount.is_some() {
            return Ok(None);
        }
        self.location(answer.headers(), doing).map(Some)
    }

    /// Returns where an upload goes on. Only this registry is believed: the bytes go nowhere else.
    fn location(&self, headers: &HeaderMap, doing: &str) -> Result<String> {
        let place = header(headers, &LOCATION)
            .context("it did not say where to send the bytes")
            .diagnose(|| self.trouble(doing))?;
        let path = match place.strip_prefix("http://").or_else(|| place.strip_prefix("https://")) {
            Some(rest) => rest
                .find('/')
                .map_or_else(|| "/".to_owned(), |at| rest[at..].to_owned()),
            None => place,
        };
        Ok(path)
    }

    fn upload_limit(&self, size: u64) -> Duration {
        self.limits.answer + Duration::from_secs(size / self.limits.slowest.max(1))
    }

    /// Uploads a blob of known digest from memory.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`], also where the registry found another digest.
    pub async fn put_small_blob(&self, repository: &str, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let body = Bytes::copy_from_slice(bytes);
        let size = bytes.len() as u64;
        self.upload(
            repository,
            digest,
            size,
            futures_util::stream::once(async { Ok(body) }),
            None,
        )
        .await?;
        Ok(digest)
    }

    /// Uploads a blob of known digest and size from a file, as it lies there.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`]; the file cannot be read or has other content.
    pub async fn put_blob(
        &self,
        repository: &str,
        digest: Digest,
        path: &Path,
        on_bytes: Option<OnBytes>,
    ) -> Result<u64> {
        let doing = || format!("read `{}`", path.display());
        let file = tokio::fs::File::open(path).await.with_context(doing)?;
        let size = file.metadata().await.with_context(doing)?.len();
        let stream = tokio_util::io::ReaderStream::with_capacity(file, 1 << 20);
        self.upload(repository, digest, size, stream, on_bytes).await?;
        Ok(size)
    }

    /// Uploads a blob of known digest and size from a stream, in one request.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`]; the stream fails or does not have that size or digest.
    pub async fn upload(
        &self,
        repository: &str,
        digest: Digest,
        size: u64,
        stream: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
        on_bytes: Option<OnBytes>,
    ) -> Result<()> {
        let doing = format!("upload the blob {} of `{repository}`", digest.short());
        let Some(place) = self.begin(repository, None, &doing).await? else {
            return Ok(());
        };
        let request = self
            .request(
                Method::PUT,
                &with_query(&place, &format!("digest={}", digest.oci().replace(':', "%3A"))),
            )
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size)
            .body(reqwest::Body::wrap_stream(counted(stream, on_bytes)));
        let answer = self
            .send(request, &[StatusCode::CREATED], self.upload_limit(size), &doing)
            .await?
            .context("it forgot the upload (404 Not Found)")
            .diagnose(|| self.trouble(&doing))?;
        self.agree(digest, answer.headers(), &doing)
    }

    /// Uploads a blob whose digest is known only at its end, and returns digest and size.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`]; the stream fails.
    pub async fn upload_unknown(
        &self,
        repository: &str,
        size: u64,
        stream: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
        on_bytes: Option<OnBytes>,
    ) -> Result<Digest> {
        let doing = format!("upload a layer of `{repository}`");
        let place = self
            .begin(repository, None, &doing)
            .await?
            .context("it has a blob that nobody named")?;
        let hasher = Arc::new(std::sync::Mutex::new(Sha256::new()));
        let hashing = Arc::clone(&hasher);
        let stream = counted(stream, on_bytes).map(move |part| {
            if let Ok(part) = &part {
                hashing
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .update(part);
            }
            part
        });
        let request = self
            .request(Method::PATCH, &place)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size)
            .body(reqwest::Body::wrap_stream(stream));
        let answer = self
            .send(request, &[StatusCode::ACCEPTED], self.upload_limit(size), &doing)
            .await?
            .context("it forgot the upload (404 Not Found)")
            .diagnose(|| self.trouble(&doing))?;
        let place = self.location(answer.headers(), &doing)?;
        let digest = {
            let hasher = hasher.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            Digest::from_bytes(hasher.clone().finalize().into())
        };
        let request = self
            .request(
                Method::PUT,
                &with_query(&place, &format!("digest={}", digest.oci().replace(':', "%3A"))),
            )
            .header(CONTENT_LENGTH, 0);
        // The registry reads the whole blob once more to check the digest.
        let answer = self
            .send(request, &[StatusCode::CREATED], self.upload_limit(size), &doing)
            .await?
            .context("it forgot the upload (404 Not Found)")
            .diagnose(|| self.trouble(&doing))?;
        self.agree(digest, answer.headers(), &doing)?;
        Ok(digest)
    }

    /// Makes a blob of one repository a blob of another, and returns whether the registry did so.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`].
    pub async fn mount(&self, repository: &str, digest: Digest, from: &str) -> Result<bool> {
        let doing = format!("share the blob {} of `{from}` with `{repository}`", digest.short());
        let Some(place) = self.begin(repository, Some((digest, from)), &doing).await? else {
            return Ok(true);
        };
        // It began an upload instead; nobody will send it.
        let request = self.request(Method::DELETE, &place);
        _ = self
            .send(request, &[StatusCode::NO_CONTENT], self.limits.answer, &doing)
            .await;
        Ok(false)
    }

    /// Writes a manifest under a tag or its own digest.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`], also where a blob that it names is not there.
    pub async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest> {
        let doing = format!("write the manifest `{repository}:{reference}`");
        let request = self
            .request(Method::PUT, &format!("/v2/{repository}/manifests/{reference}"))
            .header(CONTENT_TYPE, media_type)
            .body(bytes.to_vec());
        let answer = self
            .send(request, &[StatusCode::CREATED], self.limits.answer, &doing)
            .await?
            .context("it answered 404 Not Found")
            .diagnose(|| self.trouble(&doing))?;
        let digest = Digest::of(bytes);
        self.agree(digest, answer.headers(), &doing)?;
        Ok(digest)
    }

    /// Removes a manifest by its digest; returns whether it was there. Its blobs go at the next garbage collection.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`].
    pub async fn delete_manifest(&self, repository: &str, digest: Digest) -> Result<bool> {
        let doing = format!("remove `{repository}@{}`", digest.short());
        let request = self.request(Method::DELETE, &format!("/v2/{repository}/manifests/{digest}"));
        Ok(self
            .send(request, &[StatusCode::ACCEPTED], self.limits.answer, &doing)
            .await?
            .is_some())
    }

    /// Returns the repositories, sorted.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`].
    pub async fn repositories(&self) -> Result<Vec<String>> {
        self.list("/v2/_catalog?n=100".into(), "repositories").await
    }

    /// Returns the tags of a repository, sorted; none where there is no such repository.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`].
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        self.list(format!("/v2/{repository}/tags/list?n=100"), "tags").await
    }

    async fn list(&self, first: String, key: &str) -> Result<Vec<String>> {
        let doing = format!("list {key}");
        let mut out: Vec<String> = Vec::new();
        let mut next = Some(first);
        while let Some(path) = next.take() {
            let request = self.request(Method::GET, &path);
            let Some(answer) = self
                .send(request, &[StatusCode::OK], self.limits.answer, &doing)
                .await?
            else {
                break;
            };
            let link = header(answer.headers(), &reqwest::header::LINK);
            let body = self.body(answer, &doing).await?;
            let body: Value = serde_json::from_slice(&body)
                .context("it did not answer with JSON")
                .diagnose(|| self.trouble(&doing))?;
            let before = out.len();
            out.extend(
                body[key]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|name| name.as_str().map(str::to_owned)),
            );
            // `<path?last=..>; rel="next"`; a page without entries would be asked for without end.
            next = link
                .filter(|_| out.len() > before)
                .and_then(|link| Some(link.strip_prefix('<')?.split_once('>')?.0.to_owned()));
        }
        out.sort();
        Ok(out)
    }

    fn agree(&self, digest: Digest, headers: &HeaderMap, doing: &str) -> Result<()> {
        match digest_header(headers) {
            Some(found) if found != digest => Err(anyhow::anyhow!(
                "it says that the digest is {found}, and it is {digest}"
            )
            .context(self.trouble(doing))),
            _ => Ok(()),
        }
    }
}

/// Returns an error of reqwest without its URL, which the diagnosis has in a shorter form.
fn plain(error: reqwest::Error) -> anyhow::Error {
    anyhow::Error::new(error.without_url())
}

fn header(headers: &HeaderMap, name: &reqwest::header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn digest_header(headers: &HeaderMap) -> Option<Digest> {
    headers
        .get("docker-content-digest")?
        .to_str()
        .ok()
        .and_then(Digest::parse)
}

fn with_query(place: &str, query: &str) -> String {
    let mark = if place.contains('?') { '&' } else { '?' };
    format!("{place}{mark}{query}")
}

fn counted(
    stream: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    on_bytes: Option<OnBytes>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream.map(move |part| {
        if let (Ok(part), Some(f)) = (&part, &on_bytes) {
            f(part.len() as u64);
        }
        part
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use axum::Router;
    use axum::body::Body;
    use axum::extract::{Query, Request, State};
    use axum::response::IntoResponse;
    use std::collections::{BTreeMap, HashMap};
    use std::sync::Mutex;

    /// What a stub registry does wrong.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Fault {
        None,
        Status500,
        Hang,
        Truncated,
        WrongDigest,
    }

    #[derive(Default)]
    pub(crate) struct Held {
        pub(crate) blobs: BTreeMap<String, Vec<u8>>,
        pub(crate) manifests: BTreeMap<String, (String, Vec<u8>)>,
        pub(crate) uploads: Vec<Vec<u8>>,
        pub(crate) puts: usize,
    }

    #[derive(Clone)]
    struct Stub(Arc<Mutex<Held>>, Fault);

    /// Serves a registry in memory and returns its address and what it holds.
    pub(crate) async fn stub(fault: Fault) -> (Registry, Arc<Mutex<Held>>) {
        let held = Arc::new(Mutex::new(Held::default()));
        let app = Router::new()
            .fallback(answer)
            .with_state(Stub(Arc::clone(&held), fault));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let limits = Limits {
            connect: Duration::from_secs(1),
            answer: Duration::from_millis(500),
            slowest: 1 << 20,
        };
        let registry = Registry::with_limits(format!("127.0.0.1:{port}"), limits).expect("a client");
        (registry, held)
    }

    async fn answer(
        State(Stub(held, fault)): State<Stub>,
        Query(query): Query<HashMap<String, String>>,
        request: Request,
    ) -> axum::response::Response {
        let method = request.method().as_str().to_owned();
        let path = request.uri().path().to_owned();
        let kind = header(request.headers(), &CONTENT_TYPE).unwrap_or_default();
        match fault {
            Fault::Status500 => {
                let body = r#"{"errors":[{"code":"UNKNOWN","message":"disk on fire"}]}"#;
                return (StatusCode::INTERNAL_SERVER_ERROR, body).into_response();
            }
            Fault::Hang => {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            Fault::Truncated => {
                let body = futures_util::stream::iter([Ok(Bytes::from("{")), Err(std::io::Error::other("cut"))]);
                return ([(CONTENT_LENGTH, "100")], Body::from_stream(body)).into_response();
            }
            Fault::None | Fault::WrongDigest => {}
        }
        let body = axum::body::to_bytes(request.into_body(), 64 << 20)
            .await
            .expect("a body");
        let mut held = held.lock().expect("not poisoned");
        let not_found = || StatusCode::NOT_FOUND.into_response();
        let digest = |digest: Digest| {
            let digest = if fault == Fault::WrongDigest {
                Digest::of(b"another")
            } else {
                digest
            };
            [("docker-content-digest", digest.oci())]
        };
        let path = path.trim_start_matches('/').trim_start_matches("v2/");
        if path == "v2" || path.is_empty() {
            return StatusCode::OK.into_response();
        }
        if let Some((name, upload)) = path.split_once("/blobs/uploads/") {
            if method == "POST" {
                held.uploads.push(Vec::new());
                let place = format!("/v2/{name}/blobs/uploads/{}?state=x", held.uploads.len() - 1);
                return (StatusCode::ACCEPTED, [(LOCATION, place)]).into_response();
            }
            let number: usize = upload.parse().expect("a number");
            held.uploads[number].extend_from_slice(&body);
            if method == "PATCH" {
                let place = format!("/v2/{path}?state=y");
                return (StatusCode::ACCEPTED, [(LOCATION, place)]).into_response();
            }
            let bytes = held.uploads[number].clone();
            let promised = query.get("digest").cloned().unwrap_or_default();
            if Digest::of(&bytes).oci() != promised {
                let body = r#"{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}"#;
                return (StatusCode::BAD_REQUEST, body).into_response();
            }
            held.puts += 1;
            let found = Digest::of(&bytes);
            held.blobs.insert(format!("{name}@{promised}"), bytes);
            return (StatusCode::CREATED, digest(found)).into_response();
        }
        if let Some((name, wanted)) = path.split_once("/blobs/") {
            let Some(bytes) = held.blobs.get(&format!("{name}@{wanted}")) else {
                return not_found();
            };
            let bytes = if fault == Fault::WrongDigest {
                b"garbage".to_vec()
            } else {
                bytes.clone()
            };
            return bytes.into_response();
        }
        if let Some((name, reference)) = path.split_once("/manifests/") {
            if method == "PUT" {
                let found = Digest::of(&body);
                for reference in [reference.to_owned(), found.oci()] {
                    held.manifests
                        .insert(format!("{name}:{reference}"), (kind.clone(), body.to_vec()));
                }
                return (StatusCode::CREATED, digest(found)).into_response();
            }
            let Some((kind, bytes)) = held.manifests.get(&format!("{name}:{reference}")).cloned() else {
                return not_found();
            };
            if method == "DELETE" {
                held.manifests.retain(|_, (_, other)| *other != bytes);
                return StatusCode::ACCEPTED.into_response();
            }
            return (
                [(CONTENT_TYPE.as_str(), kind), digest(Digest::of(&bytes))[0].clone()],
                bytes,
            )
                .into_response();
        }
        if path.ends_with("_catalog") {
            // Two pages, as a registry with many repositories gives them.
            let second = query.contains_key("last");
            let body = if second {
                r#"{"repositories":["a"]}"#
            } else {
                r#"{"repositories":["b"]}"#
            };
            let link = "</v2/_catalog?last=b&n=100>; rel=\"next\"";
            let headers: Vec<_> = if second {
                vec![]
            } else {
                vec![(reqwest::header::LINK, link)]
            };
            return (axum::response::AppendHeaders(headers), body).into_response();
        }
        not_found()
    }

    fn code(error: &anyhow::Error) -> Option<Code> {
        crate::error::diagnosis(error).map(|found| found.code)
    }

    async fn round(registry: &Registry) {
        let text = format!("blob {:?}", std::time::Instant::now());
        registry.ping().await.expect("it answers");
        let digest = Digest::of(text.as_bytes());
        assert_eq!(registry.blob_size("test/a", digest).await.expect("an answer"), None);
        assert_eq!(
            registry
                .put_small_blob("test/a", text.as_bytes())
                .await
                .expect("uploaded"),
            digest
        );
        assert_eq!(
            registry.blob_size("test/a", digest).await.expect("an answer"),
            Some(text.len() as u64)
        );
        let read = registry.small_blob("test/a", digest).await.expect("read");
        assert_eq!(read.as_deref(), Some(text.as_bytes()));
        // The digest is found while it is sent.
        let big = vec![5_u8; 3 << 20];
        let parts: Vec<_> = big
            .chunks(1 << 20)
            .map(|part| Ok(Bytes::copy_from_slice(part)))
            .collect();
        let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let count = Arc::clone(&sent);
        let found = registry
            .upload_unknown(
                "test/a",
                big.len() as u64,
                futures_util::stream::iter(parts),
                Some(Arc::new(move |n| {
                    count.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
                })),
            )
            .await
            .expect("uploaded");
        assert_eq!(found, Digest::of(&big));
        assert_eq!(sent.load(std::sync::atomic::Ordering::Relaxed), big.len() as u64);
        // A manifest, by tag and by digest.
        let config = registry
            .put_small_blob("test/a", b"{\"architecture\":\"amd64\",\"os\":\"linux\"}")
            .await
            .expect("uploaded");
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.oci(), "size": 39},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest.oci(), "size": text.len()}],
        })
        .to_string();
        let media = "application/vnd.oci.image.manifest.v1+json";
        let put = registry
            .put_manifest("test/a", "1", media, manifest.as_bytes())
            .await
            .expect("written");
        assert_eq!(
            registry.manifest_digest("test/a", "1").await.expect("an answer"),
            Some(put)
        );
        let got = registry
            .manifest("test/a", &put.oci())
            .await
            .expect("read")
            .expect("there");
        assert_eq!(
            (got.bytes.as_ref(), got.media_type.as_str()),
            (manifest.as_bytes(), media)
        );
        assert_eq!(registry.manifest("test/a", "none").await.expect("an answer"), None);
        assert!(registry.delete_manifest("test/a", put).await.expect("removed"));
        assert_eq!(registry.manifest_digest("test/a", "1").await.expect("an answer"), None);
    }

    #[tokio::test]
    async fn what_is_put_is_got_back() {
        let (registry, _) = stub(Fault::None).await;
        round(&registry).await;
        assert_eq!(registry.repositories().await.expect("two pages"), ["a", "b"]);
    }

    #[tokio::test]
    async fn a_registry_that_fails_is_named_with_what_was_asked() {
        let cases = [
            (
                Fault::Status500,
                "it answered 500 Internal Server Error: UNKNOWN disk on fire",
            ),
            (Fault::Hang, "no answer within 0.5s"),
            (Fault::Truncated, ""),
        ];
        for (fault, cause) in cases {
            let (registry, _) = stub(fault).await;
            let error = registry.manifest("my-app", "1").await.expect_err("it is broken");
            assert_eq!(code(&error), Some(Code::ImageRegistry), "{fault:?}: {error:#}");
            let text = crate::error::render(&error);
            assert!(
                text.contains(registry.host()) && text.contains("`my-app:1`") && text.contains("hint: labctl up"),
                "{text}"
            );
            assert!(text.contains(cause), "{fault:?}: {text}");
            let error = registry.put_small_blob("my-app", b"x").await.expect_err("it is broken");
            assert_eq!(code(&error), Some(Code::ImageRegistry), "{fault:?}: {error:#}");
        }
    }

    #[tokio::test]
    async fn another_digest_than_promised_is_refused() {
        let (registry, held) = stub(Fault::WrongDigest).await;
        let digest = Digest::of(b"x");
        held.lock()
            .expect("not poisoned")
            .blobs
            .insert(format!("a@{digest}"), b"x".to_vec());
        let error = registry.small_blob("a", digest).await.expect_err("garbage");
        assert!(
            format!("{error:#}").contains("what it sent has the digest"),
            "{error:#}"
        );
        let error = registry.put_small_blob("a", b"y").await.expect_err("it disagrees");
        assert!(format!("{error:#}").contains("it says that the digest is"), "{error:#}");
        // The file is not what its name says: the registry finds out, and nothing is stored.
        let (registry, held) = stub(Fault::None).await;
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("blob");
        crate::drive::files::write(&path, "corrupt").expect("written");
        let error = registry
            .put_blob("a", Digest::of(b"sound"), &path, None)
            .await
            .expect_err("corrupt");
        assert!(format!("{error:#}").contains("DIGEST_INVALID"), "{error:#}");
        assert!(held.lock().expect("not poisoned").blobs.is_empty());
    }

    #[tokio::test]
    async fn nobody_listening_is_said_at_once() {
        let registry = Registry::at("127.0.0.1:9").expect("a client");
        let begin = std::time::Instant::now();
        let error = registry.ping().await.expect_err("nobody listens");
        assert_eq!(code(&error), Some(Code::ImageRegistry));
        assert!(begin.elapsed() < Duration::from_secs(3));
    }

    /// Finds the registry that the lab runs: on PATH, or among what labctl built.
    fn program() -> Option<std::path::PathBuf> {
        let built = crate::config::Dirs::from_environment().ok()?.cache().join("go/out");
        let built = crate::drive::files::walk(&built).ok()?;
        crate::drive::exec::find_on_path("registry")
            .or_else(|| built.into_iter().find(|path| path.ends_with("registry")))
    }

    #[tokio::test]
    async fn the_real_registry_agrees() {
        use crate::drive::exec::{Cmd, Exec, System};
        let Some(program) = program() else {
            assert!(
                crate::config::variable("LABCTL_REQUIRE_LAB").is_none(),
                "there is no `registry`; labctl up --only programs builds it"
            );
            let said = "SKIPPED: there is no `registry` on PATH or in labctl's cache\n";
            _ = std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes());
            return;
        };
        let dir = tempfile::tempdir().expect("temporary directory");
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port")
            .port();
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            dir.path().join("data").display()
        );
        let file = dir.path().join("config.yml");
        crate::drive::files::write(&file, config).expect("written");
        let server = tokio::spawn(async move {
            let cmd = Cmd::new(program)
                .arg("serve")
                .arg(file)
                .env("OTEL_TRACES_EXPORTER", "none");
            System.run(&cmd).await
        });
        let registry = Registry::at(format!("127.0.0.1:{port}")).expect("a client");
        for _ in 0..100 {
            if registry.ping().await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!server.is_finished(), "the registry ended: {:?}", server.await);
        round(&registry).await;
        registry.put_small_blob("test/b", b"shared").await.expect("uploaded");
        let digest = Digest::of(b"shared");
        assert!(registry.mount("test/c", digest, "test/b").await.expect("mounted"));
        assert_eq!(registry.blob_size("test/c", digest).await.expect("an answer"), Some(6));
        assert!(
            !registry
                .mount("test/c", Digest::of(b"none"), "test/b")
                .await
                .expect("an answer")
        );
        assert!(
            registry
                .repositories()
                .await
                .expect("a list")
                .contains(&"test/a".to_owned())
        );
        server.abort();
    }
}
