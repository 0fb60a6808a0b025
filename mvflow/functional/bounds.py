"""Objectives of multimodal VAEs, as functions of expected log-likelihoods and divergences.

All terms are in nats per row; that of one modality is absent where its divergence is zero and its
log-likelihood is left out.
"""

from jaxtyping import Float

from mvflow.core import Array

__all__ = ["crmvae_bound", "jmvae_bound", "mvtcae_bound"]


def jmvae_bound(
    elbo: Float[Array, "*batch"], expert_kls: Float[Array, "experts *batch"], alpha: float
) -> Float[Array, "*batch"]:
    """Return L(X) - alpha sum_j KL(q(z|X) || q_j(z|x_j)), of JMVAE-kl (Suzuki et al. 2016).

    Examples:
        >>> import numpy as np
        >>> jmvae_bound(np.array([-10.0]), np.array([[2.0], [3.0]]), 0.1)
        array([-10.5])
    """
    return elbo - alpha * sum(expert_kls[j, ...] for j in range(expert_kls.shape[0]))


def mvtcae_bound(
    log_likelihood: Float[Array, "*batch"],
    prior_kl: Float[Array, "*batch"],
    expert_kl: Float[Array, "*batch"],
    count: Float[Array, "*batch"] | float | int,
    alpha: float,
) -> Float[Array, "*batch"]:
    """Bound on the total correlation that MVTCAE maximises (Hwang et al. 2021).

    (M - alpha)/M E log p(X|z) - (1 - alpha) KL(q || p) - alpha/M sum_j KL(q || q_j), q = q(z|X).
    At alpha = 0 it is the ELBO, at alpha = 1 only the conditional bottlenecks are left.

    Args:
        log_likelihood: E log p(X|z), a sum over modalities.
        prior_kl: KL(q(z|X) || p(z)).
        expert_kl: sum_j KL(q(z|X) || q(z|x_j)).
        count: M, modalities of the row.
        alpha: share of the conditional bottlenecks.

    Examples:
        >>> import numpy as np
        >>> ten, two, four = np.array([-10.0]), np.array([2.0]), np.array([4.0])
        >>> mvtcae_bound(ten, two, four, 2, 0.0), mvtcae_bound(ten, two, four, 2, 1.0)
        (array([-12.]), array([-7.]))
    """
    share = alpha / count
    return (1 - share) * log_likelihood - (1 - alpha) * prior_kl - share * expert_kl


def crmvae_bound(
    joint_log_likelihood: Float[Array, "*batch"],
    expert_log_likelihood: Float[Array, "*batch"],
    prior_kl: Float[Array, "*batch"],
    expert_kl: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Objective of CRMVAE (Suzuki and Matsuo 2023): experts reconstruct, and agree with q(z|X).

    (A + B)/2 - KL(q || p) - sum_j KL(q || q_j), where A is E log p(X|z) under q(z|X) and B the
    sum of E log p(x_j|z) under q(z|x_j). The weights are those of MultiVae 1.0.3's code, times
    M + 1; the paper was not at hand.

    Args:
        joint_log_likelihood: A.
        expert_log_likelihood: B.
        prior_kl: KL(q(z|X) || p(z)).
        expert_kl: sum_j KL(q(z|X) || q(z|x_j)).

    Examples:
        >>> import numpy as np
        >>> crmvae_bound(*(np.array([v]) for v in (-10.0, -6.0, 2.0, 4.0)))
        array([-14.])
    """
    return 0.5 * (joint_log_likelihood + expert_log_likelihood) - prior_kl - expert_kl
