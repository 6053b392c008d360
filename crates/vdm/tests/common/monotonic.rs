//! `monotonic_*`: the didactic PyTorch layer of constrained monotonic networks.

use crate::device::device;
use crate::golden_file::{GRADIENTS, GoldenFile, floats, tensor};
use vdm::schedule::{MonotonicActivation, MonotonicLinearConfig};
use vdm::weights::{HostTensor, gradients, import};

pub fn check(file: &GoldenFile) {
    let device = device().autodiff();
    let mut params = file.under("params/");
    // The reference writes the sign into its weight; `weight` is what it has afterwards.
    let before_sign = params.remove("weight_before_sign");
    let &[d_out, d_in] = &file.get("params/weight").shape[..] else { panic!("a weight that is no matrix") };
    let default = MonotonicLinearConfig::new(d_in, d_out, file.meta::<MonotonicActivation>("activation"));
    let config = MonotonicLinearConfig {
        bias: params.contains_key("bias"),
        indicator: file.meta_or("indicator").unwrap_or_else(|| default.indicator.clone()),
        act_weight: file.meta_or("act_weight").unwrap_or(default.act_weight),
        ..default
    };
    let layer = import(config.init(&device).unwrap(), &params).unwrap();
    let x = tensor::<2>(file.get("in/x"), &device).require_grad();
    let y = layer.forward(x.clone());
    file.values("y", &floats(y.clone()), &file.get("out/y").data);

    let backward = (y * tensor::<2>(file.get("in/cotangent"), &device)).sum().backward();
    let mut found = gradients(&layer, &backward);
    if let Some(gradient) = x.grad(&backward) {
        found.insert("x".into(), HostTensor { shape: gradient.dims().into(), data: floats(gradient) });
    }
    file.gradients(&found, &file.under("grad/"), |_| GRADIENTS);

    // Here the sign is a matter of the forward: the weight as it was before gives the same.
    if let Some(weight) = before_sign {
        params.insert("weight".into(), weight);
        let layer = import(layer, &params).unwrap();
        file.values("y of the unsigned weight", &floats(layer.forward(x.detach())), &file.get("out/y").data);
    }
}
