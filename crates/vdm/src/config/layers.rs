//! Presets, files and single keys laid over each other, with every key checked by name.

use super::{Config, PRESETS, preset};
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
    /// Values that do not go together in the section `schedule`, or not with those of other sections.
    #[error("section `schedule`: {reason}")]
    Schedule {
        /// What is wrong.
        reason: String,
    },
    /// Values that do not go together in the section `model`.
    #[error("section `model`: {reason}")]
    Model {
        /// What is wrong.
        reason: String,
    },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or(String::new(), |n| format!(", did you mean `{n}`?"))
}

/// The configuration that `preset`, then `file` (its name and text), then each `key=value` of `sets` give.
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
        let table: Table = text
            .parse()
            .map_err(|e: toml::de::Error| ConfigError::Syntax { place: place.into(), reason: e.to_string() })?;
        config = overlay(config, table, place)?;
    }
    for set in sets {
        let place = format!("--set {set}");
        let Some((key, value)) = set.split_once('=') else {
            return Err(ConfigError::Syntax { place, reason: "expected key=value, e.g. train.lr=1e-3".into() });
        };
        config = overlay(config, single(key.trim(), value.trim()), &place)?;
    }
    config.validate()?;
    Ok(config)
}

/// `a.b=value` as a table; a value that is not TOML is taken as a string.
fn single(key: &str, value: &str) -> Table {
    let parsed = format!("v = {value}").parse::<Table>().ok().and_then(|mut t| t.remove("v"));
    let mut value = parsed.unwrap_or_else(|| Value::String(value.into()));
    let mut parts: Vec<&str> = key.split('.').collect();
    let first = parts.remove(0);
    for part in parts.into_iter().rev() {
        value = Value::Table(Table::from_iter([(part.to_string(), value)]));
    }
    Table::from_iter([(first.to_string(), value)])
}

/// `config` with the values of `table`, each of which must name a key of `config` and have its type.
fn overlay(config: Config, table: Table, place: &str) -> Result<Config, ConfigError> {
    let mut base = to_table(&config);
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
            let nearest = closest(&key, keys.iter().map(|(k, _)| k.clone()));
            return Err(ConfigError::UnknownKey { place: place.into(), key, nearest });
        };
        let value = match (old, value) {
            // A whole number is a number too; a number may be meant as a folder's name.
            (Value::Float(_), Value::Integer(i)) => Value::Float(i as f64),
            (Value::String(_), Value::Integer(i)) => Value::String(i.to_string()),
            (_, value) => value,
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

impl Config {
    fn deserialize_table(table: Table) -> Result<Self, toml::de::Error> {
        Value::Table(table).try_into()
    }

    /// The configuration as TOML text.
    pub fn to_toml(&self) -> String {
        to_table(self).to_string()
    }
}

fn to_table(config: &Config) -> Table {
    // Only numbers, words, paths and sections: all of them have a TOML form, unless a path is not Unicode.
    Table::try_from(config).unwrap_or_default()
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
    use crate::schedule::MonotonicActivation;

    fn error(preset: &str, file: Option<(&str, &str)>, sets: &[&str]) -> String {
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        resolve(preset, file, &sets).unwrap_err().to_string()
    }

    #[test]
    fn later_layers_win() {
        let file = Some(("a.toml", "seed = 3\n[train]\nlr = 1\nsteps = 7"));
        let config = resolve("digits", file, &["train.steps=9".into(), "data.dir=x y".into()]).unwrap();
        assert_eq!((config.seed, config.train.lr, config.train.steps), (3, 1.0, 9));
        assert_eq!(config.data.dir, std::path::Path::new("x y"));
        let config = resolve("digits", Some(("a.toml", "[train]\n[model]")), &["data.dir=2024".into()]).unwrap();
        assert_eq!(config.data.dir, std::path::Path::new("2024"));
        assert!(error("digits", Some(("a.toml", "[trian]")), &[]).contains("unknown key `trian`"));
        let sets = ["schedule.kind=monotonic", "schedule.hidden=[8]", "schedule.activation=selu"].map(String::from);
        let schedule = resolve("digits", None, &sets).unwrap().schedule;
        assert_eq!(schedule.hidden, [8]);
        assert_eq!(schedule.activation, MonotonicActivation::Selu);
    }

    #[test]
    fn every_preset_is_valid_and_survives_its_own_toml() {
        for p in PRESETS {
            let config = resolve(p.name, None, &[]).unwrap();
            let again = resolve("digits", Some(("config.toml", &config.to_toml())), &[]).unwrap();
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
        let message = error("digits", None, &["model.network=unet", "model.norm_groups=32"]);
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
        assert!(message.contains("schedule.gamma_1") && message.contains("above schedule.gamma_0"), "{message}");
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
        assert!(message.contains("unet"), "{message}");
        let message = error("digits", None, &["model.network=unet", "model.fourier=port"]);
        assert!(message.contains("fourier"), "{message}");
        let message = error("digits", None, &["model.network=unet", "model.chn_mult=[]"]);
        assert!(message.contains("chn_mult"), "{message}");
        assert!(error("digits", Some(("a.toml", "x = [")), &[]).contains("a.toml is not valid TOML"));
        assert!(error("digits", None, &["train.lr"]).contains("expected key=value"));
        assert!(error("digits", None, &["train=3"]).contains("train"));
    }
}
