"""Images: readers, loaders in memory and from files, batched augmentation, preprocessing."""

from potstill.data.augment import augmented, crop_flip, resized_crops, usual_pad
from potstill.data.loaders import Split, Streamed, batches, first, training
from potstill.data.preprocess import USUAL, Preprocess
from potstill.data.readers import from_datasets, load
from potstill.data.resident import Resident
from potstill.data.spec import Augment, Data, Images
from potstill.data.stream import Stream

__all__ = [
    "USUAL",
    "Augment",
    "Data",
    "Images",
    "Preprocess",
    "Resident",
    "Split",
    "Stream",
    "Streamed",
    "augmented",
    "batches",
    "crop_flip",
    "first",
    "from_datasets",
    "load",
    "resized_crops",
    "training",
    "usual_pad",
]
