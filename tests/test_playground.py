"""The page of the playground in a browser: its stops, its languages, what a reader can move, and how it is opened."""

import dataclasses
import json
import re
import tomllib

import numpy as np
import pytest
from support.playground import FOLDER, complaints, mixture_of, opened, settled
from support.tiny import ROOT, save, tiny_config

import ddpm_jax as dj
from ddpm_jax.config import experiment
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import playground

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a small network."""
    return dj.Run(save(tmp_path_factory.mktemp("runs") / "run", tiny_config()))


def test_the_page_is_small_and_its_network_is_a_run_of_the_default_experiment():
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    network = sizes.pop("network.js")
    assert sum(sizes.values()) < 400_000
    assert network < 2_000_000
    stored = json.loads((FOLDER / "network.js").read_text().partition("() => (")[2].removesuffix("));\n"))
    model = experiment("digits").model
    assert (stored["arch"]["channels"], tuple(stored["arch"]["channel_mult"])) == (model.channels, model.channel_mult)
    assert stored["steps"] == experiment("digits").train.num_steps
    np.testing.assert_allclose(stored["alpha_bar"], dj.schedules.linear(1000).alpha_bar, rtol=1e-9)


@pytest.mark.slow
def test_every_stop_is_shown_in_both_languages_and_themes_at_both_sizes(page):
    hidden = "[...document.querySelectorAll('canvas')].filter((c) => c.clientWidth && !c.width).length"
    for lang in ("en", "ko"):
        for theme, width in (("light", 1400), ("dark", 400)):
            page.resize(width)
            for stop in range(1, 9):
                page.evaluate(f"location.hash = 'stop={stop}&lang={lang}&theme={theme}'")
                settled(page, f"modules.main.state().stop === {stop} && document.documentElement.lang === '{lang}'")
                assert page.evaluate("document.documentElement.scrollWidth") <= width, (stop, lang, width)
                assert page.evaluate(hidden) == 0
                text = page.evaluate("document.querySelector('.page').innerText")
                assert "undefined" not in text
                assert "NaN" not in text
                assert page.evaluate("document.documentElement.dataset.theme") == theme
    page.resize(1400)
    assert complaints(page) == []


def test_the_words_of_both_languages_are_for_the_same_things(page):
    keys_of = "Object.values(modules.words.LANGUAGES).map((all) => [Object.keys(all).sort(), Object.keys(all.stops)])"
    english, korean = page.evaluate(keys_of)
    assert english == korean
    asked = """
    [...document.querySelectorAll("[data-word], [data-label]")].flatMap((e) => [e.dataset.word, e.dataset.label])
      .filter(Boolean)
    """
    assert set(page.evaluate(asked)) <= set(english[0])
    stops = page.evaluate("modules.state.STOPS.map(({name}) => name)")
    assert stops == english[1]
    assert stops == page.evaluate("Object.keys(modules.equations)")


def test_with_a_class_the_page_says_what_the_exact_answer_is(page):
    for setting, words in (
        ("", "exact_what"),
        ("&label=3", "exact_class"),
        ("&guidance_scale=3&label=3", "exact_guided"),
        ("&guidance_scale=0&label=3", "exact_what"),
    ):
        at(page, f"world=digits&num_steps=5{setting}&lang=en&theme=light")
        settled(page, f"document.getElementById('exact').textContent === modules.words.words().{words}")
        begins = "document.getElementById('perplexity').textContent.startsWith(modules.words.words().whatever_class)"
        settled(page, f"{begins} === {str('label' in setting).lower()}")


def test_everything_that_can_be_moved_or_seen_has_a_name_for_readers_of_screens(page):
    for world in ("plane", "digits"):
        at(page, f"world={world}&lang=en&theme=light")
        nodes = page.call("Accessibility.getFullAXTree")["nodes"]
        shown = [(node["role"]["value"], node["name"]["value"]) for node in nodes if not node["ignored"]]
        named = [(role, name) for role, name in shown if role in ("button", "slider", "combobox", "link", "image")]
        assert all(name.strip("⤢ ") for _, name in named), named
        sliders = [name.partition(",")[0] for role, name in named if role == "slider"]
        assert sliders == ["Time", "Steps", "Noise of DDIM", "Guidance scale"]


def test_every_stop_leads_to_a_section_of_both_notes(page):
    english, korean = ((ROOT / "docs" / name).read_text() for name in ("notes.md", "ko/notes.md"))
    headings = re.findall(r"^## (.*)$", english, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for section in page.evaluate("modules.state.STOPS.map(({section}) => section)"):
        assert section in anchors
        assert f'"{section}"' in korean
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    assert page.evaluate("document.getElementById('section').href").startswith(f"{address}/blob/HEAD/docs/")


def follow(page, of="followed"):
    """The x of the chain that is followed, at the present frame."""
    return np.array(page.evaluate(f"Array.from(modules.main.model().{of}.x(modules.main.model().frame))"))


def at(page, address):
    """Goes to a state of the page, and waits until its chains are computed."""
    page.evaluate(f"location.hash = '{address}'")
    settled(page, "modules.state.to_hash(modules.main.state()) === location.hash.slice(1)")
    settled(page, "modules.main.model().chain.is_done && modules.main.model().followed.is_done")


def test_the_slider_moves_with_the_keyboard_and_the_address_keeps_the_state(page):
    at(page, "stop=2&t=500&lang=en&theme=light")
    page.evaluate("document.getElementById('time').focus()")
    shown = "document.querySelector('.transport output').textContent"
    for key, t in (("Home", 1000), ("ArrowRight", 990), ("End", 0)):
        page.press(key)
        settled(page, f"{shown} === 't = {t}'")
    assert page.evaluate("document.getElementById('time').getAttribute('aria-valuetext')") == "t = 0; possible: 1.0"
    settled(page, "location.hash.includes('t=0')")
    assert page.evaluate("location.hash") == "#stop=2&t=0&lang=en&theme=light"


def test_a_stop_plays_by_itself_unless_the_reader_prefers_less_motion(page):
    playing = "document.body.classList.contains('playing')"
    for preference, plays in (("reduce", False), ("no-preference", True)):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": preference}])
        at(page, "stop=3&lang=en&theme=light")
        page.evaluate("document.getElementById('forth').click()")
        assert page.evaluate("modules.main.state().stop") == 4
        assert page.evaluate(playing) is plays
    settled(page, "modules.main.model().frame > 0")
    page.evaluate(f"{playing} && document.getElementById('play').click()")  # it may have reached the end by now
    assert not page.evaluate(playing)
    frame = page.evaluate("modules.main.model().frame")
    assert page.evaluate("new Promise((done) => setTimeout(() => done(modules.main.model().frame), 200))") == frame


def test_a_panel_takes_the_place_of_the_stage_and_gives_it_back(page):
    at(page, "stop=4&lang=en&theme=light")
    panel = "document.querySelector('[data-panel=ends]')"
    seen = f"[{panel}.querySelector('canvas').clientWidth, document.querySelector('.stage.plane').clientHeight > 0]"
    small, has_stage = page.evaluate(seen)
    assert has_stage
    page.evaluate(f"{panel}.querySelector('button').click()")
    large, has_stage = page.evaluate(seen)
    assert large > 2.5 * small
    assert not has_stage
    settled(page, f"{panel}.querySelector('canvas').width === {large}")
    page.evaluate(f"{panel}.querySelector('button').click()")
    assert page.evaluate(seen) == [small, True]


def test_an_address_with_mistakes_is_the_usual_state(page):
    text = "world=moon&t=2000&num_steps=87&eta=x&stop=9&label=3.6&seed=&more=1"
    state = page.evaluate(f"modules.state.from_hash('#{text}')")
    assert state == page.evaluate("modules.state.at_stop(1)") | {"num_steps": 100, "label": 4}


def place_of(page, name, across, down):
    """A point of a canvas in the window, by its share of the width and of the height."""
    box = f"document.getElementById('{name}')"
    page.evaluate(f"{box}.scrollIntoView({{block: 'center'}})")
    left, top, w, h = page.evaluate(
        f"(({{x, y, width, height}}) => [x, y, width, height])({box}.getBoundingClientRect())"
    )
    return left + across * w, top + down * h


def test_a_point_that_is_dragged_goes_on_from_where_it_is_left(page):
    at(page, "stop=3&lang=en&theme=light")
    page.drag(place_of(page, "reverse", 0.5, 0.5), place_of(page, "reverse", 0.75, 0.25))
    settled(page, "modules.main.model().followed.is_done")
    x = follow(page)
    height = page.evaluate("modules.plane.HEIGHT")
    ratio = page.evaluate(
        "(({clientWidth, clientHeight}) => clientWidth / clientHeight)(document.getElementById('reverse'))"
    )
    np.testing.assert_allclose(x, [0.5 * height * ratio, 0.5 * height], atol=0.05)
    steps = [
        f"Array.from(modules.main.model().followed.x({frame}))" for frame in ("modules.main.model().frame + 1", "1e9")
    ]
    after, end = (np.array(page.evaluate(step)) for step in steps)
    assert np.linalg.norm(after - x) < 0.9  # where the point was before is farther away
    means = mixture_of(page, "ring")[1]
    assert np.min(np.linalg.norm(means - end, axis=1)) < 0.6  # 3.5 standard deviations of a Gaussian of the ring
    page.evaluate("document.getElementById('reverse').focus()")
    page.press("ArrowLeft")
    np.testing.assert_allclose(follow(page) - x, [-0.1, 0], atol=1e-9)


def test_a_digit_is_painted_and_its_posterior_follows(page):
    at(page, "stop=2&t=100&lang=en&theme=light")
    before, weight = follow(page), page.evaluate("document.getElementById('likeliest').textContent")
    at_corner = 0.5 / 8
    page.drag(place_of(page, "image", at_corner, at_corner), place_of(page, "image", 3.5 / 8, at_corner))
    after = follow(page)
    changed = np.flatnonzero(after != before)
    assert changed.tolist() == [0, 1, 2, 3]
    ink = -np.sign(before[0])  # the first pixel decides whether one draws or rubs out
    np.testing.assert_allclose(after[changed], ink * dj.schedules.linear(1000).level(100).signal, rtol=1e-6)
    settled(page, f"document.getElementById('likeliest').textContent !== {json.dumps(weight)}")


def test_the_network_is_loaded_when_it_is_asked_for_and_answers_beside_the_exact_denoiser(page):
    at(page, "stop=2&t=300&lang=en&theme=light")
    assert page.evaluate("modules.network === undefined")
    page.evaluate("document.getElementById('load').click()")
    settled(page, "document.body.classList.contains('with-network')")
    error = """
    (() => {
      const {worlds, unet, network, main} = modules;
      const made = new unet.UNet(network.arch, unet.parameters(network.shapes, network.weights));
      const model = main.model(), truth = worlds.held_out(), errors = {};
      for (const t of [600, 300, 100, 30]) {
        const level = model.schedule.level(t), all = {network: 0, exact: 0};
        for (let i = 0; i < 10; i++) {
          const x_0 = truth.subarray(3200 * i, 3200 * i + 64), eps = modules.arrays.noise(5, 1, 64, t, i);
          const x = x_0.map((value, j) => level.signal * value + level.sigma * eps[j]), guess = made.eps(x, t);
          const from = (x_0) => x_0.reduce((sum, value, j) => sum + (value - truth[3200 * i + j]) ** 2, 0) / 640;
          all.network += from(x.map((value, j) => (value - level.sigma * guess[j]) / level.signal));
          all.exact += from(model.world.model.denoiser(x, level).x_0);
        }
        errors[t] = all;
      }
      return errors;
    })()
    """
    errors = page.evaluate(error)
    # The exact denoiser of the training set knows no other digit: with little noise it answers with a training digit.
    assert errors["30"]["network"] < 0.2 * errors["30"]["exact"]
    assert errors["600"]["network"] == pytest.approx(errors["600"]["exact"], rel=0.3)
    requests = [m["params"]["request"]["url"] for m in page.messages if m["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in requests} <= {"file", "data", "blob"}
    assert complaints(page) == []


def test_the_worker_answers_at_the_noise_level_of_the_image_whatever_the_schedule(page):
    begin = """
    (({comparison, schedules, arrays}) => {
      window.asked = new comparison.Network(modules.network, () => {});
      window.image = arrays.noise(1, 1, 64, 0);
      window.level = schedules.SCHEDULES.cosine(1000).level(400);
      asked.x_0(image, level);
    })(modules)
    """
    page.evaluate("modules.comparison.stored('network.js').then(() => null)")
    page.evaluate(begin)
    settled(page, "asked.known.has(image)")
    level = dj.schedules.cosine(1000).level(400)
    time = float(dj.schedules.linear(1000).time(level.log_snr))
    assert abs(time - 400) > 50
    made = "new unet.UNet(network.arch, unet.parameters(network.shapes, network.weights))"
    eps = np.array(page.evaluate(f"(({{unet, network}}) => Array.from({made}.eps(image, {time})))(modules)"))
    found, image = (np.array(page.evaluate(f"Array.from({what})")) for what in ("asked.x_0(image, level)", "image"))
    np.testing.assert_allclose(found, np.clip((image - level.sigma * eps) / level.signal, -1, 1), atol=1e-5)


def test_a_page_of_a_run_is_one_file_with_its_network(run, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(playground.Playground(run).page())
    with opened(path) as shown:
        shown.evaluate("location.hash = 'stop=2'")
        settled(shown, "!document.getElementById('load').disabled")
        shown.evaluate("document.getElementById('load').click()")
        settled(shown, "document.body.classList.contains('with-network') && modules.main.model().followed.is_done")
        requests = [m["params"]["request"]["url"] for m in shown.messages if m["method"] == "Network.requestWillBeSent"]
        assert [url for url in requests if not url.startswith(("blob:", "data:"))] == [path.as_uri()]
        assert complaints(shown) == []


def test_a_notebook_shows_the_page_in_a_frame_and_a_program_opens_it(run, monkeypatch, capsys):
    addresses = []
    monkeypatch.setattr(playground.webbrowser, "open", addresses.append)
    monkeypatch.setattr(playground, "_in_notebook", lambda: False)
    dj.play()
    dj.play(run)
    assert addresses == [(FOLDER / "index.html").as_uri(), (run.workdir / "evaluation" / "playground.html").as_uri()]
    assert capsys.readouterr().out == "".join(f"playground: {address}\n" for address in addresses)
    monkeypatch.setattr(playground, "_in_notebook", lambda: True)
    shown = dj.play()._repr_html_()
    assert len(addresses) == 2
    assert shown.startswith("<iframe")
    assert not re.search(r"\ssrc=|href=&quot;style", shown)
    assert "network.js" not in shown.replace("network.js has", "")


@pytest.mark.parametrize(
    ("change", "network"),
    [
        ({"out_channels": 2}, {}),
        ({}, {"scale_shift_norm": True}),
        ({}, {"head_channels": 4}),
        ({}, {"time_scale": 2.0}),
    ],
)
def test_a_network_that_the_page_cannot_evaluate_is_refused(run, monkeypatch, change, network):
    arch = dataclasses.replace(run.model.arch, **network)
    monkeypatch.setattr(run, "model", dj.UNet(arch, **{"out_channels": 1, **change}))
    with pytest.raises(UserError, match='the playground shows a run of the experiment "digits"'):
        dj.play(run)


@pytest.mark.parametrize("change", [{"data__split": "all"}, {"labels__num_classes": 10}, {"diffusion__target": "v"}])
def test_a_run_of_other_data_or_another_task_is_refused(run, monkeypatch, change):
    monkeypatch.setattr(run, "config", tiny_config(**change))
    with pytest.raises(UserError, match='the playground shows a run of the experiment "digits"'):
        dj.play(run)
