//! Names of things, written the same everywhere.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::prose::Look;
use crate::prose::finding::Said;
use crate::prose::span::{Block, Kind};

/// Names as their owners write them. A word that differs from one of these in its case alone is reported.
const NAMES: &[&str] = &[
    "Ansible",
    "AppArmor",
    "BuildKit",
    "CentOS",
    "ConfigMap",
    "CoreDNS",
    "CronJob",
    "DaemonSet",
    "Debian",
    "Dockerfile",
    "EndpointSlice",
    "FluxCD",
    "GitHub",
    "GitLab",
    "GitOps",
    "GraphQL",
    "Grafana",
    "IPv4",
    "IPv6",
    "JSON",
    "JavaScript",
    "JUnit",
    "Kubernetes",
    "Kustomize",
    "LaTeX",
    "Linux",
    "MariaDB",
    "MongoDB",
    "MySQL",
    "NetworkPolicy",
    "NumPy",
    "OAuth",
    "OpenAPI",
    "OpenSSL",
    "OpenTelemetry",
    "PostgreSQL",
    "PowerShell",
    "Prometheus",
    "ReplicaSet",
    "SQLite",
    "StatefulSet",
    "Terraform",
    "TypeScript",
    "Ubuntu",
    "WebAssembly",
    "WebSocket",
    "YAML",
    "cgroup",
    "containerd",
    "etcd",
    "gRPC",
    "iptables",
    "kube-proxy",
    "kubeadm",
    "kubectl",
    "kubelet",
    "mTLS",
    "macOS",
    "npm",
    "runc",
    "systemd",
    "vCPU",
];

/// Names that are, in small letters, also the names of programs, modules and formats in running text.
const ALSO_CODE: [&str; 12] = [
    "ansible",
    "debian",
    "github",
    "json",
    "latex",
    "mysql",
    "numpy",
    "openssl",
    "sqlite",
    "terraform",
    "websocket",
    "yaml",
];

static BY_LOWER: LazyLock<HashMap<String, &str>> =
    LazyLock::new(|| NAMES.iter().map(|name| (name.to_lowercase(), *name)).collect());

/// Finds names that are not written as their owners, or the project, write them.
pub(super) fn look(look: &mut Look<'_, '_>, block: &Block) {
    if !look.runs("name") || block.quoted {
        return;
    }
    for (name, wrong) in &look.config.names {
        for wrong in wrong {
            let mut from = 0;
            while let Some(found) = block.text[from..].find(wrong.as_str()) {
                let range = from + found..from + found + wrong.len();
                from = range.end;
                if alone(block, range.start, range.end) && !wrong.is_empty() && name != wrong {
                    report(look, block, range, wrong, name);
                }
            }
            if wrong.is_empty() {
                break;
            }
        }
    }
    let mut sentence = block.sentences.iter().peekable();
    for (index, token) in block.tokens.iter().enumerate() {
        while sentence.next_if(|range| range.end <= index).is_some() {}
        if !token.word || token.end - token.start > 20 {
            continue;
        }
        let written = block.token(index);
        let Some(name) = BY_LOWER.get(block.token_lower(index)) else {
            continue;
        };
        if written == *name || ALSO_CODE.contains(&written) || look.config.names.contains_key(written) {
            continue;
        }
        // Capitals throughout are a heading's choice; a name that begins with a small letter may begin a sentence.
        let starts = sentence.peek().is_some_and(|range| range.start == index) || block.kind == Kind::Heading;
        let capital = written[1..] == name[1..] && starts && name.starts_with(|c: char| c.is_ascii_lowercase());
        let shouted = written.len() > 4
            && written.bytes().all(|b| b.is_ascii_uppercase())
            && block.text == block.text.to_uppercase();
        if capital || shouted || !alone(block, token.start, token.end) {
            continue;
        }
        report(look, block, token.start..token.end, written, name);
    }
}

/// Returns whether the words stand for themselves, and not in a path, a domain or an identifier.
fn alone(block: &Block, start: usize, end: usize) -> bool {
    let before = block.text[..start].chars().next_back().unwrap_or(' ');
    let mut rest = block.text[end..].chars();
    let after = rest.next().unwrap_or(' ');
    let dot = after == '.' && rest.next().is_some_and(char::is_alphanumeric);
    let joins = |c: char| c.is_alphanumeric() || "_/\\@#$=:".contains(c);
    let bound_before = joins(before) || "-.".contains(before);
    // A colon behind the words is the sentence's.
    let bound_behind = dot || after == '-' || (after != ':' && joins(after));
    !bound_before && !bound_behind
}

fn report(look: &mut Look<'_, '_>, block: &Block, range: std::ops::Range<usize>, written: &str, name: &str) {
    let span = block.source(range.clone());
    let mut said = Said::message(format!("`{written}` is written `{name}`")).instead(format!(
        "write `{name}`, or mark it as code where it is the name of a program or a value"
    ));
    if block.is_literal(&range) {
        said = said.fix(span.clone(), name);
    }
    look.add("name", span, said);
}
