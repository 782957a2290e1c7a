//! The dashboard's image, which is this executable, and its way into the lab's registry.

use anyhow::{Context, Result};
use async_trait::async_trait;

use super::Site;
use crate::drive::registry::Registry;
use crate::error::{Code, Diagnosis};
use crate::lab::image::archive::Image;
use crate::lab::image::dashboard::{self, Recipe};
use crate::lab::image::load;
use crate::lab::image::store::Store;
use crate::lab::plan::{Progress, State, Step, StepId};
use crate::lab::record::Origin;

/// The image's layers, in the cache and in the registry.
pub struct Push(pub Site);

async fn recipe(site: &Site) -> Result<Recipe> {
    let store = store(site);
    tokio::task::spawn_blocking(move || Recipe::of(&dashboard::executable()?, &store))
        .await
        .context("look at the executable")?
}

fn store(site: &Site) -> Store {
    Store::of(site.world().settings(), site.world().reporter())
}

fn registry(site: &Site) -> String {
    format!("localhost:{}", site.record().ports.registry)
}

/// Returns the repository and the tag of the dashboard's image, as Helm's values want them.
///
/// # Errors
/// The executable cannot be read.
pub async fn reference(site: &Site) -> Result<(String, String)> {
    if let Origin::Existing { image: Some(image), .. } = &site.record().cluster {
        return split(image);
    }
    let recipe = recipe(site).await?;
    Ok((
        format!("{}/{}", registry(site), dashboard::REPOSITORY),
        recipe.tag().to_owned(),
    ))
}

fn split(image: &str) -> Result<(String, String)> {
    // A colon before the last slash belongs to the registry's port.
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') && !repository.is_empty() && !tag.is_empty() => {
            Ok((repository.to_owned(), tag.to_owned()))
        }
        _ => Err(
            Diagnosis::new(Code::Setting, format!("`{image}` is not an image with a tag"))
                .hint("write it as REPOSITORY:TAG, such as registry.example/job-dashboard:1")
                .error(),
        ),
    }
}

/// The image's name in the course, without its host.
const COURSE_NAME: &str = "job-dashboard";
/// The image's tag in the course: the version that the chart is of.
const COURSE_TAG: &str = env!("CARGO_PKG_VERSION");

/// Makes the image in the cache.
///
/// # Errors
/// The executable cannot be read or the cache cannot be written.
pub async fn build(site: &Site) -> Result<Image> {
    let recipe = recipe(site).await?;
    let store = store(site);
    let name = registry(site);
    tokio::task::spawn_blocking(move || recipe.build(&name, &store))
        .await
        .context("write layers")?
}

#[async_trait]
impl Step for Push {
    fn id(&self) -> StepId {
        "dashboard-push"
    }

    fn title(&self) -> String {
        "dashboard image".into()
    }

    fn needs(&self) -> Vec<StepId> {
        vec!["registry"]
    }

    async fn observe(&self) -> Result<State> {
        let recipe = recipe(&self.0).await?;
        let at = Registry::at(registry(&self.0))?;
        let found = at.manifest_digest(dashboard::REPOSITORY, recipe.tag()).await?;
        let named = at.manifest_digest(COURSE_NAME, COURSE_TAG).await?;
        Ok(match found {
            Some(digest) if named == Some(digest) => State::holds(recipe.name(&registry(&self.0))),
            Some(_) => State::wanting("the registry does not have it under the chart's name"),
            None => State::wanting("the registry does not have it"),
        })
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        progress.doing("writing layers");
        let image = build(&self.0).await?;
        progress.doing("sending layers");
        let registry = Registry::at(registry(&self.0))?;
        load::push(&registry, &image, None).await?;
        // The name that the chart has by default, and that the course prints: see `wiring::COURSE_HOST`.
        for layer in &image.layers {
            registry.mount(COURSE_NAME, layer.digest, dashboard::REPOSITORY).await?;
        }
        let named = Image {
            name: format!("{}/{COURSE_NAME}:{COURSE_TAG}", registry.host()),
            ..image
        };
        load::push(&registry, &named, None).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_split_at_its_tag() {
        let split_to = |image| split(image).ok();
        assert_eq!(split_to("r:5000/a/b:1"), Some(("r:5000/a/b".into(), "1".into())));
        assert_eq!(split_to("r:5000/a/b"), None);
        assert_eq!(split_to("a"), None);
        assert_eq!(split_to("a:"), None);
    }
}
