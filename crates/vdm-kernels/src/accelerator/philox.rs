//! The generator of [`crate::rng`]: the same numbers, drawn where they are used.

use super::{cube_device, own, tensor, units, unwritten};
use crate::NormArgs;
use crate::cpu::philox::{FACTORS, KEY_STEPS, ROUNDS, WIDE};
use crate::rng::Philox;
use burn::tensor::{Device, Tensor};
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

/// Numbers of an image that WIDE blocks make: standard normals, and dropout's factors.
const NORMALS: usize = 4 * WIDE;
const MASKS: usize = Philox::DROPOUT_UNIT;

/// `x` times dropout's factors, of rank 2 or more: image i has those of [`Philox::dropout`] of the stream i of `args.seed`. In
/// place where no other handle holds the memory.
pub(super) fn dropout(x: CubeTensor, args: NormArgs) -> CubeTensor {
    if x.meta.num_elements() == 0 {
        return x;
    }
    let x = own(x);
    let images = x.meta.shape()[0];
    let numbers = x.meta.num_elements() / images;
    let blocks = numbers.div_ceil(MASKS) * WIDE;
    let (count, dim) = units(&x.device, images * blocks);
    dropout_kernel::launch(
        &x.client,
        count,
        dim,
        x.clone().into_buffer_arg(),
        numbers,
        blocks,
        args.seed as u32,
        (args.seed >> 32) as u32,
        (args.dropout * 65536.0) as u32,
        1.0 / (1.0 - args.dropout),
    );
    x
}

/// Standard normal numbers, `[images, numbers]`: image i has those of [`Philox::normal`] of `streams[i]`, to rounding.
pub fn normal(streams: &[Philox], draw: u32, numbers: usize, device: &Device) -> Tensor<2> {
    let device = cube_device(device).expect("callers ask `takes` first");
    let names: Vec<u32> = streams.iter().flat_map(Philox::name).collect();
    let client = device.client();
    let names = client.create_from_slice(u32::as_bytes(&names));
    let out = unwritten(device, [streams.len(), numbers]);
    let blocks = numbers.div_ceil(NORMALS) * WIDE;
    let (count, dim) = units(device, streams.len() * blocks);
    normal_kernel::launch(
        &client,
        count,
        dim,
        // SAFETY: the buffer holds four words of each stream.
        unsafe { BufferArg::from_raw_parts(names, 4 * streams.len()) },
        out.clone().into_buffer_arg(),
        numbers,
        blocks,
        draw,
    );
    tensor(out)
}

/// The four words of a block.
#[derive(CubeType)]
struct Words {
    a: u32,
    b: u32,
    c: u32,
    d: u32,
}

#[cube]
impl Words {
    fn word(&self, #[comptime] i: u32) -> u32 {
        match i {
            0 => self.a,
            1 => self.b,
            2 => self.c,
            _ => self.d,
        }
    }
}

/// As [`crate::cpu::philox::rounds`].
#[cube]
fn rounds(key_low: u32, key_high: u32, block: u32, draw: u32, stream_low: u32, stream_high: u32) -> Words {
    let mut k0 = key_low;
    let mut k1 = key_high;
    let mut a = block;
    let mut b = draw;
    let mut c = stream_low;
    let mut d = stream_high;
    for _ in 0..ROUNDS {
        let (high0, low0) = (a.mul_hi(FACTORS[0]), a * FACTORS[0]);
        let (high1, low1) = (c.mul_hi(FACTORS[1]), c * FACTORS[1]);
        a = high1 ^ b ^ k0;
        b = low1;
        c = high0 ^ d ^ k1;
        d = low0;
        k0 += KEY_STEPS[0];
        k1 += KEY_STEPS[1];
    }
    Words { a, b, c, d }
}

/// A unit multiplies the eight numbers of one block: the lower halves of the four words of WIDE blocks, and then the upper
/// halves, are for 8 WIDE numbers one after another.
#[cube(launch)]
fn dropout_kernel(
    x: &mut [f32],
    numbers: usize,
    blocks: usize,
    seed_low: u32,
    seed_high: u32,
    threshold: u32,
    keep: f32,
) {
    let image = ABSOLUTE_POS / blocks;
    let block = ABSOLUTE_POS % blocks;
    if image * numbers < x.len() {
        let words = rounds(seed_low, seed_high, block as u32, 0u32, image as u32, 0u32);
        let first = (block / WIDE) * MASKS + block % WIDE;
        #[unroll]
        for half in 0..2u32 {
            #[unroll]
            for word in 0..4u32 {
                let at = first + comptime!((4 * half + word) as usize * WIDE);
                let bits = words.word(word) >> comptime!(16 * half) & 0xFFFF;
                if at < numbers {
                    let i = image * numbers + at;
                    x[i] = select(bits < threshold, 0f32, x[i] * keep);
                }
            }
        }
    }
}

/// A unit makes the four numbers of one block.
#[cube(launch)]
fn normal_kernel(streams: &[u32], out: &mut [f32], numbers: usize, blocks: usize, draw: u32) {
    let image = ABSOLUTE_POS / blocks;
    let block = ABSOLUTE_POS % blocks;
    if image * numbers < out.len() {
        let name = 4 * image;
        let words = rounds(streams[name], streams[name + 1], block as u32, draw, streams[name + 2], streams[name + 3]);
        let at = (block / WIDE) * NORMALS + block % WIDE;
        box_muller(out, image, numbers, at, words.a, words.b);
        box_muller(out, image, numbers, at + 2 * WIDE, words.c, words.d);
    }
}

/// Two standard normals from two random words, WIDE numbers apart; as in [`crate::rng`].
#[cube]
fn box_muller(out: &mut [f32], image: usize, numbers: usize, at: usize, a: u32, b: u32) {
    let u = (f32::cast_from(a >> 1) + 0.5f32) * (1.0f32 / 2_147_483_648.0f32);
    let square = ln(f32::min(u, 1.0f32)) * -2.0f32;
    let radius = f32::sqrt(f32::max(square, 0.0f32));
    let turns = f32::cast_from(b >> 8) * (1.0f32 / 16_777_216.0f32);
    // The quarter turn that is nearest, and the rest in [-1/8, 1/8] turns.
    let quarter = f32::floor(turns * 4.0f32 + 0.5f32);
    let r = (turns - quarter * 0.25f32) * std::f32::consts::TAU;
    let z = r * r;
    let s = fma(fma(-1.951_529_6e-4f32, z, 8.332_161e-3f32), z, -1.666_665_5e-1f32);
    let s = fma(s * z, r, r);
    let c = fma(fma(2.443_315_7e-5f32, z, -1.388_731_6e-3f32), z, 4.166_664_6e-2f32);
    let c = fma(c * z, z, fma(z, -0.5f32, 1.0f32));
    let q = u32::cast_from(quarter);
    let swap = (q & 1) == 1;
    let sin = select(swap, c, s);
    let cos = select(swap, s, c);
    let sin = select((q & 2) == 2, -sin, sin);
    let cos = select(((q + 1) & 2) == 2, -cos, cos);
    if at < numbers {
        out[image * numbers + at] = radius * cos;
    }
    let next = at + WIDE;
    if next < numbers {
        out[image * numbers + next] = radius * sin;
    }
}

/// The natural logarithm as in [`crate::cpu::math::ln`]: an accelerator's own may be off by more.
#[cube]
fn ln(x: f32) -> f32 {
    let shifted = u32::reinterpret(x) - 0x3f35_04f3;
    let e = f32::cast_from(i32::reinterpret(shifted) >> 23);
    let m = f32::reinterpret((shifted & 0x007f_ffff) + 0x3f35_04f3) - 1.0f32;
    let z = m * m;
    let p = fma(7.037_683_6e-2f32, m, -1.151_461e-1f32);
    let p = fma(p, m, 1.167_699_9e-1f32);
    let p = fma(p, m, -1.242_014_1e-1f32);
    let p = fma(p, m, 1.424_932_3e-1f32);
    let p = fma(p, m, -1.666_805_7e-1f32);
    let p = fma(p, m, 2.000_071_5e-1f32);
    let p = fma(p, m, -2.499_999_4e-1f32);
    let p = fma(p, m, 3.333_333e-1f32);
    let y = p * m * z;
    let y = fma(e, -2.121_944_4e-4f32, y);
    let y = fma(z, -0.5f32, y);
    fma(e, 0.693_359_4f32, m + y)
}
