"""Who writes what is learnt from: the data or a network, DistiLLM's scheduler, its buffer, and a teacher's texts."""

import os
from dataclasses import replace

import pytest
import torch
from text_runs_kit import FIT, World

from potstill.hashing import hash_int, uniform
from potstill.language import writers
from potstill.language.generation import Ends, Rollout, Sampling
from potstill.language.replay import Adaptive, Buffer
from potstill.language.rewriting import Rewritten
from potstill.language.views import PROMPT, PROMPT_MASK, chosen, padded, rewritten, teaching
from potstill.language.writers import Alone, Sometimes
from potstill.types import MAIN, Batch, Progress

SENTENCES = [([5, 6], [7, 8, 9]), ([4], [3]), ([9, 9, 9], [1, 2])]
OTHERS = [[2], [6, 5, 4, 3], [8]]


def batch(responses, length=None):
    prompt, prompt_mask = padded([prompt for prompt, _ in SENTENCES], left=True)
    response, mask = padded(responses)
    return Batch({MAIN: teaching(prompt, prompt_mask, response, mask, torch.tensor([10, 11, 12]), length)})


DATA, WRITTEN = batch([response for _, response in SENTENCES], 5), batch(OTHERS)


def read(view):
    """Row by row: the text that the network sees, and for each label which token of it predicts the label."""
    found = []
    for row in range(len(view.index)):
        real = view.input["attention_mask"][row]
        at, mask = view.extras["at"][row], view.mask[row]
        sees = view.input["input_ids"][row][at][mask].tolist()
        position = view.input["position_ids"][row][at][mask].tolist()
        found.append((view.input["input_ids"][row][real].tolist(), sees, position, view.label[row][mask].tolist()))
    return found


def test_rows_of_two_batches():
    first = torch.tensor([True, False, True])
    for one, other in ((DATA, WRITTEN), (WRITTEN, DATA)):
        view = chosen(first, one.main, other.main)
        sides = read(one.main), read(other.main)
        assert read(view) == [sides[0][0], sides[1][1], sides[0][2]]
        assert view.index.tolist() == [10, 11, 12]
        assert torch.equal(view.extras[PROMPT], DATA.main.extras[PROMPT])
        assert torch.equal(view.extras[PROMPT_MASK], DATA.main.extras[PROMPT_MASK])
    text, sees, position, label = read(chosen(first, DATA.main, WRITTEN.main))[0]
    assert (text, sees, position, label) == ([5, 6, 7, 8, 9], [6, 7, 8], [1, 2, 3], [7, 8, 9])


class Writes:
    """Gives the same other responses to the same prompts, and counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self, batch, sources, progress, seed):
        self.asked += 1
        return rewritten(batch, WRITTEN.main.label, WRITTEN.main.mask)

    def report(self):
        return {"length": 1.0}

    def state_dict(self):
        return {"asked": self.asked}

    def load_state_dict(self, state):
        self.asked = state["asked"]


def test_one_draw_a_batch(monkeypatch):
    writer = Writes()
    sometimes = Sometimes(writer, 0.3, batchwise=True)
    taken = []
    for step in range(200):
        made = sometimes(DATA, {}, Progress(step, 0, 200), 5)
        taken.append(made is not DATA)
        monkeypatch.setattr(writers, "rank", lambda: 1)  # another rank, with other samples, decides the same
        other = DATA.with_view(MAIN, replace(DATA.main, index=DATA.main.index + 100))
        assert (Sometimes(Writes(), 0.3, batchwise=True)(other, {}, Progress(step, 0, 200), 5) is not other) == taken[
            -1
        ]
    assert 0.2 < sum(taken) / 200 < 0.4
    assert writer.asked == sum(taken)  # nothing is written that is not used
    assert sometimes.report() == {"written_share": sum(taken) / 200, "length": 1.0}
    assert sometimes.report() == {}


def test_a_share_of_the_samples():
    sometimes = Sometimes(Writes(), 0.3)
    sides = read(DATA.main), read(WRITTEN.main)
    counts = torch.zeros(3)
    for step in range(300):
        rows = read(sometimes(DATA, {}, Progress(step, 0, 300), 5).main)
        own = [row != data for row, data in zip(rows, sides[0], strict=True)]
        assert all(row == sides[int(mine)][place] for place, (row, mine) in enumerate(zip(rows, own, strict=True)))
        counts += torch.tensor(own).float()
    assert ((counts / 300 - 0.3).abs() < 0.09).all()
    assert sometimes.report()["written_share"] == pytest.approx(0.3)
    writer = Writes()
    assert Sometimes(writer, lambda progress: 0.0)(DATA, {}, Progress(0, 0, 1), 5) is DATA
    assert writer.asked == 0
    growing = Sometimes(writer, lambda progress: progress.fraction)
    assert read(growing(DATA, {}, Progress(9, 0, 9), 5).main) == sides[1]


def scheduled(losses, batches, total, start=0.0, step=0.1, margin=0.1, capacity=6, seed=5):
    """papers/language.md §5.5, line by line: what each batch learns from, and the threshold after each evaluation."""
    threshold, last, texts, told, thresholds = start, float("inf"), 0, [], []
    for number in range(total):
        u = float(uniform(torch.tensor(hash_int(seed, "distillm", number)), "who writes"))
        if u < threshold * (1 - number / total):
            told.append("fresh")
        elif u < threshold:
            told.append("replayed" if texts >= capacity else "fresh")
        else:
            told.append("data")
        texts += 3 if told[-1] == "fresh" else 0
        if (number + 1) % batches == 0:
            loss = losses[number // batches]
            if loss >= last + margin:
                threshold = min(1.0, threshold + step)
            last = loss
            thresholds.append(threshold)
    return told, thresholds


class Counting(Writes):
    ends, sampling = Ends((0,), 0), Sampling(max_new_tokens=4)


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_the_scheduler_by_hand(start):
    """Losses that fall, rise by less than the margin, and rise by more."""
    losses, batches, total = [2.0, 1.0, 1.05, 1.5, 1.55, 1.2, 9.0, 9.2], 20, 160
    adaptive, told, thresholds = Adaptive(Counting(), start, 0.25, 0.1, 6), [], []
    for number in range(total):
        before = adaptive.fresh, adaptive.replayed
        made = adaptive(DATA, {"student": None}, Progress(number, 0, total), 5)
        after = adaptive.fresh, adaptive.replayed
        told.append("data" if made is DATA else "fresh" if after[0] > before[0] else "replayed")
        if (number + 1) % batches == 0:
            adaptive.evaluated(losses[number // batches])
            thresholds.append(adaptive.threshold)
    assert (told, thresholds) == scheduled(losses, batches, total, start, step=0.25)
    assert {"data", "fresh", "replayed"} == set(told)
    assert thresholds[-1] == min(1.0, start + 0.75)
    found = adaptive.report()
    assert found["written_share"] == told.count("fresh") / total
    assert found["replayed_share"] == told.count("replayed") / total


def test_what_the_scheduler_remembers():
    adaptive = Adaptive(Counting(), 0.5, 0.1, 0.1, 6)
    for number in range(30):
        adaptive(DATA, {}, Progress(number, 0, 60), 5)
    adaptive.evaluated(1.0)
    again = Adaptive(Counting(), 0.5, 0.1, 0.1, 6)
    again.load_state_dict(adaptive.state_dict())
    for one in (adaptive, again):
        one.evaluated(2.0)
        one.made = [one(DATA, {}, Progress(number, 0, 60), 5) for number in range(30, 60)]
    assert again.threshold == adaptive.threshold == pytest.approx(0.6)
    assert [read(made.main) for made in again.made] == [read(made.main) for made in adaptive.made]
    assert again.report() == adaptive.report()


def test_the_buffer_keeps_the_last_texts():
    buffer = Buffer(4)
    buffer.add(DATA)
    assert not buffer.full
    buffer.add(WRITTEN)
    assert buffer.full
    kept = [read(view) for view in (DATA.main, WRITTEN.main)]
    known = [kept[0][2], *kept[1]]  # the oldest two are gone
    drawn = read(buffer.draw(50, torch.device("cpu"), 1).main)
    assert all(row in known for row in drawn)
    assert all(row in drawn for row in known)
    again = Buffer(4)
    again.load_state_dict(buffer.state_dict())
    assert read(again.draw(50, torch.device("cpu"), 1).main) == drawn
    assert read(again.draw(50, torch.device("cpu"), 2).main) != drawn
    empty = Buffer(4)
    again.load_state_dict(empty.state_dict())
    assert len(again.rows) == 0


def test_collapsed_texts_are_warned_of_once():
    """Three reports in a row; one good report between starts anew."""
    writer = Alone("student", "on_policy", Ends((0,), 0), Sampling(max_new_tokens=4))
    mask = torch.ones(8, 4, dtype=torch.bool)

    def report(endless):
        writer.tally.add(Rollout(torch.arange(32).view(8, 4), mask, torch.full((8,), not endless)))
        return writer.report()

    for endless in (True, True, False, True, True):
        report(endless)
    with pytest.warns(UserWarning, match=r"on_policy: the texts have collapsed: they never end within .*begin with"):
        report(True)
    report(True)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "responses"


def test_a_teacher_writes_once_for_all_its_students(place, monkeypatch):
    world = World().taught(4)
    written = []
    plain = Rewritten._written
    monkeypatch.setattr(Rewritten, "_written", lambda self: written.append(self) or plain(self))
    runs = [world.engine("seqkd(tokens=6)", fit=replace(FIT, epochs=1)) for _ in range(2)]
    assert not written  # nothing is written before a student trains
    for run in runs:
        run.run()
    assert len(written) == 1
    assert len(os.listdir(place)) == 1
    encoded = runs[0].loader.encoded
    teacher, ends = world.teacher(), world.ends
    batch = next(iter(runs[0].loader.epoch(0)))
    view = batch.main
    for row, number in enumerate(view.index.tolist()):
        assert view.label[row][view.mask[row]].tolist() == encoded.response(number).tolist()
        assert view.extras[PROMPT][row][view.extras[PROMPT_MASK][row]].tolist() == world.train.prompt(number).tolist()
    assert encoded.texts.responses == world.tokenizer.batch_decode(
        [encoded.response(row).tolist() for row in range(len(encoded))], skip_special_tokens=True
    )
    # Another sampler, another teacher, other prompts: other texts.
    other = world.engine("seqkd(tokens=5)").loader
    assert other.place != runs[0].loader.place
    world.known = None
    assert world.engine("seqkd(tokens=6)").loader.place != runs[0].loader.place
    # Greedy, so that what is written can be checked.
    greedy = Rewritten(
        world.examples().loader,
        world.frozen(teacher),
        world.tokenizer,
        Sampling(temperature=0.0, max_new_tokens=6),
        ends,
        vocabulary=world.task.vocabulary,
    ).encoded
    for row in range(0, len(greedy), 5):
        ids = torch.tensor(greedy.prompt(row).tolist())[None]
        expected = teacher.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=6,
            eos_token_id=list(ends.stop),
            pad_token_id=ends.pad,
        )[0, ids.shape[1] :]
        assert greedy.response(row).tolist() == expected.tolist()


def test_beams_find_more_probable_texts(place):
    world = World().taught(4)

    def likelihood(loader):
        found = 0.0
        for row in range(len(loader.encoded)):
            ids = torch.tensor([*loader.encoded.prompt(row).tolist(), *loader.encoded.response(row).tolist()])[None]
            asked = int(loader.encoded.prompts[row])
            with torch.no_grad():
                law = loader.teacher.module(input_ids=ids).logits[0, asked - 1 : -1].log_softmax(-1)
            found += law.gather(1, ids[0, asked:, None]).sum().item()
        return found

    beams, sample = (world.engine(f"seqkd(beams={beams},tokens=4)").loader for beams in (3, 1))
    assert likelihood(beams) > likelihood(sample)


def test_a_text_of_a_store_that_is_not_whole(place):
    world = World()
    loader = world.engine("seqkd(tokens=3)").loader
    assert len(loader.encoded) == len(world.train)
    again = world.engine("seqkd(tokens=3)").loader
    again.place.write_bytes(again.place.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cannot be read.*delete it"):
        assert again.encoded
