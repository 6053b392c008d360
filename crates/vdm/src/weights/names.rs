//! Maps from the names and layouts of other programs' parameters to ours.
//!
//! A map is a TOML file with a list of rules, which are applied to every tensor one after another, as `sed` does: where `from`, a
//! regular expression, matches the name that the rules before have left, the match becomes `to`, in which `$1`, or `${1}` before a
//! letter, a digit or `_`, is what the first pair of parentheses matched; and the tensor is changed as the rule's other keys say. A user's own map can begin as a copy
//! of one of those in `crates/vdm/src/weights/maps`.
//!
//! ```
//! use vdm::weights::{HostTensor, NameMap, Weights};
//!
//! let map = NameMap::parse(r"
//!     [[rule]]
//!     from = '^layers\.(\d+)\.kernel$'
//!     to = 'dense$1.weight'
//!     axes = [1, 0]
//! ")?;
//! let tensor = HostTensor { shape: vec![2, 1], data: vec![1.0, 2.0] };
//! let ours = map.apply(&Weights::from([("layers.0.kernel".into(), tensor)]))?;
//! assert_eq!(ours["dense0.weight"].shape, [1, 2]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::{HostTensor, Weights};
use regex_lite::Regex;
use serde::Deserialize;

/// The maps that are built in, by name.
const MAPS: [(&str, &str); 3] = [
    ("official", include_str!("maps/official.toml")),
    ("port", include_str!("maps/port.toml")),
    ("unet", include_str!("maps/unet.toml")),
];
/// What a split tensor's part is called in `to`.
const PART: &str = "{part}";

/// A map of names and layouts.
#[derive(Clone, Debug)]
pub struct NameMap {
    about: String,
    set: Vec<String>,
    rules: Vec<Rule>,
}

/// Why there is no map, or why it cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameMapError {
    /// The text is no map.
    #[error("the map of names is wrong: {reason}")]
    Text {
        /// What is wrong, and where.
        reason: String,
    },
    /// A rule cannot be applied to a tensor.
    #[error("rule {rule} of the map (`{from}`) cannot be applied to `{name}` of shape {shape:?}: {reason}")]
    Tensor {
        /// The rule, from 1.
        rule: usize,
        /// Its expression.
        from: String,
        /// The tensor's name in the file.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// What does not fit.
        reason: String,
    },
    /// Two tensors become one.
    #[error("`{name}` gets the name `{ours}`, which another tensor has already; make the map's rules tell them apart")]
    Twice {
        /// The later tensor.
        name: String,
        /// The name.
        ours: String,
    },
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MapFile {
    #[serde(default)]
    about: String,
    #[serde(default)]
    set: Vec<String>,
    rule: Vec<RuleText>,
}

/// One rule as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    /// Where the rule applies: a regular expression.
    from: String,
    /// What its match becomes.
    to: String,
    /// Only to tensors of this rank.
    if_rank: Option<usize>,
    /// Only to tensors of layers whose `weight` has this rank.
    if_rank_of_weight: Option<usize>,
    /// The axes of the tensor in their new order.
    axes: Option<Vec<usize>>,
    /// The rank that it has afterwards: ones are appended or taken away at the end; 1 makes a vector of any tensor.
    rank: Option<usize>,
    /// It is cut along its first axis into parts of these names, which stand for `{part}` in `to`.
    split: Option<Vec<String>>,
}

#[derive(Clone, Debug)]
struct Rule {
    text: RuleText,
    from: Regex,
}

impl NameMap {
    /// The built-in map of this name: `official`, `port` or `unet`.
    pub fn named(name: &str) -> Option<Self> {
        let (_, text) = MAPS.iter().find(|(own, _)| *own == name)?;
        Some(Self::parse(text).expect("a test parses all of them"))
    }

    /// The names of the built-in maps, and what each is for.
    pub fn all() -> impl Iterator<Item = (&'static str, String)> {
        MAPS.iter().filter_map(|(name, _)| Some((*name, Self::named(name)?.about)))
    }

    /// Reads a map.
    ///
    /// # Errors
    /// [`NameMapError::Text`].
    pub fn parse(text: &str) -> Result<Self, NameMapError> {
        let file: MapFile = toml::from_str(text).map_err(|e| NameMapError::Text { reason: e.to_string() })?;
        let rule = |(number, text): (usize, RuleText)| {
            let wrong = |reason: String| NameMapError::Text { reason: format!("rule {}: {reason}", number + 1) };
            let from = Regex::new(&text.from).map_err(|e| wrong(format!("from = '{}': {e}", text.from)))?;
            if text.split.is_some() != text.to.contains(PART) {
                return Err(wrong(format!("{PART} belongs into `to` where there is `split`, and only there")));
            }
            if let Some(unknown) = references(&text.to).find(|name| !has_group(&from, name)) {
                return Err(wrong(format!(
                    "to = '{}' names the group ${{{unknown}}}, which from = '{}' has not; write ${{1}} before a letter, a digit or _",
                    text.to, text.from
                )));
            }
            if text.split.as_ref().is_some_and(Vec::is_empty) {
                return Err(wrong("split = [] names no part".into()));
            }
            Ok(Rule { text, from })
        };
        let rules = file.rule.into_iter().enumerate().map(rule).collect::<Result<_, _>>()?;
        Ok(Self { about: file.about, set: file.set, rules })
    }

    /// What the map is for.
    pub fn about(&self) -> &str {
        &self.about
    }

    /// Keys of a configuration that such weights need, as `section.key=value`.
    pub fn set(&self) -> &[String] {
        &self.set
    }

    /// The tensors under our names, in our layouts. A name that no rule matches stays as it is.
    ///
    /// # Errors
    /// [`NameMapError::Tensor`] and [`NameMapError::Twice`].
    pub fn apply(&self, weights: &Weights) -> Result<Weights, NameMapError> {
        let mut ours = Weights::new();
        for (name, tensor) in weights {
            let mut all = vec![(name.clone(), tensor.clone())];
            for (number, rule) in self.rules.iter().enumerate() {
                let mut changed = Vec::with_capacity(all.len());
                for (now, tensor) in all {
                    if !rule.applies(&now, name, &tensor, weights) {
                        changed.push((now, tensor));
                        continue;
                    }
                    let shape = tensor.shape.clone();
                    let found = rule.apply(&now, tensor).map_err(|reason| NameMapError::Tensor {
                        rule: number + 1,
                        from: rule.text.from.clone(),
                        name: name.clone(),
                        shape,
                        reason,
                    })?;
                    changed.extend(found);
                }
                all = changed;
            }
            for (own, tensor) in all {
                if ours.insert(own.clone(), tensor).is_some() {
                    return Err(NameMapError::Twice { name: name.clone(), ours: own });
                }
            }
        }
        Ok(ours)
    }
}

impl Rule {
    /// Whether the rule is for the tensor that the file calls `name`, and the rules before `now`.
    fn applies(&self, now: &str, name: &str, tensor: &HostTensor, all: &Weights) -> bool {
        let rank_of_weight = || {
            let layer = &name[..name.rfind(['.', '/']).map_or(0, |at| at + 1)];
            all.get(&format!("{layer}weight")).map(|weight| weight.shape.len())
        };
        self.from.is_match(now)
            && self.text.if_rank.is_none_or(|rank| rank == tensor.shape.len())
            && self.text.if_rank_of_weight.is_none_or(|rank| rank_of_weight() == Some(rank))
    }

    fn apply(&self, name: &str, tensor: HostTensor) -> Result<Vec<(String, HostTensor)>, String> {
        // A file may claim sides of any size beside one of 0.
        if tensor.data.is_empty() {
            return Err("it holds no number".into());
        }
        let name = self.from.replace(name, self.text.to.as_str()).into_owned();
        let mut tensor = match &self.text.axes {
            Some(axes) => permuted(&tensor, axes)?,
            None => tensor,
        };
        if let Some(rank) = self.text.rank {
            tensor.shape = of_rank(&tensor.shape, rank)?;
        }
        let Some(parts) = &self.text.split else { return Ok(vec![(name, tensor)]) };
        let rows = tensor.shape.first().copied().unwrap_or(0);
        if rows == 0 || rows % parts.len() != 0 {
            return Err(format!("its first side is not a multiple of {}", parts.len()));
        }
        let mut shape = tensor.shape.clone();
        shape[0] = rows / parts.len();
        let numbers = tensor.data.chunks(tensor.data.len().div_ceil(parts.len()).max(1));
        let part = |(part, data): (&String, &[f32])| {
            (name.replace(PART, part), HostTensor { shape: shape.clone(), data: data.to_vec() })
        };
        Ok(parts.iter().zip(numbers).map(part).collect())
    }
}

/// The groups that a replacement names, as the library reads them: `$name` and `${name}`; `$$` is a dollar.
fn references(to: &str) -> impl Iterator<Item = &str> {
    let mut rest = to;
    std::iter::from_fn(move || {
        loop {
            let (_, after) = rest.split_once('$')?;
            if let Some(after) = after.strip_prefix('$') {
                rest = after;
                continue;
            }
            if let Some((name, after)) = after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
                rest = after;
                return Some(name);
            }
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            let (name, after) = after.split_at(end);
            rest = after;
            if !name.is_empty() {
                return Some(name);
            }
        }
    })
}

fn has_group(from: &Regex, name: &str) -> bool {
    match name.parse::<usize>() {
        Ok(number) => number < from.captures_len(),
        Err(_) => from.capture_names().flatten().any(|own| own == name),
    }
}

/// The shape with ones appended, or taken away at the end, up to `rank` sides; a vector of all numbers for rank 1.
fn of_rank(shape: &[usize], rank: usize) -> Result<Vec<usize>, String> {
    if rank == 1 {
        return Ok(vec![shape.iter().product()]);
    }
    let (kept, rest) = shape.split_at(rank.min(shape.len()));
    if rank == 0 || rank > 8 || rest.iter().any(|&side| side != 1) {
        return Err(format!("it cannot have {rank} sides"));
    }
    Ok(kept.iter().copied().chain(std::iter::repeat(1)).take(rank).collect())
}

/// The tensor with its axes in another order: axis i is axis `axes[i]` of before.
fn permuted(tensor: &HostTensor, axes: &[usize]) -> Result<HostTensor, String> {
    let rank = tensor.shape.len();
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..rank) {
        return Err(format!("axes = {axes:?} is no order of its {rank} axes"));
    }
    let mut strides = vec![1; rank];
    for axis in (1..rank).rev() {
        strides[axis - 1] = strides[axis] * tensor.shape[axis];
    }
    let shape: Vec<usize> = axes.iter().map(|&axis| tensor.shape[axis]).collect();
    let from = |mut index: usize| {
        let mut at = 0;
        for (side, &axis) in shape.iter().zip(axes).rev() {
            at += index % side * strides[axis];
            index /= side;
        }
        tensor.data[at]
    };
    let data = (0..tensor.data.len()).map(from).collect();
    Ok(HostTensor { shape, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tensor(shape: &[usize]) -> HostTensor {
        HostTensor { shape: shape.to_vec(), data: (0..shape.iter().product()).map(|i| i as f32).collect() }
    }

    #[test]
    fn built_in_maps_are_read() {
        assert_eq!(NameMap::all().count(), MAPS.len());
        assert!(NameMap::all().all(|(_, about)| !about.is_empty()));
        assert!(NameMap::named("nothing").is_none());
    }

    #[test]
    fn rules_follow_each_other_and_change_tensors() {
        let text = r"
            [[rule]]
            from = '^a\.(\d)'
            to = 'b$1'
            [[rule]]
            from = '^b1\.fused$'
            to = 'b1.{part}.weight'
            split = ['q', 'k']
            axes = [1, 0]
            [[rule]]
            from = 'weight$'
            to = 'map'
            rank = 4
        ";
        let weights = Weights::from([("a.1.fused".to_string(), tensor(&[3, 4])), ("other".into(), tensor(&[2]))]);
        let ours = NameMap::parse(text).unwrap().apply(&weights).unwrap();
        assert_eq!(ours.keys().collect::<Vec<_>>(), ["b1.k.map", "b1.q.map", "other"]);
        assert_eq!(ours["b1.q.map"], HostTensor { shape: vec![2, 3, 1, 1], data: vec![0.0, 4.0, 8.0, 1.0, 5.0, 9.0] });
        assert_eq!(ours["other"], weights["other"]);
    }

    #[test]
    fn wrong_maps_and_tensors_are_named() {
        let parse = |text: &str| NameMap::parse(text).unwrap_err().to_string();
        assert!(parse("").contains("rule"));
        assert!(parse("[[rule]]\nfrom = '('\nto = ''").contains("rule 1"));
        assert!(parse("[[rule]]\nfrom = 'a'\nto = '{part}'").contains("split"));
        assert!(parse("[[rule]]\nfrom = 'a'\nto = '{part}'\nsplit = []").contains("names no part"));
        assert!(parse("[[rule]]\nfrom = 'a'\nto = 'b'\nshape = 4").contains("shape"));
        // `$1_attn` is the group of the name 1_attn: all tensors would get one name.
        for to in ["$1_attn.", "$2", "x${name}", "$$ $1 ${2}"] {
            let error = parse(&format!("[[rule]]\nfrom = '(a)'\nto = '{to}'"));
            assert!(error.contains("rule 1") && error.contains("${1}"), "{error}");
        }
        assert!(NameMap::parse("[[rule]]\nfrom = '(?<x>a)(b)'\nto = '$x ${2} $1. $$3 $0'").is_ok());
        let apply = |rule: &str, shape: &[usize]| {
            let map = NameMap::parse(&format!("[[rule]]\nfrom = 'a'\n{rule}")).unwrap();
            let weights = Weights::from([("a".to_string(), tensor(shape)), ("b".into(), tensor(&[1]))]);
            map.apply(&weights).unwrap_err().to_string()
        };
        for axes in ["[0]", "[0, 0]", "[0, 2]", "[]"] {
            let error = apply(&format!("to = 'c'\naxes = {axes}"), &[2, 3]);
            assert!(error.contains("rule 1") && error.contains("`a`") && error.contains("axes"), "{error}");
        }
        assert!(apply("to = '{part}'\nsplit = ['q', 'k']", &[3]).contains("multiple of 2"));
        assert!(apply("to = '{part}'\nsplit = ['q', 'k']", &[]).contains("multiple of 2"));
        assert!(apply("to = 'c'\nrank = 2", &[2, 3, 4]).contains("2 sides"));
        assert!(apply("to = 'c'\nrank = 1000000000", &[2]).contains("sides"));
        assert!(apply("to = 'b'", &[1]).contains("another tensor has"));
        // Sides whose product no number holds, in a tensor of none.
        for shape in [&[0, 1 << 40, 1 << 40, 1][..], &[3, 0]] {
            let weights =
                Weights::from([("a/kernel".to_string(), HostTensor { shape: shape.to_vec(), data: Vec::new() })]);
            let error = NameMap::named("official").unwrap().apply(&weights).unwrap_err().to_string();
            assert!(error.contains("no number"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_map_or_an_error(text in ".{0,200}") {
            let _ = NameMap::parse(&text);
        }

        #[test]
        fn permuting_there_and_back_is_nothing(a in 1usize..5, b in 1usize..5, c in 1usize..5) {
            let t = tensor(&[a, b, c]);
            let there = permuted(&t, &[2, 0, 1]).unwrap();
            prop_assert_eq!(&there.shape, &[c, a, b]);
            prop_assert_eq!(permuted(&there, &[1, 2, 0]).unwrap(), t);
        }
    }
}
