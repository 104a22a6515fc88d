//! A build user as a sandbox.
