"""The training loader: every image once, no history, any number of ranks; and the crops it makes."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from potstill.data import USUAL, Images, Resident, batches, crop_flip, usual_pad


def noise(count=103, channels=3, height=16, width=16):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 5, (count,), generator=generator)
    return Images(pixels, labels, tuple("abcde"), "noise", "train", "0")


def flat(parts):
    return [row for part in parts for row in part]


def rows(loader, epoch, start=0):
    return [batch.main.index.tolist() for batch in loader.epoch(epoch, start)]


def test_every_image_once():
    loader = Resident(noise(), 20, drop_last=False)
    assert (loader.steps, loader.samples, loader.batch_size) == (6, 103, 20)
    seen = rows(loader, 0)
    assert [len(batch) for batch in seen] == [20] * 5 + [3]
    assert sorted(flat(seen)) == list(range(103))
    short = Resident(noise(), 20)
    assert short.steps == 5
    assert len(set(flat(rows(short, 0)))) == 100


def test_views_belong_together():
    images = noise()
    for batch in Resident(images, 20, augment="none").epoch(0):
        view = batch.main
        assert view.input.dtype == torch.uint8
        assert view.index.dtype == view.label.dtype == torch.int64
        assert torch.equal(view.input, images.images[view.index])
        assert torch.equal(view.label, images.labels[view.index])


def test_order_depends_on_seed_and_epoch_only():
    images = noise()
    first = rows(Resident(images, 20, seed=1), 4)
    again = Resident(images, 20, seed=1, augment="none")
    rows(again, 0)
    assert rows(again, 4) == first
    assert flat(rows(Resident(images, 10, seed=1), 4)) == flat(first)
    assert rows(again, 5) != first
    assert rows(Resident(images, 20, seed=2), 4) != first
    # A shuffle, not a walk: neighbours in the order are seldom neighbours in the data.
    order = Resident(noise(1000, 1, 4, 4), 10).order(0)
    assert (order.diff() == 1).sum() < 10
    assert abs(np.corrcoef(order.numpy(), np.arange(1000))[0, 1]) < 0.1


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_start_skips_exactly(start):
    loader = Resident(noise(), 20)
    whole, rest = list(loader.epoch(2)), list(loader.epoch(2, start))
    assert len(rest) == 5 - start
    for a, b in zip(whole[start:], rest, strict=True):
        assert torch.equal(a.main.input, b.main.input)
        assert torch.equal(a.main.index, b.main.index)
    with pytest.raises(ValueError, match="5 steps"):
        loader.epoch(2, 6)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batch(world):
    images = noise()
    ranks = [Resident(images, 20, seed=3, rank=rank, world=world).epoch(1) for rank in range(world)]
    whole = list(Resident(images, 20, seed=3).epoch(1))
    shares = list(zip(*ranks, strict=True))
    assert len(shares) == len(whole) == 5
    for batch, parts in zip(whole, shares, strict=True):
        for name in ("input", "index", "label"):
            together = torch.cat([getattr(part.main, name) for part in parts])
            assert torch.equal(together, getattr(batch.main, name))


def test_fewer_images_than_the_batch():
    with pytest.warns(UserWarning, match="larger than the 6 images"):
        loader = Resident(noise(6), 128)
    assert (loader.steps, loader.batch_size) == (1, 6)
    assert sorted(rows(loader, 0)[0]) == list(range(6))


@pytest.mark.filterwarnings("ignore:batch_size")
def test_refusals():
    images = noise()
    for kw, words in (
        ({"batch_size": 21, "world": 2}, "cannot be shared equally by 2"),
        ({"batch_size": 20, "world": 2, "drop_last": False}, "last batch of 3"),
        ({"batch_size": 104, "world": 2}, "last batch of 103"),
        ({"batch_size": 20, "world": 2, "rank": 2}, "rank 2 of 2"),
        ({"batch_size": 0}, "must be positive"),
        ({"batch_size": 20, "augment": "crop-flp"}, "did you mean 'crop-flip'"),
    ):
        with pytest.raises(ValueError, match=words):
            Resident(images, **kw)
    with pytest.raises(ValueError, match="must be positive"):
        batches(images, 0)


def test_augmentation_is_a_function_of_seed_epoch_and_index():
    images = noise(64)
    inputs = {}
    for size in (8, 16):
        for batch in Resident(images, size, seed=5).epoch(3):
            for row, pixels in zip(batch.main.index.tolist(), batch.main.input, strict=True):
                assert torch.equal(inputs.setdefault(row, pixels), pixels)
    assert len(inputs) == 64
    for other in (crop_flip(images.images, torch.arange(64), 5, 4), crop_flip(images.images, torch.arange(64), 6, 3)):
        same = sum(torch.equal(inputs[row], other[row]) for row in range(64))
        assert same < 10


def locate(source, output, down, across):
    """By search: at which place of the framed image, and mirrored or not, does the output stand?"""
    channels, height, width = source.shape
    framed = np.zeros((channels, height + 2 * down, width + 2 * across), dtype=np.uint8)
    framed[:, down : down + height, across : across + width] = source
    return [
        (row, column, mirrored)
        for row in range(2 * down + 1)
        for column in range(2 * across + 1)
        for mirrored in (False, True)
        if np.array_equal(
            framed[:, row : row + height, column : column + width][:, :, :: -1 if mirrored else 1], output
        )
    ]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 16), (28, 28), (32, 32), (16, 40)])
def test_crops_are_windows_of_the_framed_image(height, width):
    images = noise(90, 2, height, width).images
    index = torch.randperm(90, generator=torch.Generator().manual_seed(1))[:60]
    output = crop_flip(images, index, 0, 0)
    down, across = usual_pad(height, width)
    places = [locate(images[row].numpy(), out.numpy(), down, across) for row, out in zip(index, output, strict=True)]
    assert all(len(found) == 1 for found in places)
    assert 15 <= sum(found[0][2] for found in places) <= 45


def test_every_offset_and_both_directions_are_equally_likely():
    count = 4000
    # The value of a pixel is its place, so the offset can be read off the middle of the output.
    rows_, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    images = (10 * rows_ + columns).to(torch.uint8).expand(count, 1, 8, 8)
    index = torch.arange(count)
    crops = crop_flip(images, index, 7, 1, pad=2, flip=False)[:, 0, 4, 4]
    values, counts = crops.unique(return_counts=True)
    assert sorted(values.tolist()) == [10 * row + column for row in range(2, 7) for column in range(2, 7)]
    assert counts.min() > 100  # 160 expected, standard deviation 12
    assert counts.max() < 220
    flips = crop_flip(images, index, 7, 1, crop=False)[:, 0, 0, 0] == 7
    assert 1850 < int(flips.sum()) < 2150
    both = crop_flip(images, index, 7, 1, pad=2)[:, 0, 4, 4]
    assert len(both.unique()) == 30  # mirrored windows reach one column further
    wide = crop_flip(images, index, 7, 1, pad=(0, 3), flip=False)[:, 0, 4, 4]
    assert sorted(wide.unique().tolist()) == [40 + column for column in range(1, 8)]
    uneven = crop_flip(images, index, 7, 1, pad=(1, 3), flip=False)[:, 0, 4, 4]
    assert len(uneven.unique()) == 21


def test_augment_choices():
    images = noise(40)
    for augment, crop, flip in (("crop", True, False), ("flip", False, True), ("none", False, False)):
        view = next(iter(Resident(images, 40, augment=augment, seed=2).epoch(0))).main
        assert torch.equal(view.input, crop_flip(images.images, view.index, 2, 0, crop=crop, flip=flip))
        changed = (view.input != images.images[view.index]).flatten(1).any(dim=1)
        assert bool(changed.any()) is (crop or flip)


class NoWaiting(TorchDispatchMode):
    """Raises where a GPU would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select"), name
        if name == "index":
            assert all(i is None or i.dtype == torch.int64 for i in args[1]), "boolean index"
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device():
    loader = Resident(noise(), 20)
    with NoWaiting():
        for batch in loader.epoch(0):
            USUAL["imagenet"](batch.main.input)


def test_evaluation_batches():
    images = noise()
    parts = list(batches(images, 50))
    assert [len(part) for part in parts] == [50, 50, 3]
    assert torch.equal(torch.cat([part.main.input for part in parts]), images.images)
    assert torch.cat([part.main.index for part in parts]).tolist() == list(range(103))
    assert torch.equal(torch.cat([part.main.label for part in parts]), images.labels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_batches_on_the_gpu():
    here, there = Resident(noise(), 20, seed=1), Resident(noise(), 20, seed=1, device="cuda")
    for a, b in zip(here.epoch(2), there.epoch(2), strict=True):
        assert torch.equal(a.main.input, b.main.input.cpu())
        assert torch.equal(a.main.index, b.main.index.cpu())
