//! The load of a Hub's pods, and how their connections are spread; pure.
//!
//! Invariants
//! - Nothing is said about all pods together while the load of a ready one is unknown: missing is not the same as zero.

use alkhub_crds::hub::{HubBalance, HubPod};
use alkhub_protocol::admin::{BALANCE_SLACK, BalanceReport, balance_goal};

use crate::hub::fleet::{Fleet, Pod, PodLoad, PodPresence, PodStanding, Set};

/// What is known of the pods.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figures {
    /// The pods that exist, by name.
    pub(crate) pods: Vec<HubPod>,
    /// Their total.
    pub(crate) sum: Result<Sum, Unknown>,
}

/// The total of all pods.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sum {
    /// Running calls, including those of pods that are to go.
    pub(crate) in_flight: u64,
    /// How the connections are spread, including those of pods that are to go.
    pub(crate) balance: BalanceReport,
    /// Pods that are to stay.
    pub(crate) staying: u32,
    /// Something may be counted twice: a pod is reported twice, or has recently stopped being ready and its peers may
    /// be elsewhere by now.
    pub(crate) is_doubtful: bool,
}

/// Why the total is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// No pod that is to stay is ready.
    NoPod,
    /// This pod is ready, and no report has its figures.
    Missing(String),
}

// === impl Figures ===

impl Figures {
    pub(crate) fn of(fleet: &Fleet) -> Self {
        let all = || {
            fleet
                .sets
                .iter()
                .flat_map(|set| set.pods.iter().map(move |pod| (set, pod)))
        };
        let mut pods: Vec<_> = all()
            .filter(|(_, pod)| pod.presence != PodPresence::Lost)
            .map(|(set, pod)| shown(set, pod))
            .collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Self { pods, sum: sum(fleet) }
    }
}

// === impl Sum ===

impl Sum {
    /// Whether the fullest pod has no more than the hubs allow it: a tenth above the mean, and a few more.
    pub(crate) fn is_even(&self) -> bool {
        let mean = self.balance.total as f64 / f64::from(self.staying.max(1));
        self.balance.max as f64 <= balance_goal(mean, BALANCE_SLACK)
    }

    /// As a status shows it.
    pub(crate) fn shown(&self) -> HubBalance {
        HubBalance {
            total: number(self.balance.total),
            mean: self.balance.mean,
            max: number(self.balance.max),
            ratio: self.balance.ratio,
        }
    }
}

fn sum(fleet: &Fleet) -> Result<Sum, Unknown> {
    let is_needed = |pod: &&Pod| pod.presence == PodPresence::Here && pod.standing >= PodStanding::Fresh;
    if let Some(pod) = fleet.pods().filter(is_needed).find(|pod| pod.load.is_none()) {
        return Err(Unknown::Missing(pod.name.clone()));
    }
    let known = || fleet.pods().filter_map(|pod| Some((pod, pod.load?)));
    let counts = known().map(|(pod, load)| (load.connections, is_needed(&pod) && !is_draining(pod, load)));
    let counts: Vec<_> = counts.collect();
    let staying = counts.iter().filter(|(_, stays)| *stays).count();
    Ok(Sum {
        in_flight: known().fold(0, |sum: u64, (_, load)| sum.saturating_add(load.in_flight)),
        balance: BalanceReport::of_counts(counts.into_iter()).ok_or(Unknown::NoPod)?,
        staying: u32::try_from(staying).unwrap_or(u32::MAX),
        is_doubtful: known().any(|(pod, load)| is_doubtful(pod, load)),
    })
}

/// Whether a pod may have less by now. One that has been unready for long is taken to have what was reported.
fn is_doubtful(pod: &Pod, load: PodLoad) -> bool {
    let is_here = pod.presence == PodPresence::Here && pod.stuck.is_none();
    load.is_twofold || (is_here && pod.standing < PodStanding::Fresh && !load.is_nothing())
}

fn is_draining(pod: &Pod, load: PodLoad) -> bool {
    pod.presence != PodPresence::Here || pod.drain.is_some() || load.is_draining
}

fn shown(set: &Set, pod: &Pod) -> HubPod {
    HubPod {
        name: pod.name.clone(),
        revision: set.revision.clone(),
        ready: pod.presence == PodPresence::Here && pod.standing >= PodStanding::Fresh,
        draining: is_draining(pod, pod.load.unwrap_or_default()),
        connections: pod.load.map(|load| number(load.connections)),
        in_flight: pod.load.map(|load| number(load.in_flight)),
        reconnecting: pod.load.map(|load| number(load.reconnecting)),
        drain_order: None,
    }
}

/// A tenant's program may report any number; this caps it at the largest that every JSON reader keeps exactly.
fn number(number: u64) -> i64 {
    const LARGEST: u64 = (1 << 53) - 1;
    i64::try_from(number.min(LARGEST)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::fleet::Drain;
    use crate::hub::fleet::testing::{pod, set};

    fn with(name: &str, connections: u64, in_flight: u64) -> Pod {
        let load = PodLoad {
            in_flight,
            connections,
            ..PodLoad::default()
        };
        Pod {
            load: Some(load),
            ..pod(name)
        }
    }

    fn of(pods: Vec<Pod>) -> Figures {
        let sets = vec![set("a", 2, pods)];
        Figures::of(&Fleet { sets })
    }

    fn counts(figures: &Figures) -> Option<(u64, u64, u64)> {
        let sum = figures.sum.as_ref().ok()?;
        Some((sum.balance.total, sum.balance.max, sum.in_flight))
    }

    #[test]
    fn pods_that_are_to_go_count_in_what_there_is_and_not_in_how_it_is_spread() {
        let marked = Pod {
            drain: Some(Drain {
                is_over: false,
                is_lapsed: false,
            }),
            ..with("c", 90, 3)
        };
        let mut told = with("d", 70, 1);
        told.load.as_mut().expect("a load").is_draining = true;
        let leaving = Pod {
            presence: PodPresence::Leaving,
            ..with("e", 5, 0)
        };

        let figures = of(vec![with("b", 20, 1), with("a", 10, 2), marked, told, leaving]);

        assert_eq!(counts(&figures), Some((195, 20, 7)));
        let shown: Vec<_> = figures
            .pods
            .iter()
            .map(|pod| (pod.name.as_str(), pod.draining, pod.connections))
            .collect();
        let all = [
            ("a", false, Some(10)),
            ("b", false, Some(20)),
            ("c", true, Some(90)),
            ("d", true, Some(70)),
            ("e", true, Some(5)),
        ];
        assert_eq!(shown, all);
    }

    #[test]
    fn while_a_ready_pod_is_not_known_nothing_is_said_of_all() {
        let unknown = Pod { load: None, ..pod("b") };
        let starting = Pod {
            standing: PodStanding::Unready,
            ..unknown.clone()
        };
        let gone = Pod {
            presence: PodPresence::Leaving,
            ..unknown.clone()
        };

        assert_eq!(
            of(vec![with("a", 1, 1), unknown]).sum,
            Err(Unknown::Missing("b".to_owned()))
        );
        assert_eq!(
            counts(&of(vec![with("a", 1, 1), starting.clone(), gone])),
            Some((1, 1, 1))
        );
        assert_eq!(of(vec![starting]).sum, Err(Unknown::NoPod));
        assert_eq!(of(Vec::new()).sum, Err(Unknown::NoPod));
    }

    #[test]
    fn a_pod_that_is_reported_twice_or_is_not_ready_of_late_makes_the_sum_doubtful() {
        let is_doubtful = |pod: Pod| of(vec![with("a", 1, 1), pod]).sum.map(|sum| sum.is_doubtful);
        let mut twice = with("b", 0, 0);
        twice.load.as_mut().expect("a load").is_twofold = true;
        let unready = |connections| Pod {
            standing: PodStanding::Unready,
            ..with("b", connections, 0)
        };
        let stuck = Pod {
            stuck: Some("why".to_owned()),
            ..unready(5)
        };

        assert_eq!((is_doubtful(twice), is_doubtful(unready(5))), (Ok(true), Ok(true)));
        assert_eq!(is_doubtful(with("b", 5, 5)), Ok(false));
        assert_eq!(is_doubtful(unready(0)), Ok(false), "it starts");
        assert_eq!(is_doubtful(stuck), Ok(false), "nobody would scale a Hub with it");
    }

    #[test]
    fn connections_are_even_up_to_a_tenth_and_a_few() {
        let is_even = |a: u64, b: u64| of(vec![with("a", a, 0), with("b", b, 0)]).sum.map(|sum| sum.is_even());

        assert_eq!(is_even(0, 0), Ok(true));
        assert_eq!(
            (is_even(19, 1), is_even(20, 0)),
            (Ok(true), Ok(false)),
            "a mean of 10 and a goal of 19"
        );
        assert_eq!((is_even(1_108, 892), is_even(1_109, 891)), (Ok(true), Ok(false)));
    }

    #[test]
    fn no_number_of_a_report_is_too_large_for_a_status() {
        let figures = of(vec![with("a", u64::MAX, u64::MAX), with("b", u64::MAX, 1)]);

        assert_eq!(counts(&figures), Some((u64::MAX, u64::MAX, u64::MAX)));
        assert_eq!(figures.sum.map(|sum| sum.shown().total), Ok((1 << 53) - 1));
    }
}
