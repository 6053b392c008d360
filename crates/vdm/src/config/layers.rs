//! Presets, files and single keys laid over each other, with every key checked by name.

use super::{Config, PRESETS, VERSION, old, preset};
use toml::{Table, Value};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No preset of this name.
    #[error("no preset is called `{name}`{}; `vdm presets` lists them", did_you_mean(nearest))]
    Preset {
        /// The name asked for.
        name: String,
        /// The nearest name that exists.
        nearest: Option<String>,
    },
    /// Not TOML.
    #[error("{place} is not valid TOML: {reason}")]
    Syntax {
        /// The file, or the `--set` argument.
        place: String,
        /// What the parser says.
        reason: String,
    },
    /// A key that does not exist.
    #[error("{place}: unknown key `{key}`{}", did_you_mean(nearest))]
    UnknownKey {
        /// The file, or the `--set` argument.
        place: String,
        /// The key, with its section.
        key: String,
        /// The nearest key that exists.
        nearest: Option<String>,
    },
    /// A value of the wrong type, or a word that is none of the choices.
    #[error("{place}: key `{key}`: {reason}")]
    Type {
        /// The file, or the `--set` argument.
        place: String,
        /// The key, with its section.
        key: String,
        /// What was expected and found.
        reason: String,
    },
    /// A value of the right type that cannot be.
    #[error("key `{key}` = {found} must be {expected}")]
    Value {
        /// The key, with its section.
        key: String,
        /// The value.
        found: String,
        /// The range.
        expected: String,
    },
    /// Values that do not go together in one section, or not with those of other sections.
    #[error("section `{section}`: {reason}")]
    Section {
        /// The section.
        section: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A value that TOML cannot hold.
    #[error("the configuration has no form in TOML: {reason}; give folders names in Unicode")]
    Write {
        /// What is wrong.
        reason: String,
    },
    /// Keys of another version of this program.
    #[error(
        "version = {found}: this program reads configurations of the versions 1 and {VERSION}; use the program that wrote it"
    )]
    Version {
        /// The version found.
        found: String,
    },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or(String::new(), |n| format!(", did you mean `{n}`?"))
}

/// The keys that decide which other keys their section has.
const KINDS: [(&str, &str); 3] = [("data", "source"), ("model", "kind"), ("schedule", "kind")];

/// The configuration that `preset`, then `file` (its name and text), then each `key=value` of `sets` give. Among the
/// sets, those that choose a kind come first.
///
/// # Errors
/// See [`ConfigError`]; the values are checked too ([`Config::validate`]).
pub fn resolve(name: &str, file: Option<(&str, &str)>, sets: &[String]) -> Result<Config, ConfigError> {
    let Some(found) = preset(name) else {
        let nearest = closest(name, PRESETS.iter().map(|p| p.name.to_string()));
        return Err(ConfigError::Preset { name: name.into(), nearest });
    };
    let mut config = found;
    if let Some((place, text)) = file {
        config = overlay(config, parse(place, text)?, place, false)?;
    }
    let mut layers = Vec::with_capacity(sets.len());
    for set in sets {
        let place = format!("--set {set}");
        let Some((key, value)) = set.split_once('=') else {
            return Err(ConfigError::Syntax { place, reason: "expected key=value, e.g. train.lr=1e-3".into() });
        };
        let chooses = KINDS.iter().any(|(section, kind)| key.trim() == format!("{section}.{kind}"));
        layers.push((!chooses, single(key.trim(), value.trim()), place));
    }
    // Stable: otherwise in the order in which they were given.
    layers.sort_by_key(|(later, ..)| *later);
    for (_, table, place) in layers {
        config = overlay(config, table, &place, true)?;
    }
    config.validate()?;
    Ok(config)
}

/// The configuration in the text of a run's `config.toml`, of this version or of version 1; `place` names the file.
///
/// # Errors
/// See [`ConfigError`].
pub fn resolve_run(place: &str, text: &str) -> Result<Config, ConfigError> {
    let table = parse(place, text)?;
    let table = match table.get("version") {
        None => old::upgrade(table),
        Some(Value::Integer(version)) if *version == i64::from(VERSION) => table,
        Some(other) => return Err(ConfigError::Version { found: other.to_string() }),
    };
    let Some(base) = preset("digits") else {
        return Err(ConfigError::Preset { name: "digits".into(), nearest: None });
    };
    // A run's configuration has every key, so it does not matter which preset lies under it.
    let config = overlay(base, table, place, false)?;
    config.validate()?;
    Ok(config)
}

/// The TOML value that a text is, if it is one.
fn parsed(text: &str) -> Option<Value> {
    format!("v = {text}").parse::<Table>().ok()?.remove("v")
}

fn parse(place: &str, text: &str) -> Result<Table, ConfigError> {
    text.parse().map_err(|e: toml::de::Error| ConfigError::Syntax { place: place.into(), reason: e.to_string() })
}

/// `a.b=value` as a table. A quoted value is what stands in the quotes; other values stay text as written, until the type
/// of their key is known.
fn single(key: &str, value: &str) -> Table {
    let mut value = Value::String(match parsed(value) {
        Some(Value::String(quoted)) => quoted,
        _ => value.into(),
    });
    let mut parts: Vec<&str> = key.split('.').collect();
    let first = parts.remove(0);
    for part in parts.into_iter().rev() {
        value = Value::Table(Table::from_iter([(part.to_string(), value)]));
    }
    Table::from_iter([(first.to_string(), value)])
}

/// `config` with the values of `table`, each of which must name a key of `config` and have its type; with `as_text`, all
/// values are text, which is read as what the key's type wants.
fn overlay(config: Config, table: Table, place: &str, as_text: bool) -> Result<Config, ConfigError> {
    let mut base = to_table(&config)?;
    for (section, kind) in KINDS {
        if let Some(chosen) = table.get(section).and_then(|t| t.get(kind)) {
            base = with_kind(base, section, kind, chosen, place)?;
        }
    }
    let mut keys = Vec::new();
    leaves(&base, "", &mut keys);
    let mut changes = Vec::new();
    leaves(&table, "", &mut changes);
    for (key, value) in changes {
        // A section with nothing in it changes nothing.
        let is_section = keys.iter().any(|(k, _)| k.starts_with(&format!("{key}.")));
        if is_section && matches!(&value, Value::Table(t) if t.is_empty()) {
            continue;
        }
        let Some((_, old)) = keys.iter().find(|(k, _)| *k == key) else {
            let renamed = old::RENAMED.iter().find(|(old, _)| *old == key).map(|(_, new)| new.to_string());
            let nearest = renamed.or_else(|| closest(&key, keys.iter().map(|(k, _)| k.clone())));
            return Err(ConfigError::UnknownKey { place: place.into(), key, nearest });
        };
        let value = match (old, value) {
            // A text key takes the text as written, such as the folder 1_000 or 2024-01-01.
            (Value::String(_), value) => value,
            (_, Value::String(text)) if as_text => number(old, parsed(&text).unwrap_or(Value::String(text))),
            (_, value) => number(old, value),
        };
        if std::mem::discriminant(old) != std::mem::discriminant(&value) {
            let reason = format!("expected {}, found {} ({value})", old.type_str(), value.type_str());
            return Err(ConfigError::Type { place: place.into(), key, reason });
        }
        insert(&mut base, &key, value);
        // Words and ranges are checked one key at a time, so that the message can name the key.
        if let Err(e) = Config::deserialize_table(base.clone()) {
            let reason = e.message().to_string();
            return Err(ConfigError::Type { place: place.into(), key, reason });
        }
    }
    Config::deserialize_table(base)
        .map_err(|e| ConfigError::Syntax { place: place.into(), reason: e.message().to_string() })
}

/// The value as `old` has it: a whole number is a number too.
fn number(old: &Value, value: Value) -> Value {
    match (old, value) {
        (Value::Float(_), Value::Integer(i)) => Value::Float(i as f64),
        (_, value) => value,
    }
}

/// `base` with the section's kind changed to `chosen`: keys that both kinds have keep their values, the others get the
/// new kind's defaults.
fn with_kind(mut base: Table, section: &str, kind: &str, chosen: &Value, place: &str) -> Result<Table, ConfigError> {
    let Some(Value::Table(old)) = base.remove(section) else { return Ok(base) };
    if old.get(kind) == Some(chosen) {
        base.insert(section.into(), Value::Table(old));
        return Ok(base);
    }
    let only_kind = Table::from_iter([(kind.to_string(), chosen.clone())]);
    base.insert(section.into(), Value::Table(only_kind));
    let fresh = Config::deserialize_table(base).map_err(|e| {
        let reason = e.message().to_string();
        ConfigError::Type { place: place.into(), key: format!("{section}.{kind}"), reason }
    })?;
    let mut base = to_table(&fresh)?;
    if let Some(Value::Table(new)) = base.get_mut(section) {
        for (key, value) in old.into_iter().filter(|(key, _)| key != kind) {
            if let Some(place) = new.get_mut(&key)
                && std::mem::discriminant(place) == std::mem::discriminant(&value)
            {
                *place = value;
            }
        }
    }
    Ok(base)
}

impl Config {
    fn deserialize_table(table: Table) -> Result<Self, toml::de::Error> {
        Value::Table(table).try_into()
    }

    /// The configuration as TOML text.
    ///
    /// # Errors
    /// [`ConfigError::Write`] if a path is not Unicode.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        Ok(to_table(self)?.to_string())
    }
}

fn to_table(config: &Config) -> Result<Table, ConfigError> {
    // Only numbers, words, paths and sections: all of them have a TOML form, unless a path is not Unicode.
    Table::try_from(config).map_err(|e| ConfigError::Write { reason: e.to_string() })
}

/// Every value of `table` that is no table, with its dotted key.
fn leaves(table: &Table, prefix: &str, out: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) if !inner.is_empty() => leaves(inner, &key, out),
            value => out.push((key, value.clone())),
        }
    }
}

fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        Some((section, rest)) => {
            if let Some(Value::Table(inner)) = table.get_mut(section) {
                insert(inner, rest, value);
            }
        }
        None => {
            table.insert(key.into(), value);
        }
    }
}

/// The candidate most like `word`: by the whole, or by the last part of a dotted key.
fn closest(word: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let last = |s: &str| s.rsplit('.').next().unwrap_or(s).to_string();
    candidates
        .map(|c| {
            let by_whole = strsim::normalized_levenshtein(word, &c);
            let by_last = strsim::normalized_levenshtein(&last(word), &last(&c)) * 0.99;
            (by_whole.max(by_last), c)
        })
        .filter(|(score, _)| *score > 0.4)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataSource;
    use crate::nn::{AnyNetworkConfig, FourierFeatures};
    use crate::schedule::{MonotonicActivation, ScheduleConfig};

    fn error(preset: &str, file: Option<(&str, &str)>, sets: &[&str]) -> String {
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        resolve(preset, file, &sets).unwrap_err().to_string()
    }

    #[test]
    fn later_layers_win() {
        let file = Some(("a.toml", "seed = 3\n[train]\nlr = 1\nsteps = 7"));
        let config = resolve("mnist", file, &["train.steps=9".into(), "data.dir=x y".into()]).unwrap();
        assert_eq!((config.seed, config.train.lr, config.train.steps), (3, 1.0, 9));
        let dir = |config: Config| match config.data.source {
            DataSource::Idx(source) => source.dir,
            other => panic!("{other:?}"),
        };
        assert_eq!(dir(config), std::path::Path::new("x y"));
        // Case 9: "1000", "found datetime", "16".
        for name in ["2024", "1_000", "2024-01-01", "0x10", "true", "[a]", "a=b", "'a b'"] {
            let config = resolve("mnist", Some(("a.toml", "[train]\n[model]")), &[format!("data.dir={name}")]).unwrap();
            assert_eq!(dir(config), std::path::Path::new(name.trim_matches('\'')));
        }
        assert!(error("digits", Some(("a.toml", "[trian]")), &[]).contains("unknown key `trian`"));
    }

    /// Whatever the order in which keys are given.
    #[test]
    fn a_kind_brings_its_keys_and_keeps_the_values_of_common_ones() {
        let sets = ["schedule.hidden=[8]", "schedule.kind=monotonic", "schedule.activation=selu"].map(String::from);
        let schedule = resolve("digits", None, &sets).unwrap().schedule.schedule;
        let ScheduleConfig::Monotonic(config) = schedule else { panic!("{schedule:?}") };
        assert_eq!((config.hidden, config.activation), (vec![8], MonotonicActivation::Selu));
        assert_eq!(config.gamma_0, -8.0, "the preset's, not the kind's default");
        let file = "[schedule]\nfeatures = 9\nkind = \"network\"\n[model]\nkind = \"unet\"\nchn_mult = [1]";
        let config = resolve("digits", Some(("a.toml", file)), &[]).unwrap();
        assert!(matches!(config.schedule.schedule, ScheduleConfig::Network(n) if n.features == 9));
        let message = error("digits", None, &["schedule.hidden=[8]"]);
        assert!(message.contains("unknown key `schedule.hidden`"), "{message}");
        let message = error("digits", None, &["model.network=unet"]);
        assert!(message.contains("did you mean `model.kind`"), "{message}");
        let message = error("digits", None, &["data.source=mnist"]);
        assert!(message.contains("`data.source`") && message.contains("cifar10"), "{message}");
    }

    #[test]
    fn a_run_says_its_version_and_others_are_refused() {
        let config = resolve("digits", None, &[]).unwrap();
        assert_eq!(resolve_run("config.toml", &config.to_toml().unwrap()).unwrap(), config);
        for version in ["3", "\"2\""] {
            let text = config.to_toml().unwrap().replace("version = 2", &format!("version = {version}"));
            let error = resolve_run("config.toml", &text).unwrap_err().to_string();
            assert!(error.contains(&format!("version = {version}")) && error.contains("1 and 2"), "{error}");
        }
    }

    /// What the program wrote before there was a version.
    #[test]
    fn runs_of_version_1_are_read() {
        let old = |network: &str, kind: &str| {
            format!(
                r#"
seed = 3
[data]
augment = true
channels = 1
dir = ""
size = 0
skip_bad = false
source = "digits"
[model]
attn_dim = 16
chn_mult = [1, 2]
classes = 10
dropout = 0.1
fourier = "paper"
heads = 1
n_embd = 16
n_layer = 4
network = "{network}"
norm_groups = 8
self_conditioning = {}
time_normalization = "current"
with_attention = true
[schedule]
activation = "selu"
features = 7
gamma_0 = -8.0
gamma_1 = 5.0
hidden = [5]
kind = "{kind}"
objective = "bound"
[sample]
steps = 9
"#,
                network == "unet"
            )
        };
        let config = resolve_run("config.toml", &old("unet", "monotonic")).unwrap();
        let sets = [
            "seed=3",
            "data.augment=true",
            "model.kind=unet",
            "model.attn_dim=16",
            "model.chn_mult=[1, 2]",
            "model.classes=10",
            "model.n_fourier=[7, 8]",
            "model.n_embd=16",
            "model.self_conditioning=true",
            "model.time_normalization=current",
            "model.with_attention=true",
            "schedule.kind=monotonic",
            "schedule.hidden=[5]",
            "schedule.activation=selu",
            "sample.steps=9",
        ]
        .map(String::from);
        assert_eq!(config, resolve("digits", None, &sets).unwrap());
        let config = resolve_run("config.toml", &old("score", "pinned-network")).unwrap();
        let AnyNetworkConfig::Score(network) = config.model.network else { panic!("{config:?}") };
        assert_eq!((network.n_layer, network.fourier), (4, FourierFeatures::Paper));
        assert!(matches!(config.schedule.schedule, ScheduleConfig::PinnedNetwork(n) if n.features == 7));
    }

    #[test]
    fn every_preset_is_valid_and_survives_its_own_toml() {
        for p in PRESETS {
            let config = resolve(p.name, None, &[]).unwrap();
            let again = resolve("digits", Some(("config.toml", &config.to_toml().unwrap())), &[]).unwrap();
            assert_eq!(config, again);
        }
    }

    #[test]
    fn unknown_names_are_errors_that_name_the_nearest() {
        assert!(error("digit", None, &[]).contains("did you mean `digits`"));
        let message = error("digits", Some(("a.toml", "[train]\nlearning_rate = 1.0")), &[]);
        assert!(message.contains("a.toml") && message.contains("`train.learning_rate`"), "{message}");
        let message = error("digits", None, &["train.stepz=3"]);
        assert!(message.contains("`train.stepz`") && message.contains("did you mean `train.steps`"), "{message}");
        let message = error("digits", None, &["batch_size=3"]);
        assert!(message.contains("batch_size`?"), "{message}");
    }

    /// Normalisation by groups of one channel takes away what was added to the whole channel: a default configuration
    /// of 32 channels in 32 groups once ignored the time and the class altogether.
    #[test]
    fn norm_groups_that_cancel_the_time_are_refused() {
        let message = error("digits", None, &["model.norm_groups=32"]);
        assert!(message.contains("norm_groups must be below n_embd"), "{message}");
        let message = error("digits", None, &["model.kind=unet", "model.norm_groups=32"]);
        assert!(message.contains("norm_groups must be below n_embd"), "{message}");
    }

    #[test]
    fn bad_types_words_and_values_name_the_key() {
        let message = error("digits", None, &["train.steps=many"]);
        assert!(message.contains("`train.steps`") && message.contains("expected integer, found string"), "{message}");
        let message = error("digits", None, &["train.steps=-3"]);
        assert!(message.contains("`train.steps`"), "{message}");
        let message = error("digits", None, &["model.fourier=some"]);
        assert!(message.contains("`model.fourier`") && message.contains("paper"), "{message}");
        let message = error("digits", None, &["train.lr=0.0"]);
        assert!(message.contains("`train.lr`") && message.contains("above 0"), "{message}");
        let message = error("digits", None, &["schedule.gamma_1=-20"]);
        assert!(message.contains("`schedule`: gamma_1 = -20 must be above gamma_0 = -8"), "{message}");
        let message = error("digits", None, &["schedule.kind=monotonic", "schedule.activation=gelu"]);
        assert!(message.contains("`schedule`") && message.contains("elu, relu or selu"), "{message}");
        let message = error("digits", None, &["schedule.kind=monotonic", "schedule.hidden=[8, 0]"]);
        assert!(message.contains("hidden = [8, 0]"), "{message}");
        let message = error("digits", None, &["schedule.objective=variance", "train.timesteps=10"]);
        assert!(message.contains("variance") && message.contains("train.timesteps = 0"), "{message}");
        let message = error("digits", None, &["schedule.objective=variance", "schedule.kind=network"]);
        assert!(message.contains("pinned-network"), "{message}");
        let message = error("digits", None, &["model.n_embd=33"]);
        assert!(message.contains("n_embd = 33") && message.contains("norm_groups = 8"), "{message}");
        let message = error("digits", None, &["model.self_conditioning=true"]);
        assert!(message.contains("unknown key `model.self_conditioning`"), "{message}");
        let message = error("imagenet32", None, &["data.size=33"]);
        assert!(message.contains("`data`") && message.contains("8, 16, 32 or 64"), "{message}");
        let message = error("digits", None, &["model.kind=unet", "model.chn_mult=[]"]);
        assert!(message.contains("chn_mult"), "{message}");
        assert!(error("digits", Some(("a.toml", "x = [")), &[]).contains("a.toml is not valid TOML"));
        assert!(error("digits", None, &["train.lr"]).contains("expected key=value"));
        assert!(error("digits", None, &["train=3"]).contains("train"));
    }

    /// An empty file was written.
    #[cfg(unix)]
    #[test]
    fn a_path_that_is_not_unicode_is_an_error() {
        use crate::data::Source;
        use std::os::unix::ffi::OsStrExt;
        let mut config = resolve("mnist", None, &[]).unwrap();
        *config.data.source.dir_mut().unwrap() = std::ffi::OsStr::from_bytes(b"a\xff").into();
        assert!(config.to_toml().unwrap_err().to_string().contains("Unicode"));
    }
}
