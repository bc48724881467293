//! Password policies: how long a generated password is and which characters it must have.
//!
//! ```text
//! length = 20
//! rule "charset" { charset = "abcdefghijklmnopqrstuvwxyz" min-chars = 1 }
//! rule "charset" { charset = "0123456789" min-chars = 1 }
//! ```
//! **Invariant:** no password is made that does not satisfy its policy. Each that does is equally likely, unless
//! that is less than about one in a thousand of all that could be drawn.

use daypass_contract::{Entropy, Secret};

use super::hcl::{self, Item, Node, ParseError, Value};
use super::parse::unknown_word;

/// The lengths a password may have, as in Vault.
const LENGTHS: std::ops::RangeInclusive<usize> = 4..=100;

/// The most characters to choose from, as in Vault.
const MAX_CHARSET: usize = 256;

/// How many candidates are drawn before one is built. Policies in use accept every second or third.
const MAX_DRAWS: usize = 2000;

/// How passwords are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordPolicy {
    length: usize,
    /// Every character of every rule, once.
    charset: Vec<char>,
    rules: Vec<CharsetRule>,
}

/// At least `min_chars` of the characters are of `charset`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CharsetRule {
    charset: Vec<char>,
    min_chars: usize,
}

impl Default for PasswordPolicy {
    /// 20 letters, digits and hyphens, with at least one lower-case and one upper-case letter, one digit and
    /// one hyphen, as in Vault.
    fn default() -> Self {
        let rule = |charset: &mut dyn Iterator<Item = char>| CharsetRule {
            charset: charset.collect(),
            min_chars: 1,
        };
        Self::of(
            20,
            vec![
                rule(&mut ('a'..='z')),
                rule(&mut ('A'..='Z')),
                rule(&mut ('0'..='9')),
                rule(&mut ['-'].into_iter()),
            ],
        )
    }
}

impl PasswordPolicy {
    /// Reads a password policy in HCL or JSON.
    ///
    /// # Errors
    /// [`ParseError`] with the place and the fix, also where no password can satisfy the policy.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut length = None;
        let mut rules = Vec::new();
        let items = hcl::parse(text)?;
        for item in &items {
            match item.key.as_str() {
                "length" if length.is_none() => length = Some((item.at, count(text, item)?)),
                "length" => return Err(item.at.error(text, "\"length\" is given twice")),
                "rule" => read_rules(text, &item.node, &mut rules)?,
                unknown => {
                    let problem = unknown_word("attribute", unknown, &["length", "rule"]);
                    return Err(item.at.error(text, problem));
                }
            }
        }
        let start = hcl::At::START;
        let (at, length) = length.ok_or_else(|| start.error(text, "\"length\" is missing"))?;
        let policy = Self::of(length, rules);
        let needed = policy
            .rules
            .iter()
            .map(|rule| rule.min_chars)
            .sum::<usize>();
        let problem = if !LENGTHS.contains(&length) {
            let (min, max) = (LENGTHS.start(), LENGTHS.end());
            format!("passwords have {min} to {max} characters")
        } else if needed > length {
            format!("the rules need at least {needed} characters")
        } else if policy.charset.is_empty() {
            "a rule is missing: rule \"charset\" { charset = \"abc\" }".to_owned()
        } else if policy.charset.len() > MAX_CHARSET {
            format!("the rules have more than {MAX_CHARSET} different characters")
        } else {
            return Ok(policy);
        };
        Err(at.error(text, problem))
    }

    fn of(length: usize, rules: Vec<CharsetRule>) -> Self {
        let mut charset: Vec<char> = rules.iter().flat_map(|rule| rule.charset.clone()).collect();
        charset.sort_unstable();
        charset.dedup();
        Self {
            length,
            charset,
            rules,
        }
    }

    /// A password. Takes bounded time whatever the entropy.
    pub fn generate(&self, entropy: &dyn Entropy) -> Secret {
        for _ in 0..MAX_DRAWS {
            let candidate: Vec<char> = (0..self.length)
                .filter_map(|_| pick(&self.charset, entropy))
                .collect();
            if self.rules.iter().all(|rule| rule.passes(&candidate)) {
                return secret(&candidate);
            }
        }
        // The rules leave so little that drawing does not meet it. What is built instead satisfies them, but
        // not every such password is equally likely: the price of an end that is certain.
        let mut built = Vec::with_capacity(self.length);
        for rule in &self.rules {
            built.extend((0..rule.min_chars).filter_map(|_| pick(&rule.charset, entropy)));
        }
        while built.len() < self.length
            && let Some(character) = pick(&self.charset, entropy)
        {
            built.push(character);
        }
        for last in (1..built.len()).rev() {
            built.swap(last, entropy.below(last + 1));
        }
        secret(&built)
    }
}

impl CharsetRule {
    fn passes(&self, candidate: &[char]) -> bool {
        let of_charset = candidate.iter().filter(|c| self.charset.contains(c));
        of_charset.count() >= self.min_chars
    }
}

fn pick(charset: &[char], entropy: &dyn Entropy) -> Option<char> {
    charset.get(entropy.below(charset.len())).copied()
}

fn secret(characters: &[char]) -> Secret {
    Secret::new(characters.iter().collect::<String>())
}

fn read_rules(text: &str, node: &Node, rules: &mut Vec<CharsetRule>) -> Result<(), ParseError> {
    let usage = "\"rule\" takes a kind and a block: rule \"charset\" { charset = \"abc\" }";
    let malformed = || node.at.error(text, usage);
    for kinds in node.objects().ok_or_else(malformed)? {
        for kind in kinds {
            if kind.key != "charset" {
                let problem = unknown_word("rule", &kind.key, &["charset"]);
                return Err(kind.at.error(text, problem));
            }
            for body in kind.node.objects().ok_or_else(malformed)? {
                rules.push(read_rule(text, kind, body)?);
            }
        }
    }
    Ok(())
}

fn read_rule(text: &str, kind: &Item, body: &[Item]) -> Result<CharsetRule, ParseError> {
    let mut charset = None;
    let mut min_chars = None;
    for item in body {
        let twice = match item.key.as_str() {
            "charset" => charset.replace(characters(text, item)?).is_some(),
            "min-chars" => min_chars.replace(count(text, item)?).is_some(),
            unknown => {
                let problem = unknown_word("attribute", unknown, &["charset", "min-chars"]);
                return Err(item.at.error(text, problem));
            }
        };
        if twice {
            return Err(item
                .at
                .error(text, format!("\"{}\" is given twice", item.key)));
        }
    }
    Ok(CharsetRule {
        charset: charset.ok_or_else(|| kind.at.error(text, "\"charset\" is missing"))?,
        min_chars: min_chars.unwrap_or(0),
    })
}

fn characters(text: &str, item: &Item) -> Result<Vec<char>, ParseError> {
    let characters = item.node.text().unwrap_or_default();
    let printable = |c: char| !c.is_control() && (c == ' ' || !c.is_whitespace());
    if characters.is_empty() || !characters.chars().all(printable) {
        let problem = "\"charset\" takes a text of printable characters";
        return Err(item.node.at.error(text, problem));
    }
    let mut characters: Vec<char> = characters.chars().collect();
    characters.sort_unstable();
    characters.dedup();
    Ok(characters)
}

fn count(text: &str, item: &Item) -> Result<usize, ParseError> {
    let number = match &item.node.value {
        Value::Number(number) => number.as_u64().and_then(|n| usize::try_from(n).ok()),
        _ => None,
    };
    // Sums of these must not overflow; what is too long for a password is refused later.
    number.filter(|number| *number <= 1_000_000).ok_or_else(|| {
        item.node
            .at
            .error(text, format!("\"{}\" takes a whole number", item.key))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    /// A generator of even quality that a test can repeat (SplitMix64).
    struct Seeded(Mutex<u64>);

    impl Entropy for Seeded {
        fn fill(&self, target: &mut [u8]) {
            let mut state = self.0.lock().unwrap();
            for chunk in target.chunks_mut(8) {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^= z >> 31;
                chunk.copy_from_slice(&z.to_le_bytes()[..chunk.len()]);
            }
        }
    }

    struct Zeros;

    impl Entropy for Zeros {
        fn fill(&self, target: &mut [u8]) {
            target.fill(0);
        }
    }

    fn seeded(seed: u64) -> Seeded {
        Seeded(Mutex::new(seed))
    }

    fn text(secret: &Secret) -> String {
        secret.expose_str().unwrap().to_owned()
    }

    #[test]
    fn policies_are_read_in_hcl_and_json() {
        let hcl = r#"length = 20
            rule "charset" { charset = "abca" min-chars = 1 }
            rule "charset" { charset = "01" }"#;
        let json = r#"{"length": 20, "rule": [
            {"charset": {"charset": "abc", "min-chars": 1}}, {"charset": [{"charset": "01"}]}]}"#;
        let policy = PasswordPolicy::parse(hcl).unwrap();
        assert_eq!(policy, PasswordPolicy::parse(json).unwrap());
        assert_eq!(policy.charset, ['0', '1', 'a', 'b', 'c']);
        assert_eq!((policy.length, policy.rules[1].min_chars), (20, 0));
    }

    #[test]
    fn what_cannot_be_satisfied_or_is_not_understood_is_refused() {
        let many: String = ('\u{4e00}'..'\u{4f01}').collect();
        let cases = [
            ("", "line 1, column 1: \"length\" is missing"),
            (
                "length = 3 rule \"charset\" { charset = \"a\" }",
                "line 1, column 1: passwords have 4 to 100 characters",
            ),
            (
                "length = 101 rule \"charset\" { charset = \"a\" }",
                "line 1, column 1: passwords have 4 to 100 characters",
            ),
            (
                "length = \"20\"",
                "line 1, column 10: \"length\" takes a whole number",
            ),
            (
                "length = 20 length = 20",
                "line 1, column 13: \"length\" is given twice",
            ),
            (
                "length = 20",
                "line 1, column 1: a rule is missing: rule \"charset\" { charset = \"abc\" }",
            ),
            (
                "length = 4 rule \"charset\" { charset = \"a\" min-chars = 3 } rule \"charset\" { charset = \"b\" min-chars = 2 }",
                "line 1, column 1: the rules need at least 5 characters",
            ),
            (
                "length = 4 rule \"charset\" { charset = \"\" }",
                "line 1, column 39: \"charset\" takes a text of printable characters",
            ),
            (
                "length = 4 rule \"charset\" { charset = \"a\\n\" }",
                "line 1, column 39: \"charset\" takes a text of printable characters",
            ),
            (
                "length = 4 rule \"charset\" { min-chars = 1 }",
                "line 1, column 17: \"charset\" is missing",
            ),
            (
                "length = 4 rule \"charset\" { charset = \"a\" min-chars = -1 }",
                "line 1, column 55: \"min-chars\" takes a whole number",
            ),
            (
                "length = 4 rule \"charset\" { charset = \"a\" min_chars = 1 }",
                "line 1, column 43: unknown attribute \"min_chars\": did you mean \"min-chars\"?",
            ),
            (
                "length = 4 rule \"charsets\" { charset = \"a\" }",
                "line 1, column 17: unknown rule \"charsets\": did you mean \"charset\"?",
            ),
            (
                "length = 4 rule = 1",
                "line 1, column 19: \"rule\" takes a kind and a block: rule \"charset\" { charset = \"abc\" }",
            ),
            (
                &format!("length = 4 rule \"charset\" {{ charset = \"{many}\" }}"),
                "line 1, column 1: the rules have more than 256 different characters",
            ),
        ];
        for (text, want) in cases {
            assert_eq!(
                PasswordPolicy::parse(text).unwrap_err().to_string(),
                want,
                "{text}"
            );
        }
    }

    #[test]
    fn the_default_is_as_in_vault() {
        let password = text(&PasswordPolicy::default().generate(&seeded(1)));
        assert_eq!(password.len(), 20);
        let has = |kind: fn(char) -> bool| password.contains(kind);
        assert!(has(|c| c.is_ascii_lowercase()) && has(|c| c.is_ascii_uppercase()));
        assert!(has(|c| c.is_ascii_digit()) && has(|c| c == '-'));
    }

    /// Of the 65 words of four letters of "abc" that have an `a`, each is as likely as the others.
    #[test]
    fn every_password_is_equally_likely() {
        let policy = r#"length = 4 rule "charset" { charset = "bc" }
            rule "charset" { charset = "a" min-chars = 1 }"#;
        let policy = PasswordPolicy::parse(policy).unwrap();
        let entropy = seeded(7);
        let mut counts = BTreeMap::new();
        for _ in 0..65_000 {
            *counts.entry(text(&policy.generate(&entropy))).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 65);
        // The standard deviation is 31: six of them are out of reach of chance.
        let odd = counts
            .iter()
            .find(|(_, count)| !(810..1190).contains(*count));
        assert_eq!(odd, None);
    }

    #[test]
    fn a_policy_that_drawing_does_not_meet_is_built_for() {
        let policy = format!(
            r#"length = 12 rule "charset" {{ charset = "{}" }}
               rule "charset" {{ charset = "0" min-chars = 9 }}"#,
            ('a'..='z').collect::<String>()
        );
        let policy = PasswordPolicy::parse(&policy).unwrap();
        let password = text(&policy.generate(&seeded(1)));
        assert_eq!(password.len(), 12);
        assert!(password.matches('0').count() >= 9);
        assert!(!password.starts_with("000000000"), "not shuffled");
    }

    prop_compose! {
        fn any_policy()(
            rules in prop::collection::vec(("[a-f]{1,6}", 0..4_usize), 1..4),
            more in 0..20_usize,
        ) -> (usize, String) {
            let needed: usize = rules.iter().map(|(_, min)| min).sum();
            let length = (needed + more).max(4);
            let blocks = rules.iter().map(|(charset, min)| {
                format!("rule \"charset\" {{ charset = \"{charset}\" min-chars = {min} }}\n")
            });
            (length, format!("length = {length}\n{}", blocks.collect::<String>()))
        }
    }

    proptest! {
        #[test]
        fn a_password_satisfies_its_policy((length, policy) in any_policy(), seed: u64) {
            let policy = PasswordPolicy::parse(&policy).unwrap();
            for entropy in [&seeded(seed) as &dyn Entropy, &Zeros] {
                let password: Vec<char> = text(&policy.generate(entropy)).chars().collect();
                prop_assert_eq!(password.len(), length);
                prop_assert!(password.iter().all(|c| policy.charset.contains(c)));
                prop_assert!(policy.rules.iter().all(|rule| rule.passes(&password)));
            }
        }
    }
}
