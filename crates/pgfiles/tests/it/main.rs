//! Integration tests of the program, in one binary.

mod local;
mod readme;
mod shell_hook;
mod where_;
