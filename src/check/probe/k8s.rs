//! Lists objects of any kind that the API server knows.

use async_trait::async_trait;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::discovery::{self, Scope};
use kube::{Client, ResourceExt};
use serde_json::Value;

use super::{Context, Probe, one_line};
use crate::check::ask::K8s;
use crate::check::evidence::{Candidate, Evidence, Seen};

/// Groups that are tried in this order where a check names none, so that the common kinds need one request.
const USUAL_GROUPS: [&str; 4] = ["", "apps", "batch", "discovery.k8s.io"];

#[async_trait]
impl Probe for K8s {
    async fn observe(&self, context: &Context<'_>) -> Evidence {
        let client = match &context.cluster {
            Ok(client) => client.clone(),
            Err(none) => return Evidence::blind(none.why.clone()),
        };
        match list(self, client).await {
            Ok(evidence) => evidence,
            Err(error) => Evidence::blind(could_not(&error)),
        }
    }
}

/// Says why the API server could not be asked.
pub(super) fn could_not(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("the API server refused: {} ({})", status.message, status.code),
        other => format!("the API server could not be asked: {}", one_line(other)),
    }
}

async fn list(ask: &K8s, client: Client) -> Result<Evidence, kube::Error> {
    let Some((resource, scope)) = find(ask, &client).await? else {
        return Ok(Evidence::nothing(format!(
            "the API server knows no kind `{}`{}",
            ask.kind,
            ask.group
                .as_deref()
                .map(|group| format!(" in the group {group}"))
                .unwrap_or_default()
        )));
    };
    let api: Api<DynamicObject> = match (&ask.namespace, scope) {
        (Some(namespace), Scope::Namespaced) => Api::namespaced_with(client, namespace, &resource),
        _ => Api::all_with(client, &resource),
    };
    let mut params = ListParams::default();
    if let Some(selector) = &ask.selector {
        params = params.labels(selector);
    }
    if let Some(name) = &ask.name {
        params = params.fields(&format!("metadata.name={name}"));
    }
    let mut objects = api.list(&params).await?.items;
    // The API server of a test, and those of some aggregated APIs, do not know field selectors.
    objects.retain(|object| ask.name.as_ref().is_none_or(|name| object.name_any() == *name));
    objects.sort_by_key(|object| (object.namespace(), object.name_any()));
    let candidates = objects
        .into_iter()
        .map(|mut object| {
            // Who wrote which field when would make equal objects look different.
            object.metadata.managed_fields = None;
            object.metadata.resource_version = None;
            Candidate {
                name: format!("{} {}", ask.kind, object.name_any()),
                value: serde_json::to_value(&object).unwrap_or(Value::Null),
            }
        })
        .collect();
    Ok(Evidence::Seen(Seen { candidates, note: None }))
}

async fn find(ask: &K8s, client: &Client) -> Result<Option<(ApiResource, Scope)>, kube::Error> {
    let in_group = async |group: &str| match discovery::group(client, group).await {
        Ok(group) => Ok(group
            .recommended_kind(&ask.kind)
            .map(|(resource, has)| (resource, has.scope))),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        // A group that the API server does not have.
        Err(kube::Error::Discovery(_)) => Ok(None),
        Err(error) => Err(error),
    };
    if let Some(group) = &ask.group {
        return in_group(group).await;
    }
    for group in USUAL_GROUPS {
        if let Some(found) = in_group(group).await? {
            return Ok(Some(found));
        }
    }
    for group in client.list_api_groups().await?.groups {
        if !USUAL_GROUPS.contains(&group.name.as_str())
            && let Some(found) = in_group(&group.name).await?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
