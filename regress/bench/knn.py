"""Exact neighbours against FAISS IndexFlatL2 and scikit-learn's brute force: in turn, medians and ratios.

    knn.py KNN [n width k threads rounds]

KNN is the benchmark program (knn.c).  Run with a Python that has numpy and, to compare, faiss and sklearn (Debian:
python3-faiss, python3-sklearn); what is missing is left out and said.  Three sets: noise (independent normals, the
hardest there is), ten latent dimensions, and the latter with a few coordinates a hundred times larger, as
activations have.
"""
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

program = sys.argv[1]
n, width, k, threads, rounds = (int(v) for v in (sys.argv[2:] + ["10000", "768", "20", "2", "5"][len(sys.argv) - 2:]))
os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def sets():
    random = np.random.default_rng(0)
    noise = random.standard_normal((n, width), dtype=np.float32)
    latent = random.standard_normal((n, 10), dtype=np.float32) @ random.standard_normal((10, width), dtype=np.float32)
    latent += 0.01 * random.standard_normal((n, width), dtype=np.float32)
    outliers = latent.copy()
    outliers[:, :5] *= 100
    yield "noise", noise
    yield "ten latent dimensions", latent
    yield "outlying coordinates", outliers


def tlaw(points, folder):
    path, out = os.path.join(folder, "points"), os.path.join(folder, "out")
    points.tofile(path)
    process = subprocess.Popen([program, path, str(n), str(width), str(k), str(threads), out], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def search():
        process.stdin.write("\n")
        process.stdin.flush()
        seconds = float(process.stdout.readline().split()[0])
        return seconds, np.fromfile(out, dtype=np.int32).reshape(n, k)
    return search


def faiss_flat(points, folder):
    import faiss
    faiss.omp_set_num_threads(threads)

    def search():
        start = time.perf_counter()
        index = faiss.IndexFlatL2(width)
        index.add(points)
        found = index.search(points, k + 1)[1]
        return time.perf_counter() - start, found
    return search


def sklearn_brute(points, folder):
    from sklearn.neighbors import NearestNeighbors

    def search():
        start = time.perf_counter()
        found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points).kneighbors()[1]
        return time.perf_counter() - start, found
    return search


def without_self(found):
    """Rows of k + 1 neighbours less the point itself (or the last, where it was not among them)."""
    keep = found != np.arange(n)[:, None]
    keep[keep.all(axis=1), -1] = False
    return found[keep].reshape(n, k)


def check(points, ours, theirs, name):
    """Neighbours that differ must be at distances that float32 products cannot tell apart."""
    theirs = without_self(theirs) if theirs.shape[1] > k else theirs
    rows = np.flatnonzero((np.sort(ours, axis=1) != np.sort(theirs, axis=1)).any(axis=1))
    worst = 0
    for row in rows:
        x = points.astype(np.float64) if row == rows[0] else x
        mine, other = (np.sort(((x[row] - x[lists[row]]) ** 2).sum(axis=1)) for lists in (ours, theirs))
        assert (mine <= other * (1 + 1e-12)).all(), "not the nearest"
        worst = max(worst, ((other - mine) / mine).max())
    print("    %s: %d of %d points have another set of neighbours, farther by at most %.1e of the squared distance"
          % (name, len(rows), n, worst))


for label, points in sets():
    with tempfile.TemporaryDirectory() as folder:
        searches, seconds, found = {}, {}, {}
        for name, make in (("tlaw", tlaw), ("FAISS", faiss_flat), ("scikit-learn", sklearn_brute)):
            try:
                searches[name] = make(points, folder)
            except ImportError:
                print("no %s for this Python: left out" % name)
        for _ in range(rounds):
            for name, search in searches.items():
                took, found[name] = search()
                seconds.setdefault(name, []).append(took)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        print("%s, n %d, width %d, k %d, %d threads: %s" % (label, n, width, k, threads, ", ".join(
            "%s %.3f s%s" % (name, value, "" if name == "tlaw" else " (%.2f x)" % (value / medians["tlaw"]))
            for name, value in medians.items())))
        for name in found:
            if name != "tlaw":
                check(points, found["tlaw"], found[name], name)
