//! Jobs as processes, below the real keeper: what they end with, what they may use, what is left of them.

use std::time::{Duration, Instant};

use labctl::dashboard::job::spec::{Limits, Spec};
use labctl::dashboard::job::{Job, JobId, Phase};
use labctl::dashboard::log::{LINE_BYTES, Stream};
use labctl::dashboard::runner::Runner as _;
use labctl::dashboard::runner::process::ProcessRunner;
use tokio::sync::mpsc;

use crate::running::{Running, left_of, options, program, python, shell, text, wait_until};

#[tokio::test]
async fn a_job_ends_as_its_program_does() {
    let bench = Running::new(4);
    let (seen, lines) = bench.run(1, &shell("echo out; echo err >&2")).await;
    assert_eq!(
        (seen.phase, seen.exit_code, seen.attempts, seen.reason),
        (Phase::Succeeded, Some(0), 1, None)
    );
    assert!(seen.started_ms <= seen.finished_ms && seen.started_ms.is_some());
    let mut found: Vec<_> = lines
        .iter()
        .map(|line| (line.stream == Stream::Stderr, &line.bytes[..]))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [(false, &b"out"[..]), (true, b"err")]);

    let (seen, _) = bench.run(2, &shell("exit 3")).await;
    assert_eq!(
        (seen.phase, seen.exit_code, seen.reason.as_deref()),
        (Phase::Failed, Some(3), Some("ExitCode"))
    );
    assert_eq!(seen.message.as_deref(), Some("the program ended with exit code 3"));

    let (seen, _) = bench.run(3, &shell("kill -SEGV $$")).await;
    assert_eq!(
        (seen.phase, seen.exit_code, seen.reason.as_deref()),
        (Phase::Failed, Some(139), Some("Signal"))
    );
    assert_eq!(
        seen.message.as_deref(),
        Some("the program was ended by signal 11 (SIGSEGV)")
    );
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_named() {
    let bench = Running::new(4);
    let dir = bench.dir.join("plain");
    std::fs::create_dir(&dir).expect("a directory");
    for (number, command, code, word) in [
        (1, "labctl-no-such-program", 127, "no such program in "),
        (2, "/labctl/no/such/file", 127, "no such file"),
        (3, dir.to_str().expect("UTF-8"), 126, "may be executed"),
    ] {
        let mut spec = program(&[command]);
        spec.retries = 3;
        let (seen, lines) = bench.run(number, &spec).await;
        assert_eq!(
            (seen.phase, seen.reason.as_deref()),
            (Phase::Failed, Some("StartError")),
            "{command}"
        );
        assert_eq!(
            (seen.exit_code, seen.attempts),
            (Some(code), 1),
            "it is no use to try again"
        );
        let message = seen.message.expect("a message");
        assert!(message.contains(command) && message.contains(word), "{message}");
        assert_eq!(lines, []);
    }
}

#[tokio::test]
async fn a_program_has_its_own_environment_and_an_empty_directory() {
    let bench = Running::new(4);
    let mut spec =
        shell("env; echo \"in $(pwd) are $(ls -A | wc -l)\"; ls -ld \"$HOME\" \"$TMPDIR\"; cat; ls -l /proc/self/fd");
    spec.env.insert("GREETING".into(), "hello world".into());
    spec.env.insert("LANG".into(), "de_DE.UTF-8".into());
    spec.env.insert("LABCTL_JOB_ID".into(), "somebody else's".into());
    let (seen, lines) = bench.run(1, &spec).await;
    assert_eq!(seen.phase, Phase::Succeeded);
    let job = bench.dir.join("jobs").join(bench.id(1).to_string());
    let at = |name: &str| job.join(name).display().to_string();
    let lines = text(&lines);
    let mut found: Vec<&str> = lines
        .iter()
        .take_while(|line| !line.starts_with("in "))
        .map(String::as_str)
        .collect();
    found.sort_unstable();
    let mut expected = vec![
        "GREETING=hello world".to_owned(),
        format!("HOME={}", at("work")),
        format!("LABCTL_JOB_ID={}", bench.id(1)),
        "LANG=de_DE.UTF-8".to_owned(),
        format!(
            "PATH={}",
            labctl::config::text_variable("PATH").expect("the tests have a PATH")
        ),
        format!("PWD={}", at("work")),
        format!("TMPDIR={}", at("tmp")),
    ];
    expected.retain(|line| !line.starts_with("PWD=") || found.contains(&line.as_str()));
    assert_eq!(found, expected, "nothing of the server's is there");
    let rest = &lines[found.len()..];
    assert_eq!(rest[0], format!("in {} are 0", at("work")));
    assert!(
        rest[1].starts_with("drwx------") && rest[2].starts_with("drwx------"),
        "{rest:?}"
    );
    // `cat` found an empty input; of the keeper's files and sockets none was inherited.
    let open: Vec<&str> = rest[4..]
        .iter()
        .filter_map(|line| line.split_once(" -> "))
        .map(|(_, to)| to)
        .collect();
    assert!(open.len() >= 4 && open.contains(&"/dev/null"), "{rest:?}");
    let ours = |to: &&str| to.starts_with("socket:") || to.contains("anon_inode") || to.contains("/jobs/");
    assert!(!open.iter().any(ours), "{open:?}");
}

#[tokio::test]
async fn every_limit_is_kept() {
    let bench = Running::new(8);
    let limited = |spec: Spec, change: fn(&mut Limits)| {
        let mut spec = spec;
        change(&mut spec.limits);
        spec
    };
    let hog = "import time\nx=[]\nwhile True:\n x.append(bytearray(1<<20)); time.sleep(0.002)";
    let shared = "import os,time\nx=bytearray(40<<20)\nfor _ in range(3):\n if os.fork()==0: time.sleep(1); os._exit(0)\ntime.sleep(0.5)";
    let specs = [
        (
            limited(python(hog), |limits| limits.memory_mib = 64),
            "OOMKilled",
            "64 MiB",
        ),
        (
            limited(shell("(while :; do :; done)"), |limits| {
                limits.seconds = 10;
                limits.cpu_milli = 100;
            }),
            "CpuLimitExceeded",
            "processor time",
        ),
        (
            limited(shell("yes"), |limits| limits.output_mib = 1),
            "OutputLimitExceeded",
            "1 MiB",
        ),
        (
            limited(shell("echo here; sleep 60"), |limits| limits.seconds = 1),
            "DeadlineExceeded",
            "1 s",
        ),
        (limited(python(shared), |limits| limits.memory_mib = 64), "", ""),
    ];
    let jobs = specs.iter().zip(1..).map(async |((spec, reason, word), number)| {
        let job = bench.begin(number, spec).await;
        let seen = bench.end_of(&job).await;
        (seen, *reason, *word, bench.lines(&job).await)
    });
    let ended = futures_util::future::join_all(jobs).await;
    for (seen, reason, word, lines) in &ended {
        let message = seen.message.clone().unwrap_or_default();
        assert_eq!(
            seen.reason.as_deref().unwrap_or_default(),
            *reason,
            "{seen:?} {:?}",
            text(lines).last()
        );
        assert!(message.contains(word), "{message}");
    }
    let bytes: usize = ended[2]
        .3
        .iter()
        .filter(|line| line.stream == Stream::Stdout)
        .map(|line| line.bytes.len() + 1)
        .sum();
    assert!(
        (1 << 20..=(1 << 20) + 1).contains(&bytes),
        "exactly what is allowed is kept: {bytes}"
    );
    for place in [0, 2, 3] {
        let note = ended[place].3.last().expect("a note");
        assert_eq!(note.stream, Stream::Note, "{note:?}");
    }
    assert_eq!(
        ended[4].0.phase,
        Phase::Succeeded,
        "memory that processes share counts once"
    );
}

#[tokio::test]
async fn output_is_kept_byte_by_byte() {
    let bench = Running::new(4);
    let script = format!(
        "import sys\no=sys.stdout.buffer\no.write(b'x'*{LINE_BYTES}+b'\\n'+b'y'*({LINE_BYTES}+1)+b'\\n\\xff\\xfe\\n\\nend')"
    );
    let (seen, lines) = bench.run(1, &python(&script)).await;
    assert_eq!(seen.phase, Phase::Succeeded);
    let shape: Vec<_> = lines.iter().map(|line| (line.bytes.len(), line.partial)).collect();
    assert_eq!(
        shape,
        [
            (LINE_BYTES, false),
            (LINE_BYTES, true),
            (1, false),
            (2, false),
            (0, false),
            (3, false)
        ]
    );
    assert_eq!(&lines[3].bytes[..], b"\xff\xfe");
    assert_eq!(
        lines.iter().map(|line| line.number).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
}

#[tokio::test]
async fn a_hundred_thousand_lines_a_second_are_kept_in_order() {
    let bench = Running::new(4);
    let (seen, lines) = bench.run(1, &shell("seq 1 500000")).await;
    assert_eq!((seen.phase, lines.len()), (Phase::Succeeded, 500_000));
    for (line, number) in lines.iter().zip(1..) {
        assert_eq!(line.bytes, number.to_string().as_bytes());
        assert_eq!(line.number, number);
    }
    let ms = seen.finished_ms.expect("ended") - seen.started_ms.expect("began");
    assert!(ms < 5000, "500,000 lines took {ms} ms");
}

#[tokio::test]
async fn following_shows_a_line_at_once_and_goes_on_from_every_position() {
    let bench = Running::new(4);
    let job = bench
        .begin(1, &shell("for i in 1 2 3 4 5; do echo $i; sleep 0.1; done"))
        .await;
    let (sender, mut batches) = mpsc::channel(4);
    let following = tokio::spawn({
        let (runner, job) = (bench.runner.clone(), job.clone());
        async move { runner.follow(&job, "", 1, sender).await }
    });
    let mut places = vec![(String::new(), 1)];
    let mut read = Vec::new();
    while let Some(batch) = batches.recv().await {
        for line in &batch.lines {
            let late = jiff::Timestamp::now().as_microsecond() - line.at_us;
            assert!((0..200_000).contains(&late), "line {} came {late} us late", line.number);
        }
        read.extend(batch.lines);
        places.push((batch.position, read.len() as u64 + 1));
    }
    following.await.expect("joined").expect("followed");
    assert_eq!(text(&read), ["1", "2", "3", "4", "5"]);
    assert!(places.len() >= 5, "lines come one by one: {places:?}");
    for (position, next) in places {
        let (rest, _) = bench.lines_from(&job, &position, next).await;
        assert_eq!(rest[..], read[usize::try_from(next).expect("small") - 1..]);
    }
}

#[tokio::test]
async fn an_attempt_that_fails_is_followed_by_another() {
    let bench = Running::new(4);
    let mark = bench.dir.join("mark");
    let script = format!(
        "echo try; touch left; test -e {0} && exit 0; touch {0}; exit 7",
        mark.display()
    );
    let mut spec = shell(&script);
    spec.retries = 2;
    let (seen, lines) = bench.run(1, &spec).await;
    assert_eq!(
        (seen.phase, seen.attempts, seen.exit_code),
        (Phase::Succeeded, 2, Some(0))
    );
    let shape: Vec<_> = lines
        .iter()
        .map(|line| (line.number, line.attempt, line.stream))
        .collect();
    assert_eq!(
        shape,
        [(1, 1, Stream::Stdout), (2, 1, Stream::Note), (3, 2, Stream::Stdout)]
    );
    assert_eq!(
        text(&lines)[1],
        "attempt 1 ended with exit code 7; the next one begins in 1 s"
    );
    let between = bench.history.lock().expect("not poisoned").iter().any(|(_, seen)| {
        seen.phase == Phase::Waiting && seen.reason.as_deref() == Some("ExitCode") && seen.attempts == 1
    });
    assert!(between, "that the next attempt is waited for is told");

    let mut spec = shell("exit 7");
    spec.retries = 1;
    let (seen, _) = bench.run(2, &spec).await;
    assert_eq!(seen.reason.as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(
        seen.message.as_deref(),
        Some("2 attempts failed; the last one ended with exit code 7")
    );
}

#[tokio::test]
async fn a_job_is_ended_gently_and_then_for_good() {
    let bench = Running::new(4);
    let gentle = bench
        .begin(
            1,
            &shell("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"),
        )
        .await;
    let deaf = bench
        .begin(2, &shell("trap '' TERM; echo ready; while :; do sleep 0.05; done"))
        .await;
    let stopped = bench.begin(3, &shell("echo ready; kill -STOP $$; echo never")).await;
    for job in [&gentle, &deaf, &stopped] {
        bench.output_of(job).await;
    }
    let began = Instant::now();
    for job in [&gentle, &deaf, &stopped] {
        bench.runner.end(job).await.expect("asked");
        bench.runner.end(job).await.expect("asked again");
    }
    let seen = bench.end_of(&gentle).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(
        (seen.phase, seen.reason.as_deref(), seen.exit_code),
        (Phase::Failed, Some("Cancelled"), Some(0))
    );
    let lines = text(&bench.lines(&gentle).await);
    assert!(
        lines.contains(&"ready".to_owned()) && lines.contains(&"bye".to_owned()),
        "{lines:?}"
    );
    let seen = bench.end_of(&stopped).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(seen.exit_code, Some(143));
    let ending = bench.until(&deaf, "ending", |seen| seen.phase == Phase::Ending).await;
    assert_eq!(ending.reason.as_deref(), Some("Cancelled"));
    let seen = bench.end_of(&deaf).await;
    assert!(
        (Duration::from_millis(4500)..Duration::from_secs(8)).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(seen.exit_code, Some(137));
}

#[tokio::test]
async fn whatever_a_program_leaves_behind_ends_with_it() {
    let bench = Running::new(4);
    let script = "(sleep 71 &) ; setsid sleep 71 & (setsid sh -c 'sleep 71 & sleep 71' >/dev/null 2>&1 &); env -i setsid sleep 71 & sleep 0.3; echo done";
    let (seen, lines) = bench.run(1, &shell(script)).await;
    assert_eq!((seen.phase, text(&lines)), (Phase::Succeeded, vec!["done".to_owned()]));
    // One whose environment is empty has no mark of the job: it is found by what it runs.
    let sleeps = std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter(|entry| std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x0071\0"));
    assert_eq!(sleeps.count(), 0);
    // A chain: each process forks the next one and ends at once, so no process is there long enough to be aimed at.
    let chain = "import os\nprint('go', flush=True)\nif os.fork(): os._exit(0)\nos.setsid()\nwhile True:\n if os.fork(): os._exit(0)";
    let (seen, lines) = bench.run(2, &python(chain)).await;
    assert_eq!((seen.phase, text(&lines)), (Phase::Succeeded, vec!["go".to_owned()]));
    // Many at once: more than a job may have.
    let crowd = "import os,time\nfor _ in range(1500):\n if os.fork()==0: time.sleep(60); os._exit(0)\ntime.sleep(60)";
    let mut spec = python(crowd);
    spec.limits.memory_mib = 8192;
    let (seen, _) = bench.run(3, &spec).await;
    assert_eq!(seen.reason.as_deref(), Some("ProcessLimitExceeded"));
}

#[tokio::test]
async fn slots_bound_how_many_run_and_the_oldest_is_next() {
    let bench = Running::new(1);
    let first = bench.begin(1, &shell("echo go; sleep 0.5")).await;
    let third = bench.begin(3, &shell("true")).await;
    let second = bench.begin(2, &shell("true")).await;
    let waiting = bench
        .until(&third, "waiting", |seen| seen.phase == Phase::Waiting)
        .await;
    assert_eq!(waiting.reason.as_deref(), Some("WaitingForSlot"));
    assert!(waiting.message.is_some_and(|message| message.contains("one at once")));
    // Who waits is held back and let go on without having run.
    bench.runner.suspend(&second, true).await.expect("held");
    bench
        .until(&second, "held", |seen| seen.phase == Phase::Suspended)
        .await;
    bench.runner.suspend(&second, false).await.expect("resumed");
    // Who waits is ended without having run.
    let fourth = bench.begin(4, &shell("true")).await;
    bench.runner.end(&fourth).await.expect("ended");
    let gone = bench.end_of(&fourth).await;
    assert_eq!((gone.phase, gone.attempts), (Phase::Gone, 0));
    for job in [&first, &second, &third] {
        assert_eq!(bench.end_of(job).await.phase, Phase::Succeeded);
    }
    let mut order: Vec<JobId> = Vec::new();
    for (id, seen) in bench.history.lock().expect("not poisoned").iter() {
        if seen.phase == Phase::Running && !order.contains(id) {
            order.push(*id);
        }
    }
    assert_eq!(order.first(), Some(&first.id));
    let started = |job: &Job| bench.seen.borrow()[&job.id].started_ms;
    assert!(started(&second) <= started(&third), "the older one first");
}

#[tokio::test]
async fn a_job_that_is_held_back_begins_anew_when_it_is_resumed() {
    let bench = Running::new(1);
    let job = bench.begin(1, &shell("echo begin; sleep 1; echo end")).await;
    bench.output_of(&job).await;
    let other = bench.begin(2, &shell("true")).await;
    bench.runner.suspend(&job, true).await.expect("held");
    bench.until(&job, "held", |seen| seen.phase == Phase::Suspended).await;
    assert_eq!(
        bench.end_of(&other).await.phase,
        Phase::Succeeded,
        "a job that is held has no slot"
    );
    assert_eq!(left_of(job.id), [] as [String; 0]);
    bench.runner.suspend(&job, false).await.expect("resumed");
    let seen = bench.end_of(&job).await;
    assert_eq!((seen.phase, seen.attempts), (Phase::Succeeded, 2));
    let lines = bench.lines(&job).await;
    assert_eq!(text(&lines), ["begin", "begin", "end"]);
    assert_eq!(
        lines.iter().map(|line| (line.number, line.attempt)).collect::<Vec<_>>(),
        [(1, 1), (2, 2), (3, 2)]
    );

    // At once, while the attempt is still about to end.
    let job = bench
        .begin(
            3,
            &shell("trap 'sleep 0.3; exit 1' TERM; echo begin; sleep 0.5 & wait; echo end"),
        )
        .await;
    bench.output_of(&job).await;
    bench.runner.suspend(&job, true).await.expect("held");
    bench.runner.suspend(&job, false).await.expect("resumed");
    let seen = bench.end_of(&job).await;
    assert_eq!((seen.phase, seen.attempts), (Phase::Succeeded, 2), "{seen:?}");

    // One that is created held back, and cancelled while it is.
    let mut spec = shell("true");
    spec.suspend = true;
    let job = bench.begin(4, &spec).await;
    bench.until(&job, "held", |seen| seen.phase == Phase::Suspended).await;
    bench.runner.end(&job).await.expect("ended");
    assert_eq!(bench.end_of(&job).await.phase, Phase::Gone);
}

#[tokio::test]
async fn a_keeper_that_is_killed_is_noticed_and_leaves_nothing() {
    let bench = Running::new(2);
    let script = "echo begin; setsid sleep 72 & sleep 72";
    let job = bench.begin(1, &shell(script)).await;
    bench.output_of(&job).await;
    wait_until("the second process", || {
        left_of(job.id)
            .iter()
            .filter(|line| line.starts_with("sleep 72"))
            .count()
            == 2
    })
    .await;
    let record = std::fs::read(bench.dir.join("jobs").join(job.id.to_string()).join("state.json")).expect("a record");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    let keeper = record["keeper"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok())
        .expect("a pid");
    let pid = rustix::process::Pid::from_raw(keeper).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    let seen = bench.end_of(&job).await;
    assert_eq!(
        (seen.phase, seen.reason.as_deref(), seen.attempts),
        (Phase::Failed, Some("Gone"), 1)
    );
    assert!(seen.message.is_some_and(|message| message.contains("signal: 9")));
    assert_eq!(left_of(job.id), [] as [String; 0]);
    assert_eq!(text(&bench.lines(&job).await), ["begin"], "what it wrote is kept");
    let (seen, _) = bench.run(2, &shell("true")).await;
    assert_eq!(seen.phase, Phase::Succeeded, "its slot is free");
}

#[tokio::test]
async fn what_has_ended_is_forgotten_and_not_begun_again() {
    let bench = Running::new(2);
    let spec = shell("mkdir -p a/b; chmod 0 a; echo x");
    let job = bench.begin(1, &spec).await;
    bench.end_of(&job).await;
    bench.runner.forget(&job).await.expect("forgotten");
    bench.runner.forget(&job).await.expect("forgotten twice");
    let jobs = bench.dir.join("jobs");
    wait_until("nothing is left", || {
        std::fs::read_dir(&jobs).expect("there").next().is_none()
    })
    .await;
    bench.runner.begin(&job, &spec).await.expect("not begun");
    bench.runner.suspend(&job, true).await.expect("not held");
    assert_eq!(bench.lines(&job).await, []);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(std::fs::read_dir(&jobs).expect("there").next().is_none());

    let running = bench.begin(2, &shell("sleep 60")).await;
    bench
        .until(&running, "running", |seen| seen.phase == Phase::Running)
        .await;
    assert!(
        bench.runner.forget(&running).await.is_err(),
        "a job that runs cannot be forgotten"
    );
    assert!(bench.runner.discard(running.id).await.is_err(), "it is ended first");
    bench.end_of(&running).await;
    bench.runner.discard(running.id).await.expect("then it is removed");
}

#[tokio::test]
async fn a_second_server_is_refused() {
    let bench = Running::new(1);
    let error = ProcessRunner::open(options(&bench.dir, 1)).err().expect("refused");
    let text = labctl::error::render(&error);
    assert!(
        text.contains(&format!("pid {}", std::process::id())) && text.contains("hint: stop that server"),
        "{text}"
    );
}

#[tokio::test]
async fn the_keeper_explains_itself_to_a_person() {
    let world = crate::harness::TestEnvironment::new();
    let run = world.run(&["job-keeper"]);
    assert!(run.stderr.contains("labctl serve"), "{}", run.stderr);
}
