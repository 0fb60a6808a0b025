"""What a run is, as data: schema, recipes, TOML, and the stages that follow from it."""

from mvflow.config.files import (
    assign,
    config_from_dict,
    parse_toml,
    recipe,
    recipe_names,
    to_toml,
)
from mvflow.config.schema import (
    Classifiers,
    Config,
    ConvNetwork,
    Data,
    Evaluation,
    Flows,
    Joint,
    MLPNetwork,
    ModalityConfig,
    Network,
    Projectors,
    SamplerConfig,
    Training,
)
from mvflow.config.stages import stage_key, stage_names

__all__ = [
    "Classifiers",
    "Config",
    "ConvNetwork",
    "Data",
    "Evaluation",
    "Flows",
    "Joint",
    "MLPNetwork",
    "ModalityConfig",
    "Network",
    "Projectors",
    "SamplerConfig",
    "Training",
    "assign",
    "config_from_dict",
    "parse_toml",
    "recipe",
    "recipe_names",
    "stage_key",
    "stage_names",
    "to_toml",
]
