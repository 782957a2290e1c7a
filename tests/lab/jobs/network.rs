//! Jobs over a bad network: their output has every line once, and what is created meanwhile is run.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use labctl::dashboard::job::State;
use labctl::dashboard::runner::kubernetes::Limits;

use super::board::{Board, NAMESPACE, PATIENCE, place, ready, seeing, texts};
use super::numbers;
use super::proxy::{Mode, Proxy};
use crate::Test;
use crate::support::{Lab, say};

/// The tests of this file, in order.
pub(crate) const TESTS: &[Test] = &[("network::a_bad_network_loses_nothing", a_bad_network_loses_nothing)];

async fn blind(board: &Board) -> Result<()> {
    let began = Instant::now();
    while ready(board) {
        ensure!(began.elapsed() < PATIENCE, "it did not notice");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn a_bad_network_loses_nothing(lab: &Lab) -> Result<()> {
    let place = place(lab)?;
    let dir = tempfile::tempdir()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let proxy = Proxy::before(&place.kubeconfig).await?;
        let kubeconfig = proxy.kubeconfig(dir.path(), NAMESPACE)?;
        let limits = Limits {
            watch_seconds: 2,
            log_silence: Duration::from_secs(3),
        };
        let board = Board::open_by(place, kubeconfig, limits, dir.path()).await?;
        let long = board
            .shell("i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; sleep 0.1; done")
            .await?;
        board.state(long, State::Running).await?;
        seeing(&board).await?;

        // Cut again and again, and that is all: whoever is cut comes back.
        for _ in 0..5 {
            proxy.cut();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let cut = board.shell("echo cut").await?;
        ensure!(board.end(cut).await?.state == State::Succeeded);

        // An API server that is overloaded is not asked more often than before.
        proxy.set(Mode::Throttle);
        proxy.cut();
        let throttled = board.shell("echo throttled").await?;
        blind(&board).await?;
        let before = proxy.asked();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let asked = proxy.asked() - before;
        ensure!(asked < 90, "{asked} requests in 3 s to a server that wants fewer");
        ensure!(board.job(throttled).await?.state == State::Pending, "it cannot have been begun");
        proxy.set(Mode::Pass);
        seeing(&board).await?;
        ensure!(board.end(throttled).await?.state == State::Succeeded);

        // Everything is listed again, as often as it takes.
        proxy.set(Mode::Forget);
        proxy.cut();
        let forgotten = board.shell("echo forgotten").await?;
        ensure!(board.end(forgotten).await?.state == State::Succeeded, "a list says it too");
        proxy.set(Mode::Pass);
        seeing(&board).await?;

        // Connections that are dead and do not say so.
        proxy.set(Mode::Mute);
        tokio::time::sleep(Duration::from_secs(1)).await;
        proxy.set(Mode::Pass);
        let began = Instant::now();
        let muted = board.shell("echo muted").await?;
        let ended = board.end(muted).await?;
        ensure!(ended.state == State::Succeeded, "{ended:?}");
        let seen = began.elapsed();
        // A watch is dead after 2 s and 5 s more.
        ensure!(seen < Duration::from_secs(40), "it took {seen:?}");

        let lines = texts(&board.lines(long, true).await?);
        ensure!(lines == numbers(300), "{lines:?}");
        let job = board.end(long).await?;
        ensure!(job.state == State::Succeeded && job.attempts == 1, "{job:?}");
        for (id, text) in [(cut, "cut"), (throttled, "throttled"), (forgotten, "forgotten"), (muted, "muted")] {
            ensure!(board.text(id).await? == [text], "{:?}", board.text(id).await?);
        }
        say(&format!(
            "throttled, the API server was asked {asked} times in 3 s; a job over dead connections was seen to end after {} ms",
            seen.as_millis()
        ));
        Ok(())
    })
}
