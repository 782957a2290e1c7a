//! The image of jobs that name none, and its way into the lab's registry.

use anyhow::{Context, Result};
use async_trait::async_trait;

use super::Site;
use crate::drive::registry::Registry;
use crate::lab::image::archive::Image;
use crate::lab::image::job_base::{self, Recipe};
use crate::lab::image::store::Store;
use crate::lab::image::{dashboard, load, wiring};
use crate::lab::plan::{Progress, State, Step, StepId};
use crate::lab::record::Origin;

/// The image's name in the course, without its host: `labctl.dev/job-base:0.1.0` is what chapters print.
const COURSE_NAME: &str = "job-base";
/// The image's tag in the course.
const COURSE_TAG: &str = env!("CARGO_PKG_VERSION");

/// The image's layer, in the cache and in the registry.
pub struct Push(pub Site);

/// Returns the image's name; nothing where labctl has none for the cluster: it pulls from a registry that is not ours, or
/// this machine's programs do not run in containers.
///
/// # Errors
/// A program of the image cannot be read.
pub async fn name(site: &Site) -> Result<Option<String>> {
    if matches!(&site.record().cluster, Origin::Existing { image: Some(_), .. }) || !dashboard::from_executable() {
        return Ok(None);
    }
    Ok(Some(recipe(site).await?.name(&host(site))))
}

fn host(site: &Site) -> String {
    wiring::registry_host(site.record().ports.registry)
}

fn store(site: &Site) -> Store {
    Store::of(site.world().settings(), site.world().reporter())
}

async fn recipe(site: &Site) -> Result<Recipe> {
    let made = site.job_image().get_or_try_init(|| async {
        let store = store(site);
        tokio::task::spawn_blocking(move || Recipe::of_this_machine(&store))
            .await
            .context("look at this machine's programs")?
    });
    Ok(made.await?.clone())
}

/// Makes the image in the cache.
///
/// # Errors
/// A program of the image cannot be read, or the cache cannot be written.
pub async fn build(site: &Site) -> Result<Image> {
    let (recipe, store, host) = (recipe(site).await?, store(site), host(site));
    tokio::task::spawn_blocking(move || recipe.build(&host, &store))
        .await
        .context("write the layer")?
}

#[async_trait]
impl Step for Push {
    fn id(&self) -> StepId {
        "job-image-push"
    }

    fn title(&self) -> String {
        "image of jobs".into()
    }

    fn needs(&self) -> Vec<StepId> {
        vec!["registry"]
    }

    async fn observe(&self) -> Result<State> {
        let Some(name) = name(&self.0).await? else {
            return Ok(State::holds("none: this machine's programs do not run in containers"));
        };
        let tag = name.rsplit(':').next().unwrap_or_default();
        let at = Registry::at(host(&self.0))?;
        let found = at.manifest_digest(job_base::REPOSITORY, tag).await?;
        let named = at.manifest_digest(COURSE_NAME, COURSE_TAG).await?;
        Ok(match found {
            Some(digest) if named == Some(digest) => State::holds(name),
            Some(_) => State::wanting("the registry does not have it under the course's name"),
            None => State::wanting("the registry does not have it"),
        })
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        progress.doing("writing the layer");
        let image = build(&self.0).await?;
        progress.doing("sending it");
        let registry = Registry::at(host(&self.0))?;
        load::push(&registry, &image, None).await?;
        // The name that chapters print: see `wiring::COURSE_HOST`.
        for layer in &image.layers {
            registry.mount(COURSE_NAME, layer.digest, job_base::REPOSITORY).await?;
        }
        let named = Image {
            name: format!("{}/{COURSE_NAME}:{COURSE_TAG}", registry.host()),
            ..image
        };
        load::push(&registry, &named, None).await?;
        Ok(())
    }
}
