"""Many runs in one engine, on the CUDA backend compiled for the host: bits, ends of single runs, what is given back."""

import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import engine_driver  # noqa: E402
from engine_driver import TOP, Engine, Failed, Gone, Served, encode, freeze, spec  # noqa: E402
from test_engine import Run, documents, ok  # noqa: E402
import test_engine  # noqa: E402

LIBRARY = os.path.join(TOP, "build", "regress", "tlaw_cuda.so")


def gpu(**values):
    """A specification that takes little even of a GPU that is none."""
    base = dict(device="cuda:0", isa="sm_90", precision="float32", n_layer=1, d_model=16, context_length=8, steps=8,
                batch_size=2, warmup_steps=1, eval_points=3, eval_tokens=32, train_tokens=600)  # fmt: skip
    base.update(values)
    return spec(**base)


def serve(command, device="cuda:0"):
    engine = Engine(command=command)
    engine.send("SERVE", device=device)
    return engine


class ServedRun(Run):
    """A TRAIN on a socket of its own; take_all reads it to its end."""

    def __init__(self, host, tokens, run_spec, state=b"", **values):
        self.losses, self.states, self.documents = [], {}, b""
        self.model = self.result = None
        self.progress = 0
        self.channel = Served(host, tokens)
        values.setdefault("checkpoint_seconds", 1e9)
        self.channel.send("TRAIN", spec=run_spec, threads=1, resume_bytes=len(state), **values)
        self.channel.send_chunks(state)

    def take_all(self):
        for name, got in self.channel.messages():
            self.take(name, got)
        self.channel.close()
        return self

    def wait_for(self, wanted):
        """Reads up to a message of that name."""
        while True:
            name, got = self.channel.receive()
            if name == "ERROR":
                raise Failed(got)
            if name == wanted:
                return got


def alone(command, tokens, run_spec):
    """The same run in an engine of its own."""
    run = Run.__new__(Run)
    run.losses, run.states, run.documents, run.progress = [], {}, b"", 0
    run.model = run.result = None
    with Engine(tokens, command=command) as engine:
        engine.send("TRAIN", spec=run_spec, threads=1, checkpoint_seconds=0)
        for name, got in engine.messages():
            run.take(name, got)
    return run


def test_bits(command, tokens):
    specs = [gpu(), gpu(precision="bf16", seed=5), gpu(d_model=32, n_layer=2, subset_seed=3)]
    singly = [alone(command, tokens, s) for s in specs]
    with serve(command) as host:
        name, device = host.receive()
        ok(name == "DEVICE" and device["memory"] > 1 << 29 and not device["unusable"], "it says what the GPU has")
        runs = [ServedRun(host, tokens, s) for s in specs]
        bits = [run.take_all().bits() for run in runs]
        ok(bits == [run.bits() for run in singly], "three runs at once: the bits of one at a time")
        late = [ServedRun(host, tokens, s, singly[i].states[5]) for i, s in enumerate(specs)]
        bits = [run.take_all().bits() for run in late]
        ok(bits == [run.bits(after=5) for run in singly], "runs that come later and resume: the same bits")
    return specs, singly


def failure(run):
    try:
        run.take_all()
        return "no error"
    except Failed as error:
        return str(error)


def test_ends(command, tokens, specs, singly):
    """One run ends in every way that there is; its neighbours finish with the same bits."""
    with serve(command) as host:
        neighbours = [ServedRun(host, tokens, s) for s in specs[:2]]
        cancelled = ServedRun(host, tokens, gpu(steps=10**6))
        cancelled.wait_for("PROGRESS")
        ok(cancelled.channel.leave() == 0, "a run whose socket closes leaves")
        evaluating = ServedRun(host, tokens, gpu(eval_tokens=400, eval_interval=1, steps=10**6))
        evaluating.wait_for("LOSS")
        ok(evaluating.channel.leave() == 0, "and one that evaluates")
        wild = ServedRun(host, tokens, gpu(learning_rate=100.0, weight_decay=100.0, steps=50))
        ok(failure(wild).startswith("diverged: "), "one that diverges fails")
        ok(failure(ServedRun(host, tokens, gpu(device="cuda:1"))).startswith("input: device"), "one of another GPU")
        cpu = ServedRun(host, tokens, spec())
        ok("this engine serves cuda:0" in failure(cpu), "one of a CPU")
        poor = ServedRun(host, tokens, gpu(), memory_limit=1 << 20)
        ok("its limit is 1 MB" in failure(poor), "one that needs more memory than it may have")
        state = bytearray(singly[0].states[5])
        state[len(state) // 2] ^= 1
        ok(failure(ServedRun(host, tokens, gpu(), bytes(state))).startswith("checkpoint: "), "a damaged state")
        for frame, text in ((b"GET / HTTP/1.1\r\n\r\n", "malformed"), (encode("PROBE"), "expected TRAIN")):
            bad = Served(host, tokens)
            bad.send_raw(frame)
            name, got = bad.receive()
            ok(name == "ERROR" and text in got["message"] and bad.wait() == 0, "a channel that is sent " + text)
            bad.close()
        with tempfile.TemporaryFile() as junk:
            junk.write(os.urandom(10000))
            junk.flush()
            ok(failure(ServedRun(host, junk, gpu())).startswith("input: "), "a token file that is none")
        bits = [run.take_all().bits() for run in neighbours]
        ok(bits == [run.bits() for run in singly[:2]], "meanwhile two others: the same bits")
        ok(os.path.exists("/proc/%d" % host.pid), "and the engine lives on")


def held(pid):
    """Mappings of device memory, which the host-compiled backend takes from a file of that name; threads."""
    with open("/proc/%d/maps" % pid) as maps:
        mappings = sum("/memfd:device" in line for line in maps)
    return mappings, len(os.listdir("/proc/%d/task" % pid))


def resident(pid):
    with open("/proc/%d/status" % pid) as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


def test_nothing_is_left(command, tokens):
    """Runs that finish, leave early and late, diverge and are refused, in turn."""
    most = 0

    def one_round(host, i):
        nonlocal most
        if i % 10 == 0:
            ServedRun(host, tokens, gpu(steps=1, warmup_steps=0, eval_points=2, eval_tokens=8)).take_all()
        elif i % 10 == 1:
            run = ServedRun(host, tokens, gpu(steps=10**6, eval_tokens=8))
            run.wait_for("LOSS")
            most = max(most, held(host.pid)[0])
            run.channel.leave()
            run.channel.close()
        elif i % 10 == 2:
            failure(ServedRun(host, tokens, gpu(learning_rate=1e30, steps=50, eval_points=2, eval_tokens=8)))
        elif i % 10 < 6:
            ServedRun(host, tokens, gpu()).channel.close()
        else:
            failure(ServedRun(host, tokens, gpu(), b"x" * 1000))

    with serve(command) as host:
        for i in range(10):
            one_round(host, i)
        ok(most >= 5, "a run maps device memory: %d mappings" % most)
        wait_until(lambda: held(host.pid) == (0, 1))
        descriptors, memory = len(os.listdir("/proc/%d/fd" % host.pid)), resident(host.pid)
        for i in range(100):
            one_round(host, i)
        wait_until(lambda: held(host.pid) == (0, 1))
        ok(held(host.pid) == (0, 1), "after 100 starts and ends there are %d, and %d thread" % held(host.pid))
        ok(len(os.listdir("/proc/%d/fd" % host.pid)) == descriptors, "no descriptor is left open")
        grown = resident(host.pid) - memory
        ok(grown < 2000, "and no memory of the host: %d kB" % grown)


def wait_until(condition):
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)


def test_memory(command, tokens):
    """Too little memory beside another run, wherever it is met, ends that run and gives back what it had."""
    ends = set()
    with serve(command) as host:
        long = ServedRun(host, tokens, gpu(steps=10**6))
        long.wait_for("PROGRESS")
        ServedRun(host, tokens, gpu(steps=1, warmup_steps=0)).take_all()
        wait_until(lambda: held(host.pid)[1] == 2)
        before = held(host.pid)[0]
        with open("/proc/%d/status" % host.pid) as status:
            used = next(int(line.split()[1]) for line in status if line.startswith("VmData")) << 10
        for megabytes in (1, 2, 4, 6, 8, 10, 12):
            limit = used + (megabytes << 20)
            resource.prlimit(host.pid, resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
            got = failure(ServedRun(host, tokens, gpu(d_model=128, n_layer=2, context_length=16, steps=2, eval_points=2)))
            ends.add(got.split(":")[0])
            wait_until(lambda: held(host.pid)[1] == 2)
        ok(ends in ({"memory"}, {"memory", "no error"}), "too little memory beside another: %s" % ends)
        ok(held(host.pid)[0] <= before + 1, "nothing is left: %d mappings, %d before" % (held(host.pid)[0], before))
        long.wait_for("PROGRESS")
        ok(long.channel.leave() == 0, "the other is unharmed")


def test_process(command, tokens):
    """What ends the engine as a whole."""
    for what, ended in (
        ("its first socket closes", lambda engine: engine.socket.close()),
        ("SIGTERM", lambda engine: os.kill(engine.pid, signal.SIGTERM)),
    ):
        with serve(command) as host:
            runs = [ServedRun(host, tokens, gpu(steps=10**6)) for _ in range(2)]
            for run in runs:
                run.wait_for("PROGRESS")
            begin = time.monotonic()
            ended(host)
            status = host.wait()
            took = time.monotonic() - begin
            ok(status == 0 and took < 5, "%s: it is gone with 0 in %.0f ms" % (what, took * 1e3))
            try:
                while True:
                    runs[0].channel.receive()
            except Gone:
                ok(True, "and its runs' sockets with it")
    for device, text in (("cpu", "on a GPU"), ("cuda:7", "")):
        with serve(command, device) as host:
            name, got = host.receive()
            if text:
                ok(name == "ERROR" and text in got["message"] and host.wait() == 1, "SERVE on a CPU is refused")
            else:
                run = ServedRun(host, tokens, gpu(device=device))
                ok(got["memory"] == 0, "a GPU that is not there has no memory")
                ok("cuda:7" in failure(run), "and its runs are told so")
    for frame, text in ((encode("RUN"), "descriptors"), (encode("PROBE"), "expected RUN")):
        with serve(command) as host:
            host.receive()
            host.send_raw(frame)
            name, got = host.receive()
            ok(name == "ERROR" and text in got["message"] and host.wait() == 1, "refused: " + got["message"])


def main():
    if not os.path.exists(LIBRARY):
        print("1..0 # SKIP no g++ to compile the CUDA backend for the host")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(engine_driver.ENGINE, os.path.join(folder, "tlaw_engine"))
        shutil.copy(LIBRARY, os.path.join(folder, "tlaw_cuda.so"))
        command = [os.path.join(folder, "tlaw_engine")]
        tokens, _ = freeze(documents(40), test_fraction=0.05)
        specs, singly = test_bits(command, tokens)
        test_ends(command, tokens, specs, singly)
        test_nothing_is_left(command, tokens)
        test_memory(command, tokens)
        test_process(command, tokens)
    print("1..%d" % test_engine.checks)
    return test_engine.failures > 0


if __name__ == "__main__":
    sys.exit(main())
