"""What is made of a node of a configuration is on the list of what may be made."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.config.compose import instantiate
from polyclinic.config.folders import targets_in
from polyclinic.config.targets import allowed_targets
from polyclinic.errors import ConfigError
from tests.fuzz.mutation import TEXTS, VALUES

LOSS = {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.0}
TARGETS = (*sorted(allowed_targets()), "os.system", "${oc.decode:1}", "${oc.env:HOME}", "${x")
trees = st.recursive(
    st.sampled_from((*VALUES, *TARGETS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(("_target_", "a", *TEXTS[:8])), inner, max_size=4),
    ),
    max_leaves=8,
)


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(tree=trees)
def test_what_is_made_inside_a_node_is_on_the_list(tree: Any) -> None:
    hidden = [target for target in targets_in(tree) if target not in allowed_targets()]
    with pytest.raises(ConfigError) as caught:
        instantiate({**LOSS, "inner": tree})  # it takes no `inner`
    assert not hidden or "_target_" in str(caught.value)
