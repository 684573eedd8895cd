"""The configuration keys of a student, which learns to draw in few steps what a trained denoiser draws in many."""

from ddpm_jax.config.keys import COUNT, Key

TEACHER = {
    "workdir": Key("", "work directory of the denoiser from whose averaged parameters it starts", fixed=False),
    "digest": Key("", "the digest of that run; train() writes it"),
}
DISTIL = {
    "first_steps": Key(64, "steps of its chain in the first stage, a power of two times sample.num_steps", COUNT),
    "stage_steps": Key(50_000, "train steps of a stage, after which the student becomes the teacher", COUNT),
}
