"""Training on the first GPU against PyTorch on the same one, in turn; the table comes last.

    bench.py FOLDER [-t SECONDS] [STAGE]...     FOLDER: what `make gpu-build` filled

Stages: rate (of a large product), 124M (GPT-2, context 1024), 10M and 1M (context 256, one run), study10M and study1M (32
runs in one engine, against PyTorch with one after the other), neighbours, profile (time of every operation of 124M and 10M).  All
in bf16.  PyTorch is that of $TLAW_PYTHON or python3, compiled (torch.compile, and with CUDA graphs as
"reduce-overhead"), with scaled_dot_product_attention and fused AdamW; without one only tlaw's figures are printed.  A
stage that fails is named and the next one begins; none begins after -t seconds.
"""
import argparse
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time

import libraries

SHAPES = {  # L, d_model, heads, T, B, V
    "124M": (12, 768, 12, 1024, 16, 50304),  # three contenders fit 80 GB together
    "10M": (6, 384, 6, 256, 16, 256),
    "1M": (5, 128, 4, 256, 16, 256),
}
STUDY_RUNS = 32
STAGES = ["rate", "124M", "10M", "1M", "study10M", "study1M", "neighbours", "profile"]
COMPILING = 150  # seconds that a contender may take until its first answer
TURN, ROUNDS = 1.0, 5


def flops_per_token(shape):
    layers, d, _, context, _, vocabulary = shape
    return 6 * (12 * layers * d * d + vocabulary * d) + 6 * layers * d * context


class Contender:
    """A program that answers seconds with tokens/s."""

    def __init__(self, name, command):
        self.name, self.speeds = name, []
        self.words = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.words)

    def turn(self, seconds, limit):
        """Its answer, or None, and why on standard output, when there is none in time."""
        try:
            self.process.stdin.write(b"%g\n" % seconds)
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = b""
        if select.select([self.process.stdout], [], [], limit)[0]:
            answer = self.process.stdout.readline()
        if answer:
            self.speeds.append(float(answer))
            return self.speeds[-1]
        self.close()
        self.words.seek(0)
        print("%s: no answer; its last words: %s" % (self.name, self.words.read()[-600:].decode(errors="replace")))
        return None

    def close(self):
        self.process.kill()
        self.process.wait()


class Bench:
    def __init__(self, folder, deadline):
        self.folder, self.deadline = os.path.abspath(folder), deadline
        self.step = os.path.join(self.folder, "step")
        self.regress = os.path.join(self.folder, "regress")
        self.rate, self.table, self.torch_speed = None, [], {}
        self.python = self.find_torch()

    def find_torch(self):
        for python in filter(None, (os.environ.get("TLAW_PYTHON"), "python3")):
            found = subprocess.run([python, "-c", "import torch; assert torch.cuda.is_available(); print(torch.__version__)"],
                                   capture_output=True, text=True)  # fmt: skip
            if found.returncode == 0:
                print("PyTorch %s" % found.stdout.strip())
                return python
        print("no PyTorch with a GPU in $TLAW_PYTHON or python3: the comparison is left out")
        return None

    def left(self):
        return self.deadline - time.monotonic()

    def say(self, line):
        self.table.append(line)
        print(line, flush=True)

    # ---- one run ----

    def torch(self, mode, shape):
        script = os.path.join(self.regress, "bench", "torch_step.py")
        return Contender("PyTorch " + mode, [self.python, script, "bf16", mode, "cuda"] + [str(n) for n in shape])

    def one_run(self, name):
        shape = SHAPES[name]
        contenders = [Contender("tlaw", [self.step, "cuda:0", "bf16", "1"] + [str(n) for n in shape])]
        if self.python:
            contenders += [self.torch(mode, shape) for mode in ("compile", "graphs")]
        limit = min(COMPILING, max(10, self.left() - 20))
        contenders = [c for c in contenders if c.turn(0.5, limit) is not None]
        for contender in contenders:
            contender.speeds.clear()
        for _ in range(ROUNDS):
            contenders = [c for c in contenders if c.turn(TURN, 30) is not None]
        for contender in contenders:
            contender.close()
        speeds = {c.name: statistics.median(c.speeds) for c in contenders}
        mine = speeds.pop("tlaw", None)
        if speeds:
            self.torch_speed[name] = max(speeds.values())
        if mine is None:
            self.say("%-9s FAILED" % name)
            return
        utilisation = " %.1f %% of the rate," % (100 * mine * flops_per_token(shape) / self.rate) if self.rate else ""
        self.say("%-9s L%d d%d T%d B%d V%d:" % ((name,) + shape[:2] + shape[3:]) + " tlaw %.0f tokens/s,%s %s" % (
            mine, utilisation, ", ".join("%.2f x %s (%.0f)" % (mine / s, n, s) for n, s in speeds.items()) or "alone"))

    # ---- a study ----

    def study(self, name):
        """tokens/s of all runs together, as they tell while all of them train."""
        sys.path.insert(0, os.path.join(self.regress, "engine"))
        from engine_driver import freeze, spec
        from test_engine import documents
        from test_many_runs import ServedRun, serve

        layers, d, heads, context, batch, _ = SHAPES[name]
        tokens, frozen = freeze(documents(20000), test_fraction=0.05, validation_fraction=0.05)
        runs_of = spec(device="cuda:0", isa=self.isa(), precision="bf16", n_layer=layers, d_model=d, n_head=heads, bias=1,
                       context_length=context, batch_size=batch, micro_batch=batch, steps=10**7, warmup_steps=100,
                       learning_rate=0.001, eval_points=1, eval_tokens=batch * context,
                       train_tokens=frozen["train_tokens"] // 2)  # fmt: skip
        for count in (1, STUDY_RUNS):
            with serve([os.environ["TLAW_ENGINE"]]) as host:
                host.receive()
                runs = [ServedRun(host, tokens, dict(runs_of, seed=1 + i)) for i in range(count)]
                speed = self.listen(runs, 6)
            torch = self.torch_speed.get(name)
            self.say("%-9s %d runs in one engine: %.0f tokens/s together%s" % (
                "study" + name, count, speed, ", %.2f x PyTorch (%.0f)" % (speed / torch, torch) if torch else ""))

    @staticmethod
    def listen(runs, seconds):
        """The runs' speeds, summed: what each told last of those seconds, which begin when all of them train."""
        last, until = {}, None
        while until is None or time.monotonic() < until:
            for run in runs:
                while select.select([run.channel.socket], [], [], 0 if until else 0.01)[0]:
                    name, got = run.channel.receive()
                    if name == "ERROR":
                        raise RuntimeError(got["message"])
                    if name == "PROGRESS" and got["phase"] == "train" and got["step"] > 20:
                        last[run] = got["tokens_per_second"]
            if until is None and len(last) == len(runs):
                until = time.monotonic() + seconds
            time.sleep(0.02)
        return sum(last.values())

    # ---- the machine, operations, neighbours ----

    def gpu(self):
        from engine_driver import Engine

        with Engine() as engine:
            engine.send("PROBE", measure=1)
            return next(values for _, values in engine.messages() if values["device"] == "cuda:0")

    def isa(self):
        return self.gpu()["isa"]

    def large_product(self):
        found = self.gpu()
        self.rate = found["gflops"] * 1e9
        self.say("rate      %s: a large product runs at %.0f TFLOP/s" % (found["name"], self.rate / 1e12))

    def profile(self):
        for name in ("124M", "10M"):
            command = [self.step, "cuda:0", "bf16", "1"] + [str(n) for n in SHAPES[name]] + ["profile"]
            print(subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout)
        self.table.append("profile   printed above")

    def neighbours(self):
        """Searches of random points on the GPU and, where that takes no minutes, on the CPU."""
        threads = str(len(os.sched_getaffinity(0)))
        for n, width in ((10000, 768), (100000, 768)):
            found = {}
            for where, turns in (("cuda:0", 4), (threads, 1)):
                out = subprocess.run([os.path.join(self.folder, "search"), str(n), str(width), "20", where, str(turns)],
                                     stdout=subprocess.PIPE, text=True, timeout=120, check=True).stdout.split()  # fmt: skip
                found[where] = min(float(seconds) for seconds in out[:-1]), out[-1]
            (gpu, mine), (cpu, expected) = found.values()
            self.say("neighbours n %d, D %d, k 20: %.4f s, the CPU's %s threads %.3f s (%.0f x); %s neighbours" % (
                n, width, gpu, threads, cpu, cpu / gpu, "the same" if mine == expected else "DIFFERENT"))

    def run(self, stage):
        if stage == "rate":
            self.large_product()
        elif stage in SHAPES:
            self.one_run(stage)
        elif stage.startswith("study"):
            self.study(stage[len("study"):])
        elif stage == "neighbours":
            self.neighbours()
        else:
            self.profile()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder")
    arguments.add_argument("-t", type=float, default=3600, help="seconds after which no stage begins")
    arguments.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    given = arguments.parse_intermixed_args()
    unknown = set(given.stages) - set(STAGES)
    if unknown:
        arguments.error("no such stage: %s; %s are" % (", ".join(unknown), ", ".join(STAGES)))
    os.environ["LD_LIBRARY_PATH"] = libraries.search_path()
    os.environ["TLAW_ENGINE"] = os.path.join(os.path.abspath(given.folder), "tlaw_engine")
    sys.path.insert(0, os.path.join(os.path.abspath(given.folder), "regress", "engine"))
    bench = Bench(given.folder, time.monotonic() + given.t)
    for stage in given.stages or STAGES:
        if bench.left() < 10:
            bench.say("%-9s left out: no time" % stage)
            continue
        begin = time.monotonic()
        try:
            bench.run(stage)
        except Exception as error:  # the next stage may still say something
            bench.say("%-9s FAILED: %s" % (stage, " ".join(str(error).split())[:300]))
        print("(%s: %.0f s)" % (stage, time.monotonic() - begin), flush=True)
    print("\n" + "\n".join(bench.table))


if __name__ == "__main__":
    main()
