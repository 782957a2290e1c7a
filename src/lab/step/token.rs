//! The Secret that says who may use the dashboard, and the file with the same token for the programs of this machine.

use anyhow::Result;
use async_trait::async_trait;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams};

use super::{Site, chart, cluster};
use crate::config::LABEL;
use crate::drive::cluster::Cluster as Connection;
use crate::error::{Code, Diagnose, Diagnosis};
use crate::lab::access::Tokens;
use crate::lab::plan::{Progress, State, Step, StepId};
use crate::lab::record::Origin;

/// The name of the Secret.
pub const SECRET: &str = "job-dashboard-tokens";
/// Its key, which the chart mounts as a file.
const KEY: &str = "tokens";

/// See the module.
pub struct Token(pub Site);

impl Token {
    fn secrets(connection: &Connection) -> Api<Secret> {
        Api::namespaced(connection.client(), chart::NAME)
    }

    async fn in_cluster(connection: &Connection) -> Result<Option<Tokens>> {
        let secret = Self::secrets(connection).get_opt(SECRET).await.diagnose(|| {
            Diagnosis::new(
                Code::ClusterUnready,
                format!("ask the cluster for the Secret `{SECRET}`"),
            )
        })?;
        let text = secret.and_then(|secret| secret.data?.remove(KEY));
        Ok(text.and_then(|ByteString(bytes)| Tokens::parse(&String::from_utf8(bytes).ok()?)))
    }
}

#[async_trait]
impl Step for Token {
    fn id(&self) -> StepId {
        "token"
    }

    fn title(&self) -> String {
        "token of the dashboard".into()
    }

    fn needs(&self) -> Vec<StepId> {
        match self.0.record().cluster {
            Origin::Kind => vec![cluster::API],
            Origin::Existing { .. } => vec!["cluster"],
        }
    }

    async fn observe(&self) -> Result<State> {
        let settings = self.0.world().settings();
        let Some(own) = Tokens::read(settings) else {
            return Ok(State::wanting("the lab has none"));
        };
        let connection = Connection::connect(settings).await?;
        Ok(match Self::in_cluster(&connection).await? {
            Some(there) if there == own => State::holds(format!("Secret {}/{SECRET}", chart::NAME)),
            Some(_) => State::wanting("the cluster has another one"),
            None => State::wanting("the cluster does not have it"),
        })
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        progress.doing("making it known to the cluster");
        let settings = self.0.world().settings();
        let connection = Connection::connect(settings).await?;
        let tokens = match (Tokens::read(settings), Self::in_cluster(&connection).await?) {
            // The lab's file is what people have used; where it was lost, the dashboard's own is as good.
            (Some(tokens), _) | (None, Some(tokens)) => tokens,
            (None, None) => Tokens::make()?,
        };
        tokens.write(settings)?;
        chart::make_namespace(&self.0, &connection).await?;
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                namespace: Some(chart::NAME.to_owned()),
                labels: Some([(LABEL.to_owned(), self.0.name().to_owned())].into()),
                ..ObjectMeta::default()
            },
            data: Some([(KEY.to_owned(), ByteString(tokens.text().as_bytes().to_vec()))].into()),
            ..Secret::default()
        };
        Self::secrets(&connection)
            .patch(SECRET, &PatchParams::apply("labctl").force(), &Patch::Apply(&secret))
            .await
            .diagnose(|| Diagnosis::new(Code::ClusterUnready, format!("write the Secret `{SECRET}`")))?;
        Ok(())
    }
}
