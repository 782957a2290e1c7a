//! The Kubernetes Job that a job of the dashboard becomes. Pure.
//!
//! Its name follows from the job's id, so creating it twice is creating it once. It has no time to live: that is set when
//! its row and its log are stored ([`forget`]), because Kubernetes takes the log away with the pod.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{
    Job as KubeJob, JobSpec, PodFailurePolicy, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec,
    ResourceRequirements, SeccompProfile, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::dashboard::job::spec::{Limits, Priority, Spec};
use crate::dashboard::job::{Job, JobId, State};

/// The label that says who looks after an object, and its value on the dashboard's.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "labctl-dashboard");
/// The label that says which job of the dashboard a Job or a pod belongs to.
pub const JOB_ID: &str = "labctl.dev/job-id";
/// The label that has the name which the job's creator gave it.
pub const JOB_NAME: &str = "labctl.dev/job-name";
/// The annotation that says who created it. No label: a name of a person may have any characters.
pub const OWNER: &str = "labctl.dev/owner";
/// The annotation that says how many MiB it may write to its output.
pub const OUTPUT_MIB: &str = "labctl.dev/output-mib";
/// The annotation that says why the dashboard ended it, where that is not what its owner asked for.
pub const ENDED: &str = "labctl.dev/ended";
/// The annotation that says how many attempts were ended to hold the job back: Kubernetes removes their pods and does not
/// count them.
pub const HELD: &str = "labctl.dev/held-attempts";
/// The container in which the program runs.
pub const CONTAINER: &str = "job";

/// The user and group of the program: the one that images without root use by custom, and no user of a node.
const USER: i64 = 65_532;
/// The working directory, which is the program's own and empty at first, and its home.
const HOME: &str = "/job";
/// How much the program may leave there, and as much again in `/tmp`.
const DISK: &str = "1Gi";
/// How long a program has from SIGTERM to SIGKILL, in seconds: what `docker stop` gives it.
const GRACE: i64 = 10;
/// How long a Job that is forgotten stays for people with `kubectl`, and for a server that is behind: it finds that the
/// Job is there, and does not create it a second time. In seconds.
const FORGET_AFTER: i32 = 120;

/// What a job gets where its document says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// The image of a job that names none.
    pub image: Option<String>,
    /// The `PriorityClass` of a job's pod, for priorities that have one. Without one its pods wait as all others do.
    pub priority_classes: BTreeMap<Priority, String>,
}

/// What the name of every Job begins with; the rest is the job's id.
pub const NAME_PREFIX: &str = "job-";

/// Returns the name of a job's Job.
pub fn name(id: JobId) -> String {
    format!("{NAME_PREFIX}{id}")
}

/// Returns what selects the objects of every dashboard.
pub fn selector() -> String {
    format!("{}={}", MANAGED_BY.0, MANAGED_BY.1)
}

/// Returns what selects the pods of one job.
pub fn selector_of(id: JobId) -> String {
    format!("{},{JOB_ID}={id}", selector())
}

/// Returns the Job that runs a job.
///
/// # Errors
/// A text for the job's owner: neither the job nor the dashboard names an image.
pub fn job(job: &Job, spec: &Spec, defaults: &Defaults) -> Result<KubeJob, String> {
    let image = spec.image.clone().or_else(|| defaults.image.clone()).ok_or_else(|| {
        "the job names no image, and the dashboard has none for such jobs; give it an `image`".to_owned()
    })?;
    let labels = BTreeMap::from([
        (MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned()),
        (JOB_ID.to_owned(), job.id.to_string()),
        (JOB_NAME.to_owned(), spec.name.clone()),
    ]);
    Ok(KubeJob {
        metadata: ObjectMeta {
            name: Some(name(job.id)),
            labels: Some(labels.clone()),
            annotations: Some(BTreeMap::from([
                (OWNER.to_owned(), job.owner.clone()),
                (OUTPUT_MIB.to_owned(), spec.limits.output_mib.to_string()),
            ])),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            // The row says whether it is held back: it knows of a request that came after the document.
            suspend: Some(job.state == State::Suspended),
            completions: Some(1),
            parallelism: Some(1),
            backoff_limit: Some(i32::try_from(spec.retries).unwrap_or(i32::MAX)),
            active_deadline_seconds: Some(i64::from(spec.limits.seconds)),
            pod_failure_policy: Some(PodFailurePolicy {
                // A node that is drained is not the program's fault and costs it no attempt.
                rules: vec![PodFailurePolicyRule {
                    action: "Ignore".to_owned(),
                    on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                        type_: "DisruptionTarget".to_owned(),
                        status: Some("True".to_owned()),
                    }]),
                    ..PodFailurePolicyRule::default()
                }],
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(PodSpec {
                    priority_class_name: defaults.priority_classes.get(&spec.priority).cloned(),
                    ..pod(job, spec, image)
                }),
            },
            ..JobSpec::default()
        }),
        status: None,
    })
}

fn pod(job: &Job, spec: &Spec, image: String) -> PodSpec {
    let volume = |name: &str| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(DISK.to_owned())),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    };
    PodSpec {
        // With `OnFailure` the pod is removed with the last attempt, and its log with it.
        restart_policy: Some("Never".to_owned()),
        termination_grace_period_seconds: Some(GRACE),
        automount_service_account_token: Some(false),
        // Otherwise every Service of the namespace becomes a dozen environment variables.
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        containers: vec![Container {
            name: CONTAINER.to_owned(),
            image: Some(image),
            command: Some(spec.command.iter().map(|part| literal(part)).collect()),
            env: Some(environment(job, spec)),
            working_dir: Some(HOME.to_owned()),
            resources: Some(resources(spec.limits)),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                read_only_root_filesystem: Some(true),
                capabilities: Some(Capabilities {
                    drop: Some(vec!["ALL".to_owned()]),
                    ..Capabilities::default()
                }),
                ..SecurityContext::default()
            }),
            volume_mounts: Some(vec![mount("home", HOME), mount("tmp", "/tmp")]),
            ..Container::default()
        }],
        volumes: Some(vec![volume("home"), volume("tmp")]),
        ..PodSpec::default()
    }
}

/// Returns a text that Kubernetes passes on as it is: it replaces `$(NAME)` by a variable, and `$$` by `$`.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

fn environment(job: &Job, spec: &Spec) -> Vec<EnvVar> {
    let mut all = BTreeMap::from([("HOME".to_owned(), HOME.to_owned())]);
    all.extend(spec.env.clone());
    all.insert("LABCTL_JOB_ID".to_owned(), job.id.to_string());
    all.into_iter()
        .map(|(name, value)| EnvVar {
            name,
            value: Some(literal(&value)),
            ..EnvVar::default()
        })
        .collect()
}

/// Memory is set aside whole, because what is promised twice ends in a dead job. Processor time can be shared, so only a
/// tenth of it is set aside, and a small node runs more than one job.
fn resources(limits: Limits) -> ResourceRequirements {
    let memory = || Quantity(format!("{}Mi", limits.memory_mib));
    let cpu = |milli: u32| Quantity(format!("{milli}m"));
    let pair = |processor, memory| BTreeMap::from([("cpu".to_owned(), processor), ("memory".to_owned(), memory)]);
    ResourceRequirements {
        requests: Some(pair(cpu((limits.cpu_milli / 10).max(10)), memory())),
        limits: Some(pair(cpu(limits.cpu_milli), memory())),
        ..ResourceRequirements::default()
    }
}

/// Returns the patch that holds a Job back; `held` says how many attempts were ended for that, this time and before.
pub fn hold(held: u32) -> Value {
    json!({"spec": {"suspend": true}, "metadata": {"annotations": {HELD: held.to_string()}}})
}

/// Returns the patch that lets a Job go on.
pub fn resume() -> Value {
    json!({"spec": {"suspend": false}})
}

/// Returns the patch after which Kubernetes removes a Job that has ended.
pub fn forget() -> Value {
    json!({"spec": {"ttlSecondsAfterFinished": FORGET_AFTER}})
}

/// Returns the patch that says why the dashboard ends a Job.
pub fn ended(reason: &str) -> Value {
    json!({"metadata": {"annotations": {ENDED: reason}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Job {
        Job {
            id: JobId::from_number(4_711).expect("an id"),
            name: "hello".to_owned(),
            owner: "Zoë <zoe@example>".to_owned(),
            state: State::Pending,
            reason: None,
            message: None,
            template: None,
            labels: BTreeMap::new(),
            parent: None,
            created_ms: 0,
            started_ms: None,
            finished_ms: None,
            exit_code: None,
            attempts: 0,
            cancelling: false,
            log_complete: false,
            version: 1,
        }
    }

    fn spec(json: Value) -> Spec {
        serde_json::from_value(json).expect("a spec")
    }

    fn built(row: &Job, json: Value) -> Value {
        let defaults = Defaults {
            image: Some("registry.example/box:1".to_owned()),
            priority_classes: [(Priority::High, "first".to_owned())].into(),
        };
        serde_json::to_value(job(row, &spec(json), &defaults).expect("built")).expect("an object")
    }

    #[test]
    fn the_whole_object_is_as_it_should_be() {
        let spec = json!({"name": "hello", "command": ["sh", "-c", "echo hi"], "retries": 2,
            "limits": {"seconds": 60, "memory_mib": 64, "cpu_milli": 500, "output_mib": 3}});
        let labels = json!({"app.kubernetes.io/managed-by": "labctl-dashboard", "labctl.dev/job-id": "00000000004k7",
            "labctl.dev/job-name": "hello"});
        let expected = json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {
                "name": "job-00000000004k7", "labels": labels,
                "annotations": {"labctl.dev/owner": "Zoë <zoe@example>", "labctl.dev/output-mib": "3"},
            },
            "spec": {
                "suspend": false, "completions": 1, "parallelism": 1, "backoffLimit": 2, "activeDeadlineSeconds": 60,
                "podFailurePolicy": {"rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "restartPolicy": "Never", "terminationGracePeriodSeconds": 10,
                        "automountServiceAccountToken": false, "enableServiceLinks": false,
                        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                            "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                        "containers": [{
                            "name": "job", "image": "registry.example/box:1", "command": ["sh", "-c", "echo hi"],
                            "env": [{"name": "HOME", "value": "/job"},
                                {"name": "LABCTL_JOB_ID", "value": "00000000004k7"}],
                            "workingDir": "/job",
                            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"},
                                "limits": {"cpu": "500m", "memory": "64Mi"}},
                            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                                "capabilities": {"drop": ["ALL"]}},
                            "volumeMounts": [{"name": "home", "mountPath": "/job"}, {"name": "tmp", "mountPath": "/tmp"}],
                        }],
                        "volumes": [{"name": "home", "emptyDir": {"sizeLimit": "1Gi"}},
                            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
                    },
                },
            },
        });
        assert_eq!(built(&row(), spec), expected);
    }

    #[test]
    fn nothing_is_replaced_in_what_the_owner_wrote() {
        let spec =
            json!({"name": "a", "command": ["sh", "-c", "echo $HOME $(id) $$"], "env": {"A": "$(B)$", "HOME": "/x"}});
        let object = built(&row(), spec);
        let container = &object["spec"]["template"]["spec"]["containers"][0];
        // Kubernetes turns each `$$` into `$` and sees no `$(`.
        assert_eq!(container["command"][2], "echo $$HOME $$(id) $$$$");
        let variables = container["env"].as_array().expect("a list");
        let of = |name: &str| {
            let found: Vec<_> = variables.iter().filter(|variable| variable["name"] == name).collect();
            assert_eq!(found.len(), 1, "{name}");
            found[0]["value"].as_str().expect("a text").to_owned()
        };
        assert_eq!(of("A"), "$$(B)$$");
        assert_eq!(of("HOME"), "/x", "the owner's wins");
    }

    #[test]
    fn the_row_says_whether_it_is_held_back() {
        let held = json!({"name": "a", "command": ["x"], "suspend": true});
        assert_eq!(
            built(&row(), held.clone())["spec"]["suspend"],
            false,
            "it was resumed meanwhile"
        );
        let row = Job {
            state: State::Suspended,
            ..row()
        };
        assert_eq!(built(&row, held)["spec"]["suspend"], true);
    }

    #[test]
    fn a_priority_is_the_class_that_stands_for_it_or_none() {
        for (priority, class) in [("high", json!("first")), ("normal", Value::Null), ("low", Value::Null)] {
            let object = built(&row(), json!({"name": "a", "command": ["x"], "priority": priority}));
            assert_eq!(
                object["spec"]["template"]["spec"]["priorityClassName"], class,
                "{priority}"
            );
        }
    }

    #[test]
    fn an_image_is_the_jobs_own_or_the_default_or_a_clear_refusal() {
        let own = json!({"name": "a", "command": ["x"], "image": "own:1"});
        assert_eq!(
            built(&row(), own)["spec"]["template"]["spec"]["containers"][0]["image"],
            "own:1"
        );
        let none = job(
            &row(),
            &spec(json!({"name": "a", "command": ["x"]})),
            &Defaults::default(),
        );
        assert!(none.expect_err("refused").contains("names no image"));
    }

    #[test]
    fn even_the_smallest_job_gets_some_processor_time() {
        let spec = json!({"name": "a", "command": ["x"], "limits": {"cpu_milli": 10}});
        let object = built(&row(), spec);
        let resources = &object["spec"]["template"]["spec"]["containers"][0]["resources"];
        assert_eq!(
            (&resources["requests"]["cpu"], &resources["limits"]["cpu"]),
            (&json!("10m"), &json!("10m"))
        );
    }

    #[test]
    fn patches_change_one_thing() {
        assert_eq!(
            hold(2),
            json!({"spec": {"suspend": true}, "metadata": {"annotations": {"labctl.dev/held-attempts": "2"}}})
        );
        assert_eq!(resume(), json!({"spec": {"suspend": false}}));
        assert_eq!(forget(), json!({"spec": {"ttlSecondsAfterFinished": 120}}));
        assert_eq!(
            ended("X"),
            json!({"metadata": {"annotations": {"labctl.dev/ended": "X"}}})
        );
        let id = JobId::from_number(0).expect("an id");
        assert_eq!(
            selector_of(id),
            "app.kubernetes.io/managed-by=labctl-dashboard,labctl.dev/job-id=0000000000000"
        );
    }
}
