//! Findings on machines of every kind.

use super::*;
use crate::drive::debian::Release;
use crate::drive::machine::{Clock, EngineFacts, OtherLabctl, Port, Program, Stale};

/// A machine on which nothing is wrong.
fn good() -> Facts {
    let place = |what, path: &str| Place {
        what,
        path: path.into(),
        exists: true,
        writable: true,
        free: Some(100_000_000_000),
        device: Some(1),
    };
    Facts {
        os: Os {
            release: Release {
                id: "debian".into(),
                like: Vec::new(),
                name: "Debian GNU/Linux 12".into(),
            },
            kernel: "6.1".into(),
            root: true,
        },
        capabilities: Some((0x1ff_ffff_ffff, 40)),
        inotify: Some((8192, 1_000_000)),
        engine: EngineFacts {
            up: Some(EngineUp {
                version: "28.2.2".into(),
                host: "unix:///run/docker.sock".into(),
                cpus: 4,
                memory: 16 * GIB,
                kernel: "6.1".into(),
                driver: "overlay2".into(),
                cgroup: Some(2),
                ..EngineUp::default()
            }),
            down: None,
        },
        cpus: Some(4),
        memory: Some((16 * GIB, 12 * GIB)),
        cgroup: Some(2),
        places: vec![place("state", "/s"), place("cache", "/c"), place("images", "/d")],
        ports: vec![Port {
            what: "http",
            number: 8080,
            free: true,
            holder: None,
            lab: None,
        }],
        clock: Clock {
            here: 1000,
            there: Some((1001, "a.mirror".into())),
            not_before: Some((900, "/etc/os-release".into())),
        },
        ..Facts::default()
    }
}

fn up(facts: &mut Facts) -> &mut EngineUp {
    facts.engine.up.as_mut().expect("a good machine has an engine")
}

/// Returns the one finding with a code that is worse than a note.
fn bad(facts: &Facts, code: Code) -> Finding {
    let wants = Wants::new("labctl");
    let mut found: Vec<Finding> = check(facts, &wants)
        .into_iter()
        .filter(|finding| finding.severity > Severity::Note)
        .collect();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].code, code);
    let finding = found.remove(0);
    assert!(!finding.why.is_empty(), "it must say why: {finding:?}");
    assert!(!finding.fix.is_empty(), "it must say what to do: {finding:?}");
    finding
}

#[test]
fn a_good_machine_has_no_warning() {
    let found = check(&good(), &Wants::new("labctl"));
    assert!(
        found.iter().all(|finding| finding.severity == Severity::Ok),
        "{found:#?}"
    );
}

#[test]
fn no_engine_is_a_problem_with_the_command_of_the_system() {
    let mut facts = good();
    facts.engine = EngineFacts::default();
    let finding = bad(&facts, Code::EngineMissing);
    assert_eq!(finding.severity, Severity::Problem);
    assert_eq!(finding.fix, ["labctl up --yes"]);
    assert_eq!(finding.repair, Some(Fix::StartEngine));
    facts.os.root = false;
    let finding = bad(&facts, Code::EngineMissing);
    assert!(finding.fix[0].contains("sudo"), "{:?}", finding.fix);
    assert_eq!(finding.repair, None, "only root can");
    facts.os.release = Release {
        id: "fedora".into(),
        ..Release::default()
    };
    assert!(bad(&facts, Code::EngineMissing).fix[0].contains("dnf"));
}

#[test]
fn up_may_go_on_without_an_engine_that_it_will_make() {
    let mut facts = good();
    facts.engine = EngineFacts::default();
    let wants = Wants {
        makes_engine: true,
        ..Wants::new("labctl")
    };
    assert!(worst(&check(&facts, &wants)) < Severity::Problem);
}

#[test]
fn an_engine_that_the_user_named_is_theirs_to_set_right() {
    let mut facts = good();
    let hint = "DOCKER_HOST names it: start that engine, or unset DOCKER_HOST".to_owned();
    facts.engine = EngineFacts {
        up: None,
        down: Some((Code::EngineDenied, "denied".into(), vec![hint.clone()])),
    };
    let finding = bad(&facts, Code::EngineDenied);
    assert_eq!((finding.fix, finding.repair), (vec![hint], None));
}

#[test]
fn too_few_processors_are_told_with_the_sum() {
    let mut facts = good();
    up(&mut facts).cpus = 1;
    let finding = bad(&facts, Code::Cpu);
    assert_eq!(finding.severity, Severity::Warning);
    assert!(
        finding
            .seen
            .contains("975m (Kubernetes itself 950m, job-dashboard 25m)"),
        "{}",
        finding.seen
    );
    let mut facts = good();
    facts.cpu_limit_milli = Some(500);
    assert_eq!(bad(&facts, Code::Cpu).severity, Severity::Problem);
}

#[test]
fn too_little_memory_is_told_before_the_kernel_tells_it() {
    let mut facts = good();
    up(&mut facts).memory = GIB;
    let finding = bad(&facts, Code::Memory);
    assert_eq!(finding.severity, Severity::Problem);
    assert!(finding.seen.contains("requests 322 MiB"), "{}", finding.seen);
    let mut facts = good();
    facts.memory = Some((16 * GIB, GIB / 2));
    assert_eq!(bad(&facts, Code::Memory).severity, Severity::Warning);
    let mut facts = good();
    facts.memory_limit = Some(GIB);
    assert_eq!(bad(&facts, Code::Memory).severity, Severity::Problem);
}

#[test]
fn docker_desktop_is_told_where_its_size_is_set() {
    let mut facts = good();
    let engine = up(&mut facts);
    engine.system = "Docker Desktop".into();
    engine.kernel = "6.10-linuxkit".into();
    engine.memory = GIB;
    assert!(bad(&facts, Code::Memory).fix[0].contains("Docker Desktop"));
}

#[test]
fn what_is_on_one_disk_must_fit_together() {
    let mut facts = good();
    for place in &mut facts.places {
        place.free = Some(4_000_000_000);
    }
    assert_eq!(
        bad(&facts, Code::Disk).severity,
        Severity::Problem,
        "4.2 GB are the least for all three"
    );
    for (place, device) in facts.places.iter_mut().zip(1..) {
        place.device = Some(device);
    }
    let found = check(&facts, &Wants::new("labctl"));
    assert_eq!(worst(&found), Severity::Warning, "each fits alone; building does not");
}

#[test]
fn a_directory_that_cannot_be_written_is_a_problem_and_a_missing_one_is_not() {
    let mut facts = good();
    facts.places[0].writable = false;
    assert!(bad(&facts, Code::NotWritable).fix[0].starts_with("LABCTL_STATE_DIR="));
    let mut facts = good();
    facts.places[1].exists = false;
    let found = check(&facts, &Wants::new("labctl"));
    assert_eq!(worst(&found), Severity::Note);
    assert!(
        found
            .iter()
            .any(|finding| finding.repair == Some(Fix::MakeDir("/c".into())))
    );
}

#[test]
fn inotify_is_raised_and_never_lowered() {
    let mut facts = good();
    facts.inotify = Some((128, 1_000_000));
    let finding = bad(&facts, Code::Inotify);
    assert_eq!(finding.repair, Some(Fix::Inotify(1024, 1_000_000)));
    facts.os.root = false;
    let finding = bad(&facts, Code::Inotify);
    assert!(finding.fix[0].starts_with("sudo sysctl"));
    assert_eq!(finding.repair, None);
    // In a virtual machine the value that counts is the machine's, which this process cannot read.
    up(&mut facts).kernel = "other".into();
    assert!(worst(&check(&facts, &Wants::new("labctl"))) == Severity::Ok);
}

#[test]
fn a_port_is_a_problem_unless_the_lab_itself_holds_it() {
    let mut facts = good();
    facts.ports[0].free = false;
    facts.ports[0].holder = Some("nginx (pid 12)".into());
    let finding = bad(&facts, Code::PortTaken);
    assert!(finding.seen.contains("nginx (pid 12)"), "{}", finding.seen);
    facts.ports[0].lab = Some("other".into());
    assert!(bad(&facts, Code::PortTaken).fix[0].contains("--lab other teardown"));
    facts.ports[0].lab = Some("labctl".into());
    assert_eq!(worst(&check(&facts, &Wants::new("labctl"))), Severity::Ok);
}

#[test]
fn a_bounding_set_that_is_short_stops_only_where_no_engine_can_be_made() {
    let mut facts = good();
    facts.capabilities = Some((0x1ff_feff_ffff, 40));
    let found = check(&facts, &Wants::new("labctl"));
    assert_eq!(worst(&found), Severity::Note);
    assert!(found.iter().any(|finding| finding.seen.contains("CAP_SYS_RESOURCE")));
    facts.os.root = false;
    assert_eq!(bad(&facts, Code::CapabilitiesBounded).severity, Severity::Problem);
    up(&mut facts).runtime = capability::RUNTIME.into();
    assert_eq!(worst(&check(&facts, &Wants::new("labctl"))), Severity::Note);
}

#[test]
fn a_wrong_clock_is_seen_with_and_without_a_network() {
    let mut facts = good();
    facts.clock.there = Some((5000, "a.mirror".into()));
    assert_eq!(bad(&facts, Code::Clock).severity, Severity::Problem);
    let mut facts = good();
    facts.clock.there = None;
    assert_eq!(bad(&facts, Code::PackageRegistry).severity, Severity::Warning);
    facts.clock.not_before = Some((2000, "/etc/os-release".into()));
    let found = check(&facts, &Wants::new("labctl"));
    let clock = found
        .iter()
        .find(|finding| finding.code == Code::Clock)
        .expect("always judged");
    assert_eq!(clock.severity, Severity::Problem);
}

#[test]
fn another_labctl_is_named() {
    let mut facts = good();
    facts.others = vec![OtherLabctl {
        path: "/usr/local/bin/labctl".into(),
        which: Some("the CLI of iximiuz Labs"),
        first: true,
    }];
    let finding = bad(&facts, Code::OtherLabctl);
    assert!(
        finding
            .seen
            .contains("/usr/local/bin/labctl is the CLI of iximiuz Labs")
    );
    facts.others[0].first = false;
    assert_eq!(worst(&check(&facts, &Wants::new("labctl"))), Severity::Note);
}

#[test]
fn a_proxy_must_not_be_asked_for_the_labs_own_cluster() {
    let mut facts = good();
    facts.proxies = vec![("https_proxy".into(), "http://proxy:3128".into())];
    assert_eq!(bad(&facts, Code::Proxy).severity, Severity::Warning);
    facts.proxies.push(("NO_PROXY".into(), "localhost,127.0.0.1".into()));
    assert_eq!(worst(&check(&facts, &Wants::new("labctl"))), Severity::Note);
}

#[test]
fn an_unusual_engine_is_told() {
    for set in [
        |up: &mut EngineUp| up.rootless = true,
        |up: &mut EngineUp| up.driver = "vfs".into(),
    ] {
        let mut facts = good();
        set(up(&mut facts));
        assert_eq!(bad(&facts, Code::EngineStorage).severity, Severity::Warning);
    }
    let mut facts = good();
    up(&mut facts).containerd_store = true;
    up(&mut facts).cgroup = Some(1);
    let found = check(&facts, &Wants::new("labctl"));
    assert_eq!(
        found
            .iter()
            .filter(|finding| finding.severity == Severity::Note)
            .count(),
        2
    );
}

#[test]
fn tools_are_never_more_than_a_note() {
    let mut facts = good();
    let program = |name, path: Option<&str>, said: Option<&str>| Program {
        name,
        path: path.map(PathBuf::from),
        said: said.map(str::to_owned),
    };
    facts.programs = vec![
        program("kind", None, None),
        program("kubectl", Some("/usr/bin/kubectl"), Some("v1.20.0")),
        program("helm", Some("/usr/bin/helm"), None),
        program("go", Some("/usr/bin/go"), Some("go version go1.99.0 linux/amd64")),
    ];
    let found = check(&facts, &Wants::new("labctl"));
    assert_eq!(worst(&found), Severity::Note);
    let kubectl = found.iter().find(|finding| finding.topic == "kubectl").expect("judged");
    assert!(kubectl.seen.contains("1.20.0 at /usr/bin/kubectl"), "{}", kubectl.seen);
    assert!(kubectl.why.contains("brings its own"), "{}", kubectl.why);
}

#[test]
fn left_files_can_be_removed() {
    let mut facts = good();
    facts.stale = vec![Stale {
        path: "/s/engine/dockerd.pid".into(),
        why: "no process has the number 7".into(),
    }];
    let found = check(&facts, &Wants::new("labctl"));
    assert!(
        found
            .iter()
            .any(|finding| finding.repair == Some(Fix::Remove(vec!["/s/engine/dockerd.pid".into()])))
    );
}

#[test]
fn a_machine_that_says_nothing_is_judged_without_a_panic() {
    let found = check(&Facts::default(), &Wants::new("labctl"));
    assert!(found.iter().any(|finding| finding.code == Code::EngineMissing));
}
