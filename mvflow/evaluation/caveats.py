"""What a reader of a number must know: data, recipe, and how it was drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isclose
from typing import Any

from mvflow.config import Config, config_from_dict, recipe
from mvflow.core import ConfigError, UsageError, rescale_weights
from mvflow.core.parts import dump
from mvflow.evaluation.labels import leaves
from mvflow.evaluation.published import Published
from mvflow.evaluation.result import Evaluation, Method

__all__ = ["beta_factor", "caveats", "departures", "merge_caveats", "method_of", "paper_config"]

DIVISORS = {
    "aggregate": "the aggregated posterior",
    "prior": "the prior |S|-1 times (Eq. 12)",
    "prior-once": "the prior once (F.3)",
}
APART = (
    *("seed", "format", "recipe", "data.", "evaluation.", "classifiers.", "prior.", "sampler."),
    *("subset.", "joint.beta"),
)
"""Settings that are no departure, or are told apart: how a number is drawn and measured."""


DEPARTURES = "settings that are not the paper's, which are in brackets: "
"""Begins the caveat of each setting that is not the paper's."""
CHANGES = "settings that are not the recipe's, which are in brackets: "
"""The same of the run's own recipe, where the paper has no figures."""
MAX_SHOWN = 20
"""Characters of a value that is shown."""


def method_of(config: Config, *, sampled: bool = True) -> Method:
    """How numbers of a configuration are drawn.

    Args:
        config: of the model, as it was measured.
        sampled: whether any posterior needed the sampler.
    """
    rule = getattr(config, "subset", None)
    guidance = getattr(rule, "guidance", 0.0)
    changed: Mapping[str, Any] = dump(config.sampler, "samplers", exclude_defaults=True)
    settings = ", ".join(f"{k} {v}" for k, v in changed.items() if k != "kind")
    sampler = f"{config.sampler.kind} ({settings})" if settings else config.sampler.kind
    return Method(
        subset=""
        if rule is None
        else f"{rule.kind}{f' guided by {guidance:g}' if guidance else ''}",
        divisor=getattr(rule, "divisor", ""),
        ball=rule is not None and rule.within_ball,
        sampler=sampler if sampled else "",
        prior=getattr(getattr(config, "prior", None), "title", ""),
    )


def method_words(method: Method) -> str:
    """A method in a sentence.

    Examples:
        >>> method_words(Method(subset="product", divisor="prior", sampler="sir", prior="p(z)"))
        'several given: product over the prior |S|-1 times (Eq. 12), no ball, drawn by sir'
    """
    words = []
    if method.subset:
        words.append(method.subset)
        if method.divisor:
            words[0] += f" over {DIVISORS.get(method.divisor, method.divisor)}"
        words.append("within the ball of the latents" if method.ball else "no ball")
    words.append(f"drawn by {method.sampler}" if method.sampler else "drawn exactly")
    protocol = f"protocol {method.protocol}; " if method.protocol else ""
    return f"{protocol}several given: {', '.join(words)}"


def paper_config(config: Config, report: Published) -> Config | None:
    """The paper's own settings of a run's system; None if the recipe cannot make it."""
    return _by_recipe(config, report.recipe)


def _by_recipe(config: Config, name: str) -> Config | None:
    """Settings of a recipe for a run's system, projector and posterior; None if it has none."""
    parts = [f"system={config.system}"]
    for part in ("projector", "posterior"):
        kind = getattr(getattr(config, part, None), "kind", None)
        parts += [f"{part}={kind}"] if kind is not None else []
    try:
        return config_from_dict(recipe(name, parts))
    except (ConfigError, UsageError):
        return None


def beta_factor(config: Config, paper: Config) -> float | None:
    """What times beta has the effect of the paper's beta; None if no number has.

    Log-likelihoods have the factors lambda_j / b_j of a Laplace distribution of scale b_j, and
    lambda_j / s_j^2 of a normal one: if these are all the paper's times one number c, beta acts as
    beta / c.

    Examples:
        >>> from mvflow.config import recipe
        >>> mine, paper = (config_from_dict(recipe(f"mnist-svhn{end}")) for end in ("", "-paper"))
        >>> beta_factor(mine, paper)
        0.75
    """
    ours, theirs = _likelihood_factors(config), _likelihood_factors(paper)
    if ours.keys() != theirs.keys() or None in (*ours.values(), *theirs.values()):
        return None
    ratios = [theirs[n][1] / ours[n][1] for n in ours if ours[n][0] == theirs[n][0]]
    alike = len(ratios) == len(ours) and all(isclose(r, ratios[0], rel_tol=1e-6) for r in ratios)
    return ratios[0] if alike else None


def _likelihood_factors(config: Config) -> dict[str, Any]:
    """Modality -> kind of its likelihood, and the factor of its errors; None where unknown."""
    specs = config.specifications()
    weights, powers = rescale_weights(specs), {"laplace": 1, "normal": 2}
    found: dict[str, Any] = {}
    for name, modality in config.modalities.items():
        kind, scale = modality.likelihood.kind, getattr(modality.likelihood, "scale", 1.0)
        if isinstance(scale, str):
            found[name] = None
        else:
            found[name] = kind, weights[name] / float(scale) ** powers.get(kind, 0)
    return found


def departures(config: Config, paper: Config) -> list[str]:
    """Settings that are not the paper's, each as "key value (the paper's)".

    Examples:
        >>> from mvflow.config import recipe
        >>> paper, mine = (
        ...     config_from_dict(recipe("mhd", words)) for words in ([], ["flows.epochs=3"])
        ... )
        >>> departures(mine, paper)
        ['flows.epochs 3 (100)']
    """
    ours, theirs = leaves(config), leaves(paper)
    found = []
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key) and not key.startswith(APART):
            values = [str(of.get(key)).replace("'", "") for of in (ours, theirs)]
            shown = "" if max(map(len, values)) > MAX_SHOWN else f"{values[0]} ({values[1]})"
            found.append(f"{key} {shown}".strip())
    return found


def caveats(config: Config, metrics: Evaluation, report: Published | None = None) -> Iterable[str]:
    """What a reader of a run's numbers must know.

    Args:
        config: of the run.
        metrics: its evaluation.
        report: the paper's figures of the benchmark, if they stand beside it.
    """
    data = metrics.data or config.recipe.removesuffix("-small").removesuffix("-paper")
    other = "" if report is None or data in report.data else f", not the paper's {report.data[0]}"
    if other or metrics.note:
        yield f"data: {data}{other}{f' ({metrics.note})' if metrics.note else ''}"
    if config.recipe.endswith("-small"):
        yield f"recipe: {config.recipe}, a small one"
    paper = None if report is None else paper_config(config, report)
    if report is not None and paper is not None:
        yield from (f"{DEPARTURES}{setting}" for setting in departures(config, paper))
        factor = beta_factor(config, paper)
        beta = getattr(getattr(config, "joint", None), "beta", None)
        if factor is None:
            yield "likelihoods or weights are not the paper's: no beta of the paper compares"
        elif beta is not None and not isclose(factor, 1.0):
            yield (
                f"by the scale of the likelihoods, beta {beta:g} acts as {factor * beta:g} does "
                "in the paper"
            )
    if paper is None and (own := _by_recipe(config, config.recipe)) is not None:
        yield from (f"{CHANGES}{setting}" for setting in departures(config, own))
    yield method_words(metrics.method or method_of(config))


def merge_caveats(of_systems: Mapping[str, Sequence[str]]) -> list[str]:
    """Caveats of several systems, each once with the systems that it is of.

    Settings that are not the paper's, or the recipe's, are in one line where they are of the same
    systems.

    Examples:
        >>> merge_caveats({"JNF": ["small", "slow"], "MVAE": ["small"]})
        ['small', 'JNF: slow']
    """
    names_of: dict[str, list[str]] = {}
    for name, said in of_systems.items():
        for caveat in said:
            names_of.setdefault(caveat, []).append(name)
    lines: dict[str, str] = {}
    for caveat, names in names_of.items():
        who = _who(names, list(of_systems))
        begins = next((words for words in (DEPARTURES, CHANGES) if caveat.startswith(words)), "")
        setting, key = caveat.removeprefix(begins), who + (begins or caveat)
        lines[key] = f"{lines[key]}, {setting}" if key in lines else f"{who}{caveat}"
    return [*lines.values()]


def _who(names: Sequence[str], everyone: Sequence[str]) -> str:
    """Of whom something is said, in front of it; nothing if of all."""
    others = [name for name in everyone if name not in names]
    if not others:
        return ""
    if len(others) < len(names) / 2:
        return f"all but {' and '.join(others)}: "
    return f"{' and '.join(names)}: "
