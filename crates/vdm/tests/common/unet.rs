//! `unet_*`: the didactic PyTorch U-Net, with its `state_dict` names.

use crate::device::device;
use crate::golden_file::{GRADIENTS, GoldenFile, by_map, floats, tensor};
use burn::tensor::{Gradients, Tensor};
use vdm::nn::{Conditioning, Control, ControlConfig, Mode, UNetConfig};
use vdm::weights::{HostTensor, Weights};

pub fn check(file: &GoldenFile) {
    let device = device().autodiff();
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

/// The reference's parameters (or gradients) under our names; inputs have their own.
fn all_ours(tensors: &Weights) -> Weights {
    let of_network = |(name, t): (String, HostTensor)| (name.replace("network.UNet.", ""), t);
    by_map("unet", tensors).into_iter().map(of_network).collect()
}
