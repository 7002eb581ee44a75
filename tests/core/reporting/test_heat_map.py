from polyclinic.reporting.heat_map import FIELD_WIDTH, GAP, draw_heat_map


def test_the_heat_map_sets_newcomers_apart() -> None:
    drawn = draw_heat_map(
        ["x", "a", "b"], [[0.0, 0.5, 4.0], [0.5, 0.0, 1.0], [4.0, 1.0, 0.0]], {"x"}
    )
    assert drawn is not None
    assert [label.name for label in drawn.rows] == ["a", "b", "x"]
    a, b, x = (label.at for label in drawn.columns)
    assert (b - a, x - b) == (FIELD_WIDTH, FIELD_WIDTH + GAP)
    fields = {field.words: field for field in drawn.fields}
    assert fields["a and x: 0.50"].text == "0.50"
    near, far = fields["a and x: 0.50"], fields["b and x: 4.00"]
    assert (near.ink, far.ink) == ("#ffffff", "#17212b"), "numbers are readable on dark and on pale"
    assert int(near.fill[1:3], 16) < int(far.fill[1:3], 16), "the nearer, the darker"
    assert [words for _, _, words in drawn.brackets] == ["took part", "joined later"]
    assert draw_heat_map(["a"], [[0.0]], ()) is None
