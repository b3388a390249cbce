"""Drives tlaw_engine without PostgreSQL: starts it as the extension does and speaks the wire.

Messages and their fields are read from kernels/engine/wire.h and spec.h, so that there is one list of them.
Python 3, standard library only.
"""

import fcntl
import os
import re
import select
import socket
import struct
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENGINE = os.environ.get("TLAW_ENGINE", os.path.join(TOP, "tlaw_engine"))
MAGIC = 0x54574101
CHUNK = 8 << 20


def _read(name):
    with open(os.path.join(TOP, "kernels", "engine", name)) as f:
        text = f.read().replace("\\\n", " ")
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.S)


def _fields(text):
    return re.findall(r"\b(I64|F64|STR|TXT|SPEC|BLOB)\((\w+)\)", text)


def _messages():
    text = _read("wire.h")
    fields = {
        m.group(1): _fields(m.group(2)) for m in re.finditer(r"#define TLAW_(\w+)_FIELDS\([^)]*\)(.*)", text)
    }
    listed = re.search(r"#define TLAW_WIRE_MESSAGES\(X\)(.*)", text).group(1)
    return [(name, fields[name]) for name in re.findall(r"X\((\w+), \w+\)", listed)]


SPEC = _fields(re.search(r"#define TLAW_SPEC_FIELDS\([^)]*\)(.*)", _read("spec.h")).group(1))
MESSAGES = _messages()
TYPE = {name: i + 1 for i, (name, _) in enumerate(MESSAGES)}
FIELDS = dict(MESSAGES)


def encode_fields(fields, values):
    values = dict(values)
    out = []
    for kind, name in fields:
        if kind == "I64":
            out.append(struct.pack("<q", int(values.pop(name, 0))))
        elif kind == "F64":
            out.append(struct.pack("<d", values.pop(name, 0.0)))
        elif kind == "SPEC":
            out.append(encode_fields(SPEC, values.pop(name)))
        elif kind == "BLOB":
            out.append(values.pop(name, b""))
        else:
            out.append(values.pop(name, "").encode() + b"\0")
    if values:
        raise KeyError("no such field: %s" % ", ".join(values))
    return b"".join(out)


def encode(name, **values):
    payload = encode_fields(FIELDS[name], values)
    return struct.pack("<IIQ", MAGIC, TYPE[name], len(payload)) + payload


def decode(name, payload):
    values, at = {}, 0
    for kind, field in FIELDS[name]:
        if kind in ("I64", "F64"):
            (values[field],) = struct.unpack_from("<q" if kind == "I64" else "<d", payload, at)
            at += 8
        elif kind == "BLOB":
            values[field] = payload[at:]
            at = len(payload)
        else:
            end = payload.index(b"\0", at)
            values[field] = payload[at:end].decode()
            at = end + 1
    assert at == len(payload), "%s: %d bytes too many" % (name, len(payload) - at)
    return values


class Failed(Exception):
    """The engine sent an ERROR."""

    def __init__(self, error):
        super().__init__("%s: %s" % (error["code"], error["message"]))
        self.code, self.text, self.error = error["code"], error["message"], error


class Gone(Exception):
    """The engine closed the socket."""


class Engine:
    """One engine process.  tokens, spool: open files (or None) that become its descriptors 4 and 5."""

    def __init__(self, tokens=None, spool=None, command=None):
        self.socket, child = socket.socketpair()
        self.words = tempfile.TemporaryFile()
        self.status = None
        command = command or [ENGINE]
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._become(child.fileno(), tokens, spool, command)
            finally:
                os._exit(127)
        child.close()

    def _become(self, child, tokens, spool, command):
        wanted = {2: self.words.fileno(), 3: child}
        if tokens is not None:
            wanted[4] = tokens.fileno()
        if spool is not None:
            wanted[5] = spool.fileno()
        high = {to: fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for to, fd in wanted.items()}
        for to, fd in high.items():
            os.dup2(fd, to)
        for to in (4, 5):
            if to not in wanted:
                try:
                    os.close(to)
                except OSError:
                    pass
        os.closerange(6, 256)
        os.setsid()
        os.execv(command[0], command)

    def send(self, name, **values):
        self.socket.sendall(encode(name, **values))

    def send_raw(self, data):
        self.socket.sendall(data)

    def send_chunks(self, data):
        for at in range(0, len(data), CHUNK):
            self.send("CHUNK", data=data[at : at + CHUNK])

    def _exactly(self, size, timeout):
        parts = []
        while size > 0:
            if not select.select([self.socket], [], [], timeout)[0]:
                raise TimeoutError("the engine said nothing for %s s" % timeout)
            try:
                part = self.socket.recv(min(size, 1 << 20))
            except ConnectionResetError:
                part = b""
            if not part:
                raise Gone("the engine closed the socket: " + self.last_words())
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def receive(self, timeout=120):
        magic, kind, size = struct.unpack("<IIQ", self._exactly(16, timeout))
        assert magic == MAGIC and 1 <= kind <= len(MESSAGES) and size <= 16 << 20, "a malformed frame"
        name = MESSAGES[kind - 1][0]
        return name, decode(name, self._exactly(size, timeout))

    def messages(self, timeout=120):
        """Yields (name, fields) up to DONE and exit status 0; CHUNKs are joined into their CHECKPOINT."""
        while True:
            name, values = self.receive(timeout)
            if name == "ERROR":
                raise Failed(values)
            if name == "DONE":
                assert self.wait() == 0, "exit status %d after DONE: %s" % (self.status, self.last_words())
                return
            if name == "CHECKPOINT":
                data = b""
                while len(data) < values["bytes"]:
                    chunk, part = self.receive(timeout)
                    assert chunk == "CHUNK", chunk
                    data += part["data"]
                assert len(data) == values["bytes"]
                values["data"] = data
            yield name, values

    def wait(self, timeout=60):
        """The exit status: a code, or minus a signal."""
        if self.status is None:
            fd = os.pidfd_open(self.pid)
            ended = select.select([fd], [], [], timeout)[0]
            os.close(fd)
            if not ended:
                raise TimeoutError("the engine did not end in %s s" % timeout)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def last_words(self):
        self.words.seek(0)
        return self.words.read().decode(errors="replace")

    def close(self):
        """Takes away the socket, and the process if it stays."""
        self.socket.close()
        try:
            status = self.wait()
        except TimeoutError:
            os.kill(self.pid, 9)
            status = self.wait()
        self.words.close()
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Served(Engine):
    """One of many runs: a socket of its own into an engine that was sent SERVE."""

    def __init__(self, host, tokens):
        self.socket, child = socket.socketpair()
        self.host = host
        descriptors = struct.pack("<ii", child.fileno(), tokens.fileno())
        host.socket.sendmsg([encode("RUN")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        child.close()

    def wait(self, timeout=60):
        """0 once the engine has closed its end: all that the run had is given back."""
        self.socket.settimeout(timeout)
        try:
            while self.socket.recv(1 << 20):
                pass
        except ConnectionResetError:
            pass  # it left something unread
        return 0

    def last_words(self):
        return self.host.last_words()

    def leave(self):
        """Cancels the run, and waits until the engine has let go of it."""
        self.socket.shutdown(socket.SHUT_WR)
        return self.wait()

    def close(self):
        self.socket.close()


def spec(**values):
    """A small, complete specification for a corpus of bytes."""
    base = dict(
        arch="gpt2", n_layer=2, n_head=2, d_model=32, context_length=16, vocab_size=257, bias=0,
        train_tokens=4000, subset_seed=1, seed=2, steps=40, batch_size=4, micro_batch=2,
        learning_rate=0.01, min_learning_rate=0.001, warmup_steps=4, schedule="cosine", cooldown_steps=0,
        weight_decay=0.1, beta1=0.9, beta2=0.95, grad_clip=1.0, eval_interval=0, eval_points=6,
        eval_tokens=400, checkpoint="best", device="cpu", isa="reference", precision="float32", recompute=0,
    )  # fmt: skip
    unknown = set(values) - set(base)
    if unknown:
        raise KeyError(unknown)
    base.update(values)
    return base


def freeze(documents, tokenizer="bytes", definition=b"", **options):
    """Freezes byte strings, or (group, bytes) pairs; returns the token file, open, and FROZEN's fields."""
    values = dict(validation_fraction=0.2, test_fraction=0.2, split_seed=0, threads=1)
    values.update(options)
    tokens, spool = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    frozen = None
    with Engine(tokens, spool) as engine:
        engine.send("FREEZE", tokenizer=tokenizer, tokenizer_bytes=len(definition), **values)
        engine.send_chunks(definition)
        for document in documents:
            group, text = document if isinstance(document, tuple) else (None, document)
            engine.send(
                "DOCUMENT", group_bytes=-1 if group is None else len(group), data=(group or b"") + text
            )
        engine.send("END")
        for name, values in engine.messages():
            if name == "FROZEN":
                frozen = values
    spool.close()
    return tokens, frozen
