//! No circle of files within a crate: a file never uses another that, directly or indirectly, uses it.
//!
//! What a file uses is read from its text: its `use`s, and paths that begin with `crate` or `super`. A name that a file
//! only re-exports (`pub use`) counts as coming from the file that defines it. Tests are left out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{EDGES, Source, none, root, sources};

/// A module by its path from the root of its crate; that of `lib.rs` is empty.
type Module = Vec<String>;

/// One file of a crate.
struct File {
    /// Its path below `src`, without `.rs`.
    name: String,
    /// What it uses, each with the line.
    uses: Vec<(Module, usize)>,
    /// The names that it brings in, and where they come from.
    names: BTreeMap<String, Module>,
}

/// Which file uses which others, each with the line of the first use.
type Graph = BTreeMap<String, BTreeMap<String, usize>>;

/// The text with comments and literals blanked out byte for byte: only code is left, on its original lines.
fn code(text: &str) -> String {
    let blank = |part: &str| -> String {
        let spaces = part.chars().map(|c| if c == '\n' { '\n' } else { ' ' });
        spaces.collect()
    };
    let mut code = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            'r' if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') => raw_literal(rest),
            '"' => literal(rest, '"'),
            // A character literal; a lifetime has no closing quote after its first letter.
            '\'' if rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'') => literal(rest, '\''),
            _ => 0,
        };
        let (part, tail) = rest.split_at(if skip == 0 { c.len_utf8() } else { skip });
        code.push_str(&if skip == 0 { part.to_owned() } else { blank(part) });
        rest = tail;
    }
    code
}

/// The length of the quoted literal that `text` begins with.
fn literal(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The length of the raw string that `text` begins with; 0 if it begins with none.
fn raw_literal(text: &str) -> usize {
    let marks = text[1..].chars().take_while(|c| *c == '#').count();
    if !text[1 + marks..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(marks));
    let body = 2 + marks;
    text[body..].find(&end).map_or(text.len(), |at| body + at + end.len())
}

/// The paths of a `use`: `a::{b, c::{d}}` has two.
fn expand(tree: &str) -> Vec<String> {
    let Some(open) = tree.find('{') else {
        return vec![tree.trim().to_owned()];
    };
    let (stem, body) = (
        tree[..open].trim(),
        &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())],
    );
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in body.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    let filled = parts.iter().filter(|part| !part.trim().is_empty());
    filled
        .flat_map(|part| expand(part))
        .map(|part| format!("{stem}{part}"))
        .collect()
}

/// A path from the root of the crate, if it stays within the crate.
fn absolute(path: &str, module: &Module, modules: &BTreeSet<Module>) -> Option<Module> {
    let mut parts = path.split("::").map(str::trim).peekable();
    let mut base = match *parts.peek()? {
        "crate" => Module::new(),
        "super" | "self" => module.clone(),
        child => {
            let below: Module = module.iter().cloned().chain([child.to_owned()]).collect();
            if !modules.contains(&below) {
                return None;
            }
            module.clone()
        }
    };
    while let Some(part) = parts.next_if(|part| ["crate", "super", "self"].contains(part)) {
        if part == "super" {
            base.pop();
        }
    }
    base.extend(parts.map(str::to_owned));
    Some(base)
}

/// The `use` that begins on a line, if one does; `None` for those of tests.
fn begins_use<'a>(line: &'a str, before: &str) -> Option<&'a str> {
    let line = line.trim_start();
    let bare = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')').map_or("", |(_, rest)| rest),
        Some(rest) => rest,
        None => line,
    };
    let tree = bare.trim_start().strip_prefix("use ")?;
    (!before.trim_start().starts_with("#[cfg(test)]")).then_some(tree)
}

/// The paths in a line of code that begin with `crate` or `super`.
fn paths(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for begin in ["crate::", "super::"] {
        for (at, _) in line.match_indices(begin) {
            let glued = |c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$';
            if !line[..at].ends_with(glued) {
                let path = line[at..].split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
                found.extend(path.take(1).map(|path| path.trim_end_matches(':').to_owned()));
            }
        }
    }
    found
}

/// What a file uses, and which names it brings in.
fn read(source: &Source, module: &Module, modules: &BTreeSet<Module>) -> File {
    let production: Vec<&str> = source.production().collect();
    let text = code(&production.join("\n"));
    let lines: Vec<&str> = text.lines().collect();
    let (mut uses, mut names) = (Vec::new(), BTreeMap::new());
    let mut at = 0;
    while at < lines.len() {
        let before = at.checked_sub(1).map_or("", |before| lines[before]);
        let Some(tree) = begins_use(lines[at], before) else {
            let found = paths(lines[at])
                .into_iter()
                .filter(|_| !before.contains("#[cfg(test)]"));
            uses.extend(found.filter_map(|path| Some((absolute(&path, module, modules)?, at + 1))));
            at += 1;
            continue;
        };
        let start = at;
        let mut tree = tree.to_owned();
        while !tree.contains(';') && at + 1 < lines.len() {
            at += 1;
            tree.push_str(lines[at]);
        }
        at += 1;
        let handed_on = lines[start].trim_start().starts_with("pub");
        for path in expand(tree.split(';').next().unwrap_or_default()) {
            let (path, name) = path.split_once(" as ").unwrap_or((&path, ""));
            let Some(from) = absolute(path, module, modules) else {
                continue;
            };
            let name = if name.is_empty() {
                from.last().cloned().unwrap_or_default()
            } else {
                name.trim().to_owned()
            };
            if !handed_on {
                uses.push((from.clone(), start + 1));
            }
            names.insert(name, from);
        }
    }
    let name = if module.is_empty() {
        "lib".to_owned()
    } else {
        module.join("/")
    };
    File { name, uses, names }
}

/// The file that defines what a path names, not one that re-exports it.
fn home(path: &Module, files: &BTreeMap<Module, File>, depth: usize) -> Option<Module> {
    let length = (0..=path.len())
        .rev()
        .find(|length| files.contains_key(&path[..*length]))?;
    let (module, rest) = (path[..length].to_vec(), &path[length..]);
    let handed_on = rest.first().and_then(|name| files[&module].names.get(name));
    match handed_on {
        Some(from) if depth < 8 => {
            let path: Module = from.iter().chain(&rest[1..]).cloned().collect();
            home(&path, files, depth + 1)
        }
        _ => Some(module),
    }
}

/// Which files of a crate use which.
fn graph(folder: &str, sources: &[Source]) -> Graph {
    let begin = format!("{folder}/src/");
    let mut texts = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.path.ends_with("tests.rs")) {
        let Some(name) = source
            .path
            .strip_prefix(&begin)
            .and_then(|name| name.strip_suffix(".rs"))
        else {
            continue;
        };
        let module: Module = match name {
            "lib" => Module::new(),
            "main" if root().join(folder).join("src/lib.rs").exists() => continue,
            "main" => Module::new(),
            name => name.split('/').map(str::to_owned).collect(),
        };
        texts.insert(module, source);
    }
    let modules: BTreeSet<Module> = texts.keys().cloned().collect();
    let files: BTreeMap<Module, File> = texts
        .iter()
        .map(|(module, source)| (module.clone(), read(source, module, &modules)))
        .collect();
    let mut graph = Graph::new();
    for (module, file) in &files {
        for (path, line) in &file.uses {
            let Some(used) = home(path, &files, 0).filter(|used| used != module) else {
                continue;
            };
            let edges = graph.entry(file.name.clone()).or_default();
            edges.entry(files[&used].name.clone()).or_insert(*line);
        }
    }
    graph
}

/// The shortest way from one file to another, both included.
fn way(graph: &Graph, from: &str, to: &str) -> Option<Vec<String>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::from([(from, from)]);
    let mut next = VecDeque::from([from]);
    while let Some(file) = next.pop_front() {
        if file == to {
            let mut way = vec![to.to_owned()];
            let mut at = to;
            while at != from {
                at = before[at];
                way.push(at.to_owned());
            }
            way.reverse();
            return Some(way);
        }
        for used in graph.get(file).into_iter().flat_map(BTreeMap::keys) {
            if !before.contains_key(used.as_str()) {
                before.insert(used, file);
                next.push_back(used);
            }
        }
    }
    None
}

/// The uses that are part of a circle, as lines of the list: crate, file, used file.
fn in_circles(folder: &str, graph: &Graph) -> BTreeSet<(String, String, String)> {
    let mut found = BTreeSet::new();
    for (file, used) in graph {
        for used in used.keys().filter(|used| way(graph, used, file).is_some()) {
            found.insert((folder.to_owned(), file.clone(), used.clone()));
        }
    }
    found
}

/// A circle that a use closes, as a path of files with the line of each use.
fn shown(folder: &str, graph: &Graph, file: &str, used: &str) -> String {
    let back = way(graph, used, file).unwrap_or_default();
    let mut text = String::new();
    let mut at = file;
    for next in back.iter().map(String::as_str) {
        text += &format!("{folder}/src/{at}.rs:{} uses\n    ", graph[at][next]);
        at = next;
    }
    text + &format!("{folder}/src/{at}.rs")
}

#[test]
fn no_files_of_a_crate_use_each_other_in_a_circle() {
    let sources = sources();
    let graphs: Vec<(&str, Graph)> = EDGES
        .iter()
        .map(|(folder, _)| (*folder, graph(folder, &sources)))
        .collect();
    assert!(
        graphs.iter().map(|(_, graph)| graph.len()).sum::<usize>() > 100,
        "hardly a file uses another: is the search right?"
    );
    let found: BTreeSet<_> = graphs
        .iter()
        .flat_map(|(folder, graph)| in_circles(folder, graph))
        .collect();
    let mut faults: Vec<String> = Vec::new();
    for (folder, graph) in &graphs {
        let new = found.iter().filter(|(of, _, _)| of == folder);
        let circle = new.map(|(_, file, used)| shown(folder, graph, file, used));
        faults.extend(circle.min_by_key(String::len));
    }

    none(&faults, "files of a crate do not use each other in a circle");
}

#[test]
fn a_circle_is_found_through_groups_and_names_that_are_handed_on() {
    let source = |path: &str, text: &str| Source {
        path: format!("hub/x/src/{path}.rs"),
        text: text.to_owned(),
    };
    let sources = [
        source("lib", "mod a;\nmod b;\nmod c;\npub use b::B;\n"),
        source(
            "a",
            "use crate::{\n    B,\n    c::C,\n};\n// use crate::b\n#[cfg(test)]\nuse crate::lib;\n",
        ),
        source(
            "b",
            "pub struct B;\nfn f(_: &'static str) { let _ = '\"'; super::c::g(\"crate::a\") }\n",
        ),
        source(
            "c",
            "use super::a;\n#[cfg(test)]\nmod tests {\n    use crate::b::B;\n}\n",
        ),
        source("d", "use crate::a::A;\n"),
    ];

    let graph = graph("hub/x", &sources);

    let found = in_circles("hub/x", &graph);
    let edges: Vec<_> = found
        .iter()
        .map(|(_, file, used)| (file.as_str(), used.as_str()))
        .collect();
    assert_eq!(edges, [("a", "b"), ("a", "c"), ("b", "c"), ("c", "a")]);
    let circle = "hub/x/src/b.rs:2 uses\n    hub/x/src/c.rs:1 uses\n    hub/x/src/a.rs:1 uses\n    hub/x/src/b.rs";
    assert_eq!(shown("hub/x", &graph, "b", "c"), circle);
}
