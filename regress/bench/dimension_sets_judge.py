"""The collection that judges the rule for plateaus: families, sizes, noise and seeds apart from those of dimension_sets.py.
It was written down before the rule was measured on any of it, and nothing was chosen by it.
"""
import numpy as np
from skdim import datasets as S

from dimension_sets import (Collection, ball, codebooks, duplicated, equal_clusters, grid, isometry,
                            near_copies, noisy, rounded, slab, smooth_functions, source, spectrum, sphere,
                            trefoil, union, walks)


def unit(r, n, m):
    x = r.standard_normal((n, m))
    return x / np.linalg.norm(x, axis=1)[:, None]


def veronese(d, scale):
    def f(r, n):
        x = scale * r.uniform(-1, 1, (n, d))
        i, j = np.triu_indices(d)
        return np.hstack([x, x[:, i] * x[:, j]])
    return f


def spheres(*ds):
    return lambda r, n: np.hstack([unit(r, n, d + 1) for d in ds])


def klein(r, n):
    u, v = r.uniform(0, 2 * np.pi, (2, n))
    a, b = (2, 1)
    return np.c_[(a + b * np.cos(v)) * np.cos(u), (a + b * np.cos(v)) * np.sin(u),
        b * np.sin(v) * np.cos(u / 2), b * np.sin(v) * np.sin(u / 2)]


def projective(d):
    def f(r, n):
        x = unit(r, n, d + 1)
        return (x[:, :, None] * x[:, None, :]).reshape(n, -1)
    return f


def complex_projective(m):
    def f(r, n):
        z = r.standard_normal((n, m + 1)) + 1j * r.standard_normal((n, m + 1))
        z /= np.linalg.norm(z, axis=1)[:, None]
        p = (z[:, :, None] * z[:, None, :].conj()).reshape(n, -1)
        return np.hstack([p.real, p.imag])
    return f


def signals(kind, m=60):
    t = np.linspace(0, 1, m)

    def f(r, n):
        u = lambda a, b: r.uniform(a, b, (n, 1))
        if kind == 3:
            return u(0.7, 1.3) * np.sin(2 * np.pi * u(1, 2) * t + u(0, 1.5))
        if kind == 4:
            return u(0.7, 1.3) * np.sin(2 * np.pi * (u(1, 2) * t + u(0, 1) * t ** 2) + u(0, 1.5))
        if kind == 5:
            return u(0.5, 1) * np.exp(-((t - u(0.2, 0.4)) / u(0.08,
                0.15)) ** 2 / 2) + np.exp(-((t - u(0.6, 0.8)) / u(0.08, 0.15)) ** 2 / 2)
        if kind == 2:
            return 1 / (1 + np.exp(-u(5, 15) * (t - u(0.3, 0.7))))
    return f


def pendulum(r, n):
    th, om, l, c = (r.uniform(-2, 2, n), r.uniform(-1, 1, n), r.uniform(0.7, 1.4, n), r.uniform(0, 0.3, n))
    out = []
    for i in range(60):
        om = om - 0.1 * (np.sin(th) / l + c * om)
        th = th + 0.1 * om
        if i % 2 == 0:
            out.append(th)
    return np.array(out).T


def logspd(r, n):
    i, j = np.triu_indices(3)
    m = np.zeros((n, 3, 3))
    v = 0.5 * r.standard_normal((n, 6))
    m[:, i, j] = v
    m[:, j, i] = v
    w, q = np.linalg.eigh(m)
    return np.einsum("nij,nj,nkj->nik", q, np.exp(w), q).reshape(n, -1)


def gumbel_copula(d):
    def f(r, n):
        g = r.gamma(1, size=(n, 1))
        return (1 + r.exponential(size=(n, d)) / g) ** (-1)
    return f


def siren(d, width, frequency):
    def f(r, n):
        x = r.uniform(-1, 1, (n, d))
        x = np.sin(frequency * x @ r.standard_normal((d, width)) / np.sqrt(d))
        return np.sin(x @ r.standard_normal((width, width)) / np.sqrt(width))
    return f


def resnet(d, width, source_kind):
    def f(r, n):
        x = source(r, n, d, source_kind) @ r.standard_normal((d, width)) / np.sqrt(d)
        for _ in range(3):
            w = r.standard_normal((width, width)) / np.sqrt(width)
            y = x @ w
            x = x + 0.5 * y / (1 + np.exp(-1.7 * y))
        return x
    return f


def quadratics(d, width):
    def f(r, n):
        x = r.standard_normal((n, d))
        q = r.standard_normal((d, d, width)) * 0.25
        return x @ r.standard_normal((d, width)) + np.einsum("ni,nj,ijw->nw", x, x, q)
    return f


def lp_ball(d, p):
    def f(r, n):
        x = r.gamma(1 / p, size=(n, d)) ** (1 / p) * r.choice([-1, 1], (n, d))
        e = r.exponential(size=(n, 1))
        return x / ((np.abs(x) ** p).sum(1)[:, None] + e) ** (1 / p)
    return f


def shell(d, inner):
    return lambda r, n: unit(r, n, d) * r.uniform(inner ** d, 1, (n, 1)) ** (1 / d)


def cone(d):
    return lambda r, n: np.hstack([unit(r, n, d) * (h := (r.uniform(size=(n, 1)) ** (1 / d))), h])


def watson(d, k):
    def f(r, n):
        x = r.standard_normal((n, d + 1)) * np.array([k] + [1] * d)
        return x / np.linalg.norm(x, axis=1)[:, None]
    return f


def normal(d, ratio):
    return lambda r, n: r.standard_normal((n, d)) * np.linspace(1, ratio, d)


def rotated_image(kind):
    yy, xx = np.mgrid[-1:1:14j, -1:1:14j]

    def f(r, n):
        a = r.uniform(0, 2 * np.pi, n)[:, None, None]
        tx, ty = r.uniform(-0.4, 0.4, (2, n, 1, 1))
        s = r.uniform(0.8, 1.2, n)[:, None, None] if kind == 4 else 1.0
        x = ((xx - tx) * np.cos(a) + (yy - ty) * np.sin(a)) / s
        y = (-(xx - tx) * np.sin(a) + (yy - ty) * np.cos(a)) / s
        return (np.exp(-(x - 0.25) ** 2 / 0.12 - y ** 2 / 0.05) + 0.6 * np.exp(-(x +
            0.3) ** 2 / 0.05 - (y - 0.1) ** 2 / 0.1)).reshape(n, -1)
    return f


def mixture(f, parts, apart):
    def g(r, n):
        x = f(r, n)
        c = apart * r.standard_normal((parts, x.shape[1]))
        return x + c[r.integers(parts, size=n)]
    return g


def swiss_hole(r, n):
    out = np.zeros((0, 2))
    while len(out) < n:
        u = r.uniform(size=(n, 2))
        out = np.vstack([out, u[np.abs(u - 0.5).max(1) > 0.15]])
    t = 1.5 * np.pi * (1 + 2 * out[:n, 0])
    return np.c_[t * np.cos(t), 21 * out[:n, 1], t * np.sin(t)]


def uniform_noise(f, width, ratio):
    def g(r, n, clean=False):
        x = f(r, n)
        x = x - x.mean(0)
        x = isometry(r, x, width) if x.shape[1] < width else x
        x /= np.sqrt((x ** 2).sum(1).mean())
        return x if clean else x + ratio * np.sqrt(3) * r.uniform(-1, 1, x.shape) / np.sqrt(x.shape[1])
    return g


def rbf_functions(m, length):
    def f(r, n):
        t = np.linspace(0, 1, m)
        k = np.exp(-(t[:, None] - t) ** 2 / 2 / length ** 2)
        w, q = np.linalg.eigh(k)
        return r.standard_normal((n, m)) * np.sqrt(np.maximum(w, 0)) @ q.T
    return f


def pitman(d, width, discount, spread):
    def f(r, n):
        p = (np.arange(1, 3 * n) + 2.0) ** (-1 / discount)
        p /= p.sum()
        lab = r.choice(len(p), n, p=p)
        c = r.standard_normal((len(p), width))
        b = r.standard_normal((50, width, d)) / np.sqrt(width)
        return c[lab] + spread * np.einsum("nwd,nd->nw", b[lab % 50], r.standard_normal((n, d)))
    return f


def one_hot_sequences(length, letters):
    return lambda r, n: np.eye(letters)[r.integers(letters, size=(n, length))].reshape(n, -1)


def subsets(m, k):
    return lambda r, n: np.array([np.isin(np.arange(m),
        r.choice(m, k, replace=False)) for _ in range(n)], float)


def embedded_words(words, width, length):
    """averages of few word vectors by Zipf's law"""
    def f(r, n):
        p = 1.0 / np.arange(1, words + 1)
        p /= p.sum()
        e = r.standard_normal((words, width))
        return e[r.choice(words, (n, length), p=p)].mean(1)
    return f


def residual_stream(tokens, positions, width, mix):
    """a token's vector, a position's, and a smooth function of both"""
    def f(r, n):
        p = 1.0 / np.arange(1, tokens + 1)
        p /= p.sum()
        t = r.choice(tokens, n, p=p)
        q = r.integers(positions, size=n)
        c = r.standard_normal((n, 6))
        x = r.standard_normal((tokens, width))[t] + 0.5 * np.cumsum(r.standard_normal((positions, width)),
            0)[q] / np.sqrt(positions)
        return x + mix * np.tanh(c @ r.standard_normal((6, width)))
    return f


def bursts(f, share, size, scale):
    def g(r, n):
        x = f(r, n)
        m = int(n * share) // size
        for b in range(m):
            x[b * size:(b + 1) * size] = x[b * size] + scale * r.standard_normal((size, x.shape[1]))
        return x
    return g


judging = Collection(77)
add = judging.add
for d, sc, n in ((3, 1, 1000), (5, 0.8, 2500)):
    add(f"veronese_{d}", n, "one", d, veronese(d, sc))
add("twinpeaks_3", 1500, "one", 3, lambda r, n: S.hyperTwinPeaks(n, 3,
    random_state=int(r.integers(2 ** 31))))
add("twinpeaks_6", 3000, "one", 6, lambda r, n: S.hyperTwinPeaks(n, 6,
    random_state=int(r.integers(2 ** 31))))
for ds, n in (((2, 3), 2000), ((1, 4), 1300), ((1, 1, 2), 800), ((3, 5), 3500)):
    add("spheres_" + "x".join(map(str, ds)), n, "one", sum(ds), spheres(*ds))
add("klein", 1000, "one", 2, klein)
add("swiss_hole", 1800, "one", 2, swiss_hole)
for d, n in ((2, 700), (3, 1500), (7, 3500)):
    add(f"rp_{d}", n, "one", d, projective(d))
add("cp_2", 2200, "one", 4, complex_projective(2))
add("cp_3", 3500, "one", 6, complex_projective(3))
for d, n in ((2, 800), (3, 1600), (4, 2500), (5, 3500)):
    add(f"signals_{d}", n, "one", d, signals(d))
add("pendulum", 2000, "one", 4, pendulum)
add("logspd", 2000, "one", 6, logspd)
for d, n in ((4, 1000), (7, 3000)):
    add(f"copula_{d}", n, "one", d, gumbel_copula(d))
for d, w, fr, n in ((4, 60, 0.7, 1500), (8, 120, 0.8, 3500), (2, 40, 1.5, 700)):
    add(f"siren_{d}", n, "one", d, siren(d, w, fr))
for d, w, k, n in ((6, 100, "laplace", 2000), (11, 200, "normal", 3500), (3, 50, "t5", 900)):
    add(f"resnet_{d}", n, "one", d, resnet(d, w, k))
for d, w, n in ((3, 20, 1200), (6, 50, 3000)):
    add(f"quadratics_{d}", n, "one", d, quadratics(d, w))
for d, p, n in ((6, 1, 2000), (4, 0.5, 1200), (9, 4, 3500)):
    add(f"lp_ball_{d}_{p}", n, "one", d, lp_ball(d, p))
add("shell_4", 1500, "one", 4, shell(4, 0.7))
add("cone_5", 2500, "one", 5, cone(5))
add("watson_4", 1500, "one", 4, watson(4, 3))
add("watson_7", 3000, "one", 7, watson(7, 0.2))
add("normal_5_.4", 1500, "one", 5, normal(5, 0.4))
add("normal_10_.5", 3500, "one", 10, normal(10, 0.5))
add("rotated_3", 1500, "one", 3, rotated_image(3))
add("rotated_4", 3000, "one", 4, rotated_image(4))
add("mixture_sphere3", 2000, "one", 3, mixture(lambda r, n: isometry(r, unit(r, n, 4), 10), 3, 1))
add("mixture_ball7", 3500, "one", 7, mixture(ball(7), 6, 0.6))
for d, n in ((12, 3000), (16, 1000)):
    add(f"normal_{d}", n, "one", d, normal(d, 1))
add("ball_18", 2500, "one", 18, ball(18))
add("sphere_25", 4000, "one", 25, sphere(25))
add("cube_12", 3500, "one", 12, lambda r, n: r.uniform(size=(n, 12)))
add("byte_5", 2000, "one", 5, rounded(lambda r, n: r.uniform(-1, 1, (n, 5)), 128))
add("byte_bump", 1500, "one", 3, rounded(rotated_image(3), 255))
add("dup_veronese", 3000, "one", 4, duplicated(veronese(4, 1), 0.4))
add("byte_rgb", 2500, "one", 3, rounded(lambda r, n: r.normal(size=(n, 3)), 128))
for base, d, f in (("rp3", 3, projective(3)), ("veronese3", 3, veronese(3, 1)),
        ("s2xs3", 5, spheres(2, 3)), ("signals3", 3, signals(3)), ("quadratics6", 6, quadratics(6, 30)),
        ("cube9", 9, lambda r, n: r.uniform(-1, 1, (n, 9))), ("normal4", 4, normal(4, 1)),
        ("klein", 2, klein)):
    for width, ratio, n in ((150, 0.05, 2000), (64, 0.15, 1200), (500, 0.15, 2500), (80, 0.3, 2000)):
        add(f"noise_{base}_{width}_{ratio}", n, "noise", d, noisy(f, width, ratio))
    add(f"noise_{base}_uniform", 3000, "noise", d, uniform_noise(f, 64, 0.1))
add("union_3_7", 2500, "none", (3, 7), union([(projective(3), 0.5), (ball(7), 0.5)], 20, 4))
add("union_4_8", 3000, "none", (4, 8), union([(veronese(4, 1), 0.8), (ball(8), 0.2)], 24, 4))
add("union_1_2", 1200, "none", (1, 2), union([(trefoil, 0.5), (klein, 0.5)], 8, 4))
add("union_5_10", 3500, "none", (5, 10), union([(spheres(2, 3), 0.5), (ball(10), 0.5)], 30, 1))
add("union_2_3_4", 2000, "none", (2, 3, 4), union([(klein, 0.33), (projective(3), 0.33), (signals(4),
    0.34)], 80, 3))
add("swissRoll3Sph", 2000, "none", (2, 3),
    lambda r, n: S.swissRoll3Sph(n // 2, n // 2, random_state=int(r.integers(2 ** 31))))
for name, w, law in (("2", 200, lambda j: j ** (-2.0)), ("exp2", 60, lambda j: np.exp(-j / 2)),
        ("1.2", 400, lambda j: j ** (-1.2))):
    add(f"spectrum_{name}", 2000, "none", (), spectrum(w, law))
add("rbf_.05", 2000, "none", (), rbf_functions(100, 0.05))
add("matern_.1", 1500, "none", (), smooth_functions(80, 0.1))
add("slab_3_5", 3000, "none", (3, 8), slab([1] * 3 + [0.1] * 5))
add("slab_1_9", 1500, "none", (1, 10), slab([1] + [0.05] * 9))
for d, w, disc, sp, n in ((4, 30, 0.6, 0.2, 2500), (7, 50, 0.8, 0.3, 3500), (3, 20, 0.5, 0.1, 1200)):
    add(f"pitman_{d}", n, "none", d, pitman(d, w, disc, sp))
add("equal_6", 3000, "none", 6, equal_clusters(6, 40, 120, 0.25))
add("equal_3_many", 2000, "none", 3, equal_clusters(3, 40, 400, 0.2))
add("equal_9_scales", 3000, "none", 9, equal_clusters(9, 40, 30, 0.2, 0.8))
add("one_hot", 2500, "none", 0, one_hot_sequences(8, 6))
add("subsets", 2000, "none", 0, subsets(30, 8))
add("grid_5_6", 3000, "none", 0, grid(5, 9))
add("codebooks_3", 3000, "none", 0, codebooks(3, 20, 30))
add("multinomial", 2500, "none", 0, lambda r, n: r.multinomial(30, r.dirichlet(np.full(20, 0.5)),
    size=n).astype(float))
add("words_4", 2500, "none", (), embedded_words(800, 50, 4))
add("residual_.1", 3000, "none", (), residual_stream(300, 64, 48, 0.1))
add("residual_.3", 2000, "none", (), residual_stream(1000, 128, 64, 0.3))
add("copies_9", 3000, "none", (), near_copies(ball(9), 0.25, 20, 0.001))
add("bursts_5", 2400, "none", (), bursts(lambda r, n: isometry(r, unit(r, n, 6), 15), 0.5, 6, 0.01))
add("walks_15", 3000, "none", (), walks(20, 15, 0.05))
