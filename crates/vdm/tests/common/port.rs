//! `port_*`: the PyTorch port of the paper's network, with its `state_dict` names.

use crate::device::device;
use crate::golden_file::{GRADIENTS, GoldenFile, by_map, floats, tensor};
use vdm::nn::{Conditioning, FourierFeatures, Mode, ScoreNetwork, ScoreUNetConfig};
use vdm::weights::{HostTensor, Weights};

pub fn check(file: &GoldenFile) {
    let device = device().autodiff();
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

/// The port's parameters (or gradients) under our names.
fn all_ours(tensors: Weights) -> Weights {
    let of_network = |(name, t): (String, HostTensor)| (name.replace("network.Score.", ""), t);
    by_map("port", &tensors).into_iter().map(of_network).collect()
}
