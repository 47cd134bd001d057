//! The `pgfiles` program.

fn main() {
    if let Some(code) = pgfiles::local::keeper_if_asked(std::env::args_os()) {
        std::process::exit(code);
    }
}
