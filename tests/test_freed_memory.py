"""What was freed is given back to the system now and then."""

from ddpm_jax.training.freed_memory import FreedMemory


def test_it_is_given_back_at_multiples_of_the_steps(monkeypatch):
    hook, calls = FreedMemory(50), []
    monkeypatch.setattr(hook, "_trim", calls.append)
    for step in range(1, 151):
        hook(step, None, {})
    assert calls == [0, 0, 0]


def test_without_such_a_function_nothing_happens(monkeypatch):
    hook = FreedMemory(1)
    monkeypatch.setattr(hook, "_trim", None)
    hook(1, None, {})


def test_the_c_library_is_asked():
    FreedMemory(1)(1, None, {})
