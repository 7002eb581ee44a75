"""Updates that are unlike all others are found by their directions and lengths."""

import numpy as np
import pytest

from polyclinic.federation.answers.outliers import (
    WIDTH,
    Outlier,
    Teller,
    find_outliers,
    find_repeated,
    is_repeated,
    sketch_of,
)

LONG = 50 * WIDTH + 7


def vectors(count: int, alike: float = 1.0) -> dict[str, np.ndarray]:
    """Directions that share a part of weight `alike` with a noise of length one."""
    random = np.random.default_rng(0)
    shared = random.standard_normal(LONG) / LONG**0.5
    return {
        f"h{number}": (alike * shared + random.standard_normal(LONG) / LONG**0.5).astype("f4")
        for number in range(count)
    }


def words(found: dict[str, np.ndarray]) -> dict[str, str]:
    sketches = {site: sketch_of(vector) for site, vector in found.items()}
    return {site: outlier.what for site, outlier in find_outliers(sketches).items()}


@pytest.mark.parametrize("alike", [0.0, 0.3, 1.0, 5.0])
def test_honest_ones_are_left_alone(alike: float) -> None:
    assert words(vectors(6, alike)) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: -v["h0"], "points away"),
        (lambda v: 5 * v["h0"], "5.0 times as long"),
        (lambda v: np.zeros_like(v["h0"]), "changes nothing"),
        (lambda v: np.roll(v["h0"], 1), "nothing in common"),
        (lambda v: v["h1"], "the same as h"),
    ],
)
def test_a_liar_is_found(change: object, said: str) -> None:
    found = vectors(6, 2.0)
    found["h0"] = change(found)  # type: ignore[operator]
    told = words(found)
    assert said in told["h0"]
    assert set(told) - {"h0"} <= {"h1"}


def test_three_are_too_few_to_say_who_is_unlike() -> None:
    found = vectors(3, 2.0)
    assert words({**found, "h0": -found["h0"]}) == {}


def test_norms_are_exact_and_inner_products_nearly() -> None:
    one, other = list(vectors(2).values())
    a, b = sketch_of(one), sketch_of(other, one)
    assert a.norm == pytest.approx(float(np.linalg.norm(one.astype("f8"))), rel=1e-12)
    assert b.norm == pytest.approx(float(np.linalg.norm(other.astype("f8") - one)), rel=1e-12)
    exact = float(one.astype("f8") @ (other.astype("f8") - one))
    assert float(a.sums @ b.sums) == pytest.approx(exact, abs=4 / WIDTH**0.5 * a.norm * b.norm)


def test_pieces_make_the_sketch_of_the_whole() -> None:
    (vector,) = vectors(1).values()
    cut = 3 * WIDTH
    parts = sketch_of(vector[:cut]).sums + sketch_of(vector[cut:], start=cut).sums
    assert np.allclose(parts, sketch_of(vector).sums, atol=1e-12)


def test_equal_vectors_repeat_and_others_do_not() -> None:
    one, other = list(vectors(2).values())
    assert is_repeated(sketch_of(one), sketch_of(one.copy()))
    assert not is_repeated(sketch_of(one), sketch_of(one + 1e-6 * other))


def test_who_shares_nothing_repeats_nothing() -> None:
    nothing = {"a": sketch_of(np.zeros(0, dtype="f4"))}
    assert find_repeated(nothing, nothing) == {}


def test_each_kind_is_told_once_whatever_its_figure() -> None:
    teller = Teller("update")
    first = teller.tell({"a": Outlier("long", "is 5.0 times as long")})
    assert len(first) == 1 and first[0].startswith("a's update is 5.0 times as long")
    assert teller.tell({"a": Outlier("long", "is 4.9 times as long")}) == []
    assert len(teller.tell({"a": Outlier("away", "points away")})) == 1
    assert len(teller.tell({"a": Outlier("away", "points away")}, {"a": "another digest"})) == 1
