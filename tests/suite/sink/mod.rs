//! Conformance of the sinks: the contract of `lemonade_task::sink::Sink`, clause by clause, over
//! every database that the project supports.
//!
//! Each clause has databases of its own, and uses them in two ways: through the sink, and through a
//! connection of the test, which checks what is stored.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "coverage is a list of ranges"
)]

pub mod faults;
mod conflicts;
mod definitions;
mod erasures;
mod fixture;
mod hosts;
mod keyed;
mod ledger;
mod operators;
mod partitions;
mod retiring;
mod replicas;
mod rows;
mod misfits;
mod nodes;
mod schema;
mod served;
mod summary;
mod tables_of_sqlite;
mod taken;
mod triggers;
mod types;
mod views;
mod waits;
mod workers;

use fixture::{Fixture, Target};
use lemonade_task::finding::Level;

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_the_contract() {
    conformance(Target::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_keeps_the_contract() {
    conformance(Target::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_keeps_the_contract() {
    conformance(Target::Mysql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_with_load_data_keeps_the_contract() {
    conformance(Target::MysqlLoadData).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_galera_cluster_keeps_the_contract() {
    conformance(Target::Galera).await;
    let fixture = Fixture::new(Target::Galera).await;
    let findings = fixture.sink.inspect(&fixture.datasets).await;
    let findings = findings.expect("the node is there");
    let log = findings
        .iter()
        .find(|finding| finding.what.contains("node of a Galera"));
    assert_eq!(log.expect("doctor looks").level, Level::Ok, "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_of_an_unknown_database_is_fatal_and_lists_the_known_ones() {
    let options = lemonade_task::sink::SinkOptions::default();
    for url in ["postgres://u:secret@h/d", "mysql:", "", "/tmp/file.db"] {
        let fault = lemonade_task::sink::open(url, &options)
            .await
            .err()
            .expect("no such sink");
        assert!(!fault.is_transient(), "{url}");
        let text = fault.to_string();
        assert!(
            text.contains("mysql://") && text.contains("sqlite:"),
            "{text}"
        );
        assert!(!text.contains("secret"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_server_is_waited_for_and_one_that_refuses_is_not() {
    let options = lemonade_task::sink::SinkOptions::default();
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("it is bound").port()
    };
    let url = format!("mysql://root@127.0.0.1:{port}/test");
    let fault = lemonade_task::sink::open(&url, &options)
        .await
        .err()
        .expect("nobody listens");
    assert!(fault.is_transient(), "{fault}");

    let url = Target::Mariadb.fresh_url().await;
    for wrong in [
        url.replace("root@", "nobody:wrong@"),
        format!("{url}_not_there"),
    ] {
        let fault = lemonade_task::sink::open(&wrong, &options)
            .await
            .err()
            .expect("refused");
        assert!(!fault.is_transient(), "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rare_types_come_back_from_each_database() {
    for target in [
        Target::Sqlite,
        Target::Mariadb,
        Target::Mysql,
        Target::MysqlLoadData,
    ] {
        types::rare_types_come_back_as_they_went_in(target).await;
    }
}

/// Every clause, over one kind of database.
async fn conformance(target: Target) {
    schema::migration_is_repeatable_and_safe_for_several_processes(target).await;
    schema::a_ledger_of_an_earlier_release_is_brought_up_to_date(target).await;
    schema::all_processes_have_the_same_key_of_frames(target).await;
    schema::a_newer_schema_is_refused(target).await;
    schema::a_table_that_does_not_fit_is_refused_with_its_remedy(target).await;
    schema::a_ledger_that_is_not_of_its_tables_is_refused(target).await;
    schema::rows_that_are_not_in_the_ledger_are_removed_as_the_refusal_says(target).await;
    misfits::statements_that_are_offered_run_and_change_no_value(target).await;
    misfits::a_column_keeps_every_value_or_is_refused(target).await;
    tables_of_sqlite::a_table_of_sqlite_that_does_not_fit_is_refused(target).await;
    misfits::a_summary_whose_key_is_compared_by_a_collation_is_refused(target).await;
    schema::tables_of_the_original_fit_after_the_printed_statements(target).await;
    views::a_view_shows_the_rows_of_settled_files_with_their_time(target).await;
    views::a_view_replaces_no_table(target).await;

    ledger::a_file_keeps_its_number(target).await;
    ledger::many_files_are_registered_in_one_call(target).await;
    ledger::processes_agree_on_numbers(target).await;
    ledger::a_quarantined_file_becomes_pending(target).await;
    ledger::coverage_is_the_union_of_entries(target).await;
    ledger::settle_folds_the_entries(target).await;
    ledger::settle_changes_only_files_that_are_covered(target).await;
    ledger::a_file_that_is_one_batch_is_settled_by_its_commit(target).await;
    ledger::a_batch_that_is_delivered_twice_counts_once(target).await;
    definitions::a_file_that_was_begun_with_another_definition_is_recognised(target).await;
    definitions::a_number_is_one_content_in_one_dataset(target).await;
    definitions::values_of_the_path_belong_to_the_identity(target).await;
    definitions::a_batch_of_another_definition_is_left_out(target).await;
    definitions::the_stored_records_of_a_file_can_be_removed(target).await;
    ledger::batches_of_another_ledger_are_left_out(target).await;
    ledger::operators_see_what_the_ledger_says(target).await;
    ledger::file_numbers_at_their_limit_end_with_advice(target).await;

    rows::values_come_back_as_they_went_in(target).await;
    rows::a_commit_may_be_repeated(target).await;
    rows::another_cut_of_the_same_file_adds_nothing(target).await;
    rows::workers_with_the_same_batches_store_them_once(target).await;
    rows::rejects_are_stored_once(target).await;
    rows::a_record_is_a_row_or_a_reject(target).await;
    rows::a_late_redelivery_leaves_nothing_behind(target).await;
    rows::a_refused_row_is_a_reject_and_its_neighbours_are_stored(target).await;
    rows::another_unique_key_makes_a_reject(target).await;
    taken::a_row_of_another_writer_costs_no_record(target).await;
    taken::a_row_counts_as_a_record_only_if_all_values_are_equal(target).await;
    triggers::a_stored_row_never_becomes_a_reject(target).await;
    triggers::one_refused_row_costs_one_record(target).await;
    waits::files_without_a_partition_wait_and_the_others_are_stored(target).await;
    waits::a_table_that_takes_no_rows_makes_its_files_wait(target).await;
    triggers::a_trigger_that_changes_values_is_named(target).await;
    ledger::a_file_of_several_datasets_counts_once(target).await;
    waits::a_table_of_sqlite_that_takes_no_rows_makes_its_files_wait(target).await;
    waits::a_table_that_was_changed_ends_the_engine(target).await;
    rows::large_rows_are_stored_or_refused(target).await;
    rows::a_lost_connection_is_transient(target).await;

    operators::files_are_listed_by_state_and_page(target).await;
    operators::an_audit_counts_what_is_stored(target).await;
    operators::newer_acknowledged_numbers_are_not_lowered(target).await;
    operators::rejects_are_found_by_their_query(target).await;
    operators::a_corrected_record_takes_the_place_of_its_reject(target).await;
    operators::what_the_database_refuses_stays_a_reject(target).await;
    operators::purged_rejects_stay_accounted_for(target).await;

    erasures::no_commit_brings_an_erased_record_back(target).await;
    erasures::the_bytes_of_erased_records_are_known(target).await;

    keyed::one_of_several_records_with_a_key_is_the_row(target).await;
    keyed::workers_agree_on_the_row_of_a_key(target).await;
    keyed::a_key_that_is_taken_makes_a_reject(target).await;
    keyed::a_refused_record_supersedes_none(target).await;
    keyed::a_row_with_the_id_of_a_record_stays(target).await;
    keyed::rows_that_come_and_go(target).await;
    keyed::a_table_without_its_key_is_refused(target).await;

    summary::the_last_event_stays_in_any_order(target).await;
    summary::the_way_of_a_file_into_the_summary(target).await;
    summary::a_file_is_summarised_once_its_commit_is_over(target).await;
    summary::a_summary_is_made_again_beside_a_load(target).await;
    nodes::each_process_has_a_row_until_it_leaves_or_is_long_dead(target).await;
    nodes::a_dead_process_is_fenced_and_a_name_belongs_to_one_that_lives(target).await;
    nodes::a_beat_of_the_future_is_no_sign_of_life(target).await;
    nodes::the_time_is_that_of_the_database(target).await;
    nodes::one_process_leads_and_a_deposed_one_writes_nothing(target).await;
}
