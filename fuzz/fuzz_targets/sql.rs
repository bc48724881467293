//! SQL that operators write: no value that a placeholder stands for ends the quotation it is put into.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "only a part of the module is used here")]
#[path = "../../backends/database/src/statements.rs"]
mod statements;

use statements::{Statements, Values, Variable, unpack};

const ALL: [Variable; 3] = [Variable::Name, Variable::Password, Variable::Expiration];
const PLAIN: &str = "plain";
const NASTY: &str = r#"x'"\';$$;$q$;--/*"#;

fuzz_target!(|text: &str| {
    drop(unpack(vec![text.to_owned()]));
    let Ok(parsed) = Statements::parse("creation_statements", &[text.to_owned()], &ALL) else {
        return;
    };
    let counts = [PLAIN, NASTY].map(|value| {
        let values = Values {
            name: value,
            password: value,
            expiration: value,
        };
        // Read again, what was rendered is as many statements as before. Braces that stay, or that come to
        // stand beside each other, are text by now.
        let sql = parsed.render(&values).ok()?.replace("{{", "((");
        let again = Statements::parse("creation_statements", &[sql.clone()], &ALL)
            .unwrap_or_else(|error| panic!("{error}: {sql}"));
        let again = again
            .render(&values)
            .unwrap_or_else(|error| panic!("{error}: {sql}"));
        Some(again.matches("\n;\n").count())
    });
    // Where no quoting would be right, rendering refuses.
    if let [Some(plain), Some(nasty)] = counts {
        assert_eq!(plain, nasty, "{text}");
    }
});
