"""Images: readers, the device-resident loader, batched augmentation, preprocessing."""

from potstill.data.augment import crop_flip, usual_pad
from potstill.data.preprocess import USUAL, Preprocess
from potstill.data.readers import load
from potstill.data.resident import Resident, batches
from potstill.data.spec import Augment, Data, Images

__all__ = [
    "USUAL",
    "Augment",
    "Data",
    "Images",
    "Preprocess",
    "Resident",
    "batches",
    "crop_flip",
    "load",
    "usual_pad",
]
