"""Weights with a posterior: the ELBO over the parameters of any model, and what a classifier then does not know.

A prediction should average over all weights that the data D allow, `P(y | x, D) = ∫ P(y | x, w) P(w | D) dw`. A
diagonal Gaussian q(w) stands in for the posterior. How well it does so is told by

    log P(D) = ELBO + KL(q(w), P(w | D)),    ELBO = E_q[log P(D | w)] - KL(q(w), P(w)),

so that raising the ELBO makes q the posterior, as far as a diagonal Gaussian can be. The first term is the data fit.
The second is what the weights cost (Occam's razor): a part for their size, which is weight decay, and a part for
their precision (`KL`). Training minimises `-ELBO / N`: the mean loss of the N examples plus `KL / N`. Nothing here
knows of images or networks: the likelihood is any function of a parameter tree.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ddpm_jax.diffusion.arrays import Array

Tree = Any
LogLikelihood = Callable[[Tree], Array]  # weights -> log P(D | w), of the whole data set, in nats


class MeanField(NamedTuple):
    """A Gaussian of independent weights, `q(w) = N(mean, exp(log_std)**2)`; itself a tree of arrays, so trainable.

    Attributes:
      mean: a parameter tree.
      log_std: the same tree, with None in place of a weight that is not random but a point estimate.
    """

    mean: Tree
    log_std: Tree


class KL(NamedTuple):
    """`KL(q(w), N(0, prior_std**2 I))` in its two parts, `[]` nats each, neither of them negative.

    Attributes:
      mean: `norm(mean)**2 / (2 prior_std**2)`, weight decay.
      variance: `sum((r**2 - 1) / 2 - log r)` with `r = std / prior_std`: what it costs to know weights precisely.
    """

    mean: Array
    variance: Array

    @property
    def total(self):
        """The divergence, `[]` nats."""
        return self.mean + self.variance


class ELBO(NamedTuple):
    """The bound `log P(D) >= data_fit - kl` in its terms.

    Attributes:
      data_fit: `E_q[log P(D | w)]`, `[]` nats.
      kl: `KL` of the posterior from the prior.
    """

    data_fit: Array
    kl: KL

    @property
    def total(self):
        """The bound, `[]` nats."""
        return self.data_fit - self.kl.total


class Uncertainty(NamedTuple):
    """How unsure a prediction is and why, `[B]` nats each; the first is the sum of the other two.

    Attributes:
      predictive_entropy: of the averaged prediction.
      expected_entropy: the average entropy of the predictions: what no knowledge of the weights would settle.
      mutual_information: between label and weights: how far the predictions disagree, what more data would settle.
    """

    predictive_entropy: Array
    expected_entropy: Array
    mutual_information: Array


def initial_posterior(params, *, std, where=lambda name: True):
    """The posterior around given parameters, `N(params, std**2)`.

    Args:
      params: a parameter tree.
      std: standard deviation of every random weight, positive.
      where: whether the weights of a name such as "pool/out/kernel" are random; others stay point estimates, without
        a prior.
    """

    def log_std(path, mean):
        return jnp.full_like(mean, jnp.log(std)) if where(_name(path)) else None

    return MeanField(params, jax.tree.map_with_path(log_std, params))


def standard_noise(posterior, key):
    """Standard normal numbers for the random weights, all drawn at once: a tree like `log_std`."""
    flat, as_tree = ravel_pytree(posterior.log_std)
    return as_tree(jax.random.normal(key, flat.shape, flat.dtype))


def weights_at(posterior, eps):
    """The weights `w = mean + exp(log_std) eps`, differentiable in both (Kingma & Welling 2014, section 2.4).

    Args:
      posterior: `MeanField`.
      eps: a tree like its `log_std`.
    """

    def weight(mean, log_std, eps):
        return mean if log_std is None else mean + jnp.exp(log_std) * eps

    return jax.tree.map(weight, posterior.mean, posterior.log_std, eps)


def sample_weights(posterior, key):
    """Weights drawn from the posterior, a parameter tree; S of them by `vmap` over `[S]` keys."""
    return weights_at(posterior, standard_noise(posterior, key))


def kl_nats(posterior, *, prior_std):
    """`KL(q(w), N(0, prior_std**2 I))` of the random weights, exactly, as the two parts of `KL`."""
    means, structure = jax.tree.flatten(posterior.mean)
    pairs = zip(means, structure.flatten_up_to(posterior.log_std), strict=True)
    pairs = [(mean, log_std - jnp.log(prior_std)) for mean, log_std in pairs if log_std is not None]
    return KL(
        mean=sum(jnp.sum(mean**2) for mean, _ in pairs) / (2 * prior_std**2),
        variance=sum(jnp.sum(0.5 * jnp.expm1(2 * log_ratio) - log_ratio) for _, log_ratio in pairs),
    )


def elbo_nats(log_likelihood, posterior, eps, *, prior_std):
    """The ELBO with its data fit at one sample of the weights (Blundell et al. 2015, eq. 1; Kingma et al. 2015).

    Averaged over standard normal eps it is the ELBO, and its gradient the ELBO's; the KL is exact.

    Args:
      log_likelihood: `LogLikelihood`; of a batch, the mean over its examples times N.
      posterior: `MeanField`.
      eps: a tree like its `log_std`: `standard_noise(posterior, key)` in training, or a point of an integration rule.
      prior_std: standard deviation of the prior.
    """
    return ELBO(log_likelihood(weights_at(posterior, eps)), kl_nats(posterior, prior_std=prior_std))


def predictive_log_prob(log_probs):
    """`log P(y | x, D)`, the log of the mean probability over S samples of the weights: `[S, B, K]` to `[B, K]`."""
    return jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(log_probs))


def uncertainty(log_probs):
    """Splits the entropy of the predictive average `[S, B, K]` as `Uncertainty` `[B]` (Houlsby et al. 2011, eq. 2)."""
    predictive, expected = _entropy(predictive_log_prob(log_probs)), jnp.mean(_entropy(log_probs), axis=0)
    return Uncertainty(predictive, expected, predictive - expected)


def _name(path):
    """The name of a leaf, such as "pool/out/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _entropy(log_prob):
    """`-sum p log p` over the last axis, in nats, with `0 log 0 = 0`."""
    return jnp.sum(jax.scipy.special.entr(jnp.exp(log_prob)), axis=-1)
