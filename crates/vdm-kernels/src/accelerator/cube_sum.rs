//! Sums over the units of a cube.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

/// Units of a cube whose numbers are added up. A group of a normalisation has some hundreds of numbers or more, and there are
/// many groups: few units each wait for each other less.
pub(super) const UNITS: u32 = 64;

/// The sum of the numbers of all units, added up in an order that does not depend on the device; every unit gets it.
/// `shared` holds [`UNITS`] numbers.
#[cube]
pub(super) fn cube_sum(number: f32, shared: &mut Shared<[f32]>) -> f32 {
    // Until here, units may still read the sum before.
    sync_cube();
    shared[UNIT_POS as usize] = number;
    add_up(shared, 1u32);
    shared[0]
}

/// Three numbers.
#[derive(CubeType)]
pub(super) struct Three {
    pub a: f32,
    pub b: f32,
    pub c: f32,
}

/// [`cube_sum`] of three numbers of each unit at once: as many waits as for one. `shared` holds three times [`UNITS`] numbers.
#[cube]
pub(super) fn cube_sums(numbers: Three, shared: &mut Shared<[f32]>) -> Three {
    let unit = UNIT_POS as usize;
    let units = UNITS as usize;
    sync_cube();
    shared[unit] = numbers.a;
    shared[units + unit] = numbers.b;
    shared[2 * units + unit] = numbers.c;
    add_up(shared, 3u32);
    Three { a: shared[0], b: shared[units], c: shared[2 * units] }
}

/// The first of each [`UNITS`] numbers becomes the sum of them, for `rows` times so many.
#[cube]
fn add_up(shared: &mut Shared<[f32]>, #[comptime] rows: u32) {
    let unit = UNIT_POS as usize;
    #[unroll]
    for level in 0..UNITS.ilog2() {
        let half = comptime!((UNITS >> (level + 1)) as usize);
        sync_cube();
        if unit < half {
            #[unroll]
            for row in 0..rows {
                let at = comptime!((row * UNITS) as usize) + unit;
                shared[at] += shared[at + half];
            }
        }
    }
    sync_cube();
}
