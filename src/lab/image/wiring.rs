//! What tells nodes, and tools such as Tilt and Skaffold, where the lab's image registry is.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The port of the registry inside its container.
pub const REGISTRY_PORT: u16 = 5000;

/// The host in the names of the course's own images, such as `labctl.dev/job-dashboard:0.1.0`: the chart's default. A
/// node finds it in the lab's registry, so what the course prints works as it is printed.
pub const COURSE_HOST: &str = "labctl.dev";

/// Returns `host:port` of the lab's registry as image names have it, on this machine and in the cluster alike.
///
/// `localhost`, because engines speak plain HTTP to that name without being told.
pub fn registry_host(port: u16) -> String {
    format!("localhost:{port}")
}

/// Returns where a node keeps `hosts.toml` of a host that image names begin with.
pub fn hosts_path(host: &str) -> String {
    format!("/etc/containerd/certs.d/{host}/hosts.toml")
}

/// Returns the `hosts.toml` that leads a node from `localhost:<port>` to the registry's container on the lab's network.
///
/// `server` is the same address: without it containerd would go on to the node's own loopback address when the
/// container does not answer, and report that as the error.
pub fn hosts_toml(container: &str) -> String {
    let url = format!("http://{container}:{REGISTRY_PORT}");
    format!("server = \"{url}\"\n\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
}

/// Returns the ConfigMap of KEP-1755, by which tools find the registry.
pub fn config_map(port: u16, container: &str) -> ConfigMap {
    let hosting = format!(
        "host: \"{}\"\nhostFromContainerRuntime: \"{container}:{REGISTRY_PORT}\"\nhostFromClusterNetwork: \"{container}:{REGISTRY_PORT}\"\nhelp: \"labctl image load NAME puts an image there\"\n",
        registry_host(port)
    );
    ConfigMap {
        metadata: ObjectMeta {
            name: Some("local-registry-hosting".into()),
            namespace: Some("kube-public".into()),
            ..ObjectMeta::default()
        },
        data: Some([("localRegistryHosting.v1".to_owned(), hosting)].into()),
        ..ConfigMap::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_led_to_the_container_and_nowhere_else() {
        let text = hosts_toml("demo-registry");
        let value: toml::Table = text.parse().expect("TOML");
        assert_eq!(value["server"].as_str(), Some("http://demo-registry:5000"));
        assert!(
            value["host"]["http://demo-registry:5000"]["capabilities"]
                .as_array()
                .is_some_and(|list| list.len() == 2)
        );
        assert_eq!(
            hosts_path(&registry_host(5001)),
            "/etc/containerd/certs.d/localhost:5001/hosts.toml"
        );
    }

    #[test]
    fn the_config_map_is_that_of_kep_1755() {
        let map = config_map(5001, "demo-registry");
        assert_eq!(map.metadata.namespace.as_deref(), Some("kube-public"));
        let data = map.data.expect("data");
        assert!(data["localRegistryHosting.v1"].starts_with("host: \"localhost:5001\"\n"));
    }
}
