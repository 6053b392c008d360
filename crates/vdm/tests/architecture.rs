//! Keeps what ARCHITECTURE.md says about who may know whom: no circle of files in any crate, and in `vdm` arrows between
//! folders in one direction only.
//!
//! An arrow goes from a file to the file where what it names is defined, also if the name is re-exported on the way; a
//! re-export itself is no arrow, and what tests name does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The folders and files of `vdm`, as in ARCHITECTURE.md: each may know those of the rows above it, and itself.
const ROWS: &[&[&str]] = &[
    &["files", "math", "parts", "progress", "shape", "stats", "weights"],
    &["random"],
    &["initial"],
    &["schedule"],
    &["nn", "picture"],
    &["diffusion"],
    &["data", "flow"],
    &["edit", "likelihood", "sample"],
    &["codec", "config"],
    &["run"],
    &["train"],
];

/// A module path inside a crate.
type Module = Vec<String>;

/// The modules of a crate, and what each file says.
struct Source {
    files: BTreeMap<Module, String>,
    /// What a module re-exports under a name, as a path from the crate's root.
    aliases: BTreeMap<(Module, String), Module>,
}

/// A path as written: the words before the braces, and where it starts.
struct Mention {
    path: Vec<String>,
    re_export: bool,
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(folder: &Path, module: &[String], files: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        if path.is_dir() {
            read(&path, &[module, &[name]].concat(), files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let own = match name.as_str() {
                "lib" | "main" | "mod" => module.to_vec(),
                _ => [module, &[name]].concat(),
            };
            files.insert(own, without_tests_and_comments(&fs::read_to_string(&path).unwrap()));
        }
    }
}

fn without_tests_and_comments(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let text = text.split("#[cfg(test)]\npub(super) mod ").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Words, `::`, and single characters.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_alphanumeric() || c == '_' {
            let mut word = c.to_string();
            while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                word.push(c);
            }
            tokens.push(word);
        } else if c == ':' && chars.next_if_eq(&':').is_some() {
            tokens.push("::".into());
        } else if !c.is_whitespace() {
            tokens.push(c.into());
        }
    }
    tokens
}

/// Reads a path, or a tree of paths in braces, from `at` on; appends every path to `out`.
fn tree(tokens: &[String], mut at: usize, prefix: &[String], out: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|t| t != "}") {
                    at = tree(tokens, at, &path, out);
                    if tokens.get(at).is_some_and(|t| t == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            Some(word) => path.push(word.to_string()),
            None => break,
        }
        at += 1;
        if tokens.get(at).is_none_or(|t| t != "::") {
            break;
        }
        at += 1;
    }
    out.push(path);
    // A renaming: `as name`.
    if tokens.get(at).is_some_and(|t| t == "as") { at + 2 } else { at }
}

impl Source {
    fn of(folder: &Path) -> Self {
        let mut source = Self { files: BTreeMap::new(), aliases: BTreeMap::new() };
        read(folder, &[], &mut source.files);
        for module in source.files.keys().cloned().collect::<Vec<_>>() {
            for mention in source.mentions(&module).into_iter().filter(|m| m.re_export) {
                if let Some(name) = mention.path.last() {
                    source.aliases.insert((module.clone(), name.clone()), mention.path.clone());
                }
            }
        }
        source
    }

    /// Every path of the file that leads into this crate, from its root.
    fn mentions(&self, module: &Module) -> Vec<Mention> {
        let words = tokens(&self.files[module]);
        let is_child =
            |word: &String| self.files.contains_key(&[module.as_slice(), std::slice::from_ref(word)].concat());
        let mut found = Vec::new();
        let mut at = 0;
        while at < words.len() {
            let starts = matches!(words[at].as_str(), "crate" | "super" | "self") || is_child(&words[at]);
            let alone = at == 0 || !matches!(words[at - 1].as_str(), "::" | "." | "mod" | "in");
            if !(starts && alone && words.get(at + 1).is_some_and(|t| t == "::")) {
                at += 1;
                continue;
            }
            let mut paths = Vec::new();
            let end = tree(&words, at, &[], &mut paths);
            let before = words[..at].iter().rev().take(5).map(String::as_str).collect::<Vec<_>>();
            let re_export =
                before.first() == Some(&"use") && (before.get(1) == Some(&"pub") || before.get(1) == Some(&")"));
            for path in paths {
                let path = self.absolute(module, &path);
                found.push(Mention { path, re_export });
            }
            at = end.max(at + 1);
        }
        found
    }

    fn absolute(&self, module: &Module, path: &[String]) -> Module {
        let mut root = module.clone();
        let mut rest = path;
        loop {
            match rest.first().map(String::as_str) {
                Some("crate") => root.clear(),
                Some("self") => {}
                Some("super") => drop(root.pop()),
                _ => return [root.as_slice(), rest].concat(),
            }
            rest = &rest[1..];
        }
    }

    /// The module in whose file the thing at `path` is defined.
    fn home(&self, path: &[String]) -> Module {
        let mut module: Module = Vec::new();
        for (i, word) in path.iter().enumerate() {
            let child = [module.as_slice(), std::slice::from_ref(word)].concat();
            if self.files.contains_key(&child) {
                module = child;
            } else if let Some(target) = self.aliases.get(&(module.clone(), word.clone())) {
                return self.home(&[target.as_slice(), &path[i + 1..]].concat());
            } else {
                break;
            }
        }
        module
    }

    fn arrows(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let of = |module: &Module| {
            let mentions = self.mentions(module).into_iter().filter(|m| !m.re_export);
            mentions.map(|m| self.home(&m.path)).filter(|home| home != module).collect()
        };
        self.files.keys().map(|module| (module.clone(), of(module))).collect()
    }
}

/// A circle of arrows, if there is one.
fn circle(arrows: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<Module>> {
    fn visit(
        at: &Module,
        arrows: &BTreeMap<Module, BTreeSet<Module>>,
        way: &mut Vec<Module>,
        done: &mut BTreeSet<Module>,
    ) -> bool {
        if let Some(start) = way.iter().position(|m| m == at) {
            way.drain(..start);
            return true;
        }
        if !done.insert(at.clone()) {
            return false;
        }
        way.push(at.clone());
        if arrows[at].iter().any(|next| visit(next, arrows, way, done)) {
            return true;
        }
        way.pop();
        false
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    arrows.keys().any(|at| visit(at, arrows, &mut way, &mut done)).then_some(way)
}

fn name(module: &Module) -> String {
    if module.is_empty() { "(root)".into() } else { module.join("/") }
}

#[test]
fn no_circle_of_files() {
    for crate_name in ["vdm", "vdm-cli", "vdm-kernels"] {
        let arrows = Source::of(&workspace().join("crates").join(crate_name).join("src")).arrows();
        assert!(arrows.values().map(BTreeSet::len).sum::<usize>() > arrows.len(), "{crate_name}: hardly any arrows");
        let circle = circle(&arrows).map(|way| way.iter().map(name).collect::<Vec<_>>().join(" -> "));
        assert_eq!(circle, None, "{crate_name}: files that know each other in a circle");
    }
}

#[test]
fn folders_know_only_those_of_the_rows_above() {
    let row = |folder: &str| ROWS.iter().position(|row| row.contains(&folder));
    let arrows = Source::of(&workspace().join("crates/vdm/src")).arrows();
    for (from, targets) in arrows.iter().filter(|(from, _)| !from.is_empty()) {
        let own = row(&from[0]).unwrap_or_else(|| panic!("{} has no row", from[0]));
        for to in targets.iter().filter(|to| to.first() != from.first()) {
            let below = to.first().and_then(|to| row(to)).is_some_and(|other| other < own);
            assert!(below, "{} must not know {}", name(from), name(to));
        }
    }
}

#[test]
fn a_circle_is_found_through_a_re_export() {
    let file =
        |module: &[&str], text: &str| (module.iter().map(|s| s.to_string()).collect::<Module>(), text.to_string());
    let source = |a: &str| {
        let files = [
            file(&[], "mod a; mod b;"),
            file(&["a"], a),
            file(&["b"], "pub use c::Thing;"),
            file(&["b", "c"], "use crate::a::f;"),
        ];
        let mut source = Source { files: BTreeMap::from(files), aliases: BTreeMap::new() };
        let path = ["b", "c", "Thing"].map(String::from).to_vec();
        source.aliases.insert((vec!["b".into()], "Thing".into()), path);
        source
    };
    assert_eq!(circle(&source("use crate::x;").arrows()), None);
    let found = circle(&source("fn f(_: crate::b::{Thing}) {}").arrows()).unwrap();
    assert_eq!(found.iter().map(name).collect::<BTreeSet<_>>(), BTreeSet::from(["a".into(), "b/c".into()]));
}
