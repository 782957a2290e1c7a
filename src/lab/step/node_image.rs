//! The node image: KIND's own, pulled where an image registry answers, or built from packages by the recipe in
//! `assets/images/node`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use bollard::query_parameters::BuildImageOptionsBuilder;

use super::{Site, base};
use crate::assets;
use crate::config::{self, INPUTS_LABEL, Images, LABEL, SHARED};
use crate::drive::archive;
use crate::drive::files::{self, Digest, Hasher};
use crate::lab::plan::{Progress, State, Step, StepId};
use crate::lab::{programs, versions};

/// How long an image registry may take to say that it is there.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
const RECIPE: &str = "assets/images/node";
/// KIND's module, whose `images/base/files` are the files that make a container a node.
const KIND_MODULE: &str = "sigs.k8s.io/kind";

/// See the module.
pub struct NodeImage(pub Site);

fn digest() -> Digest {
    let mut hasher = Hasher::default();
    hasher
        .field("node-1")
        .field(base::digest().hex())
        .field(programs::digest().hex())
        .field(assets::digest(RECIPE).hex());
    hasher.finish()
}

/// Returns the name of the image that is built here.
pub fn built() -> String {
    format!(
        "labctl.dev/node:v{}-{}",
        versions::pinned().kubernetes,
        digest().short()
    )
}

/// Returns whether the node image is pulled in this run.
///
/// `auto` keeps to what is there: an image that was built or pulled, or programs that were built. Otherwise it pulls if
/// an image registry answers within [`ANSWER_LIMIT`].
pub async fn pulls(site: &Site) -> bool {
    match site.images() {
        Images::Pull => true,
        Images::Build => false,
        Images::Auto => *site.auto_pulls().get_or_init(|| choose(site)).await,
    }
}

async fn choose(site: &Site) -> bool {
    if let Ok(docker) = site.world().docker().await {
        if matches!(docker.image(&built()).await, Ok(Some(_))) {
            return false;
        }
        if matches!(docker.image(&upstream()).await, Ok(Some(_))) {
            return true;
        }
    }
    if site.programs().wanting().is_none() {
        return false;
    }
    let base = image_registry();
    let answer = site
        .world()
        .http()
        .get(format!("{base}/v2/"))
        .timeout(ANSWER_LIMIT)
        .send()
        .await;
    // A registry that wants a token first says so with 401.
    answer.is_ok_and(|answer| answer.status().is_success() || answer.status() == http::StatusCode::UNAUTHORIZED)
}

/// Returns the address of the registry that upstream images are pulled from.
fn image_registry() -> String {
    match config::text_variable("LABCTL_IMAGE_MIRROR") {
        Some(mirror) => format!("http://{mirror}"),
        None => "https://registry-1.docker.io".to_owned(),
    }
}

/// Returns the name of KIND's own image, by digest, at the mirror if there is one.
fn upstream() -> String {
    let reference = &versions::pinned().node.upstream;
    match config::text_variable("LABCTL_IMAGE_MIRROR") {
        Some(mirror) => format!("{mirror}/{reference}"),
        None => reference.clone(),
    }
}

/// Returns the name of the node image that this run uses.
pub async fn name(site: &Site) -> String {
    if pulls(site).await { upstream() } else { built() }
}

#[async_trait]
impl Step for NodeImage {
    fn id(&self) -> StepId {
        "node-image"
    }

    fn title(&self) -> String {
        format!("node image v{}", versions::pinned().kubernetes)
    }

    fn needs(&self) -> Vec<StepId> {
        vec!["engine", "base", "programs"]
    }

    async fn observe(&self) -> Result<State> {
        let docker = self.0.world().docker().await?;
        let name = name(&self.0).await;
        Ok(match docker.image(&name).await? {
            Some(_) => State::holds(name),
            None => State::wanting(format!("the engine has no `{name}`")),
        })
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        if pulls(&self.0).await {
            progress.doing(format!("pulling {}", upstream()));
            let said = progress.clone();
            let docker = self.0.world().docker().await?;
            return docker.pull(&upstream(), move |what| said.doing(what)).await;
        }
        self.build(progress).await
    }
}

impl NodeImage {
    async fn build(&self, progress: &Progress) -> Result<()> {
        let world = self.0.world();
        let docker = world.docker().await?;
        let base_image = base::image();
        let tar = base::Base(self.0.clone()).tar();
        if docker.image(&base_image).await?.is_none() {
            progress.doing("importing the root file system");
            let (name, tag) = base_image.rsplit_once(':').context("an image name has a tag")?;
            let changes = [
                format!("LABEL {LABEL}={SHARED}"),
                format!("LABEL {INPUTS_LABEL}={}", base::digest().hex()),
            ];
            let root = archive::file(&tar)
                .await
                .map_err(|error| files::explain(error, "read", &tar))?;
            docker.import(name, tag, &changes, root).await?;
        }
        progress.doing("fetching KIND's node files");
        let log = self.0.log("node-image");
        let kind = self.0.programs().source(world, KIND_MODULE, &log).await?;
        progress.doing("checking the programs");
        let programs = self.0.programs().clone();
        let context =
            tokio::task::spawn_blocking(move || BuildContext::gather(&programs, &kind.join("images/base/files")))
                .await
                .context("gather the build context")??;
        let name = built();
        let version = format!("v{}", versions::pinned().kubernetes);
        let arguments = HashMap::from([
            ("BASE".to_owned(), base_image),
            ("KUBERNETES_VERSION".to_owned(), version),
        ]);
        let labels = HashMap::from([
            (LABEL.to_owned(), SHARED.to_owned()),
            (INPUTS_LABEL.to_owned(), digest().hex()),
        ]);
        let options = BuildImageOptionsBuilder::default()
            .t(&name)
            .buildargs(&arguments)
            .labels(&labels)
            .rm(true)
            .forcerm(true)
            .build();
        let said = progress.clone();
        progress.doing("sending the build context");
        docker
            .build(options, archive::stream(move |out| context.write(out)), move |line| {
                said.doing(line);
            })
            .await?;
        // Its contents are in the image now.
        _ = std::fs::remove_file(&tar);
        Ok(())
    }
}

/// The build context: names in it with their modes and where their contents come from.
struct BuildContext {
    files: Vec<(String, u32, Contents)>,
}

enum Contents {
    Embedded(&'static [u8]),
    File(PathBuf),
}

impl BuildContext {
    fn gather(programs: &programs::Programs, kind: &Path) -> Result<Self> {
        let mut out = Vec::new();
        for (name, contents) in assets::files(RECIPE) {
            out.push((name.to_string_lossy().into_owned(), 0o644, Contents::Embedded(contents)));
        }
        for path in files::walk(kind)? {
            let name = path.strip_prefix(kind).unwrap_or(&path).to_string_lossy().into_owned();
            let program = name.starts_with("kind/bin/") || name.starts_with("usr/local/bin/");
            let mode = if program { 0o755 } else { 0o644 };
            let wanted =
                ["etc/", "kind/"].iter().any(|top| name.starts_with(top)) || name == "usr/local/bin/entrypoint";
            let ours = out.iter().any(|(known, _, _)| *known == format!("rootfs/{name}"));
            if wanted && !ours {
                out.push((format!("rootfs/{name}"), mode, Contents::File(path)));
            }
        }
        let mut program = |name: &str, folder: &str| -> Result<()> {
            let path = programs.verified(name)?;
            out.push((format!("rootfs/{folder}/{name}"), 0o755, Contents::File(path)));
            Ok(())
        };
        for name in ["containerd", "containerd-shim-runc-v2", "ctr"] {
            program(name, "usr/local/bin")?;
        }
        for name in ["host-local", "loopback", "portmap", "ptp"] {
            program(name, "opt/cni/bin")?;
        }
        program("kubelab", "opt/labctl/kubelab/usr/local/bin")?;
        program("pause", "opt/labctl/pause")?;
        out.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Self { files: out })
    }

    fn write<W: std::io::Write>(self, archive: &mut tar::Builder<W>) -> Result<()> {
        for (name, mode, contents) in self.files {
            match contents {
                Contents::Embedded(bytes) => archive::append(archive, &name, mode, bytes)?,
                Contents::File(path) => archive::append_file(archive, &name, mode, &path)?,
            }
        }
        Ok(())
    }
}
