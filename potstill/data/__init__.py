"""Images: readers, the device-resident loader, batched augmentation, preprocessing."""

from potstill.data.augment import augmented, crop_flip, usual_pad
from potstill.data.preprocess import USUAL, Preprocess
from potstill.data.readers import load
from potstill.data.resident import Resident, batches, first
from potstill.data.spec import Augment, Data, Images

__all__ = [
    "USUAL",
    "Augment",
    "Data",
    "Images",
    "Preprocess",
    "Resident",
    "augmented",
    "batches",
    "crop_flip",
    "first",
    "load",
    "usual_pad",
]
