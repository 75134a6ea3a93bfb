// SPDX-License-Identifier: MIT OR Apache-2.0

//! Exact floating-point arithmetic, with every rounding mode and exception of RISC-V.
//!
//! A finite number is a sign, an integer and a power of two. An operation computes its result exactly, or so closely
//! that a lowest bit that is set stands for everything below it, and [`Arithmetic::round`] does the rest. Software
//! libraries with all five modes leave out square roots or find underflow before rounding rather than after it.

use super::decode::{Float, RDN, RMM, RNE, RUP};

/// Exception flag: the result was rounded.
pub(super) const INEXACT: u64 = 1;
/// Exception flag: the result was rounded and too small for full precision.
pub(super) const UNDERFLOW: u64 = 2;
/// Exception flag: the result was too large.
pub(super) const OVERFLOW: u64 = 4;
/// Exception flag: a finite number was divided by zero.
pub(super) const DIVIDE_BY_ZERO: u64 = 8;
/// Exception flag: there is no sensible result.
pub(super) const INVALID: u64 = 16;

/// Where [`Number::normal`] puts the highest bit: two below the top, so that a sum has room.
const TOP: u32 = 125;

/// A binary interchange format, in the low bits of a register.
pub(super) trait Format {
    /// Bits of the fraction.
    const FRACTION: u32;
    /// Bits of the exponent.
    const EXPONENT: u32;
    /// Ones above the value, where the format is narrower than a register.
    const BOX: u64;
}

/// Single precision.
pub(super) struct Single;
/// Double precision.
pub(super) struct Double;

impl Format for Single {
    const FRACTION: u32 = 23;
    const EXPONENT: u32 = 8;
    const BOX: u64 = 0xffff_ffff << 32;
}

impl Format for Double {
    const FRACTION: u32 = 52;
    const EXPONENT: u32 = 11;
    const BOX: u64 = 0;
}

/// A finite number: plus or minus `significand` times two to the `exponent`.
#[derive(Clone, Copy)]
struct Number {
    negative: bool,
    exponent: i32,
    significand: u128,
}

#[derive(Clone, Copy)]
enum Value {
    Finite(Number),
    Infinite(bool),
    Nan,
}

use Value::{Finite, Infinite, Nan};

/// Shifts right; a lowest bit that is set stands for what was shifted out too.
fn shift_jam(value: u128, shift: u32) -> u128 {
    if shift >= u128::BITS {
        return u128::from(value != 0);
    }
    let kept = value >> shift;
    kept | u128::from(kept << shift != value)
}

impl Number {
    fn zero(negative: bool) -> Self {
        Self {
            negative,
            exponent: 0,
            significand: 0,
        }
    }

    /// The same with its highest bit at [`TOP`]. It is not zero, and below twice that.
    fn normal(self) -> Self {
        let shift = self.significand.leading_zeros() as i32 - (u128::BITS - 1 - TOP) as i32;
        let significand = if shift < 0 {
            shift_jam(self.significand, shift.unsigned_abs())
        } else {
            self.significand << shift
        };
        Self {
            exponent: self.exponent - shift,
            significand,
            ..self
        }
    }

    fn multiply(self, other: Self) -> Self {
        Self {
            negative: self.negative != other.negative,
            exponent: self.exponent + other.exponent,
            significand: self.significand * other.significand,
        }
    }

    /// The sum; `rm` gives the sign of a zero that comes of two signs.
    fn add(self, other: Self, rm: u8) -> Self {
        match (self.significand, other.significand) {
            (0, 0) if self.negative == other.negative => return self,
            (0, 0) => return Self::zero(rm == RDN),
            (0, _) => return other,
            (_, 0) => return self,
            _ => {}
        }
        let (a, b) = (self.normal(), other.normal());
        let (large, small) = if (a.exponent, a.significand) >= (b.exponent, b.significand) {
            (a, b)
        } else {
            (b, a)
        };
        let aligned = shift_jam(small.significand, large.exponent.abs_diff(small.exponent));
        if large.negative == small.negative {
            return Self {
                significand: large.significand + aligned,
                ..large
            };
        }
        match large.significand - aligned {
            0 => Self::zero(rm == RDN),
            significand => Self {
                significand,
                ..large
            },
        }
    }

    /// The quotient; the divisor is not zero.
    fn divide(self, other: Self) -> Self {
        let negative = self.negative != other.negative;
        if self.significand == 0 {
            return Self::zero(negative);
        }
        let a = self.normal();
        let quotient = a.significand / other.significand;
        let rest = a.significand % other.significand;
        Self {
            negative,
            exponent: a.exponent - other.exponent,
            significand: quotient | u128::from(rest != 0),
        }
    }

    /// The square root of a number that is not negative.
    fn square_root(self) -> Self {
        if self.significand == 0 {
            return self;
        }
        let normal = self.normal();
        let odd = normal.exponent & 1;
        let square = normal.significand << odd;
        let root = square.isqrt();
        Self {
            negative: false,
            exponent: (normal.exponent - odd) / 2,
            significand: root | u128::from(root * root != square),
        }
    }
}

/// Divides by two to the `shift` and rounds to an integer. Says whether that lost anything.
fn round_off(significand: u128, shift: u32, negative: bool, rm: u8) -> (u128, bool) {
    // Far below a half is as good as a quarter.
    let (significand, shift) = if shift >= u128::BITS - 1 {
        (u128::from(significand != 0), 2)
    } else {
        (significand, shift)
    };
    if shift == 0 {
        return (significand, false);
    }
    let kept = significand >> shift;
    let rest = significand - (kept << shift);
    let half = 1 << (shift - 1);
    let up = match rm {
        RNE => rest > half || rest == half && kept & 1 == 1,
        RMM => rest >= half,
        RDN => negative && rest != 0,
        RUP => !negative && rest != 0,
        _ => false,
    };
    (kept + u128::from(up), rest != 0)
}

/// Arithmetic in one rounding mode, with the exceptions that it raised.
pub(super) struct Arithmetic {
    /// Rounding mode.
    pub rm: u8,
    /// Exception flags.
    pub flags: u64,
}

fn sign<F: Format>() -> u64 {
    1 << (F::FRACTION + F::EXPONENT)
}

fn infinity<F: Format>() -> u64 {
    ((1 << F::EXPONENT) - 1) << F::FRACTION
}

/// The NaN that all operations give.
fn canonical<F: Format>() -> u64 {
    infinity::<F>() | quiet::<F>()
}

fn quiet<F: Format>() -> u64 {
    1 << (F::FRACTION - 1)
}

fn bias<F: Format>() -> i32 {
    (1 << (F::EXPONENT - 1)) - 1
}

fn magnitude<F: Format>(bits: u64) -> u64 {
    bits & (sign::<F>() - 1)
}

fn is_negative<F: Format>(bits: u64) -> bool {
    bits & sign::<F>() != 0
}

fn is_nan<F: Format>(bits: u64) -> bool {
    magnitude::<F>(bits) > infinity::<F>()
}

fn is_signaling<F: Format>(bits: u64) -> bool {
    is_nan::<F>(bits) && bits & quiet::<F>() == 0
}

/// Takes a value out of a register; what is not boxed properly counts as a NaN.
#[inline(always)]
pub(super) fn unbox<F: Format>(register: u64) -> u64 {
    if register & F::BOX == F::BOX {
        register & !F::BOX
    } else {
        canonical::<F>()
    }
}

/// Says to which of ten classes a value belongs, as a set bit.
fn classify<F: Format>(bits: u64) -> u64 {
    let magnitude = magnitude::<F>(bits);
    if is_nan::<F>(bits) {
        return if is_signaling::<F>(bits) {
            1 << 8
        } else {
            1 << 9
        };
    }
    let class = if magnitude == infinity::<F>() {
        3
    } else if magnitude >> F::FRACTION != 0 {
        2
    } else {
        u32::from(magnitude != 0)
    };
    1 << if is_negative::<F>(bits) {
        3 - class
    } else {
        4 + class
    }
}

impl Arithmetic {
    fn invalid<F: Format>(&mut self) -> u64 {
        self.flags |= INVALID;
        canonical::<F>()
    }

    fn unpack<F: Format>(&mut self, bits: u64) -> Value {
        let negative = is_negative::<F>(bits);
        let fraction = bits & ((1 << F::FRACTION) - 1);
        let biased = (magnitude::<F>(bits) >> F::FRACTION) as i32;
        if is_nan::<F>(bits) {
            if is_signaling::<F>(bits) {
                self.flags |= INVALID;
            }
            Nan
        } else if magnitude::<F>(bits) == infinity::<F>() {
            Infinite(negative)
        } else {
            let hidden = u64::from(biased != 0) << F::FRACTION;
            let exponent = biased.max(1) - bias::<F>() - F::FRACTION as i32;
            Finite(Number {
                negative,
                exponent,
                significand: u128::from(hidden | fraction),
            })
        }
    }

    /// Rounds to the format.
    fn round<F: Format>(&mut self, number: Number) -> u64 {
        let negative = number.negative;
        let signed = |bits: u64| if negative { bits | sign::<F>() } else { bits };
        if number.significand == 0 {
            return signed(0);
        }
        let Number {
            exponent,
            significand,
            ..
        } = number.normal();
        let (fraction, smallest) = (F::FRACTION as i32, 1 - bias::<F>());
        let leading = exponent + TOP as i32;
        // The exponents of the lowest bit in the result, and of the lowest bit were there no smallest exponent.
        let (unit, free) = (leading.max(smallest) - fraction, leading - fraction);
        let (kept, inexact) = round_off(significand, unit.abs_diff(exponent), negative, self.rm);
        if inexact {
            self.flags |= INEXACT;
            let (kept, _) = round_off(significand, free.abs_diff(exponent), negative, self.rm);
            let carried = (kept >> (F::FRACTION + 1)) as i32;
            if leading + carried < smallest {
                self.flags |= UNDERFLOW;
            }
        }
        // The hidden bit of a normal number adds one to the exponent, and so does a carry beyond it.
        let base = (unit + fraction - smallest) as u64;
        let bits = (base << F::FRACTION).wrapping_add(kept as u64);
        if base >= (1 << F::EXPONENT) - 1 || bits >= infinity::<F>() {
            return signed(self.overflow::<F>(negative));
        }
        signed(bits)
    }

    fn overflow<F: Format>(&mut self, negative: bool) -> u64 {
        self.flags |= OVERFLOW | INEXACT;
        let away = match self.rm {
            RNE | RMM => true,
            RDN => negative,
            RUP => !negative,
            _ => false,
        };
        infinity::<F>() - u64::from(!away)
    }

    fn infinite<F: Format>(negative: bool) -> u64 {
        if negative {
            infinity::<F>() | sign::<F>()
        } else {
            infinity::<F>()
        }
    }

    fn add<F: Format>(&mut self, a: Value, b: Value) -> u64 {
        match (a, b) {
            (Nan, _) | (_, Nan) => canonical::<F>(),
            (Infinite(a), Infinite(b)) if a != b => self.invalid::<F>(),
            (Infinite(negative), _) | (_, Infinite(negative)) => Self::infinite::<F>(negative),
            (Finite(a), Finite(b)) => {
                let sum = a.add(b, self.rm);
                self.round::<F>(sum)
            }
        }
    }

    fn multiply(&mut self, a: Value, b: Value) -> Value {
        match (a, b) {
            (Nan, _) | (_, Nan) => Nan,
            (Infinite(a), Infinite(b)) => Infinite(a != b),
            (Infinite(negative), Finite(number)) | (Finite(number), Infinite(negative)) => {
                if number.significand == 0 {
                    self.flags |= INVALID;
                    return Nan;
                }
                Infinite(negative != number.negative)
            }
            (Finite(a), Finite(b)) => Finite(a.multiply(b)),
        }
    }

    fn divide<F: Format>(&mut self, a: Value, b: Value) -> u64 {
        match (a, b) {
            (Nan, _) | (_, Nan) => canonical::<F>(),
            (Infinite(_), Infinite(_)) => self.invalid::<F>(),
            (Infinite(a), Finite(b)) => Self::infinite::<F>(a != b.negative),
            (Finite(a), Infinite(b)) => self.round::<F>(Number::zero(a.negative != b)),
            (Finite(a), Finite(b)) if b.significand == 0 => {
                if a.significand == 0 {
                    return self.invalid::<F>();
                }
                self.flags |= DIVIDE_BY_ZERO;
                Self::infinite::<F>(a.negative != b.negative)
            }
            (Finite(a), Finite(b)) => self.round::<F>(a.divide(b)),
        }
    }

    fn square_root<F: Format>(&mut self, a: Value) -> u64 {
        match a {
            Nan => canonical::<F>(),
            Finite(a) if a.negative && a.significand != 0 => self.invalid::<F>(),
            Infinite(true) => self.invalid::<F>(),
            Infinite(false) => infinity::<F>(),
            Finite(a) => self.round::<F>(a.square_root()),
        }
    }

    fn pack<F: Format>(&mut self, value: Value) -> u64 {
        match value {
            Nan => canonical::<F>(),
            Infinite(negative) => Self::infinite::<F>(negative),
            Finite(number) => self.round::<F>(number),
        }
    }

    /// To an integer from `min` to `max`; what does not fit becomes the nearest of them, and a NaN the largest.
    fn round_to_integer(&mut self, value: Value, min: i128, max: i128) -> u64 {
        let number = match value {
            Nan => {
                self.flags |= INVALID;
                return max as u64;
            }
            Infinite(negative) => {
                self.flags |= INVALID;
                return if negative { min } else { max } as u64;
            }
            Finite(number) => number,
        };
        // Beyond 64 bits it does not matter how far.
        let (size, inexact) = if number.exponent > 64 && number.significand != 0 {
            (1 << 64, false)
        } else if number.exponent >= 0 {
            (number.significand << number.exponent.min(64), false)
        } else {
            round_off(
                number.significand,
                number.exponent.unsigned_abs(),
                number.negative,
                self.rm,
            )
        };
        let integer = if number.negative {
            -(size as i128)
        } else {
            size as i128
        };
        if integer < min || integer > max {
            self.flags |= INVALID;
            return integer.clamp(min, max) as u64;
        }
        if inexact {
            self.flags |= INEXACT;
        }
        integer as u64
    }

    fn convert_integer<F: Format>(&mut self, integer: i128) -> u64 {
        let number = Number {
            negative: integer < 0,
            exponent: 0,
            significand: integer.unsigned_abs(),
        };
        self.round::<F>(number)
    }

    fn smaller_or_larger<F: Format>(&mut self, a: u64, b: u64, larger: bool) -> u64 {
        if is_signaling::<F>(a) || is_signaling::<F>(b) {
            self.flags |= INVALID;
        }
        match (is_nan::<F>(a), is_nan::<F>(b)) {
            (true, true) => canonical::<F>(),
            (true, false) => b,
            (false, true) => a,
            // Negative zero counts as smaller here, unlike in comparisons.
            (false, false) => match (order::<F>(a) < order::<F>(b)) != larger {
                true => a,
                false => b,
            },
        }
    }

    /// Compares; a NaN is not equal to anything, and invalid if `quietly` is not set.
    fn compare<F: Format>(
        &mut self,
        a: u64,
        b: u64,
        quietly: bool,
        holds: impl Fn(i64, i64) -> bool,
    ) -> u64 {
        if is_nan::<F>(a) || is_nan::<F>(b) {
            if !quietly || is_signaling::<F>(a) || is_signaling::<F>(b) {
                self.flags |= INVALID;
            }
            return 0;
        }
        // Both zeros are equal.
        let key = |bits| order::<F>(if magnitude::<F>(bits) == 0 { 0 } else { bits });
        u64::from(holds(key(a), key(b)))
    }

    /// Carries out a computation on registers in format `F`; `Convert` comes from format `G`.
    pub fn compute<F: Format, G: Format>(&mut self, float: Float, a: u64, b: u64, c: u64) -> u64 {
        let (x, y) = (unbox::<F>(a), unbox::<F>(b));
        let result = match float {
            Float::Eq => return self.compare::<F>(x, y, true, |x, y| x == y),
            Float::Lt => return self.compare::<F>(x, y, false, |x, y| x < y),
            Float::Le => return self.compare::<F>(x, y, false, |x, y| x <= y),
            Float::Class => return classify::<F>(x),
            Float::ToI32 => return self.integer::<F>(x, i32::MIN.into(), i32::MAX.into()),
            // A word is always sign-extended in its register.
            Float::ToU32 => return self.integer::<F>(x, 0, u32::MAX.into()) as i32 as u64,
            Float::ToI64 => return self.integer::<F>(x, i64::MIN.into(), i64::MAX.into()),
            Float::ToU64 => return self.integer::<F>(x, 0, u64::MAX.into()),
            Float::MoveToX if F::BOX != 0 => return a as i32 as u64,
            Float::MoveToX => return a,
            Float::MoveFromX => a & !F::BOX,
            Float::FromI32 => self.convert_integer::<F>((a as i32).into()),
            Float::FromU32 => self.convert_integer::<F>((a as u32).into()),
            Float::FromI64 => self.convert_integer::<F>((a as i64).into()),
            Float::FromU64 => self.convert_integer::<F>(a.into()),
            Float::Convert => {
                let value = self.unpack::<G>(unbox::<G>(a));
                self.pack::<F>(value)
            }
            Float::Sgnj => magnitude::<F>(x) | y & sign::<F>(),
            Float::Sgnjn => magnitude::<F>(x) | !y & sign::<F>(),
            Float::Sgnjx => x ^ y & sign::<F>(),
            Float::Min => self.smaller_or_larger::<F>(x, y, false),
            Float::Max => self.smaller_or_larger::<F>(x, y, true),
            Float::Add => self.sum::<F>(x, y),
            Float::Sub => self.sum::<F>(x, y ^ sign::<F>()),
            Float::Mul => {
                let (x, y) = (self.unpack::<F>(x), self.unpack::<F>(y));
                let product = self.multiply(x, y);
                self.pack::<F>(product)
            }
            Float::Div => {
                let (x, y) = (self.unpack::<F>(x), self.unpack::<F>(y));
                self.divide::<F>(x, y)
            }
            Float::Sqrt => {
                let x = self.unpack::<F>(x);
                self.square_root::<F>(x)
            }
            Float::Madd | Float::Msub | Float::Nmsub | Float::Nmadd => {
                let (product, addend) = fused_signs(float);
                let flip = |negate: bool| if negate { sign::<F>() } else { 0 };
                self.fused::<F>(x ^ flip(product), y, unbox::<F>(c) ^ flip(addend))
            }
        };
        result | F::BOX
    }

    fn integer<F: Format>(&mut self, bits: u64, min: i128, max: i128) -> u64 {
        let value = self.unpack::<F>(bits);
        self.round_to_integer(value, min, max)
    }

    fn sum<F: Format>(&mut self, a: u64, b: u64) -> u64 {
        let (a, b) = (self.unpack::<F>(a), self.unpack::<F>(b));
        self.add::<F>(a, b)
    }

    fn fused<F: Format>(&mut self, a: u64, b: u64, c: u64) -> u64 {
        let (a, b, c) = (
            self.unpack::<F>(a),
            self.unpack::<F>(b),
            self.unpack::<F>(c),
        );
        let product = self.multiply(a, b);
        self.add::<F>(product, c)
    }
}

/// Says whether a fused operation negates its product, and its addend.
#[inline(always)]
pub(super) fn fused_signs(float: Float) -> (bool, bool) {
    match float {
        Float::Msub => (false, true),
        Float::Nmsub => (true, false),
        Float::Nmadd => (true, true),
        _ => (false, false),
    }
}

/// An integer that is ordered as the values are, negative zero below positive.
fn order<F: Format>(bits: u64) -> i64 {
    let magnitude = magnitude::<F>(bits) as i64;
    if is_negative::<F>(bits) {
        !magnitude
    } else {
        magnitude
    }
}
