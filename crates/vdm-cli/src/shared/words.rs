//! Words on the command line: choices of the library, under the names that configurations use, and texts about a model.

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};
use std::collections::BTreeMap;

/// The choice of this name; the error lists all choices.
pub fn word<T: DeserializeOwned>(name: &str) -> std::result::Result<T, String> {
    let name: StrDeserializer<'_, Error> = name.into_deserializer();
    T::deserialize(name).map_err(|e| e.to_string())
}

/// What `--about KEY=TEXT` says.
pub fn about(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |text: &String| {
        let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) = pair.with_context(|| format!("--about {text}: expected KEY=TEXT"))?;
        Ok((key.to_string(), value.to_string()))
    };
    texts.iter().map(pair).collect()
}
