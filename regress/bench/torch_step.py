"""The same GPT-2 training step in PyTorch, for bench.py: reads seconds, prints tokens/s, until end of file.

    torch_step.py float32|bf16 eager|compile|graphs THREADS L D_MODEL HEADS T B V

THREADS is a number, or "cuda" for the first GPU.  graphs: compiled for little overhead, with CUDA graphs.
"""
import os
import sys
import time

os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")  # Debian's OpenBLAS takes new CPUs for old ones

import torch
import torch.nn.functional as F

precision, mode = sys.argv[1:3]
DEVICE = "cuda" if sys.argv[3] == "cuda" else "cpu"
L, C, H, T, B, V = map(int, sys.argv[4:])
if DEVICE == "cpu":
    torch.set_num_threads(int(sys.argv[3]))
else:
    torch.set_default_device(DEVICE)
    torch.backends.cuda.matmul.allow_tf32 = precision == "bf16"
torch.manual_seed(1)


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(C), torch.nn.LayerNorm(C)
        self.attn, self.proj = torch.nn.Linear(C, 3 * C), torch.nn.Linear(C, C)
        self.fc, self.mlp_proj = torch.nn.Linear(C, 4 * C), torch.nn.Linear(4 * C, C)

    def forward(self, x):
        q, k, v = self.attn(self.ln_1(x)).view(B, T, 3, H, C // H).permute(2, 0, 3, 1, 4)
        if hasattr(F, "scaled_dot_product_attention"):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q @ k.transpose(-2, -1)) * (C // H) ** -0.5
            y = scores.masked_fill(~MASK, float("-inf")).softmax(-1) @ v
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp_proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class GPT2(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = torch.nn.Embedding(V, C), torch.nn.Embedding(T, C)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(L))
        self.ln_f = torch.nn.LayerNorm(C)
        for p in self.parameters():
            if p.dim() == 2:
                torch.nn.init.normal_(p, std=0.02)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe(POSITIONS)
        for block in self.blocks:
            x = block(x)
        logits = self.ln_f(x) @ self.wte.weight.t()
        return F.cross_entropy(logits.view(-1, V).float(), targets.view(-1))


MASK = torch.ones(T, T, dtype=torch.bool).tril()
POSITIONS = torch.arange(T)
model = GPT2()
loss_of = {"eager": lambda: model, "compile": lambda: torch.compile(model),
           "graphs": lambda: torch.compile(model, mode="reduce-overhead")}[mode]()
try:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
except (TypeError, RuntimeError):  # before 2.4 the CPU has the foreach form only
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95))
tokens = torch.arange(B * T + 1) * 2654435761 % V
inputs, targets = tokens[:-1].view(B, T), tokens[1:].view(B, T)


def step():
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16"):
        loss = loss_of(inputs, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def settle():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


for _ in range(3):
    step()
settle()
for line in sys.stdin:
    start, steps = time.monotonic(), 0
    while steps == 0 or time.monotonic() - start < float(line):
        step()
        steps += 1
        if DEVICE == "cuda" and steps % 16 == 0:
            settle()  # or the queue runs far ahead of the clock
    settle()
    print("%.1f" % (steps * B * T / (time.monotonic() - start)), flush=True)
