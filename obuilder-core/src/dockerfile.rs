//! Specs as Dockerfiles.
