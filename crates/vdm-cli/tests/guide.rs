//! The guide (`docs/guide`): its commands run, and the code that it shows is there. Its Rust snippets run with the documentation
//! of the crate `vdm`.

mod common;

use common::{Run, vdm};
use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

fn guide() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide")
}

/// The chapters that the summary lists, with their texts.
fn chapters() -> Vec<(String, String)> {
    let summary = read_to_string(guide().join("SUMMARY.md")).unwrap();
    let names = summary.lines().filter_map(|line| line.split_once("](")?.1.strip_suffix(')'));
    names.map(|name| (name.to_string(), read_to_string(guide().join(name)).unwrap())).collect()
}

#[test]
fn the_summary_lists_all_chapters() {
    let listed: BTreeSet<String> = chapters().into_iter().map(|(name, _)| name).collect();
    let files = std::fs::read_dir(guide()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let found: BTreeSet<String> = files.filter(|name| name != "SUMMARY.md").collect();
    assert_eq!(listed, found);
    assert_eq!(listed.len(), 10);
}

#[test]
fn every_command_of_the_guide_runs() {
    for (name, text) in chapters() {
        let dir = tempfile::tempdir().unwrap();
        let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        for line in blocks.flat_map(str::lines) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (program, args) = words.split_first().unwrap();
            assert_eq!(*program, "vdm", "{name}: {line}");
            vdm().args(args).current_dir(&dir).succeeds();
        }
    }
}

/// mdBook shows nothing, and says nothing, where an anchor is not there.
#[test]
fn the_code_that_the_guide_shows_is_there() {
    let mut shown = 0;
    for (name, text) in chapters() {
        for include in text.split("{{#include ").skip(1).map(|rest| rest.split("}}").next().unwrap()) {
            let (file, anchor) = include.split_once(':').unwrap();
            let code = read_to_string(guide().join(file)).unwrap();
            let from = code.split(&format!("ANCHOR: {anchor}\n")).nth(1);
            let part = from.and_then(|from| from.split_once(&format!("ANCHOR_END: {anchor}\n")));
            let (part, _) = part.unwrap_or_else(|| panic!("{name}: {include}"));
            assert!(part.lines().count() > 2 && !part.contains("ANCHOR"), "{name}: {include}");
            shown += 1;
        }
    }
    assert!(shown > 10, "{shown}");
}
