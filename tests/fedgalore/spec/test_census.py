"""How a census reads, and what counts as a backbone."""

from fedgalore.spec.census import Census


def test_a_census_reads_as_one_line():
    census = Census({"linear": 6000, "head": 30}, {"linear": 8000, "embedding": 1000, "norm": 20, "head": 30})
    assert census.summary() == (
        "6,030 of 9,050 parameters trained (67 %): 6,000 linear, 30 head; "
        "not trained: 2,000 linear, 1,000 embedding, 20 norm"
    )
    assert Census({}, {"linear": 1}, {"a": 2, "b": 1}).summary().endswith("; rank lowered to 1, 2 in 2 smaller layers")


def test_embeddings_and_head_count_on_neither_side_of_the_share():
    parameters = {"linear": 50, "experts": 50, "embedding": 1000, "head": 1000}
    assert Census({"linear": 50, "head": 1000}, parameters).backbone_share == 0.5
    assert Census({"head": 10}, {"head": 10}).backbone_share == 1.0


def test_what_is_frozen_comes_largest_first():
    assert list(Census({"linear": 5}, {"norm": 1, "linear": 5, "experts": 9}).frozen()) == ["experts", "norm"]
