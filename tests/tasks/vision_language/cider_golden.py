"""Makes cider_golden.json with pycocoevalcap 1.2: pip install --no-deps pycocoevalcap; python cider_golden.py."""

import json
import random
from pathlib import Path

TEXT = "a black dog and the brown cat run over wet green grass in front of two small children on an old red bench"
WORDS = TEXT.split()


def captions(n, seed):
    """Candidates and references of n images, words apart already."""
    draw = random.Random(seed)
    references, candidates = [], []
    for _ in range(n):
        known = [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(draw.randint(1, 5))]
        words = draw.choice(known).split()
        for _ in range(draw.randint(0, 4)):
            words.insert(draw.randrange(len(words) + 1), draw.choice([*WORDS, "unseen"]))
        candidates.append(" ".join(words[draw.randint(0, 2) :]))
        references.append(known)
    return candidates, references


def main():
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider

    rows = []
    for n, seed in ((2, 0), (12, 1), (40, 2)):
        candidates, references = captions(n, seed)
        names = range(n)
        _, scores = Cider().compute_score(dict(zip(names, references)), {i: [candidates[i]] for i in names})
        bleu = BleuScorer(n=4)
        for candidate, known in zip(candidates, references):
            bleu += (candidate, known)
        rows.append({"n": n, "seed": seed, "cider": list(scores), "bleu": bleu.compute_score(option="closest")[0][3]})
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
