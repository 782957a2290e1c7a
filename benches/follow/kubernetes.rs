//! The same for a Kubernetes Job, beside `kubectl logs -f` of the same job at the same time.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use labctl::config::{self, Dirs, LabName, Settings};
use labctl::dashboard::control::Control;
use labctl::dashboard::control::retain::Keep;
use labctl::dashboard::health::Health;
use labctl::dashboard::job::{JobId, State};
use labctl::dashboard::log::hub::Hub;
use labctl::dashboard::runner::kubernetes::{self, Kubernetes};
use labctl::dashboard::service::Service;
use labctl::dashboard::service::tail::{Item, Select};
use labctl::dashboard::store::JobStore;
use labctl::dashboard::store::sqlite::{self, Sqlite};
use labctl::drive::registry::Registry;
use labctl::lab::image::store::Store;
use labctl::lab::image::{job_base, load, wiring};
use labctl::lab::programs::Programs;
use labctl::lab::record::Record;

use super::{caller, create, say, spec};

/// How many lines say when they were written.
const STAMPS: usize = 50;
/// How much the other job writes, in MiB.
const OUTPUT_MIB: u64 = 100;

/// What a viewer saw.
#[derive(Default)]
struct Seen {
    /// How long after it was written each line came.
    late: Vec<Duration>,
    bytes: u64,
    /// From the first line to the last one.
    took: Duration,
}

impl Seen {
    fn median(&mut self, of: usize) -> f64 {
        self.late.sort_unstable();
        self.late
            .get(self.late.len() * of / 100)
            .map_or(0.0, Duration::as_secs_f64)
            * 1e3
    }

    fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "hundreds of MiB")]
        let mib = self.bytes as f64 / f64::from(1 << 20);
        mib / self.took.as_secs_f64()
    }

    fn line(&mut self, line: &[u8], first: &mut Option<Instant>) {
        let first = *first.get_or_insert_with(Instant::now);
        self.bytes += line.len() as u64 + 1;
        self.took = first.elapsed();
        let written = std::str::from_utf8(line)
            .ok()
            .and_then(|text| text.strip_prefix("at ")?.parse().ok());
        if let Some(written) = written {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.late.push(now.saturating_sub(Duration::from_nanos(written)));
        }
    }
}

struct Bench {
    service: Service,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
}

pub(super) async fn measure() -> Result<()> {
    let lab = config::text_variable("LABCTL_LAB").unwrap_or_else(|| LabName::DEFAULT.to_owned());
    let settings = Settings {
        lab: LabName::parse(&lab)?,
        dirs: Dirs::from_environment()?,
        yes: true,
        ask: false,
        json: false,
    };
    let record = Record::read(&settings)?.context("there is no such lab: labctl up")?;
    let host = wiring::registry_host(record.ports.registry);
    let cache = Store::at(settings.dirs.cache().join("images"));
    let image = job_base::Recipe::of_this_machine(&cache)?.build(&host, &cache)?;
    let image = load::push(&Registry::at(&host)?, &image, None).await?.name;
    let runner = Kubernetes::connect(kubernetes::Settings {
        kubeconfig: Some(settings.kubeconfig()),
        namespace: Some("default".to_owned()),
        image: Some(image),
        priority_classes: std::collections::BTreeMap::new(),
        limits: kubernetes::Limits::default(),
    })
    .await?;
    let dir = tempfile::tempdir()?;
    let store: Arc<dyn JobStore> =
        Arc::new(Sqlite::open(&dir.path().join("jobs.sqlite"), sqlite::Settings::default()).await?);
    let (runner, hub) = (Arc::new(runner), Hub::default());
    let control = Control::new(
        store.clone(),
        runner.clone(),
        hub.clone(),
        Health::default(),
        "bench".into(),
        Keep::default(),
    );
    let bench = Bench {
        service: Service::new(store, runner, control.clone(), hub, None).await?,
        kubectl: Programs::new(&settings.dirs).verified("kubectl")?,
        kubeconfig: settings.kubeconfig(),
    };
    let work = tokio::spawn(async move { control.run().await });
    let result = bench.all().await;
    work.abort();
    result
}

impl Bench {
    async fn all(&self) -> Result<()> {
        // Nothing is written before both look.
        let stamps = format!(
            "sleep 5; i=0; while [ $i -lt {STAMPS} ]; do date '+at %s%N'; i=$((i+1)); sleep 0.1; done; sleep 1"
        );
        let line = "x".repeat(99);
        let output = format!("sleep 5; yes {line} | head -c {OUTPUT_MIB}M; sleep 1");
        for viewers in [1_u32, 50] {
            let (mut ours, mut theirs, streams) = self.both(&stamps, viewers).await?;
            ensure!(
                ours.late.len() == STAMPS * viewers as usize && theirs.late.len() == STAMPS,
                "lines are missing"
            );
            say(&format!(
                "from writing a line to seeing it, {viewers} viewer(s): median {:.1} ms, 95 % {:.1} ms; one kubectl logs -f beside them: median {:.1} ms, 95 % {:.1} ms; log streams that the API server serves: {streams}",
                ours.median(50),
                ours.median(95),
                theirs.median(50),
                theirs.median(95),
            ));
            let (ours, theirs, streams) = self.both(&output, viewers).await?;
            say(&format!(
                "{OUTPUT_MIB} MiB, {viewers} viewer(s): {:.0} MiB/s to each, {} % of the bytes; one kubectl logs -f beside them: {:.0} MiB/s, {} % of the bytes; ratio {:.2}; log streams that the API server serves: {streams}",
                ours.rate() / f64::from(viewers),
                ours.bytes * 100 / (OUTPUT_MIB << 20) / u64::from(viewers),
                theirs.rate(),
                theirs.bytes * 100 / (OUTPUT_MIB << 20),
                ours.rate() / f64::from(viewers) / theirs.rate(),
            ));
        }
        Ok(())
    }

    /// Runs a script as a job and looks at its log in both ways; says how many log streams the API server served meanwhile.
    async fn both(&self, script: &str, viewers: u32) -> Result<(Seen, Seen, usize)> {
        let id = create(&self.service, spec(&["/bin/sh", "-c", script])).await;
        while self.service.job(&caller(), id).await?.state != State::Running {
            let job = self.service.job(&caller(), id).await?;
            ensure!(!job.state.is_final(), "it ended: {job:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let theirs = self.kubectl_logs(id)?;
        let views = (0..viewers).map(|_| tokio::spawn(view(self.service.clone(), id)));
        let views: Vec<_> = views.collect();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let streams = self.streams()?;
        let mut ours = Seen::default();
        for view in views {
            let seen = view.await??;
            ours.late.extend(seen.late);
            ours.bytes += seen.bytes;
            ours.took = ours.took.max(seen.took);
        }
        let theirs = tokio::task::spawn_blocking(|| theirs.join()).await?;
        let theirs = theirs.map_err(|_| anyhow::anyhow!("kubectl's reader panicked"))??;
        let job = self.service.job(&caller(), id).await?;
        ensure!(job.state == State::Succeeded, "{job:?}");
        Ok((ours, theirs, streams))
    }

    fn command(&self) -> Command {
        #[expect(clippy::disallowed_methods, reason = "the yardstick: its output is read as it comes")]
        let mut command = Command::new(&self.kubectl);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["-n", "default"]);
        command
    }

    fn kubectl_logs(&self, id: JobId) -> Result<JoinHandle<Result<Seen>>> {
        let mut child = self
            .command()
            .args(["logs", "-f", &format!("job/job-{id}")])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut pipe = BufReader::new(child.stdout.take().context("a pipe")?);
        Ok(std::thread::spawn(move || {
            let (mut seen, mut first, mut line) = (Seen::default(), None, Vec::new());
            while pipe.read_until(b'\n', &mut line)? > 0 {
                seen.line(line.strip_suffix(b"\n").unwrap_or(&line), &mut first);
                line.clear();
            }
            child.wait()?;
            Ok(seen)
        }))
    }

    /// Asks the API server how many logs it streams now.
    fn streams(&self) -> Result<usize> {
        let output = self.command().args(["get", "--raw", "/metrics"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text
            .lines()
            .filter(|line| line.starts_with("apiserver_longrunning_requests{") && line.contains("subresource=\"log\""));
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
        Ok(counts.sum())
    }
}

async fn view(service: Service, id: JobId) -> Result<Seen> {
    let select = Select {
        follow: true,
        ..Select::default()
    };
    let mut tail = service.tail(&caller(), id, select).await?;
    let (mut seen, mut first) = (Seen::default(), None);
    while let Some(item) = tail.next().await? {
        let Item::Lines { lines, .. } = item else {
            anyhow::bail!("{item:?}")
        };
        for line in lines {
            seen.line(&line.bytes, &mut first);
        }
    }
    Ok(seen)
}
