"""Trains a checkout of nanoGPT with its CPU recipe; run by a Python that has torch, started by `shakespeare_char.py`.

nanogpt_worker.py FOLDER TEXT SEED    trains 2000 steps, scores the whole validation part, prints JSON
"""

import json
import math
import sys

import numpy as np
import torch

CONTEXT, BATCH, STEPS, WARMUP = 64, 12, 2000, 100


def main():
    folder, path, seed = sys.argv[1:4]
    sys.path.insert(0, folder)
    from model import GPT, GPTConfig

    with open(path, encoding="utf-8") as file:
        text = file.read()
    id_of = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = np.array([id_of[character] for character in text], np.int64)
    cut = int(len(ids) * 0.9)
    train, validation = ids[:cut], ids[cut:]
    torch.manual_seed(int(seed))
    sizes = {"n_layer": 4, "n_head": 4, "n_embd": 128, "dropout": 0.0, "bias": False}
    model = GPT(GPTConfig(block_size=CONTEXT, vocab_size=len(id_of), **sizes))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")

    def batch():
        starts = torch.randint(len(train) - CONTEXT, (BATCH,))
        x = torch.stack([torch.from_numpy(train[i : i + CONTEXT]) for i in starts])
        return x, torch.stack([torch.from_numpy(train[i + 1 : i + 1 + CONTEXT]) for i in starts])

    def step(number):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(number)
        _, loss = model(*batch())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for number in range(STEPS):
        step(number)
    loss, tokens = score(model, validation)
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps({"parameters": parameters, "loss": loss, "tokens": tokens}))


def learning_rate(step):
    if step < WARMUP:
        return 1e-3 * (step + 1) / (WARMUP + 1)
    return 1e-4 + 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) * 9e-4


@torch.no_grad()
def score(model, ids):
    """Returns (nats a target, targets): consecutive windows, each target once."""
    model.eval()
    nats = tokens = 0.0
    for start in range(0, len(ids) - 1, CONTEXT):
        window = torch.from_numpy(ids[start : start + CONTEXT + 1])[None]
        _, loss = model(window[:, :-1], window[:, 1:])
        nats += loss.item() * (window.shape[1] - 1)
        tokens += window.shape[1] - 1
    return nats / tokens, tokens


if __name__ == "__main__":
    main()
