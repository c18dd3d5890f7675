//! The commands of the pages, for the tests that run them: every fenced block of `sh`, with where it is run.
//!
//! The words after `sh` say where:
//!
//! - nothing: against a hub on this machine (`hub/cli/tests/cli/pages.rs`), in the order of the page;
//! - `cluster`: in a cluster (the end-to-end run, `tests/e2e/pages.rs`); one word more, `cluster WHEN`, where not all
//!   blocks of a page are run one after the other;
//! - `skip=WHY`: nowhere, and why not.
//!
//! Anything else is a mistake of the page: an unknown word, an unknown language, a command in a block that is not `sh`.

use std::path::{Path, PathBuf};

/// Languages whose blocks have no commands; without a name it is what a command prints.
const OTHERS: [&str; 13] = [
    "", "json", "js", "pipeline", "promql", "python", "rust", "sql", "text", "toml", "ts", "yaml", "mermaid",
];

/// What commands begin with: a line of another block that does so is hidden from the tests.
const COMMANDS: [&str; 10] = [
    "$ ",
    "alkhub call ",
    "alkhub keys ",
    "alkhub offer ",
    "alkhub publish ",
    "cargo ",
    "curl ",
    "helm ",
    "kubectl ",
    "make ",
];

/// Where a block is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Against a hub on this machine.
    Machine,
    /// In a cluster.
    Cluster,
    /// Nowhere, for this reason.
    Nowhere(String),
}

/// A fenced block of `sh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its page, seen from the repository.
    pub page: PathBuf,
    /// Where it is run.
    pub place: Place,
    /// The word after `cluster`; empty without one.
    pub when: String,
    /// The line of the page after its fence, from 1.
    pub line: usize,
    /// All of it as it stands, without the indentation of its fence: functions and what else a shell reads as a whole.
    pub text: String,
    /// Its commands in order.
    pub commands: Vec<Command>,
}

/// One command as it stands in the page: a line, or several that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The line of the page that it begins on, from 1.
    pub line: usize,
    /// What a shell reads.
    pub text: String,
}

/// Every page of the repository that people read: those at the root, under `docs` and in the charts; sorted.
///
/// # Panics
/// A folder cannot be read.
pub fn pages(repository: &Path) -> Vec<PathBuf> {
    let mut pages = vec![
        PathBuf::from("README.md"),
        "CONTRIBUTING.md".into(),
        "RELEASING.md".into(),
        "SECURITY.md".into(),
        "changelog.d/README.md".into(),
        "tests/cluster/README.md".into(),
    ];
    for folder in [
        "docs",
        "docs/operations",
        "docs/runbook",
        "charts/alkhub",
        "charts/alkhub-crds",
    ] {
        let entries = std::fs::read_dir(repository.join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
        for entry in entries {
            let name = entry.unwrap_or_else(|e| panic!("{folder}: {e}")).file_name();
            if Path::new(&name).extension().is_some_and(|of| of == "md") {
                pages.push(Path::new(folder).join(name));
            }
        }
    }
    pages.sort();
    pages
}

/// The blocks of a page.
///
/// # Errors
/// What is wrong with the page, each with its line.
pub fn blocks(repository: &Path, page: &Path) -> Result<Vec<Block>, Vec<String>> {
    let text = std::fs::read_to_string(repository.join(page)).map_err(|e| vec![format!("{}: {e}", page.display())])?;
    read(page, &text)
}

fn read(page: &Path, text: &str) -> Result<Vec<Block>, Vec<String>> {
    let (mut blocks, mut faults) = (Vec::new(), Vec::new());
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let body: Vec<_> = lines
            .by_ref()
            .take_while(|(_, line)| line.trim() != "```")
            .map(|(at, line)| (at + 1, line))
            .collect();
        let mut fault = |line: usize, what: &str| faults.push(format!("{}:{line}: {what}", page.display()));
        let (language, words) = info.trim().split_once(' ').unwrap_or_else(|| (info.trim(), ""));
        if language != "sh" {
            if !OTHERS.contains(&language) {
                fault(
                    at + 1,
                    &format!("unknown language `{language}` (commands are in blocks of `sh`)"),
                );
            }
            let hidden = body
                .iter()
                .filter(|(_, line)| COMMANDS.iter().any(|begin| line.trim_start().starts_with(begin)));
            hidden.for_each(|(at, _)| fault(*at, "a command in a block that is not `sh` is run by no test"));
            continue;
        }
        let indentation = line.len() - line.trim_start().len();
        let text = |(_, line): &(usize, &str)| format!("{}\n", line.get(indentation..).unwrap_or_default());
        match place(words) {
            Some((place, when)) => blocks.push(Block {
                page: page.to_owned(),
                place,
                when,
                line: at + 2,
                text: body.iter().map(text).collect(),
                commands: commands(&body),
            }),
            None => fault(
                at + 1,
                &format!("`sh {words}`: the words after sh are `cluster`, `cluster WHEN` or `skip=WHY`"),
            ),
        }
    }
    if faults.is_empty() { Ok(blocks) } else { Err(faults) }
}

fn place(words: &str) -> Option<(Place, String)> {
    let when = words.strip_prefix("cluster ").map(str::trim);
    match (words, words.strip_prefix("skip="), when) {
        ("", _, _) => Some((Place::Machine, String::new())),
        ("cluster", _, _) => Some((Place::Cluster, String::new())),
        (_, Some(why), _) if !why.trim().is_empty() => Some((Place::Nowhere(why.trim().to_owned()), String::new())),
        (_, _, Some(when)) if !when.contains(char::is_whitespace) => Some((Place::Cluster, when.to_owned())),
        _ => None,
    }
}

/// Lines that belong together are one command: those after a `\`, a `|`, a `&&` or inside of quotes or a here-document.
fn commands(body: &[(usize, &str)]) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let mut open = false;
    for (line, text) in body {
        if open && let Some(last) = commands.last_mut() {
            last.text.push('\n');
            last.text.push_str(text);
        } else if text.trim().is_empty() || text.trim_start().starts_with('#') {
            continue;
        } else {
            commands.push(Command {
                line: *line,
                text: (*text).to_owned(),
            });
        }
        open = commands.last().is_some_and(|command| is_open(&command.text));
    }
    commands
}

fn is_open(command: &str) -> bool {
    let code = command.trim_end();
    let quotes = code.replace("\\'", "").matches('\'').count();
    let here = code.split_once("<<").map(|(_, rest)| {
        let end = rest
            .lines()
            .next()
            .unwrap_or_default()
            .trim_matches(['-', '\'', '"', ' ']);
        !code.lines().skip(1).any(|line| line.trim() == end)
    });
    code.ends_with(['\\', '|']) || code.ends_with("&&") || quotes % 2 == 1 || here == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Result<Vec<Block>, Vec<String>> {
        read(Path::new("docs/P.md"), text)
    }

    #[test]
    fn a_block_says_where_it_is_run_and_a_command_may_have_several_lines() {
        let text = "
# A page
```sh
alkhub operations    # what there is
# a remark

curl -s \\
  -d 1
cat > f <<'END'
a b
END
alkhub call a.b '{
}'
```
   ```sh cluster later
   kubectl get hubs |
     cat
   ```
```sh skip=builds for minutes
make test
```
```json
{}
```
";
        let blocks = page(text).expect("a good page");

        let places: Vec<_> = blocks.iter().map(|block| &block.place).collect();
        let nowhere = Place::Nowhere("builds for minutes".to_owned());
        assert_eq!(places, [&Place::Machine, &Place::Cluster, &nowhere]);
        let commands: Vec<_> = blocks[0].commands.iter().map(|c| (c.line, c.text.as_str())).collect();
        assert_eq!(
            commands,
            [
                (4, "alkhub operations    # what there is"),
                (7, "curl -s \\\n  -d 1"),
                (9, "cat > f <<'END'\na b\nEND"),
                (12, "alkhub call a.b '{\n}'"),
            ]
        );
        assert_eq!(blocks[1].commands.len(), 1, "{blocks:?}");
        let whole = (blocks[1].when.as_str(), blocks[1].line, blocks[1].text.as_str());
        assert_eq!(whole, ("later", 16, "kubectl get hubs |\n  cat\n"));
    }

    #[test]
    fn an_unknown_word_or_language_and_a_hidden_command_are_named_with_their_line() {
        for (text, says) in [
            ("```sh later\nls\n```\n", "docs/P.md:1: `sh later`"),
            (
                "```sh cluster two words\nls\n```\n",
                "docs/P.md:1: `sh cluster two words`",
            ),
            ("```sh skip=\nls\n```\n", "docs/P.md:1: `sh skip=`"),
            ("\n```console\n$ ls\n```\n", "docs/P.md:2: unknown language `console`"),
            ("```\nkubectl get pods\n```\n", "docs/P.md:2: a command"),
        ] {
            let faults = page(text).expect_err(text);
            assert!(faults.iter().any(|fault| fault.starts_with(says)), "{text}: {faults:?}");
        }
    }
}
