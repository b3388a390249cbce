"""The engine on the first GPU, in TAP: runs against the CPU's, the same bits alone, together and resumed; engines killed
in the middle of a run; what they leave on the device.

    check_engine.py [host]      host: the device is this machine's processor, so everything is small
"""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "engine"))
import test_engine  # noqa: E402
from engine_driver import Engine, freeze, spec  # noqa: E402
from test_engine import Run, documents, ok  # noqa: E402
from test_many_runs import ServedRun, serve  # noqa: E402

HOST = sys.argv[1:] == ["host"]
COMMAND = [os.environ["TLAW_ENGINE"]]


def probe():
    with Engine(command=COMMAND) as engine:
        engine.send("PROBE", measure=1)
        found = [values for _, values in engine.messages()]
    gpu = next(device for device in found if device["device"] == "cuda:0")
    print("# %(name)s: %(isa)s, %(cores)d multiprocessors, %(gflops).0f GFLOP/s %(unusable)s" % gpu)
    ok(not gpu["unusable"] and gpu["gflops"] > 0 and gpu["memory"] > 0, "the GPU is usable and measured")
    return gpu, next(device for device in found if device["device"] == "cpu" and device["precision"] == "float32")


def shape(device, precision, **values):
    size = dict(n_layer=1, n_head=2, d_model=16, context_length=8, batch_size=2, steps=8, warmup_steps=1, eval_points=3,
                eval_tokens=32, train_tokens=600) if HOST else \
        dict(n_layer=4, n_head=4, d_model=128, context_length=128, batch_size=16, steps=200, warmup_steps=20,
             eval_points=6, eval_tokens=4096, train_tokens=40000)  # fmt: skip
    values.setdefault("micro_batch", values.get("batch_size", size["batch_size"]))
    return spec(device=device["device"], isa=device["isa"], precision=precision, learning_rate=0.001,
                **{**size, **values})  # fmt: skip


def train(tokens, run_spec, state=b"", keep=None):
    """A run in an engine of its own; keep: the step whose state is wanted."""
    run = Run.__new__(Run)
    run.losses, run.states, run.documents, run.progress = [], {}, b"", 0
    run.model = run.result = None
    threads = min(16, len(os.sched_getaffinity(0)))
    with Engine(tokens, command=COMMAND) as engine:
        engine.send("TRAIN", spec=run_spec, threads=threads, resume_bytes=len(state),
                    checkpoint_seconds=1e9 if keep is None else 0)  # fmt: skip
        engine.send_chunks(state)
        for name, got in engine.messages(timeout=120):
            if name != "CHECKPOINT" or got["kind"] != "resume" or got["step"] == keep:
                run.take(name, got)
    return run


def test_losses(tokens, gpu, cpu):
    """A run in either precision against the CPU's in float32: losses at every evaluation, and of the test."""
    truth = train(tokens, shape(cpu, "float32"))
    singly = {}
    for precision in ("float32", "bf16"):
        run_spec = shape(gpu, precision)
        singly[precision] = run = train(tokens, run_spec, keep=run_spec["steps"] // 2)
        pairs = [(a["val_loss"], b["val_loss"]) for a, b in zip(run.losses, truth.losses)]
        worst = max(abs(a - b) / b for a, b in pairs + [(run.result["test_loss"], truth.result["test_loss"])])
        ok(worst < 0.005 and len(pairs) > 2, "%s: losses from %.4f to %.4f are the CPU's within %.3f %%" %
           (precision, pairs[0][0], pairs[-1][0], 100 * worst))  # fmt: skip
        print("# %s: %.0f tokens/s, mfu %.4f" % (precision, run.result["tokens_per_second"], run.result["mfu"]))
    return singly


def test_bits(tokens, gpu, singly):
    for precision, run in singly.items():
        run_spec = shape(gpu, precision)
        (step,) = run.states
        ok(train(tokens, run_spec).bits() == run.bits(), "%s: again, the same bits" % precision)
        ok(train(tokens, run_spec, run.states[step]).bits(after=step) == run.bits(after=step),
           "%s: resumed at step %d, the same bits" % (precision, step))  # fmt: skip


def test_together(tokens, gpu, singly):
    count = 3 if HOST else 16
    with serve(COMMAND) as host:
        host.receive()
        runs = [ServedRun(host, tokens, shape(gpu, "bf16", seed=1 if i == 0 else 100 + i)) for i in range(count)]
        bits = [run.take_all().bits() for run in runs]
        ok(all(a != b for a, b in zip(bits, bits[1:])), "%d runs in one engine" % count)
        first = train(tokens, shape(gpu, "bf16", seed=1)).bits()
        ok(bits[0] == first, "the first has the bits of one alone")
        last = train(tokens, shape(gpu, "bf16", seed=99 + count)).bits()
        ok(bits[-1] == last, "and the last")


def memory_used():
    """MiB in use on the first GPU by everybody; None where that is not said."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], capture_output=True,
            text=True)  # fmt: skip
        return int(found.stdout)
    except (OSError, ValueError):
        return None


def settled_memory(before, seconds=10):
    """The same, once it has come down to what it was, or after that time."""
    until = time.monotonic() + seconds
    while True:
        used = memory_used()
        if used is None or used <= before + 8 or time.monotonic() > until:
            return used
        time.sleep(0.2)


def test_killed(tokens, gpu):
    before = memory_used()
    most = 0
    for served in (False, False, True):
        endless = shape(gpu, "bf16", steps=10**6)
        engine = serve(COMMAND) if served else Engine(tokens, command=COMMAND)
        if served:
            engine.receive()
            for _ in range(3):
                ServedRun(engine, tokens, endless).wait_for("PROGRESS")
        else:
            engine.send("TRAIN", spec=endless, threads=1, checkpoint_seconds=1e9)
            while engine.receive()[0] != "PROGRESS":
                pass
        most = max(most, memory_used() or 0)
        os.kill(engine.pid, 9)
        ok(engine.wait() == -9, "an engine killed in the middle of %s" % ("three runs" if served else "a run"))
        engine.socket.close()
    if before is None:
        ok(True, "memory of the device # SKIP nvidia-smi does not say")
    else:
        after = settled_memory(before)
        ok(most > before and after <= before + 8, "%d MiB in use before, %d at work, %d after" % (before, most, after))
    run = train(tokens, shape(gpu, "bf16"))
    ok(run.result is not None, "the next run trains")


def test_given_back(tokens, gpu):
    """Starts and ends in one engine: what it holds does not grow."""
    short = shape(gpu, "bf16", steps=2, warmup_steps=0, eval_points=2, eval_tokens=256 if not HOST else 8)
    rounds = 3 if HOST else 100
    with serve(COMMAND) as host:
        host.receive()
        for _ in range(3):
            ServedRun(host, tokens, short).take_all()
        before = memory_used()
        for _ in range(rounds):
            ServedRun(host, tokens, short).take_all()
        after = memory_used()
    if before is None:
        ok(True, "%d runs in one engine # SKIP nvidia-smi does not say what memory is used" % rounds)
    else:
        ok(after <= before + 8, "%d runs in one engine: %d MiB in use before, %d after" % (rounds, before, after))


def main():
    gpu, cpu = probe()
    tokens, _ = freeze(documents(40 if HOST else 4000), test_fraction=0.05)
    singly = test_losses(tokens, gpu, cpu)
    test_bits(tokens, gpu, singly)
    test_together(tokens, gpu, singly)
    test_killed(tokens, gpu)
    test_given_back(tokens, gpu)
    print("1..%d" % test_engine.checks)
    return test_engine.failures > 0


if __name__ == "__main__":
    sys.exit(main())
