"""Writes fixtures/beam_transformers.json: what beam search of `transformers` finds on small GPT-2 models.

Run by hand, where torch and transformers are installed: `python tests/generation/make_beam_fixture.py`. The weights are made
from a seed by NumPy, so that the test makes the same ones.
"""

import json
import pathlib

import numpy as np

VOCAB, MAX_LENGTH, DIM, LAYERS, HEADS, END, NEW = 20, 24, 16, 2, 4, 3, 7
SEEDS, PROMPTS, PENALTIES = range(4), ([5, 1, 7], [11], [2, 2], [19, 0, 8, 14]), (0.0, 0.6, 1.0, 2.0, -1.0)
SEARCHES = ((2, False), (3, True), (4, "never"), (5, False), (5, "never"))
FILE = pathlib.Path(__file__).parent / "fixtures" / "beam_transformers.json"


def make_weights(seed):
    """Returns dict of name to array, by the names of a GPT-2 checkpoint; kernels are [in, out]."""
    random = np.random.default_rng(seed)
    weights = {}

    def add(name, *shape, mean=0.0, deviation=0.7):
        weights[name] = random.normal(mean, deviation, shape).astype(np.float32)

    add("wte.weight", VOCAB, DIM, deviation=0.3)
    add("wpe.weight", MAX_LENGTH, DIM, deviation=0.3)
    for layer in range(LAYERS):
        for name, size, out in (
            ("attn.c_attn", DIM, 3 * DIM),
            ("attn.c_proj", DIM, DIM),
            ("mlp.c_fc", DIM, 4 * DIM),
            ("mlp.c_proj", 4 * DIM, DIM),
        ):
            add(f"h.{layer}.{name}.weight", size, out)
            add(f"h.{layer}.{name}.bias", out)
        for name in ("ln_1", "ln_2"):
            add(f"h.{layer}.{name}.weight", DIM, mean=1.0)
            add(f"h.{layer}.{name}.bias", DIM)
    add("ln_f.weight", DIM, mean=1.0)
    add("ln_f.bias", DIM)
    return weights


def main():
    import torch
    import transformers

    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=MAX_LENGTH, n_embd=DIM, n_layer=LAYERS, n_head=HEADS, eos_token_id=END
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    found, ended = [], 0
    for seed in SEEDS:
        weights = {f"transformer.{name}": torch.tensor(x) for name, x in make_weights(seed).items()}
        weights["lm_head.weight"] = weights["transformer.wte.weight"]
        model.load_state_dict(weights)
        for num_beams, early_stopping in SEARCHES:
            for penalty in PENALTIES:
                for prompt in PROMPTS:
                    out = model.generate(
                        torch.tensor([prompt]),
                        attention_mask=torch.ones([1, len(prompt)], dtype=torch.long),
                        num_beams=num_beams,
                        num_return_sequences=num_beams,
                        early_stopping=early_stopping,
                        length_penalty=penalty,
                        max_new_tokens=NEW,
                        do_sample=False,
                        eos_token_id=END,
                        pad_token_id=END,
                        output_scores=True,
                        return_dict_in_generate=True,
                    )
                    rows = [row[len(prompt) :] for row in out.sequences.tolist()]
                    ended += sum(END in row for row in rows)
                    texts = [row[: row.index(END)] if END in row else row for row in rows]
                    found.append([texts, [round(score, 5) for score in out.sequences_scores.tolist()]])
    texts = sum(len(rows) for rows, _ in found)
    print(f"transformers {transformers.__version__}: {len(found)} searches, {texts} texts, {ended} of them ended")
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(
        json.dumps({"transformers": transformers.__version__, "found": found}, separators=(",", ":")) + "\n"
    )


if __name__ == "__main__":
    main()
