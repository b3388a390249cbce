"""Exact neighbours against FAISS IndexFlatL2 and scikit-learn's brute force: in turn, medians and ratios.

    knn.py KNN PYTHON[,PYTHON...] [n width k threads rounds]

KNN is the benchmark program (knn.c).  Every PYTHON that has faiss or sklearn takes part (Debian: python3-faiss,
python3-sklearn; with its reference BLAS instead of libopenblas0-pthread they take twenty times as long); this script
itself needs numpy.  Sets: independent normals, the hardest there is; ten latent dimensions; a curved surface with noise;
clusters; and two like hidden states: a spectrum that decays, rows of different lengths, a large mean, and a few
coordinates a hundred times larger.  At the end: 1,000 added to every coordinate, which must change no neighbour.
"""
import os
import statistics
import subprocess
import sys
import tempfile

import numpy as np

WORKER = r'''
import sys, time
import numpy as np
library, path, out, n, width, k, threads = sys.argv[1:4] + [int(v) for v in sys.argv[4:]]
points = np.fromfile(path, dtype=np.float32).reshape(n, width)
if library == "faiss":
    import faiss
    faiss.omp_set_num_threads(threads)
    print("FAISS", faiss.__version__, flush=True)
    def search():
        index = faiss.IndexFlatL2(width)
        index.add(points)
        return index.search(points, k + 1)[1]
else:
    import sklearn
    from sklearn.neighbors import NearestNeighbors
    print("scikit-learn", sklearn.__version__, flush=True)
    def search():
        return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points).kneighbors()[1]
for line in sys.stdin:
    start = time.perf_counter()
    found = search()
    print(time.perf_counter() - start, flush=True)
    found.astype(np.int32).tofile(out)
    print("written", flush=True)
'''

program, pythons = sys.argv[1], sys.argv[2].split(",")
n, width, k, threads, rounds = (int(v) for v in sys.argv[3:] + ["10000", "768", "20", "2", "5"][len(sys.argv) - 3:])
environment = dict(os.environ, OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads))


def sets():
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.standard_normal(shape, dtype=np.float32)

    def mixed(latent):
        return latent @ normal(latent.shape[1], width)

    yield "noise", normal(n, width)
    latent = mixed(normal(n, 10)) + 0.01 * normal(n, width)
    yield "ten latent dimensions", latent
    angles = 6 * random.random((n, 4), dtype=np.float32)
    yield "a curved surface", mixed(np.concatenate([np.cos(angles), np.sin(angles)], axis=1)) + 0.3 * normal(n, width)
    yield "fifty clusters", normal(50, width)[random.integers(0, 50, n)] + 0.3 * normal(n, width)
    spectrum = np.arange(1, width + 1, dtype=np.float32) ** -0.75
    basis = np.linalg.qr(normal(width, width))[0].astype(np.float32)
    states = (normal(n, width) * spectrum) @ basis
    states *= np.exp(0.3 * normal(n, 1))
    yield "decaying spectrum", states + 2 * normal(1, width)
    states[:, :5] *= 100
    yield "outlying coordinates", states


class Contender:
    """A process that searches once for every line it reads, and the seconds that it took."""

    def __init__(self, command, name, path, out):
        self.out, self.name, self.seconds = out, name, []
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, env=environment)
        if name is None:
            self.name = self.process.stdout.readline().strip()

    def search(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.line = self.process.stdout.readline().split()
        self.seconds.append(float(self.line[0]))
        if self.name != "tlaw":
            self.process.stdout.readline()

    def found(self):
        lists = np.fromfile(self.out, dtype=np.int32).reshape(n, -1)
        if lists.shape[1] == k:
            return lists
        keep = lists != np.arange(n)[:, None]  # without the point itself, or the last where it is not there
        keep[keep.all(axis=1), -1] = False
        return lists[keep].reshape(n, k)

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def contenders(points, folder):
    path = os.path.join(folder, "points")
    sizes = [str(v) for v in (n, width, k, threads)]
    points.tofile(path)
    found = [Contender([program, path] + sizes + [os.path.join(folder, "0")], "tlaw", path, os.path.join(folder, "0"))]
    for python in pythons:
        for library in ("faiss", "sklearn"):
            out = os.path.join(folder, str(len(found)))
            contender = Contender([python, "-c", WORKER, library, path, out] + sizes, None, path, out)
            if contender.name:
                found.append(contender)
            else:
                contender.end()
                print("%s has no %s: left out" % (python, library))
    return found


def compare(points, ours, theirs):
    """Neighbours that differ must be at distances that float32 cannot tell apart."""
    rows = np.flatnonzero((np.sort(ours, axis=1) != np.sort(theirs, axis=1)).any(axis=1))
    worst = 0
    for row in rows:
        mine, other = (np.sort(((points[row].astype(np.float64) - points[lists[row]]) ** 2).sum(axis=1))
                       for lists in (ours, theirs))
        assert (mine <= other * (1 + 1e-12)).all(), "not the nearest"
        worst = max(worst, ((other - mine) / mine).max())
    return "the same neighbours" if not len(rows) else \
        "%d points with others, farther by %.0e of the squared distance at most" % (len(rows), worst)


def neighbours(points, folder):
    path, out = os.path.join(folder, "points"), os.path.join(folder, "0")
    points.tofile(path)
    alone = Contender([program, path] + [str(v) for v in (n, width, k, threads)] + [out], "tlaw", path, out)
    alone.search()
    alone.end()
    return alone.found()


print("n %d, width %d, k %d, %d threads; medians of %d in turn" % (n, width, k, threads, rounds))
with tempfile.TemporaryDirectory() as folder:
    for label, points in sets():
        runners = contenders(points, folder)
        for _ in range(rounds):
            for runner in runners:
                runner.search()
        ours, own = runners[0], statistics.median(runners[0].seconds)
        print("%s: tlaw %.3f s; a point %s distances in bytes, %s in float64; peak %s MB" % ((label, own) + tuple(
            ours.line[1:])))
        for runner in runners[1:]:
            seconds = statistics.median(runner.seconds)
            print("    %-20s %7.3f s  %6.2f x  %s" % (runner.name, seconds, seconds / own,
                                                     compare(points, ours.found(), runner.found())))
        for runner in runners:
            runner.end()
    grid = np.round(points * 512) / 512  # keeps its bits when 1,000 is added
    grid[:, :5] /= 128
    grid = np.round(grid * 512) / 512
    same = (neighbours(grid, folder) == neighbours(grid + np.float32(1000), folder)).all()
    print("1,000 added to every coordinate: %s" % ("the same neighbours" if same else "OTHER NEIGHBOURS"))
    sys.exit(not same)
