//! pgfiles-fuse
