//! The routes, called as the engine calls them; what they make is judged by OpenSSL (Debian package `openssl`).

mod bench;
mod cas;
mod conformance;
mod leaves;
mod revocations;
mod roles;
mod svids;
