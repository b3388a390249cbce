"""The engine without PostgreSQL: every job, its answers and its refusals, determinism, resuming, orphans."""

import hashlib
import json
import math
import os
import random
import signal
import struct
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from engine_driver import ENGINE, Engine, Failed, Gone, encode, freeze, spec  # noqa: E402

checks = 0
failures = 0


def ok(condition, what):
    global checks, failures
    checks += 1
    failures += not condition
    print("%s %d - %s" % ("ok" if condition else "not ok", checks, what), flush=True)
    return condition


def documents(count=150, seed=1):
    """Sentences of a small vocabulary: something to learn."""
    rng = random.Random(seed)
    nouns, verbs = "cat dog bird fish child king river stone".split(), "sees likes finds follows".split()
    return [
        " ".join(
            "the %s %s the %s." % (rng.choice(nouns), rng.choice(verbs), rng.choice(nouns))
            for _ in range(rng.randint(1, 5))
        ).encode()
        for _ in range(count)
    ]


def refused(code, text, tokens, name, *frames, **values):
    """The job must end with an ERROR of that code that says `text`, and exit status 1."""
    with Engine(tokens) as engine:
        try:
            engine.send(name, **values)
            for frame in frames:
                engine.send_raw(frame)
        except (BrokenPipeError, ConnectionResetError):
            pass
        got = "no error"
        try:
            for _ in engine.messages():
                pass
        except Failed as error:
            got = str(error)
        except Gone as gone:
            got = str(gone)
        status = engine.wait()
    ok(got.startswith(code + ": ") and text in got and status == 1, "%s refused (%s)" % (name, got))


class Run:
    """What a TRAIN sent."""

    def __init__(self, tokens, run_spec, state=b"", stop_at=None, threads=1, change=None, processor=None, **values):
        self.losses, self.states, self.documents = [], {}, b""
        self.model = self.result = None
        self.threads = []  # of the process, at every PROGRESS
        values.setdefault("checkpoint_seconds", 1e9)
        with Engine(tokens) as engine:
            if processor is not None:
                os.sched_setaffinity(engine.pid, [processor])
            engine.send("TRAIN", spec=run_spec, threads=threads, resume_bytes=len(state), **values)
            engine.send_chunks(state)
            for name, got in engine.messages():
                self.take(name, got)
                if name == "PROGRESS":
                    self.threads.append(len(os.listdir("/proc/%d/task" % engine.pid)))
                if name == "LOSS" and change and got["step"] >= change[0]:
                    engine.send("THREADS", threads=change[1])
                    change = None
                if stop_at is not None and stop_at in self.states:
                    break

    def take(self, name, got):
        if name == "LOSS":
            self.losses.append(got)
        elif name == "DOCUMENT_LOSSES":
            self.documents += got["records"]
        elif name == "RESULT":
            self.result = got
        elif name == "CHECKPOINT" and got["kind"] == "resume":
            self.states[got["step"]] = got["data"]
        elif name == "CHECKPOINT":
            self.model = got

    def bits(self, after=-1):
        """Everything that must not depend on time, as bytes."""
        out = [self.documents, self.model["data"]]
        for loss in self.losses:
            if loss["step"] > after:
                out.append(
                    struct.pack("<qdddd", loss["step"], *(loss[k] for k in
                                ("train_loss", "val_loss", "learning_rate", "grad_norm"))))  # fmt: skip
        timed = {"tokens_per_second", "train_seconds", "eval_seconds", "mfu", "peak_memory", "thread_flops"}
        out.append(repr({k: v for k, v in self.result.items() if k not in timed}).encode())
        return b"".join(out)


def test_freeze():
    texts = documents()
    tokens, frozen = freeze(texts)
    parts = ("train", "validation", "test")
    ok(frozen["documents"] == 150 and frozen["vocab_size"] == 257, "freeze: documents and vocabulary")
    ok(frozen["tokens"] == sum(frozen[p + "_tokens"] for p in parts), "freeze: parts make the whole")
    content = tokens.read()
    ok(hashlib.sha256(content).digest() == frozen["sha256"], "freeze: the file has the hash that is told")
    again, _ = freeze(reversed(texts))
    ok(again.read() == content, "freeze: rows in another order give the same file")
    given = content[frozen["tokenizer_offset"] :][: frozen["tokenizer_bytes"]]
    third, _ = freeze(texts, "given", given)
    ok(third.read() == content, "freeze: with the tokenizer given, the same file")
    for arguments, text in (
        (dict(tokenizer="words"), "words"),
        (dict(validation_fraction=1.5), "validation_fraction"),
    ):
        try:
            freeze(texts[:5], **arguments)
            got = "no error"
        except (Failed, BrokenPipeError, Gone) as error:
            got = str(error)
        ok(got.startswith("input: ") and text in got, "freeze refused (%s)" % got)
    return tokens


def test_train(tokens):
    run = Run(tokens, spec(), memory_limit=2 << 30)
    steps = [loss["step"] for loss in run.losses]
    ok(steps[0] == 0 and steps[-1] == 40 and steps == sorted(set(steps)), "train: losses at %s" % steps)
    ok(math.isnan(run.losses[0]["train_loss"]), "train: there is no training loss before the first step")
    first, last = run.losses[0]["val_loss"], run.losses[-1]["val_loss"]
    ok(abs(first - math.log(257)) < 0.2, "train: begins near log(257): %.3f" % first)
    ok(last < first - 1, "train: learns: %.3f" % last)
    ok(run.losses[-1]["tokens_seen"] == 40 * 4 * 16, "train: tokens seen")
    records = list(struct.iter_unpack("<qqqd", run.documents))
    mean = sum(r[3] for r in records) / sum(r[1] for r in records)
    ok(abs(mean - run.result["test_loss"]) < 1e-9, "train: the documents' losses make the test loss")
    ok([r[0] for r in records] == list(range(run.result["test_documents"])), "train: every test document")
    ok(run.result["best_step"] in steps, "train: the best step was validated")
    best = min(run.losses, key=lambda loss: loss["val_loss"])["step"]
    ok(run.result["best_step"] == best == run.model["step"], "train: and had the lowest loss")
    ok(hashlib.sha256(run.model["data"]).digest() == run.model["sha256"], "train: the model's hash")
    ok(run.result["tokens_per_second"] > 0 and run.result["mfu"] > 0, "train: speed")
    ok(1 << 20 < run.result["peak_memory"] < 1 << 30, "train: memory %d" % run.result["peak_memory"])
    told = Run(tokens, spec(steps=4, checkpoint="none"), thread_flops=1e9)
    ok(told.model is None, "train: checkpoint none sends no model")
    ok(run.result["thread_flops"] > 0, "train: tells what a thread can do")
    mfu = told.result["tokens_per_second"] / run.result["tokens_per_second"] * run.result["mfu"] * run.result["thread_flops"] / 1e9
    ok(told.result["thread_flops"] == 1e9, "train: takes what an earlier run told")
    ok(abs(told.result["mfu"] / mfu - 1) < 1e-9, "train: and reckons with it")
    # 6 FLOPs a token and weight of a product, 12 a layer, position and column of attention, which is half masked
    flops = (6 * (12 * 2 * 32 * 32 + 257 * 32) + 6 * 2 * 16 * 32) * 4 * 4 * 16
    for threads in (1, 2):
        told = Run(tokens, spec(steps=4, checkpoint="none"), threads=threads, thread_flops=1e9).result
        ok(abs(told["mfu"] * told["train_seconds"] * threads * 1e9 / flops - 1) < 1e-9, "train: mfu of %d threads" % threads)
    return run


def test_same_bits(tokens, reference):
    ok(Run(tokens, spec()).bits() == reference.bits(), "bits: the same run again")
    ok(Run(tokens, spec(), threads=2).bits() == reference.bits(), "bits: two threads")
    changed = Run(tokens, spec(), change=(1, 2))
    ok(changed.bits() == reference.bits(), "bits: threads changed in mid-run")
    ok(Run(tokens, spec(seed=3)).bits() != reference.bits(), "bits: another seed gives others")


def test_full_machine(tokens):
    """A second thread that does not repay is laid aside, and changes no bit."""
    values = spec(isa="portable", steps=3000, eval_points=2)
    alone, crowded = Run(tokens, values), Run(tokens, values, threads=2, processor=min(os.sched_getaffinity(0)))
    ok(1 in crowded.threads, "threads: told two, on one processor, uses one: %s" % crowded.threads)
    ok(crowded.bits() == alone.bits(), "threads: with the same bits")


def test_resume(tokens, reference):
    for stop in sorted(random.sample(range(1, 39), 2)) + [40, 39]:
        stopped = Run(tokens, spec(), stop_at=stop, checkpoint_seconds=0)
        resumed = Run(tokens, spec(), state=stopped.states[stop])
        before = b"".join(
            struct.pack("<qd", loss["step"], loss["val_loss"])
            for loss in stopped.losses
            if loss["step"] <= stop
        )
        expected = b"".join(
            struct.pack("<qd", loss["step"], loss["val_loss"])
            for loss in reference.losses
            if loss["step"] <= stop
        )
        ok(before == expected, "resume: the same losses up to step %d" % stop)
        ok(resumed.bits() == reference.bits(after=stop), "resume: the same bits after step %d" % stop)
    state = bytearray(stopped.states[39])
    state[len(state) // 2] ^= 1
    values = dict(spec=spec(), threads=1, checkpoint_seconds=1e9, resume_bytes=len(state))
    refused("checkpoint", "sha256", tokens, "TRAIN", encode("CHUNK", data=bytes(state)), **values)
    state = stopped.states[39]
    values["spec"] = spec(seed=9)
    refused("checkpoint", "another specification", tokens, "TRAIN", encode("CHUNK", data=state), **values)
    values["resume_bytes"] = 10
    refused("checkpoint", "too short", tokens, "TRAIN", encode("CHUNK", data=b"0123456789"), **values)


def test_refusals(tokens):
    def train(code, text, change=None, **values):
        values = dict(dict(threads=1, checkpoint_seconds=1e9), **values)
        refused(code, text, tokens, "TRAIN", spec=spec(**(change or {})), **values)

    train("diverged", "at step 3, gradient norm", dict(learning_rate=100.0, weight_decay=100.0))
    train("input", "n_head = 3", dict(n_head=3))
    train("input", "vocab_size = 300", dict(vocab_size=300))
    train("input", "lacks steps", dict(steps=-1))
    train("input", "lacks isa", dict(isa=""))
    train("input", "abacus", dict(isa="abacus"))
    train("input", "train_tokens = 1000000000", dict(train_tokens=10**9))
    train("input", "threads = 0", threads=0)
    train("input", "checkpoint_seconds", checkpoint_seconds=math.nan)
    train("input", "thread_flops = -1", thread_flops=-1.0)
    train("memory", "its limit is 1 MB", memory_limit=1 << 20)
    with tempfile.TemporaryFile() as junk:
        junk.write(os.urandom(10000))
        junk.flush()
        refused("input", "", junk, "TRAIN", spec=spec(), threads=1)


def test_memory(tokens):
    """Too little memory, wherever it is met, is an ERROR; the engine needs no more than it says."""
    with Engine() as engine:
        engine.send("PROBE", measure=0)
        best = next(got for _, got in engine.messages())
    big = spec(d_model=128, n_layer=4, context_length=32, batch_size=8, micro_batch=8, steps=4)
    big.update(isa=best["isa"], precision=best["precision"])
    with Engine() as engine:
        engine.send("ESTIMATE", spec=big, threads=2)
        needed = next(got for _, got in engine.messages())["memory"]
    ends = []
    for kilobytes in (2000, 10000, 20000, 26000, 32000, 38000, 44000, 130000):
        command = ["/bin/sh", "-c", "ulimit -d %d; exec '%s'" % (kilobytes, ENGINE)]
        with Engine(tokens, command=command) as engine:
            engine.send("TRAIN", spec=big, threads=2, checkpoint_seconds=0)
            try:
                for _ in engine.messages():
                    pass
                ends.append("done")
            except Failed as error:
                ends.append(error.code if engine.wait() == 1 else "status %d" % engine.status)
    good = ends[0] == "memory" and ends[-1] == "done" and set(ends) <= {"memory", "done"}
    ok(good, "memory: without enough of it: %s" % ends)
    run = Run(tokens, big, threads=2, checkpoint_seconds=0, memory_limit=needed)
    used = run.result["peak_memory"]
    ok(used <= needed, "memory: estimated %d, used %d" % (needed, used))
    again = Run(tokens, big, threads=2, checkpoint_seconds=0, memory_limit=needed, state=run.states[2])
    ok(again.bits() == run.bits(after=2), "memory: a resumed run has enough, too")
    big.update(recompute=1)
    with Engine() as engine:
        engine.send("ESTIMATE", spec=big, threads=2)
        less = next(got for _, got in engine.messages())["memory"]
    lean = Run(tokens, big, threads=2, checkpoint_seconds=0, memory_limit=less)
    ok(lean.bits() == run.bits(), "memory: recomputed activations give the same bits")
    used_less = lean.result["peak_memory"]
    ok(less < needed and used_less <= less and used_less < used,
       "memory: with recomputation estimated %d, used %d" % (less, used_less))  # fmt: skip


def test_protocol(tokens):
    refused("protocol", "expected a job", tokens, "THREADS", threads=2)
    refused("protocol", "expected a job", tokens, "DONE")
    slow = dict(spec=spec(steps=10**6), threads=1, checkpoint_seconds=1e9)
    refused("protocol", "expected THREADS", tokens, "TRAIN", encode("PROBE", measure=0), **slow)
    resume = dict(spec=spec(), threads=1, checkpoint_seconds=1e9, resume_bytes=100)
    refused("protocol", "expected CHUNK", tokens, "TRAIN", encode("END"), **resume)
    refused("protocol", "a chunk of 101 bytes", tokens, "TRAIN", encode("CHUNK", data=b"x" * 101), **resume)
    refused("protocol", "malformed message", tokens, "PROBE", b"GET / HTTP/1.1\r\n\r\n" * 2, measure=1)
    rng, statuses = random.Random(5), set()
    whole = encode("TRAIN", spec=spec(steps=1), threads=1)
    for _ in range(60):
        frame = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            frame[rng.randrange(len(frame))] = rng.choice((0, 255, rng.randrange(256)))
        with Engine(tokens) as engine:
            engine.send_raw(bytes(frame[: rng.choice((len(frame), rng.randrange(len(frame))))]))
            time.sleep(0.01)
        statuses.add(engine.status)
    ok(statuses <= {0, 1}, "protocol: mutated requests end with status 0 or 1: %s" % statuses)
    with Engine(command=["/bin/sh", "-c", "exec 3</dev/null; exec '%s'" % ENGINE]) as e:
        ok(e.wait() == 2 and "socket" in e.last_words(), "protocol: without a socket it says so and exits 2")


def test_orphans(tokens):
    huge = spec(d_model=256, context_length=256, n_layer=4, batch_size=64, micro_batch=64, train_tokens=4000,
                steps=1000)  # fmt: skip
    for what, values, ended in (
        ("training", spec(steps=10**7), lambda engine: engine.socket.close()),
        ("a step of many seconds", huge, lambda engine: engine.socket.close()),
        ("training", spec(steps=10**7), lambda engine: os.kill(engine.pid, signal.SIGTERM)),
        ("a step of many seconds", huge, lambda engine: os.kill(engine.pid, signal.SIGTERM)),
        ("nothing", None, lambda engine: engine.socket.close()),
    ):
        with Engine(tokens) as engine:
            if values:
                engine.send("TRAIN", spec=values, threads=2, checkpoint_seconds=1e9)
            time.sleep(0.5)
            begin = time.monotonic()
            ended(engine)
            status = engine.wait()
            took = time.monotonic() - begin
        ok(status == 0 and took < 5, "orphan: during %s it is gone with 0 in %.0f ms" % (what, took * 1e3))


def evaluate(tokens, model, part, texts=(), more=False, **values):
    records, result = b"", None
    with Engine(tokens) as engine:
        engine.send("EVALUATE", spec=spec(**values), model_bytes=len(model), threads=1, part=part)
        engine.send_chunks(model)
        if part == "documents":
            for text in texts:
                half = len(text) // 2 if more else 0
                if half:
                    engine.send("DOCUMENT", group_bytes=-1, more=1, data=text[:half])
                engine.send("DOCUMENT", group_bytes=-1, data=text[half:])
            engine.send("END")
        for name, got in engine.messages():
            if name == "DOCUMENT_LOSSES":
                records += got["records"]
            elif name == "EVALUATED":
                result = got
    return list(struct.iter_unpack("<qqqd", records)), result


def test_evaluate(tokens, run):
    model = run.model["data"]
    records, result = evaluate(tokens, model, "test")
    ok(result["loss"] == run.result["test_loss"], "evaluate: the test part again, the same bits")
    ok(records == list(struct.iter_unpack("<qqqd", run.documents)), "evaluate: and for each document")
    ok(result["loss_se"] == run.result["test_loss_se"] > 0, "evaluate: and its standard error")
    validation = evaluate(tokens, model, "validation")[1]
    ok(abs(validation["loss"] - result["loss"]) < 0.5, "evaluate: validation %.3f" % validation["loss"])
    texts = documents(20, seed=9)
    records, foreign = evaluate(tokens, model, "documents", texts)
    ok([r[1:3] for r in records] == [(len(t) + 1, len(t)) for t in texts], "evaluate: sizes of texts")
    bits = foreign["loss"] * foreign["tokens"] / foreign["bytes"] / math.log(2)
    ok(abs(bits - foreign["bits_per_byte"]) < 1e-9, "evaluate: bits per byte")
    ok(evaluate(tokens, model, "documents", texts, True)[0] == records, "evaluate: texts in pieces")
    holes = evaluate(tokens, model, "documents", [b"", texts[0], b"", texts[1]])[0]
    ok([r[0] for r in holes] == [1, 3] and holes[0][3] == records[0][3], "evaluate: empty texts are numbered")
    noise = evaluate(tokens, model, "documents", [os.urandom(500)])[1]
    ok(noise["loss"] > foreign["loss"] + 2, "evaluate: noise is scored worse: %.2f" % noise["loss"])
    chunk = encode("CHUNK", data=model)
    values = dict(spec=spec(), model_bytes=len(model), threads=1)
    refused("input", "part", tokens, "EVALUATE", chunk, part="train", **values)
    texts = dict(values, part="documents")
    refused("input", "every document is empty", tokens, "EVALUATE", chunk, encode("END"), **texts)
    refused("protocol", "expected DOCUMENT", tokens, "EVALUATE", chunk, encode("PROBE", measure=0), **texts)
    values["spec"] = spec(d_model=64)
    refused("checkpoint", "", tokens, "EVALUATE", chunk, part="test", **values)


def generate(tokens, model, prompt=b"", model_spec=None, **values):
    """The frames of text, and the number of tokens that the last one tells."""
    frames, produced = [], 0
    values = dict(dict(max_tokens=60, temperature=1.0, top_k=0, top_p=1.0, seed=1), **values)
    with Engine(tokens) as engine:
        engine.send(
            "GENERATE", spec=model_spec or spec(), model_bytes=len(model), threads=1, prompt=prompt, **values
        )
        engine.send_chunks(model)
        for name, got in engine.messages():
            if name == "TEXT":
                frames.append(got["text"])
                produced = got["tokens"]
    return frames, produced


def test_generate(tokens, run):
    model = run.model["data"]
    frames, produced = generate(tokens, model, b"the cat")
    text = b"".join(frames)
    ok(1 <= produced <= 60 and len(frames) > 1, "generate: %d tokens as they come: %r" % (produced, text))
    ok(generate(tokens, model, b"the cat")[0] == frames, "generate: the same seed, the same text")
    ok(generate(tokens, model, b"the cat", seed=2)[0] != frames, "generate: another seed, another text")
    greedy = [b"".join(generate(tokens, model, b"the ", temperature=0.0, seed=s)[0]) for s in (1, 2)]
    ok(greedy[0] == greedy[1], "generate: temperature 0 needs no seed: %r" % greedy[0])
    for values in (dict(top_k=1), dict(top_p=1e-9)):
        one = b"".join(generate(tokens, model, b"the ", **values)[0])
        ok(one == greedy[0], "generate: %s is the most likely token" % values)
    ok(generate(tokens, model, b"", max_tokens=0) == ([], 0), "generate: nothing asked, nothing sent")
    long = generate(tokens, model, b"the dog sees the bird. " * 20, temperature=0.0)[0]
    ok(long, "generate: a prompt beyond the context: %r" % b"".join(long))
    chunk = encode("CHUNK", data=model)
    values = dict(spec=spec(), model_bytes=len(model), threads=1, max_tokens=5, temperature=1.0, top_p=1.0)
    for name, bad in (("temperature", math.nan), ("top_p", 0.0), ("max_tokens", -1), ("model_bytes", 0)):
        refused("input", name, tokens, "GENERATE", chunk, **dict(values, **{name: bad}))


def test_characters():
    """A text of characters of two, three and four bytes: no frame may cut one."""
    rng = random.Random(3)
    texts = ["".join(rng.choice("é€漢字😀ß") for _ in range(60)).encode() for _ in range(60)]
    tokens, _ = freeze(texts)
    own = spec(steps=150, batch_size=8, eval_points=2)
    model = Run(tokens, own).model["data"]
    whole, cut, text = 0, 0, b""
    for seed in range(4):
        frames, _ = generate(tokens, model, "漢".encode(), own, seed=seed, max_tokens=80)
        text += b"".join(frames)
        whole += sum(len(frame) > 1 for frame in frames)
        apart = "".join(frame.decode(errors="replace") for frame in frames)
        cut += b"".join(frames).decode(errors="replace") != apart
    ok(cut == 0 and whole > 20, "generate: %d frames of whole characters, %d texts cut" % (whole, cut))
    bad = text.decode(errors="replace").count("\ufffd")
    ok(bad < len(text) / 20, "generate: the text is readable: %d of %d bytes bad" % (bad, len(text)))


def embed(tokens, model, texts=None, **values):
    values = dict(dict(layer=0, positions=0, prefix=16, part="test", seed=0), **values)
    rows = []
    with Engine(tokens) as engine:
        engine.send("EMBED", spec=spec(), model_bytes=len(model), threads=1, **values)
        engine.send_chunks(model)
        for text in texts or ():
            engine.send("DOCUMENT", group_bytes=-1, data=text)
        if texts is not None:
            engine.send("END")
        for name, got in engine.messages():
            if name == "EMBEDDING":
                vector = struct.unpack("<%df" % (len(got["vector"]) // 4), got["vector"])
                rows.append((got["document"], got["position"], vector))
    return rows


def weights(model, name):
    (size,) = struct.unpack_from("<Q", model)
    entry = json.loads(model[8 : 8 + size])[name]
    begin, end = entry["data_offsets"]
    flat = struct.unpack("<%df" % ((end - begin) // 4), model[8 + size + begin : 8 + size + end])
    columns = entry["shape"][-1]
    return [flat[i : i + columns] for i in range(0, len(flat), columns)]


def test_embed(tokens, run):
    model = run.model["data"]
    texts = [b"", b"the cat", b"a dog follows the river and more"]
    rows = embed(tokens, model, texts, part="documents")
    ok([r[:2] for r in rows] == [(1, p) for p in range(8)] + [(2, p) for p in range(16)],
       "embed: every position of the prefix, by the texts' numbers")  # fmt: skip
    wte, wpe = weights(model, "wte.weight"), weights(model, "wpe.weight")
    expected = [a + b for a, b in zip(wte[texts[2][5]], wpe[5])]
    got = next(r[2] for r in rows if r[:2] == (2, 5))
    ok(max(abs(a - b) for a, b in zip(expected, got)) < 1e-6, "embed: layer 0 is token plus position")
    alone = embed(tokens, model, texts[1:2], part="documents", layer=2)
    batched = [r for r in embed(tokens, model, texts, part="documents", layer=2) if r[0] == 1]
    ok([r[2] for r in alone] == [r[2] for r in batched], "embed: a batch changes nothing")
    some = embed(tokens, model, positions=4, max_documents=5, layer=3)
    by_document = [[r[1] for r in some if r[0] == d] for d in range(5)]
    ok(len(some) == 20 and all(len(set(p)) == 4 and p == sorted(p) for p in by_document),
       "embed: four positions of each of five documents")  # fmt: skip
    ok(len(set(map(tuple, by_document))) > 1, "embed: other positions in each document")
    ok(embed(tokens, model, positions=4, max_documents=5, layer=3) == some, "embed: the same again")
    untrained = embed(tokens, b"", positions=4, max_documents=5, layer=3)
    ok([r[:2] for r in untrained] == [r[:2] for r in some] and untrained != some, "embed: an untrained model")
    for name, bad in (("layer", 4), ("prefix", 17), ("positions", -1)):
        values = dict(dict(layer=0, positions=0, prefix=16), **{name: bad})
        refused("input", name, tokens, "EMBED", spec=spec(), threads=1, part="test", **values)


def probe():
    with Engine() as engine:
        engine.send("PROBE", measure=1)
        return [values for name, values in engine.messages() if name == "DEVICE" and values["device"] == "cpu"]


def estimate(values):
    begin = time.monotonic()
    with Engine() as engine:
        engine.send("ESTIMATE", spec=values, threads=1)
        estimated = next(got for name, got in engine.messages())
    return estimated, time.monotonic() - begin


def first_good(measure, good):
    """What is measured once it is good, or the last of ten: a machine may stand still in any one of them."""
    for _ in range(10):
        measured = measure()
        if good(measured):
            break
    return measured


def test_machine(tokens):
    devices = first_good(probe, lambda devices: all(one["gflops"] > 0.1 for one in devices))
    device, names = devices[0], [(one["isa"], one["precision"]) for one in devices]
    ok(device["device"] == "cpu" and device["isa"] and device["cores"] == len(os.sched_getaffinity(0)),
       "probe: %(device)s, %(isa)s, %(name)s, %(cores)d cores, %(gflops).1f GFLOP/s" % device)  # fmt: skip
    ok(all(one["gflops"] > 0.1 for one in devices) and device["memory"] > 1 << 28, "probe: speed and memory")
    ok(len(set(names)) == len(names) and names[-2:] == [("portable", "float32"), ("reference", "float32")],
       "probe: every backend, the best first: " + ", ".join(" ".join(one) for one in names))  # fmt: skip
    large = spec(n_layer=12, d_model=256, context_length=128, isa=device["isa"], precision=device["precision"])
    for values, what in ((spec(), "small"), (large, "large")):
        estimated, took = estimate(values)
        step = estimated["seconds_per_step"]
        good = step > estimated["seconds_per_eval_token"] > 0 and took < 20
        ok(good, "estimate: a %s model's step takes %.3g s; said in %.1f s" % (what, step, took))
    ratio = first_good(
        lambda: estimate(spec())[0]["seconds_per_step"] * 40 / Run(tokens, spec()).result["train_seconds"],
        lambda ratio: 0.2 < ratio < 5,
    )
    ok(0.2 < ratio < 5, "estimate: against what training takes: %.2f" % ratio)
    refused("input", "lacks batch_size", None, "ESTIMATE", spec=spec(batch_size=-1), threads=1)


def main():
    tokens = test_freeze()
    run = test_train(tokens)
    test_same_bits(tokens, run)
    test_full_machine(tokens)
    test_resume(tokens, run)
    test_refusals(tokens)
    test_memory(tokens)
    test_protocol(tokens)
    test_orphans(tokens)
    test_evaluate(tokens, run)
    test_generate(tokens, run)
    test_characters()
    test_embed(tokens, run)
    test_machine(tokens)
    print("1..%d" % checks)
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
