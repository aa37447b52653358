//! The progress bar of a verification. It is shown only on a terminal.

use std::time::Duration;

use filepull_core::human;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// A progress bar on standard error, hidden if that is not a terminal.
pub(crate) struct VerifyProgress(ProgressBar);

const TEMPLATE: &str = "{percent:>3} % {bar:24} {so_far} of {all}, {speed}, {eta} left";

impl VerifyProgress {
    pub(crate) fn start(bytes: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
        let write = |text: String, out: &mut dyn std::fmt::Write| _ = out.write_str(&text);
        let style = ProgressStyle::with_template(TEMPLATE).map(|style| {
            style
                .with_key("so_far", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    write(human::size(state.pos()), out);
                })
                .with_key("all", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    write(human::size(state.len().unwrap_or(0)), out);
                })
                .with_key("speed", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    write(human::rate(whole(state.per_sec())), out);
                })
                .with_key("eta", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    write(human::span(state.eta()), out);
                })
        });
        bar.set_style(style.expect("the template is well formed"));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    pub(crate) fn read(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Hides the bar while `print` writes a line.
    pub(crate) fn pause<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }

    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a speed for people, never negative, far below 2^53 bytes per second"
)]
fn whole(bytes_per_second: f64) -> u64 {
    bytes_per_second as u64
}
