"""Which questions ask for the same thing: leader clustering of their vectors, less what all texts here have in common.

Questions to one bot are alike before they are about anything (they are questions, about a bank, say), and more so the
narrower its field; the mean of the articles' texts is what they share, so cosines are taken from there. It comes with the
search: no text is embedded for it, and it is always of the encoder and of the articles that are searched.

A mean of few articles is mostly about those few, and questions would be told apart by how far from them they are. So it is
shrunk towards nothing by FEW, as if that many articles had nothing in common with the others, and the bound goes with it:
without articles, cosines are plain ones. One article more or less moves the mean by its share of it, so of 65 hardly.

Shapes: N questions, M articles, D the encoder's width.
"""

from __future__ import annotations

import numpy as np

from bot.knowledge.index import Vectors

SAME_TOPIC = 0.6
"""Cosine to a group's mean from which a question is of its topic. MiniLM puts two wordings of one question at .6 to .9, and
questions of one domain about different things at .1 to .5."""
SAME_TOPIC_APART = 0.45
"""The same where what all share has been taken out. Chosen with FEW on topics that `bench groups` leaves out."""
FEW = 2
"""Articles at which half of their mean is believed."""


def topics(questions_N_D: Vectors, articles_M_D: Vectors) -> list[list[int]]:
    """Indices of like questions, given unit vectors and the articles' means: see `group`."""
    believed = len(articles_M_D) / (len(articles_M_D) + FEW)
    threshold = SAME_TOPIC + believed * (SAME_TOPIC_APART - SAME_TOPIC)
    return group(apart(questions_N_D, articles_M_D), threshold)


def apart(questions_N_D: Vectors, articles_M_D: Vectors) -> Vectors:
    """Unit vectors less what the articles' means have in common, of length 1 again. It is shorter than 1, so none vanishes."""
    if not len(articles_M_D):
        return questions_N_D
    left_N_D = questions_N_D - articles_M_D.sum(0) / (len(articles_M_D) + FEW)
    return np.asarray(left_N_D / np.linalg.norm(left_N_D, axis=1, keepdims=True), np.float32)


def group(vectors_N_D: Vectors, threshold: float = SAME_TOPIC) -> list[list[int]]:
    """Leader clustering of unit vectors: each joins the group whose mean is nearest, or begins one below `threshold`.

    Largest group first; within a group the most typical first. Depends on the order, which is what one wants here: newest
    first, a topic is named by what is asked today.
    """
    sums: list[Vectors] = []
    members: list[list[int]] = []
    for i, vector in enumerate(vectors_N_D):
        cosines = [float(total @ vector / np.linalg.norm(total)) for total in sums]
        best = int(np.argmax(cosines)) if cosines else 0
        if not cosines or cosines[best] < threshold:
            sums.append(vector.copy())
            members.append([i])
        else:
            sums[best] += vector
            members[best].append(i)
    typical = [
        sorted(found, key=lambda i: -float(vectors_N_D[i] @ total)) for found, total in zip(members, sums, strict=True)
    ]
    return sorted(typical, key=len, reverse=True)
