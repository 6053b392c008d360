//! `official_*`: the paper's reference implementation in JAX. Images are NHWC, kernels [kh, kw, in, out] or [in, out].

use crate::device::device;
use crate::golden_file::{GRADIENTS, GoldenFile, SCHEDULE_GRADIENTS, by_map, floats, permute, tensor};
use burn::tensor::{Device, Tensor};
use vdm::diffusion::Posterior;
use vdm::diffusion::Vocabulary;
use vdm::diffusion::process::diffuse;
use vdm::nn::{Conditioning, FourierFeatures, Mode, ScoreUNet, ScoreUNetConfig};
use vdm::schedule::{Endpoints, NetworkScheduleConfig, Schedule, ScheduleConfig};
use vdm::weights::Weights;
use vdm::{DiffusionSettings, ImageShape, Noise, VariationalDiffusion, bits_per_dim};

const NCHW: [usize; 4] = [0, 3, 1, 2];
const NHWC: [usize; 4] = [0, 2, 3, 1];

fn model(file: &GoldenFile, device: &Device) -> VariationalDiffusion<ScoreUNet> {
    let ends = Endpoints { gamma_0: file.meta("gamma_min"), gamma_1: file.meta("gamma_max") };
    let schedule = match file.meta::<String>("gamma_type").as_str() {
        "fixed" => ScheduleConfig::FixedLinear(ends),
        "learnable_scalar" => ScheduleConfig::LearnedLinear(ends),
        "learnable_nnet" => {
            let features = file.tensors.get("params/gamma/l2/bias").map_or(1024, |t| t.data.len());
            let Endpoints { gamma_0, gamma_1 } = ends;
            ScheduleConfig::Network(NetworkScheduleConfig { gamma_0, gamma_1, features })
        }
        other => panic!("gamma_type {other}"),
    };
    let network = ScoreUNetConfig {
        with_attention: file.meta("with_attention"),
        fourier: if file.meta("with_fourier_features") { FourierFeatures::Paper } else { FourierFeatures::None },
        ..ScoreUNetConfig::new(file.get("in/images").shape[3], file.meta("n_embd"), file.meta("n_layer"))
    };
    let steps: usize = file.meta("n_timesteps");
    let [_, height, width, channels] = file.get("in/images").shape[..] else { panic!("images are NHWC") };
    let shape = ImageShape { channels, height, width };
    let settings = DiffusionSettings {
        timesteps: (steps > 0).then_some(steps),
        ..DiffusionSettings::new(shape, Vocabulary::new(file.meta("vocab_size")).unwrap(), &schedule)
    };
    VariationalDiffusion::new(schedule.init(device), network.init(device), settings)
}

/// The reference's parameters (or gradients) under our names.
fn all_ours(tensors: Weights) -> Weights {
    // The schedule's and the network's kinds have no names of their own in a model of one kind.
    by_map("official", &tensors).into_iter().map(|(name, t)| (name.replace("network.Score.", "network."), t)).collect()
}

pub fn check(file: &GoldenFile) {
    let device = device().autodiff();
    let model = vdm::weights::import(model(file, &device), &all_ours(file.under("params/"))).unwrap();
    let images = |name: &str| tensor::<4>(&permute(file.get(name), &NCHW), &device);
    let vector = |name: &str| tensor::<1>(file.get(name), &device);
    let data = |name: &str| &file.get(name).data[..];
    let nhwc = |t: Tensor<4>| floats(t.permute(NHWC.map(|a| a as isize)));

    // Losses, and the gradient of their mean in bits per dimension.
    let conditioning = Conditioning { scalar: Some(vector("in/conditioning")), ..Default::default() };
    let noise = Noise { eps: images("in/eps"), eps_0: images("in/eps_0") };
    let times: Vec<f64> = data("in/t").iter().map(|&t| f64::from(t)).collect();
    let k = images("in/images");
    let dims = k.dims()[1..].iter().product();
    let terms = model.loss(k.clone(), &times, noise.clone(), &conditioning, Mode::Eval);
    file.values("reconstruction", &floats(terms.reconstruction.clone()), data("out/loss_recon"));
    file.values("prior", &floats(terms.prior.clone()), data("out/loss_klz"));
    file.values("diffusion", &floats(terms.diffusion.clone()), data("out/loss_diff"));
    let bits = terms.total().mean() * bits_per_dim(1.0, dims);
    file.values("bpd", &floats(bits.clone()), data("out/bpd"));
    let gradients = vdm::weights::gradients(&model, &bits.backward());
    file.gradients(&gradients, &all_ours(file.under("grad/")), |name| {
        if name.starts_with("schedule.") { SCHEDULE_GRADIENTS } else { GRADIENTS }
    });

    // The schedule, z_t and the network at the same times.
    // In discrete time these are the grid's times, and gamma' has no part in the bound: the file holds zeros for it.
    let steps = model.settings().timesteps;
    let grid: Vec<f32> =
        times.iter().map(|&t| steps.map_or(t, |steps| vdm::diffusion::times::discretise(t, steps)) as f32).collect();
    let at = model.schedule.forward(Tensor::from_data(grid.as_slice(), &device));
    file.values("gamma_t", &floats(at.gamma.clone()), data("out/gamma_t"));
    if steps.is_none() {
        file.values("gamma'_t", &floats(at.prime), data("out/gamma_prime_t"));
    }
    let (gamma_0, gamma_1) = model.schedule.endpoints(&device);
    file.values("gamma_0", &floats(gamma_0), data("out/gamma_0"));
    file.values("gamma_1", &floats(gamma_1), data("out/gamma_1"));
    let x = model.settings().vocabulary.encode(k);
    let z_t = diffuse(x, at.gamma.clone(), noise.eps);
    file.values("z_t", &nhwc(z_t.clone()), data("out/z_t"));
    let eps_hat = model.predict_noise(z_t, at.gamma, &conditioning, Mode::Eval);
    file.values("eps_hat", &nhwc(eps_hat), data("out/eps_hat"));

    // One ancestral step: step i of T goes from t = (T - i)/T to s = (T - i - 1)/T.
    let (i, steps): (usize, usize) = (file.meta("step_i"), file.meta("step_T"));
    let host = model.schedule.to_host();
    let step = Posterior::new(
        host.gamma((steps - i) as f64 / steps as f64),
        host.gamma((steps - i - 1) as f64 / steps as f64),
    );
    let z = images("in/step_z_t");
    let batch = z.dims()[0];
    let gamma = Tensor::<1>::full([batch], step.gamma_t, &device);
    let eps_hat = model.predict_noise(z.clone(), gamma, &conditioning, Mode::Eval);
    let z_s = step.draw(z, eps_hat, images("in/step_eps"));
    file.values("ancestral step", &nhwc(z_s), data("out/step_z_s"));

    // The decoder's output: whole numbers, so equal.
    let decoded: Vec<f32> = data("in/generate_z_0")
        .iter()
        .map(|&z| f32::from(model.settings().vocabulary.argmax(z, host.gamma(0.0))))
        .collect();
    file.within("decoder", &decoded, data("out/generate_x"), 0.0);
}
