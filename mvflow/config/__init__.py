"""What a run is, as data: schema, recipes and TOML."""

from mvflow.config.files import (
    assign,
    config_from_dict,
    has_setting,
    parse_toml,
    read_toml,
    recipe,
    recipe_names,
    resolved,
    settings_of,
    to_toml,
    with_part,
)
from mvflow.config.idle import idle_settings
from mvflow.config.schema import (
    Classifiers,
    Config,
    CovariateConfig,
    Data,
    EvaluationSettings,
    Later,
    ModalityConfig,
    Share,
    Training,
)

__all__ = [
    "Classifiers",
    "Config",
    "CovariateConfig",
    "Data",
    "EvaluationSettings",
    "Later",
    "ModalityConfig",
    "Share",
    "Training",
    "assign",
    "config_from_dict",
    "has_setting",
    "idle_settings",
    "parse_toml",
    "read_toml",
    "recipe",
    "recipe_names",
    "resolved",
    "settings_of",
    "to_toml",
    "with_part",
]
