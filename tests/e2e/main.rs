//! End to end: a server and three workers, the real kubectl, real packets. A file holds one behaviour.
//!
//! `SKERRY_LAB_KEEP=1` leaves the cluster there for a look: `cargo xtask lab --name NAME master`.

mod bad_input;
mod balancer_both_families;
mod beside_others;
mod claims;
mod create_deployment;
mod daemonset;
mod daemonset_mode;
mod delete_pod_under_load;
mod delete_replicaset;
mod deletion;
mod disruption;
mod dist;
mod doctor;
mod dual_stack;
mod ephemeral;
mod exec;
mod explains_itself;
mod host;
mod kube_proxy_cleanup;
mod kubectl_verbs;
mod load_balancer;
mod logs;
mod long_names;
mod memory_demo;
mod multi_container;
mod names;
mod node_metrics;
mod node_port_service;
mod old_kubectl;
mod other_node;
mod placement;
mod pod_addresses;
mod pod_states;
mod preflight;
mod proxied;
mod proxy_in_front;
mod record;
mod restarts;
mod rollouts;
mod running;
mod schedules;
mod service_policies;
mod simple_pod;
mod stateful_set;
mod status;
mod streams;
mod taints;
mod timeline;
mod uninstall;
mod world;
mod xdp_balancer;
mod xdp_balancer_of_a_cluster;

use libtest_mimic::{Arguments, Failed, Trial};

type Case = fn(&world::World) -> anyhow::Result<()>;
type Apart = fn() -> anyhow::Result<()>;

/// Cases in the one cluster; `row_NN` counts what a person types on the first days, in that order.
const CASES: &[(&str, Case)] = &[
    ("row_01_a_deployment_spreads_over_the_workers", create_deployment::spreads),
    ("row_02_a_pod_is_created_then_runs", simple_pod::is_created_then_runs),
    ("row_03_a_pod_has_an_address_of_its_node", pod_addresses::are_the_nodes),
    ("row_04_exec_gives_a_shell_and_exit_codes", exec::gives_a_shell_and_exit_codes),
    ("row_05_a_deleted_replicaset_comes_back", delete_replicaset::comes_back),
    ("row_08_pods_are_placed_by_labels_and_beside_or_apart", placement::follows_selectors_and_affinity),
    ("row_09_requests_and_limits_are_in_the_cgroup", memory_demo::limits_are_in_the_cgroup),
    ("row_10_top_shows_what_is_used", memory_demo::top_shows_what_it_uses),
    ("row_11_who_uses_too_much_is_killed_and_backed_off", memory_demo::too_much_is_killed_and_backed_off),
    ("row_12_a_pod_and_a_namespace_go_with_everything", deletion::takes_everything_along),
    (
        "row_13_containers_of_a_pod_share_an_address_reached_from_everywhere",
        multi_container::share_an_address,
    ),
    ("row_14_a_node_port_service_is_listed", node_port_service::is_listed),
    ("row_15_the_service_answers_from_outside_pods_and_nodes", node_port_service::answers),
    ("row_15_a_deleted_pod_costs_no_request", delete_pod_under_load::costs_no_request),
    ("row_17_pods_are_shown_in_each_state", pod_states::are_shown),
    ("row_18_a_stateful_set_keeps_its_order_and_names", stateful_set::keeps_its_order_and_names),
    ("row_19_jobs_end_as_they_are_told", schedules::jobs_end_as_they_are_told),
    ("row_19_a_cron_job_runs_every_minute", schedules::a_cron_job_runs_every_minute),
    ("row_20_rollouts_go_on_and_back_and_pause", rollouts::go_on_and_back_and_pause),
    ("row_20_a_rolling_update_costs_no_request", rollouts::a_rolling_update_costs_no_request),
    ("row_22_kubectls_verbs_work", kubectl_verbs::work),
    ("row_22_logs_are_shown_in_all_forms", logs::are_shown_in_all_forms),
    ("row_22_port_forward_attach_and_cp_reach_into_pods", streams::reach_into_pods),
    ("claims_keep_their_data_over_pods_and_go_at_the_end", claims::keep_their_data),
    ("a_pods_own_claim_goes_with_its_pod", claims::own_ones_go_with_their_pod),
    ("a_service_without_endpoints_refuses_at_once", node_port_service::refuses_without_endpoints),
    ("names_of_63_characters_serve_as_any", long_names::serve_as_any),
    ("affinity_sticks_and_moves_with_its_endpoint", service_policies::affinity_sticks_and_moves),
    ("an_external_local_policy_binds_outsiders_only", service_policies::external_local_binds_outsiders_only),
    ("an_internal_local_policy_is_silent_elsewhere", service_policies::internal_local_is_silent_elsewhere),
    ("traffic_distribution_keeps_to_the_node", service_policies::same_node_is_preferred),
    ("a_service_of_another_service_cidr_answers", service_policies::another_service_cidr_serves),
    ("source_ranges_restrict_a_load_balancer_address", service_policies::source_ranges_restrict),
    ("maglev_agrees_on_all_nodes", service_policies::maglev_agrees_on_all_nodes),
    ("names_are_found_from_pods", names::are_found_from_pods),
    ("dns_lookup_says_why", names::lookup_says_why),
    ("top_and_the_metrics_api_agree", node_metrics::top_and_the_api_agree),
    ("nodes_tell_by_upstreams_paths", node_metrics::nodes_tell_by_upstreams_paths),
    ("requests_are_passed_on_to_pods_and_services", proxied::requests_are_passed_on),
    ("debug_adds_a_container_to_a_pod", ephemeral::debug_adds_a_container),
    ("kubectl_1_20_applies_and_explains", old_kubectl::applies_and_explains),
    ("lists_are_applied_by_both_kubectls", old_kubectl::lists_are_applied_by_both),
    ("wrong_manifests_are_refused_by_field", bad_input::wrong_manifests),
    ("a_body_over_3_mib_is_refused", bad_input::large_body),
    ("garbage_on_the_port_harms_nothing", bad_input::garbage),
    ("anonymous_clients_are_refused", bad_input::anonymous),
    ("status_and_kubeconfig_tell_what_runs", status::tell),
    ("doctor_finds_nothing_wrong", doctor::finds_nothing_wrong),
    ("a_pods_timeline_tells_every_step", timeline::tells_every_step),
    ("the_proxy_explains_itself_by_its_maps", explains_itself::by_its_maps),
    (
        "a_pod_with_a_sidecar_is_left_out_of_the_socket_hooks",
        explains_itself::a_pod_with_a_sidecar_is_left_out,
    ),
    ("a_load_balancer_has_an_address_and_health_checks", load_balancer::has_address_and_health_checks),
    ("two_families_required_of_a_cluster_of_one_are_refused", dual_stack::required_on_one_family_is_refused),
];

/// Cases that disturb all others, or have a machine of their own: one after another, when the others are
/// done.
const ALONE: &[(&str, Case)] = &[
    ("a_restarted_server_keeps_everything", restarts::server_keeps_everything),
    ("a_budget_holds_evictions_back", disruption::a_budget_holds_evictions_back),
    ("row_22_drain_waits_for_its_budget", disruption::drain_waits_for_its_budget),
    ("a_restarted_node_loses_no_connection", restarts::node_keeps_forwarding),
    ("names_outlive_the_server_and_the_dns_process", names::outlive_server_and_process),
    ("an_address_whose_node_goes_is_taken_over", load_balancer::another_node_takes_over),
    (
        "row_16_a_balancer_in_front_leaves_a_killed_node_out",
        xdp_balancer::spreads_and_leaves_a_killed_node_out,
    ),
    (
        "row_16_nginx_in_front_leaves_a_killed_node_out",
        proxy_in_front::nginx_spreads_and_leaves_a_killed_node_out,
    ),
    (
        "a_balancer_in_front_serves_what_the_cluster_asks_for",
        xdp_balancer_of_a_cluster::serves_what_it_asks_for,
    ),
];

/// Cases without the cluster.
const APART: &[(&str, Apart)] = &[
    ("row_06_a_daemonset_follows_the_nodes", daemonset::follows_the_nodes),
    ("row_07_taints_keep_pods_away_and_send_them_off", taints::keep_pods_away_and_send_them_off),
    ("row_17_a_pod_whose_node_is_gone_is_unknown", pod_states::a_lost_nodes_pod_is_unknown),
    ("up_says_what_is_in_its_way", preflight::says_what_is_in_its_way),
    ("an_archive_is_all_that_a_machine_needs", dist::an_archive_is_all_that_a_machine_needs),
    ("up_on_the_machine_runs_beside_its_own_containerd", host::runs_beside_what_is_there),
    ("up_beside_docker_and_another_plugin_names_them", beside_others::names_what_is_in_the_way),
    ("both_families_reach_everything", dual_stack::both_families),
    ("a_cluster_of_ipv6_alone_works", dual_stack::ipv6_alone),
    ("a_load_balancer_has_an_address_of_each_family", load_balancer::both_families),
    (
        "a_balancer_in_front_serves_both_families_in_both_modes",
        balancer_both_families::serves_both_families_in_both_modes,
    ),
    ("uninstall_leaves_the_machine_as_it_was", uninstall::leaves_nothing),
    ("the_proxy_runs_as_its_daemonset_says", daemonset_mode::runs_as_the_manifest_says),
    ("kube_proxys_rules_go_without_a_lost_request", kube_proxy_cleanup::goes_without_a_lost_request),
];

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert_with(side_by_side);
    // Those that wait longest come first.
    let mut trials: Vec<Trial> = APART.iter().map(|(name, case)| apart(name, *case)).collect();
    trials.extend(CASES.iter().map(|(name, case)| in_cluster(name, *case)));
    let first = libtest_mimic::run(&arguments, trials);
    let alone = ALONE.iter().map(|(name, case)| in_cluster(name, *case)).collect();
    let second = libtest_mimic::run(&Arguments { test_threads: Some(1), ..arguments }, alone);
    world::end(first.has_failed() || second.has_failed());
    let names = CASES.iter().chain(ALONE).map(|(name, _)| *name).chain(APART.iter().map(|(name, _)| *name));
    if let Err(error) = record::write(names) {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
    first.exit_if_failed();
    second.exit();
}

/// Cases wait more than they work.
fn side_by_side() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) + 1
}

fn apart(name: &'static str, case: Apart) -> Trial {
    Trial::test(name, move || record::case(name, case).map_err(|error| Failed::from(format!("{error:#}"))))
}

fn in_cluster(name: &'static str, case: Case) -> Trial {
    Trial::test(name, move || {
        let world = world::get().map_err(Failed::from)?;
        record::case(name, || case(world)).map_err(|error| Failed::from(format!("{error:#}")))
    })
}
