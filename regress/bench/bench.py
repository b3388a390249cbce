"""Training tokens/s against PyTorch and llm.c: four configurations, everybody in turn, medians and ratios; then the time
of every operation and its share of the peak, and the cost against model size and tokens.

    bench.py STEP [cuda] [seconds a turn] [rounds] [configurations, as "i,iii"]

With cuda on the first GPU, else on the CPU.  STEP is the benchmark program (step.c).  PyTorch is looked for in $TLAW_PYTHON, then python3; llm.c (CPU only)
in the folder $TLAW_LLMC; without them only tlaw's own figures are printed.  Turns are short and interleaved because neighbours on the machine come and go: only
ratios from one run mean anything.
"""
import math
import os
import statistics
import subprocess
import sys

CONFIGURATIONS = {  # L, d_model, heads, T, B, V
    "i": (2, 64, 4, 128, 16, 256),
    "ii": (4, 256, 8, 256, 8, 256),
    "iii": (6, 384, 6, 256, 8, 256),
    "iv": (6, 384, 6, 256, 8, 8192),
}
GPU_CONFIGURATIONS = {
    "124M": (12, 768, 12, 1024, 16, 50257),
    "10M": (6, 384, 6, 256, 16, 256),
    "1M": (5, 128, 4, 256, 16, 256),
}
GPU = sys.argv[2:3] == ["cuda"]
if GPU:
    del sys.argv[2]
    CONFIGURATIONS = GPU_CONFIGURATIONS
THREADS = "cuda" if GPU else len(os.sched_getaffinity(0))
HERE = os.path.dirname(os.path.abspath(__file__))


class Contender:
    def __init__(self, name, command):
        self.name, self.speeds = name, []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def turn(self, seconds):
        self.process.stdin.write("%g\n" % seconds)
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("%s ended early" % self.name)
        self.speeds.append(float(answer))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def find_torch():
    """A python with torch and its version, or None."""
    for python in filter(None, (os.environ.get("TLAW_PYTHON"), "python3")):
        found = subprocess.run([python, "-c", "import torch; print(torch.__version__)"], capture_output=True,
                               text=True)
        if found.returncode == 0:
            return python, found.stdout.strip()
    return None


def build_llmc():
    """The program of llmc_step.c on the llm.c in $TLAW_LLMC, as its Makefile would build it, or None."""
    folder = os.environ.get("TLAW_LLMC")
    if not folder or GPU:
        return None
    program = os.path.join(os.path.dirname(sys.argv[1]), "llmc_step")
    subprocess.run(["gcc", "-Ofast", "-march=native", "-fopenmp", "-DOMP", "-DTESTING", "-w", "-I", folder, "-o", program,
                    os.path.join(HERE, "llmc_step.c"), "-lm"], check=True)
    return program


def own_backends(step):
    """The best instruction set in every precision that this machine has; or the first GPU in its two."""
    if GPU:
        return [("cuda:0", "float32"), ("cuda:0", "bf16")]
    tried = [(isa, precision) for precision in ("float32", "bf16") for isa in ("amx", "avx512", "avx2", "neon", "portable")]
    best = {}
    for isa, precision in tried:
        found = subprocess.run([step, isa, precision, "1", "1", "8", "1", "8", "1", "8"], input="", text=True,
                               capture_output=True)
        if found.returncode == 0:
            best.setdefault(precision, isa)
    return [(isa, precision) for precision, isa in best.items()]


def measure(step, python, llmc, shape, seconds, rounds):
    theirs, ours = [[str(n) for n in (threads,) + shape] for threads in (THREADS, 1 if GPU else THREADS)]
    contenders = [Contender("tlaw %s" % precision, [step, isa, precision] + ours)
                  for isa, precision in own_backends(step)]
    if python:
        script = os.path.join(HERE, "torch_step.py")
        modes = [("float32", "eager"), ("float32", "compile"), ("bf16", "eager"), ("bf16", "compile")]
        contenders += [Contender("torch %s %s" % mode, [python, script, *mode] + theirs) for mode in modes]
    if llmc:
        contenders.append(Contender("llm.c float32", ["env", "OMP_NUM_THREADS=%s" % THREADS, llmc] + theirs[1:]))
    for contender in contenders:
        contender.turn(0.2)
        contender.speeds.clear()
    for _ in range(rounds):
        for contender in contenders:
            contender.turn(seconds)
    for contender in contenders:
        contender.close()
    return {contender.name: statistics.median(contender.speeds) for contender in contenders}


def line(points):
    """Least squares y = a + b x; returns a, b and the largest relative deviation of a point."""
    n, sx, sy = len(points), sum(x for x, _ in points), sum(y for _, y in points)
    b = (n * sum(x * y for x, y in points) - sx * sy) / (n * sum(x * x for x, _ in points) - sx * sx)
    a = (sy - b * sx) / n
    return a, b, max(abs(a + b * x - y) / y for x, y in points)


def cost(step, isa, precision, seconds):
    """Time against work: of a token by the model's FLOPs, of a step by its tokens."""
    def speed(shape):
        contender = Contender("", [step, isa, precision] + [str(n) for n in (THREADS,) + shape])
        contender.turn(0.2)
        contender.turn(seconds)
        contender.close()
        return contender.speeds[1]

    print("cost of a token against the model's FLOPs, %s" % precision)
    points = []
    for L, C, H in ((2, 64, 2), (3, 128, 4), (4, 256, 8), (6, 384, 6), (8, 512, 8)):
        flops, tokens = 6 * (12 * L * C * C + 256 * C) + 6 * L * C * 256, speed((L, C, H, 256, 8, 256))
        points.append((math.log(flops), math.log(1 / tokens)))
        print("  L%d d%-4d %8.2f MFLOP  %8.2f us  %6.0f GFLOP/s" % (L, C, flops / 1e6, 1e6 / tokens, flops * tokens / 1e9))
    print("  time ~ FLOPs^%.2f" % line(points)[1])
    points = []
    for B in (1, 2, 4, 8, 16, 32):
        points.append((B * 128, B * 128 / speed((2, 64, 4, 128, B, 256)) * 1e3))
        print("  step of %5d tokens of (i)  %8.3f ms" % points[-1])
    print("  time = %.3f ms + %.3f us a token; largest deviation %.0f %%" % (line(points)[0], 1e3 * line(points)[1],
                                                                          100 * line(points)[2]), flush=True)


def main():
    step = sys.argv[1]
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    chosen = sys.argv[4].split(",") if len(sys.argv) > 4 else list(CONFIGURATIONS)
    torch, llmc = find_torch(), build_llmc()
    where = "the first GPU" if GPU else "%d threads" % THREADS
    print("training tokens/s on %s, medians of %d turns of %g s" % (where, rounds, seconds))
    print("PyTorch %s" % torch[1] if torch else
          "no PyTorch in $TLAW_PYTHON or python3: the comparison is skipped")
    for name in chosen:
        shape = CONFIGURATIONS[name]
        speeds = measure(step, torch and torch[0], llmc, shape, seconds, rounds)
        print("(%s) L%d d%d h%d T%d B%d V%d" % ((name,) + shape))
        for contender, speed in speeds.items():
            ratios = ["%.2f x %s" % (speeds[own] / speed, own) for own in speeds
                      if own.startswith("tlaw") and not contender.startswith("tlaw")]
            print("  %-22s %10.0f%s" % (contender, speed, "   " + ", ".join(ratios) if ratios else ""), flush=True)
    for name in chosen:
        for isa, precision in own_backends(step):
            print("(%s)" % name, end=" ", flush=True)
            subprocess.run([step, isa, precision] + [str(n) for n in (1 if GPU else THREADS,) + CONFIGURATIONS[name]] + ["profile"],
                           check=True)
    if not GPU:
        for isa, precision in own_backends(step):
            cost(step, isa, precision, seconds / 2)


main()
