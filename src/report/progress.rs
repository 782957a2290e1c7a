//! One line a running step on a terminal, with its time and what it is doing. The only user of indicatif.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::human::{self, Styles};
use super::{Event, Sink};

/// A step shorter than this never gets a line, so that quick runs do not flicker.
const SHOW_AFTER: Duration = Duration::from_millis(250);

/// Draws running steps at the bottom of the terminal and prints finished ones above.
pub struct Progress {
    bars: MultiProgress,
    running: Mutex<HashMap<String, ProgressBar>>,
    styles: Styles,
}

impl Progress {
    /// Makes a sink that draws on `target`.
    pub fn new(target: ProgressDrawTarget, styles: Styles) -> Self {
        Self {
            bars: MultiProgress::with_draw_target(target),
            running: Mutex::default(),
            styles,
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, ProgressBar>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Progress {
    fn emit(&self, event: &Event) {
        match event {
            Event::StepStarted { step, title, .. } => {
                let style = ProgressStyle::with_template("{elapsed:>8} {spinner} {prefix:.bold} {wide_msg:.dim}")
                    .expect("the template is a literal")
                    .tick_chars("⠁⠂⠄⡀⢀⠠⠐⠈ ");
                let bar = self
                    .bars
                    .add(ProgressBar::new_spinner().with_style(style).with_prefix(title.clone()));
                self.running().insert(step.clone(), bar.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(SHOW_AFTER).await;
                    if !bar.is_finished() {
                        bar.enable_steady_tick(Duration::from_millis(120));
                    }
                });
                return;
            }
            Event::StepProgress {
                step,
                doing,
                done,
                total,
            } => {
                if let Some(bar) = self.running().get(step) {
                    bar.set_message(match (done, total) {
                        (Some(done), Some(total)) => format!("{doing} {done}/{total}"),
                        (Some(done), None) => format!("{doing} {done}"),
                        _ => doing.clone(),
                    });
                }
                return;
            }
            Event::StepDone { step, .. } | Event::StepFailed { step, .. } => {
                if let Some(bar) = self.running().remove(step) {
                    bar.finish_and_clear();
                    self.bars.remove(&bar);
                }
            }
            _ => {}
        }
        if let Some(text) = human::text(event, self.styles, false) {
            _ = self.bars.println(text);
        }
    }

    fn finish(&self) {
        for (_, bar) in self.running().drain() {
            bar.finish_and_clear();
        }
        _ = self.bars.clear();
    }

    fn suspend(&self, print: &mut dyn FnMut()) {
        self.bars.suspend(print);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::InMemoryTerm;

    #[tokio::test]
    async fn a_finished_step_is_printed_above_and_its_line_goes() {
        let term = InMemoryTerm::new(10, 80);
        let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
        let sink = Progress::new(target, Styles::default());
        sink.emit(&Event::StepStarted {
            step: "a".into(),
            title: "node image".into(),
            why: "missing".into(),
        });
        sink.emit(&Event::StepProgress {
            step: "a".into(),
            doing: "compiling".into(),
            done: Some(3),
            total: Some(9),
        });
        sink.emit(&Event::StepDone {
            step: "a".into(),
            title: "node image".into(),
            ran: true,
            elapsed_ms: 1200,
            is: "sha256:ab".into(),
        });
        sink.finish();
        assert_eq!(term.contents(), "   1.20s node image (sha256:ab)");
    }
}
