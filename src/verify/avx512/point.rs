//! Points of the curve in lanes: what the scalar multiplications are made of.
//!
//! Formulas: Hisil, Wong, Carter, Dawson, "Twisted Edwards Curves Revisited", §3.1 and §3.3 for a = -1, in extended
//! coordinates. They are complete on the curve, so no input needs a branch and no Z becomes 0.

use std::arch::x86_64::__mmask8;

use super::field::{Fe, Wide};
use super::lanes::Lanes;

/// A sum under way: `Y - X`, `Y + X`, `T = XY/Z`, and Z as a biased minuend.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    y_minus_x: Fe,
    y_plus_x: Fe,
    t: Fe,
    z: Wide,
}

/// An affine point to add: `(y - x)/2`, `(y + x)/2`, `d·x·y`. The halves spare each addition the doubling of Z.
#[derive(Clone, Copy)]
pub(super) struct Niels {
    pub(super) y_minus_x: Fe,
    pub(super) y_plus_x: Fe,
    pub(super) dxy: Fe, // limbs may reach 2^52
}

/// Any point to add: `Y - X`, `Y + X`, `2d·T`, `2Z`.
#[derive(Clone, Copy)]
pub(super) struct Cached {
    pub(super) y_minus_x: Fe,
    pub(super) y_plus_x: Fe,
    pub(super) t_2d: Fe, // limbs may reach 2^52
    pub(super) z_2: Fe,
}

/// A point with a common denominator: `x = X/Z`, `y = Y/Z`.
#[derive(Clone, Copy)]
pub(super) struct Projective {
    pub(super) x: Fe,
    pub(super) y: Fe,
    pub(super) z: Fe,
}

impl Sum {
    /// The affine point `(x, y)`.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn from_affine(x: &Fe, y: &Fe) -> Self {
        Self {
            y_minus_x: y.biased().minus(&x.wide()).carried(),
            y_plus_x: y.wide().plus(&x.wide()).carried(),
            t: x.mul(y),
            z: Fe::splat(&ONE).biased(),
        }
    }

    /// The point of a comb's entry, scaled by one half.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn from_niels(point: &Niels) -> Self {
        Self {
            y_minus_x: point.y_minus_x,
            y_plus_x: point.y_plus_x,
            t: point.dxy.mul(&Fe::splat(&INVERSE_OF_2D)),
            z: Fe::splat(&HALF).biased(),
        }
    }

    /// Adds `point`: 7 multiplications, 7 carries.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn add_affine(&mut self, point: &Niels) {
        let a = self.y_minus_x.times(&point.y_minus_x);
        let b = self.y_plus_x.times_biased(&point.y_plus_x);
        let c = self.t.times(&point.dxy);
        let (e, f, g, h) = (b.minus(&a), self.z.minus(&c), self.z.plus(&c), b.plus(&a));
        self.complete(&e, &f, &g, &h);
    }

    /// Adds `point`: 8 multiplications, 8 carries.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn add(&mut self, point: &Cached) {
        let a = self.y_minus_x.times(&point.y_minus_x);
        let b = self.y_plus_x.times_biased(&point.y_plus_x);
        let c = self.t.times(&point.t_2d);
        let d = self.z.carried().times_biased(&point.z_2);
        self.complete(&b.minus(&a), &d.minus(&c), &d.plus(&c), &b.plus(&a));
    }

    /// Doubles: 3 squarings, 5 multiplications, 8 carries.
    ///
    /// With P = (Y - X)², Q = (Y + X)², M = (Y - X)(Y + X), the formula's E, F, G, H are, times -2, 2, -2, 2 (a factor
    /// of -4 on every coordinate): Q - P, 4Z² - 2M, 2M, Q + P.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn double(&mut self) {
        let p = self.y_minus_x.squared();
        let q = self.y_plus_x.squared_biased();
        let m = self.y_minus_x.times(&self.y_plus_x);
        let z_squared = self.z.carried().squared();
        // In units of 2^52 a product is below 124.6, so 2M is below the bias (256), and 4Z² + bias below WIDE (1024).
        let two_m = m.plus(&m);
        let two_z = z_squared.plus(&z_squared);
        let f = two_z.plus(&two_z).with_bias().minus(&two_m);
        self.complete(&q.minus(&p), &f, &two_m, &q.plus(&p));
    }

    /// Becomes what every addition and doubling ends with: X = EF, Y = GH, T = EH, Z = FG.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    fn complete(&mut self, e: &Wide, f: &Wide, g: &Wide, h: &Wide) {
        let (e, f, g, h) = (e.carried(), f.carried(), g.carried(), h.carried());
        let x = e.times(&f);
        let y = g.times_biased(&h);
        self.y_minus_x = y.minus(&x).carried();
        self.y_plus_x = y.plus(&x).carried();
        self.t = e.mul(&h);
        self.z = f.times_biased(&g);
    }

    /// `self`, ready to be added to others.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn cached(&self) -> Cached {
        Cached {
            y_minus_x: self.y_minus_x,
            y_plus_x: self.y_plus_x,
            t_2d: self.t.mul(&Fe::splat(&TWO_D)),
            z_2: self.z.plus(&self.z).carried(),
        }
    }

    /// `self` with a common denominator, scaled by two.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn projective(&self) -> Projective {
        Projective {
            x: self.y_plus_x.biased().minus(&self.y_minus_x.wide()).carried(),
            y: self.y_plus_x.wide().plus(&self.y_minus_x.wide()).carried(),
            z: self.z.plus(&self.z).carried(),
        }
    }

    /// `other` in the lanes of `lanes`, `self` in the rest.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn replaced_where(&self, lanes: __mmask8, other: &Self) -> Self {
        Self {
            y_minus_x: self.y_minus_x.replaced_where(lanes, &other.y_minus_x),
            y_plus_x: self.y_plus_x.replaced_where(lanes, &other.y_plus_x),
            t: self.t.replaced_where(lanes, &other.t),
            z: Fe(self.z.0).replaced_where(lanes, &Fe(other.z.0)).wide(),
        }
    }

    /// Lane 0 of each of up to eight sums, in turn; the lanes left repeat the first.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn gathered(sums: &[Self]) -> Self {
        let gather = |element: &dyn Fn(&Self) -> Fe| {
            Fe::from_lanes(&std::array::from_fn(|lane| element(sums.get(lane).unwrap_or(&sums[0])).lane(0)))
        };
        Self {
            y_minus_x: gather(&|sum| sum.y_minus_x),
            y_plus_x: gather(&|sum| sum.y_plus_x),
            t: gather(&|sum| sum.t),
            z: gather(&|sum| Fe(sum.z.0)).wide(),
        }
    }

    /// Point i of the result is point `from[i]` of `self`.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn permuted(&self, from: Lanes) -> Self {
        Self {
            y_minus_x: self.y_minus_x.permuted(from),
            y_plus_x: self.y_plus_x.permuted(from),
            t: self.t.permuted(from),
            z: Fe(self.z.0).permuted(from).wide(),
        }
    }
}

impl Cached {
    /// `-self` in the lanes of `lanes`.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn negated_where(&self, lanes: __mmask8) -> Self {
        Self {
            y_minus_x: self.y_minus_x.replaced_where(lanes, &self.y_plus_x),
            y_plus_x: self.y_plus_x.replaced_where(lanes, &self.y_minus_x),
            t_2d: self.t_2d.negated_where(lanes),
            z_2: self.z_2,
        }
    }
}

impl Projective {
    /// The lanes that hold the identity, (0, 1).
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn is_identity(&self) -> __mmask8 {
        self.x.is_zero() & self.y.biased().minus(&self.z.wide()).carried().is_zero()
    }
}

pub(super) const ONE: [u64; 5] = [1, 0, 0, 0, 0];
/// 1/2 modulo p.
pub(super) const HALF: [u64; 5] =
    [0x7_ffff_ffff_fff7, 0x7_ffff_ffff_ffff, 0x7_ffff_ffff_ffff, 0x7_ffff_ffff_ffff, 0x3_ffff_ffff_ffff];
/// d = -121665/121666, of the curve's equation (RFC 8032 §5.1).
pub(super) const D: [u64; 5] =
    [0x3_4dca_1359_78a3, 0x1_a828_3b15_6ebd, 0x5_e7a2_6001_c029, 0x7_39c6_63a0_3cbb, 0x5_2036_cee2_b6ff];
const TWO_D: [u64; 5] =
    [0x6_9b94_26b2_f159, 0x3_5050_762a_dd7a, 0x3_cf44_c003_8052, 0x6_738c_c740_7977, 0x2_406d_9dc5_6dff];
pub(super) const FOUR_D: [u64; 5] =
    [0x5_3728_4d65_e2b2, 0x6_a0a0_ec55_baf5, 0x7_9e89_8007_00a4, 0x4_e719_8e80_f2ee, 0x4_80db_3b8a_dbff];
/// 1/(2d) modulo p.
const INVERSE_OF_2D: [u64; 5] =
    [0x0_793b_66e4_fc18, 0x1_8427_9542_e25e, 0x3_739e_cc16_bbad, 0x3_90ca_c588_4533, 0x6_0483_f690_a6ae];
