//! The container engine, through its API (bollard).
//!
//! Finding it: `DOCKER_HOST`, then the engine that labctl manages, then `DOCKER_CONTEXT` or the current Docker context,
//! then the usual sockets. Errors of the API get a diagnosis here, once.

pub mod hold;
mod remove;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bollard::models::{BuildInfo, CreateImageInfo};
use bollard::query_parameters as query;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::Deserialize;

use super::files::Digest;
use crate::config::{self, Settings};
use crate::error::{Code, Diagnose, Diagnosis};

/// How long an engine may take to answer a ping.
const PING_LIMIT: Duration = Duration::from_secs(3);
/// How long any one request may take to begin its answer, in seconds: a build step may be silent for minutes.
const REQUEST_LIMIT_SECONDS: u64 = 1800;
/// The oldest API that has everything used here (Docker 20.10).
const OLDEST_API: (u64, u64) = (1, 41);

/// How an engine was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `DOCKER_HOST` names it.
    Environment,
    /// labctl started it.
    Managed,
    /// A Docker context names it.
    Context(String),
    /// It listens where engines usually do.
    Usual,
}

/// A container engine that answered.
#[derive(Clone)]
pub struct Docker {
    client: bollard::Docker,
    host: String,
    source: Source,
    version: String,
}

/// Returns the socket of the engine that labctl manages.
///
/// A socket's path must be shorter than 108 bytes, so it does not lie in the state directory; its name tells apart the
/// engines of two state directories.
pub fn managed_socket(settings: &Settings) -> PathBuf {
    let mark = Digest::of(settings.dirs.engine().as_os_str().as_encoded_bytes()).short();
    Path::new("/run/labctl").join(format!("{mark}.sock"))
}

impl Docker {
    /// Finds an engine that answers.
    ///
    /// # Errors
    /// [`Code::EngineMissing`] with how to get one, [`Code::EngineDenied`], [`Code::EngineTooOld`].
    pub async fn find(settings: &Settings) -> Result<Self> {
        let mut tried = Vec::new();
        for (source, host) in candidates(settings)? {
            let named = matches!(source, Source::Environment | Source::Context(_));
            match Self::connect(&host, source).await {
                Ok(docker) => return Ok(docker),
                // What the user named is meant; another engine would be a surprise.
                Err(error) if named => return Err(error),
                Err(error) if denied(&error) => return Err(error),
                Err(_) => tried.push(host),
            }
        }
        Err(Diagnosis::new(
            Code::EngineMissing,
            format!("no container engine answers (tried {})", tried.join(", ")),
        )
        .hint("labctl up --yes installs and starts one (as root on Debian or Ubuntu)")
        .hint("labctl doctor prints the command for this system")
        .error())
    }

    /// Connects to one engine and checks that it answers and is new enough.
    ///
    /// # Errors
    /// As [`Docker::find`].
    pub async fn connect(host: &str, source: Source) -> Result<Self> {
        let missing = || {
            let diagnosis = Diagnosis::new(Code::EngineMissing, format!("no container engine answers at {host}"));
            match &source {
                Source::Environment => diagnosis.hint("DOCKER_HOST names it: start that engine, or unset DOCKER_HOST"),
                Source::Context(name) => diagnosis.hint(format!(
                    "the Docker context `{name}` names it: start that engine, or choose another with `docker context use`"
                )),
                Source::Managed | Source::Usual => diagnosis.hint("labctl doctor says how to start one"),
            }
        };
        let client = open(host).diagnose(missing)?;
        let version = match tokio::time::timeout(PING_LIMIT, client.version()).await {
            Ok(Ok(version)) => version,
            Ok(Err(error)) => {
                let error = anyhow::Error::new(error);
                if format!("{error:#}").to_lowercase().contains("permission denied") {
                    return Err(error.context(
                        Diagnosis::new(
                            Code::EngineDenied,
                            format!("this user may not use the engine at {host}"),
                        )
                        .hint("sudo usermod -aG docker $USER, then log in again"),
                    ));
                }
                return Err(error.context(missing()));
            }
            Err(_) => {
                return Err(missing()
                    .hint(format!(
                        "it accepts connections and did not answer within {}s",
                        PING_LIMIT.as_secs()
                    ))
                    .error());
            }
        };
        let api = version.api_version.unwrap_or_default();
        if parse_api(&api) < OLDEST_API {
            return Err(Diagnosis::new(
                Code::EngineTooOld,
                format!(
                    "the engine at {host} speaks API {api}; {}.{} is the oldest that will do",
                    OLDEST_API.0, OLDEST_API.1
                ),
            )
            .hint("update it: Docker 20.10 (December 2020) or newer")
            .error());
        }
        // Without the engine's own version every request would ask for the client's newer one, and be refused.
        let client = client.negotiate_version().await.diagnose(missing)?;
        Ok(Self {
            client,
            host: host.to_owned(),
            source,
            version: version.version.unwrap_or_default(),
        })
    }

    /// Returns the API client, for what has no method here.
    pub fn api(&self) -> &bollard::Docker {
        &self.client
    }

    /// Returns the engine's address in the form of `DOCKER_HOST`, for programs such as `kind`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns how the engine was found.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Returns the engine's version, such as `20.10.24`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns an image's id and labels, or nothing where there is no such image.
    ///
    /// # Errors
    /// [`Code::EngineFailed`].
    pub async fn image(&self, name: &str) -> Result<Option<bollard::models::ImageInspect>> {
        absent_as_none(self.client.inspect_image(name).await).diagnose(|| failed(format!("look at the image `{name}`")))
    }

    /// Returns a container's state, or nothing where there is no such container.
    ///
    /// # Errors
    /// [`Code::EngineFailed`].
    pub async fn container(&self, name: &str) -> Result<Option<bollard::models::ContainerInspectResponse>> {
        absent_as_none(
            self.client
                .inspect_container(name, None::<query::InspectContainerOptions>)
                .await,
        )
        .diagnose(|| failed(format!("look at the container `{name}`")))
    }

    /// Returns a network, or nothing where there is none of that name.
    ///
    /// # Errors
    /// [`Code::EngineFailed`].
    pub async fn network(&self, name: &str) -> Result<Option<bollard::models::NetworkInspect>> {
        absent_as_none(
            self.client
                .inspect_network(name, None::<query::InspectNetworkOptions>)
                .await,
        )
        .diagnose(|| failed(format!("look at the network `{name}`")))
    }

    /// Returns the containers, running or not, that match the filters, such as `label=["labctl.dev/lab=labctl"]`.
    ///
    /// # Errors
    /// [`Code::EngineFailed`].
    pub async fn containers(
        &self,
        filters: HashMap<String, Vec<String>>,
    ) -> Result<Vec<bollard::models::ContainerSummary>> {
        let options = query::ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filters)
            .build();
        self.client
            .list_containers(Some(options))
            .await
            .diagnose(|| failed("list containers"))
    }

    /// Loads an image archive (`docker save` form) and returns what the engine says of it.
    ///
    /// # Errors
    /// [`Code::EngineFailed`] or [`Code::Disk`].
    pub async fn load(
        &self,
        archive: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    ) -> Result<()> {
        let options = query::ImportImageOptionsBuilder::default().quiet(true).build();
        let mut answers = std::pin::pin!(self.client.import_image_stream(options, archive, None));
        while let Some(answer) = answers.next().await {
            check(&answer.diagnose(|| failed("load an image"))?, "load an image")?;
        }
        Ok(())
    }

    /// Makes an image of one layer from a root file system.
    ///
    /// `changes` are Dockerfile instructions, such as `LABEL a=b`.
    ///
    /// # Errors
    /// [`Code::EngineFailed`] or [`Code::Disk`].
    pub async fn import(
        &self,
        name: &str,
        tag: &str,
        changes: &[String],
        root: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    ) -> Result<()> {
        let options = query::CreateImageOptionsBuilder::default()
            .from_src("-")
            .repo(name)
            .tag(tag)
            .changes(changes.to_vec())
            .build();
        let body = bollard::body_try_stream(root);
        let mut answers = self.client.create_image(Some(options), Some(body), None);
        while let Some(answer) = answers.next().await {
            let answer: CreateImageInfo = answer.diagnose(|| failed(format!("import the image `{name}`")))?;
            if let Some(detail) = answer.error_detail {
                return Err(engine_said(
                    &format!("import the image `{name}`"),
                    &detail.message.unwrap_or_default(),
                ));
            }
        }
        Ok(())
    }

    /// Pulls an image and calls `on_line` with what the engine says.
    ///
    /// # Errors
    /// [`Code::ImageRegistry`] or [`Code::Disk`].
    pub async fn pull(&self, reference: &str, mut on_line: impl FnMut(&str)) -> Result<()> {
        let unavailable = || {
            Diagnosis::new(Code::ImageRegistry, format!("pull the image `{reference}`"))
                .hint("labctl up --images build makes all images from package registries instead")
        };
        let options = query::CreateImageOptionsBuilder::default()
            .from_image(reference)
            .build();
        let mut answers = self.client.create_image(Some(options), None, None);
        while let Some(answer) = answers.next().await {
            let answer: CreateImageInfo = answer.diagnose(unavailable)?;
            if let Some(detail) = answer.error_detail {
                return Err(anyhow::anyhow!("{}", detail.message.unwrap_or_default()).context(unavailable()));
            }
            if let Some(status) = answer.status {
                on_line(&format!("{} {status}", answer.id.unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// Takes a name off an image, also one that a container runs from; its layers stay as long as another image or a
    /// container has them.
    ///
    /// # Errors
    /// [`Code::EngineFailed`].
    pub async fn untag(&self, reference: &str) -> Result<()> {
        let options = query::RemoveImageOptionsBuilder::default()
            .noprune(true)
            .force(true)
            .build();
        absent_as_none(self.client.remove_image(reference, Some(options), None).await)
            .map(|_| ())
            .diagnose(|| failed(format!("take the name `{reference}` off its image")))
    }

    /// Builds an image with the classic builder from a context archive and calls `on_line` with its output.
    ///
    /// # Errors
    /// [`Code::EngineFailed`] or [`Code::Disk`]; the message has the end of the output.
    pub async fn build(
        &self,
        options: query::BuildImageOptions,
        context: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
        mut on_line: impl FnMut(&str),
    ) -> Result<()> {
        let what = format!("build the image `{}`", options.t.clone().unwrap_or_default());
        let mut answers = self
            .client
            .build_image(options, None, Some(bollard::body_try_stream(context)));
        let mut tail: Vec<String> = Vec::new();
        while let Some(answer) = answers.next().await {
            let answer = answer.diagnose(|| failed(what.clone()))?;
            for line in answer.stream.iter().flat_map(|text| text.lines()) {
                let line = line.trim_end();
                if !line.is_empty() {
                    on_line(line);
                    if tail.len() == 12 {
                        tail.remove(0);
                    }
                    tail.push(line.to_owned());
                }
            }
            if let Err(error) = check(&answer, &what) {
                return Err(error.context(format!("{what}\n  | {}", tail.join("\n  | "))));
            }
        }
        Ok(())
    }

    /// Runs a program in a container and returns its exit code and its output.
    ///
    /// # Errors
    /// [`Code::EngineFailed`]: it could not be run. A non-zero exit code is part of the result.
    pub async fn exec(&self, container: &str, argv: &[&str]) -> Result<(i64, String)> {
        use bollard::exec::{CreateExecOptions, StartExecResults};
        let what = || failed(format!("run `{}` in the container `{container}`", argv.join(" ")));
        let created = self
            .client
            .create_exec(
                container,
                CreateExecOptions {
                    cmd: Some(argv.iter().map(|&word| word.to_owned()).collect()),
                    attach_stdout: Some(true),
                    attach_stderr: Some(true),
                    ..CreateExecOptions::default()
                },
            )
            .await
            .diagnose(what)?;
        let mut text = String::new();
        if let StartExecResults::Attached { mut output, .. } =
            self.client.start_exec(&created.id, None).await.diagnose(what)?
        {
            while let Some(part) = output.next().await {
                text.push_str(&String::from_utf8_lossy(&part.diagnose(what)?.into_bytes()));
            }
        }
        let ended = self.client.inspect_exec(&created.id).await.diagnose(what)?;
        Ok((ended.exit_code.unwrap_or(-1), text))
    }

    /// Reads a small file of a container; nothing where there is none.
    ///
    /// # Errors
    /// [`Code::EngineFailed`].
    pub async fn get_file(&self, container: &str, path: &str) -> Result<Option<Vec<u8>>> {
        let what = || failed(format!("read `{path}` in the container `{container}`"));
        let options = query::DownloadFromContainerOptionsBuilder::default().path(path).build();
        let mut parts = std::pin::pin!(self.client.download_from_container(container, Some(options)));
        let mut bytes = Vec::new();
        while let Some(part) = parts.next().await {
            match absent_as_none(part).diagnose(what)? {
                Some(part) => bytes.extend_from_slice(&part),
                None => return Ok(None),
            }
        }
        let mut archive = tar::Archive::new(bytes.as_slice());
        let Some(entry) = archive.entries().diagnose(what)?.next() else {
            return Ok(None);
        };
        let mut contents = Vec::new();
        std::io::Read::read_to_end(&mut entry.diagnose(what)?, &mut contents).diagnose(what)?;
        Ok(Some(contents))
    }

    /// Writes files into a container; each has an absolute path and its contents.
    ///
    /// # Errors
    /// [`Code::EngineFailed`].
    pub async fn put_files(&self, container: &str, files: &[(String, Vec<u8>)]) -> Result<()> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, contents) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.len() as u64);
            header.set_mode(0o644);
            archive
                .append_data(&mut header, path.trim_start_matches('/'), contents.as_slice())
                .with_context(|| format!("pack `{path}`"))?;
        }
        let bytes = archive.into_inner().context("pack files")?;
        let options = query::UploadToContainerOptionsBuilder::default().path("/").build();
        self.client
            .upload_to_container(container, Some(options), bollard::body_full(bytes.into()))
            .await
            .diagnose(|| failed(format!("write files into the container `{container}`")))
    }
}

/// Returns a diagnosis for something the engine did not do.
pub fn failed(what: impl Into<String>) -> Diagnosis {
    Diagnosis::new(Code::EngineFailed, what).hint("labctl doctor looks at the engine; then run the same command again")
}

/// Turns a refusal in an engine's answer into an error.
fn check(answer: &BuildInfo, what: &str) -> Result<()> {
    match &answer.error_detail {
        Some(detail) => Err(engine_said(what, detail.message.as_deref().unwrap_or_default())),
        None => Ok(()),
    }
}

fn engine_said(what: &str, message: &str) -> anyhow::Error {
    if message.contains("no space left on device") {
        return anyhow::anyhow!("{message}").context(
            Diagnosis::new(Code::Disk, format!("{what}: the engine's disk is full"))
                .hint("labctl image prune frees images that no lab uses; docker system df says what else there is"),
        );
    }
    anyhow::anyhow!("{message}").context(failed(what))
}

/// Returns `None` for the engine's "no such ..".
///
/// # Errors
/// Any other error.
pub fn absent_as_none<T>(result: Result<T, bollard::errors::Error>) -> Result<Option<T>, bollard::errors::Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn denied(error: &anyhow::Error) -> bool {
    crate::error::diagnosis(error).is_some_and(|found| found.code == Code::EngineDenied)
}

fn parse_api(text: &str) -> (u64, u64) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn open(host: &str) -> Result<bollard::Docker> {
    let version = bollard::API_DEFAULT_VERSION;
    if let Some(path) = host.strip_prefix("unix://") {
        // bollard refuses a socket it cannot see; the message of the operating system says more.
        rustix::fs::access(path, rustix::fs::Access::EXISTS).with_context(|| format!("look at `{path}`"))?;
        return Ok(bollard::Docker::connect_with_unix(
            path,
            REQUEST_LIMIT_SECONDS,
            version,
        )?);
    }
    if host.starts_with("tcp://") || host.starts_with("http://") {
        return Ok(bollard::Docker::connect_with_http(
            host,
            REQUEST_LIMIT_SECONDS,
            version,
        )?);
    }
    anyhow::bail!("`{host}`: only unix:// and tcp:// engines can be used; for ssh:// forward its socket first")
}

fn candidates(settings: &Settings) -> Result<Vec<(Source, String)>> {
    if let Some(host) = config::text_variable("DOCKER_HOST") {
        return Ok(vec![(Source::Environment, host)]);
    }
    let mut out = Vec::new();
    let managed = managed_socket(settings);
    if managed.exists() {
        out.push((Source::Managed, format!("unix://{}", managed.display())));
    }
    if let Some((name, host)) = context(config::variable("HOME").map(PathBuf::from).as_deref())? {
        out.push((Source::Context(name), host));
        return Ok(out);
    }
    let mut usual = vec![PathBuf::from("/var/run/docker.sock")];
    if let Some(home) = config::variable("HOME").map(PathBuf::from) {
        usual.push(home.join(".docker/run/docker.sock"));
        usual.push(home.join(".colima/default/docker.sock"));
    }
    if let Some(run) = config::variable("XDG_RUNTIME_DIR") {
        usual.push(Path::new(&run).join("docker.sock"));
    }
    out.extend(
        usual
            .into_iter()
            .map(|path| (Source::Usual, format!("unix://{}", path.display()))),
    );
    Ok(out)
}

/// Reads the Docker context that is in use, as the `docker` CLI does: `DOCKER_CONTEXT`, else `currentContext` of
/// `~/.docker/config.json`; its endpoint is in `~/.docker/contexts/meta/<sha256 of the name>/meta.json`.
fn context(home: Option<&Path>) -> Result<Option<(String, String)>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ConfigFile {
        current_context: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Meta {
        endpoints: HashMap<String, Endpoint>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Endpoint {
        host: Option<String>,
    }
    let docker = config::variable("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| home.map(|home| home.join(".docker")));
    let Some(docker) = docker else {
        return Ok(None);
    };
    let named = config::text_variable("DOCKER_CONTEXT").or_else(|| {
        let text = std::fs::read_to_string(docker.join("config.json")).ok()?;
        serde_json::from_str::<ConfigFile>(&text).ok()?.current_context
    });
    let Some(name) = named.filter(|name| !name.is_empty() && name != "default") else {
        return Ok(None);
    };
    let path = docker
        .join("contexts/meta")
        .join(Digest::of(name.as_bytes()).hex())
        .join("meta.json");
    let unusable = || {
        Diagnosis::new(
            Code::EngineMissing,
            format!("the Docker context `{name}` cannot be used"),
        )
        .hint("docker context ls lists contexts; docker context use default goes back to the usual socket")
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("read `{}`", path.display()))
        .diagnose(unusable)?;
    let meta: Meta = serde_json::from_str(&text).diagnose(unusable)?;
    let host = meta
        .endpoints
        .get("docker")
        .and_then(|endpoint| endpoint.host.clone())
        .context("it names no Docker endpoint")
        .diagnose(unusable)?;
    Ok(Some((name, host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_context_is_read_as_the_docker_cli_does() {
        let home = tempfile::tempdir().expect("temporary directory");
        let docker = home.path().join(".docker");
        // The directory name is the SHA-256 of "colima".
        let meta = docker.join("contexts/meta").join(Digest::of(b"colima").hex());
        std::fs::create_dir_all(&meta).expect("directories");
        crate::drive::files::write(&docker.join("config.json"), r#"{"currentContext":"colima"}"#).expect("written");
        crate::drive::files::write(
            &meta.join("meta.json"),
            r#"{"Name":"colima","Endpoints":{"docker":{"Host":"unix:///x/docker.sock"}}}"#,
        )
        .expect("written");
        let found = context(Some(home.path())).expect("readable");
        assert_eq!(found, Some(("colima".into(), "unix:///x/docker.sock".into())));
    }

    #[test]
    fn api_versions_compare_by_number() {
        assert!(parse_api("1.9") < parse_api("1.41"));
        assert_eq!(parse_api("1.41"), OLDEST_API);
        assert_eq!(parse_api("junk"), (0, 0));
    }
}
