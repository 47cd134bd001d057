//! pgfiles-testkit
