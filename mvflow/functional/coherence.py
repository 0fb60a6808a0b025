"""Coherence of generated modalities: do classifiers recognise the same class? (paper, 4.2)."""

from jaxtyping import Bool, Float, Int

from mvflow.core import Array, namespace

__all__ = ["accuracy", "agreement", "chance_agreement"]


def agreement(predictions: Int[Array, "modalities samples"]) -> Bool[Array, " samples"]:
    """Whether all modalities of a sample were given the same class; the mean is joint coherence.

    Examples:
        >>> import numpy as np
        >>> agreement(np.array([[1, 2, 3], [1, 2, 0]]))
        array([ True,  True, False])
    """
    xp = namespace(predictions)
    return xp.all(predictions == predictions[:1, ...], axis=0)


def accuracy(
    predictions: Int[Array, " samples"], labels: Int[Array, " samples"]
) -> Float[Array, ""]:
    """Share of predictions that equal the label; on generated rows, conditional coherence.

    Examples:
        >>> import numpy as np
        >>> float(accuracy(np.array([1, 2, 3, 3]), np.array([1, 2, 0, 3])))
        0.75
    """
    xp = namespace(predictions, labels)
    return xp.mean(xp.astype(predictions == labels, xp.float64))


def chance_agreement(predictions: Int[Array, "modalities samples"]) -> Float[Array, ""]:
    """Share of samples that would agree if modalities were independent of each other.

    Each modality keeps how frequent its classes are (Cohen 1960): a model that makes one class
    only has all of its coherence by chance.

    Examples:
        >>> import numpy as np
        >>> float(chance_agreement(np.array([[0, 0, 1, 1], [0, 1, 0, 1]])))
        0.5
        >>> float(chance_agreement(np.array([[3, 3], [3, 3]])))
        1.0
    """
    xp = namespace(predictions)
    classes = xp.unique_values(predictions)
    matches = xp.astype(predictions[..., None] == classes[None, None, :], xp.float64)
    return xp.sum(xp.prod(xp.mean(matches, axis=1), axis=0))
