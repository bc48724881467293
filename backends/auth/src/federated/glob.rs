//! Patterns of names: `*` stands for any run of characters, the empty one included; everything else
//! stands for itself.

/// Whether `text` is one that `pattern` describes. Takes time in proportion to the product of both
/// lengths at worst: there is no backtracking beyond the last star.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit: one byte further into the text.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(expected) if expected == byte => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    p = after_star;
                    t = from + 1;
                    retry = Some((after_star, t));
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

/// Whether a pattern describes every text.
pub(crate) fn is_open(pattern: &str) -> bool {
    !pattern.is_empty() && pattern.bytes().all(|byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_stand_for_anything_and_all_else_for_itself() {
        let cases = [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "a/b", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*c", "abbc", true),
            ("a*c", "abcb", false),
            ("a*b*c", "a-b-b-c", true),
            ("octo-org/*", "octo-org/app", true),
            ("octo-org/*", "octo-org-evil/app", false),
            ("a?c", "abc", false),
            ("[a]", "a", false),
            ("**", "x", true),
            ("refs/heads/*", "refs/heads/ä", true),
        ];
        for (pattern, text, want) in cases {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
        assert!(is_open("*") && is_open("**") && !is_open("*a") && !is_open(""));
    }

    /// The same by the definition, slowly.
    fn defined(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|skip| defined(rest, &text[skip..])),
            Some((byte, rest)) => text.first() == Some(byte) && defined(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(
                matches(&pattern, &text),
                defined(pattern.as_bytes(), text.as_bytes())
            );
        }

        #[test]
        fn a_text_matches_itself_and_every_pattern_made_from_it(
            text in "[^*]{0,20}", at in 0usize..20, length in 0usize..20,
        ) {
            prop_assert!(matches(&text, &text));
            let letters: Vec<char> = text.chars().collect();
            let (at, end) = (at.min(letters.len()), (at + length).min(letters.len()));
            let head: String = letters[..at].iter().collect();
            let tail: String = letters[end.max(at)..].iter().collect();
            let pattern = format!("{head}*{tail}");
            prop_assert!(matches(&pattern, &text), "{} {}", pattern, text);
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "a*".repeat(200) + "b";
        assert!(!matches(&pattern, &"a".repeat(20_000)));
    }
}
