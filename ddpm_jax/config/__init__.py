"""Configurations: the schema of their keys, checks, experiments by name, and JSON, which is stored with a run.

`schema.py` has every key; the modules beside it take everything else from there.
"""

from ddpm_jax.config.checks import (
    check_ranges,
    ignored,
    keys_set,
    no_effect,
    not_one_of,
    problem,
    unknown_key,
    unmet_needs,
)
from ddpm_jax.config.keys import CUSTOM, Group, Key, Needs, Rule
from ddpm_jax.config.loading import (
    EXPERIMENTS,
    base_config,
    editable,
    experiment,
    experiment_file,
    experiment_names,
    flatten,
)
from ddpm_jax.config.schema import GROUPS, KEYS
from ddpm_jax.config.stored import Changes, changes, check_resumable, completed, from_json, in_words, to_json
from ddpm_jax.config.tasks import KINDS, denoises, distils, kind, learned_guidance, takes_steps

__all__ = [
    "CUSTOM",
    "EXPERIMENTS",
    "GROUPS",
    "KEYS",
    "KINDS",
    "Changes",
    "Group",
    "Key",
    "Needs",
    "Rule",
    "base_config",
    "changes",
    "check_ranges",
    "check_resumable",
    "completed",
    "denoises",
    "distils",
    "editable",
    "experiment",
    "experiment_file",
    "experiment_names",
    "flatten",
    "from_json",
    "ignored",
    "in_words",
    "keys_set",
    "kind",
    "learned_guidance",
    "no_effect",
    "not_one_of",
    "problem",
    "takes_steps",
    "to_json",
    "unknown_key",
    "unmet_needs",
]
