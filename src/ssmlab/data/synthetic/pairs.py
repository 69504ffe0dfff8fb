"""Sentences in two made-up forms of English and French, as a stand-in for pairs that are not there. numpy only."""

import numpy as np

NOUNS = (
    ("dog", "chien"),
    ("cat", "chat"),
    ("man", "homme"),
    ("boy", "garçon"),
    ("horse", "cheval"),
    ("bird", "oiseau"),
)
COLOURS = (("white", "blanc"), ("black", "noir"), ("red", "rouge"), ("young", "jeune"), ("tall", "grand"))
VERBS = (("sees", "voit"), ("follows", "suit"), ("likes", "aime"), ("hears", "entend"), ("finds", "trouve"))
PLACES = (("here", "ici"), ("there", "là"), ("today", "aujourd'hui"), ("outside", "dehors"))


def generated_pairs(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """English and French sentences; adjectives change their place, so that words are not translated one by one."""
    rng = np.random.default_rng([seed, 6])
    sources, targets = [], []
    for _ in range(count):
        (one, un), (other, autre) = (NOUNS[i] for i in rng.integers(0, len(NOUNS), 2))
        (colour, couleur), (tint, teinte) = (COLOURS[i] for i in rng.integers(0, len(COLOURS), 2))
        verb, verbe = VERBS[rng.integers(0, len(VERBS))]
        end, fin = PLACES[rng.integers(0, len(PLACES))] if rng.random() < 0.5 else ("", "")
        sources.append(f"The {colour} {one} {verb} a {tint} {other} {end}".strip() + ".")
        targets.append(f"Le {un} {couleur} {verbe} un {autre} {teinte} {fin}".strip() + ".")
    return sources, targets
