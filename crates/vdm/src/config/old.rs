//! Reading the configurations of runs that were made before keys had a version.
//!
//! In version 1 every section had the keys of all its kinds, whether they were used or not.

use toml::{Table, Value};

/// The keys of version 1 that have another name now, with that name.
pub(super) const RENAMED: &[(&str, &str)] = &[("model.network", "model.kind")];

/// A whole configuration of version 1, in the keys of version 2.
pub(super) fn upgrade(mut old: Table) -> Table {
    for (section, upgrade) in [("data", data as fn(&Table) -> Table), ("model", model), ("schedule", schedule)] {
        if let Some(Value::Table(table)) = old.get(section) {
            let table = upgrade(table);
            old.insert(section.into(), Value::Table(table));
        }
    }
    old
}

/// The values of these keys, as far as they are there.
fn pick(old: &Table, keys: &[&str]) -> Table {
    keys.iter().filter_map(|key| Some((key.to_string(), old.get(*key)?.clone()))).collect()
}

fn word<'a>(old: &'a Table, key: &str) -> &'a str {
    old.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn data(old: &Table) -> Table {
    let own: &[&str] = match word(old, "source") {
        "idx" | "cifar10" => &["dir"],
        "imagenet" => &["dir", "size"],
        "folder" => &["dir", "size", "channels", "skip_bad"],
        _ => &[],
    };
    pick(old, &[&["source", "augment"], own].concat())
}

fn model(old: &Table) -> Table {
    let common = ["n_embd", "dropout", "with_attention", "heads", "norm_groups", "classes", "time_normalization"];
    let kind = word(old, "network").to_string();
    let own: &[&str] = match kind.as_str() {
        "unet" => &["chn_mult", "attn_dim", "self_conditioning"],
        _ => &["n_layer", "fourier"],
    };
    let mut new = pick(old, &[&common[..], own].concat());
    if kind == "unet" && word(old, "fourier") != "none" {
        new.insert("n_fourier".into(), Value::Array(vec![Value::Integer(7), Value::Integer(8)]));
    }
    new.insert("kind".into(), Value::String(kind));
    new
}

fn schedule(old: &Table) -> Table {
    let own: &[&str] = match word(old, "kind") {
        "network" | "pinned-network" => &["features"],
        "monotonic" => &["hidden", "activation"],
        _ => &[],
    };
    pick(old, &[&["kind", "gamma_0", "gamma_1", "objective"], own].concat())
}
