//! Downloading a file whose digest is known: nothing that does not have it is ever kept.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;

use super::files::{self, Tee};
use crate::error::{Code, Diagnosis};

/// How long a server may be silent, before its answer or within it.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

/// What to download.
#[derive(Debug, Clone)]
pub struct Download {
    /// Where it is.
    pub url: String,
    /// The SHA-256 digest it must have, in hexadecimal digits.
    pub sha256: String,
    /// The file's path in the archive, where what is downloaded is a `.tar.gz`.
    pub member: Option<String>,
    /// How long the server may be silent.
    pub silence: Duration,
}

impl Download {
    /// Names a file and its digest.
    pub fn new(url: impl Into<String>, sha256: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            sha256: sha256.into(),
            member: None,
            silence: SILENCE_LIMIT,
        }
    }

    /// Downloads into `to`, which is an executable file afterwards or is as it was before.
    ///
    /// `on_bytes` is called with how much is there and how much there will be, where the server says.
    ///
    /// # Errors
    /// [`Code::PackageRegistry`]: the server does not answer, answers with an error or stops half-way.
    /// [`Code::CacheCorrupt`]: what came does not have the digest; it is removed. Or `to` cannot be written.
    pub async fn to(&self, http: &reqwest::Client, to: &Path, on_bytes: impl Fn(u64, Option<u64>)) -> Result<()> {
        let url = &self.url;
        let unreachable = |error: anyhow::Error| {
            error.context(
                Diagnosis::new(Code::PackageRegistry, format!("download {url}"))
                    .hint("check the connection; behind a proxy set https_proxy"),
            )
        };
        let silent = || anyhow::anyhow!("the server was silent for {}s", self.silence.as_secs());
        let answer = tokio::time::timeout(self.silence, http.get(url).send())
            .await
            .map_err(|_| unreachable(silent()))?
            .and_then(reqwest::Response::error_for_status)
            .map_err(|error| unreachable(error.without_url().into()))?;
        let total = answer.content_length();
        let dir = to.parent().unwrap_or(Path::new("."));
        files::make_dir(dir)?;
        let file = tempfile::Builder::new()
            .prefix(".labctl-")
            .tempfile_in(dir)
            .map_err(|error| files::explain(error, "write into", dir))?;
        let mut tee = Tee::new(file);
        let mut chunks = answer.bytes_stream();
        let mut done = 0;
        while let Some(chunk) = tokio::time::timeout(self.silence, chunks.next())
            .await
            .map_err(|_| unreachable(silent()))?
        {
            let chunk = chunk.map_err(|error| unreachable(error.without_url().into()))?;
            tee.write_all(&chunk)
                .map_err(|error| files::explain(error, "write", to))?;
            done += chunk.len() as u64;
            on_bytes(done, total);
        }
        let (file, digest, _) = tee.finish();
        if digest.hex() != self.sha256 {
            return Err(Diagnosis::new(
                Code::CacheCorrupt,
                format!(
                    "{url} gave {done} bytes with the digest {}; it must be {}",
                    digest.hex(),
                    self.sha256
                ),
            )
            .hint("nothing of it was kept; a proxy that answers in the server's name is the usual cause")
            .error());
        }
        let Some(member) = self.member.clone() else {
            return keep(file, to);
        };
        let to = to.to_owned();
        tokio::task::spawn_blocking(move || {
            let contents = unpack(file.path(), &member)?;
            files::write_executable(&to, contents)
        })
        .await
        .context("unpack a download")?
    }
}

fn keep(file: tempfile::NamedTempFile, to: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let kept = file
        .as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o755))
        .and_then(|()| file.as_file().sync_data());
    kept.and_then(|()| file.persist(to).map(drop).map_err(|error| error.error))
        .map_err(|error| files::explain(error, "write", to))
}

fn unpack(archive: &Path, member: &str) -> Result<Vec<u8>> {
    let file = std::fs::File::open(archive).context("open the download")?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    for entry in archive.entries().context("read the archive")? {
        let mut entry = entry.context("read the archive")?;
        if entry.path().is_ok_and(|path| path == Path::new(member)) {
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).context("read the archive")?;
            return Ok(contents);
        }
    }
    anyhow::bail!("the archive has no `{member}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::files::Digest;
    use axum::body::{Body, Bytes};
    use axum::http::{Response, StatusCode, header};
    use axum::routing::get;

    /// Serves what a bad day brings, and returns its address.
    async fn stub() -> String {
        let app = axum::Router::new()
            .route("/ok", get(|| async { "tool" }))
            .route("/500", get(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
            .route("/hang", get(|| async { std::future::pending::<()>().await }))
            .route(
                "/stall",
                get(|| async {
                    let first = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"to"))]);
                    Body::from_stream(first.chain(futures_util::stream::pending()))
                }),
            )
            .route(
                "/short",
                get(|| async {
                    let body = Body::from_stream(futures_util::stream::iter([
                        Ok(Bytes::from_static(b"to")),
                        Err(std::io::Error::other("the disk went away")),
                    ]));
                    Response::builder()
                        .header(header::CONTENT_LENGTH, 4)
                        .body(body)
                        .expect("a response")
                }),
            )
            .route("/tgz", get(|| async { archive() }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o755);
        builder
            .append_data(&mut header, "linux-amd64/helm", &b"tool"[..])
            .expect("packed");
        builder
            .into_inner()
            .and_then(flate2::write::GzEncoder::finish)
            .expect("packed")
    }

    struct Tried {
        dir: tempfile::TempDir,
        result: Result<()>,
    }

    impl Tried {
        fn code(&self) -> Option<Code> {
            let error = self.result.as_ref().expect_err("it must fail");
            crate::error::diagnosis(error).map(|found| found.code)
        }
        fn left(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.dir.path()).expect("readable");
            entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        }
    }

    async fn try_it(path: &str, sha256: &str, member: Option<&str>) -> Tried {
        crate::world::install_crypto();
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut download = Download::new(format!("{}{path}", stub().await), sha256);
        download.silence = Duration::from_millis(300);
        download.member = member.map(str::to_owned);
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let result = download.to(&http, &dir.path().join("tool"), |_, _| ()).await;
        Tried { dir, result }
    }

    fn digest() -> String {
        Digest::of(b"tool").hex()
    }

    #[tokio::test]
    async fn a_good_download_is_executable() {
        use std::os::unix::fs::PermissionsExt;
        for (path, sha256, member) in [
            ("/ok", digest(), None),
            ("/tgz", Digest::of(&archive()).hex(), Some("linux-amd64/helm")),
        ] {
            let tried = try_it(path, &sha256, member).await;
            assert!(tried.result.is_ok(), "{path}: {:?}", tried.result);
            let file = tried.dir.path().join("tool");
            assert_eq!(std::fs::read(&file).expect("there"), b"tool");
            assert_eq!(file.metadata().expect("there").permissions().mode() & 0o777, 0o755);
            assert_eq!(tried.left(), ["tool"], "no temporary file is left");
        }
    }

    #[tokio::test]
    async fn a_wrong_digest_is_told_and_nothing_is_kept() {
        let tried = try_it("/ok", &"0".repeat(64), None).await;
        assert_eq!(tried.code(), Some(Code::CacheCorrupt));
        assert!(tried.left().is_empty(), "{:?}", tried.left());
    }

    #[tokio::test]
    async fn a_server_that_fails_hangs_stalls_or_stops_half_way_is_told_apart_from_a_wrong_file() {
        for path in ["/500", "/404", "/hang", "/stall", "/short"] {
            let tried = try_it(path, &digest(), None).await;
            assert_eq!(tried.code(), Some(Code::PackageRegistry), "{path}");
            assert!(tried.left().is_empty(), "{path}: {:?}", tried.left());
        }
    }

    #[tokio::test]
    async fn nobody_at_the_address_is_a_connection_error() {
        crate::world::install_crypto();
        let dir = tempfile::tempdir().expect("temporary directory");
        let port = {
            let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            held.local_addr().expect("an address").port()
        };
        let download = Download::new(format!("http://127.0.0.1:{port}/x"), digest());
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let error = download
            .to(&http, &dir.path().join("tool"), |_, _| ())
            .await
            .expect_err("nobody is there");
        assert_eq!(
            crate::error::diagnosis(&error).map(|found| found.code),
            Some(Code::PackageRegistry)
        );
    }

    #[tokio::test]
    async fn an_archive_without_the_file_keeps_nothing() {
        let tried = try_it("/tgz", &Digest::of(&archive()).hex(), Some("other")).await;
        assert!(tried.result.is_err());
        assert!(tried.left().is_empty());
    }
}
