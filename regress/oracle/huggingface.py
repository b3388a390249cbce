"""Checks that Hugging Face transformers reads the exported weights: same losses as tlaw's, no key missing.

Needs torch, transformers and safetensors; run from the checkout after `make kernel-tests`:
python regress/oracle/huggingface.py.  The losses it compares with are those of gpt2.py, which regress/kernels/test_model.c
compares tlaw with.
"""
import pathlib
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

import gpt2


def check(folder, bias):
    file = pathlib.Path(folder) / "model.safetensors"
    subprocess.run(["build/regress/test_model", "export", str(bias), str(file)], check=True)
    config = GPT2Config(vocab_size=gpt2.V, n_positions=gpt2.T, n_embd=gpt2.C, n_layer=gpt2.L, n_head=gpt2.H,
                        activation_function="gelu_new", tie_word_embeddings=True, bos_token_id=None, eos_token_id=None)
    config.save_pretrained(folder)
    model, loading = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    trouble = {what: sorted(keys) for what, keys in loading.items() if keys}
    tokens, targets = gpt2.batch(0)
    with torch.no_grad():
        logits = model.eval()(tokens).logits
        losses = F.cross_entropy(logits.view(-1, gpt2.V), targets.view(-1), reduction="none").double()
        expected = gpt2.forward(gpt2.weights(bool(bias)), tokens, targets)
    error = float(((losses - expected) / expected).abs().max())
    good = error < 1e-5 and not trouble
    print(f"{'ok' if good else 'not ok'} - bias {bias}: losses of transformers: error {error:.1e} {trouble or ''}")
    return good


if __name__ == "__main__":
    results = []
    for bias in (0, 1):
        with tempfile.TemporaryDirectory() as folder:
            results.append(check(folder, bias))
    sys.exit(not all(results))
