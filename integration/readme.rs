//! The README's session, run as it stands: each command in the fenced blocks marked `replay: session`,
//! in one shell, against `daypass dev`. What it prints must be what the README shows, but for what differs
//! from run to run: times, ports, identifiers, random text.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use crate::{PATIENCE, database, tools};

const MARK: &str = "<!-- replay: session -->";
const BETWEEN: &str = "--- next command ---";

/// A command of the README and what it is said to print.
struct Step {
    command: String,
    output: Vec<String>,
}

#[test]
fn the_session_in_the_readme_runs_as_it_stands() {
    if tools::skipped(&["postgresql"]) {
        return;
    }
    let steps = steps(&fs::read_to_string(tools::root("README.md")).unwrap());
    assert!(
        steps.len() >= 5,
        "the README shows too little: {}",
        steps.len()
    );

    let postgres = database::postgres();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let program = Path::new(env!("CARGO_BIN_EXE_daypass"));
    let dev = Command::new(program)
        .args(["dev", "--root-token", "dev-root", "--listen", "127.0.0.1:0"])
        .args(["--postgres", &postgres.url(), "--data"])
        .arg(&data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut dev = tools::Killed(dev);
    let (told, tells) = mpsc::sync_channel(1);
    let lines = BufReader::new(dev.0.stdout.take().unwrap()).lines();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if let Some(address) = line.trim().strip_prefix("address") {
                told.send(address.trim().to_owned()).unwrap();
            }
        }
    });
    let address = tells.recv_timeout(PATIENCE).expect("the server listens");

    let mut script = b"exec 2>&1\n".to_vec();
    for step in &steps {
        let command = step.command.replace("http://127.0.0.1:8200", &address);
        writeln!(script, "{command}\nprintf '\\n%s\\n' '{BETWEEN}'").unwrap();
    }
    let path = format!(
        "{}:{}",
        program.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let mut shell = Command::new("bash")
        .current_dir(folder.path())
        .env("PATH", path)
        .env("DATA", &data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    input.write_all(&script).unwrap();
    drop(input);
    let printed = shell.wait_with_output().unwrap();
    drop(dev);
    reader.join().unwrap();

    let printed = String::from_utf8(printed.stdout).unwrap();
    let mut parts = printed.split(BETWEEN);
    for Step { command, output } in &steps {
        let printed = parts.next().unwrap();
        let lines = |lines: &mut dyn Iterator<Item = &str>| -> Vec<String> {
            lines.map(mask).filter(|line| !line.is_empty()).collect()
        };
        assert_eq!(
            lines(&mut printed.lines()),
            lines(&mut output.iter().map(String::as_str)),
            "$ {command}\n{printed}"
        );
    }
}

/// The marked blocks' commands, in order.
fn steps(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in readme.split(MARK).skip(1) {
        let block = block.trim_start().strip_prefix("```console\n");
        let block = block.expect("a console block after the mark");
        let (block, _) = block.split_once("\n```").expect("the block ends");
        for line in block.lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step {
                    command: command.to_owned(),
                    output: Vec::new(),
                }),
                (None, Some(step)) => step.output.push(line.to_owned()),
                (None, None) => panic!("output without a command: {line}"),
            }
        }
    }
    steps
}

/// The line with everything replaced that differs from run to run: words that hold a digit and are longer
/// than a status or a size, and how far a column is indented.
fn mask(line: &str) -> String {
    let mut masked = String::new();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:+=".contains(c);
    for word in line.split_inclusive(|c: char| !plain(c)) {
        let bare = word.trim_end_matches(|c: char| !plain(c));
        let volatile = bare.len() > 8 && bare.chars().any(|c| c.is_ascii_digit());
        let rule = !bare.is_empty() && bare.chars().all(|c| c == '-');
        let shown = match (volatile, rule) {
            (true, _) => "…",
            (_, true) => "-",
            _ => bare,
        };
        masked.push_str(shown);
        masked.push_str(word[bare.len()..].trim_end_matches(' '));
        if word.ends_with(' ') && !masked.ends_with(' ') {
            masked.push(' ');
        }
    }
    masked.trim_end().to_owned()
}
