//! The store suite through the whole stack over [`pgfiles_store::mem::MemStore`], in all three modes of durability.

use std::time::Duration;

use pgfiles_store::layer::log::Mode;
use pgfiles_store::layer::{Stack, StackConfig};
use pgfiles_testkit::store_suite::Subject;

async fn stacked(durability: Mode) -> Subject {
    let (subject, server) = Subject::in_memory();
    let dir = tempfile::tempdir().expect("a directory for the cache");
    let config = StackConfig {
        durability,
        metadata_ttl: Duration::from_secs(3600),
        cache_dir: Some(dir.path().join("cache")),
        ..StackConfig::default()
    };
    let stack = Stack::new(server, config);
    Subject { store: stack.store.clone(), keep: Box::new((stack, dir)), ..subject }
}

mod close {
    async fn subject() -> super::Subject {
        super::stacked(super::Mode::Close).await
    }
    pgfiles_testkit::store_suite!(subject);
}

mod sync {
    async fn subject() -> super::Subject {
        super::stacked(super::Mode::Sync).await
    }
    pgfiles_testkit::store_suite!(subject);
}

/// All but what cannot hold where an answer comes before the commit.
mod writeback {
    async fn subject() -> super::Subject {
        super::stacked(super::Mode::Writeback).await
    }
    // Not `a_version_says_who_and_when`: the transaction is not known yet.
    pgfiles_testkit::store_suite!(@of subject, files:
        a_put_is_seen_and_numbered, versions_come_newest_first_in_pages, small_bodies_come_along,
        a_version_inherits_what_is_not_content, preconditions_hold_or_conflict, absent_means_no_directory_either,
        a_deletion_is_a_version, attributes_merge_into_the_head, an_extended_version_keeps_its_number,
        special_files_keep_what_they_are, reserved_keys_are_refused);
    pgfiles_testkit::store_suite!(@of subject, dirs:
        a_marker_makes_a_directory, an_implied_directory_stays_when_its_last_name_leaves,
        a_live_key_is_always_reachable, removing_a_directory, removing_a_tree, an_implied_directory_becomes_explicit,
        renaming_a_directory_moves_all, renaming_a_directory_is_refused, an_implied_directory_keeps_its_number);
    pgfiles_testkit::store_suite!(@of subject, listing:
        names_come_in_byte_order_on_any_page_size, the_dead_are_not_listed, names_that_stay_are_listed_once,
        odd_keys_hide_nothing, a_name_can_be_both, trees_come_in_order, what_is_deleted_comes_in_order, a_missing_directory_lists_as_empty);
    // Not `a_rename_moves_bytes_and_leaves_links`: the server's clock is not known.
    pgfiles_testkit::store_suite!(@of subject, renames:
        a_rename_makes_the_target_history, a_young_file_just_moves,
        an_older_file_does_not_just_move, renames_check_both_ends, a_young_directory_just_moves, chunked_files_move);
    // Not `a_body_that_is_gone_is_refused`: nobody removes what is in the queue. Not `replaced_chunks_are_dropped` and
    // those of the sweep: they look at the server at once.
    pgfiles_testkit::store_suite!(@of subject, bodies:
        chunked_bodies_read_back, two_levels_read_back, references_stay_in_their_lineage, missing_rows_are_corrupt,
        parts_are_cut_as_asked);
    // Not `a_directory_is_restored_to_a_moment` and `moments_are_transactions`: several commits become one.
    pgfiles_testkit::store_suite!(@of subject, past:
        a_restore_is_a_new_version, what_cannot_be_restored_is_refused, a_copy_has_the_content, a_purged_key_is_gone,
        a_purge_hands_bytes_over, parts_of_a_history_are_purged, a_prefix_is_purged_in_slices, usage_counts);
    pgfiles_testkit::store_suite!(@of subject, batches:
        a_batch_is_all_or_nothing, operations_see_earlier_ones, a_batch_sent_twice_is_applied_once,
        a_lost_reply_is_made_up_for, a_deletion_sent_again_behind_something_newer_changes_nothing, another_life_is_refused, ten_writers_leave_no_gap,
        one_of_many_creators_wins, removal_and_creation_never_hide_a_file, many_puts_in_one_batch,
        rows_are_present_or_not);
    pgfiles_testkit::store_suite!(@of subject, property: random_operations_match_the_model);
}
