"""Settings that were chosen and never act, because another one is as it is."""

from __future__ import annotations

from collections.abc import Collection

from mvflow.config.schema import Config, Training

__all__ = ["idle_settings"]


def idle_settings(config: Config, keys: Collection[str] = ()) -> list[str]:
    """What has no effect as it is set, a sentence each; defaults are not said.

    Args:
        config: to look at.
        keys: of the settings that were given by hand: those in sections that nothing reads are
            said, too.

    Examples:
        >>> from mvflow.config import config_from_dict
        >>> raw = {"system": "jnf", "latent_dim": 2, "modalities": {"a": {"shape": [3]}}}
        >>> idle_settings(config_from_dict({**raw, "joint": {"anneal": 0.2}}))
        ['joint.anneal = 0.2 has no effect without joint.beta_start, from which beta falls']
    """
    unread = config.unread()
    found = [
        f"{key} has no effect: {unread[section]}"
        for key in keys
        if (section := key.partition(".")[0]) in unread
    ]
    for name, section in config:
        if not isinstance(section, Training):
            continue
        found += [words.replace("{section}", name) for words in section.idle()]
        stops = [f"{name}.{k}" for k in ("patience", "keep_best") if getattr(section, k)]
        if stops and not config.data.validation and section.epochs:
            which = " and ".join(stops)
            found.append(f"{which} need held-out rows: data.validation = 0 holds none out")
    return found
