"""What a part's yaml says is what Python takes where nothing is said: the command and a notebook train the same."""

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from sairlib import build

CONF = Path(build.CONFIG_PATH)
pytestmark = pytest.mark.skipif(not CONF.is_dir(), reason="needs a checkout: the names come from its conf/")
GROUPS = ("model", "model/encoder", "model/attention", "loss", "negatives", "objective", "split")
NAMES = [f"{group}/{path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
PARTS = [name for name in NAMES if name != "negatives/none"]
MEANT = {
    "model/attrec-inner": {"mode", "w"},
    "model/fmc": {"user_factors"},
    "model/gru4rec-plus": {"hidden_dropout"},
    "model/sair-full": {"variant"},
    "model/sair-label": {"variant"},
    "objective/given_category": {"given_category"},
}
"""The settings by which one yaml of a class differs from another."""


@pytest.mark.parametrize("part", PARTS)
def test_a_default_of_a_part_is_the_same_in_its_yaml_and_in_python(part: str) -> None:
    group, _, name = part.rpartition("/")
    words = [
        f"{group}={name}",
        *({"model/encoder": ["model=sair"], "model/attention": ["model=sasrec"]}.get(group, [])),
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.select(compose("train", words), group.replace("/", "."))
    takes = inspect.signature(get_object(config._target_)).parameters
    plain = [name for name in map(str, config) if name in takes and not OmegaConf.is_interpolation(config, name)]
    given = {name: config[name] for name in plain if not isinstance(config[name], DictConfig)}
    defaults = {name: takes[name].default for name in given if takes[name].default is not inspect.Parameter.empty}
    assert {name for name in defaults if given[name] != defaults[name]} == MEANT.get(part, set())
