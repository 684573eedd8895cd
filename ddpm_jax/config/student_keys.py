"""The configuration keys of a student, which learns to draw in few steps what a trained denoiser draws in many."""

from ddpm_jax.config.keys import COUNT, NOT_NEGATIVE, SEVERAL, Key

TEACHER = {
    "workdir": Key("", "work directory of the denoiser from whose averaged parameters it starts", fixed=False),
    "digest": Key("", "the digest of that run; train() writes it"),
    "guidance_scale": Key(1.0, "the guidance that its weights have learned; train() writes it", NOT_NEGATIVE),
}
DISTIL = {
    "method": Key(
        "progressive",
        "progressive: one step of DDIM for several of the teacher's, from stage to stage; consistency: easy "
        "consistency tuning, mean_flow: the average velocity of a step, each for the sampler of that name",
        choices=("progressive", "consistency", "mean_flow"),
    ),
    "guidance_scale": Key(
        1.0,
        "classifier-free guidance that it learns, so that it draws with sample.guidance_scale=1, in one evaluation per "
        "step; 1: none; other scales need a teacher with labels.dropout",
        NOT_NEGATIVE,
    ),
    "first_steps": Key(
        64, "steps of its chain in the first stage, a power of teacher_steps times sample.num_steps", COUNT
    ),
    "teacher_steps": Key(
        2,
        "steps of its teacher that it takes in one: from stage to stage its chain has so many times fewer",
        SEVERAL,
    ),
    "distance": Key(
        "squared",
        "distance of its estimate from the teacher's; squared: as published; huber: the pseudo-Huber distance, which "
        "gives less weight to images on which it errs far",
        choices=("squared", "huber"),
    ),
    "stage_steps": Key(
        50_000,
        "train steps of a stage, after which the steps of its chain are divided, or the gap of consistency is halved",
        COUNT,
    ),
}
