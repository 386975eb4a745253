//! One inversion modulo p on general registers.
//!
//! Bernstein and Yang, "Fast constant-time gcd computation and modular inversion" (2019), in the variable-time form with
//! 62-bit limbs of libsecp256k1's `modinv64` (P. Wuille). Everything inverted here is public. The lane kernels share one
//! inversion per batch, and this one is a quarter of the time of a power in lanes.

use super::encoding::P;

/// `1/x` modulo p (0 for 0); `x` and the result are below p, little-endian words.
pub(super) fn invert(x: &[u64; 4]) -> [u64; 4] {
    let mut d = [0; 5];
    let mut e = [1, 0, 0, 0, 0];
    let mut f = PRIME;
    let mut g = limbs(x);
    let mut len = 5;
    let mut eta = -1;
    // 741 steps suffice for 256-bit inputs in theory, 12 rounds of 62; the loop ends earlier, when g is 0.
    loop {
        let step = Matrix::of_62_steps(&mut eta, f[0].cast_unsigned(), g[0].cast_unsigned());
        step.apply_modulo_p(&mut d, &mut e);
        step.apply(&mut f[..len], &mut g[..len]);
        if g[..len].iter().all(|limb| *limb == 0) {
            break;
        }
        // Drop the top limbs once both are only signs.
        let (top_f, top_g) = (f[len - 1], g[len - 1]);
        if len >= 2 && (top_f == 0 || top_f == -1) && (top_g == 0 || top_g == -1) {
            f[len - 2] |= top_f << 62;
            g[len - 2] |= top_g << 62;
            len -= 1;
        }
    }
    words(&normalized(d, f[len - 1] < 0))
}

/// p in signed limbs of 62 bits: -19 + 128 · 2^248.
const PRIME: [i64; 5] = [-19, 0, 0, 0, 128];
/// 1/p modulo 2^62.
const PRIME_INVERSE: u64 = inverse_of_minus_19() & LOW_62;
const LOW_62: u64 = u64::MAX >> 2;

/// `x` such that `-19 · x = 1` modulo 2^64, by Newton's iteration.
const fn inverse_of_minus_19() -> u64 {
    let n = 0_u64.wrapping_sub(19);
    let mut x = n; // right modulo 2^3
    let mut i = 0;
    while i < 5 {
        x = x.wrapping_mul(2_u64.wrapping_sub(n.wrapping_mul(x)));
        i += 1;
    }
    assert!(n.wrapping_mul(x) == 1);
    x
}

/// What 62 division steps do to (f, g): 2^62 times the new pair is this matrix times the old.
struct Matrix {
    u: i64,
    v: i64,
    q: i64,
    r: i64,
}

impl Matrix {
    fn of_62_steps(eta: &mut i64, mut f: u64, mut g: u64) -> Self {
        let (mut u, mut v, mut q, mut r) = (1_u64, 0_u64, 0_u64, 1_u64);
        let mut left = 62_u32;
        loop {
            // The sentinel bits bound the count by the steps left.
            let zeros = (g | (u64::MAX << left)).trailing_zeros();
            g >>= zeros;
            u <<= zeros;
            v <<= zeros;
            *eta -= i64::from(zeros);
            left -= zeros;
            if left == 0 {
                break;
            }
            let negative = *eta < 0;
            if negative {
                *eta = -*eta;
                (f, g) = (g, f.wrapping_neg());
                (u, q) = (q, u.wrapping_neg());
                (v, r) = (r, v.wrapping_neg());
            }
            // Cancel as many low bits of g as steps stay on this side: 6 with a Newton step for 1/f, else 4.
            let limit = u32::try_from(*eta + 1).map_or(left, |steps| steps.min(left));
            let mask = u64::MAX >> (64 - limit);
            let w = if negative {
                f.wrapping_mul(g).wrapping_mul(f.wrapping_mul(f).wrapping_sub(2)) & mask & 63
            } else {
                let inverse = f.wrapping_add((f.wrapping_add(1) & 4) << 1);
                inverse.wrapping_neg().wrapping_mul(g) & mask & 15
            };
            g = g.wrapping_add(f.wrapping_mul(w));
            q = q.wrapping_add(u.wrapping_mul(w));
            r = r.wrapping_add(v.wrapping_mul(w));
        }
        Self { u: u.cast_signed(), v: v.cast_signed(), q: q.cast_signed(), r: r.cast_signed() }
    }

    /// (f, g) := matrix · (f, g) / 2^62, exactly.
    fn apply(&self, f: &mut [i64], g: &mut [i64]) {
        let mut cf = mul(self.u, f[0]) + mul(self.v, g[0]);
        let mut cg = mul(self.q, f[0]) + mul(self.r, g[0]);
        debug_assert!(low_62(cf) == 0 && low_62(cg) == 0, "62 steps leave 62 zero bits");
        cf >>= 62;
        cg >>= 62;
        let last = f.len() - 1;
        for i in 1..=last {
            cf += mul(self.u, f[i]) + mul(self.v, g[i]);
            cg += mul(self.q, f[i]) + mul(self.r, g[i]);
            f[i - 1] = low_62(cf);
            g[i - 1] = low_62(cg);
            cf >>= 62;
            cg >>= 62;
        }
        f[last] = top(cf);
        g[last] = top(cg);
    }

    /// (d, e) := matrix · (d, e) / 2^62 modulo p; both stay in (-2p, p).
    fn apply_modulo_p(&self, d: &mut [i64; 5], e: &mut [i64; 5]) {
        let (sign_d, sign_e) = (d[4] >> 63, e[4] >> 63);
        let mut multiple_d = (self.u & sign_d) + (self.v & sign_e);
        let mut multiple_e = (self.q & sign_d) + (self.r & sign_e);
        let mut cd = mul(self.u, d[0]) + mul(self.v, e[0]);
        let mut ce = mul(self.q, d[0]) + mul(self.r, e[0]);
        // The multiples of p that make the low 62 bits 0.
        multiple_d -= correction(cd, multiple_d);
        multiple_e -= correction(ce, multiple_e);
        cd += mul(PRIME[0], multiple_d);
        ce += mul(PRIME[0], multiple_e);
        debug_assert!(low_62(cd) == 0 && low_62(ce) == 0, "the multiples were chosen for it");
        cd >>= 62;
        ce >>= 62;
        for i in 1..5 {
            cd += mul(self.u, d[i]) + mul(self.v, e[i]) + mul(PRIME[i], multiple_d);
            ce += mul(self.q, d[i]) + mul(self.r, e[i]) + mul(PRIME[i], multiple_e);
            d[i - 1] = low_62(cd);
            e[i - 1] = low_62(ce);
            cd >>= 62;
            ce >>= 62;
        }
        d[4] = top(cd);
        e[4] = top(ce);
    }
}

fn mul(a: i64, b: i64) -> i128 {
    i128::from(a) * i128::from(b)
}

/// The low 62 bits, as a limb.
#[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
fn low_62(sum: i128) -> i64 {
    sum as i64 & LOW_62.cast_signed()
}

/// The rest of a sum whose low limbs were taken; it fits by the bounds of Bernstein and Yang.
fn top(sum: i128) -> i64 {
    i64::try_from(sum).expect("d, e, f and g stay below 2^257 in size")
}

fn correction(sum: i128, multiple: i64) -> i64 {
    let low = low_62(sum).cast_unsigned();
    (PRIME_INVERSE.wrapping_mul(low).wrapping_add(multiple.cast_unsigned()) & LOW_62).cast_signed()
}

/// `±d` in [0, p), for d in (-2p, p).
fn normalized(mut d: [i64; 5], negate: bool) -> [i64; 5] {
    add_prime_if_negative(&mut d);
    if negate {
        d = d.map(|limb| -limb);
    }
    carry(&mut d);
    add_prime_if_negative(&mut d);
    carry(&mut d);
    d
}

fn add_prime_if_negative(d: &mut [i64; 5]) {
    if d[4] < 0 {
        for (limb, prime) in d.iter_mut().zip(PRIME) {
            *limb += prime;
        }
    }
}

fn carry(d: &mut [i64; 5]) {
    for i in 0..4 {
        d[i + 1] += d[i] >> 62;
        d[i] &= LOW_62.cast_signed();
    }
}

fn limbs(w: &[u64; 4]) -> [i64; 5] {
    let limb = |bits: u64| (bits & LOW_62).cast_signed();
    [
        limb(w[0]),
        limb(w[0] >> 62 | w[1] << 2),
        limb(w[1] >> 60 | w[2] << 4),
        limb(w[2] >> 58 | w[3] << 6),
        limb(w[3] >> 56),
    ]
}

fn words(d: &[i64; 5]) -> [u64; 4] {
    let l = d.map(i64::cast_unsigned);
    let w = [l[0] | l[1] << 62, l[1] >> 2 | l[2] << 60, l[2] >> 4 | l[3] << 58, l[3] >> 6 | l[4] << 56];
    debug_assert!(w.iter().rev().lt(P.iter().rev()), "{w:x?} is not below p");
    w
}
