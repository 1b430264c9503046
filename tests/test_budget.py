"""A teacher with a call budget, and the images that students see."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from potstill.budget import ANSWERS, Budgeted, seen_by_students, spend
from potstill.data import Data, load
from potstill.data.subset import lesson
from potstill.recipe import Assistant, Fit, Network, Recipe
from potstill.sources import Network as Live
from potstill.sources import Shuffled
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, View

SAMPLES = 6
CROPS = torch.randn(SAMPLES, 3, generator=torch.Generator().manual_seed(0))


class Counting(nn.Module):
    """A teacher that knows how many samples it was run on."""

    def __init__(self, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body, self.fc = nn.Linear(3, 5), nn.Linear(5, 2)
        self.ran = 0

    def forward(self, x):
        self.ran += len(x)
        return self.fc(self.body(x).relu())


def limited(budget: int = SAMPLES, seed: int = 0):
    network = Counting(seed)
    source = Live(network, trained=False, names={"embedding": "fc.input"})
    return Budgeted(source, budget, SAMPLES, CROPS.__getitem__, "crops"), network


def ask(teacher, *index: int, taps=()):
    index = torch.tensor(index)
    shown = torch.full((len(index), 3), 100.0)  # the student sees something else
    return teacher(Classify(), Batch({MAIN: View(shown, index)}), MAIN, taps)


def test_a_sample_is_asked_about_once_and_call_n_plus_1_is_refused():
    teacher, network = limited(budget=3)
    first = ask(teacher, 4, 0, 4).output
    assert (teacher.calls, network.ran) == (2, 2)
    with torch.no_grad():
        assert torch.allclose(first, network(CROPS[[4, 0, 4]]))
    network.ran = 0
    assert torch.equal(ask(teacher, 0, 4).output, first[[1, 0]])
    with pytest.raises(ValueError, match="may be called 3 times and was called 2 times; it is now asked about 2"):
        ask(teacher, 5, 0, 1)
    assert (teacher.calls, network.ran) == (2, 0)
    ask(teacher, 1)
    with pytest.raises(ValueError, match="the first is sample 2"):
        ask(teacher, 2)
    assert teacher.calls == 3


def test_what_is_read_inside_is_of_the_same_crop():
    teacher, network = limited()
    said = ask(teacher, 3, 1, taps=("embedding", "body"))
    with torch.no_grad():
        inside = network.body(CROPS[[3, 1]])
    assert torch.allclose(said.taps["body"], inside)
    assert torch.allclose(said.taps["embedding"], inside.relu())
    assert teacher.calls == 2


def test_a_resumed_run_gets_no_further_calls():
    teacher, _ = limited(budget=4)
    before = ask(Shuffled(teacher), 0, 1, 2).output
    again, network = limited(budget=4)
    Shuffled(again).load_state_dict(Shuffled(teacher).state_dict())
    assert again.calls == 3
    assert torch.equal(ask(Shuffled(again), 0, 1, 2).output, before)
    assert network.ran == 0
    with pytest.raises(ValueError, match="was called 3 times"):
        ask(again, 3, 4)
    with pytest.raises(ValueError, match="3 answers about 6 samples do not belong to a budget of 2 calls"):
        limited(budget=2)[0].load_state_dict(teacher.state_dict())


def test_answers_lie_in_the_folder_of_a_run(tmp_path):
    def begin(name, steps):
        return lambda progress: None

    device = torch.device("cpu")
    teacher, network = limited()
    assert spend(teacher, tmp_path, device, begin) == {"calls": SAMPLES}
    assert network.ran == SAMPLES
    again, network = limited()
    assert spend(again, tmp_path, device, begin) == {"calls": SAMPLES}
    assert torch.equal(ask(again, 2, 5).output, ask(teacher, 2, 5).output)
    assert network.ran == 0
    with pytest.raises(ValueError, match="what another teacher said"):
        spend(limited(seed=1)[0], tmp_path, device, begin)
    (tmp_path / ANSWERS).write_text("{}")
    with pytest.raises(ValueError, match="cannot be read"):
        spend(again, tmp_path, device, begin)
    assert spend(again.source, tmp_path, device, begin) == {}


def test_what_no_budget_can_be():
    with pytest.raises(ValueError, match="7 calls is larger than the data: there are 6 training images"):
        limited(budget=7)
    with pytest.raises(ValueError, match="samples 0 to 5, and was asked about sample 6"):
        ask(limited()[0], 0, 6)
    full, _ = limited()
    full.fill()
    with pytest.raises(ValueError, match="samples 0 to 5, and was asked about sample 6"):
        ask(full, 0, 6)


def test_students_see_a_part_and_watch_a_fifth_of_it():
    data = Data(data_seed=3)
    images, _ = load(data)
    pixels = [bytes(image.numpy()) for image in images.images]
    small, large = (lesson(images, replace(data, watched=0.2), count) for count in (50, 100))
    other = lesson(images, replace(data, data_seed=4), 50)

    def names(split):
        return [bytes(image.numpy()) for image in split.images]

    assert (len(small.seen), len(small.trained), len(small.watched)) == (50, 40, 10)
    assert names(small.trained) + names(small.watched) == names(small.seen)
    assert set(names(small.seen)) < set(names(large.seen)) < set(pixels)
    assert set(names(other.seen)) != set(names(small.seen))
    assert torch.equal(small.seen.labels[:40], small.trained.labels)
    assert "50 training images, 10 of which are set aside" in small.note
    assert lesson(images, data).trained is images
    with pytest.raises(ValueError, match=r"cannot see 201 training images .*has 200"):
        lesson(images, data, 201)
    with pytest.raises(ValueError, match="leaves none to train on"):
        lesson(images, replace(data, watched=0.9), 1)


PLATEAU = Fit(schedule="plateau")


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Recipe(student=Network("resnet8", budget=5)), "student: only the teacher has a budget"),
        (Recipe(assistants=(Assistant("a", Network("resnet8", budget=5)),)), "a: only the teacher"),
        (Recipe(teacher=Network("resnet20", cache="c", budget=5)), "teacher.budget does not go with teacher.cache"),
        (Recipe(teacher=Network("resnet20", cache="c"), data=Data(subset=9)), "data.subset does not go with"),
        (Recipe(fit=PLATEAU, teacher_fit=Fit()), "--data.watched 0.2"),
        (Recipe(fit=PLATEAU, data=Data(watched=0.2)), "give teacher_fit another schedule"),
        (
            Recipe(teacher=Network("resnet20", budget=9), data=Data(subset=5)),
            "teacher.budget=9 is larger than the data",
        ),
        (Recipe(teacher=Network("resnet20", budget=5), data=Data(subset=9)), "teacher.budget=5 is too small"),
    ],
)
def test_recipes_that_cannot_be(recipe, said):
    with pytest.raises(ValueError, match=said):
        seen_by_students(recipe)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Network("resnet8", budget=0), "teacher.budget must be at least 1"),
        (lambda: Data(subset=0), "data.subset must be at least 1"),
        (lambda: Data(watched=1.0), "data.watched must lie between 0 and 1"),
        (lambda: Fit(patience=0), "fit.patience must be at least 1"),
    ],
)
def test_leaves_out_of_range(make, said):
    with pytest.raises(ValueError, match=said):
        make()
