//! pgfiles-vfs
