//! A network of several resolutions with what makes the paper's learn fast: every block and every level begins as the
//! identity, z is added to the output, Fourier features show fine detail.
//!
//! Use it where time on a CPU counts: what needs a view of the whole image is computed on small images, with more channels,
//! and attention sees few tokens. Use [`ScoreUNet`](super::ScoreUNet) for the paper's own.

use super::layers::{Attention, ClassEmbedding, Conv, Dense, Norm, conv_parameters, dense_parameters, norm_parameters};
use super::score_unet::{FourierFeatures, ResBlock, conditioning_vector};
use super::{
    Conditioning, Cost, MAX_CHANNELS, MAX_CLASSES, Mode, ScoreNetwork, check_channels, check_groups, check_levels,
    check_limit, check_sides,
};
use crate::shape::ImageShape;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// Added to the variance in every group normalisation.
const NORM_EPS: f64 = 1e-6;
/// Most blocks of a level.
const MAX_BLOCKS: usize = 1024;

/// Configuration of an [`Hourglass`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HourglassConfig {
    /// Channels of the image. No key of a configuration file: it follows from the data.
    #[serde(skip)]
    pub channels: usize,
    /// The unit of `chn_mult`, and dimensions of the time's sinusoids; a multiple of `norm_groups` and of `heads`, even, at least 4.
    pub n_embd: usize,
    /// Channels of each level, in units of `n_embd`; every level but the first has half the side of the one before.
    pub chn_mult: Vec<usize>,
    /// Blocks of each level before the next, and as many after it.
    pub blocks: Vec<usize>,
    /// Dropout probability inside the blocks, in [0, 1).
    pub dropout: f64,
    /// Fourier features of z.
    pub fourier: FourierFeatures,
    /// Classes that an image can be of; 0 for a network that takes no class.
    pub classes: usize,
    /// Groups of every group normalisation.
    pub norm_groups: usize,
    /// Heads of the attention in the middle.
    pub heads: usize,
}

impl Default for HourglassConfig {
    /// Three levels of 32, 64 and 64 channels, for grey images.
    fn default() -> Self {
        Self {
            channels: 1,
            n_embd: 32,
            chn_mult: vec![1, 2, 2],
            blocks: vec![4, 3, 2],
            dropout: 0.0,
            fourier: FourierFeatures::Paper,
            classes: 0,
            norm_groups: 8,
            heads: 1,
        }
    }
}

impl HourglassConfig {
    /// Says what is wrong with the configuration, if anything.
    ///
    /// # Errors
    /// The key, its value, and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        for (name, of) in [("norm_groups", self.norm_groups), ("heads", self.heads)] {
            if of == 0 || !self.n_embd.is_multiple_of(of) {
                return Err(format!("n_embd = {} must be a positive multiple of {name} = {of}", self.n_embd));
            }
        }
        if self.n_embd < 4 || !self.n_embd.is_multiple_of(2) {
            return Err(format!("n_embd = {} must be even and at least 4", self.n_embd));
        }
        if self.channels == 0 {
            return Err("channels must be at least 1".into());
        }
        check_levels(&self.chn_mult)?;
        if self.blocks.len() != self.chn_mult.len() {
            let (n, levels) = (self.blocks.len(), self.chn_mult.len());
            return Err(format!("blocks must have a number for each of the {levels} levels of chn_mult, not {n}"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(format!("dropout = {} must be in [0, 1)", self.dropout));
        }
        Ok(())
    }

    /// Says what a configuration file must not ask for, though it could be computed.
    pub(super) fn check_limits(&self) -> Result<(), String> {
        check_limit("n_embd", self.n_embd, MAX_CHANNELS)?;
        check_limit("classes", self.classes, MAX_CLASSES)?;
        self.blocks.iter().try_for_each(|&n| check_limit("blocks", n, MAX_BLOCKS))?;
        check_groups(self.norm_groups, self.n_embd, &self.chn_mult)
    }

    /// The same network for images of `channels` channels.
    pub fn for_channels(&self, channels: usize) -> Self {
        Self { channels, ..self.clone() }
    }

    /// Says why images of this size do not fit, if they do not: halving must come out even at every level.
    ///
    /// # Errors
    /// The size and what it must be, or what is wrong with the configuration.
    pub fn validate_image(&self, height: usize, width: usize) -> Result<(), String> {
        self.validate()?;
        check_sides(self.chn_mult.len(), height, width)
    }

    /// Channels and blocks of each level.
    fn levels(&self) -> Vec<(usize, usize)> {
        self.chn_mult.iter().map(|m| m * self.n_embd).zip(self.blocks.iter().copied()).collect()
    }

    /// The number of parameters of the network that [`init`](Self::init) makes.
    pub fn parameters(&self) -> u128 {
        let (e, context, levels) = (self.n_embd, 4 * self.n_embd, self.levels());
        let block = |c: usize| 2 * norm_parameters(c) + 2 * conv_parameters(c, c, 3) + (context * c) as u128;
        let blocks: u128 = levels.iter().map(|&(c, n)| 2 * n as u128 * block(c)).sum();
        let between = levels.windows(2).map(|pair| {
            let [(outer, _), (inner, _)] = [pair[0], pair[1]];
            conv_parameters(outer, inner, 4) + norm_parameters(inner) + conv_parameters(inner, outer, 1)
        });
        let middle = levels.last().map_or(e, |&(c, _)| c);
        let attention = norm_parameters(middle) + 4 * conv_parameters(middle, middle, 1);
        let class = if self.classes > 0 { (self.classes as u128 + 1) * context as u128 } else { 0 };
        let time = dense_parameters(e + 1, context) + dense_parameters(context, context) + class;
        let (first, last) = (levels[0].0, self.fourier.channels(self.channels));
        let ends = conv_parameters(last, first, 3) + norm_parameters(first) + conv_parameters(first, self.channels, 3);
        time + ends + blocks + between.sum::<u128>() + attention
    }

    /// What one evaluation of one image takes.
    pub fn cost(&self, height: usize, width: usize) -> Cost {
        let (e, context, levels) = (self.n_embd, 4 * self.n_embd, self.levels());
        let pixels = |level: usize| (height >> level) * (width >> level);
        let block = |c: usize, pixels: usize| {
            // The second convolution adds to a copy of the input.
            let norms = Cost::output(c, pixels) * 3;
            norms + Cost::conv(c, c, 3, pixels) + Cost::conv(c, c, 3, pixels).in_place() + Cost::dense(context, c)
        };
        let blocks = levels.iter().enumerate().map(|(i, &(c, n))| block(c, pixels(i)) * (2 * n)).sum::<Cost>();
        let between = levels.windows(2).enumerate().map(|(i, pair)| {
            let [(outer, _), (inner, _)] = [pair[0], pair[1]];
            let up = Cost::output(inner, pixels(i + 1)) + Cost::conv(inner, outer, 1, pixels(i + 1));
            // Doubled, and the sum.
            Cost::conv(outer, inner, 4, pixels(i + 1)) + up + Cost::output(outer, pixels(i)) * 2
        });
        let last = levels.len() - 1;
        let (first, middle, small) = (levels[0].0, levels[last].0, pixels(last));
        let attention =
            Cost::output(middle, small) + Cost::conv(middle, middle, 1, small) * 4 + Cost::attention(middle, small);
        let time = Cost::dense(e + 1, context) + Cost::dense(context, context);
        let ends = Cost::conv(self.fourier.channels(self.channels), first, 3, pixels(0))
            + Cost::output(first, pixels(0))
            + Cost::conv(first, self.channels, 3, pixels(0));
        time + ends + blocks + between.sum() + attention
    }

    /// Makes the network on `device`, with the device's random numbers.
    ///
    /// # Panics
    /// If [`validate`](Self::validate) fails.
    pub fn init(&self, device: &Device) -> Hourglass {
        if let Err(reason) = self.validate() {
            panic!("HourglassConfig: {reason}");
        }
        let (e, context, levels) = (self.n_embd, 4 * self.n_embd, self.levels());
        let norm = |channels| Norm::new(self.norm_groups, channels, NORM_EPS, device);
        let blocks = |c: usize, n: usize| {
            Vec::from_iter((0..n).map(|_| ResBlock::new(c, c, context, self.dropout, &norm, device)))
        };
        let (first, middle) = (levels[0].0, levels[levels.len() - 1].0);
        Hourglass {
            dense0: Dense::new(e + 1, context, device),
            dense1: Dense::new(context, context, device),
            class: (self.classes > 0).then(|| ClassEmbedding::new(self.classes, context, device)),
            conv_in: Conv::new(self.fourier.channels(self.channels), first, 3, device),
            down: levels
                .windows(2)
                .map(|pair| Down {
                    blocks: blocks(pair[0].0, pair[0].1),
                    halve: Conv::new(pair[0].0, pair[1].0, 4, device),
                })
                .collect(),
            mid1: blocks(middle, levels[levels.len() - 1].1),
            mid_attn: Attention::new(middle, self.heads, norm(middle), device),
            mid2: blocks(middle, levels[levels.len() - 1].1),
            up: levels
                .windows(2)
                .rev()
                .map(|pair| Up {
                    norm: norm(pair[1].0),
                    widen: Conv::zeros(pair[1].0, pair[0].0, 1, device),
                    blocks: blocks(pair[0].0, pair[0].1),
                })
                .collect(),
            norm_out: norm(first),
            conv_out: Conv::zeros(first, self.channels, 3, device),
            fourier: self.fourier,
        }
    }
}

/// The way to a level of half the side.
#[derive(Module, Debug)]
pub struct Down {
    /// At the larger side.
    pub blocks: Vec<ResBlock>,
    /// 4x4 of stride 2, to the channels of the smaller level.
    pub halve: Conv,
}

/// The way back from a level of half the side, whose output is added to what was there before it.
#[derive(Module, Debug)]
pub struct Up {
    /// Before the map.
    pub norm: Norm,
    /// 1x1, to the channels of the larger level, zero at first.
    pub widen: Conv,
    /// At the larger side.
    pub blocks: Vec<ResBlock>,
}

/// A network of several resolutions, each a residual branch of the one before.
///
/// # Invariants
/// `up` is as long as `down`, and in reverse order. The channels of all parts fit together as [`HourglassConfig::init`]
/// makes them.
#[derive(Module, Debug)]
pub struct Hourglass {
    /// Time embedding and conditioning scalar to the conditioning vector, first layer.
    pub dense0: Dense,
    /// Second layer of the same.
    pub dense1: Dense,
    /// Added to the second layer's output, if the network takes a class.
    pub class: Option<ClassEmbedding>,
    /// 3x3, from z and its Fourier features.
    pub conv_in: Conv,
    /// From the image's side to the smallest.
    pub down: Vec<Down>,
    /// Blocks at the smallest side.
    pub mid1: Vec<ResBlock>,
    /// Attention at the smallest side.
    pub mid_attn: Attention,
    /// Blocks after it.
    pub mid2: Vec<ResBlock>,
    /// Back to the image's side.
    pub up: Vec<Up>,
    /// Before the last convolution.
    pub norm_out: Norm,
    /// 3x3 to the image's channels, zero at first.
    pub conv_out: Conv,
    #[module(skip)]
    fourier: FourierFeatures,
}

impl ScoreNetwork for Hourglass {
    /// # Panics
    /// If a class is not below the network's number of classes, or there is not one per image, or the sides cannot be
    /// halved.
    fn forward(&self, z: Tensor<4>, t: Tensor<1>, conditioning: &Conditioning, mode: Mode) -> Tensor<4> {
        // ANCHOR: forward
        // 1. Conditioning vector.
        let cond = conditioning_vector(&self.dense0, &self.dense1, self.class.as_ref(), t, conditioning, true);
        let mut layer = 0;
        let mut run = |blocks: &[ResBlock], h: Tensor<4>| {
            blocks.iter().fold(h, |h, block| {
                layer += 1;
                block.forward(h, None, cond.clone(), mode.seed_of(layer))
            })
        };

        // 2. Down: what each level had before the next is kept.
        let mut h = self.conv_in.forward(self.fourier.forward(z.clone()));
        let mut before = Vec::new();
        for level in &self.down {
            h = run(&level.blocks, h);
            before.push(h.clone());
            h = level.halve.forward_halving(h);
        }

        // 3. The smallest level.
        h = run(&self.mid1, h);
        h = self.mid_attn.forward(h);
        h = run(&self.mid2, h);

        // 4. Up: each level is added to the one before.
        for (level, before) in self.up.iter().zip(before.into_iter().rev()) {
            h = before + vdm_kernels::double(level.widen.forward(level.norm.silu(h)));
            h = run(&level.blocks, h);
        }

        // 5. As in the paper's network: what is to be added to z.
        self.conv_out.forward_onto(self.norm_out.silu(h), z)
        // ANCHOR_END: forward
    }

    fn check_shape(&self, shape: ImageShape) -> Result<(), String> {
        check_channels(shape.channels, self.conv_out.bias.dims()[0])?;
        check_sides(self.down.len() + 1, shape.height, shape.width)
    }

    fn classes(&self) -> usize {
        self.class.as_ref().map_or(0, ClassEmbedding::classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::host;
    use burn::tensor::TensorData;
    use vdm_kernels::rng::Philox;

    fn small() -> HourglassConfig {
        HourglassConfig {
            channels: 2,
            n_embd: 8,
            norm_groups: 4,
            blocks: vec![1, 0, 2],
            classes: 3,
            ..Default::default()
        }
    }

    fn random(seed: u64, device: &Device) -> Tensor<4> {
        let mut data = vec![0f32; 2 * 2 * 8 * 4];
        Philox::new(seed, 0).normal(0, &mut data);
        Tensor::from_data(TensorData::new(data, [2, 2, 8, 4]), device)
    }

    fn run(network: &Hourglass, z: Tensor<4>, classes: Option<Vec<Option<u32>>>, mode: Mode) -> Tensor<4> {
        let t = Tensor::from_data([0.25f32, 0.75], &z.device());
        network.forward(z, t, &Conditioning { classes, ..Default::default() }, mode)
    }

    /// A new network predicts z, a fair prediction of the noise at the noisy end; and every parameter learns once the zeros are
    /// gone.
    #[test]
    fn a_new_network_predicts_z_and_all_of_it_can_learn() {
        let device = Device::flex().autodiff();
        let network = HourglassConfig { dropout: 0.1, ..small() }.init(&device);
        let z = random(1, &device);
        assert_eq!(host(&run(&network, z.clone(), None, Mode::Eval)), host(&z));

        let network = network.map(&mut Shift);
        let y = run(&network, z.clone(), Some(vec![Some(1), None]), Mode::Train { dropout_seed: 3 });
        let weights = random(2, &device);
        let gradients = (y * weights).sum().backward();
        let mut check = Check { gradients: &gradients, seen: 0 };
        network.visit(&mut check);
        assert_eq!(check.seen, network.num_params());
    }

    /// Adds to every parameter a little that no other has.
    struct Shift;

    impl burn::module::ModuleMapper for Shift {
        fn map_float<const D: usize>(
            &mut self,
            param: burn::module::Param<Tensor<D>>,
        ) -> burn::module::Param<Tensor<D>> {
            param.map(|t| {
                let (shape, device) = (t.dims(), t.device());
                let mut more = vec![0f32; shape.iter().product()];
                Philox::new(7, more.len() as u64).normal(0, &mut more);
                let more = Tensor::<D>::from_data(TensorData::new(more, shape.to_vec()), &device);
                (t + more * 0.1).detach().require_grad()
            })
        }
    }

    struct Check<'a> {
        gradients: &'a burn::tensor::Gradients,
        seen: usize,
    }

    impl burn::module::ModuleVisitor for Check<'_> {
        fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
            let gradient = param.val().grad(self.gradients).expect("a gradient");
            let gradient = host(&gradient);
            assert!(gradient.iter().all(|g| g.is_finite()), "{:?}", param.val().dims());
            assert!(gradient.iter().any(|g| *g != 0.0), "{:?} has no gradient", param.val().dims());
            self.seen += gradient.len();
        }
    }

    /// An image's output depends on its class and its time, and on no other image.
    #[test]
    fn an_image_depends_on_its_own_inputs_alone() {
        let device = Device::flex().autodiff();
        let network = small().init(&device).map(&mut Shift);
        let z = random(1, &device);
        let of = |z: Tensor<4>, classes| host(&run(&network, z, Some(classes), Mode::Eval));
        let both = of(z.clone(), vec![Some(1), Some(2)]);
        let other = of(z.clone(), vec![Some(0), Some(2)]);
        assert!(both[..64] != other[..64] && both[64..] == other[64..]);
        let alone = network.forward(
            z.slice(1..2),
            Tensor::from_data([0.75f32], &device),
            &Conditioning { classes: Some(vec![Some(2)]), ..Default::default() },
            Mode::Eval,
        );
        assert_eq!(both[64..], host(&alone));
    }

    #[test]
    fn bad_configurations_say_what_is_wrong() {
        for (config, words) in [
            (HourglassConfig { blocks: vec![1], ..small() }, "3 levels of chn_mult, not 1"),
            (HourglassConfig { heads: 3, ..small() }, "heads = 3"),
            (HourglassConfig { norm_groups: 0, ..small() }, "norm_groups = 0"),
            (HourglassConfig { n_embd: 2, norm_groups: 2, ..small() }, "n_embd = 2"),
            (HourglassConfig { chn_mult: vec![1, 0, 1], ..small() }, "chn_mult = [1, 0, 1]"),
            (HourglassConfig { dropout: 1.0, ..small() }, "dropout = 1"),
            (HourglassConfig { blocks: vec![1, 1, 5000], ..small() }, "blocks = 5000"),
            (HourglassConfig { norm_groups: 8, ..small() }, "norm_groups must be below"),
        ] {
            let reason = config.validate().and_then(|()| config.check_limits()).unwrap_err();
            assert!(reason.contains(words), "{reason}");
        }
        assert!(small().validate_image(8, 6).unwrap_err().contains("divisible by 4"));
    }
}
