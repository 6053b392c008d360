//! `pinned_*`: the paper's schedule network pinned to its endpoints (VDM equation 59), and what trains it.

use crate::device::device;
use crate::golden_file::{GoldenFile, SCHEDULE_GRADIENTS, floats, tensor};
use burn::tensor::activation::sigmoid;
use std::collections::BTreeMap;
use vdm::schedule::{
    Endpoints, GammaAt, NetworkScheduleConfig, NoiseSchedule, PinnedSchedule, RawMonotone, ScheduleTape,
    schedule_gradients,
};
use vdm::weights::{HostTensor, Weights, gradients, import};

const SURROGATE: &str = "L_i = 0.5 * gamma'(t_i) * w_i * sigmoid(a_i * gamma(t_i))";

pub fn check(file: &GoldenFile) {
    // This one is plain text, not JSON.
    let surrogate = file.metadata.get("surrogate").map_or("", String::as_str).trim_matches('"');
    if surrogate != SURROGATE {
        return file.fail(format!("the surrogate loss is {surrogate}, known is {SURROGATE}"));
    }
    let device = device().autodiff();
    // What the weights are before the file's take their place does not matter.
    let network = NetworkScheduleConfig { gamma_0: 0.0, gamma_1: 1.0, features: file.meta("n_features") };
    let raw = RawMonotone::Network(network.init(&device));
    let schedule = NoiseSchedule::Pinned(PinnedSchedule::new(raw, Endpoints { gamma_0: -13.3, gamma_1: 5.0 }, &device));
    let weights = ours(file.under("params/"), file.get("in/endpoints"));
    let schedule = import(schedule, &weights).unwrap();

    let [t, w, a] = ["t", "w", "a"].map(|name| tensor::<1>(file.get(&format!("in/{name}")), &device));
    let batch = t.dims()[0];
    let tape = ScheduleTape::record(&schedule, t);
    let GammaAt { gamma, prime } = tape.at();
    file.values("gamma", &floats(gamma.clone()), &file.get("out/gamma").data);
    file.values("gamma'", &floats(prime.clone()), &file.get("out/gamma_prime").data);
    let loss = prime * w * sigmoid(a * gamma) * 0.5;
    file.values("loss", &floats(loss.clone()), &file.get("out/loss").data);

    let mut backward = loss.clone().mean().backward();
    schedule_gradients(&schedule, &tape, loss, &mut backward, 1.0 / batch as f64).unwrap();
    let want = ours(file.under("grad_mean_sq/"), file.get("grad_mean/endpoints"));
    file.gradients(&gradients(&schedule, &backward), &want, |_| SCHEDULE_GRADIENTS);
}

/// The reference's tensors of the network and of the endpoints under our names.
fn ours(network: BTreeMap<String, HostTensor>, endpoints: &HostTensor) -> Weights {
    let vector = |data: Vec<f32>| HostTensor { shape: vec![data.len()], data };
    let mut out: Weights = network
        .into_iter()
        .map(|(name, t)| {
            let field = match name.as_str() {
                "l1/kernel" => "w1",
                "l1/bias" => "b1",
                "l2/kernel" => "w2",
                "l2/bias" => "b2",
                "l3/kernel" => "w3",
                other => panic!("unknown parameter {other}"),
            };
            (format!("Pinned.raw.Network.{field}"), vector(t.data))
        })
        .collect();
    for (name, &endpoint) in ["gamma_0", "gamma_1"].iter().zip(&endpoints.data) {
        out.insert(format!("Pinned.{name}"), vector(vec![endpoint]));
    }
    out
}
