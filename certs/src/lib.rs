//! X.509 and SPIFFE without I/O: keys, CSRs, profiles, issuers, CRLs, chains.
//!
//! Nothing here reads a clock, a file or a socket: the time and the randomness of serial numbers are
//! arguments. (Keys and signatures draw on the cryptographic library's own generator, which cannot be
//! replaced.)
//!
//! # Invariants
//!
//! * What an [`Issuer`] signs carries, byte for byte, the issuer's subject and key identifier, and never
//!   outlives it. Certificates are therefore encoded here, from [`Name`]s kept as DER, and not rebuilt
//!   from a model of names that cannot hold every name a foreign CA may bring.
//! * Everything that was signed has been parsed again before it is handed out.
//! * A private key leaves a [`KeyPair`] only in memory that is wiped when dropped.

mod ca;
mod certificate;
mod crl;
mod csr;
mod der;
mod error;
mod glob;
mod key;
mod name;
mod pem;
mod profile;
mod san;
mod serial;
pub mod spiffe;
#[cfg(test)]
mod testing;

pub use crate::ca::{Issuer, self_signed};
pub use crate::certificate::{Certificate, chain_of};
pub use crate::crl::{Crl, Reason, Revoked};
pub use crate::csr::Csr;
pub use crate::error::CertError;
pub use crate::glob::glob;
pub use crate::key::{KeyAlgorithm, KeyKind, KeyPair, PublicKey};
pub use crate::name::{Name, Subject};
pub use crate::pem::{certificates_of, is_pem, pem};
pub use crate::profile::{
    BACKDATE, BasicConstraints, ExtKeyUsage, KeyUsage, Oid, Profile, Urls, Validity,
};
pub use crate::san::San;
pub use crate::serial::Serial;
pub use crate::spiffe::{PathPattern, SpiffeId, TrustDomain};
