"""Makes regress/oracle/gpt2.h: losses, gradients and ten AdamW steps of a small GPT-2 in PyTorch, float64.

Needs torch and numpy; run from the checkout: python regress/oracle/gpt2.py > regress/oracle/gpt2.h
The weights, tokens and probe directions are integer noise that regress/kernels/test_model.c makes too.  A tensor is
stored as its norm and its products with PROBES directions of -1 and 1: for a wrong tensor they differ by about the
norm of the error.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F

L, C, H, T, V, B = 2, 32, 4, 16, 65, 4
STEPS, PROBES = 10, 6
TOKENS, PROBE = 1000, 2000  # noise streams; a parameter's stream is its number
RATES = [3e-3 * (s + 1) / 3 if s < 3 else 3e-3 * (1 - s / 20) for s in range(STEPS)]
BETA1, BETA2, EPS, DECAY, CLIP = 0.9, 0.95, 1e-8, 0.1, 1.45  # some steps are clipped, some are not


def noise(stream, n):
    """Uniform in [-0.5, 0.5), exact in float32."""
    x = np.arange(n, dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(stream * 0x85EBCA6B & 0xFFFFFFFF)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return (x >> np.uint32(8)).astype(np.float64) / 2**24 - 0.5


def parameters(bias):
    """Name, shape in the order of the block."""
    out = [("wte.weight", (V, C)), ("wpe.weight", (T, C))]
    for i in range(L):
        block = [("ln_1", (C,)), ("attn.c_attn", (C, 3 * C)), ("attn.c_proj", (C, C)), ("ln_2", (C,)),
                 ("mlp.c_fc", (C, 4 * C)), ("mlp.c_proj", (4 * C, C))]
        for name, shape in block:
            out.append((f"h.{i}.{name}.weight", shape))
            if bias:
                out.append((f"h.{i}.{name}.bias", shape[-1:]))
    out.append(("ln_f.weight", (C,)))
    return out + [("ln_f.bias", (C,))] * bias


def weights(bias):
    made = {}
    for number, (name, shape) in enumerate(parameters(bias)):
        centre = 1.0 if name.split(".")[-2].startswith("ln_") and name.endswith("weight") else 0.0
        values = np.float32(centre + noise(number, math.prod(shape)) * 0.25)
        made[name] = torch.tensor(values.astype(np.float64).reshape(shape), requires_grad=True)
    return made


def forward(p, tokens, targets):
    """Losses [B * T]."""
    def norm(x, name):
        return F.layer_norm(x, (C,), p[name + ".weight"], p.get(name + ".bias"), 1e-5)

    def linear(x, name):
        y = x @ p[name + ".weight"]
        return y + p[name + ".bias"] if name + ".bias" in p else y

    batch, length = tokens.shape
    x = p["wte.weight"][tokens] + p["wpe.weight"][:length]
    for i in range(L):
        qkv = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
        q, k, v = (a.view(batch, length, H, C // H).transpose(1, 2) for a in qkv.split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, C)
        x = x + linear(y, f"h.{i}.attn.c_proj")
        hidden = F.gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), approximate="tanh")
        x = x + linear(hidden, f"h.{i}.mlp.c_proj")
    logits = norm(x, "ln_f") @ p["wte.weight"].T
    return F.cross_entropy(logits.view(-1, V), targets.view(-1), reduction="none")


def batch(step):
    stream = np.floor((noise(TOKENS + step, B * (T + 1)) + 0.5) * V).astype(np.int64).reshape(B, T + 1)
    return torch.tensor(stream[:, :-1]), torch.tensor(stream[:, 1:])


def probes(name, tensor):
    flat = tensor.detach().numpy().copy().ravel()
    if name.endswith("c_attn.bias"):
        # softmax does not see the keys' bias: its gradient is rounding noise, which AdamW would blow up
        flat[C : 2 * C] = 0
    out = [float(np.linalg.norm(flat))]
    for i in range(PROBES):
        out.append(float(np.where(noise(PROBE + i, flat.size) < 0, -1.0, 1.0) @ flat))
    return out


def array(name, values, dims):
    print(f"static const double {name}{dims} = {{")
    for value in values:
        print("    {" + ", ".join(f"{x:.17g}" for x in value) + "}," if isinstance(value, list) else f"    {value:.17g},")
    print("};\n")


def write(bias):
    p = weights(bias)
    suffix = "bias" if bias else "plain"
    decayed = [w for w in p.values() if w.dim() == 2]
    rest = [w for w in p.values() if w.dim() != 2]
    optimiser = torch.optim.AdamW([{"params": decayed, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}],
                                  lr=1.0, betas=(BETA1, BETA2), eps=EPS)
    start = {name: w.detach().clone() for name, w in p.items()}
    losses, norms = [], []
    for step in range(STEPS):
        tokens, targets = batch(step)
        optimiser.zero_grad()
        each = forward(p, tokens, targets)
        each.mean().backward()
        if step == 0:
            array(f"oracle_token_losses_{suffix}", each.tolist(), "[]")
            array(f"oracle_gradients_{suffix}", [probes(name, w.grad) for name, w in p.items()], "[][1 + ORACLE_PROBES]")
        losses.append(each.mean().item())
        norms.append(float(torch.nn.utils.clip_grad_norm_(p.values(), CLIP)))
        for group in optimiser.param_groups:
            group["lr"] = RATES[step]
        optimiser.step()
    array(f"oracle_losses_{suffix}", losses, "[]")
    array(f"oracle_norms_{suffix}", norms, "[]")
    array(f"oracle_weights_{suffix}", [probes(name, w) for name, w in p.items()], "[][1 + ORACLE_PROBES]")
    array(f"oracle_changes_{suffix}", [probes(name, w - start[name]) for name, w in p.items()], "[][1 + ORACLE_PROBES]")


def main():
    print(f"/* Made by gpt2.py with PyTorch {torch.__version__.split('+')[0]}; do not edit. */")
    for name, value in dict(LAYERS=L, WIDTH=C, HEADS=H, CONTEXT=T, VOCABULARY=V, BATCH=B, STEPS=STEPS, PROBES=PROBES,
                            TOKENS=TOKENS, PROBE=PROBE, BETA1=BETA1, BETA2=BETA2, DECAY=DECAY, CLIP=CLIP).items():
        print(f"#define ORACLE_{name} {value}")
    print()
    array("oracle_rates", RATES, "[]")
    for bias in (True, False):
        write(bias)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
