//! Group normalisation, then SiLU and a shift where they are asked for, in one launch; see [`crate::cpu::group_norm`].
//!
//! A cube normalises one group of one image. The channels are those of two tensors, one after another, or of one, which is
//! then given twice. Dropout is a launch of its own, since eight numbers share a block of its random bits; the mask is drawn again for
//! the gradient, not kept.

use super::cube_sum::{Three, UNITS, cube_sum, cube_sums};
use super::philox::dropout;
use super::unwritten;
use crate::NormArgs;
use crate::extension::{FusedNormBackward, norms_without_stats};
use burn::backend::{ops::FloatTensorOps, tensor::FloatTensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

norms_without_stats!(CubeBackend);

/// The inputs of a normalisation.
struct Inputs {
    a: CubeTensor,
    b: CubeTensor,
    gamma: CubeTensor,
    beta: CubeTensor,
    sizes: Sizes,
}

/// What the kernels know about the shapes.
#[derive(Clone, Copy)]
struct Sizes {
    images: usize,
    channels: usize,
    /// Channels of the first tensor.
    of_a: usize,
    pixels: usize,
}

impl Inputs {
    fn new(x: &[CubeTensor], [gamma, beta]: [CubeTensor; 2]) -> Self {
        let shapes: Vec<&[usize]> = x.iter().map(|x| x.meta.shape().as_ref()).collect();
        let sizes = Sizes {
            images: shapes[0][0],
            channels: shapes.iter().map(|shape| shape[1]).sum(),
            of_a: shapes[0][1],
            pixels: shapes[0][2..].iter().product(),
        };
        let [a, b] = [&x[0], &x[x.len() - 1]].map(|x| into_contiguous(x.clone()));
        let [gamma, beta] = [gamma, beta].map(into_contiguous);
        Self { a, b, gamma, beta, sizes }
    }

    /// A cube for each group of each image.
    ///
    /// # Panics
    /// If the groups take no whole channels.
    fn cubes(&self, args: NormArgs) -> (CubeCount, CubeDim) {
        let channels = self.sizes.channels;
        assert!(
            args.groups > 0 && channels.is_multiple_of(args.groups),
            "{channels} channels in {} groups",
            args.groups
        );
        (CubeCount::Static(self.sizes.images as u32, args.groups as u32, 1), CubeDim::new_1d(UNITS))
    }
}

impl FusedNormBackward for CubeBackend {
    fn group_norm_with_stats(
        x: &[CubeTensor],
        gamma: CubeTensor,
        beta: CubeTensor,
        shift: Option<CubeTensor>,
        args: NormArgs,
    ) -> (CubeTensor, CubeTensor) {
        let inputs = Inputs::new(x, [gamma, beta]);
        let (count, dim) = inputs.cubes(args);
        let Sizes { images, channels, of_a, pixels } = inputs.sizes;
        let mut shape = x[0].meta.shape().to_vec();
        shape[1] = channels;
        let (client, device) = (inputs.a.client.clone(), inputs.a.device.clone());
        let (y, stats) = (unwritten(&device, shape), unwritten(&device, [images, args.groups, 2]));
        let shifted = shift.is_some();
        // Without a shift the kernel does not look at it.
        let shift = shift.map_or_else(|| inputs.gamma.clone(), into_contiguous);
        forward_kernel::launch(
            &client,
            count,
            dim,
            inputs.a.into_buffer_arg(),
            inputs.b.into_buffer_arg(),
            inputs.gamma.into_buffer_arg(),
            inputs.beta.into_buffer_arg(),
            shift.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            stats.clone().into_buffer_arg(),
            of_a,
            channels,
            pixels,
            args.eps,
            args.silu,
            shifted,
        );
        (if args.dropout > 0.0 { dropout(y, args) } else { y }, stats)
    }

    fn group_norm_backward(
        x: Vec<CubeTensor>,
        saved: [CubeTensor; 3],
        shifted: bool,
        args: NormArgs,
        dy: CubeTensor,
    ) -> (Vec<CubeTensor>, Vec<CubeTensor>) {
        let [gamma, beta, stats] = saved;
        let dy = into_contiguous(dy);
        let dy = if args.dropout > 0.0 { dropout(dy, args) } else { dy };
        let inputs = Inputs::new(&x, [gamma, beta]);
        let (count, dim) = inputs.cubes(args);
        let Sizes { images, channels, of_a, pixels } = inputs.sizes;
        let (client, device) = (inputs.a.client.clone(), inputs.a.device.clone());
        let dx: Vec<CubeTensor> = x.iter().map(|x| unwritten(&device, x.meta.shape().clone())).collect();
        let of_channels = || unwritten(&device, [images, channels]);
        let (dgamma, dbeta, dshift) = (of_channels(), of_channels(), of_channels());
        backward_kernel::launch(
            &client,
            count,
            dim,
            inputs.a.into_buffer_arg(),
            inputs.b.into_buffer_arg(),
            inputs.gamma.into_buffer_arg(),
            inputs.beta.into_buffer_arg(),
            into_contiguous(stats).into_buffer_arg(),
            dy.into_buffer_arg(),
            dx[0].clone().into_buffer_arg(),
            dx[dx.len() - 1].clone().into_buffer_arg(),
            dgamma.clone().into_buffer_arg(),
            dbeta.clone().into_buffer_arg(),
            dshift.clone().into_buffer_arg(),
            of_a,
            channels,
            pixels,
            args.silu,
        );
        let of_all_images = |t| Self::float_reshape(Self::float_sum_dim(t, 0), [channels].into());
        let others = [of_all_images(dgamma), of_all_images(dbeta)];
        (dx, others.into_iter().chain(shifted.then_some(dshift)).collect())
    }
}

/// The group of an image that a cube computes, and where its numbers lie.
#[derive(CubeType)]
struct Group {
    image: usize,
    /// Its number among the groups of all images.
    number: usize,
    /// Its first channel.
    first: usize,
    /// Its channels, and its numbers.
    channels: usize,
    n: usize,
    /// Channels of the first tensor, and of both.
    of_a: usize,
    of_both: usize,
    pixels: usize,
}

#[cube]
impl Group {
    fn of_cube(of_a: usize, of_both: usize, pixels: usize) -> Group {
        let groups = CUBE_COUNT_Y as usize;
        let image = CUBE_POS_X as usize;
        let group = CUBE_POS_Y as usize;
        let channels = of_both / groups;
        Group {
            image,
            number: image * groups + group,
            first: group * channels,
            channels,
            n: channels * pixels,
            of_a,
            of_both,
            pixels,
        }
    }

    /// The channel of number `i` of the group; its pixel is the rest.
    fn channel(&self, i: usize) -> usize {
        self.first + i / self.pixels
    }

    /// Where a number lies in the first tensor or, if the channel is the second's, in that.
    fn place(&self, channel: usize, pixel: usize) -> usize {
        if channel < self.of_a {
            (self.image * self.of_a + channel) * self.pixels + pixel
        } else {
            (self.image * (self.of_both - self.of_a) + channel - self.of_a) * self.pixels + pixel
        }
    }

    fn read(&self, a: &[f32], b: &[f32], channel: usize, pixel: usize) -> f32 {
        let place = self.place(channel, pixel);
        if channel < self.of_a { a[place] } else { b[place] }
    }

    /// Where a number lies in a tensor of all channels.
    fn place_in_all(&self, channel: usize, pixel: usize) -> usize {
        (self.image * self.of_both + channel) * self.pixels + pixel
    }
}

#[cube(launch)]
fn forward_kernel(
    a: &[f32],
    b: &[f32],
    gamma: &[f32],
    beta: &[f32],
    shift: &[f32],
    y: &mut [f32],
    stats: &mut [f32],
    of_a: usize,
    channels: usize,
    pixels: usize,
    eps: f32,
    #[comptime] silu: bool,
    #[comptime] shifted: bool,
) {
    let mut shared = Shared::new_slice(UNITS as usize);
    let group = Group::of_cube(of_a, channels, pixels);
    let unit = UNIT_POS as usize;
    let units = UNITS as usize;
    let n = group.n;
    let steps = n.div_ceil(units);

    let mut sum = 0f32;
    for step in 0..steps {
        let i = step * units + unit;
        if i < n {
            let channel = group.channel(i);
            sum += group.read(a, b, channel, i % pixels);
        }
    }
    let mean = cube_sum(sum, &mut shared) / f32::cast_from(n);

    let mut squares = 0f32;
    for step in 0..steps {
        let i = step * units + unit;
        if i < n {
            let channel = group.channel(i);
            let off = group.read(a, b, channel, i % pixels) - mean;
            squares += off * off;
        }
    }
    let variance = cube_sum(squares, &mut shared) / f32::cast_from(n);
    let scale = 1.0f32 / f32::sqrt(variance + eps);
    if unit == 0 {
        stats[2 * group.number] = mean;
        stats[2 * group.number + 1] = scale;
    }

    for step in 0..steps {
        let i = step * units + unit;
        if i < n {
            let channel = group.channel(i);
            let pixel = i % pixels;
            let x = group.read(a, b, channel, pixel);
            let mut out = (x - mean) * scale * gamma[channel] + beta[channel];
            if silu {
                out = out / (1.0f32 + f32::exp(-out));
            }
            if shifted {
                out += shift[group.image * channels + channel];
            }
            y[group.place_in_all(channel, pixel)] = out;
        }
    }
}

/// The gradients of the inputs, and for each image those of gamma, beta and the shift.
#[cube(launch)]
fn backward_kernel(
    a: &[f32],
    b: &[f32],
    gamma: &[f32],
    beta: &[f32],
    stats: &[f32],
    dy: &[f32],
    da: &mut [f32],
    db: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    dshift: &mut [f32],
    of_a: usize,
    channels: usize,
    pixels: usize,
    #[comptime] silu: bool,
) {
    let mut shared = Shared::new_slice(3 * UNITS as usize);
    let group = Group::of_cube(of_a, channels, pixels);
    let unit = UNIT_POS as usize;
    let units = UNITS as usize;
    let n = group.n;
    let mean = stats[2 * group.number];
    let scale = stats[2 * group.number + 1];

    // 1. The sums over the pixels of each channel; with gamma, those over the group.
    let mut of_norm = 0f32;
    let mut of_x = 0f32;
    for c in 0..group.channels {
        let channel = group.first + c;
        let mut sum_d = 0f32;
        let mut sum_n = 0f32;
        let mut sum_nx = 0f32;
        for step in 0..pixels.div_ceil(units) {
            let pixel = step * units + unit;
            if pixel < pixels {
                let x = group.read(a, b, channel, pixel);
                let x = (x - mean) * scale;
                let d = dy[group.place_in_all(channel, pixel)];
                let dn = through_silu(d, x * gamma[channel] + beta[channel], silu);
                sum_d += d;
                sum_n += dn;
                sum_nx += dn * x;
            }
        }
        let sums = cube_sums(Three { a: sum_d, b: sum_n, c: sum_nx }, &mut shared);
        if unit == 0 {
            dshift[group.image * channels + channel] = sums.a;
            dbeta[group.image * channels + channel] = sums.b;
            dgamma[group.image * channels + channel] = sums.c;
        }
        of_norm += sums.b * gamma[channel];
        of_x += sums.c * gamma[channel];
    }
    of_norm /= f32::cast_from(n);
    of_x /= f32::cast_from(n);

    // 2. The gradient of each input.
    for step in 0..n.div_ceil(units) {
        let i = step * units + unit;
        if i < n {
            let channel = group.channel(i);
            let pixel = i % pixels;
            let from = group.place(channel, pixel);
            let x = (group.read(a, b, channel, pixel) - mean) * scale;
            let d = dy[group.place_in_all(channel, pixel)];
            let dn = through_silu(d, x * gamma[channel] + beta[channel], silu);
            let dx = scale * (dn * gamma[channel] - of_norm - x * of_x);
            if channel < of_a {
                da[from] = dx;
            } else {
                db[from] = dx;
            }
        }
    }
}

/// The gradient of SiLU's input, or `d` itself where there is no SiLU.
#[cube]
fn through_silu(d: f32, n: f32, #[comptime] silu: bool) -> f32 {
    if silu {
        let s = 1.0f32 / (1.0f32 + f32::exp(-n));
        d * s * (1.0f32 + n * (1.0f32 - s))
    } else {
        d
    }
}
