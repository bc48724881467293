//! CSRs, certificates and keys in PEM and DER: what is read is read again from what is written.
#![no_main]

use daypass_certs::{Certificate, Csr, KeyPair, certificates_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(csr) = Csr::from_pem_or_der(input) {
        assert_eq!(Csr::from_pem_or_der(csr.der()).as_ref(), Ok(&csr));
        assert_eq!(
            Csr::from_pem_or_der(csr.pem().as_bytes()).as_ref(),
            Ok(&csr)
        );
        drop(csr.subject.common_name());
    }
    if let Ok(certificate) = Certificate::from_pem_or_der(input) {
        let again = Certificate::from_der(certificate.der());
        assert!(again.is_ok_and(|again| again.der() == certificate.der()));
        certificate.is_self_signed();
    }
    drop(certificates_of(input));
    drop(KeyPair::from_pem_or_der(input));
});
