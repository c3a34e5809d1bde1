"""A study with one objective and a study with two."""

import pytest

OBJECTIVES = {
    "one": [],
    "two": ["search.objectives={val_accuracy: maximize, val_loss: minimize}"],
}


@pytest.fixture(params=OBJECTIVES)
def spec(request, make_spec):
    return make_spec("search.stopping.min_steps=10", *OBJECTIVES[request.param])
