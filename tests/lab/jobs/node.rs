//! What happens to a node while jobs run there: it is frozen, their pods are deleted, their logs are rotated.

use std::time::Duration;

use anyhow::{Result, ensure};
use labctl::dashboard::job::State;
use labctl::dashboard::log::Stream;
use serde_json::json;

use super::board::{engine, on_node, seeing, texts, with};
use super::{kubectl, numbers, pods};
use crate::Test;
use crate::support::{Lab, NAME, say};

/// The tests of this file, in order.
pub(crate) const TESTS: &[Test] = &[
    ("node::a_deleted_pod_is_an_attempt", a_deleted_pod_is_an_attempt),
    ("node::a_frozen_node_thaws", a_frozen_node_thaws),
    ("node::a_rotated_log_is_whole", a_rotated_log_is_whole),
];

fn a_deleted_pod_is_an_attempt(lab: &Lab) -> Result<()> {
    with(lab, |board, _| async move {
        let script =
            "trap 'echo asked; exit 1' TERM; i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i; sleep 0.1; done";
        let id = board
            .create(json!({"command": ["sh", "-c", script], "retries": 1}))
            .await?;
        board.state(id, State::Running).await?;
        while board.text(id).await?.len() < 5 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let pod = pods(lab, id)?;
        kubectl(lab, &["delete", pod.trim(), "--wait=false"])?;
        let job = board.end(id).await?;
        ensure!(job.state == State::Succeeded && job.attempts == 2, "{job:?}");
        let lines = board.lines(id, false).await?;
        let of = |attempt: u32| {
            let lines: Vec<_> = lines.iter().filter(|line| line.attempt == attempt).cloned().collect();
            texts(&lines)
        };
        let first = of(1);
        let printed = first.iter().filter(|text| text.parse::<u32>().is_ok()).count();
        ensure!(
            (5..40).contains(&printed) && first[..printed] == numbers(printed),
            "{first:?}"
        );
        // The last words of a pod that is deleted may go with it, and then it is said.
        ensure!(
            first[printed..] == ["asked"] || first[printed..].iter().any(|text| text.starts_with("! ")),
            "{first:?}"
        );
        ensure!(of(2) == numbers(40), "{:?}", of(2));
        Ok(())
    })
}

fn a_frozen_node_thaws(lab: &Lab) -> Result<()> {
    let node = format!("{NAME}-control-plane");
    with(lab, |board, _| async move {
        let id = board
            .shell("i=0; while [ $i -lt 80 ]; do i=$((i+1)); echo $i; sleep 0.1; done")
            .await?;
        board.state(id, State::Running).await?;
        engine(lab, &["pause", &node])?;
        let meanwhile = board.shell("echo meanwhile").await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        engine(lab, &["unpause", &node])?;
        let meanwhile = meanwhile?;
        seeing(&board).await?;
        let lines = texts(&board.lines(id, true).await?);
        ensure!(lines == numbers(80), "{lines:?}");
        ensure!(board.end(id).await?.state == State::Succeeded);
        ensure!(
            board.end(meanwhile).await?.state == State::Succeeded,
            "it was begun late"
        );
        Ok(())
    })
}

/// Lets the kubelet rotate logs of 64 KiB, looking every 3 s, which is as often as it can; or as before.
fn rotate(lab: &Lab, soon: bool) -> Result<()> {
    let file = "/var/lib/kubelet/config.yaml";
    let change = if soon {
        format!(
            "cp {file} {file}.own && printf 'containerLogMaxSize: 64Ki\\ncontainerLogMaxFiles: 5\\ncontainerLogMonitorInterval: 3s\\n' >> {file}"
        )
    } else {
        format!("mv {file}.own {file}")
    };
    on_node(lab, &format!("{change} && systemctl restart kubelet")).map(drop)
}

fn a_rotated_log_is_whole(lab: &Lab) -> Result<()> {
    rotate(lab, true)?;
    let tested = with(lab, |board, _| async move {
        // About 100 KiB in a second, so that each look of the kubelet rotates.
        let script = "pad=$(printf %0100d 0); i=0; while [ $i -lt 150 ]; do i=$((i+1)); j=0; \
                      while [ $j -lt 100 ]; do j=$((j+1)); echo $i.$j $pad; done; sleep 0.1; done";
        let id = board.shell(script).await?;
        let lines = board.lines(id, true).await?;
        let job = board.end(id).await?;
        ensure!(job.state == State::Succeeded, "{job:?}");
        let notes = lines.iter().filter(|line| line.stream == Stream::Note).count();
        let own: Vec<String> = texts(&lines)
            .into_iter()
            .filter(|text| !text.starts_with("! "))
            .collect();
        let expected: Vec<String> = (1..=150)
            .flat_map(|i| (1..=100).map(move |j| format!("{i}.{j} {:0100}", 0)))
            .collect();
        let kept = own
            .iter()
            .filter(|line| expected.binary_search_by_key(&key(line), |line| key(line)).is_ok())
            .count();
        say(&format!(
            "a log that was rotated: {kept} of {} lines, {notes} notes",
            expected.len()
        ));
        // Nothing is twice, nothing is out of order, and nothing is lost without a word.
        ensure!(own.is_sorted_by(|a, b| key(a) < key(b)), "out of order, or twice");
        ensure!(own == expected || notes > 0, "lines are lost without a word");
        Ok(())
    });
    rotate(lab, false)?;
    tested
}

/// Returns the two numbers that a line begins with.
fn key(line: &str) -> (u32, u32) {
    let numbers = line.split(' ').next().and_then(|text| text.split_once('.'));
    let numbers = numbers.and_then(|(i, j)| Some((i.parse().ok()?, j.parse().ok()?)));
    numbers.unwrap_or_default()
}
