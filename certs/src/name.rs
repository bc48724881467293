//! Distinguished names: [`Name`] is the DER that certificates carry, [`Subject`] what people write.

use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use crate::der::{Der, OBJECT_IDENTIFIER, PRINTABLE_STRING, SET, UTF8_STRING};
use crate::error::CertError;

/// A distinguished name, kept as the bytes it came in. Two names are the same where their bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// Takes the DER of a `Name`.
    pub(crate) fn from_parsed(name: &X509Name<'_>) -> Self {
        Self(name.as_raw().to_vec())
    }

    /// The DER of the `Name`.
    pub fn der(&self) -> &[u8] {
        &self.0
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.len() <= 2
    }

    /// The first common name in it, where it is text.
    pub fn common_name(&self) -> Option<String> {
        let (_, name) = X509Name::from_der(&self.0).ok()?;
        let attribute = name.iter_common_name().next()?;
        attribute.as_str().ok().map(str::to_owned)
    }
}

impl Default for Name {
    fn default() -> Self {
        Self(vec![crate::der::SEQUENCE, 0])
    }
}

/// What a name is made of. Fields with several values become several attributes, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// C: two-letter codes (ISO 3166).
    pub countries: Vec<String>,
    /// O.
    pub organizations: Vec<String>,
    /// OU.
    pub organizational_units: Vec<String>,
    /// L.
    pub localities: Vec<String>,
    /// ST.
    pub provinces: Vec<String>,
    /// Street.
    pub street_addresses: Vec<String>,
    /// Postal code.
    pub postal_codes: Vec<String>,
    /// CN.
    pub common_name: Option<String>,
    /// The subject's own serial number, which is not the certificate's.
    pub serial_number: Option<String>,
}

/// How an attribute is encoded: its name for errors, the last arc of 2.5.4.x, its longest value
/// (RFC 5280, appendix A), and whether it must be a `PrintableString`.
struct Attribute(&'static str, u8, usize, bool);

impl Subject {
    /// The name that certificates carry.
    ///
    /// # Errors
    /// [`CertError::Unacceptable`] where a value is empty, too long or not of its type.
    pub fn to_name(&self) -> Result<Name, CertError> {
        let Self {
            countries,
            organizations,
            organizational_units,
            localities,
            provinces,
            street_addresses,
            postal_codes,
            common_name,
            serial_number,
        } = self;
        let attributes: [(Attribute, &[String]); 9] = [
            (Attribute("country", 6, 2, true), countries),
            (Attribute("organization", 10, 64, false), organizations),
            (Attribute("ou", 11, 64, false), organizational_units),
            (Attribute("locality", 7, 128, false), localities),
            (Attribute("province", 8, 128, false), provinces),
            (Attribute("street_address", 9, 128, false), street_addresses),
            (Attribute("postal_code", 17, 40, false), postal_codes),
            (
                Attribute("common_name", 3, 64, false),
                common_name.as_slice(),
            ),
            (
                Attribute("serial_number", 5, 64, true),
                serial_number.as_slice(),
            ),
        ];
        for (attribute, values) in &attributes {
            for value in *values {
                attribute.check(value)?;
            }
        }
        Ok(Name(Der::build(|der| {
            der.sequence(|der| {
                for (Attribute(_, arc, _, printable), values) in &attributes {
                    let tag = if *printable {
                        PRINTABLE_STRING
                    } else {
                        UTF8_STRING
                    };
                    for value in *values {
                        der.nested(SET, |der| {
                            der.sequence(|der| {
                                der.value(OBJECT_IDENTIFIER, &[0x55, 4, *arc]);
                                der.value(tag, value.as_bytes());
                            });
                        });
                    }
                }
            });
        })))
    }
}

impl Attribute {
    fn check(&self, value: &str) -> Result<(), CertError> {
        let Self(name, arc, longest, printable) = self;
        let length = value.chars().count();
        if length == 0 || length > *longest {
            return Err(CertError::unacceptable(format!(
                "{name} must have 1 to {longest} characters"
            )));
        }
        if *arc == 6 && !(length == 2 && value.bytes().all(|b| b.is_ascii_uppercase())) {
            return Err(CertError::unacceptable(
                "country must be a code of two capital letters, such as DE",
            ));
        }
        let is_printable = |b: u8| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b);
        if *printable && !value.bytes().all(is_printable) {
            return Err(CertError::unacceptable(format!(
                "{name} may hold letters, digits and ' ( ) + , - . / : = ? only"
            )));
        }
        if value.chars().any(char::is_control) {
            return Err(CertError::unacceptable(format!(
                "{name} must not hold control characters"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn several_values_become_several_attributes_in_order() {
        let name = Subject {
            countries: vec!["DE".into()],
            organizational_units: vec!["one".into(), "two".into()],
            common_name: Some("Größe".into()),
            ..Subject::default()
        }
        .to_name()
        .unwrap();
        let (_, parsed) = X509Name::from_der(name.der()).unwrap();
        assert_eq!(parsed.to_string(), "C=DE, OU=one, OU=two, CN=Größe");
        assert_eq!(name.common_name().as_deref(), Some("Größe"));
        assert!(!name.is_empty());
        assert!(Subject::default().to_name().unwrap().is_empty());
        assert_eq!(Subject::default().to_name().unwrap(), Name::default());
    }

    #[test]
    fn values_that_rfc_5280_forbids_are_refused_by_name() {
        let cases = [
            (
                "country",
                Subject {
                    countries: vec!["Germany".into()],
                    ..Subject::default()
                },
            ),
            (
                "country",
                Subject {
                    countries: vec!["de".into()],
                    ..Subject::default()
                },
            ),
            (
                "common_name",
                Subject {
                    common_name: Some("x".repeat(65)),
                    ..Subject::default()
                },
            ),
            (
                "common_name",
                Subject {
                    common_name: Some(String::new()),
                    ..Subject::default()
                },
            ),
            (
                "ou",
                Subject {
                    organizational_units: vec!["a\nb".into()],
                    ..Subject::default()
                },
            ),
            (
                "serial_number",
                Subject {
                    serial_number: Some("a_b".into()),
                    ..Subject::default()
                },
            ),
        ];
        for (field, subject) in cases {
            let error = subject.to_name().unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(common_name in "\\PC{1,64}", unit in "\\PC{1,64}") {
            let subject = Subject {
                common_name: Some(common_name.clone()),
                organizational_units: vec![unit],
                ..Subject::default()
            };
            if let Ok(name) = subject.to_name() {
                prop_assert_eq!(name.common_name(), Some(common_name));
            }
        }
    }
}
