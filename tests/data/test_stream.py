"""Data that is decoded while it is used: the same batches as in memory, for any workers and ranks, from any step on."""

import io
import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from potstill.data import Data, Images, Stream, batches, first, load, resized_crops, training
from potstill.data.views import crop, middle


@pytest.fixture
def many(tmp_path, picture):
    """40 photographs of four classes."""
    root = tmp_path / "many"
    for number in range(40):
        size = (40 + number % 7, 30 + number % 5)
        picture(root / "train" / "abcd"[number % 4] / f"{number:02}.jpg", (5 * number, 90, 200), size, seed=number)
    for number in range(8):
        picture(root / "val" / "abcd"[number % 4] / f"{number}.png", (20 * number, 200, 30), (50, 60), seed=number)
    return root


def splits(root, **kw):
    return load(Data(root=root, stream="always", **{"size": 24, "workers": 0, **kw}), quiet=True)


def resized(root, **kw):
    return splits(root, augment="resized-crop-flip", **kw)


def parts(loader, epoch=0, start=0):
    return [batch.main for batch in loader.epoch(epoch, start)]


def same(one, two):
    return len(one) == len(two) and all(
        a.number == b.number and all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("input", "index", "label"))
        for a, b in zip(one, two, strict=True)
    )


def together(views):
    return {n: torch.cat([getattr(view, n) for view in views]) for n in ("input", "index", "label")}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", ["crop-flip", "none"])
def test_the_same_bits_as_in_memory(workers, augment, photos):
    """Photographs of every mode and several sizes; two epochs, with views of their own."""
    data = Data(root=photos, size=24, augment=augment, workers=workers)
    memory = load(replace(data, stream="never"), quiet=True)
    files = load(replace(data, stream="always"), quiet=True)
    assert isinstance(memory[0], Images)
    assert isinstance(files[0], Stream)
    assert files[0].classes == memory[0].classes
    assert (files[0].channels, files[0].size) == (memory[0].channels, memory[0].size)
    one, two = (training(split, 4, augment=augment, seed=3, views=2, view_seed=5) for split in (memory[0], files[0]))
    assert (one.steps, one.samples, one.batch_size) == (two.steps, two.samples, two.batch_size)
    for epoch in (0, 3):
        assert same(parts(one, epoch), parts(two, epoch))
    for held, streamed in zip(memory, files, strict=True):
        assert same([b.main for b in batches(held, 2)], [b.main for b in batches(streamed, 2)])
        assert torch.equal(held.picture(1), streamed.picture(1))
        assert torch.equal(held.labels, streamed.labels)
    assert same([first(memory[0], 3).main], [first(files[0], 3).main])
    # All images of so small a set are measured.
    assert files[0].mean == pytest.approx(memory[0].mean, abs=1e-12)
    assert files[0].std == pytest.approx(memory[0].std, abs=1e-12)


def test_images_that_are_held_out(many):
    """The same ones as in memory, and none of them is trained on."""
    data = Data(root=many, size=24, held_out=0.25, workers=0)
    memory, files = (load(replace(data, stream=stream), quiet=True) for stream in ("never", "always"))
    assert [len(split) for split in files] == [len(split) for split in memory] == [32, 8]
    one, two = (training(pair[0], 8, augment="crop-flip", seed=1) for pair in (memory, files))
    assert same(parts(one), parts(two))
    assert same([b.main for b in batches(memory[1], 4)], [b.main for b in batches(files[1], 4)])
    assert len({files[0].digest, files[1].digest, load(replace(data, stream="always", held_out=None))[0].digest}) == 3


def test_workers_change_nothing(many):
    one, two = (training(resized(many, workers=w)[0], 8, augment="", seed=1) for w in (0, 2))
    for epoch in (0, 1):
        assert same(parts(one, epoch), parts(two, epoch))
    assert not torch.equal(parts(one, 0)[0].input, parts(one, 1)[0].input)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batch(world, many):
    train, _ = resized(many)
    whole = parts(training(train, 8, augment="", seed=3), 1)
    ranks = [parts(training(train, 8, augment="", seed=3, rank=rank, world=world), 1) for rank in range(world)]
    for batch, shares in zip(whole, zip(*ranks, strict=True), strict=True):
        for name, value in together(shares).items():
            assert torch.equal(value, getattr(batch, name))


def test_a_resumed_epoch_decodes_nothing_of_what_it_skips(many, monkeypatch):
    train, _ = resized(many)
    loader = training(train, 8, augment="", seed=3)
    whole, asked = parts(loader, 2), []
    read = type(train.pictures.raw.store).read

    def recording(store, places):
        asked.extend(places.tolist())
        return read(store, places)

    monkeypatch.setattr(type(train.pictures.raw.store), "read", recording)
    rest = parts(loader, 2, 3)
    assert same(whole[3:], rest)
    assert sorted(asked) == sorted(torch.cat([view.index for view in rest]).tolist())
    assert parts(loader, 2, 5) == []
    with pytest.raises(ValueError, match="5 steps"):
        loader.epoch(2, 6)


def test_an_abandoned_epoch_leaves_no_process(many):
    loader = training(resized(many, workers=2)[0], 8, augment="")
    before = set(multiprocessing.active_children())
    epoch = loader.epoch(0)
    next(epoch)
    assert len(set(multiprocessing.active_children()) - before) == 2
    epoch.close()
    assert not set(multiprocessing.active_children()) - before
    assert same(parts(loader, 0), parts(loader, 0))


def test_ctrl_c_is_for_the_training_process(many):
    """A terminal sends it to every process of the group; the workers go on until they are told to stop."""
    before = set(multiprocessing.active_children())
    epoch = training(resized(many, workers=1)[0], 4, augment="").epoch(0)
    next(epoch)
    (worker,) = set(multiprocessing.active_children()) - before
    os.kill(worker.pid, signal.SIGINT)
    assert len(list(epoch)) == 9


def test_random_numbers_of_the_run_are_left_alone(many):
    torch.manual_seed(4)
    state = torch.get_rng_state()
    parts(training(resized(many, workers=1)[0], 8, augment=""))
    assert torch.equal(state, torch.get_rng_state())


def test_refusals(many):
    train, _ = resized(many)
    for kw, words in (
        ({"batch_size": 9, "world": 2}, "cannot be shared equally by 2"),
        ({"batch_size": 0}, "must be positive"),
        ({"batch_size": 8, "world": 2, "rank": 2}, "rank 2 of 2"),
    ):
        with pytest.raises(ValueError, match=words):
            training(train, augment="", **kw)
    with pytest.raises(ValueError, match=r"data\.stream cannot be never"):
        Data(augment="resized-crop-flip", stream="never")
    with pytest.raises(ValueError, match=r"data\.workers must not be negative"):
        Data(workers=-1)
    memory, _ = load(Data(root=many, size=24, stream="never"), quiet=True)
    with pytest.raises(ValueError, match="reads the files at every step"):
        training(memory, 8, augment="resized-crop-flip")
    with pytest.warns(UserWarning, match="larger than the 40 images of many train"):
        assert training(train, 64, augment="").steps == 1


@pytest.fixture
def place():
    """An image whose pixels say where they lie: red is the column, green the row."""
    rows, columns = np.meshgrid(np.arange(120), np.arange(160), indexing="ij")
    return Image.fromarray(np.stack([columns, rows, 0 * rows], 2).astype(np.uint8))


def test_a_training_crop_is_the_box_of_its_index(place, many, tmp_path):
    """Values are places, so where the crop lies can be read from its pixels; PNG, which nothing decodes at a half."""
    for name in "ab":
        (tmp_path / "places" / "train" / name).mkdir(parents=True)
        (tmp_path / "places" / "val" / name).mkdir(parents=True)
        for number in range(20):
            place.save(tmp_path / "places" / "train" / name / f"{number}.png")
        place.save(tmp_path / "places" / "val" / name / "0.png")
    train, _ = resized(tmp_path / "places", size=20)
    for view in parts(training(train, 10, augment="", seed=2), 6):
        size = torch.tensor([[120], [160]]).expand(2, 10)
        box, mirrored = resized_crops(size[0], size[1], view.index, 2, 6)
        for pixels, (left, top, right, bottom), flip in zip(view.input, box.tolist(), mirrored.tolist(), strict=True):
            across = pixels[0].float().mean(0).flip(0) if flip else pixels[0].float().mean(0)
            step, rise = (right - left) / 20, (bottom - top) / 20
            assert across.tolist() == pytest.approx(
                [left - 0.5 + step * (k + 0.5) for k in range(20)], abs=max(1, step)
            )
            down = pixels[1].float().mean(1)
            assert down.tolist() == pytest.approx([top - 0.5 + rise * (k + 0.5) for k in range(20)], abs=max(1, rise))


def test_crops_have_the_shares_and_ratios_of_imagenet():
    index = torch.arange(20_000)
    height, width = torch.full_like(index, 375), torch.full_like(index, 500)
    box, mirrored = resized_crops(height, width, index, 0, 1)
    left, top, right, bottom = box.T
    assert int(box.min()) >= 0
    assert int(right.max()) <= 500
    assert int(bottom.max()) <= 375
    share = (right - left) * (bottom - top) / (375 * 500)
    ratio = (right - left) / (bottom - top)
    assert 0.078 < float(share.min()) < 0.085
    assert float(share.max()) > 0.95
    # Uniform where every ratio fits.
    small = share[share < 0.6]
    assert torch.histc(small, 10, 0.1, 0.6).std() / torch.histc(small, 10, 0.1, 0.6).mean() < 0.06
    assert float(ratio.min()) > 0.74
    assert float(ratio.max()) < 1.35
    assert abs(float(ratio[share < 0.6].log().mean())) < 0.01
    assert 9_700 < int(mirrored.sum()) < 10_300
    # Alone, in another order or in another batch: the same.
    some = torch.tensor([17, 3, 17, 19_999])
    again = resized_crops(height[:4], width[:4], some, 0, 1)
    assert torch.equal(again[0], box[some])
    assert torch.equal(again[1], mirrored[some])
    for other in (resized_crops(height, width, index, 0, 2), resized_crops(height, width, index, 1, 1)):
        assert (other[0] == box).all(1).float().mean() < 0.01


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(10, 1000, (493, 0, 506, 10)), (1000, 10, (0, 493, 10, 506)), (1, 1, (0, 0, 1, 1))],
)
def test_a_strip_gives_its_middle(height, width, expected):
    """Where no crop fits: the largest centred one of an allowed ratio, 4 : 3 at most."""
    box, _ = resized_crops(*(torch.tensor([value]) for value in (height, width, 0)), 0, 0)
    assert tuple(box[0].tolist()) == expected


def test_large_jpegs_are_decoded_small(place):
    stream = io.BytesIO()
    place.resize((1600, 1200), Image.Resampling.BILINEAR).save(stream, "JPEG", quality=95)
    box, sizes = (100, 50, 1500, 1150), []
    decoded = {}
    for name, formats in (("jpeg", None), ("bmp", "BMP")):
        if formats:
            exact, stream = Image.open(stream), io.BytesIO()
            exact.save(stream, formats)
        image = Image.open(stream)
        decoded[name] = np.asarray(crop(image, 3, box, False, 100)).astype(float)
        sizes.append(image.size)
    assert sizes == [(200, 150), (1600, 1200)]
    assert np.abs(decoded["jpeg"] - decoded["bmp"]).mean() < 1.5


@pytest.mark.parametrize(("size", "side"), [((500, 375), 224), ((300, 451), 224), ((64, 64), 64)])
def test_evaluation_sees_seven_eighths(size, side):
    """The same as tensors in floating point: shorter side to 8/7 of the crop, and the centre of that."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1] // 5, size[0] // 5, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    found = torch.from_numpy(np.array(middle(image, side))).permute(2, 0, 1).float()
    assert found.shape == (3, side, side)
    whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    shorter = {224: 256, 64: 73}[side]
    scaled = [shorter if edge == min(size) else shorter * edge // min(size) for edge in (size[1], size[0])]
    whole = F.interpolate(whole, scaled, mode="bilinear", antialias=True)[0]
    top, left = (round((edge - side) / 2) for edge in scaled)
    assert (whole[:, top : top + side, left : left + side] - found).abs().max() < 1.5


def test_every_mode_becomes_colour(tmp_path, picture):
    """Upright, too: a JPEG that lies on its side is cropped as it is seen."""
    root = tmp_path / "modes"
    colour = (40, 60, 200)
    for name, mode in (("l.png", "L"), ("rgba.png", "RGBA"), ("cmyk.jpg", "CMYK"), ("p.png", "P"), ("rgb.jpg", "RGB")):
        picture(root / "train" / "a" / name, colour, (80, 80), mode)
    grey = Image.fromarray(np.full((80, 80), 77 << 8, dtype=np.uint16))
    grey.save(root / "train" / "a" / "deep.png")
    lying = Image.new("RGB", (90, 60), (0, 0, 0))
    lying.paste((250, 250, 250), (45, 0, 90, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees: the white right half is below
    lying.save(root / "train" / "a" / "lying.jpg", exif=exif, quality=95)
    picture(root / "train" / "b" / "0.png", colour, (80, 80))
    picture(root / "val" / "b" / "0.png", colour, (80, 80))
    train, _ = resized(root, size=16)
    names = [train.pictures.raw.where(row).rpartition("/")[2] for row in range(len(train))]
    shown = {view.index[0].item(): view.input[0] for view in parts(training(train, 1, augment="", seed=1), 1)}
    for row, name in enumerate(names):
        means = train.picture(row).float().mean((1, 2)).tolist()
        if name in ("rgba.png", "cmyk.jpg", "p.png", "rgb.jpg", "0.png"):
            assert means == pytest.approx(colour, abs=20), name
            assert shown[row].float().mean((1, 2)).tolist() == pytest.approx(colour, abs=20), name
        if name in ("l.png", "deep.png"):
            assert max(means) - min(means) < 1, name
    assert train.picture(names.index("deep.png")).float().mean().item() == pytest.approx(77, abs=1)
    upright = train.picture(names.index("lying.jpg")).float().mean(0)
    assert upright[:5].mean() < 20
    assert upright[-5:].mean() > 230
    assert upright[:, :8].mean().item() == pytest.approx(upright[:, 8:].mean().item(), abs=5)
    sideways = shown[names.index("lying.jpg")].float().mean(0)
    assert sideways[:, :8].mean().item() == pytest.approx(sideways[:, 8:].mean().item(), abs=8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_same_batches_on_the_gpu(many):
    train, valid = resized(many, workers=2)
    here, there = (training(train, 8, augment="", seed=1, device=device) for device in ("cpu", "cuda"))
    for one, two in zip(parts(here, 1), parts(there, 1), strict=True):
        assert two.input.is_cuda
        assert all(torch.equal(getattr(one, n), getattr(two, n).cpu()) for n in ("input", "index", "label"))
    for one, two in zip(batches(valid, 4), batches(valid.to("cuda"), 4, "cuda"), strict=True):
        assert torch.equal(one.main.input, two.main.input.cpu())
