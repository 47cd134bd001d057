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
