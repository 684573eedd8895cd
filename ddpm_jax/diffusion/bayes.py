"""A posterior over weights: the ELBO over the parameters of any model, and the uncertainty of a classifier under it.

A prediction should average over the posterior of the weights given the data D, `P(y | x, D) = ∫ P(y | x, w) P(w | D)
dw`. A diagonal Gaussian q(w) approximates the posterior. The quality of the approximation follows from

    log P(D) = ELBO + KL(q(w), P(w | D)),    ELBO = E_q[log P(D | w)] - KL(q(w), P(w)),

so that maximising the ELBO brings q as close to the posterior as a diagonal Gaussian can be. The first term is the data
fit. The second is a penalty on the weights (Occam's razor): one part for their size, which is weight decay, and one
part for their precision (`KL`). Training minimises `-ELBO / N`: the mean loss of the N examples plus `KL / N`. This
module does not depend on images or networks: the likelihood is any function of a parameter tree.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ddpm_jax.diffusion.arrays import AnyArray, Array

Tree: TypeAlias = chex.ArrayTree
"""A tree of parameters."""

PartialTree: TypeAlias = Any
"""A tree of arrays in which None replaces some leaves; for JAX a None is no leaf but an empty subtree."""

LogLikelihood: TypeAlias = Callable[[Tree], Array]
"""A function from weights to `log P(D | w)` of the whole data set, `[]` nats, or of each example of a batch, `[B]`."""


class MeanField(NamedTuple):
    """A Gaussian of independent weights, `q(w) = N(mean, exp(log_std)**2)`, as a tree of arrays that can be trained.

    Attributes:
      mean: a parameter tree.
      log_std: the same tree, with None in place of a weight that is not random but a point estimate.
    """

    mean: Tree
    log_std: PartialTree


class KL(NamedTuple):
    """`KL(q(w), N(0, prior_std**2 I))` in two parts, `[]` nats each, both non-negative.

    Attributes:
      mean: `norm(mean)**2 / (2 prior_std**2)`, weight decay.
      variance: `sum((r**2 - 1) / 2 - log r)` with `r = std / prior_std`, the penalty on precise weights.
    """

    mean: Array
    variance: Array

    @property
    def total(self) -> Array:
        """The divergence, `[]` nats."""
        return self.mean + self.variance


class ELBO(NamedTuple):
    """The two terms of the bound `log P(D) >= data_fit - kl`.

    Attributes:
      data_fit: `E_q[log P(D | w)]`, `[]` nats; or `E_q[log P(y_i | x_i, w)]` of each example of a batch, `[B]` nats.
      kl: `KL` of the posterior from the prior.
    """

    data_fit: Array
    kl: KL

    @property
    def total(self) -> Array:
        """The bound, `[]` nats."""
        return self.data_fit - self.kl.total

    def per_example(self, num_examples: int) -> Array:
        """Estimates of `ELBO / N` from a batch, `[B]` nats: `E_q[log P(y_i | x_i, w)] - KL / N`, whose mean is one.

        Args:
          num_examples: N, the number of examples of the data set.
        """
        return self.data_fit - self.kl.total / num_examples


class Uncertainty(NamedTuple):
    """The uncertainty of a prediction and its two parts, `[B]` nats each; the first is the sum of the other two.

    Attributes:
      predictive_entropy: entropy of the averaged prediction.
      expected_entropy: average entropy of the predictions, which remains even if the weights are known exactly.
      mutual_information: mutual information of label and weights: the disagreement of the predictions, which more data
        would reduce.
    """

    predictive_entropy: Array
    expected_entropy: Array
    mutual_information: Array


def initial_posterior(
    params: Tree, *, std: float | Array, where: Callable[[str], bool] = lambda name: True
) -> MeanField:
    """The posterior around given parameters, `N(params, std**2)`.

    Args:
      params: a parameter tree.
      std: standard deviation of every random weight, positive.
      where: function from a name such as "pool/out/kernel" to whether those weights are random; the others stay point
        estimates, without a prior.
    """

    def log_std(path: jax.tree_util.KeyPath, mean: Array) -> Array | None:
        return jnp.full_like(mean, jnp.log(std)) if where(_name(path)) else None

    return MeanField(params, jax.tree.map_with_path(log_std, params))


def standard_noise(posterior: MeanField, key: Array) -> PartialTree:
    """Standard normal numbers for the random weights, all from one key: a tree like `log_std`, leaves `[...]`."""
    flat, as_tree = ravel_pytree(posterior.log_std)
    return as_tree(jax.random.normal(key, flat.shape, flat.dtype))


def weights_at(posterior: MeanField, eps: PartialTree) -> Tree:
    """The weights `w = mean + exp(log_std) eps`, differentiable in both (Kingma & Welling 2014, section 2.4).

    Args:
      posterior: `MeanField`.
      eps: a tree like its `log_std`.
    """

    def weight(mean: Array, log_std: Array | None, eps: Array | None) -> Array:
        if log_std is None:
            return mean
        assert eps is not None, "eps is a tree like log_std"
        return mean + jnp.exp(log_std) * eps

    return jax.tree.map(weight, posterior.mean, posterior.log_std, eps)


def sample_weights(posterior: MeanField, key: Array) -> Tree:
    """Draws weights from the posterior, a parameter tree; `vmap` over keys `[S]` draws S of them."""
    return weights_at(posterior, standard_noise(posterior, key))


def kl_nats(posterior: MeanField, *, prior_std: float) -> KL:
    """`KL(q(w), N(0, prior_std**2 I))` of the random weights, computed exactly, as the two parts of `KL`."""
    means, structure = jax.tree.flatten(posterior.mean)
    pairs = zip(means, structure.flatten_up_to(posterior.log_std), strict=True)
    pairs = [(mean, log_std - jnp.log(prior_std)) for mean, log_std in pairs if log_std is not None]
    return KL(
        mean=jnp.asarray(sum(jnp.sum(mean**2) for mean, _ in pairs) / (2 * prior_std**2)),
        variance=jnp.asarray(sum(jnp.sum(0.5 * jnp.expm1(2 * log_ratio) - log_ratio) for _, log_ratio in pairs)),
    )


def elbo_nats(log_likelihood: LogLikelihood, posterior: MeanField, eps: PartialTree, *, prior_std: float) -> ELBO:
    r"""The ELBO with its data fit at one sample of the weights.

    $$ \mathrm{ELBO} = \mathbb{E}_{q(w)}[\log P(D \mid w)] - D_{\mathrm{KL}}(q(w)\ \|\ P(w)), \qquad
       w = \mu + \sigma \epsilon $$

    [Blundell et al. 2015](https://arxiv.org/abs/1505.05424), eq. 1;
    [Kingma et al. 2015](https://arxiv.org/abs/1506.02557), eq. 2.

    Its mean over standard normal eps is the ELBO, and the mean of its gradient is the gradient of the ELBO; the KL is
    exact.

    Args:
      log_likelihood: `LogLikelihood`; for the `total` of a batch, N times the mean over its examples.
      posterior: `MeanField`.
      eps: a tree like its `log_std`: `standard_noise(posterior, key)` in training, or a point of an integration rule.
      prior_std: standard deviation of the prior.
    """
    return ELBO(log_likelihood(weights_at(posterior, eps)), kl_nats(posterior, prior_std=prior_std))


def predictive_log_prob(log_probs: AnyArray) -> Array:
    """`log P(y | x, D)`, the log of the mean probability over S samples of the weights: `[S, B, K]` to `[B, K]`."""
    return jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(log_probs))


def uncertainty(log_probs: AnyArray) -> Uncertainty:
    """The uncertainty `[B]` of log probabilities `[S, B, K]` from S samples of weights (Houlsby et al. 2011, eq. 2)."""
    predictive, expected = _entropy(predictive_log_prob(log_probs)), jnp.mean(_entropy(log_probs), axis=0)
    return Uncertainty(predictive, expected, predictive - expected)


def _name(path: jax.tree_util.KeyPath) -> str:
    """The name of a leaf, such as "pool/out/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _entropy(log_prob: AnyArray) -> Array:
    """`-sum p log p` over the last axis, in nats, with `0 log 0 = 0`."""
    return jnp.sum(jax.scipy.special.entr(jnp.exp(log_prob)), axis=-1)
