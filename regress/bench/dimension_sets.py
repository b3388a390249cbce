"""Point sets of which the dimension is known, or which have none, for dimension_plateau.py: the collection on which the
rule for plateaus was chosen.  dimension_sets_judge.py has the other, of other families, on which it was judged.

A maker is a function of (random numbers, n) that returns points [n][width].  kind: "one" dimension; "noise" about a set of
one dimension, truth; "fractal"; "none" at the scales that can be seen: truth has what the interval is to hold, if anything
((0,): discrete sets; (): nothing to name).  The random numbers of a draw follow from the name of the set and its collection.
"""
import zlib

import numpy as np
from skdim import datasets as S


class Collection(list):
    def __init__(self, seed):
        self.seed = seed

    def add(self, name, n, kind, truth, maker):
        self.append((name, n, kind, truth if isinstance(truth, tuple) else (truth,), maker))

    def points(self, entry, draw, clean=False):
        name, n, kind, truth, maker = entry
        random = np.random.default_rng([zlib.crc32(name.encode()), draw, self.seed])
        return np.ascontiguousarray(maker(random, n, True) if clean else maker(random, n), dtype=np.float64)


def bm(name, d, dim):
    def f(r, n):
        b = object.__new__(S.BenchmarkManifolds)
        b.random_state = np.random.RandomState(r.integers(2 ** 31))
        return getattr(b, name)(n, dim, d)
    return f


def isometry(r, x, width):
    if width < x.shape[1]:
        raise ValueError
    q = np.linalg.qr(r.standard_normal((width, x.shape[1])))[0]
    return x @ q.T


def circles(d, ratio):
    def f(r, n):
        a = r.uniform(0, 2 * np.pi, (n, d))
        s = ratio ** np.arange(d)
        return np.hstack([s * np.cos(a), s * np.sin(a)])
    return f


def torus3(r, n):
    t, p = r.uniform(0, 2 * np.pi, (2, n))
    return np.c_[(3 + np.cos(t)) * np.cos(p), (3 + np.cos(t)) * np.sin(p), np.sin(t)]


def stiefel(k, m, project=False, square=False):
    def f(r, n):
        g = r.standard_normal((n, m, k))
        q, t = np.linalg.qr(g)
        q = q * np.sign(np.einsum("nii->ni", t))[:, None, :]
        if square:
            q[:, :, 0] *= np.linalg.det(q)[:, None]
        if project:
            q = q @ q.transpose(0, 2, 1)
        return q.reshape(n, -1)
    return f


def unitary2(r, n):
    q, t = np.linalg.qr(r.standard_normal((n, 2, 2)) + 1j * r.standard_normal((n, 2, 2)))
    diagonal = np.einsum("nii->ni", t)
    q = q * (diagonal / abs(diagonal))[:, None, :]
    return np.hstack([q.real.reshape(n, -1), q.imag.reshape(n, -1)])


def source(r, n, d, kind):
    if kind == "uniform":
        return r.uniform(-1, 1, (n, d))
    if kind == "normal":
        return 0.6 * r.standard_normal((n, d))
    if kind == "laplace":
        return 0.45 * r.laplace(size=(n, d))
    if kind == "t5":
        return 0.45 * r.standard_t(5, (n, d))
    if kind == "logistic":
        return 0.35 * r.logistic(size=(n, d))
    if kind == "beta":
        return 2 * r.beta(0.7, 1.5, (n, d)) - 1
    raise ValueError(kind)


def mlp(d, width, kind, depth=2, gain=1.2):
    def f(r, n):
        x = source(r, n, d, kind)
        for layer in range(depth):
            w = r.standard_normal((x.shape[1], width)) * gain / np.sqrt(x.shape[1])
            x = np.tanh(x @ w + 0.3 * r.standard_normal(width))
        return x
    return f


def rff(d, width, kind, frequency=0.8):
    def f(r, n):
        x = source(r, n, d, kind)
        w = frequency * r.standard_normal((d, width))
        return np.cos(x @ w + r.uniform(0, 2 * np.pi, width))
    return f


def bump(kind, side=16):
    yy, xx = np.mgrid[0:1:side * 1j, 0:1:side * 1j]

    def one(r, n, width):
        c = r.uniform(0.2, 0.8, (n, 2))
        return np.exp(-((xx[None] - c[:, 0, None, None]) ** 2 + (yy[None] - c[:, 1, None,
            None]) ** 2) / (2 * width[:, None, None] ** 2))

    def f(r, n):
        if kind == 2:
            im = one(r, n, np.full(n, 0.15))
        elif kind == 3:
            im = one(r, n, r.uniform(0.12, 0.25, n))
        elif kind == 4:
            im = one(r, n, np.full(n, 0.15)) + 0.6 * one(r, n, np.full(n, 0.12))
        elif kind == 6:
            im = one(r, n, r.uniform(0.12, 0.25, n)) * r.uniform(0.5, 1, n)[:, None, None] + 0.6 * one(r,
                n, np.full(n, 0.1))
        return im.reshape(n, -1)
    return f


def arm(d):
    def f(r, n):
        a = np.cumsum(r.uniform(-1.2, 1.2, (n, d)), axis=1)
        return np.hstack([np.cumsum(np.cos(a), axis=1), np.cumsum(np.sin(a), axis=1)])
    return f


def delay(d, lags=24):
    def f(r, n):
        p = r.uniform(0, 2 * np.pi, (n, d))
        w = np.sqrt(np.array([2.0, 3, 5, 7, 11])[:d])
        a = np.linspace(1, 0.5, d)
        t = np.arange(lags) * 0.7
        return (a[None, :, None] * np.sin(p[:, :, None] + w[None, :, None] * t)).sum(1)
    return f


def dirichlet(d, alpha):
    return lambda r, n: r.dirichlet(np.full(d + 1, alpha), n)


def segre(a, b):
    def f(r, n):
        u, v = (r.standard_normal((n, a)), r.standard_normal((n, b)))
        u /= np.linalg.norm(u, axis=1)[:, None]
        v /= np.linalg.norm(v, axis=1)[:, None]
        return np.einsum("ni,nj->nij", u, v).reshape(n, -1)
    return f


def correlation4(r, n):
    g = r.standard_normal((n, 4, 9))
    c = g @ g.transpose(0, 2, 1)
    s = np.sqrt(np.einsum("nii->ni", c))
    return (c / s[:, :, None] / s[:, None, :]).reshape(n, -1)


def vmf_mixture(d, modes, spread):
    def f(r, n):
        c = r.standard_normal((modes, d + 1))
        c /= np.linalg.norm(c, axis=1)[:, None]
        x = c[r.integers(modes, size=n)] + spread * r.standard_normal((n, d + 1))
        return x / np.linalg.norm(x, axis=1)[:, None]
    return f


def gaussians(d, modes, apart):
    def f(r, n):
        return apart * r.standard_normal((modes, d))[r.integers(modes, size=n)] + r.standard_normal((n, d))
    return f


def direct(d, kind):
    def f(r, n):
        if kind == "t4":
            return r.standard_t(4, (n, d))
        if kind == "mt5":
            return r.standard_normal((n, d)) / np.sqrt(r.chisquare(5, (n, 1)) / 5)
        if kind == "lognormal":
            return np.exp(0.7 * r.standard_normal((n, d)))
        if kind == "exponential":
            return r.exponential(size=(n, d))
        if kind == "correlated":
            a = r.standard_normal((d, d))
            return r.standard_normal((n, d)) @ a
    return f


def ellipsoid(d, ratio):
    def f(r, n):
        x = r.standard_normal((n, d + 1))
        x /= np.linalg.norm(x, axis=1)[:, None]
        return x * np.linspace(1, ratio, d + 1)
    return f


def ball(d):
    def f(r, n):
        x = r.standard_normal((n, d))
        return x / np.linalg.norm(x, axis=1)[:, None] * r.uniform(size=(n, 1)) ** (1 / d)
    return f


def hyperbolic(d, radius):
    def f(r, n):
        x = r.standard_normal((n, d))
        x /= np.linalg.norm(x, axis=1)[:, None]
        grid = np.linspace(0, radius, 4000)
        cdf = np.cumsum(np.sinh(grid) ** (d - 1))
        cdf /= cdf[-1]
        rho = np.interp(r.uniform(size=n), cdf, grid)
        return np.c_[x * np.tanh(rho / 2)[:, None]]
    return f


def trefoil(r, n):
    t = r.uniform(0, 2 * np.pi, n)
    return np.c_[np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -np.sin(3 * t)]


def twisted_ribbon(r, n):
    t = r.uniform(0, 2 * np.pi, n)
    w = r.uniform(-0.5, 0.5, n)
    return np.c_[(2 + w * np.cos(1.5 * t)) * np.cos(t), (2 + w * np.cos(1.5 * t)) * np.sin(t),
        w * np.sin(1.5 * t), w * np.cos(3 * t)]


def product(f, g):
    return lambda r, n: np.hstack([f(r, n), g(r, n)])


def duplicated(f, share):
    def g(r, n):
        x = f(r, n)
        m = int(n * (1 - share))
        x[m:] = x[r.integers(m, size=n - m)]
        return x
    return g


def rounded(f, levels):
    def g(r, n):
        x = f(r, n)
        return np.round(x / np.abs(x).max() * levels) / levels
    return g


def half(f):
    return lambda r, n: f(r, n).astype(np.float16).astype(np.float64)


def lifted(f, width):
    return lambda r, n: isometry(r, f(r, n), width)


def sphere(d):
    return bm("_gen_sphere_data", d, d + 1)


def swiss(r, n):
    return bm("_gen_roll_data", 2, 3)(r, n)


def noisy(f, width, ratio, kind="normal"):
    """noise of length `ratio` times the root mean square distance from the centre"""
    def g(r, n, clean=False):
        x = f(r, n)
        x = x - x.mean(0)
        x = isometry(r, x, width) if x.shape[1] < width else x
        x /= np.sqrt((x ** 2).sum(1).mean())
        e = r.standard_normal(x.shape) if kind == "normal" else r.standard_t(3, x.shape) / np.sqrt(3)
        return x if clean else x + ratio * e / np.sqrt(x.shape[1])
    return g


def union(parts, width, apart):
    def f(r, n):
        out = []
        for i, (g, share) in enumerate(parts):
            x = g(r, int(n * share))
            x = x - x.mean(0)
            x /= np.sqrt((x ** 2).sum(1).mean())
            x = isometry(r, x, width)
            c = r.standard_normal(width)
            out.append(x + apart * c / np.linalg.norm(c))
        return np.vstack(out)
    return f


def spectrum(width, law):
    return lambda r, n: r.standard_normal((n, width)) * np.sqrt(law(np.arange(1.0, width + 1)))


def smooth_functions(points, length):
    def f(r, n):
        t = np.linspace(0, 1, points)
        k = np.exp(-np.abs(t[:, None] - t) / length)
        return r.standard_normal((n, points)) @ np.linalg.cholesky(k + 1e-09 * np.eye(points)).T
    return f


def slab(sides):
    return lambda r, n: r.uniform(-0.5, 0.5, (n, len(sides))) * np.array(sides)


def crp_clusters(d, width, strength, spread):
    def f(r, n):
        labels, counts = ([], [])
        for i in range(n):
            p = np.array(counts + [strength], float)
            c = r.choice(len(p), p=p / p.sum())
            if c == len(counts):
                counts.append(0)
            counts[c] += 1
            labels.append(c)
        centres = r.standard_normal((len(counts), width))
        basis = r.standard_normal((len(counts), width, d)) / np.sqrt(width)
        z = spread * r.standard_normal((n, d))
        labels = np.array(labels)
        return centres[labels] + np.einsum("nwd,nd->nw", basis[labels], z)
    return f


def equal_clusters(d, width, count, spread, scales=0.0):
    def f(r, n):
        labels = r.integers(count, size=n)
        s = spread * np.exp(scales * r.standard_normal(count))
        centres = r.standard_normal((count, width))
        basis = r.standard_normal((count, width, d)) / np.sqrt(width)
        return centres[labels] + np.einsum("nwd,nd->nw", basis[labels], r.standard_normal((n,
            d))) * s[labels, None]
    return f


def tree(width, branching, shrink):
    def f(r, n):
        x = np.zeros((1, width))
        scale = 1.0
        while len(x) < n:
            x = np.repeat(x, branching, axis=0)
            x = x + scale * r.standard_normal(x.shape)
            scale *= shrink
        return x[r.permutation(len(x))[:n]]
    return f


def codebooks(books, entries, width, jitter=0.0):
    def f(r, n):
        c = r.standard_normal((books, entries, width))
        x = sum((c[b][r.integers(entries, size=n)] for b in range(books)))
        return x + jitter * r.standard_normal(x.shape)
    return f


def grid(d, levels):
    return lambda r, n: r.integers(levels, size=(n, d)).astype(float)


def walks(width, length, step):
    """short trajectories: neighbours are those of one trajectory"""
    def f(r, n):
        starts = r.standard_normal((n // length + 1, 1, width))
        return (starts + np.cumsum(step * r.standard_normal((n // length + 1, length, width)),
            axis=1)).reshape(-1, width)[:n]
    return f


def near_copies(f, share, width, scale):
    def g(r, n):
        x = f(r, n)
        x = isometry(r, x, width)
        m = int(n * (1 - share))
        at = r.integers(m, size=n - m)
        x[m:] = x[at] + scale * r.standard_normal((n - m, width))
        return x
    return g


def poisson(width, rate):
    return lambda r, n: r.poisson(rate * np.arange(1, width + 1) ** (-1.0), (n, width)).astype(float)


def binary(width, latent):
    def f(r, n):
        return (r.standard_normal((n, latent)) @ r.standard_normal((latent, width)) > 0).astype(float)
    return f


def word_counts(words, length):
    def f(r, n):
        p = np.arange(1, words + 1) ** (-1.0)
        p /= p.sum()
        t = r.dirichlet(np.full(words, 0.1), 20)
        return np.array([r.multinomial(length, 0.5 * p + 0.5 * t[r.integers(20)]) for _ in range(n)],
            float) ** 0.5
    return f


def brownian(width):
    return lambda r, n: np.cumsum(r.standard_normal((n, width)), axis=0)


def ifs(points, ratio):
    p = np.array(points, float)

    def f(r, n):
        x = np.zeros((n, p.shape[1]))
        for _ in range(60):
            x = ratio * x + (1 - ratio) * p[r.integers(len(p), size=n)]
        return x
    return f


choosing = Collection(20261122)
add = choosing.add
for d, dim, n in ((3, 12, 900), (8, 16, 3000)):
    add(f"bm_nonlinear_{d}", n, "one", d, bm("_gen_nonlinear_data", d, dim))
for d, n in ((4, 1200), (14, 2500)):
    add(f"bm_beta_{d}", n, "one", d, bm("_gen_campadelli_beta_data", d, 4 * d))
for d, n in ((6, 800), (12, 4000)):
    add(f"bm_n_{d}", n, "one", d, bm("_gen_campadelli_n_data", d, 4 * d))
for d, n in ((2, 700), (5, 3000)):
    add(f"bm_paraboloid_{d}", n, "one", d, bm("_gen_paraboloid_data", d, 3 * (d + 1)))
for m, d, dim, n in (("cubic", 6, 7, 1500), ("affine", 7, 20, 700), ("sphere", 14, 30, 4000),
        ("helix2", 2, 3, 2500), ("moebius", 2, 3, 900), ("spiral", 1, 13, 700), ("helicoid", 2, 3, 1500),
        ("scurve", 2, 3, 600)):
    add(f"bm_{m}_{d}", n, "one", d, bm(f"_gen_{m}_data", d, dim))
add("swiss", 3000, "one", 2, lambda r, n: swiss(r, n))
for d, ratio, n in ((2, 0.5, 700), (3, 0.7, 1500), (5, 0.8, 3000), (7, 0.9, 4000)):
    add(f"circles_{d}", n, "one", d, circles(d, ratio))
add("torus3", 900, "one", 2, torus3)
for name, k, m, pr, sq, d, n in (("so3", 3, 3, 0, 1, 3, 800), ("so4", 4, 4, 0, 1, 6, 1500),
        ("so5", 5, 5, 0, 1, 10, 4000), ("stiefel25", 2, 5, 0, 0, 7, 2500),
        ("stiefel24", 2, 4, 0, 0, 5, 1200), ("gr25", 2, 5, 1, 0, 6, 3000), ("gr24", 2, 4, 1, 0, 4, 900),
        ("gr36", 3, 6, 1, 0, 9, 3000)):
    add(name, n, "one", d, stiefel(k, m, pr, sq))
add("u2", 1500, "one", 4, unitary2)
for d, w, kind, n in ((3, 50, "normal", 900), (6, 100, "uniform", 2500), (9, 200, "normal", 4000),
        (4, 60, "t5", 1500), (5, 80, "laplace", 3000)):
    add(f"mlp_{d}_{kind}", n, "one", d, mlp(d, w, kind))
for d, w, kind, n in ((2, 80, "uniform", 800), (5, 60, "normal", 2500), (4, 100, "logistic", 1500),
        (3, 40, "beta", 1200), (7, 150, "uniform", 4000)):
    add(f"rff_{d}_{kind}", n, "one", d, rff(d, w, kind, 0.6))
for d, n in ((2, 900), (3, 1500), (4, 2500), (6, 4000)):
    add(f"bump_{d}", n, "one", d, bump(d))
for d, n in ((3, 700), (6, 2500)):
    add(f"arm_{d}", n, "one", d, arm(d))
for d, n in ((2, 700), (4, 2500), (5, 4000)):
    add(f"delay_{d}", n, "one", d, delay(d))
for d, a, n in ((3, 0.5, 900), (5, 1, 1500), (9, 2, 3000)):
    add(f"dirichlet_{d}", n, "one", d, dirichlet(d, a))
add("segre_35", 1500, "one", 6, segre(3, 5))
add("segre_44", 900, "one", 6, segre(4, 4))
add("correlation4", 2500, "one", 6, correlation4)
for d, m, s, n in ((3, 4, 0.3, 1200), (6, 8, 0.5, 3000)):
    add(f"vmf_{d}", n, "one", d, vmf_mixture(d, m, s))
for d, m, a, n in ((3, 5, 2, 1500), (8, 3, 1.5, 2500), (5, 6, 3, 4000)):
    add(f"gaussians_{d}", n, "one", d, gaussians(d, m, a))
for d, kind, n in ((5, "t4", 2500), (4, "lognormal", 900), (7, "exponential", 3000), (6, "mt5", 1500),
        (9, "correlated", 1200)):
    add(f"{kind}_{d}", n, "one", d, direct(d, kind))
add("ellipsoid_6", 1500, "one", 6, ellipsoid(6, 0.4))
add("hyperbolic_3", 1200, "one", 3, hyperbolic(3, 3))
add("trefoil", 800, "one", 1, trefoil)
add("ribbon", 1200, "one", 2, twisted_ribbon)
add("sphere2xball3", 2500, "one", 5, product(sphere(2), ball(3)))
add("dup_sphere5", 2000, "one", 5, duplicated(lifted(sphere(5), 20), 0.3))
add("dup_mlp4", 3000, "one", 4, duplicated(mlp(4, 40, "uniform"), 0.5))
add("fine_cube4", 1500, "one", 4, rounded(lambda r, n: r.uniform(-1, 1, (n, 4)), 128))
add("fine_sphere6", 2500, "one", 6, rounded(lifted(sphere(6), 24), 64))
add("half_rff3", 1200, "one", 3, half(rff(3, 60, "normal", 0.6)))
for base, d, f in (("sphere3", 3, sphere(3)), ("circles4", 4, circles(4, 0.9)), ("ball2", 2, ball(2)),
        ("mlp5", 5, mlp(5, 50, "uniform")), ("bump2", 2, bump(2)), ("swiss", 2, swiss),
        ("gr25", 6, stiefel(2, 5, True)), ("sphere8", 8, sphere(8))):
    for width, ratio, n in ((24, 0.03, 1500), (24, 0.1, 1500), (300, 0.1, 1000), (300, 0.1, 3000),
            (100, 0.2, 2500), (60, 0.4, 1500)):
        add(f"noise_{base}_{width}_{ratio}_{n}", n, "noise", d, noisy(f, max(width,
            256 if base == "bump2" else 0), ratio))
    add(f"noise_{base}_t3", 2000, "noise", d, noisy(f, 256 if base == "bump2" else 40, 0.12, "t3"))
add("union_2_9", 2000, "none", (2, 9), union([(sphere(2), 0.5), (ball(9), 0.5)], 20, 4))
add("union_1_4", 1500, "none", (1, 4), union([(trefoil, 0.3), (sphere(4), 0.7)], 12, 4))
add("union_2_5_12", 3000, "none", (2, 5, 12), union([(swiss, 0.3),
    (lambda r, n: r.standard_normal((n, 5)), 0.3), (ball(12), 0.4)], 40, 5))
add("union_4_6", 2500, "none", (4, 6), union([(sphere(4), 0.5), (circles(6, 1), 0.5)], 20, 4))
add("union_3_10_rare", 4000, "none", (3, 10), union([(ball(3), 0.9), (ball(10), 0.1)], 16, 4))
add("lineDiskBall", 2000, "none", (1, 2, 3),
    lambda r, n: S.lineDiskBall(n, random_state=int(r.integers(2 ** 31)))[0])
for name, w, law in (("1", 200, lambda j: 1 / j), ("1.5", 300, lambda j: j ** (-1.5)),
        ("3", 100, lambda j: j ** (-3.0)), ("exp5", 100, lambda j: np.exp(-j / 5)),
        ("exp1", 40, lambda j: np.exp(-j / 1.0))):
    for n in (900, 3000):
        add(f"spectrum_{name}_{n}", n, "none", (), spectrum(w, law))
add("ou_paths", 2000, "none", (), smooth_functions(100, 0.3))
add("slab_2_6", 2500, "none", (2, 8), slab([1, 1] + [0.06] * 6))
add("slab_geo", 1500, "none", (), slab(list(0.6 ** np.arange(12))))
add("slab_1_3", 1200, "none", (1, 4), slab([1] + [0.03] * 3))
add("crp_6", 2500, "none", 6, crp_clusters(6, 40, 30, 0.25))
add("crp_3", 1200, "none", 3, crp_clusters(3, 24, 60, 0.15))
add("crp_10", 4000, "none", 10, crp_clusters(10, 64, 200, 0.3))
add("equal_4", 3000, "none", 4, equal_clusters(4, 48, 250, 0.2))
add("equal_7_scales", 2500, "none", 7, equal_clusters(7, 30, 60, 0.2, 1.0))
add("equal_2", 900, "none", 2, equal_clusters(2, 16, 60, 0.1))
add("equal_5_small", 2000, "none", 5, equal_clusters(5, 32, 700, 0.2))
add("tree_3", 2000, "fractal", np.log(3) / np.log(2), tree(30, 3, 0.5))
add("tree_2", 1500, "fractal", np.log(2) / np.log(1 / 0.7), tree(60, 2, 0.7))
add("tree_8", 4000, "fractal", np.log(8) / np.log(2.5), tree(40, 8, 0.4))
add("codebooks_2", 2500, "none", 0, codebooks(2, 64, 40))
add("codebooks_4", 4000, "none", 0, codebooks(4, 8, 50))
add("codebooks_3_jitter", 2500, "none", (), codebooks(3, 16, 40, 0.03))
add("grid_3_9", 600, "none", 0, grid(3, 12))
add("grid_8_3", 3000, "none", 0, grid(8, 4))
add("poisson", 2500, "none", 0, poisson(40, 6))
add("binary", 3000, "none", 0, binary(64, 8))
add("word_counts", 1500, "none", 0, word_counts(300, 60))
add("walks_8", 2400, "none", (), walks(30, 8, 0.03))
add("walks_40", 4000, "none", (), walks(12, 40, 0.1))
add("brownian", 2000, "fractal", 2, brownian(20))
add("copies_6_.1", 2500, "none", (), near_copies(ball(6), 0.1, 20, 0.001))
add("copies_3_.5", 1500, "none", (), near_copies(sphere(3), 0.5, 16, 0.001))
add("sierpinski", 2000, "fractal", 2.0, ifs(np.vstack([np.zeros(3), np.eye(3)]), 0.5))
add("cantor_3", 3000, "fractal", 3 * np.log(2) / np.log(3),
    ifs([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)], 1 / 3))
add("carpet", 2500, "fractal", np.log(8) / np.log(3),
    ifs([[a, b] for a in (0, 0.5, 1) for b in (0, 0.5, 1) if (a, b) != (0.5, 0.5)], 1 / 3))
add("sierpinski6", 4000, "fractal", np.log(7) / np.log(2), ifs(np.vstack([np.zeros(6), np.eye(6)]), 0.5))
