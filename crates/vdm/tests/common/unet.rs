//! `unet_*`: the didactic PyTorch U-Net, with its `state_dict` names.

use crate::golden_file::{GRADIENTS, GoldenFile, floats, permute, tensor};
use burn::tensor::{Device, Gradients, Tensor};
use std::collections::BTreeMap;
use vdm::nn::{Conditioning, Control, ControlConfig, Mode, UNetConfig};
use vdm::weights::{HostTensor, Weights};

pub fn check(file: &GoldenFile) {
    let device = Device::flex().autodiff();
    let network = vdm::weights::import(config(file).init(&device), &all_ours(&file.under("params/"))).unwrap();

    let z = tensor::<4>(file.get("in/x"), &device).require_grad();
    let time = file.get("in/time");
    let time = tensor::<1>(&HostTensor { shape: vec![time.data.len()], data: time.data.clone() }, &device);
    let cond = file.tensors.get("in/cond").map(|t| tensor::<4>(t, &device).require_grad());
    let of_rank = |rank: usize| file.tensors.get("in/ctrl").filter(|t| t.shape.len() == rank);
    let sequence = of_rank(3).map(|t| tensor::<3>(t, &device).require_grad());
    let image = of_rank(4).map(|t| tensor::<4>(t, &device).require_grad());
    let control = match (&sequence, &image) {
        (Some(t), _) if channels_first(file) => Some(Control::Sequence(t.clone().swap_dims(1, 2))),
        (Some(t), _) => Some(Control::Sequence(t.clone())),
        (_, Some(t)) => Some(Control::Image(t.clone())),
        _ => None,
    };

    let conditioning = Conditioning { self_cond: cond.clone(), control, ..Default::default() };
    let y = network.forward(z.clone(), time, &conditioning, Mode::Eval);
    file.values("y", &floats(y.clone()), &file.get("out/y").data);

    let gradients = (y * tensor::<4>(file.get("in/cotangent"), &device)).sum().backward();
    let want = file.under("grad/");
    let mut found = vdm::weights::gradients(&network, &gradients);
    // Of the inputs the file has the gradients that it was made for.
    let mut inputs = Weights::new();
    inputs.extend(gradient("x", &z, &gradients));
    inputs.extend(cond.and_then(|t| gradient("cond", &t, &gradients)));
    inputs.extend(sequence.and_then(|t| gradient("ctrl", &t, &gradients)));
    inputs.extend(image.and_then(|t| gradient("ctrl", &t, &gradients)));
    found.extend(inputs.into_iter().filter(|(name, _)| want.contains_key(name)));
    file.gradients(&found, &all_ours(&want), |_| GRADIENTS);
}

fn gradient<const D: usize>(name: &str, t: &Tensor<D>, gradients: &Gradients) -> Option<(String, HostTensor)> {
    let gradient = t.grad(gradients)?;
    Some((name.to_string(), HostTensor { shape: gradient.dims().to_vec(), data: floats(gradient) }))
}

/// A setting, if the file has it and it is not `null`.
fn setting<T: serde::de::DeserializeOwned>(file: &GoldenFile, key: &str) -> Option<T> {
    file.meta_or::<Option<T>>(key).flatten()
}

/// The configuration: of shapes what shapes tell, and the reference's defaults where the metadata say nothing.
fn config(file: &GoldenFile) -> UNetConfig {
    let shape = |name: &str| &file.get(&format!("params/{name}")).shape[..];
    let net_dim = shape("proj_inp.weight")[0];
    let multiples = (0..).map_while(|level| {
        let weight = file.tensors.get(&format!("params/downs.{level}.3.weight"))?;
        Some(weight.shape[0] / net_dim)
    });
    // Exponents from the first number to below the second, in steps of the third.
    let n_fourier: Vec<u32> = setting::<Vec<u32>>(file, "n_fourier").map_or_else(Vec::new, |range| {
        let at = |i: usize, default: u32| range.get(i).copied().unwrap_or(default);
        (at(0, 7)..at(1, 8)).step_by(at(2, 1) as usize).collect()
    });
    UNetConfig {
        out_channels: shape("proj_out.weight")[0],
        dropout: setting(file, "dropout").unwrap_or(0.0),
        attn_dim: shape("mid_attn.in_proj_weight")[1],
        control: match file.tensors.get("in/ctrl").map(|t| &t.shape[..]) {
            None => ControlConfig::None,
            Some(&[_, dim, _]) if channels_first(file) => ControlConfig::Sequence { dim },
            Some(&[_, _, dim]) => ControlConfig::Sequence { dim },
            Some(&[_, dim, _, _]) => ControlConfig::Image { dim },
            Some(other) => panic!("a control of shape {other:?}"),
        },
        self_conditioning: setting(file, "use_cond").unwrap_or_else(|| file.tensors.contains_key("in/cond")),
        with_attention: file.tensors.contains_key("params/downs.0.2.in_proj_weight"),
        chn_mult: setting(file, "chn_mult").unwrap_or_else(|| multiples.collect()),
        n_fourier,
        fourier_pi: false,
        norm_groups: setting(file, "num_group").unwrap_or(8),
        heads: setting(file, "num_heads").unwrap_or(4),
        attn_residual: false,
        ..UNetConfig::new(file.get("in/x").shape[1], net_dim)
    }
}

/// Whether a sequence of control vectors comes as [batch, dim, length]: then the pattern by which the reference brings
/// keys into order, one for all or the second of several, has two sides that differ (`b c n -> b n c`).
fn channels_first(file: &GoldenFile) -> bool {
    let pattern = match setting::<serde_json::Value>(file, "adapter") {
        Some(serde_json::Value::Array(patterns)) => patterns.get(1).cloned(),
        other => other,
    };
    let pattern = pattern.and_then(|p| p.as_str().map(str::to_string)).unwrap_or_default();
    match pattern.split_once("->") {
        Some((from, to)) => from.split_whitespace().count() == 3 && !from.split_whitespace().eq(to.split_whitespace()),
        None => false,
    }
}

/// Our names and layouts of the reference's parameters (or gradients); its fused q/k/v maps come apart. Names without a
/// dot are inputs' and stay.
fn all_ours(tensors: &BTreeMap<String, HostTensor>) -> Weights {
    let mut out = Weights::new();
    for (name, t) in tensors {
        let Some((parent, leaf)) = name.rsplit_once('.') else {
            out.insert(name.clone(), t.clone());
            continue;
        };
        let parts: Vec<&str> = parent.split('.').collect();
        let (ours, in_attention) = match &parts[..] {
            ["proj_inp"] => ("conv_in".to_string(), false),
            ["proj_out"] => ("conv_out".to_string(), false),
            ["time_emb", "1"] => ("time0".to_string(), false),
            ["time_emb", "3"] => ("time1".to_string(), false),
            ["mid_block1", rest @ ..] => (format!("mid1.{}", in_block(parent, rest, tensors)), false),
            ["mid_block2", rest @ ..] => (format!("mid2.{}", in_block(parent, rest, tensors)), false),
            ["final", rest @ ..] => (format!("last.{}", in_block(parent, rest, tensors)), false),
            ["mid_attn", rest @ ..] => (format!("mid_attn.{}", attention_map(rest)), true),
            [side @ ("downs" | "ups"), level, index, rest @ ..] => {
                let level = format!("{}.{level}", side.trim_end_matches('s'));
                match *index {
                    "0" => (format!("{level}.block1.{}", in_block(parent, rest, tensors)), false),
                    "1" => (format!("{level}.block2.{}", in_block(parent, rest, tensors)), false),
                    "2" => (format!("{level}.attn.{}", attention_map(rest)), true),
                    // On the way up the convolution comes second, after the doubling.
                    "3" => (format!("{level}.resize"), false),
                    other => panic!("{name}: unknown part {other}"),
                }
            }
            _ => panic!("unknown parameter {name}"),
        };
        // Attention's maps are matrices [out, in], whatever trailing ones they have; here they are 1x1 convolutions.
        let as_map = |t: HostTensor| {
            let shape = match t.shape.as_slice() {
                [out, inside, ..] => vec![*out, *inside, 1, 1],
                vector => vector.to_vec(),
            };
            HostTensor { shape, data: t.data }
        };
        if let Some(leaf) = leaf.strip_prefix("in_proj_") {
            let mut shape = t.shape.clone();
            shape[0] /= 3;
            for (map, part) in ["q", "k", "v"].iter().zip(t.data.chunks(t.data.len() / 3)) {
                let part = HostTensor { shape: shape.clone(), data: part.to_vec() };
                out.insert(format!("{ours}{map}.{leaf}"), as_map(part));
            }
            continue;
        }
        let is_norm = ours.rsplit('.').next().unwrap().starts_with("norm");
        let leaf = match (leaf, is_norm) {
            ("weight", true) => "gamma",
            ("bias", true) => "beta",
            (leaf, _) => leaf,
        };
        let t = match (in_attention, t.shape.len()) {
            (true, _) => as_map(t.clone()),
            // PyTorch's dense weights are [out, in].
            (false, 2) => permute(t, &[1, 0]),
            (false, _) => t.clone(),
        };
        out.insert(format!("{ours}.{leaf}"), t);
    }
    out
}

/// Our name of a part of a residual block. Where there is dropout, it shifts the numbers of the second half's parts:
/// the weight's rank tells the convolution.
fn in_block(parent: &str, rest: &[&str], tensors: &BTreeMap<String, HostTensor>) -> &'static str {
    match rest {
        ["skip"] => "skip",
        ["time_emb", "1"] => "ctx",
        [half @ ("conv1" | "conv2"), _] => {
            let is_conv = tensors[&format!("{parent}.weight")].shape.len() == 4;
            match (*half, is_conv) {
                ("conv1", true) => "conv1",
                ("conv1", false) => "norm1",
                (_, true) => "conv2",
                (_, false) => "norm2",
            }
        }
        other => panic!("{parent}: unknown part {other:?} of a block"),
    }
}

/// Our name of a map of an attention; nothing for the fused maps, whose names end in what they are.
fn attention_map<'a>(rest: &[&'a str]) -> &'a str {
    match *rest {
        [] => "",
        ["out_proj"] => "out",
        ["adapter", map] => map,
        _ => panic!("unknown part {rest:?} of an attention"),
    }
}
