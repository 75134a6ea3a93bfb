// SPDX-License-Identifier: MIT OR Apache-2.0

//! Kernels in C, built by a stock compiler, against what the host computes.

mod rv64;

use rv64::{finish, image, load, start, Ram, Random, CODE, DATA};
use tern_vgpu::rv64::{Start, Wave, LANES};

/// Where kernels find their arrays.
const ARRAYS: u64 = 0x100_0000;

/// Builds a kernel and runs `threads` of it in waves, with `args` as the words that its argument points to.
fn run(c: &str, threads: usize, args: &[u64], ram: impl FnOnce(&mut Ram)) -> (Ram, u64) {
    // The linker is told no order, so the entry is found by a jump in front of all.
    let source = format!(
        "typedef unsigned long u64; typedef unsigned u32;\n\
         void kernel(u64 *args, u64 index, u64 threads);\n\
         __attribute__((naked, section(\".text.first\"))) void _start(void) {{ __asm__(\"tail kernel\"); }}\n{c}"
    );
    let mut memory = load(&image(&source, "c"), LANES);
    ram(&mut memory);
    for (i, &arg) in args.iter().enumerate() {
        memory.write_u64(DATA + 0x8000 + 8 * i as u64, arg);
    }
    let mut retired = 0;
    for first in (0..threads).step_by(LANES) {
        let lanes = LANES.min(threads - first);
        let begin = Start {
            entry: CODE,
            first: first as u64,
            threads: threads as u64,
            ..start(lanes, DATA + 0x8000)
        };
        let mut wave = Wave::new(&begin);
        finish(&mut wave, &mut memory);
        retired += wave.retired();
    }
    (memory, retired)
}

fn bytes32(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

const GEMM: &str = "
void kernel(u64 *args, u64 index, u64 threads) {
    const float *a = (const float *)args[0], *b = (const float *)args[1];
    float *c = (float *)args[2];
    u64 n = args[3], row = index / n, column = index % n;
    float sum = 0;
    for (u64 k = 0; k < n; k++)
        sum = __builtin_fmaf(a[row * n + k], b[k * n + column], sum);
    c[index] = sum;
}";

fn gemm(n: usize) -> (Vec<f32>, Vec<f32>, u64) {
    let mut random = Random(7);
    let mut matrix = || {
        (0..n * n)
            .map(|_| random.below(1 << 20) as f32 / 3000.0 - 170.0)
            .collect::<Vec<f32>>()
    };
    let (a, b) = (matrix(), matrix());
    let size = (4 * n * n) as u64;
    let at = [ARRAYS, ARRAYS + size, ARRAYS + 2 * size];
    let (ram, retired) = run(GEMM, n * n, &[at[0], at[1], at[2], n as u64], |ram| {
        ram.write(at[0], &bytes32(&a));
        ram.write(at[1], &bytes32(&b));
        ram.map(at[2], size);
    });
    let found = ram.read(at[2], size);
    let found = found
        .chunks(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let expected = (0..n * n).map(|i| {
        (0..n).fold(0.0, |sum, k| {
            a[i / n * n + k].mul_add(b[k * n + i % n], sum)
        })
    });
    (found, expected.collect(), retired)
}

#[test]
fn matrices_multiply() {
    let (found, expected, _) = gemm(33);
    assert!(found == expected);
}

#[test]
fn doubles_add_up() {
    let c = "
void kernel(u64 *args, u64 index, u64 threads) {
    const double *in = (const double *)args[0];
    double *out = (double *)args[1], sum = 0;
    for (u64 i = index; i < args[2]; i += threads)
        sum += in[i] * in[i] / (1.0 + __builtin_sqrt(in[i]));
    out[index] = sum;
}";
    let (count, threads) = (5000, 100);
    let mut random = Random(8);
    let input: Vec<f64> = (0..count).map(|_| random.next() as f64 / 1e15).collect();
    let out = ARRAYS + 0x10_0000;
    let (ram, _) = run(c, threads, &[ARRAYS, out, count as u64], |ram| {
        ram.write(
            ARRAYS,
            &input
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect::<Vec<u8>>(),
        );
        ram.map(out, 8 * threads as u64);
    });
    for index in 0..threads {
        let terms = input.iter().skip(index).step_by(threads);
        let expected = terms.fold(0.0, |sum, x| sum + x * x / (1.0 + x.sqrt()));
        assert_eq!(
            f64::from_bits(ram.u64(out + 8 * index as u64)),
            expected,
            "thread {index}"
        );
    }
}

#[test]
fn histograms_count_everything() {
    let c = "
void kernel(u64 *args, u64 index, u64 threads) {
    const unsigned char *in = (const unsigned char *)args[0];
    u32 *bins = (u32 *)args[1];
    for (u64 i = index; i < args[2]; i += threads)
        __atomic_fetch_add(&bins[in[i] % 61], 1, __ATOMIC_RELAXED);
}";
    let mut random = Random(9);
    let input: Vec<u8> = (0..20001).map(|_| random.next() as u8).collect();
    let bins = ARRAYS + 0x10_0000;
    let (ram, _) = run(c, 70, &[ARRAYS, bins, input.len() as u64], |ram| {
        ram.write(ARRAYS, &input);
        ram.map(bins, 4096);
    });
    for bin in 0..61 {
        let expected = input.iter().filter(|&&byte| byte % 61 == bin).count();
        assert_eq!(
            ram.u32(bins + 4 * u64::from(bin)),
            expected as u32,
            "bin {bin}"
        );
    }
}

/// An integer mix as hashes do it; the same text is the kernel and, translated, the reference below.
const MIX: &str = "
static u32 rotate(u32 x, int n) { return x << n | x >> (32 - n); }
void kernel(u64 *args, u64 index, u64 threads) {
    u32 a = index, b = 0x67452301u, c = 0xefcdab89u, d = 0x98badcfeu;
    for (u64 i = 0; i < args[1]; i++) {
        u32 f = (b & c) | (~b & d), e = rotate(a + f + 0x5a827999u + (u32)i, 5);
        a = d; d = c; c = rotate(b, 30); b += e ^ (a >> 3) * 9;
    }
    ((u32 *)args[0])[index] = a ^ b ^ c ^ d;
}";

fn mix(index: u32, rounds: u32) -> u32 {
    let (mut a, mut b, mut c, mut d) = (index, 0x6745_2301u32, 0xefcd_ab89u32, 0x98ba_dcfeu32);
    for i in 0..rounds {
        let f = b & c | !b & d;
        let e = a
            .wrapping_add(f)
            .wrapping_add(0x5a82_7999)
            .wrapping_add(i)
            .rotate_left(5);
        (a, d, c) = (d, c, b.rotate_left(30));
        b = b.wrapping_add(e ^ (a >> 3).wrapping_mul(9));
    }
    a ^ b ^ c ^ d
}

fn run_mix(threads: usize, rounds: u32) -> (Ram, u64) {
    run(MIX, threads, &[ARRAYS, rounds.into()], |ram| {
        ram.map(ARRAYS, 4 * threads as u64)
    })
}

#[test]
fn integers_mix() {
    let (ram, _) = run_mix(75, 200);
    for index in 0..75 {
        assert_eq!(
            ram.u32(ARRAYS + 4 * u64::from(index)),
            mix(index, 200),
            "thread {index}"
        );
    }
}
