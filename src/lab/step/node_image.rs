//! The node image: KIND's own, pulled where an image registry answers, or built from packages by the recipe in
//! `assets/images/node`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;

use super::{Site, base};
use crate::assets;
use crate::config::{self, INPUTS_LABEL, Images, LABEL, SHARED};
use crate::drive::archive;
use crate::drive::files::{self, Digest, Hasher};
use crate::lab::plan::{Progress, State, Step, StepId};
use crate::lab::recipe::{self, Recipe};
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
/// an image registry answers within `ANSWER_LIMIT`.
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
        if matches!(docker.image(&pulled()).await, Ok(Some(_))) {
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
    at_mirror(&versions::pinned().node.upstream)
}

/// Returns an upstream reference at the mirror, if one is set.
pub fn at_mirror(reference: &str) -> String {
    match config::text_variable("LABCTL_IMAGE_MIRROR") {
        Some(mirror) => format!("{mirror}/{reference}"),
        None => reference.to_owned(),
    }
}

/// Returns the name under which KIND's own image is kept.
fn pulled() -> String {
    let digest = Digest::of(upstream().as_bytes());
    format!("labctl.dev/node:upstream-{}", digest.short())
}

/// Returns the name of the node image that this run uses.
pub async fn name(site: &Site) -> String {
    if pulls(site).await { pulled() } else { built() }
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
            let docker = self.0.world().docker().await?;
            return recipe::pull(
                &docker,
                &upstream(),
                &name(&self.0).await,
                Some((&format!("{RECIPE}/rootfs"), "kind/patches")),
                progress,
            )
            .await;
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
        let site = self.0.clone();
        let mut recipe = tokio::task::spawn_blocking(move || gather(&site, &kind.join("images/base/files")))
            .await
            .context("gather the build context")??;
        recipe.no_cache(self.0.no_cache());
        recipe.argument("BASE", base_image);
        recipe.argument("KUBERNETES_VERSION", format!("v{}", versions::pinned().kubernetes));
        recipe.build(&docker, progress).await?;
        // Its contents are in the image now.
        _ = std::fs::remove_file(&tar);
        Ok(())
    }
}

fn gather(site: &Site, kind: &Path) -> Result<Recipe> {
    let mut recipe = Recipe::new(RECIPE, &built(), digest());
    for path in files::walk(kind)? {
        let name = path.strip_prefix(kind).unwrap_or(&path).to_string_lossy().into_owned();
        let program = name.starts_with("kind/bin/") || name.starts_with("usr/local/bin/");
        let wanted = ["etc/", "kind/"].iter().any(|top| name.starts_with(top)) || name == "usr/local/bin/entrypoint";
        if wanted {
            recipe.file(&format!("rootfs/{name}"), if program { 0o755 } else { 0o644 }, path);
        }
    }
    for (folder, names) in [
        (
            "usr/local/bin",
            ["containerd", "containerd-shim-runc-v2", "ctr"].as_slice(),
        ),
        ("opt/cni/bin", &["host-local", "loopback", "portmap", "ptp"]),
        ("opt/labctl/kubelab/usr/local/bin", &["kubelab"]),
        ("opt/labctl/pause", &["pause"]),
    ] {
        for name in names {
            recipe.file(
                &format!("rootfs/{folder}/{name}"),
                0o755,
                site.programs().verified(name)?,
            );
        }
    }
    Ok(recipe)
}
