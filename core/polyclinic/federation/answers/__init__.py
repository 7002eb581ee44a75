"""The one place where hospitals' answers are read: each kind becomes a typed value within bounds.

Nothing else touches what a hospital sent. Whatever goes wrong while an answer is read is that
hospital's failure: `take` returns it as a `Failure`, and the work with the others goes on. Answers
that one method alone asks for are read beside its messages, by means of `record_of` and `array_of`.
"""

from polyclinic.federation.answers.figures import (
    Figures,
    Trained,
    figures_content,
    read_figures,
    read_trained,
    trained_content,
)
from polyclinic.federation.answers.greeting import read_hello
from polyclinic.federation.answers.guard import LONGEST_S, Failure, array_of, record_of, take
from polyclinic.federation.answers.outliers import (
    Outlier,
    Sketch,
    Teller,
    find_outliers,
    find_repeated,
    sketch_of,
)

__all__ = [
    "LONGEST_S",
    "Failure",
    "Figures",
    "Outlier",
    "Sketch",
    "Teller",
    "Trained",
    "array_of",
    "figures_content",
    "find_outliers",
    "find_repeated",
    "read_figures",
    "read_hello",
    "read_trained",
    "record_of",
    "sketch_of",
    "take",
    "trained_content",
]
