#!/usr/bin/env python3
"""The search behind the defaults rule: around what the rule says, learning rate, steps and weight decay are halved and
doubled at five sizes of model and data.  Prints the validation losses and the rule's regret as a Markdown table.

    search.py SEARCH TOKEN_FILE [JOBS]     SEARCH: the program made of search.c; TOKEN_FILE: what it froze
"""
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

SIZES = [(2, 64, 2e4), (2, 32, 5e4), (3, 96, 1e5), (2, 64, 2e5), (2, 64, 2e6)]  # n_layer, d_model, train_tokens
CHANGES = [(field, factor) for field in ("learning_rate", "steps", "weight_decay") for factor in (0.5, 2)]


def train(size, **given):
    n_layer, d_model, tokens = size
    given.update(n_layer=n_layer, d_model=d_model, train_tokens=tokens, eval_points=6, eval_tokens=65536)
    command = [sys.argv[1], sys.argv[2]] + [f"{field}={value:.6g}" for field, value in given.items()]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return dict(zip(words[::2], map(float, words[1::2])))


def train_changed(size, rule, field, factor):
    value = {"learning_rate": rule["lr"], "steps": rule["steps"], "weight_decay": rule["decay"]}[field] * factor
    given = {field: round(value) if field == "steps" else value}
    if field == "learning_rate":
        given["min_learning_rate"] = value / 10
    return train(size, **given)["best"]


def main():
    with ThreadPoolExecutor(int(sys.argv[3]) if len(sys.argv) > 3 else 2) as pool:
        rules = list(pool.map(train, SIZES))
        others = [[pool.submit(train_changed, size, rule, *change) for change in CHANGES]
                  for size, rule in zip(SIZES, rules)]
        print("| layers, d_model, tokens | rule |", " | ".join(f"{field} x {factor}" for field, factor in CHANGES), "| regret |")
        print("|---" * (len(CHANGES) + 3) + "|")
        for size, rule, row in zip(SIZES, rules, others):
            losses = [future.result() for future in row]
            regret = max(0, rule["best"] / min(losses) - 1)
            cells = [f"{loss:.4f}" for loss in [rule["best"]] + losses]
            print(f"| {size[0]}, {size[1]}, {size[2]:.0e} |", " | ".join(cells), f"| {100 * regret:.2f} % |")


if __name__ == "__main__":
    main()
