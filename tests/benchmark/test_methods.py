"""What reports are told of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from slidesr.benchmark.methods import of_model
from slidesr.model.model import Model
from slidesr.model.weights import ModelSpec
from slidesr.nets.generator import Generator, GeneratorSpec

TINY = GeneratorSpec(2, "weight", 8, bicubic_skip=True, channels=8, blocks=1)


def test_the_facts_of_a_model_are_those_of_its_whole_chain(
    model_spec: Callable[[GeneratorSpec], ModelSpec],
) -> None:
    spec = model_spec(TINY)
    first = replace(spec.stages[0], loss_networks=("VGG19",))
    spec = replace(spec, stages=(first, *spec.stages[1:]))
    facts = of_model(Model(spec, Generator(TINY), "")).facts
    assert facts["start"] == "before"
    assert facts["trained on"] == "4,096 patches"
    assert facts["loss networks"] == ["VGG19", "a network"]
    assert "ablates" not in facts
    alone = replace(spec, stages=(replace(first, recipe={"ablates": "a-gan"}),))
    facts = of_model(Model(alone, Generator(TINY), "")).facts
    assert (facts["start"], facts["ablates"]) == ("", "a-gan")
