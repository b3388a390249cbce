"""What the default estimator of dimensions makes of sets with one dimension and of sets with none: how often `plateau` is
false, the mean |ln(estimate / truth)| (of the nearest truth, where there are several), how often the interval holds the
truth (all of them) and its median width, high / low; beside the extrapolation with no regard to plateaus and, on the first
draw, scikit-dimension's estimators.

    make bench-plateau [BENCH_ARGS="judging|choosing [draws [MLE,TwoNN,lPCA,local_lPCA,FisherS,DANCo [set]]]"]

Noise counts as clear where it raises the reading with k/4 neighbours by more than 15 %, as none where by less than 5 %.
TLAW_PYTHON names a Python with numpy and scikit-dimension.  Some ten minutes; DANCo an hour.
"""
import collections
import math
import signal
import statistics
import subprocess
import sys

import numpy as np
import skdim

import dimension_sets
import dimension_sets_judge

LIBRARY = {"MLE": lambda x: skdim.id.MLE(K=20).fit(x).dimension_,
           "TwoNN": lambda x: skdim.id.TwoNN().fit(x).dimension_,
           "lPCA": lambda x: skdim.id.lPCA(verbose=False).fit(x).dimension_,
           "local_lPCA": lambda x: np.mean(skdim.id.lPCA(verbose=False).fit_pw(x, n_neighbors=40).dimension_pw_),
           "FisherS": lambda x: skdim.id.FisherS().fit(x).dimension_,
           "DANCo": lambda x: skdim.id.DANCo(random_state=0).fit(x).dimension_}
PATIENCE = 60  # seconds for one estimate of the library

Answer = collections.namedtuple("Answer", "dimension low high plateau read n extrapolated")


def ask(program, points):
    program.stdin.write(b"%d %d\n" % points.shape + points.tobytes())
    program.stdin.flush()
    return Answer(*map(float, program.stdout.readline().split()))


def error(dimension, truth):
    return min(abs(math.log(dimension / t)) for t in truth)


def of_library(name, points):
    """NaN where it fails or takes too long"""
    signal.alarm(PATIENCE)
    try:
        return float(LIBRARY[name](np.unique(points, axis=0)))
    except Exception as problem:
        print(f"# {name}: {problem!r}", file=sys.stderr)
        return math.nan
    finally:
        signal.alarm(0)


def out_of_patience(*_):
    raise TimeoutError


def measure(program, sets, entry, draws, library):
    """[(class, truth, answer, {library's estimator: dimension})], a row a draw"""
    name, n, kind, truth, maker = entry
    rows = []
    for draw in range(draws):
        points = sets.points(entry, draw)
        answer, group = ask(program, points), kind
        if kind == "noise":
            rise = math.log(answer.read / ask(program, sets.points(entry, draw, clean=True)).read)
            group = "noise, clear" if rise > .15 else "noise, none" if rise < .05 else "noise, little"
        rows.append((group, truth, answer, {e: of_library(e, points) for e in library} if draw == 0 else {}))
    flagged = sum(row[2].plateau == 0 for row in rows)
    print(f"# {name} ({group}, n {n}, width {points.shape[1]}, truth {truth}): plateau false in {flagged} of {draws}, "
          f"{statistics.mean(row[2].dimension for row in rows):.2f}", flush=True)
    return rows


def summarise(group, rows, library):
    known = [row for row in rows if row[1] and row[1] != (0,)]
    flagged = statistics.mean(a.plateau == 0 for _, _, a, _ in rows)
    print(f"{group}: {len(rows)} draws, plateau false in {100 * flagged:.1f} %")
    if not known:
        return
    errors = [error(a.dimension, t) for _, t, a, _ in known]
    held = [all(a.low <= x <= a.high for x in t) for _, t, a, _ in known]
    widths = [a.high / a.low for _, _, a, _ in known]
    plain = [error(a.extrapolated, t) for _, t, a, _ in known if a.extrapolated > 0]
    print(f"    tlaw: error {statistics.mean(errors):.3f}, holds {100 * statistics.mean(held):.0f} %, "
          f"high / low {statistics.median(widths):.2f}; extrapolated throughout: {statistics.mean(plain):.3f} "
          f"({len(known) - len(plain)} beyond 100)")
    first = [row for row in known if row[3]]
    for name in library:
        answered = [(theirs[name], ours.dimension, t) for _, t, ours, theirs in first if theirs[name] > 0]
        if answered:
            print(f"    {name}: error {statistics.mean(error(d, t) for d, _, t in answered):.3f} of {len(answered)}; "
                  f"tlaw on the same {statistics.mean(error(d, t) for _, d, t in answered):.3f}")


def main():
    sets = {"judging": dimension_sets_judge.judging, "choosing": dimension_sets.choosing}[(sys.argv[2:] or ["judging"])[0]]
    draws = int((sys.argv[3:] or ["5"])[0])
    library = [name for name in (sys.argv[4:] or [""])[0].split(",") if name]
    wanted = (sys.argv[5:] or [""])[0]
    program = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    groups = collections.defaultdict(list)

    signal.signal(signal.SIGALRM, out_of_patience)
    for entry in sets:
        if wanted in entry[0]:
            for row in measure(program, sets, entry, draws, library):
                groups[row[0]].append(row)
    for group, rows in sorted(groups.items()):
        summarise(group, rows, library)


if __name__ == "__main__":
    main()
