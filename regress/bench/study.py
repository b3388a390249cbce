"""A study of 20 small runs with the default settings (a worker a core, one thread a run) against the same runs one after
another with every core as a thread; in turn, medians and the ratio, by size of the model.

    make bench-study [BENCH_ARGS="rounds [sizes, as d16/512,d64/512 [runs]]"]

Text: the first documents of stories.copy.xz in $TLAW_CORPORA (default ../shared/corpora), else made of invented words.

If two threads make one run s times as fast, training alone gives a ratio of s/2: `floor`.  s compares the quickest run of
one by one with the quickest of a few that had the machine and one thread to themselves, in every round.  Because machines
are seldom quiet, the ratio is given twice: of the walls (median, and every round), and `undisturbed`, of the sums of every
run's quickest round, without what workers wait.  Then where the time of a run goes, in ms: medians over all runs, from their
rows and from what workers write into the log at DEBUG1.
"""
import lzma
import math
import os
import random
import re
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
CORPORA = os.environ.get("TLAW_CORPORA", os.path.join(HERE, "../../../shared/corpora"))
CORES = len(os.sched_getaffinity(0))
TEXT_BYTES = 1500000
ALONE = 4  # runs that measure s
SIZES = {  # n_layer, d_model, n_head, context_length, batch_size, tokens that a run sees at most
    "d16/128": (2, 16, 2, 32, 4, 5e5),  # d_model / tokens of a step
    "d32/256": (2, 32, 2, 64, 4, 5e5),
    "d16/512": (2, 16, 2, 64, 8, 8e5),
    "d64/512": (2, 64, 4, 128, 4, 2.5e5),  # the demo's model
    "d128/1024": (4, 128, 4, 128, 8, 6e4),
}
MODES = {  # tlaw.max_workers, tlaw.threads
    "study": (CORES, CORES),
    "one by one": (1, CORES),
    "one thread": (1, 1),
}
PARTS = ("launch", "claim", "start", "set up", "train", "validate", "test", "model", "rows")


def sql(*statements, text=None):
    """One session; the rows of all."""
    command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1"]
    done = subprocess.run(command + [part for s in statements for part in ("-c", s)], input=text, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [line.split("|") for line in done.stdout.splitlines()]


def stories():
    """Documents in COPY's text format."""
    path = os.path.join(CORPORA, "stories.copy.xz")
    if os.path.exists(path):
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            yield from lines
    draw = random.Random(1)
    words = ["".join(draw.choices("aeinorstlmdk", k=draw.randint(2, 8))) for _ in range(3000)]
    while True:
        yield " ".join(words[int(3000 * draw.random() ** 3)] for _ in range(150)) + "\n"


def load_text():
    text, size = [], 0
    for document in stories():
        text.append(document)
        size += len(document)
        if size > TEXT_BYTES:
            break
    sql("CREATE EXTENSION tlaw; CREATE TABLE stories (body text NOT NULL)")
    sql("COPY stories FROM STDIN", text="".join(text))
    sql("SELECT tlaw_create_corpus('stories', 'body')")


class Mode:
    """The runs of one size in one mode, a study a round."""

    def __init__(self, size, mode):
        self.size, self.mode = size, mode
        self.walls, self.speeds, self.parts, self.idle, self.quickest = [], [], [], [], {}

    def turn(self, round_number, runs):
        layers, d_model, heads, context, batch, tokens = SIZES[self.size]
        workers, threads = MODES[self.mode]
        study = "%s, %s, %d" % (self.size, self.mode, round_number)
        sql("LOAD 'tlaw'", "ALTER SYSTEM SET tlaw.max_workers = %d" % workers,
            "ALTER SYSTEM SET tlaw.threads = %d" % threads, "SELECT pg_reload_conf(), pg_sleep(0.1)")
        log_start = os.path.getsize(os.environ["TLAW_LOG"])
        sql("SELECT count(tlaw_train('stories', study => '%s', device => 'cpu', n_layer => %d, d_model => %d, n_head => %d,"
            " context_length => %d, batch_size => %d, train_tokens => n, subset_seed => k, seed => k, eval_tokens => 8192,"
            " steps => (least(64 * n, %g) / %d)::int)) FROM"
            " (SELECT n, k FROM tlaw_log_series(1e4, 1e6, 5) n, generate_series(1, 4) k ORDER BY k, n DESC LIMIT %d) runs"
            % (study, layers, d_model, heads, context, batch, tokens, batch * context, runs))
        sql("CALL tlaw_wait('%s')" % study)
        self.read_rows(study)
        self.read_parts(study, log_start)

    def read_rows(self, study):
        row = sql("SELECT count(*) FILTER (WHERE status = 'done') = count(*), extract(epoch FROM max(finished_at) - min(submitted_at)),"
                  " max(tokens_per_second) FROM tlaw_run WHERE study = '%s'" % study)[0]
        if row[0] != "t":
            raise SystemExit("runs of %s failed" % study)
        self.walls.append(float(row[1]))
        self.speeds.append(float(row[2]))

    def read_parts(self, study, log_start):
        """Adds a dictionary of PARTS a run."""
        events = read_log(log_start)
        freed, busy = {}, 0  # worker: when it ended its last run; seconds of runs
        rows = sql("SELECT r.run_id, train_tokens || ' ' || seed, p.worker_pid, extract(epoch FROM started_at), extract(epoch FROM finished_at),"
                   " extract(epoch FROM submitted_at), train_seconds, eval_seconds,"
                   " (SELECT seconds FROM tlaw_run_loss l WHERE l.run_id = r.run_id ORDER BY step LIMIT 1),"
                   " (SELECT seconds FROM tlaw_run_loss l WHERE l.run_id = r.run_id ORDER BY step DESC LIMIT 1)"
                   " FROM tlaw_run r JOIN tlaw_run_progress p USING (run_id) WHERE study = '%s' ORDER BY started_at" % study)
        for run, which, worker, *numbers in rows:
            started, finished, submitted, train, evaluate, first, last = map(float, numbers)
            at = events[run]
            part = {
                "start": at["engine started"] - started,
                "set up": at["first loss"] - at["engine started"] - first,
                "train": train,
                "validate": last - train,
                "test": train + evaluate - last,
                "rows": at["ended"] - at["result"],
            }
            part["claim" if worker in freed else "launch"] = started - freed.get(worker, submitted)
            part["model"] = at["ended"] - started - sum(part[p] for p in ("start", "set up", "train", "validate", "test", "rows"))
            freed[worker] = at["ended"]
            busy += at["ended"] - started
            self.quickest[which] = min(at["ended"] - started, self.quickest.get(which, math.inf))
            self.parts.append(part)
        self.idle.append(MODES[self.mode][0] * self.walls[-1] - busy)


def read_log(start):
    """{run: {event: seconds since the epoch}} of the DEBUG1 lines; the server's log has times in ms (%n)."""
    events = {}
    with open(os.environ["TLAW_LOG"], encoding="utf-8") as log:
        log.seek(start)
        for line in log:
            found = re.match(r"([0-9.]+) \[\d+\] DEBUG:  run (\d+): (.*)", line)
            if found:
                events.setdefault(found[2], {})[found[3]] = float(found[1])
    return events


def median_parts(parts):
    return "  ".join("%s %.0f" % (name, 1e3 * statistics.median(p[name] for p in parts if name in p))
                     for name in PARTS if any(name in p for p in parts))


def measure(size, rounds, runs):
    modes = {name: Mode(size, name) for name in MODES}
    for i in range(rounds):
        for name in sorted(modes, key=list(modes).index, reverse=i % 2 == 1):
            modes[name].turn(i, ALONE if name == "one thread" else runs)
    study, single, thread = (modes[m] for m in MODES)
    ratios = [a / b for a, b in zip(study.walls, single.walls)]
    undisturbed = sum(study.quickest.values()) / CORES / sum(single.quickest.values())
    s, beside = max(single.speeds) / max(thread.speeds), max(study.speeds) / max(thread.speeds)
    print("%-9s L%d d%d h%d T%d B%d: study %.2f s, one by one %.2f s, ratio %.3f (%s), undisturbed %.3f; s %.2f, floor s/%d %.2f;"
          " speed of a run beside others %.2f"
          % ((size,) + SIZES[size][:5] + (statistics.median(study.walls), statistics.median(single.walls), statistics.median(ratios),
             " ".join("%.3f" % r for r in ratios), undisturbed, s, CORES, s / CORES, beside)))
    for name, mode in modes.items():
        print("      %-10s ms a run: %s; %.2f s of workers without a run"
              % (name, median_parts(mode.parts), statistics.median(mode.idle)))
    sys.stdout.flush()


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    sizes = sys.argv[2].split(",") if len(sys.argv) > 2 else list(SIZES)
    runs = int(sys.argv[3]) if len(sys.argv) > 3 else 20
    load_text()
    print("%d cores; %d runs a study, %s" % (CORES, runs, sql("SELECT tokens || ' tokens' FROM tlaw_corpora")[0][0]), flush=True)
    for size in sizes:
        measure(size, rounds, runs)


if __name__ == "__main__":
    main()
