//! End to end, on a real Kubernetes: from `helm install` to a routed call, and what follows.
//!
//! The steps build on each other and run in order in one cluster, the one that `ALKHUB_TEST_KUBECONFIG` names (`make
//! e2e` boots one; docs/TESTING.md). Without it, every step counts as skipped, and fails if `CI` is set. Hubs run in
//! pods of their own, from the images that `make images` built; none runs in this process.

mod hubs;
mod install;
mod isolation;
mod monitoring;
mod moves;
mod pages;
mod refusals;
mod removal;
mod rights;
mod spokes;
mod world;

use std::process::ExitCode;

pub(crate) use alkhub_tests::console::say;
use anyhow::Result;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::world::World;

type Step = for<'w> fn(&'w mut World) -> BoxFuture<'w, Result<()>>;

macro_rules! steps {
    ($($step:path),* $(,)?) => {
        [$((stringify!($step), (|world| $step(world).boxed()) as Step)),*]
    };
}

/// The steps in order; each name is a sentence that is true when the step passes.
const STEPS: &[(&str, Step)] = &steps![
    install::helm_install_and_two_manifests_lead_to_a_routed_call,
    install::the_charts_own_test_passes,
    hubs::a_call_sent_to_any_pod_reaches_a_spoke_on_any_other,
    hubs::an_event_crosses_pods,
    hubs::an_idle_hub_and_an_idle_operator_are_small,
    moves::spokes_of_both_kinds_are_called_from_here_on,
    hubs::kubectl_scale_gives_as_many_pods_as_asked,
    moves::an_evicted_pod_goes_unnoticed_and_no_other_one_before_it_is_replaced,
    moves::a_killed_hub_costs_spokes_with_two_sessions_no_new_call,
    moves::a_changed_setting_replaces_every_pod,
    moves::no_caller_noticed_that_connections_moved,
    hubs::kubectl_get_shows_what_is_there,
    refusals::the_api_server_refuses_a_hub_out_of_range,
    refusals::an_unknown_setting_becomes_a_condition,
    monitoring::prometheus_scrapes_what_the_charts_monitors_name,
    monitoring::every_query_of_the_installed_dashboard_answers,
    monitoring::alerts::every_installed_alert_finds_its_series_and_is_silent,
    monitoring::alerts::a_hub_whose_pods_are_gone_is_down_until_they_are_back,
    monitoring::alerts::a_hub_that_is_scaled_to_0_is_no_alert,
    monitoring::alerts::an_operator_that_is_gone_is_told_of_until_it_is_back,
    isolation::two_namespaces_share_a_redis_and_a_postgres_and_nothing_else,
    isolation::a_lost_redis_degrades_every_hub_on_it_until_it_is_back,
    isolation::the_younger_hub_of_two_with_one_prefix_is_refused,
    spokes::a_steady_cluster_is_left_alone,
    spokes::a_deleted_spoke_loses_its_key_and_its_connection,
    pages::a_managed_server_is_replaced_as_the_runbook_says,
    removal::a_deleted_hub_leaves_nothing_behind,
    pages::every_command_of_operations_and_of_the_runbook_works,
    pages::a_backup_is_restored_as_the_page_says,
    pages::an_uninstallation_as_the_page_says_leaves_nothing,
    pages::the_readmes_five_commands_lead_to_four_pods,
    rights::the_operator_used_each_of_its_rights_and_asked_for_no_other,
    removal::a_hub_that_helm_made_outlives_its_release_unless_told_otherwise,
];

fn main() -> ExitCode {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let only: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let Some(kubeconfig) = std::env::var_os("ALKHUB_TEST_KUBECONFIG") else {
        say(&format!(
            "no cluster: ALKHUB_TEST_KUBECONFIG is not set (`make e2e` boots one)\n0 passed, 0 failed, {} skipped",
            STEPS.len()
        ));
        return if std::env::var_os("CI").is_some() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        };
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(run(&mut World::new(kubeconfig.into()), &only))
}

async fn run(world: &mut World, only: &[String]) -> ExitCode {
    let (mut passed, mut skipped) = (0, 0);
    let mut failures: Vec<String> = Vec::new();
    for (name, step) in STEPS {
        // The first step makes what the others need.
        let wanted = only.is_empty() || passed == 0 || only.iter().any(|part| name.contains(part));
        let founded = passed > 0 || failures.is_empty();
        if !wanted || !founded {
            say(&format!(
                "{name} ... skipped ({})",
                if founded {
                    "not asked for"
                } else {
                    "the first step failed"
                }
            ));
            skipped += 1;
            continue;
        }
        let start = Instant::now();
        let outcome = std::panic::AssertUnwindSafe(step(world)).catch_unwind().await;
        let seconds = start.elapsed().as_secs_f64();
        let why = match outcome {
            Ok(Ok(())) => {
                passed += 1;
                say(&format!("{name} ... ok ({seconds:.1} s)"));
                continue;
            }
            Ok(Err(error)) => format!("{error:#}"),
            Err(panic) => panicked(panic.as_ref()),
        };
        let failure = format!("{name} ... FAILED after {seconds:.1} s: {why}");
        say(&failure);
        if failures.is_empty() {
            // Now, since later steps would remove what is to be seen.
            world.dump().await;
        }
        failures.push(failure);
    }
    if !failures.is_empty() {
        // Repeated, since people read the end of a long log.
        say(&format!("--- what failed\n{}", failures.join("\n")));
    }
    say(&format!(
        "{passed} passed, {} failed, {skipped} skipped",
        failures.len()
    ));
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The message of a step that panicked.
fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", said.unwrap_or("see above"))
}
