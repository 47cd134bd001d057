//! What the model test found, each as the shortest run that showed it.

use pgfiles_store::layer::log::Mode;
use pgfiles_testkit::vfs_model::{Kind, Plan, replay};

fn on_memory(text: &str) {
    replay(&Plan::new(1, 0), text);
}

#[test]
fn a_link_through_a_name_that_another_mount_removed() {
    on_memory(
        "put 0 0 /h / 0 4764 199740 0
         link 0 0 /h /c 0 0 0 0
         mkdir 1 0 /a / 0 0 0 0
         readdir 1 0 / / 10 1 0 0
         unlink 0 0 /c / 0 0 0 0
         create 0 0 /ah / 11 0 0 0
         mkdir 0 0 /ac / 0 0 0 0
         exchange 0 5 /ah /ac 0 0 0 0
         link 1 0 /h /ahh 0 0 0 0",
    );
}

#[test]
fn one_version_under_a_name_while_another_is_renamed() {
    on_memory(
        "mkdir 0 0 /g / 0 0 0 0
         create 0 5 /ge / 1 0 0 0
         link 0 0 /ge /b 0 0 0 0
         kill 0 0 / / 0 0 0 0
         create 0 1 /b / 1 0 0 0
         create 0 2 /b / 1 0 0 0
         write 0 2 / / 0 44013 923099 0
         close 0 1 / / 1 0 0 0
         write 0 2 / / 44722 73 247412 0
         rename 0 0 /ge /ga 0 0 0 0",
    );
}

#[test]
fn names_that_others_removed_are_free() {
    on_memory(
        "mkdir 0 3 /f / 0 0 0 0
         put 1 0 /b / 0 15685 572098 0
         link 0 1 /b /fg 0 0 0 0
         unlink 1 0 /fg / 0 0 0 0
         unlink 0 0 /b / 0 0 0 0
         create 0 1 /fg / 5 0 0 0",
    );
}

#[test]
fn a_restored_file_has_a_number_of_its_own() {
    on_memory(
        "put 0 0 /a / 0 10 1 0
         rename 0 0 /a /b 0 0 0 0
         put 0 0 /a / 0 20 2 0
         unlink 0 0 /a / 0 0 0 0
         restore 0 0 /a / 1 0 0 0
         unlink 1 0 /a / 0 0 0 0
         rename 0 0 /b /c 0 0 0 0
         restore 0 0 /b / 1 0 0 0",
    );
}

#[test]
fn a_restored_file_has_not_the_number_of_a_symlink() {
    on_memory(
        "mkdir 0 2 /d / 0 0 0 0
         mkdir 0 5 /f / 0 0 0 0
         put 0 4 /fg / 0 0 949048 0
         mkdir 1 0 /dg / 0 0 0 0
         rename 0 0 /fg /dgh 0 0 0 0
         truncate 0 0 /dgh / 76 0 0 0
         symlink 0 2 /c / 0 0 0 0
         exchange 0 2 /dgh /c 0 0 0 0
         unlink 0 0 /dgh / 0 0 0 0
         restore 0 0 /dgh / 2 0 0 0",
    );
}

#[test]
fn a_restore_leaves_the_attributes_of_what_is_there() {
    on_memory(
        "mkdir 0 0 /f / 0 0 0 0
         create 0 1 /fa / 1 0 0 0
         link 0 1 /fa /fh 0 0 0 0
         mkdir 0 0 /ff / 0 0 0 0
         put 0 0 /ffg / 0 96 17721 0
         rename 0 0 /ffg /g 1 0 0 0
         link 0 0 /g /ffc 0 0 0 0
         rename 0 3 /ffc /fh 0 0 0 0
         restore 0 0 /fh / 1 0 0 0",
    );
}

#[test]
fn a_file_is_saved_where_it_was_looked_up() {
    let plan = Plan { on: Kind::Layers { mode: Mode::Close, told: true }, ..Plan::new(123, 0) };
    replay(
        &plan,
        "create 0 1 /e / 5 0 0 0
         close 0 1 / / 2 0 0 0
         link 0 3 /e /b 0 0 0 0
         readdir 1 3 / / 1 1 0 0
         rename 0 3 /e /d 0 0 0 0
         create 1 3 /b / 5 0 0 0",
    );
}

#[test]
fn a_file_is_not_saved_under_a_name_that_another_mount_removed() {
    on_memory(
        "put 1 0 /b / 0 4422 881271 0
         mkdir 0 0 /c / 0 0 0 0
         link 0 0 /b /ca 0 0 0 0
         unlink 1 0 /ca / 0 0 0 0
         create 0 4 /b / 5 0 0 0",
    );
}

/// Which replies are lost is the same each time: every seventh of a commit.
#[test]
fn a_name_that_is_left_after_a_lost_reply() {
    let plan = Plan { mounts: 1, young_seconds: 10_000_000, ..Plan::new(104, 0) };
    replay(
        &Plan { on: Kind::Faults { crash_every: 30 }, ..plan },
        "create 0 4 /g / 1 0 0 0
         rename 0 4 /g /c 0 0 0 0
         rename 0 4 /c /e 0 0 0 0
         setattr 0 4 /e / 8 70 3432 434337493
         linkopen 0 4 / /b 0 0 0 0
         symlink 0 1 /a / 0 0 0 0
         rename 0 1 /a /e 0 0 0 0",
    );
}

/// Through all layers, with notices.
fn on_layers(mode: Mode, text: &str) {
    replay(&Plan { on: Kind::Layers { mode, told: true }, ..Plan::new(123, 0) }, text);
}

#[test]
fn a_name_is_free_that_another_client_removed_of_a_file_unpublished_here() {
    on_layers(
        Mode::Writeback,
        "create 0 4 /d / 1 0 0 0
         link 0 0 /d /g 0 0 0 0
         rename 0 0 /d /e 0 0 0 0
         linkopen 0 4 / /a 0 0 0 0
         close 0 4 / / 2 0 0 0
         put 0 1 /e / 0 531 268811 0
         create 0 1 /f / 0 0 0 0
         unlink 1 0 /a / 0 0 0 0
         open 0 4 /e / 5 0 0 0
         exchange 0 4 /a /f 0 0 0 0",
    );
}

#[test]
fn a_name_is_another_file_that_another_mount_created_where_one_unpublished_here_was() {
    on_layers(
        Mode::Close,
        "mkdir 0 1 /f / 0 0 0 0
         create 0 3 /fb / 1 0 0 0
         linkopen 0 3 / /fg 0 0 0 0
         close 0 3 / / 0 0 0 0
         setattr 1 0 /fg / 27 204 2206 1702917814
         rename 0 2 /fb /fe 0 0 0 0
         create 1 4 /fg / 1 0 0 0
         create 0 1 /fb / 5 0 0 0
         write 1 4 / / 2998 33536 165287 0
         close 0 1 / / 2 0 0 0",
    );
}

#[test]
fn a_file_is_saved_at_the_name_that_it_was_renamed_to() {
    on_layers(
        Mode::Close,
        "mkdir 0 5 /d / 0 0 0 0
         mkdir 0 5 /df / 0 0 0 0
         create 0 4 /dh / 1 0 0 0
         remount 0 2 / / 0 0 0 0
         mkdir 1 4 /dfb / 0 0 0 0
         link 0 3 /dh /dfbc 0 0 0 0
         rename 1 4 /dh /c 0 0 0 0
         rename 1 0 /dfbc /dfg 1 0 0 0
         create 0 5 /dfg / 1 0 0 0
         write 0 5 / / 0 98948 628751 0
         rename 0 1 /dfg /dfe 0 0 0 0",
    );
}

#[test]
fn a_file_is_saved_at_the_name_that_it_was_exchanged_to() {
    on_layers(
        Mode::Close,
        "create 0 0 /h / 9 0 0 0
         link 0 0 /h /e 0 0 0 0
         rename 0 0 /e /c 1 0 0 0
         readdir 1 0 / / 4 1 0 0
         rename 0 0 /h /e 0 0 0 0
         create 0 2 /h / 3 0 0 0
         truncate 0 4 /e / 2725 0 0 0
         remount 0 0 / / 0 0 0 0
         rename 0 0 /c /b 0 0 0 0
         create 1 5 /b / 5 0 0 0
         exchange 1 4 /b /h 0 0 0 0",
    );
}

#[test]
fn a_file_is_saved_at_the_name_that_it_was_opened_at() {
    on_layers(
        Mode::Close,
        "create 0 0 /e / 0 0 0 0
         mkdir 0 0 /g / 0 0 0 0
         mkdir 0 0 /gf / 0 0 0 0
         mkdir 0 3 /ge / 0 0 0 0
         exchange 0 3 /gf /e 0 0 0 0
         rename 0 0 /ge /gg 0 0 0 0
         rename 0 0 /gf /gb 0 0 0 0
         rename 0 0 /gg /gf 0 0 0 0
         create 0 3 /ef / 3 0 0 0
         create 0 1 /gfg / 1 0 0 0
         close 0 1 / / 2 0 0 0
         exchange 0 0 /ef /g 0 0 0 0
         link 0 5 /effg /c 0 0 0 0
         rename 1 0 /effg /efc 1 0 0 0
         rename 0 0 /c /effd 0 0 0 0
         open 1 2 /effd / 5 0 0 0
         write 1 2 / / 0 9 800257 0
         rename 1 2 /effd /h 1 0 0 0",
    );
}
