"""Captions taken apart and put together again with words left out, so that no single word carries a picture.

With whole captions a contrastive model tells the pictures of a batch apart by their colour word alone.
"""

import re
from dataclasses import dataclass, replace

import numpy as np

SIZES = ("tall", "low", "wide", "narrow")
PLANS = ("round", "rectangular")
COLOURS = (
    "black", "white", "grey", "red", "brown", "orange", "beige", "yellow", "green", "turquoise", "blue", "purple",
    "pink",
)  # fmt: skip
ANYTHING = "thing"  # for a noun that is left out
OPENINGS = ("a picture of ", "a photo of ")
OPPOSITES = {
    "size": {"tall": "low", "low": "tall", "wide": "narrow", "narrow": "wide"},
    "outline": {"round": "rectangular", "rectangular": "round"},
    "legs": {"one leg": "four legs", "two legs": "four legs", "three legs": "one leg", "four legs": "one leg"},
    "boards": {
        "two boards": "four boards", "three boards": "five boards", "four boards": "six boards",
        "five boards": "seven boards", "six boards": "four boards", "seven boards": "five boards",
        "eight boards": "six boards",
    },
}  # fmt: skip
TAIL = re.compile(r" (on|with) \w+ (legs?|boards)$")


@dataclass(frozen=True)
class Phrase:
    """The parts of a caption of `data_scripts.captions`; what it does not say is empty."""

    sizes: tuple[str, ...]
    plan: str
    colour: str
    noun: str
    tail: str


def take_apart(caption: str) -> Phrase:
    """The parts of a caption.

    >>> take_apart("a tall dark green osaka chair on four legs")
    Phrase(sizes=('tall',), plan='', colour='dark green', noun='osaka chair', tail='on four legs')
    """
    tail = TAIL.search(caption)
    words = (caption[: tail.start()] if tail else caption).split()
    words = words[words[0] in ("a", "an") :]
    sizes, plan, colour = [], "", ""
    while len(words) > 1 and words[0] in (*SIZES, *PLANS, *COLOURS, "dark"):
        word = words.pop(0)
        if word in SIZES:
            sizes.append(word)
        elif word in PLANS:
            plan = word
        else:
            colour = f"{colour} {word}".strip()
    return Phrase(tuple(sizes), plan, colour, " ".join(words), tail.group().strip() if tail else "")


def put_together(phrase: Phrase) -> str:
    """The caption of a phrase's parts."""
    words = " ".join(word for word in (*phrase.sizes, phrase.plan, phrase.colour, phrase.noun, phrase.tail) if word)
    return f"{'an' if words[0] in 'aeio' else 'a'} {words}"


def without_colour(caption: str) -> str:
    """The same caption without its word for the colour."""
    return put_together(replace(take_apart(caption), colour=""))


def contradict(caption: str, kind: str) -> str:
    """The same caption with its words of one kind of `OPPOSITES` made wrong; unchanged if it has none.

    >>> contradict("a tall narrow lamp on one leg", "size")
    'a low wide lamp on one leg'
    """
    wrong = OPPOSITES[kind]
    return re.sub(rf"\b({'|'.join(wrong)})\b", lambda found: wrong[found.group()], caption)


def vary(caption: str, category: str, rng: np.random.Generator, grey: bool = False) -> str:
    """A caption with parts left out at random, and its noun at times replaced by the category or by "thing".

    Parameters
    ----------
    grey : bool
        The picture has lost its colours: leave their word out.
    """
    phrase = take_apart(caption)
    noun = rng.choice([phrase.noun, category, ANYTHING], p=[0.5, 0.4, 0.1])
    changed = Phrase(
        sizes=tuple(word for word in phrase.sizes if rng.random() < 0.7),
        plan=phrase.plan if rng.random() < 0.8 else "",
        colour=phrase.colour if rng.random() < 0.5 and not grey else "",
        noun=str(noun),
        tail=phrase.tail if rng.random() < 0.7 else "",
    )
    if changed == Phrase((), "", "", ANYTHING, ""):
        changed = replace(changed, noun=category)
    opening = OPENINGS[rng.integers(len(OPENINGS))] if rng.random() < 0.15 else ""
    return opening + put_together(changed)
