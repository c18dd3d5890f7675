//! How many pods a Hub should have, by its connections and its calls in flight; pure.
//!
//! Invariants
//! - Nothing is decided while the load of a ready pod is unknown, or while one may be counted twice; what was seen
//!   before then no longer counts, and a window begins anew. The bounds hold even without figures.
//! - Pods are added or removed only after a whole window has asked for it, and then only as many as all of the window
//!   asked for.
//! - All state is in the status: the next leader goes on with the window that it finds there, unless nobody has looked
//!   for too long.

use std::time::Duration;

use alkhub_crds::hub::{AutoscalingSpec, AutoscalingStatus, ScalingWindow};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::hub::elapsed::elapsed;
use crate::hub::figures::Sum;

/// Pods are removed once fewer have been enough for this long, unless the Hub says otherwise. As for a
/// HorizontalPodAutoscaler.
const DOWN: Duration = Duration::from_secs(300);

/// A load that differs from the target by no more than this changes nothing. As for a HorizontalPodAutoscaler.
const TOLERANCE: f64 = 0.1;

/// Rounding error of such ratios.
const NOISE: f64 = 1e-9;

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScalingDecision {
    pub(crate) status: AutoscalingStatus,
    /// The number of pods that the Hub is to ask for from now on; `None`: no change.
    pub(crate) to: Option<i32>,
}

/// What the decision is based on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    pub(crate) spec: &'a AutoscalingSpec,
    /// Pods that the Hub asks for.
    pub(crate) replicas: i32,
    /// The load of all pods; `None`: unknown.
    pub(crate) load: Option<&'a Sum>,
    pub(crate) before: Option<&'a AutoscalingStatus>,
    pub(crate) now: Timestamp,
    /// A window ends when nobody has looked at it for this long.
    pub(crate) patience: Duration,
}

pub(crate) fn decide(situation: &Situation<'_>) -> ScalingDecision {
    let Situation {
        spec, replicas, now, ..
    } = *situation;
    let last_scale_time = situation.before.and_then(|before| before.last_scale_time.clone());
    let decided = |to: Option<i32>, window: Option<(bool, ScalingWindow)>| {
        let looked_at = window.is_some().then_some(Time(now));
        let (up, down) = match window {
            Some((true, window)) => (Some(window), None),
            Some((false, window)) => (None, Some(window)),
            None => (None, None),
        };
        ScalingDecision {
            status: AutoscalingStatus {
                scale_up: up,
                scale_down: down,
                looked_at,
                last_scale_time: to.map(|_| Time(now)).or(last_scale_time),
            },
            to,
        }
    };
    let within = replicas.clamp(spec.min, spec.max.max(spec.min));
    // A Hub that asks for no pods was stopped by somebody.
    if replicas == 0 || within != replicas {
        return decided(Some(within).filter(|_| replicas > 0), None);
    }
    let Some(load) = situation.load else {
        return decided(None, None);
    };
    let needed = needed(spec, replicas, load);
    if needed == replicas {
        return decided(None, None);
    }
    let is_up = needed > replicas;
    let window = situation.window(is_up, needed);
    if elapsed(window.since.0, now) >= length(spec, is_up) {
        return decided(Some(window.replicas), None);
    }
    decided(None, Some((is_up, window)))
}

/// Pods that a load needs.
fn needed(spec: &AutoscalingSpec, replicas: i32, load: &Sum) -> i32 {
    let loads = [
        (spec.connections_per_pod, load.balance.total),
        (spec.in_flight_per_pod, load.in_flight),
    ];
    let needed = loads.into_iter().filter_map(|(of_each, total)| {
        let of_each = u64::try_from(of_each?).ok().filter(|of_each| *of_each > 0)?;
        let ratio = total as f64 / (of_each as f64 * f64::from(replicas));
        if (ratio - 1.0).abs() <= TOLERANCE + NOISE {
            return Some(replicas);
        }
        Some(i32::try_from(total.div_ceil(of_each)).unwrap_or(i32::MAX))
    });
    needed.max().unwrap_or(replicas).clamp(spec.min, spec.max.max(spec.min))
}

/// How long a window is.
fn length(spec: &AutoscalingSpec, is_up: bool) -> Duration {
    let behaviour = spec.behaviour.as_ref();
    let (rules, default) = if is_up {
        (
            behaviour.and_then(|behaviour| behaviour.scale_up.as_ref()),
            Duration::ZERO,
        )
    } else {
        (behaviour.and_then(|behaviour| behaviour.scale_down.as_ref()), DOWN)
    };
    let seconds = rules.and_then(|rules| rules.stabilization_window_seconds);
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map_or(default, Duration::from_secs)
}

// === impl Situation ===

impl Situation<'_> {
    /// The window that a need falls into: the previous one, or a new one.
    fn window(&self, is_up: bool, needed: i32) -> ScalingWindow {
        let before = self.before.filter(|before| {
            let looked_at = before.looked_at.as_ref();
            looked_at.is_some_and(|at| elapsed(at.0, self.now) <= self.patience)
        });
        let window = before.and_then(|before| if is_up { &before.scale_up } else { &before.scale_down }.as_ref());
        // A window towards a number that has been reached was carried out by somebody else.
        let window =
            window.filter(|window| (window.replicas > self.replicas) == is_up && window.replicas != self.replicas);
        let known = window.map(|window| window.replicas);
        let replicas = if is_up {
            known.map_or(needed, |known| known.min(needed))
        } else {
            known.map_or(needed, |known| known.max(needed))
        };
        ScalingWindow {
            since: window.map_or(Time(self.now), |window| window.since.clone()),
            replicas,
        }
    }
}

#[cfg(test)]
mod tests;
