//! The sum over the units of a cube.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

/// Units of a cube whose numbers are added up.
pub(super) const UNITS: u32 = 256;

/// The sum of the numbers of all units, added up in an order that does not depend on the device; every unit gets it.
/// `shared` holds [`UNITS`] numbers.
#[cube]
pub(super) fn cube_sum(number: f32, shared: &mut Shared<[f32]>) -> f32 {
    let unit = UNIT_POS as usize;
    // Until here, units may still read the sum before.
    sync_cube();
    shared[unit] = number;
    #[unroll]
    for level in 0..UNITS.ilog2() {
        let half = comptime!((UNITS >> (level + 1)) as usize);
        sync_cube();
        if unit < half {
            shared[unit] = shared[unit] + shared[unit + half];
        }
    }
    sync_cube();
    shared[0]
}
