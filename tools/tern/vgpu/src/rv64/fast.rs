// SPDX-License-Identifier: MIT OR Apache-2.0

//! Floating-point operations in vectors of the host.
//!
//! They serve rounding to nearest and operands far enough from the ends of the range that nothing can be raised but
//! *inexact*. Whether it is comes of the rounding error, which those operations leave exactly computable. If one lane
//! is outside that, none is done here and [`soft`](super::soft) does all.

use super::decode::{Float, Fmt, Insn};
use super::regs::{Group, Lanes, Regs};
use super::soft::{fused_signs, unbox, Double, Format, Single, INEXACT};
use super::LANES;

/// What an operation gives for one lane.
#[derive(Clone, Copy)]
struct Outcome {
    /// The register.
    bits: u64,
    /// Whether it was rounded.
    inexact: bool,
    /// Whether the result counts at all.
    good: bool,
}

/// Does the operation in all lanes of the group, or in none and says so.
#[inline(always)]
pub(super) fn execute(
    float: Float,
    fmt: Fmt,
    insn: &Insn,
    group: &Group,
    regs: &mut Regs,
    flags: &mut Lanes,
) -> bool {
    let (product, addend) = fused_signs(float);
    macro_rules! lanes {
        ($f:expr) => {
            all_or_nothing(insn, group, regs, flags, $f)
        };
    }
    match (float, fmt) {
        (Float::Add, Fmt::S) => lanes!(|a, b, _| add_single(single(a), single(b))),
        (Float::Sub, Fmt::S) => lanes!(|a, b, _| add_single(single(a), -single(b))),
        (Float::Mul, Fmt::S) => lanes!(|a, b, _| multiply_single(single(a), single(b))),
        (Float::Div, Fmt::S) => lanes!(|a, b, _| divide_single(single(a), single(b))),
        (Float::Sqrt, Fmt::S) => lanes!(|a, _, _| square_root_single(single(a))),
        (Float::Add, Fmt::D) => lanes!(|a, b, _| add_double(double(a), double(b))),
        (Float::Sub, Fmt::D) => lanes!(|a, b, _| add_double(double(a), -double(b))),
        (Float::Mul, Fmt::D) => lanes!(|a, b, _| multiply_double(double(a), double(b))),
        (Float::Div, Fmt::D) => lanes!(|a, b, _| divide_double(double(a), double(b))),
        (Float::Sqrt, Fmt::D) => lanes!(|a, _, _| square_root_double(double(a))),
        (Float::Madd | Float::Msub | Float::Nmsub | Float::Nmadd, Fmt::S) => {
            let (p, q) = (
                if product { -1.0 } else { 1.0 },
                if addend { -1.0 } else { 1.0 },
            );
            lanes!(|a, b, c| fused_single(single(a) * p, single(b), single(c) * q))
        }
        (Float::Madd | Float::Msub | Float::Nmsub | Float::Nmadd, Fmt::D) => {
            let (p, q) = (
                if product { -1.0 } else { 1.0 },
                if addend { -1.0 } else { 1.0 },
            );
            lanes!(|a, b, c| fused_double(double(a) * p, double(b), double(c) * q))
        }
        (Float::Eq, Fmt::S) => lanes!(|a, b, _| compare(single(a), single(b), |a, b| a == b)),
        (Float::Lt, Fmt::S) => lanes!(|a, b, _| compare(single(a), single(b), |a, b| a < b)),
        (Float::Le, Fmt::S) => lanes!(|a, b, _| compare(single(a), single(b), |a, b| a <= b)),
        (Float::Eq, Fmt::D) => lanes!(|a, b, _| compare(double(a), double(b), |a, b| a == b)),
        (Float::Lt, Fmt::D) => lanes!(|a, b, _| compare(double(a), double(b), |a, b| a < b)),
        (Float::Le, Fmt::D) => lanes!(|a, b, _| compare(double(a), double(b), |a, b| a <= b)),
        (Float::Sgnj, Fmt::S) => move_signs::<Single>(insn, group, regs, |_, b| b),
        (Float::Sgnjn, Fmt::S) => move_signs::<Single>(insn, group, regs, |_, b| !b),
        (Float::Sgnjx, Fmt::S) => move_signs::<Single>(insn, group, regs, |a, b| a ^ b),
        (Float::Sgnj, Fmt::D) => move_signs::<Double>(insn, group, regs, |_, b| b),
        (Float::Sgnjn, Fmt::D) => move_signs::<Double>(insn, group, regs, |_, b| !b),
        (Float::Sgnjx, Fmt::D) => move_signs::<Double>(insn, group, regs, |a, b| a ^ b),
        (Float::MoveToX, Fmt::S) => {
            regs.map1(group, insn.rd, insn.rs1, |a| a as i32 as u64);
            moved(())
        }
        (Float::MoveToX | Float::MoveFromX, Fmt::D) => {
            regs.map1(group, insn.rd, insn.rs1, |a| a);
            moved(())
        }
        (Float::MoveFromX, Fmt::S) => {
            regs.map1(group, insn.rd, insn.rs1, |a| a | Single::BOX);
            moved(())
        }
        (Float::Convert, Fmt::D) => lanes!(|a, _, _| widen(single(a))),
        (Float::FromI32, Fmt::D) => {
            regs.map1(group, insn.rd, insn.rs1, |a| f64::from(a as i32).to_bits());
            moved(())
        }
        (Float::FromU32, Fmt::D) => {
            regs.map1(group, insn.rd, insn.rs1, |a| f64::from(a as u32).to_bits());
            moved(())
        }
        (Float::FromI32, Fmt::S) => lanes!(|a, _, _| from_integer(f64::from(a as i32))),
        (Float::FromU32, Fmt::S) => lanes!(|a, _, _| from_integer(f64::from(a as u32))),
        _ => false,
    }
}

fn moved((): ()) -> bool {
    true
}

#[inline(always)]
fn all_or_nothing(
    insn: &Insn,
    group: &Group,
    regs: &mut Regs,
    flags: &mut Lanes,
    f: impl Fn(u64, u64, u64) -> Outcome,
) -> bool {
    let [a, b, c] = [insn.rs1, insn.rs2, insn.rs3].map(|register| *regs.lanes(register));
    let mut bits = [0; LANES];
    let (mut bad, mut inexact) = ([0u64; LANES], [0u64; LANES]);
    for lane in 0..LANES {
        let outcome = f(a.0[lane], b.0[lane], c.0[lane]);
        bits[lane] = outcome.bits;
        inexact[lane] = if outcome.inexact { INEXACT } else { 0 };
        bad[lane] = if outcome.good { 0 } else { 1 };
    }
    if !group.all(|lane| bad[lane] == 0) {
        return false;
    }
    regs.map0(group, insn.rd, |lane| bits[lane]);
    group.raise(flags, &inexact);
    true
}

#[inline(always)]
fn move_signs<F: Format>(
    insn: &Insn,
    group: &Group,
    regs: &mut Regs,
    f: impl Fn(u64, u64) -> u64,
) -> bool {
    let sign = 1 << (F::FRACTION + F::EXPONENT);
    regs.map2(group, insn.rd, insn.rs1, insn.rs2, |a, b| {
        let (a, b) = (unbox::<F>(a), unbox::<F>(b));
        a & !sign | f(a, b) & sign | F::BOX
    });
    true
}

#[inline(always)]
fn single(register: u64) -> f32 {
    f32::from_bits(unbox::<Single>(register) as u32)
}

#[inline(always)]
fn double(register: u64) -> f64 {
    f64::from_bits(register)
}

#[inline(always)]
fn from_single(value: f32, inexact: bool, good: bool) -> Outcome {
    Outcome {
        bits: u64::from(value.to_bits()) | Single::BOX,
        inexact,
        good,
    }
}

#[inline(always)]
fn from_double(value: f64, inexact: bool, good: bool) -> Outcome {
    Outcome {
        bits: value.to_bits(),
        inexact,
        good,
    }
}

/// Two to the `exponent`, in single precision.
const fn power_single(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// Two to the `exponent`, in double precision.
const fn power_double(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// Whether a sum of two such cannot overflow.
#[inline(always)]
fn moderate_single(value: f32) -> bool {
    value.abs() < power_single(125)
}

/// Whether a result is normal, and was before it was rounded.
#[inline(always)]
fn normal_single(value: f32) -> bool {
    value.abs() > power_single(-126) && moderate_single(value)
}

/// Whether a sum of two such cannot overflow.
#[inline(always)]
fn moderate_double(value: f64) -> bool {
    value.abs() < power_double(1000)
}

/// Whether a number has room below it for twice its precision.
#[inline(always)]
fn deep_double(value: f64) -> bool {
    value.abs() > power_double(-800) && moderate_double(value)
}

/// The rounding error of `sum`, which is `a` plus `b` (Knuth).
#[inline(always)]
fn error_of_sum(a: f64, b: f64, sum: f64) -> f64 {
    let virtual_b = sum - a;
    let virtual_a = sum - virtual_b;
    (a - virtual_a) + (b - virtual_b)
}

#[inline(always)]
fn add_single(a: f32, b: f32) -> Outcome {
    let sum = a + b;
    let virtual_b = sum - a;
    let error = (a - (sum - virtual_b)) + (b - virtual_b);
    from_single(sum, error != 0.0, moderate_single(a) & moderate_single(b))
}

#[inline(always)]
fn multiply_single(a: f32, b: f32) -> Outcome {
    // Exact: twice the precision.
    let product = f64::from(a) * f64::from(b);
    let result = product as f32;
    from_single(
        result,
        f64::from(result) != product,
        normal_single(result) | (product == 0.0),
    )
}

#[inline(always)]
fn divide_single(a: f32, b: f32) -> Outcome {
    let quotient = a / b;
    let back = f64::from(quotient) * f64::from(b);
    from_single(
        quotient,
        back != f64::from(a),
        normal_single(quotient) & moderate_single(b),
    )
}

#[inline(always)]
fn square_root_single(a: f32) -> Outcome {
    let root = a.sqrt();
    let back = f64::from(root) * f64::from(root);
    from_single(root, back != f64::from(a), (a > 0.0) & moderate_single(a))
}

#[inline(always)]
fn fused_single(a: f32, b: f32, c: f32) -> Outcome {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let error = error_of_sum(product, c, sum);
    // Rounding twice goes wrong only where the first result is a tie of the second. If its last bit is made odd
    // whenever it is not exact, it is never a tie.
    let bits = sum.to_bits();
    let outwards = (error.to_bits() ^ bits) >> 63 == 0;
    let odd = if outwards {
        bits.wrapping_add(1)
    } else {
        bits.wrapping_sub(1)
    };
    let sticky = if (error != 0.0) & (bits & 1 == 0) {
        odd
    } else {
        bits
    };
    let result = f64::from_bits(sticky) as f32;
    let inexact = (error != 0.0) | (f64::from(result) != sum);
    from_single(result, inexact, normal_single(result) | (sum == 0.0))
}

#[inline(always)]
fn add_double(a: f64, b: f64) -> Outcome {
    let sum = a + b;
    from_double(
        sum,
        error_of_sum(a, b, sum) != 0.0,
        moderate_double(a) & moderate_double(b),
    )
}

#[inline(always)]
fn multiply_double(a: f64, b: f64) -> Outcome {
    let product = a * b;
    let error = a.mul_add(b, -product);
    let zero = ((a == 0.0) & moderate_double(b)) | ((b == 0.0) & moderate_double(a));
    from_double(product, error != 0.0, deep_double(product) | zero)
}

#[inline(always)]
fn divide_double(a: f64, b: f64) -> Outcome {
    let quotient = a / b;
    let rest = quotient.mul_add(b, -a);
    from_double(
        quotient,
        rest != 0.0,
        deep_double(quotient) & deep_double(a) & deep_double(b),
    )
}

#[inline(always)]
fn square_root_double(a: f64) -> Outcome {
    let root = a.sqrt();
    let rest = root.mul_add(root, -a);
    from_double(root, rest != 0.0, (a > 0.0) & deep_double(a))
}

#[inline(always)]
fn fused_double(a: f64, b: f64, c: f64) -> Outcome {
    let result = a.mul_add(b, c);
    // The error of a fused operation, exactly (Boldo and Muller).
    let product = a * b;
    let low = a.mul_add(b, -product);
    let tail = c + low;
    let tail_error = error_of_sum(c, low, tail);
    let head = product + tail;
    let head_error = error_of_sum(product, tail, head);
    let error = ((head - result) + head_error) + tail_error;
    let zero = ((a == 0.0) & moderate_double(b)) | ((b == 0.0) & moderate_double(a));
    let good = (deep_double(product) | zero) & (deep_double(c) | (c == 0.0));
    from_double(result, error != 0.0, good)
}

#[inline(always)]
fn compare<T: Copy + PartialOrd>(a: T, b: T, holds: impl Fn(T, T) -> bool) -> Outcome {
    let ordered = (a < b) | (a >= b);
    Outcome {
        bits: u64::from(holds(a, b)),
        inexact: false,
        good: ordered,
    }
}

#[inline(always)]
fn widen(value: f32) -> Outcome {
    from_double(f64::from(value), false, value.abs() < f32::INFINITY)
}

#[inline(always)]
fn from_integer(value: f64) -> Outcome {
    let result = value as f32;
    from_single(result, f64::from(result) != value, true)
}
