// SPDX-License-Identifier: MIT OR Apache-2.0

//! Comparing the device's result with the CPU's, bit for bit.

use std::fmt::Debug;

use crate::memory::Plain;

/// The first difference between two results.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the device's result differs from the CPU's: {what}[{index}], byte at {address:#x}: \
     expected {expected}, got {got}"
)]
pub struct Mismatch {
    /// Name of the array.
    what: &'static str,
    /// Element that differs.
    index: usize,
    /// Address of its first byte that differs.
    address: usize,
    expected: String,
    got: String,
}

/// Compares all bytes of `got` with `expected`, which must be equally long. `first` is the index
/// in the array `what` of their first element.
///
/// # Errors
///
/// [`Mismatch`]: the first difference.
pub fn compare<T: Plain + Debug>(
    what: &'static str,
    first: usize,
    got: &[T],
    expected: &[T],
) -> Result<(), Mismatch> {
    assert_eq!(
        got.len(),
        expected.len(),
        "results of different lengths are a mistake in here"
    );
    if as_bytes(got) == as_bytes(expected) {
        return Ok(());
    }
    let differs = |(a, b): (&u8, &u8)| a != b;
    let byte = as_bytes(got)
        .iter()
        .zip(as_bytes(expected))
        .position(differs)
        .unwrap_or(0);
    let index = byte / size_of::<T>();
    Err(Mismatch {
        what,
        index: first + index,
        address: got.as_ptr() as usize + byte,
        expected: show(&expected[index]),
        got: show(&got[index]),
    })
}

/// Value and bytes: two different bit patterns may look the same as numbers.
fn show<T: Plain + Debug>(value: &T) -> String {
    let bytes: Vec<_> = as_bytes(std::slice::from_ref(value))
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("{value:?} (bytes {})", bytes.join(" "))
}

fn as_bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: plain types have no padding, so all bytes are initialised.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_is_equal() {
        assert_eq!(compare("a", 0, &[1u64, 2], &[1, 2]), Ok(()));
        assert_eq!(compare::<u64>("a", 0, &[], &[]), Ok(()));
    }

    #[test]
    fn the_first_difference_is_told() {
        let got = [1u64, 0x1200, 3];
        let error = compare("a", 10, &got, &[1, 0x1300, 4]).unwrap_err();
        let expected = format!(
            "the device's result differs from the CPU's: a[11], byte at {:#x}: \
             expected 4864 (bytes 00 13 00 00 00 00 00 00), \
             got 4608 (bytes 00 12 00 00 00 00 00 00)",
            &got[1] as *const u64 as usize + 1,
        );
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn numbers_that_compare_equal_may_differ_in_bits() {
        assert!(compare("a", 0, &[0.0f64], &[-0.0]).is_err());
        assert!(compare("a", 0, &[f32::NAN], &[f32::NAN]).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn every_flipped_bit_is_found(
            values: [u64; 16],
            index in 0usize..16,
            bit in 0u32..64,
        ) {
            let mut got = values;
            got[index] ^= 1 << bit;
            let error = compare("a", 0, &got, &values).unwrap_err();
            proptest::prop_assert_eq!(error.index, index);
            let byte = &got[index] as *const u64 as usize + bit as usize / 8;
            proptest::prop_assert_eq!(error.address, byte);
        }
    }
}
