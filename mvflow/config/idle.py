"""Settings that were chosen and never act, because another one is as it is."""

from __future__ import annotations

from mvflow.config.schema import Config, Training

__all__ = ["idle_settings"]


def idle_settings(config: Config) -> list[str]:
    """What has no effect as it is set, a sentence each; defaults are not said.

    Examples:
        >>> from mvflow.config import config_from_dict
        >>> raw = {"system": "jnf", "latent_dim": 2, "modalities": {"a": {"shape": [3]}}}
        >>> idle_settings(config_from_dict({**raw, "joint": {"anneal": 0.2}}))
        ['joint.anneal = 0.2 has no effect without joint.beta_start, from which beta falls']
    """
    found = []
    for name, section in config:
        if not isinstance(section, Training):
            continue
        found += [words.replace("{section}", name) for words in section.idle()]
        stops = [f"{name}.{k}" for k in ("patience", "keep_best") if getattr(section, k)]
        if stops and not config.data.validation and section.epochs:
            which = " and ".join(stops)
            found.append(f"{which} need held-out rows: data.validation = 0 holds none out")
    return found
