//! Patterns of names: `*` stands for any run of characters, everything else for itself.

/// Whether `text` matches `pattern`, in which `*` stands for any run of characters, also none.
///
/// Linear in practice and never worse than the product of the lengths: it backtracks to the last `*` only.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.as_bytes(), text.as_bytes());
    // Where to resume when a literal does not fit: after the last `*`, with one more byte taken by it.
    let mut resume: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), text.split_first()) {
            (Some((b'*', rest)), _) => {
                resume = Some((rest, text));
                pattern = rest;
            }
            (Some((wanted, pattern_rest)), Some((found, text_rest))) if wanted == found => {
                pattern = pattern_rest;
                text = text_rest;
            }
            (None, None) => return true,
            _ => {
                let Some((after_star, from)) = resume else {
                    return false;
                };
                let Some((_, shorter)) = from.split_first() else {
                    return false;
                };
                resume = Some((after_star, shorter));
                pattern = after_star;
                text = shorter;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::glob;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        let cases = [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything/at.all", true),
            ("a*c", "abbbc", true),
            ("a*c", "ac", true),
            ("a*c", "ab", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "example.com", false),
            ("ftp*.example.com", "ftp3.example.com", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("a", "ab", false),
            ("**", "x", true),
            ("octo-org/*", "octo-org/app", true),
            ("octo-org/*", "octo-org-evil/app", false),
            ("a*a", "a", false),
            ("a?c", "abc", false),
            ("[a]", "a", false),
            ("refs/heads/*", "refs/heads/ä", true),
        ];
        for (pattern, text, want) in cases {
            assert_eq!(glob(pattern, text), want, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "a*".repeat(200) + "b";
        assert!(!glob(&pattern, &"a".repeat(20_000)));
    }

    /// The definition, exponential and obvious.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|n| model(rest, &text[n..])),
            Some((byte, rest)) => text.first() == Some(byte) && model(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(glob(&pattern, &text), model(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
