"""Writes fixtures/seqeval.json: 1,000 random pairs of tagged texts and what seqeval 1.2.2 says of them.

A fixture, because seqeval has no wheel and its source no longer builds everywhere. In an environment that has it:

    python tests/evaluation/make_seqeval_fixture.py
"""

import json
import pathlib
import random

TAGS = {"O": "O", "P": "B-PER", "p": "I-PER", "L": "B-LOC", "l": "I-LOC"}
AVERAGES = ("micro", "macro", "weighted")
PATH = pathlib.Path(__file__).parent / "fixtures" / "seqeval.json"


def main():
    import seqeval.metrics
    import seqeval.scheme

    draw, cases = random.Random(1), []
    measures = [seqeval.metrics.precision_score, seqeval.metrics.recall_score, seqeval.metrics.f1_score]
    modes = ({}, {"mode": "strict", "scheme": seqeval.scheme.IOB2})
    while len(cases) < 1000:
        lengths = [draw.randint(1, 7) for _ in range(draw.randint(1, 3))]
        texts = [["".join(draw.choices("OPpLl", [3, 1, 2, 1, 2], k=length)) for length in lengths] for _ in range(2)]
        there, predicted = ([[TAGS[letter] for letter in text] for text in side] for side in texts)
        if not {"B-PER", "B-LOC"} & {tag for text in there + predicted for tag in text}:
            continue  # seqeval warns of a mean of nothing
        average = AVERAGES[len(cases) % 3]
        scores = [
            [
                round(float(measure(there, predicted, average=average, zero_division=0, **mode)), 9)
                for measure in measures
            ]
            for mode in modes
        ]
        cases.append([" ".join(texts[0]), " ".join(texts[1]), average, *scores])
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
