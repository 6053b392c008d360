//! `port_*`: the PyTorch port of the paper's network, with its `state_dict` names.

use crate::golden_file::{GRADIENTS, GoldenFile, floats, permute, tensor};
use burn::tensor::Device;
use std::collections::BTreeMap;
use vdm::nn::{Conditioning, FourierFeatures, Mode, ScoreNetwork, ScoreUNetConfig};
use vdm::weights::{HostTensor, Weights};

pub fn check(file: &GoldenFile) {
    let device = Device::flex().autodiff();
    let config = ScoreUNetConfig {
        with_attention: file.meta("attention_everywhere"),
        fourier: if file.meta("use_fourier_features") { FourierFeatures::Port } else { FourierFeatures::None },
        conditioning: false,
        norm_groups: file.meta("norm_groups"),
        norm_eps: 1e-5,
        heads: file.meta("n_attention_heads"),
        ..ScoreUNetConfig::new(file.meta("input_channels"), file.meta("embedding_dim"), file.meta("n_blocks"))
    };
    let network = vdm::weights::import(config.init(&device), &all_ours(file.under("params/"))).unwrap();
    let (start, end): (f64, f64) = (file.meta("gamma_min"), file.meta("gamma_max"));
    let z = tensor::<4>(file.get("in/z"), &device).require_grad();
    let time = (tensor::<1>(file.get("in/gamma"), &device) - start) / (end - start);
    let eps_hat = network.forward(z.clone(), time, &Conditioning::default(), Mode::Eval);
    file.values("eps_hat", &floats(eps_hat.clone()), &file.get("out/eps_hat").data);

    let scalar = (eps_hat * tensor::<4>(file.get("in/cotangent"), &device)).sum();
    let gradients = scalar.backward();
    let mut found = vdm::weights::gradients(&network, &gradients);
    let dz = z.grad(&gradients).unwrap();
    found.insert("z".into(), HostTensor { shape: dz.dims().into(), data: floats(dz) });
    file.gradients(&found, &all_ours(file.under("grad/")), |_| GRADIENTS);
}

/// Our names and layouts of the port's parameters (or gradients); its fused q/k/v maps come apart.
fn all_ours(tensors: BTreeMap<String, HostTensor>) -> Weights {
    let mut out = Weights::new();
    for (name, t) in tensors {
        let (parent, leaf) = name.rsplit_once('.').unwrap_or(("", &name));
        let parent = parent
            .replace("down_blocks.", "down.")
            .replace("up_blocks.", "up.")
            .replace("mid_resnet_block_", "mid")
            .replace("mid_attn_block", "mid_attn")
            .replace(".resnet_block", "")
            .replace("embed_conditioning.0", "dense0")
            .replace("embed_conditioning.2", "dense1")
            .replace("conv_out.0", "norm_out")
            .replace("conv_out.2", "conv_out")
            .replace("net1.0", "norm1")
            .replace("net1.2", "conv1")
            .replace("net2.0", "norm2")
            .replace("net2.2", "conv2")
            .replace("skip_conv", "skip")
            .replace("cond_proj", "cond");
        // Attention after a block: `down.0.attention_block` in the port, `down_attn.0` here.
        let parent = match parent.split_once(".attention_block") {
            Some((block, rest)) => {
                let (side, index) = block.split_once('.').unwrap();
                format!("{side}_attn.{index}{rest}")
            }
            None => parent,
        };
        let parent = parent.replace(".layers.0", ".norm").replace(".layers.3", ".out");
        if let Some(parent) = parent.strip_suffix(".layers.1") {
            let rows = t.shape[0] / 3;
            let size = t.data.len() / 3;
            for (map, part) in ["q", "k", "v"].iter().zip(t.data.chunks(size)) {
                let mut shape = t.shape.clone();
                shape[0] = rows;
                out.insert(format!("{parent}.{map}.{leaf}"), HostTensor { shape, data: part.to_vec() });
            }
            continue;
        }
        let norm = parent.rsplit('.').next().unwrap().starts_with("norm");
        let leaf = match (leaf, norm) {
            ("weight", true) => "gamma",
            ("bias", true) => "beta",
            (leaf, _) => leaf,
        };
        // PyTorch's dense weights are [out, in].
        let t = if t.shape.len() == 2 { permute(&t, &[1, 0]) } else { t };
        out.insert(if parent.is_empty() { leaf.into() } else { format!("{parent}.{leaf}") }, t);
    }
    out
}
